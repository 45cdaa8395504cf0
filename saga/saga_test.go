package saga_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/timer"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("CAREBUS_SAGA_STORE"); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

// order is the state of the test sagas.
type order struct {
	RX    string            `json:"rx"`
	Claim string            `json:"claim,omitempty"`
	Notes map[string]string `json:"notes,omitempty"`
}

type paid struct {
	RX string `json:"rx"`
	By string `json:"by,omitempty"`
}

var (
	orderedV1 = event.Define[paid]("test.order.placed", "1.0.0")
	paidV1    = event.Define[paid]("test.order.paid", "1.0.0")
	refusedV1 = event.Define[paid]("test.order.refused", "1.0.0")
)

// clock is a time that tests move by hand, a little by itself.
type clock struct{ micro atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.micro.Store(time.Now().UnixMicro())
	return c
}

func (c *clock) now() time.Time      { return time.UnixMicro(c.micro.Add(1)).UTC() }
func (c *clock) add(d time.Duration) { c.micro.Add(d.Microseconds()) }

// house is a store with a bus and timers; it is what sagas are registered with.
type house struct {
	*bus.Bus
	t      testing.TB
	store  *eventstore.Store
	timers *timer.Timers
	clock  *clock
	stop   func()
}

func (h *house) Store() *eventstore.Store { return h.store }

const effectsDDL = `CREATE TABLE effects (nr BIGINT PRIMARY KEY, saga TEXT NOT NULL, what TEXT NOT NULL, UNIQUE (saga, what));`

func openStore(t testing.TB, path string, c *clock) *eventstore.Store {
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

func newHouse(t testing.TB) *house {
	t.Helper()
	c := newClock()
	h := &house{t: t, clock: c, store: openStore(t, filepath.Join(t.TempDir(), "saga.db"), c)}
	if err := h.store.Migrate(context.Background(), "test", effectsDDL); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.timers, err = timer.Open(context.Background(), h.store, nil); err != nil {
		t.Fatal(err)
	}
	return h
}

// run registers sagas with a new bus and runs it until the test ends or stop is called.
func (h *house) run(sagas ...saga.Saga) *house {
	h.t.Helper()
	var err error
	if h.Bus, err = bus.New(context.Background(), h.store, nil); err != nil {
		h.t.Fatal(err)
	}
	if err := saga.Register(context.Background(), h, sagas...); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	b := h.Bus
	go func() { done <- b.Run(ctx) }()
	var once sync.Once
	h.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				h.t.Errorf("Run: %v", err)
			}
		})
	}
	h.t.Cleanup(h.stop)
	return h
}

func (h *house) start(d *saga.Definition[order], ids ...string) {
	h.t.Helper()
	for _, id := range ids {
		if err := d.Start(context.Background(), h.store, id, order{RX: "RX-" + id}); err != nil {
			h.t.Fatal(err)
		}
	}
}

func (h *house) publish(e event.Event) {
	h.t.Helper()
	if _, err := h.store.Append(context.Background(), "", eventstore.AnyVersion, e); err != nil {
		h.t.Fatal(err)
	}
}

