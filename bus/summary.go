package bus

import (
	"context"
	"database/sql"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// GroupSummary is what a monitor wants to know of a group.
type GroupSummary struct {
	Name    string
	State   string // running, paused, stopped
	Members int
	Lag     int64     // events stored and not yet looked at; without lanes, when LagUnknown
	Oldest  time.Time // when the first of them was recorded; zero when there is none, or a transport does not say
	Parked  map[Class]ParkedCount

	LagUnknown bool // the transport that brings the group's events cannot be reached
}

// ParkedCount counts parked keys and the events that wait behind them.
type ParkedCount struct{ Keys, Events int64 }

// summaryParked bounds how many parked keys a summary looks at.
const summaryParked = 100_000

// Summary reports on every group of the store, by name, at a cost that does not grow with the log: it is for monitors that
// ask every few seconds. It holds up no writer. Of more than 100,000 parked keys the rest is not counted.
func (b *Bus) Summary(ctx context.Context) ([]GroupSummary, error) {
	byName := map[string]*GroupSummary{}
	next := map[string]map[int]int64{}
	err := b.store.View(ctx, func(q eventstore.Querier) error {
		err := eachRow(ctx, q, func(rows *sql.Rows) error {
			g := &GroupSummary{Parked: map[Class]ParkedCount{}}
			if err := rows.Scan(&g.Name, &g.State); err != nil {
				return err
			}
			byName[g.Name], next[g.Name] = g, map[int]int64{}
			return nil
		}, `SELECT grp, state FROM carebus_groups`)
		if err != nil {
			return err
		}
		err = eachRow(ctx, q, func(rows *sql.Rows) error {
			var name string
			var part int
			var at int64
			if err := rows.Scan(&name, &part, &at); err != nil {
				return err
			}
			if next[name] != nil {
				next[name][part] = at
			}
			return nil
		}, `SELECT grp, part, next FROM carebus_checkpoints`)
		if err != nil {
			return err
		}
		err = eachRow(ctx, q, func(rows *sql.Rows) error {
			var name string
			var n int
			if err := rows.Scan(&name, &n); err != nil {
				return err
			}
			if g := byName[name]; g != nil {
				g.Members = n
			}
			return nil
		}, `SELECT grp, COUNT(*) FROM carebus_members WHERE expires_at > $1 GROUP BY grp`, time.Now().UnixMicro())
		if err != nil {
			return err
		}
		return eachRow(ctx, q, func(rows *sql.Rows) error {
			var name string
			var class Class
			var n ParkedCount
			if err := rows.Scan(&name, &class, &n.Keys, &n.Events); err != nil {
				return err
			}
			if g := byName[name]; g != nil {
				g.Parked[class] = n
			}
			return nil
		}, `SELECT grp, class, COUNT(*), SUM(count) FROM (SELECT grp, class, count FROM carebus_parked LIMIT $1) AS sample GROUP BY grp, class`, summaryParked)
	})
	if err != nil {
		return nil, err
	}
	// After the snapshot, so that a head is never below a checkpoint.
	all := map[int]bool{}
	for _, at := range next {
		for part := range at {
			all[part] = true
		}
	}
	heads, unknown, err := b.shownHeads(ctx, slices.Collect(maps.Keys(all)))
	if err != nil {
		return nil, err
	}
	for name, g := range byName {
		for part, at := range next[name] {
			g.LagUnknown = g.LagUnknown || unknown && part >= FirstLane
			g.Lag += max(0, heads[part]-at)
			if at >= heads[part] {
				delete(next[name], part)
			}
		}
	}
	recorded, err := b.recordedAt(ctx, next)
	if err != nil {
		return nil, err
	}
	out := make([]GroupSummary, 0, len(byName))
	for name, g := range byName {
		for part, at := range next[name] {
			if t := recorded[spot{part, at}]; !t.IsZero() && (g.Oldest.IsZero() || t.Before(g.Oldest)) {
				g.Oldest = t
			}
		}
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b GroupSummary) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

type spot struct {
	part int
	at   int64
}

// oldestTime bounds how long a summary waits for a transport to say how old events are.
const oldestTime = 2 * time.Second

// recordedAt returns when the events were recorded that groups have before them. next is by group and partition. What was said of
// places where groups still are is remembered.
func (b *Bus) recordedAt(ctx context.Context, next map[string]map[int]int64) (map[spot]time.Time, error) {
	b.oldest.Lock()
	defer b.oldest.Unlock()
	times, lanes := map[spot]time.Time{}, map[spot]bool{} // groups are often at the same place
	for _, at := range next {
		for part, offset := range at {
			p := spot{part, offset}
			if _, ok := times[p]; ok {
				continue
			}
			if t, ok := b.oldest.times[p]; ok {
				times[p] = t
				continue
			}
			if part >= FirstLane {
				lanes[p] = true
				continue
			}
			batch, err := b.store.Partition(ctx, eventstore.PartitionQuery{Partition: part, From: offset, Limit: 1})
			if err != nil {
				return nil, err
			}
			if len(batch.Records) > 0 {
				times[p] = batch.Records[0].RecordedAt
			}
		}
	}
	brief, cancel := context.WithTimeout(ctx, oldestTime)
	defer cancel()
	for b.opts.Transport != nil && len(lanes) > 0 && brief.Err() == nil { // one place of each lane at a time
		ask := map[int]int64{}
		for p := range lanes {
			if _, ok := ask[p.part]; !ok {
				ask[p.part] = p.at
				delete(lanes, p)
			}
		}
		for part, t := range b.opts.Transport.RecordedAt(brief, ask) {
			times[spot{part, ask[part]}] = t
		}
	}
	b.oldest.times = times
	return times, nil
}
