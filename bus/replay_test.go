package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// TestCancelReplay: a replay that is cancelled leaves the group where it was before it; what was not replayed is not handled
// again.
func TestCancelReplay(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	b := newBus(t, s, nil)
	var replayed atomic.Int64
	reached, goOn := make(chan struct{}), make(chan struct{})
	err := b.Handle("again", bus.OnForward("test.**", func(ctx context.Context, r eventstore.Record) error {
		if bus.DeliveryFrom(ctx).Replay && replayed.Add(1) == 1 {
			close(reached)
			select {
			case <-goOn:
			case <-ctx.Done():
			}
		}
		return nil
	}), bus.BatchSize(1, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	const events = 50
	for i := range events {
		publish(t, s, numberedEvent("k", i+1))
	}
	start(t, b)
	idle(t, b)
	if err := b.CancelReplay(ctx, "again", bus.Act{}); !errors.Is(err, bus.ErrReason) {
		t.Errorf("without a reason: %v", err)
	}
	if err := b.CancelReplay(ctx, "nobody", bus.Act{Reason: "test"}); !errors.Is(err, bus.ErrNoGroup) {
		t.Errorf("of no group: %v", err)
	}
	if err := b.Replay(ctx, "again", bus.Beginning(), bus.End(), bus.Act{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	<-reached
	if err := b.CancelReplay(ctx, "again", bus.Act{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	close(goOn)
	publish(t, s, numberedEvent("k", events+1))
	idle(t, b)
	g, err := b.Group(ctx, "again")
	if err != nil || g.Replay != nil || g.Lag != 0 {
		t.Errorf("after cancelling: %+v, %v", g, err)
	}
	if n := replayed.Load(); n > 2 {
		t.Errorf("%d events were replayed after the cancelling", n)
	}
}

// TestCancelReplayKeepsParked: parked keys that a replay was to handle again are parked as before when it is cancelled before
// it came to them.
func TestCancelReplayKeepsParked(t *testing.T) {
	ctx := context.Background()
	s := newStore(t)
	b := newBus(t, s, nil)
	var bad atomic.Bool
	bad.Store(true)
	handled := make(chan string, 1000)
	reached := make(chan struct{}, 100)
	err := b.Handle("again", bus.OnForward("test.**", func(ctx context.Context, r eventstore.Record) error {
		switch {
		case r.PartitionKey == "bad" && bad.Load():
			return bus.Fatal(errors.New("refused"))
		case bus.DeliveryFrom(ctx).Replay && bad.Load():
			reached <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		handled <- r.PartitionKey
		return nil
	}), bus.BatchSize(1, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	part := eventstore.PartitionOf("bad", s.Partitions())
	first := keyIn(part, s.Partitions())
	publish(t, s, numberedEvent(first, 1)) // the replay hangs on it, in the same partition and before the bad ones
	for i := range 3 {
		publish(t, s, numberedEvent("bad", i+1))
	}
	start(t, b)
	idle(t, b)
	if err := b.Replay(ctx, "again", bus.Beginning(), bus.End(), bus.Act{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	<-reached
	if dead, err := b.DeadLetters(ctx, bus.Filter{Group: "again"}, 10); err != nil || len(dead) != 0 {
		t.Errorf("during the replay: %v, %v", dead, err)
	}
	if err := b.CancelReplay(ctx, "again", bus.Act{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	dead, err := b.DeadLetters(ctx, bus.Filter{Group: "again"}, 10)
	if err != nil || len(dead) != 1 || dead[0].Key != "bad" || dead[0].Events != 3 {
		t.Fatalf("after cancelling: %+v, %v", dead, err)
	}
	bad.Store(false)
	for len(handled) > 0 {
		<-handled
	}
	if _, err := b.Redrive(ctx, bus.Redrive{Filter: bus.Filter{Group: "again"}, Act: bus.Act{Reason: "test"}}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if k := <-handled; k != "bad" {
			t.Errorf("handled %s", k)
		}
	}
}

// keyIn returns a key of a partition.
func keyIn(part, partitions int) string {
	for i := 0; ; i++ {
		if k := fmt.Sprint("k", i); eventstore.PartitionOf(k, partitions) == part {
			return k
		}
	}
}
