package console

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// TestBars holds the chart against a count of the events one by one: with silences, bursts and events older than the chart,
// when all is read anew and when most is known already.
func TestBars(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	ctx := context.Background()
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	clock := start
	engine, err := sqlite.Open(ctx, t.TempDir()+"/bars.db", &sqlite.Options{Clock: func() time.Time { return clock }})
	if err != nil {
		t.Fatal(err)
	}
	store := eventstore.New(engine, nil)
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	var kept traffic
	var recorded []time.Time
	for round := range 12 {
		for range rnd.IntN(4) {
			events := make([]event.Event, 1+rnd.IntN(20))
			for i := range events {
				id := event.NewID()
				events[i] = event.Event{Metadata: event.Metadata{ID: id, Type: "test.note.made", Source: "note-service", Version: "1.0.0", CorrelationID: id, Timestamp: start.UnixMilli(), PartitionKey: fmt.Sprint("K", rnd.IntN(30))}, Payload: []byte(`{}`)}
			}
			receipts, err := store.Append(ctx, "", eventstore.AnyVersion, events...)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range receipts {
				recorded = append(recorded, r.RecordedAt)
			}
			clock = clock.Add(time.Duration(rnd.Int64N(int64(8 * time.Minute))))
		}
		if rnd.IntN(3) == 0 {
			clock = clock.Add(40 * time.Minute)
		}
		now := clock.Add(time.Second)
		for _, bars := range []*traffic{&kept, {}} {
			got, err := bars.bars(ctx, store, time.Hour, now)
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range got {
				n := len(slices.DeleteFunc(slices.Clone(recorded), func(at time.Time) bool { return at.Before(b.From) || !at.Before(b.To) }))
				if b.Events != int64(n) {
					t.Fatalf("round %d, bar %d from %s to %s: %d events, not %d", round, i, b.From, b.To, b.Events, n)
				}
				if i > 0 && !b.From.Equal(got[i-1].To) {
					t.Fatalf("bar %d begins at %s, not where the one before ends", i, b.From)
				}
			}
			if last := got[len(got)-1]; last.To.Before(now) || last.From.After(now) {
				t.Fatalf("the last bar is from %s to %s, and now is %s", last.From, last.To, now)
			}
		}
	}
}
