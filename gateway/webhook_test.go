package gateway

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
)

// post is what an endpoint was sent.
type post struct {
	id, key, number string
	header          http.Header
	body            []byte
	at              time.Time
}

// endpoint is somebody else's server that events are pushed to. answer says how it takes the n-th post, from 1.
type endpoint struct {
	*httptest.Server
	answer func(n int, p post, w http.ResponseWriter, r *http.Request)

	mu    sync.Mutex
	posts []post
	taken map[string][]string // numbers of what was accepted, by key
	news  chan struct{}
}

func newEndpoint(t testing.TB, answer func(n int, p post, w http.ResponseWriter, r *http.Request)) *endpoint {
	t.Helper()
	e := &endpoint{answer: answer, taken: map[string][]string{}, news: make(chan struct{})}
	e.Server = httptest.NewTLSServer(e)
	e.Config.ErrorLog = nil
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var sent struct {
		Payload, Data struct{ PatientID, EnrollmentID string }
	}
	_ = json.Unmarshal(body, &sent)
	p := post{r.Header.Get("webhook-id"), sent.Payload.PatientID + sent.Data.PatientID, sent.Payload.EnrollmentID + sent.Data.EnrollmentID, r.Header.Clone(), body, time.Now()}
	e.mu.Lock()
	e.posts = append(e.posts, p)
	n := len(e.posts)
	e.mu.Unlock()
	a := &answered{ResponseWriter: w, status: http.StatusOK}
	if e.answer != nil {
		e.answer(n, p, a, r)
	}
	e.mu.Lock()
	if a.status < 300 {
		e.taken[p.key] = append(e.taken[p.key], p.number)
	}
	close(e.news)
	e.news = make(chan struct{})
	e.mu.Unlock()
}

type answered struct {
	http.ResponseWriter
	status int
}

func (a *answered) WriteHeader(status int) {
	a.status = status
	a.ResponseWriter.WriteHeader(status)
}

func (a *answered) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// until waits for what has arrived to be so.
func (e *endpoint) until(so func(posts []post, taken map[string][]string) bool) {
	for {
		e.mu.Lock()
		done, news := so(e.posts, e.taken), e.news
		e.mu.Unlock()
		if done {
			return
		}
		<-news
	}
}

// untilTaken waits until so many events of a key were accepted; repetitions count once.
func (e *endpoint) untilTaken(key string, n int) {
	e.until(func(_ []post, taken map[string][]string) bool { return len(once(taken[key])) >= n })
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.posts)
}

// once leaves out repetitions, each of which must follow what it repeats: at least once, in order.
func once(numbers []string) (out []string) {
	for _, n := range numbers {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// inOrder checks that a key's events came at least once and in order: with repetitions of the last one or of a batch, each
// new event is the next.
func (e *endpoint) inOrder(t testing.TB, key string, n int) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	if got := once(e.taken[key]); !slices.Equal(got, numbersTo(n)) {
		t.Errorf("key %s: %v", key, got)
	}
}

func numbersTo(n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprint(i))
	}
	return out
}

// trust is how the gateway reaches endpoints on loopback, with pauses that a test can wait for.
func trust(es ...*endpoint) WebhookOptions {
	pool := x509.NewCertPool()
	for _, e := range es {
		pool.AddCert(e.Certificate())
	}
	return trustPool(pool)
}

