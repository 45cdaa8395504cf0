package payer_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/services/payer"
)

// small is a rule file with one rule for the drug 1; the tests change one place of it.
const small = `{
  "format": "carebus.payer-rules/1", "id": "small", "version": "1.2.3",
  "sets": {"ASTHMA": ["195967001"]},
  "rules": [{
    "id": "R1", "version": "1.0.0", "title": "Some inhaler", "benefit": "pharmacy", "drugs": ["1"],
    "paRequiredWhen": "true",
    "exempt": [{"id": "exempt", "when": "false"}],
    "missingInfo": [{"id": "missing", "field": "daysSupply", "when": "!has(rx.daysSupply)", "ask": "How long?"}],
    "criteria": [{"id": "first", "when": "dx.exists(d, d.code in sets.ASTHMA)", "reasonCode": "DX", "reason": "No asthma."}],
    "modify": [{"id": "less", "when": "has(rx.quantity) && rx.quantity > 9", "set": {"quantity": 9}, "reasonCode": "QL", "reason": "Too many."}],
    "approve": {"months": 12, "quantity": {"amount": 1, "perDays": 30, "unit": "inhaler"}}
  }],
  "clocks": [
    {"lineOfBusiness": "*", "benefit": "pharmacy", "urgency": "standard", "hours": 72, "remindHoursBefore": 24, "escalateHoursBefore": 8, "source": "house"},
    {"lineOfBusiness": "*", "benefit": "pharmacy", "urgency": "expedited", "hours": 24, "remindHoursBefore": 8, "escalateHoursBefore": 3, "source": "house"},
    {"lineOfBusiness": "*", "benefit": "medical", "urgency": "standard", "hours": 72, "remindHoursBefore": 24, "escalateHoursBefore": 8, "source": "house"},
    {"lineOfBusiness": "*", "benefit": "medical", "urgency": "expedited", "hours": 24, "remindHoursBefore": 8, "escalateHoursBefore": 3, "source": "house"}
  ],
  "appeals": [{"lineOfBusiness": "*", "days": 60, "channel": "fax", "address": "+1-800-555-0100", "peerToPeer": {"phoneNumber": "+1-800-555-0101", "days": 14}, "source": "house"}],
  "dispensing": [{"payer": "*", "pickupDays": 14, "emergencySupplyDays": 3, "source": "house"}]
}`

