package payer

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/payment"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/timer"
)

// Source is the eventSource of the service, and Group the name of its consumer group.
const (
	Source = "payer-service"
	Group  = "payer"
)

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	Store() *eventstore.Store
	Timers() *timer.Timers
	Handle(group string, opts ...bus.Option) error
}

// Options of the service. The zero value works.
type Options struct {
	Rules *Rules // default: DefaultRules
	// Member returns the payer's number of a patient, empty for one that it does not know. Default: the member id of the
	// coverage that the request states, or the patient's own id where it states none.
	Member func(patientID string, c *priorauth.Coverage) string
	// Overturn says whether a reviewer overturns the denial that an appeal is against, which the rules would repeat. It is
	// called inside a transaction and must answer from what it is given. Default: never.
	Overturn func(a priorauth.AppealSubmitted, denied Decision) bool
	// Reviewer is reminded of a decision that is due, and Supervisor gets it before, and when, it is late: ids of people or
	// desks. Default: "payer-review" and "payer-supervisor".
	Reviewer, Supervisor string
	// Group has further options of the consumer group, such as bus.Version.
	Group []bus.Option
}

const serviceTables = `
CREATE TABLE payer_requests (prior_auth_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, prescription_id TEXT NOT NULL, rxcui TEXT NOT NULL, request TEXT NOT NULL,
	received_at BIGINT NOT NULL, decide_by BIGINT NOT NULL, outcome TEXT NOT NULL);
CREATE INDEX payer_requests_due ON payer_requests (outcome, decide_by);
CREATE TABLE payer_authorizations (number TEXT PRIMARY KEY, patient_id TEXT NOT NULL, rxcui TEXT NOT NULL, payer TEXT NOT NULL,
	from_at BIGINT NOT NULL, until_at BIGINT NOT NULL, quantity DOUBLE PRECISION NOT NULL, days_supply BIGINT NOT NULL);
CREATE INDEX payer_authorizations_patient ON payer_authorizations (patient_id, rxcui);
CREATE TABLE payer_denials (patient_id TEXT NOT NULL, fingerprint TEXT NOT NULL, decision TEXT NOT NULL, PRIMARY KEY (patient_id, fingerprint));
CREATE TABLE payer_claims (claim_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, state TEXT NOT NULL, amount BIGINT NOT NULL);`

// An approval holds for its own prescription as long as its period is, from when it was given: the period itself is
// counted from the request, which may be of another year when records are imported.
const holdsColumns = `
ALTER TABLE payer_requests ADD COLUMN holds_until BIGINT NOT NULL DEFAULT 0;
CREATE INDEX payer_requests_prescription ON payer_requests (prescription_id);`

type service struct {
	rules    *Rules
	member   func(string, *priorauth.Coverage) string
	overturn func(priorauth.AppealSubmitted, Decision) bool
	clocks   *clocks
}

// Join makes this process a member of the service. It reacts to
//
//	priorauth.request.submitted, .updated   it decides by the rules, upon what the request says
//	priorauth.request.cancelled             it decides no more
//	priorauth.decision.made                 a reviewer has decided what the rules could not
//	priorauth.appeal.submitted              it looks again: overturned or upheld
//	payment.claim.submitted                 it pays, or rejects for want of an authorization
//	payment.claim.voided                    it takes the payment back
//
// A decision states every expression that was evaluated, so that it explains itself. While a request waits, its clock
// runs: priorauth.deadline.approaching says when the reviewer is to be reminded and when the supervisor takes over, and
// priorauth.deadline.missed that there was no decision in time. See Rules.Clock.
func Join(ctx context.Context, p Platform, o Options) error {
	s := &service{rules: o.Rules, member: o.Member, overturn: o.Overturn}
	if s.rules == nil {
		var err error
		if s.rules, err = DefaultRules(); err != nil {
			return err
		}
	}
	if s.member == nil {
		s.member = func(patientID string, c *priorauth.Coverage) string {
			if c != nil && c.MemberID != nil {
				return *c.MemberID
			}
			return patientID
		}
	}
	if err := p.Store().Migrate(ctx, Source, serviceTables, appealTable, holdsColumns); err != nil {
		return err
	}
	if err := p.Store().Migrate(ctx, Source+".clocks", clockTable); err != nil {
		return err
	}
	s.clocks = &clocks{rules: s.rules, timers: p.Timers(), reviewer: cmp.Or(o.Reviewer, "payer-review"), supervisor: cmp.Or(o.Supervisor, "payer-supervisor")}
	return p.Handle(Group, append([]bus.Option{
		bus.On(priorauth.RequestSubmittedV1, timed(s, s.submitted, func(r priorauth.RequestSubmitted) string { return r.PriorAuthID })),
		bus.On(priorauth.RequestUpdatedV1, timed(s, s.updated, func(u priorauth.RequestUpdated) string { return u.PriorAuthID })),
		bus.On(priorauth.RequestCancelledV1, timed(s, s.cancelled, func(c priorauth.RequestCancelled) string { return c.PriorAuthID })),
		bus.On(priorauth.DecisionMadeV1, timed(s, s.decided, func(d priorauth.DecisionMade) string { return d.PriorAuthID })),
		bus.On(priorauth.AppealSubmittedV1, timed(s, s.appealed, func(a priorauth.AppealSubmitted) string { return a.PriorAuthID })),
		bus.On(payment.ClaimSubmittedV1, s.claim),
		bus.On(payment.ClaimVoidedV1, s.voided),
	}, o.Group...)...)
}

