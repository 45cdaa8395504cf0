package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// rungReport is what `carebus bench -o json` prints when it compares rungs.
type rungReport struct {
	Machine string       `json:"machine"`
	At      string       `json:"at"`                    // RFC 3339
	Load    string       `json:"loadAverage,omitempty"` // of the machine before and after, where it tells: others slow all
	Bytes   int          `json:"payloadBytes"`
	Rungs   []rungPoint  `json:"rungs"`
	Produce []kafkaPoint `json:"produce,omitempty"`
	Fetch   []kafkaPoint `json:"fetch,omitempty"`
}

// rungPoint is one measure, of all processes together.
type rungPoint struct {
	Rung      string  `json:"rung"`
	Name      string  `json:"name"`
	Processes int     `json:"processes"`
	Rate      float64 `json:"perSecond"`
	Median    float64 `json:"medianMicros,omitempty"`
	P99       float64 `json:"p99Micros,omitempty"`
	Raw       float64 `json:"raw"` // per second; what it is, rawText says
	Ratio     float64 `json:"ratio"`
	Free      float64 `json:"rawUnordered,omitempty"` // raw inserts of as many processes at once, without an order between them
	FreeRatio float64 `json:"ratioUnordered,omitempty"`
	Commits   float64 `json:"commitsPerSecond,omitempty"`
	Low       float64 `json:"lowestRatio"` // of the rounds
	High      float64 `json:"highestRatio"`
}

const rawText = `raw is, on each rung, the same number of processes with one connection each and nothing of carebus:
- publish: one INSERT of as many rows as the process has publishers (or of 200, beside batches of 200), durable when it
  returns, into a table with the columns and indexes of the events' table. "raw": one transaction at a time, under a lock
  that is held to the end of the commit, as whoever promises an order without gaps must. "unordered": at the same time.
- consume, no-op handler: reads of 500 rows of a partition in order, the place, commit; each process has its share of the partitions.
- consume, one upsert per event: the same with an upsert for each row by a statement of its own.
- consume, a batch's upserts together: the same with one statement for all of them.
- relay to Kafka: a producer in each process, acks=all, idempotent, lz4, as many records as it takes.
- relay to Kafka, beside a raw relay: reads of 2000 rows in order, sent by such a producer, the place; again when all are acknowledged.
- consume from Kafka, one upsert per event: the same with records of a topic instead of rows.`

// rungs is a run of `carebus bench` over rungs.
type rungs struct {
	c      benchConfig
	counts []int // of processes
	report *rungReport
	say    func(string)
	self   string
	talk   io.Writer
}

// rung is one store with a raw one beside it.
type rung struct {
	*rungs
	name    string
	store   string // as --store names it; the raw tables lie in the same folder or schema
	p       *carebus.Platform
	members []*worker // of the present number of processes
	topics  string    // what topics' names begin with; empty without Kafka
	server  *pgx.Conn // of the rungs that have one
}

// calm has the server write out what it has put off, where the user may ask for that: its checkpoints hold up whichever
// measure they fall on, this one's or raw's, by seconds.
func (g *rung) calm(ctx context.Context) {
	if g.server != nil {
		_, _ = g.server.Exec(ctx, "CHECKPOINT")
	}
}

