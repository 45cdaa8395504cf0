package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/driver"
)

// writer is the one connection of a process that writes, and what is known of the store's end so that an append needs no
// look-up: heads and last hashes of the partitions, streams and interned names. It is true as long as the sequence
// carebus_appends stands where this process has left it. Else the ends are read again (sync); after a lost connection, and
// after a transaction that was undone, everything is (reload).
type writer struct {
	d    *DB
	pool *sql.DB   // of one connection
	conn *sql.Conn // the same connection as pg, in database/sql's clothes, which rows for components need
	pg   *pgx.Conn
	fuse *time.Timer // closes a connection that answers no more

	known    bool // whether the following are valid
	appends  int64
	heads    []head
	recorded int64 // of the last event, µs
	fresh    *driver.Fresh
	unread   []int64           // per partition: what others have appended from there on is not in fresh; nil when fresh has all
	streams  map[string]stream // a stream that is known not to exist has no id
	types    map[string]int64
	origins  map[[2]string]int64
	last     struct{ typ, origin, stream int64 } // highest ids given
	shared   bool                                // others had appended when this process last looked
	doubts   int                                 // so many groups are not guessed about
	eager    bool                                // functions append, as a rule: others are read for them at once
	packer   driver.Packer

	clock   time.Time // the server's, at the moment since
	since   time.Time
	group   group
	commits int64 // tokens of groups without an event
}

type head struct {
	next int64
	hash [32]byte
}

type stream struct{ id, version int64 }

const streamCache = 50_000

func newWriter(d *DB) *writer { return &writer{d: d, fresh: driver.NewFresh()} }

// connect opens the connection, if there is none.
func (w *writer) connect(ctx context.Context) (err error) {
	if w.pg != nil && !w.pg.IsClosed() {
		return nil
	}
	w.disconnect()
	w.pool = w.d.sqlPool(w.d.writing(), 1)
	defer func() {
		if err != nil {
			w.disconnect()
		}
	}()
	if w.conn, err = w.pool.Conn(ctx); err != nil {
		return err
	}
	if err := w.conn.Raw(func(c any) error { w.pg = c.(sqlConn).Conn.Conn(); return nil }); err != nil {
		return err
	}
	raw := w.pg.PgConn().Conn()
	w.fuse = time.AfterFunc(time.Hour, func() { _ = raw.Close() })
	w.fuse.Stop()
	// A client that is gone must not stay in the queue for the lock. Not every platform can tell.
	_, _ = w.pg.Exec(ctx, `SET client_connection_check_interval = 2000`)
	var sync string
	if err := w.pg.QueryRow(ctx, `SHOW synchronous_commit`).Scan(&sync); err != nil {
		return err
	}
	if sync == "off" {
		w.d.opts.Logger.WarnContext(ctx, "the PostgreSQL server acknowledges before it is durable (synchronous_commit = off); carebus sets it on for its own commits")
		_, err = w.pg.Exec(ctx, `SET synchronous_commit = on`)
	}
	return err
}

// disconnect drops the connection, and with it the transaction under way.
func (w *writer) disconnect() {
	w.known = false
	if w.fuse != nil {
		w.fuse.Stop()
		w.fuse = nil
	}
	if w.pg != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		_ = w.pg.Close(ctx)
		cancel()
		w.pg = nil
	}
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
	if w.pool != nil {
		_ = w.pool.Close()
		w.pool = nil
	}
}

func (w *writer) alive() bool { return w.pg != nil && !w.pg.IsClosed() }

// arm bounds the time until the next call of arm: a server that is gone without a word is given up. The server's own
// bound on a statement comes first where it is there.
func (w *writer) arm() {
	if !w.group.large {
		w.fuse.Reset(w.d.opts.StatementTimeout + 10*time.Second)
	}
}

// now is the store's clock.
func (w *writer) now() time.Time {
	if w.d.opts.Clock != nil {
		return w.d.opts.Clock()
	}
	return w.clock.Add(time.Since(w.since))
}

// Commit carries out a group of units in one transaction.
func (d *DB) Commit(ctx context.Context, units []*driver.Unit) ([]int64, error) {
	return d.CommitQueued(ctx, units, func() []*driver.Unit { return nil })
}

