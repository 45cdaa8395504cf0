package projection_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/projection"
)

// TestRollingUpgrade: while a process of the old version goes on, two of the new one start at the same time. One builds,
// both serve, the old one applies nothing more and parks nothing.
func TestRollingUpgrade(t *testing.T) {
	s := newStore(t)
	old := newPlatform(t, s)
	v1 := counts(1, applyStep)
	must(t, projection.Register(t.Context(), old, v1))
	stopOld := start(t, old)
	publishSteps(t, s, 20, 1, 20)
	idle(t, old)

	stop := make(chan struct{})
	var background, starting sync.WaitGroup
	background.Go(func() { reader(t, s, stop) })
	var applied sync.Map // what version 2 has applied live
	v2 := counts(2, func(ctx context.Context, tx projection.Tx, e event.Of[step]) error {
		if !tx.Rebuilding() {
			applied.Store(e.Payload, true)
		}
		return applyStep(ctx, tx, e)
	})
	news := []*platform{newPlatform(t, s), newPlatform(t, s)}
	for _, p := range news {
		starting.Go(func() {
			if err := projection.Register(context.Background(), p, v2); err != nil {
				t.Error(err)
			}
		})
	}
	starting.Wait()
	st, err := projection.Get(t.Context(), s, "counts")
	must(t, err)
	if st.Version != 2 || st.Generation != 2 {
		t.Errorf("%+v", st)
	}
	rs := publishSteps(t, s, 20, 21, 25) // the old process sees them, and leaves them
	for _, p := range news {
		start(t, p)
	}
	stopOld()
	must(t, projection.Wait(t.Context(), news[0], v2, rs...))
	close(stop)
	background.Wait()
	wantAll(t, dump(t, s), 20, 25)
	n := 0
	applied.Range(func(any, any) bool { n++; return true })
	if n != 20*5 {
		t.Errorf("version 2 applied %d events live, want 100", n)
	}
	l, err := news[0].DeadLetters(t.Context(), bus.Filter{}, 10)
	must(t, err)
	if len(l) > 0 {
		t.Errorf("parked: %+v", l)
	}
	onlyTables(t, s, "counts_g2")
}

// TestAnUpgradeThatFails: the old version stays, the error names the event, and a mended version 2 begins anew.
func TestAnUpgradeThatFails(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	must(t, projection.Register(t.Context(), p, counts(1, applyStep)))
	stop := start(t, p)
	rs := publishSteps(t, s, 5, 1, 5)
	idle(t, p)
	stop()
	broken := counts(2, func(ctx context.Context, tx projection.Tx, e event.Of[step]) error {
		if e.ID == rs[2].EventID {
			return errors.New("does not fit")
		}
		return applyStep(ctx, tx, e)
	})
	var failed *projection.EventError
	err := projection.Register(t.Context(), newPlatform(t, s), broken)
	if !errors.As(err, &failed) || failed.EventID != rs[2].EventID {
		t.Fatalf("%v", err)
	}
	wantAll(t, dump(t, s), 5, 5)
	st, err := projection.Get(t.Context(), s, "counts")
	must(t, err)
	if st.Version != 1 || st.Build != nil {
		t.Errorf("%+v", st)
	}
	onlyTables(t, s, "counts_g1")
	must(t, projection.Register(t.Context(), newPlatform(t, s), counts(2, applyStep)))
	wantAll(t, dump(t, s), 5, 5)
	onlyTables(t, s, "counts_g3")
}

// TestOneBuildAtATime: of two rebuilds at the same time one is refused; one that was cut short goes on.
func TestOneBuildAtATime(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	publishSteps(t, s, 20, 1, 20)
	idle(t, p)
	defer projection.SmallSteps()()
	ctx, cancel := context.WithCancel(t.Context())
	var second error
	var at projection.Progress
	err := projection.Rebuild(ctx, p, d, why, func(pr projection.Progress) {
		if second == nil {
			second = projection.Rebuild(t.Context(), p, d, why, nil)
			cancel()
		}
		at = pr
	})
	if !errors.Is(second, projection.ErrBuilding) {
		t.Errorf("the second: %v", second)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	all, err := projection.List(t.Context(), s)
	must(t, err)
	if len(all) != 1 || all[0].Build == nil || all[0].Build.Active || all[0].Build.Done != at.Done {
		t.Errorf("%+v", all)
	}
	first := true
	must(t, projection.Rebuild(t.Context(), p, d, why, func(pr projection.Progress) {
		if first && (pr.Generation != at.Generation || pr.Done <= at.Done) {
			t.Errorf("it began anew: %+v after %+v", pr, at)
		}
		first = false
	}))
	wantAll(t, dump(t, s), 20, 20)
	onlyTables(t, s, "counts_g2")
}

// TestABuilderTakenForDead: while it hangs another goes on with its build and finishes; when it wakes up it changes nothing.
func TestABuilderTakenForDead(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	publishSteps(t, s, 20, 1, 20)
	idle(t, p)
	defer projection.SmallSteps()()
	projection.SetLease(0)
	defer projection.SetLease(5 * time.Second)
	hung := false
	err := projection.Rebuild(t.Context(), p, d, why, func(projection.Progress) {
		if !hung {
			hung = true
			must(t, projection.Rebuild(t.Context(), p, d, why, nil))
		}
	})
	if !errors.Is(err, projection.ErrBuilding) {
		t.Errorf("%v", err)
	}
	wantAll(t, dump(t, s), 20, 20)
	must(t, projection.Wait(t.Context(), p, d, publishSteps(t, s, 20, 21, 21)...))
	wantAll(t, dump(t, s), 20, 21)
	onlyTables(t, s, "counts_g2")
}

// TestACutBuildRemembersWhatItHeld: a key that was parked when the build came by is drained before the build goes on.
func TestACutBuildRemembersWhatItHeld(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	var mended atomic.Bool
	d := counts(1, func(ctx context.Context, tx projection.Tx, e event.Of[step]) error {
		if e.Payload.Seq == 3 && e.Payload.Key == "k1" && !mended.Load() {
			return bus.Fatal(errors.New("not now"))
		}
		return applyStep(ctx, tx, e)
	})
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	publishSteps(t, s, 5, 1, 5)
	idle(t, p)
	defer projection.SmallSteps()()
	ctx, cancel := context.WithCancel(t.Context())
	err := projection.Rebuild(ctx, p, d, why, func(pr projection.Progress) {
		if pr.Done == pr.Total {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	mended.Store(true)
	_, err = p.Redrive(t.Context(), bus.Redrive{Act: why})
	must(t, err)
	eventually(t, s, func() bool {
		l, err := p.DeadLetters(t.Context(), bus.Filter{}, 1)
		return err == nil && len(l) == 0
	})
	wantAll(t, dump(t, s), 5, 5)
	must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	wantAll(t, dump(t, s), 5, 5)
	onlyTables(t, s, "counts_g2")
}
