package migrate_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/migrate"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// A store gets twice as many partitions: a new store is made beside the old one.
func ExampleRun() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	d, err := sqlite.Open(ctx, filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	s := eventstore.New(d, nil)
	for i := range 100 {
		e := event.Event{Metadata: event.Metadata{Type: "patient.record.created", Version: "1.0.0", Source: "example", PartitionKey: fmt.Sprint("P", i%10)}, Payload: []byte(`{}`)}
		if _, err := s.Append(ctx, fmt.Sprint("patient.record/P", i%10), eventstore.AnyVersion, e); err != nil {
			panic(err)
		}
	}
	if err := s.Close(); err != nil {
		panic(err)
	}
	report, err := migrate.Run(ctx, "sqlite:"+filepath.Join(dir, "care.db"), "sqlite:"+filepath.Join(dir, "wide.db"), &migrate.Options{Partitions: 24})
	if err != nil {
		panic(err)
	}
	fmt.Println(report.Events, "events of", report.Keys, "keys in", len(report.Partitions), "partitions")
	// Output: 100 events of 10 keys in 24 partitions
}
