package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/driver"
)

// group is the transaction under way. Its events are kept here until the end, when they are inserted by one statement:
// the lock makes their places certain before they are stored. So undoing a unit's appends is undoing them in memory.
type group struct {
	units  []*driver.Unit
	packed [][][]byte // per unit and event, what is stored of the payload; made before the lock is taken, for most
	large  bool

	ran    bool // a unit's function has begun
	unit   bool // a unit's function is running
	wrote  bool // a function's statement may have changed something
	void   bool // the only unit failed: roll back
	alone  bool // the unit has no savepoint, the transaction is its own
	point  bool // the unit's savepoint is made
	points bool // there is a savepoint, of this unit or an earlier one
	depth  int
	failed error // of the unit's first statement that failed
	news   bool  // something was committed

	appends  int64 // what the sequence said under the lock
	synced   bool  // what is known is true for this transaction
	appended bool  // a function has appended
	guess    bool  // ids may be taken for new, for the group can be carried out again
	guessed  bool  // one was

	defines bool // definitions are being changed, and the lock for it is held
	token   string

	rows    []row
	byID    map[string]int // rows
	known   map[string]*driver.Record
	types   map[int64]string // to be interned
	origins map[int64][2]string
	streams map[int64]string
}

// row is an event to be inserted, with what it has changed of the writer's knowledge.
type row struct {
	record      driver.Record
	typ, origin int64
	stream      int64
	hash        [32]byte
	payload     []byte
	head        head
	recorded    int64
	before      stream
}

// add takes units into the group, with what is stored of their payloads: compressed where it is worth it. The packer's result
// is valid until its next call, so what it made is copied.
func (g *group) add(units []*driver.Unit, p *driver.Packer) {
	for _, u := range units {
		g.large = g.large || u.Large
		packed := make([][]byte, len(u.Append.Events))
		for j := range packed {
			payload := u.Append.Events[j].Payload
			if packed[j] = p.Pack(payload); len(packed[j]) != len(payload) {
				packed[j] = append([]byte{}, packed[j]...)
			}
		}
		g.units, g.packed = append(g.units, u), append(g.packed, packed)
	}
}

// reset makes the group ready for another attempt.
func (g *group) reset() {
	*g = group{units: g.units, packed: g.packed, large: g.large, byID: map[string]int{}, known: map[string]*driver.Record{},
		types: map[int64]string{}, origins: map[int64][2]string{}, streams: map[int64]string{}}
}

// mark is a place in the group to go back to.
func (w *writer) mark() int { return len(w.group.rows) }

// undo forgets the events since a mark. Types and origins that they brought stay: a name that nobody uses does no harm.
func (w *writer) undo(mark int) {
	g := &w.group
	for i := len(g.rows) - 1; i >= mark; i-- {
		r := &g.rows[i]
		w.heads[r.record.Partition], w.recorded = r.head, r.recorded
		if r.record.Stream != "" {
			w.streams[r.record.Stream] = r.before
			if r.before.id == 0 {
				delete(g.streams, r.stream)
			}
		}
		delete(g.byID, r.record.ID)
	}
	g.rows = g.rows[:mark]
}

// needs returns what appends need that is not known: streams, and ids that may be stored.
func (w *writer) needs(units []*driver.Unit) (names, ids []string) {
	for _, u := range units {
		if u.Run != nil || storable(u.Append) != nil {
			continue
		}
		if _, ok := w.streams[u.Append.Stream]; !ok && u.Append.Stream != "" {
			names = append(names, u.Append.Stream)
		}
		for i := range u.Append.Events {
			if id := u.Append.Events[i].ID; !w.isNew(id, w.guess(&u.Append)) {
				ids = append(ids, id)
			}
		}
	}
	return names, ids
}

const (
	streamsText = `SELECT name, id, (SELECT COALESCE(MAX(version), 0) FROM carebus_events WHERE stream = carebus_streams.id) FROM carebus_streams WHERE name = ANY($1)`
	byIDText    = `SELECT ` + named + ` WHERE e.id = ANY($1)`
)

// look looks up streams and ids.
func (w *writer) look(names, ids []string) error {
	if len(names) == 0 && len(ids) == 0 {
		return nil
	}
	b := &pgx.Batch{}
	looked := w.queueLook(b, names, ids)
	if err := w.ask(b); err != nil {
		return err
	}
	looked()
	return nil
}

