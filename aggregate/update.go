package aggregate

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Decide looks at the state of an entity and says which events follow from a command, or why it is refused. It changes
// nothing, not even the state it was given, and may be asked more than once. For an entity that does not exist the state
// is the zero S. No events means that there is nothing to do.
type Decide[S any] func(s S) ([]event.Event, error)

// UpdateOption is an option of Update and UpdateTx.
type UpdateOption func(*command)

type command struct{ id string }

// Once gives a command an id, for callers that repeat it when an answer got lost: a command whose events are stored
// already is not decided again, and its answer is the present state. Ids are per entity.
func Once(commandID string) UpdateOption { return func(c *command) { c.id = commandID } }

// space makes ids of events from ids of commands.
var space = uuid.MustParse("5b3f3c2e-8f0a-4e58-9a54-0d6f6a1f8f5e")

func (c command) eventID(stream string, i int) string {
	return uuid.NewSHA1(space, fmt.Appendf(nil, "%d:%s%d:%s%d", len(stream), stream, len(c.id), c.id, i)).String()
}

// Update carries out a command: it loads the entity, lets decide choose events, and appends them at the version that the
// decision was made upon. When the entity has changed meanwhile it decides anew. It returns the state after the events,
// when they are on stable storage. An error of decide is returned as it is; after too many tries the error is
// eventstore.ErrConflict.
//
// Events without a partition key get the entity's id, so that the bus keeps the order of the stream.
func (d *Definition[S]) Update(ctx context.Context, l Log, id string, decide Decide[S], opts ...UpdateOption) (Loaded[S], error) {
	var c command
	for _, o := range opts {
		o(&c)
	}
	if c.id != "" {
		if done, err := d.done(ctx, l, id, c); done || err != nil {
			if err != nil {
				return Loaded[S]{}, err
			}
			return d.Load(ctx, l, id)
		}
	}
	var conflict error
	for try := 0; try <= d.retries; try++ {
		s, next, err := d.try(ctx, l, id, c, decide, try == 0)
		switch {
		case c.id != "" && errors.Is(err, eventstore.ErrDifferentContent):
			// Somebody has carried out the same command since we looked.
			if done, derr := d.done(ctx, l, id, c); !done {
				return s, errors.Join(err, derr)
			}
			return d.Load(ctx, l, id)
		case !errors.Is(err, eventstore.ErrConflict):
			return next, err
		}
		conflict = err
		d.recent.forget(key{l.Store(), d.Stream(id)})
	}
	return Loaded[S]{}, fmt.Errorf("aggregate: given up after %d tries: %w", d.retries+1, conflict)
}

// try decides once. A remembered state may be old; the append finds that out, so that a decision to do something needs
// no look at the store. A decision to do nothing, or to refuse, is made again upon what the store has.
func (d *Definition[S]) try(ctx context.Context, l Log, id string, c command, decide Decide[S], remembered bool) (was, is Loaded[S], err error) {
	s, known := Loaded[S]{}, false
	if remembered {
		s, known = d.remembered(l, id)
	}
	if !known {
		if s, err = d.Load(ctx, l, id); err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return s, s, err
		}
	}
	events, err := decide(s.State)
	if known && (err != nil || len(events) == 0) {
		return d.try(ctx, l, id, c, decide, false)
	}
	if err != nil || len(events) == 0 {
		return s, s, err
	}
	events = d.complete(ctx, events, id, c)
	receipts, err := l.Store().Append(ctx, d.Stream(id), s.Version, events...)
	if err != nil {
		return s, s, err
	}
	is = s
	if err := d.follow(l, &is, events, receipts); err != nil {
		d.recent.forget(key{l.Store(), d.Stream(id)})
		return s, is, err
	}
	d.remember(l, id, is)
	d.keep(ctx, l, id, s.Version, is)
	return s, is, nil
}

// done reports whether a command was carried out before.
func (d *Definition[S]) done(ctx context.Context, l Log, id string, c command) (bool, error) {
	_, err := l.Store().Get(ctx, c.eventID(d.Stream(id), 0))
	if errors.Is(err, eventstore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// complete fills in what the store would, since evolve must see what is stored.
func (d *Definition[S]) complete(ctx context.Context, events []event.Event, id string, c command) []event.Event {
	out := make([]event.Event, len(events))
	for i, e := range events {
		if c.id != "" && e.ID == "" {
			e.ID = c.eventID(d.Stream(id), i)
		}
		e = event.Complete(ctx, e)
		if e.PartitionKey == "" {
			e.PartitionKey = id
		}
		out[i] = e
	}
	return out
}

// follow applies events that were just appended. An event that was stored before, somewhere in the past, is no part of
// what follows: ids are for facts, and a fact happens once.
func (d *Definition[S]) follow(l Log, s *Loaded[S], events []event.Event, receipts []eventstore.Receipt) error {
	for i, r := range receipts {
		if r.Duplicate {
			return fmt.Errorf("aggregate: event %s was stored before, as version %d of %s; give a new fact a new id", r.EventID, r.StreamVersion, r.Stream)
		}
		if err := d.apply(l, s, eventstore.Record{Event: events[i], Stream: r.Stream, StreamVersion: r.StreamVersion, RecordedAt: r.RecordedAt}); err != nil {
			return err
		}
	}
	return nil
}

// UpdateTx carries out a command inside a handler's transaction: the events commit with everything else that the handler
// does, or not at all. It sees what the transaction has appended. Within a transaction nobody can be faster, so nothing
// is decided twice.
func (d *Definition[S]) UpdateTx(ctx context.Context, tx bus.Tx, l Log, id string, decide Decide[S], opts ...UpdateOption) (Loaded[S], error) {
	var c command
	for _, o := range opts {
		o(&c)
	}
	if d.every > 0 && !d.recent.isPrepared(l.Store()) {
		// In this transaction, which may be undone: it says nothing about the next.
		if _, err := tx.Exec(snapshotTable); err != nil {
			return Loaded[S]{}, err
		}
	}
	s, err := d.fold(ctx, l, inside{tx}, id, everything)
	if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
		return s, err
	}
	if c.id != "" {
		if done, err := d.done(ctx, l, id, c); done || err != nil {
			return s, err
		}
	}
	events, err := decide(s.State)
	if err != nil || len(events) == 0 {
		return s, err
	}
	before := s.Version
	for _, e := range d.complete(ctx, events, id, c) {
		if err := tx.AppendStream(d.Stream(id), s.Version, e); err != nil {
			return s, err
		}
		r := eventstore.Record{Event: e, Stream: d.Stream(id), StreamVersion: s.Version + 1, RecordedAt: tx.Now()}
		if err := d.apply(l, &s, r); err != nil {
			return s, err
		}
	}
	if d.due(before, s.Version) {
		return s, d.write(tx.Exec, id, s)
	}
	return s, nil
}
