package gateway

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/eventstore"
)

// An attacker must not fill the store: within a minute the same denial is recorded once, and no more than so many of one
// caller at one address, and of all. The rest is counted, and recorded as one event per caller when the minute is over. The
// log has every one.
const (
	denialsOfOne = 20
	denialsOfAll = 300
	toldOfOthers = 50 // callers of whom the rest is recorded by name
)

// denials remembers what was recorded within the present minute.
type denials struct {
	mu      sync.Mutex
	till    time.Time
	seen    map[string]struct{}
	callers map[string]int   // recorded, by caller and address
	untold  map[string]int64 // not recorded, by actor
	owed    []untold         // of minutes that are over
}

// untold is how many denials of a caller were not recorded one by one.
type untold struct {
	actor string
	n     int64
	till  time.Time
}

// fresh says whether a denial is to be recorded, and counts it otherwise.
func (d *denials) fresh(actor, remote, rest string, now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turn(now)
	key, caller := actor+"\x00"+remote+"\x00"+rest, actor+"\x00"+remote
	if _, ok := d.seen[key]; ok || len(d.seen) >= denialsOfAll || d.callers[caller] >= denialsOfOne {
		d.untold[actor]++
		return false
	}
	d.seen[key] = struct{}{}
	d.callers[caller]++
	return true
}

// turn begins a new minute when the present one is over.
func (d *denials) turn(now time.Time) {
	if d.seen != nil && now.Before(d.till) {
		return
	}
	d.close()
	d.till, d.seen, d.callers, d.untold = now.Add(time.Minute), map[string]struct{}{}, map[string]int{}, map[string]int64{}
}

// close makes what was not recorded owed.
func (d *denials) close() {
	actors := slices.SortedFunc(maps.Keys(d.untold), func(a, b string) int { return cmp.Or(cmp.Compare(d.untold[b], d.untold[a]), cmp.Compare(a, b)) })
	var others int64
	for i, actor := range actors {
		if i >= toldOfOthers {
			others += d.untold[actor]
			continue
		}
		d.owed = append(d.owed, untold{actor, d.untold[actor], d.till})
	}
	if others > 0 {
		d.owed = append(d.owed, untold{"(others)", others, d.till})
	}
	d.untold = nil
}

// take returns what is owed; at the end of the process, of the present minute too.
func (d *denials) take(now time.Time, end bool) (out []untold) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if end {
		now = d.till
	}
	if d.seen != nil {
		d.turn(now)
	}
	out, d.owed = d.owed, nil
	return out
}

// tellDenied records a denial as an event.
func (g *Gateway) tellDenied(ctx context.Context, actor, action, resource, reason, remote string) {
	g.told.denied(action)
	g.log.Warn("gateway: denied", "actor", actor, "action", action, "resource", resource, "remote", remote)
	if !g.denials.fresh(actor, remote, action+"\x00"+resource, time.Now()) {
		return
	}
	g.recordDenial(ctx, platform.AccessDenied{
		Actor: harmless(actor), Action: action, Resource: new(harmless(resource)), Reason: reason, RemoteAddress: new(remote), DeniedAt: time.Now(),
	})
}

// tellRest records how many denials were not recorded one by one.
func (g *Gateway) tellRest(ctx context.Context, end bool) {
	for _, u := range g.denials.take(time.Now(), end) {
		g.recordDenial(ctx, platform.AccessDenied{
			Actor: harmless(u.actor), Action: "several", DeniedAt: time.Now(),
			Reason: fmt.Sprintf("%d more denials before %s were not recorded one by one; the log has them", u.n, u.till.UTC().Format(time.RFC3339)),
		})
	}
}

func (g *Gateway) recordDenial(ctx context.Context, denied platform.AccessDenied) {
	// The answer to who is refused does not wait for a store that does not come to it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	e := platform.AccessDeniedV1.New(bus.Source, denied)
	e.PartitionKey = denied.Actor
	if _, err := g.p.Store().Append(ctx, "", eventstore.AnyVersion, e); err != nil {
		g.log.Error("gateway: a denial could not be recorded", "actor", denied.Actor, "error", err.Error())
	}
}

// harmless is what a client sent, as it may go into the store: short, and visible ASCII.
func harmless(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 200)]
}
