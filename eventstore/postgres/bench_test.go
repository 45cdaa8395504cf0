package postgres_test

import (
	"context"
	"fmt"
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

// BenchmarkRead reads partitions as a group does, and the same rows by a plain query, in turns.
func BenchmarkRead(b *testing.B) {
	address := storetest.Postgres(b)
	ctx := b.Context()
	d, err := postgres.Open(ctx, address, nil)
	if err != nil {
		b.Fatal(err)
	}
	s := eventstore.New(d, nil)
	defer s.Close()
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
