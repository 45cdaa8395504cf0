package bus_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

func TestPauseResumeSeek(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	// A run that was undone does not count: what is asked here is what was committed.
	if err := s.Migrate(t.Context(), "test", `CREATE TABLE handled (event_id TEXT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	handled := func() (n int) {
		t.Helper()
		if err := s.View(t.Context(), func(q eventstore.Querier) error {
			return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM handled`).Scan(&n)
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	b := newBus(t, s, &bus.Options{Lease: 300 * time.Millisecond})
	if err := b.Handle("g", bus.OnRecord("*", func(_ context.Context, tx bus.Tx, r eventstore.Record) error {
		_, err := tx.Exec(`INSERT INTO handled (event_id) VALUES ($1)`, r.ID)
		return err
	})); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	publish(t, s, numberedEvent("a", 1))
	idle(t, b)

	act := bus.Act{Actor: "anna", Reason: "maintenance"}
	if err := b.Pause(t.Context(), "g", act); err != nil {
		t.Fatal(err)
	}
	publish(t, s, numberedEvent("a", 2), numberedEvent("b", 1))
	st, err := b.Group(t.Context(), "g")
	if err != nil || st.State != "paused" || st.Reason != "maintenance" {
		t.Fatalf("status %+v, %v; want paused with its reason", st, err)
	}
	if n := handled(); n != 1 {
		t.Errorf("%d events handled; a paused group handles none", n)
	}
	if err := b.Resume(t.Context(), "g", act); err != nil {
		t.Fatal(err)
	}
	idle(t, b)
	if n := handled(); n != 3 {
		t.Errorf("%d events handled after resuming, want 3", n)
	}
	if err := b.Seek(t.Context(), "g", bus.Beginning(), act); err != nil {
		t.Fatal(err)
	}
	eventually(t, s, func() bool { return handled() == 6 })
	if err := b.Pause(t.Context(), "nobody", act); !errors.Is(err, bus.ErrNoGroup) {
		t.Errorf("pausing an unknown group: %v", err)
	}
	if err := b.Seek(t.Context(), "g", bus.At(99, 0), act); err == nil {
		t.Error("seeking to a partition that does not exist succeeded")
	}
}