// trustFile is trust of a certificate in a file.
func trustFile(path string) (WebhookOptions, error) {
	pool := x509.NewCertPool()
	text, err := os.ReadFile(path)
	if err == nil && !pool.AppendCertsFromPEM(text) {
		err = errors.New("no certificate in " + path)
	}
	return trustPool(pool), err
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func trustPool(pool *x509.CertPool) WebhookOptions {
	return WebhookOptions{
		Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 2 * time.Second, TLS: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		FirstPause: time.Millisecond, LongestPause: 20 * time.Millisecond, Tries: 3,
	}
}

type hookAnswer struct {
	ID, Secret, URL, Owner string
	Group                  *bus.GroupStatus
}

// hookTo has events pushed to an endpoint.
func hookTo(t testing.TB, s *httptest.Server, e *endpoint, id string, more ...string) hookAnswer {
	t.Helper()
	set := map[string]any{"id": id, "url": e.URL + "/events", "patterns": []string{"patient.enrolled"}, "start": "beginning"}
	for i := 0; i+1 < len(more); i += 2 {
		set[more[i]] = more[i+1]
	}
	var out hookAnswer
	if status := call(t, http.MethodPost, s.URL+"/v1/webhooks", set, &out); status != http.StatusCreated || out.Secret == "" {
		t.Fatalf("%d %+v", status, out)
	}
	return out
}

type logEntry struct {
	EventID, EventType, Outcome string
	Attempt, Status             int
}

func deliveries(t testing.TB, s *httptest.Server, id string) (out []logEntry) {
	t.Helper()
	var got struct{ Deliveries []logEntry }
	if status := call(t, http.MethodGet, s.URL+"/v1/webhooks/"+id+"/deliveries?limit=1000", nil, &got); status != http.StatusOK {
		t.Fatal(status)
	}
	return got.Deliveries
}

// untilParked waits for the parked keys of a webhook.
func untilParked(t testing.TB, p *carebus.Platform, id string, n int) []bus.DeadLetter {
	t.Helper()
	for {
		tick := p.Store().Tick()
		dead, err := p.Bus().DeadLetters(context.Background(), bus.Filter{Group: webhookGroup + id}, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(dead) >= n {
			return dead
		}
		if _, err := p.Store().Wait(context.Background(), tick); err != nil {
			t.Fatal(err)
		}
	}
}

// signedBy checks a post's signature with the specification's own library, and by hand.
func signedBy(t testing.TB, p post, secret string) bool {
	t.Helper()
	w, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	verified := w.Verify(p.body, p.header) == nil
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err != nil || len(key) < 24 || len(key) > 64 {
		t.Errorf("the key is not as the specification wants it: %v", err)
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", p.header.Get("webhook-id"), p.header.Get("webhook-timestamp"), p.body)
	byHand := slices.Contains(strings.Fields(p.header.Get("webhook-signature")), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	if verified != byHand {
		t.Errorf("the library says %v, the specification's text %v", verified, byHand)
	}
	return verified
}

// TestWebhookPushes: each event by itself, in order per key, signed, in the form that was asked for; and the log tells of it.
func TestWebhookPushes(t *testing.T) {
	native, cloud := newEndpoint(t, nil), newEndpoint(t, nil)
	_, p, s := newGateway(t, &Options{Webhooks: trust(native, cloud)})
	hooks := map[*endpoint]hookAnswer{native: hookTo(t, s, native, "native"), cloud: hookTo(t, s, cloud, "cloud", "format", "cloudevents")}
	const keys, each = 20, 10
	batch := make([]event.Event, 0, keys*each)
	for i := range keys * each {
		e := enrolled(fmt.Sprint("P", i%keys), i/keys)
		e.TraceID = "0af7651916cd43dd8448eb211c80319c"
		batch = append(batch, e)
	}
	publishMany(t, p, batch...)
	for e, hook := range hooks {
		for k := range keys {
			e.untilTaken(fmt.Sprint("P", k), each)
			e.inOrder(t, fmt.Sprint("P", k), each)
		}
		for _, got := range e.posts {
			if !signedBy(t, got, hook.Secret) || signedBy(t, got, newSecret()) {
				t.Fatalf("signature of %s", got.id)
			}
			var parsed event.Event
			var err error
			want := "application/json"
			if e == cloud {
				want = "application/cloudevents+json; charset=utf-8"
				parsed, _, err = event.ParseCloudEvent(got.body, nil)
			} else {
				parsed, _, err = event.Parse(got.body, nil)
			}
			if err != nil || parsed.ID != got.id || got.header.Get("Content-Type") != want || !strings.HasPrefix(got.header.Get("Traceparent"), "00-0af7651916cd43dd8448eb211c80319c-") {
				t.Fatalf("%v, %v", err, got.header)
			}
		}
	}
	if n := native.count(); n != keys*each {
		t.Errorf("%d posts: nothing failed, and something came again", n)
	}
	got := deliveries(t, s, "native")
	if len(got) != keys*each || got[0].Outcome != "accepted" || got[0].Status != 200 || got[0].Attempt != 1 || got[0].EventType != "patient.enrolled" {
		t.Errorf("%d deliveries in the log, the last is %+v", len(got), got[0])
	}
	var one hookAnswer
	call(t, http.MethodGet, s.URL+"/v1/webhooks/native", nil, &one)
	if one.Secret != "" || one.Group == nil || one.Group.ParkedKeys != 0 {
		t.Errorf("%+v", one)
	}
}

// TestWebhookEndpointIsDown: 500, a hang, no connection, 429 and 503: tried for as long as it takes, nothing is parked, nothing
// is lost, the order stays.
func TestWebhookEndpointIsDown(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, answer := range map[string]func(n int, w http.ResponseWriter, r *http.Request){
		"500": func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"502 with a long page": func(_ int, w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = w.Write(make([]byte, 1<<20))
		},
		"hang": func(_ int, w http.ResponseWriter, r *http.Request) { hang(w, r) },
		"half an answer": func(_ int, w http.ResponseWriter, r *http.Request) {
			c, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(c, "HTTP/1.1 2")
				c.Close()
			}
		},
		"408": func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusRequestTimeout) },
		"429": func(_ int, w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			down := 12
			if name == "hang" {
				down = 5
			}
			e := newEndpoint(t, nil)
			e.answer = func(n int, _ post, w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				down--
				up := down < 0
				mu.Unlock()
				if !up {
					w.(*answered).status = 599 // whatever follows, it is not taken
					answer(n, w, r)
				}
			}
			o := trust(e)
			o.Timeout, o.Tries = 200*time.Millisecond, 8
			if name != "hang" {
				o.Timeout = time.Minute
			}
			_, p, s := newGateway(t, &Options{Webhooks: o})
			hookTo(t, s, e, "h")
			for i := range 10 {
				publishMany(t, p, enrolled("P1", i), enrolled("P2", i))
			}
			e.untilTaken("P1", 10)
			e.untilTaken("P2", 10)
			e.inOrder(t, "P1", 10)
			e.inOrder(t, "P2", 10)
			if err := p.Bus().Idle(context.Background()); err != nil {
				t.Fatal(err)
			}
			if dead, err := p.Bus().DeadLetters(context.Background(), bus.Filter{}, 10); err != nil || len(dead) > 0 {
				t.Errorf("parked: %+v, %v", dead, err)
			}
			want := map[string]string{"hang": "time-out", "half an answer": "no connection", "408": "refused", "429": "refused"}[name]
			if want == "" {
				want = "error"
			}
			if log := deliveries(t, s, "h"); !slices.ContainsFunc(log, func(l logEntry) bool { return l.Outcome == want && l.Attempt > 2 }) {
				t.Errorf("the log has no third %s: %+v", want, log)
			}
		})
	}
}

