package bus_test

import (
	"context"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// caller is a member, with a lease that outlasts the test, of group g, which makes an outside call for each event.
func caller(t *testing.T, s *eventstore.Store, member string, call func()) *bus.Bus {
	t.Helper()
	b := newBus(t, s, &bus.Options{Member: member, Lease: time.Hour})
	if err := b.Handle("g", bus.OnCall(thingDoneV1, bus.Call[numbered, string]{
		Do: func(context.Context, string, event.Of[numbered]) (string, error) { call(); return "", nil },
		Done: func(ctx context.Context, tx bus.Tx, e event.Of[numbered], _ string) error {
			return applyEffect(ctx, tx, e)
		},
	})); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLostLeaseIsNoDeath: members that lose their leases over an event, because they are slow, say so when they find out, and
// their successors do not take the event for one that processes die of.
func TestLostLeaseIsNoDeath(t *testing.T) {
	t.Parallel()
	if overKafka {
		t.Skip("leases are taken away by hand here; with Kafka its brokers give out the lanes")
	}
	s := newStore(t)
	createEffects(t, s)
	publish(t, s, numberedEvent("a", 1))
	run := func(member string, hangs <-chan struct{}) (asked chan struct{}, stop func()) {
		asked = make(chan struct{}, 1)
		return asked, start(t, caller(t, s, member, func() {
			asked <- struct{}{}
			<-hangs
		}))
	}
	free := make(chan struct{})
	close(free)
	update := func(query string) {
		t.Helper()
		if err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
			_, err := tx.ExecContext(t.Context(), query)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	runOut := func() {
		update(`DELETE FROM carebus_members`)
		update(`UPDATE carebus_checkpoints SET expires_at = 0`)
	}

	// The first process to have the group did not give its partitions back.
	_, stop := run("dead", free)
	eventually(t, s, func() bool { return lastSeqs(t, s, "g")["a"] == 1 })
	stop()
	update(`UPDATE carebus_checkpoints SET owner = 'dead'`)
	publish(t, s, numberedEvent("a", 2))

	runOut()
	slow := make(chan struct{})
	asked, stopSlow := run("slow", slow)
	<-asked
	runOut()
	slower := make(chan struct{})
	asked, stopSlower := run("slower", slower)
	<-asked
	close(slow)
	stopSlow() // its unit comes to its end first, and finds that it does not count
	runOut()
	_, stop = run("swift", free)
	operator := newBus(t, s, nil)
	var parked []bus.DeadLetter
	eventually(t, s, func() bool {
		var err error
		if parked, err = operator.DeadLetters(t.Context(), bus.Filter{}, 1); err != nil {
			t.Fatal(err)
		}
		return len(parked) > 0 || lastSeqs(t, s, "g")["a"] == 2
	})
	if len(parked) > 0 {
		t.Errorf("nobody has died, and key %s is parked as %s: %s", parked[0].Key, parked[0].Class, parked[0].Error)
	}
	close(slower)
	stopSlower()
	stop()
}

// TestSuspectIsRedriven: the member that has parked an event which processes died on handles it when a person says so.
func TestSuspectIsRedriven(t *testing.T) {
	t.Parallel()
	if overKafka {
		t.Skip("deaths are written by hand here, for partitions of the store")
	}
	s := newStore(t)
	createEffects(t, s)
	publish(t, s, numberedEvent("a", 1))
	stop := start(t, caller(t, s, "dead", func() {}))
	eventually(t, s, func() bool { return lastSeqs(t, s, "g")["a"] == 1 })
	stop()
	publish(t, s, numberedEvent("a", 2))
	if err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE carebus_checkpoints SET owner = 'dead', expires_at = 0, handling = next, deaths = 2`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b := caller(t, s, "next", func() {})
	start(t, b)
	eventually(t, s, func() bool {
		parked, err := b.DeadLetters(t.Context(), bus.Filter{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(parked) == 1 && parked[0].Class == bus.Suspect
	})
	if _, err := b.Redrive(t.Context(), bus.Redrive{Filter: bus.Filter{Group: "g"}, Act: bus.Act{Reason: "it was the machine"}}); err != nil {
		t.Fatal(err)
	}
	idle(t, b)
	eventually(t, s, func() bool {
		parked, err := b.DeadLetters(t.Context(), bus.Filter{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(parked) == 0 || parked[0].Attempts > 3
	})
	if got := lastSeqs(t, s, "g")["a"]; got != 2 {
		t.Errorf("effects up to %d", got)
	}
}
