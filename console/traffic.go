package console

import (
	"context"
	"fmt"
	"html/template"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// traffic says how many events were recorded when. A count up to a time that has passed never changes, and is kept: a page
// that is looked at again asks the store for the newest only.
type traffic struct {
	mu    sync.Mutex
	until map[int64]int64 // unix second -> events recorded before
}

// bar is the events of a span of time.
type bar struct {
	From, To time.Time
	Events   int64
}

// buckets are the steps of a chart.
const buckets = 48

// bars counts what was recorded over a span that ends now.
func (t *traffic) bars(ctx context.Context, s *eventstore.Store, span time.Duration, now time.Time) ([]bar, error) {
	step := span / buckets
	end := now.Truncate(step).Add(step)
	edge := func(i int) time.Time { return end.Add(-step * time.Duration(buckets-i)) }
	var before [buckets + 1]int64 // events recorded before each edge
	for _, i := range []int{0, buckets} {
		var err error
		if before[i], err = t.count(ctx, s, edge(i), now); err != nil {
			return nil, err
		}
	}
	// Between two edges with one count there was nothing: what lies between them need not be looked for.
	var between func(lo, hi int) error
	between = func(lo, hi int) (err error) {
		mid := (lo + hi) / 2
		switch {
		case mid == lo:
			return nil
		case before[lo] == before[hi]:
			before[mid] = before[lo]
		default:
			if before[mid], err = t.count(ctx, s, edge(mid), now); err != nil {
				return err
			}
		}
		if err := between(lo, mid); err != nil {
			return err
		}
		return between(mid, hi)
	}
	if err := between(0, buckets); err != nil {
		return nil, err
	}
	out := make([]bar, buckets)
	for i := range out {
		out[i] = bar{From: edge(i), To: edge(i + 1), Events: before[i+1] - before[i]}
	}
	return out, nil
}

func (t *traffic) count(ctx context.Context, s *eventstore.Store, edge, now time.Time) (int64, error) {
	settled := edge.Before(now.Add(-10 * time.Second)) // a commit takes its time before it is visible
	if settled {
		t.mu.Lock()
		n, ok := t.until[edge.Unix()]
		t.mu.Unlock()
		if ok {
			return n, nil
		}
	}
	find := func() ([]int64, error) { return s.OffsetsAt(ctx, edge) }
	if edge.After(now) {
		find = func() ([]int64, error) { return s.Heads(ctx) }
	}
	offsets, err := find()
	if err != nil {
		return 0, err
	}
	n := sum(offsets)
	if settled {
		t.mu.Lock()
		if t.until == nil || len(t.until) > 4096 {
			t.until = map[int64]int64{}
		}
		t.until[edge.Unix()] = n
		t.mu.Unlock()
	}
	return n, nil
}

func sum(offsets []int64) (n int64) {
	for _, o := range offsets {
		n += o
	}
	return n
}

// chart draws bars as SVG: its colours are the page's, by class.
func chart(bars []bar) template.HTML {
	const width, height, foot, left = 960, 150, 20, 44
	var most int64 = 1
	for _, b := range bars {
		most = max(most, b.Events)
	}
	var s strings.Builder
	fmt.Fprintf(&s, `<svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="Events recorded over time">`, width, height+foot)
	for i := range 3 {
		y := 8 + (height-8)*i/2
		fmt.Fprintf(&s, `<line class="grid" x1="%d" y1="%d" x2="%d" y2="%d"/>`, left, y, width, y)
		if i < 2 {
			fmt.Fprintf(&s, `<text class="axis end" x="%d" y="%d">%s</text>`, left-6, y+4, count(most*int64(2-i)/2))
		}
	}
	step := float64(width-left) / float64(len(bars))
	for i, b := range bars {
		h := float64(height-8) * float64(b.Events) / float64(most)
		if b.Events > 0 {
			h = max(h, 2)
		}
		x := left + step*float64(i)
		layout := "15:04"
		if b.To.Sub(b.From)*buckets > 25*time.Hour {
			layout = "Jan 2 15:04"
		}
		fmt.Fprintf(&s, `<g class="bar"><rect class="hit" x="%.1f" y="0" width="%.1f" height="%d"/><rect class="fill" x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2"/><title>%s to %s UTC: %s events</title></g>`,
			x, step, height, x+1, float64(height)-h, step-2, h, b.From.UTC().Format(layout), b.To.UTC().Format(layout), count(b.Events))
		if i%(buckets/6) == 0 {
			fmt.Fprintf(&s, `<text class="axis" x="%.1f" y="%d">%s</text>`, x, height+15, b.From.UTC().Format(layout))
		}
	}
	s.WriteString(`</svg>`)
	return template.HTML(s.String()) //nolint:gosec // numbers and times of ours only
}

// rates are how fast groups handle events: what they have come on since they were last looked at.
type rates struct {
	mu   sync.Mutex
	last map[string]sample
}

type sample struct {
	at    time.Time
	next  int64
	perS  float64
	known bool
}

// of returns events handled per second, over two seconds or more; false before there were two looks.
func (r *rates) of(g bus.GroupStatus, now time.Time) (float64, bool) {
	var next int64
	for _, p := range g.Partitions {
		next += p.Next
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || len(r.last) > 10_000 {
		r.last = map[string]sample{}
	}
	s, ok := r.last[g.Name]
	switch age := now.Sub(s.at); {
	case !ok || age > 5*time.Minute || next < s.next:
		s = sample{at: now, next: next}
	case age >= 2*time.Second:
		s = sample{at: now, next: next, perS: float64(next-s.next) / age.Seconds(), known: true}
	}
	r.last[g.Name] = s
	return s.perS, s.known
}
