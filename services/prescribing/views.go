package prescribing

import (
	"context"
	"encoding/json"
	"time"

	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// View is the read model of a patient's prescriptions and where each stands, whoever has written them.
//
// Prior authorizations have keys of their own, so that their events come in any order beside those of the prescription.
// They have a table of their own, and the two meet when somebody asks.
var View = projection.Define("prescriptions-by-patient", 2,
	projection.Tables(
		`CREATE TABLE {prescriptions_by_patient} (prescription_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, medication TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,
			prior_auth_id TEXT NOT NULL, authored_at BIGINT NOT NULL, last_updated BIGINT NOT NULL)`,
		`CREATE INDEX {prescriptions_by_patient_patient} ON {prescriptions_by_patient} (patient_id, authored_at)`,
		`CREATE TABLE {prescriptions_authorizations} (prior_auth_id TEXT PRIMARY KEY, prescription_id TEXT NOT NULL, status TEXT NOT NULL, last_updated BIGINT NOT NULL)`,
		`CREATE INDEX {prescriptions_authorizations_of} ON {prescriptions_authorizations} (prescription_id)`),
	projection.On(medication.PrescriptionCreatedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionCreated]) error {
		rx, authored, status := e.Payload, e.Payload.AuthoredOn, e.Payload.Status
		if authored.IsZero() {
			authored = e.Time()
		}
		if status == "" {
			status = medication.PrescriptionStatusActive
		}
		_, err := tx.Exec(`INSERT INTO {prescriptions_by_patient} (prescription_id, patient_id, medication, status, reason, prior_auth_id, authored_at, last_updated) VALUES ($1, $2, $3, $4, '', '', $5, $6)
			ON CONFLICT (prescription_id) DO UPDATE SET patient_id = excluded.patient_id, medication = excluded.medication, authored_at = excluded.authored_at`,
			rx.PrescriptionID, rx.PatientID, rx.Medication.Name, string(status), authored.UnixMilli(), e.Timestamp)
		return err
	}),
	projection.On(medication.PrescriptionStatusChangedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionStatusChanged]) error {
		c := e.Payload
		if err := echoes(tx, e.Metadata, c.PrescriptionID, c.PatientID, c.Status, text(c.Reason)); err != nil || c.PriorAuthID == nil {
			return err
		}
		_, err := tx.Exec(`UPDATE {prescriptions_by_patient} SET prior_auth_id = $1 WHERE prescription_id = $2`, *c.PriorAuthID, c.PrescriptionID)
		return err
	}),
	projection.On(medication.PrescriptionReadyV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionReady]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusReady, "")
	}),
	projection.On(medication.PrescriptionVerifiedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionVerified]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusInFulfillment, "")
	}),
	projection.On(medication.PrescriptionFilledV2, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionFilled]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusFilled, "")
	}),
	projection.On(medication.PrescriptionReturnedV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionReturned]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusOnHold, string(e.Payload.Reason))
	}),
	projection.On(medication.PrescriptionReadyForPickupV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionReadyForPickup]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusReadyForPickup, "")
	}),
	projection.On(medication.PrescriptionPickedUpV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionPickedUp]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusPickedUp, "")
	}),
	projection.On(medication.PrescriptionCancelledV1, func(_ context.Context, tx projection.Tx, e event.Of[medication.PrescriptionCancelled]) error {
		return stands(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusCancelled, e.Payload.Reason)
	}),
	projection.OnRecord("priorauth.*.*", authorized))

// stands says where a prescription stands, by a fact about it. One that was cancelled stays so.
func stands(tx projection.Tx, m event.Metadata, prescriptionID, patientID string, s medication.PrescriptionStatus, reason string) error {
	return put(tx, m, prescriptionID, patientID, s, reason, `{prescriptions_by_patient}.status <> 'cancelled'`)
}

// echoes says where a prescription stands, by the word of a service that has reacted to a fact. The fact itself, and what
// came after it, may be in the log before: being late, the word does not take the prescription back.
func echoes(tx projection.Tx, m event.Metadata, prescriptionID, patientID string, s medication.PrescriptionStatus, reason string) error {
	return put(tx, m, prescriptionID, patientID, s, reason, `{prescriptions_by_patient}.status NOT IN ('picked-up', 'cancelled')
		AND NOT ({prescriptions_by_patient}.status = 'ready-for-pickup' AND excluded.status IN ('in-fulfillment', 'filled'))
		AND NOT ({prescriptions_by_patient}.status = 'filled' AND excluded.status = 'in-fulfillment')`)
}

func put(tx projection.Tx, m event.Metadata, prescriptionID, patientID string, s medication.PrescriptionStatus, reason, unless string) error {
	_, err := tx.Exec(`INSERT INTO {prescriptions_by_patient} (prescription_id, patient_id, medication, status, reason, prior_auth_id, authored_at, last_updated) VALUES ($1, $2, '', $3, $4, '', 0, $5)
		ON CONFLICT (prescription_id) DO UPDATE SET status = excluded.status, reason = excluded.reason, last_updated = excluded.last_updated WHERE `+unless,
		prescriptionID, patientID, string(s), reason, m.Timestamp)
	return err
}

