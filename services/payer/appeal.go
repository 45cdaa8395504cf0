package payer

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
)

const appealTable = `CREATE TABLE payer_appeals (event_id TEXT PRIMARY KEY);`

// appealed answers an appeal: the reviewer may overturn the denial, and the rules do, where time or new authorizations
// have made good what was wanting. Otherwise it is upheld, with the reasons.
func (s *service) appealed(_ context.Context, tx bus.Tx, e event.Of[priorauth.AppealSubmitted]) error {
	var text, outcome string
	err := tx.QueryRow(`SELECT request, outcome FROM payer_requests WHERE prior_auth_id = $1`, e.Payload.PriorAuthID).Scan(&text, &outcome)
	if errors.Is(err, sql.ErrNoRows) || err == nil && outcome != string(priorauth.DecisionDenied) && outcome != string(priorauth.DecisionUpheld) {
		return nil // no denial of ours, or not any more
	}
	if err != nil {
		return err
	}
	var request priorauth.RequestSubmitted
	if err := json.Unmarshal([]byte(text), &request); err != nil {
		return err
	}
	if first, err := tx.Exec(`INSERT INTO payer_appeals (event_id) VALUES ($1) ON CONFLICT (event_id) DO NOTHING`, e.ID); err != nil {
		return err
	} else if n, err := first.RowsAffected(); err != nil || n == 0 {
		return err // answered
	}
	at := e.Payload.SubmittedAt
	if at.IsZero() {
		at = e.Time()
	}
	return s.answer(tx, request, at, &e.Payload)
}

// review decides upon an appeal.
func (s *service) review(a priorauth.AppealSubmitted, d Decision, f Facts, at time.Time) Decision {
	if d.Outcome != priorauth.DecisionDenied {
		return d
	}
	rule := s.rules.byDrug[f.Request.RxCUI]
	if s.overturn == nil || rule == nil || !s.overturn(a, d) {
		d.Outcome = priorauth.DecisionUpheld
		return d
	}
	d.end(d.Stage, priorauth.DecisionApproved, priorauth.ActionCodeA1)
	d.Reasons, d.Appeal, d.PeerToPeer = nil, nil, nil
	d.Approved = rule.grant(&f.Request, rule.approve.Months, at.UTC())
	return d
}