// CommitQueued carries out a group of units, and those that have come when it has the lock, in one transaction.
func (d *DB) CommitQueued(ctx context.Context, units []*driver.Unit, more func() []*driver.Unit) ([]int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, driver.ErrClosed
	case d.w == nil:
		return nil, fmt.Errorf("postgres: %w", driver.ErrReadOnly)
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	w := d.w
	w.group = group{}
	defer func() { w.group = group{} }()
	w.group.add(units, &w.packer)
	deadline := time.Now().Add(d.opts.BusyTimeout)
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		heads, again, err := w.attempt(ctx, more)
		if err == nil {
			if w.group.news {
				grown := heads
				if len(w.group.rows) == 0 {
					grown = heads[:0]
				}
				d.notifier.tell(grown)
			}
			return heads, nil
		}
		var pe *pgconn.PgError
		if again && w.group.guessed && errors.As(err, &pe) && pe.ConstraintName == "carebus_events_id" {
			w.doubts = doubted
			continue
		}
		err = fmt.Errorf("postgres: %w", mapError(err))
		if !again || !errors.Is(err, driver.ErrUnavailable) || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// attempt carries out the units once. again says that nothing of it remains, and that it may be carried out again, because
// no unit's function has begun.
func (w *writer) attempt(ctx context.Context, more func() []*driver.Unit) (heads []int64, again bool, err error) {
	ended := false
	defer func() {
		if !ended { // an error, or a panic of a unit's function
			w.abandon()
		}
	}()
	w.group.reset()
	if err := w.begin(ctx); err != nil {
		return nil, true, err
	}
	large := w.group.large
	if w.group.add(more(), &w.packer); w.group.large != large {
		w.fuse.Stop()
		if _, err := w.exec(unbounded); err != nil {
			return nil, true, err
		}
	}
	if err := w.run(w.group.units); err != nil {
		return nil, !w.group.ran, err
	}
	outcome, err := w.finish()
	if outcome == unknown {
		w.disconnect()
		outcome, err = w.resolve(err)
	}
	switch outcome {
	case committed:
		ended = true
	case undone:
		return nil, !w.group.ran, err
	default:
		return nil, false, err
	}
	heads = make([]int64, len(w.heads))
	for p := range heads {
		heads[p] = w.heads[p].next
	}
	return heads, false, nil
}

// abandon leaves nothing of a transaction: with a connection that works by a rollback, else by dropping it.
func (w *writer) abandon() {
	w.known = false
	if !w.alive() {
		w.disconnect()
		return
	}
	w.arm()
	if _, err := w.pg.Exec(context.Background(), "rollback"); err != nil {
		w.disconnect()
		return
	}
	w.fuse.Stop()
}

// unbounded lets a transaction take longer than others may.
const unbounded = `set local statement_timeout = 0; set local idle_in_transaction_session_timeout = '60s'`

const stateText = `SELECT last_value, (extract(epoch from clock_timestamp()) * 1000000)::bigint FROM carebus_appends`

// begin begins a transaction, takes the lock, and learns whether others have appended since. The three statements are one
// round trip; each sees what was committed before it began, and so the last one sees what was before the lock.
func (w *writer) begin(ctx context.Context) error {
	if err := w.connect(ctx); err != nil {
		return err
	}
	w.arm()
	b := &pgx.Batch{}
	b.Queue(`begin isolation level read committed`)
	b.Queue(`SELECT pg_advisory_xact_lock($1, $2)`, int32(lockClass), w.d.lock)
	var now int64
	b.Queue(stateText).QueryRow(func(r pgx.Row) error { return r.Scan(&w.group.appends, &now) })
	ends := w.known && w.shared && (w.eager || slices.ContainsFunc(w.group.units, isAppend))
	before := w.heads
	if ends { // it will be so again, and this is a round trip less
		w.queueEnds(b)
	}
	if err := w.pg.SendBatch(ctx, b).Close(); err != nil {
		return err
	}
	if ends {
		w.moved(before)
	}
	if w.group.large {
		if _, err := w.exec(unbounded); err != nil {
			return err
		}
	}
	w.clock, w.since = time.UnixMicro(now), time.Now()
	if len(w.streams) > streamCache {
		clear(w.streams)
	}
	return nil
}

// moved takes note of what others have appended, when the ends of the partitions have been read; before are the former ones.
func (w *writer) moved(before []head) {
	if w.shared = w.group.appends != w.appends; !w.shared {
		return
	}
	clear(w.streams)
	if w.unread == nil {
		w.unread = make([]int64, len(before))
		for p := range before {
			w.unread[p] = before[p].next
		}
	}
	w.appends = w.group.appends
}

// sync makes what is known true, and looks up what the appends of units need: one round trip, or none when nobody else has
// appended and nothing is to be looked up. It costs as much as these units have events, not as much as others have
// appended; only for functions that append, whose events come later, the ids of others are read (all). A transaction that
// appends nothing, such as that of a handler with rows of its own, does without.
func (w *writer) sync(units []*driver.Unit, all bool) error {
	g := &w.group
	if !w.known || w.fresh.Stale(w.now()) {
		if err := w.reload(); err != nil {
			return err
		}
	}
	b := &pgx.Batch{}
	if before := w.heads; g.appends != w.appends {
		w.known = false
		w.queueEnds(b)
		w.moved(before)
	}
	names, ids := w.needs(units)
	if all = all && w.unread != nil; all {
		ids = nil
	}
	looked := w.queueLook(b, names, ids)
	read := func() error { return nil }
	if all {
		read = w.queueUnread(b)
	}
	if b.Len() > 0 {
		if err := w.ask(b); err != nil {
			return err
		}
	}
	looked()
	w.known, g.synced = true, true
	if !all {
		return nil
	}
	if err := read(); err != nil {
		return err
	}
	return w.look(w.needs(units)) // of ids that may be known: few
}

// synced is sync for the first append of a function, where there was none before.
func (w *writer) synced() error {
	if w.group.synced {
		return nil
	}
	return w.sync(nil, true)
}

// ask carries out look-ups, which in a unit's function are statements of the unit.
func (w *writer) ask(b *pgx.Batch) error {
	if w.group.unit {
		if err := w.statement(); err != nil {
			return err
		}
	}
	w.arm()
	return w.pg.SendBatch(context.Background(), b).Close()
}

const (
	// others bounds how many ids are read that others have appended.
	others     = 500
	unreadText = `SELECT e.id FROM unnest($1::bigint[]) f, LATERAL (SELECT id FROM carebus_events WHERE pos >= f AND pos <= f | $2 ORDER BY pos LIMIT $3) e LIMIT $3`
	floorText  = `SELECT COALESCE(MAX(id), '') FROM carebus_events WHERE id < $1`
	endsText   = `SELECT p, e.pos, e.recorded, e.hash FROM generate_series(0, $1::bigint - 1) p, LATERAL
	(SELECT pos, recorded, hash FROM carebus_events WHERE pos >= p << 40 AND pos < (p + 1) << 40 ORDER BY pos DESC LIMIT 1) e`
)

// queueUnread reads the ids that others have appended, so that new ids need no look-up. The function is to be called when
// the batch has been read.
func (w *writer) queueUnread(b *pgx.Batch) func() error {
	from := make([]int64, len(w.unread))
	for p, next := range w.unread {
		from[p] = int64(p)<<offsetBits | next
	}
	count := 0
	b.Queue(unreadText, from, int64(offsetMask), others).Query(func(rows pgx.Rows) error {
		var id string
		_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
			count++
			w.fresh.Add(id)
			return nil
		})
		return err
	})
	return func() error {
		if count < others { // else there may be more
			w.unread = nil
			return nil
		}
		return w.refloor()
	}
}

