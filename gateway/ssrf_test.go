package gateway

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// names is a small DNS server on loopback. Each name has answers, which are given in turn: a name may change its mind.
type names struct {
	conn net.PacketConn
	done chan struct{}

	mu      sync.Mutex
	answers map[string][][]string
	asked   map[string]int
}

func newNames(t testing.TB) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn, done: make(chan struct{}), answers: map[string][][]string{}, asked: map[string]int{}}
	go n.serve()
	t.Cleanup(func() {
		conn.Close()
		<-n.done
	})
	return n
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

func (n *names) serve() {
	defer close(n.done)
	buf := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		m = dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true}, Questions: m.Questions}
		if addresses, ok := n.answer(strings.ToLower(q.Name.String()), q.Type == dnsmessage.TypeA); !ok {
			m.RCode = dnsmessage.RCodeNameError
		} else {
			for _, text := range addresses {
				a := netip.MustParseAddr(text)
				head := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class}
				switch {
				case a.Is4() && q.Type == dnsmessage.TypeA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AResource{A: a.As4()}})
				case a.Is6() && q.Type == dnsmessage.TypeAAAA:
					m.Answers = append(m.Answers, dnsmessage.Resource{Header: head, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
				}
			}
		}
		if out, err := m.Pack(); err == nil {
			_, _ = n.conn.WriteTo(out, from)
		}
	}
}

// answer is the present answer for a name; asking for IPv4 addresses turns to the next one.
func (n *names) answer(name string, turn bool) ([]string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := n.answers[name]
	if len(all) == 0 {
		return nil, false
	}
	i := n.asked[name]
	if turn {
		n.asked[name]++
	}
	return all[min(i, len(all)-1)], true
}

// canary is an HTTP server that nobody is to reach; it counts connections.
type canary struct {
	mu   sync.Mutex
	hits []string
}

func (c *canary) at(t testing.TB, address string) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("%s cannot be listened at on this machine: %v", address, err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "the secret of the metadata service") }),
		ConnState: func(conn net.Conn, state http.ConnState) {
			if state == http.StateNew {
				c.mu.Lock()
				c.hits = append(c.hits, conn.LocalAddr().String())
				c.mu.Unlock()
			}
		},
	}}
	s.Start()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

func (c *canary) silent(t testing.TB, what string) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.hits) > 0 {
		t.Errorf("%s: %d connections to %v", what, len(c.hits), c.hits)
		c.hits = nil
	}
}

