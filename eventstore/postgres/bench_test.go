package postgres_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/storetest"
)

// rawTable has the columns and indexes of carebus_events and nothing else of carebus.
const rawTable = `CREATE TABLE raw (pos bigint PRIMARY KEY, timestamp bigint, recorded bigint, stream bigint, version bigint, type bigint, origin bigint,
	id text COLLATE "C", correlation text COLLATE "C", causation text COLLATE "C", trace text COLLATE "C", key text COLLATE "C", hash bytea, payload bytea);
CREATE UNIQUE INDEX raw_id ON raw (id);
CREATE INDEX raw_correlation ON raw (correlation, recorded);
CREATE INDEX raw_type ON raw (type, timestamp, pos);
CREATE UNIQUE INDEX raw_stream ON raw (stream, version) WHERE stream IS NOT NULL`

type rawStore struct {
	conn *pgx.Conn
	next int64
}

// insert stores n rows by one statement, durable when it returns.
func (r *rawStore) insert(ctx context.Context, n int) error {
	ints := make([][]int64, 7)
	texts := make([][]string, 5)
	hashes, payloads := make([][]byte, n), make([][]byte, n)
	for c := range ints {
		ints[c] = make([]int64, n)
	}
	for c := range texts {
		texts[c] = make([]string, n)
	}
	for i := range n {
		r.next++
		e := made(event.NewID(), fmt.Sprint("k", r.next%1000))
		e.CorrelationID = event.NewID()
		for c, v := range [7]int64{r.next%12<<40 | r.next/12, time.Now().UnixMilli(), r.next, r.next / 10, r.next % 10, r.next % 20, 1} {
			ints[c][i] = v
		}
		for c, v := range [5]string{e.ID, e.CorrelationID, e.CausationID, e.TraceID, e.PartitionKey} {
			texts[c][i] = v
		}
		hashes[i], payloads[i] = make([]byte, 32), e.Payload
	}
	args := []any{}
	for _, c := range ints {
		args = append(args, c)
	}
	for _, c := range texts {
		args = append(args, c)
	}
	_, err := r.conn.Exec(ctx, `INSERT INTO raw SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
		$8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[])`, append(args, hashes, payloads)...)
	return err
}

// BenchmarkAgainstRaw publishes with 256 publishers, over one, two and four stores as if of so many processes, and inserts
// the same number of rows by raw multi-row inserts of 256, in turns, and reports both rates and their ratio.
func BenchmarkAgainstRaw(b *testing.B) {
	for _, processes := range []int{1, 2, 4} {
		b.Run(fmt.Sprint(processes), func(b *testing.B) { againstRaw(b, processes) })
	}
}

