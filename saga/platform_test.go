package saga_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/schema"
	"github.com/carebus/carebus/timer"
)

// TestEveryEventFitsItsSchema runs sagas that state every kind of event on a platform, which refuses a payload that
// does not fit.
func TestEveryEventFitsItsSchema(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p, err := carebus.Open(ctx, filepath.Join(t.TempDir(), "care.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	files, err := filepath.Glob("testdata/schemas/*/1.0.0.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.RegisterSchema(ctx, schema.Document{Type: filepath.Base(filepath.Dir(f)), Version: "1.0.0", Schema: text}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Store().Migrate(ctx, "test", effectsDDL); err != nil {
		t.Fatal(err)
	}
	var f faults
	d := saga.Define("schemas", 1,
		saga.Do("reserve", effect("reserve")).Compensate(f.do("release")).RetryUndo(saga.Backoff(2, time.Millisecond, time.Millisecond)),
		saga.Call("claim", func(context.Context, string, order) (int, error) { return 0, f.next("claim") }, nil).Retry(saga.Backoff(2, time.Millisecond, time.Millisecond)),
		saga.Await("filled", rx, saga.On[order](medication.PrescriptionFilledV2, func(e medication.PrescriptionFilled) string { return e.PrescriptionID }, nil)),
	).About(rx)
	if err := saga.Register(ctx, p, d); err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, store: p.Store(), Bus: p.Bus()}
	if h.timers, err = timer.Open(ctx, p.Store(), &timer.Options{Every: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	fire := make(chan error, 1)
	go func() { fire <- h.timers.Run(ctx) }()
	await := func(id string, s saga.Status) {
		t.Helper()
		for {
			tick := p.Store().Tick()
			if h.show(id).Status == s {
				return
			}
			if n := h.parked(); n > 0 {
				t.Fatal("parked")
			}
			if _, err := p.Store().Wait(ctx, tick); err != nil {
				t.Fatal(err)
			}
		}
	}
	waits := func(id string) {
		t.Helper()
		for {
			tick := p.Store().Tick()
			if h.show(id).Step == "filled" {
				return
			}
			if _, err := p.Store().Wait(ctx, tick); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.set("claim", errors.New("busy")) // step-failed with retryAt, step-started
	f.set("release", errors.New("down"), errors.New("down"))
	h.start(d, "a")
	waits("a")
	if err := saga.Cancel(ctx, p.Store(), "a", saga.Act{Reason: "moved"}); err != nil {
		t.Fatal(err)
	}
	await("a", saga.Stuck)
	if err := saga.Skip(ctx, p.Store(), "a", saga.Act{Reason: "by hand"}); err != nil {
		t.Fatal(err)
	}
	await("a", saga.Cancelled)
	f.set("claim", saga.Refuse("no"))
	h.start(d, "b")
	await("b", saga.Failed)
	h.start(d, "c")
	waits("c")
	// An older major of the awaited event: it is brought to the newer.
	old := medication.PrescriptionFilledV1.New("pharmacy", medication.PrescriptionFilled1{PrescriptionID: "RX-c", PatientID: "P1", FilledAt: time.Now()})
	if _, err := p.Publish(event.ContextWithCorrelation(ctx, "other"), old); err != nil {
		t.Fatal(err)
	}
	await("c", saga.Completed)
	types, err := p.Store().Types(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"started", "step-started", "step-completed", "step-failed", "compensated", "completed", "failed", "cancelled", "resumed"} {
		if types["platform.saga."+name] == 0 {
			t.Errorf("no platform.saga.%s was stated", name)
		}
	}
	cancel()
	if err := errors.Join(<-done, <-fire); err != nil {
		t.Error(err)
	}
}
