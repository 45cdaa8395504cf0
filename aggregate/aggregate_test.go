package aggregate_test

import (
	"context"
	"encoding/json"
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
	"pgregory.net/rapid"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log is a store whose old events may be of major version 1, which counted under another name.
type log struct{ s *eventstore.Store }

func (l log) Store() *eventstore.Store { return l.s }

func (l log) Upcast(e event.Event, version string) (event.Event, error) {
	if e.Version != "1.0.0" || version != "2.0.0" {
		return e, fmt.Errorf("no way from %s to %s", e.Version, version)
	}
	e.Version, e.Payload = version, json.RawMessage(strings.Replace(string(e.Payload), `"count"`, `"n"`, 1))
	return e, nil
}

func openAt(t testing.TB, path string) log {
	t.Helper()
	d, err := storetest.Driver(t, path, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, nil)
	t.Cleanup(func() { _ = s.Close() })
	return log{s}
}

func open(t testing.TB) log {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "aggregate.db"))
}

type (
	counted struct {
		N int `json:"n"`
	}
	tagged struct {
		Name string   `json:"name"`
		Tags []string `json:"tags,omitempty"`
	}
)

var (
	countedV2 = event.Define[counted]("test.shelf.counted", "2.0.0")
	taggedV1  = event.Define[tagged]("test.shelf.tagged", "1.0.0")
	dustedV1  = event.Define[struct{}]("test.shelf.dusted", "1.0.0")
)

// shelf is the state under test.
type shelf struct {
	Total   int            `json:"total"`
	Tags    []string       `json:"tags,omitempty"`
	ByName  map[string]int `json:"byName,omitempty"`
	Updated int64          `json:"updated,omitempty"`
	Version int            `json:"version"`
}

// define returns a definition with a memory of its own, and the number of times that it has evolved a state.
func define(opts ...aggregate.Option[shelf]) (*aggregate.Definition[shelf], *atomic.Int64) {
	var evolved atomic.Int64
	return aggregate.Define("test.shelf", append([]aggregate.Option[shelf]{
		aggregate.On(countedV2, func(s *shelf, e event.Of[counted]) {
			evolved.Add(1)
			s.Total += e.Payload.N
			s.Version++
			s.Updated = e.Timestamp
		}),
		aggregate.On(taggedV1, func(s *shelf, e event.Of[tagged]) {
			evolved.Add(1)
			s.Tags = e.Payload.Tags
			if s.ByName == nil {
				s.ByName = map[string]int{}
			}
			s.ByName[e.Payload.Name]++
			s.Version++
			s.Updated = e.Timestamp
		}),
	}, opts...)...), &evolved
}

func add(n int) aggregate.Decide[shelf] {
	return func(shelf) ([]event.Event, error) {
		return []event.Event{countedV2.New("shelf-service", counted{n})}, nil
	}
}

var errEmpty = errors.New("there is not as much on the shelf")

// take refuses to take more than there is.
func take(n int) aggregate.Decide[shelf] {
	return func(s shelf) ([]event.Event, error) {
		if s.Total < n {
			return nil, errEmpty
		}
		return []event.Event{countedV2.New("shelf-service", counted{-n})}, nil
	}
}

