package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/bus/kafka"
	"github.com/carebus/carebus/event"
)

// kafkaPoint is one measure of raw Kafka: acks=all, idempotent producer, records as a relay writes them.
type kafkaPoint struct {
	Compression string  `json:"compression"`
	Linger      float64 `json:"lingerMillis"`
	Rate        float64 `json:"perSecond"`            // as many as the producer takes
	Median      float64 `json:"medianMicros"`         // from the moment a record is due to its acknowledgement, at Paced a second
	P99         float64 `json:"p99Micros"`            //
	Paced       int     `json:"pacedPerSecond"`       //
	Wire        float64 `json:"wireBytesPerRecord"`   // at full rate: produce requests, with their headers
	PacedWire   float64 `json:"pacedBytesPerRecord"`  // at Paced a second, where batches are small
	Batch       float64 `json:"recordsPerBatch"`      // at full rate
	PacedBatch  float64 `json:"pacedRecordsPerBatch"` //
}

const pacedRate = 1000

// kafkaPartitions of the topics, and of stores.
const kafkaPartitions = 12

// overKafka measures the rung on which Kafka is the bus, over the store of g: the relay, and a group that reads topics and
// has its effects in the store. Both are paused while what they are measured with is published.
func (r *rungs) overKafka(ctx context.Context, g *rung) (err error) {
	names := [...]string{"relay to Kafka", "relay to Kafka, beside a raw relay", "consume from Kafka, one upsert per event, concurrent"}
	if r.c.kafka == "" || !strings.Contains(g.name+"+kafka "+strings.Join(names[:], " "), r.c.only) {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(r.c.kafka, ",")...))
	if err != nil {
		return err
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	id := event.NewID()
	g.topics = "carebus-bench-" + id[len(id)-12:] + "."
	if res, err := admin.CreateTopic(ctx, kafkaPartitions, -1, nil, rawTopic(g.topics)); err != nil {
		return errors.Join(err, res.Err)
	}
	defer func() { err = errors.Join(err, removeTopics(context.WithoutCancel(ctx), admin, g.topics)) }()
	if g.p, err = carebus.Open(ctx, g.store, &carebus.Options{Kafka: r.kafkaOptions(g.topics), Member: "bench"}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.p.Close()) }()
	if err := g.p.Store().Migrate(ctx, "bench", `CREATE TABLE bench_effect (k TEXT PRIMARY KEY, n BIGINT NOT NULL)`); err != nil {
		return err
	}
	if err := g.store500(ctx); err != nil { // the topic is there before somebody reads it
		return err
	}
	all := make([][len(names)]series, len(r.counts))
	for round := range r.c.rounds {
		for i, n := range r.counts {
			err := g.with(ctx, n, func(ctx context.Context) error {
				if err := g.relayAndConsume(ctx, &all[i]); err != nil {
					return err
				}
				for k, name := range names {
					s := &all[i][k]
					r.say(fmt.Sprintf("%-9s %-32s %d × round %d %9.0f/s  raw %9.0f/s", g.name+"+kafka", name, n, round+1, s.rate[round], s.raw[round]))
				}
				return nil
			})
			if err != nil {
				return fmt.Errorf("%s and Kafka, %d processes: %w", g.name, n, err)
			}
		}
	}
	for k, name := range names {
		for i, n := range r.counts {
			p := all[i][k].point()
			p.Rung, p.Name, p.Processes = g.name+"+kafka", name, n
			r.report.Rungs = append(r.report.Rungs, p)
		}
	}
	return nil
}

func (r *rungs) kafkaOptions(topics string) *kafka.Options {
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return &kafka.Options{Client: []kgo.Opt{kgo.SeedBrokers(strings.Split(r.c.kafka, ",")...)}, Prefix: topics, Logger: quiet}
}

func removeTopics(ctx context.Context, admin *kadm.Client, prefix string) error {
	list, err := admin.ListTopics(ctx)
	if err != nil {
		return err
	}
	names := []string{}
	for _, name := range list.Names() {
		if strings.HasPrefix(name, prefix) || name == rawTopic(prefix) {
			names = append(names, name)
		}
	}
	_, err = admin.DeleteTopics(ctx, names...)
	return err
}

