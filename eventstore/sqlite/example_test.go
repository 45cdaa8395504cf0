package sqlite_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// A store in one file, opened by its writer and, read-only, by somebody who only looks.
func ExampleOpen() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "care.db")

	engine, err := sqlite.Open(ctx, path, &sqlite.Options{Partitions: 4})
	if err != nil {
		panic(err)
	}
	writer := eventstore.New(engine, nil)
	defer writer.Close()
	receipts, err := writer.Append(ctx, "", eventstore.AnyVersion, event.Event{
		Metadata: event.Metadata{Type: "hospital.patient.admitted", Version: "1.0.0", Source: "ward-desk", PartitionKey: "P1"},
		Payload:  json.RawMessage(`{"ward":"east"}`),
	})
	if err != nil {
		panic(err)
	}

	engine, err = sqlite.Open(ctx, path, &sqlite.Options{ReadOnly: true})
	if err != nil {
		panic(err)
	}
	reader := eventstore.New(engine, nil)
	defer reader.Close()
	r, err := reader.Get(ctx, receipts[0].EventID)
	if err != nil {
		panic(err)
	}
	fmt.Println(r.Type, string(r.Payload), "in partition", r.Partition, "of", reader.Partitions(), "at offset", r.Offset)
	// Output: hospital.patient.admitted {"ward":"east"} in partition 3 of 4 at offset 0
}