// TestWebhookRests: an endpoint that asks for a pause has it, for all events.
func TestWebhookRests(t *testing.T) {
	e := newEndpoint(t, func(n int, _ post, w http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		}
	})
	_, p, s := newGateway(t, &Options{Webhooks: trust(e)})
	hookTo(t, s, e, "h")
	publishMany(t, p, enrolled("P1", 0), enrolled("P1", 1), enrolled("P1", 2))
	e.untilTaken("P1", 3)
	if len(e.posts) != 4 || e.posts[1].at.Sub(e.posts[0].at) < 990*time.Millisecond {
		t.Errorf("%d posts, the second %v after the first", len(e.posts), e.posts[1].at.Sub(e.posts[0].at))
	}
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		status int
		text   string
		want   time.Duration
	}{
		{429, "7", 7 * time.Second}, {503, "7", 7 * time.Second}, {500, "7", 0}, {200, "7", 0}, {429, "", 0}, {429, "0", 0}, {429, "-1", 0}, {429, "soon", 0}, {429, "1e9", 0},
		{429, "99999999", time.Hour}, {429, "99999999999999999999", 0}, {503, "Sun, 01 Mar 2026 10:00:30 GMT", 30 * time.Second}, {503, "Sun, 01 Mar 2026 09:00:00 GMT", 0}, {503, "Fri, 01 Mar 2199 09:00:00 GMT", time.Hour},
	} {
		if got := pauseOf(&http.Response{StatusCode: c.status, Header: http.Header{"Retry-After": {c.text}}}, now); got != c.want {
			t.Errorf("%d %q: %v, want %v", c.status, c.text, got, c.want)
		}
	}
}