// TestForbiddenTargets: addresses that are not on the public internet, in all their disguises, as what a webhook names and as
// what its name leads to. Each is refused when it is registered or when it is dialled, and nothing connects.
func TestForbiddenTargets(t *testing.T) {
	var trap canary
	port := trap.at(t, "0.0.0.0:0")
	dns := newNames(t)
	_, _, s := newGateway(t, &Options{Webhooks: WebhookOptions{Timeout: 2 * time.Second, Resolver: dns.resolver()}})

	// An empty list of networks to allow: the settings of production.
	urls := []string{ // refused as text, or by their name's address
		"https://127.0.0.1:P/", "https://127.0.0.1./", "https://127.1:P/", "https://127.255.255.254:P/", "https://2130706433:P/", "https://0x7f000001:P/", "https://0x7f.0.0.1:P/", "https://0x7f.1/", "https://017700000001:P/",
		"https://0177.0.0.1:P/", "https://127.0.0.0x1/", "https://0:P/", "https://0.0.0.0:P/", "https://[::]:P/", "https://[::1]:P/", "https://[0:0:0:0:0:0:0:1]:P/", "https://[::ffff:127.0.0.1]:P/", "https://[::ffff:7f00:1]:P/",
		"https://[::127.0.0.1]:P/", "https://[64:ff9b::127.0.0.1]:P/", "https://[64:ff9b::a9fe:a9fe]/", "https://[64:ff9b:1::7f00:1]/", "https://[2002:7f00:1::]/", "https://[2001:0:7f00:1::]/", "https://[fe80::1]/", "https://[fe80::1%25lo]:P/", "https://[fc00::1]/",
		"https://[fd00:ec2::254]/", "https://[fec0::1]/", "https://[ff02::1]/", "https://[2001:db8::1]/", "https://[100::1]/", "https://[3fff::1]/",
		"https://169.254.169.254/latest/meta-data/", "https://169.254.1.1/", "https://10.0.0.1/", "https://172.16.0.1/", "https://172.31.255.255/", "https://192.168.1.1/", "https://100.64.0.1/", "https://100.100.100.200/", "https://192.0.0.192/",
		"https://198.18.0.1/", "https://192.0.2.1/", "https://203.0.113.1/", "https://224.0.0.1/", "https://239.255.255.250/", "https://240.0.0.1/", "https://255.255.255.255/", "https://192.88.99.1/",
		"https://localhost:P/", "https://localhost.:P/", "https://LOCALHOST:P/", "https://a.localhost:P/", "https://metadata.google.internal/", "https://printer.local/", "https://intranet/", "https://１２７.0.0.1:P/", "https://127。0。0。1:P/", "https://①②⑦.⓪.⓪.①:P/",
		"https://example.org@127.0.0.1:P/", "https://127.0.0.1:P@example.org/", "https://user:secret@example.org/", "https://127.0.0.1:P#@example.org/", "https://example.org#@127.0.0.1/", "https:\\\\127.0.0.1:P\\", "https://127.0.0.1:P\\@example.org/", "https://%31%32%37.0.0.1:P/",
		"http://127.0.0.1:P/", "http://example.org/", "ftp://127.0.0.1:P/", "file:///etc/passwd", "gopher://127.0.0.1:P/_x", "unix:///run/docker.sock", "javascript:alert(1)", "https:127.0.0.1", "https:///x", "//127.0.0.1:P/", "https://", "", "https://example.org:0/",
		"https://example.org:99999/", "https://\x00127.0.0.1/", "https://127.0.0.1\t:P/", " https://127.0.0.1:P/", "https://exa\nmple.org/",
	}
	for i, address := range []string{ // names that lead there
		"127.0.0.1", "127.9.9.9", "0.0.0.0", "10.1.2.3", "172.20.0.1", "192.168.0.1", "169.254.169.254", "100.64.1.1", "198.19.0.1", "224.0.0.251", "255.255.255.255", "::1", "::", "::ffff:127.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "2002:7f00:1::1", "2001::1",
		"fe80::1", "fd12:3456::1", "ff05::2", "2001:db8::7",
	} {
		name := fmt.Sprintf("n%d.hooks.example.org.", i)
		dns.answers[name] = [][]string{{address}}
		urls = append(urls, "https://"+name[:len(name)-1]+":P/", "https://"+name+":P/")
	}
	dns.answers["all.hooks.example.org."] = [][]string{{"127.0.0.1", "10.0.0.1", "::1", "169.254.169.254"}}
	urls = append(urls, "https://all.hooks.example.org:P/")
	registered := 0
	for i, text := range urls {
		text = strings.ReplaceAll(text, ":P", ":"+port)
		id := fmt.Sprint("h", i)
		status, body := send(t, http.MethodPost, s.URL+"/v1/webhooks", map[string]any{"id": id, "url": text, "patterns": []string{"patient.**"}})
		switch {
		case status == http.StatusUnprocessableEntity, status == http.StatusBadRequest && strings.ContainsAny(text, "\x00\n\t"):
			if strings.Contains(string(body), "secret") {
				t.Errorf("%q: %s", text, body)
			}
		case status == http.StatusCreated: // then its name decides
			registered++
			var out logEntry
			call(t, http.MethodPost, s.URL+"/v1/webhooks/"+id+"/test", nil, &out)
			if out.Outcome != "forbidden address" && out.Outcome != "no connection" && out.Outcome != "error" || out.Status != 0 {
				t.Errorf("%q: %+v", text, out)
			}
			if strings.Contains(text, ".hooks.") && out.Outcome != "forbidden address" {
				t.Errorf("%q: %+v", text, out)
			}
		default:
			t.Errorf("%q: %d %s", text, status, body)
		}
		trap.silent(t, text)
	}
	if len(urls) < 100 || registered < 40 {
		t.Errorf("%d targets, %d of which were registered", len(urls), registered)
	}
	t.Logf("%d targets, %d of which were dialled", len(urls), registered)
}

