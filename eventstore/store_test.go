package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(t *testing.T, path string, o *eventstore.Options) *eventstore.Store {
	t.Helper()
	return newStore(t, openEngine(t, path), o)
}

func openEngine(t *testing.T, path string) driver.Driver {
	t.Helper()
	d, err := storetest.Driver(t, path, 4, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func newStore(t *testing.T, d driver.Driver, o *eventstore.Options) *eventstore.Store {
	t.Helper()
	s := eventstore.New(d, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing: %v", err)
		}
	})
	return s
}

func open(t *testing.T, o *eventstore.Options) *eventstore.Store {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "front.db"), o)
}

// named is an event with a given id.
func named(id, key string) event.Event {
	return event.Event{
		Metadata: event.Metadata{ID: id, Type: "test.thing.done", Version: "1.0.0", Source: "front-test", CorrelationID: "flow", Timestamp: 1, PartitionKey: key},
		Payload:  json.RawMessage(`{"id":"` + id + `"}`),
	}
}

func appendOne(ctx context.Context, s *eventstore.Store, e event.Event) error {
	_, err := s.Append(ctx, "", eventstore.AnyVersion, e)
	return err
}

// hold keeps the sequencer busy with a transaction until release is called; what is sent meanwhile queues.
func hold(t *testing.T, s *eventstore.Store) (release func()) {
	t.Helper()
	begun, end, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		done <- s.Update(context.Background(), func(*eventstore.Tx) error {
			close(begun)
			<-end
			return nil
		})
	}()
	<-begun
	release = sync.OnceFunc(func() {
		close(end)
		if err := <-done; err != nil {
			t.Errorf("the transaction that held the sequencer: %v", err)
		}
	})
	t.Cleanup(release)
	return release
}

// queued waits until n units wait in the queue.
func queued(t *testing.T, s *eventstore.Store, n int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); s.Stats().Queued < n; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d units wait, want %d", s.Stats().Queued, n)
		}
	}
}

// count is how many events are stored.
func count(t *testing.T, s *eventstore.Store) (n int64) {
	t.Helper()
	heads, err := s.Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		n += h
	}
	return n
}

func TestAppendCompletesAndChecks(t *testing.T) {
	s := open(t, nil)
	given := []event.Event{{Metadata: event.Metadata{Type: "test.thing.done", Version: "1.0.0", Source: "front-test"}, Payload: json.RawMessage(`{}`)}}
	rs, err := s.Append(t.Context(), "", eventstore.AnyVersion, given...)
	if err != nil {
		t.Fatal(err)
	}
	if given[0].ID != "" {
		t.Error("Append changed the caller's event")
	}
	r, err := s.Get(t.Context(), rs[0].EventID)
	if err != nil || r.ID == "" || r.CorrelationID == "" || r.PartitionKey != r.CorrelationID || r.Timestamp == 0 {
		t.Errorf("stored as %+v, %v; want it complete, its flow as its key", r, err)
	}

	bad := named("bad", "k")
	bad.Type = "Nonsense"
	_, err = s.Append(t.Context(), "", eventstore.AnyVersion, named("good", "k"), bad)
	var be *eventstore.BatchError
	var invalid *event.InvalidError
	if !errors.As(err, &be) || be.Index != 1 || !errors.As(err, &invalid) || invalid.Findings[0].Pointer != "/metadata/eventType" {
		t.Errorf("a bad event in a batch: %v; want a BatchError of index 1 with the finding at /metadata/eventType", err)
	}
	if err := appendOne(t.Context(), s, bad); errors.As(err, &be) || !errors.As(err, &invalid) {
		// errors.As leaves be as it was when it does not match.
		t.Errorf("a bad event alone: %v; want its findings, no index", err)
	}
	if _, err := s.Append(t.Context(), "s", -7, named("x", "k")); err == nil {
		t.Error("expected version -7 was accepted")
	}
	if _, err := s.Append(t.Context(), string(make([]byte, 513)), eventstore.AnyVersion, named("x", "k")); err == nil {
		t.Error("a stream name of 513 bytes was accepted")
	}
	if rs, err := s.Append(t.Context(), "s", 3); err != nil || rs == nil || len(rs) > 0 {
		t.Errorf("an append of nothing: %v, %v", rs, err)
	}
	if n := count(t, s); n != 1 {
		t.Errorf("%d events stored, want 1: refused appends leave nothing", n)
	}
}

