package migrate

import (
	"context"
	"fmt"
	"strings"

	"github.com/carebus/carebus/eventstore/driver"
)

// definition is a table, index, constraint or view beside the log, and the statement that makes it.
type definition struct{ kind, name, sql string }

// fileDefinitions lists tables, then indexes, then views of a file, each in the order in which they were made: in the SQL
// that engines share, as components have given it.
func fileDefinitions(ctx context.Context, q driver.Querier) (out []definition, err error) {
	var d definition
	err = each(ctx, q, `SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite~_%' ESCAPE '~'
		AND tbl_name NOT IN ('meta', 'types', 'origins', 'streams', 'events')
		ORDER BY CASE type WHEN 'table' THEN 0 WHEN 'index' THEN 1 ELSE 2 END, rowid`, []any{&d.kind, &d.name, &d.sql}, func() error {
		if d.kind != "table" && d.kind != "index" && d.kind != "view" {
			return notShared("a "+d.kind, d.name)
		}
		out = append(out, d)
		return nil
	})
	return out, err
}

func notShared(what, name string) error {
	return fmt.Errorf("migrate: the source has %s, %s, which is not of the SQL that engines share; drop it, and make it again in the target", what, name)
}

// serverDefinitions are those of a schema on a server, as the server words them.
func serverDefinitions(ctx context.Context, q driver.Querier) (out []definition, err error) {
	const ours = `c.relnamespace = current_schema()::regnamespace AND c.relname NOT IN
		('carebus_meta', 'carebus_types', 'carebus_origins', 'carebus_streams', 'carebus_events', 'carebus_outcomes', 'carebus_commits', 'carebus_appends')`
	var name, kind, text string
	if err := each(ctx, q, `SELECT c.relname::text, CASE c.relkind WHEN 'S' THEN 'a sequence' WHEN 'm' THEN 'a materialized view' WHEN 'f' THEN 'a foreign table' ELSE 'a partitioned table' END
			FROM pg_class c WHERE `+ours+` AND c.relkind IN ('S', 'm', 'f', 'p')
		UNION ALL SELECT t.tgname::text, 'a trigger' FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid WHERE `+ours+` AND NOT t.tgisinternal
		UNION ALL SELECT c.relname::text, 'a table with a computed column' FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
			WHERE `+ours+` AND c.relkind = 'r' AND a.attnum > 0 AND (a.attidentity <> '' OR a.attgenerated <> '')
		UNION ALL SELECT k.conname::text, 'a constraint' FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE `+ours+` AND k.contype IN ('x', 't')`,
		[]any{&name, &kind}, func() error { return notShared(kind, name) }); err != nil {
		return nil, err
	}
	// Columns and constraints of a table come as one text.
	if err := each(ctx, q, `SELECT c.relname::text,
			(SELECT string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, a.atttypmod)
					|| CASE WHEN a.attcollation <> 0 AND a.attcollation <> y.typcollation THEN ' COLLATE ' || quote_ident(l.collname) ELSE '' END
					|| CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END || COALESCE(' DEFAULT ' || pg_get_expr(e.adbin, e.adrelid), ''), ', ' ORDER BY a.attnum)
				FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid LEFT JOIN pg_collation l ON l.oid = a.attcollation
				LEFT JOIN pg_attrdef e ON e.adrelid = a.attrelid AND e.adnum = a.attnum
				WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
			|| COALESCE((SELECT string_agg(', CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid, true), '' ORDER BY k.oid)
				FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'c')), '')
		FROM pg_class c WHERE `+ours+` AND c.relkind = 'r' ORDER BY c.oid`, []any{&name, &text}, func() error {
		out = append(out, definition{"table", name, "CREATE TABLE " + quote(name) + " (" + text + ")"})
		return nil
	}); err != nil {
		return nil, err
	}
	if err := each(ctx, q, `SELECT i.relname::text, pg_get_indexdef(x.indexrelid, 0, true) FROM pg_index x JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid
		WHERE `+ours+` AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = x.indexrelid AND k.contype IN ('p', 'u')) ORDER BY x.indexrelid`, []any{&name, &text}, func() error {
		out = append(out, definition{"index", name, text})
		return nil
	}); err != nil {
		return nil, err
	}
	if err := each(ctx, q, `SELECT k.conname::text, 'ALTER TABLE ' || quote_ident(c.relname) || ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid, true)
		FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid WHERE `+ours+` AND k.contype = 'f' ORDER BY k.oid`, []any{&name, &text}, func() error {
		out = append(out, definition{"constraint", name, text})
		return nil
	}); err != nil {
		return nil, err
	}
	err = each(ctx, q, `SELECT c.relname::text, pg_get_viewdef(c.oid, true) FROM pg_class c WHERE `+ours+` AND c.relkind = 'v' ORDER BY c.oid`, []any{&name, &text}, func() error {
		out = append(out, definition{"view", name, "CREATE VIEW " + quote(name) + " AS " + strings.TrimSuffix(strings.TrimSpace(text), ";")})
		return nil
	})
	return out, err
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
