package patient

import (
	"context"
	"encoding/json"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	aggregate.Log
	Handle(group string, opts ...bus.Option) error
}

// Join makes this process keep the read models of the service: Timeline. The record itself is asked by Records.
func Join(ctx context.Context, p Platform, settings ...bus.Option) error {
	return projection.Register(ctx, p, Timeline, settings...)
}

// Timeline is the read model of a patient's story: every event that names the patient, of whatever service, without
// payloads.
var Timeline = projection.Define("patient-timeline", 1,
	projection.Tables(
		`CREATE TABLE {patient_timeline} (patient_id TEXT NOT NULL, at BIGINT NOT NULL, event_id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL, correlation_id TEXT NOT NULL, PRIMARY KEY (patient_id, at, event_id))`),
	projection.OnRecord("**", func(_ context.Context, tx projection.Tx, r eventstore.Record) error {
		var of struct {
			PatientID string `json:"patientId"`
		}
		if json.Unmarshal(r.Payload, &of) != nil || of.PatientID == "" {
			return nil // about nobody, or with a patientId of its own making
		}
		_, err := tx.Exec(`INSERT INTO {patient_timeline} (patient_id, at, event_id, type, source, correlation_id) VALUES ($1, $2, $3, $4, $5, $6)`,
			of.PatientID, r.Timestamp, r.ID, r.Type, r.Source, r.CorrelationID)
		return err
	}))

// Moment is an event in a patient's story.
type Moment struct {
	At            time.Time `json:"at"` // when it happened, as its service says
	EventID       string    `json:"eventId"`
	Type          string    `json:"type"`
	Title         string    `json:"title"` // what the catalog says of such events, in a few words; the type where it knows none
	Source        string    `json:"source"`
	CorrelationID string    `json:"correlationId"` // of the flow that it belongs to
}

// TimelineOf lists a patient's story, the newest first, limit moments at most: those before the moment that the last page
// ended with, which is the zero Moment for the first page.
func TimelineOf(ctx context.Context, s *eventstore.Store, patientID string, before Moment, limit int) ([]Moment, error) {
	out := []Moment{}
	at := int64(1) << 62
	if !before.At.IsZero() {
		at = before.At.UnixMilli()
	}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT at, event_id, type, source, correlation_id FROM patient_timeline
			WHERE patient_id = $1 AND (at < $2 OR at = $3 AND event_id < $4) ORDER BY at DESC, event_id DESC LIMIT $5`, patientID, at, at, before.EventID, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var m Moment
			var at int64
			if err := rows.Scan(&at, &m.EventID, &m.Type, &m.Source, &m.CorrelationID); err != nil {
				return err
			}
			m.At, m.Title = time.UnixMilli(at).UTC(), m.Type
			if known, ok := catalog.Lookup(m.Type, ""); ok {
				m.Title = known.Title
			}
			out = append(out, m)
		}
		return rows.Err()
	})
	return out, err
}
