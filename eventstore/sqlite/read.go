package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore/driver"
)

// loadNames reads the interned types and origins.
func (d *DB) loadNames(ctx context.Context) (types map[int64]string, origins map[int64][2]string, err error) {
	types, origins = map[int64]string{}, map[int64][2]string{}
	rows, err := d.readers.QueryContext(ctx, `SELECT id, name, '' FROM types UNION ALL SELECT -id, source, version FROM origins`)
	if err != nil {
		return nil, nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var a, b string
		if err := rows.Scan(&id, &a, &b); err != nil {
			return nil, nil, err
		}
		if id > 0 {
			types[id] = a
		} else {
			origins[-id] = [2]string{a, b}
		}
	}
	return types, origins, rows.Err()
}

// prepared returns a statement over the readers. Texts are few: fixed ones, and one per set of types that a group reads.
// Run it without a context that can end, after a look at the caller's: the engine starts a goroutine to watch one, which
// costs as much as half the read.
func (d *DB) prepared(ctx context.Context, text string) (*sql.Stmt, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if st, ok := d.stmts.Load(text); ok {
		return st.(*sql.Stmt), nil
	}
	st, err := d.readers.Prepare(text)
	if err != nil {
		return nil, err
	}
	if old, loaded := d.stmts.LoadOrStore(text, st); loaded {
		_ = st.Close()
		return old.(*sql.Stmt), nil
	}
	return st, nil
}

// filteredWindow is how many offsets a read with a type filter may look over when it finds little.
const filteredWindow = 20_000

// Partition reads a part of a partition.
func (d *DB) Partition(ctx context.Context, q driver.PartitionQuery) (driver.Batch, error) {
	b := driver.Batch{Next: q.From}
	if q.Partition < 0 || q.Partition >= d.info.Partitions {
		return b, fmt.Errorf("sqlite: partition %d: %w; the store has partitions 0 to %d", q.Partition, driver.ErrNotFound, d.info.Partitions-1)
	}
	if q.MaxBytes <= 0 {
		q.MaxBytes = 4 << 20
	}
	base := int64(q.Partition) << offsetBits
	to := int64(offsetMask)
	if q.To > 0 {
		to = q.To
	}
	where := ""
	window := to
	if q.Match != nil || q.Key != "" {
		// What was looked at must be known even where nothing matched: the window ends at the head as seen before the
		// rows are read, so that no row below it can appear later.
		head, upTo, err := d.head(ctx, q.Partition)
		if err != nil {
			return b, d.readError(err)
		}
		window = min(to, head, q.From+max(filteredWindow, int64(q.Limit)))
		if window <= q.From {
			return b, nil
		}
		if q.Match != nil {
			ids, all, _, err := d.names.Matching(ctx, q.Match, upTo)
			if err != nil {
				return b, d.readError(err)
			}
			switch {
			case len(ids) == 0:
				b.Next = window
				return b, nil
			case !all:
				where = " AND +type IN (" + joinInts(ids) + ")" // the plus keeps the planner from the index by type
			}
		}
	}
	args := []any{base | q.From, base | window, q.Limit}
	if q.Key != "" {
		where += " AND key = ?4"
		args = append(args, q.Key)
	}
	st, err := d.prepared(ctx, `SELECT `+columns+` FROM events WHERE pos >= ?1 AND pos < ?2`+where+` ORDER BY pos LIMIT ?3`)
	if err != nil {
		return b, d.readError(err)
	}
	rows, err := st.Query(args...)
	if err != nil {
		return b, d.readError(err)
	}
	var full bool
	b.Records, full, err = d.records(ctx, rows, min(q.Limit, 512), q.MaxBytes)
	if err != nil {
		return driver.Batch{Next: q.From}, d.readError(err)
	}
	n := len(b.Records)
	switch {
	case n > 0 && (full || n == q.Limit || (q.Match == nil && q.Key == "")):
		b.Next = b.Records[n-1].Offset + 1
	case q.Match != nil || q.Key != "":
		b.Next = window
	}
	return b, nil
}

