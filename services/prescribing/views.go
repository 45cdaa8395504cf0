package prescribing

import (
	"context"
	"time"

	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// View is the read model of a patient's prescriptions and where each stands, whoever has written them.
var View = projection.Define("prescriptions-by-patient", 1,
	projection.Tables(
		`CREATE TABLE {prescriptions_by_patient} (prescription_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, medication TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,
			prior_auth_id TEXT NOT NULL, authored_at BIGINT NOT NULL, last_updated BIGINT NOT NULL)`,
		`CREATE INDEX {prescriptions_by_patient_patient} ON {prescriptions_by_patient} (patient_id, authored_at)`),
	projection.On(medication.PrescriptionCreatedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionCreated]) error {
		rx, authored := e.Payload, e.Payload.AuthoredOn
		if authored.IsZero() {
			authored = e.Time()
		}
		_, err := tx.Exec(`INSERT INTO {prescriptions_by_patient} (prescription_id, patient_id, medication, status, reason, prior_auth_id, authored_at, last_updated) VALUES ($1, $2, $3, $4, '', '', $5, $6)
			ON CONFLICT (prescription_id) DO UPDATE SET patient_id = excluded.patient_id, medication = excluded.medication, authored_at = excluded.authored_at`,
			rx.PrescriptionID, rx.PatientID, rx.Medication.Name, string(medication.PrescriptionStatusActive), authored.UnixMilli(), e.Timestamp)
		return err
	}),
	projection.On(medication.PrescriptionStatusChangedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionStatusChanged]) error {
		c := e.Payload
		if err := stands(tx, e.Metadata, c.PrescriptionID, c.PatientID, c.Status, text(c.Reason)); err != nil || c.PriorAuthID == nil {
			return err
		}
		_, err := tx.Exec(`UPDATE {prescriptions_by_patient} SET prior_auth_id = $1 WHERE prescription_id = $2`, *c.PriorAuthID, c.PrescriptionID)
		return err
	}),
	projection.On(medication.PrescriptionReadyForPickupV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionReadyForPickup]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusReadyForPickup, "")
	}),
	projection.On(medication.PrescriptionPickedUpV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionPickedUp]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusPickedUp, "")
	}),
	projection.On(medication.PrescriptionCancelledV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionCancelled]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusCancelled, e.Payload.Reason)
	}))

// stands says where a prescription stands. What is over stays so: that it was filled may be said after it was picked up.
func stands(tx projection.Tx, m event.Metadata, prescriptionID, patientID string, s medication.PrescriptionStatus, reason string) error {
	_, err := tx.Exec(`INSERT INTO {prescriptions_by_patient} (prescription_id, patient_id, medication, status, reason, prior_auth_id, authored_at, last_updated) VALUES ($1, $2, '', $3, $4, '', 0, $5)
		ON CONFLICT (prescription_id) DO UPDATE SET status = excluded.status, reason = excluded.reason, last_updated = excluded.last_updated
		WHERE {prescriptions_by_patient}.status NOT IN ('picked-up', 'cancelled') AND NOT ({prescriptions_by_patient}.status = 'ready-for-pickup' AND excluded.status = 'filled')`,
		prescriptionID, patientID, string(s), reason, m.Timestamp)
	return err
}

// Line is a prescription in the list of a patient.
type Line struct {
	PrescriptionID string                        `json:"prescriptionId"`
	PatientID      string                        `json:"patientId"`
	MedicationName string                        `json:"medicationName"`
	Status         medication.PrescriptionStatus `json:"status"`
	StatusReason   string                        `json:"statusReason,omitempty"`
	PriorAuthID    string                        `json:"priorAuthId,omitempty"`
	AuthoredOn     time.Time                     `json:"authoredOn,omitzero"`
	LastUpdated    int64                         `json:"lastUpdated"` // timestamp of the last event, epoch milliseconds
}

// PrescriptionsOf lists a patient's prescriptions, the newest first.
func PrescriptionsOf(ctx context.Context, s *eventstore.Store, patientID string) ([]Line, error) {
	out := []Line{}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT prescription_id, patient_id, medication, status, reason, prior_auth_id, authored_at, last_updated FROM prescriptions_by_patient
			WHERE patient_id = $1 ORDER BY authored_at DESC, prescription_id`, patientID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v Line
			var status string
			var authored int64
			if err := rows.Scan(&v.PrescriptionID, &v.PatientID, &v.MedicationName, &status, &v.StatusReason, &v.PriorAuthID, &authored, &v.LastUpdated); err != nil {
				return err
			}
			if v.Status = medication.PrescriptionStatus(status); authored > 0 {
				v.AuthoredOn = time.UnixMilli(authored).UTC()
			}
			out = append(out, v)
		}
		return rows.Err()
	})
	return out, err
}
