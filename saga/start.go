package saga

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// ErrTaken: the id is that of an instance of another saga.
var ErrTaken = errors.New("saga: the id belongs to an instance of another saga")

// Start begins an instance, and returns when that is on stable storage. An id that was started before is left as it
// is: starting twice starts once. Ids are the caller's, 1 to 128 visible ASCII characters, one for each instance of
// all sagas; event.NewID gives one.
func (d *Definition[S]) Start(ctx context.Context, store *eventstore.Store, id string, s S) error {
	if d.ready.Load() != store {
		// The tables may not be there yet: this process may start sagas and register none.
		if _, err := prepare(ctx, store); err != nil {
			return err
		}
		d.ready.Store(store)
	}
	return store.Update(ctx, func(tx *eventstore.Tx) error { return d.start(ctx, outer{ctx, tx}, id, s) })
}

// StartTx is Start as a part of a handler's transaction: the instance begins if and only if the handler's other effects
// happen. ctx is the handler's; the instance belongs to the flow of the event being handled. The process must have
// registered a saga, or the tables must be there.
func (d *Definition[S]) StartTx(ctx context.Context, tx bus.Tx, id string, s S) error {
	return d.start(ctx, tx, id, s)
}

// writer is what starting needs of a transaction. bus.Tx is one.
type writer interface {
	Exec(query string, args ...any) (sql.Result, error)
	QueryRow(query string, args ...any) *sql.Row
	AppendStream(stream string, expected int64, events ...event.Event) error
	Now() time.Time
}

func (d *Definition[S]) start(ctx context.Context, tx writer, id string, s S) error {
	if d.err != nil {
		return d.err
	}
	if err := checkID(id); err != nil {
		return err
	}
	state, err := json.Marshal(&s)
	if err != nil {
		return fmt.Errorf("saga %s: the state cannot be written as JSON; use types that encoding/json can write", d.id)
	}
	now := tx.Now()
	x := &instance{id: id, name: d.id, version: d.nr, status: Running, state: state, since: now.UnixMicro(), started: now.UnixMicro()}
	if d.about != nil {
		if err := guard(func() error { x.key = d.about(s); return nil }); err != nil {
			return err
		}
	}
	first := event.Complete(ctx, event.Event{})
	x.correlation = first.CorrelationID
	triggeredBy := ""
	if cause, ok := event.CauseFrom(ctx); ok {
		// An event that it awaits may have come while the one that starts it was on its way.
		triggeredBy, x.since = cause.ID, min(x.since, cause.Timestamp*1000)
	}
	res, err := tx.Exec(`INSERT INTO carebus_sagas (id, name, version, status, step, attempts, error, entity, correlation, state, progress, since, started_at, updated_at, rev)
		VALUES ($1, $2, $3, $4, $5, 0, '', $6, $7, $8, '{}', $9, $10, $11, 0) ON CONFLICT (id) DO NOTHING`,
		x.id, x.name, x.version, string(x.status), d.pl.steps[0].name, x.key, x.correlation, string(state), x.since, x.started, x.started)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n == 0 {
		var name string
		if err := tx.QueryRow(`SELECT name FROM carebus_sagas WHERE id = $1`, id).Scan(&name); err != nil {
			return err
		}
		if name != d.id {
			return ErrTaken
		}
		return nil
	}
	said := started{of: x.of(), Steps: make([]string, len(d.pl.steps)), TriggeredBy: triggeredBy}
	for i, s := range d.pl.steps {
		said.Steps[i] = s.name
	}
	if state[0] == '{' {
		said.Input = state
	}
	e := x.news(startedV1.New(source, said))
	e.CausationID, e.TraceID = first.CausationID, first.TraceID
	return tx.AppendStream(x.stream(), eventstore.NoStream, e)
}

func checkID(id string) error {
	if id == "" || len(id) > 128 {
		return errors.New("saga: the id must have 1 to 128 characters")
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return errors.New("saga: the id may have only visible ASCII characters; character " + strconv.Itoa(i+1) + " is none")
		}
	}
	return nil
}

// outer is a store's transaction as a writer.
type outer struct {
	ctx context.Context
	tx  *eventstore.Tx
}

func (o outer) Exec(query string, args ...any) (sql.Result, error) {
	return o.tx.ExecContext(o.ctx, query, args...)
}

func (o outer) QueryRow(query string, args ...any) *sql.Row {
	return o.tx.QueryRowContext(o.ctx, query, args...)
}

func (o outer) AppendStream(stream string, expected int64, events ...event.Event) error {
	_, err := o.tx.Append(o.ctx, stream, expected, events...)
	return err
}

func (o outer) Now() time.Time { return o.tx.Now() }