// settle waits until everything stored was handled, and what that led to.
func (h *house) settle() {
	h.t.Helper()
	for {
		before, err := h.store.Heads(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		if err := h.Idle(context.Background()); err != nil {
			h.t.Fatal(err)
		}
		after, err := h.store.Heads(context.Background())
		if err != nil {
			h.t.Fatal(err)
		}
		if slices.Equal(before, after) {
			return
		}
	}
}

// pass lets time go by, firing what becomes due.
func (h *house) pass(d time.Duration) {
	h.t.Helper()
	h.settle()
	h.clock.add(d)
	if _, err := h.timers.Fire(context.Background()); err != nil {
		h.t.Fatal(err)
	}
	h.settle()
}

func (h *house) show(id string) saga.Detail {
	h.t.Helper()
	d, err := saga.Show(context.Background(), h.store, id)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *house) want(id string, s saga.Status, effects ...string) {
	h.t.Helper()
	d := h.show(id)
	if d.Status != s {
		h.t.Errorf("%s: status %s (step %q, error %q), want %s", id, d.Status, d.Step, d.Error, s)
	}
	if got := h.effects(id); !slices.Equal(got, effects) {
		h.t.Errorf("%s: effects %v, want %v", id, got, effects)
	}
	if n := h.parked(); n != 0 {
		h.t.Errorf("%d keys of the bus are parked", n)
	}
}

func (h *house) parked() int {
	l, err := h.DeadLetters(context.Background(), bus.Filter{}, 100)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, d := range l {
		h.t.Logf("parked: %s %s %s", d.Group, d.Key, d.Error)
	}
	return len(l)
}

func (h *house) effects(id string) []string {
	h.t.Helper()
	out := []string{}
	err := h.store.View(context.Background(), func(q eventstore.Querier) error {
		rows, err := q.QueryContext(context.Background(), `SELECT what FROM effects WHERE saga = $1 ORDER BY nr`, id)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var w string
			if err := rows.Scan(&w); err != nil {
				return err
			}
			out = append(out, w)
		}
		return rows.Err()
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// history is the instance's events, without what they all say.
func (h *house) history(id string) []string {
	h.t.Helper()
	rs, err := h.store.Stream(context.Background(), eventstore.StreamQuery{Stream: "platform.saga/" + id, From: 1, Limit: 1000})
	if err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for _, r := range rs {
		of, err := event.Define[struct {
			Step string `json:"step"`
		}](r.Type, r.Version).Decode(r.Event)
		if err != nil {
			h.t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(strings.TrimPrefix(r.Type, "platform.saga.")+" "+of.Payload.Step))
	}
	return out
}

// effect writes a row that can be there once.
func effect(what string) func(context.Context, bus.Tx, *order) error {
	return func(_ context.Context, tx bus.Tx, s *order) error {
		_, err := tx.Exec(`INSERT INTO effects (nr, saga, what) SELECT COALESCE(MAX(nr), 0) + 1, $1, $2 FROM effects`, strings.TrimPrefix(s.RX, "RX-"), what)
		return err
	}
}

// faults makes steps fail: the errors of a step, one per try, nil for a try that succeeds.
type faults struct {
	mu   sync.Mutex
	errs map[string][]error
}

func (f *faults) set(step string, errs ...error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.errs == nil {
		f.errs = map[string][]error{}
	}
	f.errs[step] = errs
}

func (f *faults) next(step string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.errs[step]) == 0 {
		return nil
	}
	err := f.errs[step][0]
	f.errs[step] = f.errs[step][1:]
	return err
}

func (f *faults) do(step string) func(context.Context, bus.Tx, *order) error {
	return func(ctx context.Context, tx bus.Tx, s *order) error {
		if s.Notes == nil {
			s.Notes = map[string]string{}
		}
		s.Notes[step] = "tried"
		if err := effect(step)(ctx, tx, s); err != nil {
			return err
		}
		return f.next(step)
	}
}

// provider is somebody outside who honours idempotency keys.
type provider struct {
	faults
	mu    sync.Mutex
	keys  map[string]int // effects by key
	calls []string
}

func (p *provider) call(step string) func(context.Context, string, order) (string, error) {
	return func(_ context.Context, key string, _ order) (string, error) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.calls = append(p.calls, key)
		if err := p.next(step); err != nil {
			return "", err
		}
		if p.keys == nil {
			p.keys = map[string]int{}
		}
		p.keys[key]++
		return "answer-" + key, nil
	}
}

func (p *provider) undo(step string) func(context.Context, string, order) error {
	return func(ctx context.Context, key string, s order) error {
		_, err := p.call(step+"-undo")(ctx, key, s)
		return err
	}
}

func (p *provider) made() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.calls)
}

// five is a saga of five steps, each with a compensation.
func five(f *faults) *saga.Definition[order] {
	var steps []saga.Step[order]
	for i := range 5 {
		n := fmt.Sprint("s", i+1)
		steps = append(steps, saga.Do(n, f.do(n)).Compensate(f.do("undo-"+n)).Retry(saga.Backoff(3, time.Second, time.Minute)).RetryUndo(saga.Backoff(2, time.Second, time.Minute)))
	}
	return saga.Define("five", 1, steps...).About(func(s order) string { return s.RX })
}

func TestSuccess(t *testing.T) {
	t.Parallel()
	var f faults
	d := five(&f)
	h := newHouse(t).run(d)
	ctx := event.ContextWithCorrelation(t.Context(), "flow-7")
	for range 2 { // the second start is the first one's
		if err := d.Start(ctx, h.store, "a", order{RX: "RX-a"}); err != nil {
			t.Fatal(err)
		}
	}
	h.settle()
	h.want("a", saga.Completed, "s1", "s2", "s3", "s4", "s5")
	if got, want := h.history("a"), []string{"started", "step-completed s1", "step-completed s2", "step-completed s3", "step-completed s4", "step-completed s5", "completed"}; !slices.Equal(got, want) {
		t.Errorf("history %v", got)
	}
	if got := h.show("a"); got.Key != "RX-a" || got.CorrelationID != "flow-7" || got.Step != "" || got.Steps[4].State != "done" {
		t.Errorf("shown as %+v", got)
	}
	rs, err := h.store.Correlation(t.Context(), "flow-7", time.Time{}, 100)
	if err != nil || len(rs) != 7 {
		t.Errorf("%d events in the flow, want 7; %v", len(rs), err)
	}
}

