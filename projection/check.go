package projection

import (
	"context"
	"errors"
	"fmt"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// Difference is where a table of a projection is not what the log says.
type Difference struct {
	Table   string `json:"table"`
	Missing int64  `json:"missing"` // rows that a rebuild makes and the live table does not have
	Extra   int64  `json:"extra"`   // rows of the live table that a rebuild does not make
}

// Check builds the projection anew beside the live tables, like Rebuild, compares the two at the same position of the log,
// and drops what it has built. It returns where they differ: nowhere, unless a handler depends on something else than its
// events, the group was sought back, or somebody has written to the tables. A row that has changed is a missing and an
// extra one. The definition's version must be the live one.
//
// The live group goes on meanwhile, but all writers wait for the comparison: seconds for a million rows. Errors are those
// of Rebuild; ErrChanged for another version.
func Check(ctx context.Context, p Platform, d *Definition, progress func(Progress)) ([]Difference, error) {
	if _, err := ensure(ctx, p.Store(), d); err != nil {
		return nil, err
	}
	out := []Difference{}
	b := newBuilder(p, d, progress)
	b.check = &out
	if err := b.build(ctx, bus.Act{Actor: "check", Reason: "to be compared, not to take over"}, false); err != nil {
		return nil, err
	}
	return out, nil
}

// compare notes the differences between the build and the live generation, and drops the build.
func (b *builder) compare(ctx context.Context, tx *eventstore.Tx) error {
	rows, err := load(ctx, tx, b.def.name)
	if err != nil || len(rows) == 0 {
		return errors.Join(err, ErrNotFound)
	}
	r := rows[0]
	if r.version != b.def.version {
		return fmt.Errorf("projection %s: version %d is live, not %d: %w", b.def.name, r.version, b.def.version, ErrChanged)
	}
	found := []Difference{}
	for _, table := range b.def.tables {
		d := Difference{Table: table}
		live, built := physical(table, r.live), physical(table, b.row.gen)
		for _, c := range []struct {
			n           *int64
			these, less string
		}{{&d.Missing, built, live}, {&d.Extra, live, built}} {
			if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM (SELECT * FROM `+c.these+` EXCEPT SELECT * FROM `+c.less+`) AS d`).Scan(c.n); err != nil {
				return err
			}
		}
		// EXCEPT knows no repetitions: rows of a table without a key may be there twice.
		var liveRows, builtRows int64
		if err := tx.QueryRowContext(ctx, `SELECT (SELECT COUNT(*) FROM `+live+`), (SELECT COUNT(*) FROM `+built+`)`).Scan(&liveRows, &builtRows); err != nil {
			return err
		}
		if d.Missing == 0 && d.Extra == 0 {
			d.Missing, d.Extra = max(0, builtRows-liveRows), max(0, liveRows-builtRows)
		}
		if d.Missing > 0 || d.Extra > 0 {
			found = append(found, d)
		}
	}
	*b.check = found
	return clearBuild(ctx, tx, r)
}
