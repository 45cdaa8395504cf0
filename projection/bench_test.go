package projection_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

const benchEvents, benchKeys = 50_000, 5000

func benchStore(b *testing.B) *eventstore.Store {
	s := newStore(b)
	for i := 0; i < benchEvents; i += 500 {
		events := make([]event.Event, 500)
		for j := range events {
			events[j] = stepEvent(fmt.Sprint("k", (i+j)%benchKeys), int64((i+j)/benchKeys+1))
		}
		_, err := s.Append(context.Background(), "", eventstore.AnyVersion, events...)
		must(b, err)
	}
	return s
}

// BenchmarkLive: one operation is a new projection that applies 50,000 stored events over 5,000 keys, an upsert each.
func BenchmarkLive(b *testing.B) {
	s := benchStore(b)
	for n := 0; b.Loop(); n++ {
		p := newPlatform(b, s)
		must(b, projection.Register(b.Context(), p, benchDefinition(n)))
		stop := start(b, p)
		must(b, p.Idle(b.Context()))
		stop()
	}
	b.ReportMetric(benchEvents*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkRebuild: one operation is a rebuild of the same, with the live group at rest.
func BenchmarkRebuild(b *testing.B) {
	s := benchStore(b)
	p := newPlatform(b, s)
	d := benchDefinition(0)
	must(b, projection.Register(b.Context(), p, d))
	start(b, p)
	must(b, p.Idle(b.Context()))
	for b.Loop() {
		must(b, projection.Rebuild(b.Context(), p, d, why, nil))
	}
	b.ReportMetric(benchEvents*float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func benchDefinition(n int) *projection.Definition {
	table := fmt.Sprintf("{bench%d}", n)
	upsert := fmt.Sprintf(`INSERT INTO %[1]s (key, seq) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET seq = excluded.seq`, table)
	return projection.Define(fmt.Sprint("bench", n), 1,
		projection.Tables(fmt.Sprintf(`CREATE TABLE %s (key TEXT PRIMARY KEY, seq BIGINT NOT NULL)`, table)),
		projection.On(stepDoneV1, func(_ context.Context, tx projection.Tx, e event.Of[step]) error {
			_, err := tx.Exec(upsert, e.Payload.Key, e.Payload.Seq)
			return err
		}))
}
