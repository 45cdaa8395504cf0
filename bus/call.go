package bus

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Call is a reaction that asks the outside world. The steps, each durable before the next begins:
//
//  1. intent: a row says that the call is about to be made;
//  2. Do: the call, outside any transaction, with a key that stays the same for this event and group for ever;
//  3. Done: the effects of the answer, the row marked done, and the checkpoint, in one transaction.
//
// A crash between 1 and 3 leaves the outcome unknown. Then Resolve asks the provider by the key; without Resolve, Do is
// made again with the same key, which is right for providers that honour idempotency keys; with NoRepeat it is neither:
// the key is parked as Suspect and a person decides. What happens at the provider is therefore at least once, and
// exactly once where the provider honours the key or can be asked; the effects in this database are exactly once.
type Call[T, R any] struct {
	Do       func(ctx context.Context, key string, e event.Of[T]) (R, error)
	Done     func(ctx context.Context, tx Tx, e event.Of[T], answer R) error
	Resolve  func(ctx context.Context, key string, e event.Of[T]) (answer R, found bool, err error) // optional
	NoRepeat bool
}

// OnCall reacts to events of one definition with an outside call. Keys are called in parallel (see Calls), the events of one key in order.
func OnCall[T, R any](def event.Definition[T], c Call[T, R]) Option {
	return &handler{
		pattern: def.Type(),
		match:   func(t string) bool { return t == def.Type() },
		call: &call{run: func(ctx context.Context, g *group, r eventstore.Record, unknown bool) (apply, error) {
			of, err := decode(g, def, r)
			if err != nil {
				return nil, err
			}
			key := CallKey(g.name, r.ID)
			var answer R
			found := false
			switch {
			case unknown && c.Resolve != nil:
				if answer, found, err = c.Resolve(ctx, key, of); err != nil {
					return nil, fmt.Errorf("asking for the outcome of an earlier call: %w", err)
				}
			case unknown && c.NoRepeat:
				return nil, &classified{Suspect, fmt.Errorf("the outcome of an earlier call is unknown and it must not be repeated; ask the provider about key %s, then redrive or skip", key)}
			}
			if !found {
				if answer, err = c.Do(ctx, key, of); err != nil {
					return nil, err
				}
			}
			return func(ctx context.Context, tx Tx) error { return c.Done(ctx, tx, of, answer) }, nil
		}},
	}
}

// CallKey is the idempotency key that a group's outside call for an event carries.
func CallKey(group, eventID string) string { return group + ":" + eventID }

// OnForward hands every event whose type fits the pattern on to somebody outside: a webhook, a queue, a consumer in
// another language. It runs outside any transaction, keys in parallel (see Calls), the events of one key in order; its
// error is judged as a handler's, with the same retries and dead letters. It leaves no effects here, and no intent is
// written first: delivery is at least once, and the receiver tells a repetition by the event's id. ctx ends when the group
// is paused, left, or Timeout has passed.
func OnForward(pattern string, fn func(ctx context.Context, r eventstore.Record) error) Option {
	return &handler{
		pattern: pattern,
		match:   func(t string) bool { return Matches(pattern, t) },
		call: &call{bare: true, run: func(ctx context.Context, _ *group, r eventstore.Record, _ bool) (apply, error) {
			if err := fn(ctx, r); err != nil {
				return nil, err
			}
			return func(context.Context, Tx) error { return nil }, nil
		}},
	}
}

// OnForwardBatch hands runs of events on, in the order of the log, to somebody outside who takes them faster so: a relay to
// another log. fn runs outside any transaction and returns when all of them have arrived, and what is to be done in the
// transaction that moves the checkpoint behind them, or nil. When it fails, all of them are handed on again: at least once,
// and what is handed on next is either the next run or one that begins at the last checkpoint.
// A group has no other handler beside it. A failure that is not of a dependency should stop the group; see OnFailure.
func OnForwardBatch(fn func(ctx context.Context, partition int, records []eventstore.Record) (done func(ctx context.Context, tx Tx) error, err error), patterns ...string) Option {
	return &handler{
		pattern: strings.Join(patterns, " "),
		match: func(t string) bool {
			return slices.ContainsFunc(patterns, func(p string) bool { return Matches(p, t) })
		},
		forward: func(ctx context.Context, partition int, records []eventstore.Record) (apply, error) {
			return fn(ctx, partition, records)
		},
	}
}

type call struct {
	run  func(ctx context.Context, g *group, r eventstore.Record, unknown bool) (apply, error)
	bare bool // no effects, no intent; may be broken off
}
