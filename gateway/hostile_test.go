package gateway

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/event"
)

// TestHostileRequests: 10,000 requests that are none, with broken bodies, headers and paths, over raw connections: no panic,
// no 5xx, and the memory stays where it was. With a door, those that have no credentials do nothing at all.
func TestHostileRequests(t *testing.T) {
	requests := 6_000
	if testing.Short() {
		requests = 1_200
	}
	t.Run("open", func(t *testing.T) { hostileRequests(t, nil, requests, "") })
	door, tokens := keyring(t, `
principals:
  - {name: insider, tokens: [T], publish: ["**"], subscribe: ["**", "platform.**"], read: ["**", "platform.**"], operate: ["**", "platform.**"], register: ["**"]}
`)
	t.Run("with credentials", func(t *testing.T) {
		hostileRequests(t, door, requests/3, "Authorization: Bearer "+tokens["insider"]+"\r\n")
	})
	t.Run("without", func(t *testing.T) { hostileRequests(t, door, requests/3, "") })
}

func hostileRequests(t *testing.T, door *auth.Door, requests int, credentials string) {
	p := openPlatform(t, nil)
	publishMany(t, p, enrolled("P1", 1))
	g, err := New(context.Background(), p, &Options{Logger: quiet, Door: door, MaxBody: 1 << 20, MaxBodies: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, g, &ServeOptions{Logger: quiet, Drain: time.Second}) }()
	address := l.Addr().String()

	statuses := map[string]int{}
	var mu sync.Mutex
	var workers sync.WaitGroup
	next := make(chan int)
	for range 16 {
		workers.Go(func() {
			for i := range next {
				status := attack(t, address, rand.New(rand.NewPCG(uint64(i), 3)), credentials)
				mu.Lock()
				statuses[status]++
				mu.Unlock()
			}
		})
	}
	var peak uint64
	for i := range requests {
		next <- i
		if i%500 == 0 {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
		}
	}
	close(next)
	workers.Wait()
	for status, n := range statuses {
		if strings.HasPrefix(status, "5") && status != "505" && status != "501" { // those are net/http's, of HTTP versions and encodings that are none
			t.Errorf("%d answers %s", n, status)
		}
	}
	if door != nil && credentials == "" {
		if statuses["401"] < requests/20 || statuses["201"]+statuses["202"]+statuses["204"]+statuses["403"] > 0 {
			t.Errorf("without credentials: %v", statuses)
		}
		heads, err := p.Store().Types(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if heads["patient.enrolled"] != 1 || heads["platform.access.denied"] > denialsOfAll {
			t.Errorf("without credentials they have stored something: %v", heads)
		}
	} else if statuses["200"] == 0 || statuses["400"] == 0 || statuses["422"] == 0 || statuses["404"] == 0 {
		t.Errorf("the requests are too much alike: %v", statuses)
	}
	if peak > 512<<20 {
		t.Errorf("%d MiB of heap", peak>>20)
	}
	t.Logf("%v, %d MiB of heap at most", statuses, peak>>20)
	res, err := client.Get("http://" + address + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %d", res.StatusCode)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

var hostilePaths = []string{
	"/v1/events", "/v1/events/x", "/v1/events?limit=-1", "/v1/events?cursor=AQ.AQ", "/v1/events?type=%00", "/v1/events?member=/a/b=c&type=**", "/v1/events?since=tomorrow", "/v1/events?member=x",
	"/v1/streams", "/v1/streams/a/b", "/v1/streams/a/b/state?version=-1", "/v1/streams/patient.record/x/state", "/v1/streams/%2e%2e/%2f/state", "/v1/flows/x?format=svg", "/v1/flows/%ff", "/v1/topology?format=mermaid",
	"/v1/groups", "/v1/groups/x", "/v1/groups/x/fetch", "/v1/groups/x/ack", "/v1/groups/x/pause", "/v1/groups/x/seek", "/v1/groups/%0a/replay", "/v1/dead-letters?class=x", "/v1/dead-letters/a/b", "/v1/dead-letters/redrive",
	"/v1/dead-letters/by-error?limit=0", "/v1/jobs/x", "/v1/jobs/x/cancel", "/v1/sagas?status=x", "/v1/sagas/x", "/v1/sagas/x/skip", "/v1/projections/x", "/v1/schemas", "/v1/schemas/a/b", "/v1/schemas/patient.enrolled/latest",
	"/v1/schemas/patient.enrolled/1.1.0", "/v1/webhooks", "/v1/webhooks/x", "/v1/webhooks/x/rotate", "/asyncapi.json", "/openapi.json", "/docs/", "/docs/../../etc/passwd", "//", "/%", "/\x00", "*", "http://other/v1/events", "/healthz", "/readyz",
}

// attack sends one hostile request over a connection of its own, and returns the status, or what became of the connection.
func attack(t *testing.T, address string, rnd *rand.Rand, credentials string) string {
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Error(err)
		return "dial"
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	method := pick(rnd, "GET", "GET", "POST", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "G E T", "")
	path := hostilePaths[rnd.IntN(len(hostilePaths))]
	body := hostileBody(rnd)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\r\n", method, path, pick(rnd, "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/9.9", "X"))
	b.WriteString(pick(rnd, "Host: x\r\n", "Host: x\r\n", "Host: x\r\n", "Host: x\r\n", "Host: x\r\n", "Host: x\r\n", "Host: x\r\n", "Host: x\r\n", "", "Host: x\r\nHost: y\r\n", "Host: \x01\r\n"))
	b.WriteString(pick(rnd, "Content-Type: application/json\r\n", "Content-Type: application/json\r\n", "Content-Type: application/cloudevents+json\r\n", "Content-Type: application/cloudevents-batch+json\r\n",
		"Content-Type: application/x-ndjson\r\n", "Content-Type: ;;;\r\n", "Content-Type: application/cbor\r\n", "ce-specversion: 1.0\r\nce-type: patient.enrolled\r\nce-id: x\r\n", "ce-specversion: %zz\r\nce-id: %00\r\n", ""))
	b.WriteString(pick(rnd, "", "", "", "", "", "", "", "", "", "", "", "", "", "", "Authorization: Bearer x\r\n", "Last-Event-ID: ////\r\n", "X-Correlation-Id: "+strings.Repeat("x", 300)+"\r\n", "Cookie: "+strings.Repeat("a", 70<<10)+"\r\n",
		"Accept: application/cbor\r\n", "Accept: */*;q=x\r\n", "Content-Encoding: gzip\r\n", "Expect: 100-continue\r\n", "Range: bytes=0-\r\n", "X: \r\n folded\r\n", "traceparent: zz\r\n", "If-Match: *\r\n"))
	b.WriteString(credentials)
	b.WriteString("Connection: close\r\n")
	switch rnd.IntN(8) {
	case 0: // says more than it sends, and is gone
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body)+1+rnd.IntN(1000), body)
		_, _ = io.WriteString(c, b.String())
		_ = c.(*net.TCPConn).CloseWrite()
	case 1:
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		_, _ = io.WriteString(c, b.String())
	case 2:
		fmt.Fprintf(&b, "Content-Length: %s\r\n\r\n%s", pick(rnd, "-1", "x", "99999999999999999999", "5, 5"), body)
		_, _ = io.WriteString(c, b.String())
	case 3: // a byte here and there
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body[:min(len(body), 200)])
		for _, part := range []byte(b.String())[:min(b.Len(), 600)] {
			if _, err := c.Write([]byte{part}); err != nil {
				break
			}
		}
		_ = c.(*net.TCPConn).CloseWrite()
	default:
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
		_, _ = io.WriteString(c, b.String())
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		if os.IsTimeout(err) {
			t.Errorf("no answer to %q", b.String()[:min(b.Len(), 300)])
		}
		return "cut"
	}
	parts := strings.SplitN(line, " ", 3)
	if len(parts) < 2 {
		return line
	}
	if parts[1] == "500" {
		t.Errorf("500 to %q", b.String()[:min(b.Len(), 500)])
	}
	return parts[1]
}

