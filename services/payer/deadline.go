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
	"github.com/carebus/carebus/timer"
)

// A row is a clock that was started. It stays when the request is decided, so that a group that is sent back in the log
// starts no second one.
const clockTable = `
CREATE TABLE payer_clocks (prior_auth_id TEXT PRIMARY KEY, arrived_at BIGINT NOT NULL, deadline BIGINT NOT NULL, basis TEXT NOT NULL, running BIGINT NOT NULL);`

// clocks are the decision clocks of requests that are not decided.
//
// A clock starts when the request arrives here, which is when it is handled first: the day on which it was written may be
// long past, when records are imported. It is three timers, set and taken back in the transaction of the decision, so
// that a request that is decided is not said to be late: what has fired was true when it was stored.
type clocks struct {
	rules      *Rules
	timers     *timer.Timers
	reviewer   string
	supervisor string
}

// timed is a handler of the service that also keeps the clock of the request in line with what became of it.
func timed[T any](s *service, handle func(context.Context, bus.Tx, event.Of[T]) error, id func(T) string) func(context.Context, bus.Tx, event.Of[T]) error {
	return func(ctx context.Context, tx bus.Tx, e event.Of[T]) error {
		if err := handle(ctx, tx, e); err != nil {
			return err
		}
		return s.clocks.follow(ctx, tx, id(e.Payload))
	}
}

// undecided are the outcomes that leave a request with the payer.
func undecided(outcome priorauth.Decision) bool {
	return outcome == priorauth.DecisionPended || outcome == priorauth.DecisionContactPayer
}

// decided closes a request that somebody else than the rules has decided: a reviewer, in a system of theirs.
func (s *service) decided(_ context.Context, tx bus.Tx, e event.Of[priorauth.DecisionMade]) error {
	if undecided(e.Payload.Decision) {
		return nil
	}
	_, err := tx.Exec(`UPDATE payer_requests SET outcome = $1 WHERE prior_auth_id = $2 AND outcome IN ($3, $4)`,
		string(e.Payload.Decision), e.Payload.PriorAuthID, string(priorauth.DecisionPended), string(priorauth.DecisionContactPayer))
	return err
}

// follow starts the clock of a request that waits, and stops that of one that does not.
func (c *clocks) follow(ctx context.Context, tx bus.Tx, id string) error {
	var text, outcome string
	err := tx.QueryRow(`SELECT request, outcome FROM payer_requests WHERE prior_auth_id = $1`, id).Scan(&text, &outcome)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	if !undecided(priorauth.Decision(outcome)) {
		return c.stop(tx, id)
	}
	var r priorauth.RequestSubmitted
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		return err
	}
	return c.run(ctx, tx, r)
}

func (c *clocks) stop(tx bus.Tx, id string) error {
	res, err := tx.Exec(`UPDATE payer_clocks SET running = 0 WHERE prior_auth_id = $1 AND running = 1`, id)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err // most requests are decided at once and have none
	}
	for _, moment := range []string{"reminder", "escalation", "deadline"} {
		if _, err := c.timers.CancelTx(tx, timerID(id, moment)); err != nil {
			return err
		}
	}
	return nil
}

func timerID(priorAuthID, moment string) string { return "payer/" + priorAuthID + "/" + moment }

