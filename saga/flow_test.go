package saga_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
)

func paidKey(p paid) string { return p.RX }

func rx(s order) string { return s.RX }

// awaiting is a saga that reserves, waits to be paid or refused, and ships.
func awaiting(timeout time.Duration) *saga.Definition[order] {
	return saga.Define("awaiting", 1,
		saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
		saga.Await("payment", rx,
			saga.On(paidV1, paidKey, func(s *order, e event.Of[paid]) error { s.Claim = e.Payload.By; return nil }),
			saga.On(refusedV1, paidKey, func(s *order, e event.Of[paid]) error { return saga.Refuse("not-paid") }),
		).Timeout(timeout),
		saga.Do("ship", func(ctx context.Context, tx bus.Tx, s *order) error {
			return effect("ship paid by "+s.Claim)(ctx, tx, s)
		}))
}

func TestAwait(t *testing.T) {
	t.Parallel()
	d := awaiting(time.Hour)
	h := newHouse(t).run(d)
	h.start(d, "ok", "no", "late", "ok2")
	h.settle()
	h.publish(paidV1.New("test", paid{RX: "RX-ok", By: "kim"}))
	h.publish(refusedV1.New("test", paid{RX: "RX-no"}))
	h.publish(paidV1.New("test", paid{RX: "RX-nobody"}))
	h.settle()
	h.want("ok", saga.Completed, "reserve", "ship paid by kim")
	h.want("no", saga.Failed, "reserve", "release")
	h.want("late", saga.Running, "reserve")
	if got := h.show("late").Steps[1]; got.State != "waiting" || got.Until.IsZero() {
		t.Errorf("shown as %+v", got)
	}
	h.pass(59 * time.Minute)
	h.want("late", saga.Running, "reserve")
	h.pass(2 * time.Minute)
	h.want("late", saga.Failed, "reserve", "release")
	if got := h.show("late"); got.Error != "timeout: the awaited event did not come in time" {
		t.Errorf("shown as %+v", got)
	}
	if got := h.history("late"); !slices.Equal(got, []string{"started", "step-completed reserve", "step-failed payment", "compensated reserve", "failed payment"}) {
		t.Errorf("history %v", got)
	}
	h.publish(paidV1.New("test", paid{RX: "RX-late"})) // after the end: nobody waits
	h.settle()
	h.want("late", saga.Failed, "reserve", "release")
	if p, err := h.timers.Pending(t.Context(), "", 10); err != nil || len(p) != 0 {
		t.Errorf("timers left: %v %v", p, err)
	}
}

// TestDeadlineAndEventMeet: the event comes after the deadline. It counts as long as nobody has said that it did not
// come.
func TestDeadlineAndEventMeet(t *testing.T) {
	t.Parallel()
	d := awaiting(time.Hour)
	h := newHouse(t).run(d)
	h.start(d, "told", "untold")
	h.settle()
	h.clock.add(2 * time.Hour)
	h.publish(paidV1.New("test", paid{RX: "RX-untold", By: "ann"})) // handled before the timer fires
	h.settle()
	h.want("untold", saga.Completed, "reserve", "ship paid by ann")
	h.stop()
	if n, err := h.timers.Fire(t.Context()); err != nil || n != 1 { // the timer of told only
		t.Fatal(n, err)
	}
	h.publish(paidV1.New("test", paid{RX: "RX-told", By: "ann"}))
	h.run(d)
	h.settle()
	h.want("told", saga.Failed, "reserve", "release")
	// Once said that it did not come. The event was of another flow, so the undoing was put off to one of the saga's own.
	if got := h.history("told"); !slices.Equal(got, []string{"started", "step-completed reserve", "step-failed payment", "step-started reserve", "compensated reserve", "failed payment"}) &&
		!slices.Equal(got, []string{"started", "step-completed reserve", "step-failed payment", "compensated reserve", "failed payment"}) {
		t.Errorf("history %v", got)
	}
}

