package payer

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/catalog/priorauth"
)

// Stage is the part of the decision in which an expression is evaluated, or in which the decision ended.
type Stage string

// The stages, in their order.
const (
	StageMember      Stage = "member"         // the payer does not know the patient
	StageOnFile      Stage = "onFile"         // an authorization on file covers the request
	StageNoRule      Stage = "noRule"         // no rule is about the drug
	StageRequired    Stage = "paRequiredWhen" // the rule's condition for needing an authorization
	StageExempt      Stage = "exempt"         // the first true exemption approves
	StageMissingInfo Stage = "missingInfo"    // everything that is missing is asked for at once
	StageCriteria    Stage = "criteria"       // the first false criterion denies
	StageModify      Stage = "modify"         // every true modification changes what is approved
	StageApprove     Stage = "approve"        // what is left is approved, up to the rule's quantity
)

// Check is one expression that was evaluated.
type Check struct {
	ID         string `json:"id"`
	Stage      Stage  `json:"stage"`
	Result     bool   `json:"result"`
	ReasonCode string `json:"reasonCode,omitempty"` // what the expression stands for, where it has a reason
}

// Grant is what is approved.
type Grant struct {
	Quantity   float64          `json:"quantity"` // for each fill, or for DaysSupply days
	Unit       string           `json:"unit"`
	DaysSupply int64            `json:"daysSupply,omitempty"` // 0: the quantity is for each fill
	Refills    *int64           `json:"refills,omitempty"`    // nil: as often as the period allows
	Months     int              `json:"months"`
	Period     priorauth.Period `json:"period"` // from its start up to, not including, its end
}

// Decision is the answer to one request, with everything that explains it. Its Outcome says which of the optional
// members are there.
type Decision struct {
	Outcome priorauth.Decision   `json:"outcome"`
	Action  priorauth.ActionCode `json:"action"`
	Stage   Stage                `json:"stage"` // where the decision ended

	RuleSet        string  `json:"ruleSet"`
	RuleSetVersion string  `json:"ruleSetVersion"`
	RuleID         string  `json:"ruleId,omitempty"` // the rule of the drug, asked or not; empty when there is none
	RuleVersion    string  `json:"ruleVersion,omitempty"`
	RuleTitle      string  `json:"ruleTitle,omitempty"`
	Benefit        Benefit `json:"benefit,omitempty"`

	Checks  []Check            `json:"checks,omitempty"`  // every expression evaluated, in order
	Reasons []priorauth.Reason `json:"reasons,omitempty"` // for everything but a plain approval or no need

	Missing    []priorauth.MissingItem `json:"missing,omitempty"`    // pended
	DecideBy   time.Time               `json:"decideBy,omitzero"`    // pended: the decision clock goes on
	Appeal     *priorauth.Appeal       `json:"appeal,omitempty"`     // denied
	PeerToPeer *priorauth.PeerToPeer   `json:"peerToPeer,omitempty"` // denied

	Approved *Grant `json:"approved,omitempty"` // approved, partially approved or modified; not when on file
	OnFile   string `json:"onFile,omitempty"`   // number of the authorization on file that answered

	At          time.Time `json:"at"`          // the moment that the decision is for, UTC
	Fingerprint string    `json:"fingerprint"` // of the facts
}

// Repeats reports whether d is the answer that first gave already: both deny the same request, every expression of the
// same rules gave the same, and the first denial can still be appealed. The first denial is then the answer, with its own
// dates: asking again without anything that the rules look at having changed gives no second notice and no longer time
// to appeal.
//
// Look for first among the earlier decisions by Fingerprint, after deciding again: new evidence, or time alone, can make a
// request good that was denied.
func (d Decision) Repeats(first Decision) bool {
	return d.Outcome == priorauth.DecisionDenied && first.Outcome == priorauth.DecisionDenied &&
		d.Fingerprint == first.Fingerprint &&
		d.RuleSet == first.RuleSet && d.RuleSetVersion == first.RuleSetVersion && d.RuleID == first.RuleID &&
		slices.Equal(d.Checks, first.Checks) &&
		first.Appeal != nil && !d.At.Before(first.At) && !d.At.After(first.Appeal.Deadline)
}

