package console_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// BenchmarkPages says how long the server takes for each page over a large store: 200,000 events, or as many as
// CAREBUS_BENCH_EVENTS says. The time of an operation is the mean; p95-ms is what 95 of 100 requests stay under.
func BenchmarkPages(b *testing.B) {
	n := 200_000
	if text := os.Getenv("CAREBUS_BENCH_EVENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	s := newSite(b, nil, func(p *carebus.Platform) error {
		return p.Handle("notes", bus.FloodLimit(1<<20), bus.Tries(1), bus.OnBatch("test.note.*", func(_ context.Context, _ bus.Tx, records []eventstore.Record) error {
			for _, r := range records {
				if r.PartitionKey == "K13" {
					return bus.Fatal(fmt.Errorf("no notes of this one"))
				}
			}
			return nil
		}))
	})
	noteSchema(b, s.p)
	ctx := context.Background()
	began := time.Now()
	for at := 0; at < n; at += 2000 {
		events := make([]event.Event, 0, 2000)
		for i := at; i < min(at+2000, n); i++ {
			cause := ""
			if i%10 > 0 {
				cause = fmt.Sprint("e", i-1)
			}
			e := noted(fmt.Sprint("e", i), fmt.Sprint("K", i%5000), fmt.Sprint("flow-", i/10), cause, fmt.Sprint("the text of note ", i))
			e.Source = fmt.Sprint("service-", i%7)
			events = append(events, e)
		}
		if _, err := s.p.Store().Append(ctx, "", eventstore.AnyVersion, events...); err != nil {
			b.Fatal(err)
		}
	}
	for i := range 50 {
		id := fmt.Sprint("P", i)
		if _, err := s.p.Append(ctx, "patient.record/"+id, eventstore.NoStream, patientCreated(id, "Zebedee", fmt.Sprint("Quixote", i))); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.p.Bus().Idle(ctx); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d events in %s", n, time.Since(began).Round(time.Millisecond))
	for _, page := range []struct{ name, path string }{
		{"overview", "/console/"}, {"tail", "/console/tail"}, {"search", "/console/search"}, {"search-type", "/console/search?type=test.note.made"}, {"search-key", "/console/search?key=K77"},
		{"search-rare-text", "/console/search?text=nothing+like+this"}, {"search-flow", "/console/search?correlation=flow-77"}, {"event", "/console/events/e770"}, {"flows", "/console/flows"}, {"flow", "/console/flows/flow-77"},
		{"compare", "/console/compare?a=flow-77&b=flow-78"}, {"topology", "/console/topology"}, {"groups", "/console/groups"}, {"group", "/console/groups/notes"}, {"failures", "/console/failures"},
		{"failure", "/console/failure?group=notes&key=K13"}, {"jobs", "/console/jobs"}, {"catalog", "/console/catalog"}, {"schema", "/console/catalog/test.note.made"}, {"patients", "/console/patients?name=quixote7"},
		{"patient", "/console/patients/P7?version=1"}, {"projections", "/console/projections"}, {"sagas", "/console/sagas"}, {"audit", "/console/audit"}, {"find", "/console/find.json?q=e770"},
	} {
		b.Run(page.name, func(b *testing.B) {
			look := func() time.Duration {
				r := httptest.NewRequest("GET", "http://localhost"+page.path, nil)
				w := httptest.NewRecorder()
				begin := time.Now()
				s.handler.ServeHTTP(w, r)
				took := time.Since(begin)
				if w.Code != 200 {
					b.Fatalf("%s: %d", page.path, w.Code)
				}
				return took
			}
			look() // the first one fills what is kept: the map, the chart
			var all []time.Duration
			for b.Loop() {
				all = append(all, look())
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)*95/100].Microseconds())/1000, "p95-ms")
		})
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.Logf("%d MiB in use", m.HeapAlloc>>20)
}
