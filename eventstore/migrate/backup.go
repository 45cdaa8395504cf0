package migrate

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/carebus/carebus/eventstore/sqlite"
)

// Backed is what Backup has done.
type Backed struct {
	Events int64 `json:"events"`
	Bytes  int64 `json:"bytes"` // of the copy
}

// Backup copies the store in the file from to the file to, which must not exist: as it was at one moment, events, read
// models, checkpoints and all, while its services go on. The copy is verified before it gets its name; a crash leaves none.
// progress, which may be nil, is told of the verification.
//
// On a server its own means do that: pg_dump for a moment, pg_basebackup with archived WAL for any moment.
func Backup(ctx context.Context, from, to string, progress func(events, total int64)) (b Backed, err error) {
	if err := free(to); err != nil {
		return b, err
	}
	source, err := sqlite.Open(ctx, from, &sqlite.Options{ReadOnly: true})
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	// Begun anew by whoever comes after a crash, and removed by whoever fails.
	path := to + unfinished
	for _, rest := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(path + rest); err != nil && !errors.Is(err, os.ErrNotExist) {
			return b, err
		}
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return b, err
	}
	if err := source.CopyTo(ctx, path); err != nil {
		return b, errors.Join(err, os.Remove(path))
	}
	if b, err = check(ctx, path, progress); err != nil {
		return b, errors.Join(err, os.Remove(path))
	}
	return b, place(to)
}

func check(ctx context.Context, path string, progress func(events, total int64)) (b Backed, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return b, err
	}
	b.Bytes = info.Size()
	d, err := sqlite.Open(ctx, path, &sqlite.Options{ReadOnly: true})
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	heads, err := d.Heads(ctx)
	if err != nil {
		return b, err
	}
	b.Events = sum(heads)
	return b, Whole(ctx, d, func(n int64) {
		if progress != nil {
			progress(n, b.Events)
		}
	})
}
