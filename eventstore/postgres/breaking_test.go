package postgres_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/storetest"
)

func TestMain(m *testing.M) {
	if address := os.Getenv("CAREBUS_POSTGRES_CHILD"); address != "" {
		child(address)
		return
	}
	goleak.VerifyTestMain(m)
}

const (
	keys  = 16
	lease = time.Second
)

// quick are options by which failures are noticed soon.
func quick() *postgres.Options {
	return &postgres.Options{IdleTimeout: lease / 2, Connections: 4, Logger: slog.New(slog.DiscardHandler)}
}

func open(t *testing.T, address string, o *postgres.Options) *eventstore.Store {
	t.Helper()
	d, err := postgres.Open(context.Background(), address, o)
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

// made is an event whose content follows from its id.
func made(id, key string) event.Event {
	return event.Event{
		Metadata: event.Metadata{ID: id, Type: "test.thing.done", Version: "1.0.0", Source: "breaking-test", CorrelationID: "flow-" + key, Timestamp: 1, PartitionKey: key},
		Payload:  []byte(`{"id":"` + id + `","filler":"` + strings.Repeat("x", 400) + `"}`),
	}
}

func key(i int) string { return fmt.Sprintf("k%02d", i) }

// load publishes and handles until ctx ends, through whatever happens to its connections. acked tells of every event that
// was acknowledged. An append whose outcome is open is made again with the same ids, as the store says is safe; only what
// no failure of the server may cause ends the load.
func load(ctx context.Context, s *eventstore.Store, first, n int, acked func(key string, version int64)) error {
	b, err := bus.New(ctx, s, &bus.Options{Lease: lease, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if err := b.Handle("g", bus.OnRecord("test.thing.done", effect)); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, n+1)
	for i := range n {
		wg.Go(func() { errs[i] = publish(ctx, s, key(first+i), acked) })
	}
	wg.Go(func() { errs[n] = b.Run(ctx) })
	wg.Wait()
	return errors.Join(errs...)
}

func publish(ctx context.Context, s *eventstore.Store, key string, acked func(key string, version int64)) error {
	for ctx.Err() == nil {
		version, err := s.StreamVersion(ctx, key)
		for err == nil && ctx.Err() == nil {
			e := made(fmt.Sprintf("%s-%d", key, version+1), key)
			for {
				_, err = s.Append(ctx, key, version, e)
				if !errors.Is(err, eventstore.ErrUnavailable) || ctx.Err() != nil {
					break
				}
			}
			if err == nil {
				version++
				acked(key, version)
			}
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, eventstore.ErrUnavailable) {
			return fmt.Errorf("publishing after version %d of %s: %w", version, key, err)
		}
	}
	return nil
}

// effect counts what was handled, and refuses what comes twice or out of order.
func effect(_ context.Context, tx bus.Tx, r eventstore.Record) error {
	res, err := tx.Exec(`UPDATE effects SET last = $1 WHERE key = $2 AND last = $3`, r.StreamVersion, r.PartitionKey, r.StreamVersion-1)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return bus.Fatal(fmt.Errorf("version %d of %s was handled twice or out of order (%w)", r.StreamVersion, r.PartitionKey, err))
	}
	return nil
}

func prepare(t *testing.T, s *eventstore.Store) {
	t.Helper()
	if err := s.Migrate(t.Context(), "effects", `CREATE TABLE effects (key TEXT PRIMARY KEY, last BIGINT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), func(tx *eventstore.Tx) error {
		for i := range keys {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO effects (key, last) VALUES ($1, 0)`, key(i)); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// ledger is what was acknowledged.
type ledger struct {
	mu    sync.Mutex
	last  map[string]int64
	total atomic.Int64
	more  chan struct{}
}

func newLedger() *ledger { return &ledger{last: map[string]int64{}, more: make(chan struct{}, 1)} }

func (l *ledger) ack(key string, version int64) {
	l.mu.Lock()
	l.last[key] = max(l.last[key], version)
	l.mu.Unlock()
	l.total.Add(1)
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// wait returns when n more events were acknowledged, and how long the first of them took.
func (l *ledger) wait(t *testing.T, n int64, failed <-chan error) time.Duration {
	t.Helper()
	begin, from := time.Now(), l.total.Load()
	var first time.Duration
	select {
	case <-l.more: // of before
	default:
	}
	for l.total.Load() < from+n {
		select {
		case <-l.more:
			if first == 0 {
				first = time.Since(begin)
			}
		case err := <-failed:
			t.Fatalf("the load ended: %v", err)
		case <-t.Context().Done():
			t.Fatal("no progress")
		}
	}
	return first
}

// settled handles what is left and holds the store against the ledger: everything acknowledged is there, once, in order,
// and so are the effects; the store verifies.
func settled(t *testing.T, s *eventstore.Store, l *ledger) {
	t.Helper()
	b, err := bus.New(t.Context(), s, &bus.Options{Lease: lease, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Handle("g", bus.OnRecord("test.thing.done", effect)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	for {
		if err := b.Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		letters, err := b.DeadLetters(t.Context(), bus.Filter{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(letters) == 0 {
			break
		}
		for _, d := range letters {
			if d.Class != bus.Suspect {
				t.Errorf("key %s parked as %s: %s", d.Key, d.Class, d.Error)
			}
		}
		if t.Failed() {
			break
		}
		tick := s.Tick()
		if _, err := b.Redrive(t.Context(), bus.Redrive{Act: bus.Act{Reason: "killed by the test"}}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	total := int64(0)
	for i := range keys {
		k := key(i)
		version, err := s.StreamVersion(t.Context(), k)
		if err != nil {
			t.Fatal(err)
		}
		var last int64
		if err := s.View(t.Context(), func(q eventstore.Querier) error {
			return q.QueryRowContext(t.Context(), `SELECT last FROM effects WHERE key = $1`, k).Scan(&last)
		}); err != nil {
			t.Fatal(err)
		}
		if version < l.last[k] || last != version {
			t.Errorf("key %s: %d acknowledged, %d stored, effects up to %d", k, l.last[k], version, last)
		}
		total += version
	}
	r, err := s.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Faults {
		t.Errorf("verify: %+v", f)
	}
	types, err := s.Types(t.Context()) // beside ours there are what the bus tells of parked keys
	if err != nil {
		t.Fatal(err)
	}
	all := int64(0)
	for eventType, n := range types {
		if all += n; eventType != "test.thing.done" && !strings.HasPrefix(eventType, "platform.key.") && !strings.HasPrefix(eventType, "platform.redrive.") {
			t.Errorf("%d events of type %s", n, eventType)
		}
	}
	if types["test.thing.done"] != total || total == 0 || r.Events != all {
		t.Errorf("the streams hold %d events, the log %d and %d in all, verify saw %d", total, types["test.thing.done"], all, r.Events)
	}
	t.Logf("%d events acknowledged; stored: %v", l.total.Load(), types)
}

func rounds(short, long int) int {
	if testing.Short() {
		return short
	}
	return long
}

// TestServerKilled: the server is killed, with all its processes, under load; what it has acknowledged survives, and the
// load goes on by itself when it is back.
func TestServerKilled(t *testing.T) {
	server := storetest.NewCluster(t)
	o := quick()
	o.BusyTimeout = 30 * time.Second
	s := open(t, server.Address, o)
	prepare(t, s)
	l := newLedger()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 2)
	other := open(t, server.Address, o)
	for i, s := range []*eventstore.Store{s, other} {
		go func() { failed <- load(ctx, s, i*keys/2, keys/2, l.ack) }()
	}
	var longest time.Duration
	for range rounds(3, 20) {
		l.wait(t, 200, failed)
		server.Kill(t)
		longest = max(longest, l.wait(t, 200, failed))
	}
	server.Restart(t) // and an orderly one
	l.wait(t, 200, failed)
	cancel()
	for range 2 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	t.Logf("longest time from the server's return to the next acknowledgement: %v", longest)
	settled(t, s, l)
}

// TestConnectionsCut: connections are cut at random moments, of an insert, of a commit, of its answer.
func TestConnectionsCut(t *testing.T) {
	direct := storetest.Postgres(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	address, p := storetest.Through(t, direct)
	s := open(t, address, quick())
	prepare(t, s)
	l := newLedger()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 2)
	other := open(t, address, quick())
	for i, s := range []*eventstore.Store{s, other} {
		go func() { failed <- load(ctx, s, i*keys/2, keys/2, l.ack) }()
	}
	for i := range rounds(15, 100) {
		l.wait(t, 20+rnd.Int64N(100), failed)
		share := 0.3
		if i%3 == 0 {
			share = 1
		}
		p.Cut(share, rnd)
	}
	l.wait(t, 200, failed)
	cancel()
	for range 2 {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
	settled(t, open(t, direct, nil), l)
}

// child loads half of the keys until it is told to end. It prints what was acknowledged.
func child(address string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	d, err := postgres.Open(ctx, address, quick())
	if err == nil {
		s := eventstore.New(d, nil)
		var out sync.Mutex
		err = errors.Join(load(ctx, s, 0, keys/2, func(key string, version int64) {
			out.Lock()
			defer out.Unlock()
			fmt.Println(key, version)
		}), s.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

// TestPaused: a process is stopped for longer than its leases, and than the server lets a transaction be idle, again and
// again. The others go on, take its partitions over, and nothing that it does when it wakes up is done twice.
func TestPaused(t *testing.T) {
	address := storetest.Postgres(t)
	s := open(t, address, quick())
	prepare(t, s)
	l := newLedger()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "CAREBUS_POSTGRES_CHILD="+address)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	theirs, read := newLedger(), make(chan struct{})
	go func() {
		defer close(read)
		in := bufio.NewScanner(stdout)
		for in.Scan() {
			var k string
			var v int64
			if n, err := fmt.Sscan(in.Text(), &k, &v); n == 2 && err == nil {
				theirs.ack(k, v)
			}
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() { failed <- load(ctx, s, keys/2, keys/2, l.ack) }()
	var longest time.Duration
	for range rounds(2, 50) {
		theirs.wait(t, 20, failed)
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// However the process was caught, the others' commits go on; and by the time that the leases are over several
		// times they have its partitions.
		begin := time.Now()
		longest = max(longest, l.wait(t, 10, failed))
		for time.Since(begin) < 2*lease {
			l.wait(t, 10, failed)
		}
		if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	theirs.wait(t, 20, failed)
	cancel()
	if err := <-failed; err != nil {
		t.Error(err)
	}
	_ = cmd.Process.Signal(syscall.SIGTERM)
	<-read
	if err := cmd.Wait(); err != nil {
		t.Errorf("the paused process: %v\n%s", err, stderr.String())
	}
	for k, v := range theirs.last {
		l.last[k] = v
	}
	l.total.Add(theirs.total.Load())
	t.Logf("longest time from the stop of a process to the next acknowledgement of another: %v", longest)
	settled(t, s, l)
}
