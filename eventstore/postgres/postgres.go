package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/carebus/carebus/eventstore/driver"
)

// Options of an engine. The zero value works.
type Options struct {
	// Partitions is fixed when the store is created. Default 12. Opening a store that has another number is refused.
	Partitions int
	// BusyTimeout is how long a commit waits for the lock of other processes, and for a server that is away. Default 10 s.
	BusyTimeout time.Duration
	// StatementTimeout bounds a statement in a transaction. Default 60 s. Migrations have no bound.
	StatementTimeout time.Duration
	// IdleTimeout is how long a transaction may do nothing on the server before the server ends it, so that a process
	// that was stopped does not hold up the others. Keep it below the bus's lease. Default 5 s.
	IdleTimeout time.Duration
	// ResolveTimeout is how long to try to learn whether a commit was carried out whose answer was lost. Default 30 s.
	ResolveTimeout time.Duration
	// PollInterval is how often to look for commits that no notification told of. Default 250 ms.
	PollInterval time.Duration
	// Connections bounds those for short reads, and those for longer ones, each. A store has three more. Default: twice the
	// processors, at least 4.
	Connections int
	// ReadOnly opens an existing store for reading, also on a standby; writes fail.
	ReadOnly bool
	// AllowUnsafe opens a store on a server with fsync off, which loses acknowledged events in a crash. For throw-away data.
	AllowUnsafe bool
	// Copy opens a store that a copy of another one is being written to, see BeginCopy; without it such a store is refused.
	Copy bool
	// Clock is the time that events are recorded at and that leases are measured by. Default: the server's, which all
	// processes share.
	Clock func() time.Time
	// Logger receives warnings about the server's settings. Default slog.Default().
	Logger *slog.Logger
}

// DB is the engine. It implements driver.Driver; hand it to eventstore.New.
type DB struct {
	config   *pgx.ConnConfig
	opts     Options
	info     driver.Info
	id       string // of this opened engine, in notifications and tokens
	lock     int32  // second half of the advisory lock
	channel  string
	readers  *pgxpool.Pool
	views    *sql.DB // for Querier, which is made of database/sql's types
	beside   *sql.DB // for transactions that do not take turns
	names    *driver.Names
	notifier *notifier

	mu     sync.Mutex // held while committing
	w      *writer
	closed bool
	ending atomic.Bool  // closed, for those who do not hold mu
	asides sync.RWMutex // held for reading by concurrent transactions, for Close to wait for them
}

var _ driver.Driver = (*DB)(nil)

// Open opens the store at an address "postgres://user:password@host:port/database?options", creating its tables where
// they are missing, and the schema, where search_path names one that does not exist. Options are those of libpq (sslmode,
// search_path, target_session_attrs, several hosts …); what the address leaves out comes from the usual environment
// (PGHOST, PGPASSWORD …). Errors never hold the password.
func Open(ctx context.Context, address string, o *Options) (*DB, error) {
	d := &DB{id: uuid.NewString()}
	if o != nil {
		d.opts = *o
	}
	for _, t := range []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&d.opts.BusyTimeout, 10 * time.Second}, {&d.opts.StatementTimeout, time.Minute}, {&d.opts.IdleTimeout, 5 * time.Second},
		{&d.opts.ResolveTimeout, 30 * time.Second}, {&d.opts.PollInterval, 250 * time.Millisecond},
	} {
		if *t.value == 0 {
			*t.value = t.or
		}
	}
	if d.opts.Connections <= 0 {
		d.opts.Connections = max(4, 2*runtime.GOMAXPROCS(0))
	}
	if d.opts.Logger == nil {
		d.opts.Logger = slog.Default()
	}
	if d.opts.Partitions < 0 || d.opts.Partitions > 4096 {
		return nil, fmt.Errorf("postgres: %d partitions; use 1 to 4096", d.opts.Partitions)
	}
	location := Redact(address)
	config, err := pgx.ParseConfig(address)
	if err != nil {
		return nil, fmt.Errorf("postgres: the address %s is not understood; use postgres://user:password@host:port/database", location)
	}
	d.config = config
	d.configure()
	if err := d.open(ctx, location); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("postgres: opening %s: %w", location, mapError(err))
	}
	return d, nil
}

// Redact returns an address of a server without its password, for people and logs.
func Redact(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" && u.User == nil {
		scheme, _, _ := strings.Cut(address, ":")
		return scheme + "://…"
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	if q := u.Query(); q.Has("password") || q.Has("sslpassword") {
		q.Del("password")
		q.Del("sslpassword")
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// configure sets what every connection of the store has.
func (d *DB) configure() {
	c := d.config
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}
	c.DialFunc = dialer.DialContext
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 5 * time.Second
	}
	if c.RuntimeParams["application_name"] == "" {
		c.RuntimeParams["application_name"] = "carebus"
	}
	c.StatementCacheCapacity = 512
}

// prepare sets up a new session.
func (d *DB) prepare(ctx context.Context, c *pgx.Conn, settings string) error {
	settings = "SET jit = off; SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3; " + settings
	if d.opts.ReadOnly {
		settings += "; SET default_transaction_read_only = on"
	}
	_, err := c.PgConn().Exec(ctx, settings).ReadAll()
	return err
}