// TestAdmit: what Admit refuses is stored by no way in.
func TestAdmit(t *testing.T) {
	refused := errors.New("not on my watch")
	s := open(t, &eventstore.Options{Admit: func(_ context.Context, e *event.Event) error {
		if e.PartitionKey == "no" {
			return refused
		}
		e.Source = "admitted"
		return nil
	}})
	if err := appendOne(t.Context(), s, named("1", "no")); !errors.Is(err, refused) {
		t.Errorf("Append: %v, want the error of Admit", err)
	}
	err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		_, err := tx.Append(t.Context(), "", eventstore.AnyVersion, named("2", "no"))
		return err
	})
	if !errors.Is(err, refused) {
		t.Errorf("Append in a transaction: %v, want the error of Admit", err)
	}
	if err := appendOne(t.Context(), s, named("3", "yes")); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Get(t.Context(), "3"); err != nil || r.Source != "admitted" || count(t, s) != 1 {
		t.Errorf("%+v, %v, %d events; want one, as Admit completed it", r, err, count(t, s))
	}
}

// TestBackPressure: the queue is bounded in units and in bytes; a caller for whom there is no room waits until its
// context ends, learns that nothing was stored, and goes in as soon as there is room.
func TestBackPressure(t *testing.T) {
	long := named("long", "k")
	long.Payload = json.RawMessage(`{"x":"` + string(make10k()) + `"}`)
	for name, c := range map[string]struct {
		opts  eventstore.Options
		first event.Event
	}{
		"units": {eventstore.Options{QueueUnits: 1}, named("first", "k")},
		"bytes": {eventstore.Options{QueueBytes: 5000}, long}, // one that is alone goes in, whatever its size
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, &c.opts)
			release := hold(t, s)
			first, waiting := make(chan error, 1), make(chan error, 1)
			go func() { first <- appendOne(context.Background(), s, c.first) }()
			queued(t, s, 1)
			ctx, cancel := context.WithCancelCause(t.Context())
			impatient := errors.New("no more patience")
			cancel(impatient)
			err := appendOne(ctx, s, named("refused", "k"))
			if !errors.Is(err, eventstore.ErrBackPressure) || !errors.Is(err, impatient) {
				t.Errorf("with the queue full: %v; want ErrBackPressure with the cause", err)
			}
			go func() { waiting <- appendOne(context.Background(), s, named("patient", "k")) }()
			release()
			if err := errors.Join(<-first, <-waiting); err != nil {
				t.Errorf("those who waited: %v", err)
			}
			if _, err := s.Get(t.Context(), "refused"); !errors.Is(err, eventstore.ErrNotFound) {
				t.Errorf("the refused event: %v, want ErrNotFound", err)
			}
		})
	}
}

func make10k() []byte { return slices.Repeat([]byte("x"), 10_000) }

