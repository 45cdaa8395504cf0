package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// order is what `carebus bench` tells its worker processes to do, one JSON value each.
type order struct {
	Do         work    `json:"do"`
	Seconds    float64 `json:"seconds,omitempty"` // how long, for what is measured by time
	Publishers int     `json:"publishers,omitempty"`
	Batch      int     `json:"batch,omitempty"`   // events that a publisher publishes at once
	Rows       int     `json:"rows,omitempty"`    // of a raw insert
	Ordered    bool    `json:"ordered,omitempty"` // raw inserts under a lock, one process at a time
	Group      string  `json:"group,omitempty"`
	Effects    bool    `json:"effects,omitempty"`  // the handler writes a row
	Together   bool    `json:"together,omitempty"` // a batch's rows by one statement
	Concurrent bool    `json:"concurrent,omitempty"`
}

type work string

const (
	doPublish    work = "publish"
	doRaw        work = "raw"
	doRawRead    work = "raw-read"
	doRawEffects work = "raw-effects"
	doJoin       work = "join"
	doResume     work = "resume" // a group that is paused: whoever resumes it looks at once, others at their next heartbeat
	doLeave      work = "leave"
	doRawProduce work = "raw-produce"
	doRawRelay   work = "raw-relay"
	doRawFetch   work = "raw-fetch"
)

// workerAnswer is what a worker process answers an order with. Times are microseconds.
type workerAnswer struct {
	Error   string  `json:"error,omitempty"`
	Count   int     `json:"count"`
	Seconds float64 `json:"seconds"`
	Commits int64   `json:"commits,omitempty"`
	Times   []int64 `json:"times,omitempty"`
}

// workResult is what all processes have done.
type workResult struct {
	rate, commits float64 // per second
	times         []time.Duration
}

func (a *workerAnswer) result() workResult {
	var r workResult
	if a.Seconds > 0 {
		r.rate, r.commits = float64(a.Count)/a.Seconds, float64(a.Commits)/a.Seconds
	}
	for _, t := range a.Times {
		r.times = append(r.times, time.Duration(t)*time.Microsecond)
	}
	return r
}

func (r *workResult) add(o workResult) {
	r.rate, r.commits, r.times = r.rate+o.rate, r.commits+o.commits, append(r.times, o.times...)
}

// rawProcess is one process of the raw baseline of a rung.
type rawProcess interface {
	// insert stores rows in one durable transaction; ordered under the lock that orders those of all processes.
	insert(ctx context.Context, rows int, ordered bool) error
	// read reads up to 1000 rows in order, of one partition after the other.
	read(ctx context.Context) (int, error)
	// effects reads up to 500 rows, writes a row for each, and its place, durably.
	effects(ctx context.Context, together bool) (int, error)
	// relay reads up to relayRows rows, has them sent, and writes its place, durably.
	relay(ctx context.Context, send func(events []event.Event) error) (int, error)
	// upsert writes a row for each key, by a statement each or by one together, and a place, durably.
	upsert(ctx context.Context, keys []string, together bool) error
	close(ctx context.Context) error
}

// relayRows are as many as carebus's own relay takes at once.
const relayRows = 2000

// workerConfig are the flags of a worker process.
type workerConfig struct {
	store         string
	index, of     int
	kafka, topics string
}

func newBenchWorkerCommand(a *app) *cobra.Command {
	var c workerConfig
	cmd := &cobra.Command{
		Use:    "worker",
		Short:  "A process of bench",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx := cmd.Context()
			c.store = a.store
			w := &benchWorker{c: c}
			o := &carebus.Options{Lease: 3 * time.Second}
			if c.topics != "" {
				o.Kafka = (&rungs{c: benchConfig{kafka: c.kafka}}).kafkaOptions(c.topics)
			}
			if w.p, err = a.open(ctx, cmd, o); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.p.Close()) }()
			if w.raw, err = openRawProcess(ctx, c); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, w.raw.close(context.WithoutCancel(ctx))) }()
			if c.topics != "" {
				if w.kafka, err = openRawKafka(c, w.raw); err != nil {
					return err
				}
				defer w.kafka.close()
			}
			running, stop := context.WithCancel(ctx)
			ran := make(chan error, 1)
			go func() {
				err := w.p.Run(running)
				if err != nil {
					fmt.Fprintln(cmd.ErrOrStderr(), "a worker's groups have ended:", err) // the order under way may wait for them
				}
				ran <- err
			}()
			defer func() {
				stop()
				err = errors.Join(err, <-ran)
			}()
			return w.serve(ctx, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&c.index, "index", 0, "which of the processes")
	cmd.Flags().IntVar(&c.of, "of", 1, "how many processes")
	cmd.Flags().StringVar(&c.kafka, "kafka", "", "brokers")
	cmd.Flags().StringVar(&c.topics, "topics", "", "Kafka is the bus, and its topics begin so")
	return cmd
}