// Authorization returns what the payer keeps of an approval under the number that the caller gives it, and whether d is
// one. Hand it to Decide with later requests, or each refill asks again.
func (d Decision) Authorization(number string, f Facts) (Authorization, bool) {
	if d.Approved == nil {
		return Authorization{}, false
	}
	return Authorization{
		Number: number, PatientID: f.Patient.ID, RxCUI: f.Request.RxCUI, Payer: f.Plan.Payer,
		From: d.Approved.Period.Start, Until: d.Approved.Period.End,
		Quantity: d.Approved.Quantity, DaysSupply: d.Approved.DaysSupply,
	}, true
}

var (
	// ErrEvaluation is what Decide wraps when an expression failed on these facts.
	ErrEvaluation = errors.New("payer: an expression cannot be evaluated for this request")
	// ErrCost is what Decide wraps when an expression would take too long for these facts.
	ErrCost = errors.New("payer: an expression costs too much for this request")
)

// Decide answers a request as of the moment at, which is when it was made and not when it is looked at. It depends on
// its arguments alone. An authorization on file answers first; then the rule of the drug decides, stage by stage.
//
// An error is no answer: ErrFacts when the facts are not a request, ErrEvaluation or ErrCost when a rule fails on them. A
// person has to decide then. Error texts name rule and expression and no value of the facts.
func (r *Rules) Decide(f Facts, onFile []Authorization, at time.Time) (Decision, error) {
	if err := f.check(); err != nil {
		return Decision{}, err
	}
	at = at.UTC()
	d := Decision{RuleSet: r.id, RuleSetVersion: r.version, At: at, Fingerprint: f.Fingerprint()}
	rule := r.byDrug[f.Request.RxCUI]
	if rule != nil {
		d.RuleID, d.RuleVersion, d.RuleTitle, d.Benefit = rule.id, rule.version, rule.title, rule.benefit
	}
	switch a := covering(onFile, &f, at); {
	case f.Plan.MemberID == "":
		d.end(StageMember, priorauth.DecisionContactPayer, priorauth.ActionCodeCT)
		d.because("MEMBER-UNKNOWN", "The payer does not know the patient as a member; check the coverage with the payer.")
	case a != nil:
		d.end(StageOnFile, priorauth.DecisionApproved, priorauth.ActionCodeA1)
		d.OnFile = a.Number
	case rule == nil:
		d.end(StageNoRule, priorauth.DecisionNotRequired, priorauth.ActionCodeNA)
	default:
		if err := r.apply(rule, &f, &d); err != nil {
			return Decision{}, err
		}
	}
	return d, nil
}

// covering returns the authorization that covers the request longest; of equals the one with the least number, so that
// the order of the list does not matter.
func covering(onFile []Authorization, f *Facts, at time.Time) *Authorization {
	var best *Authorization
	for i := range onFile {
		a := &onFile[i]
		if !a.covers(f, at) {
			continue
		}
		if best == nil || a.Until.After(best.Until) || a.Until.Equal(best.Until) && a.Number < best.Number {
			best = a
		}
	}
	return best
}