// TestWebhookPoison: an event that the endpoint does not take is parked with its key, the others go on; a redrive brings it
// and what waited behind it, in order.
func TestWebhookPoison(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusUnprocessableEntity, http.StatusFound, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			elsewhere := newEndpoint(t, nil)
			var mu sync.Mutex
			bad := true
			e := newEndpoint(t, nil)
			e.answer = func(_ int, p post, w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				defer mu.Unlock()
				if bad && p.key == "P1" && p.number == "1" {
					w.Header().Set("Location", elsewhere.URL)
					w.WriteHeader(status)
				}
			}
			_, p, s := newGateway(t, &Options{Webhooks: trust(e, elsewhere)})
			hookTo(t, s, e, "h")
			stop := make(chan struct{})
			var others sync.WaitGroup
			others.Go(func() { // the endpoint takes other events meanwhile
				for i := 0; ; i++ {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := p.PublishBatch(context.Background(), []event.Event{enrolled("P2", i)}); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for i := range 4 {
				publishMany(t, p, enrolled("P1", i))
			}
			dead := untilParked(t, p, "h", 1)
			close(stop)
			others.Wait()
			if len(dead) != 1 || dead[0].Key != "P1" || strings.Contains(dead[0].Error, e.URL) || strings.Contains(dead[0].Error, "127.0.0.1") || !strings.Contains(dead[0].Error, fmt.Sprint(status)) {
				t.Errorf("%+v", dead)
			}
			tries := 0
			for _, l := range deliveries(t, s, "h") {
				if l.EventID == dead[0].EventID {
					tries++
				}
			}
			if tries < 3 || status < 500 && tries != 3 {
				t.Errorf("%d tries", tries)
			}
			publishMany(t, p, enrolled("P1", 4))
			if err := p.Bus().Idle(context.Background()); err != nil {
				t.Fatal(err)
			}
			e.inOrder(t, "P1", 1)
			mu.Lock()
			bad = false
			mu.Unlock()
			if status := call(t, http.MethodPost, s.URL+"/v1/dead-letters/redrive", map[string]any{"group": "webhook:h", "reason": "the endpoint was mended"}, nil); status != http.StatusAccepted {
				t.Fatal(status)
			}
			e.untilTaken("P1", 5)
			e.inOrder(t, "P1", 5)
			if n := elsewhere.count(); n > 0 {
				t.Errorf("a redirect was followed %d times", n)
			}
		})
	}
}

// TestWebhookIsGone: 410 pauses the webhook, once, and says so; nothing is lost.
func TestWebhookIsGone(t *testing.T) {
	var mu sync.Mutex
	gone := true
	e := newEndpoint(t, nil)
	e.answer = func(_ int, _ post, w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if gone {
			w.WriteHeader(http.StatusGone)
		}
	}
	_, p, s := newGateway(t, &Options{Webhooks: trust(e)})
	hookTo(t, s, e, "h")
	publishMany(t, p, enrolled("P1", 0), enrolled("P2", 0), enrolled("P3", 0), enrolled("P1", 1))
	var told []event.Event
	for len(told) == 0 {
		tick := p.Store().Tick()
		told = platformEvents(t, p, "platform.group.paused")
		if len(told) == 0 {
			if _, err := p.Store().Wait(context.Background(), tick); err != nil {
				t.Fatal(err)
			}
		}
	}
	if len(told) != 1 || !strings.Contains(string(told[0].Payload), "410 Gone") || !strings.Contains(string(told[0].Payload), `"actor":"carebus"`) {
		t.Errorf("%d events: %s", len(told), told[0].Payload)
	}
	var one hookAnswer
	call(t, http.MethodGet, s.URL+"/v1/webhooks/h", nil, &one)
	if one.Group == nil || one.Group.State != "paused" || !strings.Contains(one.Group.Reason, "410 Gone") || one.Group.ParkedKeys != 0 {
		t.Errorf("%+v", one.Group)
	}
	mu.Lock()
	gone = false
	mu.Unlock()
	if status := call(t, http.MethodPost, s.URL+"/v1/groups/webhook:h/resume", map[string]any{"reason": "it is back"}, nil); status != http.StatusOK {
		t.Fatal(status)
	}
	for key, n := range map[string]int{"P1": 2, "P2": 1, "P3": 1} {
		e.untilTaken(key, n)
		e.inOrder(t, key, n)
	}
}

