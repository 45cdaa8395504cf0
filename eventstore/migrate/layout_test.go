package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/migrate"
	"github.com/carebus/carebus/eventstore/storetest"
)

// clinic is a store under load: patients whose visits a group counts, each patient's in order.
type clinic struct {
	t    *testing.T
	name string
	ran  bool // a platform runs once
	p    *carebus.Platform
	rand *rand.Rand
	sent map[string]int // visits by patient
	// stop, when it is not negative, breaks the group off once it has handled so many events more.
	left   atomic.Int64
	broken atomic.Bool // patients whose name begins with "bad" fail
	cancel context.CancelFunc
}

// names are where a test's stores are: the old one, and the new one, which does not exist yet.
func names(t *testing.T, engine string) (from, to string) {
	t.Helper()
	if engine == "postgres" {
		return storetest.Postgres(t), storetest.Postgres(t)
	}
	dir := t.TempDir()
	return "sqlite:" + filepath.Join(dir, "old.db"), "sqlite:" + filepath.Join(dir, "new.db")
}

func openClinic(t *testing.T, name string, seed uint64) *clinic {
	t.Helper()
	c := &clinic{t: t, sent: map[string]int{}, rand: rand.New(rand.NewPCG(seed, 0))}
	c.broken.Store(true)
	c.open(name)
	return c
}

func (c *clinic) open(name string) {
	c.t.Helper()
	c.p, c.name, c.ran = open(c.t, name), name, false
	// times counts how often an event was handled, last is the patient's visit that was handled last.
	if err := c.p.Store().Migrate(c.t.Context(), "clinic", `CREATE TABLE clinic_seen (id TEXT PRIMARY KEY, times BIGINT NOT NULL);
		CREATE TABLE clinic_last (patient TEXT PRIMARY KEY, n BIGINT NOT NULL, replayed BIGINT NOT NULL)`); err != nil {
		c.t.Fatal(err)
	}
	if err := c.p.Handle("clinic", bus.BatchSize(3, 1<<20), bus.FloodLimit(1000), bus.Tries(1), bus.Backoff(time.Millisecond, time.Millisecond), bus.On(visited, c.handle)); err != nil {
		c.t.Fatal(err)
	}
}

// errOrder: an event came before one that its key had earlier.
var errOrder = errors.New("out of order")

func (c *clinic) handle(ctx context.Context, tx bus.Tx, e event.Of[visit]) error {
	if c.broken.Load() && strings.HasPrefix(e.Payload.PatientID, "bad") {
		return errors.New("it is broken")
	}
	column := "n"
	if bus.DeliveryFrom(ctx).Replay {
		column = "replayed"
	}
	var last int
	if err := tx.QueryRow(`SELECT COALESCE(MAX(`+column+`), 0) FROM clinic_last WHERE patient = $1`, e.Payload.PatientID).Scan(&last); err != nil {
		return err
	}
	if e.Payload.N != last+1 {
		c.t.Errorf("patient %s: visit %d was handled after visit %d (%s)", e.Payload.PatientID, e.Payload.N, last, column)
		return errOrder
	}
	if _, err := tx.Exec(`INSERT INTO clinic_seen (id, times) VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET times = clinic_seen.times + 1`, e.ID); err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO clinic_last (patient, n, replayed) VALUES ($1, 0, 0) ON CONFLICT (patient) DO NOTHING`, e.Payload.PatientID); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE clinic_last SET `+column+` = $1 WHERE patient = $2`, e.Payload.N, e.Payload.PatientID); err != nil {
		return err
	}
	if c.left.Add(-1) == 0 {
		c.cancel()
	}
	return nil
}

// publish appends visits of random patients, each patient with a history of its own.
func (c *clinic) publish(n int) {
	c.t.Helper()
	for range n {
		patient := fmt.Sprint("P", c.rand.IntN(40))
		if c.rand.IntN(8) == 0 {
			patient = fmt.Sprint("bad", c.rand.IntN(6))
		}
		c.sent[patient]++
		e := visited.New("clinic", visit{PatientID: patient, N: c.sent[patient]})
		e.PartitionKey = patient
		if _, err := c.p.Append(c.t.Context(), "clinic.patient/"+patient, int64(c.sent[patient]-1), e); err != nil {
			c.t.Fatal(err)
		}
	}
}

// handleSome lets the groups handle about n events; all, when n is negative.
func (c *clinic) handleSome(n int) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	c.cancel = cancel
	c.left.Store(int64(n))
	done := c.run(ctx)
	if n < 0 {
		if err := c.p.Bus().Idle(c.t.Context()); err != nil {
			c.t.Fatal(err)
		}
		cancel()
	}
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
}