func TestEventBeforeItsWait(t *testing.T) {
	t.Parallel()
	var f faults
	twice := func(s *order, e event.Of[paid]) error { s.Claim += e.Payload.By; return nil }
	d := saga.Define("early", 1,
		saga.Do("prepare", f.do("prepare")).Retry(saga.Backoff(3, time.Hour, time.Hour)),
		saga.Await("first", rx, saga.On(paidV1, paidKey, twice)),
		saga.Await("second", rx, saga.On(paidV1, paidKey, twice)),
		saga.Do("ship", func(ctx context.Context, tx bus.Tx, s *order) error { return effect("ship "+s.Claim)(ctx, tx, s) }))
	h := newHouse(t).run(d)
	h.publish(paidV1.New("test", paid{RX: "RX-a", By: "before the instance"}))
	h.settle()
	f.set("prepare", errors.New("not yet"))
	h.start(d, "a")
	h.settle()
	h.publish(paidV1.New("test", paid{RX: "RX-a", By: "one"}))
	h.publish(paidV1.New("test", paid{RX: "RX-other", By: "other"}))
	h.settle()
	h.want("a", saga.Running)
	h.pass(time.Hour)
	h.want("a", saga.Running, "prepare")
	if got := h.show("a"); got.Step != "second" {
		t.Errorf("the event that came before its wait was not found, or counted twice: %+v", got)
	}
	h.publish(paidV1.New("test", paid{RX: "RX-a", By: "two"}))
	h.settle()
	h.want("a", saga.Completed, "prepare", "ship onetwo")
}