// platformEvents are the store's events of one of the platform's own types.
func platformEvents(t testing.TB, p *carebus.Platform, eventType string) (out []event.Event) {
	t.Helper()
	for r, err := range p.Store().All(context.Background(), make([]int64, p.Store().Partitions()), func(of string) bool { return of == eventType }) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r.Event)
	}
	return out
}

// TestWebhookKeys: while a key is exchanged both sign; after a grace of 0 only the new one does; many exchanges at once lose
// no key that was given out.
func TestWebhookKeys(t *testing.T) {
	e := newEndpoint(t, nil)
	_, p, s := newGateway(t, &Options{Webhooks: trust(e)})
	first := hookTo(t, s, e, "h")
	rotate := func(body string) string {
		t.Helper()
		var out hookAnswer
		if status := call(t, http.MethodPost, s.URL+"/v1/webhooks/h/rotate", body, &out); status != http.StatusOK || out.Secret == "" {
			t.Fatalf("%d %+v", status, out)
		}
		return out.Secret
	}
	next := func(n int) post {
		t.Helper()
		publishMany(t, p, enrolled("P1", n))
		e.untilTaken("P1", n+1)
		return e.posts[len(e.posts)-1]
	}
	if got := next(0); !signedBy(t, got, first.Secret) {
		t.Error("the first key does not sign")
	}
	second := rotate(`{}`)
	if got := next(1); !signedBy(t, got, first.Secret) || !signedBy(t, got, second) {
		t.Error("in the grace both keys are to sign")
	}
	third := rotate(`{"graceHours":0}`)
	if got := next(2); signedBy(t, got, first.Secret) || signedBy(t, got, second) || !signedBy(t, got, third) {
		t.Error("without a grace only the new key is to sign")
	}
	var mu sync.Mutex
	secrets := []string{third}
	var rotating sync.WaitGroup
	for range maxKeys - 1 {
		rotating.Go(func() {
			secret := rotate(`{"graceHours":1}`)
			mu.Lock()
			defer mu.Unlock()
			secrets = append(secrets, secret)
		})
	}
	rotating.Wait()
	got := next(3)
	for i, secret := range secrets {
		if !signedBy(t, got, secret) {
			t.Errorf("key %d of %d was lost", i, len(secrets))
		}
	}
	rotate(`{"graceHours":1}`)
	if n := len(strings.Fields(next(4).header.Get("webhook-signature"))); n != maxKeys {
		t.Errorf("%d signatures", n)
	}
	told := platformEvents(t, p, "platform.webhook.registered")
	if len(told) != 8 {
		t.Errorf("%d events tell of it", len(told))
	}
	for _, of := range told {
		for _, secret := range append(secrets, first.Secret, second) {
			if strings.Contains(string(of.Payload), strings.TrimPrefix(secret, "whsec_")) {
				t.Error("an event holds a key")
			}
		}
	}
}