// readUnread reads what others have appended, for a function that appends after all.
func (w *writer) readUnread() error {
	b := &pgx.Batch{}
	read := w.queueUnread(b)
	if err := w.ask(b); err != nil {
		return err
	}
	return read()
}

// refloor begins anew with what is known of ids.
func (w *writer) refloor() error {
	limit, floor := driver.FreshLimit(w.now()), ""
	b := &pgx.Batch{}
	b.Queue(floorText, limit).QueryRow(func(r pgx.Row) error { return r.Scan(&floor) })
	if err := w.ask(b); err != nil {
		return err
	}
	w.fresh.Begin(w.now(), limit, floor)
	for i := range w.group.rows {
		w.fresh.Add(w.group.rows[i].record.ID)
	}
	w.unread = nil
	return nil
}

// isNew is true only for ids that are not stored; or, when guess is set, may be wrong about ids that others have appended a moment
// ago: the index on ids tells, and the group is carried out again. It is publishers that have not got an answer who send an
// event to two processes, and they are few.
func (w *writer) isNew(id string, guess bool) bool {
	switch {
	case !w.fresh.IsNew(id):
		return false
	case w.unread != nil && guess:
		w.group.guessed = true
	}
	return w.unread == nil || guess
}

// guess says whether ids of an append may be guessed about: nothing but its events depends on them, and its group can be
// carried out again. (That a version is wrong would be told even of an event that is stored already.)
func (w *writer) guess(a *driver.Append) bool {
	return w.group.guess && (a.Stream == "" || a.Expected == driver.AnyVersion)
}