// relayAndConsume measures the relay, beside a producer that has its records in memory and beside a raw relay, and a group.
func (g *rung) relayAndConsume(ctx context.Context, measures *[3]series) error {
	act := bus.Act{Actor: "bench", Reason: "measured"}
	const relay = "kafka-relay"
	group := "bench-" + event.NewID()
	if err := g.p.Bus().Resume(ctx, relay, act); err != nil && !errors.Is(err, bus.ErrNoGroup) {
		return err
	}
	if err := g.shared(ctx, relay); err != nil { // and all that was stored before is sent
		return err
	}
	if _, err := g.all(order{Do: doJoin, Group: group, Effects: true, Concurrent: true}); err != nil {
		return err
	}
	if err := g.shared(ctx, group); err != nil {
		return err
	}
	for _, name := range []string{relay, group} {
		if err := g.p.Bus().Pause(ctx, name, act); err != nil {
			return err
		}
	}
	fromRelay, err := g.places(ctx, relay)
	if err != nil {
		return err
	}
	fromGroup, err := g.places(ctx, group)
	if err != nil {
		return err
	}
	total := int64(0)
	for ; total < int64(g.c.events); total += 500 {
		if err := g.store500(ctx); err != nil {
			return err
		}
	}
	// The raw relay reads rows of the raw baseline: of those that publishing has left, and of these.
	if _, err := g.all(order{Do: doRaw, Rows: 500, Ordered: true, Seconds: 0.3}); err != nil {
		return err
	}
	rates := map[string]float64{}
	for k, m := range [...]struct {
		raw  work
		name string
		from int64
	}{{doRawProduce, relay, fromRelay}, {doRawRelay, relay, fromRelay}, {doRawFetch, group, fromGroup}} {
		g.calm(ctx)
		raw, err := g.all(order{Do: m.raw, Seconds: g.c.seconds})
		if err != nil {
			return err
		}
		if rates[m.name] == 0 { // the relay is measured once
			g.calm(ctx)
			if rates[m.name], err = g.release(ctx, m.name, m.from, total); err != nil {
				return err
			}
		}
		s := &measures[k]
		s.raw, s.rate = append(s.raw, raw.rate), append(s.rate, rates[m.name])
	}
	_, err = g.all(order{Do: doLeave})
	return err
}

func (g *rung) store500(ctx context.Context) error {
	events := make([]event.Event, 500)
	for i := range events {
		events[i] = benchEvent("RX" + event.NewID())
	}
	_, err := g.p.PublishBatch(ctx, events)
	return err
}

// rawKafka is a process of the raw baseline on Kafka.
type rawKafka struct {
	producer, consumer *kgo.Client
	records            []*kgo.Record
	store              rawProcess // where the effects go
}

func openRawKafka(c workerConfig, store rawProcess) (*rawKafka, error) {
	brokers, topic := strings.Split(c.kafka, ","), rawTopic(c.topics)
	r := &rawKafka{records: kafkaRecords(30_000, uint64(c.index)), store: store}
	var err error
	if r.producer, err = producer(brokers, topic, kgo.Lz4Compression(), 0, &wire{}); err != nil {
		return nil, err
	}
	mine := map[int32]kgo.Offset{}
	for p := c.index; p < kafkaPartitions; p += c.of {
		mine[int32(p)] = kgo.NewOffset().AtStart()
	}
	r.consumer, err = kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: mine}))
	return r, err
}