// TestWebhookIsChanged: new settings count while deliveries are under way; nothing is lost, and the order stays.
func TestWebhookIsChanged(t *testing.T) {
	one, two := newEndpoint(t, nil), newEndpoint(t, nil)
	_, p, s := newGateway(t, &Options{Webhooks: trust(one, two)})
	hookTo(t, s, one, "h")
	changed, published := make(chan struct{}), make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-changed:
				if i >= 300 && i%3 == 0 {
					published <- i
					return
				}
			default:
			}
			if _, err := p.PublishBatch(context.Background(), []event.Event{enrolled(fmt.Sprint("P", i%3), i/3)}); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := range 10 {
		to, format := []*endpoint{two, one}[i%2], []string{"cloudevents", "native"}[i/2%2]
		patterns := []string{"patient.enrolled"}
		if i%3 == 0 {
			patterns = []string{"patient.*"}
		}
		if status := call(t, http.MethodPut, s.URL+"/v1/webhooks/h", map[string]any{"url": to.URL, "patterns": patterns, "format": format}, nil); status != http.StatusOK {
			t.Fatal(status)
		}
		to.mu.Lock()
		had, news := len(to.posts), to.news
		to.mu.Unlock()
		for to.count() == had { // until the new settings count
			<-news
			to.mu.Lock()
			news = to.news
			to.mu.Unlock()
		}
	}
	close(changed)
	events := <-published
	if err := p.Bus().Idle(context.Background()); err != nil {
		t.Fatal(err)
	}
	for k := range 3 {
		var all []post
		for _, e := range []*endpoint{one, two} {
			e.mu.Lock()
			for _, got := range e.posts {
				if got.key == fmt.Sprint("P", k) {
					all = append(all, got)
				}
			}
			e.mu.Unlock()
		}
		slices.SortStableFunc(all, func(a, b post) int { return a.at.Compare(b.at) })
		var numbers []string
		for _, got := range all {
			numbers = append(numbers, got.number)
		}
		if got := once(numbers); !slices.Equal(got, numbersTo(events/3)) {
			t.Errorf("key P%d: %v", k, got)
		}
	}
	if one.count() == 0 || two.count() == 0 {
		t.Errorf("%d and %d posts: nothing was tried", one.count(), two.count())
	}
}

// TestWebhookPauseAndDelete: paused, it pushes nothing and goes on where it was; deleted, nothing of it is left, and a new one
// of the same name begins anew.
func TestWebhookPauseAndDelete(t *testing.T) {
	e := newEndpoint(t, func(_ int, p post, w http.ResponseWriter, _ *http.Request) {
		if p.key == "poison" {
			w.WriteHeader(http.StatusBadRequest)
		}
	})
	_, p, s := newGateway(t, &Options{Webhooks: trust(e)})
	hookTo(t, s, e, "h")
	publishMany(t, p, enrolled("P1", 0))
	e.untilTaken("P1", 1)
	if status := call(t, http.MethodPost, s.URL+"/v1/groups/webhook:h/pause", map[string]any{"reason": "their window"}, nil); status != http.StatusOK {
		t.Fatal(status)
	}
	publishMany(t, p, enrolled("P1", 1), enrolled("poison", 0))
	if status := call(t, http.MethodPost, s.URL+"/v1/webhooks/h/test", nil, nil); status != http.StatusOK { // a test is a post all the same
		t.Fatal(status)
	}
	var paused hookAnswer
	call(t, http.MethodGet, s.URL+"/v1/webhooks/h", nil, &paused)
	if paused.Group == nil || paused.Group.State != "paused" || paused.Group.Lag == 0 { // what was in hand may be posted, and comes again
		t.Errorf("%+v", paused.Group)
	}
	call(t, http.MethodPost, s.URL+"/v1/groups/webhook:h/resume", map[string]any{"reason": "their window is over"}, nil)
	e.untilTaken("P1", 2)
	e.inOrder(t, "P1", 2)
	untilParked(t, p, "h", 1)

	if status := call(t, http.MethodDelete, s.URL+"/v1/webhooks/h", nil, nil); status != http.StatusUnprocessableEntity {
		t.Errorf("deleted without a reason: %d", status)
	}
	if status := call(t, http.MethodDelete, s.URL+"/v1/webhooks/h?reason=done", nil, nil); status != http.StatusNoContent {
		t.Fatal(status)
	}
	if told := platformEvents(t, p, "platform.webhook.removed"); len(told) != 1 || !strings.Contains(string(told[0].Payload), `"reason":"done"`) {
		t.Errorf("%+v", told)
	}
	if dead, err := p.Bus().DeadLetters(t.Context(), bus.Filter{}, 10); err != nil || len(dead) > 0 {
		t.Errorf("%+v, %v", dead, err)
	}
	for _, path := range []string{"/v1/webhooks/h", "/v1/webhooks/h/deliveries", "/v1/groups/webhook:h"} {
		if status := call(t, http.MethodGet, s.URL+path, nil, nil); status != http.StatusNotFound {
			t.Errorf("%s: %d", path, status)
		}
	}
	before := e.count()
	publishMany(t, p, enrolled("P1", 2))
	hookTo(t, s, e, "h", "start", "now")
	publishMany(t, p, enrolled("P1", 3))
	e.until(func(posts []post, _ map[string][]string) bool { return len(posts) > before })
	if got := e.posts[before]; got.number != "3" {
		t.Errorf("the new one began with %s", got.number)
	}
	if log := deliveries(t, s, "h"); slices.ContainsFunc(log, func(l logEntry) bool { return l.EventID != e.posts[before].id }) {
		t.Errorf("the new one has the former one's log: %+v", log)
	}
	if status := call(t, http.MethodPost, s.URL+"/v1/webhooks", map[string]any{"id": "h", "url": e.URL, "patterns": []string{"**"}}, nil); status != http.StatusConflict {
		t.Errorf("twice: %d", status)
	}
}

