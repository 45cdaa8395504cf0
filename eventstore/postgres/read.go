package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/eventstore/driver"
)

// columns of a record read from the log. Types and origins are few and cached; streams are not.
const (
	columns       = beforeStream + `CASE WHEN e.stream IS NULL THEN '' ELSE COALESCE((SELECT name FROM carebus_streams s WHERE s.id = e.stream), '') END` + afterStream
	streamColumns = beforeStream + `$1::text` + afterStream // for reads of one stream, whose name is parameter 1
	beforeStream  = `e.pos, e.id, e.type, e.origin, e.correlation, e.causation, e.timestamp, e.recorded, e.trace, e.key, `
	afterStream   = `, COALESCE(e.version, 0), e.payload`
)

// named are the columns with names joined in: for reads of few rows.
const named = `e.pos, e.id, COALESCE(t.name, ''), COALESCE(o.source, ''), COALESCE(o.version, ''), e.correlation, e.causation, e.timestamp, e.recorded, e.trace, e.key, COALESCE(s.name, ''), COALESCE(e.version, 0), e.payload
	FROM carebus_events e LEFT JOIN carebus_types t ON t.id = e.type LEFT JOIN carebus_origins o ON o.id = e.origin LEFT JOIN carebus_streams s ON s.id = e.stream`

// loadNames reads the interned types and origins.
func (d *DB) loadNames(ctx context.Context) (types map[int64]string, origins map[int64][2]string, err error) {
	types, origins = map[int64]string{}, map[int64][2]string{}
	rows, err := d.readers.Query(ctx, `SELECT id, name, '' FROM carebus_types UNION ALL SELECT -id, source, version FROM carebus_origins`)
	if err != nil {
		return nil, nil, err
	}
	var id int64
	var a, b string
	_, err = pgx.ForEachRow(rows, []any{&id, &a, &b}, func() error {
		if id > 0 {
			types[id] = a
		} else {
			origins[-id] = [2]string{a, b}
		}
		return nil
	})
	return types, origins, err
}

// filteredWindow is how many offsets a read with a type filter may look over when it finds little.
const filteredWindow = 20_000

// Partition reads a part of a partition: one round trip.
func (d *DB) Partition(ctx context.Context, q driver.PartitionQuery) (driver.Batch, error) {
	none := driver.Batch{Next: q.From}
	if err := d.known(q.Partition); err != nil {
		return none, err
	}
	if q.MaxBytes <= 0 {
		q.MaxBytes = 4 << 20
	}
	if !isText(q.Key) {
		q.Match = func(string) bool { return false } // nothing has such a key, and the server would not be asked for it
		q.Key = ""
	}
	if q.Match != nil || q.Key != "" {
		return d.filtered(ctx, q)
	}
	to := int64(offsetMask)
	if q.To > 0 {
		to = q.To
	}
	rows, err := d.readers.Query(ctx, partText+partEnd, int64(q.Partition)<<offsetBits|q.From, int64(q.Partition)<<offsetBits|to, q.Limit)
	if err != nil {
		return none, d.readError(err)
	}
	records, _, err := d.records(ctx, rows, min(q.Limit, 512), q.MaxBytes)
	if err != nil {
		return none, d.readError(err)
	}
	if n := len(records); n > 0 {
		return driver.Batch{Records: records, Next: records[n-1].Offset + 1}, nil
	}
	return none, nil
}

const (
	partText = `SELECT ` + columns + ` FROM carebus_events e WHERE e.pos >= $1 AND e.pos < $2`
	partEnd  = ` ORDER BY e.pos LIMIT $3`
)

