package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/carebus/carebus/eventstore/driver"
)

// Options of an engine. The zero value works.
type Options struct {
	// Partitions is fixed when the file is created. Default 12. Opening a file that has another number is refused.
	Partitions int
	// BusyTimeout is how long to wait for another process's write to end. Default 10 s.
	BusyTimeout time.Duration
	// CacheBytes bounds the writer's page cache. Default 32 MiB. Each reader has a quarter of it at most.
	CacheBytes int
	// PollInterval is how often to look for other processes' commits. Default 20 ms.
	PollInterval time.Duration
	// ReadOnly opens an existing file for reading; writes fail.
	ReadOnly bool
	// Clock is the time that events are recorded at and that leases are measured by. Default time.Now.
	Clock func() time.Time
}

// DB is the engine. It implements driver.Driver; hand it to eventstore.New.
type DB struct {
	path string
	opts Options
	info driver.Info

	readers *sql.DB // for reads that are short because their rows are limited; not cut off when a context ends
	views   *sql.DB // for what may take long: it must not keep the short ones waiting
	names   *driver.Names
	stmts   sync.Map // text -> *sql.Stmt over readers, for the fixed texts of read.go

	mu     sync.Mutex // held while committing
	w      *writer
	closed bool

	ending atomic.Bool // closed, for readers, who hold no lock
}

var _ driver.Driver = (*DB)(nil)

// Open opens the store in the file at path, creating the file and its folder where missing. Several processes may have
// one file open. A file that is not a carebus store, or is of a newer format, is refused.
func Open(ctx context.Context, path string, o *Options) (*DB, error) {
	d := &DB{path: path}
	if o != nil {
		d.opts = *o
	}
	if d.opts.BusyTimeout == 0 {
		d.opts.BusyTimeout = 10 * time.Second
	}
	if d.opts.CacheBytes == 0 {
		d.opts.CacheBytes = 32 << 20
	}
	if d.opts.PollInterval == 0 {
		d.opts.PollInterval = 20 * time.Millisecond
	}
	if d.opts.Clock == nil {
		d.opts.Clock = time.Now
	}
	if d.opts.Partitions < 0 || d.opts.Partitions > 4096 {
		return nil, fmt.Errorf("sqlite: %d partitions; use 1 to 4096", d.opts.Partitions)
	}
	if path == "" {
		return nil, errors.New("sqlite: the path of the store is empty")
	}
	if d.opts.ReadOnly {
		if _, err := os.Stat(path); err != nil {
			return nil, fmt.Errorf("sqlite: %w: %w", driver.ErrNotFound, err)
		}
	} else if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("sqlite: %w", err)
	}
	if err := d.open(ctx); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("sqlite: opening %s: %w", path, mapError(err))
	}
	return d, nil
}