func (s *service) submitted(_ context.Context, tx bus.Tx, e event.Of[priorauth.RequestSubmitted]) error {
	var n int
	if err := tx.QueryRow(`SELECT COUNT(*) FROM payer_requests WHERE prior_auth_id = $1`, e.Payload.PriorAuthID).Scan(&n); err != nil || n > 0 {
		return err // answered: the group was sent back in the log
	}
	at := e.Payload.SubmittedAt
	if at.IsZero() {
		at = e.Time()
	}
	e.Payload.SubmittedAt = at // what a later update is decided as of
	return s.answer(tx, e.Payload, at, nil)
}

// updated decides anew, upon the request with what the update changes.
func (s *service) updated(_ context.Context, tx bus.Tx, e event.Of[priorauth.RequestUpdated]) error {
	var text, outcome string
	err := tx.QueryRow(`SELECT request, outcome FROM payer_requests WHERE prior_auth_id = $1`, e.Payload.PriorAuthID).Scan(&text, &outcome)
	if errors.Is(err, sql.ErrNoRows) || err == nil && outcome != string(priorauth.DecisionPended) {
		return nil // a draft, or decided: nobody waits for an answer
	}
	if err != nil {
		return err
	}
	var request priorauth.RequestSubmitted
	if err := json.Unmarshal([]byte(text), &request); err != nil {
		return err
	}
	if err := json.Unmarshal(e.Payload.UpdatedFields, &request); err != nil {
		return bus.Fatal(errors.New("payer: the update does not fit a request; correct it and redrive"))
	}
	return s.answer(tx, request, request.SubmittedAt, nil)
}

func (s *service) cancelled(_ context.Context, tx bus.Tx, e event.Of[priorauth.RequestCancelled]) error {
	_, err := tx.Exec(`UPDATE payer_requests SET outcome = $1 WHERE prior_auth_id = $2`, string(priorauth.DecisionCancelled), e.Payload.PriorAuthID)
	return err
}

// answer decides a request as of a moment, remembers the answer and says it. appeal is what asks for it again, if it is one.
func (s *service) answer(tx bus.Tx, r priorauth.RequestSubmitted, at time.Time, appeal *priorauth.AppealSubmitted) error {
	facts := factsOf(r, s.member(r.PatientID, r.Coverage), at)
	onFile, err := authorizations(tx, facts)
	if err != nil {
		return err
	}
	d, err := s.decide(facts, onFile, at)
	if err != nil {
		return bus.Fatal(err) // the rules fail upon this request: a person has to look
	}
	if appeal != nil {
		d = s.review(*appeal, d, facts, at)
	}
	if d, err = first(tx, d, facts); err != nil {
		return err
	}
	said := decisionMade(r, d)
	holds := int64(0)
	for _, a := range onFile {
		if a.Number == d.OnFile {
			holds = tx.Now().Add(a.Until.Sub(at)).UnixMilli()
		}
	}
	if d.Approved != nil {
		holds = tx.Now().Add(d.Approved.Period.End.Sub(d.Approved.Period.Start)).UnixMilli()
		number := "AUTH-" + r.PriorAuthID
		a, _ := d.Authorization(number, facts)
		if _, err := tx.Exec(`INSERT INTO payer_authorizations (number, patient_id, rxcui, payer, from_at, until_at, quantity, days_supply) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
			ON CONFLICT (number) DO NOTHING`, a.Number, a.PatientID, a.RxCUI, a.Payer, a.From.UnixMilli(), a.Until.UnixMilli(), a.Quantity, a.DaysSupply); err != nil {
			return err
		}
		said.AuthNumber = &number
	}
	request, err := json.Marshal(r)
	if err != nil {
		return err
	}
	by := d.DecideBy
	if by.IsZero() {
		by = at
	}
	if _, err := tx.Exec(`INSERT INTO payer_requests (prior_auth_id, patient_id, prescription_id, rxcui, request, received_at, decide_by, outcome, holds_until) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (prior_auth_id) DO UPDATE SET request = excluded.request, decide_by = excluded.decide_by, outcome = excluded.outcome, holds_until = excluded.holds_until`,
		r.PriorAuthID, r.PatientID, valueOf(r.PrescriptionID), facts.Request.RxCUI, string(request), at.UnixMilli(), by.UnixMilli(), string(d.Outcome), holds); err != nil {
		return err
	}
	return tx.Append(priorauth.DecisionMadeV1.New(Source, said))
}