func TestUpdateAndLoad(t *testing.T) {
	l := open(t)
	shelves, _ := define()
	if _, err := shelves.Load(t.Context(), l, "1"); !errors.Is(err, eventstore.ErrNotFound) || !strings.Contains(err.Error(), "test.shelf/1") {
		t.Errorf("loading nothing: %v, want ErrNotFound with the stream's name", err)
	}
	if _, err := shelves.Update(t.Context(), l, "1", take(1)); !errors.Is(err, errEmpty) {
		t.Errorf("a refused command: %v, want decide's own error", err)
	}
	ctx := event.ContextWithCause(t.Context(), event.Metadata{ID: "cause", CorrelationID: "flow"})
	got, err := shelves.Update(ctx, l, "1", add(5))
	if err != nil || got.State.Total != 5 || got.Version != 1 || got.RecordedAt.IsZero() {
		t.Fatalf("%+v, %v", got, err)
	}
	if got, err = shelves.Update(t.Context(), l, "1", func(s shelf) ([]event.Event, error) {
		return []event.Event{taggedV1.New("shelf-service", tagged{Name: "a", Tags: []string{"x"}}), dustedV1.New("shelf-service", struct{}{}), countedV2.New("shelf-service", counted{s.Total})}, nil
	}); err != nil || got.State.Total != 10 || got.Version != 4 || got.State.Version != 3 {
		t.Errorf("%+v, %v; want all events in order, and nothing changed by a type that no On names", got, err)
	}
	none, err := shelves.Update(t.Context(), l, "1", func(shelf) ([]event.Event, error) { return nil, nil })
	if err != nil || none.Version != 4 || none.State.Total != 10 {
		t.Errorf("a command with nothing to do: %+v, %v", none, err)
	}
	if len(got.Receipts) != 3 || got.Receipts[2].StreamVersion != 4 || got.Receipts[2].Offset != got.Receipts[0].Offset+2 || none.Receipts != nil {
		t.Errorf("receipts %+v, and of nothing %+v", got.Receipts, none.Receipts)
	}
	fresh, _ := define()
	loaded, err := fresh.Load(t.Context(), l, "1")
	got.Receipts = nil
	if err != nil || fmt.Sprint(loaded) != fmt.Sprint(got) {
		t.Errorf("loaded %+v, %v\nwant   %+v", loaded, err, got)
	}
	records, err := l.s.Stream(t.Context(), eventstore.StreamQuery{Stream: "test.shelf/1", From: 1, Limit: 10})
	if err != nil || len(records) != 4 || records[0].CorrelationID != "flow" || records[0].CausationID != "cause" || records[0].PartitionKey != "1" {
		t.Errorf("stored: %+v, %v; want the flow and cause of the context, and the entity as key", records, err)
	}
	if loaded.State.Updated != records[3].Timestamp {
		t.Errorf("evolve saw the time %d, stored is %d", loaded.State.Updated, records[3].Timestamp)
	}
	loaded.State.ByName["a"] = 99 // a state belongs to its caller
	if again, err := fresh.Load(t.Context(), l, "1"); err != nil || again.State.ByName["a"] != 1 {
		t.Errorf("a caller changed what others load: %+v, %v", again, err)
	}
}