// filtered reads what matches. What was looked at must be known even where nothing does: that ends at the head as seen
// before the rows are read, so that no row below it can appear later. Which types match must be known of all that a row
// below the head can have: where there is a new type, all is done again.
func (d *DB) filtered(ctx context.Context, q driver.PartitionQuery) (driver.Batch, error) {
	out := driver.Batch{Next: q.From}
	base := int64(q.Partition) << offsetBits
	window := q.From + max(filteredWindow, int64(q.Limit))
	if q.To > 0 {
		window = min(window, q.To)
	}
	for upTo := int64(1); ; {
		ids, all, known, err := d.names.Matching(ctx, q.Match, upTo)
		if err != nil {
			return out, d.readError(err)
		}
		text, args := partText, []any{base | q.From, base | window, q.Limit}
		if !all {
			args = append(args, ids)
			text += ` AND e.type + 0 = ANY($4)` // the sum keeps the planner from the index by type
		}
		if q.Key != "" {
			args = append(args, q.Key)
			text += fmt.Sprintf(` AND e.key = $%d`, len(args))
		}
		b := &pgx.Batch{}
		var pos, maxType int64
		b.Queue(headText, base, base+1<<offsetBits).QueryRow(func(r pgx.Row) error { return r.Scan(&pos, &maxType) })
		var read scanned
		if all || len(ids) > 0 {
			b.Queue(text+partEnd, args...).Query(func(rows pgx.Rows) (err error) {
				read, err = d.scan(rows, min(q.Limit, 512), q.MaxBytes)
				return err
			})
		}
		if err := d.readers.SendBatch(ctx, b).Close(); err != nil {
			return out, d.readError(err)
		}
		if maxType > known {
			upTo = maxType
			continue
		}
		if out.Records, err = d.complete(ctx, read); err != nil {
			return out, d.readError(err)
		}
		end, n := min(window, pos+1-base), len(out.Records)
		for n > 0 && out.Records[n-1].Offset >= end { // stored since the head was seen
			n--
		}
		if n > 0 && n == len(out.Records) && (read.full || n == q.Limit) {
			end = out.Records[n-1].Offset + 1
		}
		out.Records, out.Next = out.Records[:n], max(end, q.From)
		return out, nil
	}
}

func (d *DB) known(partition int) error {
	if partition < 0 || partition >= d.info.Partitions {
		return fmt.Errorf("postgres: partition %d: %w; the store has partitions 0 to %d", partition, driver.ErrNotFound, d.info.Partitions-1)
	}
	return nil
}

// headText is the position of the last event of a partition, or what is before its first, and the highest type id, of one moment.
const headText = `SELECT COALESCE((SELECT pos FROM carebus_events WHERE pos >= $1 AND pos < $2 ORDER BY pos DESC LIMIT 1), $1 - 1), COALESCE((SELECT MAX(id) FROM carebus_types), 0)`

const headsText = `SELECT p, e.pos FROM generate_series(0, $1::bigint - 1) p, LATERAL
	(SELECT pos FROM carebus_events WHERE pos >= p << 40 AND pos < (p + 1) << 40 ORDER BY pos DESC LIMIT 1) e`

// Heads returns the next offset of each partition, of one moment.
func (d *DB) Heads(ctx context.Context) ([]int64, error) {
	heads := make([]int64, d.info.Partitions)
	rows, err := d.readers.Query(ctx, headsText, d.info.Partitions)
	if err != nil {
		return nil, d.readError(err)
	}
	var p, pos int64
	_, err = pgx.ForEachRow(rows, []any{&p, &pos}, func() error {
		heads[p] = pos&offsetMask + 1
		return nil
	})
	if err != nil {
		return nil, d.readError(err)
	}
	return heads, nil
}

// scanned are rows of a query over columns or streamColumns, some of which have names that are not known yet.
type scanned struct {
	records []driver.Record
	unknown []nameless
	full    bool // there may be more, beyond so many bytes
}

// nameless is a record whose type or origin is not known by name yet.
type nameless struct {
	i           int
	typ, origin int64
}