func openRawProcess(ctx context.Context, c workerConfig) (rawProcess, error) {
	if onServer(c.store) {
		return openRawPostgres(ctx, c)
	}
	return openRawSQLite(ctx, c)
}

// benchWorker carries out orders.
type benchWorker struct {
	c     workerConfig
	p     *carebus.Platform
	raw   rawProcess
	kafka *rawKafka
	group string
	next  int
}

// serve answers orders until there are no more. The first answer says that the process is ready.
func (w *benchWorker) serve(ctx context.Context, in io.Reader, out io.Writer) error {
	enc, dec := json.NewEncoder(out), json.NewDecoder(in)
	if err := enc.Encode(workerAnswer{}); err != nil {
		return err
	}
	for {
		var o order
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		a, err := w.do(ctx, o)
		if err != nil {
			a = workerAnswer{Error: err.Error()}
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
}

func (w *benchWorker) do(ctx context.Context, o order) (workerAnswer, error) {
	for_ := time.Duration(o.Seconds * float64(time.Second))
	switch o.Do {
	case doPublish:
		return w.publish(ctx, o, for_)
	case doRaw:
		return repeat(ctx, for_, func() (int, error) { return o.Rows, w.raw.insert(ctx, o.Rows, o.Ordered) })
	case doRawRead:
		return repeat(ctx, for_, func() (int, error) { return w.raw.read(ctx) })
	case doRawEffects:
		return repeat(ctx, for_, func() (int, error) { return w.raw.effects(ctx, o.Together) })
	case doRawProduce:
		return w.kafka.produce(ctx, for_)
	case doRawRelay:
		return repeat(ctx, for_, func() (int, error) { return w.kafka.relay(ctx) })
	case doRawFetch:
		return repeat(ctx, for_, func() (int, error) { return w.kafka.fetch(ctx) })
	case doJoin:
		return w.join(o)
	case doResume:
		return workerAnswer{}, w.p.Bus().Resume(ctx, o.Group, bus.Act{Actor: "bench", Reason: "measured"})
	case doLeave:
		return workerAnswer{}, w.p.Bus().Leave(ctx, w.group)
	}
	return workerAnswer{}, fmt.Errorf("no such work: %q", o.Do)
}

// repeat does something for a time.
func repeat(ctx context.Context, d time.Duration, do func() (int, error)) (a workerAnswer, err error) {
	begin := time.Now()
	for time.Since(begin) < d && ctx.Err() == nil {
		n, err := do()
		if err != nil {
			return a, err
		}
		a.Count += n
	}
	a.Seconds = time.Since(begin).Seconds()
	return a, ctx.Err()
}

// publish lets publishers publish, each waiting for its answer, for a time.
func (w *benchWorker) publish(ctx context.Context, o order, d time.Duration) (a workerAnswer, err error) {
	times, errs := make([][]int64, o.Publishers), make([]error, o.Publishers)
	var wg sync.WaitGroup
	commits := w.p.Store().Stats().Commits
	first := w.next
	w.next += 100_000_000
	begin := time.Now()
	for i := range o.Publishers {
		wg.Go(func() {
			events := make([]event.Event, o.Batch)
			for n := 0; time.Since(begin) < d; n++ {
				for k := range events {
					events[k] = benchEvent(fmt.Sprint("RX", w.c.index, "-", first+i+o.Publishers*(n*o.Batch+k)))
				}
				at := time.Now()
				if _, errs[i] = w.p.PublishBatch(ctx, events); errs[i] != nil {
					return
				}
				times[i] = append(times[i], time.Since(at).Microseconds())
			}
		})
	}
	wg.Wait()
	a.Seconds, a.Commits = time.Since(begin).Seconds(), w.p.Store().Stats().Commits-commits
	for _, t := range times {
		a.Count += len(t) * o.Batch
		a.Times = append(a.Times, t...)
	}
	return a, errors.Join(errs...)
}

func (w *benchWorker) join(o order) (workerAnswer, error) {
	w.group = o.Group
	handler := func(context.Context, bus.Tx, eventstore.Record) error { return nil }
	if o.Effects {
		handler = func(_ context.Context, tx bus.Tx, r eventstore.Record) error {
			_, err := tx.Exec(`INSERT INTO bench_effect (k, n) VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET n = bench_effect.n + 1`, r.PartitionKey)
			return err
		}
	}
	options := []bus.Option{bus.Start(bus.FromNow)}
	if o.Concurrent {
		options = append(options, bus.Concurrent())
	}
	if o.Together {
		return workerAnswer{}, w.p.Handle(o.Group, append(options, bus.OnBatch("**", func(_ context.Context, tx bus.Tx, rs []eventstore.Record) error {
			keys := make([]string, len(rs))
			for i := range rs {
				keys[i] = rs[i].PartitionKey
			}
			text, args := upsertAll("bench_effect", keys)
			_, err := tx.Exec(text, args...)
			return err
		}))...)
	}
	return workerAnswer{}, w.p.Handle(o.Group, append(options, bus.OnRecord("**", handler))...)
}

// upsertAll is one statement for the rows of all keys.
func upsertAll(table string, keys []string) (text string, args []any) {
	count := map[string]int{}
	for _, k := range keys {
		count[k]++
	}
	var b strings.Builder
	fmt.Fprintf(&b, "INSERT INTO %s (k, n) VALUES ", table)
	for _, k := range slices.Sorted(maps.Keys(count)) {
		if len(args) > 0 {
			b.WriteByte(',')
		}
		args = append(args, k)
		fmt.Fprintf(&b, "($%d, %d)", len(args), count[k])
	}
	fmt.Fprintf(&b, " ON CONFLICT (k) DO UPDATE SET n = %s.n + excluded.n", table)
	return b.String(), args
}

// rawSQLite is a process of the raw baseline on SQLite.
type rawSQLite struct {
	*rawStore
	c    workerConfig
	part int
	from []int64
}

func openRawSQLite(ctx context.Context, c workerConfig) (*rawSQLite, error) {
	r := &rawSQLite{c: c, from: make([]int64, 12)}
	var err error
	if r.rawStore, err = connectRaw(ctx, filepath.Join(filepath.Dir(strings.TrimPrefix(c.store, "sqlite:")), "raw.db")); err != nil {
		return nil, err
	}
	r.next = int64(c.index) << 36
	err = r.conn.QueryRowContext(ctx, `SELECT COALESCE(MAX(recorded), ?) + 1 FROM raw WHERE recorded >= ? AND recorded < ?`,
		r.next-1, r.next, r.next+1<<36).Scan(&r.next)
	return r, err
}

func (r *rawSQLite) insert(ctx context.Context, rows int, _ bool) error {
	return r.commit(ctx, benchEvent(benchKey(1)), rows, true)
}

const rawPart = `SELECT ` + rawColumns + ` FROM raw WHERE pos >= ? AND pos < ? ORDER BY pos LIMIT ?`

// turn is the next partition of this process's share.
func turn(part *int, c workerConfig) int {
	*part = (*part + c.of) % 12
	return (*part + c.index) % 12
}

func (r *rawSQLite) some(limit int, each func(e *event.Event)) (n int, err error) {
	part := turn(&r.part, r.c)
	first := max(r.from[part], int64(part)<<40)
	st, err := r.conn.PrepareContext(context.Background(), rawPart)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	n, last, err := rawRows(st, each, first, int64(part+1)<<40, limit)
	if r.from[part] = last + 1; n < limit {
		r.from[part] = 0 // once more from the beginning
	}
	return n, err
}

func (r *rawSQLite) read(ctx context.Context) (int, error) {
	n, err := r.some(500, func(*event.Event) {})
	if err != nil {
		return 0, err
	}
	return n, r.upsert(ctx, nil, false)
}

func (r *rawSQLite) effects(ctx context.Context, together bool) (int, error) {
	var keys []string
	n, err := r.some(500, func(e *event.Event) { keys = append(keys, e.PartitionKey) })
	if err != nil {
		return 0, err
	}
	return n, r.upsert(ctx, keys, together)
}

func (r *rawSQLite) relay(ctx context.Context, send func(events []event.Event) error) (int, error) {
	var events []event.Event
	n, err := r.some(relayRows, func(e *event.Event) { events = append(events, *e) })
	if err != nil {
		return 0, err
	}
	if err := send(events); err != nil {
		return 0, err
	}
	return n, r.upsert(ctx, nil, false)
}

func (r *rawSQLite) upsert(ctx context.Context, keys []string, together bool) error {
	if _, err := r.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if together && len(keys) > 0 {
		text, args := upsertAll("raw_effect", keys)
		if _, err := r.conn.ExecContext(ctx, text, args...); err != nil {
			return err
		}
		keys = nil
	}
	st, err := r.conn.PrepareContext(ctx, rawUpsert)
	if err != nil {
		return err
	}
	defer st.Close()
	for _, k := range append(keys, fmt.Sprint("place ", r.part)) {
		if _, err := st.ExecContext(ctx, k); err != nil {
			return err
		}
	}
	_, err = r.conn.ExecContext(ctx, "COMMIT")
	return err
}

func (r *rawSQLite) close(context.Context) error { return r.rawStore.close() }
