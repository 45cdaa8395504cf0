package safety_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/carebus/carebus/services/safety"
)

func TestDaysCovered(t *testing.T) {
	at := func(n float64) time.Time { return monday.Truncate(days(1)).Add(days(n)) }
	for _, tt := range []struct {
		name                string
		fills               []safety.Fill
		from, to            float64
		covered, ofThoseAll int64
	}{
		{"none", nil, 0, 10, 0, 10},
		{"no days", []safety.Fill{{at(0), 30}}, 5, 5, 0, 0},
		{"backwards", []safety.Fill{{at(0), 30}}, 5, 4, 0, 0},
		{"one", []safety.Fill{{at(0), 30}}, 0, 40, 30, 40},
		{"a pause", []safety.Fill{{at(0), 30}, {at(35), 30}}, 0, 60, 55, 60},
		{"early, carried over", []safety.Fill{{at(0), 30}, {at(20), 30}}, 0, 60, 60, 60},
		{"in any order", []safety.Fill{{at(20), 30}, {at(0), 30}}, 0, 60, 60, 60},
		{"two at once", []safety.Fill{{at(0), 30}, {at(0), 30}}, 0, 100, 60, 100},
		{"before the window", []safety.Fill{{at(-20), 30}}, 0, 10, 10, 10},
		{"long before", []safety.Fill{{at(-60), 30}}, 0, 10, 0, 10},
		{"times of day", []safety.Fill{{at(0.9), 2}}, 0.1, 2.2, 2, 2},
		{"before 1970", []safety.Fill{{time.Date(1969, 12, 30, 23, 0, 0, 0, time.UTC), 3}}, -20515, -20513, 2, 2},
		{"absurd", []safety.Fill{{at(0), 1 << 62}, {at(1), -5}}, 0, 4000, 3650, 4000},
	} {
		covered, all := safety.DaysCovered(tt.fills, at(tt.from), at(tt.to))
		if covered != tt.covered || all != tt.ofThoseAll {
			t.Errorf("%s: %d of %d, want %d of %d", tt.name, covered, all, tt.covered, tt.ofThoseAll)
		}
	}
}

// TestDaysCoveredAgainstPills compares with a patient who takes one of the days' doses each day while there are any.
func TestDaysCoveredAgainstPills(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	start := monday.Truncate(days(1))
	for round := range 500 {
		var fills []safety.Fill
		got := map[int]int64{}
		for range r.IntN(8) {
			day, n := r.IntN(200), int64(1+r.IntN(40))
			fills = append(fills, safety.Fill{At: start.Add(days(float64(day) + r.Float64()*0.99)), Days: n})
			got[day] += n
		}
		from, to := r.IntN(100), 100+r.IntN(200)
		var want, stock int64
		for day := range to {
			stock += got[day]
			if stock > 0 {
				stock--
				if day >= from {
					want++
				}
			}
		}
		if covered, all := safety.DaysCovered(fills, start.Add(days(float64(from))), start.Add(days(float64(to)))); covered != want || all != int64(to-from) {
			t.Fatalf("round %d (seed 7, 7): %d of %d, want %d: %v, %d to %d", round, covered, all, want, fills, from, to)
		}
	}
}
