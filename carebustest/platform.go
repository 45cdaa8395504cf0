package carebustest

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore/storetest"
)

// Open returns a platform on a new store, which is removed when the test ends: a file, or, where CAREBUS_TEST_ENGINE is
// "postgres", a schema of the server of CAREBUS_TEST_POSTGRES.
func Open(t testing.TB) *carebus.Platform {
	t.Helper()
	p, err := carebus.Open(context.Background(), storetest.New(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("closing the platform: %v", err)
		}
	})
	return p
}

// Run runs the platform's groups until the test ends, or until stop is called, which waits until the handlers under way
// are done. Join all groups before.
func Run(t testing.TB, p *carebus.Platform) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("running the platform: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Settle waits until the groups that this process has joined have handled everything that is stored, what followed from
// it included. Events behind a parked key count as handled: look at the dead letters. It waits as long as the test may
// take.
func Settle(t testing.TB, p *carebus.Platform) {
	t.Helper()
	for {
		before, err := p.Store().Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Bus().Idle(t.Context()); err != nil {
			t.Fatalf("waiting for the groups: %v", err)
		}
		after, err := p.Store().Heads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if slices.Equal(before, after) {
			return // what was handled last has led to nothing new
		}
	}
}
