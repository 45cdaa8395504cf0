package projection

import (
	"context"
	"database/sql"

	"github.com/carebus/carebus/eventstore"
)

// Tx is the transaction that a handler's rows belong to: they commit with the checkpoint that says the event was applied.
// Texts name the projection's tables in braces, {summary}; other tables can be read by their plain names. A Tx is valid
// until the handler returns and is used by one goroutine at a time.
type Tx struct {
	db      execer
	gen     *generation
	rebuild bool
}

// execer is what a bus.Tx and the transaction of a rebuild have in common.
type execer interface {
	Exec(query string, args ...any) (sql.Result, error)
	Query(query string, args ...any) (*sql.Rows, error)
	QueryRow(query string, args ...any) *sql.Row
}

// Rebuilding reports whether the event is applied to a new generation beside the live one. What is written is the same
// either way; a handler may want to leave out a log line or a measurement.
func (t Tx) Rebuilding() bool { return t.rebuild }

// Exec runs a statement. Placeholders are $1, $2, … on every engine. Build texts from constants: statements are cached.
func (t Tx) Exec(query string, args ...any) (sql.Result, error) {
	text, err := t.gen.text(query)
	if err != nil {
		return nil, err
	}
	return t.db.Exec(text, args...)
}

// Query runs a query. Close the rows before the handler returns.
func (t Tx) Query(query string, args ...any) (*sql.Rows, error) {
	text, err := t.gen.text(query)
	if err != nil {
		return nil, err
	}
	return t.db.Query(text, args...)
}

// QueryRow runs a query that returns at most one row.
func (t Tx) QueryRow(query string, args ...any) *sql.Row {
	text, err := t.gen.text(query)
	if err != nil {
		text = query // the engine refuses the braces, and the row carries the error
	}
	return t.db.QueryRow(text, args...)
}

// storeTx is the transaction of a rebuild.
type storeTx struct {
	ctx context.Context
	tx  *eventstore.Tx
}

func (t storeTx) Exec(query string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(t.ctx, query, args...)
}

func (t storeTx) Query(query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(t.ctx, query, args...)
}

func (t storeTx) QueryRow(query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(t.ctx, query, args...)
}
