package payer_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/services/payer"
)

// consistent reports how the parts of a decision contradict each other. It knows the order of the stages and what each
// outcome must bring, and nothing of any rule.
func consistent(d payer.Decision) error {
	actions := map[priorauth.Decision]priorauth.ActionCode{
		priorauth.DecisionApproved: priorauth.ActionCodeA1, priorauth.DecisionPartiallyApproved: priorauth.ActionCodeA2,
		priorauth.DecisionDenied: priorauth.ActionCodeA3, priorauth.DecisionPended: priorauth.ActionCodeA4,
		priorauth.DecisionModified: priorauth.ActionCodeA6, priorauth.DecisionContactPayer: priorauth.ActionCodeCT,
		priorauth.DecisionNotRequired: priorauth.ActionCodeNA,
	}
	action, known := actions[d.Outcome]
	if !known || action != d.Action {
		return fmt.Errorf("outcome %q with action %q", d.Outcome, d.Action)
	}
	order := []payer.Stage{payer.StageRequired, payer.StageExempt, payer.StageMissingInfo, payer.StageCriteria, payer.StageModify}
	results := map[payer.Stage][]bool{}
	last := -1
	for _, c := range d.Checks {
		place := slices.Index(order, c.Stage)
		if place < last || place < 0 {
			return fmt.Errorf("%s was evaluated in stage %s after a later stage", c.ID, c.Stage)
		}
		last = place
		results[c.Stage] = append(results[c.Stage], c.Result)
	}
	// Where the expressions say that the decision ends.
	end := payer.StageApprove
	switch asked := func(s payer.Stage, v bool) bool { return slices.Contains(results[s], v) }; {
	case d.Stage == payer.StageMember || d.Stage == payer.StageOnFile || d.Stage == payer.StageNoRule:
		if end = d.Stage; len(d.Checks) > 0 {
			return fmt.Errorf("expressions were evaluated although it ended at %s", d.Stage)
		}
	case len(d.Checks) == 0:
		end = payer.StageMissingInfo
	case asked(payer.StageRequired, false):
		end = payer.StageRequired
	case asked(payer.StageExempt, true):
		end = payer.StageExempt
	case asked(payer.StageMissingInfo, true):
		end = payer.StageMissingInfo
	case asked(payer.StageCriteria, false):
		end = payer.StageCriteria
	case asked(payer.StageModify, true):
		end = payer.StageModify
	}
	if end != d.Stage {
		return fmt.Errorf("it ended at %s, its checks end at %s: %+v", d.Stage, end, d.Checks)
	}
	if last > slices.Index(order, end) && end != payer.StageApprove && slices.Contains(order, end) {
		return fmt.Errorf("expressions were evaluated after the end at %s", end)
	}
	if wrong := slices.Index(results[payer.StageCriteria], false); wrong >= 0 && wrong != len(results[payer.StageCriteria])-1 {
		return fmt.Errorf("criteria were evaluated after the first false one")
	}
	outcomes := map[payer.Stage][]priorauth.Decision{
		payer.StageMember: {priorauth.DecisionContactPayer}, payer.StageOnFile: {priorauth.DecisionApproved},
		payer.StageNoRule: {priorauth.DecisionNotRequired}, payer.StageRequired: {priorauth.DecisionNotRequired},
		payer.StageExempt: {priorauth.DecisionApproved}, payer.StageMissingInfo: {priorauth.DecisionPended},
		payer.StageCriteria: {priorauth.DecisionDenied}, payer.StageModify: {priorauth.DecisionModified},
		payer.StageApprove: {priorauth.DecisionApproved, priorauth.DecisionPartiallyApproved},
	}
	if !slices.Contains(outcomes[d.Stage], d.Outcome) {
		return fmt.Errorf("outcome %s at stage %s", d.Outcome, d.Stage)
	}
	pended, denied := d.Outcome == priorauth.DecisionPended, d.Outcome == priorauth.DecisionDenied
	granted := d.Stage == payer.StageExempt || d.Stage == payer.StageModify || d.Stage == payer.StageApprove
	plain := d.Outcome == priorauth.DecisionApproved || d.Outcome == priorauth.DecisionNotRequired
	switch {
	case pended != (len(d.Missing) > 0) || pended == d.DecideBy.IsZero():
		return fmt.Errorf("%s with %d questions", d.Outcome, len(d.Missing))
	case denied != (d.Appeal != nil) || denied != (d.PeerToPeer != nil):
		return fmt.Errorf("%s with appeal %v", d.Outcome, d.Appeal)
	case granted != (d.Approved != nil) || (d.Stage == payer.StageOnFile) != (d.OnFile != ""):
		return fmt.Errorf("%s at %s with grant %v and on file %q", d.Outcome, d.Stage, d.Approved, d.OnFile)
	case plain != (len(d.Reasons) == 0):
		return fmt.Errorf("%s with reasons %v", d.Outcome, d.Reasons)
	case denied && d.Checks[len(d.Checks)-1].ReasonCode != d.Reasons[0].Code:
		return fmt.Errorf("the reason is not that of the last check")
	case granted && (!d.Approved.Period.End.After(d.At) || d.Approved.Quantity <= 0):
		return fmt.Errorf("grant %+v", d.Approved)
	}
	for _, m := range d.Missing {
		if !m.DueAt.After(d.At) || m.DueAt.After(d.DecideBy) {
			return fmt.Errorf("%s is due at %v, the decision at %v", m.Field, m.DueAt, d.DecideBy)
		}
	}
	return nil
}

