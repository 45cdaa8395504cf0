package sqlite

import (
	"context"
	"fmt"

	"github.com/carebus/carebus/eventstore/driver"
)

// Import stores records of another store as they are, with their times and places in streams, in one durable transaction.
// They must be the next ones of their partitions. Streams may be incomplete until all partitions have been imported.
func (d *DB) Import(ctx context.Context, records []driver.Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.closed:
		return driver.ErrClosed
	case d.w == nil:
		return fmt.Errorf("sqlite: %w", driver.ErrReadOnly)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w := d.w
	// Versions of streams are not counted up in their order, and ids do not rise: what is known of them is read anew.
	defer func() { w.known = false }()
	if err := w.turn.begin(ctx, func() error { _, err := w.exec("BEGIN IMMEDIATE"); return err }); err != nil {
		return mapError(err)
	}
	err := w.load(records)
	if err == nil {
		_, err = w.exec("COMMIT")
	}
	if err != nil {
		_, _ = w.exec("ROLLBACK")
		return fmt.Errorf("sqlite: importing: %w", mapError(err))
	}
	return nil
}

func (w *writer) load(records []driver.Record) error {
	if err := w.refresh(); err != nil {
		return err
	}
	st, err := w.stmt(insertText)
	if err != nil {
		return err
	}
	for i := range records {
		r := &records[i]
		if r.Partition < 0 || r.Partition >= len(w.heads) || r.Offset != w.heads[r.Partition].next {
			return fmt.Errorf("event %s of partition %d, offset %d, is not the next one", r.ID, r.Partition, r.Offset)
		}
		typ, err := w.intern(w.types, r.Type)
		if err != nil {
			return err
		}
		origin, err := w.origin(r.Source, r.Version)
		if err != nil {
			return err
		}
		var streamID, version any
		if r.Stream != "" {
			s, err := w.stream(r.Stream)
			if err != nil {
				return err
			}
			if s.id == 0 {
				if s.id, err = w.newStream(r.Stream); err != nil {
					return err
				}
			}
			if len(w.streams) >= streamCache {
				clear(w.streams)
			}
			w.streams[r.Stream] = s
			streamID, version = s.id, r.StreamVersion
		}
		h := &w.heads[r.Partition]
		hash := driver.Chain(h.hash, driver.ContentDigest(&r.Event), r.Partition, r.Offset, r.Stream, r.StreamVersion, r.RecordedAt)
		if _, err := st.Exec(int64(r.Partition)<<offsetBits|r.Offset, r.ID, typ, origin, r.CorrelationID, r.CausationID,
			r.Timestamp, r.RecordedAt.UnixMicro(), r.TraceID, r.PartitionKey, streamID, version, hash[:], w.packer.Pack(r.Payload)); err != nil {
			return err
		}
		h.next++
		h.hash = hash
	}
	return nil
}
