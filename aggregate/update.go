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
// decision was made upon. It returns the state after the events, when they are on stable storage. An error of decide is
// returned as it is.
//
// When the entity has changed meanwhile, it decides anew inside a transaction of the store, where nobody can be faster:
// many writers of one entity wait for each other, and share commits, instead of trying again and again.
//
// Events without a partition key get the entity's id, so that the bus keeps the order of the stream.
func (d *Definition[S]) Update(ctx context.Context, l Log, id string, decide Decide[S], opts ...UpdateOption) (Loaded[S], error) {
	var c command
	for _, o := range opts {
		o(&c)
	}
	if c.id != "" {
		if done, err := d.done(ctx, l, id, c); err != nil {
			return Loaded[S]{}, err
		} else if done {
			return d.Load(ctx, l, id)
		}
	}
	s, err := d.try(ctx, l, id, c, decide, true)
	if errors.Is(err, eventstore.ErrConflict) {
		d.recent.forget(key{l.Store(), d.Stream(id)})
		s, err = d.decideInside(ctx, l, id, c, decide)
	}
	if c.id != "" && err != nil {
		// Perhaps somebody has carried out the same command since we looked, and that is why.
		if done, derr := d.done(ctx, l, id, c); done {
			return d.Load(ctx, l, id)
		} else if derr != nil {
			return s, errors.Join(err, derr)
		}
	}
	return s, err
}

// try decides once. A remembered state may be old; the append finds that out, so that a decision to do something needs
// no look at the store. A decision to do nothing, or to refuse, is made again upon what the store has.
func (d *Definition[S]) try(ctx context.Context, l Log, id string, c command, decide Decide[S], remembered bool) (Loaded[S], error) {
	s, known := Loaded[S]{}, false
	if remembered {
		s, known = d.remembered(l, id)
	}
	if !known {
		var err error
		if s, err = d.Load(ctx, l, id); err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return s, err
		}
	}
	events, err := decide(s.State)
	if known && (err != nil || len(events) == 0) {
		return d.try(ctx, l, id, c, decide, false)
	}
	if err != nil || len(events) == 0 {
		return s, err
	}
	events = d.complete(ctx, events, id, c)
	receipts, err := l.Store().Append(ctx, d.Stream(id), s.Version, events...)
	if err != nil {
		return s, err
	}
	return d.appended(ctx, l, id, s, events, receipts)
}

// decideInside decides inside a transaction.
func (d *Definition[S]) decideInside(ctx context.Context, l Log, id string, c command, decide Decide[S]) (s Loaded[S], err error) {
	if err := d.prepare(ctx, l.Store()); err != nil {
		return s, err
	}
	var events []event.Event
	var receipts []eventstore.Receipt
	err = l.Store().Update(ctx, func(tx *eventstore.Tx) error {
		s, err = d.fold(ctx, l, locked{tx}, id, everything)
		if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return err
		}
		if events, err = decide(s.State); err != nil || len(events) == 0 {
			return err
		}
		events = d.complete(ctx, events, id, c)
		receipts, err = tx.Append(ctx, d.Stream(id), s.Version, events...)
		return err
	})
	if err != nil || len(events) == 0 {
		return s, err
	}
	return d.appended(ctx, l, id, s, events, receipts)
}

// appended is the state after events that are stored.
func (d *Definition[S]) appended(ctx context.Context, l Log, id string, s Loaded[S], events []event.Event, receipts []eventstore.Receipt) (Loaded[S], error) {
	before := s.Version
	if err := d.follow(l, &s, events, receipts); err != nil {
		d.recent.forget(key{l.Store(), d.Stream(id)})
		return s, err
	}
	d.remember(l, id, s)
	d.keep(ctx, l, id, before, s)
	s.Receipts = receipts
	return s, nil
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
