package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/postgres"
)

// A store on a server, in a schema of its own. It needs a server: scripts/postgres starts one.
func ExampleOpen() {
	ctx := context.Background()
	engine, err := postgres.Open(ctx, os.Getenv("CAREBUS_TEST_POSTGRES")+"&search_path=care", &postgres.Options{Partitions: 4})
	if err != nil {
		panic(err)
	}
	store := eventstore.New(engine, nil)
	defer store.Close()
	receipts, err := store.Append(ctx, "", eventstore.AnyVersion, event.Event{
		Metadata: event.Metadata{Type: "hospital.patient.admitted", Version: "1.0.0", Source: "ward-desk", PartitionKey: "P1"},
		Payload:  json.RawMessage(`{"ward":"east"}`),
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(receipts[0].Partition, receipts[0].Offset)
}

func ExampleRedact() {
	fmt.Println(postgres.Redact("postgres://care:secret@db.example:5432/care?sslmode=verify-full"))
	// Output: postgres://care@db.example:5432/care?sslmode=verify-full
}
