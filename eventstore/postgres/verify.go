package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/eventstore/driver"
)

// Verify walks one partition, and looks every record up by its id and its place in its stream. With partition 0 come the
// checks of what all partitions share: the number of rows, the versions of every stream, and, where the extension amcheck
// is installed, the server's own check of every index.
func (d *DB) Verify(ctx context.Context, partition int, progress func(events int64), fault func(driver.Fault)) error {
	if err := d.known(partition); err != nil {
		return err
	}
	c, err := d.readers.Acquire(ctx)
	if err != nil {
		return d.readError(err)
	}
	defer c.Release()
	if partition == 0 {
		if err := verifyIndexes(ctx, c.Conn(), fault); err != nil {
			return d.readError(err)
		}
	}
	// Of one moment, so that what the walk counts and what is counted agree.
	tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return d.readError(err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	// Look-ups must go through the index that they are to prove.
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
		return d.readError(err)
	}
	if partition == 0 {
		if err := verifyShared(ctx, tx, d.info.Partitions, fault); err != nil {
			return d.readError(err)
		}
	}
	if _, err := tx.Exec(ctx, `SET LOCAL enable_seqscan = off`); err != nil {
		return d.readError(err)
	}
	const batch = 2000
	base := int64(partition) << offsetBits
	walk := driver.Walk{Partition: partition, Partitions: d.info.Partitions}
	seen := int64(0)
	for {
		rows, err := tx.Query(ctx, verifyText, base|walk.Next, base|offsetMask, batch)
		if err != nil {
			return d.readError(err)
		}
		n := 0
		for rows.Next() {
			n++
			var r driver.Record
			var hash []byte
			var byID, byStream bool
			// A record without the names it refers to is not what its hash says: a fault, not the end of the walk.
			if err := scanNamed(rows, &r, &hash, &byID, &byStream); err != nil && !errors.Is(err, driver.ErrCorrupt) {
				rows.Close()
				return d.readError(err)
			}
			walk.Record(&r, hash, fault)
			if !byID || !byStream {
				fault(driver.Fault{Partition: partition, Offset: r.Offset, EventID: r.ID, Rule: "index", Detail: "an index does not lead to the record; REINDEX TABLE carebus_events"})
			}
		}
		if err := rows.Err(); err != nil {
			return d.readError(err)
		}
		seen += int64(n)
		progress(seen)
		if n == 0 {
			return nil
		}
	}
}

const verifyText = `SELECT e.hash, EXISTS (SELECT 1 FROM carebus_events i WHERE i.id = e.id AND i.pos + 0 = e.pos),
	e.stream IS NULL OR EXISTS (SELECT 1 FROM carebus_events i WHERE i.stream = e.stream AND i.version = e.version AND i.pos + 0 = e.pos), ` +
	named + ` WHERE e.pos >= $1 AND e.pos < $2 ORDER BY e.pos LIMIT $3`

func verifyShared(ctx context.Context, tx pgx.Tx, partitions int, fault func(driver.Fault)) error {
	// The heap, without an index, against the heads.
	for _, s := range []string{`SET LOCAL enable_indexscan = off`, `SET LOCAL enable_indexonlyscan = off`, `SET LOCAL enable_bitmapscan = off`} {
		if _, err := tx.Exec(ctx, s); err != nil {
			return err
		}
	}
	var rows int64
	if err := tx.QueryRow(ctx, `SELECT COUNT(*) FROM carebus_events`).Scan(&rows); err != nil {
		return err
	}
	list, err := tx.Query(ctx, `SELECT s.name, v.n, v.low, v.high FROM
		(SELECT stream, COUNT(*) AS n, MIN(version) AS low, MAX(version) AS high FROM carebus_events WHERE stream IS NOT NULL GROUP BY stream) v
		LEFT JOIN carebus_streams s ON s.id = v.stream WHERE v.low != 1 OR v.high != v.n OR s.name IS NULL`)
	if err != nil {
		return err
	}
	var name *string
	var n, low, high int64
	if _, err := pgx.ForEachRow(list, []any{&name, &n, &low, &high}, func() error {
		stream := "(no name)"
		if name != nil {
			stream = *name
		}
		fault(driver.Fault{Rule: "stream-version", Detail: fmt.Sprintf("stream %s has %d events with versions %d to %d", stream, n, low, high)})
		return nil
	}); err != nil {
		return err
	}
	for _, s := range []string{`SET LOCAL enable_indexscan = on`, `SET LOCAL enable_indexonlyscan = on`, `SET LOCAL enable_bitmapscan = on`} {
		if _, err := tx.Exec(ctx, s); err != nil {
			return err
		}
	}
	total := int64(0)
	ends, err := tx.Query(ctx, headsText, partitions)
	if err != nil {
		return err
	}
	var p, pos int64
	if _, err := pgx.ForEachRow(ends, []any{&p, &pos}, func() error { total += pos&offsetMask + 1; return nil }); err != nil {
		return err
	}
	if rows != total {
		fault(driver.Fault{Rule: "count", Detail: fmt.Sprintf("the table has %d rows, the partitions end at %d", rows, total)})
	}
	return nil
}

// verifyIndexes asks the server to compare every index of the store with its table, where it can. It does so in a
// transaction of its own: the server checks no index by a snapshot that is older than the index.
func verifyIndexes(ctx context.Context, c *pgx.Conn, fault func(driver.Fault)) error {
	var schema string
	err := c.QueryRow(ctx, `SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'amcheck' AND NOT pg_is_in_recovery()`).Scan(&schema)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	function := pgx.Identifier{schema, "bt_index_check"}.Sanitize()
	var may bool
	if err := c.QueryRow(ctx, `SELECT has_function_privilege($1, 'EXECUTE')`, function+`(regclass, boolean)`).Scan(&may); err != nil || !may {
		return err
	}
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
		WHERE c.relnamespace = current_schema()::regnamespace AND c.relname IN ('carebus_events', 'carebus_streams', 'carebus_types', 'carebus_origins')`)
	if err != nil {
		return err
	}
	indexes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	check := `SELECT ` + function + `($1::text::regclass, true)`
	for _, index := range indexes {
		inner, err := tx.Begin(ctx) // a savepoint: a fault is an error of the statement
		if err != nil {
			return err
		}
		_, err = inner.Exec(ctx, check, index)
		if rerr := inner.Rollback(ctx); rerr != nil {
			return errors.Join(err, rerr)
		}
		if err != nil {
			fault(driver.Fault{Rule: "index", Detail: fmt.Sprintf("index %s: %v; REINDEX INDEX %s", index, clean(err), index)})
		}
	}
	return nil
}
