package safety

import (
	"slices"
	"time"
)

// Fill is a supply that a patient got.
type Fill struct {
	At   time.Time // when it was picked up, or filled
	Days int64     // how many days it lasts
}

// DaysCovered counts the days from one day up to, not including, another, and on how many of them a supply was at hand.
// Days are those of UTC. A fill that comes before the one before is used up begins when that ends. The order of the fills
// does not matter.
func DaysCovered(fills []Fill, from, to time.Time) (covered, days int64) {
	first, last := dayOf(from), dayOf(to)
	if last <= first {
		return 0, 0
	}
	sweep(fills, func(begin, end int64) {
		covered += max(0, min(end, last)-max(begin, first))
	})
	return covered, last - first
}

// suppliedUntil is the first day without a supply after all fills.
func suppliedUntil(fills []Fill) time.Time {
	var until int64
	sweep(fills, func(_, end int64) { until = end })
	return time.Unix(until*secondsOfDay, 0).UTC()
}

// sweep calls used with the days, [begin, end), over which each fill is used up, in their order.
func sweep(fills []Fill, used func(begin, end int64)) {
	inOrder := slices.SortedStableFunc(slices.Values(fills), func(a, b Fill) int { return a.At.Compare(b.At) })
	next := int64(0)
	for i, f := range inOrder {
		begin := dayOf(f.At)
		if i > 0 {
			begin = max(begin, next)
		}
		next = begin + min(max(f.Days, 0), lastsLong)
		used(begin, next)
	}
}

const secondsOfDay = 24 * 60 * 60

func dayOf(t time.Time) int64 {
	s := t.Unix()
	if s < 0 {
		s -= secondsOfDay - 1
	}
	return s / secondsOfDay
}