// TestPublicAddresses: what is on the public internet may be reached: the neighbours of what may not, and some others.
func TestPublicAddresses(t *testing.T) {
	for _, text := range []string{
		"1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
		"223.255.255.255", "2600::1", "2a00:1450:4001:80b::200e", "2003::1", "2001:200::1", "::ffff:8.8.8.8",
	} {
		if !mayReach(netip.MustParseAddr(text), nil) {
			t.Errorf("%s is refused", text)
		}
	}
	if mayReach(netip.Addr{}, nil) || mayReach(netip.MustParseAddr("10.0.0.1"), []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}) || !mayReach(netip.MustParseAddr("::ffff:127.0.0.1"), []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}) {
		t.Error("the networks to allow do not count as they should")
	}
}

// TestRebinding: a name that leads to a permitted address first and to a forbidden one afterwards, or to both at once, gets
// nobody there; nor does a redirect, nor a proxy of the environment, which would dial for us.
func TestRebinding(t *testing.T) {
	var trap canary
	l, err := net.Listen("tcp", "127.0.0.2:0") // stands for the public internet
	if err != nil {
		t.Skipf("127.0.0.2 is no address of this machine: %v", err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	trap.at(t, "127.0.0.1:"+port)
	proxy := trap.at(t, "127.0.0.3:0")
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"} {
		t.Setenv(name, "http://127.0.0.3:"+proxy)
	}
	public := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Connection", "close") // so that every post dials
		if r.URL.Path == "/redirect" {
			http.Redirect(w, r, "http://127.0.0.1:"+port+"/", http.StatusTemporaryRedirect)
		}
	})}}
	public.Start()
	defer public.Close()
	dns := newNames(t)
	dns.answers["turns.example.org."] = [][]string{{"127.0.0.2"}, {"127.0.0.1"}, {"127.0.0.2"}, {"127.0.0.1", "127.0.0.2"}, {"127.0.0.1"}}
	dns.answers["stays.example.org."] = [][]string{{"127.0.0.2"}}
	g, _, s := newGateway(t, &Options{Webhooks: WebhookOptions{Timeout: 2 * time.Second, Resolver: dns.resolver(), Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.2/32")}}})
	if transport := g.hooks.client.Transport.(*http.Transport); transport.Proxy != nil || transport.DialTLSContext != nil {
		t.Error("there is another way to dial than the one that is guarded")
	}
	test := func(id, url string, want ...string) {
		t.Helper()
		if status := call(t, http.MethodPost, s.URL+"/v1/webhooks", map[string]any{"id": id, "url": url, "patterns": []string{"patient.**"}}, nil); status != http.StatusCreated {
			t.Fatal(status)
		}
		for i, outcome := range want {
			var out logEntry
			call(t, http.MethodPost, s.URL+"/v1/webhooks/"+id+"/test", nil, &out)
			if out.Outcome != outcome {
				t.Errorf("%s, post %d: %+v, want %s", id, i+1, out, outcome)
			}
			trap.silent(t, id)
		}
	}
	test("turns", "http://turns.example.org:"+port+"/", "accepted", "forbidden address", "accepted", "accepted", "forbidden address")
	test("redirects", "http://stays.example.org:"+port+"/redirect", "redirect", "redirect")
	test("stays", "http://stays.example.org:"+port+"/", "accepted", "accepted")
}
