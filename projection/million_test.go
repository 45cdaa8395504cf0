package projection_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// talliesDDL is a table that says the same as counts, by bucket of keys. The two are always written together.
const talliesDDL = `CREATE TABLE {tallies} (bucket BIGINT PRIMARY KEY, n BIGINT NOT NULL, total BIGINT NOT NULL)`

func applyBoth(ctx context.Context, tx projection.Tx, e event.Of[step]) error {
	if err := applyStep(ctx, tx, e); err != nil {
		return err
	}
	_, err := tx.Exec(`INSERT INTO {tallies} (bucket, n, total) VALUES ($1, 1, $2)
		ON CONFLICT (bucket) DO UPDATE SET n = {tallies}.n + 1, total = {tallies}.total + excluded.total`, len(e.Payload.Key)*100+int(e.Payload.Key[len(e.Payload.Key)-1]-'0'), e.Payload.Seq)
	return err
}

// look is what a reader sees in one transaction.
type look struct{ keys, n, total int64 }

// lookAtBoth reads both tables, one statement after the other, in one transaction: they must agree.
func lookAtBoth(t testing.TB, s *eventstore.Store) (l look) {
	ctx := context.Background()
	must(t, s.View(ctx, func(q eventstore.Querier) error {
		if err := q.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(n), 0), COALESCE(SUM(total), 0) FROM counts`).Scan(&l.keys, &l.n, &l.total); err != nil {
			return err
		}
		var n, total int64
		if err := q.QueryRowContext(ctx, `SELECT COALESCE(SUM(n), 0), COALESCE(SUM(total), 0) FROM tallies`).Scan(&n, &total); err != nil {
			return err
		}
		if n != l.n || total != l.total {
			t.Errorf("one transaction sees %d events (sum %d) in one table and %d (sum %d) in the other", l.n, l.total, n, total)
		}
		return nil
	}))
	return l
}

// keepLooking looks until stop is closed: what was there stays there.
func keepLooking(t *testing.T, s *eventstore.Store, keys int, stop <-chan struct{}) (looks int) {
	for last := (look{}); ; looks++ {
		select {
		case <-stop:
			return looks
		default:
		}
		now := lookAtBoth(t, s)
		if int(now.keys) != keys {
			t.Errorf("a reader sees %d of %d rows", now.keys, keys)
			return looks
		}
		if now.n < last.n || now.total < last.total {
			t.Errorf("a reader saw %d events (sum %d) and then %d (sum %d)", last.n, last.total, now.n, now.total)
			return looks
		}
		last = now
	}
}

// publishSome appends the events from..to of the keys first..last-1, in order, so many to an append, and has each
// append followed by what then does with its receipts.
func publishSome(t testing.TB, s *eventstore.Store, first, last int, from, to int64, then func([]eventstore.Receipt)) {
	const together = 1000
	for seq := from; seq <= to; seq++ {
		for k := first; k < last; k += together {
			events := make([]event.Event, 0, together)
			for i := k; i < min(k+together, last); i++ {
				events = append(events, stepEvent(fmt.Sprint("k", i), seq))
			}
			receipts, err := s.Append(context.Background(), "", eventstore.AnyVersion, events...)
			must(t, err)
			then(receipts)
		}
	}
}

// peakMemory returns the most memory that the process has had since it was last asked, in MiB, where the system tells it.
func peakMemory() (mib int) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.Atoi(strings.Fields(text)[0])
			mib = kib >> 10
		}
	}
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // begins anew; without the right to, it is the peak since the start
	return mib
}

// TestRebuildMillion rebuilds a projection of two tables over a large log while two writers go on publishing, each as
// soon as it can read what it wrote, and a reader looks all the time: it never misses a row, never sees a count go back,
// and never sees a table of one generation beside one of another. What has become of it is compared with a fold of the log.
//
// The log has 50,000 events at first, 10 of each key, or as many as the environment says; it then tells time and memory:
//
//	CAREBUS_MILLION=1000000 go test -run TestRebuildMillion -timeout 30m -v ./projection
func TestRebuildMillion(t *testing.T) {
	const perKey = 10
	events := 50_000
	if text := os.Getenv("CAREBUS_MILLION"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 2*perKey {
			t.Fatalf("CAREBUS_MILLION is %q; want a number of events, at least %d", text, 2*perKey)
		}
		events = n
	} else if testing.Short() {
		t.Skip("-short, and CAREBUS_MILLION is not set")
	}
	keys := events / perKey
	s := newStore(t)
	p := newPlatform(t, s)
	d := projection.Define("million", 1, projection.Tables(countsDDL, talliesDDL), projection.On(stepDoneV1, applyBoth))
	must(t, projection.Register(t.Context(), p, d))
	publishSome(t, s, 0, keys, 1, perKey, func([]eventstore.Receipt) {})
	start(t, p)
	begin := time.Now()
	idle(t, p)
	t.Logf("live: %d events in %v, %.0f/s", events, time.Since(begin).Round(time.Millisecond), float64(events)/time.Since(begin).Seconds())
	if l := lookAtBoth(t, s); l.n != int64(keys*perKey) {
		t.Fatalf("%d of %d events were applied", l.n, keys*perKey)
	}

	stop, done := make(chan struct{}), make(chan struct{})
	var looking, writers sync.WaitGroup
	looks := 0
	looking.Go(func() { looks = keepLooking(t, s, keys, stop) })
	ends := make([]int64, 2)
	for i := range ends {
		writers.Go(func() {
			first, last := i*keys/2, (i+1)*keys/2
			for seq := int64(perKey); ; seq++ {
				select {
				case <-done:
					ends[i] = seq
					return
				default:
				}
				publishSome(t, s, first, last, seq+1, seq+1, func(receipts []eventstore.Receipt) {
					must(t, projection.Wait(context.Background(), p, d, receipts...)) // the live tables keep up
				})
			}
		})
	}
	peakMemory()
	var last projection.Progress
	begin = time.Now()
	must(t, projection.Rebuild(t.Context(), p, d, why, func(now projection.Progress) {
		if now.Done < last.Done || now.Events < last.Events {
			t.Errorf("progress went from %+v back to %+v", last, now)
		}
		last = now
	}))
	took, peak := time.Since(begin), peakMemory()
	close(done)
	writers.Wait()
	idle(t, p)
	close(stop)
	looking.Wait()

	written := (ends[0]-perKey)*int64(keys/2) + (ends[1]-perKey)*int64(keys-keys/2)
	t.Logf("rebuild: %d events in %v, %.0f/s; %d published and %d looks meanwhile; memory at most %d MiB",
		last.Events, took.Round(time.Millisecond), float64(last.Events)/took.Seconds(), written, looks, peak)
	if last.Events < int64(keys*perKey) {
		t.Errorf("the rebuild applied %d events of a log of %d", last.Events, keys*perKey)
	}
	if looks == 0 {
		t.Error("the reader had no look at it")
	}
	if l := lookAtBoth(t, s); l.n != int64(keys*perKey)+written {
		t.Errorf("%d events were applied, %d were published", l.n, int64(keys*perKey)+written)
	}
	wantFold(t, s)
	st, err := projection.Get(t.Context(), s, "million")
	must(t, err)
	if st.Generation != 2 || st.Build != nil || st.ParkedKeys != 0 {
		t.Errorf("status: %+v", st)
	}
	onlyTables(t, s, "counts_g2", "tallies_g2")
}
