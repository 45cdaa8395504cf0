package bus_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// TestConcurrentAppends: a handler that appends, though its transactions need not take turns, is run again in turn, also when
// it does not look at the error.
func TestConcurrentAppends(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	follow := event.Define[numbered]("test.thing.followed", "1.0.0")
	b := newBus(t, s, nil)
	if err := b.Handle("g", bus.Concurrent(), bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
		f := follow.New("follower", e.Payload)
		f.PartitionKey = e.PartitionKey
		if err := tx.Append(f); err != nil && e.Payload.Seq != 2 {
			return err
		}
		return applyEffect(ctx, tx, e)
	})); err != nil {
		t.Fatal(err)
	}
	publish(t, s, numberedEvent("a", 1), numberedEvent("b", 1))
	publish(t, s, numberedEvent("a", 2), numberedEvent("b", 2))
	publish(t, s, numberedEvent("a", 3))
	start(t, b)
	idle(t, b)
	followed, err := s.Type(t.Context(), eventstore.TypeQuery{Type: follow.Type(), Limit: 100})
	if err != nil || len(followed) != 5 {
		t.Errorf("%d events were appended, %v; want one for each of 5", len(followed), err)
	}
	if got := lastSeqs(t, s, "g"); got["a"] != 3 || got["b"] != 2 {
		t.Errorf("effects %v", got)
	}
}

// TestConcurrentReplays: replays begin and end while the group's members commit, out of turn. What is no replay is handled once,
// all the same, and in order.
func TestConcurrentReplays(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	const keys, each, replays = 16, 60, 40
	b := newBus(t, s, nil)
	if err := b.Handle("g", bus.Concurrent(), bus.BatchSize(2, 1<<20), bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
		if bus.DeliveryFrom(ctx).Replay {
			return nil
		}
		return applyEffect(ctx, tx, e) // a second effect of an event is refused, and so is one that is not the next
	})); err != nil {
		t.Fatal(err)
	}
	publishAll := func(seq int) {
		for k := range keys {
			publish(t, s, numberedEvent(fmt.Sprint("k", k), seq))
		}
	}
	publishAll(1)
	start(t, b)
	idle(t, b) // a replay for a group that is not there yet would be of events that it has never handled
	done := make(chan error, 1)
	go func() {
		done <- func() error {
			for i := range replays {
				if err := b.Replay(context.Background(), "g", bus.Beginning(), bus.End(), bus.Act{Reason: "test"}); err != nil {
					return err
				}
				if i%3 == 0 {
					if err := b.CancelReplay(context.Background(), "g", bus.Act{Reason: "test"}); err != nil {
						return err
					}
				}
			}
			return nil
		}()
	}()
	for seq := 2; seq <= each; seq++ {
		publishAll(seq)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	idle(t, b)
	for k, n := range lastSeqs(t, s, "g") {
		if n != each {
			t.Errorf("key %s: %d of %d", k, n, each)
		}
	}
	if letters, err := b.DeadLetters(t.Context(), bus.Filter{}, 1); err != nil || len(letters) > 0 {
		t.Errorf("parked: %+v, %v", letters, err)
	}
}