func joinInts(ids []int64) string {
	var b strings.Builder
	for i, id := range ids {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	return b.String()
}

// head returns the partition's head and the highest type id, of one moment.
func (d *DB) head(ctx context.Context, partition int) (head, maxType int64, err error) {
	st, err := d.prepared(ctx, `SELECT COALESCE((SELECT MAX(pos) FROM events WHERE pos >= ?1 AND pos < ?2), -1), COALESCE((SELECT MAX(id) FROM types), 0)`)
	if err != nil {
		return 0, 0, err
	}
	var pos int64
	err = st.QueryRow(int64(partition)<<offsetBits, int64(partition+1)<<offsetBits).Scan(&pos, &maxType)
	if pos < 0 {
		return 0, maxType, err
	}
	return pos&offsetMask + 1, maxType, err
}

// Heads returns the next offset of each partition.
func (d *DB) Heads(ctx context.Context) ([]int64, error) {
	heads := make([]int64, d.info.Partitions)
	for p := range heads {
		h, _, err := d.head(ctx, p)
		if err != nil {
			return nil, d.readError(err)
		}
		heads[p] = h
	}
	return heads, nil
}

// records reads the rows of a query over columns or streamColumns, up to the row that reaches maxBytes of payload, and
// closes them. Names that are not known yet are looked up after that: a query within a query would wait for a second
// connection while holding the first, and all readers doing so at once would wait for ever.
func (d *DB) records(ctx context.Context, rows *sql.Rows, expect, maxBytes int) (out []driver.Record, full bool, err error) {
	defer rows.Close()
	type ids struct {
		i           int
		typ, origin int64
	}
	var unknown []ids
	out = make([]driver.Record, 0, expect)
	for bytes := 0; !full && rows.Next(); {
		out = append(out, driver.Record{})
		r := &out[len(out)-1]
		var pos, typ, origin, recorded int64
		if err := rows.Scan(&pos, &r.ID, &typ, &origin, &r.CorrelationID, &r.CausationID, &r.Timestamp, &recorded, &r.TraceID, &r.PartitionKey, &r.Stream, &r.StreamVersion, (*[]byte)(&r.Payload)); err != nil {
			return nil, false, err
		}
		var err error
		if r.Payload, err = driver.Unpack(r.Payload); err != nil {
			return nil, false, fmt.Errorf("event %s: %w", r.ID, err)
		}
		r.Partition, r.Offset = int(pos>>offsetBits), pos&offsetMask
		r.RecordedAt = time.UnixMicro(recorded).UTC()
		if !d.names.Fill(r, typ, origin) {
			unknown = append(unknown, ids{len(out) - 1, typ, origin})
		}
		bytes += len(r.Payload)
		full = bytes >= maxBytes
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, false, err
	}
	if len(unknown) > 0 {
		if err := d.names.Load(ctx); err != nil {
			return nil, false, err
		}
	}
	for _, u := range unknown {
		if r := &out[u.i]; !d.names.Fill(r, u.typ, u.origin) {
			return nil, false, fmt.Errorf("%w: event %s has unknown type %d or origin %d", driver.ErrCorrupt, r.ID, u.typ, u.origin)
		}
	}
	return out, full, nil
}

// named are the columns with names joined in: for reads of few rows.
const named = `events.pos, events.id, COALESCE(t.name, ''), COALESCE(o.source, ''), COALESCE(o.version, ''), events.correlation, events.causation, events.timestamp, events.recorded, events.trace, events.key, COALESCE(s.name, ''), COALESCE(events.version, 0), events.payload
	FROM events LEFT JOIN types t ON t.id = events.type LEFT JOIN origins o ON o.id = events.origin LEFT JOIN streams s ON s.id = events.stream`

const getText = `SELECT ` + named + ` WHERE events.id = ?`

func scanNamed(row interface{ Scan(...any) error }, r *driver.Record) error {
	var pos, recorded int64
	var payload []byte
	if err := row.Scan(&pos, &r.ID, &r.Type, &r.Source, &r.Version, &r.CorrelationID, &r.CausationID, &r.Timestamp, &recorded, &r.TraceID, &r.PartitionKey, &r.Stream, &r.StreamVersion, &payload); err != nil {
		return err
	}
	r.Partition, r.Offset = int(pos>>offsetBits), pos&offsetMask
	r.RecordedAt = time.UnixMicro(recorded).UTC()
	var err error
	if r.Payload, err = driver.Unpack(payload); err != nil {
		return fmt.Errorf("event %s: %w", r.ID, err)
	}
	if r.Type == "" || r.Source == "" {
		return fmt.Errorf("%w: the name of the type or source of event %s is missing (partition %d, offset %d)", driver.ErrCorrupt, r.ID, r.Partition, r.Offset)
	}
	return nil
}

func (d *DB) query(ctx context.Context, text string, args ...any) ([]driver.Record, error) {
	st, err := d.prepared(ctx, text)
	if err != nil {
		return nil, d.readError(err)
	}
	rows, err := st.Query(args...)
	if err != nil {
		return nil, d.readError(err)
	}
	out, err := namedRecords(rows)
	return out, d.readError(err)
}

// namedRecords reads the rows of a query over named, and closes them.
func namedRecords(rows *sql.Rows) ([]driver.Record, error) {
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

// Get returns one event.
func (d *DB) Get(ctx context.Context, eventID string) (driver.Record, error) {
	rs, err := d.query(ctx, getText, eventID)
	if err != nil {
		return driver.Record{}, err
	}
	if len(rs) == 0 {
		return driver.Record{}, fmt.Errorf("event %s: %w", eventID, driver.ErrNotFound)
	}
	return rs[0], nil
}

// streamRange is the rest of a query for versions of a stream: text with a place for the bound, and the bound.
func streamRange(q driver.StreamQuery) (text string, from int64) {
	switch {
	case !q.Backward:
		return `>= ? ORDER BY events.version`, q.From
	case q.From == 0:
		return `<= ? ORDER BY events.version DESC`, 1 << 62
	default:
		return `<= ? ORDER BY events.version DESC`, q.From
	}
}

// Stream reads the history of a stream.
func (d *DB) Stream(ctx context.Context, q driver.StreamQuery) ([]driver.Record, error) {
	text, from := streamRange(q)
	st, err := d.prepared(ctx, `SELECT `+streamColumns+` FROM events WHERE stream = (SELECT id FROM streams WHERE name = ?1) AND version `+text+` LIMIT ?`)
	if err != nil {
		return nil, d.readError(err)
	}
	rows, err := st.Query(q.Stream, from, q.Limit)
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
	st, err := d.prepared(ctx, `SELECT COALESCE(MAX(version), 0) FROM events WHERE stream = (SELECT id FROM streams WHERE name = ?)`)
	if err != nil {
		return 0, d.readError(err)
	}
	var v int64
	err = st.QueryRow(stream).Scan(&v)
	return v, d.readError(err)
}

// Streams lists stream names.
func (d *DB) Streams(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	rows, err := d.views.QueryContext(ctx, `SELECT name FROM streams WHERE name >= ?1 AND name > ?2 AND substr(name, 1, length(?1)) = ?1 ORDER BY name LIMIT ?3`, prefix, after, limit)
	if err != nil {
		return nil, d.readError(err)
	}
	defer rows.Close()
	out := []string{}
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, d.readError(err)
		}
		out = append(out, s)
	}
	return out, d.readError(rows.Err())
}