// writing bounds the waits of a session that writes.
func (d *DB) writing() string {
	return fmt.Sprintf("SET lock_timeout = %d; SET statement_timeout = %d; SET idle_in_transaction_session_timeout = %d",
		ms(d.opts.BusyTimeout), ms(d.opts.StatementTimeout), ms(d.opts.IdleTimeout))
}

func ms(d time.Duration) int64 { return max(d.Milliseconds(), 1) }

func (d *DB) open(ctx context.Context, location string) error {
	c, err := pgx.ConnectConfig(ctx, d.config)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
	if err := d.check(ctx, c); err != nil {
		return err
	}
	if !d.opts.ReadOnly {
		if err := create(ctx, c, d.opts.Partitions); err != nil {
			return err
		}
	}
	format, err := formatOf(ctx, c)
	if err != nil {
		return err
	}
	text, err := metaValue(ctx, c, "partitions")
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return fmt.Errorf("%w: carebus_meta says %q partitions", driver.ErrCorrupt, text)
	}
	if d.opts.Partitions != 0 && d.opts.Partitions != n {
		return fmt.Errorf("the store has %d partitions, not %d; the number is fixed when a store is created", n, d.opts.Partitions)
	}
	if state, err := metaValue(ctx, c, "copy"); err == nil && state == copyUnfinished && !d.opts.Copy {
		return fmt.Errorf("%w: %w", driver.ErrFormat, ErrUnfinished)
	}
	var oid uint32
	if err := c.QueryRow(ctx, `SELECT 'carebus_meta'::regclass::oid`).Scan(&oid); err != nil {
		return err
	}
	d.lock, d.channel = int32(oid), fmt.Sprint("carebus_", oid)
	d.info = driver.Info{Name: "postgres", Location: location, Partitions: n, Format: format}

	pc, err := pgxpool.ParseConfig(d.config.ConnString())
	if err != nil {
		return err
	}
	pc.ConnConfig = d.config.Copy()
	pc.MaxConns = int32(d.opts.Connections)
	pc.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
		// All that readers ask for is in the order of an index. Near the end of a partition the planner would rather read all
		// that is left and sort it, on disk, for each batch of it.
		return d.prepare(ctx, c, fmt.Sprint("SET enable_sort = off; SET enable_bitmapscan = off; SET statement_timeout = ", ms(d.opts.StatementTimeout)))
	}
	// Of connections that have rested, those that a restart of the server has ended are not used again.
	pc.PrepareConn = func(_ context.Context, c *pgx.Conn) (bool, error) { return !stale(c.PgConn().Conn()), nil }
	if d.readers, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), pc); err != nil {
		return err
	}
	d.views = d.sqlPool("SET statement_timeout = 0", d.opts.Connections)
	d.names = driver.NewNames(d.loadNames)
	if d.opts.ReadOnly {
		return nil
	}
	d.beside = d.sqlPool(d.writing()+"; SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'", d.opts.Connections)
	d.notifier = newNotifier(d)
	d.w = newWriter(d)
	return d.w.connect(ctx)
}

// check refuses servers that cannot hold a store, and warns of settings that an operator should know of.
func (d *DB) check(ctx context.Context, c *pgx.Conn) error {
	const oldest = 140000
	var version int
	var fsync, full, standby bool
	if err := c.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, current_setting('fsync')::bool, current_setting('full_page_writes')::bool, pg_is_in_recovery()`).
		Scan(&version, &fsync, &full, &standby); err != nil {
		return err
	}
	switch {
	case version < oldest:
		return fmt.Errorf("%w: the server is PostgreSQL %d; use 14 or later", driver.ErrFormat, version/10000)
	case standby && !d.opts.ReadOnly:
		return fmt.Errorf("%w: the server is a standby; open it for reading, or name the primary (target_session_attrs=read-write)", driver.ErrUnavailable)
	case !fsync && !d.opts.AllowUnsafe:
		return errors.New("the server runs with fsync = off and would lose acknowledged events in a crash; set fsync = on")
	case !fsync:
		d.opts.Logger.WarnContext(ctx, "the PostgreSQL server runs with fsync = off: a crash loses acknowledged events")
	case !full:
		d.opts.Logger.WarnContext(ctx, "the PostgreSQL server runs with full_page_writes = off: unless its file system writes pages whole, a crash can damage the store")
	}
	return nil
}

// Info describes the engine.
func (d *DB) Info() driver.Info { return d.info }

// Close closes the connections. A commit under way is waited for.
func (d *DB) Close() error {
	d.ending.Store(true)
	d.asides.Lock() // those that come later see that it is closed
	defer d.asides.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	if d.w != nil {
		d.w.disconnect()
	}
	if d.notifier != nil {
		d.notifier.close()
	}
	if d.readers != nil {
		d.readers.Close()
	}
	if d.beside != nil {
		_ = d.beside.Close()
	}
	if d.views != nil {
		return d.views.Close()
	}
	return nil
}