// doubted is how many groups are not guessed about after a guess was wrong.
const doubted = 20

const namesText = `SELECT 1, id, name, '' FROM carebus_types WHERE id > $1 UNION ALL SELECT 2, id, source, version FROM carebus_origins WHERE id > $2
	UNION ALL SELECT 3, COALESCE(MAX(id), 0), '', '' FROM carebus_streams`

// queueEnds reads the ends of the partitions, and the names that were interned since.
func (w *writer) queueEnds(b *pgx.Batch) {
	w.heads = slices.Clone(w.heads)
	b.Queue(endsText, w.d.info.Partitions).Query(func(rows pgx.Rows) error {
		var p, pos, recorded int64
		var hash []byte
		_, err := pgx.ForEachRow(rows, []any{&p, &pos, &recorded, &hash}, func() error {
			w.heads[p].next = pos&offsetMask + 1
			if copy(w.heads[p].hash[:], hash) != 32 {
				return fmt.Errorf("%w: hash of %d bytes at partition %d, offset %d", driver.ErrCorrupt, len(hash), p, pos&offsetMask)
			}
			w.recorded = max(w.recorded, recorded)
			return nil
		})
		return err
	})
	b.Queue(namesText, w.last.typ, w.last.origin).Query(func(rows pgx.Rows) error {
		var kind, id int64
		var name, version string
		_, err := pgx.ForEachRow(rows, []any{&kind, &id, &name, &version}, func() error {
			switch kind {
			case 1:
				w.types[name], w.last.typ = id, max(w.last.typ, id)
			case 2:
				w.origins[[2]string{name, version}], w.last.origin = id, max(w.last.origin, id)
			default:
				w.last.stream = id
			}
			return nil
		})
		return err
	})
}

// reload reads what is known of the store's end.
func (w *writer) reload() error {
	w.known = false
	w.types, w.origins = map[string]int64{}, map[[2]string]int64{}
	w.last.typ, w.last.origin = 0, 0
	w.heads = make([]head, w.d.info.Partitions)
	w.recorded = 0
	w.streams = map[string]stream{}
	limit, floor := driver.FreshLimit(w.now()), ""
	b := &pgx.Batch{}
	w.queueEnds(b)
	b.Queue(floorText, limit).QueryRow(func(r pgx.Row) error { return r.Scan(&floor) })
	if err := w.ask(b); err != nil {
		return err
	}
	w.fresh.Begin(w.now(), limit, floor)
	w.unread = nil
	w.appends = w.group.appends
	w.known = true
	return nil
}

func isAppend(u *driver.Unit) bool { return u.Run == nil }