// Correlation reads a flow.
func (d *DB) Correlation(ctx context.Context, id string, after time.Time, limit int) ([]driver.Record, error) {
	from := int64(-1 << 62)
	if !after.IsZero() {
		from = after.UnixMicro()
	}
	return d.query(ctx, `SELECT `+named+` WHERE events.correlation = ?1 AND events.recorded > ?2 ORDER BY events.recorded LIMIT ?3`, id, from, limit)
}

// Type reads events of one type by timestamp.
func (d *DB) Type(ctx context.Context, q driver.TypeQuery) ([]driver.Record, error) {
	from, to := int64(-1<<62), int64(1<<62)
	if !q.From.IsZero() {
		from = q.From.UnixMilli()
	}
	if !q.To.IsZero() {
		to = q.To.UnixMilli()
	}
	text := `SELECT ` + named + ` WHERE events.type = (SELECT id FROM types WHERE name = ?1) AND events.timestamp >= ?2 AND events.timestamp < ?3 AND (events.timestamp, events.pos) > (?4, ?5) ORDER BY events.timestamp, events.pos LIMIT ?6`
	ts, pos := int64(-1<<62), int64(-1)
	if q.Backward {
		text = `SELECT ` + named + ` WHERE events.type = (SELECT id FROM types WHERE name = ?1) AND events.timestamp >= ?2 AND events.timestamp < ?3 AND (events.timestamp, events.pos) < (?4, ?5) ORDER BY events.timestamp DESC, events.pos DESC LIMIT ?6`
		ts, pos = 1<<62, 1<<62
	}
	if q.After.Valid {
		ts, pos = q.After.Timestamp, int64(q.After.Partition)<<offsetBits|q.After.Offset
	}
	return d.query(ctx, text, q.Type, from, to, ts, pos, q.Limit)
}