// queueLook looks up streams and ids. The function is to be called when the batch has been read.
func (w *writer) queueLook(b *pgx.Batch, names, ids []string) func() {
	if len(names) > 0 {
		b.Queue(streamsText, names).Query(func(rows pgx.Rows) error {
			var name string
			var s stream
			_, err := pgx.ForEachRow(rows, []any{&name, &s.id, &s.version}, func() error {
				w.streams[name] = s
				return nil
			})
			return err
		})
	}
	if len(ids) > 0 {
		b.Queue(byIDText, ids).Query(func(rows pgx.Rows) error {
			records, err := namedRecords(rows)
			for i := range records {
				w.group.known[records[i].ID] = &records[i]
			}
			return err
		})
	}
	return func() {
		for _, name := range names {
			if _, ok := w.streams[name]; !ok {
				w.streams[name] = stream{}
			}
		}
		for _, id := range ids {
			if _, ok := w.group.known[id]; !ok {
				w.group.known[id] = nil
			}
		}
	}
}

func (w *writer) stream(name string) (stream, error) {
	if err := w.synced(); err != nil {
		return stream{}, err
	}
	if s, ok := w.streams[name]; ok {
		return s, nil
	}
	err := w.look([]string{name}, nil)
	return w.streams[name], err
}

// storable refuses what the server cannot store as text: a NUL, or what is not UTF-8. It would fail the whole group.
func storable(a driver.Append) error {
	if !isText(a.Stream) {
		return fmt.Errorf("the name of a stream: %w", errText)
	}
	for i := range a.Events {
		e := &a.Events[i]
		for _, s := range [...]string{e.ID, e.Type, e.Source, e.CorrelationID, e.CausationID, e.Version, e.TraceID, e.PartitionKey} {
			if !isText(s) {
				return fmt.Errorf("the envelope of an event: %w", errText)
			}
		}
	}
	return nil
}

var errText = errors.New("a NUL character, or bytes that are not UTF-8, cannot be stored; leave them out")

func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// append checks an append wholly, then takes its events into the group.
func (w *writer) append(a driver.Append, packed [][]byte) ([]driver.Receipt, error) {
	if err := storable(a); err != nil {
		return nil, err
	}
	if err := w.synced(); err != nil {
		return nil, err
	}
	w.group.appended = w.group.appended || w.group.unit
	receipts, twin, duplicates, err := driver.Known(&a, func(i int) (*driver.Record, error) { return w.stored(a.Events[i].ID, w.guess(&a)) })
	if err != nil {
		return nil, err
	}
	if duplicates == len(a.Events) {
		return receipts, nil // said before, word for word: the answer that got lost
	}
	var s stream
	if a.Stream != "" {
		var err error
		if s, err = w.stream(a.Stream); err != nil {
			return nil, err
		}
		if a.Expected != driver.AnyVersion && a.Expected != s.version || duplicates > 0 {
			return nil, &driver.ConflictError{Stream: a.Stream, Expected: a.Expected, Actual: s.version}
		}
	}
	now := w.now().UnixMicro()
	for i := range a.Events {
		switch {
		case receipts[i].EventID != "":
		case twin != nil && twin[i] < i:
			receipts[i] = receipts[twin[i]]
			receipts[i].Duplicate = true
		default:
			receipts[i] = w.add(&a.Events[i], a.Stream, &s, a.Digests[i], now, packed[i])
		}
	}
	return receipts, nil
}

// add takes an event into the group, at the end of its partition and stream.
func (w *writer) add(e *event.Event, name string, s *stream, digest [32]byte, now int64, payload []byte) driver.Receipt {
	g := &w.group
	p := driver.PartitionOf(e.PartitionKey, w.d.info.Partitions)
	h := &w.heads[p]
	r := row{record: driver.Record{Event: *e, Partition: p, Offset: h.next, Stream: name}, payload: payload, head: *h, recorded: w.recorded, before: *s}
	r.typ, r.origin = w.intern(e.Type), w.origin(e.Source, e.Version)
	w.recorded = max(w.recorded+1, now)
	r.record.RecordedAt = time.UnixMicro(w.recorded).UTC()
	if name != "" {
		if s.id == 0 {
			w.last.stream++
			s.id = w.last.stream
			g.streams[s.id] = name
		}
		s.version++
		r.stream, r.record.StreamVersion = s.id, s.version
		w.streams[name] = *s
	}
	r.hash = driver.Chain(h.hash, digest, p, h.next, name, r.record.StreamVersion, r.record.RecordedAt)
	h.next++
	h.hash = r.hash
	w.fresh.Add(e.ID)
	g.byID[e.ID] = len(g.rows)
	g.rows = append(g.rows, r)
	return r.record.Receipt()
}

// stored returns the record of an event that is stored already, or was taken into the group; nil when it is new.
func (w *writer) stored(id string, guess bool) (*driver.Record, error) {
	if w.isNew(id, guess) {
		return nil, nil
	}
	if i, ok := w.group.byID[id]; ok {
		return &w.group.rows[i].record, nil
	}
	if r, ok := w.group.known[id]; ok {
		return r, nil
	}
	if w.unread != nil && w.group.unit {
		if err := w.readUnread(); err != nil || w.isNew(id, false) {
			return nil, err
		}
	}
	err := w.look(nil, []string{id})
	return w.group.known[id], err
}

