package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore/driver"
)

// writer is the one connection that writes, and what is known of the store's end so that an insert needs no look-up:
// heads and last hashes of the partitions, streams and interned names. All of it is dropped when another process has
// written since (PRAGMA data_version says so) and after anything was undone.
type writer struct {
	db         *sql.DB
	conn       *sql.Conn
	turn       *turn
	clock      func() time.Time
	partitions int
	stmts      map[string]*sql.Stmt

	version  int64 // data_version at the last commit
	known    bool  // whether the following are valid
	heads    []head
	recorded int64         // of the last event, µs
	fresh    *driver.Fresh // event ids
	streams  map[string]stream
	packer   driver.Packer
	spills   bool // what a savepoint may undo goes to a file
	types    map[string]int64
	origins  map[[2]string]int64
	appended int // events stored in the present transaction
}

type head struct {
	next int64
	hash [32]byte
}

type stream struct{ id, version int64 }

const (
	streamCache = 50_000
	stmtCache   = 512
)

func (d *DB) openWriter(ctx context.Context) (*writer, error) {
	// Made here for its permissions: what is stored is nobody else's to read. SQLite gives its other files the same.
	f, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Close(); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", d.dsn(fmt.Sprintf("cache_size(-%d)", d.opts.CacheBytes>>10)))
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	w := &writer{db: db, fresh: driver.NewFresh(), clock: d.opts.Clock, stmts: map[string]*sql.Stmt{}, partitions: d.info.Partitions}
	if err := w.open(ctx, d); err != nil {
		_ = w.close()
		return nil, err
	}
	return w, nil
}

