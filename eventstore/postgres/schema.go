package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/eventstore/driver"
)

// The stored format, version 1; the number is in carebus_meta. A schema with a higher number is refused.
//
//	pos              partition << 40 | offset, as in SQLite: one B-tree, in which each partition is a run of neighbours
//	type, origin     interned: carebus_types(id, name), carebus_origins(id, source, version)
//	stream, version  interned: carebus_streams(id, name); NULL, NULL for an event without a stream
//	recorded         µs; the one writer makes it strictly increasing in the whole store
//	payload          as it is, or compressed (zstd), which its first bytes tell
//	hash             SHA-256 chained along the partition, see driver.Chain: the same as SQLite's for the same record
//
// Why one table, and these indexes, at 100 million events:
//
//   - The heap is filled at its end only, and nothing is updated or deleted: no bloat, and vacuum looks at new pages only
//     (insert thresholds below), which also keeps index-only scans cheap.
//   - A table per partition would have no unique index on the event id and none on (stream, version), which are the last
//     line of defence, and every look-up by id, stream or flow would search twelve indexes.
//   - Inserts touch few index pages, whatever the size: ids are time-ordered and go to the right end; positions to twelve
//     right ends; types by timestamp to one end per type; streams and flows that are active lie close together. So the
//     working set is the end of each index, not the index.
//   - B-tree depth grows with the logarithm: four levels from about 10 million to beyond 1000 million entries.
//   - BRIN would suit recorded, which grows with the heap. No query asks for it: the first offset at a time is found by
//     bisection over positions, in the server.
//   - No index on the partition key, for the reason given in eventstore/sqlite: it would cost more than any other.
//   - Payloads are compressed by us, so the server is told not to try (EXTERNAL), and to keep rows in their page up to its
//     size (toast_tuple_target): one write instead of three for the usual event.
//
// Two sequences count commits and appends. Being sequences they are one row that is changed in place, where a table's row
// would leave a dead version per commit, which a long snapshot keeps: looking at it would get slower and slower.
// They move before their transaction is visible, which watch.go takes into account.
const formatVersion = 1

const (
	offsetBits = 40
	offsetMask = 1<<offsetBits - 1
)

// migrations bring the tables from one version to the next. Steps already released are never changed: add one.
var migrations = []string{`
CREATE TABLE carebus_types (id BIGINT PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE carebus_origins (id BIGINT PRIMARY KEY, source TEXT NOT NULL, version TEXT NOT NULL, UNIQUE (source, version));
CREATE TABLE carebus_streams (id BIGINT PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE carebus_events (
	pos BIGINT PRIMARY KEY,
	timestamp BIGINT NOT NULL,
	recorded BIGINT NOT NULL,
	stream BIGINT,
	version BIGINT,
	type BIGINT NOT NULL,
	origin BIGINT NOT NULL,
	id TEXT NOT NULL,
	correlation TEXT NOT NULL,
	causation TEXT NOT NULL,
	trace TEXT NOT NULL,
	key TEXT NOT NULL,
	hash BYTEA NOT NULL,
	payload BYTEA NOT NULL
) WITH (fillfactor = 100, toast_tuple_target = 8160,
	autovacuum_vacuum_insert_threshold = 200000, autovacuum_vacuum_insert_scale_factor = 0,
	autovacuum_analyze_threshold = 50000, autovacuum_analyze_scale_factor = 0.02);
ALTER TABLE carebus_events ALTER COLUMN payload SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX carebus_events_id ON carebus_events (id);
CREATE INDEX carebus_events_correlation ON carebus_events (correlation, recorded);
CREATE INDEX carebus_events_type ON carebus_events (type, timestamp, pos);
CREATE UNIQUE INDEX carebus_events_stream ON carebus_events (stream, version) WHERE stream IS NOT NULL;
CREATE TABLE carebus_outcomes (token TEXT PRIMARY KEY, at BIGINT NOT NULL);
CREATE SEQUENCE carebus_commits;
CREATE SEQUENCE carebus_appends;
SELECT nextval('carebus_commits'), nextval('carebus_appends');
`}

