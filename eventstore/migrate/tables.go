package migrate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/carebus/carebus/eventstore/driver"
)

// tables copies every table beside the log, its indexes and views, by one transaction of the target: either it has all, or
// it begins again.
func (c *copier) tables(ctx context.Context, tx driver.Tx) error {
	list := serverDefinitions
	if c.sqlite {
		list = fileDefinitions
	}
	found, err := list(ctx, tx)
	if err != nil {
		return err
	}
	tables, err := counted(ctx, tx, found)
	if err != nil {
		return err
	}
	total := int64(0)
	for _, t := range tables {
		total += t.Rows
	}
	done := int64(0)
	u := &driver.Unit{Ctx: ctx, Large: true, Run: func(to driver.Tx) error {
		for _, d := range found {
			if _, err := to.ExecContext(ctx, d.sql); err != nil {
				return fmt.Errorf("migrate: making %s %s: %w", d.kind, d.name, err)
			}
			if d.kind != "table" {
				continue
			}
			if c.layout != nil && c.layout.places(d.name) {
				if err := c.layout.rewrite(ctx, tx, to, d.name); err != nil {
					return fmt.Errorf("migrate: rewriting table %s: %w", d.name, err)
				}
				continue
			}
			n, err := copyRows(ctx, tx, to, d.name, func(n int64) { c.progress("tables", done+n, total) })
			if err != nil {
				return fmt.Errorf("migrate: copying table %s: %w", d.name, err)
			}
			want, err := count(ctx, tx, d.name)
			if err != nil {
				return err
			}
			if have, err := count(ctx, to, d.name); err != nil || have != want || n != want {
				return fmt.Errorf("migrate: table %s has %d rows in the source, %d in the target (%w)", d.name, want, have, err)
			}
			done += n
		}
		_, err := to.ExecContext(ctx, `INSERT INTO `+c.to.meta()+` (name, value) VALUES ('copy-tables', $1)`, "finished")
		return err
	}}
	made, err := c.made(ctx)
	if err != nil {
		return err
	}
	c.report.Tables = tables
	if made {
		return nil
	}
	if _, err := c.to.Commit(ctx, []*driver.Unit{u}); err != nil {
		return err
	}
	return u.Err
}

