package bus

import (
	"context"
	"database/sql"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Tx is the transaction that a handler's effects belong to. What is done through it (rows changed, events appended)
// commits together with the checkpoint that says the event was handled: exactly once, or not at all.
//
// Inside the transaction a handler computes, reads and writes this database, and appends events. It does not wait for
// anything outside: on SQLite all writers of the store wait meanwhile. Outside calls belong in OnCall.
// A Tx is valid until the handler returns and is used by one goroutine at a time.
type Tx struct {
	tx  *eventstore.Tx
	ctx context.Context
}

// Append stores events in the transaction. Ids, time, correlation, causation and trace are filled in from the event
// being handled.
func (t Tx) Append(events ...event.Event) error {
	_, err := t.tx.Append(t.ctx, "", eventstore.AnyVersion, events...)
	return err
}

// AppendStream stores events in the history of one entity. expected is the version that the caller has seen, or
// eventstore.AnyVersion or eventstore.NoStream; when it is wrong the error is eventstore.ErrConflict.
func (t Tx) AppendStream(stream string, expected int64, events ...event.Event) error {
	_, err := t.tx.Append(t.ctx, stream, expected, events...)
	return err
}

// Stream reads the history of one entity, with what this transaction has appended to it. A stream that does not exist is
// eventstore.ErrNotFound.
func (t Tx) Stream(q eventstore.StreamQuery) ([]eventstore.Record, error) {
	return t.tx.Stream(t.ctx, q)
}

// Savepoint runs fn; when fn returns an error or panics, what was done in it is undone, appended events included, and the
// transaction may go on. The error is returned, a panic goes on. Savepoints nest.
func (t Tx) Savepoint(fn func() error) error { return t.tx.Savepoint(t.ctx, fn) }

// WithContext is the same transaction with another context, made from the handler's: what is appended through it is
// completed from that one.
func (t Tx) WithContext(ctx context.Context) Tx { return Tx{tx: t.tx, ctx: ctx} }

// Now is the time by the clock that all processes of the store share.
func (t Tx) Now() time.Time { return t.tx.Now() }

// Exec runs a statement. Placeholders are $1, $2, … on every engine. Build texts from constants: statements are cached.
func (t Tx) Exec(query string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(t.ctx, query, args...)
}

// Query runs a query. Close the rows before the handler returns.
func (t Tx) Query(query string, args ...any) (*sql.Rows, error) {
	return t.tx.QueryContext(t.ctx, query, args...)
}

// QueryRow runs a query that returns at most one row.
func (t Tx) QueryRow(query string, args ...any) *sql.Row {
	return t.tx.QueryRowContext(t.ctx, query, args...)
}

// handler is one reaction of a group. Exactly one of each, batch, call and forward is set.
type handler struct {
	pattern string
	match   func(eventType string) bool

	// each prepares one event outside the transaction (decoding) and returns what is to be done inside it.
	each func(g *group, r eventstore.Record) (apply, error)
	// batch handles many events in one go.
	batch func(ctx context.Context, tx Tx, records []eventstore.Record) error
	// call makes an outside call before the transaction; see call.go.
	call *call
	// forward hands a run of events on, before the transaction, and returns what is to be done inside it.
	forward func(ctx context.Context, partition int, records []eventstore.Record) (apply, error)
}

// apply is a handler's part inside the transaction.
type apply func(ctx context.Context, tx Tx) error

func (h *handler) apply(g *group) { g.handlers = append(g.handlers, h) }

// On reacts to events of one definition, one at a time, in order per key. The payload is decoded to T before the
// transaction begins; events of an older major version are brought to the definition's version by the registry's
// upcasters first, and an event that cannot be read is a permanent failure.
func On[T any](def event.Definition[T], fn func(ctx context.Context, tx Tx, e event.Of[T]) error) Option {
	return &handler{
		pattern: def.Type(),
		match:   func(t string) bool { return t == def.Type() },
		each: func(g *group, r eventstore.Record) (apply, error) {
			of, err := decode(g, def, r)
			if err != nil {
				return nil, err
			}
			return func(ctx context.Context, tx Tx) error { return fn(ctx, tx, of) }, nil
		},
	}
}

func decode[T any](g *group, def event.Definition[T], r eventstore.Record) (event.Of[T], error) {
	e := r.Event
	if g.bus.opts.Upcast != nil && major(e.Version) != major(def.Version()) {
		var err error
		if e, err = g.bus.opts.Upcast(e, def.Version()); err != nil {
			return event.Of[T]{}, Fatal(err)
		}
	}
	of, err := def.Decode(e)
	if err != nil {
		return of, Fatal(err)
	}
	return of, nil
}

func major(version string) string {
	m, _, _ := strings.Cut(version, ".")
	return m
}

// OnRecord reacts to every event whose type fits the pattern (see Matches), undecoded.
func OnRecord(pattern string, fn func(ctx context.Context, tx Tx, r eventstore.Record) error) Option {
	return &handler{
		pattern: pattern,
		match:   func(t string) bool { return Matches(pattern, t) },
		each: func(_ *group, r eventstore.Record) (apply, error) {
			return func(ctx context.Context, tx Tx) error { return fn(ctx, tx, r) }, nil
		},
	}
}

// OnBatch reacts to runs of events whose type fits the pattern, many at a time, in the order of the log. When the
// batch fails its events are tried one by one, so that only the guilty key suffers. Causation is filled in from the
// context only for batches of one; set it on appended events from the record that they follow from.
func OnBatch(pattern string, fn func(ctx context.Context, tx Tx, records []eventstore.Record) error) Option {
	return &handler{
		pattern: pattern,
		match:   func(t string) bool { return Matches(pattern, t) },
		batch:   fn,
	}
}

// Delivery tells a handler how the event came to it.
type Delivery struct {
	Group     string
	Partition int
	Offset    int64
	Attempt   int  // 1 for the first try since this process took the partition
	Replay    bool // a replay: the group has handled this event before, or is catching up on request; suppress side effects
	Redrive   bool // the key was parked and is being drained
}

type deliveryKey struct{}

// DeliveryFrom returns the delivery that ctx belongs to; the zero Delivery outside a handler.
func DeliveryFrom(ctx context.Context) Delivery {
	d, _ := ctx.Value(deliveryKey{}).(Delivery)
	return d
}

// guard runs fn and turns a panic into a PanicError.
func guard(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn()
}

func (g *group) checkHandlers() error {
	if len(g.handlers) == 0 {
		return &ConfigError{Field: "group " + g.name, Reason: "no handler; add On, OnRecord, OnBatch, OnCall or OnForward"}
	}
	batch := 0
	called := map[string]bool{}
	for _, h := range g.handlers {
		for _, p := range strings.Fields(h.pattern) {
			if err := CheckPattern(p); err != nil {
				return err
			}
		}
		if h.batch != nil || h.forward != nil {
			batch++
		}
		if h.call != nil {
			if called[h.pattern] {
				return &ConfigError{Field: "group " + g.name, Reason: "two outside handlers for " + h.pattern + "; give one a group of its own"}
			}
			called[h.pattern] = true
		}
	}
	if batch > 0 && len(g.handlers) > 1 {
		return &ConfigError{Field: "group " + g.name, Reason: fmt.Sprintf("a handler of batches with %d other handlers; give it a group of its own", len(g.handlers)-1)}
	}
	return nil
}
