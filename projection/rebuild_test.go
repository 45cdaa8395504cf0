package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// scale is how many events the tests under load store.
func scale() int {
	if testing.Short() {
		return 2000
	}
	return 20_000
}

// reader looks at the view all the time: it must be complete (every key that was ever there) and never go backward.
func reader(t *testing.T, s *eventstore.Store, stop <-chan struct{}) (looks int) {
	seen := map[string]int64{}
	for {
		select {
		case <-stop:
			return looks
		default:
		}
		now := dump(t, s)
		looks++
		for k, n := range seen {
			if now[k] < n {
				t.Errorf("key %s went from %d back to %d", k, n, now[k])
				return looks
			}
		}
		seen = now
	}
}

func TestRebuildWhileWritesGoOn(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	const keys = 100
	n := int64(scale() / keys)
	publishSteps(t, s, keys, 1, n/2)
	idle(t, p)

	stop := make(chan struct{})
	var readers, writer sync.WaitGroup
	var looks atomic.Int64
	for range 2 {
		readers.Go(func() { looks.Add(int64(reader(t, s, stop))) })
	}
	seq := n / 2
	done := make(chan struct{})
	writer.Go(func() {
		for ; ; seq++ {
			select {
			case <-done:
				return
			default:
			}
			publishSteps(t, s, keys, seq+1, seq+1)
		}
	})
	rebuilds := 5
	for range rebuilds {
		must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	}
	close(done)
	writer.Wait()
	idle(t, p)
	close(stop)
	readers.Wait()
	t.Logf("%d events, %d of them during %d rebuilds, %d looks", seq*keys, (seq-n/2)*keys, rebuilds, looks.Load())
	wantAll(t, dump(t, s), keys, seq)
	wantFold(t, s)
	onlyTables(t, s, fmt.Sprintf("counts_g%d", rebuilds+1))
}

