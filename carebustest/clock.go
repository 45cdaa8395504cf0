package carebustest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore/storetest"
)

// Clock is the time of a platform, moved by hand: days pass in a moment, and nothing happens before its time.
type Clock struct {
	t      testing.TB
	p      *carebus.Platform
	micros atomic.Int64
}

// OpenAt is Open with a clock that stands still at start until it is advanced. Choose a start in the past, further back
// than the test goes forward: an event that says it happens in the future is refused by the true time.
//
// Handlers and timers live by this clock. Commands that are carried out from outside, such as patient.Do, tell the true
// time in their payloads.
func OpenAt(t testing.TB, start time.Time) (*carebus.Platform, *Clock) {
	t.Helper()
	c := &Clock{t: t}
	c.micros.Store(start.UnixMicro())
	p, err := carebus.Open(context.Background(), storetest.New(t), &carebus.Options{Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	c.p = p
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("closing the platform: %v", err)
		}
	})
	return p, c
}

// Now is the time.
func (c *Clock) Now() time.Time { return time.UnixMicro(c.micros.Load()).UTC() }

// Advance lets time pass. Timers that become due meanwhile fire one after the other, each at its own time, and what follows
// from one is settled before the next; so a reminder that is answered takes back the deadline behind it. The platform must
// be running.
func (c *Clock) Advance(d time.Duration) {
	c.t.Helper()
	target := c.Now().Add(d)
	for {
		Settle(c.t, c.p)
		next, ok := c.next()
		if !ok || next.After(target) {
			break
		}
		if next.After(c.Now()) {
			c.micros.Store(next.UnixMicro())
		}
		if _, err := c.p.Timers().Fire(c.t.Context()); err != nil {
			c.t.Fatalf("firing timers: %v", err)
		}
	}
	c.micros.Store(target.UnixMicro())
}

// Jump lets time pass in which nobody did anything, as after an outage: all timers that became due fire at once, now. What
// follows is not waited for.
func (c *Clock) Jump(d time.Duration) {
	c.t.Helper()
	c.micros.Add(d.Microseconds())
	if _, err := c.p.Timers().Fire(c.t.Context()); err != nil {
		c.t.Fatalf("firing timers: %v", err)
	}
}

// next is when the next timer is due.
func (c *Clock) next() (at time.Time, ok bool) {
	c.t.Helper()
	for after := ""; ; {
		page, err := c.p.Timers().Pending(c.t.Context(), after, 500)
		if err != nil {
			c.t.Fatalf("reading timers: %v", err)
		}
		if len(page) == 0 {
			return at, ok
		}
		for _, timer := range page {
			if timer.Error == "" && (!ok || timer.At.Before(at)) {
				at, ok = timer.At, true
			}
		}
		after = page[len(page)-1].ID
	}
}
