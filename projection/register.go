package projection

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Platform is what projections run on. *carebus.Platform is one.
type Platform interface {
	Store() *eventstore.Store
	// Handle makes the process a member of a group.
	Handle(group string, opts ...bus.Option) error
	// Upcast returns e as it would be in another version of its type.
	Upcast(e event.Event, version string) (event.Event, error)
}

// registration is a definition at work in a process.
type registration struct {
	def  *Definition
	last atomic.Pointer[applied]
}

// applied is what the last transaction found in the projection's row.
type applied struct {
	tx      bus.Tx
	version int
	gen     *generation
}

// Register makes this process apply events to the projection's tables once the platform runs. Call it before Run.
//
// It creates the tables of a projection that the store does not know; the group then handles the log from its
// beginning. When the stored version is lower than the definition's, the new version is built first, beside the old one:
// Register returns when it has taken over, or ctx ends; a build that was cut short goes on at the next call.
//
// settings are of the group, bus.BatchSize for instance: not handlers, not bus.Start, for a read model is a function of the whole
// log, and not bus.Concurrent, for a rebuild takes over in turn. Errors: ErrOlder, ErrChanged, ErrTaken, *EventError when a new version's handler failed.
func Register(ctx context.Context, p Platform, d *Definition, settings ...bus.Option) error {
	r, err := ensure(ctx, p.Store(), d)
	if err != nil {
		return err
	}
	for r.version < d.version {
		act := bus.Act{Actor: bus.Source, Reason: fmt.Sprintf("version %d takes the place of version %d", d.version, r.version)}
		err := newBuilder(p, d, nil).build(ctx, act, true)
		if errors.Is(err, ErrBuilding) {
			err = pause(ctx, p.Store()) // another process builds; it may also die
		}
		if err != nil {
			return err
		}
		if r, err = ensure(ctx, p.Store(), d); err != nil {
			return err
		}
	}
	reg := &registration{def: d}
	opts := []bus.Option{bus.Version(strconv.Itoa(d.version)), bus.FromStore()} // it is a function of the store's log
	for _, h := range d.handlers {
		opts = append(opts, h.live(reg))
	}
	return p.Handle(d.name, append(opts, settings...)...)
}

// pause waits for the next commit, or a moment.
func pause(ctx context.Context, s *eventstore.Store) error {
	short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := s.Wait(short, s.Tick()); err != nil && short.Err() == nil {
		return err
	}
	return ctx.Err()
}

// tx returns the projection's transaction for a handler's, and false when the event is to be passed over.
//
// Which generation is live is read in each transaction, once: a switch that another process made a moment ago is seen,
// and one that comes later waits for this transaction's checkpoint (see bus.LockPositions).
func (r *registration) tx(ctx context.Context, btx bus.Tx) (Tx, bool, error) {
	a := r.last.Load()
	if a == nil || !a.tx.Same(btx) {
		var version int
		var live int64
		err := btx.QueryRow(`SELECT version, live FROM carebus_projections WHERE name = $1`, r.def.name).Scan(&version, &live)
		if err != nil {
			return Tx{}, false, err
		}
		next := &applied{tx: btx, version: version}
		if a != nil && a.gen.number == live {
			next.gen = a.gen
		} else {
			next.gen = r.def.generation(live)
		}
		r.last.Store(next)
		a = next
	}
	if a.version != r.def.version {
		return Tx{}, false, bus.Transient(fmt.Errorf("projection %s: version %d is live, this process has version %d and applies nothing; end it", r.def.name, a.version, r.def.version))
	}
	if d := bus.DeliveryFrom(ctx); d.Replay && !d.Redrive {
		return Tx{}, false, nil // the tables have it already
	}
	return Tx{db: btx, gen: a.gen}, true, nil
}
