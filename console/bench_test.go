package console_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
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
// CAREBUS_BENCH_EVENTS says. With CAREBUS_BENCH_STORE, a path, the store is kept there and used again by the next run.
//
// ns/op is the mean; p95-ms is what 95 of 100 requests stay under; cpu-ms is the processor time of the whole process per
// request, what runs in the background included: unlike the others it says little about what else the machine does.
// heap-MiB is the most that the Go heap has held during the page, garbage included; rss-MiB the most that the process has
// ever held.
func BenchmarkPages(b *testing.B) {
	n := 200_000
	if text := os.Getenv("CAREBUS_BENCH_EVENTS"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil {
			b.Fatal(err)
		}
	}
	path := os.Getenv("CAREBUS_BENCH_STORE")
	if path == "" {
		path = filepath.Join(b.TempDir(), "console.db")
	}
	s := newSiteAt(b, path, nil, func(p *carebus.Platform) error {
		return p.Handle("notes", bus.FloodLimit(1<<20), bus.Tries(1), bus.OnBatch("test.note.*", func(_ context.Context, _ bus.Tx, records []eventstore.Record) error {
			for _, r := range records {
				if r.PartitionKey == "K13" {
					return bus.Fatal(fmt.Errorf("no notes of this one"))
				}
			}
			return nil
		}))
	})
	fill(b, s, n)
	one, err := s.p.Store().Correlation(context.Background(), "flow-77", time.Time{}, 1)
	if err != nil || len(one) == 0 {
		b.Fatalf("the store has no flow-77: ask for 1000 events at least: %v", err)
	}
	inLong, err := s.p.Store().Correlation(context.Background(), "flow-long", time.Time{}, 1)
	if err != nil || len(inLong) == 0 {
		b.Fatalf("no long flow: %v", err)
	}
	for _, page := range []struct{ name, path string }{
		{"overview", "/console/"}, {"tail", "/console/tail"}, {"search", "/console/search"}, {"search-type", "/console/search?type=test.note.made"}, {"search-key", "/console/search?key=K77"},
		{"search-rare-key", "/console/search?key=nobody"}, {"search-subject", "/console/search?subject=P7"},
		{"search-rare-text", "/console/search?text=nothing+like+this"}, {"search-flow", "/console/search?correlation=flow-77"}, {"event", "/console/events/" + one[0].ID}, {"flows", "/console/flows"}, {"flow", "/console/flows/flow-77"},
		{"flow-long", "/console/flows/flow-long"}, {"flow-long-tree", "/console/flows/flow-long?show=tree&groups=1"}, {"event-long", "/console/events/" + inLong[0].ID},
		{"compare", "/console/compare?a=flow-77&b=flow-78"}, {"topology", "/console/topology"}, {"groups", "/console/groups"}, {"group", "/console/groups/notes"}, {"failures", "/console/failures"},
		{"failure", "/console/failure?group=notes&key=K13"}, {"jobs", "/console/jobs"}, {"catalog", "/console/catalog"}, {"schema", "/console/catalog/test.note.made"}, {"patients", "/console/patients?name=quixote7"},
		{"patient", "/console/patients/P7?version=1"}, {"projections", "/console/projections"}, {"sagas", "/console/sagas"}, {"audit", "/console/audit"}, {"find", "/console/find.json?q=" + one[0].ID},
	} {
		b.Run(page.name, func(b *testing.B) { measure(b, s, page.path) })
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.Logf("%d MiB of heap in use at the end, %d MiB resident at most", m.HeapAlloc>>20, usage().rss>>20)
}

// fill appends n notes and 50 patients, or finds that this was done before.
func fill(b *testing.B, s *site, n int) {
	b.Helper()
	ctx := context.Background()
	const patients, flow, chunk = 50, 10, 2000
	last, err := s.p.Store().StreamVersion(ctx, fmt.Sprint("patient.record/P", patients-1))
	if err != nil {
		b.Fatal(err)
	}
	if last > 0 {
		for i, want := range []int{flow, 0} { // the last flow is there, and none behind it
			found, err := s.p.Store().Correlation(ctx, fmt.Sprint("flow-", n/flow-1+i), time.Time{}, flow)
			if err != nil || len(found) != want {
				b.Fatalf("the store has not %d events (%v): delete it, or ask for as many as it has", n, err)
			}
		}
		long(b, s)
		return
	}
	noteSchema(b, s.p)
	began := time.Now()
	cause := ""
	for at := 0; at < n; at += chunk {
		events := make([]event.Event, 0, chunk)
		for i := at; i < min(at+chunk, n); i++ {
			if i%flow == 0 {
				cause = ""
			}
			e := noted(event.NewID(), fmt.Sprint("K", i%5000), fmt.Sprint("flow-", i/flow), cause, fmt.Sprint("the text of note ", i))
			e.Source = fmt.Sprint("service-", i%7)
			events, cause = append(events, e), e.ID
		}
		if _, err := s.p.Store().Append(ctx, "", eventstore.AnyVersion, events...); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.p.Bus().Idle(ctx); err != nil {
		b.Fatal(err)
	}
	for i := range patients {
		id := fmt.Sprint("P", i)
		if _, err := s.p.Append(ctx, "patient.record/"+id, eventstore.NoStream, patientCreated(id, "Zebedee", fmt.Sprint("Quixote", i))); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.p.Bus().Idle(ctx); err != nil {
		b.Fatal(err)
	}
	long(b, s)
	b.Logf("%d events in %s", n, time.Since(began).Round(time.Millisecond))
}

// long appends a flow as an import makes them: of as many events as the API shows of one flow, each the cause of the next ten.
func long(b *testing.B, s *site) {
	b.Helper()
	ctx := context.Background()
	if found, err := s.p.Store().Correlation(ctx, "flow-long", time.Time{}, 1); err != nil || len(found) > 0 {
		return
	}
	events := make([]event.Event, 20_000)
	for i := range events {
		cause := ""
		if i > 0 {
			cause = events[(i-1)/10].ID
		}
		events[i] = noted(event.NewID(), fmt.Sprint("L", i%10), "flow-long", cause, "imported")
	}
	for part := range slices.Chunk(events, 2000) {
		if _, err := s.p.Store().Append(ctx, "", eventstore.AnyVersion, part...); err != nil {
			b.Fatal(err)
		}
	}
	if err := s.p.Bus().Idle(ctx); err != nil {
		b.Fatal(err)
	}
}

// measure asks for a page, in the process.
func measure(b *testing.B, s *site, path string) {
	held := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	var heap uint64
	look := func() time.Duration {
		r := httptest.NewRequest("GET", "http://localhost"+path, nil)
		w := httptest.NewRecorder()
		begin := time.Now()
		s.handler.ServeHTTP(w, r)
		took := time.Since(begin)
		if w.Code != 200 {
			b.Fatalf("%s: %d", path, w.Code)
		}
		metrics.Read(held)
		heap = max(heap, held[0].Value.Uint64())
		return took
	}
	first := look() // it fills what is kept: the map, the chart
	var all []time.Duration
	b.ReportAllocs()
	before := usage()
	for b.Loop() {
		all = append(all, look())
	}
	after := usage()
	slices.Sort(all)
	b.ReportMetric(milliseconds(first), "first-ms")
	b.ReportMetric(milliseconds(all[len(all)*95/100]), "p95-ms")
	b.ReportMetric(milliseconds(after.cpu-before.cpu)/float64(len(all)), "cpu-ms")
	b.ReportMetric(float64(heap>>20), "heap-MiB")
	b.ReportMetric(float64(after.rss>>20), "rss-MiB")
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// used is what the process has taken so far: processor time, of user and system, and the most memory that it has held, in bytes.
type used struct {
	cpu time.Duration
	rss int64
}
