package portal

import (
	"context"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Source is the eventSource of the portal, and Group the name of its consumer group.
const (
	Source = "patient-portal"
	Group  = "patient-portal"
)

// Platform is where the portal runs. *carebus.Platform is one.
type Platform interface {
	Store() *eventstore.Store
	Handle(group string, opts ...bus.Option) error
}

const tables = `
CREATE TABLE portal_status (prescription_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL, since BIGINT NOT NULL);
CREATE INDEX portal_status_patient ON portal_status (patient_id);
CREATE TABLE portal_sent (notification_id TEXT PRIMARY KEY, sent_at BIGINT NOT NULL);`

// topics are the statuses that patients are told of.
var topics = map[medication.PrescriptionStatus]string{
	medication.PrescriptionStatusReady:                "prescription-authorized",
	medication.PrescriptionStatusDenied:               "prescription-denied",
	medication.PrescriptionStatusPendingAuthorization: "prescription-pending",
	medication.PrescriptionStatusReadyForPickup:       "prescription-ready-for-pickup",
}

// Join makes this process a member of the portal. It reacts to
//
//	medication.prescription.status-changed     the patient is told what it means
//	medication.prescription.ready-for-pickup   the patient is told to come
//
// options are further options of the consumer group.
func Join(ctx context.Context, p Platform, options ...bus.Option) error {
	if err := p.Store().Migrate(ctx, Source, tables); err != nil {
		return err
	}
	return p.Handle(Group, append([]bus.Option{
		bus.On(medication.PrescriptionStatusChangedV1, func(_ context.Context, tx bus.Tx, e event.Of[medication.PrescriptionStatusChanged]) error {
			c := e.Payload
			reason := ""
			if c.Reason != nil {
				reason = *c.Reason
			}
			return tell(tx, e.Metadata, c.PrescriptionID, c.PatientID, c.Status, reason, c.PriorAuthID)
		}),
		bus.On(medication.PrescriptionReadyForPickupV1, func(_ context.Context, tx bus.Tx, e event.Of[medication.PrescriptionReadyForPickup]) error {
			return tell(tx, e.Metadata, e.Payload.PrescriptionID, e.Payload.PatientID, medication.PrescriptionStatusReadyForPickup, "", nil)
		}),
	}, options...)...)
}

// tell keeps the status, unless a later one is known, and notifies the patient, once for each event.
func tell(tx bus.Tx, m event.Metadata, prescriptionID, patientID string, status medication.PrescriptionStatus, reason string, priorAuthID *string) error {
	if _, err := tx.Exec(`INSERT INTO portal_status (prescription_id, patient_id, status, reason, since) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (prescription_id) DO UPDATE SET status = excluded.status, reason = excluded.reason, since = excluded.since WHERE excluded.since >= portal_status.since`,
		prescriptionID, patientID, string(status), reason, m.Timestamp); err != nil {
		return err
	}
	topic, ok := topics[status]
	if !ok {
		return nil
	}
	res, err := tx.Exec(`INSERT INTO portal_sent (notification_id, sent_at) VALUES ($1, $2) ON CONFLICT (notification_id) DO NOTHING`, m.ID, tx.Now().UnixMilli())
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return tx.Append(patient.NotificationSentV1.New(Source, patient.NotificationSent{
		PatientID: patientID, NotificationID: m.ID, Topic: topic, Channel: patient.NotificationChannelPortal, PrescriptionID: &prescriptionID, PriorAuthID: priorAuthID, SentAt: tx.Now(),
	}))
}

// Status is what the portal shows of a prescription.
type Status struct {
	PrescriptionID string                        `json:"prescriptionId"`
	Status         medication.PrescriptionStatus `json:"status"`
	Reason         string                        `json:"reason,omitempty"`
	Since          time.Time                     `json:"since"`
}

// StatusOf lists where the prescriptions of a patient stand, the latest news first. Its texts are protected.
func StatusOf(ctx context.Context, s *eventstore.Store, patientID string) ([]Status, error) {
	out := []Status{}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT prescription_id, status, reason, since FROM portal_status WHERE patient_id = $1 ORDER BY since DESC, prescription_id`, patientID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var st Status
			var status string
			var since int64
			if err := rows.Scan(&st.PrescriptionID, &status, &st.Reason, &since); err != nil {
				return err
			}
			st.Status, st.Since = medication.PrescriptionStatus(status), time.UnixMilli(since).UTC()
			out = append(out, st)
		}
		return rows.Err()
	})
	return out, err
}