// TestCancelled: an append given up while it waits leaves nothing; one that was begun is waited for and says the truth.
func TestCancelled(t *testing.T) {
	g := &gate{Driver: openEngine(t, filepath.Join(t.TempDir(), "cancel.db"))}
	s := newStore(t, g, nil)
	release := hold(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() { gaveUp <- appendOne(ctx, s, named("given-up", "k")) }()
	queued(t, s, 1)
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) || errors.Is(err, eventstore.ErrBackPressure) {
		t.Errorf("given up while queued: %v, want context.Canceled", err)
	}
	release()

	reached, leave := g.close()
	ctx, cancel = context.WithCancel(t.Context())
	begun := make(chan error, 1)
	go func() { begun <- appendOne(ctx, s, named("begun", "k")) }()
	<-reached
	cancel()
	select {
	case err := <-begun:
		t.Errorf("an append was answered (%v) before its commit ended", err)
	default:
	}
	leave()
	if err := <-begun; err != nil {
		// The engine looks once more before it begins the unit: this too is the truth.
		if _, gerr := s.Get(t.Context(), "begun"); !errors.Is(err, context.Canceled) || !errors.Is(gerr, eventstore.ErrNotFound) {
			t.Errorf("cancelled after it was begun: %v, but the event: %v", err, gerr)
		}
	} else if _, err := s.Get(t.Context(), "begun"); err != nil {
		t.Errorf("acknowledged and not there: %v", err)
	}
	if _, err := s.Get(t.Context(), "given-up"); !errors.Is(err, eventstore.ErrNotFound) {
		t.Errorf("an append that was given up: %v, want ErrNotFound", err)
	}
}

// gate is an engine whose commits can be held up or failed.
type gate struct {
	driver.Driver
	mu      sync.Mutex
	reached chan struct{}
	wait    chan struct{}
	fail    error
}

// close holds up the next commit until leave is called.
func (g *gate) close() (reached <-chan struct{}, leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.reached, g.wait = make(chan struct{}), make(chan struct{})
	wait := g.wait
	return g.reached, func() { close(wait) }
}

func (g *gate) Commit(ctx context.Context, units []*driver.Unit) ([]int64, error) {
	g.mu.Lock()
	reached, wait, fail := g.reached, g.wait, g.fail
	g.reached, g.wait = nil, nil
	g.mu.Unlock()
	if wait != nil {
		close(reached)
		<-wait
	}
	if fail != nil {
		return nil, fail
	}
	return g.Driver.Commit(ctx, units)
}

