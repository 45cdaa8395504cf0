package postgres

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// sqlPool opens connections as database/sql's types, which components read through. Errors that pass are clean: a
// component may log what a row's scan or a statement says.
func (d *DB) sqlPool(settings string, connections int) *sql.DB {
	db := sql.OpenDB(connector{stdlib.GetConnector(*d.config, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		return d.prepare(ctx, c, settings)
	}))})
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db
}

type connector struct{ sqldriver.Connector }

func (c connector) Connect(ctx context.Context) (sqldriver.Conn, error) {
	inner, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, clean(err)
	}
	return sqlConn{inner.(*stdlib.Conn)}, nil
}

type sqlConn struct{ *stdlib.Conn }

// ResetSession is asked before a connection is used again.
func (c sqlConn) ResetSession(ctx context.Context) error {
	if stale(c.Conn.Conn().PgConn().Conn()) {
		return sqldriver.ErrBadConn
	}
	return c.Conn.ResetSession(ctx)
}

func (c sqlConn) QueryContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Rows, error) {
	rows, err := c.Conn.QueryContext(ctx, query, args)
	if err != nil {
		return nil, clean(err)
	}
	return sqlRows{rows.(*stdlib.Rows)}, nil
}

func (c sqlConn) ExecContext(ctx context.Context, query string, args []sqldriver.NamedValue) (sqldriver.Result, error) {
	r, err := c.Conn.ExecContext(ctx, query, args)
	return r, clean(err)
}

func (c sqlConn) PrepareContext(ctx context.Context, query string) (sqldriver.Stmt, error) {
	st, err := c.Conn.PrepareContext(ctx, query)
	return st, clean(err)
}

type sqlRows struct{ *stdlib.Rows }

func (r sqlRows) Next(dest []sqldriver.Value) error { return clean(r.Rows.Next(dest)) }

func (r sqlRows) Close() error { return clean(r.Rows.Close()) }
