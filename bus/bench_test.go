package bus_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// BenchmarkConsume: one operation is a new group that handles 50,000 stored events over 5,000 keys.
func BenchmarkConsume(b *testing.B) {
	s := newStore(b)
	createEffects(b, s)
	const total, keys = 50_000, 5000
	for i := 0; i < total; i += 500 {
		events := make([]event.Event, 500)
		for j := range events {
			events[j] = numberedEvent(fmt.Sprint("k", (i+j)%keys), (i+j)/keys+1)
		}
		publish(b, s, events...)
	}
	for _, c := range []struct {
		name string
		opt  bus.Option
	}{
		{"nothing", bus.OnRecord("**", func(context.Context, bus.Tx, eventstore.Record) error { return nil })},
		{"decode", bus.On(thingDoneV1, func(context.Context, bus.Tx, event.Of[numbered]) error { return nil })},
		{"upsert", bus.OnRecord("**", func(_ context.Context, tx bus.Tx, r eventstore.Record) error {
			_, err := tx.Exec(`INSERT INTO last_seq (grp, k, seq) VALUES ('bench', $1, 1) ON CONFLICT (grp, k) DO UPDATE SET seq = last_seq.seq + 1`, r.PartitionKey)
			return err
		})},
		{"batch", bus.OnBatch("**", func(context.Context, bus.Tx, []eventstore.Record) error { return nil })},
	} {
		b.Run(c.name, func(b *testing.B) {
			for n := 0; b.Loop(); n++ {
				bb := newBus(b, s, nil)
				if err := bb.Handle("bench-"+event.NewID(), c.opt); err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				done := make(chan error, 1)
				go func() { done <- bb.Run(ctx) }()
				idle(b, bb)
				cancel()
				if err := <-done; err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(total)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}
