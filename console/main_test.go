package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/console"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/gateway"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a console over a new store, and a browser without script.
type site struct {
	t   testing.TB
	p   *carebus.Platform
	url string
	c   *http.Client

	handler http.Handler
}

type jar map[string]*http.Cookie

func (j jar) SetCookies(_ *url.URL, cookies []*http.Cookie) {
	for _, c := range cookies {
		if j[c.Name] = c; c.MaxAge < 0 {
			delete(j, c.Name)
		}
	}
}

func (j jar) Cookies(*url.URL) (out []*http.Cookie) {
	for _, c := range j {
		out = append(out, &http.Cookie{Name: c.Name, Value: c.Value})
	}
	return out
}

// newSite serves a console; handle may join groups before the platform runs. door may be nil.
func newSite(t testing.TB, door *auth.Door, handle func(p *carebus.Platform) error) *site {
	t.Helper()
	return newSiteAt(t, t.TempDir()+"/console.db", door, handle)
}

// newSiteAt serves a console over the store in a file, which knows the definitions of some read models.
func newSiteAt(t testing.TB, path string, door *auth.Door, handle func(p *carebus.Platform) error, models ...*projection.Definition) *site {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	p, err := carebus.Open(context.Background(), "sqlite:"+path, &carebus.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if handle != nil {
		if err := handle(p); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	o := &console.Options{
		States:    map[string]gateway.State{"patient.record": fold},
		Histories: map[string]console.History{"patient.record": history},
		Story:     story, Projections: models, Local: door == nil, Logger: quiet,
	}
	c := console.New(ctx, p, o)
	g, err := gateway.New(ctx, p, &gateway.Options{Door: door, Mount: c.Mounts(), States: o.States, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(g)
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(func() {
		stop()
		c.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		server.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return &site{t: t, p: p, url: server.URL, c: &http.Client{Transport: transport, Jar: jar{}}, handler: g}
}

// The entities of these tests are folded to the members of their last event.
func fold(ctx context.Context, p *carebus.Platform, id string, version int64, at time.Time) (gateway.EntityState, error) {
	records, err := p.Store().Stream(ctx, eventstore.StreamQuery{Stream: "patient.record/" + id, Limit: 1000})
	if err != nil {
		return gateway.EntityState{}, err
	}
	out := gateway.EntityState{As: event.Metadata{Type: "patient.record.created", Version: "1.0.0"}}
	state := map[string]any{}
	for _, r := range records {
		if version > 0 && r.StreamVersion > version || !at.IsZero() && r.RecordedAt.After(at) {
			break
		}
		if err := json.Unmarshal(r.Payload, &state); err != nil {
			return out, err
		}
		out.Version, out.RecordedAt = r.StreamVersion, r.RecordedAt
	}
	if out.Version == 0 {
		return out, eventstore.ErrNotFound
	}
	out.State, err = json.Marshal(state)
	return out, err
}

func history(ctx context.Context, p *carebus.Platform, id string, reveal bool, yield func(console.Step) error) error {
	records, err := p.Store().Stream(ctx, eventstore.StreamQuery{Stream: "patient.record/" + id, Limit: 1000})
	if err != nil {
		return err
	}
	for _, r := range records {
		payload := r.Payload
		if !reveal {
			payload = p.Registry().Mask(r.Event)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(payload, &members); err != nil {
			return err
		}
		s := console.Step{Version: r.StreamVersion, RecordedAt: r.RecordedAt, EventID: r.ID, Type: r.Type, Source: r.Source}
		for name, v := range members {
			s.Changes = append(s.Changes, console.Change{Pointer: "/" + name, To: v})
		}
		if err := yield(s); err != nil {
			return err
		}
	}
	return nil
}

func story(ctx context.Context, p *carebus.Platform, id string, before console.Moment, limit int) ([]console.Moment, error) {
	records, err := p.Store().Stream(ctx, eventstore.StreamQuery{Stream: "patient.record/" + id, Limit: limit})
	if errors.Is(err, eventstore.ErrNotFound) || !before.At.IsZero() {
		return nil, nil
	}
	var out []console.Moment
	for _, r := range records {
		out = append(out, console.Moment{At: time.UnixMilli(r.Timestamp), EventID: r.ID, Type: r.Type, Title: "title", Source: r.Source, CorrelationID: r.CorrelationID})
	}
	return out, err
}

// page is an answer.
type page struct {
	status int
	header http.Header
	text   string
	at     string // address that redirects led to
}

func (s *site) get(path string) page {
	s.t.Helper()
	return s.do("GET", path, nil)
}

// post sends a form as a page of the console does.
func (s *site) post(path string, form url.Values) page {
	s.t.Helper()
	return s.do("POST", path, form)
}

func (s *site) do(method, path string, form url.Values, headers ...string) page {
	s.t.Helper()
	r, err := http.NewRequest(method, s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	if method == "POST" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.c.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return page{res.StatusCode, res.Header, string(text), res.Request.URL.RequestURI()}
}

func (s *site) wants(p page, status int, texts ...string) {
	s.t.Helper()
	if p.status != status {
		_, main, _ := strings.Cut(p.text, "<main")
		s.t.Errorf("%s: %d, not %d: %s", p.at, p.status, status, main[:min(len(main), 400)])
	}
	said := strings.ReplaceAll(p.text, "<wbr>", "")
	for _, text := range texts {
		if !strings.Contains(said, text) {
			s.t.Errorf("%s does not say %q", p.at, text)
		}
	}
}

func (s *site) lacks(p page, texts ...string) {
	s.t.Helper()
	said := strings.ReplaceAll(p.text, "<wbr>", "")
	for _, text := range texts {
		if strings.Contains(said, text) {
			s.t.Errorf("%s says %q", p.at, text)
		}
	}
}

// patient is a record of a patient with a protected name.
func patientCreated(id, first, last string) event.Event {
	payload, _ := json.Marshal(map[string]any{"patientId": id, "firstName": first, "lastName": last, "dateOfBirth": "1980-01-01"})
	return event.Event{
		Metadata: event.Metadata{ID: event.NewID(), Type: "patient.record.created", Source: "patient-service", Version: "1.0.0", CorrelationID: "flow-" + id, Timestamp: time.Now().UnixMilli()},
		Payload:  payload,
	}
}

// noted is an event of a type that anything may be said in.
func noted(id, key, correlation, cause, text string) event.Event {
	payload, _ := json.Marshal(map[string]any{"id": key, "text": text})
	return event.Event{
		Metadata: event.Metadata{ID: id, Type: "test.note.made", Source: "note-service", Version: "1.0.0", CorrelationID: correlation, CausationID: cause, Timestamp: time.Now().UnixMilli(), PartitionKey: key},
		Payload:  payload,
	}
}

// noteSchema admits test.note.made.
func noteSchema(t testing.TB, p *carebus.Platform) {
	t.Helper()
	doc := `{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"Note made","type":"object","x-entity-id":"/id","required":["id"],
		"properties":{"id":{"type":"string"},"text":{"type":"string","description":"What was noted."},"secret":{"type":"string","x-phi":true}}}`
	for _, version := range []string{"1.0.0", "1.1.0"} {
		text := doc
		if version != "1.0.0" {
			text = strings.Replace(doc, `"secret"`, `"more":{"type":"integer"},"secret"`, 1)
		}
		if _, err := p.RegisterSchema(context.Background(), schema.Document{Type: "test.note.made", Version: version, Schema: json.RawMessage(text), RegisteredBy: "test"}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *site) publish(events ...event.Event) {
	s.t.Helper()
	if _, err := s.p.PublishBatch(context.Background(), events); err != nil {
		s.t.Fatal(err)
	}
}

// failing is a group that fails on notes that say "poison".
func failing(p *carebus.Platform) error {
	return p.Handle("notes", bus.Tries(1), bus.Backoff(time.Millisecond, time.Millisecond), bus.OnRecord("test.note.*", func(_ context.Context, _ bus.Tx, r eventstore.Record) error {
		if strings.Contains(string(r.Payload), "poison") {
			return bus.Fatal(fmt.Errorf("cannot take the note of Zebedee"))
		}
		return nil
	}))
}

// until waits until a condition holds, looking after each commit.
func (s *site) until(what string, holds func() bool) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		tick := s.p.Store().Tick()
		if holds() {
			return
		}
		if _, err := s.p.Store().Wait(ctx, tick); err != nil {
			s.t.Fatalf("%s: %v", what, err)
		}
	}
}

// asked asks for a page until it says something: for what no commit tells of.
func (s *site) asked(path, text string) page {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		p := s.get(path)
		if strings.Contains(strings.ReplaceAll(p.text, "<wbr>", ""), text) {
			return p
		}
	}
	s.t.Fatalf("%s never says %q", path, text)
	return page{}
}

// between is the first text between two others.
func between(text, before, after string) string {
	_, text, _ = strings.Cut(text, before)
	text, _, _ = strings.Cut(text, after)
	return text
}

func (s *site) parked(key string) bool {
	letters, err := s.p.Bus().DeadLetters(context.Background(), bus.Filter{Group: "notes", Key: key}, 1)
	return err == nil && len(letters) == 1 && letters[0].State == "waiting"
}