// Types counts events by type, in the index by type.
func (d *DB) Types(ctx context.Context, most int64) (map[string]int64, error) {
	text, args := `SELECT name, (SELECT COUNT(*) FROM events WHERE type = types.id) FROM types`, []any{}
	if most > 0 {
		text, args = `SELECT name, (SELECT COUNT(*) FROM (SELECT 1 FROM events WHERE type = types.id LIMIT ?1)) FROM types`, []any{most}
	}
	rows, err := d.views.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, d.readError(err)
	}
	defer rows.Close()
	out := map[string]int64{}
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return nil, d.readError(err)
		}
		if n > 0 {
			out[name] = n
		}
	}
	return out, d.readError(rows.Err())
}

// offsetAtText bisects: recorded grows along a partition. It is one statement, since each costs several times what a step does.
const offsetAtText = `WITH RECURSIVE search (lo, hi) AS (
	SELECT 0, COALESCE((SELECT MAX(pos) FROM events WHERE pos >= ?1 AND pos < ?2) - ?1 + 1, 0)
	UNION ALL
	SELECT CASE WHEN e.recorded < ?3 THEN (s.lo + s.hi) / 2 + 1 ELSE s.lo END, CASE WHEN e.recorded < ?3 THEN s.hi ELSE (s.lo + s.hi) / 2 END
	FROM search s CROSS JOIN events e WHERE e.pos = ?1 + (s.lo + s.hi) / 2 AND s.lo < s.hi
) SELECT lo, hi FROM search ORDER BY hi - lo LIMIT 1`

// OffsetAt finds the first offset recorded at t or later.
func (d *DB) OffsetAt(ctx context.Context, partition int, t time.Time) (int64, error) {
	if partition < 0 || partition >= d.info.Partitions {
		return 0, fmt.Errorf("sqlite: partition %d: %w", partition, driver.ErrNotFound)
	}
	st, err := d.prepared(ctx, offsetAtText)
	if err != nil {
		return 0, d.readError(err)
	}
	var lo, hi int64
	if err := st.QueryRow(int64(partition)<<offsetBits, int64(partition+1)<<offsetBits, t.UnixMicro()).Scan(&lo, &hi); err != nil {
		return 0, d.readError(err)
	}
	if lo < hi {
		return 0, fmt.Errorf("%w: partition %d has no offset %d below its head", driver.ErrCorrupt, partition, (lo+hi)/2)
	}
	return lo, nil
}

// View runs fn over a snapshot.
func (d *DB) View(ctx context.Context, fn func(q driver.Querier) error) error {
	tx, err := d.views.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return d.readError(err)
	}
	defer func() { _ = tx.Rollback() }()
	return d.readError(fn(tx))
}

// Hash returns the hash of a record's place in the chain of its partition: it stands for all records up to it. The hash
// before the first record is zero.
func (d *DB) Hash(ctx context.Context, partition int, offset int64) (hash [32]byte, err error) {
	if offset < 0 {
		return hash, nil
	}
	var stored []byte
	err = d.readers.QueryRowContext(ctx, `SELECT hash FROM events WHERE pos = ?`, int64(partition)<<offsetBits|offset).Scan(&stored)
	if errors.Is(err, sql.ErrNoRows) {
		return hash, fmt.Errorf("sqlite: partition %d, offset %d: %w", partition, offset, driver.ErrNotFound)
	}
	copy(hash[:], stored)
	return hash, d.readError(err)
}