// run carries out the units of the group. An error is one of the whole group.
func (w *writer) run(units []*driver.Unit) error {
	runs := slices.ContainsFunc(units, func(u *driver.Unit) bool { return !isAppend(u) })
	w.group.guess = !runs && w.doubts == 0
	w.doubts = max(w.doubts-1, 0)
	if w.eager || slices.ContainsFunc(units, isAppend) {
		if err := w.sync(units, runs && w.eager); err != nil {
			return err
		}
	}
	for i, u := range units {
		u.Receipts, u.Err = nil, nil
		if u.Ctx != nil && u.Ctx.Err() != nil {
			u.Err = fmt.Errorf("postgres: not begun: %w", context.Cause(u.Ctx))
			continue
		}
		if u.Run == nil {
			u.Receipts, u.Err = w.append(u.Append, w.group.packed[i])
		} else {
			w.group.ran = true
			u.Err = w.unit(u, len(units) == 1)
		}
		if !w.alive() {
			return fmt.Errorf("%w: the connection was lost in a transaction; nothing was stored: %w", driver.ErrUnavailable, u.Err)
		}
		u.Err = mapError(u.Err)
	}
	if runs {
		w.eager = w.group.appended
	}
	return nil
}

// unit runs a unit's function. Its savepoint is made before its first statement, and stays for the next unit to move on:
// one round trip for both, and none for a unit that only appends.
func (w *writer) unit(u *driver.Unit, alone bool) error {
	g := &w.group
	g.point, g.failed, g.alone, g.defines = false, nil, alone, false
	m := w.mark()
	g.unit = true
	err := u.Run(&tx{w: w})
	g.unit = false
	if err == nil {
		err = w.swallowed()
	}
	if err == nil || !w.alive() {
		return err
	}
	w.undo(m)
	switch {
	case alone:
		g.void = true // the whole transaction is rolled back
	case g.point:
		if _, rerr := w.exec("rollback to savepoint unit"); rerr != nil {
			w.disconnect()
			return errors.Join(err, rerr)
		}
	}
	return err
}

// swallowed is the error of a statement that failed although its caller went on: the server does not go on.
func (w *writer) swallowed() error {
	if !w.alive() || w.pg.PgConn().TxStatus() != 'E' {
		return nil
	}
	if w.group.failed != nil {
		return fmt.Errorf("a statement of the transaction failed: %w", w.group.failed)
	}
	return errors.New("a statement of the transaction failed")
}

// statement is to be called before every statement of a unit.
func (w *writer) statement() error {
	g := &w.group
	if g.alone || g.point {
		return nil
	}
	text := "savepoint unit"
	if g.points {
		text = "release savepoint unit; savepoint unit"
	}
	if _, err := w.exec(text); err != nil {
		return err
	}
	g.point, g.points = true, true
	return nil
}

// exec carries out a statement, or several, that have no parameters and no rows.
func (w *writer) exec(text string) ([]*pgconn.Result, error) {
	w.arm()
	rs, err := w.pg.PgConn().Exec(context.Background(), text).ReadAll()
	if err != nil && w.group.failed == nil {
		w.group.failed = mapError(err)
	}
	return rs, err
}

// savepoint runs fn and undoes it when it fails or panics.
func (w *writer) savepoint(fn func() error) (err error) {
	if err := w.statement(); err != nil {
		return mapError(err)
	}
	w.group.depth++
	name := fmt.Sprint("s", w.group.depth)
	if _, err := w.exec("savepoint " + name); err != nil {
		w.group.depth--
		return mapError(err)
	}
	m := w.mark()
	ended := false
	undo := func() error {
		ended = true
		w.group.depth--
		w.undo(m)
		w.group.failed = nil
		_, err := w.exec("rollback to savepoint " + name + "; release savepoint " + name)
		return err
	}
	defer func() {
		if !ended { // fn panicked
			if uerr := undo(); uerr != nil {
				w.disconnect()
			}
		}
	}()
	if err = fn(); err == nil {
		err = w.swallowed()
	}
	if err != nil {
		if uerr := undo(); uerr != nil {
			w.disconnect()
			return fmt.Errorf("%w: %w (undoing: %w)", driver.ErrUnavailable, err, mapError(uerr))
		}
		return err
	}
	ended = true
	w.group.depth--
	_, err = w.exec("release savepoint " + name)
	return mapError(err)
}

