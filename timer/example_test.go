package timer_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
	"github.com/carebus/carebus/timer"
)

// execer is a store's transaction as a timer.Tx; in a handler of the bus the bus.Tx is one.
type execer struct {
	ctx context.Context
	tx  *eventstore.Tx
}

func (x execer) Exec(query string, args ...any) (sql.Result, error) {
	return x.tx.ExecContext(x.ctx, query, args...)
}

type callDue struct {
	PatientID string `json:"patientId"`
}

// A call to a patient is due ten milliseconds after discharge (in real life, two days).
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	dir, _ := os.MkdirTemp("", "carebus-example-")
	defer os.RemoveAll(dir)
	engine, err := sqlite.Open(ctx, filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	store := eventstore.New(engine, nil)
	defer store.Close()

	timers, err := timer.Open(ctx, store, &timer.Options{Every: time.Millisecond})
	if err != nil {
		panic(err)
	}
	callDueV1 := event.Define[callDue]("care.follow-up.due", "1.0.0")
	if err := timers.Set(ctx, "follow-up/P1", time.Now().Add(10*time.Millisecond), callDueV1.New("care-service", callDue{"P1"})); err != nil {
		panic(err)
	}
	done := make(chan error)
	go func() { done <- timers.Run(ctx) }()

	for {
		tick := store.Tick()
		if types, err := store.Types(ctx); err != nil || types["care.follow-up.due"] == 1 {
			fmt.Println("fired", err)
			break
		}
		if _, err := store.Wait(ctx, tick); err != nil {
			panic(err)
		}
	}
	stop()
	fmt.Println(<-done)
	// Output:
	// fired <nil>
	// <nil>
}