// TestWebhookIsTested: a test post is signed, tells how it went, and stores no event.
func TestWebhookIsTested(t *testing.T) {
	good := newEndpoint(t, nil)
	redirects := newEndpoint(t, func(_ int, _ post, w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", good.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	hangs := newEndpoint(t, func(_ int, _ post, _ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	stranger := newEndpoint(t, nil)
	stranger.Server.TLS = nil
	o := trust(good, redirects, hangs)
	o.Timeout = 300 * time.Millisecond
	_, p, s := newGateway(t, &Options{Webhooks: o})
	expired := newEndpoint(t, nil) // its certificate is httptest's, for 127.0.0.1; by another name it is not valid
	for _, c := range []struct {
		id, url, outcome string
		status           int
	}{
		{"good", good.URL, "accepted", 200}, {"redirects", redirects.URL, "redirect", 307}, {"hangs", hangs.URL, "time-out", 0},
		{"other-name", strings.Replace(expired.URL, "127.0.0.1", "127.0.0.3", 1), "no connection", 0}, {"nobody", "https://127.0.0.1:1/", "no connection", 0},
		{"no-name", "https://nobody.invalid/", "no connection", 0}, {"plain", strings.Replace(good.URL, "https", "http", 1), "refused", 400},
	} {
		var hook hookAnswer
		if status := call(t, http.MethodPost, s.URL+"/v1/webhooks", map[string]any{"id": c.id, "url": c.url, "patterns": []string{"patient.**"}}, &hook); status != http.StatusCreated {
			t.Fatal(c.id, status)
		}
		var out logEntry
		if status := call(t, http.MethodPost, s.URL+"/v1/webhooks/"+c.id+"/test", nil, &out); status != http.StatusOK || out.Outcome != c.outcome || out.Status != c.status {
			t.Errorf("%s: %d %+v", c.id, status, out)
		}
		if log := deliveries(t, s, c.id); len(log) != 1 || log[0].Outcome != c.outcome || log[0].EventType != "platform.webhook.tested" {
			t.Errorf("%s: %+v", c.id, log)
		}
		if c.id == "good" && !signedBy(t, good.posts[0], hook.Secret) {
			t.Error("the test is not signed")
		}
	}
	if n := good.count(); n != 1 {
		t.Errorf("%d posts: a redirect was followed", n)
	}
	if told := platformEvents(t, p, "platform.webhook.tested"); len(told) > 0 {
		t.Error("the test was stored")
	}
}