// run starts the clock, or lets it go on. What changes its figures, such as a request that becomes urgent, can leave less
// time but not more: the new clock counts from the change, and ends with the old one at the latest.
func (c *clocks) run(ctx context.Context, tx bus.Tx, r priorauth.RequestSubmitted) error {
	lob, benefit := c.basis(r)
	clock, err := c.rules.Clock(lob, benefit, r.Urgency)
	if err != nil {
		return bus.Fatal(err)
	}
	now := tx.Now()
	arrived, deadline := now, now.Add(clock.Deadline)
	basis := string(lob) + "/" + string(benefit) + "/" + string(r.Urgency)
	var since, until, running int64
	var before string
	err = tx.QueryRow(`SELECT arrived_at, deadline, basis, running FROM payer_clocks WHERE prior_auth_id = $1`, r.PriorAuthID).Scan(&since, &until, &before, &running)
	switch {
	case errors.Is(err, sql.ErrNoRows):
	case err != nil:
		return err
	case running == 0: // decided, and not any more: time begins anew
	case before == basis:
		return nil
	default:
		arrived = time.UnixMilli(since).UTC()
		if !deadline.Before(time.UnixMilli(until)) {
			_, err := tx.Exec(`UPDATE payer_clocks SET basis = $1 WHERE prior_auth_id = $2`, basis, r.PriorAuthID)
			return err
		}
	}
	deadline = deadline.UTC().Truncate(time.Millisecond)
	if _, err := tx.Exec(`INSERT INTO payer_clocks (prior_auth_id, arrived_at, deadline, basis, running) VALUES ($1, $2, $3, $4, 1)
		ON CONFLICT (prior_auth_id) DO UPDATE SET arrived_at = excluded.arrived_at, deadline = excluded.deadline, basis = excluded.basis, running = 1`,
		r.PriorAuthID, arrived.UnixMilli(), deadline.UnixMilli(), basis); err != nil {
		return err
	}
	return c.set(ctx, tx, r, clock, arrived.UTC().Truncate(time.Millisecond), deadline)
}

// basis is what the clock of a request depends on, besides its urgency.
func (c *clocks) basis(r priorauth.RequestSubmitted) (lob priorauth.PayerLineOfBusiness, benefit Benefit) {
	if r.Payer != nil {
		lob = r.Payer.LineOfBusiness
	}
	if r.Medication != nil {
		if rule := c.rules.byDrug[codeOf(r.Medication.Code)]; rule != nil {
			return lob, rule.benefit
		}
	}
	if r.Benefit == priorauth.RequestSubmittedBenefitMedical {
		return lob, BenefitMedical
	}
	return lob, BenefitPharmacy
}

// set sets the three timers. A reminder or escalation whose time has passed already, because the clock was cut short, is
// left out: the next moment says more.
func (c *clocks) set(ctx context.Context, tx bus.Tx, r priorauth.RequestSubmitted, clock Clock, arrived, deadline time.Time) error {
	for _, w := range []struct {
		stage  priorauth.DeadlineApproachingStage
		before time.Duration
		who    string
	}{
		{priorauth.DeadlineApproachingStageReminder, clock.Deadline - clock.Remind, c.reviewer},
		{priorauth.DeadlineApproachingStageEscalation, clock.Deadline - clock.Escalate, c.supervisor},
	} {
		id, at := timerID(r.PriorAuthID, string(w.stage)), deadline.Add(-w.before)
		if at.Before(tx.Now()) {
			if _, err := c.timers.CancelTx(tx, id); err != nil {
				return err
			}
			continue
		}
		if err := c.timers.SetTx(ctx, tx, id, at, priorauth.DeadlineApproachingV1.New(Source, priorauth.DeadlineApproaching{
			PriorAuthID: r.PriorAuthID, PatientID: stated(r.PatientID), PrescriptionID: r.PrescriptionID, Stage: w.stage, Deadline: deadline,
			Assignee: &priorauth.Party{ID: &w.who}, Urgency: r.Urgency, Payer: r.Payer, ReceivedAt: arrived,
		})); err != nil {
			return err
		}
	}
	return c.timers.SetTx(ctx, tx, timerID(r.PriorAuthID, "deadline"), deadline, priorauth.DeadlineMissedV1.New(Source, priorauth.DeadlineMissed{
		PriorAuthID: r.PriorAuthID, PatientID: stated(r.PatientID), PrescriptionID: r.PrescriptionID, Deadline: deadline,
		Assignee: &priorauth.Party{ID: &c.supervisor}, Urgency: r.Urgency, Payer: r.Payer, ReceivedAt: arrived,
	}))
}
