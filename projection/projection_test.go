package projection_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/projection"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("CAREBUS_PROJECTION_CHILD"); mode != "" {
		child(mode)
		return
	}
	goleak.VerifyTestMain(m)
}

// platform is the part of *carebus.Platform that projections need.
type platform struct {
	*bus.Bus
	store *eventstore.Store
}

func (p *platform) Store() *eventstore.Store { return p.store }

func (p *platform) Upcast(e event.Event, version string) (event.Event, error) {
	return e, fmt.Errorf("no upcaster of %s to %s", e.Type, version)
}

func openStore(t testing.TB, path string) *eventstore.Store {
	t.Helper()
	d, err := storetest.Driver(t, path, 0, nil)
	must(t, err)
	s := eventstore.New(d, nil)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func newStore(t testing.TB) *eventstore.Store {
	return openStore(t, filepath.Join(t.TempDir(), "test.db"))
}

// newPlatform is one process's view of a store; several may be made over one store or file.
func newPlatform(t testing.TB, s *eventstore.Store) *platform {
	t.Helper()
	b, err := bus.New(context.Background(), s, &bus.Options{Lease: time.Second, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	must(t, err)
	return &platform{b, s}
}

// start runs the platform until the test ends or the returned function is called.
func start(t testing.TB, p *platform) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
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

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// step is the payload of test events: a key and the running number of the event in it.
type step struct {
	Key string `json:"key"`
	Seq int64  `json:"seq"`
}

var stepDoneV1 = event.Define[step]("test.step.done", "1.0.0")

func stepEvent(key string, seq int64) event.Event {
	e := stepDoneV1.New("test", step{key, seq})
	e.PartitionKey = key
	return e
}

const countsDDL = `CREATE TABLE {counts} (key TEXT PRIMARY KEY, n BIGINT NOT NULL, total BIGINT NOT NULL)`

// applyStep counts; it is neither idempotent nor indifferent to order, so that anything done twice, left out or out of
// order is refused or shows in the sums.
func applyStep(_ context.Context, tx projection.Tx, e event.Of[step]) error {
	res, err := tx.Exec(`INSERT INTO {counts} (key, n, total) VALUES ($1, 1, $2)
		ON CONFLICT (key) DO UPDATE SET n = {counts}.n + 1, total = {counts}.total + excluded.total WHERE {counts}.n = $3`, e.Payload.Key, e.Payload.Seq, e.Payload.Seq-1)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return fmt.Errorf("event %d of the key is out of turn (%w)", e.Payload.Seq, err)
	}
	return nil
}

func counts(version int, apply func(context.Context, projection.Tx, event.Of[step]) error) *projection.Definition {
	return projection.Define("counts", version, projection.Tables(countsDDL), projection.On(stepDoneV1, apply))
}

// publishSteps appends events from..to of each key, in shuffled batches, and returns the last receipts.
func publishSteps(t testing.TB, s *eventstore.Store, keys int, from, to int64) (receipts []eventstore.Receipt) {
	t.Helper()
	for seq := from; seq <= to; seq++ {
		events := make([]event.Event, keys)
		for k := range events {
			events[k] = stepEvent(fmt.Sprint("k", k), seq)
		}
		var err error
		receipts, err = s.Append(context.Background(), "", eventstore.AnyVersion, events...)
		must(t, err)
	}
	return receipts
}

// dump reads the view: key -> count. It fails when a total does not fit its count.
func dump(t testing.TB, s *eventstore.Store) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	must(t, s.View(context.Background(), func(q eventstore.Querier) error {
		rows, err := q.QueryContext(context.Background(), `SELECT key, n, total FROM counts`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k string
			var n, total int64
			if err := rows.Scan(&k, &n, &total); err != nil {
				return err
			}
			if total != n*(n+1)/2 {
				t.Errorf("key %s: total %d after %d events", k, total, n)
			}
			out[k] = n
		}
		return rows.Err()
	}))
	return out
}

func wantAll(t testing.TB, got map[string]int64, keys int, n int64) {
	t.Helper()
	if len(got) != keys {
		t.Errorf("%d keys, want %d", len(got), keys)
	}
	for k, c := range got {
		if c != n {
			t.Errorf("key %s: %d events, want %d", k, c, n)
		}
	}
}

func idle(t testing.TB, p *platform) {
	t.Helper()
	must(t, p.Idle(t.Context()))
}

var why = bus.Act{Actor: "tester", Reason: "a test"}

func TestLiveAndRebuild(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	receipts := publishSteps(t, s, 20, 1, 10)
	must(t, projection.Wait(t.Context(), p, d, receipts...))
	wantAll(t, dump(t, s), 20, 10)

	var last projection.Progress
	must(t, projection.Rebuild(t.Context(), p, d, why, func(p projection.Progress) { last = p }))
	if last.Events != 200 || last.Done < 200 || last.Done != last.Total {
		t.Errorf("progress ended with %+v", last)
	}
	wantAll(t, dump(t, s), 20, 10)
	must(t, projection.Wait(t.Context(), p, d, publishSteps(t, s, 20, 11, 12)...))
	wantAll(t, dump(t, s), 20, 12)

	st, err := projection.Get(t.Context(), s, "counts")
	must(t, err)
	if st.Generation != 2 || st.Version != 1 || st.State != "running" || st.Build != nil || len(st.Partitions) != s.Partitions() {
		t.Errorf("status: %+v", st)
	}
	events, err := s.Types(t.Context())
	must(t, err)
	if events["platform.projection.rebuilt"] != 1 {
		t.Errorf("audit: %v", events)
	}
	onlyTables(t, s, "counts_g2")
}

// onlyTables checks that no table of another generation was left behind.
func onlyTables(t testing.TB, s *eventstore.Store, want ...string) {
	t.Helper()
	var got []string
	must(t, s.View(context.Background(), func(q eventstore.Querier) error {
		list := `SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE '%~_g%' ESCAPE '~' AND name NOT LIKE 'carebus%' ORDER BY name`
		if s.Info().Name == "postgres" {
			list = `SELECT tablename FROM pg_tables WHERE schemaname = current_schema() AND tablename LIKE '%~_g%' ESCAPE '~' AND tablename NOT LIKE 'carebus%' ORDER BY tablename`
		}
		rows, err := q.QueryContext(context.Background(), list)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n string
			if err := rows.Scan(&n); err != nil {
				return err
			}
			got = append(got, n)
		}
		return rows.Err()
	}))
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("tables %v, want %v", got, want)
	}
}

