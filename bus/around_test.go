package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

type layerKey struct{}

// TestAround: layers are entered from the first to the last, the context that a layer passes on is the handler's, and one
// that fails or panics after the handler undoes its effects.
func TestAround(t *testing.T) {
	for _, batch := range []bool{false, true} {
		t.Run(fmt.Sprint("batch=", batch), func(t *testing.T) {
			s := newStore(t)
			createEffects(t, s)
			b := newBus(t, s, nil)
			var seen []string // of one worker: one key
			faults := []func() error{
				func() error { return bus.Transient(errors.New("after the handler")) },
				func() error { panic("after the handler") },
			}
			layer := func(name string, after func() error) bus.Option {
				return bus.Around(func(ctx context.Context, r eventstore.Record, next func(ctx context.Context) error) error {
					outer, _ := ctx.Value(layerKey{}).(string)
					seen = append(seen, outer+">"+name)
					err := next(context.WithValue(ctx, layerKey{}, outer+">"+name))
					if err == nil && after != nil {
						err = after()
					}
					return err
				})
			}
			handle := func(ctx context.Context, tx bus.Tx, e event.Of[numbered]) error {
				seen = append(seen, ctx.Value(layerKey{}).(string)+">handler")
				return applyEffect(ctx, tx, e)
			}
			on := bus.On(thingDoneV1, handle)
			if batch {
				on = bus.OnBatch("test.**", func(ctx context.Context, tx bus.Tx, records []eventstore.Record) error {
					for _, r := range records {
						e, err := thingDoneV1.Decode(r.Event)
						if err == nil {
							err = handle(ctx, tx, e)
						}
						if err != nil {
							return err
						}
					}
					return nil
				})
			}
			err := b.Handle("layers", on, layer("a", nil), layer("b", func() error {
				if len(faults) == 0 {
					return nil
				}
				fault := faults[0]
				faults = faults[1:]
				return fault()
			}))
			if err != nil {
				t.Fatal(err)
			}
			start(t, b)
			publish(t, s, numberedEvent("k", 1))
			idle(t, b)
			publish(t, s, numberedEvent("k", 2))
			idle(t, b)
			if got := lastSeqs(t, s, "layers"); got["k"] != 2 { // each once: the effect refuses to be applied twice
				t.Errorf("%v", got)
			}
			if len(faults) != 0 || !slices.Contains(seen, ">a>b>handler") || slices.ContainsFunc(seen, func(s string) bool { return strings.HasSuffix(s, "handler") && s != ">a>b>handler" }) {
				t.Errorf("%v", seen)
			}
		})
	}
}
