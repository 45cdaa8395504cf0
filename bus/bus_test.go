package bus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("CAREBUS_BUS_CHILD"); mode != "" {
		child(mode)
		return
	}
	goleak.VerifyTestMain(withBrokers{m})
}

type withBrokers struct{ *testing.M }

func (m withBrokers) Run() int {
	defer func() { closeBrokers() }()
	return m.M.Run()
}

// numbered is the payload of test events: the key and its running number.
type numbered struct {
	Key string `json:"key"`
	Seq int    `json:"seq"`
}

var thingDoneV1 = event.Define[numbered]("test.thing.done", "1.0.0")

func numberedEvent(key string, seq int) event.Event {
	e := thingDoneV1.New("test", numbered{Key: key, Seq: seq})
	e.PartitionKey = key
	return e
}

func openStore(t testing.TB, path string) *eventstore.Store {
	t.Helper()
	d, err := storetest.Driver(t, path, 0, nil)
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

func newStore(t testing.TB) *eventstore.Store {
	return openStore(t, filepath.Join(t.TempDir(), "test.db"))
}

func newBus(t testing.TB, s *eventstore.Store, o *bus.Options) *bus.Bus {
	t.Helper()
	b, end, err := openBus(context.Background(), s, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(end)
	return b
}

// start runs the bus until the test ends or the returned function is called.
func start(t testing.TB, b *bus.Bus) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func publish(t testing.TB, s *eventstore.Store, events ...event.Event) {
	t.Helper()
	if _, err := s.Append(context.Background(), "", eventstore.AnyVersion, events...); err != nil {
		t.Fatal(err)
	}
}

func idle(t testing.TB, b *bus.Bus) {
	t.Helper()
	if err := b.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for news in the store until cond holds.
func eventually(t testing.TB, s *eventstore.Store, cond func() bool) {
	t.Helper()
	for {
		tick := s.Tick()
		if cond() {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := s.Wait(ctx, tick)
		cancel()
		if err != nil && t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

// effects is a table that a handler fills: one row per event, and the last number per key, checked to be in order.
const effectsDDL = `
CREATE TABLE effects (grp TEXT NOT NULL, event_id TEXT NOT NULL, k TEXT NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (grp, event_id));
CREATE TABLE last_seq (grp TEXT NOT NULL, k TEXT NOT NULL, seq BIGINT NOT NULL, PRIMARY KEY (grp, k));
`

func createEffects(t testing.TB, s *eventstore.Store) {
	t.Helper()
	if err := s.Migrate(context.Background(), "test", effectsDDL); err != nil {
		t.Fatal(err)
	}
}

// applyEffect records an event in the transaction. A second effect of the same event breaks the primary key; an event
// out of order is an error that names both numbers.
func applyEffect(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
	g := bus.DeliveryFrom(ctx).Group
	var last int
	err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM last_seq WHERE grp = $1 AND k = $2`, g, e.Payload.Key).Scan(&last)
	if err != nil {
		return err
	}
	if e.Payload.Seq != last+1 {
		return fmt.Errorf("key %s: number %d after %d", e.Payload.Key, e.Payload.Seq, last)
	}
	if _, err := tx.Exec(`INSERT INTO effects (grp, event_id, k, seq) VALUES ($1, $2, $3, $4)`, g, e.ID, e.Payload.Key, e.Payload.Seq); err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO last_seq (grp, k, seq) VALUES ($1, $2, $3) ON CONFLICT (grp, k) DO UPDATE SET seq = excluded.seq`, g, e.Payload.Key, e.Payload.Seq)
	return err
}

func lastSeqs(t testing.TB, s *eventstore.Store, group string) map[string]int {
	t.Helper()
	out := map[string]int{}
	err := s.View(context.Background(), func(q eventstore.Querier) error {
		rows, err := q.QueryContext(context.Background(), `SELECT k, seq FROM last_seq WHERE grp = $1`, group)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k string
			var n int
			if err := rows.Scan(&k, &n); err != nil {
				return err
			}
			out[k] = n
		}
		return rows.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEveryGroupHandlesEverythingInOrderOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	const keys, each = 40, 50
	for seq := 1; seq <= each/2; seq++ {
		var batch []event.Event
		for k := range keys {
			batch = append(batch, numberedEvent(fmt.Sprint("k", k), seq))
		}
		publish(t, s, batch...)
	}
	b := newBus(t, s, nil)
	groups := map[string]bus.Option{"one": bus.Tries(3), "two": bus.Tries(3), "concurrent": bus.Concurrent()}
	for g, o := range groups {
		if err := b.Handle(g, bus.On(thingDoneV1, applyEffect), bus.BatchSize(16, 1<<20), o); err != nil {
			t.Fatal(err)
		}
	}
	start(t, b)
	for seq := each/2 + 1; seq <= each; seq++ {
		for k := range keys {
			publish(t, s, numberedEvent(fmt.Sprint("k", k), seq))
		}
	}
	idle(t, b)
	for g := range groups {
		got := lastSeqs(t, s, g)
		for k := range keys {
			if n := got[fmt.Sprint("k", k)]; n != each {
				t.Errorf("group %s, key k%d: handled up to %d of %d", g, k, n, each)
			}
		}
	}
}

func TestHandlerAppendsWithCausation(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	b := newBus(t, s, nil)
	follow := event.Define[numbered]("test.thing.followed", "1.0.0")
	if err := b.Handle("follow", bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
		f := follow.New("follower", e.Payload)
		f.PartitionKey = e.PartitionKey
		return tx.Append(f)
	})); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	first := event.Complete(t.Context(), numberedEvent("a", 1))
	publish(t, s, first)
	idle(t, b)
	flow, err := s.Correlation(t.Context(), first.CorrelationID, time.Time{}, 10)
	if err != nil || len(flow) != 2 {
		t.Fatalf("flow has %d events, %v; want 2", len(flow), err)
	}
	if f := flow[1]; f.CausationID != first.ID || f.CorrelationID != first.CorrelationID {
		t.Errorf("followed: causation %s, correlation %s; want %s, %s", f.CausationID, f.CorrelationID, first.ID, first.CorrelationID)
	}
}

// TestPoison: of 10,000 events over 500 keys, 20 keys carry a poison event. The other 480 keys finish; the 20 keys'
// later events wait in order; after a fix a redrive completes them in order.
func TestPoison(t *testing.T) {
	t.Run("in turn", func(t *testing.T) { testPoison(t, bus.Tries(3)) })
	t.Run("concurrent", func(t *testing.T) { testPoison(t, bus.Concurrent()) })
}

func testPoison(t *testing.T, o bus.Option) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	const keys, each, poisoned = 500, 20, 20
	for seq := 1; seq <= each; seq++ {
		var batch []event.Event
		for k := range keys {
			batch = append(batch, numberedEvent(fmt.Sprintf("k%03d", k), seq))
		}
		publish(t, s, batch...)
	}
	poison := func(n numbered) bool { return n.Key < fmt.Sprintf("k%03d", poisoned) && n.Seq == 7 }
	var fixed atomic.Bool
	b := newBus(t, s, &bus.Options{Lease: time.Second})
	if err := b.Handle("g", bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
		if err := applyEffect(ctx, tx, e); err != nil {
			return err
		}
		if poison(e.Payload) && !fixed.Load() {
			return errors.New("no such drug")
		}
		return nil
	}), bus.Backoff(time.Millisecond, time.Millisecond), o); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	idle(t, b)

	for k, n := range lastSeqs(t, s, "g") {
		want := each
		if poison(numbered{k, 7}) {
			want = 6
		}
		if n != want {
			t.Errorf("before the fix key %s is at %d, want %d", k, n, want)
		}
	}
	letters, err := b.DeadLetters(t.Context(), bus.Filter{Group: "g"}, 100)
	if err != nil || len(letters) != poisoned {
		t.Fatalf("%d dead letters, %v; want %d", len(letters), err, poisoned)
	}
	for _, d := range letters {
		if d.Events != each-6 || d.Class != bus.Permanent || d.Error != "no such drug" {
			t.Errorf("dead letter %+v: want %d events waiting, permanent, the error", d, each-6)
		}
	}

	fixed.Store(true)
	p, err := b.PreviewRedrive(t.Context(), bus.Filter{Group: "g"})
	if err != nil || p.Keys != poisoned || p.Events != poisoned*(each-6) {
		t.Fatalf("preview %+v, %v", p, err)
	}
	job, err := b.Redrive(t.Context(), bus.Redrive{Filter: bus.Filter{Group: "g"}, Act: bus.Act{Reason: "fixed"}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, s, func() bool {
		j, err := b.Job(t.Context(), job.ID)
		if err != nil {
			t.Fatal(err)
		}
		return j.State == "finished"
	})
	for k, n := range lastSeqs(t, s, "g") {
		if n != each {
			t.Errorf("after the redrive key %s is at %d, want %d", k, n, each)
		}
	}
	if j, _ := b.Job(t.Context(), job.ID); j.Failed != 0 || j.Total != poisoned {
		t.Errorf("job %+v: want total %d, failed 0", j, poisoned)
	}
}

func TestPanicIsPermanent(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	b := newBus(t, s, nil)
	var handled atomic.Int32
	if err := b.Handle("g", bus.OnRecord("test.thing.*", func(_ context.Context, _ bus.Tx, r eventstore.Record) error {
		if r.PartitionKey == "bad" {
			panic("index out of range")
		}
		handled.Add(1)
		return nil
	}), bus.Backoff(time.Millisecond, time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	publish(t, s, numberedEvent("bad", 1), numberedEvent("good", 1))
	idle(t, b)
	letters, err := b.DeadLetters(t.Context(), bus.Filter{}, 10)
	if err != nil || len(letters) != 1 || letters[0].Key != "bad" || letters[0].Class != bus.Permanent {
		t.Fatalf("dead letters %+v, %v", letters, err)
	}
	if handled.Load() == 0 {
		t.Error("the good key was not handled")
	}
}

// TestDependencyParksNothing: while a dependency is down nothing is parked, the breaker spares it, and work resumes by
// itself.
func TestDependencyParksNothing(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	for k := range 100 {
		publish(t, s, numberedEvent(fmt.Sprint("k", k), 1))
	}
	var down atomic.Bool
	down.Store(true)
	var calls atomic.Int64
	b := newBus(t, s, nil)
	if err := b.Handle("g", bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
		calls.Add(1)
		if down.Load() {
			return bus.Transient(errors.New("payer gateway does not answer"))
		}
		return applyEffect(ctx, tx, e)
	}), bus.Backoff(time.Millisecond, 20*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	for calls.Load() < 50 {
		time.Sleep(time.Millisecond) // the clock is the thing under test: the breaker's pauses are real time
	}
	if letters, err := b.DeadLetters(t.Context(), bus.Filter{}, 10); err != nil || len(letters) != 0 {
		t.Fatalf("dead letters %+v, %v; a failed dependency must park nothing", letters, err)
	}
	down.Store(false)
	idle(t, b)
	if n := len(lastSeqs(t, s, "g")); n != 100 {
		t.Errorf("%d of 100 keys handled after the dependency came back", n)
	}
}

func TestFloodStopsTheGroup(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	for k := range 200 {
		publish(t, s, numberedEvent(fmt.Sprint("k", k), 1))
	}
	b := newBus(t, s, &bus.Options{Lease: 300 * time.Millisecond})
	if err := b.Handle("g", bus.On(thingDoneV1, func(context.Context, bus.Tx, event.Of[numbered]) error {
		return bus.Fatal(errors.New("bad release"))
	}), bus.FloodLimit(30)); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	var st bus.GroupStatus
	eventually(t, s, func() bool {
		var err error
		if st, err = b.Group(t.Context(), "g"); errors.Is(err, bus.ErrNoGroup) {
			return false
		} else if err != nil {
			t.Fatal(err)
		}
		return st.State == "stopped"
	})
	if st.ParkedKeys != 31 {
		t.Errorf("%d keys were parked before the group stopped, want the first beyond the limit of 30 to stop it", st.ParkedKeys)
	}
	if st.Lag == 0 || st.Reason == "" {
		t.Errorf("status %+v: want a lag and a reason", st)
	}
}

// TestStopPolicy: the group stops before the event that failed, in every process, and goes on with it when it is resumed.
func TestStopPolicy(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	var mended atomic.Bool
	b := newBus(t, s, &bus.Options{Lease: 300 * time.Millisecond})
	if err := b.Handle("g", bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
		if e.Payload.Seq == 3 && !mended.Load() {
			return bus.Fatal(errors.New("unreadable"))
		}
		return applyEffect(ctx, tx, e)
	}), bus.OnFailure(bus.StopGroup)); err != nil {
		t.Fatal(err)
	}
	for seq := 1; seq <= 5; seq++ {
		publish(t, s, numberedEvent("a", seq))
	}
	start(t, b)
	var st bus.GroupStatus
	eventually(t, s, func() bool {
		var err error
		st, err = b.Group(t.Context(), "g")
		return err == nil && st.State == "stopped"
	})
	if st.Lag < 3 || !strings.Contains(st.Reason, "unreadable") || st.ParkedKeys != 0 {
		t.Errorf("%+v; want a lag of 3 at least, the reason, nothing parked", st)
	}
	if seqs := lastSeqs(t, s, "g"); seqs["a"] != 2 {
		t.Errorf("handled up to %d, want 2", seqs["a"])
	}
	mended.Store(true)
	if err := b.Resume(t.Context(), "g", bus.Act{Reason: "mended"}); err != nil {
		t.Fatal(err)
	}
	idle(t, b)
	if seqs := lastSeqs(t, s, "g"); seqs["a"] != 5 {
		t.Errorf("handled up to %d after it was resumed, want 5", seqs["a"])
	}
}

func TestSkipPolicy(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	var seen sync.Map
	b := newBus(t, s, nil)
	if err := b.Handle("g", bus.On(thingDoneV1, func(_ context.Context, _ bus.Tx, e event.Of[numbered]) error {
		if e.Payload.Seq == 2 {
			return bus.Fatal(errors.New("unreadable"))
		}
		seen.Store(e.Payload.Seq, true)
		return nil
	}), bus.OnFailure(bus.SkipEvent)); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	publish(t, s, numberedEvent("a", 1), numberedEvent("a", 2), numberedEvent("a", 3))
	idle(t, b)
	if _, ok := seen.Load(3); !ok {
		t.Error("the event behind the skipped one was not handled")
	}
	types, err := s.Types(t.Context())
	if err != nil || types["platform.key.skipped"] != 1 {
		t.Errorf("types %v, %v: want one platform.key.skipped", types, err)
	}
}

func TestSkipDiscardCorrect(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	b := newBus(t, s, nil)
	if err := b.Handle("g", bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
		if e.Payload.Seq > 1000 {
			return bus.Fatal(errors.New("number too high"))
		}
		if e.PartitionKey == "skip" || e.PartitionKey == "discard" {
			_, err := tx.Exec(`INSERT INTO effects (grp, event_id, k, seq) VALUES ('g', $1, $2, $3)`, e.ID, e.PartitionKey, e.Payload.Seq)
			return err
		}
		return applyEffect(ctx, tx, e)
	})); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	for _, k := range []string{"skip", "discard", "correct"} {
		publish(t, s, numberedEvent(k, 1), numberedEvent(k, 1002), numberedEvent(k, 3), numberedEvent(k, 4))
	}
	idle(t, b)
	act := bus.Act{Actor: "anna", Reason: "typing error upstream"}
	if err := b.Skip(t.Context(), "g", "skip", bus.Act{}); !errors.Is(err, bus.ErrReason) {
		t.Errorf("Skip without a reason: %v", err)
	}
	if err := b.Skip(t.Context(), "g", "nobody", act); !errors.Is(err, bus.ErrNotParked) {
		t.Errorf("Skip of a key that is not parked: %v", err)
	}
	if err := b.Skip(t.Context(), "g", "skip", act); err != nil {
		t.Fatal(err)
	}
	if err := b.Discard(t.Context(), "g", "discard", act); err != nil {
		t.Fatal(err)
	}
	if err := b.Correct(t.Context(), "g", "correct", json.RawMessage(`{"key":"correct","seq":2}`), act); err != nil {
		t.Fatal(err)
	}
	eventually(t, s, func() bool {
		l, err := b.DeadLetters(t.Context(), bus.Filter{}, 10)
		if err != nil {
			t.Fatal(err)
		}
		return len(l) == 0
	})
	if n := lastSeqs(t, s, "g")["correct"]; n != 4 {
		t.Errorf("the corrected key is at %d, want 4", n)
	}
	count := func(key string) (n int) {
		err := s.View(t.Context(), func(q eventstore.Querier) error {
			return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM effects WHERE k = $1`, key).Scan(&n)
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count("skip"); n != 3 {
		t.Errorf("skipped key has %d effects, want 3 (all but the skipped one)", n)
	}
	if n := count("discard"); n != 1 {
		t.Errorf("discarded key has %d effects, want 1 (the one before)", n)
	}
}