func TestSmallFileLoads(t *testing.T) {
	rules, err := payer.LoadRules([]byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if id, version := rules.ID(); id != "small" || version != "1.2.3" {
		t.Errorf("%s %s", id, version)
	}
	if drugs := rules.Drugs(); len(drugs) != 1 || drugs[0] != "1" {
		t.Errorf("drugs %v", drugs)
	}
}

func TestLoadRefuses(t *testing.T) {
	criterion := `"when": "dx.exists(d, d.code in sets.ASTHMA)"`
	rule := small[strings.Index(small, `{
    "id": "R1"`):strings.Index(small, "],\n  \"clocks\"")]
	tests := []struct {
		name, old, new string
		want           payer.Problem // Message and Remedy: a part; Line and Column where they are set
	}{
		{"no JSON", small, `{"format": nope}`, payer.Problem{Code: "json", Line: 1}},
		{"text after the end", small, small + "x", payer.Problem{Code: "json"}},
		{"half a file", small, small[:200], payer.Problem{Code: "json"}},
		{"nothing", small, "", payer.Problem{Code: "json"}},
		{"not an object", small, "[]", payer.Problem{Code: "type"}},
		{"another type", `"months": 12`, `"months": "12"`, payer.Problem{Code: "type", Expression: "months", Line: 11}},
		{"unknown member of the file", `"sets":`, `"set":`, payer.Problem{Code: "unknown-member", Message: `"set"`}},
		{"unknown member of a rule", `"title"`, `"titel"`, payer.Problem{Code: "unknown-member", Message: `"titel"`, Line: 5, Column: 37}},
		{"a set twice", `"sets": {`, `"sets": {"ASTHMA": ["1"], `, payer.Problem{Code: "repeated-member", Expression: "ASTHMA", Line: 3}},
		{"a member twice in other case", `"drugs": ["1"]`, `"drugs": ["1"], "Drugs": ["2"]`, payer.Problem{Code: "repeated-member", Expression: "Drugs"}},
		{"format", "rules/1", "rules/2", payer.Problem{Code: "format", Remedy: "carebus.payer-rules/1"}},
		{"no id", `"id": "small"`, `"id": ""`, payer.Problem{Code: "required", Expression: "id"}},
		{"no version", `"1.2.3"`, `"1.2"`, payer.Problem{Code: "required", Expression: "version"}},
		{"no rules", rule, "", payer.Problem{Code: "required", Expression: "rules"}},
		{"set's name", `"sets": {`, `"sets": {"other": ["1"], `, payer.Problem{Code: "set-name", Expression: "sets.other"}},
		{"empty set", `["195967001"]`, `[]`, payer.Problem{Code: "set-codes", Expression: "sets.ASTHMA"}},
		{"code twice", `["195967001"]`, `["1", "1"]`, payer.Problem{Code: "set-codes", Expression: "sets.ASTHMA"}},
		{"rule without id", `"id": "R1"`, `"id": ""`, payer.Problem{Code: "required", Expression: "rules[0].id"}},
		{"rule without version", `"version": "1.0.0"`, `"version": "x"`, payer.Problem{Code: "required", Rule: "R1", Expression: "version"}},
		{"rule without title", `"Some inhaler"`, `" "`, payer.Problem{Code: "required", Rule: "R1", Expression: "title"}},
		{"benefit", `"benefit": "pharmacy", "drugs"`, `"benefit": "services", "drugs"`, payer.Problem{Code: "benefit", Rule: "R1"}},
		{"no drugs", `"drugs": ["1"]`, `"drugs": []`, payer.Problem{Code: "required", Rule: "R1", Expression: "drugs"}},
		{"empty drug", `"drugs": ["1"]`, `"drugs": [""]`, payer.Problem{Code: "required", Rule: "R1", Expression: "drugs"}},
		{"drug twice", `"drugs": ["1"]`, `"drugs": ["1", "1"]`, payer.Problem{Code: "drug-in-two-rules", Rule: "R1"}},
		{"drug in two rules", rule, rule + "," + strings.Replace(rule, "R1", "R2", 1), payer.Problem{Code: "drug-in-two-rules", Rule: "R2", Expression: "drugs", Message: "rule R1"}},
		{"two rules of one id", rule, rule + "," + strings.Replace(rule, `["1"]`, `["2"]`, 1), payer.Problem{Code: "repeated-rule", Rule: "R1"}},
		{"expression without id", `"id": "first"`, `"id": ""`, payer.Problem{Code: "required", Rule: "R1", Expression: "criteria"}},
		{"two expressions of one id", `"id": "first"`, `"id": "exempt"`, payer.Problem{Code: "repeated-expression", Rule: "R1", Expression: "exempt"}},
		{"no condition", `"paRequiredWhen": "true"`, `"paRequiredWhen": ""`, payer.Problem{Code: "required", Rule: "R1", Expression: "paRequiredWhen"}},
		{"unknown set", criterion, `"when": "dx.exists(d, d.code in sets.ASTMA)"`, payer.Problem{Code: "unknown-set", Rule: "R1", Expression: "first", Line: 1, Column: 28, Remedy: "sets.ASTHMA"}},
		{"unknown member", criterion, `"when": "pt.agee > 4"`, payer.Problem{Code: "unknown-member", Rule: "R1", Expression: "first", Line: 1, Column: 3, Message: "agee"}},
		{"unknown member in a loop", criterion, `"when": "true &&\n  hist.exists(h, h.code == 'x')"`, payer.Problem{Code: "unknown-member", Rule: "R1", Expression: "first", Line: 2, Column: 19}},
		{"unknown name", criterion, `"when": "patient.age > 4"`, payer.Problem{Code: "unknown-name", Rule: "R1", Expression: "first", Line: 1, Column: 1}},
		{"syntax", criterion, `"when": "true &&"`, payer.Problem{Code: "syntax", Rule: "R1", Expression: "first", Line: 1}},
		{"types", criterion, `"when": "rx.rxcui == 3"`, payer.Problem{Code: "types", Rule: "R1", Expression: "first", Line: 1, Column: 10}},
		{"not boolean", criterion, `"when": "hist.size()"`, payer.Problem{Code: "not-boolean", Rule: "R1", Expression: "first", Message: "int"}},
		{"perhaps boolean", criterion, `"when": "dyn(true)"`, payer.Problem{Code: "not-boolean", Rule: "R1", Expression: "first", Message: "dyn"}},
		{"too long", criterion, `"when": "` + strings.Repeat(" ", 5000) + `true"`, payer.Problem{Rule: "R1", Expression: "first"}},
		{"too deep", criterion, `"when": "` + strings.Repeat("(", 500) + "true" + strings.Repeat(")", 500) + `"`, payer.Problem{Rule: "R1", Expression: "first"}},
		{"bad pattern", criterion, `"when": "rx.name.matches('(')"`, payer.Problem{Rule: "R1", Expression: "first"}},
		{"optional member", criterion, `"when": "rx.quantity\n < 5"`, payer.Problem{Code: "untested", Rule: "R1", Expression: "first", Line: 1, Column: 4, Remedy: "has(rx.quantity)"}},
		{"optional member tested elsewhere", `"when": "has(rx.quantity) && rx.quantity > 9"`, `"when": "has(rx.refills) && rx.quantity > 9"`, payer.Problem{Code: "untested", Rule: "R1", Expression: "less"}},
		{"optional member tested in a text", criterion, `"when": "'has(rx.refills)' != '' && rx.refills > 1"`, payer.Problem{Code: "untested", Rule: "R1", Expression: "first"}},
		{"optional member asked for too late", `"when": "false"`, `"when": "rx.daysSupply < 3"`, payer.Problem{Code: "untested", Rule: "R1", Expression: "exempt"}},
		{"optional member asked for by a criterion", `"criteria": [`, `"criteria": [{"id": "x", "when": "!has(rx.refills)", "reasonCode": "X", "reason": "X"}, {"id": "y", "when": "rx.refills > 1", "reasonCode": "X", "reason": "X"},`, payer.Problem{Code: "untested", Rule: "R1", Expression: "y"}},
		{"fails for an empty record", criterion, `"when": "obs['4548-4'].value > 9"`, payer.Problem{Code: "empty-record", Rule: "R1", Expression: "first"}},
		{"no reason", `"reason": "No asthma."`, `"reason": ""`, payer.Problem{Code: "reason", Rule: "R1", Expression: "first"}},
		{"no reason code", `"reasonCode": "QL"`, `"reasonCode": ""`, payer.Problem{Code: "reason", Rule: "R1", Expression: "less"}},
		{"no question", `"ask": "How long?"`, `"ask": ""`, payer.Problem{Code: "missing-info", Rule: "R1", Expression: "missing"}},
		{"changes nothing", `"set": {"quantity": 9}`, `"set": {}`, payer.Problem{Code: "modify", Rule: "R1", Expression: "less"}},
		{"changes to nothing", `"set": {"quantity": 9}`, `"set": {"months": 0}`, payer.Problem{Code: "modify", Rule: "R1", Expression: "less"}},
		{"no months", `"months": 12`, `"months": 0`, payer.Problem{Code: "approve", Rule: "R1"}},
		{"no quantity", `"amount": 1,`, ``, payer.Problem{Code: "approve", Rule: "R1"}},
		{"clock for whom", `"clocks": [`, `"clocks": [{"lineOfBusiness": "martian", "benefit": "pharmacy", "urgency": "standard", "hours": 3, "remindHoursBefore": 2, "escalateHoursBefore": 1, "source": "x"},`, payer.Problem{Code: "clock", Expression: "clocks[0]"}},
		{"clock out of order", `"hours": 72, "remindHoursBefore": 24, "escalateHoursBefore": 8`, `"hours": 72, "remindHoursBefore": 8, "escalateHoursBefore": 8`, payer.Problem{Code: "clock", Expression: "clocks[0]"}},
		{"clock without source", `"escalateHoursBefore": 3, "source": "house"`, `"escalateHoursBefore": 3, "source": ""`, payer.Problem{Code: "source", Expression: "clocks[1]"}},
		{"clock twice", `"medical", "urgency": "standard"`, `"pharmacy", "urgency": "standard"`, payer.Problem{Code: "clock", Expression: "clocks[2]"}},
		{"no clock for others", `"medical", "urgency": "standard"`, `"services", "urgency": "standard"`, payer.Problem{Code: "clock", Expression: "clocks", Message: "standard medical"}},
		{"no appeal for others", `"appeals": [{"lineOfBusiness": "*"`, `"appeals": [{"lineOfBusiness": "chip"`, payer.Problem{Code: "appeal", Expression: "appeals"}},
		{"appeal without deadline", `"days": 60`, `"days": 0`, payer.Problem{Code: "appeal", Expression: "appeals[0]"}},
		{"appeal by pigeon", `"channel": "fax"`, `"channel": "pigeon"`, payer.Problem{Code: "appeal", Expression: "appeals[0]"}},
		{"nobody to call", `"phoneNumber": "+1-800-555-0101"`, `"phoneNumber": ""`, payer.Problem{Code: "appeal", Expression: "appeals[0]"}},
		{"appeal twice", `"appeals": [`, `"appeals": [{"lineOfBusiness": "*", "days": 1, "channel": "fax", "address": "x", "peerToPeer": {"phoneNumber": "x", "days": 1}, "source": "x"},`, payer.Problem{Code: "appeal", Expression: "appeals[1]"}},
		{"appeal without source", `"days": 14}, "source": "house"`, `"days": 14}`, payer.Problem{Code: "source", Expression: "appeals[0]"}},
		{"payer twice", `"dispensing": [`, `"dispensing": [{"payer": " * ", "pickupDays": 1, "source": "x"},`, payer.Problem{Code: "dispensing", Expression: "dispensing[1]"}},
		{"figures without source", `"emergencySupplyDays": 3, "source": "house"`, `"emergencySupplyDays": 3`, payer.Problem{Code: "source", Expression: "dispensing[0]"}},
		{"no figures for other payers", `"payer": "*"`, `"payer": "Acme"`, payer.Problem{Code: "dispensing", Expression: "dispensing"}},
		{"no pickup", `"pickupDays": 14`, `"pickupDays": 0`, payer.Problem{Code: "dispensing", Expression: "dispensing[0]"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if !strings.Contains(small, test.old) {
				t.Fatalf("the file has no %s", test.old)
			}
			rules, err := payer.LoadRules([]byte(strings.Replace(small, test.old, test.new, 1)))
			var load *payer.LoadError
			if !errors.As(err, &load) || rules != nil {
				t.Fatalf("rules %v, error %v", rules != nil, err)
			}
			for _, p := range load.Problems {
				if p.Remedy == "" || !strings.Contains(err.Error(), p.Message) {
					t.Errorf("no remedy, or not in the error's text: %v", p)
				}
				if matches(p, test.want) {
					return
				}
			}
			t.Errorf("got\n%v, want one like\n%+v", err, test.want)
		})
	}
}

// matches compares what want states.
func matches(p, want payer.Problem) bool {
	return (want.Code == "" || p.Code == want.Code) && p.Rule == want.Rule &&
		(want.Expression == "" || p.Expression == want.Expression || strings.HasSuffix(p.Expression, "."+want.Expression)) &&
		(want.Line == 0 || p.Line == want.Line) && (want.Column == 0 || p.Column == want.Column) &&
		strings.Contains(p.Message, want.Message) && strings.Contains(p.Remedy, want.Remedy)
}

func TestEveryProblemIsReported(t *testing.T) {
	file := strings.NewReplacer(`"months": 12`, `"months": 0`, "sets.ASTHMA", "sets.OTHER", `"pickupDays": 14`, `"pickupDays": 0`).Replace(small)
	_, err := payer.LoadRules([]byte(file))
	var load *payer.LoadError
	if !errors.As(err, &load) || len(load.Problems) != 3 {
		t.Errorf("three things are wrong: %v", err)
	}
}

// TestExpressionsWithinTheirMeans: a rule may be dear for one patient only, so the limit is one of evaluation.
func TestExpressionsWithinTheirMeans(t *testing.T) {
	loop := strings.Replace(small, "dx.exists(d, d.code in sets.ASTHMA)",
		"hist.exists(a, hist.exists(b, hist.exists(c, a.rxcui == 'x' && b.rxcui == c.rxcui)))", 1)
	rules, err := payer.LoadRules([]byte(loop))
	if err != nil {
		t.Fatal(err)
	}
	f := asking("1", func(f *payer.Facts) {
		f.Request.DaysSupply = ptr(int64(30))
		f.History = make([]payer.PastDrug, 300)
	})
	d, err := rules.Decide(f, nil, monday)
	if !errors.Is(err, payer.ErrCost) || d.Outcome != "" {
		t.Errorf("%v, %v", d.Outcome, err)
	} else if !strings.Contains(err.Error(), "rule R1, criteria first") {
		t.Errorf("the error does not say where: %v", err)
	}
	f.History = f.History[:3]
	if d, err := rules.Decide(f, nil, monday); err != nil || d.Outcome != priorauth.DecisionDenied {
		t.Errorf("a short history: %v, %v", d.Outcome, err)
	}
	for _, drug := range defaultRules(t).Drugs() {
		long := asking(drug, func(f *payer.Facts) {
			f.Request.PrescriberSpecialty, f.Request.Quantity, f.Request.DaysSupply = ptr("x"), ptr(9.0), ptr(int64(30))
			for _, code := range []string{"69896004", "82423001", "195967001", "59621000", "44054006", "26929004", "192127007"} {
				f.Diagnoses = append(f.Diagnoses, payer.Diagnosis{Code: code})
			}
			f.History = slices.Repeat([]payer.PastDrug{{RxCUI: "1234567", Name: strings.Repeat("long name ", 8), DaysAgo: 100}}, 10_000)
		})
		if _, err := defaultRules(t).Decide(long, nil, monday); err != nil {
			t.Errorf("drug %s and a history of ten thousand drugs: %v", drug, err)
		}
	}
}

// TestModificationsAddUp: every true one counts, the later over the earlier, and the rule's quantity still holds after.
func TestModificationsAddUp(t *testing.T) {
	modify := small[strings.Index(small, `"modify": [`):strings.Index(small, `    "approve"`)]
	rules, err := payer.LoadRules([]byte(strings.Replace(small, modify, `"modify": [
      {"id": "a", "when": "true", "set": {"refills": 1, "months": 6, "quantity": 7}, "reasonCode": "A", "reason": "Six months."},
      {"id": "b", "when": "false", "set": {"months": 1}, "reasonCode": "B", "reason": "One month."},
      {"id": "c", "when": "rx.daysSupply > 60", "set": {"daysSupply": 60, "months": 3}, "reasonCode": "C", "reason": "Sixty days."}
    ],
`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := rules.Decide(asking("1", func(f *payer.Facts) {
		f.Request.DaysSupply, f.Request.Refills = ptr(int64(90)), ptr(int64(9))
		f.Diagnoses = []payer.Diagnosis{{Code: "195967001"}}
	}), nil, monday)
	if err != nil {
		t.Fatal(err)
	}
	if err := consistent(d); err != nil {
		t.Error(err)
	}
	want := payer.Grant{Quantity: 2, Unit: "inhaler", DaysSupply: 60, Refills: ptr(int64(1)), Months: 3,
		Period: priorauth.Period{Start: monday, End: monday.AddDate(0, 3, 0)}}
	if diff := cmp.Diff(&want, d.Approved); diff != "" || !strings.HasSuffix(trace(d), "modified A6 A C QUANTITY-LIMIT") {
		t.Errorf("%s (-want +got)\n%s", trace(d), diff)
	}
}

// TestFailingExpressionIsNoAnswer: the first failure is the one that is named.
func TestFailingExpressionIsNoAnswer(t *testing.T) {
	const fails = "hist.all(h, int(h.name) > 3)"
	for place, file := range map[string]string{
		"exempt exempt":                 strings.NewReplacer(`"when": "false"`, `"when": "`+fails+`"}, {"id": "always", "when": "true"`, "dx.exists(d, d.code in sets.ASTHMA)", fails).Replace(small),
		"criteria first":                strings.Replace(small, "dx.exists(d, d.code in sets.ASTHMA)", fails, 1),
		"modify less":                   strings.Replace(small, "has(rx.quantity) && rx.quantity > 9", fails, 1),
		"missingInfo missing":           strings.Replace(small, "!has(rx.daysSupply)", fails, 1),
		"paRequiredWhen paRequiredWhen": strings.Replace(small, `"paRequiredWhen": "true"`, `"paRequiredWhen": "`+fails+`"`, 1),
	} {
		rules, err := payer.LoadRules([]byte(file))
		if err != nil {
			t.Fatal(err)
		}
		d, err := rules.Decide(asking("1", func(f *payer.Facts) {
			f.Request.DaysSupply = ptr(int64(30))
			f.Diagnoses = []payer.Diagnosis{{Code: "195967001"}}
			f.History = []payer.PastDrug{{Name: "SECRET"}}
		}), nil, monday)
		if !errors.Is(err, payer.ErrEvaluation) || d.Outcome != "" || !strings.Contains(err.Error(), "rule R1, "+place+";") || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: %v, %v", place, d.Outcome, err)
		}
	}
}

// TestRuleThatCanDoWithoutAge: a rule that tests for the age is not stopped by its absence; one that reads it is.
func TestRuleThatCanDoWithoutAge(t *testing.T) {
	for when, want := range map[string]string{
		"has(pt.age) && pt.age > 17": "paRequiredWhen=true exempt=false missing=false first=false denied A3 DX",
		"pt.age > 17":                "pended A4 MISSING-INFORMATION",
		"pt.state == 'MA'":           "pended A4 MISSING-INFORMATION",
		"'pt.state' == plan.payer":   "paRequiredWhen=true exempt=false missing=false first=false denied A3 DX",
	} {
		rules, err := payer.LoadRules([]byte(strings.Replace(small, "dx.exists(d, d.code in sets.ASTHMA)", when, 1)))
		if err != nil {
			t.Fatal(err)
		}
		d, err := rules.Decide(asking("1", func(f *payer.Facts) {
			f.Request.DaysSupply = ptr(int64(30))
			f.Patient = payer.Patient{ID: "P1"}
		}), nil, monday)
		if err != nil || trace(d) != want {
			t.Errorf("%s: %s, %v; want %s", when, trace(d), err, want)
		}
	}
}

func TestQuantityWithAFraction(t *testing.T) {
	rules, err := payer.LoadRules([]byte(strings.Replace(small, `"amount": 1, "perDays": 30`, `"amount": 1.5, "perDays": 30`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	for days, want := range map[int64]float64{30: 1.5, 60: 3, 10: 0.5} {
		d, err := rules.Decide(asking("1", func(f *payer.Facts) {
			f.Request.DaysSupply, f.Diagnoses = &days, []payer.Diagnosis{{Code: "195967001"}}
		}), nil, monday)
		if err != nil || d.Approved == nil || d.Approved.Quantity != want {
			t.Errorf("%d days: %+v, %v; want %g", days, d.Approved, err, want)
		}
	}
}

func TestClock(t *testing.T) {
	rules := defaultRules(t)
	tests := []struct {
		lob                        priorauth.PayerLineOfBusiness
		benefit                    payer.Benefit
		urgency                    priorauth.Urgency
		deadline, remind, escalate int // hours
	}{
		{"medicare-part-d", payer.BenefitPharmacy, "standard", 72, 48, 64},
		{"medicare-part-d", payer.BenefitPharmacy, "expedited", 24, 16, 21},
		{"medicaid", payer.BenefitPharmacy, "", 24, 16, 21},
		{"medicaid", payer.BenefitServices, "standard", 168, 120, 144},
		{"medicare-advantage", payer.BenefitServices, "standard", 168, 120, 144},
		{"medicare-advantage", payer.BenefitServices, "expedited", 72, 48, 64},
		{"medicare-advantage", payer.BenefitMedical, "standard", 72, 48, 64}, // a drug: not the seven days
		{"commercial", payer.BenefitPharmacy, "standard", 72, 48, 64},
		{"", payer.BenefitMedical, "expedited", 24, 16, 21},
		{"unheard-of", payer.BenefitPharmacy, "expedited", 24, 16, 21},
	}
	for _, test := range tests {
		c, err := rules.Clock(test.lob, test.benefit, test.urgency)
		h := func(n int) time.Duration { return time.Duration(n) * time.Hour }
		if err != nil || c.Deadline != h(test.deadline) || c.Remind != h(test.remind) || c.Escalate != h(test.escalate) || c.Source == "" {
			t.Errorf("%s %s %s: %+v %v", test.lob, test.benefit, test.urgency, c, err)
		}
	}
	if _, err := rules.Clock("medicaid", "spa", "standard"); !errors.Is(err, payer.ErrNoClock) {
		t.Errorf("no such benefit: %v", err)
	}
	if _, err := rules.Clock("medicaid", payer.BenefitPharmacy, "at leisure"); !errors.Is(err, payer.ErrNoClock) {
		t.Errorf("no such urgency: %v", err)
	}
}

func TestDispensing(t *testing.T) {
	rules := defaultRules(t)
	friday := time.Date(2026, 3, 6, 15, 0, 0, 0, time.UTC)
	for name, want := range map[string]time.Time{
		"serve you ": friday.AddDate(0, 0, 10),
		"HUMANA":     time.Date(2026, 3, 27, 15, 0, 0, 0, time.UTC), // 15 business days are three weeks
		"Acme":       friday.AddDate(0, 0, 14),
		"":           friday.AddDate(0, 0, 14),
	} {
		d := rules.Dispensing(name)
		if got := d.PickupBy(friday); !got.Equal(want) || d.EmergencySupplyDays != 3 || d.Source == "" {
			t.Errorf("%q: pick up by %v, want %v; %+v", name, got, want, d)
		}
	}
	saturday := friday.AddDate(0, 0, 1)
	if got := rules.Dispensing("Humana").PickupBy(saturday); got.Weekday() != time.Friday {
		t.Errorf("15 business days from a Saturday end on a %s", got.Weekday())
	}
}

// TestDocumentedFileLoads reads the example of the package comment.
func TestDocumentedFileLoads(t *testing.T) {
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	_, file, _ := strings.Cut(string(doc), "//\t{\n")
	file, _, ok := strings.Cut(file, "//\t}\n")
	_, clocks, _ := strings.Cut(small, `"clocks": [`)
	clocks, _, _ = strings.Cut(clocks, "]")
	file = "{" + strings.NewReplacer("//\t", "", "    …\n", clocks).Replace(file) + "}"
	rules, err := payer.LoadRules([]byte(file))
	if !ok || err != nil {
		t.Fatalf("the example of the package comment: %v", err)
	}
	d, err := rules.Decide(asking("896209", func(f *payer.Facts) {
		f.Request.DaysSupply = ptr(int64(120))
		f.Diagnoses = []payer.Diagnosis{{Code: "195967001", Active: true}}
		f.History = []payer.PastDrug{{RxCUI: "895994"}}
	}), nil, monday)
	want := "paRequiredWhen=true small-child=false days=false asthma=true steroid-first=true one-fill=true modified A6 QL-EXCEEDED"
	if got := trace(d); err != nil || got != want || d.Approved.DaysSupply != 90 || d.Approved.Quantity != 3 {
		t.Errorf("%s, grant %+v, %v", got, d.Approved, err)
	}
}

// TestDefaultRulesAreTheFile holds the embedded rules to what is promised of them: 12 rules with 31 different conditions.
func TestDefaultRulesAreTheFile(t *testing.T) {
	data, err := os.ReadFile("rules.json")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := payer.LoadRules(data); err != nil {
		t.Fatal(err)
	}
	var file struct {
		Rules []struct {
			PARequiredWhen                        string
			Exempt, MissingInfo, Criteria, Modify []struct{ When string }
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	conditions := map[string]bool{}
	for _, r := range file.Rules {
		conditions[r.PARequiredWhen] = true
		for _, list := range [][]struct{ When string }{r.Exempt, r.MissingInfo, r.Criteria, r.Modify} {
			for _, x := range list {
				conditions[x.When] = true
			}
		}
	}
	if len(file.Rules) != 12 || len(conditions) != 31 {
		t.Errorf("%d rules with %d conditions", len(file.Rules), len(conditions))
	}
	if n := len(defaultRules(t).Drugs()); n != 34 {
		t.Errorf("%d drugs", n)
	}
}
