package bus_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

type visit struct {
	Ward string `json:"ward"`
}

var (
	admittedV1   = event.Define[visit]("hospital.patient.admitted", "1.0.0")
	dischargedV1 = event.Define[visit]("hospital.patient.discharged", "1.0.0")
)

// A group that keeps a count per ward: the row and the checkpoint commit together, so each event counts once.
func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, _ := os.MkdirTemp("", "carebus-example-")
	defer os.RemoveAll(dir)
	engine, err := sqlite.Open(ctx, filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	store := eventstore.New(engine, nil)
	defer store.Close()
	if err := store.Migrate(ctx, "census", `CREATE TABLE census (ward TEXT PRIMARY KEY, patients BIGINT NOT NULL)`); err != nil {
		panic(err)
	}

	b, err := bus.New(ctx, store, nil)
	if err != nil {
		panic(err)
	}
	count := func(by int) func(context.Context, bus.Tx, event.Of[visit]) error {
		return func(ctx context.Context, tx bus.Tx, e event.Of[visit]) error {
			_, err := tx.Exec(`INSERT INTO census (ward, patients) VALUES ($1, $2)
				ON CONFLICT (ward) DO UPDATE SET patients = census.patients + excluded.patients`, e.Payload.Ward, by)
			return err
		}
	}
	if err := b.Handle("census", bus.On(admittedV1, count(+1)), bus.On(dischargedV1, count(-1))); err != nil {
		panic(err)
	}
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()

	for _, e := range []event.Event{
		admittedV1.New("ward-desk", visit{"east"}), admittedV1.New("ward-desk", visit{"east"}),
		admittedV1.New("ward-desk", visit{"west"}), dischargedV1.New("ward-desk", visit{"east"}),
	} {
		if _, err := store.Append(ctx, "", eventstore.AnyVersion, e); err != nil {
			panic(err)
		}
	}
	if err := b.Idle(ctx); err != nil {
		panic(err)
	}
	err = store.View(ctx, func(q eventstore.Querier) error {
		var east, west int
		err := q.QueryRowContext(ctx, `SELECT (SELECT patients FROM census WHERE ward = 'east'), (SELECT patients FROM census WHERE ward = 'west')`).Scan(&east, &west)
		fmt.Println("east", east, "west", west)
		return err
	})
	cancel()
	fmt.Println(err, <-done)
	// Output:
	// east 1 west 1
	// <nil> <nil>
}
