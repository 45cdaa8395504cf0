package pharmacy

import (
	"context"
	"time"

	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// Stage is what a pharmacy has to do about a prescription.
type Stage string

// The stages of the queue.
const (
	StageReady  Stage = "ready"            // it may be filled
	StageFill   Stage = "filling"          // it is being filled
	StagePickup Stage = "ready-for-pickup" // it waits for the patient
	StageHold   Stage = "cannot-be-filled" // a fulfilment has failed; the reason says why
)

// Queue is the read model of a pharmacy's work: prescriptions that may be filled and were not handed over yet.
var Queue = projection.Define("pharmacy-queue", 2,
	projection.Tables(
		`CREATE TABLE {pharmacy_queue} (prescription_id TEXT PRIMARY KEY, pharmacy_id TEXT NOT NULL, patient_id TEXT NOT NULL, medication TEXT NOT NULL, stage TEXT NOT NULL, reason TEXT NOT NULL, since BIGINT NOT NULL, pickup_by BIGINT NOT NULL)`,
		`CREATE INDEX {pharmacy_queue_work} ON {pharmacy_queue} (pharmacy_id, stage, since)`),
	projection.On(medication.PrescriptionReadyV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionReady]) error {
		r, name, pharmacy := e.Payload, "", ""
		if r.Medication != nil {
			name = r.Medication.Name
		}
		if r.Pharmacy != nil {
			pharmacy = text(r.Pharmacy.ID)
		}
		_, err := tx.Exec(`INSERT INTO {pharmacy_queue} (prescription_id, pharmacy_id, patient_id, medication, stage, reason, since, pickup_by) VALUES ($1, $2, $3, $4, $5, '', $6, 0)
			ON CONFLICT (prescription_id) DO UPDATE SET stage = excluded.stage, reason = '', since = excluded.since WHERE {pharmacy_queue}.stage = $7`,
			r.PrescriptionID, pharmacy, r.PatientID, name, string(StageReady), e.Timestamp, string(StageHold))
		return err
	}),
	projection.On(medication.FulfillmentStartedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.FulfillmentStarted]) error {
		_, err := tx.Exec(`UPDATE {pharmacy_queue} SET stage = $1, reason = '', since = $2, pharmacy_id = CASE WHEN $3 = '' THEN pharmacy_id ELSE $4 END WHERE prescription_id = $5`,
			string(StageFill), e.Timestamp, text(e.Payload.PharmacyID), text(e.Payload.PharmacyID), e.Payload.PrescriptionID)
		return err
	}),
	projection.On(medication.PrescriptionReadyForPickupV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionReadyForPickup]) error {
		by := int64(0)
		if !e.Payload.PickupBy.IsZero() {
			by = e.Payload.PickupBy.UnixMilli()
		}
		_, err := tx.Exec(`UPDATE {pharmacy_queue} SET stage = $1, since = $2, pickup_by = $3 WHERE prescription_id = $4`, string(StagePickup), e.Timestamp, by, e.Payload.PrescriptionID)
		return err
	}),
	projection.On(medication.PrescriptionReturnedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionReturned]) error {
		_, err := tx.Exec(`UPDATE {pharmacy_queue} SET stage = $1, reason = $2, since = $3, pickup_by = 0 WHERE prescription_id = $4`, string(StageHold), string(e.Payload.Reason), e.Timestamp, e.Payload.PrescriptionID)
		return err
	}),
	projection.On(medication.FulfillmentFailedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.FulfillmentFailed]) error {
		_, err := tx.Exec(`UPDATE {pharmacy_queue} SET stage = $1, reason = $2, since = $3, pickup_by = 0 WHERE prescription_id = $4`, string(StageHold), e.Payload.Reason, e.Timestamp, e.Payload.PrescriptionID)
		return err
	}),
	projection.On(medication.PrescriptionPickedUpV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionPickedUp]) error {
		return leaves(tx, e.Payload.PrescriptionID)
	}),
	projection.On(medication.PrescriptionCancelledV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionCancelled]) error {
		return leaves(tx, e.Payload.PrescriptionID)
	}))

func leaves(tx projection.Tx, prescriptionID string) error {
	_, err := tx.Exec(`DELETE FROM {pharmacy_queue} WHERE prescription_id = $1`, prescriptionID)
	return err
}

// Work is a line of the queue.
type Work struct {
	PrescriptionID string    `json:"prescriptionId"`
	PatientID      string    `json:"patientId"`
	MedicationName string    `json:"medicationName"`
	Stage          Stage     `json:"stage"`
	Reason         string    `json:"reason,omitempty"`
	Since          time.Time `json:"since"`
	PickupBy       time.Time `json:"pickupBy,omitzero"`
}

// WorkOf lists what a pharmacy has in a stage, in all of them for an empty one: what has waited longest first, limit lines
// at most.
func WorkOf(ctx context.Context, s *eventstore.Store, pharmacyID string, stage Stage, limit int) ([]Work, error) {
	out := []Work{}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT prescription_id, patient_id, medication, stage, reason, since, pickup_by FROM pharmacy_queue
			WHERE pharmacy_id = $1 AND ($2 = '' OR stage = $3) ORDER BY since, prescription_id LIMIT $4`, pharmacyID, string(stage), string(stage), limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var w Work
			var at string
			var since, by int64
			if err := rows.Scan(&w.PrescriptionID, &w.PatientID, &w.MedicationName, &at, &w.Reason, &since, &by); err != nil {
				return err
			}
			if w.Stage, w.Since = Stage(at), time.UnixMilli(since).UTC(); by > 0 {
				w.PickupBy = time.UnixMilli(by).UTC()
			}
			out = append(out, w)
		}
		return rows.Err()
	})
	return out, err
}