func TestDefinitionsThatAreRefused(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	on := projection.On(stepDoneV1, applyStep)
	batch := projection.OnBatch("**", func(context.Context, projection.Tx, []eventstore.Record) error { return nil })
	for name, c := range map[string]struct {
		def  *projection.Definition
		says string
	}{
		"no name":        {projection.Define("", 1, projection.Tables(countsDDL), on), "name is empty"},
		"version 0":      {projection.Define("x", 0, projection.Tables(countsDDL), on), "begin with 1"},
		"no handler":     {projection.Define("x", 1, projection.Tables(countsDDL)), "no handler"},
		"no table":       {projection.Define("x", 1, on), "no table"},
		"no braces":      {projection.Define("x", 1, projection.Tables(`CREATE TABLE counts (k TEXT)`), on), "{name}"},
		"index":          {projection.Define("x", 1, projection.Tables(countsDDL, `CREATE INDEX by_n ON {counts} (n)`), on), "{name}"},
		"unknown table":  {projection.Define("x", 1, projection.Tables(countsDDL, `CREATE INDEX {by_n} ON {count} (n)`), on), "{count} is not created"},
		"twice":          {projection.Define("x", 1, projection.Tables(countsDDL, countsDDL), on), "twice"},
		"pattern":        {projection.Define("x", 1, projection.Tables(countsDDL), projection.OnRecord("a..b", nil)), "part 2"},
		"batch and more": {projection.Define("x", 1, projection.Tables(countsDDL), on, batch), "OnBatch"},
	} {
		err := projection.Register(t.Context(), p, c.def)
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.says)
		}
	}
	if err := projection.Rebuild(t.Context(), p, counts(1, applyStep), bus.Act{}, nil); !errors.Is(err, bus.ErrReason) {
		t.Errorf("without a reason: %v", err)
	}
	if _, err := projection.Get(t.Context(), s, "nothing"); !errors.Is(err, projection.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
}

