package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// benchReport is what `carebus bench -o json` prints. Rates are per second; ratios compare with the raw engine,
// measured in the same run right before.
type benchReport struct {
	Machine string       `json:"machine"`
	Engine  string       `json:"engine"`
	Stored  int64        `json:"stored"`       // events stored when the measures began
	Bytes   int          `json:"payloadBytes"` // payload of one event
	Results []benchPoint `json:"results"`
}

type benchPoint struct {
	Name   string  `json:"name"`
	Rate   float64 `json:"perSecond"`
	Median float64 `json:"medianMicros,omitempty"`
	P99    float64 `json:"p99Micros,omitempty"`
	Raw    float64 `json:"raw,omitempty"`   // the baseline: a rate, or microseconds where medians are compared
	Ratio  float64 `json:"ratio,omitempty"` // rate / raw, or median / raw
	Aim    string  `json:"aim,omitempty"`
}

type benchConfig struct {
	events int
	fill   int
	dir    string
	cpu    string
	only   string

	// Over rungs.
	server     string
	kafka      string
	processes  string
	publishers int
	seconds    float64
	rounds     int
}

func (c *benchConfig) overRungs() bool { return c.server != "" || c.kafka != "" || c.processes != "" }

func newBenchCommand(a *app) *cobra.Command {
	var c benchConfig
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure this machine: publish, consume, load, replay, commands, sagas, projections, each beside the raw engine",
		Long: `Measures durable publishing with validation, consuming, appends to streams and loads, replay, commands, sagas, read models
and their rebuild on a fresh store in a temporary folder, each beside what the engine does without carebus in the same
run. Quote the ratios: machines differ and are noisy. With --fill the store first gets that many events, to see whether
size matters.

With --store postgres://…, --kafka or --processes it compares rungs instead: publishing and consuming on SQLite, on that
PostgreSQL server, in a schema that it makes and drops, and on that Kafka cluster, in topics that it makes and removes;
with as many processes at once as --processes says, one number after the other.`,
		Example: `carebus bench
carebus bench --store 'postgres://carebus@localhost/care' --processes 1,2,4
carebus bench --store 'postgres://carebus@localhost/care' --kafka localhost:9092 -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("store") { // not by the environment: that names a store that is at work
				if c.server = a.store; !onServer(c.server) {
					return usagef("--store %s: bench makes stores of its own; name a server, postgres://…, or leave --store out", shown(c.server))
				}
			}
			if c.overRungs() {
				return c.runRungs(cmd, a)
			}
			r, err := runBench(cmd.Context(), c, func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), s) })
			if err != nil {
				return err
			}
			if a.json() {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(r)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s · %s · %d events stored · payload %d bytes\n\n", r.Machine, r.Engine, r.Stored, r.Bytes)
			rows := [][]string{}
			for _, p := range r.Results {
				row := []string{p.Name, fmt.Sprintf("%.0f", p.Rate), "", "", "", "", p.Aim}
				if p.Median > 0 {
					row[2], row[3] = fmt.Sprintf("%.0f", p.Median), fmt.Sprintf("%.0f", p.P99)
				}
				if p.Raw > 0 {
					row[4], row[5] = fmt.Sprintf("%.0f", p.Raw), fmt.Sprintf("%.2f", p.Ratio)
				}
				rows = append(rows, row)
			}
			return a.table(cmd.OutOrStdout(), []string{"measure", "per second", "median µs", "p99 µs", "raw", "ratio", "aim"}, rows)
		},
	}
	cmd.Flags().IntVar(&c.events, "events", 60_000, "events per measure")
	cmd.Flags().IntVar(&c.fill, "fill", 0, "events to store before measuring")
	cmd.Flags().StringVar(&c.dir, "dir", "", "folder for the temporary store (default: the system's)")
	cmd.Flags().StringVar(&c.only, "only", "", "run only the measures whose name contains this")
	cmd.Flags().StringVar(&c.cpu, "cpuprofile", "", "write a CPU profile of carebus's measures to this file")
	cmd.Flags().StringVar(&c.kafka, "kafka", "", "also measure these brokers, HOST:PORT,HOST:PORT")
	cmd.Flags().StringVar(&c.processes, "processes", "", "compare rungs with so many processes, such as 1,2,4")
	cmd.Flags().IntVar(&c.publishers, "publishers", 256, "publishers in each process, where rungs are compared")
	cmd.Flags().Float64Var(&c.seconds, "seconds", 2, "length of a measure, where rungs are compared")
	cmd.Flags().IntVar(&c.rounds, "rounds", 3, "how often each is made, in turns with the others, where rungs are compared")
	cmd.AddCommand(newBenchHTTPCommand(a), newBenchWorkerCommand(a))
	return cmd
}

const (
	benchType   = "medication.prescription.filled"
	benchSource = "pharmacy-service"
)

// benchEvent is the source document's nested sample, about 500 bytes of payload, with ids of its own.
func benchEvent(key string) event.Event {
	return event.Event{
		Metadata: event.Metadata{Type: benchType, Version: "2.0.0", Source: benchSource},
		Payload: json.RawMessage(`{"prescriptionId":"` + key + `","patientId":"P987654321","fillId":"F123456789","fillNumber":1,` +
			`"medication":{"ndc":"12345-6789-10","name":"Lisinopril 10mg Tablet","quantity":30,"daysSupply":30,"directions":"Take 1 tablet by mouth daily"},` +
			`"filledAt":"2023-03-01T10:00:00Z","pharmacy":{"id":"PHARM123","name":"Community Pharmacy","ncpdpId":"1234567"},` +
			`"prescriber":{"id":"PROV456","npi":"1234567890","name":"Dr. John Smith"},"cost":{"patientPay":10.00,"insurancePay":25.50,"totalCost":35.50}}`),
	}
}

func benchKey(i int) string { return fmt.Sprintf("RX%08d", i) }

// bench is one run.
type bench struct {
	c      benchConfig
	p      *carebus.Platform
	raw    *rawStore
	report *benchReport
	say    func(string)
	next   atomic.Int64
}

func runBench(ctx context.Context, c benchConfig, say func(string)) (report *benchReport, err error) {
	dir, err := os.MkdirTemp(c.dir, "carebus-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{c: c, say: say, report: &benchReport{
		Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH, runtime.Version()),
		Bytes:   len(benchEvent(benchKey(1)).Payload), Results: []benchPoint{},
	}}
	if b.p, err = carebus.Open(ctx, "sqlite:"+dir+"/carebus.db", nil); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.p.Close()) }()
	if b.raw, err = openRaw(ctx, dir); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.raw.close()) }()
	info := b.p.Store().Info()
	b.report.Engine = fmt.Sprintf("%s, %d partitions", info.Name, info.Partitions)
	if err := b.fill(ctx); err != nil {
		return nil, err
	}
	if c.cpu != "" {
		f, err := os.Create(c.cpu)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return nil, err
		}
		defer pprof.StopCPUProfile()
	}
	for _, m := range []func(context.Context) error{
		b.publishOne, b.publish64, b.publish256, b.publishBatch, b.consumeNothing, b.consumeTx, b.aggregate, b.load, b.replay,
		b.commands, b.sagas, b.projections,
	} {
		if err := m(ctx); err != nil {
			return nil, err
		}
	}
	return b.report, nil
}

// fill stores events in bulk, in both stores, ten to a stream, so that indexes have their full size.
func (b *bench) fill(ctx context.Context) error {
	const batch = 1000
	begin := time.Now()
	for done := 0; done < b.c.fill; done += batch {
		events := make([]event.Event, batch)
		for i := range events {
			events[i] = benchEvent(benchKey(int(b.next.Add(1))))
		}
		if _, err := b.p.PublishBatch(ctx, events); err != nil {
			return err
		}
		if err := b.raw.commit(ctx, events[0], batch, true); err != nil {
			return err
		}
		if done%100_000 == 0 && done > 0 {
			b.say(fmt.Sprintf("filling: %d of %d (%.0f/s)", done, b.c.fill, float64(done)/time.Since(begin).Seconds()))
		}
	}
	heads, err := b.p.Store().Heads(ctx)
	for _, h := range heads {
		b.report.Stored += h
	}
	return err
}

func (b *bench) wants(name string) bool { return b.c.only == "" || strings.Contains(name, b.c.only) }

func (b *bench) add(p benchPoint) {
	b.report.Results = append(b.report.Results, p)
	b.say(fmt.Sprintf("%-34s %9.0f/s  ratio %.2f", p.Name, p.Rate, p.Ratio))
}

// publish measures n publishers that each publish one event after the other, validated, each acknowledged after its fsync.
func (b *bench) publish(ctx context.Context, publishers, total int) (rate float64, each []time.Duration, err error) {
	per := total / publishers
	times := make([][]time.Duration, publishers)
	errs := make([]error, publishers)
	var wg sync.WaitGroup
	begin := time.Now()
	for i := range publishers {
		wg.Go(func() {
			times[i] = make([]time.Duration, 0, per)
			for range per {
				t := time.Now()
				if _, err := b.p.Publish(ctx, benchEvent(benchKey(int(b.next.Add(1))))); err != nil {
					errs[i] = err
					return
				}
				times[i] = append(times[i], time.Since(t))
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	for _, t := range times {
		each = append(each, t...)
	}
	return float64(per*publishers) / took.Seconds(), each, errors.Join(errs...)
}

func micros(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

func (b *bench) publishOne(ctx context.Context) error {
	const name = "publish, 1 publisher"
	if !b.wants(name) {
		return nil
	}
	n := min(b.c.events/10, 3000)
	// Interleaved, so that a machine whose fsync slows down slows both.
	var raws, ours []time.Duration
	var rate float64
	for range 5 {
		_, raw, err := b.raw.inserts(ctx, benchEvent(benchKey(1)), n/5, 1, true)
		if err != nil {
			return err
		}
		r, each, err := b.publish(ctx, 1, n/5)
		if err != nil {
			return err
		}
		raws, ours, rate = append(raws, raw), append(ours, each...), rate+r/5
	}
	raw := percentile(raws, 0.5)
	med := percentile(ours, 0.5)
	b.add(benchPoint{Name: name, Rate: rate, Median: micros(med), P99: micros(percentile(ours, 0.99)), Raw: micros(raw),
		Ratio: float64(med) / float64(raw), Aim: "median ≤ 1.5 × one raw commit (µs)"})
	return nil
}

func (b *bench) publish64(ctx context.Context) error  { return b.publishMany(ctx, 64, "") }
func (b *bench) publish256(ctx context.Context) error { return b.publishMany(ctx, 256, "≥ 0.6") }

func (b *bench) publishMany(ctx context.Context, publishers int, aim string) error {
	name := fmt.Sprintf("publish, %d publishers", publishers)
	if !b.wants(name) {
		return nil
	}
	var rawRate, rate float64
	var each []time.Duration
	const rounds = 3
	for range rounds {
		raw, _, err := b.raw.inserts(ctx, benchEvent(benchKey(1)), b.c.events/rounds, publishers, true)
		if err != nil {
			return err
		}
		r, e, err := b.publish(ctx, publishers, b.c.events/rounds)
		if err != nil {
			return err
		}
		rawRate, rate, each = rawRate+raw/rounds, rate+r/rounds, append(each, e...)
	}
	b.add(benchPoint{Name: name, Rate: rate, Median: micros(percentile(each, 0.5)), P99: micros(percentile(each, 0.99)), Raw: rawRate, Ratio: rate / rawRate, Aim: aim})
	return nil
}

func (b *bench) publishBatch(ctx context.Context) error {
	const name = "publish, batches of 200"
	if !b.wants(name) {
		return nil
	}
	raw, _, err := b.raw.inserts(ctx, benchEvent(benchKey(1)), b.c.events, 200, true)
	if err != nil {
		return err
	}
	begin, total := time.Now(), 0
	for total < b.c.events {
		events := make([]event.Event, 200)
		for i := range events {
			events[i] = benchEvent(benchKey(int(b.next.Add(1))))
		}
		if _, err := b.p.PublishBatch(ctx, events); err != nil {
			return err
		}
		total += len(events)
	}
	rate := float64(total) / time.Since(begin).Seconds()
	b.add(benchPoint{Name: name, Rate: rate, Raw: raw, Ratio: rate / raw})
	return nil
}

// consume measures how fast a new group gets through up to limit stored events.
func (b *bench) consume(ctx context.Context, limit int64, opts ...bus.Option) (rate float64, err error) {
	bb, err := bus.New(ctx, b.p.Store(), nil)
	if err != nil {
		return 0, err
	}
	group := "bench-" + event.NewID()
	heads, err := b.p.Store().Heads(ctx)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	var from time.Time
	for p, h := range heads {
		if skip := h - limit/int64(len(heads)); skip > 0 {
			r, err := b.p.Store().Partition(ctx, eventstore.PartitionQuery{Partition: p, From: skip, Limit: 1})
			if err != nil {
				return 0, err
			}
			if len(r.Records) > 0 && r.Records[0].RecordedAt.After(from) {
				from = r.Records[0].RecordedAt
			}
		}
	}
	for p, h := range heads {
		off, err := b.p.Store().OffsetAt(ctx, p, from)
		if err != nil {
			return 0, err
		}
		total += h - off
	}
	if !from.IsZero() {
		opts = append(opts, bus.Start(bus.FromTime(from)))
	}
	if err := bb.Handle(group, opts...); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	begin := time.Now()
	go func() { done <- bb.Run(ctx) }()
	err = bb.Idle(ctx)
	took := time.Since(begin)
	cancel()
	return float64(total) / took.Seconds(), errors.Join(err, <-done)
}

func (b *bench) consumeNothing(ctx context.Context) error {
	const name = "consume, no-op handler"
	if !b.wants(name) {
		return nil
	}
	raw, err := b.raw.scan(ctx, 4*b.c.events)
	if err != nil {
		return err
	}
	rate, err := b.consume(ctx, int64(4*b.c.events), bus.OnRecord("**", func(context.Context, bus.Tx, eventstore.Record) error { return nil }))
	if err != nil {
		return err
	}
	b.add(benchPoint{Name: name, Rate: rate, Raw: raw, Ratio: rate / raw, Aim: "≥ 150 k/s"})
	return nil
}

func (b *bench) consumeTx(ctx context.Context) error {
	const name = "consume, one upsert per event"
	if !b.wants(name) {
		return nil
	}
	raw, err := b.raw.effects(ctx, b.c.events, 500)
	if err != nil {
		return err
	}
	if err := b.p.Store().Migrate(ctx, "bench", `CREATE TABLE bench_effect (k TEXT PRIMARY KEY, n BIGINT NOT NULL)`); err != nil {
		return err
	}
	rate, err := b.consume(ctx, int64(2*b.c.events), bus.OnRecord("**", func(_ context.Context, tx bus.Tx, r eventstore.Record) error {
		_, err := tx.Exec(`INSERT INTO bench_effect (k, n) VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET n = bench_effect.n + 1`, r.PartitionKey)
		return err
	}))
	if err != nil {
		return err
	}
	b.add(benchPoint{Name: name, Rate: rate, Raw: raw, Ratio: rate / raw, Aim: "≥ 40 k/s"})
	return nil
}

const benchStreams = "bench/"

// aggregate measures appends with an expected version: 64 writers, ten events to each stream, one append per event.
func (b *bench) aggregate(ctx context.Context) error {
	const name = "append to streams, 64 writers"
	if !b.wants(name) && !b.wants("load") {
		return nil
	}
	raw, _, err := b.raw.inserts(ctx, benchEvent(benchKey(1)), b.c.events/2, 64, true)
	if err != nil {
		return err
	}
	streams := b.c.events / 2 / 10
	var wg sync.WaitGroup
	errs := make([]error, 64)
	begin := time.Now()
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < streams; i += 64 {
				key := benchKey(i)
				for v := range int64(10) {
					if _, err := b.p.Append(ctx, benchStreams+key, v, benchEvent(key)); err != nil {
						errs[w] = err
						return
					}
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	rate := float64(streams*10) / time.Since(begin).Seconds()
	b.add(benchPoint{Name: name, Rate: rate, Raw: raw, Ratio: rate / raw})
	return nil
}

// load measures reading whole streams of ten events: each once, and then each ten times more, as an entity that is at
// work is read again and again.
func (b *bench) load(ctx context.Context) error {
	const first, again = "load a stream of 10 events, first time", "load a stream of 10 events, again"
	if !b.wants(first) && !b.wants(again) {
		return nil
	}
	raw, err := b.raw.loads(ctx, min(b.c.events/10, int(b.raw.next/10)))
	if err != nil {
		return err
	}
	streams := b.c.events / 2 / 10
	load := func(i int) error {
		recs, err := b.p.Store().Stream(ctx, eventstore.StreamQuery{Stream: benchStreams + benchKey(i), From: 1, Limit: 1000})
		if err == nil && len(recs) != 10 {
			err = fmt.Errorf("stream has %d events, want 10", len(recs))
		}
		return err
	}
	rate, err := readStreams(ctx, streams, streams, load)
	if err != nil {
		return err
	}
	b.add(benchPoint{Name: first, Rate: rate, Raw: raw, Ratio: rate / raw})
	if rate, err = readStreams(ctx, 10*streams, streams, load); err != nil {
		return err
	}
	b.add(benchPoint{Name: again, Rate: rate, Raw: raw, Ratio: rate / raw, Aim: "≥ 40 k/s"})
	return nil
}

// replay measures a group handling the log again from the beginning of a window, decoded and in order.
func (b *bench) replay(ctx context.Context) error {
	const name = "replay to a batch handler"
	if !b.wants(name) {
		return nil
	}
	raw, err := b.raw.scan(ctx, 4*b.c.events)
	if err != nil {
		return err
	}
	rate, err := b.consume(ctx, int64(4*b.c.events), bus.OnBatch("**", func(_ context.Context, _ bus.Tx, rs []eventstore.Record) error { return nil }))
	if err != nil {
		return err
	}
	b.add(benchPoint{Name: name, Rate: rate, Raw: raw, Ratio: rate / raw})
	return nil
}
