package eventstore_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

func benchStore(b *testing.B) *eventstore.Store {
	d, err := sqlite.Open(context.Background(), filepath.Join(b.TempDir(), "bench.db"), nil)
	if err != nil {
		b.Fatal(err)
	}
	s := eventstore.New(d, nil)
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// benchEvent has about 500 bytes of payload.
func benchEvent(key string) event.Event {
	return event.Event{
		Metadata: event.Metadata{Type: "medication.prescription.filled", Version: "2.0.0", Source: "pharmacy-service", PartitionKey: key},
		Payload: json.RawMessage(`{"prescriptionId":"` + key + `","patientId":"P987654321","fillId":"F123456789","fillNumber":1,` +
			`"medication":{"ndc":"12345-6789-10","name":"Lisinopril 10mg Tablet","quantity":30,"daysSupply":30,"directions":"Take 1 tablet by mouth daily"},` +
			`"filledAt":"2023-03-01T10:00:00Z","pharmacy":{"id":"PHARM123","name":"Community Pharmacy","ncpdpId":"1234567"},` +
			`"prescriber":{"id":"PROV456","npi":"1234567890","name":"Dr. John Smith"},"cost":{"patientPay":10.00,"insurancePay":25.50,"totalCost":35.50}}`),
	}
}

func perSecond(b *testing.B, n int64) {
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkAppend: publishers that wait for each acknowledgement.
func BenchmarkAppend(b *testing.B) {
	for _, publishers := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(publishers, " publishers"), func(b *testing.B) {
			s := benchStore(b)
			var n atomic.Int64
			b.ReportAllocs()
			b.SetParallelism(max(publishers/2, 1))
			if publishers == 1 {
				for b.Loop() {
					if _, err := s.Append(b.Context(), "", eventstore.AnyVersion, benchEvent(fmt.Sprint("k", n.Add(1)))); err != nil {
						b.Fatal(err)
					}
				}
			} else {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if _, err := s.Append(context.Background(), "", eventstore.AnyVersion, benchEvent(fmt.Sprint("k", n.Add(1)))); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			perSecond(b, n.Load())
		})
	}
}

// BenchmarkAppendBatch: 200 events in one append.
func BenchmarkAppendBatch(b *testing.B) {
	s := benchStore(b)
	b.ReportAllocs()
	var n int64
	for b.Loop() {
		events := make([]event.Event, 200)
		for i := range events {
			n++
			events[i] = benchEvent(fmt.Sprint("k", n))
		}
		if _, err := s.Append(b.Context(), "", eventstore.AnyVersion, events...); err != nil {
			b.Fatal(err)
		}
	}
	perSecond(b, n)
}

// BenchmarkLoad: whole streams of ten events.
func BenchmarkLoad(b *testing.B) {
	s := benchStore(b)
	const streams = 1000
	for i := range streams {
		events := make([]event.Event, 10)
		for v := range events {
			events[v] = benchEvent(fmt.Sprint("k", i))
		}
		if _, err := s.Append(b.Context(), fmt.Sprint("s/", i), eventstore.NoStream, events...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			rs, err := s.Stream(context.Background(), eventstore.StreamQuery{Stream: fmt.Sprint("s/", rand.IntN(streams)), From: 1, Limit: 100})
			if err != nil || len(rs) != 10 {
				b.Errorf("%d records, %v", len(rs), err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "loads/s")
}

// BenchmarkScan: one partition after the other, in batches.
func BenchmarkScan(b *testing.B) {
	s := benchStore(b)
	const total = 50_000
	for range total / 500 {
		events := make([]event.Event, 500)
		for i := range events {
			events[i] = benchEvent(fmt.Sprint("k", i))
		}
		if _, err := s.Append(b.Context(), "", eventstore.AnyVersion, events...); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	var n int64
	for b.Loop() {
		for p := range s.Partitions() {
			for q := (eventstore.PartitionQuery{Partition: p, Limit: 512}); ; {
				batch, err := s.Partition(b.Context(), q)
				if err != nil {
					b.Fatal(err)
				}
				if batch.Next == q.From {
					break
				}
				n += int64(len(batch.Records))
				q.From = batch.Next
			}
		}
	}
	perSecond(b, n)
}