// made reports whether an earlier run has copied the tables.
func (c *copier) made(ctx context.Context) (made bool, err error) {
	err = c.to.View(ctx, func(q driver.Querier) error {
		return q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM `+c.to.meta()+` WHERE name = 'copy-tables')`).Scan(&made)
	})
	return made, err
}

func counted(ctx context.Context, q driver.Querier, found []definition) (out []Table, err error) {
	for _, d := range found {
		if d.kind != "table" {
			continue
		}
		n, err := count(ctx, q, d.name)
		if err != nil {
			return nil, err
		}
		out = append(out, Table{Name: d.name, Rows: n})
	}
	return out, nil
}

func count(ctx context.Context, q driver.Querier, table string) (n int64, err error) {
	err = q.QueryRowContext(ctx, `SELECT COUNT(*) FROM `+quote(table)).Scan(&n)
	return n, err
}

// parameters bound one statement.
const parameters = 8000

// copyRows copies a table, reading while it writes.
func copyRows(ctx context.Context, from, to driver.Tx, table string, progress func(n int64)) (n int64, err error) {
	rows, err := from.QueryContext(ctx, `SELECT * FROM `+quote(table))
	if err != nil {
		return 0, err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	per := max(1, parameters/len(columns))
	var args []any
	flush := func() error {
		if len(args) == 0 {
			return nil
		}
		_, err := to.ExecContext(ctx, insertInto(table, columns, len(args)/len(columns)), args...)
		n += int64(len(args) / len(columns))
		args = args[:0]
		progress(n)
		return err
	}
	for rows.Next() {
		begin := len(args)
		dest := make([]any, len(columns))
		for range columns {
			args = append(args, nil)
		}
		for i := range columns {
			dest[i] = &args[begin+i]
		}
		if err := rows.Scan(dest...); err != nil {
			return n, err
		}
		if len(args) >= per*len(columns) {
			if err := flush(); err != nil {
				return n, err
			}
		}
	}
	if err := rows.Err(); err != nil {
		return n, err
	}
	return n, flush()
}

func insertInto(table string, columns []string, rows int) string {
	var b strings.Builder
	names := make([]string, len(columns))
	for i, c := range columns {
		names[i] = quote(c)
	}
	fmt.Fprintf(&b, "INSERT INTO %s (%s) VALUES ", quote(table), strings.Join(names, ", "))
	for r := range rows {
		if r > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for c := range columns {
			if c > 0 {
				b.WriteString(", ")
			}
			fmt.Fprintf(&b, "$%d", r*len(columns)+c+1)
		}
		b.WriteByte(')')
	}
	return b.String()
}

// parkedTables have rows of keys that wait, from one place to another.
var parkedTables = []string{"carebus_parked", "carebus_replay_parked"}

// places reports whether a table names places in the log, which a new layout moves.
func (l *layout) places(table string) bool {
	return slices.Contains(parkedTables, table) || table == "carebus_checkpoints" || table == "carebus_bridge_ranges"
}

// rewrite fills a table of the target with the rows of the source, as they are in the new layout.
func (l *layout) rewrite(ctx context.Context, from, to driver.Tx, table string) error {
	switch table {
	case "carebus_checkpoints":
		groups, err := readCheckpoints(ctx, from, l.m)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(groups)) {
			for t := range l.n {
				c, err := l.translate(name, groups[name], t)
				if err != nil {
					return err
				}
				if _, err := to.ExecContext(ctx, `INSERT INTO carebus_checkpoints (grp, part, next, epoch, owner, expires_at, handling, deaths, replay_from, replay_to, resume_at, updated_at)
					VALUES ($1, $2, $3, $4, '', 0, -1, 0, $5, $6, $7, $8)`, name, t, c.next, c.epoch, c.from, c.to, c.resume, c.updated); err != nil {
					return err
				}
			}
		}
		return nil
	case "carebus_bridge_ranges":
		for _, bridge := range slices.Sorted(maps.Keys(l.ranges)) {
			for t, runs := range l.ranges[bridge].new {
				for _, run := range runs {
					if _, err := to.ExecContext(ctx, `INSERT INTO carebus_bridge_ranges (bridge, part, lo, hi) VALUES ($1, $2, $3, $4)`, bridge, t, run[0], run[1]); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	// The rows of parked keys: as they are, then moved. A key has one row per group, so none meets another.
	if _, err := copyRows(ctx, from, to, table, func(int64) {}); err != nil {
		return err
	}
	type row struct {
		group, key string
		part       int
		head, tail int64
	}
	var r row
	var all []row
	if err := each(ctx, from, `SELECT grp, part, pkey, head, tail FROM `+table, []any{&r.group, &r.part, &r.key, &r.head, &r.tail}, func() error {
		all = append(all, r)
		return nil
	}); err != nil {
		return err
	}
	for _, r := range all {
		t := driver.PartitionOf(r.key, l.n)
		if _, err := to.ExecContext(ctx, `UPDATE `+table+` SET part = $1, head = $2, tail = $3 WHERE grp = $4 AND part = $5 AND pkey = $6`,
			t, l.at(r.part, r.head, t), l.at(r.part, r.tail, t), r.group, r.part, r.key); err != nil {
			return err
		}
	}
	if table == "carebus_replay_parked" { // a part of a replay may be over in the new partition: see translate
		_, err := to.ExecContext(ctx, `DELETE FROM carebus_replay_parked WHERE NOT EXISTS (SELECT 1 FROM carebus_checkpoints c
			WHERE c.grp = carebus_replay_parked.grp AND c.part = carebus_replay_parked.part AND c.replay_to > 0)`)
		return err
	}
	return nil
}
