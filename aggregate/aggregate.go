package aggregate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Log is where the events of entities are kept. *carebus.Platform is one.
type Log interface {
	Store() *eventstore.Store
	// Upcast returns e as it would be in another version of its type.
	Upcast(e event.Event, version string) (event.Event, error)
}

// Definition says how the state S of a kind of entity follows from its events. It is made once and is safe for
// concurrent use.
type Definition[S any] struct {
	category string
	evolve   map[string]evolver[S]
	every    int
	shape    int
	recent   *recent
}

type evolver[S any] struct {
	version string
	apply   func(s *S, e event.Event) error
}

// Option completes a Definition.
type Option[S any] func(*Definition[S])

// Define defines a kind of entity. The category names it, such as "patient.record"; an entity's stream is the category, a
// slash, and the entity's id. It panics when the definition contradicts itself, as regexp.MustCompile does: definitions
// are package variables.
func Define[S any](category string, opts ...Option[S]) *Definition[S] {
	d := &Definition[S]{category: category, evolve: map[string]evolver[S]{}, every: 100, shape: 1, recent: newRecent(16 << 20)}
	if category == "" || strings.Contains(category, "/") {
		panic(fmt.Sprintf("aggregate: category %q; use a name without a slash, such as patient.record", category))
	}
	for _, o := range opts {
		o(d)
	}
	return d
}

// On says what an event of the type changes. evolve must do nothing else, and nothing that depends on anything but its
// arguments: it runs again for every load. An event of another major version is brought to the definition's first.
func On[S, T any](def event.Definition[T], evolve func(s *S, e event.Of[T])) Option[S] {
	return func(d *Definition[S]) {
		if _, twice := d.evolve[def.Type()]; twice {
			panic(fmt.Sprintf("aggregate: %s: two functions for %s; give one", d.category, def.Type()))
		}
		d.evolve[def.Type()] = evolver[S]{def.Version(), func(s *S, e event.Event) error {
			of, err := def.Decode(e)
			if err == nil {
				evolve(s, of)
			}
			return err
		}}
	}
}

// Snapshots keeps the state every so many events; 0 never. shape is a number to be raised whenever S or its evolve
// functions change their meaning: snapshots of another shape are not read. Default: every 100 events, shape 1.
func Snapshots[S any](every, shape int) Option[S] {
	return func(d *Definition[S]) { d.every, d.shape = max(every, 0), shape }
}

// Loaded is the state of an entity at a version of its stream.
type Loaded[S any] struct {
	State      S
	Version    int64     // number of events in the stream; 0 for an entity that does not exist
	RecordedAt time.Time // when the last of them was recorded
	// Receipts of the events that Update has just stored: who waits for them (projection.Wait) reads what it wrote. Empty
	// when it has stored nothing, and inside a handler's transaction, where nothing is stored yet.
	Receipts []eventstore.Receipt
}

// Category returns the name of this kind of entity.
func (d *Definition[S]) Category() string { return d.category }

// Stream returns the name of an entity's stream.
func (d *Definition[S]) Stream(id string) string { return d.category + "/" + id }

const batch = 500

// Load returns the present state of an entity; eventstore.ErrNotFound when it has no events.
func (d *Definition[S]) Load(ctx context.Context, l Log, id string) (Loaded[S], error) {
	return d.within(ctx, l, id, everything)
}

// AtVersion returns the state after the first version events of an entity's stream, or all when it has fewer.
func (d *Definition[S]) AtVersion(ctx context.Context, l Log, id string, version int64) (Loaded[S], error) {
	return d.within(ctx, l, id, func(v int64, _ time.Time) bool { return v <= version })
}

// At returns the state as it was known at a moment: what had been recorded by then. For an entity that had no events yet
// the error is eventstore.ErrNotFound.
func (d *Definition[S]) At(ctx context.Context, l Log, id string, t time.Time) (Loaded[S], error) {
	return d.within(ctx, l, id, func(_ int64, at time.Time) bool { return !at.After(t) })
}

func (d *Definition[S]) within(ctx context.Context, l Log, id string, within span) (Loaded[S], error) {
	s, err := d.fold(ctx, l, outside{l.Store()}, id, within)
	if err == nil && s.Version > 0 {
		d.remember(l, id, s)
	}
	return s, err
}

// Fold returns what events make of the zero state, in their order, without a store: for tests, and for events from
// elsewhere. They are of the versions of the definition.
func (d *Definition[S]) Fold(events ...event.Event) (S, error) {
	var s S
	for i, e := range events {
		if err := d.Apply(&s, e); err != nil {
			return s, fmt.Errorf("aggregate: %s, event %d: %w", d.category, i+1, err)
		}
	}
	return s, nil
}