func TestAWrongNameInAHandlerIsAnError(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	got := make(chan error, 1)
	d := counts(1, func(_ context.Context, tx projection.Tx, _ event.Of[step]) error {
		var n int
		if tx.QueryRow(`SELECT COUNT(*) FROM {cuonts}`).Scan(&n) == nil {
			return errors.New("QueryRow found a table that is not there")
		}
		_, err := tx.Exec(`DELETE FROM {cuonts}`)
		select {
		case got <- err:
		default:
		}
		return nil
	})
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	publishSteps(t, s, 1, 1, 1)
	if err := <-got; err == nil || !strings.Contains(err.Error(), "{cuonts}") {
		t.Errorf("%v", err)
	}
}

func TestVersions(t *testing.T) {
	s := newStore(t)
	p := newPlatform(t, s)
	must(t, projection.Register(t.Context(), p, counts(1, applyStep)))
	stop := start(t, p)
	publishSteps(t, s, 10, 1, 5)
	idle(t, p)
	stop()

	changed := projection.Define("counts", 1, projection.Tables(countsDDL, `CREATE TABLE {more} (k TEXT)`), projection.On(stepDoneV1, applyStep))
	if err := projection.Register(t.Context(), newPlatform(t, s), changed); !errors.Is(err, projection.ErrChanged) {
		t.Errorf("other tables, same version: %v", err)
	}
	thief := projection.Define("thief", 1, projection.Tables(countsDDL), projection.On(stepDoneV1, applyStep))
	if err := projection.Register(t.Context(), newPlatform(t, s), thief); !errors.Is(err, projection.ErrTaken) {
		t.Errorf("a table of another projection: %v", err)
	}

	// Version 2 counts every event as two, has a column of its own and a second table.
	v2 := projection.Define("counts", 2,
		projection.Tables(`CREATE TABLE {counts} (key TEXT PRIMARY KEY, n BIGINT NOT NULL, total BIGINT NOT NULL, note TEXT NOT NULL); CREATE INDEX {counts_n} ON {counts} (n)`,
			`CREATE TABLE {seen} (key TEXT PRIMARY KEY)`),
		projection.On(stepDoneV1, func(_ context.Context, tx projection.Tx, e event.Of[step]) error {
			if _, err := tx.Exec(`INSERT INTO {seen} (key) VALUES ($1) ON CONFLICT DO NOTHING`, e.Payload.Key); err != nil {
				return err
			}
			_, err := tx.Exec(`INSERT INTO {counts} (key, n, total, note) VALUES ($1, 2, 0, 'v2') ON CONFLICT (key) DO UPDATE SET n = {counts}.n + 2`, e.Payload.Key)
			return err
		}))
	p = newPlatform(t, s)
	must(t, projection.Register(t.Context(), p, v2, bus.BatchSize(100, 1<<20)))
	sum := func() (n, seen int64) {
		must(t, s.View(t.Context(), func(q eventstore.Querier) error {
			return q.QueryRowContext(t.Context(), `SELECT SUM(n), (SELECT COUNT(*) FROM seen) FROM counts WHERE note = 'v2'`).Scan(&n, &seen)
		}))
		return n, seen
	}
	if n, seen := sum(); n != 100 || seen != 10 {
		t.Errorf("after the upgrade: sum %d, seen %d", n, seen)
	}
	stop = start(t, p)
	publishSteps(t, s, 10, 6, 6)
	idle(t, p)
	if n, _ := sum(); n != 120 {
		t.Errorf("live after the upgrade: sum %d", n)
	}
	stop()
	onlyTables(t, s, "counts_g2", "seen_g2")

	err := projection.Register(t.Context(), newPlatform(t, s), counts(1, applyStep))
	if !errors.Is(err, projection.ErrOlder) || !strings.Contains(err.Error(), "stored 2, this program has 1") {
		t.Errorf("a lower version: %v", err)
	}
	if err := projection.Rebuild(t.Context(), p, counts(1, applyStep), why, nil); !errors.Is(err, projection.ErrOlder) {
		t.Errorf("rebuilding a lower version: %v", err)
	}
}
