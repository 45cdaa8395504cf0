package bus

import (
	"context"
	"sync"
	"time"
)

// breaker is a group's circuit breaker within one process. Closed, everybody passes. After limit dependency failures
// in a row it opens: everybody waits. When the pause is over one partition passes as a probe; its success closes the
// breaker and wakes all, its failure doubles the pause.
type breaker struct {
	mu       sync.Mutex
	limit    int
	min, max time.Duration
	failures int
	pause    time.Duration
	until    time.Time // open until then; zero when closed
	probing  bool
	changed  chan struct{} // closed and replaced at every change
	now      func() time.Time
}

func newBreaker(limit int, min, max time.Duration, now func() time.Time) *breaker {
	return &breaker{limit: limit, min: min, max: max, changed: make(chan struct{}), now: now}
}

// wait returns when the caller may try: true when it is the probe.
func (b *breaker) wait(ctx context.Context) (probe bool, err error) {
	for {
		b.mu.Lock()
		if b.until.IsZero() {
			b.mu.Unlock()
			return false, ctx.Err()
		}
		rest := b.until.Sub(b.now())
		if rest <= 0 && !b.probing {
			b.probing = true
			b.mu.Unlock()
			return true, nil
		}
		changed := b.changed
		b.mu.Unlock()
		if rest <= 0 {
			rest = b.max
		}
		t := time.NewTimer(rest)
		select {
		case <-ctx.Done():
			t.Stop()
			return false, ctx.Err()
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// success closes the breaker.
func (b *breaker) success() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = 0
	b.probing = false
	if !b.until.IsZero() {
		b.until, b.pause = time.Time{}, 0
		b.broadcast()
	}
}

// failure counts a dependency failure.
func (b *breaker) failure() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures++
	if b.failures < b.limit && b.until.IsZero() {
		return
	}
	if b.until.IsZero() || b.probing {
		b.pause = min(max(2*b.pause, b.min), b.max)
	}
	b.probing = false
	b.until = b.now().Add(b.pause)
	b.broadcast()
}

// release gives the probe back without a verdict, when the prober stopped for another reason.
func (b *breaker) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.probing {
		b.probing = false
		b.broadcast()
	}
}

func (b *breaker) open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.until.IsZero()
}

func (b *breaker) broadcast() {
	close(b.changed)
	b.changed = make(chan struct{})
}
