package postgres

import (
	"context"
	"database/sql"
	sqldriver "database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/carebus/carebus/eventstore/driver"
)

// serverError is what may be told of an error of the server: its code and place. The server's own message and detail can
// hold values of rows, which are protected.
type serverError struct {
	code string
	text string
}

func (e *serverError) Error() string { return e.text }

// SQLState returns the server's code.
func (e *serverError) SQLState() string { return e.code }

// speaking are the classes of errors whose messages are made of names and settings, never of values: connections,
// transactions, authorization, names of tables and columns, resources, the server's own state.
var speaking = []string{"08", "0A", "25", "28", "2B", "34", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "F0", "XX"}

// clean returns err without what the server says of values.
func clean(err error) error {
	var pe *pgconn.PgError
	if err == nil || !errors.As(err, &pe) {
		return err
	}
	e := &serverError{code: pe.Code}
	class := pe.Code
	if len(class) > 2 {
		class = class[:2]
	}
	switch {
	case class == "23":
		e.text = fmt.Sprintf("constraint %s of table %s is violated (SQLSTATE %s)", pe.ConstraintName, pe.TableName, pe.Code)
		if pe.ConstraintName == "" {
			e.text = fmt.Sprintf("column %s of table %s must have a value (SQLSTATE %s)", pe.ColumnName, pe.TableName, pe.Code)
		}
	case slices.Contains(speaking, class):
		e.text = fmt.Sprintf("%s (SQLSTATE %s)", pe.Message, pe.Code)
	default:
		e.text = fmt.Sprintf("the server refused a value or a statement (SQLSTATE %s)", pe.Code)
	}
	return e
}

// mapError gives errors their names, without values.
func mapError(err error) error {
	if err == nil {
		return nil
	}
	for _, known := range []error{driver.ErrFull, driver.ErrUnavailable, driver.ErrCorrupt, driver.ErrClosed, driver.ErrReadOnly, driver.ErrFormat, driver.ErrNotFound} {
		if errors.Is(err, known) {
			return err
		}
	}
	var se *serverError
	err = clean(err)
	if errors.As(err, &se) {
		switch {
		case se.code == "53100":
			return fmt.Errorf("%w: make room on the server's disk: %w", driver.ErrFull, err)
		case se.code == "55P03":
			return fmt.Errorf("%w: another process is writing: %w", driver.ErrUnavailable, err)
		case se.code == "25006":
			return fmt.Errorf("%w: the server accepts no writes; is it a standby? %w", driver.ErrUnavailable, err)
		case se.code == "XX001" || se.code == "XX002":
			return fmt.Errorf("%w: restore a backup: %w", driver.ErrCorrupt, err)
		case slices.Contains([]string{"08", "53", "57", "40", "58"}, se.code[:2]) || se.code == "25P03":
			return fmt.Errorf("%w: %w", driver.ErrUnavailable, err)
		}
		return err
	}
	if broken(err) {
		return fmt.Errorf("%w: the connection to the server was lost: %w", driver.ErrUnavailable, err)
	}
	return err
}

// broken reports whether an error is one of the connection.
func broken(err error) bool {
	var connect *pgconn.ConnectError
	var network net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return pgconn.Timeout(err) && !errors.Is(err, context.Canceled)
	case errors.As(err, &connect), errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return true
	}
	return errors.Is(err, sqldriver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, pgconn.ErrConnClosed) ||
		pgconn.SafeToRetry(err)
}

// readError names the error of a read.
func (d *DB) readError(err error) error {
	if err != nil && d.ending.Load() { // that a pool is closed has no testable error of its own
		return fmt.Errorf("%w: %w", driver.ErrClosed, err)
	}
	return mapError(err)
}
