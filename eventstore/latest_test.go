package eventstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// TestLatestIsAllBackward holds pages of Latest, with small budgets, against the log read forward.
func TestLatestIsAllBackward(t *testing.T) {
	for _, seed := range []uint64{1729315831095703846, rand.Uint64()} { // the first has a partition that gives all it found, and has newer
		t.Run(fmt.Sprint(seed), func(t *testing.T) { latestIsAllBackward(t, seed) })
	}
}

func latestIsAllBackward(t *testing.T, seed uint64) {
	ctx := context.Background()
	s := open(t, nil)
	random := rand.New(rand.NewPCG(seed, 1))
	for i := range 150 {
		var events []event.Event
		for j := range 1 + random.IntN(12) {
			e := named(fmt.Sprintf("e%d-%d", i, j), fmt.Sprint("k", random.IntN(40)))
			if random.IntN(30) == 0 {
				e.Type = "test.thing.rare"
			}
			events = append(events, e)
		}
		if _, err := s.Append(ctx, "", eventstore.AnyVersion, events...); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name          string
		match         func(string) bool
		key           string
		limit, budget int
	}{
		{"all", nil, "", 7, 0},
		{"all at once", nil, "", 10_000, 0},
		{"rare", func(t string) bool { return t == "test.thing.rare" }, "", 3, 100},
		{"nothing", func(string) bool { return false }, "", 3, 50},
		{"a key", nil, "k7", 4, 64},
	} {
		var want []eventstore.Record
		for r, err := range s.All(ctx, nil, c.match) {
			if err != nil {
				t.Fatal(err)
			}
			if c.key == "" || r.PartitionKey == c.key {
				want = append(want, r)
			}
		}
		slices.Reverse(want)
		var got []eventstore.Record
		q := eventstore.LatestQuery{Match: c.match, Key: c.key, Limit: c.limit, Budget: c.budget}
		for page := 0; ; page++ {
			found, err := s.Latest(ctx, q)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, found.Records...)
			if !found.More {
				break
			}
			if page > 2000 {
				t.Fatalf("%s: no end", c.name)
			}
			q.Before = found.Before
		}
		if len(got) != len(want) {
			t.Fatalf("%s: %d events, not %d", c.name, len(got), len(want))
		}
		for i := range got { // events of one commit have one time of recording, in any order among partitions
			if !got[i].RecordedAt.Equal(want[i].RecordedAt) {
				t.Fatalf("%s: event %d was recorded %s, not %s", c.name, i, got[i].RecordedAt, want[i].RecordedAt)
			}
		}
		seen := map[string]bool{}
		for _, r := range got {
			if seen[r.ID] {
				t.Fatalf("%s: %s twice", c.name, r.ID)
			}
			seen[r.ID] = true
		}
	}
}