// decide asks the rules. A request that does not say which drug it is for cannot be asked about: it is pended.
func (s *service) decide(f Facts, onFile []Authorization, at time.Time) (Decision, error) {
	if f.Request.RxCUI != "" {
		return s.rules.Decide(f, onFile, at)
	}
	d := Decision{RuleSet: s.rules.id, RuleSetVersion: s.rules.version, At: at.UTC(), Missing: []priorauth.MissingItem{{Field: "medication.code", Ask: "Which drug is it, as an RxNorm code?"}}}
	clock, err := s.rules.Clock(f.Plan.LineOfBusiness, BenefitPharmacy, f.Request.Priority)
	if err != nil {
		return d, err
	}
	d.pend(d.At.Add(clock.Deadline))
	return d, nil
}

// first is the earlier denial of an unchanged request, where there is one that still holds; otherwise d, which is kept
// when it is a denial.
func first(tx bus.Tx, d Decision, f Facts) (Decision, error) {
	if d.Outcome != priorauth.DecisionDenied {
		return d, nil
	}
	var text string
	err := tx.QueryRow(`SELECT decision FROM payer_denials WHERE patient_id = $1 AND fingerprint = $2`, f.Patient.ID, d.Fingerprint).Scan(&text)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return d, err
	}
	if err == nil {
		var earlier Decision
		if err := json.Unmarshal([]byte(text), &earlier); err != nil {
			return d, err
		}
		if d.Repeats(earlier) {
			return earlier, nil
		}
	}
	kept, err := json.Marshal(d)
	if err != nil {
		return d, err
	}
	_, err = tx.Exec(`INSERT INTO payer_denials (patient_id, fingerprint, decision) VALUES ($1, $2, $3)
		ON CONFLICT (patient_id, fingerprint) DO UPDATE SET decision = excluded.decision`, f.Patient.ID, d.Fingerprint, string(kept))
	return d, err
}

func authorizations(tx bus.Tx, f Facts) (out []Authorization, err error) {
	rows, err := tx.Query(`SELECT number, payer, from_at, until_at, quantity, days_supply FROM payer_authorizations WHERE patient_id = $1 AND rxcui = $2`, f.Patient.ID, f.Request.RxCUI)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		a := Authorization{PatientID: f.Patient.ID, RxCUI: f.Request.RxCUI}
		var from, until int64
		if err := rows.Scan(&a.Number, &a.Payer, &from, &until, &a.Quantity, &a.DaysSupply); err != nil {
			return nil, err
		}
		a.From, a.Until = time.UnixMilli(from).UTC(), time.UnixMilli(until).UTC()
		out = append(out, a)
	}
	return out, rows.Err()
}

