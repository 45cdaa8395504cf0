package kafka_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// TestOldest: how long the first event of a group has waited is known of topics too, of each group by itself.
func TestOldest(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	nothing := bus.On(thingDoneV1, func(context.Context, bus.Tx, event.Of[thing]) error { return nil })
	s.handle("g", nothing)
	s.handle("h", nothing)
	s.run()
	oldest := func(group string) (when time.Time) {
		t.Helper()
		all, err := s.bus.Summary(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range all {
			if g.Name == group {
				when = g.Oldest
			}
		}
		return when
	}
	pause := func(group string) {
		t.Helper()
		if err := s.bus.Pause(t.Context(), group, bus.Act{Reason: "test"}); err != nil {
			t.Fatal(err)
		}
	}
	s.publish(made("a", 1), made("b", 1))
	s.idle()
	if got := oldest("g"); !got.IsZero() {
		t.Errorf("nothing waits, and the oldest is of %v", got)
	}
	pause("g")
	s.publish(made("a", 2), made("b", 2), made("a", 3))
	s.until(func() bool {
		all, err := s.bus.Summary(t.Context())
		return err == nil && slices.ContainsFunc(all, func(g bus.GroupSummary) bool { return g.Name == "g" && g.Lag == 3 }) &&
			slices.ContainsFunc(all, func(g bus.GroupSummary) bool { return g.Name == "h" && g.Lag == 0 })
	})
	pause("h")
	s.publish(made("b", 3))
	s.until(func() bool { return !oldest("h").IsZero() })
	events, err := s.store.Type(t.Context(), eventstore.TypeQuery{Type: "test.thing.done", Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	recorded := map[thing]time.Time{}
	for _, r := range events {
		of, err := thingDoneV1.Decode(r.Event)
		if err != nil {
			t.Fatal(err)
		}
		recorded[of.Payload] = r.RecordedAt
	}
	for range 2 { // the second time from memory
		if got, want := oldest("g"), recorded[thing{Key: "a", Seq: 2}]; !got.Equal(want) {
			t.Errorf("the oldest of g is of %v, want %v", got, want)
		}
		if got, want := oldest("h"), recorded[thing{Key: "b", Seq: 3}]; !got.Equal(want) {
			t.Errorf("the oldest of h is of %v, want %v", got, want)
		}
	}
}