// TestGroupCommit: all who wait share one commit, up to the limit, and each gets its own answer.
func TestGroupCommit(t *testing.T) {
	s := open(t, &eventstore.Options{GroupUnits: 64})
	if err := appendOne(t.Context(), s, named("taken", "k")); err != nil {
		t.Fatal(err)
	}
	release := hold(t, s)
	const writers = 128
	answers := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			if i%16 == 0 {
				_, answers[i] = s.Append(context.Background(), "busy", eventstore.NoStream, named(fmt.Sprint("e", i), "k"))
			} else {
				answers[i] = appendOne(context.Background(), s, named(fmt.Sprint("e", i), "k"))
			}
		})
	}
	queued(t, s, writers)
	before := s.Stats()
	release()
	wg.Wait()
	after := s.Stats()
	if n := after.Commits - before.Commits; n > 4 { // the holder's, two full groups, and a scrap at most
		t.Errorf("%d commits for %d waiting writers, in groups of 64", n, writers)
	}
	if after.Largest != 64 || after.Units-before.Units != writers+1 {
		t.Errorf("largest group %d, %d units; want 64, and all %d", after.Largest, after.Units-before.Units, writers+1)
	}
	conflicts := 0
	for i, err := range answers {
		if i%16 == 0 && errors.Is(err, eventstore.ErrConflict) {
			conflicts++
		} else if err != nil {
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if conflicts != writers/16-1 {
		t.Errorf("%d writers were refused a stream that must not exist yet, want all but one of %d", conflicts, writers/16)
	}
}

// TestEngineFails: a commit that fails is everybody's error in the group, and the store goes on.
func TestEngineFails(t *testing.T) {
	g := &gate{Driver: openEngine(t, filepath.Join(t.TempDir(), "fails.db"))}
	s := newStore(t, g, nil)
	g.mu.Lock()
	g.fail = fmt.Errorf("%w: the disk", eventstore.ErrFull)
	g.mu.Unlock()
	if err := appendOne(t.Context(), s, named("1", "k")); !errors.Is(err, eventstore.ErrFull) {
		t.Errorf("%v, want ErrFull", err)
	}
	if st := s.Stats(); st.Failures != 1 || st.Commits != 0 || st.Events != 0 {
		t.Errorf("%+v; want one failure", st)
	}
	g.mu.Lock()
	g.fail = nil
	g.mu.Unlock()
	if err := appendOne(t.Context(), s, named("1", "k")); err != nil {
		t.Errorf("after the engine has recovered: %v", err)
	}
}

// TestUpdatePanics: a panic is the error of that transaction, and of nobody else.
func TestUpdatePanics(t *testing.T) {
	s := open(t, nil)
	release := hold(t, s)
	boom := errors.New("boom")
	var wg sync.WaitGroup
	var panicked, beside error
	wg.Go(func() {
		panicked = s.Update(context.Background(), func(tx *eventstore.Tx) error {
			if _, err := tx.Append(context.Background(), "", eventstore.AnyVersion, named("half", "k")); err != nil {
				return err
			}
			panic(boom)
		})
	})
	wg.Go(func() { beside = appendOne(context.Background(), s, named("whole", "k")) })
	queued(t, s, 2)
	release()
	wg.Wait()
	var pe *eventstore.PanicError
	if !errors.As(panicked, &pe) || !errors.Is(panicked, boom) || len(pe.Stack) == 0 {
		t.Errorf("%v; want a PanicError with its value and stack", panicked)
	}
	if beside != nil {
		t.Errorf("the append beside it: %v", beside)
	}
	if _, err := s.Get(t.Context(), "half"); !errors.Is(err, eventstore.ErrNotFound) {
		t.Errorf("what was done before the panic: %v, want ErrNotFound", err)
	}
	err := s.Update(t.Context(), func(*eventstore.Tx) error { panic("just a text") })
	if !errors.As(err, &pe) || errors.Unwrap(pe) != nil {
		t.Errorf("a panic with a text: %v", err)
	}
}

// TestClose: what was queued is stored and answered, then everything says ErrClosed.
func TestClose(t *testing.T) {
	s := open(t, nil)
	release := hold(t, s)
	const writers = 50
	answers := make(chan error, writers)
	for i := range writers {
		go func() { answers <- appendOne(context.Background(), s, named(fmt.Sprint("e", i), "k")) }()
	}
	queued(t, s, writers)
	waiter := make(chan error, 1)
	go func() {
		for tick := s.Tick(); ; {
			var err error
			if tick, err = s.Wait(context.Background(), tick); err != nil {
				waiter <- err
				return
			}
		}
	}()
	later := s.After(0, 1<<30)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	release()
	for range writers {
		if err := <-answers; err != nil {
			t.Errorf("an append that was queued before Close: %v", err)
		}
	}
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	<-later
	if err := <-waiter; !errors.Is(err, eventstore.ErrClosed) {
		t.Errorf("Wait: %v, want ErrClosed", err)
	}
	_, read := s.Get(t.Context(), "e1")
	for what, err := range map[string]error{
		"Append": appendOne(t.Context(), s, named("late", "k")),
		"Update": s.Update(t.Context(), func(*eventstore.Tx) error { return nil }),
		"View":   s.View(t.Context(), func(eventstore.Querier) error { return nil }),
		"Get":    read,
	} {
		if !errors.Is(err, eventstore.ErrClosed) {
			t.Errorf("%s after Close: %v, want ErrClosed", what, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

// TestNewsOfOtherProcesses: After and Wait tell of commits made through another handle.
func TestNewsOfOtherProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "news.db")
	here, there := openAt(t, path, nil), openAt(t, path, nil)
	p := eventstore.PartitionOf("k", here.Partitions())
	select {
	case <-here.After(p, 0):
		t.Error("an empty partition is said to have events")
	default:
	}
	for i := range int64(20) {
		after, tick := here.After(p, i), here.Tick()
		if err := appendOne(t.Context(), there, named(fmt.Sprint("e", i), "k")); err != nil {
			t.Fatal(err)
		}
		<-after
		for {
			if v, err := here.Heads(t.Context()); err != nil {
				t.Fatal(err)
			} else if v[p] > i {
				break
			}
			<-here.After(p, i) // closed early: ask again
		}
		if _, err := here.Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	<-here.After(p, 5)   // it has them now
	<-here.After(99, 5)  // no such partition: the read will say so
	<-there.After(p, 19) // and at home
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		if _, err := here.Wait(ctx, here.Tick()); err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Wait with its context ended: %v", err)
			}
			return
		}
	}
}

func TestMigrate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "migrate.db")
	s := openAt(t, path, nil)
	one, two := `CREATE TABLE things (k TEXT PRIMARY KEY)`, `ALTER TABLE things ADD COLUMN n BIGINT; INSERT INTO things (k, n) VALUES ('x', 1)`
	if err := s.Migrate(t.Context(), "things", one); err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context(), "things", one, `CREATE TABLE more (k TEXT PRIMARY KEY)`, `NONSENSE`); err == nil {
		t.Error("a step that is no SQL succeeded")
	}
	commits := s.Stats().Commits
	for range 3 {
		if err := s.Migrate(t.Context(), "things", one, two); err != nil {
			t.Fatal(err) // also: the failed attempt has left nothing behind
		}
	}
	if n := s.Stats().Commits - commits; n != 1 {
		t.Errorf("%d commits; want one: a store that is up to date is not written to", n)
	}
	var rows, n int
	err := s.View(t.Context(), func(q eventstore.Querier) error {
		return q.QueryRowContext(t.Context(), `SELECT COUNT(*), SUM(n) FROM things`).Scan(&rows, &n)
	})
	if err != nil || rows != 1 || n != 1 {
		t.Errorf("%d rows, sum %d, %v; want each step done once", rows, n, err)
	}
	other := openAt(t, path, nil)
	if err := other.Migrate(t.Context(), "things", one); err == nil {
		t.Error("tables of a newer program were taken by an older one")
	}
	if err := other.Migrate(t.Context(), "else", `CREATE TABLE elsewhere (k TEXT PRIMARY KEY)`); err != nil {
		t.Errorf("another component: %v", err)
	}
}