func (w *writer) intern(name string) int64 {
	id, ok := w.types[name]
	if !ok {
		w.last.typ++
		id = w.last.typ
		w.types[name], w.group.types[id] = id, name
	}
	return id
}

func (w *writer) origin(source, version string) int64 {
	key := [2]string{source, version}
	id, ok := w.origins[key]
	if !ok {
		w.last.origin++
		id = w.last.origin
		w.origins[key], w.group.origins[id] = id, key
	}
	return id
}

// Stream reads what is stored, and behind it what the group has.
func (t *tx) Stream(ctx context.Context, q driver.StreamQuery) ([]driver.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	w := t.w
	if !w.alive() {
		return nil, fmt.Errorf("%w: the connection was lost in the transaction", driver.ErrUnavailable)
	}
	if !isText(q.Stream) {
		return nil, fmt.Errorf("stream %q: %w", q.Stream, driver.ErrNotFound)
	}
	s, err := w.stream(q.Stream)
	if err != nil {
		return nil, t.failed(err)
	}
	if s.version == 0 {
		return nil, fmt.Errorf("stream %s: %w", q.Stream, driver.ErrNotFound)
	}
	var own []driver.Record // oldest first
	for i := range w.group.rows {
		if r := &w.group.rows[i].record; r.Stream == q.Stream {
			c := *r
			c.Payload = append([]byte{}, r.Payload...)
			own = append(own, c)
		}
	}
	text, from := streamRange(q)
	var out []driver.Record
	if int64(len(own)) < s.version {
		if err := t.begin(ctx); err != nil {
			return nil, err
		}
		rows, err := w.pg.Query(context.Background(), `SELECT `+named+` WHERE e.stream = $1 AND e.version `+text+` LIMIT $3`, s.id, from, q.Limit)
		if err == nil {
			out, err = namedRecords(rows)
		}
		if err != nil {
			return nil, t.failed(err)
		}
	}
	if q.Backward {
		var newest []driver.Record
		for i := len(own) - 1; i >= 0; i-- {
			if own[i].StreamVersion <= from {
				newest = append(newest, own[i])
			}
		}
		out = append(newest, out...)
	} else {
		for i := range own {
			if own[i].StreamVersion >= from {
				out = append(out, own[i])
			}
		}
	}
	return out[:min(len(out), q.Limit)], nil
}

// outcome of a transaction.
type outcome int

const (
	undone outcome = iota
	committed
	unknown
)

const insertText = `INSERT INTO carebus_events (pos, timestamp, recorded, stream, version, type, origin, id, correlation, causation, trace, key, hash, payload)
	SELECT pos, timestamp, recorded, NULLIF(stream, 0), NULLIF(version, 0), type, origin, id, correlation, causation, trace, key, hash, payload
	FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bytea[])
	AS t (pos, timestamp, recorded, stream, version, type, origin, id, correlation, causation, trace, key, hash, payload)`

// finish stores the group's events and commits: one round trip.
func (w *writer) finish() (outcome, error) {
	g := &w.group
	ctx := context.Background()
	w.arm()
	if g.void || len(g.rows) == 0 && !g.wrote {
		if _, err := w.pg.Exec(ctx, "rollback"); err != nil {
			return undone, err
		}
		w.fuse.Stop()
		if len(g.types)+len(g.origins) > 0 {
			w.known = false // names that were given ids and not stored
		}
		return committed, nil
	}
	b := &pgx.Batch{}
	if len(g.types) > 0 {
		ids, names := columns1(g.types)
		b.Queue(`INSERT INTO carebus_types (id, name) SELECT * FROM unnest($1::bigint[], $2::text[])`, ids, names)
	}
	if len(g.origins) > 0 {
		ids, sources, versions := columns2(g.origins)
		b.Queue(`INSERT INTO carebus_origins (id, source, version) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])`, ids, sources, versions)
	}
	if len(g.streams) > 0 {
		ids, names := columns1(g.streams)
		b.Queue(`INSERT INTO carebus_streams (id, name) SELECT * FROM unnest($1::bigint[], $2::text[])`, ids, names)
	}
	queueRows(b, g.rows)
	appends := w.appends
	if len(g.rows) > 0 {
		b.Queue(`SELECT nextval('carebus_appends')`).QueryRow(func(r pgx.Row) error { return r.Scan(&appends) })
	} else {
		// Nothing else would tell afterwards whether this was committed.
		w.commits++
		g.token = fmt.Sprint(w.d.id, "-", w.commits)
		b.Queue(`DELETE FROM carebus_outcomes WHERE token = $1`, fmt.Sprint(w.d.id, "-", w.commits-1))
		b.Queue(`INSERT INTO carebus_outcomes (token, at) VALUES ($1, $2)`, g.token, w.now().UnixMicro())
	}
	b.Queue(`SELECT nextval('carebus_commits')`)
	var tag string
	b.Queue("commit").Exec(func(t pgconn.CommandTag) error { tag = t.String(); return nil })
	if err := w.pg.SendBatch(ctx, b).Close(); err != nil {
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Severity == "ERROR" && w.alive() {
			return undone, err
		}
		return unknown, err
	}
	w.fuse.Stop()
	if tag != "COMMIT" {
		return undone, fmt.Errorf("the server answered COMMIT with %s", tag)
	}
	w.appends = appends
	g.news = true
	return committed, nil
}

