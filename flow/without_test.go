package flow_test

import (
	"fmt"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
)

func TestWithout(t *testing.T) {
	record := func(id, eventType, cause string) eventstore.Record {
		return eventstore.Record{Event: event.Event{Metadata: event.Metadata{ID: id, Type: eventType, CausationID: cause}}}
	}
	said := func(records []eventstore.Record) (out string) {
		for _, r := range flow.Without(records, flow.Bookkeeping) {
			out += fmt.Sprintf("%s<%s ", r.ID, r.CausationID)
		}
		return out
	}
	for _, c := range []struct {
		name, want string
		records    []eventstore.Record
	}{
		{"nothing to drop", "1< 2<1 ", []eventstore.Record{record("1", "a.b.c", ""), record("2", "a.b.d", "1")}},
		{"a chain is closed", "1< 4<1 5<1 ", []eventstore.Record{record("1", "a.b.c", ""), record("2", "platform.saga.started", "1"), record("3", "platform.saga.step-completed", "2"), record("4", "a.b.d", "3"), record("5", "a.b.d", "2")}},
		{"a cause elsewhere stays", "2<0 ", []eventstore.Record{record("1", "platform.saga.completed", "0"), record("2", "a.b.d", "1")}},
		{"failures stay", "2<1 ", []eventstore.Record{record("2", "platform.saga.step-failed", "1")}},
		{"the first of all", "2< ", []eventstore.Record{record("1", "platform.saga.started", ""), record("2", "a.b.d", "1")}},
	} {
		if got := said(c.records); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
	// A circle of dropped events ends.
	said([]eventstore.Record{record("1", "platform.saga.started", "2"), record("2", "platform.saga.started", "1"), record("3", "a.b.c", "1")})
}