// scan reads the rows of a query over columns or streamColumns, up to the row that reaches maxBytes of payload, and closes
// them.
func (d *DB) scan(rows pgx.Rows, expect, maxBytes int) (s scanned, err error) {
	defer rows.Close()
	s.records = make([]driver.Record, 0, expect)
	for bytes := 0; !s.full && rows.Next(); {
		s.records = append(s.records, driver.Record{})
		r := &s.records[len(s.records)-1]
		var pos, typ, origin, recorded int64
		if err := rows.Scan(&pos, &r.ID, &typ, &origin, &r.CorrelationID, &r.CausationID, &r.Timestamp, &recorded, &r.TraceID, &r.PartitionKey, &r.Stream, &r.StreamVersion, (*[]byte)(&r.Payload)); err != nil {
			return s, err
		}
		if err := place(r, pos, recorded); err != nil {
			return s, err
		}
		if !d.names.Fill(r, typ, origin) {
			s.unknown = append(s.unknown, nameless{len(s.records) - 1, typ, origin})
		}
		bytes += len(r.Payload)
		s.full = bytes >= maxBytes
	}
	rows.Close()
	if err := rows.Err(); err != nil && !s.full {
		return s, err
	}
	return s, nil
}

// complete looks up the names that were not known. The connection of the rows must be free.
func (d *DB) complete(ctx context.Context, s scanned) ([]driver.Record, error) {
	if len(s.unknown) > 0 {
		if err := d.names.Load(ctx); err != nil {
			return nil, err
		}
	}
	for _, u := range s.unknown {
		if r := &s.records[u.i]; !d.names.Fill(r, u.typ, u.origin) {
			return nil, fmt.Errorf("%w: event %s has unknown type %d or origin %d", driver.ErrCorrupt, r.ID, u.typ, u.origin)
		}
	}
	return s.records, nil
}

// records is scan and complete.
func (d *DB) records(ctx context.Context, rows pgx.Rows, expect, maxBytes int) ([]driver.Record, bool, error) {
	s, err := d.scan(rows, expect, maxBytes)
	if err != nil {
		return nil, false, err
	}
	out, err := d.complete(ctx, s)
	return out, s.full, err
}

// place fills in what is stored in another form.
func place(r *driver.Record, pos, recorded int64) (err error) {
	r.Partition, r.Offset = int(pos>>offsetBits), pos&offsetMask
	r.RecordedAt = time.UnixMicro(recorded).UTC()
	if r.Payload, err = driver.Unpack(r.Payload); err != nil {
		return fmt.Errorf("event %s: %w", r.ID, err)
	}
	return nil
}

// scanNamed reads a row over named; before are the destinations of columns in front of them.
func scanNamed(row pgx.Row, r *driver.Record, before ...any) error {
	var pos, recorded int64
	if err := row.Scan(append(before, &pos, &r.ID, &r.Type, &r.Source, &r.Version, &r.CorrelationID, &r.CausationID, &r.Timestamp, &recorded, &r.TraceID, &r.PartitionKey, &r.Stream, &r.StreamVersion, (*[]byte)(&r.Payload))...); err != nil {
		return err
	}
	if err := place(r, pos, recorded); err != nil {
		return err
	}
	if r.Type == "" || r.Source == "" {
		return fmt.Errorf("%w: the name of the type or source of event %s is missing (partition %d, offset %d)", driver.ErrCorrupt, r.ID, r.Partition, r.Offset)
	}
	return nil
}

