package projection

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Definition says which tables a read model has and what each event writes into them. It is made once, does not change,
// and is safe for concurrent use.
type Definition struct {
	name     string
	version  int
	ddl      []string
	tables   []string        // in the order of their creation
	names    map[string]bool // tables and indexes
	digest   string          // of the ddl
	handlers []*handler
	errs     []error // found by Define, told by Register and Rebuild
}

// Option completes a Definition.
type Option func(*Definition)

// Define defines a read model. The name is its identity for ever: the group on the bus has it too. version is 1 or more
// and is raised whenever the tables, or what handlers write into them, change their meaning. A definition that contradicts
// itself is refused by Register and Rebuild.
func Define(name string, version int, opts ...Option) *Definition {
	d := &Definition{name: name, version: version, names: map[string]bool{}}
	for _, o := range opts {
		o(d)
	}
	sum := sha256.Sum256([]byte(strings.Join(d.ddl, "\x00")))
	d.digest = hex.EncodeToString(sum[:8])
	d.check()
	return d
}

// Name returns the projection's name.
func (d *Definition) Name() string { return d.name }

// Version returns the definition's version.
func (d *Definition) Version() int { return d.version }

// Tables says how the tables and indexes are made: CREATE TABLE and CREATE INDEX statements, with names in braces.
func Tables(ddl ...string) Option {
	return func(d *Definition) { d.ddl = append(d.ddl, ddl...) }
}

// handler is one reaction. Either prepare or batch is set.
type handler struct {
	pattern string
	match   func(eventType string) bool
	live    func(r *registration) bus.Option

	// prepare decodes outside the transaction and returns what is to be done inside it.
	prepare func(up upcaster, r eventstore.Record) (step, error)
	batch   func(ctx context.Context, tx Tx, records []eventstore.Record) error
}

type step func(ctx context.Context, tx Tx) error

// upcaster brings an event to another version of its type.
type upcaster func(e event.Event, version string) (event.Event, error)

// On writes what an event of the definition means. fn is called once per event, in order per key; what it writes through
// tx commits with the checkpoint. It must depend on nothing but the event and the projection's tables: a rebuild calls it
// again. Events of another major version are brought to the definition's first.
func On[T any](def event.Definition[T], fn func(ctx context.Context, tx Tx, e event.Of[T]) error) Option {
	h := &handler{
		pattern: def.Type(),
		match:   func(t string) bool { return t == def.Type() },
		live: func(r *registration) bus.Option {
			return bus.On(def, func(ctx context.Context, btx bus.Tx, e event.Of[T]) error {
				tx, ok, err := r.tx(ctx, btx)
				if err != nil || !ok {
					return err
				}
				return fn(ctx, tx, e)
			})
		},
		prepare: func(up upcaster, r eventstore.Record) (step, error) {
			e := r.Event
			if major(e.Version) != major(def.Version()) {
				var err error
				if e, err = up(e, def.Version()); err != nil {
					return nil, err
				}
			}
			of, err := def.Decode(e)
			return func(ctx context.Context, tx Tx) error { return fn(ctx, tx, of) }, err
		},
	}
	return func(d *Definition) { d.handlers = append(d.handlers, h) }
}

func major(version string) string {
	m, _, _ := strings.Cut(version, ".")
	return m
}

// OnRecord is On for every event whose type fits the pattern (see bus.Matches), undecoded.
func OnRecord(pattern string, fn func(ctx context.Context, tx Tx, r eventstore.Record) error) Option {
	h := &handler{
		pattern: pattern,
		match:   func(t string) bool { return bus.Matches(pattern, t) },
		live: func(r *registration) bus.Option {
			return bus.OnRecord(pattern, func(ctx context.Context, btx bus.Tx, rec eventstore.Record) error {
				tx, ok, err := r.tx(ctx, btx)
				if err != nil || !ok {
					return err
				}
				return fn(ctx, tx, rec)
			})
		},
		prepare: func(_ upcaster, r eventstore.Record) (step, error) {
			return func(ctx context.Context, tx Tx) error { return fn(ctx, tx, r) }, nil
		},
	}
	return func(d *Definition) { d.handlers = append(d.handlers, h) }
}

// OnBatch is OnRecord for runs of events at once, in the order of the log: for writes that many events share. It must be
// the definition's only handler.
func OnBatch(pattern string, fn func(ctx context.Context, tx Tx, records []eventstore.Record) error) Option {
	h := &handler{
		pattern: pattern,
		match:   func(t string) bool { return bus.Matches(pattern, t) },
		live: func(r *registration) bus.Option {
			return bus.OnBatch(pattern, func(ctx context.Context, btx bus.Tx, records []eventstore.Record) error {
				tx, ok, err := r.tx(ctx, btx)
				if err != nil || !ok {
					return err
				}
				return fn(ctx, tx, records)
			})
		},
		batch: fn,
	}
	return func(d *Definition) { d.handlers = append(d.handlers, h) }
}

func (d *Definition) batched() bool { return d.handlers[0].batch != nil }

func (d *Definition) matches(eventType string) bool {
	for _, h := range d.handlers {
		if h.match(eventType) {
			return true
		}
	}
	return false
}

// check finds what is wrong with a definition before anything is done with it.
func (d *Definition) check() {
	wrong := func(format string, args ...any) {
		d.errs = append(d.errs, fmt.Errorf("projection %q: "+format, append([]any{d.name}, args...)...))
	}
	if d.name == "" {
		wrong("the name is empty")
	}
	if d.version < 1 {
		wrong("version %d; begin with 1", d.version)
	}
	if len(d.handlers) == 0 {
		wrong("no handler; add On, OnRecord or OnBatch")
	}
	for _, h := range d.handlers {
		if err := bus.CheckPattern(h.pattern); err != nil {
			wrong("%w", err)
		}
		if h.batch != nil && len(d.handlers) > 1 {
			wrong("OnBatch beside other handlers; give it a projection of its own")
		}
	}
	if err := d.checkTables(); err != nil {
		wrong("%w", err)
	}
}

func (d *Definition) err() error { return errors.Join(d.errs...) }
