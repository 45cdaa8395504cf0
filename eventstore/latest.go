package eventstore

import (
	"context"
	"slices"
	"time"
)

// LatestQuery asks for the newest events of the log. The zero From is the beginning, the zero Before the present heads.
type LatestQuery struct {
	From   []int64                     // per partition: first offset that is looked at
	Before []int64                     // per partition: first offset that is not; what a former answer had as Before
	Key    string                      // when not empty, only events with this partition key
	Match  func(eventType string) bool // nil matches all
	Keep   func(r *Record) bool        // nil keeps all
	Limit  int                         // records returned; must be positive
	Budget int                         // offsets looked at, about; 0 means 20,000
}

// Latest is an answer to a LatestQuery: the newest first, and where the rest lies. An answer may have few records, or none,
// and still a rest: what is rare is found over several questions, none of which holds the store for long.
type Latest struct {
	Records []Record
	Before  []int64
	More    bool
}

// Latest reads the log backward, from its newest events on, in the order of recording. It looks at a bounded part of each
// partition only.
func (s *Store) Latest(ctx context.Context, q LatestQuery) (Latest, error) {
	before := slices.Clone(q.Before)
	if before == nil {
		heads, err := s.Heads(ctx)
		if err != nil {
			return Latest{}, err
		}
		before = heads
	}
	if q.Budget <= 0 {
		q.Budget = 20_000
	}
	b := backward{s: s, q: q, parts: make([]backPart, len(before))}
	for p := range b.parts {
		b.parts[p].low = before[p]
		if p < len(q.From) {
			b.parts[p].from = min(q.From[p], before[p])
		}
		if q.Key != "" && p != PartitionOf(q.Key, len(before)) {
			b.parts[p].from = before[p]
		}
	}
	var out Latest
	var floor time.Time // once the budget is used up: what is older may have newer neighbours that nobody has looked at
	spent, emptied := false, true
	for len(out.Records) < q.Limit {
		if emptied { // a partition may have nothing found
			if !spent {
				done, err := b.fill(ctx)
				if err != nil {
					return Latest{}, err
				}
				spent = !done
			}
			if spent {
				var err error
				if floor, err = b.edge(ctx); err != nil {
					return Latest{}, err
				}
			}
		}
		r, ok := b.pop(floor)
		if !ok {
			break
		}
		out.Records = append(out.Records, r)
		emptied = len(b.parts[r.Partition].buf) == 0
	}
	out.Before = make([]int64, len(b.parts))
	for p := range b.parts {
		out.Before[p] = b.parts[p].next()
		out.More = out.More || out.Before[p] > b.parts[p].from
	}
	return out, nil
}

// backward merges the partitions' logs from their ends.
type backward struct {
	s     *Store
	q     LatestQuery
	parts []backPart
}

type backPart struct {
	from, low int64    // of [from, low) nothing has been looked at
	buf       []Record // found, ascending, not given yet
	width     int64    // of the next window
}

// next is the offset below which the rest lies.
func (p *backPart) next() int64 {
	if n := len(p.buf); n > 0 {
		return p.buf[n-1].Offset + 1
	}
	return p.low
}

// fill looks further back in every partition that has nothing found, in rounds of windows that grow, so that all of them
// are looked at about equally far. It is not done when the budget is used up first.
func (b *backward) fill(ctx context.Context) (done bool, err error) {
	for {
		empty := false
		for i := range b.parts {
			p := &b.parts[i]
			if len(p.buf) > 0 || p.low <= p.from {
				continue
			}
			if b.q.Budget <= 0 {
				return false, nil
			}
			if err := b.window(ctx, i); err != nil {
				return false, err
			}
			empty = empty || len(p.buf) == 0 && p.low > p.from
		}
		if !empty {
			return true, nil
		}
	}
}

// window looks at the next window of a partition.
func (b *backward) window(ctx context.Context, i int) error {
	p := &b.parts[i]
	p.width = min(max(p.width*2, int64(2*b.q.Limit/len(b.parts)), 8), 4096) // the newest lie about equally in all
	from := max(p.from, p.low-p.width)
	for at := from; at < p.low; {
		batch, err := b.s.Partition(ctx, PartitionQuery{Partition: i, From: at, To: p.low, Key: b.q.Key, Match: b.q.Match, Limit: int(p.width)})
		if err != nil {
			return err
		}
		for j := range batch.Records {
			if b.q.Keep == nil || b.q.Keep(&batch.Records[j]) {
				p.buf = append(p.buf, batch.Records[j])
			}
		}
		if batch.Next <= at {
			break
		}
		at = batch.Next
	}
	b.q.Budget -= int(p.low - from)
	p.low = from
	return nil
}

// edge is when the newest event was recorded that nobody has looked at in a partition without anything found.
func (b *backward) edge(ctx context.Context) (edge time.Time, err error) {
	for i := range b.parts {
		p := &b.parts[i]
		if len(p.buf) > 0 || p.low <= p.from {
			continue
		}
		batch, err := b.s.Partition(ctx, PartitionQuery{Partition: i, From: p.low - 1, To: p.low, Limit: 1})
		if err != nil {
			return edge, err
		}
		if len(batch.Records) == 1 && batch.Records[0].RecordedAt.After(edge) {
			edge = batch.Records[0].RecordedAt
		}
	}
	return edge, nil
}

// pop takes the newest that was found, unless it is older than floor.
func (b *backward) pop(floor time.Time) (Record, bool) {
	best := -1
	for i := range b.parts {
		buf := b.parts[i].buf
		if len(buf) > 0 && (best < 0 || buf[len(buf)-1].RecordedAt.After(b.parts[best].buf[len(b.parts[best].buf)-1].RecordedAt)) {
			best = i
		}
	}
	if best < 0 {
		return Record{}, false
	}
	p := &b.parts[best]
	r := p.buf[len(p.buf)-1]
	if r.RecordedAt.Before(floor) {
		return Record{}, false
	}
	p.buf = p.buf[:len(p.buf)-1]
	return r, true
}