func pick(rnd *rand.Rand, of ...string) string { return of[rnd.IntN(len(of))] }

func hostileBody(rnd *rand.Rand) string {
	good := string(enrolled("P1", rnd.IntN(10)).AppendJSON(nil))
	switch rnd.IntN(14) {
	case 0:
		return ""
	case 1:
		return strings.Repeat("[", 100_000)
	case 2:
		return strings.Repeat(`{"a":`, 50_000)
	case 3:
		return `{"metadata":` + strings.Repeat(" ", 1000) + "}"
	case 4:
		return "[" + strings.Repeat(good+",", 200) + good + "]"
	case 5:
		return strings.Repeat("x", 2<<20)
	case 6:
		return "\xff\xfe" + good
	case 7: // a good event with a byte changed
		raw := []byte(good)
		raw[rnd.IntN(len(raw))] = byte(rnd.IntN(256))
		return string(raw)
	case 8:
		return good[:rnd.IntN(len(good))]
	case 9:
		return `{"reason":"x","patterns":["**"],"url":"http://127.0.0.1/","leases":["x"],"payload":{},"from":"beginning","to":"end","max":1,"waitSeconds":0}`
	case 10:
		return pick(rnd, "null", "true", "1e999", `""`, "[[]]", "{}", `{"reason":null}`, `{"max":1e100,"waitSeconds":-1}`, `{"leases":[null]}`, `{"patterns":["`+strings.Repeat("a.", 5000)+`"]}`)
	case 11:
		return string(event.AppendCloudEvent(nil, enrolled("P1", 1)))
	case 12:
		return `{"specversion":"1.0","data_base64":"` + strings.Repeat("A", 1000) + `"}`
	}
	return good
}

// TestSlowClients: clients that send nothing, or read nothing, hold up nobody else, and cost a connection each.
func TestSlowClients(t *testing.T) {
	p := openPlatform(t, nil)
	g, err := New(context.Background(), p, &Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, l, g, &ServeOptions{Logger: quiet, Drain: time.Millisecond}) }()
	var slow []net.Conn
	for i := range 300 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		slow = append(slow, c)
		switch i % 3 {
		case 0: // half a header
			_, err = io.WriteString(c, "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Le")
		case 1: // half a body
			_, err = io.WriteString(c, "POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		default: // takes nothing of what it asked for
			_, err = io.WriteString(c, "GET /v1/live?from=beginning&type=platform.**&type=** HTTP/1.1\r\nHost: x\r\n\r\n")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	url := "http://" + l.Addr().String()
	for i := range 50 {
		if status, text := send(t, http.MethodPost, url+"/v1/events", enrolled("P1", i).AppendJSON(nil)); status != http.StatusCreated {
			t.Fatalf("%d %s", status, text)
		}
	}
	stop() // they are cut
	if err := <-served; err != nil {
		t.Error(err)
	}
	for _, c := range slow {
		c.Close()
	}
}
