package main

import (
	"context"
	"fmt"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/event"
)

// rawPostgresTables have the columns and indexes of a store's events, a handler's effects and the places of consumers.
const rawPostgresTables = `
CREATE TABLE raw (pos bigint PRIMARY KEY, timestamp bigint, recorded bigint, stream bigint, version bigint, type bigint, origin bigint,
	id text COLLATE "C", correlation text COLLATE "C", causation text COLLATE "C", trace text COLLATE "C", key text COLLATE "C", hash bytea, payload bytea)
	WITH (toast_tuple_target = 8160);
ALTER TABLE raw ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX raw_id ON raw (id);
CREATE INDEX raw_correlation ON raw (correlation, recorded);
CREATE INDEX raw_type ON raw (type, timestamp, pos);
CREATE UNIQUE INDEX raw_stream ON raw (stream, version) WHERE stream IS NOT NULL;
CREATE TABLE raw_effect (k text COLLATE "C" PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE raw_place (part bigint PRIMARY KEY, next bigint NOT NULL);
INSERT INTO raw_place SELECT p, 0 FROM generate_series(0, 11) p`

// withSchema is the address of a schema on a server.
func withSchema(server, schema string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", usagef("--store: the address of the server is not understood; use postgres://user@host:port/database")
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// rawPostgres is a process of the raw baseline on PostgreSQL: one connection.
type rawPostgres struct {
	c    workerConfig
	conn *pgx.Conn
	next int64
	part int
	from [12]int64
}

func openRawPostgres(ctx context.Context, c workerConfig) (*rawPostgres, error) {
	r := &rawPostgres{c: c}
	var err error
	if r.conn, err = pgx.Connect(ctx, c.store); err != nil {
		return nil, err
	}
	first := int64(c.index) << 36
	err = r.conn.QueryRow(ctx, `SELECT COALESCE(MAX(recorded), $1::bigint - 1) + 1 FROM raw WHERE recorded >= $1 AND recorded < $2`, first, first+1<<36).Scan(&r.next)
	return r, err
}

const (
	rawInsert = `INSERT INTO raw SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
	$8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[])`
	rawLock = 0x52415721
)

func (r *rawPostgres) insert(ctx context.Context, n int, ordered bool) error {
	ints, texts := [7][]int64{}, [5][]string{}
	hashes, payloads := make([][]byte, n), make([][]byte, n)
	now := time.Now().UnixMilli()
	for i := range n {
		e := benchEvent(benchKey(int(r.next % 100_000_000)))
		e.ID = event.NewID()
		for c, v := range [7]int64{r.next%12<<40 | r.next/12, now, r.next, r.next / 10, r.next % 10, 1, 1} {
			ints[c] = append(ints[c], v)
		}
		for c, v := range [5]string{e.ID, e.ID, "", e.TraceID, e.ID} {
			texts[c] = append(texts[c], v)
		}
		hashes[i], payloads[i] = make([]byte, 32), e.Payload
		r.next++
	}
	args := make([]any, 0, 14)
	for _, c := range ints {
		args = append(args, c)
	}
	for _, c := range texts {
		args = append(args, c)
	}
	args = append(args, hashes, payloads)
	if !ordered {
		_, err := r.conn.Exec(ctx, rawInsert, args...)
		return err
	}
	// Waiting, inserting and committing are one round trip.
	b := &pgx.Batch{}
	b.Queue(`BEGIN`)
	b.Queue(`SELECT pg_advisory_xact_lock($1)`, rawLock)
	b.Queue(rawInsert, args...)
	b.Queue(`COMMIT`)
	return r.conn.SendBatch(ctx, b).Close()
}

// some reads rows of the next partition, and calls each with one after the other.
func (r *rawPostgres) some(ctx context.Context, q interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}, limit int, each func(e *event.Event)) (n int, err error) {
	part := turn(&r.part, r.c)
	rows, err := q.Query(ctx, `SELECT `+rawColumns+` FROM raw WHERE pos >= $1 AND pos < $2 ORDER BY pos LIMIT $3`,
		max(r.from[part], int64(part)<<40), int64(part+1)<<40, limit)
	if err != nil {
		return 0, err
	}
	var last, typ, origin, rec int64
	var e event.Event
	var payload []byte
	_, err = pgx.ForEachRow(rows, []any{&last, &e.ID, &typ, &origin, &e.CorrelationID, &e.CausationID, &e.Timestamp, &rec, &e.TraceID, &e.PartitionKey, &payload}, func() error {
		n++
		e.Payload = payload
		each(&e)
		return nil
	})
	if r.from[part] = last + 1; n < limit {
		r.from[part] = 0 // once more from the beginning
	}
	return n, err
}

func (r *rawPostgres) read(ctx context.Context) (n int, err error) {
	_, err = r.inTx(ctx, false, func(tx pgx.Tx) ([]string, error) {
		n, err = r.some(ctx, tx, 500, func(*event.Event) {})
		return nil, err
	})
	return n, err
}

func (r *rawPostgres) effects(ctx context.Context, together bool) (int, error) {
	return r.inTx(ctx, together, func(tx pgx.Tx) (keys []string, err error) {
		_, err = r.some(ctx, tx, 500, func(e *event.Event) { keys = append(keys, e.PartitionKey) })
		return keys, err
	})
}

func (r *rawPostgres) relay(ctx context.Context, send func(events []event.Event) error) (n int, err error) {
	var events []event.Event
	if n, err = r.some(ctx, r.conn, relayRows, func(e *event.Event) { events = append(events, *e) }); err != nil {
		return 0, err
	}
	if err := send(events); err != nil {
		return 0, err
	}
	return n, r.upsert(ctx, nil, false)
}

func (r *rawPostgres) upsert(ctx context.Context, keys []string, together bool) error {
	_, err := r.inTx(ctx, together, func(pgx.Tx) ([]string, error) { return keys, nil })
	return err
}

func (r *rawPostgres) inTx(ctx context.Context, together bool, some func(tx pgx.Tx) ([]string, error)) (n int, err error) {
	tx, err := r.conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			_ = tx.Rollback(context.WithoutCancel(ctx))
		}
	}()
	keys, err := some(tx)
	if err != nil {
		return 0, err
	}
	if n = len(keys); together && n > 0 {
		text, args := upsertAll("raw_effect", keys)
		if _, err := tx.Exec(ctx, text, args...); err != nil {
			return 0, err
		}
		keys = nil
	}
	for _, k := range keys {
		if _, err := tx.Exec(ctx, `INSERT INTO raw_effect (k, n) VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET n = raw_effect.n + 1`, k); err != nil {
			return 0, fmt.Errorf("an effect: %w", err)
		}
	}
	part := (r.part + r.c.index) % 12
	if _, err := tx.Exec(ctx, `UPDATE raw_place SET next = $1 WHERE part = $2`, r.from[part], part); err != nil {
		return 0, err
	}
	return n, tx.Commit(ctx)
}

func (r *rawPostgres) close(ctx context.Context) error { return r.conn.Close(ctx) }