func againstRaw(b *testing.B, processes int) {
	address := storetest.Postgres(b)
	ctx := b.Context()
	var stores []*eventstore.Store
	for range processes {
		d, err := postgres.Open(ctx, address, nil)
		if err != nil {
			b.Fatal(err)
		}
		s := eventstore.New(d, nil)
		defer s.Close()
		stores = append(stores, s)
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		b.Fatal(err)
	}
	raw := &rawStore{conn: conn}
	defer raw.conn.Close(context.WithoutCancel(ctx))
	if _, err := raw.conn.Exec(ctx, rawTable); err != nil {
		b.Fatal(err)
	}
	const publishers, per = 256, 8
	var ours, theirs time.Duration
	events := 0
	for b.Loop() {
		begin := time.Now()
		var wg sync.WaitGroup
		errs := make([]error, publishers)
		for i := range publishers {
			wg.Go(func() {
				for range per {
					e := made(event.NewID(), fmt.Sprint("k", i))
					e.CorrelationID = event.NewID()
					if _, err := stores[i%processes].Append(ctx, "", eventstore.AnyVersion, e); err != nil {
						errs[i] = err
					}
				}
			})
		}
		wg.Wait()
		ours += time.Since(begin)
		for _, err := range errs {
			if err != nil {
				b.Fatal(err)
			}
		}
		begin = time.Now()
		for range per {
			if err := raw.insert(ctx, publishers); err != nil {
				b.Fatal(err)
			}
		}
		theirs += time.Since(begin)
		events += publishers * per
	}
	b.ReportMetric(float64(events)/ours.Seconds(), "appends/s")
	b.ReportMetric(float64(events)/theirs.Seconds(), "raw/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
	b.Logf("commits %d, largest group %d", stores[0].Stats().Commits, stores[0].Stats().Largest)
}

// fresh is a new store.
func fresh(b *testing.B) (address string, d *postgres.DB, s *eventstore.Store) {
	b.Helper()
	address = storetest.Postgres(b)
	d, err := postgres.Open(b.Context(), address, nil)
	if err != nil {
		b.Fatal(err)
	}
	s = eventstore.New(d, nil)
	b.Cleanup(func() { _ = s.Close() })
	return address, d, s
}

// BenchmarkRead reads partitions as a group does, and the same rows by a plain query, in turns.
func BenchmarkRead(b *testing.B) {
	ctx := b.Context()
	address, _, s := fresh(b)
	const total, batch = 24_000, 500
	for range total / batch {
		events := make([]event.Event, batch)
		for i := range events {
			id := event.NewID()
			events[i] = made(id, id)
			events[i].CorrelationID = event.NewID()
			events[i].Payload = fmt.Appendf(nil, `{"text":"%0470d"}`, i)
		}
		if _, err := s.Append(ctx, "", eventstore.AnyVersion, events...); err != nil {
			b.Fatal(err)
		}
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var ours, theirs time.Duration
	read := 0
	for b.Loop() {
		begin := time.Now()
		for p := range s.Partitions() {
			for from := int64(0); ; {
				got, err := s.Partition(ctx, eventstore.PartitionQuery{Partition: p, From: from, Limit: batch, Match: func(string) bool { return true }})
				if err != nil {
					b.Fatal(err)
				}
				if got.Next == from {
					break
				}
				read += len(got.Records)
				from = got.Next
			}
		}
		ours += time.Since(begin)
		begin = time.Now()
		for p := range s.Partitions() {
			last, n := int64(p)<<40-1, batch
			for n == batch {
				rows, err := conn.Query(ctx, `SELECT pos, id, type, origin, correlation, causation, timestamp, recorded, trace, key, payload FROM carebus_events WHERE pos > $1 AND pos < $2 ORDER BY pos LIMIT $3`,
					last, int64(p+1)<<40, batch)
				if err != nil {
					b.Fatal(err)
				}
				var typ, origin, ts, recorded int64
				var id, correlation, causation, trace, key string
				var payload []byte
				n = 0
				if _, err := pgx.ForEachRow(rows, []any{&last, &id, &typ, &origin, &correlation, &causation, &ts, &recorded, &trace, &key, &payload}, func() error { n++; return nil }); err != nil {
					b.Fatal(err)
				}
			}
		}
		theirs += time.Since(begin)
	}
	b.ReportMetric(float64(read)/ours.Seconds(), "events/s")
	b.ReportMetric(float64(read)/theirs.Seconds(), "raw/s")
	b.ReportMetric(theirs.Seconds()/ours.Seconds(), "ratio")
}

// BenchmarkSizes lets a store grow to the sizes of CAREBUS_TEST_SIZES, such as 1000000,10000000 (default 20000,40000), and
// logs, at each, how fast it takes events and how long the main reads take.
func BenchmarkSizes(b *testing.B) {
	ctx := b.Context()
	address, d, s := fresh(b)
	rnd := rand.New(rand.NewPCG(1, 1))
	payload := strings.Repeat("x", 460)
	stored, streams := 0, 0
	var sample []eventstore.Receipt // some of all that are stored
	// A stream of ten events, two flows of five.
	entity := func() (stream string, events []event.Event) {
		streams++
		flow := event.NewID()
		for i := range 10 {
			if i == 5 {
				flow = event.NewID()
			}
			e := made(event.NewID(), fmt.Sprint("P", streams))
			e.Type, e.CorrelationID, e.Timestamp = fmt.Sprintf("test.thing.done%d", i*2+streams%2), flow, time.Now().UnixMilli()
			e.Payload = fmt.Appendf(nil, `{"n":%d,"text":%q}`, streams, payload)
			events = append(events, e)
		}
		return fmt.Sprint("thing/", streams), events
	}
	fill := func(to int, workers int, until time.Time) (rate float64) {
		begin, from := time.Now(), stored
		for stored < to && (until.IsZero() || time.Now().Before(until)) {
			type work struct {
				stream string
				events []event.Event
				got    []eventstore.Receipt
				err    error
			}
			all := make([]work, workers)
			for i := range all {
				all[i].stream, all[i].events = entity()
			}
			var wg sync.WaitGroup
			for i := range all {
				wg.Go(func() { w := &all[i]; w.got, w.err = s.Append(ctx, w.stream, eventstore.NoStream, w.events...) })
			}
			wg.Wait()
			for _, w := range all {
				if w.err != nil {
					b.Fatal(w.err)
				}
				stored += len(w.events)
				if rnd.IntN(100) == 0 {
					sample = append(sample, w.got[rnd.IntN(len(w.got))])
				}
			}
		}
		return float64(stored-from) / time.Since(begin).Seconds()
	}
	conn, err := pgx.Connect(ctx, address)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	sizes := cmp.Or(os.Getenv("CAREBUS_TEST_SIZES"), "20000,40000")
	for b.Loop() {
		for text := range strings.SplitSeq(sizes, ",") {
			size, err := strconv.Atoi(text)
			if err != nil {
				b.Fatal(err)
			}
			fill(size, 200, time.Time{})
			for _, q := range []string{"VACUUM ANALYZE carebus_events", "CHECKPOINT"} {
				if _, err := conn.Exec(ctx, q); err != nil {
					b.Fatal(err)
				}
			}
			line := fmt.Sprintf("%d events: %.0f appended/s", stored, fill(1<<60, 25, time.Now().Add(5*time.Second)))
			median := func(name string, read func(r eventstore.Receipt) error) {
				var times []time.Duration
				for range 300 {
					r := sample[rnd.IntN(len(sample))]
					begin := time.Now()
					if err := read(r); err != nil {
						b.Fatal(name, err)
					}
					times = append(times, time.Since(begin))
				}
				slices.Sort(times)
				line += fmt.Sprintf(", %s %.2f/%.2f ms", name, times[150].Seconds()*1e3, times[297].Seconds()*1e3)
			}
			median("by id", func(r eventstore.Receipt) error { _, err := s.Get(ctx, r.EventID); return err })
			median("500 of a partition", func(r eventstore.Receipt) error {
				_, err := s.Partition(ctx, eventstore.PartitionQuery{Partition: r.Partition, From: r.Offset, Limit: 500})
				return err
			})
			median("a stream", func(r eventstore.Receipt) error {
				_, err := d.Stream(ctx, eventstore.StreamQuery{Stream: r.Stream, From: 1, Limit: 100})
				return err
			})
			median("a flow", func(r eventstore.Receipt) error {
				e, err := s.Get(ctx, r.EventID)
				if err == nil {
					_, err = s.Correlation(ctx, e.CorrelationID, time.Time{}, 100)
				}
				return err
			})
			median("100 of a type", func(r eventstore.Receipt) error {
				e, err := s.Get(ctx, r.EventID)
				if err == nil {
					_, err = s.Type(ctx, eventstore.TypeQuery{Type: e.Type, From: time.UnixMilli(e.Timestamp), Limit: 100})
				}
				return err
			})
			median("offset at a time", func(r eventstore.Receipt) error { _, err := s.OffsetAt(ctx, r.Partition, r.RecordedAt); return err })
			var table, indexes int64
			if err := conn.QueryRow(ctx, `SELECT pg_table_size('carebus_events'), pg_indexes_size('carebus_events')`).Scan(&table, &indexes); err != nil {
				b.Fatal(err)
			}
			b.Logf("%s, table %.2f GB, indexes %.2f GB", line, float64(table)/1e9, float64(indexes)/1e9)
		}
	}
}
