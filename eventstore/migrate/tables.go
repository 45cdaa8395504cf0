package migrate

import (
	"context"
	"fmt"
	"strings"

	"github.com/carebus/carebus/eventstore/driver"
)

// tables copies every table beside the log, its indexes and views, by one transaction of the target: either it has all, or
// it begins again. Definitions are those that components have given, in the SQL that engines share.
func (c *copier) tables(ctx context.Context, tx driver.Tx) error {
	found, err := definitions(ctx, tx)
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
		_, err := to.ExecContext(ctx, `INSERT INTO carebus_meta (name, value) VALUES ('copy-tables', $1)`, "finished")
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
		return q.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM carebus_meta WHERE name = 'copy-tables')`).Scan(&made)
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

type definition struct{ kind, name, sql string }

// definitions lists tables, then indexes, then views, each in the order in which they were made.
func definitions(ctx context.Context, q driver.Querier) (out []definition, err error) {
	rows, err := q.QueryContext(ctx, `SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite~_%' ESCAPE '~'
		AND tbl_name NOT IN ('meta', 'types', 'origins', 'streams', 'events')
		ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 ELSE 2 END, rowid`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d definition
		if err := rows.Scan(&d.kind, &d.name, &d.sql); err != nil {
			return nil, err
		}
		if d.kind != "table" && d.kind != "index" && d.kind != "view" {
			return nil, fmt.Errorf("migrate: the source has a %s, %s, which is not of the SQL that engines share; drop it", d.kind, d.name)
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

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