// factsOf reads a request as the rules want it. What it dates by an instant, and not by days, is counted from the moment
// of the request.
func factsOf(r priorauth.RequestSubmitted, member string, at time.Time) Facts {
	ago := func(days *int64, since time.Time) int64 {
		if days != nil || since.IsZero() {
			return valueOf(days)
		}
		return max(0, int64(at.Sub(since)/(24*time.Hour)))
	}
	f := Facts{
		Request: Request{Priority: r.Urgency},
		Patient: Patient{ID: r.PatientID},
		Plan:    Plan{MemberID: member, Payer: valueOf(r.PayerID)},
	}
	if m := r.Medication; m != nil {
		f.Request.Name, f.Request.Quantity, f.Request.DaysSupply = m.Name, m.Quantity, m.DaysSupply
		f.Request.RxCUI = codeOf(m.Code)
	}
	if r.Prescriber != nil {
		f.Request.PrescriberSpecialty = r.Prescriber.Specialty
	}
	if r.Payer != nil {
		f.Plan.LineOfBusiness = r.Payer.LineOfBusiness
		if r.Payer.ID != nil {
			f.Plan.Payer = *r.Payer.ID
		}
	}
	c := r.Clinical
	if c == nil {
		c = &priorauth.ClinicalFacts{}
	}
	f.Patient.Age, f.Patient.Sex, f.Patient.State = c.AgeYears, c.Gender, valueOf(c.State)
	said := map[string]bool{}
	for _, d := range c.Diagnoses {
		said[codeOf(&d.Code)] = true
		f.Diagnoses = append(f.Diagnoses, Diagnosis{Code: codeOf(&d.Code), Display: valueOf(d.Code.Display), Active: d.Active == nil || *d.Active, DaysAgo: ago(d.DaysAgo, d.OnsetAt)})
	}
	for _, d := range r.Diagnoses {
		if !said[codeOf(&d)] {
			f.Diagnoses = append(f.Diagnoses, Diagnosis{Code: codeOf(&d), Display: valueOf(d.Display), Active: true})
		}
	}
	for _, h := range c.MedicationHistory {
		f.History = append(f.History, PastDrug{RxCUI: codeOf(h.Code), Name: h.Name, DaysAgo: ago(h.DaysAgo, h.PrescribedAt)})
	}
	for _, a := range c.Allergies {
		f.Allergies = append(f.Allergies, Allergy{Code: codeOf(&a)})
	}
	for _, o := range c.Observations {
		if o.Value == nil || codeOf(&o.Code) == "" {
			continue
		}
		if f.Observations == nil {
			f.Observations = map[string]Observation{}
		}
		days := ago(o.DaysAgo, o.ObservedAt)
		if known, ok := f.Observations[codeOf(&o.Code)]; !ok || days < known.DaysAgo {
			f.Observations[codeOf(&o.Code)] = Observation{Value: *o.Value, DaysAgo: days}
		}
	}
	return f
}

func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func codeOf(c *priorauth.Codeable) string {
	if c == nil {
		return ""
	}
	return valueOf(c.Code)
}

// decisionMade is a decision as an event says it.
func decisionMade(r priorauth.RequestSubmitted, d Decision) priorauth.DecisionMade {
	out := priorauth.DecisionMade{
		PriorAuthID: r.PriorAuthID, PatientID: r.PatientID, PrescriptionID: r.PrescriptionID, Medication: r.Medication, Payer: r.Payer,
		Decision: d.Outcome, ActionCode: d.Action, Reasons: d.Reasons, MissingInformation: d.Missing, Appeal: d.Appeal, PeerToPeer: d.PeerToPeer,
		DecidedAt: d.At, DecidedBy: stated("AUTO-RULES"),
	}
	if d.RuleID != "" {
		set := d.RuleSet + " " + d.RuleSetVersion
		rule := priorauth.RuleOutcome{RuleID: d.RuleID, RuleVersion: stated(d.RuleVersion), Ruleset: &set}
		for _, c := range d.Checks {
			rule.Results = append(rule.Results, priorauth.RuleResult{ID: c.ID, Stage: stated(string(c.Stage)), Met: c.Result, ReasonCode: stated(c.ReasonCode)})
		}
		out.Rule = &rule
	}
	if g := d.Approved; g != nil {
		out.EffectivePeriod, out.ApprovedQuantity, out.ApprovedRefills = &g.Period, &g.Quantity, g.Refills
		if g.DaysSupply > 0 {
			out.ApprovedDaysSupply = &g.DaysSupply
		}
	}
	if d.OnFile != "" {
		yes := true
		out.OnFile, out.AuthorizationOnFile, out.AuthNumber = &yes, &d.OnFile, &d.OnFile
	}
	return out
}