// TestAll: the log of all partitions in the order of recording, from any moment, filtered, up to the heads at the call.
func TestAll(t *testing.T) {
	s := open(t, nil)
	const total = 3000
	var receipts []eventstore.Receipt
	for i := 0; i < total; i += 10 {
		var batch []event.Event
		for j := range 10 {
			e := named(fmt.Sprintf("e%04d", i+j), fmt.Sprint("k", (i+j)%37))
			if (i+j)%3 == 0 {
				e.Type = "test.thing.third"
			}
			batch = append(batch, e)
		}
		rs, err := s.Append(t.Context(), "", eventstore.AnyVersion, batch...)
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, rs...)
	}
	read := func(from []int64, match func(string) bool) (ids []string) {
		t.Helper()
		for r, err := range s.All(t.Context(), from, match) {
			if err != nil {
				t.Fatal(err)
			}
			if len(ids) == 5 {
				if err := appendOne(t.Context(), s, named("while-reading-"+r.ID, "k0")); err != nil {
					t.Fatal(err)
				}
			}
			ids = append(ids, r.ID)
		}
		return ids
	}
	for i, id := range read(nil, nil) {
		if id != fmt.Sprintf("e%04d", i) {
			t.Fatalf("record %d is %s; want the order of recording", i, id)
		}
	}
	const mid = 1234
	from, err := s.OffsetsAt(t.Context(), receipts[mid].RecordedAt)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(from, nil); len(got) < total-mid || got[0] != receipts[mid].EventID {
		t.Errorf("from the moment of %s: %d records, the first %s", receipts[mid].EventID, len(got), got[0])
	}
	if got := read(nil, func(typ string) bool { return typ == "test.thing.third" }); len(got) != total/3 {
		t.Errorf("%d records of one type, want %d", len(got), total/3)
	}
	seen := 0
	for _, err := range s.All(t.Context(), nil, nil) { // a reader that has seen enough
		if err != nil {
			t.Fatal(err)
		}
		if seen++; seen == 2 {
			break
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.All(ended, nil, nil) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("with its context ended: %v", err)
		}
	}
}