// anyFacts draws requests from what the rules look at and from what they do not know.
func anyFacts(rules *payer.Rules) *rapid.Generator[payer.Facts] {
	ruled := rapid.SampledFrom(append(rules.Drugs(), "1"))
	past := rapid.SampledFrom(append(rules.Drugs(), "895994", "748962", "860975", "997223", "204892", "197361", "1"))
	code := rapid.SampledFrom([]string{"195967001", "13645005", "59621000", "44054006", "46635009", "82423001", "254837009", "5602001", "192127007", "26929004", "69896004", "1", ""})
	days := rapid.Int64Range(0, 800)
	name := rapid.SampledFrom([]string{"", "Methotrexate", "LEFLUNOMIDE 10", "x"})
	return rapid.Custom(func(t *rapid.T) payer.Facts {
		return payer.Facts{
			Request: payer.Request{
				RxCUI: ruled.Draw(t, "rxcui"), Name: rapid.String().Draw(t, "name"),
				Quantity:            rapid.Ptr(rapid.OneOf(rapid.Float64Range(0.001, 100), rapid.Float64Range(0.001, 1e9)), true).Draw(t, "quantity"),
				DaysSupply:          rapid.Ptr(rapid.OneOf(rapid.Int64Range(1, 100), rapid.Int64Range(1, 36525)), true).Draw(t, "daysSupply"),
				Refills:             rapid.Ptr(rapid.Int64Range(0, 12), true).Draw(t, "refills"),
				Priority:            rapid.SampledFrom([]priorauth.Urgency{"", "standard", "expedited"}).Draw(t, "priority"),
				PrescriberSpecialty: rapid.Ptr(rapid.String(), true).Draw(t, "specialty"),
				DispenseAsWritten:   rapid.Ptr(rapid.Bool(), true).Draw(t, "daw"),
			},
			Patient: payer.Patient{
				ID: "P1", Age: rapid.Ptr(rapid.Int64Range(0, 120), true).Draw(t, "age"),
				Sex:   rapid.SampledFrom([]priorauth.Gender{"", "female", "male", "other", "unknown", "?"}).Draw(t, "sex"),
				State: rapid.SampledFrom([]string{"", "MA"}).Draw(t, "state"),
			},
			Diagnoses: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) payer.Diagnosis {
				return payer.Diagnosis{Code: code.Draw(t, "code"), Active: rapid.Bool().Draw(t, "active"), DaysAgo: days.Draw(t, "days")}
			}), 0, 6).Draw(t, "dx"),
			History: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) payer.PastDrug {
				return payer.PastDrug{RxCUI: past.Draw(t, "rxcui"), Name: name.Draw(t, "name"), DaysAgo: days.Draw(t, "days")}
			}), 0, 8).Draw(t, "hist"),
			Allergies: rapid.SliceOfN(rapid.Just(payer.Allergy{Code: "1"}), 0, 1).Draw(t, "allergy"),
			Observations: rapid.MapOfN(rapid.SampledFrom([]string{"4548-4", "8480-6"}), rapid.Custom(func(t *rapid.T) payer.Observation {
				return payer.Observation{Value: rapid.Float64().Draw(t, "value"), DaysAgo: days.Draw(t, "days")}
			}), 0, 2).Draw(t, "obs"),
			Plan: payer.Plan{
				Payer:          rapid.SampledFrom([]string{"", "Acme"}).Draw(t, "payer"),
				LineOfBusiness: rapid.SampledFrom([]priorauth.PayerLineOfBusiness{"", "commercial", "medicaid", "medicare-part-d", "new"}).Draw(t, "lob"),
				MemberID:       rapid.SampledFrom([]string{"", "M1", "M1", "M1"}).Draw(t, "member"),
			},
		}
	})
}

func TestAnyRequestHasOneAnswer(t *testing.T) {
	rules := defaultRules(t)
	facts := anyFacts(rules)
	seen := map[priorauth.Decision]int{}
	rapid.Check(t, func(t *rapid.T) {
		f := facts.Draw(t, "facts")
		at := time.Unix(rapid.Int64Range(-1e9, 4e9).Draw(t, "at"), 0)
		var onFile []payer.Authorization
		if rapid.IntRange(0, 9).Draw(t, "onFile") == 0 {
			onFile = []payer.Authorization{{Number: "A1", PatientID: "P1", RxCUI: f.Request.RxCUI, Payer: f.Plan.Payer, From: at, Until: at.Add(time.Hour)}}
		}
		d, err := rules.Decide(f, onFile, at)
		if err != nil {
			t.Fatal(err)
		}
		if err := consistent(d); err != nil {
			t.Fatal(err)
		}
		if d.Fingerprint != f.Fingerprint() {
			t.Fatal("the fingerprint is not that of the facts")
		}
		seen[d.Outcome]++
		// An approval answers the same request as long as it holds, and not a moment longer.
		a, ok := d.Authorization("A2", f)
		if !ok {
			return
		}
		// What was cut is not covered by what was left of it.
		covered := d.Outcome == priorauth.DecisionApproved
		for at, want := range map[time.Time]bool{a.From: covered, a.Until.Add(-1): covered, a.Until: false} {
			if again, err := rules.Decide(f, []payer.Authorization{a}, at); err != nil || (again.Stage == payer.StageOnFile) != want {
				t.Fatalf("at %v of %v to %v: %v %v", at, a.From, a.Until, again.Stage, err)
			}
		}
	})
	t.Log(seen)
}
