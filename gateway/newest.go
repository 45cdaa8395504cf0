package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// searchNewest answers a search that begins with the newest events. Its cursor holds the same two places as that of the
// other order; here it is the upper one that moves.
func (g *Gateway) searchNewest(ctx context.Context, in *searchInput, from, bound places, match func(string) bool, keep func(eventstore.Record) bool, out *page) error {
	if in.Correlation != "" {
		return g.newestOfFlow(ctx, in, from, bound, match, keep, out)
	}
	if types := g.few(in, match); types != nil {
		return g.newestOfTypes(ctx, in, types, from, bound, keep, out)
	}
	budget := newestBudget
	if in.Text != "" || in.Subject != "" || len(in.Member) > 0 {
		budget /= 5 // payloads are read
	}
	found, err := g.p.Store().Latest(ctx, eventstore.LatestQuery{
		From: from, Before: bound, Key: in.Key, Match: match, Limit: in.Limit, Budget: budget, Keep: func(r *eventstore.Record) bool { return keep(*r) },
	})
	if err != nil {
		return err
	}
	for _, r := range found.Records {
		out.Body.Events = append(out.Body.Events, g.show(r, in.Payload))
	}
	if found.More {
		out.Body.Next = (&window{from: from, bound: found.Before}).String()
	}
	return nil
}

// newestBudget is how many offsets one request looks at from the end of the log: people wait for it.
const newestBudget = 15_000

func (g *Gateway) newestOfFlow(ctx context.Context, in *searchInput, from, bound places, match func(string) bool, keep func(eventstore.Record) bool, out *page) error {
	records, err := g.p.Store().Correlation(ctx, in.Correlation, time.Time{}, maxFlow)
	if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
		return err
	}
	for _, r := range slices.Backward(records) {
		if r.Offset < from[r.Partition] || r.Offset >= bound[r.Partition] || !match(r.Type) || !keep(r) {
			continue
		}
		if len(out.Body.Events) == in.Limit {
			out.Body.Next = (&window{from: from, bound: bound}).String()
			return nil
		}
		bound[r.Partition] = r.Offset
		out.Body.Events = append(out.Body.Events, g.show(r, in.Payload))
	}
	return nil
}

// few are the types of a search when they are few: then the index by type finds their events, however rare they are. Nil means
// to walk the log. Every stored type is registered, so nothing needs to be counted.
func (g *Gateway) few(in *searchInput, match func(string) bool) []string {
	if len(in.Type) == 0 || in.Key != "" {
		return nil
	}
	types := []string{}
	for _, t := range g.p.Registry().Types() {
		if match(t) {
			types = append(types, t)
		}
	}
	if len(types) > 32 {
		return nil
	}
	return types
}

// newestOfTypes reads the index by type and timestamp. Behind the places, its cursor has the last event looked at.
func (g *Gateway) newestOfTypes(ctx context.Context, in *searchInput, types []string, from, bound places, keep func(eventstore.Record) bool, out *page) error {
	var after eventstore.Cursor
	if _, text, ok := strings.Cut(in.Cursor, "~"); ok {
		if _, err := fmt.Sscanf(text, "%d,%d,%d", &after.Timestamp, &after.Partition, &after.Offset); err != nil {
			return badRequest("cursor: give what a former answer had as next")
		}
		after.Valid = true
	}
	type head struct {
		buf  []eventstore.Record
		done bool
	}
	heads := make([]head, len(types))
	last := after
	for seen := 0; ; seen++ {
		best := -1
		for i := range heads {
			h := &heads[i]
			if len(h.buf) == 0 && !h.done {
				q := eventstore.TypeQuery{Type: types[i], Backward: true, After: last, Limit: min(in.Limit+1, 201)}
				records, err := g.p.Store().Type(ctx, q)
				if err != nil {
					return err
				}
				h.buf, h.done = records, len(records) < q.Limit
			}
			if len(h.buf) > 0 && (best < 0 || later(h.buf[0], heads[best].buf[0])) {
				best = i
			}
		}
		if best < 0 {
			return nil
		}
		if len(out.Body.Events) == in.Limit || seen == newestBudget/3 {
			out.Body.Next = fmt.Sprintf("%s~%d,%d,%d", (&window{from: from, bound: bound}).String(), last.Timestamp, last.Partition, last.Offset)
			return nil
		}
		r := heads[best].buf[0]
		heads[best].buf = heads[best].buf[1:]
		last = eventstore.Cursor{Timestamp: r.Timestamp, Partition: r.Partition, Offset: r.Offset, Valid: true}
		if r.Offset >= from[r.Partition] && r.Offset < bound[r.Partition] && keep(r) {
			out.Body.Events = append(out.Body.Events, g.show(r, in.Payload))
		}
	}
}

// later is the order of the index by type.
func later(a, b eventstore.Record) bool {
	if a.Timestamp != b.Timestamp {
		return a.Timestamp > b.Timestamp
	}
	if a.Partition != b.Partition {
		return a.Partition > b.Partition
	}
	return a.Offset > b.Offset
}