// apply evaluates one rule. It is written in the order of the stages.
func (r *Rules) apply(rule *rule, f *Facts, d *Decision) error {
	clock, err := r.Clock(f.Plan.LineOfBusiness, rule.benefit, f.Request.urgency())
	if err != nil {
		return err
	}
	decideBy := d.At.Add(clock.Deadline)
	e := evaluation{rule: rule, d: d, facts: f.named()}

	// What the rule must know of the patient comes before the rule itself: no expression can be trusted without it.
	for _, member := range rule.asks {
		if !f.Patient.states(member) {
			d.Missing = append(d.Missing, priorauth.MissingItem{Field: member, Ask: patientQuestions[member], DueAt: decideBy})
		}
	}
	if d.pend(decideBy) {
		return nil
	}

	if !e.holds(rule.required, "") {
		d.end(StageRequired, priorauth.DecisionNotRequired, priorauth.ActionCodeNA)
		return e.err
	}
	for _, x := range rule.exempt {
		if e.holds(x, "") {
			d.end(StageExempt, priorauth.DecisionApproved, priorauth.ActionCodeA1)
			d.Approved = rule.grant(&f.Request, rule.approve.Months, d.At)
			return nil
		}
	}
	for _, m := range rule.missing {
		if !e.holds(m.expression, "") {
			continue
		}
		due := decideBy
		if own := d.At.Add(hours(m.DueHours)); m.DueHours > 0 && own.Before(due) {
			due = own
		}
		d.Missing = append(d.Missing, priorauth.MissingItem{Field: m.Field, Ask: m.Ask, DueAt: due})
	}
	if e.err != nil || d.pend(decideBy) {
		return e.err
	}
	for _, c := range rule.criteria {
		if !e.holds(c.expression, c.reason.Code) {
			d.end(StageCriteria, priorauth.DecisionDenied, priorauth.ActionCodeA3)
			d.because(c.reason.Code, *c.reason.Text)
			d.Appeal, d.PeerToPeer = r.rights(f.Plan.LineOfBusiness, d.At)
			return e.err
		}
	}
	return e.approve(f)
}

// approve ends a decision that no criterion denies: modified by the rule, cut to the rule's quantity, or as asked.
func (e *evaluation) approve(f *Facts) error {
	d, rule, rx, months := e.d, e.rule, f.Request, e.rule.approve.Months
	d.end(StageApprove, priorauth.DecisionApproved, priorauth.ActionCodeA1)
	for _, m := range rule.modify {
		if !e.holds(m.expression, m.reason.Code) {
			continue
		}
		d.end(StageModify, priorauth.DecisionModified, priorauth.ActionCodeA6)
		d.because(m.reason.Code, *m.reason.Text)
		set := m.entry.Set
		if set.Quantity != nil {
			rx.Quantity = set.Quantity
		}
		if set.DaysSupply != nil {
			rx.DaysSupply = set.DaysSupply
		}
		if set.Refills != nil {
			rx.Refills = set.Refills
		}
		if set.Months != nil {
			months = *set.Months
		}
	}
	if e.err != nil {
		return e.err
	}
	if q := rule.approve.Quantity; exceeds(&rx, q.Amount, q.PerDays) {
		part := allowed(&rx, q.Amount, q.PerDays)
		rx.Quantity = &part
		if d.Outcome == priorauth.DecisionApproved {
			d.end(StageApprove, priorauth.DecisionPartiallyApproved, priorauth.ActionCodeA2)
		}
		d.because("QUANTITY-LIMIT", "The quantity is more than the plan allows "+q.span()+"; that much is approved.")
	}
	d.Approved = rule.grant(&rx, months, d.At)
	return nil
}

// span is the rule's quantity in words: "(60 tablet in 30 days)".
func (q quantityEntry) span() string {
	if q.PerDays == 0 {
		return fmt.Sprintf("(%g %s for each fill)", q.Amount, q.Unit)
	}
	return fmt.Sprintf("(%g %s in %d days)", q.Amount, q.Unit, q.PerDays)
}

// grant approves what the request asks for, and the rule's quantity where it does not say.
func (r *rule) grant(rx *Request, months int, at time.Time) *Grant {
	q := r.approve.Quantity
	g := &Grant{Quantity: q.Amount, Unit: q.Unit, DaysSupply: q.PerDays, Months: months}
	if rx.DaysSupply != nil {
		g.DaysSupply = *rx.DaysSupply
		g.Quantity = allowed(rx, q.Amount, q.PerDays)
	}
	if rx.Quantity != nil {
		g.Quantity = *rx.Quantity
	}
	if rx.Refills != nil {
		refills := *rx.Refills
		g.Refills = &refills
	}
	g.Period = priorauth.Period{Start: at, End: afterMonths(at, months)}
	return g
}

