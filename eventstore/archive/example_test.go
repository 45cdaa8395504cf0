package archive_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/archive"
	"github.com/carebus/carebus/eventstore/migrate"
	"github.com/carebus/carebus/eventstore/sqlite"
)

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	// A store of two years ago.
	then := time.Now().AddDate(-2, 0, 0)
	d, err := sqlite.Open(ctx, filepath.Join(dir, "care.db"), &sqlite.Options{Clock: func() time.Time { return then }})
	if err != nil {
		panic(err)
	}
	s := eventstore.New(d, nil)
	for i := range 3 {
		e := event.Event{Metadata: event.Metadata{Type: "patient.record.created", Version: "1.0.0", Source: "example", PartitionKey: fmt.Sprint("P", i)}, Payload: []byte(`{}`)}
		if _, err := s.Append(ctx, fmt.Sprint("patient.record/P", i), eventstore.NoStream, e); err != nil {
			panic(err)
		}
	}
	if err := s.Close(); err != nil {
		panic(err)
	}

	engine, err := migrate.OpenEngine(ctx, "sqlite:"+filepath.Join(dir, "care.db"))
	if err != nil {
		panic(err)
	}
	defer engine.Close()
	if _, err := archive.Write(ctx, engine, filepath.Join(dir, "archive"), time.Now().AddDate(-1, 0, 0), nil); err != nil {
		panic(err)
	}
	a, err := archive.Open(filepath.Join(dir, "archive"))
	if err != nil {
		panic(err)
	}
	for r, err := range a.All(ctx, archive.Query{}) {
		if err != nil {
			panic(err)
		}
		fmt.Println(r.Stream, r.StreamVersion)
	}
	report, err := a.Verify(ctx, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(report.Events, "events,", len(report.Faults), "faults; the store's own:", a.Join(ctx, engine) == nil)
	// Output:
	// patient.record/P0 1
	// patient.record/P1 1
	// patient.record/P2 1
	// 3 events, 0 faults; the store's own: true
}
