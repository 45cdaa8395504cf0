package bus_test

import (
	"context"
	"errors"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

func positions(t *testing.T, s *eventstore.Store, group string) (p bus.Positions) {
	t.Helper()
	err := s.View(t.Context(), func(q eventstore.Querier) (err error) {
		p, err = bus.ReadPositions(t.Context(), q, group, s.Partitions())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPositions(t *testing.T) {
	s := newStore(t)
	b := newBus(t, s, nil)
	refuse := map[int]bool{2: true}
	err := b.Handle("g", bus.OnRecord("test.**", func(_ context.Context, tx bus.Tx, r eventstore.Record) error {
		of, err := thingDoneV1.Decode(r.Event)
		if err == nil && refuse[of.Payload.Seq] {
			return bus.Fatal(errors.New("refused"))
		}
		return err
	}), bus.FromStore())
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, numberedEvent("a", 1), numberedEvent("a", 2), numberedEvent("a", 3), numberedEvent("b", 1))
	never := positions(t, s, "g")
	if never.State != "" || len(never.Next) != s.Partitions() || len(never.Parked) != 0 {
		t.Errorf("a group that has never run: %+v", never)
	}
	start(t, b)
	idle(t, b)

	part := eventstore.PartitionOf("a", s.Partitions())
	key := bus.ParkedAt{Partition: part, Key: "a"}
	p := positions(t, s, "g")
	if p.State != "running" || p.Next[part] < 3 || p.Parked[key] != 1 || p.Equal(never) {
		t.Errorf("%+v", p)
	}
	err = s.Update(t.Context(), func(tx *eventstore.Tx) error {
		locked, err := bus.LockPositions(t.Context(), tx, "g", s.Partitions())
		if err == nil && !locked.Equal(p) {
			t.Errorf("locked %+v, read %+v", locked, p)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}

	match := func(typ string) bool { return bus.Matches("test.**", typ) }
	gone, next, err := bus.ReadGivenUp(t.Context(), s, "g", match, 0)
	if err != nil || len(gone) != 0 {
		t.Fatalf("parking gives nothing up: %v %v", gone, err)
	}
	publish(t, s, numberedEvent("a", 4), numberedEvent("b", 2))
	idle(t, b)
	act := bus.Act{Reason: "a test"}
	if err := b.Discard(t.Context(), "g", "a", act); err != nil {
		t.Fatal(err)
	}
	publish(t, s, numberedEvent("a", 5))
	idle(t, b)
	gone, next, err = bus.ReadGivenUp(t.Context(), s, "g", match, next)
	if err != nil || len(gone) != 1 || gone[0].ParkedAt != key || gone[0].From != 1 {
		t.Fatalf("discarded: %+v %v", gone, err)
	}
	if seqs := between(t, s, gone[0]); len(seqs) != 3 || seqs[0] != 2 || seqs[2] != 4 {
		t.Errorf("discarded numbers %v, want 2 to 4", seqs)
	}
	if _, still := positions(t, s, "g").Parked[key]; still {
		t.Error("the key is still parked")
	}

	// b is parked at 2; skipping gives up that one event, and a replay is no step back.
	if err := b.Skip(t.Context(), "g", "b", act); err != nil {
		t.Fatal(err)
	}
	gone, next, err = bus.ReadGivenUp(t.Context(), s, "g", match, next)
	if err != nil || len(gone) != 1 || gone[0].Key != "b" || gone[0].To != gone[0].From+1 {
		t.Fatalf("skipped: %+v %v", gone, err)
	}
	if again, _, err := bus.ReadGivenUp(t.Context(), s, "g", match, next); err != nil || len(again) != 0 {
		t.Errorf("nothing since: %+v %v", again, err)
	}
	idle(t, b)
	before := positions(t, s, "g")
	if err := b.Replay(t.Context(), "g", bus.Beginning(), bus.At(part, 1), act); err != nil {
		t.Fatal(err)
	}
	if after := positions(t, s, "g"); after.Next[part] < before.Next[part] {
		t.Errorf("a replay moved partition %d from %d to %d", part, before.Next[part], after.Next[part])
	}
}

// between returns the numbers of the events that were given up.
func between(t *testing.T, s *eventstore.Store, g bus.GivenUp) (seqs []int) {
	t.Helper()
	b, err := s.Partition(t.Context(), eventstore.PartitionQuery{Partition: g.Partition, From: g.From, To: g.To, Key: g.Key, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range b.Records {
		of, err := thingDoneV1.Decode(r.Event)
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, of.Payload.Seq)
	}
	return seqs
}

func TestTxSame(t *testing.T) {
	s := newStore(t)
	b := newBus(t, s, nil)
	var last bus.Tx
	same := make(chan bool, 100)
	err := b.Handle("g", bus.OnRecord("test.**", func(_ context.Context, tx bus.Tx, _ eventstore.Record) error {
		same <- tx.Same(last)
		last = tx
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	start(t, b)
	publish(t, s, numberedEvent("a", 1), numberedEvent("a", 2))
	idle(t, b)
	publish(t, s, numberedEvent("a", 3))
	idle(t, b)
	for i, want := range []bool{false, true, false} {
		if got := <-same; got != want {
			t.Errorf("event %d: same transaction as the one before: %v", i+1, got)
		}
	}
}