func (c *clinic) run(ctx context.Context) chan error {
	c.t.Helper()
	if c.ran {
		c.close()
		c.open(c.name)
	}
	c.ran = true
	done := make(chan error, 1)
	go func() { done <- c.p.Run(ctx) }()
	return done
}

func (c *clinic) close() {
	c.t.Helper()
	if err := c.p.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// times returns how often each event of a type was handled.
func (c *clinic) times() map[string]int {
	c.t.Helper()
	out := map[string]int{}
	for r, err := range c.p.Store().All(c.t.Context(), nil, func(typ string) bool { return typ == visited.Type() }) {
		if err != nil {
			c.t.Fatal(err)
		}
		out[r.ID] = 0
	}
	if err := c.p.Store().View(c.t.Context(), func(q eventstore.Querier) error {
		rows, err := q.QueryContext(c.t.Context(), `SELECT id, times FROM clinic_seen`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			var n int
			if err := rows.Scan(&id, &n); err != nil {
				return err
			}
			out[id] = n
		}
		return rows.Err()
	}); err != nil {
		c.t.Fatal(err)
	}
	return out
}

// letters are the parked keys, as people see them.
func (c *clinic) letters() (out []string) {
	c.t.Helper()
	all, err := c.p.Bus().DeadLetters(c.t.Context(), bus.Filter{}, 1000)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, l := range all {
		out = append(out, fmt.Sprint(l.Group, " ", l.Key, " ", l.Events, " ", l.EventID, " ", l.Error))
	}
	slices.Sort(out)
	return out
}

// histories are the ids of every stream, and of every key, in order.
func (c *clinic) histories() map[string][]string {
	c.t.Helper()
	out := map[string][]string{}
	for r, err := range c.p.Store().All(c.t.Context(), nil, nil) {
		if err != nil {
			c.t.Fatal(err)
		}
		out["key "+r.PartitionKey] = append(out["key "+r.PartitionKey], fmt.Sprint(r.ID, r.RecordedAt.UnixMicro(), r.Stream, r.StreamVersion, string(r.Payload)))
	}
	for patient := range c.sent {
		rs, err := c.p.Store().Stream(c.t.Context(), eventstore.StreamQuery{Stream: "clinic.patient/" + patient, From: 1, Limit: 10000})
		if errors.Is(err, eventstore.ErrNotFound) {
			continue
		}
		if err != nil {
			c.t.Fatal(err)
		}
		for i, r := range rs {
			out["stream "+patient] = append(out["stream "+patient], fmt.Sprint(i+1, r.StreamVersion, r.ID))
		}
	}
	return out
}

func (c *clinic) same(what string, a, b map[string][]string) {
	c.t.Helper()
	if !maps.EqualFunc(a, b, slices.Equal) {
		c.t.Errorf("%s: histories differ:\n%v\n%v", what, a, b)
	}
}

func (c *clinic) all(what string, want int) {
	c.t.Helper()
	for id, n := range c.times() {
		if n != want {
			c.t.Errorf("%s: event %s was handled %d times, want %d", what, id, n, want)
		}
	}
}

func engines(t *testing.T, run func(t *testing.T, engine string)) {
	for _, engine := range []string{"sqlite", "postgres"} {
		t.Run(engine, func(t *testing.T) { run(t, engine) })
	}
}

// TestPartitions: a store in the middle of its work gets other partitions. Every key keeps its order, what was handled is
// not handled again, what was not is still handled, parked keys wait as before, and work goes on.
func TestPartitions(t *testing.T) {
	engines(t, func(t *testing.T, engine string) {
		counts := []int{24, 36, 13, 8, 1}
		if testing.Short() {
			counts = []int{24, 8}
		}
		for _, n := range counts {
			seed := rand.Uint64()
			t.Run(fmt.Sprintf("%d seed %d", n, seed), func(t *testing.T) {
				from, to := names(t, engine)
				c := openClinic(t, from, seed)
				c.publish(150)
				c.handleSome(-1)
				split := n%12 == 0
				if split { // and the group lags, here more and there less, over what other partitions have
					c.publish(150)
					c.handleSome(20 + c.rand.IntN(60))
				} else { // all was handled, then more came
					c.publish(50)
				}
				before, parked, seen := c.histories(), c.letters(), c.times()
				if len(parked) == 0 {
					t.Fatal("no key is parked; the test proves nothing")
				}
				c.close()
				report, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: n})
				if err != nil {
					t.Fatal(err)
				}
				if len(report.Partitions) != n || report.Keys < 40 {
					t.Errorf("%+v", report)
				}
				c.open(to)
				defer c.close()
				if got := c.p.Store().Partitions(); got != n {
					t.Fatalf("%d partitions, want %d", got, n)
				}
				// Opening may have added events of the platform itself, behind.
				after := c.histories()
				for key := range after {
					if len(after[key]) > len(before[key]) {
						after[key] = after[key][:len(before[key])]
					}
				}
				c.same("after the move", before, after)
				if got := c.letters(); !slices.Equal(got, parked) {
					t.Errorf("parked keys before:\n%s\nafter:\n%s", strings.Join(parked, "\n"), strings.Join(got, "\n"))
				}
				if got := c.times(); !maps.Equal(got, seen) {
					t.Error("the effects of the handlers have changed")
				}
				c.publish(100)
				c.mend()
				c.drain()
				c.all("in the end", 1)
				if r, err := c.p.Store().Verify(t.Context(), nil); err != nil || r.FaultCount > 0 {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
	})
}

// mend lets the patients that failed succeed, and asks for the parked keys.
func (c *clinic) mend() {
	c.t.Helper()
	c.broken.Store(false)
	if _, err := c.p.Bus().Redrive(c.t.Context(), bus.Redrive{Filter: bus.Filter{Group: "clinic"}, Act: bus.Act{Reason: "mended"}}); err != nil {
		c.t.Fatal(err)
	}
}

// drain lets the groups work until nothing of the group clinic is parked.
func (c *clinic) drain() {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	defer cancel()
	c.left.Store(-1)
	done := c.run(ctx)
	for {
		tick := c.p.Store().Tick()
		_, err := c.p.Bus().DeadLetters(ctx, bus.Filter{Group: "clinic"}, 1)
		if err != nil {
			c.t.Fatal(err)
		}
		s, err := c.p.Bus().Group(ctx, "clinic")
		if err != nil {
			c.t.Fatal(err)
		}
		if s.ParkedKeys == 0 && s.Lag == 0 && s.Replay == nil {
			break
		}
		if _, err := c.p.Store().Wait(ctx, tick); err != nil {
			c.t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
}

// TestPartitionsReplay: a replay that is under way goes on in the new partitions where it was, and the group behind it.
func TestPartitionsReplay(t *testing.T) {
	engines(t, func(t *testing.T, engine string) {
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		from, to := names(t, engine)
		c := openClinic(t, from, seed)
		c.broken.Store(false)
		c.publish(200)
		c.handleSome(-1)
		if err := c.p.Bus().Replay(t.Context(), "clinic", bus.Beginning(), bus.End(), bus.Act{Reason: "a new column"}); err != nil {
			t.Fatal(err)
		}
		c.handleSome(20 + c.rand.IntN(100))
		replayed := 0
		for _, n := range c.times() {
			replayed += n - 1
		}
		if replayed == 0 || replayed == 200 {
			t.Fatalf("%d events were replayed; the test proves nothing", replayed)
		}
		c.close()
		if _, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: 16}); !errors.Is(err, migrate.ErrBusy) || !strings.Contains(err.Error(), "clinic is replaying") {
			t.Errorf("partitions that are no parts of the old ones: %v; want ErrBusy", err)
		}
		if _, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: 48}); err != nil {
			t.Fatal(err)
		}
		c.open(to)
		defer c.close()
		c.handleSome(-1)
		c.drain()
		c.all("replayed", 2)
		c.publish(50)
		c.handleSome(-1)
		total := 0
		for _, n := range c.times() {
			total += n
		}
		if total != 450 {
			t.Errorf("handled %d times, want 450", total)
		}
	})
}

// TestPartitionsBusy: what a group has handled is no beginning of the new partitions: nothing is begun.
func TestPartitionsBusy(t *testing.T) {
	from, to := names(t, "sqlite")
	c := openClinic(t, from, 1)
	c.publish(300)
	c.handleSome(60)
	c.close()
	_, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: 5})
	if !errors.Is(err, migrate.ErrBusy) || !strings.Contains(err.Error(), "clinic") || !strings.Contains(err.Error(), "multiple of 12") {
		t.Errorf("%v; want ErrBusy that names the group and the remedy", err)
	}
	files, err := filepath.Glob(strings.TrimPrefix(to, "sqlite:") + "*")
	if err != nil || len(files) > 0 {
		t.Errorf("the target was begun: %v, %v", files, err)
	}
	c.open(from)
	c.handleSome(-1)
	c.close()
	if _, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: 5}); err != nil {
		t.Errorf("when all was handled: %v", err)
	}
}

