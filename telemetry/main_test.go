package telemetry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/gateway"
	"github.com/carebus/carebus/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// payload of the events of these tests.
type payload struct {
	Key  string `json:"key"`
	N    int    `json:"n"`
	Note string `json:"note,omitempty"`
}

var (
	askedV1    = event.Define[payload]("test.thing.asked", "1.0.0")
	answeredV1 = event.Define[payload]("test.thing.answered", "1.0.0")
)

const source = "test-service"

// world is a platform that is observed, and what is seen of it.
type world struct {
	*carebus.Platform
	t    *testing.T
	tel  *Telemetry
	logs *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// open opens a new store. run lets it run until the test ends; what it handles is said before.
func open(t *testing.T, o *Options) *world {
	t.Helper()
	w := &world{t: t, logs: &lockedBuffer{}}
	handler, err := NewLogHandler(w.logs, "json", "debug")
	if err != nil {
		t.Fatal(err)
	}
	if o == nil {
		o = &Options{}
	}
	o.Logger = slog.New(handler)
	if o.CollectEvery == 0 {
		o.CollectEvery = time.Nanosecond // what is asked for in a test is of now
	}
	if w.tel, err = New(context.Background(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	w.Platform, err = carebus.Open(context.Background(), "sqlite:"+filepath.Join(t.TempDir(), "care.db"), &carebus.Options{Hooks: w.tel.Hooks(), Logger: o.Logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, eventType := range []string{askedV1.Type(), answeredV1.Type()} {
		w.register(eventType)
	}
	w.tel.Watch(w.Platform)
	return w
}

func (w *world) register(eventType string) {
	w.t.Helper()
	_, err := w.RegisterSchema(context.Background(), schema.Document{Type: eventType, Version: "1.0.0", Schema: json.RawMessage(`{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A test", "description": "Something of a test.", "x-entity-id": "/key",
		"type": "object", "required": ["key", "n"], "properties": {"key": {"type": "string", "description": "The entity."},
		"n": {"type": "integer", "description": "A number."}, "note": {"type": "string", "description": "Words."}}}`)})
	if err != nil {
		w.t.Fatal(err)
	}
}

// run lets the platform run until the test, or the function it returns, ends it.
func (w *world) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	return stop
}

func (w *world) publish(ctx context.Context, events ...event.Event) {
	w.t.Helper()
	if _, err := w.PublishBatch(ctx, events); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) idle() {
	w.t.Helper()
	if err := w.Bus().Idle(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// serve serves the platform with its metrics.
func (w *world) serve(o *gateway.Options) string {
	w.t.Helper()
	if o == nil {
		o = &gateway.Options{}
	}
	o.Logger = w.tel.log
	o.Mount = map[string]gateway.Mount{"GET /metrics": {Handler: w.tel.Handler(), Verb: "read"}}
	g, err := gateway.New(context.Background(), w.Platform, o)
	if err != nil {
		w.t.Fatal(err)
	}
	s := httptest.NewServer(g)
	w.t.Cleanup(func() {
		if err := g.Close(); err != nil {
			w.t.Error(err)
		}
		s.Close()
	})
	return s.URL
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func send(t *testing.T, method, url, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// envelope is an event as a client sends it.
func envelope(id, eventType, key string) string {
	return fmt.Sprintf(`{"metadata":{"eventId":%q,"eventType":%q,"eventSource":"client","correlationId":"flow-1","timestamp":1763900000000,"version":"1.0.0"},"payload":{"key":%q,"n":1}}`, id, eventType, key)
}

// gather returns the metrics by name.
func (w *world) gather() map[string]*dto.MetricFamily {
	w.t.Helper()
	all, err := w.tel.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]*dto.MetricFamily{}
	for _, f := range all {
		out[f.GetName()] = f
	}
	return out
}

// value sums a metric over the series that have the labels, given as name, value. Of a histogram it is the count.
func (w *world) value(name string, labels ...string) (sum float64) {
	w.t.Helper()
	f := w.gather()["carebus_"+name]
	if f == nil {
		return 0
	}
series:
	for _, m := range f.GetMetric() {
		for i := 0; i+1 < len(labels); i += 2 {
			found := false
			for _, l := range m.GetLabel() {
				found = found || l.GetName() == labels[i] && l.GetValue() == labels[i+1]
			}
			if !found {
				continue series
			}
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	return sum
}

func (w *world) want(value float64, name string, labels ...string) {
	w.t.Helper()
	if got := w.value(name, labels...); got != value {
		w.t.Errorf("carebus_%s%v = %v, want %v", name, labels, got, value)
	}
}
