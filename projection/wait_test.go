package projection_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

func TestWaitReadsWhatWasWritten(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	for seq := int64(1); seq <= 100; seq++ {
		must(t, projection.Wait(t.Context(), p, d, publishSteps(t, s, 2, seq, seq)...))
		wantAll(t, dump(t, s), 2, seq)
	}
	// An event that the projection does not want is passed, too.
	other := event.Define[step]("test.other.done", "1.0.0").New("test", step{"k0", 1})
	rs, err := s.Append(t.Context(), "", eventstore.AnyVersion, other)
	must(t, err)
	must(t, projection.Wait(t.Context(), p, d, rs...))
	must(t, projection.Wait(t.Context(), p, d))
}

func TestWaitSaysHowFarBehind(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	rs := publishSteps(t, s, 1, 1, 5)
	reason := errors.New("the caller's patience has ended")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	wait := func() *projection.BehindError {
		t.Helper()
		err := projection.Wait(ctx, p, d, rs...)
		var behind *projection.BehindError
		if !errors.As(err, &behind) || !errors.Is(err, reason) {
			t.Fatalf("%v", err)
		}
		return behind
	}
	if b := wait(); b.EventID != rs[0].EventID || b.Behind != 4 || b.State != "" || !strings.Contains(b.Error(), "never run") {
		t.Errorf("%+v: %v", b, b)
	}
	stop := start(t, p)
	idle(t, p)
	must(t, p.Pause(t.Context(), "counts", why))
	stop()
	must(t, projection.Wait(ctx, p, d, rs...)) // there already: an ended context does no harm
	rs = publishSteps(t, s, 1, 6, 6)
	if b := wait(); b.Behind != 0 || b.State != "paused" {
		t.Errorf("%+v", b)
	}
	st, err := projection.Get(t.Context(), s, "counts")
	must(t, err)
	if st.State != "paused" || st.Lag == 0 {
		t.Errorf("%+v", st)
	}
}

func TestAReplayChangesNothing(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	rs := publishSteps(t, s, 10, 1, 20)
	idle(t, p)
	must(t, p.Replay(t.Context(), "counts", bus.Beginning(), bus.End(), why))
	must(t, projection.Wait(t.Context(), p, d, rs...)) // what was applied stays so
	must(t, projection.Wait(t.Context(), p, d, publishSteps(t, s, 10, 21, 21)...))
	must(t, projection.Rebuild(t.Context(), p, d, why, nil))
	idle(t, p)
	wantAll(t, dump(t, s), 10, 21)
}

func TestSkippedAndCorrectedEvents(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	// A sum that refuses the numbers 3 and 4: one is skipped, the other corrected to 100.
	d := projection.Define("sum", 1, projection.Tables(`CREATE TABLE {sums} (key TEXT PRIMARY KEY, n BIGINT NOT NULL)`),
		projection.OnRecord("test.*.done", func(_ context.Context, tx projection.Tx, r eventstore.Record) error {
			of, err := stepDoneV1.Decode(r.Event)
			if err != nil {
				return err
			}
			if of.Payload.Seq == 3 || of.Payload.Seq == 4 {
				return bus.Fatal(errors.New("this number is refused"))
			}
			_, err = tx.Exec(`INSERT INTO {sums} (key, n) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET n = {sums}.n + excluded.n`, of.Payload.Key, of.Payload.Seq)
			return err
		}))
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	publishSteps(t, s, 2, 1, 6)
	idle(t, p)
	parkedAt := func(n int64) func() bool {
		return func() bool {
			l, err := p.DeadLetters(t.Context(), bus.Filter{}, 10)
			must(t, err)
			same := true
			for _, d := range l {
				r, err := s.Get(t.Context(), d.EventID)
				if err != nil {
					return false
				}
				of, err := stepDoneV1.Decode(r.Event)
				must(t, err)
				same = same && of.Payload.Seq == n
			}
			return same && (len(l) == 2) == (n > 0)
		}
	}
	if !parkedAt(3)() {
		t.Fatal("both keys should be parked at 3")
	}
	rebuild := func(when string, want int64) {
		t.Helper()
		for _, rebuilt := range []bool{false, true} {
			if rebuilt {
				must(t, projection.Rebuild(t.Context(), p, d, why, nil))
			}
			for k := range 2 {
				var n int64
				must(t, s.View(t.Context(), func(q eventstore.Querier) error {
					return q.QueryRowContext(t.Context(), `SELECT n FROM sums WHERE key = $1`, fmt.Sprint("k", k)).Scan(&n)
				}))
				if n != want {
					t.Errorf("%s, rebuilt %v: key %d has %d, want %d", when, rebuilt, k, n, want)
				}
			}
		}
	}
	rebuild("parked at 3", 1+2)
	for k := range 2 {
		must(t, p.Skip(t.Context(), "sum", fmt.Sprint("k", k), why))
	}
	eventually(t, s, parkedAt(4))
	rebuild("3 skipped", 1+2)
	for k := range 2 {
		must(t, p.Correct(t.Context(), "sum", fmt.Sprint("k", k), []byte(fmt.Sprintf(`{"key":"k%d","seq":100}`, k)), why))
	}
	eventually(t, s, parkedAt(0))
	rebuild("4 corrected", 1+2+100+5+6)
}