// TestPartitionsInterrupted: a layout that was broken off goes on, in the same partitions only; until then there is no store.
func TestPartitionsInterrupted(t *testing.T) {
	engines(t, func(t *testing.T, engine string) {
		from, to := names(t, engine)
		c := openClinic(t, from, 2)
		c.publish(100)
		for i := range 50 { // more than one transaction copies
			patient := fmt.Sprint("Q", i%20)
			var many []event.Event
			for range 100 {
				c.sent[patient]++
				e := visited.New("clinic", visit{PatientID: patient, N: c.sent[patient]})
				e.PartitionKey = patient
				many = append(many, e)
			}
			if _, err := c.p.Append(t.Context(), "clinic.patient/"+patient, eventstore.AnyVersion, many...); err != nil {
				t.Fatal(err)
			}
		}
		c.handleSome(1000)
		before, parked := c.histories(), c.letters()
		c.close()
		ctx, cancel := context.WithCancel(t.Context())
		_, err := migrate.Run(ctx, from, to, &migrate.Options{Partitions: 24, Progress: func(stage string, done, _ int64) {
			if stage == "events" && done > 0 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%v; want that it was broken off", err)
		}
		if engine == "sqlite" {
			if _, err := os.Stat(strings.TrimPrefix(to, "sqlite:")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the store is there: %v", err)
			}
		} else if _, err := carebus.Open(t.Context(), to, nil); !errors.Is(err, eventstore.ErrFormat) {
			t.Errorf("opening an unfinished store: %v; want ErrFormat", err)
		}
		if _, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: 36}); err == nil || !strings.Contains(err.Error(), "has 24 partitions") {
			t.Errorf("going on with other partitions: %v", err)
		}
		report, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: 24})
		if err != nil {
			t.Fatal(err)
		}
		if report.Resumed == 0 || report.Resumed >= report.Events {
			t.Errorf("%d of %d events were there", report.Resumed, report.Events)
		}
		c.open(to)
		defer c.close()
		after := c.histories()
		for key := range after {
			if len(after[key]) > len(before[key]) {
				after[key] = after[key][:len(before[key])]
			}
		}
		c.same("after the move", before, after)
		if got := c.letters(); !slices.Equal(got, parked) {
			t.Errorf("parked keys before:\n%v\nafter:\n%v", parked, got)
		}
		c.mend()
		c.drain()
		c.all("in the end", 1)
	})
}

