package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

func openExample() (s *eventstore.Store, done func()) {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	engine, err := sqlite.Open(context.Background(), filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	s = eventstore.New(engine, nil)
	return s, func() { _ = s.Close(); _ = os.RemoveAll(dir) }
}

func example(eventType, payload string) event.Event {
	return event.Event{
		Metadata: event.Metadata{Type: eventType, Version: "1.0.0", Source: "ward-desk", PartitionKey: "P1"},
		Payload:  json.RawMessage(payload),
	}
}

// The history of one patient: each append says which version its author has seen.
func Example() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	const stream = "patient.record/P1"

	admitted := example("hospital.patient.admitted", `{"ward":"east"}`)
	if _, err := store.Append(ctx, stream, eventstore.NoStream, admitted); err != nil {
		panic(err)
	}
	if _, err := store.Append(ctx, stream, 1, example("hospital.patient.moved", `{"ward":"west"}`)); err != nil {
		panic(err)
	}

	// Somebody else has seen version 1 only.
	_, err := store.Append(ctx, stream, 1, example("hospital.patient.discharged", `{}`))
	var conflict *eventstore.ConflictError
	if errors.As(err, &conflict) {
		fmt.Println("conflict: the stream is at version", conflict.Actual)
	}

	records, err := store.Stream(ctx, eventstore.StreamQuery{Stream: stream, From: 1, Limit: 100})
	if err != nil {
		panic(err)
	}
	for _, r := range records {
		fmt.Println(r.StreamVersion, r.Type, string(r.Payload))
	}
	// Output:
	// conflict: the stream is at version 2
	// 1 hospital.patient.admitted {"ward":"east"}
	// 2 hospital.patient.moved {"ward":"west"}
}

// An event and the table that follows from it, in one transaction: both are there or neither is.
func ExampleStore_Update() {
	store, done := openExample()
	defer done()
	ctx := context.Background()
	if err := store.Migrate(ctx, "beds", `CREATE TABLE beds (ward TEXT PRIMARY KEY, taken BIGINT NOT NULL)`); err != nil {
		panic(err)
	}

	admit := func(limit int) error {
		return store.Update(ctx, func(tx *eventstore.Tx) error {
			if _, err := tx.Append(ctx, "", eventstore.AnyVersion, example("hospital.patient.admitted", `{"ward":"east"}`)); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO beds (ward, taken) VALUES ($1, 1) ON CONFLICT (ward) DO UPDATE SET taken = beds.taken + 1`, "east"); err != nil {
				return err
			}
			var taken int
			if err := tx.QueryRowContext(ctx, `SELECT taken FROM beds WHERE ward = $1`, "east").Scan(&taken); err != nil {
				return err
			}
			if taken > limit {
				return errors.New("the ward is full")
			}
			return nil
		})
	}
	for range 3 {
		fmt.Println(admit(2))
	}
	types, err := store.Types(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println(types)
	// Output:
	// <nil>
	// <nil>
	// the ward is full
	// map[hospital.patient.admitted:2]
}
