package priorauth

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// Views is the query side: a summary of every request for the lists of a patient, and its details with the history of its
// events. Both tables change together, so that a list and the page behind it agree.
var Views = projection.Define("priorauth-views", 1,
	projection.Tables(
		`CREATE TABLE {priorauth_summary} (prior_auth_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, medication TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, last_updated BIGINT NOT NULL)`,
		`CREATE INDEX {priorauth_summary_patient} ON {priorauth_summary} (patient_id, created_at)`,
		`CREATE TABLE {priorauth_detail} (prior_auth_id TEXT PRIMARY KEY, request TEXT NOT NULL, decision TEXT NOT NULL)`,
		`CREATE TABLE {priorauth_events} (prior_auth_id TEXT NOT NULL, n BIGINT NOT NULL, metadata TEXT NOT NULL, PRIMARY KEY (prior_auth_id, n))`),
	projection.OnRecord("priorauth.**", view))

// view folds an event into its request, as the command side does, and writes what lists and pages show of it.
func view(_ context.Context, tx projection.Tx, e eventstore.Record) error {
	var of struct {
		PriorAuthID string `json:"priorAuthId"`
	}
	if err := json.Unmarshal(e.Payload, &of); err != nil || of.PriorAuthID == "" {
		return err // priorauth.determination.not-required may be about no request
	}
	var kept, decision string
	err := tx.QueryRow(`SELECT request, decision FROM {priorauth_detail} WHERE prior_auth_id = $1`, of.PriorAuthID).Scan(&kept, &decision)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	var r Request
	if kept != "" {
		if err := json.Unmarshal([]byte(kept), &r); err != nil {
			return err
		}
	}
	if err := Requests.Apply(&r, e.Event); err != nil {
		return err
	}
	if e.Type == priorauth.DecisionMadeV1.Type() {
		decision = string(e.Payload)
	}
	if err := writeDetail(tx, of.PriorAuthID, r, decision, e.Metadata); err != nil || r.Version == 0 {
		return err // nobody has asked yet: a decision that came first
	}
	name, created, said := "", e.Timestamp, 0 // of a request that does not say when it was made, the first event does
	if r.Medication != nil {
		name = r.Medication.Name
	}
	if !r.CreatedAt.IsZero() {
		created, said = r.CreatedAt.UnixMilli(), 1
	}
	_, err = tx.Exec(`INSERT INTO {priorauth_summary} (prior_auth_id, patient_id, medication, status, created_at, last_updated) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (prior_auth_id) DO UPDATE SET patient_id = excluded.patient_id, medication = excluded.medication, status = excluded.status, last_updated = excluded.last_updated,
			created_at = CASE WHEN $7 = 1 THEN excluded.created_at ELSE {priorauth_summary}.created_at END`,
		of.PriorAuthID, r.PatientID, name, string(r.Status), created, r.LastUpdated, said)
	return err
}

func writeDetail(tx projection.Tx, id string, r Request, decision string, m event.Metadata) error {
	request, err := json.Marshal(r)
	if err != nil {
		return err
	}
	metadata, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(`INSERT INTO {priorauth_detail} (prior_auth_id, request, decision) VALUES ($1, $2, $3)
		ON CONFLICT (prior_auth_id) DO UPDATE SET request = excluded.request, decision = excluded.decision`, id, string(request), decision); err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO {priorauth_events} (prior_auth_id, n, metadata) VALUES ($1, (SELECT COUNT(*) + 1 FROM {priorauth_events} WHERE prior_auth_id = $2), $3)`, id, id, string(metadata))
	return err
}

// Summary is a line of a list.
type Summary struct {
	PriorAuthID    string    `json:"priorAuthId"`
	PatientID      string    `json:"patientId"`
	MedicationName string    `json:"medicationName"`
	Status         Status    `json:"status"`
	CreatedAt      time.Time `json:"createdAt"`
	LastUpdated    int64     `json:"lastUpdated"` // timestamp of the last event, epoch milliseconds
}

// Summaries lists the requests for a patient, the newest first. Who has just carried out a command waits for it by
// projection.Wait with Views before.
func Summaries(ctx context.Context, s *eventstore.Store, patientID string) ([]Summary, error) {
	out := []Summary{}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT prior_auth_id, patient_id, medication, status, created_at, last_updated FROM priorauth_summary
			WHERE patient_id = $1 ORDER BY created_at DESC, prior_auth_id`, patientID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v Summary
			var status string
			var created int64
			if err := rows.Scan(&v.PriorAuthID, &v.PatientID, &v.MedicationName, &status, &created, &v.LastUpdated); err != nil {
				return err
			}
			v.Status, v.CreatedAt = Status(status), time.UnixMilli(created).UTC()
			out = append(out, v)
		}
		return rows.Err()
	})
	return out, err
}

// Detail is a request with everything that has happened to it.
type Detail struct {
	Request
	Decision *priorauth.DecisionMade `json:"decision,omitempty"` // the payer's last answer
	Events   []event.Metadata        `json:"events"`             // in order, without payloads
}

// ErrNoRequest: the query side knows no request of this id.
var ErrNoRequest = errors.New("priorauth: no such request")

// DetailOf returns one request, or ErrNoRequest.
func DetailOf(ctx context.Context, s *eventstore.Store, priorAuthID string) (d Detail, err error) {
	err = s.View(ctx, func(q eventstore.Querier) error {
		var request, decision string
		err := q.QueryRowContext(ctx, `SELECT request, decision FROM priorauth_detail WHERE prior_auth_id = $1`, priorAuthID).Scan(&request, &decision)
		if errors.Is(err, sql.ErrNoRows) {
			return fmt.Errorf("%w: %s", ErrNoRequest, priorAuthID)
		}
		if err == nil {
			err = json.Unmarshal([]byte(request), &d.Request)
		}
		if err == nil && decision != "" {
			err = json.Unmarshal([]byte(decision), &d.Decision)
		}
		if err != nil {
			return err
		}
		if d.Version == 0 { // others have spoken of it: that none is required, or a decision that came first
			return fmt.Errorf("%w: %s", ErrNoRequest, priorAuthID)
		}
		rows, err := q.QueryContext(ctx, `SELECT metadata FROM priorauth_events WHERE prior_auth_id = $1 ORDER BY n`, priorAuthID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			var m event.Metadata
			if err := rows.Scan(&text); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				return err
			}
			d.Events = append(d.Events, m)
		}
		return rows.Err()
	})
	return d, err
}