// TestConcurrentUpdates: two processes, many writers, one entity: no update is lost, and no decision stands upon a state
// that is not that of its events.
func TestConcurrentUpdates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "aggregate.db")
	var logs [2]log
	var defs [2]*aggregate.Definition[shelf]
	for i := range logs {
		logs[i] = openAt(t, path)
		defs[i], _ = define(aggregate.Snapshots[shelf](7, 1))
	}
	if _, err := defs[0].Update(t.Context(), logs[0], "1", add(100)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var taken, refused atomic.Int64
	for i := range 16 {
		wg.Go(func() {
			for range 10 {
				_, err := defs[i%2].Update(context.Background(), logs[i%2], "1", take(1))
				switch {
				case err == nil:
					taken.Add(1)
				case errors.Is(err, errEmpty):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if taken.Load() != 100 || refused.Load() != 60 {
		t.Errorf("%d taken, %d refused; of a hundred, 160 were wanted", taken.Load(), refused.Load())
	}
	least := 0
	for step, err := range defs[0].History(t.Context(), logs[1], "1") {
		if err != nil {
			t.Fatal(err)
		}
		least = min(least, step.State.Total)
	}
	if got, err := defs[1].Load(t.Context(), logs[1], "1"); err != nil || got.State.Total != 0 || least < 0 || got.Version != 101 {
		t.Errorf("%+v, %v; lowest total %d", got, err, least)
	}
}

// TestFasterOthers: a decision that somebody has overtaken is made again, upon what that somebody has left, and once more
// only.
func TestFasterOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "aggregate.db")
	here, there := openAt(t, path), openAt(t, path)
	mine, _ := define()
	other, _ := define()
	tries := 0
	got, err := mine.Update(t.Context(), here, "1", func(s shelf) ([]event.Event, error) {
		if tries++; tries == 1 {
			if _, err := other.Update(t.Context(), there, "1", add(5)); err != nil {
				t.Fatal(err)
			}
		}
		return []event.Event{countedV2.New("shelf-service", counted{10 * s.Total})}, nil
	})
	if err != nil || tries != 2 || got.State.Total != 55 || got.Version != 2 {
		t.Errorf("%+v, %v after %d tries; want a total of 55 after 2", got, err, tries)
	}
	tries = 0
	refused, err := mine.Update(t.Context(), here, "1", func(s shelf) ([]event.Event, error) {
		if tries++; tries == 1 {
			if _, err := other.Update(t.Context(), there, "1", take(55)); err != nil {
				t.Fatal(err)
			}
		}
		return take(1)(s)
	})
	if !errors.Is(err, errEmpty) || refused.Version != 3 {
		t.Errorf("%+v, %v; the other one has taken all", refused, err)
	}
}

// TestStaleMemory: what is remembered may be old; a refusal is decided upon what is stored.
func TestStaleMemory(t *testing.T) {
	path := filepath.Join(t.TempDir(), "aggregate.db")
	here, there := openAt(t, path), openAt(t, path)
	mine, _ := define()
	other, _ := define()
	if _, err := mine.Update(t.Context(), here, "1", add(1)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Update(t.Context(), there, "1", add(10)); err != nil {
		t.Fatal(err)
	}
	if got, err := mine.Update(t.Context(), here, "1", take(11)); err != nil || got.State.Total != 0 || got.Version != 3 {
		t.Errorf("%+v, %v; the other process had filled the shelf", got, err)
	}
	if _, err := other.Update(t.Context(), there, "1", take(1)); !errors.Is(err, errEmpty) {
		t.Errorf("%v, want a refusal", err)
	}
	if got, err := other.Load(t.Context(), there, "1"); err != nil || got.Version != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestOnce(t *testing.T) {
	l := open(t)
	shelves, _ := define()
	if _, err := shelves.Update(t.Context(), l, "1", add(1)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			got, err := shelves.Update(context.Background(), l, "1", take(1), aggregate.Once("command-7"))
			if err != nil || got.State.Total != 0 || got.Version != 2 {
				t.Errorf("%+v, %v; want the answer of the first time", got, err)
			}
		})
	}
	wg.Wait()
	if _, err := shelves.Update(t.Context(), l, "1", take(1), aggregate.Once("command-8")); !errors.Is(err, errEmpty) {
		t.Errorf("another command: %v", err)
	}
	if _, err := shelves.Update(t.Context(), l, "2", add(1), aggregate.Once("command-7")); err != nil {
		t.Errorf("the same id for another entity: %v", err)
	}
}

func TestPast(t *testing.T) {
	l := open(t)
	shelves, _ := define(aggregate.Snapshots[shelf](4, 1))
	var at []time.Time
	for i := 1; i <= 10; i++ {
		got, err := shelves.Update(t.Context(), l, "1", add(i))
		if err != nil {
			t.Fatal(err)
		}
		at = append(at, got.RecordedAt)
	}
	fresh, _ := define(aggregate.Snapshots[shelf](4, 1))
	for _, d := range []*aggregate.Definition[shelf]{shelves, fresh} {
		sum := 0
		for i := 1; i <= 10; i++ {
			sum += i
			byVersion, err := d.AtVersion(t.Context(), l, "1", int64(i))
			if err != nil || byVersion.State.Total != sum || byVersion.Version != int64(i) {
				t.Errorf("at version %d: %+v, %v; want a total of %d", i, byVersion, err, sum)
			}
			byTime, err := d.At(t.Context(), l, "1", at[i-1])
			if err != nil || fmt.Sprint(byTime) != fmt.Sprint(byVersion) {
				t.Errorf("at the time of version %d: %+v, %v; want %+v", i, byTime, err, byVersion)
			}
		}
		if _, err := d.At(t.Context(), l, "1", at[0].Add(-time.Microsecond)); !errors.Is(err, eventstore.ErrNotFound) {
			t.Errorf("before the first event: %v, want ErrNotFound", err)
		}
		if got, err := d.AtVersion(t.Context(), l, "1", 99); err != nil || got.Version != 10 {
			t.Errorf("at a version of the future: %+v, %v", got, err)
		}
		if got, err := d.Load(t.Context(), l, "1"); err != nil || got.Version != 10 {
			t.Errorf("the present after looking at the past: %+v, %v", got, err)
		}
	}
}

// TestSnapshots: a long stream is read from its last snapshot; one of another shape, or that cannot be read, is not used.
func TestSnapshots(t *testing.T) {
	l := open(t)
	shelves, _ := define(aggregate.Snapshots[shelf](100, 1))
	for range 25 {
		if _, err := shelves.Update(t.Context(), l, "1", func(shelf) ([]event.Event, error) {
			return slices.Repeat([]event.Event{countedV2.New("shelf-service", counted{1})}, 50), nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	load := func(shape int, want int64) {
		t.Helper()
		d, evolved := define(aggregate.Snapshots[shelf](100, shape))
		got, err := d.Load(t.Context(), l, "1")
		if err != nil || got.State.Total != 1250 || got.Version != 1250 || evolved.Load() != want {
			t.Errorf("%+v, %v, %d events evolved; want a total of 1250 from %d", got, err, evolved.Load(), want)
		}
	}
	load(1, 50)
	load(2, 1250)
	damage := func(state string) {
		t.Helper()
		if err := l.s.Update(t.Context(), func(tx *eventstore.Tx) error {
			_, err := tx.ExecContext(t.Context(), `UPDATE carebus_snapshots SET state = $1`, state)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	damage(`{"total":"many"`)
	load(1, 1250)
	never, evolved := define(aggregate.Snapshots[shelf](0, 1))
	if got, err := never.Load(t.Context(), l, "1"); err != nil || got.State.Total != 1250 || evolved.Load() != 1250 {
		t.Errorf("without snapshots: %+v, %v", got, err)
	}
}

func TestUpcast(t *testing.T) {
	l := open(t)
	shelves, _ := define()
	old := event.Event{Metadata: event.Metadata{Type: "test.shelf.counted", Version: "1.0.0", Source: "old"}, Payload: json.RawMessage(`{"count":7}`)}
	if _, err := l.s.Append(t.Context(), "test.shelf/1", eventstore.NoStream, old); err != nil {
		t.Fatal(err)
	}
	if got, err := shelves.Update(t.Context(), l, "1", take(7)); err != nil || got.State.Total != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	old.Version = "9.0.0"
	if _, err := l.s.Append(t.Context(), "test.shelf/1", 2, old); err != nil {
		t.Fatal(err)
	}
	if _, err := shelves.Load(t.Context(), l, "1"); err == nil || !strings.Contains(err.Error(), "version 3") {
		t.Errorf("an event that nobody can read: %v, want an error with its place", err)
	}
}

func TestHistoryAndBlame(t *testing.T) {
	l := open(t)
	shelves, _ := define()
	commands := [][]event.Event{
		{countedV2.New("s", counted{5})},
		{taggedV1.New("s", tagged{Name: "a", Tags: []string{"x", "y"}})},
		{dustedV1.New("s", struct{}{})},
		{taggedV1.New("s", tagged{Name: "a/b", Tags: []string{"x"}})},
	}
	for _, events := range commands {
		if _, err := shelves.Update(t.Context(), l, "1", func(shelf) ([]event.Event, error) { return events, nil }); err != nil {
			t.Fatal(err)
		}
	}
	var changes []string
	for step, err := range shelves.History(t.Context(), l, "1") {
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range step.Changes {
			if c.Pointer != "/updated" {
				changes = append(changes, fmt.Sprintf("%d %s %s -> %s", step.Record.StreamVersion, c.Pointer, c.From, c.To))
			}
		}
		if step.State.ByName != nil {
			step.State.ByName["a"] = 1000 // what is yielded is the caller's
		}
	}
	want := []string{
		`1 /total 0 -> 5`, `1 /version 0 -> 1`,
		`2 /byName  -> {"a":1}`, `2 /tags  -> ["x","y"]`, `2 /version 1 -> 2`,
		`4 /byName/a~1b  -> 1`, `4 /tags/1 "y" -> `, `4 /version 2 -> 3`,
	}
	if !slices.Equal(changes, want) {
		t.Errorf("changes\n%s\nwant\n%s", strings.Join(changes, "\n"), strings.Join(want, "\n"))
	}
	blame, err := shelves.Blame(t.Context(), l, "1")
	if err != nil {
		t.Fatal(err)
	}
	var by []string
	for pointer, r := range blame {
		if pointer == "/updated" { // events of one millisecond set it to the same
			continue
		}
		by = append(by, fmt.Sprint(pointer, " ", r.StreamVersion))
	}
	slices.Sort(by)
	if want := []string{"/byName/a 2", "/byName/a~1b 4", "/tags/0 2", "/total 1", "/version 4"}; !slices.Equal(by, want) {
		t.Errorf("set by %v, want %v", by, want)
	}
	for _, err := range shelves.History(t.Context(), l, "none") {
		if !errors.Is(err, eventstore.ErrNotFound) {
			t.Errorf("the history of nothing: %v", err)
		}
	}
}

// TestUpdateTx: a handler works on an entity in its transaction: two events of one commit build upon each other, and
// what is undone leaves no trace.
func TestUpdateTx(t *testing.T) {
	l := open(t)
	shelves, _ := define(aggregate.Snapshots[shelf](10, 1))
	b, err := bus.New(t.Context(), l.s, nil)
	if err != nil {
		t.Fatal(err)
	}
	ordered := event.Define[counted]("test.order.placed", "1.0.0")
	var handled atomic.Int64
	done := make(chan struct{})
	if err := b.Handle("shelf-keeper", bus.On(ordered, func(ctx context.Context, tx bus.Tx, e event.Of[counted]) error {
		got, err := shelves.UpdateTx(ctx, tx, l, "1", func(s shelf) ([]event.Event, error) {
			return []event.Event{countedV2.New("shelf-service", counted{e.Payload.N}), countedV2.New("shelf-service", counted{0})}, nil
		}, aggregate.Once(e.ID))
		if err != nil {
			return err
		}
		if got.State.Total < 0 {
			return bus.Fatal(errEmpty)
		}
		if handled.Add(1); got.State.Total == 55 {
			close(done)
		}
		return nil
	}), bus.OnFailure(bus.SkipEvent)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	events := make([]event.Event, 0, 20)
	for i := 1; i <= 10; i++ {
		for _, n := range []int{i, -1000} { // the second one is refused, and undone
			e := ordered.New("shop", counted{n})
			e.PartitionKey = "order"
			events = append(events, e)
		}
	}
	if _, err := l.s.Append(t.Context(), "", eventstore.AnyVersion, events...); err != nil {
		t.Fatal(err)
	}
	go func() { ended <- b.Run(ctx) }()
	<-done
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	fresh, evolved := define(aggregate.Snapshots[shelf](10, 1))
	got, err := fresh.Load(t.Context(), l, "1")
	if err != nil || got.State.Total != 55 || got.Version != 20 || evolved.Load() != 0 {
		t.Errorf("%+v, %v, %d events behind the snapshot; want 55 of 20 events, the snapshot at the last", got, err, evolved.Load())
	}
}

// TestFolds: with and without snapshots and memory, the state at every version is the fold of the events up to it.
func TestFolds(t *testing.T) {
	base, outer := t.TempDir(), t
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp(base, "fold")
		if err != nil {
			t.Fatal(err)
		}
		d, err := storetest.Driver(outer, filepath.Join(dir, "fold.db"), 0, nil)
		if err != nil {
			t.Fatal(err)
		}
		l := log{eventstore.New(d, nil)}
		defer l.s.Close()
		every := rapid.SampledFrom([]int{0, 1, 3, 100}).Draw(t, "every")
		shelves, _ := define(aggregate.Snapshots[shelf](every, 1))
		want := []shelf{{}}
		for range rapid.IntRange(1, 12).Draw(t, "commands") {
			if rapid.IntRange(0, 3).Draw(t, "forget") == 0 {
				shelves, _ = define(aggregate.Snapshots[shelf](every, 1))
			}
			n := rapid.IntRange(-3, 9).Draw(t, "n")
			count := rapid.IntRange(1, 4).Draw(t, "events")
			_, err := shelves.Update(context.Background(), l, "1", func(s shelf) ([]event.Event, error) {
				if last := want[len(want)-1]; s.Total != last.Total || s.Version != last.Version {
					t.Fatalf("decided upon %+v, the events make %+v", s, last)
				}
				var out []event.Event
				for range count {
					out = append(out, countedV2.New("s", counted{n}))
				}
				return out, nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for range count {
				next := want[len(want)-1]
				next.Total += n
				next.Version++
				want = append(want, next)
			}
			v := rapid.IntRange(1, len(want)-1).Draw(t, "version")
			got, err := shelves.AtVersion(context.Background(), l, "1", int64(v))
			if err != nil || got.State.Total != want[v].Total || got.State.Version != v || got.Version != int64(v) {
				t.Fatalf("at version %d: %+v, %v; want %+v", v, got, err, want[v])
			}
		}
	})
}

func BenchmarkCommands(b *testing.B) {
	l := open(b)
	shelves, _ := define()
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(128)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := shelves.Update(context.Background(), l, fmt.Sprint(n.Add(1)%5000), add(1)); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}