// produce sends records for a time and waits until all are acknowledged.
func (r *rawKafka) produce(ctx context.Context, d time.Duration) (a workerAnswer, err error) {
	var failed atomic.Pointer[error]
	begin := time.Now()
	for ; a.Count%256 != 0 || time.Since(begin) < d; a.Count++ {
		t := r.records[a.Count%len(r.records)]
		r.producer.Produce(ctx, &kgo.Record{Key: t.Key, Value: t.Value}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := r.producer.Flush(ctx); err != nil {
		return a, err
	}
	a.Seconds = time.Since(begin).Seconds()
	if e := failed.Load(); e != nil {
		return a, *e
	}
	return a, nil
}

// relay sends rows of the store, and waits until all are acknowledged.
func (r *rawKafka) relay(ctx context.Context) (int, error) {
	return r.store.relay(ctx, func(events []event.Event) error {
		records := make([]*kgo.Record, len(events))
		for i := range events {
			records[i] = &kgo.Record{Key: []byte(events[i].PartitionKey), Value: events[i].AppendJSON(nil)}
		}
		return r.producer.ProduceSync(ctx, records...).FirstErr()
	})
}

// fetch takes up to 500 records and has the effects of them.
func (r *rawKafka) fetch(ctx context.Context) (int, error) {
	fs := r.consumer.PollRecords(ctx, 500)
	if err := fs.Err(); err != nil {
		return 0, err
	}
	keys := []string{}
	fs.EachRecord(func(rec *kgo.Record) { keys = append(keys, string(rec.Key)) })
	return len(keys), r.store.upsert(ctx, keys, false)
}

func (r *rawKafka) close() {
	r.producer.Close()
	r.consumer.Close()
}

func (r *rungs) kafka(ctx context.Context) (err error) {
	brokers := strings.Split(r.c.kafka, ",")
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...))
	if err != nil {
		return err
	}
	defer cl.Close()
	admin := kadm.NewClient(cl)
	records := kafkaRecords(60_000, 1) // more than a batch holds of all partitions, so that none has the same one twice
	for _, c := range []struct {
		name  string
		codec kgo.CompressionCodec
	}{{"none", kgo.NoCompression()}, {"lz4", kgo.Lz4Compression()}, {"zstd", kgo.ZstdCompression()}} {
		topic := "carebus.bench." + event.NewID()
		if res, err := admin.CreateTopic(ctx, kafkaPartitions, -1, nil, topic); err != nil {
			return errors.Join(err, res.Err)
		}
		err := func() error {
			for _, linger := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond} {
				p, err := r.produce(ctx, brokers, topic, c.codec, linger, records)
				if err != nil {
					return err
				}
				p.Compression, p.Linger = c.name, float64(linger.Milliseconds())
				r.report.Produce = append(r.report.Produce, p)
				r.say(fmt.Sprintf("kafka     produce, %-4s, linger %2.0f ms        %9.0f/s  %.0f bytes each", c.name, p.Linger, p.Rate, p.Wire))
			}
			rate, err := r.fetch(ctx, brokers, topic)
			if err != nil {
				return err
			}
			r.report.Fetch = append(r.report.Fetch, kafkaPoint{Compression: c.name, Rate: rate})
			r.say(fmt.Sprintf("kafka     consume, %-4s                      %9.0f/s", c.name, rate))
			return nil
		}()
		_, derr := admin.DeleteTopics(context.WithoutCancel(ctx), topic)
		if err = errors.Join(err, derr); err != nil {
			return fmt.Errorf("kafka, %s: %w", c.name, err)
		}
	}
	return nil
}

// records are made before the measures: events that differ from each other as events do, in ids, names, amounts and
// times, so that compression finds no more than it would.
func kafkaRecords(n int, seed uint64) []*kgo.Record {
	rng := rand.New(rand.NewPCG(seed, 1))
	given, family := []string{"John", "Mary", "Ahmed", "Wei", "Sofia", "Ivan", "Aisha", "Lars"}, []string{"Smith", "Jones", "Khan", "Li", "Rossi", "Petrov", "Osei", "Berg"}
	drugs := []string{"Lisinopril 10mg Tablet", "Metformin 500mg Tablet", "Atorvastatin 20mg Tablet", "Amoxicillin 500mg Capsule", "Albuterol 90mcg Inhaler"}
	out := make([]*kgo.Record, n)
	for i := range out {
		e := benchEvent(benchKey(rng.IntN(1e8)))
		cost := rng.IntN(30000)
		e.Payload = json.RawMessage(fmt.Sprintf(`{"prescriptionId":"RX%08d","patientId":"P%09d","fillId":"F%09d","fillNumber":%d,`+
			`"medication":{"ndc":"%05d-%04d-%02d","name":"%s","quantity":%d,"daysSupply":%d,"directions":"Take %d tablet by mouth daily"},`+
			`"filledAt":"%s","pharmacy":{"id":"PHARM%03d","name":"Community Pharmacy","ncpdpId":"%07d"},`+
			`"prescriber":{"id":"PROV%03d","npi":"%010d","name":"Dr. %s %s"},"cost":{"patientPay":%d.%02d,"insurancePay":%d.50,"totalCost":%d.%02d}}`,
			rng.IntN(1e8), rng.IntN(1e9), rng.IntN(1e9), rng.IntN(12), rng.IntN(1e5), rng.IntN(1e4), rng.IntN(100), drugs[rng.IntN(len(drugs))], 30*(1+rng.IntN(3)), 30*(1+rng.IntN(3)), 1+rng.IntN(3),
			time.UnixMilli(1.7e12+rng.Int64N(5e10)).UTC().Format(time.RFC3339), rng.IntN(1000), rng.IntN(1e7), rng.IntN(1000), rng.IntN(1e9), given[rng.IntN(len(given))], family[rng.IntN(len(family))],
			cost/200, cost%100, cost/150, cost/100, cost%100))
		e = event.Complete(context.Background(), e)
		e.PartitionKey = e.CorrelationID // as the store does
		out[i] = &kgo.Record{Key: []byte(e.PartitionKey), Value: e.AppendJSON(nil)}
	}
	return out
}

