package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/eventstore/driver"
)

// The value of "copy" in carebus_meta, while a copy of another store is being written and afterwards. A store without it
// has never been one.
const (
	copyUnfinished = "unfinished"
	copyFinished   = "finished"
)

// ErrUnfinished: the store is a copy of another one that carebus migrate has not finished.
var ErrUnfinished = errors.New("an unfinished copy of another store; run carebus migrate again")

// BeginCopy makes an empty store the target of a copy; calling it again for an unfinished one goes on. Only a store that
// was opened with Options.Copy can be one. A store that holds anything else is refused.
func (d *DB) BeginCopy(ctx context.Context) error {
	state, err := d.copyState(ctx)
	switch {
	case err != nil:
		return err
	case state == copyUnfinished:
		return nil
	case state == copyFinished:
		return fmt.Errorf("postgres: %s holds a finished copy; choose an empty database, or another schema by search_path", d.info.Location)
	}
	var tables []string
	rows, err := d.readers.Query(ctx, `SELECT relname::text FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
		AND relname NOT IN ('carebus_meta', 'carebus_types', 'carebus_origins', 'carebus_streams', 'carebus_events', 'carebus_outcomes') ORDER BY 1`)
	if err == nil {
		tables, err = pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err != nil {
		return d.readError(err)
	}
	heads, err := d.Heads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		if h > 0 {
			return fmt.Errorf("postgres: %s holds events; choose an empty database, or another schema by search_path", d.info.Location)
		}
	}
	if len(tables) > 0 {
		return fmt.Errorf("postgres: the schema of %s holds the table %s; choose an empty database, or another schema by search_path", d.info.Location, tables[0])
	}
	return d.setCopy(ctx, copyUnfinished)
}

// EndCopy makes the copy a store like any other.
func (d *DB) EndCopy(ctx context.Context) error { return d.setCopy(ctx, copyFinished) }

func (d *DB) copyState(ctx context.Context) (string, error) {
	state, err := metaValue(ctx, d.readers, "copy")
	if errors.Is(err, driver.ErrFormat) {
		return "", nil // there is no such row
	}
	return state, d.readError(err)
}

func (d *DB) setCopy(ctx context.Context, state string) error {
	_, err := d.readers.Exec(ctx, `INSERT INTO carebus_meta (name, value) VALUES ('copy', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, state)
	return d.readError(err)
}

// Import stores records of another store as they are, with their places and times. They must be the next ones of their
// partition. Streams may be incomplete until all partitions have been imported.
func (d *DB) Import(ctx context.Context, records []driver.Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return driver.ErrClosed
	case d.w == nil:
		return fmt.Errorf("postgres: %w", driver.ErrReadOnly)
	}
	w := d.w
	w.group.reset()
	defer func() { w.group = group{} }()
	outcome, err := w.load(ctx, records)
	if outcome == unknown {
		w.disconnect()
		outcome, err = w.resolve(err)
	}
	// Versions of streams were not counted up in their order.
	w.known = false
	if outcome != committed {
		w.abandon()
		return fmt.Errorf("postgres: importing: %w", mapError(err))
	}
	d.notifier.tell(nil)
	return nil
}

func (w *writer) load(ctx context.Context, records []driver.Record) (outcome, error) {
	if err := w.begin(ctx); err != nil {
		return undone, err
	}
	if err := w.sync(nil, false); err != nil {
		return undone, err
	}
	names := map[string]bool{}
	var list []string
	for i := range records {
		if s := records[i].Stream; s != "" && !names[s] {
			names[s] = true
			list = append(list, s)
		}
	}
	if err := w.look(list, nil); err != nil {
		return undone, err
	}
	for i := range records {
		r := &records[i]
		if r.Partition < 0 || r.Partition >= len(w.heads) || r.Offset != w.heads[r.Partition].next {
			return undone, fmt.Errorf("event %s of partition %d, offset %d, is not the next one", r.ID, r.Partition, r.Offset)
		}
		w.take(r)
	}
	return w.finish()
}

// take takes a record into the group as it is.
func (w *writer) take(rec *driver.Record) {
	g := &w.group
	h := &w.heads[rec.Partition]
	r := row{record: *rec, payload: append([]byte{}, w.packer.Pack(rec.Payload)...)}
	r.typ, r.origin = w.intern(rec.Type), w.origin(rec.Source, rec.Version)
	if rec.Stream != "" {
		s := w.streams[rec.Stream]
		if s.id == 0 {
			w.last.stream++
			s.id = w.last.stream
			g.streams[s.id] = rec.Stream
			w.streams[rec.Stream] = s
		}
		r.stream = s.id
	}
	h.hash = driver.Chain(h.hash, driver.ContentDigest(&rec.Event), rec.Partition, rec.Offset, rec.Stream, rec.StreamVersion, rec.RecordedAt)
	h.next++
	r.hash = h.hash
	g.rows = append(g.rows, r)
}

// Hash returns the hash of a record's place in the chain of its partition: it stands for all records up to it. The hash
// before the first record is zero.
func (d *DB) Hash(ctx context.Context, partition int, offset int64) (hash [32]byte, err error) {
	if offset < 0 {
		return hash, nil
	}
	var stored []byte
	err = d.readers.QueryRow(ctx, `SELECT hash FROM carebus_events WHERE pos = $1`, int64(partition)<<offsetBits|offset).Scan(&stored)
	if errors.Is(err, pgx.ErrNoRows) {
		return hash, fmt.Errorf("postgres: partition %d, offset %d: %w", partition, offset, driver.ErrNotFound)
	}
	copy(hash[:], stored)
	return hash, d.readError(err)
}