// claim pays for a dispensed drug, or rejects the claim because the drug wants an authorization and has none (NCPDP
// reject code 75). The patient pays a tenth, and 50 dollars at most. The same claim again is told apart by its id and
// answered by the event that answered it first.
func (s *service) claim(_ context.Context, tx bus.Tx, e event.Of[payment.ClaimSubmitted]) error {
	c := e.Payload
	if c.ClaimType != payment.ClaimTypePharmacy || c.Total == nil {
		return nil
	}
	share := min(*c.Total/10, 5000)
	res, err := tx.Exec(`INSERT INTO payer_claims (claim_id, patient_id, state, amount) VALUES ($1, $2, 'paid', $3) ON CONFLICT (claim_id) DO NOTHING`, c.ClaimID, c.PatientID, int64(*c.Total-share))
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	wanting, err := s.wantsAuthorization(tx, c)
	if err != nil {
		return err
	}
	if wanting {
		if _, err := tx.Exec(`UPDATE payer_claims SET state = 'rejected', amount = 0 WHERE claim_id = $1`, c.ClaimID); err != nil {
			return err
		}
		code, text := "75", "Prior authorization required"
		return tx.Append(payment.ClaimRejectedV1.New(Source, payment.ClaimRejected{
			ClaimID: c.ClaimID, PatientID: &c.PatientID, PrescriptionID: c.PrescriptionID, ClaimType: c.ClaimType, Payer: c.Payer, Pharmacy: c.Pharmacy,
			RejectCodes: []payment.RejectCode{{Code: &code, Text: &text}}, RejectedAt: tx.Now(), SubmittedAmount: c.Total,
		}))
	}
	pays := *c.Total - share
	return tx.Append(payment.ClaimApprovedV1.New(Source, payment.ClaimApproved{
		ClaimID: c.ClaimID, PatientID: c.PatientID, PrescriptionID: c.PrescriptionID, ClaimType: c.ClaimType, Payer: c.Payer, Pharmacy: c.Pharmacy,
		SubmittedAmount: c.Total, PatientPay: &share, InsurancePay: &pays, ApprovedAt: tx.Now(),
	}))
}

// wantsAuthorization reports whether a rule is about the drug, and neither an authorization covers the patient now, nor was
// one given for this prescription, nor was it found not to need one.
func (s *service) wantsAuthorization(tx bus.Tx, c payment.ClaimSubmitted) (bool, error) {
	if c.Medication == nil || c.Medication.Code == nil || s.rules.byDrug[valueOf(c.Medication.Code.Code)] == nil {
		return false, nil
	}
	var n int
	err := tx.QueryRow(`SELECT COUNT(*) FROM payer_authorizations WHERE patient_id = $1 AND rxcui = $2 AND from_at <= $3 AND until_at > $4`,
		c.PatientID, valueOf(c.Medication.Code.Code), tx.Now().UnixMilli(), tx.Now().UnixMilli()).Scan(&n)
	if err != nil || n > 0 {
		return false, err
	}
	err = tx.QueryRow(`SELECT COUNT(*) FROM payer_requests WHERE prescription_id = $1 AND (outcome = $2 OR holds_until > $3)`,
		valueOf(c.PrescriptionID), string(priorauth.DecisionNotRequired), tx.Now().UnixMilli()).Scan(&n)
	return n == 0, err
}

func (s *service) voided(_ context.Context, tx bus.Tx, e event.Of[payment.ClaimVoided]) error {
	_, err := tx.Exec(`UPDATE payer_claims SET state = 'voided', amount = 0 WHERE claim_id = $1`, e.Payload.ClaimID)
	return err
}

// Due is a request that is not decided, and when it must be.
type Due struct {
	PriorAuthID string
	ReceivedAt  time.Time
	DecideBy    time.Time
}

// Inbox lists the requests that wait for a decision, the most urgent first.
func Inbox(ctx context.Context, s *eventstore.Store, limit int) ([]Due, error) {
	out := []Due{}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT r.prior_auth_id, COALESCE(c.arrived_at, r.received_at), COALESCE(c.deadline, r.decide_by) AS due
			FROM payer_requests r LEFT JOIN payer_clocks c ON c.prior_auth_id = r.prior_auth_id AND c.running = 1
			WHERE r.outcome IN ($1, $2) ORDER BY due, r.prior_auth_id LIMIT $3`,
			string(priorauth.DecisionPended), string(priorauth.DecisionContactPayer), limit)
		if err != nil {
			return fmt.Errorf("payer: the service has never run on this store: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var d Due
			var received, by int64
			if err := rows.Scan(&d.PriorAuthID, &received, &by); err != nil {
				return err
			}
			d.ReceivedAt, d.DecideBy = time.UnixMilli(received).UTC(), time.UnixMilli(by).UTC()
			out = append(out, d)
		}
		return rows.Err()
	})
	return out, err
}
