package carebus_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/event"
)

// A service reacts to a fact with another fact. What it appends and the checkpoint that says it ran commit together.
func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()

	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	err = p.Handle("notify-patient", bus.On(medication.PrescriptionCreatedV1,
		func(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCreated]) error {
			return tx.Append(patient.NotificationSentV1.New("patient-service", patient.NotificationSent{
				PatientID: e.Payload.PatientID, NotificationID: "for-" + e.ID, Topic: "prescription-created",
			}))
		}))
	if err != nil {
		log.Fatal(err)
	}
	err = p.Handle("show", bus.On(patient.NotificationSentV1,
		func(ctx context.Context, tx bus.Tx, e event.Of[patient.NotificationSent]) error {
			fmt.Println("patient", e.Payload.PatientID, "was told")
			stop()
			return nil
		}))
	if err != nil {
		log.Fatal(err)
	}
	if _, err := p.Publish(ctx, medication.PrescriptionCreatedV1.New("prescribing-service", medication.PrescriptionCreated{
		PrescriptionID: "RX1", PatientID: "P1", Medication: medication.Medication{Name: "Lisinopril 10mg Tablet"},
	})); err != nil {
		log.Fatal(err)
	}
	if err := p.Run(ctx); err != nil {
		log.Fatal(err)
	}
	// Output: patient P1 was told
}
