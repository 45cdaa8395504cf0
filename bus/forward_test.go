package bus_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// TestForward: a forwarded event follows the rules of every other: order per key, a dependency is tried again, an event
// that fails for good parks its key, and the rest goes on.
func TestForward(t *testing.T) {
	s := newStore(t)
	b := newBus(t, s, nil)
	var mu sync.Mutex
	got := map[string][]string{}
	busy := 2
	err := b.Handle("out", bus.OnForward("test.**", func(ctx context.Context, r eventstore.Record) error {
		mu.Lock()
		defer mu.Unlock()
		if bus.DeliveryFrom(ctx).Group != "out" {
			t.Error("no delivery in the context")
		}
		switch {
		case r.PartitionKey == "bad":
			return bus.Fatal(errors.New("refused"))
		case r.PartitionKey == "busy" && busy > 0:
			busy--
			return bus.Transient(errors.New("busy"))
		}
		got[r.PartitionKey] = append(got[r.PartitionKey], r.ID)
		return nil
	}), bus.Calls(4), bus.BatchSize(8, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{}
	for i := range 20 {
		for _, k := range []string{"a", "b", "busy", "bad"} {
			e := numberedEvent(k, i+1)
			e.ID = event.NewID()
			publish(t, s, e)
			if k != "bad" {
				want[k] = append(want[k], e.ID)
			}
		}
	}
	start(t, b)
	idle(t, b)
	mu.Lock()
	defer mu.Unlock()
	for k := range want {
		if !slices.Equal(got[k], want[k]) {
			t.Errorf("key %s: got %v, want %v", k, got[k], want[k])
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %d keys, want %d", len(got), len(want))
	}
	dead, err := b.DeadLetters(context.Background(), bus.Filter{Group: "out"}, 10)
	if err != nil || len(dead) != 1 || dead[0].Key != "bad" || dead[0].Events != 20 {
		t.Errorf("dead letters %+v, %v", dead, err)
	}
}

// TestJoinAndLeave: a group can be joined and left while the bus runs; a forward under way is broken off, and its event
// comes again.
func TestJoinAndLeave(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	b := newBus(t, s, nil)
	start(t, b)
	held := make(chan struct{})
	stuck := bus.OnForward("test.**", func(ctx context.Context, _ eventstore.Record) error {
		close(held)
		<-ctx.Done()
		return ctx.Err()
	})
	if err := b.Handle("late", stuck); err != nil {
		t.Fatal(err)
	}
	if err := b.Remove(ctx, "late", bus.Act{}); !errors.Is(err, bus.ErrReason) {
		t.Errorf("removing without a reason: %v", err)
	}
	publish(t, s, numberedEvent("k", 1))
	<-held
	if err := b.Remove(ctx, "late", bus.Act{Reason: "test"}); !errors.Is(err, bus.ErrHasMembers) {
		t.Errorf("removing a group with members: %v", err)
	}
	if err := b.Leave(ctx, "late"); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(b.Joined(), "late") {
		t.Errorf("joined: %v", b.Joined())
	}
	seen := make(chan string, 1)
	if err := b.Handle("late", bus.OnForward("test.**", func(_ context.Context, r eventstore.Record) error {
		seen <- r.PartitionKey
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	if k := <-seen; k != "k" {
		t.Errorf("got %s", k)
	}
	idle(t, b)
	if err := b.Leave(ctx, "late"); err != nil {
		t.Fatal(err)
	}
	if err := b.Leave(ctx, "nobody"); err != nil {
		t.Error(err)
	}
	if err := b.Remove(ctx, "late", bus.Act{Reason: "test"}); err != nil {
		t.Error(err)
	}
	if _, err := b.Group(ctx, "late"); !errors.Is(err, bus.ErrNoGroup) {
		t.Errorf("after removing: %v", err)
	}
}