func TestReplayFlagsAndResumes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var mu sync.Mutex
	live, replayed := map[int]int{}, map[int]int{}
	b := newBus(t, s, &bus.Options{Lease: 300 * time.Millisecond})
	if err := b.Handle("g", bus.On(thingDoneV1, func(ctx context.Context, _ bus.Tx, e event.Of[numbered]) error {
		mu.Lock()
		defer mu.Unlock()
		if bus.DeliveryFrom(ctx).Replay {
			replayed[e.Payload.Seq]++
		} else {
			live[e.Payload.Seq]++
		}
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	for i := 1; i <= 20; i++ {
		publish(t, s, numberedEvent("a", i))
	}
	idle(t, b)
	if err := b.Replay(t.Context(), "g", bus.Beginning(), bus.End(), bus.Act{Reason: "new column"}); err != nil {
		t.Fatal(err)
	}
	publish(t, s, numberedEvent("a", 21))
	eventually(t, s, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return live[21] > 0 && len(replayed) == 20 // a worker that is fenced may have tried 21 before, in vain
	})
	mu.Lock()
	defer mu.Unlock()
	for i := 1; i <= 20; i++ {
		if live[i] != 1 || replayed[i] != 1 {
			t.Errorf("event %d: live %d times, replayed %d times; want once each", i, live[i], replayed[i])
		}
	}
	if replayed[21] != 0 {
		t.Error("a new event was flagged as a replay")
	}
}

func TestBoundedReplayForNewGroup(t *testing.T) {
	t.Parallel()
	if overKafka {
		t.Skip("a group on a transport can replay only when it has run: before, nobody knows which topics it reads")
	}
	s := newStore(t)
	for i := 1; i <= 10; i++ {
		publish(t, s, numberedEvent("a", i))
	}
	p := eventstore.PartitionOf("a", s.Partitions())
	b := newBus(t, s, nil)
	if err := b.Replay(t.Context(), "late", bus.At(p, 3), bus.At(p, 6), bus.Act{Reason: "trial"}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var got []int
	if err := b.Handle("late", bus.On(thingDoneV1, func(_ context.Context, _ bus.Tx, e event.Of[numbered]) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e.Payload.Seq)
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	idle(t, b)
	mu.Lock()
	defer mu.Unlock()
	if fmt.Sprint(got) != "[4 5 6 7 8 9 10]" {
		t.Errorf("handled %v; want the window 4 to 6, then what follows", got)
	}
}

func TestBatchHandlerIsolatesTheGuilty(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var mu sync.Mutex
	sizes := []int{}
	ok := map[string]int{}
	b := newBus(t, s, nil)
	for i := range 300 {
		publish(t, s, numberedEvent(fmt.Sprint("k", i%30), i/30))
	}
	if err := b.Handle("g", bus.OnBatch("test.**", func(_ context.Context, tx bus.Tx, rs []eventstore.Record) error {
		for _, r := range rs {
			if r.PartitionKey == "k7" {
				return errors.New("bad row")
			}
		}
		mu.Lock()
		defer mu.Unlock()
		sizes = append(sizes, len(rs))
		for _, r := range rs {
			ok[r.PartitionKey]++
		}
		return nil
	}), bus.Backoff(time.Millisecond, time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	idle(t, b)
	mu.Lock()
	defer mu.Unlock()
	for k, n := range ok {
		if n < 10 {
			t.Errorf("key %s handled %d times, want 10 or more", k, n)
		}
	}
	if len(ok) != 29 {
		t.Errorf("%d keys handled, want 29", len(ok))
	}
	letters, err := b.DeadLetters(t.Context(), bus.Filter{}, 10)
	if err != nil || len(letters) != 1 || letters[0].Key != "k7" || letters[0].Events != 10 {
		t.Errorf("dead letters %+v, %v; want k7 with 10 events", letters, err)
	}
}

// provider is an outside system that honours idempotency keys.
type provider struct {
	mu     sync.Mutex
	asked  map[string]int
	effect map[string]int
}

func TestCall(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	p := &provider{asked: map[string]int{}, effect: map[string]int{}}
	var refuse atomic.Bool
	refuse.Store(true)
	b := newBus(t, s, nil)
	if err := b.Handle("g", bus.OnCall(thingDoneV1, bus.Call[numbered, string]{
		Do: func(_ context.Context, key string, e event.Of[numbered]) (string, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.asked[key]++
			if e.Payload.Key == "bad" && refuse.Load() {
				return "", errors.New("provider: unknown member")
			}
			p.effect[key] = 1
			return "ok", nil
		},
		Done: func(ctx context.Context, tx bus.Tx, e event.Of[numbered], answer string) error {
			if answer != "ok" {
				return fmt.Errorf("answer %q", answer)
			}
			return applyEffect(ctx, tx, e)
		},
	}), bus.Backoff(time.Millisecond, time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	for seq := 1; seq <= 5; seq++ {
		for _, k := range []string{"a", "b", "bad", "c"} {
			publish(t, s, numberedEvent(k, seq))
		}
	}
	idle(t, b)
	got := lastSeqs(t, s, "g")
	if got["a"] != 5 || got["b"] != 5 || got["c"] != 5 || got["bad"] != 0 {
		t.Errorf("handled %v; want a, b, c up to 5 and bad not at all", got)
	}
	refuse.Store(false)
	if _, err := b.Redrive(t.Context(), bus.Redrive{Act: bus.Act{Reason: "member added"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, s, func() bool { return lastSeqs(t, s, "g")["bad"] == 5 })
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.effect) != 20 {
		t.Errorf("the provider had %d effects, want 20", len(p.effect))
	}
}

// TestUnknownOutcome: an intent without a done row is a crash in between. The provider is asked, not called again.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	e := event.Complete(t.Context(), numberedEvent("a", 1))
	publish(t, s, e)
	b := newBus(t, s, nil)
	if err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO carebus_calls (grp, event_id, state, updated_at) VALUES ($1, $2, 'intent', 0), ($3, $4, 'intent', 0)`, "asks", e.ID, "raises", e.ID)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var did, resolved atomic.Int32
	call := bus.Call[numbered, string]{
		Do: func(context.Context, string, event.Of[numbered]) (string, error) { did.Add(1); return "", nil },
		Done: func(ctx context.Context, tx bus.Tx, e event.Of[numbered], _ string) error {
			return applyEffect(ctx, tx, e)
		},
		Resolve: func(_ context.Context, key string, _ event.Of[numbered]) (string, bool, error) {
			resolved.Add(1)
			return "done before", true, nil
		},
	}
	if err := b.Handle("asks", bus.OnCall(thingDoneV1, call)); err != nil {
		t.Fatal(err)
	}
	call.Resolve, call.NoRepeat = nil, true
	if err := b.Handle("raises", bus.OnCall(thingDoneV1, call)); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	idle(t, b)
	if did.Load() != 0 || resolved.Load() != 1 {
		t.Errorf("called %d times, asked %d times; want 0 and 1", did.Load(), resolved.Load())
	}
	letters, err := b.DeadLetters(t.Context(), bus.Filter{Group: "raises"}, 10)
	if err != nil || len(letters) != 1 || letters[0].Class != bus.Suspect {
		t.Errorf("dead letters %+v, %v; want one suspect", letters, err)
	}
}

func TestNewVersionDrainsParkedKeys(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	createEffects(t, s)
	publish(t, s, numberedEvent("a", 1), numberedEvent("a", 2))
	run := func(version string, h func(context.Context, bus.Tx, event.Of[numbered]) error) {
		b := newBus(t, s, nil)
		if err := b.Handle("g", bus.On(thingDoneV1, h), bus.Version(version)); err != nil {
			t.Fatal(err)
		}
		stop := start(t, b)
		idle(t, b)
		if version == "2" {
			eventually(t, s, func() bool { return lastSeqs(t, s, "g")["a"] == 2 })
		}
		stop()
	}
	run("1", func(context.Context, bus.Tx, event.Of[numbered]) error { return bus.Fatal(errors.New("bug")) })
	run("2", applyEffect)
}

func TestHandleRefusals(t *testing.T) {
	t.Parallel()
	b := newBus(t, newStore(t), nil)
	fine := bus.OnRecord("*", func(context.Context, bus.Tx, eventstore.Record) error { return nil })
	batch := bus.OnBatch("*", func(context.Context, bus.Tx, []eventstore.Record) error { return nil })
	for name, err := range map[string]error{
		"no name":       b.Handle("", fine),
		"space in name": b.Handle("a b", fine),
		"no handler":    b.Handle("a", bus.Tries(1)),
		"bad pattern":   b.Handle("a", bus.OnRecord("medication..x", nil)),
		"batch + other": b.Handle("a", batch, fine),
	} {
		var ce *bus.ConfigError
		if !errors.As(err, &ce) {
			t.Errorf("%s: %v; want a ConfigError", name, err)
		}
	}
	if err := b.Handle("twice", fine); err != nil {
		t.Fatal(err)
	}
	if err := b.Handle("twice", fine); err == nil {
		t.Error("the same group handled twice in one process was accepted")
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, typ string
		want         bool
	}{
		{"*", "patient.enrolled", true},
		{"**", "patient.record.created", true},
		{"patient.*", "patient.enrolled", true},
		{"patient.*", "patient.record.created", false},
		{"patient.**", "patient.record.created", true},
		{"*.record.created", "patient.record.created", true},
		{"patient.record.created", "patient.record.created", true},
		{"patient.record", "patient.record.created", false},
		{"patient.record.created", "patient.record", false},
		{"*", "platform.key.parked", false},
		{"*.key.parked", "platform.key.parked", false},
		{"platform.**", "platform.key.parked", true},
	} {
		if got := bus.Matches(c.pattern, c.typ); got != c.want {
			t.Errorf("Matches(%q, %q) = %v", c.pattern, c.typ, got)
		}
	}
}

// TestLongDrainGoesOn: a key with more waiting events than fit into one slice of work is drained to its end, although
// the group's heart beats, and its rows are read again, all the time.
func TestLongDrainGoesOn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var mended atomic.Bool
	b := newBus(t, s, &bus.Options{Lease: 30 * time.Millisecond})
	if err := b.Handle("g", bus.On(thingDoneV1, func(_ context.Context, _ bus.Tx, e event.Of[numbered]) error {
		if !mended.Load() {
			return bus.Fatal(errors.New("bug"))
		}
		time.Sleep(200 * time.Microsecond) // together they are many slices of work
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	const total = 2000
	events := make([]event.Event, total)
	for i := range events {
		events[i] = numberedEvent("a", i+1)
	}
	publish(t, s, events...)
	start(t, b)
	idle(t, b)
	mended.Store(true)
	if _, err := b.Redrive(t.Context(), bus.Redrive{Act: bus.Act{Reason: "mended"}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, s, func() bool {
		l, err := b.DeadLetters(t.Context(), bus.Filter{}, 1)
		return err == nil && len(l) == 0
	})
}

// TestFailedRelease: a partition that a member meant to give back, and could not, is given back later. Its lease is renewed
// with the others, so nobody else would ever have it.
func TestFailedRelease(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	handler := bus.OnRecord("test.**", func(context.Context, bus.Tx, eventstore.Record) error { return nil })
	first := newBus(t, s, &bus.Options{Member: "m", Lease: 300 * time.Millisecond})
	if err := first.Handle("g", handler, bus.FromStore()); err != nil {
		t.Fatal(err)
	}
	stop := start(t, first)
	idle(t, first)
	stop()
	// Another member is there, and has every other partition for its share; m is taken to have them still.
	if err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		far := time.Now().Add(time.Hour).UnixMicro()
		if _, err := tx.ExecContext(t.Context(), `INSERT INTO carebus_members (grp, member, expires_at) VALUES ('g', 'other', $1)`, far); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), `UPDATE carebus_checkpoints SET owner = 'm', expires_at = $1 WHERE grp = 'g'`, far)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	b := newBus(t, s, &bus.Options{Member: "m", Lease: 300 * time.Millisecond})
	if err := b.Handle("g", handler, bus.FromStore()); err != nil {
		t.Fatal(err)
	}
	start(t, b)
	eventually(t, s, func() bool {
		g, err := b.Group(t.Context(), "g")
		if err != nil {
			t.Fatal(err)
		}
		free, mine := 0, 0
		for _, p := range g.Partitions {
			switch p.Owner {
			case "":
				free++
			case "m":
				mine++
			}
		}
		return free == s.Partitions()/2 && mine == s.Partitions()/2
	})
	if _, err := b.Summary(t.Context()); err != nil { // on every engine
		t.Error(err)
	}
}
