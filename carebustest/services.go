package carebustest

import (
	"strings"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/event"
)

// When publishes events, settles them, and returns the platform's news: what was stated since, by type, the platform's own
// bookkeeping left out. It is the story of a service, a saga or a read model:
//
//	news := carebustest.When(t, p, submitted)
//	decisions := carebustest.Then(t, news, priorauth.DecisionMadeV1)
//
// A read model is asked for what it shows after it. The platform must be running.
func When(t testing.TB, p *carebus.Platform, events ...event.Event) []event.Event {
	t.Helper()
	before, err := p.Store().Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]bool{}
	for _, e := range events {
		r, err := p.Publish(t.Context(), e)
		if err != nil {
			t.Fatalf("publishing %s: %v", e.Type, err)
		}
		given[r.EventID] = true
	}
	Settle(t, p)
	var news []event.Event
	for r, err := range p.Store().All(t.Context(), before, func(eventType string) bool { return !strings.HasPrefix(eventType, "platform.") }) {
		if err != nil {
			t.Fatal(err)
		}
		if !given[r.ID] {
			news = append(news, r.Event)
		}
	}
	return news
}

// Then returns the payloads of the events of one type, in the order in which they were stated, and fails the test when
// there are none.
func Then[T any](t testing.TB, news []event.Event, d event.Definition[T]) []T {
	t.Helper()
	var out []T
	for _, e := range news {
		if e.Type != d.Type() {
			continue
		}
		of, err := d.Decode(e)
		if err != nil {
			t.Fatalf("event %s of type %s: %v", e.ID, e.Type, err)
		}
		out = append(out, of.Payload)
	}
	if len(out) == 0 {
		t.Errorf("no %s was stated", d.Type())
	}
	return out
}
