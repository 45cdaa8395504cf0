package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/carebus/carebus/eventstore/driver"
)

var _ driver.Concurrent = (*DB)(nil)

// concurrent is a transaction on a connection of its own, which does not have the lock of writers.
type concurrent struct {
	d     *DB
	conn  *sql.Conn
	pg    *pgx.Conn // the same connection
	now   time.Time
	depth int   // of savepoints
	first error // of the first statement that failed
}

// Concurrent carries out a transaction beside those of Commit. Its outcome may be unknown, as that of any commit: who
// cannot do it again without harm needs a row that tells.
func (d *DB) Concurrent(ctx context.Context, run func(driver.Tx) error) (err error) {
	if d.ending.Load() { // before the lock, which a transaction inside another could not have again
		return driver.ErrClosed
	}
	d.asides.RLock()
	defer d.asides.RUnlock()
	switch {
	case d.ending.Load():
		return driver.ErrClosed
	case d.w == nil:
		return fmt.Errorf("postgres: %w", driver.ErrReadOnly)
	}
	conn, err := d.beside.Conn(ctx)
	if err != nil {
		return fmt.Errorf("postgres: %w", d.readError(err))
	}
	defer func() { _ = conn.Close() }()
	t := &concurrent{d: d, conn: conn}
	if err := conn.Raw(func(c any) error { t.pg = c.(sqlConn).Conn.Conn(); return nil }); err != nil {
		return fmt.Errorf("postgres: %w", mapError(err))
	}
	// The context is watched once, not by each statement, which would cost more than many a statement does.
	raw := t.pg.PgConn().Conn()
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	ended := false
	defer func() {
		if !ended { // an error, or a panic of run
			t.abandon()
		}
		if !stop() && err != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
	}()
	ctx = context.WithoutCancel(ctx)
	b := &pgx.Batch{}
	b.Queue(`begin isolation level read committed`)
	b.Queue(`SELECT clock_timestamp()`).QueryRow(func(r pgx.Row) error { return r.Scan(&t.now) })
	if err := t.pg.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("postgres: %w", mapError(err))
	}
	if d.opts.Clock != nil {
		t.now = d.opts.Clock()
	}
	if err := run(t); err != nil {
		return err
	}
	if err := t.swallowed(); err != nil {
		return err
	}
	var tag string
	b = &pgx.Batch{}
	b.Queue(`SELECT nextval('carebus_commits')`)
	b.Queue("commit").Exec(func(t pgconn.CommandTag) error { tag = t.String(); return nil })
	if err := t.pg.SendBatch(ctx, b).Close(); err != nil {
		return fmt.Errorf("postgres: %w", mapError(err))
	}
	if tag != "COMMIT" {
		return fmt.Errorf("postgres: the server answered COMMIT with %s", tag)
	}
	ended = true
	d.notifier.tell([]int64{})
	return nil
}

// abandon leaves nothing of the transaction: with a connection that works by a rollback, else by dropping it.
func (t *concurrent) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if !t.pg.IsClosed() {
		if _, err := t.pg.Exec(ctx, "rollback"); err == nil {
			return
		}
	}
	_ = t.pg.Close(ctx)
}

// swallowed is the error of a statement that failed although its caller went on: the server does not go on.
func (t *concurrent) swallowed() error {
	switch {
	case t.pg.IsClosed():
		return fmt.Errorf("%w: the connection was lost in the transaction", driver.ErrUnavailable)
	case t.pg.PgConn().TxStatus() != 'E':
		return nil
	case t.first != nil:
		return fmt.Errorf("a statement of the transaction failed: %w", t.first)
	}
	return errors.New("a statement of the transaction failed")
}

func (t *concurrent) failed(err error) error {
	if err = mapError(err); err != nil && t.first == nil {
		t.first = err
	}
	return err
}

// Append refuses: the places of events are given in turn.
func (t *concurrent) Append(context.Context, driver.Append) ([]driver.Receipt, error) {
	return nil, driver.ErrInTurn
}

// Stream reads what is stored: this transaction has stored nothing.
func (t *concurrent) Stream(ctx context.Context, q driver.StreamQuery) ([]driver.Record, error) {
	return t.d.Stream(ctx, q)
}

func (t *concurrent) Now() time.Time { return t.now.UTC() }

// begin is to be called before every statement. The statement itself has no context: see Concurrent.
func (t *concurrent) begin(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (t *concurrent) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	if isDefinition(query) {
		return nil, driver.ErrInTurn // it would wait for readers, and is translated
	}
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	tag, err := t.pg.Exec(context.Background(), query, args...)
	return rowsAffected(tag.RowsAffected()), t.failed(err)
}

// isDefinition reports whether a statement changes tables.
func isDefinition(statement string) bool {
	statement = strings.TrimSpace(statement)
	word, _, _ := strings.Cut(statement[:min(len(statement), 10)], " ")
	switch strings.ToUpper(word) {
	case "CREATE", "ALTER", "DROP", "TRUNCATE":
		return true
	}
	return false
}

func (t *concurrent) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	rows, err := t.conn.QueryContext(context.Background(), query, args...)
	return rows, t.failed(err)
}

func (t *concurrent) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	if ctx.Err() == nil {
		ctx = context.Background()
	}
	return t.conn.QueryRowContext(ctx, query, args...) // a context that has ended is its error
}

// Savepoint runs fn and undoes it when it fails or panics.
func (t *concurrent) Savepoint(ctx context.Context, fn func() error) (err error) {
	t.depth++
	defer func() { t.depth-- }()
	name := fmt.Sprint("s", t.depth)
	if err := t.begin(ctx); err != nil {
		return err
	}
	if _, err := t.pg.Exec(context.Background(), "savepoint "+name); err != nil {
		return t.failed(err)
	}
	kept := false
	defer func() {
		if kept {
			return
		}
		t.first = nil
		if _, uerr := t.pg.PgConn().Exec(context.Background(), "rollback to savepoint "+name+"; release savepoint "+name).ReadAll(); uerr != nil {
			err = errors.Join(err, t.failed(uerr))
		}
	}()
	if err := fn(); err != nil {
		return err
	}
	if err := t.swallowed(); err != nil {
		return err
	}
	_, err = t.pg.Exec(context.Background(), "release savepoint "+name)
	kept = err == nil
	return t.failed(err)
}