// TestRanges: what a bridge has copied in is known by its new places, so that it is not copied out again.
func TestRanges(t *testing.T) {
	for _, n := range []int{24, 7} {
		from, to := names(t, "sqlite")
		c := openClinic(t, from, 9)
		c.publish(300)
		c.handleSome(-1)
		if err := c.p.Store().Migrate(t.Context(), "bridge-tables", `CREATE TABLE carebus_bridge_ranges (bridge TEXT NOT NULL, part BIGINT NOT NULL, lo BIGINT NOT NULL, hi BIGINT NOT NULL, PRIMARY KEY (bridge, part, lo))`); err != nil {
			t.Fatal(err)
		}
		if err := c.p.Store().Update(t.Context(), func(tx *eventstore.Tx) error {
			heads, err := c.p.Store().Heads(t.Context())
			if err != nil {
				return err
			}
			for p, head := range heads {
				for _, bridge := range []string{"a", "b"} {
					for lo := int64(c.rand.IntN(4)); lo < head; lo += 2 + int64(c.rand.IntN(9)) {
						if _, err := tx.ExecContext(t.Context(), `INSERT INTO carebus_bridge_ranges (bridge, part, lo, hi) VALUES ($1, $2, $3, $4)`, bridge, p, lo, min(lo+1+int64(c.rand.IntN(2)), head)); err != nil {
							return err
						}
					}
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		ranged := func() map[string]bool {
			out := map[string]bool{}
			if err := c.p.Store().View(t.Context(), func(q eventstore.Querier) error {
				rows, err := q.QueryContext(t.Context(), `SELECT r.bridge || ' ' || e.id FROM carebus_bridge_ranges r JOIN events e ON e.pos >= (r.part << 40) + r.lo AND e.pos < (r.part << 40) + r.hi`)
				if err != nil {
					return err
				}
				defer rows.Close()
				for rows.Next() {
					var s string
					if err := rows.Scan(&s); err != nil {
						return err
					}
					out[s] = true
				}
				return rows.Err()
			}); err != nil {
				t.Fatal(err)
			}
			return out
		}
		before := ranged()
		c.close()
		if _, err := migrate.Run(t.Context(), from, to, &migrate.Options{Partitions: n}); err != nil {
			t.Fatal(err)
		}
		c.open(to)
		if after := ranged(); len(before) < 50 || !maps.Equal(before, after) {
			t.Errorf("%d partitions: %d events before, %d after, or others", n, len(before), len(after))
		}
		c.close()
	}
}
