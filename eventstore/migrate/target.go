package migrate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// Engine is an engine whose records can be compared with those of another store.
type Engine interface {
	driver.Driver
	// Hash stands for all records of a partition up to an offset; it is zero for offset -1.
	Hash(ctx context.Context, partition int, offset int64) ([32]byte, error)
}

// Target is a store that is being filled with the records of another one, or of an archive. Until Finish nobody opens it
// as a store: on a server it is marked, and a file has the name of the store with ".unfinished" behind it.
type Target struct {
	Engine
	// Import stores records as they are, with their places and times, durably. They must be the next ones of their
	// partitions.
	Import func(ctx context.Context, records []driver.Record) error

	server *postgres.DB
	path   string // of a file, when it is finished
}

const unfinished = ".unfinished"

// OpenTarget opens a target with this number of partitions: a new one, or one that was left unfinished. name is that of
// the store to be, "sqlite:PATH" or "postgres://…"; it must not exist, or hold nothing.
func OpenTarget(ctx context.Context, name string, partitions int) (*Target, error) {
	path, file := strings.CutPrefix(name, "sqlite:")
	if !file {
		to, err := postgres.Open(ctx, name, &postgres.Options{Partitions: partitions, Copy: true})
		if err != nil {
			return nil, err
		}
		if err := to.BeginCopy(ctx); err != nil {
			return nil, errors.Join(err, to.Close())
		}
		return &Target{Engine: to, Import: to.Import, server: to}, nil
	}
	if err := free(path); err != nil {
		return nil, err
	}
	to, err := sqlite.Open(ctx, path+unfinished, &sqlite.Options{Partitions: partitions})
	if err != nil {
		return nil, err
	}
	return &Target{Engine: to, Import: to.Import, path: path}, nil
}

func free(path string) error {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = fmt.Errorf("migrate: %s is there already; choose another path", path)
	}
	return err
}

// Finish makes the target a store like any other, and closes it. A crash leaves it either finished or not.
func (t *Target) Finish(ctx context.Context) error {
	if t.server != nil {
		return errors.Join(t.server.EndCopy(ctx), t.server.Close())
	}
	if err := t.Close(); err != nil { // the engine carries its log over into the file, durably
		return err
	}
	if info, err := os.Stat(t.path + unfinished + "-wal"); err == nil && info.Size() > 0 {
		return fmt.Errorf("migrate: another process has %s open; end it", t.path+unfinished)
	}
	return place(t.path)
}

// place gives a whole and durable file, which has ".unfinished" behind its name, its own name.
//
//  1. Link fails where there is a file of the name, which a rename would replace.
//  2. Only when the new name is durable the old one goes. A crash between leaves both: the store is whole.
func place(path string) error {
	from := path + unfinished
	if err := os.Link(from, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("migrate: %s is there already; choose another path", path)
		}
		// A file system without links.
		if err := os.Rename(from, path); err != nil {
			return err
		}
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return err
	}
	for _, rest := range []string{"", "-turn", "-wal", "-shm"} {
		if err := os.Remove(from + rest); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// meta is the table of what the engine knows of the store.
func (t *Target) meta() string {
	if t.server != nil {
		return "carebus_meta"
	}
	return "meta"
}

func syncFolder(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it has no such thing
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// openSource opens an existing store, so that its writers can be kept out as long as it takes.
func openSource(ctx context.Context, name string) (Engine, error) {
	if path, file := strings.CutPrefix(name, "sqlite:"); file {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("migrate: %w: %w", driver.ErrNotFound, err) // opening would create it
		}
		return sqlite.Open(ctx, path, nil)
	}
	look, err := postgres.Open(ctx, name, &postgres.Options{ReadOnly: true}) // likewise
	if err != nil {
		return nil, err
	}
	if err := look.Close(); err != nil {
		return nil, err
	}
	return postgres.Open(ctx, name, &postgres.Options{StatementTimeout: lockedFor, IdleTimeout: lockedFor})
}

// OpenEngine opens an existing store for reading, "sqlite:PATH" or "postgres://…".
func OpenEngine(ctx context.Context, name string) (Engine, error) {
	if path, file := strings.CutPrefix(name, "sqlite:"); file {
		return sqlite.Open(ctx, path, &sqlite.Options{ReadOnly: true})
	}
	return postgres.Open(ctx, name, &postgres.Options{ReadOnly: true})
}