func (d *DB) open(ctx context.Context) (err error) {
	if err := d.checkHeader(); err != nil {
		return err
	}
	if !d.opts.ReadOnly {
		if d.w, err = d.openWriter(ctx); err != nil {
			return err
		}
	}
	for _, pool := range []**sql.DB{&d.readers, &d.views} {
		db, err := sql.Open("sqlite", d.dsn("query_only(1)", fmt.Sprintf("cache_size(-%d)", max(d.opts.CacheBytes/4, 1<<20)>>10)))
		if err != nil {
			return err
		}
		*pool = db
		n := max(4, 2*runtime.GOMAXPROCS(0))
		db.SetMaxOpenConns(n)
		db.SetMaxIdleConns(n)
	}
	format, err := formatOf(ctx, d.readers)
	if err != nil {
		return err
	}
	var text string
	if err := d.readers.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'partitions'`).Scan(&text); err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return fmt.Errorf("%w: meta says %q partitions", driver.ErrCorrupt, text)
	}
	if d.opts.Partitions != 0 && d.opts.Partitions != n {
		return fmt.Errorf("the store has %d partitions, not %d; the number is fixed when a store is created", n, d.opts.Partitions)
	}
	d.info = driver.Info{Name: "sqlite", Location: d.path, Partitions: n, Format: format}
	d.names = driver.NewNames(d.loadNames)
	if d.w != nil {
		d.w.partitions = n
	}
	return nil
}

// checkHeader refuses a file that is not an SQLite database. The engine itself takes a very short one for empty, and
// would write over it.
func (d *DB) checkHeader() error {
	f, err := os.Open(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	const magic = "SQLite format 3\x00"
	header := make([]byte, len(magic))
	n, err := io.ReadFull(f, header)
	if n == 0 && errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if string(header[:n]) != magic {
		return fmt.Errorf("%w: the file is not an SQLite database; choose another path", driver.ErrFormat)
	}
	return nil
}

// formatOf says which format a file has, or that it is nothing that this program can use.
func formatOf(ctx context.Context, q driver.Querier) (format int, err error) {
	var app int
	if err := q.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&app); err != nil {
		return 0, err
	}
	if err := q.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&format); err != nil {
		return 0, err
	}
	if app != applicationID {
		return 0, fmt.Errorf("%w: the file is an SQLite database of something else; choose another path", driver.ErrFormat)
	}
	if format > formatVersion {
		return 0, fmt.Errorf("%w: the file has format %d, this program knows up to %d; use a newer carebus", driver.ErrFormat, format, formatVersion)
	}
	return format, nil
}

func (d *DB) dsn(pragmas ...string) string {
	q := url.Values{}
	q.Add("_pragma", fmt.Sprintf("busy_timeout(%d)", d.opts.BusyTimeout.Milliseconds()))
	for _, p := range pragmas {
		q.Add("_pragma", p)
	}
	if d.opts.ReadOnly {
		q.Set("mode", "ro")
	}
	return "file:" + (&url.URL{Path: d.path}).EscapedPath() + "?" + q.Encode()
}

// Info describes the engine.
func (d *DB) Info() driver.Info { return d.info }

// Close closes the file. A commit under way is waited for.
func (d *DB) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	d.ending.Store(true)
	var errs []error
	d.stmts.Range(func(_, st any) bool {
		errs = append(errs, st.(*sql.Stmt).Close())
		return true
	})
	for _, pool := range []*sql.DB{d.readers, d.views} {
		if pool != nil {
			errs = append(errs, pool.Close())
		}
	}
	if d.w != nil {
		errs = append(errs, d.w.close())
	}
	return errors.Join(errs...)
}

// Watch polls for commits of other processes: SQLite has no way to be told.
func (d *DB) Watch(ctx context.Context, notify func(heads []int64)) error {
	conn, err := d.views.Conn(ctx)
	if err != nil {
		return mapError(err)
	}
	defer conn.Close()
	st, err := conn.PrepareContext(ctx, `PRAGMA data_version`)
	if err != nil {
		return mapError(err)
	}
	defer st.Close()
	tick := time.NewTicker(d.opts.PollInterval)
	defer tick.Stop()
	var last int64
	for first := true; ; first = false {
		var v int64
		if err := st.QueryRowContext(ctx).Scan(&v); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return mapError(err)
		}
		// The version changes on this connection for every other connection's commit, our own writer's among them:
		// a call too many. The first call is for commits that came before anybody watched.
		if v != last || first {
			notify(nil)
		}
		last = v
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// readError names the error of a read. That a pool is closed has no testable error of its own.
func (d *DB) readError(err error) error {
	if err != nil && d.ending.Load() {
		return fmt.Errorf("%w: %w", driver.ErrClosed, err)
	}
	return mapError(err)
}

// mapError gives engine errors their names.
func mapError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, sql.ErrConnDone) {
		return fmt.Errorf("%w: %w", driver.ErrClosed, err)
	}
	var se *sqlite.Error
	if !errors.As(err, &se) {
		if errors.Is(err, syscall.ENOSPC) {
			return fmt.Errorf("%w: %w", driver.ErrFull, err)
		}
		return err
	}
	for _, known := range []error{driver.ErrFull, driver.ErrUnavailable, driver.ErrCorrupt} {
		if errors.Is(err, known) {
			return err
		}
	}
	switch se.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return fmt.Errorf("%w: make room on the disk: %w", driver.ErrFull, err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return fmt.Errorf("%w: another process is writing: %w", driver.ErrUnavailable, err)
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN:
		return fmt.Errorf("%w: the disk does not obey: %w", driver.ErrUnavailable, err)
	case sqlite3.SQLITE_NOTADB:
		return fmt.Errorf("%w: the file is not an SQLite database; choose another path: %w", driver.ErrFormat, err)
	case sqlite3.SQLITE_CORRUPT:
		return fmt.Errorf("%w: restore a backup: %w", driver.ErrCorrupt, err)
	}
	return err
}

// fatal reports whether an error of one unit is really one of the engine, so that the whole group must be undone.
func fatal(err error) bool {
	return errors.Is(err, driver.ErrFull) || errors.Is(err, driver.ErrCorrupt) || errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrClosed)
}
