package migrate_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/migrate"
	"github.com/carebus/carebus/eventstore/sqlite"
	"github.com/carebus/carebus/eventstore/storetest"
)

// TestMillion moves a store of CAREBUS_TEST_MIGRATE events, and says how long each stage takes.
func TestMillion(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("CAREBUS_TEST_MIGRATE"))
	if err != nil {
		t.Skip("CAREBUS_TEST_MIGRATE is not set to a number of events, such as 1000000")
	}
	address := storetest.Postgres(t)
	path := filepath.Join(t.TempDir(), "million.db")
	d, err := sqlite.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, nil)
	const batch = 1000
	for done := 0; done < n; done += batch {
		events := make([]event.Event, batch)
		for i := range events {
			key := fmt.Sprint("P", (done+i)%50_000)
			events[i] = event.Event{
				Metadata: event.Metadata{ID: event.NewID(), Type: fmt.Sprint("clinic.patient.visited", (done+i)%20), Version: "1.0.0", Source: "clinic", CorrelationID: event.NewID(), Timestamp: int64(done + i), PartitionKey: key},
				Payload:  json.RawMessage(`{"patientId":"` + key + `","note":"` + strings.Repeat("x", 500) + `"}`),
			}
		}
		if _, err := s.Append(context.Background(), fmt.Sprint("clinic.day/", done/batch), eventstore.NoStream, events...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	begin, at, stage := time.Now(), time.Now(), ""
	report, err := migrate.Run(t.Context(), "sqlite:"+path, address, progress(func(name string, done, total int64) {
		if name != stage {
			t.Logf("%-14s begins after %v", name, time.Since(begin).Round(time.Millisecond))
			stage, at = name, time.Now()
		}
		if done == total {
			t.Logf("%-14s %d in %v, %.0f/s", name, done, time.Since(at).Round(time.Millisecond), float64(done)/time.Since(at).Seconds())
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if report.Events != int64(n) {
		t.Errorf("%d events moved, want %d", report.Events, n)
	}
	t.Logf("%d events in %v", report.Events, time.Since(begin).Round(time.Millisecond))
	for _, p := range report.Partitions {
		t.Logf("%8d events  %s", p.Events, p.Hash)
	}
}