// lockClass is the first half of the advisory locks of a store; the second is the oid of its table carebus_meta, so that
// stores in several schemas of a database do not wait for each other. With 0 there it guards the making of tables.
const lockClass = 0x43424553 // "CBES"

// text finds the column types of the common subset of SQL that PostgreSQL names otherwise, or means otherwise: text
// compares by bytes on every engine, whatever the database's locale.
var (
	textType   = regexp.MustCompile(`\bTEXT\b`)
	blobType   = regexp.MustCompile(`\bBLOB\b`)
	definition = regexp.MustCompile(`\b(CREATE TABLE|ADD COLUMN)\b`)
)

func translate(statement string) string {
	if !definition.MatchString(statement) {
		return statement
	}
	return blobType.ReplaceAllString(textType.ReplaceAllString(statement, `TEXT COLLATE "C"`), "BYTEA")
}

// create makes the schema and its tables where they are missing and brings them up to date.
func create(ctx context.Context, c *pgx.Conn, partitions int) error {
	var schema *string
	if err := c.QueryRow(ctx, `SELECT current_schema()`).Scan(&schema); err != nil {
		return err
	}
	tx, err := c.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, 0)`, int32(lockClass)); err != nil {
		return err
	}
	if schema == nil {
		// The address names a schema that is not there yet.
		var path string
		if err := tx.QueryRow(ctx, `SHOW search_path`).Scan(&path); err != nil {
			return err
		}
		first, _, _ := strings.Cut(path, ",")
		first = strings.Trim(strings.TrimSpace(first), `"`)
		if first == "" || strings.HasPrefix(first, "$") {
			return errors.New("the search_path names no schema; add search_path=NAME to the address")
		}
		if _, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS `+pgx.Identifier{first}.Sanitize()); err != nil {
			return err
		}
	}
	format, err := formatOf(ctx, tx)
	if errors.Is(err, driver.ErrNotFound) {
		if partitions == 0 {
			partitions = 12
		}
		if _, err := tx.Exec(ctx, translate(`CREATE TABLE carebus_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)`)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO carebus_meta (name, value) VALUES ('format', '0'), ('partitions', $1)`, strconv.Itoa(partitions)); err != nil {
			return err
		}
		format, err = 0, nil
	}
	if err != nil {
		return err
	}
	if format == formatVersion {
		return tx.Commit(ctx)
	}
	for _, step := range migrations[format:] {
		if _, err := tx.Conn().PgConn().Exec(ctx, translate(step)).ReadAll(); err != nil {
			return err
		}
	}
	if _, err := tx.Exec(ctx, `UPDATE carebus_meta SET value = $1 WHERE name = 'format'`, strconv.Itoa(formatVersion)); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

type rowQuerier interface {
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}

// formatOf says which format a schema has; ErrNotFound when it holds no store.
func formatOf(ctx context.Context, q rowQuerier) (int, error) {
	var meta, events bool
	if err := q.QueryRow(ctx, `SELECT to_regclass('carebus_meta') IS NOT NULL, to_regclass('carebus_events') IS NOT NULL`).Scan(&meta, &events); err != nil {
		return 0, err
	}
	if !meta {
		if events {
			return 0, fmt.Errorf("%w: the schema has a table carebus_events that is no store's; choose another schema by search_path", driver.ErrFormat)
		}
		return 0, fmt.Errorf("%w: the schema holds no store", driver.ErrNotFound)
	}
	text, err := metaValue(ctx, q, "format")
	if err != nil {
		return 0, err
	}
	format, err := strconv.Atoi(text)
	if err != nil || format < 0 {
		return 0, fmt.Errorf("%w: carebus_meta says format %q", driver.ErrFormat, text)
	}
	if format > formatVersion {
		return 0, fmt.Errorf("%w: the store has format %d, this program knows up to %d; use a newer carebus", driver.ErrFormat, format, formatVersion)
	}
	return format, nil
}

func metaValue(ctx context.Context, q rowQuerier, name string) (value string, err error) {
	err = q.QueryRow(ctx, `SELECT value FROM carebus_meta WHERE name = $1`, name).Scan(&value)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("%w: carebus_meta has no %s; choose another schema by search_path", driver.ErrFormat, name)
	}
	return value, err
}