// authorizations are the events that say where a prior authorization stands.
var authorizations = map[string]priorauth.PriorAuthStatus{
	priorauth.RequestCreatedV1.Type():   priorauth.PriorAuthStatusDraft,
	priorauth.RequestSubmittedV1.Type(): priorauth.PriorAuthStatusSubmitted,
	priorauth.RequestCancelledV1.Type(): priorauth.PriorAuthStatusCancelled,
	priorauth.StatusPendingV1.Type():    priorauth.PriorAuthStatusPended,
	priorauth.StatusApprovedV1.Type():   priorauth.PriorAuthStatusApproved,
	//nolint:staticcheck // deprecated, and still understood
	priorauth.RequestApprovedV1.Type():          priorauth.PriorAuthStatusApproved,
	priorauth.StatusDeniedV1.Type():             priorauth.PriorAuthStatusDenied,
	priorauth.AppealSubmittedV1.Type():          priorauth.PriorAuthStatusAppealed,
	priorauth.DeterminationNotRequiredV1.Type(): priorauth.PriorAuthStatusNotRequired,
}

// authorized keeps where a prior authorization stands.
func authorized(_ context.Context, tx projection.Tx, r eventstore.Record) error {
	var of struct {
		PriorAuthID    string                    `json:"priorAuthId"`
		PrescriptionID string                    `json:"prescriptionId"`
		Status         priorauth.PriorAuthStatus `json:"status"`
	}
	if json.Unmarshal(r.Payload, &of) != nil || of.PriorAuthID == "" {
		return nil // about no authorization, or of a shape that this program does not know
	}
	if r.Type == priorauth.RequestUpdatedV1.Type() { // the answer to the payer's question
		_, err := tx.Exec(`UPDATE {prescriptions_authorizations} SET status = $1, last_updated = $2 WHERE prior_auth_id = $3 AND status = $4`,
			string(priorauth.PriorAuthStatusSubmitted), r.Timestamp, of.PriorAuthID, string(priorauth.PriorAuthStatusPended))
		return err
	}
	status, says := authorizations[r.Type]
	if r.Type == priorauth.StatusUpdatedV1.Type() {
		status, says = of.Status, true
	}
	if !says {
		return nil
	}
	_, err := tx.Exec(`INSERT INTO {prescriptions_authorizations} (prior_auth_id, prescription_id, status, last_updated) VALUES ($1, $2, $3, $4)
		ON CONFLICT (prior_auth_id) DO UPDATE SET status = excluded.status, last_updated = excluded.last_updated,
			prescription_id = CASE WHEN excluded.prescription_id = '' THEN {prescriptions_authorizations}.prescription_id ELSE excluded.prescription_id END`,
		of.PriorAuthID, of.PrescriptionID, string(status), r.Timestamp)
	return err
}

// standing is where a prescription stands of which nothing was said but that it was written: where its authorization does.
func standing(s medication.PrescriptionStatus, authorization priorauth.PriorAuthStatus) medication.PrescriptionStatus {
	if s != medication.PrescriptionStatusActive {
		return s
	}
	switch authorization {
	case priorauth.PriorAuthStatusDraft, priorauth.PriorAuthStatusPending, priorauth.PriorAuthStatusSubmitted, priorauth.PriorAuthStatusPended, priorauth.PriorAuthStatusAppealed:
		return medication.PrescriptionStatusPendingAuthorization
	case priorauth.PriorAuthStatusApproved, priorauth.PriorAuthStatusPartiallyApproved, priorauth.PriorAuthStatusNotRequired:
		return medication.PrescriptionStatusAuthorized
	case priorauth.PriorAuthStatusDenied:
		return medication.PrescriptionStatusDenied
	}
	return s
}

// Line is a prescription in the list of a patient.
type Line struct {
	PrescriptionID string                        `json:"prescriptionId"`
	PatientID      string                        `json:"patientId"`
	MedicationName string                        `json:"medicationName"`
	Status         medication.PrescriptionStatus `json:"status"`
	StatusReason   string                        `json:"statusReason,omitempty"`
	PriorAuthID    string                        `json:"priorAuthId,omitempty"`
	Authorization  priorauth.PriorAuthStatus     `json:"authorization,omitempty"` // where the prior authorization stands, if there is one
	AuthoredOn     time.Time                     `json:"authoredOn,omitzero"`
	LastUpdated    int64                         `json:"lastUpdated"` // timestamp of the last event, epoch milliseconds
}

// PrescriptionsOf lists a patient's prescriptions, the newest first.
func PrescriptionsOf(ctx context.Context, s *eventstore.Store, patientID string) ([]Line, error) {
	out := []Line{}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT v.prescription_id, v.patient_id, v.medication, v.status, v.reason, CASE WHEN v.prior_auth_id = '' THEN COALESCE(a.prior_auth_id, '') ELSE v.prior_auth_id END,
				COALESCE(a.status, ''), v.authored_at, v.last_updated
			FROM prescriptions_by_patient v LEFT JOIN prescriptions_authorizations a ON a.prior_auth_id = (
				SELECT x.prior_auth_id FROM prescriptions_authorizations x WHERE x.prescription_id = v.prescription_id ORDER BY x.last_updated DESC, x.prior_auth_id DESC LIMIT 1)
			WHERE v.patient_id = $1 ORDER BY v.authored_at DESC, v.prescription_id`, patientID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v Line
			var status, authorization string
			var authored int64
			if err := rows.Scan(&v.PrescriptionID, &v.PatientID, &v.MedicationName, &status, &v.StatusReason, &v.PriorAuthID, &authorization, &authored, &v.LastUpdated); err != nil {
				return err
			}
			v.Authorization = priorauth.PriorAuthStatus(authorization)
			if v.Status = standing(medication.PrescriptionStatus(status), v.Authorization); authored > 0 {
				v.AuthoredOn = time.UnixMilli(authored).UTC()
			}
			out = append(out, v)
		}
		return rows.Err()
	})
	return out, err
}
