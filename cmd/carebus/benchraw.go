package main

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"sort"
	"sync"
	"time"

	_ "modernc.org/sqlite" // the engine itself, for the baseline without carebus

	"github.com/carebus/carebus/event"
)

// rawStore is the baseline that carebus is compared with: the same engine, settings, record and indexes, and nothing of
// carebus: no envelope, schema, streams, hashes or groups.
type rawStore struct {
	db     *sql.DB
	conn   *sql.Conn
	insert *sql.Stmt
	next   int64
}

const rawTable = `
CREATE TABLE raw (
	pos INTEGER PRIMARY KEY, id TEXT NOT NULL, type INTEGER, origin INTEGER, correlation TEXT, causation TEXT, timestamp INTEGER,
	recorded INTEGER, trace TEXT, key TEXT, stream INTEGER, version INTEGER, hash BLOB, payload BLOB);
CREATE UNIQUE INDEX raw_id ON raw(id);
CREATE INDEX raw_correlation ON raw(correlation, recorded);
CREATE INDEX raw_type ON raw(type, timestamp);
CREATE UNIQUE INDEX raw_stream ON raw(stream, version) WHERE stream IS NOT NULL;
CREATE TABLE raw_effect (k TEXT PRIMARY KEY, n INTEGER NOT NULL);`

// rawUpsert is what a handler of the measures does for an event.
const rawUpsert = `INSERT INTO raw_effect (k, n) VALUES (?, 1) ON CONFLICT (k) DO UPDATE SET n = n + 1`

// openRaw makes a raw store in a folder.
func openRaw(ctx context.Context, dir string) (*rawStore, error) {
	return connectRaw(ctx, filepath.Join(dir, "raw.db"), rawTable)
}

// connectRaw opens a raw store, which several processes may do, and carries out statements.
func connectRaw(ctx context.Context, path string, statements ...string) (*rawStore, error) {
	r := &rawStore{}
	var err error
	if r.db, err = sql.Open("sqlite", path); err != nil {
		return nil, err
	}
	if r.conn, err = r.db.Conn(ctx); err != nil {
		return nil, err
	}
	for _, q := range append([]string{
		"PRAGMA busy_timeout=10000", "PRAGMA page_size=8192", "PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA cache_size=-65536",
	}, statements...) {
		if _, err := r.conn.ExecContext(ctx, q); err != nil {
			return nil, err
		}
	}
	r.insert, err = r.conn.PrepareContext(ctx, `INSERT INTO raw VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)`)
	return r, err
}

func (r *rawStore) close() error {
	_ = r.insert.Close()
	_ = r.conn.Close()
	return r.db.Close()
}

// commit inserts n records in one durable transaction. With streams the records are ten to a stream.
func (r *rawStore) commit(ctx context.Context, e event.Event, n int, streams bool) error {
	return r.commitWith(ctx, e, n, streams, nil)
}

// commitWith is commit with something else in the transaction.
func (r *rawStore) commitWith(ctx context.Context, e event.Event, n int, streams bool, also func() error) error {
	if _, err := r.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	var hash [32]byte
	for range n {
		id := event.NewID()
		var stream, version any
		if streams {
			stream, version = r.next/10, r.next%10+1
		}
		_, err := r.insert.ExecContext(ctx, (r.next%12)<<40|r.next/12, id, 1, 1, id, "", e.Timestamp, r.next, e.TraceID, id, stream, version, hash[:], []byte(e.Payload))
		if err != nil {
			return err
		}
		r.next++
	}
	if also != nil {
		if err := also(); err != nil {
			return err
		}
	}
	_, err := r.conn.ExecContext(ctx, "COMMIT")
	return err
}

// inserts measures records per second in transactions of size, and the median of one transaction.
func (r *rawStore) inserts(ctx context.Context, e event.Event, total, size int, streams bool) (rate float64, median time.Duration, err error) {
	var each []time.Duration
	begin := time.Now()
	for done := 0; done < total; done += size {
		t := time.Now()
		if err := r.commit(ctx, e, size, streams); err != nil {
			return 0, 0, err
		}
		each = append(each, time.Since(t))
	}
	return float64(total) / time.Since(begin).Seconds(), percentile(each, 0.5), nil
}