func columns1(m map[int64]string) (ids []int64, names []string) {
	for id, name := range m {
		ids, names = append(ids, id), append(names, name)
	}
	return ids, names
}

func columns2(m map[int64][2]string) (ids []int64, a, b []string) {
	for id, pair := range m {
		ids, a, b = append(ids, id), append(a, pair[0]), append(b, pair[1])
	}
	return ids, a, b
}

// insertBytes and insertRows bound one statement; there may be several in a transaction.
const (
	insertBytes = 8 << 20
	insertRows  = 4096
)

func queueRows(b *pgx.Batch, rows []row) {
	for len(rows) > 0 {
		n, bytes := 0, 0
		for n < len(rows) && n < insertRows && (n == 0 || bytes+len(rows[n].payload) <= insertBytes) {
			bytes += len(rows[n].payload)
			n++
		}
		queueInsert(b, rows[:n])
		rows = rows[n:]
	}
}

func queueInsert(b *pgx.Batch, rows []row) {
	n := len(rows)
	ints := make([]int64, 7*n)
	texts := make([]string, 5*n)
	bytes := make([][]byte, 2*n)
	for i := range rows {
		r := &rows[i].record
		for c, v := range [7]int64{int64(r.Partition)<<offsetBits | r.Offset, r.Timestamp, r.RecordedAt.UnixMicro(), rows[i].stream, r.StreamVersion, rows[i].typ, rows[i].origin} {
			ints[c*n+i] = v
		}
		for c, v := range [5]string{r.ID, r.CorrelationID, r.CausationID, r.TraceID, r.PartitionKey} {
			texts[c*n+i] = v
		}
		bytes[i], bytes[n+i] = rows[i].hash[:], rows[i].payload
	}
	args := make([]any, 0, 14)
	for c := range 7 {
		args = append(args, ints[c*n:(c+1)*n])
	}
	for c := range 5 {
		args = append(args, texts[c*n:(c+1)*n])
	}
	b.Queue(insertText, append(args, bytes[:n], bytes[n:])...)
}

// resolve learns what became of a commit whose answer was lost. Once the lock is ours its transaction has ended: the
// server lets the lock go after the commit or the rollback, also when its client is gone.
func (w *writer) resolve(lost error) (outcome, error) {
	g := w.group
	deadline := time.Now().Add(w.d.opts.ResolveTimeout)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		out, err := w.became(&g)
		if err == nil {
			if out == committed {
				w.group.news = true
				return committed, nil
			}
			return undone, fmt.Errorf("%w: the connection was lost in a commit; nothing was stored: %w", driver.ErrUnavailable, clean(lost))
		}
		w.disconnect()
		if time.Now().After(deadline) {
			return unknown, fmt.Errorf("%w: the connection was lost in a commit, and for %v the server did not tell whether it was carried out; "+
				"publishing the same events again is safe: %w", driver.ErrUnavailable, w.d.opts.ResolveTimeout, clean(lost))
		}
		time.Sleep(pause)
	}
}

func (w *writer) became(g *group) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), w.d.opts.BusyTimeout)
	defer cancel()
	if err := w.connect(ctx); err != nil {
		return unknown, err
	}
	tx, err := w.pg.Begin(ctx)
	if err != nil {
		return unknown, err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1, $2)`, int32(lockClass), w.d.lock); err != nil {
		return unknown, err
	}
	var there bool
	if len(g.rows) > 0 {
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM carebus_events WHERE id = $1 AND hash = $2)`, g.rows[0].record.ID, g.rows[0].hash[:]).Scan(&there)
	} else {
		err = tx.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM carebus_outcomes WHERE token = $1)`, g.token).Scan(&there)
	}
	if err != nil {
		return unknown, err
	}
	if err := tx.Rollback(ctx); err != nil {
		return unknown, err
	}
	if there {
		return committed, nil
	}
	return undone, nil
}