// TestEventOfAnotherFlow: what a saga does after it was handed an event of another flow belongs to its own.
func TestEventOfAnotherFlow(t *testing.T) {
	t.Parallel()
	d := saga.Define("flow", 1,
		saga.Await("payment", rx, saga.On[order](paidV1, paidKey, nil)),
		saga.Do("say", func(_ context.Context, tx bus.Tx, s *order) error {
			return tx.Append(orderedV1.New("test", paid{RX: s.RX}))
		}))
	h := newHouse(t).run(d)
	if err := d.Start(event.ContextWithCorrelation(t.Context(), "mine"), h.store, "a", order{RX: "RX-a"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	e := paidV1.New("test", paid{RX: "RX-a"})
	e.CorrelationID = "another"
	h.publish(e)
	h.settle()
	h.want("a", saga.Completed)
	rs, err := h.store.Correlation(t.Context(), "mine", time.Time{}, 100)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, r := range rs {
		types = append(types, strings.TrimPrefix(r.Type, "platform.saga."))
	}
	if !slices.Equal(types, []string{"started", "step-completed", "step-started", "test.order.placed", "step-completed", "completed"}) {
		t.Errorf("the flow has %v", types)
	}
}

func TestParallel(t *testing.T) {
	t.Parallel()
	// The two calls meet: each goes on only when the other is under way, so they run side by side.
	met := make(chan struct{})
	var p provider
	claim := func(ctx context.Context, key string, s order) (string, error) {
		met <- struct{}{}
		return p.call("claim")(ctx, key, s)
	}
	label := func(ctx context.Context, key string, s order) (string, error) {
		<-met
		return p.call("label")(ctx, key, s)
	}
	var f faults
	d := saga.Define("parallel", 1,
		saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
		saga.Parallel(
			saga.Call("claim", claim, nil).CompensateCall(p.undo("claim")).Retry(saga.Backoff(1, 0, 0)),
			saga.Call("label", label, nil).CompensateCall(p.undo("label")).Retry(saga.Backoff(1, 0, 0)),
			saga.Do("pick", f.do("pick")).Compensate(effect("unpick")),
			saga.Await("consent", rx, saga.On[order](paidV1, paidKey, nil))),
		saga.Do("ship", effect("ship")))
	h := newHouse(t).run(d)
	h.start(d, "ok")
	h.publish(paidV1.New("test", paid{RX: "RX-ok"}))
	h.settle()
	h.want("ok", saga.Completed, "reserve", "pick", "ship")

	// One branch fails while others are done, wait, or are under way: what completed is undone, the last first.
	p.set("label", saga.Refuse("no-printer"))
	h.start(d, "bad")
	h.settle()
	d1 := h.show("bad")
	h.want("bad", saga.Failed, "reserve", "pick", "unpick", "release")
	if got := strings.Join(d1.Undone, " "); got != "claim pick reserve" {
		t.Errorf("undone: %s", got)
	}
	if d1.Steps[4].State != "stopped" || d1.Error != "no-printer" {
		t.Errorf("shown as %+v", d1)
	}
	h.publish(paidV1.New("test", paid{RX: "RX-bad"}))
	h.settle()
	h.want("bad", saga.Failed, "reserve", "pick", "unpick", "release")
}

// TestCancelAtEachPoint: cancelled while it waits at each of its steps, it undoes what was done, no more, no less.
func TestCancelAtEachPoint(t *testing.T) {
	t.Parallel()
	for n := range 5 {
		t.Run(fmt.Sprint("resting at s", n+1), func(t *testing.T) {
			t.Parallel()
			var f faults
			d := five(&f)
			f.set(fmt.Sprint("s", n+1), errors.New("busy"))
			h := newHouse(t).run(d)
			h.start(d, "a")
			h.settle()
			if err := saga.Cancel(t.Context(), h.store, "a", saga.Act{Actor: "kim", Reason: "changed my mind"}); err != nil {
				t.Fatal(err)
			}
			h.settle()
			var want []string
			for i := 1; i <= n; i++ {
				want = append(want, fmt.Sprint("s", i))
			}
			for i := n; i >= 1; i-- {
				want = append(want, fmt.Sprint("undo-s", i))
			}
			h.want("a", saga.Cancelled, want...)
			h.pass(time.Hour) // the retry that was to come does not
			h.want("a", saga.Cancelled, want...)
			if err := saga.Cancel(t.Context(), h.store, "a", saga.Act{Reason: "x"}); !errors.Is(err, saga.ErrEnded) {
				t.Errorf("cancelled again: %v", err)
			}
		})
	}
	t.Run("waiting", func(t *testing.T) {
		t.Parallel()
		d := awaiting(time.Hour)
		h := newHouse(t).run(d)
		h.start(d, "a")
		h.settle()
		if err := saga.Cancel(t.Context(), h.store, "a", saga.Act{Reason: "x"}); err != nil {
			t.Fatal(err)
		}
		h.settle()
		h.publish(paidV1.New("test", paid{RX: "RX-a"}))
		h.pass(2 * time.Hour)
		h.want("a", saga.Cancelled, "reserve", "release")
	})
	t.Run("during a call", func(t *testing.T) {
		t.Parallel()
		entered, leave := make(chan struct{}), make(chan struct{})
		var p provider
		d := saga.Define("slow", 1,
			saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
			saga.Call("claim", func(ctx context.Context, key string, s order) (string, error) {
				close(entered)
				<-leave
				return p.call("claim")(ctx, key, s)
			}, nil).CompensateCall(p.undo("claim")),
			saga.Do("fill", effect("fill")))
		h := newHouse(t).run(d)
		h.start(d, "a")
		<-entered
		if err := saga.Cancel(t.Context(), h.store, "a", saga.Act{Reason: "x"}); err != nil {
			t.Fatal(err)
		}
		for {
			tick := h.store.Tick()
			if h.show("a").Status == saga.Compensating {
				break
			}
			if _, err := h.store.Wait(t.Context(), tick); err != nil {
				t.Fatal(err)
			}
		}
		close(leave)
		h.settle()
		h.want("a", saga.Cancelled, "reserve", "release")
		if got := strings.Join(p.made(), " "); got != "a/claim a/claim/undo" {
			t.Errorf("calls %s", got)
		}
	})
}

// TestOnEnd: what is stated at the end belongs to the instance's flow, also when the last event came from another.
func TestOnEnd(t *testing.T) {
	t.Parallel()
	d := saga.Define("telling", 1,
		saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
		saga.Await("payment", rx, saga.On[order](paidV1, paidKey, nil), saga.On(refusedV1, paidKey, func(*order, event.Of[paid]) error { return saga.Refuse("not-paid") })),
	).About(rx).OnEnd(func(s order, e saga.End) []event.Event {
		return []event.Event{orderedV1.New("test", paid{RX: s.RX, By: fmt.Sprint(e.Status, " ", e.Step, " ", e.Reason, " ", e.Error, " ", e.Compensated)})}
	})
	h := newHouse(t).run(d)
	for _, id := range []string{"paid", "refused", "cancelled"} {
		if err := d.Start(event.ContextWithCorrelation(t.Context(), "flow-"+id), h.store, id, order{RX: "RX-" + id}); err != nil {
			t.Fatal(err)
		}
	}
	h.settle()
	h.publish(paidV1.New("test", paid{RX: "RX-paid"}))
	h.publish(refusedV1.New("test", paid{RX: "RX-refused"}))
	if err := saga.Cancel(t.Context(), h.store, "cancelled", saga.Act{Reason: "moved"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	for id, want := range map[string]string{"paid": "completed    []", "refused": "failed payment not-paid  [reserve]", "cancelled": "cancelled  cancelled moved [reserve]"} {
		rs, err := h.store.Correlation(t.Context(), "flow-"+id, time.Time{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, r := range rs {
			if r.Type == orderedV1.Type() {
				of, err := orderedV1.Decode(r.Event)
				if err != nil {
					t.Fatal(err)
				}
				said = append(said, of.Payload.By)
			}
		}
		if !slices.Equal(said, []string{want}) {
			t.Errorf("%s: said %q, want %q", id, said, want)
		}
	}
	if n := h.parked(); n != 0 {
		t.Errorf("%d keys parked", n)
	}
}

func TestNoUndo(t *testing.T) {
	t.Parallel()
	var f faults
	d := saga.Define("notify", 1,
		saga.Do("fill", f.do("fill")).Compensate(f.do("return")),
		saga.Do("notify", f.do("notify")).Retry(saga.Backoff(2, time.Second, time.Second)).NoUndo(),
		saga.Do("log", f.do("log")))
	h := newHouse(t).run(d)
	f.set("notify", errors.New("down"), errors.New("down"))
	h.start(d, "a")
	h.pass(time.Second)
	h.want("a", saga.Stuck, "fill")
	if err := saga.Resume(t.Context(), h.store, "a", saga.Act{Reason: "up"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.want("a", saga.Completed, "fill", "notify", "log")

	f.set("notify", saga.Refuse("no-address"))
	h.start(d, "b")
	h.settle()
	h.want("b", saga.Stuck, "fill")
	if err := saga.Skip(t.Context(), h.store, "b", saga.Act{Reason: "phoned"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.want("b", saga.Completed, "fill", "log")
	if err := saga.Skip(t.Context(), h.store, "b", saga.Act{Reason: "x"}); !errors.Is(err, saga.ErrEnded) {
		t.Error(err)
	}
}

// TestRefusedEventIsNotUndone: a step that awaited an event and refused it has not completed; nor has one without a key.
func TestRefusedEventIsNotUndone(t *testing.T) {
	t.Parallel()
	d := saga.Define("refusing", 1,
		saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
		saga.Await("payment", func(s order) string { return s.Claim },
			saga.On(refusedV1, paidKey, func(*order, event.Of[paid]) error { return errors.New("not as expected") })).Compensate(effect("refund")))
	h := newHouse(t).run(d)
	if err := d.Start(t.Context(), h.store, "a", order{RX: "RX-a", Claim: "C1"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.publish(refusedV1.New("test", paid{RX: "C1"}))
	h.start(d, "b")
	h.settle()
	h.want("a", saga.Failed, "reserve", "release")
	h.want("b", saga.Failed, "reserve", "release")
	if got := h.show("b").Error; got != "no-key: the state has no key to await the event by" {
		t.Errorf("error %q", got)
	}
}

// TestVersions: an instance finishes under the version it began with; a program that does not know the version sets it
// aside, and one that does takes it up again.
func TestVersions(t *testing.T) {
	t.Parallel()
	version := func(n int, last string) *saga.Definition[order] {
		return saga.Define("versions", n,
			saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
			saga.Await("payment", rx, saga.On[order](paidV1, paidKey, nil)),
			saga.Do(last, effect(last)))
	}
	v1, v2 := version(1, "ship"), version(2, "deliver")
	h := newHouse(t).run(v1)
	h.start(v1, "old", "aside")
	h.settle()
	h.stop()

	h.run(v2) // a release that forgot the old version
	h.start(v2, "new")
	h.publish(paidV1.New("test", paid{RX: "RX-aside"}))
	h.settle()
	h.publish(paidV1.New("test", paid{RX: "RX-new"}))
	h.settle()
	h.want("new", saga.Completed, "reserve", "deliver")
	if got := h.show("aside"); got.Status != saga.Running {
		t.Errorf("an event that no registered version waits for changed %+v", got)
	}
	if err := saga.Resume(t.Context(), h.store, "aside", saga.Act{Reason: "look"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.want("aside", saga.Parked, "reserve")
	if got := h.show("aside"); !strings.Contains(got.Error, "version 1 of saga versions, only 2") {
		t.Errorf("error %q", got.Error)
	}
	h.pass(time.Minute) // it is looked at again, without saying the same once more
	if got := h.show("aside"); got.Status != saga.Parked || got.Attempts != 2 {
		t.Errorf("shown as %+v", got)
	}
	if got := h.history("aside"); !slices.Equal(got, []string{"started", "step-completed reserve", "resumed", "step-failed payment", "resumed"}) {
		t.Errorf("history %v", got)
	}
	if err := saga.Cancel(t.Context(), h.store, "aside", saga.Act{Reason: "x"}); !errors.Is(err, saga.ErrParked) {
		t.Error(err)
	}
	h.stop()

	h.run(v1, v2)
	h.publish(paidV1.New("test", paid{RX: "RX-old"}))
	h.settle()
	h.want("old", saga.Completed, "reserve", "ship")
	h.want("aside", saga.Completed, "reserve", "ship")
	n, err := saga.Count(t.Context(), h.store, "versions")
	if err != nil || n[1][saga.Completed] != 2 || n[2][saga.Completed] != 1 {
		t.Errorf("counted %v %v", n, err)
	}
}

func TestStartedByAnEvent(t *testing.T) {
	t.Parallel()
	d := awaiting(time.Hour)
	h := newHouse(t)
	// Paid before the handler that starts the saga has run, after what starts it happened.
	h.publish(orderedV1.New("test", paid{RX: "RX-a"}).At(h.clock.now()))
	h.publish(paidV1.New("test", paid{RX: "RX-a", By: "quick"}))
	h.run(d)
	h.stop()
	b, err := bus.New(t.Context(), h.store, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Bus = b
	if err := saga.Register(t.Context(), h, d); err != nil {
		t.Fatal(err)
	}
	if err := b.Handle("starter", bus.On(orderedV1, func(ctx context.Context, tx bus.Tx, e event.Of[paid]) error {
		for range 2 {
			if err := d.StartTx(ctx, tx, "a", order{RX: e.Payload.RX}); err != nil {
				return err
			}
		}
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	h.settle()
	h.want("a", saga.Completed, "reserve", "ship paid by quick")
	rs, err := h.store.Stream(t.Context(), eventstore.StreamQuery{Stream: "platform.saga/a", From: 1, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	first, err := event.Define[struct {
		TriggeredBy string `json:"triggeredBy"`
		Input       order  `json:"input"`
	}]("platform.saga.started", "1.0.0").Decode(rs[0].Event)
	if err != nil || first.Payload.TriggeredBy == "" || first.Payload.TriggeredBy != first.CausationID || first.Payload.Input.RX != "RX-a" {
		t.Errorf("started as %+v; %v", first, err)
	}
	if trigger, err := h.store.Get(t.Context(), first.CausationID); err != nil || trigger.CorrelationID != first.CorrelationID || trigger.Type != orderedV1.Type() {
		t.Errorf("triggered by %+v; %v", trigger.Metadata, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	other := saga.Define("other", 1, saga.Do("x", effect("x")))
	if err := other.Start(t.Context(), h.store, "a", order{}); !errors.Is(err, saga.ErrTaken) {
		t.Errorf("an id of another saga: %v", err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	var f faults
	d := five(&f)
	h := newHouse(t)
	if l, err := saga.List(t.Context(), h.store, saga.Query{}); err != nil || len(l) != 0 {
		t.Fatalf("on a store without sagas: %v %v", l, err)
	}
	if _, err := saga.Show(t.Context(), h.store, "a"); !errors.Is(err, saga.ErrNoInstance) {
		t.Fatalf("on a store without sagas: %v", err)
	}
	h.run(d)
	f.set("s2", saga.Refuse("no"))
	h.start(d, "a0")
	h.settle()
	for i := 1; i < 7; i++ {
		h.start(d, fmt.Sprint("a", i))
	}
	h.settle()
	var got []string
	for q := (saga.Query{Saga: "five", Limit: 3}); ; {
		page, err := saga.List(t.Context(), h.store, q)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, x := range page {
			got = append(got, x.ID)
		}
		q.After = got[len(got)-1]
	}
	if !slices.Equal(got, []string{"a0", "a1", "a2", "a3", "a4", "a5", "a6"}) {
		t.Errorf("paged: %v", got)
	}
	for _, c := range []struct {
		q saga.Query
		n int
	}{{saga.Query{Status: saga.Completed}, 6}, {saga.Query{Status: saga.Failed}, 1}, {saga.Query{Status: saga.Failed, Saga: "other"}, 0}, {saga.Query{Saga: "other"}, 0}} {
		if l, err := saga.List(t.Context(), h.store, c.q); err != nil || len(l) != c.n {
			t.Errorf("%+v: %d found, want %d; %v", c.q, len(l), c.n, err)
		}
	}
}

func TestBadDefinitions(t *testing.T) {
	t.Parallel()
	ok := saga.Do("a", effect("a"))
	h := newHouse(t)
	b, err := bus.New(t.Context(), h.store, nil)
	if err != nil {
		t.Fatal(err)
	}
	h.Bus = b
	for want, d := range map[string]*saga.Definition[order]{
		"two steps are called a":               saga.Define("x", 1, ok, ok),
		"a saga needs a step":                  saga.Define[order]("x", 1),
		"the name must have":                   saga.Define("X y", 1, ok),
		"versions count from 1":                saga.Define("x", 0, ok),
		"has a compensation and NoUndo":        saga.Define("x", 1, ok.Compensate(effect("b")).NoUndo()),
		"Parallel inside Parallel":             saga.Define("x", 1, saga.Parallel(saga.Parallel(ok))),
		"Parallel without steps":               saga.Define("x", 1, saga.Parallel[order]()),
		"step a has no function":               saga.Define("x", 1, saga.Do[order]("a", nil)),
		"needs a key and an event to wait":     saga.Define("x", 1, saga.Await("a", rx)),
		"visible ASCII characters without a /": saga.Define("x", 1, saga.Do("a/b", effect("a"))),
	} {
		var bad *saga.DefinitionError
		err := saga.Register(t.Context(), h, d)
		if !errors.As(err, &bad) || !strings.Contains(strings.ReplaceAll(err.Error(), "slash", "/"), want) {
			t.Errorf("registered: %v; want %q", err, want)
		}
		if err := d.Start(t.Context(), h.store, "a", order{}); !errors.As(err, &bad) {
			t.Errorf("started: %v", err)
		}
	}
	good := saga.Define("x", 1, ok)
	var bad *saga.DefinitionError
	if err := saga.Register(t.Context(), h, good, good); !errors.As(err, &bad) {
		t.Errorf("registered twice: %v", err)
	}
	for _, id := range []string{"", "a b", strings.Repeat("x", 129)} {
		if err := good.Start(t.Context(), h.store, id, order{}); err == nil {
			t.Errorf("id %q was taken", id)
		}
	}
}
