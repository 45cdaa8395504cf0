package carebustest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// ErrInjected is what Faults makes handlers fail with.
var ErrInjected = errors.New("carebustest: a fault that was injected")

// Faults is an option of a group that makes its handlers fail at random, in a share of rate of all runs, below 1: before
// they do anything, or after they have done everything, which is then undone and done again. A service that keeps its
// effects in its transaction ends up the same with faults as without. The same seed makes the same choices, in the order
// in which handlers run.
//
// The failures are those of a dependency: the group rests now and then, and goes on by itself.
func Faults(seed uint64, rate float64) bus.Option {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 0))
	return bus.Around(func(ctx context.Context, _ eventstore.Record, next func(ctx context.Context) error) error {
		mu.Lock()
		fails, before := rng.Float64() < rate, rng.IntN(2) == 0
		mu.Unlock()
		if fails && before {
			return bus.Transient(ErrInjected)
		}
		if err := next(ctx); err != nil || !fails {
			return err
		}
		return bus.Transient(ErrInjected)
	})
}