// namedRecords reads the rows of a query over named, and closes them.
func namedRecords(rows pgx.Rows) ([]driver.Record, error) {
	defer rows.Close()
	out := []driver.Record{}
	for rows.Next() {
		var r driver.Record
		if err := scanNamed(rows, &r); err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, rows.Err()
}

func (d *DB) query(ctx context.Context, text string, args ...any) ([]driver.Record, error) {
	rows, err := d.readers.Query(ctx, text, args...)
	if err != nil {
		return nil, d.readError(err)
	}
	out, err := namedRecords(rows)
	return out, d.readError(err)
}

const getText = `SELECT ` + named + ` WHERE e.id = $1`

// Get returns one event.
func (d *DB) Get(ctx context.Context, eventID string) (driver.Record, error) {
	if !isText(eventID) {
		return driver.Record{}, fmt.Errorf("event %q: %w", eventID, driver.ErrNotFound)
	}
	rs, err := d.query(ctx, getText, eventID)
	if err != nil {
		return driver.Record{}, err
	}
	if len(rs) == 0 {
		return driver.Record{}, fmt.Errorf("event %s: %w", eventID, driver.ErrNotFound)
	}
	return rs[0], nil
}

// streamRange is the rest of a query for versions of a stream: text, whose second parameter is the bound, and the bound.
func streamRange(q driver.StreamQuery) (text string, from int64) {
	switch {
	case !q.Backward:
		return `>= $2 ORDER BY e.version`, q.From
	case q.From == 0:
		return `<= $2 ORDER BY e.version DESC`, 1 << 62
	default:
		return `<= $2 ORDER BY e.version DESC`, q.From
	}
}

// Stream reads the history of a stream.
func (d *DB) Stream(ctx context.Context, q driver.StreamQuery) ([]driver.Record, error) {
	if !isText(q.Stream) {
		return nil, fmt.Errorf("stream %q: %w", q.Stream, driver.ErrNotFound)
	}
	text, from := streamRange(q)
	rows, err := d.readers.Query(ctx, `SELECT `+streamColumns+` FROM carebus_events e WHERE e.stream = (SELECT id FROM carebus_streams WHERE name = $1) AND e.version `+text+` LIMIT $3`, q.Stream, from, q.Limit)
	if err != nil {
		return nil, d.readError(err)
	}
	out, _, err := d.records(ctx, rows, min(q.Limit, 16), math.MaxInt)
	if err != nil {
		return nil, d.readError(err)
	}
	if len(out) == 0 {
		v, err := d.StreamVersion(ctx, q.Stream)
		if err != nil {
			return nil, err
		}
		if v == 0 {
			return nil, fmt.Errorf("stream %s: %w", q.Stream, driver.ErrNotFound)
		}
	}
	return out, nil
}

// StreamVersion returns the number of events in a stream.
func (d *DB) StreamVersion(ctx context.Context, stream string) (int64, error) {
	if !isText(stream) {
		return 0, nil
	}
	var v int64
	err := d.readers.QueryRow(ctx, `SELECT COALESCE(MAX(version), 0) FROM carebus_events WHERE stream = (SELECT id FROM carebus_streams WHERE name = $1)`, stream).Scan(&v)
	return v, d.readError(err)
}

// Streams lists stream names.
func (d *DB) Streams(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if !isText(prefix) || !isText(after) {
		return []string{}, nil
	}
	rows, err := d.readers.Query(ctx, `SELECT name FROM carebus_streams WHERE name >= $1 AND name > $2 AND starts_with(name, $1) ORDER BY name LIMIT $3`, prefix, after, limit)
	if err != nil {
		return nil, d.readError(err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return out, d.readError(err)
}

const correlationText = `SELECT ` + named + ` WHERE e.correlation = $1 AND e.recorded > $2 ORDER BY e.recorded LIMIT $3`

// Correlation reads a flow.
func (d *DB) Correlation(ctx context.Context, id string, after time.Time, limit int) ([]driver.Record, error) {
	if !isText(id) {
		return []driver.Record{}, nil
	}
	from := int64(-1 << 62)
	if !after.IsZero() {
		from = after.UnixMicro()
	}
	return d.query(ctx, correlationText, id, from, limit)
}

const (
	typeText     = `SELECT ` + named + ` WHERE e.type = (SELECT id FROM carebus_types WHERE name = $1) AND e.timestamp >= $2 AND e.timestamp < $3 AND (e.timestamp, e.pos) > ($4, $5) ORDER BY e.timestamp, e.pos LIMIT $6`
	typeBackward = `SELECT ` + named + ` WHERE e.type = (SELECT id FROM carebus_types WHERE name = $1) AND e.timestamp >= $2 AND e.timestamp < $3 AND (e.timestamp, e.pos) < ($4, $5) ORDER BY e.timestamp DESC, e.pos DESC LIMIT $6`
)

// Type reads events of one type by timestamp.
func (d *DB) Type(ctx context.Context, q driver.TypeQuery) ([]driver.Record, error) {
	if !isText(q.Type) {
		return []driver.Record{}, nil
	}
	from, to := int64(-1<<62), int64(1<<62)
	if !q.From.IsZero() {
		from = q.From.UnixMilli()
	}
	if !q.To.IsZero() {
		to = q.To.UnixMilli()
	}
	text, ts, pos := typeText, int64(-1<<62), int64(-1)
	if q.Backward {
		text, ts, pos = typeBackward, 1<<62, 1<<62
	}
	if q.After.Valid {
		ts, pos = q.After.Timestamp, int64(q.After.Partition)<<offsetBits|q.After.Offset
	}
	return d.query(ctx, text, q.Type, from, to, ts, pos, q.Limit)
}

// Types counts events by type, in the index by type.
func (d *DB) Types(ctx context.Context, most int64) (map[string]int64, error) {
	text, args := `SELECT t.name, c.n FROM (SELECT type, COUNT(*) AS n FROM carebus_events GROUP BY type) c JOIN carebus_types t ON t.id = c.type`, []any{}
	if most > 0 {
		// The order keeps the planner in the index by type: it would look for a few rows of a type in the table itself, and
		// through all of it for a rare one.
		text = `SELECT t.name, c.n FROM carebus_types t, LATERAL (SELECT COUNT(*) AS n FROM (SELECT 1 FROM carebus_events e WHERE e.type = t.id ORDER BY e.timestamp LIMIT $1) x) c WHERE c.n > 0`
		args = []any{most}
	}
	out := map[string]int64{}
	err := d.View(ctx, func(q driver.Querier) error {
		rows, err := q.QueryContext(ctx, text, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			var n int64
			if err := rows.Scan(&name, &n); err != nil {
				return err
			}
			out[name] = n
		}
		return rows.Err()
	})
	return out, err
}

// offsetAtText bisects, in the server: recorded grows along a partition.
const offsetAtText = `WITH RECURSIVE search (lo, hi) AS (
	SELECT 0::bigint, COALESCE((SELECT pos FROM carebus_events WHERE pos >= $1 AND pos < $1 + (1::bigint << 40) ORDER BY pos DESC LIMIT 1) - $1 + 1, 0)
	UNION ALL
	SELECT CASE WHEN e.recorded < $2 THEN (s.lo + s.hi) / 2 + 1 ELSE s.lo END, CASE WHEN e.recorded < $2 THEN s.hi ELSE (s.lo + s.hi) / 2 END
	FROM search s JOIN carebus_events e ON e.pos = $1 + (s.lo + s.hi) / 2 WHERE s.lo < s.hi
) SELECT lo, hi FROM search ORDER BY hi - lo LIMIT 1`

// OffsetAt finds the first offset recorded at t or later.
func (d *DB) OffsetAt(ctx context.Context, partition int, t time.Time) (int64, error) {
	if err := d.known(partition); err != nil {
		return 0, err
	}
	var lo, hi int64
	if err := d.readers.QueryRow(ctx, offsetAtText, int64(partition)<<offsetBits, t.UnixMicro()).Scan(&lo, &hi); err != nil {
		return 0, d.readError(err)
	}
	if lo < hi {
		return 0, fmt.Errorf("%w: partition %d has no offset %d below its head", driver.ErrCorrupt, partition, (lo+hi)/2)
	}
	return lo, nil
}

// viewText begins a transaction of one moment. Names of tables and views are looked up at the present moment, not at that
// of the snapshot: a reader whose snapshot is older than a change of definitions would read the new table as it was before
// it was filled. So a view holds a lock, taken before the snapshot, that changes of definitions wait for: see define.
const viewText = `begin isolation level repeatable read read only; lock table carebus_meta in access share mode`

// View runs fn over a snapshot.
func (d *DB) View(ctx context.Context, fn func(q driver.Querier) error) error {
	c, err := d.views.Conn(ctx)
	if err != nil {
		return d.readError(err)
	}
	defer c.Close() // a connection that is still in its transaction is not used again
	exec := func(ctx context.Context, text string) error {
		return c.Raw(func(raw any) error {
			_, err := raw.(sqlConn).Conn.Conn().PgConn().Exec(ctx, text).ReadAll()
			return err
		})
	}
	if err := exec(ctx, viewText); err != nil {
		return d.readError(err)
	}
	if err := fn(c); err != nil {
		_ = exec(context.WithoutCancel(ctx), "rollback")
		if ctx.Err() != nil {
			return err
		}
		return d.readError(err)
	}
	return d.readError(exec(ctx, "rollback"))
}
