package sqlite

import (
	"context"
	"errors"
	"fmt"

	"github.com/carebus/carebus/eventstore/driver"
)

// Verify walks one partition. With partition 0 come the checks of what all partitions share: the engine's own check of
// pages and indexes, and the versions of every stream.
func (d *DB) Verify(ctx context.Context, partition int, progress func(events int64), fault func(driver.Fault)) error {
	if partition == 0 {
		if err := d.verifyShared(ctx, fault); err != nil {
			return mapError(err)
		}
	}
	const batch = 2000
	base := int64(partition) << offsetBits
	walk := driver.Walk{Partition: partition, Partitions: d.info.Partitions}
	seen := int64(0)
	for {
		rows, err := d.views.QueryContext(ctx, `SELECT `+named2+` WHERE events.pos >= ?1 AND events.pos < ?2 ORDER BY events.pos LIMIT ?3`, base|walk.Next, base|offsetMask, batch)
		if err != nil {
			return mapError(err)
		}
		n := 0
		for rows.Next() {
			n++
			var r driver.Record
			var hash []byte
			// A record without the names it refers to is not what its hash says: a fault, not the end of the walk.
			if err := scanNamed(withHash{rows, &hash}, &r); err != nil && !errors.Is(err, driver.ErrCorrupt) {
				rows.Close()
				return mapError(err)
			}
			walk.Record(&r, hash, fault)
		}
		if err := rows.Err(); err != nil {
			rows.Close()
			return mapError(err)
		}
		rows.Close()
		seen += int64(n)
		progress(seen)
		if n == 0 {
			return nil
		}
	}
}

const named2 = `events.hash, ` + named

// withHash scans the hash column before the others.
type withHash struct {
	row  interface{ Scan(...any) error }
	hash *[]byte
}

func (w withHash) Scan(dest ...any) error { return w.row.Scan(append([]any{w.hash}, dest...)...) }

func (d *DB) verifyShared(ctx context.Context, fault func(driver.Fault)) error {
	rows, err := d.views.QueryContext(ctx, `PRAGMA integrity_check(100)`)
	if err != nil {
		return err
	}
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			rows.Close()
			return err
		}
		if text != "ok" {
			fault(driver.Fault{Rule: "index", Detail: text})
		}
	}
	if err := rows.Err(); err != nil {
		rows.Close()
		return err
	}
	rows.Close()
	rows, err = d.views.QueryContext(ctx, `SELECT s.name, v.n, v.low, v.high FROM
		(SELECT stream, COUNT(*) AS n, MIN(version) AS low, MAX(version) AS high FROM events WHERE stream IS NOT NULL GROUP BY stream) v
		LEFT JOIN streams s ON s.id = v.stream WHERE v.low != 1 OR v.high != v.n OR s.name IS NULL`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name *string
		var n, low, high int64
		if err := rows.Scan(&name, &n, &low, &high); err != nil {
			return err
		}
		stream := "(no name)"
		if name != nil {
			stream = *name
		}
		fault(driver.Fault{Rule: "stream-version", Detail: fmt.Sprintf("stream %s has %d events with versions %d to %d", stream, n, low, high)})
	}
	return rows.Err()
}