// Apply changes a state by what one event says; events of other types change nothing. It is for read models that keep
// entities as they stand. The event is of the version of the definition.
func (d *Definition[S]) Apply(s *S, e event.Event) error {
	if ev, ok := d.evolve[e.Type]; ok {
		return ev.apply(s, e)
	}
	return nil
}

// span is the beginning of a stream: whether an event of it, by version and time of recording, belongs to what is asked
// for.
type span func(version int64, recordedAt time.Time) bool

func everything(int64, time.Time) bool { return true }

// reader reads streams and snapshots: a store's latest, or what a transaction sees.
type reader interface {
	stream(ctx context.Context, q eventstore.StreamQuery) ([]eventstore.Record, error)
	snapshot(ctx context.Context, category, id string, shape int) (snapshot, error)
}

type snapshot struct {
	version    int64 // 0: there is none
	recordedAt int64 // µs
	state      []byte
}

// fold makes the state of an entity from the newest state known in memory or kept as a snapshot, and the events behind
// it.
func (d *Definition[S]) fold(ctx context.Context, l Log, r reader, id string, within span) (Loaded[S], error) {
	s, known := d.remembered(l, id)
	if !known || !within(s.Version, s.RecordedAt) {
		s = Loaded[S]{}
		kept, err := d.kept(ctx, r, id)
		if err != nil {
			return s, err
		}
		if from, ok := decode[S](kept); ok && within(from.Version, from.RecordedAt) {
			s = from
		}
	}
	return d.continueFrom(ctx, l, r, id, s, within)
}

// continueFrom applies the events behind a state, as long as they are within.
func (d *Definition[S]) continueFrom(ctx context.Context, l Log, r reader, id string, s Loaded[S], within span) (Loaded[S], error) {
	for {
		records, err := r.stream(ctx, eventstore.StreamQuery{Stream: d.Stream(id), From: s.Version + 1, Limit: batch})
		if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return s, err
		}
		for _, rec := range records {
			if !within(rec.StreamVersion, rec.RecordedAt) {
				return s, d.exists(id, s)
			}
			if err := d.apply(l, &s, rec); err != nil {
				return s, err
			}
		}
		if len(records) < batch {
			return s, d.exists(id, s)
		}
	}
}

func (d *Definition[S]) exists(id string, s Loaded[S]) error {
	if s.Version > 0 {
		return nil
	}
	return fmt.Errorf("aggregate: %s: %w", d.Stream(id), eventstore.ErrNotFound)
}

func (d *Definition[S]) apply(l Log, s *Loaded[S], r eventstore.Record) error {
	if ev, ok := d.evolve[r.Type]; ok {
		e := r.Event
		if major(e.Version) != major(ev.version) {
			var err error
			if e, err = l.Upcast(e, ev.version); err != nil {
				return fmt.Errorf("aggregate: %s, version %d: %w", r.Stream, r.StreamVersion, err)
			}
		}
		if err := ev.apply(&s.State, e); err != nil {
			return fmt.Errorf("aggregate: %s, version %d: %w", r.Stream, r.StreamVersion, err)
		}
	}
	s.Version, s.RecordedAt = r.StreamVersion, r.RecordedAt
	return nil
}

func major(version string) string {
	m, _, _ := strings.Cut(version, ".")
	return m
}

// outside reads what is committed.
type outside struct{ s *eventstore.Store }

func (o outside) stream(ctx context.Context, q eventstore.StreamQuery) ([]eventstore.Record, error) {
	return o.s.Stream(ctx, q)
}

func (o outside) snapshot(ctx context.Context, category, id string, shape int) (s snapshot, err error) {
	err = o.s.View(ctx, func(q eventstore.Querier) error {
		return q.QueryRowContext(ctx, readSnapshot, category, id, shape).Scan(&s.version, &s.recordedAt, &s.state)
	})
	return s, err
}

// locked reads what a transaction of the store sees.
type locked struct{ tx *eventstore.Tx }

func (k locked) stream(ctx context.Context, q eventstore.StreamQuery) ([]eventstore.Record, error) {
	return k.tx.Stream(ctx, q)
}

func (k locked) snapshot(ctx context.Context, category, id string, shape int) (s snapshot, err error) {
	err = k.tx.QueryRowContext(ctx, readSnapshot, category, id, shape).Scan(&s.version, &s.recordedAt, &s.state)
	return s, err
}

// inside reads what a handler's transaction sees.
type inside struct{ tx bus.Tx }

func (i inside) stream(_ context.Context, q eventstore.StreamQuery) ([]eventstore.Record, error) {
	return i.tx.Stream(q)
}

func (i inside) snapshot(_ context.Context, category, id string, shape int) (s snapshot, err error) {
	err = i.tx.QueryRow(readSnapshot, category, id, shape).Scan(&s.version, &s.recordedAt, &s.state)
	return s, err
}
