package projection_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
	"github.com/carebus/carebus/projection"
)

type request struct {
	ID        string `json:"priorAuthId"`
	PatientID string `json:"patientId"`
}

var (
	submittedV1 = event.Define[request]("priorauth.request.submitted", "1.0.0")
	approvedV1  = event.Define[request]("priorauth.status.approved", "1.0.0")
)

var summary = projection.Define("prior-auth-summary", 1,
	projection.Tables(
		`CREATE TABLE {prior_auth_summary} (id TEXT PRIMARY KEY, patient TEXT NOT NULL, status TEXT NOT NULL)`,
		`CREATE INDEX {prior_auth_summary_patient} ON {prior_auth_summary} (patient)`),
	projection.On(submittedV1, func(_ context.Context, tx projection.Tx, e event.Of[request]) error {
		_, err := tx.Exec(`INSERT INTO {prior_auth_summary} (id, patient, status) VALUES ($1, $2, 'submitted')`, e.Payload.ID, e.Payload.PatientID)
		return err
	}),
	projection.On(approvedV1, func(_ context.Context, tx projection.Tx, e event.Of[request]) error {
		_, err := tx.Exec(`UPDATE {prior_auth_summary} SET status = 'approved' WHERE id = $1`, e.Payload.ID)
		return err
	}))

// A read model of prior authorizations: published, waited for, read, and rebuilt beside itself.
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
	b, err := bus.New(ctx, store, nil)
	if err != nil {
		panic(err)
	}
	p := &platform{b, store} // a program has a *carebus.Platform here
	if err := projection.Register(ctx, p, summary); err != nil {
		panic(err)
	}
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()

	pa := request{ID: "PA-1", PatientID: "P-1"}
	submitted, approved := submittedV1.New("portal", pa), approvedV1.New("payer", pa)
	submitted.PartitionKey, approved.PartitionKey = pa.ID, pa.ID
	receipts, err := store.Append(ctx, "", eventstore.AnyVersion, submitted, approved)
	if err != nil {
		panic(err)
	}
	if err := projection.Wait(ctx, p, summary, receipts...); err != nil {
		panic(err)
	}
	show := func() {
		_ = store.View(ctx, func(q eventstore.Querier) error {
			var id, status string
			err := q.QueryRowContext(ctx, `SELECT id, status FROM prior_auth_summary WHERE patient = $1`, "P-1").Scan(&id, &status)
			fmt.Println(id, status, err)
			return err
		})
	}
	show()
	err = projection.Rebuild(ctx, p, summary, bus.Act{Actor: "ana", Reason: "a disk was restored"}, nil)
	fmt.Println("rebuilt:", err)
	show()
	cancel()
	fmt.Println(<-done)
	// Output:
	// PA-1 approved <nil>
	// rebuilt: <nil>
	// PA-1 approved <nil>
	// <nil>
}