// afterMonths is the same day and time months later, or the last day of that month where it is shorter.
func afterMonths(t time.Time, months int) time.Time {
	end := t.AddDate(0, months, 0)
	if end.Day() < t.Day() {
		end = end.AddDate(0, 0, -end.Day())
	}
	return end
}

// rights returns how a denial can be appealed, and whom to call about it.
func (r *Rules) rights(lob priorauth.PayerLineOfBusiness, at time.Time) (*priorauth.Appeal, *priorauth.PeerToPeer) {
	e, ok := r.appeals[string(lob)]
	if !ok {
		e = r.appeals[anyOther]
	}
	expedited := e.ExpeditedAvailable
	return &priorauth.Appeal{
			Deadline: at.AddDate(0, 0, e.Days), Channel: e.Channel,
			Address: stated(e.Address), Instructions: stated(e.Instructions), ExpeditedAvailable: &expedited,
		}, &priorauth.PeerToPeer{
			Name: stated(e.PeerToPeer.Name), PhoneNumber: stated(e.PeerToPeer.PhoneNumber), AvailableUntil: at.AddDate(0, 0, e.PeerToPeer.Days),
		}
}

// stated is nil for an empty text.
func stated(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// evaluation is one rule at work on one request. After an error every further expression is false and nothing is noted.
type evaluation struct {
	rule  *rule
	d     *Decision
	facts map[string]any
	err   error
}

// holds evaluates x and notes what it gave.
func (e *evaluation) holds(x expression, reasonCode string) bool {
	if e.err != nil {
		return false
	}
	out, _, err := x.program.Eval(e.facts)
	if err != nil {
		// The engine's own text may quote a value, so it stays here.
		e.err = fmt.Errorf("%w: rule %s, %s %s; a person has to decide, and the rule needs correcting", ErrEvaluation, e.rule.id, x.stage, x.id)
		if strings.Contains(err.Error(), "cost limit exceeded") {
			e.err = fmt.Errorf("%w: rule %s, %s %s; a person has to decide, and the rule needs to be made simpler", ErrCost, e.rule.id, x.stage, x.id)
		}
		return false
	}
	result, _ := out.Value().(bool) // its type was checked when it was loaded
	e.d.Checks = append(e.d.Checks, Check{ID: x.id, Stage: x.stage, Result: result, ReasonCode: reasonCode})
	return result
}

func (d *Decision) end(stage Stage, outcome priorauth.Decision, action priorauth.ActionCode) {
	d.Stage, d.Outcome, d.Action = stage, outcome, action
}

func (d *Decision) because(code, text string) {
	d.Reasons = append(d.Reasons, priorauth.Reason{Code: code, Text: &text})
}

// pend ends the decision when something is missing.
func (d *Decision) pend(decideBy time.Time) bool {
	if len(d.Missing) == 0 {
		return false
	}
	d.end(StageMissingInfo, priorauth.DecisionPended, priorauth.ActionCodeA4)
	d.because("MISSING-INFORMATION", "The request cannot be decided before the questions are answered.")
	d.DecideBy = decideBy
	return true
}

var patientQuestions = map[string]string{
	"age":   "What is the patient's date of birth?",
	"sex":   "What is the patient's sex?",
	"state": "In which state does the patient live?",
}

// states reports whether a member of the patient that a rule asks for is known.
func (p *Patient) states(member string) bool {
	switch member {
	case "age":
		return p.Age != nil
	case "sex":
		return p.Sex != "" && p.Sex != priorauth.GenderUnknown
	default:
		return p.State != ""
	}
}