// effects measures upserts per second in transactions of size: what a transactional consumer's own rows cost.
func (r *rawStore) effects(ctx context.Context, total, size int) (float64, error) {
	st, err := r.conn.PrepareContext(ctx, rawUpsert)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	begin := time.Now()
	for done := 0; done < total; done += size {
		if _, err := r.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
			return 0, err
		}
		for i := range size {
			if _, err := st.ExecContext(ctx, benchKey(done+i)); err != nil {
				return 0, err
			}
		}
		if _, err := r.conn.ExecContext(ctx, "COMMIT"); err != nil {
			return 0, err
		}
	}
	return float64(total) / time.Since(begin).Seconds(), nil
}

const rawColumns = `pos, id, type, origin, correlation, causation, timestamp, recorded, trace, key, payload`

// scan measures records per second read in order, up to limit records.
func (r *rawStore) scan(ctx context.Context, limit int) (float64, error) {
	st, err := r.conn.PrepareContext(ctx, `SELECT `+rawColumns+` FROM raw WHERE pos >= ? ORDER BY pos LIMIT 1000`)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	begin, total, from := time.Now(), 0, int64(0)
	for {
		n, last, err := rawRows(st, func(*event.Event) {}, from)
		if err != nil {
			return 0, err
		}
		if n == 0 || total >= limit {
			return float64(total) / time.Since(begin).Seconds(), nil
		}
		total += n
		from = last + 1
	}
}

// loads measures how many streams of ten records are read per second, at random, by as many readers as there are cores.
func (r *rawStore) loads(ctx context.Context, streams int) (float64, error) {
	st, err := r.db.PrepareContext(ctx, `SELECT `+rawColumns+` FROM raw WHERE stream = ? ORDER BY version`)
	if err != nil {
		return 0, err
	}
	defer st.Close()
	return readStreams(ctx, streams, streams, func(i int) error {
		_, _, err := rawRows(st, func(*event.Event) {}, int64(i))
		return err
	})
}

// readStreams calls load, from as many goroutines as there are cores, with every stream's number in a random order, again
// and again until it has done so n times; it returns the rate.
func readStreams(ctx context.Context, n, streams int, load func(stream int) error) (perSecond float64, err error) {
	order := rand.New(rand.NewPCG(1, 1)).Perm(streams)
	readers := runtime.GOMAXPROCS(0)
	errs := make([]error, readers)
	var wg sync.WaitGroup
	begin := time.Now()
	for r := range readers {
		wg.Go(func() {
			for i := r; i < n && errs[r] == nil; i += readers {
				if errs[r] = ctx.Err(); errs[r] == nil {
					errs[r] = load(order[i%streams])
				}
			}
		})
	}
	wg.Wait()
	return float64(n) / time.Since(begin).Seconds(), errors.Join(errs...)
}

// rawRows reads rows, calls each with one after the other, and returns their number and the last place, without a context that can
// end: the engine would start a goroutine to watch it.
func rawRows(st *sql.Stmt, each func(e *event.Event), args ...any) (n int, last int64, err error) {
	rows, err := st.Query(args...)
	if err != nil {
		return 0, 0, err
	}
	defer rows.Close()
	var e event.Event
	for ; rows.Next(); n++ {
		var typ, origin, rec int64
		var payload []byte
		if err := rows.Scan(&last, &e.ID, &typ, &origin, &e.CorrelationID, &e.CausationID, &e.Timestamp, &rec, &e.TraceID, &e.PartitionKey, &payload); err != nil {
			return 0, 0, err
		}
		e.Payload = payload
		each(&e)
	}
	return n, last, rows.Err()
}

func percentile(d []time.Duration, p float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	sort.Slice(d, func(i, j int) bool { return d[i] < d[j] })
	return d[min(int(p*float64(len(d))), len(d)-1)]
}