// tx is the transaction as a unit's function sees it. A context is looked at before a statement, not during it: the
// transaction belongs to others too.
type tx struct{ w *writer }

func (t *tx) Append(ctx context.Context, a driver.Append) ([]driver.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	if len(a.Events) == 0 {
		return []driver.Receipt{}, nil
	}
	packed := make([][]byte, len(a.Events))
	events := make([]event.Event, len(a.Events))
	for i := range events {
		events[i] = a.Events[i]
		packed[i] = append([]byte{}, t.w.packer.Pack(a.Events[i].Payload)...)
		events[i].Payload = append([]byte{}, a.Events[i].Payload...) // the caller may use its slice again
	}
	a.Events = events
	rs, err := t.w.append(a, packed)
	return rs, mapError(err)
}

func (t *tx) Savepoint(_ context.Context, fn func() error) error { return t.w.savepoint(fn) }

func (t *tx) Now() time.Time { return t.w.now().UTC() }

func (t *tx) begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !t.w.alive() {
		return fmt.Errorf("%w: the connection was lost in the transaction", driver.ErrUnavailable)
	}
	if err := t.w.statement(); err != nil {
		return mapError(err)
	}
	t.w.arm()
	return nil
}

// failed names the error of a statement. What the server says of every statement after the first that failed tells nothing:
// the first error is told instead.
func (t *tx) failed(err error) error {
	var se *serverError
	if err = mapError(err); errors.As(err, &se) && se.code == "25P02" && t.w.group.failed != nil {
		return fmt.Errorf("a statement of the transaction failed before: %w", t.w.group.failed)
	}
	if err != nil && t.w.group.failed == nil {
		t.w.group.failed = err
	}
	return err
}

func (t *tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	t.w.group.wrote = true
	if err := t.w.define(query); err != nil {
		return nil, t.failed(err)
	}
	query = translate(query)
	if len(args) == 0 {
		rs, err := t.w.exec(query)
		var n int64
		for _, r := range rs {
			n = r.CommandTag.RowsAffected()
		}
		return rowsAffected(n), t.failed(err)
	}
	tag, err := t.w.pg.Exec(context.Background(), query, args...)
	return rowsAffected(tag.RowsAffected()), t.failed(err)
}

type rowsAffected int64

func (rowsAffected) LastInsertId() (int64, error) {
	return 0, errors.New("postgres: no LastInsertId; use RETURNING")
}
func (n rowsAffected) RowsAffected() (int64, error) { return int64(n), nil }

func (t *tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	t.w.group.wrote = t.w.group.wrote || !isSelect(query)
	rows, err := t.w.conn.QueryContext(context.Background(), query, args...)
	return rows, t.failed(err)
}

func (t *tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if err := t.begin(ctx); err != nil {
		gone, cancel := context.WithCancelCause(context.Background())
		cancel(err)
		return t.w.d.views.QueryRowContext(gone, query, args...) // it carries the error
	}
	t.w.group.wrote = t.w.group.wrote || !isSelect(query)
	return t.w.conn.QueryRowContext(context.Background(), query, args...)
}

// redefinition finds the statements that change what a name means that readers may know.
var redefinition = regexp.MustCompile(`\b(DROP|ALTER|CREATE VIEW)\b`)

// define waits, before the first statement of a transaction that changes definitions, until no view is open; those to come
// wait for the end of the transaction. A view that takes longer than a second is in the way: the statement fails, for a
// transaction that waits holds up all writers.
func (w *writer) define(statement string) error {
	if w.group.defines || !redefinition.MatchString(statement) {
		return nil
	}
	if _, err := w.exec(`set local lock_timeout = '1s'; lock table carebus_meta in access exclusive mode`); err != nil {
		return fmt.Errorf("%w: readers are in the way of a change of tables; try again: %w", driver.ErrUnavailable, clean(err))
	}
	w.group.defines = w.group.depth == 0 // a savepoint that is undone lets the lock go
	return nil
}

// isSelect reports whether a query only reads; INSERT … RETURNING does not.
func isSelect(query string) bool {
	query = strings.TrimSpace(query)
	return len(query) > 6 && strings.EqualFold(query[:6], "SELECT")
}
