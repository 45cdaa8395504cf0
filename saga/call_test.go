package saga_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/saga"
)

// calling is a saga with outside calls, forward and back.
func calling(p *provider, f *faults) *saga.Definition[order] {
	take := func(s *order, answer string) error {
		s.Claim = answer
		return f.next("take")
	}
	retry, undo := saga.Backoff(3, time.Second, time.Minute), saga.Backoff(2, time.Second, time.Minute)
	return saga.Define("calling", 1,
		saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
		saga.Call("claim", p.call("claim"), take).CompensateCall(p.undo("claim")).Retry(retry).RetryUndo(undo),
		saga.Do("fill", func(ctx context.Context, tx bus.Tx, s *order) error {
			if err := f.next("fill"); err != nil {
				return err
			}
			return effect("fill "+s.Claim)(ctx, tx, s)
		}).Retry(retry))
}

func TestCall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		prepare func(*provider, *faults)
		status  saga.Status
		calls   string
		effects []string
	}{
		{"answered", nil, saga.Completed, "a/claim", []string{"reserve", "fill answer-a/claim"}},
		{"tried again with the same key", func(p *provider, _ *faults) { p.set("claim", errors.New("busy"), context.DeadlineExceeded) },
			saga.Completed, "a/claim a/claim a/claim", []string{"reserve", "fill answer-a/claim"}},
		{"refused", func(p *provider, _ *faults) { p.set("claim", saga.Refuse("not-covered")) }, saga.Failed, "a/claim", []string{"reserve", "release"}},
		{"tries used up", func(p *provider, _ *faults) {
			p.set("claim", errors.New("busy"), errors.New("busy"), errors.New("busy"))
		}, saga.Failed, "a/claim a/claim a/claim", []string{"reserve", "release"}},
		{"undone by a call", func(_ *provider, f *faults) { f.set("fill", saga.Refuse("damaged")) },
			saga.Failed, "a/claim a/claim/undo", []string{"reserve", "release"}},
		{"undone at the second try", func(p *provider, f *faults) {
			f.set("fill", saga.Refuse("damaged"))
			p.set("claim-undo", errors.New("busy"))
		}, saga.Failed, "a/claim a/claim/undo a/claim/undo", []string{"reserve", "release"}},
		{"answer refused", func(_ *provider, f *faults) { f.set("take", saga.Refuse("denied")) },
			saga.Failed, "a/claim a/claim/undo", []string{"reserve", "release"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var f faults
			var p provider
			d := calling(&p, &f)
			if c.prepare != nil {
				c.prepare(&p, &f)
			}
			h := newHouse(t).run(d)
			h.start(d, "a")
			h.pass(2 * time.Second)
			h.pass(2 * time.Second)
			h.pass(2 * time.Second)
			h.want("a", c.status, c.effects...)
			if got := strings.Join(p.made(), " "); got != c.calls {
				t.Errorf("calls: %s; want %s", got, c.calls)
			}
			for key, n := range p.keys {
				if n != 1 {
					t.Errorf("key %s took effect %d times", key, n)
				}
			}
		})
	}
}

func TestTryTimesOut(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}
	once := saga.Backoff(1, 0, 0)
	d := saga.Define("hanging", 1, saga.Do("a", effect("a")).Compensate(effect("undo-a")),
		saga.Parallel(
			saga.Call("b", func(ctx context.Context, _ string, _ order) (int, error) { return 0, hang(ctx) }, nil).Retry(once).Timeout(5*time.Millisecond),
			saga.Await("c", rx, saga.On[order](paidV1, paidKey, nil)),
			saga.Do("d", effect("d"))))
	e := saga.Define("hanging-do", 1, saga.Do("a", func(ctx context.Context, _ bus.Tx, _ *order) error { return hang(ctx) }).Retry(once).Timeout(5*time.Millisecond))
	h := newHouse(t).run(d, e)
	h.start(d, "d")
	h.start(e, "e")
	h.settle()
	h.want("d", saga.Failed, "a", "d", "undo-a")
	h.want("e", saga.Failed)
	for _, id := range []string{"d", "e"} {
		if got := h.show(id).Error; got != "timeout: context deadline exceeded" {
			t.Errorf("error %q", got)
		}
	}
}

func TestPanicsAreFailures(t *testing.T) {
	t.Parallel()
	d := saga.Define("panics", 1,
		saga.Do("a", effect("a")).Compensate(effect("undo-a")),
		saga.Call("b", func(context.Context, string, order) (int, error) { panic("patient 4711") }, nil).Retry(saga.Backoff(1, 0, 0)))
	h := newHouse(t).run(d)
	h.start(d, "a")
	h.settle()
	h.want("a", saga.Failed, "a", "undo-a")
	if got := h.show("a").Error; got != "panic: the step panicked" {
		t.Errorf("error %q", got)
	}
}

func TestUndoUnknown(t *testing.T) {
	t.Parallel()
	var p provider
	d := saga.Define("unknown", 1,
		saga.Do("reserve", effect("reserve")).Compensate(effect("release")),
		saga.Call("claim", p.call("claim"), nil).CompensateCall(p.undo("claim")).Retry(saga.Backoff(2, time.Second, time.Second)).UndoUnknown())
	h := newHouse(t).run(d)
	p.set("claim", context.DeadlineExceeded, context.DeadlineExceeded, saga.Refuse("no"))
	h.start(d, "lost")
	h.pass(time.Second)
	h.want("lost", saga.Failed, "reserve", "release")
	h.start(d, "clear")
	h.settle()
	h.want("clear", saga.Failed, "reserve", "release")
	if got := strings.Join(p.made(), " "); got != "lost/claim lost/claim lost/claim/undo clear/claim" {
		t.Errorf("calls %s", got)
	}
}
