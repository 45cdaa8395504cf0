package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/storetest"
)

func TestMain(m *testing.M) {
	if store := os.Getenv(killedStore); store != "" {
		if err := serveUntilKilled(store, os.Getenv(killedTo)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1) // it is to be killed
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

// openPlatform opens a new store, and runs its platform until the test ends.
func openPlatform(t testing.TB, o *carebus.Options) *carebus.Platform {
	t.Helper()
	if o == nil {
		o = &carebus.Options{}
	}
	o.Logger = quiet
	p, err := carebus.Open(context.Background(), storetest.New(t), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// newGateway serves a new store.
func newGateway(t testing.TB, o *Options) (*Gateway, *carebus.Platform, *httptest.Server) {
	t.Helper()
	p := openPlatform(t, nil)
	g, s := serveOn(t, p, o)
	return g, p, s
}

// serveOn serves a platform until the test ends.
func serveOn(t testing.TB, p *carebus.Platform, o *Options) (*Gateway, *httptest.Server) {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	if o.Logger == nil {
		o.Logger = quiet
	}
	g, err := New(context.Background(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	return serveGateway(t, g)
}

func serveGateway(t testing.TB, g *Gateway) (*Gateway, *httptest.Server) {
	t.Helper()
	s := httptest.NewServer(g)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		s.Close()
	})
	return g, s
}

// enrolled is a valid event about a patient.
func enrolled(patient string, n int) event.Event {
	return event.Event{
		Metadata: event.Metadata{ID: event.NewID(), Type: "patient.enrolled", Source: "patient-service", Version: "1.0.0", CorrelationID: "flow-" + patient, Timestamp: 1763900000000},
		Payload:  fmt.Appendf(nil, `{"patientId":%q,"enrollmentId":"%d","program":{"name":"Adherence"}}`, patient, n),
	}
}

// publishMany stores events directly.
func publishMany(t testing.TB, p *carebus.Platform, events ...event.Event) {
	t.Helper()
	if _, err := p.PublishBatch(context.Background(), events); err != nil {
		t.Fatal(err)
	}
}

// call makes a request with a JSON body, and reads a JSON answer into out. It returns the status.
func call(t testing.TB, method, url string, body, out any) int {
	t.Helper()
	status, text := send(t, method, url, body)
	if out != nil && len(text) > 0 {
		if err := json.Unmarshal(text, out); err != nil {
			t.Fatalf("%s %s: %d: %v in %s", method, url, status, err, text)
		}
	}
	return status
}

func send(t testing.TB, method, url string, body any, headers ...string) (int, []byte) {
	t.Helper()
	status, _, text := sendBy(t, client, method, url, body, headers...)
	return status, text
}

func sendBy(t testing.TB, client *http.Client, method, url string, body any, headers ...string) (int, http.Header, []byte) {
	t.Helper()
	var r io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		r = strings.NewReader(b)
	case []byte:
		r = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequest(method, url, r)
	if err != nil {
		t.Fatal(err)
	}
	if r != nil {
		req.Header.Set("Content-Type", "application/json")
	}
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
	return res.StatusCode, res.Header, text
}

// client keeps no connections: each test's server ends with none left.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
