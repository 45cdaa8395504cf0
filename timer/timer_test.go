package timer_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/timer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type due struct {
	Name string `json:"name"`
}

var dueV1 = event.Define[due]("test.reminder.due", "1.0.0")

// clock is a time that tests move by hand.
type clock struct{ micro atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micro.Store(time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC).UnixMicro())
	return c
}

func (c *clock) now() time.Time              { return time.UnixMicro(c.micro.Load()).UTC() }
func (c *clock) add(d time.Duration)         { c.micro.Add(d.Microseconds()) }
func in(c *clock, d time.Duration) time.Time { return c.now().Add(d) }

func open(t testing.TB, path string, c *clock) *eventstore.Store {
	t.Helper()
	var now func() time.Time
	if c != nil {
		now = c.now
	}
	d, err := storetest.Driver(t, path, 0, now)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, nil)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func timers(t testing.TB, s *eventstore.Store, o *timer.Options) *timer.Timers {
	t.Helper()
	ts, err := timer.Open(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	return ts
}

func names(t testing.TB, s *eventstore.Store) map[string]int {
	t.Helper()
	rs, err := s.Type(context.Background(), eventstore.TypeQuery{Type: "test.reminder.due", Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, r := range rs {
		of, err := dueV1.Decode(r.Event)
		if err != nil {
			t.Fatal(err)
		}
		out[of.Payload.Name]++
	}
	return out
}

func TestFiresOnceAndNotBefore(t *testing.T) {
	c := newClock()
	s := open(t, filepath.Join(t.TempDir(), "t.db"), c)
	ts := timers(t, s, nil)
	ctx := event.ContextWithCorrelation(t.Context(), "flow-1")
	for i, d := range []time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour, 4 * time.Hour} {
		if err := ts.Set(ctx, fmt.Sprint("r", i+1), in(c, d), dueV1.New("test", due{fmt.Sprint("r", i+1)})); err != nil {
			t.Fatal(err)
		}
	}
	if err := ts.Set(ctx, "r4", in(c, 30*time.Minute), dueV1.New("test", due{"r4 earlier"})); err != nil {
		t.Fatal(err)
	}
	if was, err := ts.Cancel(ctx, "r2"); err != nil || !was {
		t.Fatalf("Cancel of a timer to come: %v, %v", was, err)
	}
	if was, err := ts.Cancel(ctx, "r2"); err != nil || was {
		t.Fatalf("Cancel of a timer taken back: %v, %v", was, err)
	}
	if n, err := ts.Fire(ctx); err != nil || n != 0 {
		t.Fatalf("%d fired before their time, %v", n, err)
	}
	c.add(time.Hour - time.Microsecond)
	if n, err := ts.Fire(ctx); err != nil || n != 1 {
		t.Fatalf("%d fired, want the one that was moved to half an hour; %v", n, err)
	}
	c.add(time.Microsecond)
	if n, err := ts.Fire(ctx); err != nil || n != 1 {
		t.Fatalf("%d fired on the dot, want 1; %v", n, err)
	}
	pending, err := ts.Pending(ctx, "", 10)
	if err != nil || len(pending) != 1 || pending[0].ID != "r3" || !pending[0].At.Equal(in(c, 2*time.Hour)) || pending[0].What.Type != dueV1.Type() {
		t.Fatalf("pending: %+v, %v", pending, err)
	}
	c.add(24 * time.Hour)
	if n, err := ts.Fire(ctx); err != nil || n != 1 {
		t.Fatalf("%d fired, want 1; %v", n, err)
	}
	if got := names(t, s); len(got) != 3 || got["r1"] != 1 || got["r3"] != 1 || got["r4 earlier"] != 1 {
		t.Errorf("published: %v", got)
	}
	rs, err := s.Correlation(ctx, "flow-1", time.Time{}, 10)
	if err != nil || len(rs) != 3 {
		t.Fatalf("%d events carry the correlation of the moment they were set in, want 3; %v", len(rs), err)
	}
	if got := rs[2].Time(); !got.Equal(c.now()) {
		t.Errorf("the last fired at %v, its timestamp says %v", c.now(), got)
	}
}

func TestManyFireInParts(t *testing.T) {
	c := newClock()
	s := open(t, filepath.Join(t.TempDir(), "t.db"), c)
	ts := timers(t, s, nil)
	const total = 600
	err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		for i := range total {
			if err := ts.SetStream(t.Context(), execer{t.Context(), tx}, fmt.Sprint("m", i), c.now(), "test.reminder/"+fmt.Sprint(i), dueV1.New("test", due{fmt.Sprint(i)})); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := ts.Fire(t.Context()); err != nil || n != total {
		t.Fatalf("%d fired of %d: %v", n, total, err)
	}
	if got := names(t, s); len(got) != total {
		t.Errorf("%d names published, want %d", len(got), total)
	}
	if v, err := s.StreamVersion(t.Context(), "test.reminder/17"); err != nil || v != 1 {
		t.Errorf("stream of a timer's event: version %d, %v", v, err)
	}
}

// TestRunInTwoProcesses has two stores over one file, as two processes have, fire the same timers.
func TestRunInTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "t.db")
	one, two := open(t, path, nil), open(t, path, nil)
	const total = 200
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for _, s := range []*eventstore.Store{one, two} {
		ts := timers(t, s, &timer.Options{Every: time.Millisecond})
		wg.Go(func() {
			if err := ts.Run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	ts := timers(t, one, nil)
	for i := range total {
		if err := ts.Set(ctx, fmt.Sprint("t", i), time.Now().Add(time.Duration(i%20)*time.Millisecond), dueV1.New("test", due{fmt.Sprint(i)})); err != nil {
			t.Fatal(err)
		}
	}
	for {
		tick := one.Tick()
		p, err := ts.Pending(ctx, "", 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(p) == 0 {
			break
		}
		if _, err := one.Wait(ctx, tick); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	got := names(t, one)
	if len(got) != total {
		t.Errorf("%d timers fired, want %d", len(got), total)
	}
	for name, n := range got {
		if n != 1 {
			t.Errorf("timer %s fired %d times", name, n)
		}
	}
}

func TestRefused(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "t.db"), nil)
	ts := timers(t, s, nil)
	if err := ts.Set(t.Context(), "", time.Now(), dueV1.New("test", due{})); !errors.Is(err, timer.ErrID) {
		t.Errorf("empty id: %v", err)
	}
	var invalid *event.InvalidError
	bad := event.Define[due]("Not A Type", "1.0.0")
	if err := ts.Set(t.Context(), "bad", time.Now(), bad.New("test", due{})); !errors.As(err, &invalid) {
		t.Errorf("an event that breaks a rule is refused when the timer is set, not when it fires: %v", err)
	}
	undone := errors.New("undone")
	err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		if err := ts.SetTx(t.Context(), execer{t.Context(), tx}, "x", time.Now(), dueV1.New("test", due{})); err != nil {
			return err
		}
		return undone
	})
	if !errors.Is(err, undone) {
		t.Fatal(err)
	}
	if p, err := ts.Pending(t.Context(), "", 10); err != nil || len(p) != 0 {
		t.Errorf("a timer of a transaction that was undone is there: %v %v", p, err)
	}
}

// TestRefusedWhenDue: an event that the store does not take any more when its timer is due keeps no other from firing, is
// not lost, and fires when it is set anew.
func TestRefusedWhenDue(t *testing.T) {
	refuse := true
	d, err := storetest.Driver(t, filepath.Join(t.TempDir(), "t.db"), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, &eventstore.Options{Admit: func(ctx context.Context, e *event.Event) error {
		*e = event.Complete(ctx, *e)
		if refuse && e.Source == "old" {
			return &event.InvalidError{Type: e.Type, Findings: []event.Finding{{Pointer: "/payload", Rule: "payload", Message: "its schema has changed"}}}
		}
		return nil
	}})
	defer s.Close()
	ts := timers(t, s, nil)
	past := time.Now().Add(-time.Minute)
	for id, source := range map[string]string{"a": "old", "b": "new"} {
		if err := ts.Set(t.Context(), id, past, dueV1.New(source, due{})); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if _, err := ts.Fire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	types, err := s.Types(t.Context())
	if err != nil || types[dueV1.Type()] != 1 {
		t.Errorf("%v, %v; want the event of the other timer", types, err)
	}
	p, err := ts.Pending(t.Context(), "", 10)
	if err != nil || len(p) != 1 || p[0].ID != "a" || !strings.Contains(p[0].Error, "schema has changed") {
		t.Errorf("%+v, %v; want the refused timer with the reason", p, err)
	}
	refuse = false
	if err := ts.Set(t.Context(), "a", past, dueV1.New("old", due{})); err != nil {
		t.Fatal(err)
	}
	if n, err := ts.Fire(t.Context()); err != nil || n != 1 {
		t.Errorf("%d fired, %v, after it was set anew", n, err)
	}
}