// runRungs is the command.
func (c *benchConfig) runRungs(cmd *cobra.Command, a *app) error {
	if c.seconds <= 0 || c.rounds < 1 || c.publishers < 1 || c.events < 1000 {
		return usagef("give --seconds above 0, --rounds and --publishers from 1 and --events from 1000")
	}
	r, err := benchRungs(cmd.Context(), *c, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if a.json() {
		return printJSON(cmd.OutOrStdout(), r)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%s · payload %d bytes · load %s\n\n", r.Machine, r.Bytes, cmp.Or(r.Load, "unknown"))
	number := func(format string, v float64) string {
		if v == 0 {
			return ""
		}
		return fmt.Sprintf(format, v)
	}
	rows := [][]string{}
	for _, p := range r.Rungs {
		rows = append(rows, []string{p.Rung, p.Name, strconv.Itoa(p.Processes), number("%.0f", p.Rate), number("%.0f", p.Median), number("%.0f", p.P99), number("%.0f", p.Commits),
			number("%.0f", p.Raw), number("%.2f", p.Ratio), number("%.0f", p.Free), number("%.2f", p.FreeRatio)})
	}
	if err := a.table(out, []string{"rung", "measure", "processes", "per second", "median µs", "p99 µs", "commits/s", "raw", "ratio", "raw, unordered", "ratio"}, rows); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s\n", rawText)
	if len(r.Produce) == 0 {
		return nil
	}
	fmt.Fprintf(out, "\nKafka, acks=all, idempotent; at full rate, and at %d records a second:\n\n", pacedRate)
	rows = rows[:0]
	for _, p := range r.Produce {
		rows = append(rows, []string{p.Compression, fmt.Sprintf("%.0f", p.Linger), number("%.0f", p.Rate), number("%.0f", p.Wire), number("%.0f", p.Batch),
			number("%.0f", p.Median), number("%.0f", p.P99), number("%.0f", p.PacedWire), number("%.1f", p.PacedBatch)})
	}
	if err := a.table(out, []string{"compression", "linger ms", "per second", "bytes each", "a batch", "paced: median µs", "p99 µs", "bytes each", "a batch"}, rows); err != nil {
		return err
	}
	rows = rows[:0]
	for _, p := range r.Fetch {
		rows = append(rows, []string{p.Compression, number("%.0f", p.Rate)})
	}
	fmt.Fprintln(out)
	return a.table(out, []string{"compression", "consumed per second"}, rows)
}

func parseCounts(text string) (counts []int, err error) {
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > 64 {
			return nil, usagef("--processes %s: give numbers from 1 to 64, such as 1,2,4", text)
		}
		counts = append(counts, n)
	}
	return counts, nil
}

func machineText() string {
	return fmt.Sprintf("%d cores, %s/%s, %s", runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH, runtime.Version())
}

// benchRungs measures SQLite in a temporary folder, the PostgreSQL server and the Kafka cluster that are named.
func benchRungs(ctx context.Context, c benchConfig, talk io.Writer) (report *rungReport, err error) {
	r := &rungs{c: c, talk: talk, say: func(s string) { fmt.Fprintln(talk, s) }, report: &rungReport{
		Machine: machineText(), At: time.Now().UTC().Format(time.RFC3339), Bytes: len(benchEvent(benchKey(1)).Payload), Rungs: []rungPoint{},
	}}
	if r.counts, err = parseCounts(cmp.Or(c.processes, "1")); err != nil {
		return nil, err
	}
	if r.self, err = os.Executable(); err != nil {
		return nil, err
	}
	before := loadAverage()
	if err := r.sqlite(ctx); err != nil {
		return nil, err
	}
	if c.server != "" {
		if err := r.postgres(ctx); err != nil {
			return nil, err
		}
	}
	if c.kafka != "" {
		if err := r.kafka(ctx); err != nil {
			return nil, err
		}
	}
	if before != "" {
		r.report.Load = before + " before, " + loadAverage() + " after"
	}
	return r.report, nil
}

// loadAverage is of the last minute, where the system tells.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

func (r *rungs) sqlite(ctx context.Context) error {
	dir, err := os.MkdirTemp(r.c.dir, "carebus-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	raw, err := openRaw(ctx, dir)
	if err != nil {
		return err
	}
	if err := raw.close(); err != nil {
		return err
	}
	g := &rung{rungs: r, name: "sqlite", store: "sqlite:" + filepath.Join(dir, "carebus.db")}
	if err := r.measure(ctx, g); err != nil || r.c.server != "" {
		return err
	}
	return r.overKafka(ctx, g)
}

// postgres makes a schema of its own on the server and drops it: what else the database holds is not touched.
func (r *rungs) postgres(ctx context.Context) (err error) {
	schema := "carebus_bench_" + strings.ReplaceAll(event.NewID(), "-", "")
	address, err := withSchema(r.c.server, schema)
	if err != nil {
		return err
	}
	c, err := pgx.Connect(ctx, r.c.server)
	if err != nil {
		return fmt.Errorf("the server %s cannot be reached: %w", shown(r.c.server), err)
	}
	name := pgx.Identifier{schema}.Sanitize()
	if _, err = c.Exec(ctx, "CREATE SCHEMA "+name); err != nil {
		return errors.Join(err, c.Close(ctx))
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, derr := c.Exec(end, "DROP SCHEMA "+name+" CASCADE")
		err = errors.Join(err, derr, c.Close(end))
	}()
	if _, err := c.Exec(ctx, "SET search_path TO "+name); err != nil {
		return err
	}
	if _, err := c.Exec(ctx, rawPostgresTables); err != nil {
		return err
	}
	g := &rung{rungs: r, name: "postgres", store: address, server: c}
	if err := r.measure(ctx, g); err != nil {
		return err
	}
	return r.overKafka(ctx, g)
}

// measure is one thing that is measured; do does it once, with the processes that are there.
type measure struct {
	name string
	do   func(ctx context.Context, s *series) error
}

// measure measures a rung: publishing first, so that there is something to consume. All numbers of processes take turns,
// so that a machine that others slow down slows all of them.
func (r *rungs) measure(ctx context.Context, g *rung) (err error) {
	if g.p, err = carebus.Open(ctx, g.store, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.p.Close()) }()
	consume := func(name string, join, raw order) (all []measure) {
		join.Do = doJoin
		all = append(all, measure{name, func(ctx context.Context, s *series) error { return g.consume(ctx, s, join, raw) }})
		if g.name == "postgres" { // elsewhere it is the same
			beside := join
			beside.Concurrent = true
			all = append(all, measure{name + ", concurrent", func(ctx context.Context, s *series) error { return g.consume(ctx, s, beside, raw) }})
		}
		return all
	}
	for _, stage := range [][]measure{
		{
			{fmt.Sprintf("publish, %d publishers each", r.c.publishers), func(ctx context.Context, s *series) error {
				return g.publish(ctx, s, order{Do: doPublish, Publishers: r.c.publishers, Batch: 1}, r.c.publishers)
			}},
			{"publish, batches of 200", func(ctx context.Context, s *series) error {
				return g.publish(ctx, s, order{Do: doPublish, Publishers: 1, Batch: 200}, 200)
			}},
		},
		slices.Concat(
			consume("consume, no-op handler", order{}, order{Do: doRawRead}),
			consume("consume, one upsert per event", order{Effects: true}, order{Do: doRawEffects}),
			consume("consume, a batch's upserts together", order{Effects: true, Together: true}, order{Do: doRawEffects, Together: true}),
		),
	} {
		stage = slices.DeleteFunc(stage, func(m measure) bool { return !strings.Contains(g.name+" "+m.name, r.c.only) })
		if len(stage) == 0 {
			continue
		}
		all := make([]series, len(stage)*len(r.counts))
		for round := range r.c.rounds {
			for i, n := range r.counts {
				err := g.with(ctx, n, func(ctx context.Context) error {
					for k, m := range stage {
						s := &all[k*len(r.counts)+i]
						if err := m.do(ctx, s); err != nil {
							return fmt.Errorf("%s: %w", m.name, err)
						}
						r.say(fmt.Sprintf("%-9s %-47s %d × round %d %9.0f/s  raw %9.0f/s", g.name, m.name, n, round+1, s.rate[round], s.raw[round]))
					}
					return nil
				})
				if err != nil {
					return fmt.Errorf("%s, %d processes: %w", g.name, n, err)
				}
			}
		}
		for k, m := range stage {
			for i, n := range r.counts {
				p := all[k*len(r.counts)+i].point()
				p.Rung, p.Name, p.Processes = g.name, m.name, n
				r.report.Rungs = append(r.report.Rungs, p)
			}
		}
	}
	return nil
}

// with runs fn while n worker processes are ready.
func (g *rung) with(ctx context.Context, n int, fn func(ctx context.Context) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g.members = nil
	defer func() {
		for _, w := range g.members {
			err = errors.Join(err, w.end())
		}
	}()
	for i := range n {
		w, err := g.spawn(ctx, i, n)
		if err != nil {
			return err
		}
		g.members = append(g.members, w)
	}
	for _, w := range g.members {
		if _, err := w.answer(); err != nil {
			return err
		}
	}
	return fn(ctx)
}

// all gives an order to every process at once and waits for all.
func (g *rung) all(o order) (done workResult, err error) {
	for _, w := range g.members {
		err = errors.Join(err, w.tell(o))
	}
	for _, w := range g.members {
		one, werr := w.answer()
		err = errors.Join(err, werr)
		done.add(one)
	}
	return done, err
}

// series are the rounds of a measure, in each of which raw and carebus took turns.
type series struct {
	rate, raw, free, commits []float64
	times                    []time.Duration
}

// median of the rounds; of two, the mean.
func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

func (s *series) point() rungPoint {
	p := rungPoint{Rate: median(s.rate), Raw: median(s.raw), Free: median(s.free), Commits: median(s.commits)}
	p.Median, p.P99 = micros(percentile(s.times, 0.5)), micros(percentile(s.times, 0.99))
	var ratios []float64
	for i := range s.rate {
		ratios = append(ratios, s.rate[i]/s.raw[i])
	}
	p.Ratio, p.Low, p.High = median(ratios), slices.Min(ratios), slices.Max(ratios)
	if p.Free > 0 {
		p.FreeRatio = p.Rate / p.Free
	}
	return p
}

// publish measures publishing beside raw inserts of rows.
func (g *rung) publish(ctx context.Context, s *series, own order, rows int) error {
	own.Seconds = g.c.seconds
	g.calm(ctx)
	raw := order{Do: doRaw, Rows: rows, Seconds: g.c.seconds, Ordered: true}
	r, err := g.all(raw)
	if err != nil {
		return err
	}
	s.raw = append(s.raw, r.rate)
	g.calm(ctx)
	if r, err = g.all(own); err != nil {
		return err
	}
	s.rate, s.commits, s.times = append(s.rate, r.rate), append(s.commits, r.commits), append(s.times, r.times...)
	if g.name == "sqlite" || len(g.members) == 1 {
		return nil // there is no such thing as inserts without an order
	}
	raw.Ordered = false
	g.calm(ctx)
	if r, err = g.all(raw); err != nil {
		return err
	}
	s.free = append(s.free, r.rate)
	return nil
}

// consume measures a group of all processes that handles the log again, beside raw.
func (g *rung) consume(ctx context.Context, s *series, join, raw order) error {
	raw.Seconds = g.c.seconds
	join.Group = "bench-" + event.NewID()
	if join.Effects {
		err := g.p.Store().Migrate(ctx, "bench", `CREATE TABLE bench_effect (k TEXT PRIMARY KEY, n BIGINT NOT NULL)`)
		if err != nil {
			return err
		}
	}
	g.calm(ctx)
	r, err := g.all(raw)
	if err != nil {
		return err
	}
	s.raw = append(s.raw, r.rate)
	g.calm(ctx)
	if _, err := g.all(join); err != nil {
		return err
	}
	if err := g.shared(ctx, join.Group); err != nil {
		return err
	}
	events := g.c.events
	if !join.Effects {
		events *= 8
	}
	rate, err := g.drain(ctx, join.Group, events)
	if err != nil {
		return err
	}
	s.rate = append(s.rate, rate)
	_, err = g.all(order{Do: doLeave})
	return err
}

// shared waits until the processes have shared the partitions.
func (g *rung) shared(ctx context.Context, group string) error {
	members := min(len(g.members), kafkaPartitions)
	for {
		st, err := g.p.Bus().Group(ctx, group)
		if err != nil && !errors.Is(err, bus.ErrNoGroup) {
			return err
		}
		own := map[string]int{}
		for _, p := range st.Partitions {
			own[p.Owner]++
		}
		if err == nil && own[""] == 0 && len(own) == members && st.Lag == 0 {
			return nil
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain lets the group go back, by so many events at most, and returns how fast it comes through.
func (g *rung) drain(ctx context.Context, group string, events int) (rate float64, err error) {
	heads, err := g.p.Store().Heads(ctx)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	offsets := make([]int64, len(heads))
	for p, h := range heads {
		offsets[p] = max(0, h-int64(events/len(heads)))
		total += h - offsets[p]
	}
	if total < 1000 {
		return 0, fmt.Errorf("only %d events are stored; publish more: raise --seconds, and do not leave publishing out by --only", total)
	}
	act := bus.Act{Actor: "bench", Reason: "measured"}
	if err := g.p.Bus().Pause(ctx, group, act); err != nil {
		return 0, err
	}
	for p, off := range offsets {
		if err := g.p.Bus().Seek(ctx, group, bus.At(p, off), act); err != nil {
			return 0, err
		}
	}
	return g.release(ctx, group, sum(offsets), total)
}

func sum(v []int64) (total int64) {
	for _, x := range v {
		total += x
	}
	return total
}

// places is the sum of the places of a group.
func (g *rung) places(ctx context.Context, group string) (total int64, err error) {
	err = g.p.Store().View(ctx, func(q eventstore.Querier) error {
		return q.QueryRowContext(ctx, `SELECT COALESCE(SUM(next), 0) FROM carebus_checkpoints WHERE grp = $1`, group).Scan(&total)
	})
	return total, err
}

// release resumes a group that is paused and watches it until it has come further by total; it returns how fast it did.
// What counts are checkpoints, so what is committed.
func (g *rung) release(ctx context.Context, group string, from, total int64) (rate float64, err error) {
	begin := time.Now()
	if _, err := g.all(order{Do: doResume, Group: group}); err != nil {
		return 0, err
	}
	for {
		at, err := g.places(ctx, group)
		if err != nil {
			return 0, err
		}
		if at-from >= total {
			return float64(total) / time.Since(begin).Seconds(), nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// worker is a process that does what it is told.
type worker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func (g *rung) spawn(ctx context.Context, i, n int) (*worker, error) {
	cmd := exec.CommandContext(ctx, g.self, "bench", "worker", "--index", strconv.Itoa(i), "--of", strconv.Itoa(n),
		"--kafka", g.c.kafka, "--topics", g.topics)
	cmd.Env = append(os.Environ(), "CAREBUS_STORE="+g.store) // not an argument, which other users of the machine see
	cmd.Stderr = g.talk
	w := &worker{cmd: cmd}
	var err error
	if w.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.out = json.NewDecoder(out)
	return w, cmd.Start()
}

func (w *worker) tell(o order) error { return json.NewEncoder(w.in).Encode(o) }

func (w *worker) answer() (workResult, error) {
	var a workerAnswer
	if err := w.out.Decode(&a); err != nil {
		return workResult{}, fmt.Errorf("a worker process gave no answer: %w", err)
	}
	if a.Error != "" {
		return workResult{}, fmt.Errorf("a worker process: %s", a.Error)
	}
	return a.result(), nil
}

// end lets the process leave its groups and end.
func (w *worker) end() error {
	_ = w.in.Close()
	return w.cmd.Wait()
}