func TestRefusalAtEachStepUndoesInReverse(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 5; n++ {
		t.Run(fmt.Sprint("s", n), func(t *testing.T) {
			t.Parallel()
			var f faults
			d := five(&f)
			f.set(fmt.Sprint("s", n), saga.Refuse("out-of-stock"))
			h := newHouse(t).run(d)
			h.start(d, "a")
			h.settle()
			var want []string
			for i := 1; i < n; i++ {
				want = append(want, fmt.Sprint("s", i))
			}
			for i := n - 1; i >= 1; i-- {
				want = append(want, fmt.Sprint("undo-s", i))
			}
			h.want("a", saga.Failed, want...)
			if got := h.show("a"); got.Error != "out-of-stock" || len(got.Undone) != n-1 || got.Steps[n-1].State != "failed" {
				t.Errorf("shown as %+v", got)
			}
		})
	}
}

func TestRetryThenSuccess(t *testing.T) {
	t.Parallel()
	var f faults
	d := five(&f)
	f.set("s3", errors.New("busy"), errors.New("busy"))
	h := newHouse(t).run(d)
	h.start(d, "a")
	h.settle()
	h.want("a", saga.Running, "s1", "s2")
	if got := h.show("a"); got.Step != "s3" || got.Attempts != 1 || got.Error != "error: busy" || got.Steps[2].State != "resting" {
		t.Errorf("shown as %+v", got)
	}
	h.pass(700 * time.Millisecond) // the pause is 0.8 to 1 s
	h.want("a", saga.Running, "s1", "s2")
	h.pass(300 * time.Millisecond)
	h.want("a", saga.Running, "s1", "s2")
	if got := h.show("a"); got.Attempts != 2 {
		t.Errorf("shown as %+v", got)
	}
	h.pass(2 * time.Second)
	h.want("a", saga.Completed, "s1", "s2", "s3", "s4", "s5")
	if p, err := h.timers.Pending(t.Context(), "", 10); err != nil || len(p) != 0 {
		t.Errorf("timers left: %v %v", p, err)
	}
}

func TestTriesUsedUp(t *testing.T) {
	t.Parallel()
	var f faults
	d := five(&f)
	f.set("s3", errors.New("busy"), errors.New("busy"), errors.New("busy"))
	h := newHouse(t).run(d)
	h.start(d, "a")
	h.pass(time.Second)
	h.pass(2 * time.Second)
	h.want("a", saga.Failed, "s1", "s2", "undo-s2", "undo-s1")
}

func TestCompensationStuckUntilResumed(t *testing.T) {
	t.Parallel()
	var f faults
	d := five(&f)
	f.set("s4", saga.Refuse("no"))
	f.set("undo-s2", errors.New("down"), errors.New("down"), errors.New("down"))
	h := newHouse(t).run(d)
	h.start(d, "a", "b")
	h.pass(time.Second)
	stuck, err := saga.List(t.Context(), h.store, saga.Query{Status: saga.Stuck})
	if err != nil || len(stuck) != 1 || stuck[0].Step != "s2" || stuck[0].Error != "error: down" {
		t.Fatalf("stuck: %+v %v", stuck, err)
	}
	id := stuck[0].ID
	h.want(id, saga.Stuck, "s1", "s2", "s3", "undo-s3")
	if err := saga.Resume(t.Context(), h.store, id, saga.Act{}); !errors.Is(err, saga.ErrReason) {
		t.Errorf("without a reason: %v", err)
	}
	if err := saga.Cancel(t.Context(), h.store, id, saga.Act{Reason: "x"}); !errors.Is(err, saga.ErrUndoing) {
		t.Errorf("cancelled while being undone: %v", err)
	}
	if err := saga.Resume(t.Context(), h.store, id, saga.Act{Actor: "kim", Reason: "it is up again"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.want(id, saga.Compensating, "s1", "s2", "s3", "undo-s3") // it has its tries anew
	h.pass(time.Second)
	h.want(id, saga.Failed, "s1", "s2", "s3", "undo-s3", "undo-s2", "undo-s1")
	if err := saga.Resume(t.Context(), h.store, id, saga.Act{Reason: "x"}); !errors.Is(err, saga.ErrEnded) {
		t.Errorf("resumed after the end: %v", err)
	}
	if !slices.Contains(h.history(id), "resumed") {
		t.Errorf("no audit: %v", h.history(id))
	}
	if err := saga.Resume(t.Context(), h.store, "nobody", saga.Act{Reason: "x"}); !errors.Is(err, saga.ErrNoInstance) {
		t.Errorf("no instance: %v", err)
	}
}

func TestCompensationSkipped(t *testing.T) {
	t.Parallel()
	var f faults
	d := five(&f)
	f.set("s3", saga.Refuse("no"))
	f.set("undo-s2", saga.Refuse("gone"))
	h := newHouse(t).run(d)
	h.start(d, "a")
	h.settle()
	h.want("a", saga.Stuck, "s1", "s2")
	if err := saga.Skip(t.Context(), h.store, "a", saga.Act{Reason: "returned by hand"}); err != nil {
		t.Fatal(err)
	}
	h.settle()
	h.want("a", saga.Failed, "s1", "s2", "undo-s1")
	if got := h.show("a"); !slices.Equal(got.Left, []string{"s2"}) || !slices.Equal(got.Undone, []string{"s1"}) {
		t.Errorf("shown as %+v", got)
	}
}