// TestBigBatch: ten thousand events in one append, all or none.
func TestBigBatch(t *testing.T) {
	s := open(t, nil)
	events := make([]event.Event, 10_000)
	for i := range events {
		events[i] = named(fmt.Sprint("e", i), fmt.Sprint("k", i%100))
	}
	rs, err := s.Append(t.Context(), "big", eventstore.NoStream, events...)
	if err != nil || rs[9999].StreamVersion != 10_000 {
		t.Fatalf("%v", err)
	}
	other := named("e9999", "k99")
	other.Timestamp++
	events = append(events[:0:0], named("new", "k"), other)
	if _, err := s.Append(t.Context(), "big", 10_000, events...); !errors.Is(err, eventstore.ErrDifferentContent) {
		t.Errorf("%v, want ErrDifferentContent", err)
	}
	var progress []int64
	r, err := s.Verify(t.Context(), func(done, total int64) {
		if total != 10_000 {
			t.Errorf("progress of %d", total)
		}
		progress = append(progress, done)
	})
	if err != nil || r.Events != 10_000 || r.FaultCount != 0 || r.Partitions != 4 {
		t.Errorf("%+v, %v", r, err)
	}
	if !slices.IsSorted(progress) || progress[len(progress)-1] != 10_000 {
		t.Errorf("progress %v", progress)
	}
}

// TestUpdateConcurrent: what it does is there, news of it is spread, and an append is refused on every engine, also when the
// function does not look at the error.
func TestUpdateConcurrent(t *testing.T) {
	t.Parallel()
	s := open(t, nil)
	if err := s.Migrate(t.Context(), "test", `CREATE TABLE rows (k TEXT PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	tick := s.Tick()
	insert := func(tx *eventstore.Tx, k string) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO rows (k) VALUES ($1)`, k)
		return err
	}
	if err := s.UpdateConcurrent(t.Context(), func(tx *eventstore.Tx) error { return insert(tx, "kept") }); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), tick); err != nil {
		t.Fatal(err)
	}
	var panicked *eventstore.PanicError
	for what, one := range map[string]struct {
		fn   func(tx *eventstore.Tx) error
		want func(error) bool
	}{
		"append": {func(tx *eventstore.Tx) error {
			_, err := tx.Append(t.Context(), "", eventstore.AnyVersion, named("1", "k"))
			return errors.Join(err, insert(tx, "refused"))
		}, func(err error) bool { return errors.Is(err, eventstore.ErrInTurn) }},
		"append, swallowed": {func(tx *eventstore.Tx) error {
			_, _ = tx.Append(t.Context(), "", eventstore.AnyVersion, named("1", "k"))
			return insert(tx, "swallowed")
		}, func(err error) bool { return errors.Is(err, eventstore.ErrInTurn) }},
		"panic": {func(tx *eventstore.Tx) error {
			_ = insert(tx, "panicked")
			panic("the function's own")
		}, func(err error) bool { return errors.As(err, &panicked) }},
	} {
		if err := s.UpdateConcurrent(t.Context(), one.fn); !one.want(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	var n int
	if err := s.View(t.Context(), func(q eventstore.Querier) error {
		return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM rows`).Scan(&n)
	}); err != nil || n != 1 {
		t.Errorf("%d rows are left, %v; want the first", n, err)
	}
}