func (w *writer) open(ctx context.Context, d *DB) (err error) {
	if w.conn, err = w.db.Conn(ctx); err != nil {
		return err
	}
	// Before anything that could change the file of somebody else.
	var tables int
	if err := w.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_schema`).Scan(&tables); err != nil {
		return err
	}
	if tables > 0 {
		if _, err := formatOf(ctx, w.conn); err != nil {
			return err
		}
	}
	if w.turn, err = openTurn(d.path, d.opts.BusyTimeout); err != nil {
		return err
	}
	// In turn, and tried again: the engine does not wait for others that are just switching the file to WAL.
	return w.turn.begin(ctx, func() error {
		if err := w.configure(ctx); err != nil {
			return err
		}
		return w.create(ctx, d.opts.Partitions)
	})
}

// configure sets what a connection that writes needs.
func (w *writer) configure(ctx context.Context) error {
	for _, p := range []string{
		"PRAGMA page_size = 8192", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL",
		"PRAGMA temp_store = MEMORY", // what a savepoint may have to undo: small, and written for every one
		"PRAGMA wal_autocheckpoint = 2000", "PRAGMA journal_size_limit = 67108864",
	} {
		if _, err := w.conn.ExecContext(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// create makes the tables in an empty file.
func (w *writer) create(ctx context.Context, partitions int) error {
	if _, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	err := func() error {
		var app, tables int
		if err := w.conn.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&app); err != nil {
			return err
		}
		if err := w.conn.QueryRowContext(ctx, `SELECT COUNT(*) FROM sqlite_schema`).Scan(&tables); err != nil {
			return err
		}
		if app == applicationID || tables > 0 {
			// open has checked what it is. Version 2 may compress payloads, which a program of version 1 cannot read.
			if format, err := formatOf(ctx, w.conn); err != nil || format == formatVersion {
				return err
			}
			_, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", formatVersion))
			return err
		}
		if partitions == 0 {
			partitions = 12
		}
		_, err := w.conn.ExecContext(ctx, fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d; %s; INSERT INTO meta (name, value) VALUES ('partitions', '%d')",
			applicationID, formatVersion, schema, partitions))
		return err
	}()
	if err != nil {
		_, rerr := w.conn.ExecContext(ctx, "ROLLBACK")
		return errors.Join(err, rerr)
	}
	if _, err = w.conn.ExecContext(ctx, "COMMIT"); err != nil {
		return err
	}
	_, err = w.conn.ExecContext(ctx, "PRAGMA busy_timeout = 0") // from here on waiting is turn's
	return err
}

func (w *writer) close() error {
	var errs []error
	for _, st := range w.stmts {
		errs = append(errs, st.Close())
	}
	if w.conn != nil {
		errs = append(errs, w.conn.Close())
	}
	errs = append(errs, w.db.Close())
	if w.turn != nil {
		errs = append(errs, w.turn.close())
	}
	return errors.Join(errs...)
}

// stmt returns a statement prepared on the writer's connection.
func (w *writer) stmt(text string) (*sql.Stmt, error) {
	if st := w.stmts[text]; st != nil {
		return st, nil
	}
	st, err := w.conn.PrepareContext(context.Background(), text)
	if err != nil {
		return nil, err
	}
	if len(w.stmts) >= stmtCache {
		for t, old := range w.stmts {
			_ = old.Close()
			delete(w.stmts, t)
			break
		}
	}
	w.stmts[text] = st
	return st, nil
}

// exec runs a statement without a context to watch: the engine would start a goroutine for each.
func (w *writer) exec(text string, args ...any) (sql.Result, error) {
	st, err := w.stmt(text)
	if err != nil {
		return nil, err
	}
	return st.Exec(args...)
}

// Commit carries out a group of units in one transaction.
func (d *DB) Commit(ctx context.Context, units []*driver.Unit) ([]int64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return nil, driver.ErrClosed
	case d.w == nil:
		return nil, fmt.Errorf("sqlite: %w", driver.ErrReadOnly)
	}
	w := d.w
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := w.spill(slices.ContainsFunc(units, func(u *driver.Unit) bool { return u.Large })); err != nil {
		return nil, mapError(err)
	}
	if err := w.turn.begin(ctx, func() error { _, err := w.exec("BEGIN IMMEDIATE"); return err }); err != nil {
		return nil, mapError(err)
	}
	err := w.group(units)
	if err == nil {
		if _, cerr := w.exec("COMMIT"); cerr != nil {
			err = mapError(cerr)
		}
	}
	if err != nil {
		// After some errors the engine has rolled back by itself, and says so here; either way nothing remains.
		_, _ = w.exec("ROLLBACK")
		w.known = false
		return nil, err
	}
	heads := make([]int64, len(w.heads))
	for p := range heads {
		heads[p] = w.heads[p].next
	}
	return heads, nil
}

// spill says whether what the next transaction may have to undo goes to a file. The engine allows a change only between
// transactions.
func (w *writer) spill(large bool) error {
	if large == w.spills {
		return nil
	}
	where := "MEMORY"
	if large {
		where = "DEFAULT"
	}
	if _, err := w.exec("PRAGMA temp_store = " + where); err != nil {
		return err
	}
	w.spills = large
	return nil
}

func (w *writer) group(units []*driver.Unit) error {
	if err := w.refresh(); err != nil {
		return mapError(err)
	}
	for _, u := range units {
		u.Receipts, u.Err = nil, nil
		if u.Ctx != nil && u.Ctx.Err() != nil {
			u.Err = fmt.Errorf("sqlite: not begun: %w", context.Cause(u.Ctx))
			continue
		}
		var err error
		if u.Run == nil {
			before := w.appended
			u.Receipts, err = w.append(u.Append)
			if err != nil && w.appended != before {
				return mapError(err) // half an append is in the transaction: an engine error
			}
		} else {
			err = w.savepoint(func() error { return u.Run(&tx{w: w}) })
		}
		if err = mapError(err); err != nil && fatal(err) {
			return err
		}
		u.Err = err
	}
	return nil
}

// refresh makes the caches true for this transaction, which has the write lock.
func (w *writer) refresh() error {
	w.appended = 0
	st, err := w.stmt(`PRAGMA data_version`)
	if err != nil {
		return err
	}
	var v int64
	if err := st.QueryRow().Scan(&v); err != nil {
		return err
	}
	if !w.known || v != w.version {
		w.version = v
		return w.reload()
	}
	if w.fresh.Stale(w.clock()) {
		return w.reloadFresh()
	}
	return nil
}

func (w *writer) reloadFresh() error {
	st, err := w.stmt(`SELECT COALESCE(MAX(id), '') FROM events WHERE id < ?`)
	if err != nil {
		return err
	}
	now := w.clock()
	limit, floor := driver.FreshLimit(now), ""
	if err := st.QueryRow(limit).Scan(&floor); err != nil {
		return err
	}
	w.fresh.Begin(now, limit, floor)
	return nil
}

func (w *writer) reload() error {
	w.known = false
	w.heads = make([]head, w.partitions)
	w.recorded = 0
	for p := range w.heads {
		var pos, recorded int64
		var hash []byte
		st, err := w.stmt(`SELECT pos, recorded, hash FROM events WHERE pos >= ? AND pos < ? ORDER BY pos DESC LIMIT 1`)
		if err != nil {
			return err
		}
		err = st.QueryRow(int64(p)<<offsetBits, int64(p+1)<<offsetBits).Scan(&pos, &recorded, &hash)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return err
		}
		w.heads[p].next = pos&offsetMask + 1
		if copy(w.heads[p].hash[:], hash) != 32 {
			return fmt.Errorf("%w: hash of %d bytes at partition %d, offset %d", driver.ErrCorrupt, len(hash), p, pos&offsetMask)
		}
		w.recorded = max(w.recorded, recorded)
	}
	if err := w.reloadFresh(); err != nil {
		return err
	}
	w.streams = map[string]stream{}
	w.types = map[string]int64{}
	w.origins = map[[2]string]int64{}
	w.known = true
	return nil
}

// savepoint runs fn and undoes it when it fails; caches are reloaded when it had appended.
func (w *writer) savepoint(fn func() error) (err error) {
	if _, err := w.exec("SAVEPOINT s"); err != nil {
		return err
	}
	before := w.appended
	ended := false
	undo := func() error {
		ended = true
		if _, err := w.exec("ROLLBACK TO s"); err != nil {
			return err
		}
		if _, err := w.exec("RELEASE s"); err != nil {
			return err
		}
		if w.appended != before {
			w.appended = before
			if err := w.reload(); err != nil {
				return err
			}
		}
		return nil
	}
	defer func() {
		if !ended { // fn panicked
			if uerr := undo(); uerr != nil {
				w.known = false
			}
		}
	}()
	if err = fn(); err != nil {
		if uerr := undo(); uerr != nil {
			// The engine has undone more than the savepoint; so must we.
			return fmt.Errorf("%w: %w (undoing: %w)", driver.ErrUnavailable, err, mapError(uerr))
		}
		return err
	}
	_, err = w.exec("RELEASE s")
	ended = true
	return err
}

const insertText = `INSERT INTO events (pos, id, type, origin, correlation, causation, timestamp, recorded, trace, key, stream, version, hash, payload) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`

// append checks an append wholly, then stores it.
func (w *writer) append(a driver.Append) ([]driver.Receipt, error) {
	receipts, twin, duplicates, err := driver.Known(&a, func(i int) (*driver.Record, error) { return w.stored(a.Events[i].ID) })
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
	type place struct{ typ, origin int64 }
	places := make([]place, len(a.Events))
	for i := range a.Events {
		var err error
		if places[i].typ, err = w.intern(w.types, a.Events[i].Type); err != nil {
			return nil, err
		}
		if places[i].origin, err = w.origin(a.Events[i].Source, a.Events[i].Version); err != nil {
			return nil, err
		}
	}
	if a.Stream != "" && s.id == 0 {
		var err error
		if s.id, err = w.newStream(a.Stream); err != nil {
			return nil, err
		}
	}
	st, err := w.stmt(insertText)
	if err != nil {
		return nil, err
	}
	now := w.clock().UnixMicro()
	for i := range a.Events {
		if receipts[i].EventID != "" {
			continue
		}
		e := &a.Events[i]
		if twin != nil && twin[i] < i {
			receipts[i] = receipts[twin[i]]
			receipts[i].Duplicate = true
			continue
		}
		p := driver.PartitionOf(e.PartitionKey, w.partitions)
		h := &w.heads[p]
		w.recorded = max(w.recorded+1, now)
		at := time.UnixMicro(w.recorded).UTC()
		var streamID, version any
		if a.Stream != "" {
			s.version++
			streamID, version = s.id, s.version
		}
		hash := driver.Chain(h.hash, a.Digests[i], p, h.next, a.Stream, s.version, at)
		if _, err := st.Exec(int64(p)<<offsetBits|h.next, e.ID, places[i].typ, places[i].origin, e.CorrelationID, e.CausationID,
			e.Timestamp, w.recorded, e.TraceID, e.PartitionKey, streamID, version, hash[:], w.packer.Pack(e.Payload)); err != nil {
			w.appended++ // even a failed insert leaves the caches in doubt
			return nil, fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
		}
		receipts[i] = driver.Receipt{EventID: e.ID, Partition: p, Offset: h.next, Stream: a.Stream, StreamVersion: s.version, RecordedAt: at}
		h.next++
		h.hash = hash
		w.fresh.Add(e.ID)
		w.appended++
	}
	if a.Stream != "" {
		if len(w.streams) >= streamCache {
			clear(w.streams)
		}
		w.streams[a.Stream] = s
	}
	return receipts, nil
}

// stored returns the record of an event that is stored already, nil when it is new.
func (w *writer) stored(id string) (*driver.Record, error) {
	if w.fresh.IsNew(id) {
		return nil, nil
	}
	r, err := w.get(id)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &r, err
}

func (w *writer) get(id string) (driver.Record, error) {
	st, err := w.stmt(getText)
	if err != nil {
		return driver.Record{}, err
	}
	var r driver.Record
	err = scanNamed(st.QueryRow(id), &r)
	return r, err
}

func (w *writer) stream(name string) (stream, error) {
	if s, ok := w.streams[name]; ok {
		return s, nil
	}
	st, err := w.stmt(`SELECT id, (SELECT COALESCE(MAX(version), 0) FROM events WHERE stream = streams.id) FROM streams WHERE name = ?`)
	if err != nil {
		return stream{}, err
	}
	var s stream
	err = st.QueryRow(name).Scan(&s.id, &s.version)
	if errors.Is(err, sql.ErrNoRows) {
		return stream{}, nil
	}
	return s, err
}

func (w *writer) newStream(name string) (id int64, err error) {
	res, err := w.exec(`INSERT INTO streams (name) VALUES (?)`, name)
	if err != nil {
		return 0, err
	}
	return res.LastInsertId()
}

func (w *writer) intern(cache map[string]int64, name string) (int64, error) {
	if id, ok := cache[name]; ok {
		return id, nil
	}
	if _, err := w.exec(`INSERT INTO types (name) VALUES (?) ON CONFLICT DO NOTHING`, name); err != nil {
		return 0, err
	}
	st, err := w.stmt(`SELECT id FROM types WHERE name = ?`)
	if err != nil {
		return 0, err
	}
	var id int64
	if err := st.QueryRow(name).Scan(&id); err != nil {
		return 0, err
	}
	cache[strings.Clone(name)] = id
	w.appended++ // an undo must forget it
	return id, nil
}

func (w *writer) origin(source, version string) (int64, error) {
	key := [2]string{source, version}
	if id, ok := w.origins[key]; ok {
		return id, nil
	}
	if _, err := w.exec(`INSERT INTO origins (source, version) VALUES (?, ?) ON CONFLICT DO NOTHING`, source, version); err != nil {
		return 0, err
	}
	st, err := w.stmt(`SELECT id FROM origins WHERE source = ? AND version = ?`)
	if err != nil {
		return 0, err
	}
	var id int64
	if err := st.QueryRow(source, version).Scan(&id); err != nil {
		return 0, err
	}
	w.origins[[2]string{strings.Clone(source), strings.Clone(version)}] = id
	w.appended++
	return id, nil
}

// tx is the transaction as a unit's function sees it.
type tx struct{ w *writer }

func (t *tx) Append(ctx context.Context, a driver.Append) (rs []driver.Receipt, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(a.Events) == 0 {
		return []driver.Receipt{}, nil
	}
	before := t.w.appended
	rs, err = t.w.append(a)
	if err != nil && t.w.appended != before {
		err = fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
	}
	return rs, mapError(err)
}

// Stream reads on the writer's connection: what the transaction has appended is seen nowhere else.
func (t *tx) Stream(ctx context.Context, q driver.StreamQuery) ([]driver.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := t.w.stream(q.Stream)
	if err != nil {
		return nil, mapError(err)
	}
	if s.version == 0 {
		return nil, fmt.Errorf("stream %s: %w", q.Stream, driver.ErrNotFound)
	}
	text, from := streamRange(q)
	st, err := t.w.stmt(`SELECT ` + named + ` WHERE events.stream = ? AND events.version ` + text + ` LIMIT ?`)
	if err != nil {
		return nil, mapError(err)
	}
	rows, err := st.Query(s.id, from, q.Limit)
	if err != nil {
		return nil, mapError(err)
	}
	out, err := namedRecords(rows)
	return out, mapError(err)
}

func (t *tx) Savepoint(_ context.Context, fn func() error) error { return t.w.savepoint(fn) }

func (t *tx) Now() time.Time { return t.w.clock().UTC() }

// ExecContext looks at ctx before the statement, not during it: see exec.
func (t *tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if isScript(query) {
		r, err := t.w.conn.ExecContext(context.Background(), query, args...)
		return r, mapError(err)
	}
	r, err := t.w.exec(query, args...)
	return r, mapError(err)
}

func (t *tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	st, err := t.w.stmt(query)
	if err != nil {
		return nil, mapError(err)
	}
	rows, err := st.Query(args...)
	return rows, mapError(err)
}

func (t *tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	st, err := t.w.stmt(query)
	if err != nil || ctx.Err() != nil {
		return t.w.conn.QueryRowContext(ctx, query, args...) // it carries the error
	}
	return st.QueryRow(args...)
}

// isScript reports whether a text has more than one statement.
func isScript(text string) bool {
	i := strings.IndexByte(text, ';')
	return i >= 0 && strings.TrimSpace(text[i+1:]) != ""
}
