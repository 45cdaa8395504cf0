package archive

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/migrate"
)

// Progress says how far a stage of Restore is: "events", "verify".
type Progress func(stage string, done, total int64)

// Restored is what Restore has done.
type Restored struct {
	Events  int64 `json:"events"`
	Resumed int64 `json:"resumed"` // events that an earlier run had restored
}

const (
	batch      = 4096
	batchBytes = 8 << 20
)

// Restore makes a store of an archive: the same events at the same places, with the same hash chain. Nothing else is in
// it: no checkpoints, no read models. name is "sqlite:PATH" or "postgres://…" and must not hold a store. A run that was
// broken off goes on when Restore is called again; until the end nobody opens the store.
func Restore(ctx context.Context, dir, name string, progress Progress) (r Restored, err error) {
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	a, err := Open(dir)
	if err != nil {
		return r, err
	}
	if !a.m.Unfinished.IsZero() {
		return r, fmt.Errorf("archive: %w", ErrUnfinished) // its partitions end at different times, and so some streams
	}
	r.Events = a.m.Events()
	to, err := migrate.OpenTarget(ctx, name, len(a.m.Partitions))
	if err != nil {
		return r, err
	}
	if err := a.restore(ctx, to, &r, progress); err != nil {
		return r, errors.Join(err, to.Close())
	}
	return r, to.Finish(ctx)
}

func (a *Archive) restore(ctx context.Context, to *migrate.Target, r *Restored, progress Progress) error {
	have, err := to.Heads(ctx)
	if err != nil {
		return err
	}
	for _, n := range have {
		r.Resumed += n
	}
	done := r.Resumed
	var records []driver.Record
	size := 0
	flush := func() error {
		if len(records) == 0 {
			return nil
		}
		if err := to.Import(ctx, records); err != nil {
			return err
		}
		done += int64(len(records))
		progress("events", done, r.Events)
		records, size = records[:0], 0
		return nil
	}
	for p, part := range a.m.Partitions {
		for _, f := range part.Files {
			if f.Last < have[p]-1 {
				continue // the comparison below is of all that an earlier run has restored
			}
			for rec, err := range a.file(ctx, p, f, nil) {
				if err != nil {
					return err
				}
				if rec.Offset < have[p] {
					continue
				}
				records = append(records, rec)
				size += len(rec.Payload)
				if len(records) == batch || size >= batchBytes {
					if err := flush(); err != nil {
						return err
					}
				}
			}
		}
		if err := flush(); err != nil {
			return err
		}
		hash, err := to.Hash(ctx, p, part.Events-1)
		if err != nil && !errors.Is(err, driver.ErrNotFound) {
			return err
		}
		if err != nil || hex.EncodeToString(hash[:]) != part.Hash {
			return fmt.Errorf("archive: %w: partition %d; choose another target", migrate.ErrDiffers, p)
		}
	}
	heads, err := to.Heads(ctx)
	if err != nil {
		return err
	}
	for p, head := range heads {
		if head != a.m.Partitions[p].Events {
			return fmt.Errorf("archive: %w: partition %d; choose another target", migrate.ErrDiffers, p)
		}
	}
	return migrate.Whole(ctx, to, func(n int64) { progress("verify", n, r.Events) })
}