// wire counts what is sent.
type wire struct{ bytes, records, batches atomic.Int64 }

// OnBrokerWrite counts the bytes of produce requests, whose key is 0.
func (w *wire) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, n int, _, _ time.Duration, _ error) {
	if key == 0 {
		w.bytes.Add(int64(n))
	}
}

// OnProduceBatchWritten counts batches.
func (w *wire) OnProduceBatchWritten(_ kgo.BrokerMetadata, _ string, _ int32, m kgo.ProduceBatchMetrics) {
	w.batches.Add(1)
	w.records.Add(int64(m.NumRecords))
}

func (w *wire) each() (bytes, batch float64) {
	n := float64(max(w.records.Load(), 1))
	return float64(w.bytes.Load()) / n, n / float64(max(w.batches.Load(), 1))
}

func (w *wire) reset() {
	w.bytes.Store(0)
	w.records.Store(0)
	w.batches.Store(0)
}

func producer(brokers []string, topic string, codec kgo.CompressionCodec, linger time.Duration, w *wire) (*kgo.Client, error) {
	return kgo.NewClient(
		kgo.SeedBrokers(brokers...), kgo.DefaultProduceTopic(topic), kgo.RequiredAcks(kgo.AllISRAcks()), kgo.WithHooks(w),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), kgo.ProducerBatchCompression(codec), kgo.ProducerLinger(linger),
		kgo.MaxBufferedRecords(10_000),
	)
}

// produce measures a producer at full rate, then at a rate that leaves it time.
func (r *rungs) produce(ctx context.Context, brokers []string, topic string, codec kgo.CompressionCodec, linger time.Duration, templates []*kgo.Record) (p kafkaPoint, err error) {
	w := &wire{}
	cl, err := producer(brokers, topic, codec, linger, w)
	if err != nil {
		return p, err
	}
	defer cl.Close()
	record := func(i int) *kgo.Record {
		t := templates[i%len(templates)]
		return &kgo.Record{Key: t.Key, Value: t.Value}
	}
	var failed atomic.Pointer[error]
	if err := cl.ProduceSync(ctx, record(0)).FirstErr(); err != nil { // knows the brokers now
		return p, err
	}
	w.reset()
	d := time.Duration(r.c.seconds * float64(time.Second))
	n, begin := 0, time.Now()
	for ; n%256 != 0 || time.Since(begin) < d; n++ {
		cl.Produce(ctx, record(n), func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Store(&err)
			}
		})
	}
	if err := cl.Flush(ctx); err != nil {
		return p, err
	}
	p.Rate = float64(n) / time.Since(begin).Seconds()
	p.Wire, p.Batch = w.each()

	w.reset()
	total := int(r.c.seconds * pacedRate)
	times := make([]time.Duration, total)
	var wg sync.WaitGroup
	begin = time.Now()
	for i := range total {
		due := begin.Add(time.Duration(i) * time.Second / pacedRate)
		if err := pause(ctx, time.Until(due)); err != nil {
			return p, err
		}
		wg.Add(1)
		cl.Produce(ctx, record(i), func(_ *kgo.Record, err error) {
			times[i] = time.Since(due)
			if err != nil {
				failed.Store(&err)
			}
			wg.Done()
		})
	}
	wg.Wait()
	p.Paced, p.Median, p.P99 = pacedRate, micros(percentile(times, 0.5)), micros(percentile(times, 0.99))
	p.PacedWire, p.PacedBatch = w.each()
	if e := failed.Load(); e != nil {
		return p, *e
	}
	return p, nil
}

// fetch measures reading a topic from its beginning to its end.
func (r *rungs) fetch(ctx context.Context, brokers []string, topic string) (rate float64, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(ctx, topic)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	n, begin := int64(0), time.Now()
	for n < total {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return 0, err
		}
		n += int64(fs.NumRecords())
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

// rawTopic is none that groups would take for one of the bus.
func rawTopic(prefix string) string { return "raw-" + prefix + "events" }