// wantFold compares the view with a fold of the log that shares no code with projections.
func wantFold(t *testing.T, s *eventstore.Store) {
	t.Helper()
	want := map[string]int64{}
	for r, err := range s.All(t.Context(), nil, func(typ string) bool { return typ == stepDoneV1.Type() }) {
		must(t, err)
		of, err := stepDoneV1.Decode(r.Event)
		must(t, err)
		if want[of.Payload.Key]++; want[of.Payload.Key] != of.Payload.Seq {
			t.Fatalf("the log itself is out of order at %d/%d", r.Partition, r.Offset)
		}
	}
	got := dump(t, s)
	for k, n := range want {
		if got[k] != n {
			t.Errorf("key %s: %d, a fold of the log gives %d", k, got[k], n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d keys, a fold of the log gives %d", len(got), len(want))
	}
}

func TestABatchHandler(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	var bad atomic.Value
	bad.Store("")
	d := projection.Define("counts", 1, projection.Tables(countsDDL), projection.OnBatch("test.**",
		func(_ context.Context, tx projection.Tx, records []eventstore.Record) error {
			n, total := map[string]int64{}, map[string]int64{}
			for _, r := range records {
				of, err := stepDoneV1.Decode(r.Event)
				if err != nil {
					return err
				}
				if r.ID == bad.Load() {
					return errors.New("bad event")
				}
				n[of.Payload.Key]++
				total[of.Payload.Key] += of.Payload.Seq
			}
			for k := range n {
				if _, err := tx.Exec(`INSERT INTO {counts} (key, n, total) VALUES ($1, $2, $3)
					ON CONFLICT (key) DO UPDATE SET n = {counts}.n + excluded.n, total = {counts}.total + excluded.total`, k, n[k], total[k]); err != nil {
					return err
				}
			}
			return nil
		}))
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	publishSteps(t, s, 50, 1, 10)
	must(t, projection.Wait(t.Context(), p, d, publishSteps(t, s, 50, 11, 12)...))
	wantAll(t, dump(t, s), 50, 12)
	must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	wantAll(t, dump(t, s), 50, 12)

	receipts := publishSteps(t, s, 50, 13, 13)
	must(t, projection.Wait(t.Context(), p, d, receipts...))
	bad.Store(receipts[7].EventID)
	var failed *projection.EventError
	if err := projection.Rebuild(t.Context(), p, d, why, nil); !errors.As(err, &failed) || failed.EventID != receipts[7].EventID {
		t.Errorf("%v does not name event %s", err, receipts[7].EventID)
	}
	wantAll(t, dump(t, s), 50, 13)
}

func TestAFailingHandlerLeavesTheLiveTables(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	var mode atomic.Value
	mode.Store("")
	var rebuilding atomic.Int64
	d := counts(1, func(ctx context.Context, tx projection.Tx, e event.Of[step]) error {
		if tx.Rebuilding() {
			rebuilding.Add(1)
			if e.Payload.Key == "k3" && e.Payload.Seq == 4 {
				switch mode.Load() {
				case "fail":
					return errors.New("broken rule")
				case "panic":
					panic("broken handler")
				case "later":
					return bus.Transient(errors.New("a table is locked"))
				}
			}
		}
		return applyStep(ctx, tx, e)
	})
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	publishSteps(t, s, 10, 1, 5)
	idle(t, p)
	for _, m := range []string{"fail", "panic", "later"} {
		mode.Store(m)
		err := projection.Rebuild(t.Context(), p, d, why, nil)
		var failed *projection.EventError
		if !errors.As(err, &failed) || failed.EventType != stepDoneV1.Type() || !strings.Contains(err.Error(), failed.EventID) {
			t.Fatalf("%s: %v", m, err)
		}
		r, err := s.Get(t.Context(), failed.EventID)
		must(t, err)
		if r.PartitionKey != "k3" || r.Offset != failed.Offset || r.Partition != failed.Partition {
			t.Errorf("%s: named the event of %s at %d", m, r.PartitionKey, r.Offset)
		}
		wantAll(t, dump(t, s), 10, 5)
		st, err := projection.Get(t.Context(), s, "counts")
		must(t, err)
		if st.Generation != 1 || (st.Build != nil) != (m == "later") {
			t.Errorf("%s: %+v", m, st)
		}
	}
	before := rebuilding.Load()
	mode.Store("")
	must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	if again := rebuilding.Load() - before; again > 50 {
		t.Errorf("%d events applied after a transient failure; the build should have gone on", again)
	}
	publishSteps(t, s, 10, 6, 6)
	idle(t, p)
	wantAll(t, dump(t, s), 10, 6)
	onlyTables(t, s, "counts_g4")
}

// TestParkedKeys: a key is parked before, during, and released during a rebuild; nothing is applied twice or left out.
func TestParkedKeys(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	var blocked sync.Map // key -> the seq that fails in live application
	d := counts(1, func(ctx context.Context, tx projection.Tx, e event.Of[step]) error {
		if at, ok := blocked.Load(e.Payload.Key); ok && e.Payload.Seq == at.(int64) && !tx.Rebuilding() {
			return bus.Fatal(errors.New("not now"))
		}
		return applyStep(ctx, tx, e)
	})
	must(t, projection.Register(t.Context(), p, d, bus.FloodLimit(1000)))
	start(t, p)
	for _, k := range []string{"k1", "k2", "k3", "k4", "k5"} {
		blocked.Store(k, int64(3))
	}
	blocked.Store("k6", int64(7))
	receipts := publishSteps(t, s, 10, 1, 5)
	idle(t, p)
	want := func(when string, parked map[string]int64, n int64) {
		t.Helper()
		got := dump(t, s)
		for k := range 10 {
			key := fmt.Sprint("k", k)
			w, ok := parked[key]
			if !ok {
				w = n
			}
			if got[key] != w {
				t.Errorf("%s: key %s has %d, want %d", when, key, got[key], w)
			}
		}
	}
	five := map[string]int64{"k1": 2, "k2": 2, "k3": 2, "k4": 2, "k5": 2}
	want("parked", five, 5)

	// Waiting for an event of a parked key is an error at once, for another key it is not.
	var parked *projection.ParkedError
	for i, r := range receipts {
		err := projection.Wait(t.Context(), p, d, r)
		if in := i >= 1 && i <= 5; in != errors.As(err, &parked) || !in && err != nil {
			t.Errorf("waiting for an event of k%d: %v", i, err)
		}
	}
	st, err := projection.Get(t.Context(), s, "counts")
	must(t, err)
	if st.ParkedKeys != 5 {
		t.Errorf("status: %d parked keys", st.ParkedKeys)
	}

	redrive := func(key string) {
		t.Helper()
		blocked.Delete(key)
		_, err := p.Redrive(t.Context(), bus.Redrive{Filter: bus.Filter{Group: "counts", Key: key}, Act: why})
		must(t, err)
		eventually(t, s, func() bool {
			l, err := p.DeadLetters(t.Context(), bus.Filter{Key: key}, 1)
			return err == nil && len(l) == 0
		})
	}
	defer projection.SmallSteps()()
	acts := []func(){
		func() { redrive("k1") },
		func() {
			publishSteps(t, s, 10, 6, 7) // parks k6
			idle(t, p)
		},
		func() { redrive("k2") },
		func() { must(t, p.Discard(t.Context(), "counts", "k4", why)) },
	}
	must(t, projection.Rebuild(t.Context(), p, d, why, func(pr projection.Progress) {
		if pr.Done > 0 && len(acts) > 0 {
			act := acts[0]
			acts = acts[1:]
			act()
		}
	}))
	if len(acts) > 0 {
		t.Fatalf("%d acts had no chance to happen", len(acts))
	}
	want("rebuilt", map[string]int64{"k3": 2, "k4": 2, "k5": 2, "k6": 6}, 7)
	must(t, p.Discard(t.Context(), "counts", "k5", why))
	redrive("k3")
	redrive("k6")
	want("redriven", map[string]int64{"k4": 2, "k5": 2}, 7)
	must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	want("rebuilt again", map[string]int64{"k4": 2, "k5": 2}, 7)

	st, err = projection.Get(t.Context(), s, "counts")
	must(t, err)
	if st.ParkedKeys != 0 || st.Lag != 0 && st.Build != nil {
		t.Errorf("status: %+v", st)
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
		_, err := s.Wait(t.Context(), tick)
		must(t, err)
	}
}

// TestParkedKeysWhileWritesGoOn: keys are parked and drained all the while rebuilds follow each other; at the end each key
// has every event once.
func TestParkedKeysWhileWritesGoOn(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	var fail atomic.Bool
	fail.Store(true)
	d := counts(1, func(ctx context.Context, tx projection.Tx, e event.Of[step]) error {
		if fail.Load() && !tx.Rebuilding() && e.Payload.Seq%17 == 0 && !bus.DeliveryFrom(ctx).Redrive {
			return bus.Fatal(errors.New("not now"))
		}
		return applyStep(ctx, tx, e)
	})
	must(t, projection.Register(t.Context(), p, d, bus.FloodLimit(1_000_000), bus.DrainBackoff(1, 2)))
	start(t, p)
	const keys = 40
	done := make(chan struct{})
	var writer sync.WaitGroup
	var seq int64
	rounds := 10
	if testing.Short() {
		rounds = 3
	}
	writer.Go(func() {
		for ; ; seq++ {
			select {
			case <-done:
				return
			default:
			}
			publishSteps(t, s, keys, seq+1, seq+1)
		}
	})
	for range rounds {
		must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	}
	close(done)
	writer.Wait()
	fail.Store(false)
	idle(t, p)
	eventually(t, s, func() bool {
		l, err := p.DeadLetters(t.Context(), bus.Filter{}, 1)
		return err == nil && len(l) == 0
	})
	t.Logf("%d events", seq*keys)
	wantAll(t, dump(t, s), keys, seq)
	must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	wantAll(t, dump(t, s), keys, seq)
}
