package payer_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/services/payer"
)

var monday = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func defaultRules(t testing.TB) *payer.Rules {
	t.Helper()
	rules, err := payer.DefaultRules()
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func ptr[T any](v T) *T { return &v }

// asking is a request of a grown-up member for a drug; change completes it.
func asking(drug string, change func(*payer.Facts)) payer.Facts {
	f := payer.Facts{
		Request: payer.Request{RxCUI: drug},
		Patient: payer.Patient{ID: "P1", Age: ptr(int64(50)), Sex: priorauth.GenderFemale, State: "MA"},
		Plan:    payer.Plan{Payer: "Acme", LineOfBusiness: priorauth.PayerLineOfBusinessMedicarePartD, MemberID: "M1"},
	}
	if change != nil {
		change(&f)
	}
	return f
}

func decide(t *testing.T, f payer.Facts, onFile ...payer.Authorization) payer.Decision {
	t.Helper()
	d, err := defaultRules(t).Decide(f, onFile, monday)
	if err != nil {
		t.Fatal(err)
	}
	if err := consistent(d); err != nil {
		t.Error(err)
	}
	return d
}

// trace writes the checks of d as "stage id=result" and the end as "outcome action".
func trace(d payer.Decision) string {
	var parts []string
	for _, c := range d.Checks {
		parts = append(parts, fmt.Sprintf("%s=%t", c.ID, c.Result))
	}
	parts = append(parts, fmt.Sprintf("%s %s", d.Outcome, d.Action))
	for _, r := range d.Reasons {
		parts = append(parts, r.Code)
	}
	return strings.Join(parts, " ")
}

const (
	adalimumab  = "327361"
	epinephrine = "1870230"
	oxycodoneER = "1860154"
	oxycodone   = "1049221"
	adhd        = "608139"
	brandPill   = "978950"
	inhaler     = "896209"
	simvastatin = "314231"
)

func TestDecide(t *testing.T) {
	arthritis := payer.Diagnosis{Code: "69896004", Active: true, DaysAgo: 400}
	methotrexate := func(days int64) payer.PastDrug {
		return payer.PastDrug{RxCUI: "105585", Name: "Methotrexate 2.5 MG Oral Tablet", DaysAgo: days}
	}
	tests := []struct {
		name, drug, want string
		change           func(*payer.Facts)
	}{
		{"a drug without a rule", simvastatin, "not-required NA", nil},
		{"an unknown member", inhaler, "contact-payer CT MEMBER-UNKNOWN", func(f *payer.Facts) { f.Plan.MemberID = "" }},
		{"an unknown member and a drug without a rule", simvastatin, "contact-payer CT MEMBER-UNKNOWN", func(f *payer.Facts) { f.Plan.MemberID = "" }},
		{"adalimumab", adalimumab, "paRequiredWhen=true specialty=false age=true diagnosis=true conventional-first=true approved A1", func(f *payer.Facts) {
			f.Request.PrescriberSpecialty = ptr("rheumatology")
			f.Diagnoses = []payer.Diagnosis{arthritis}
			f.History = []payer.PastDrug{methotrexate(90)}
		}},
		{"adalimumab after sulfasalazine", adalimumab, "paRequiredWhen=true specialty=false age=true diagnosis=true conventional-first=true approved A1", func(f *payer.Facts) {
			f.Request.PrescriberSpecialty = ptr("rheumatology")
			f.Diagnoses = []payer.Diagnosis{arthritis}
			f.History = []payer.PastDrug{{Name: "sulfaSALAzine 500 MG", DaysAgo: 3}}
		}},
		{"adalimumab, methotrexate too short", adalimumab, "paRequiredWhen=true specialty=false age=true diagnosis=true conventional-first=false denied A3 STEP-THERAPY", func(f *payer.Facts) {
			f.Request.PrescriberSpecialty = ptr("rheumatology")
			f.Diagnoses = []payer.Diagnosis{arthritis}
			f.History = []payer.PastDrug{methotrexate(89)}
		}},
		{"adalimumab without arthritis", adalimumab, "paRequiredWhen=true specialty=false age=true diagnosis=false denied A3 DX-NOT-SUPPORTED", func(f *payer.Facts) {
			f.Request.PrescriberSpecialty = ptr("rheumatology")
		}},
		{"adalimumab for a child", adalimumab, "paRequiredWhen=true specialty=false age=false denied A3 AGE", func(f *payer.Facts) {
			f.Request.PrescriberSpecialty = ptr("rheumatology")
			f.Patient.Age = ptr(int64(17))
		}},
		{"adalimumab by whom", adalimumab, "paRequiredWhen=true specialty=true pended A4 MISSING-INFORMATION", nil},
		{"adalimumab at what age", adalimumab, "pended A4 MISSING-INFORMATION", func(f *payer.Facts) { f.Patient.Age = nil }},
		{"opioid in cancer", oxycodoneER, "paRequiredWhen=true cancer=true approved A1", func(f *payer.Facts) {
			f.Diagnoses = []payer.Diagnosis{{Code: "254837009"}}
		}},
		{"opioid with a benzodiazepine", oxycodoneER, "paRequiredWhen=true cancer=false diagnosis=true not-naive=true no-use-disorder=true no-benzodiazepine=false denied A3 SAFETY-EDIT", func(f *payer.Facts) {
			f.Diagnoses = []payer.Diagnosis{{Code: "82423001"}, {Code: "5602001", Active: false}}
			f.History = []payer.PastDrug{{RxCUI: oxycodone, DaysAgo: 90}, {RxCUI: "204892", DaysAgo: 30}}
		}},
		{"opioid in use disorder", oxycodoneER, "paRequiredWhen=true cancer=false diagnosis=true not-naive=true no-use-disorder=false denied A3 SAFETY-EDIT", func(f *payer.Facts) {
			f.Diagnoses = []payer.Diagnosis{{Code: "82423001"}, {Code: "5602001", Active: true}}
			f.History = []payer.PastDrug{{RxCUI: oxycodone, DaysAgo: 1}}
		}},
		{"short opioid, 7 days", oxycodone, "paRequiredWhen=false not-required NA", func(f *payer.Facts) { f.Request.DaysSupply = ptr(int64(7)) }},
		{"short opioid, 8 days", oxycodone, "paRequiredWhen=true cancer=false days-supply=false chronic-pain=false denied A3 QL-EXCEEDED", func(f *payer.Facts) { f.Request.DaysSupply = ptr(int64(8)) }},
		{"brand as written", brandPill, "paRequiredWhen=true dispense-as-written=true approved A1", func(f *payer.Facts) { f.Request.DispenseAsWritten = ptr(true) }},
		{"brand not as written", brandPill, "paRequiredWhen=true dispense-as-written=false age-and-sex=true generic-first=false denied A3 STEP-THERAPY", func(f *payer.Facts) { f.Request.DispenseAsWritten = ptr(false) }},
		{"brand for a man", brandPill, "paRequiredWhen=true dispense-as-written=false age-and-sex=false denied A3 DEMOGRAPHIC-EDIT", func(f *payer.Facts) { f.Patient.Sex = priorauth.GenderMale }},
		{"brand, sex unknown", brandPill, "pended A4 MISSING-INFORMATION", func(f *payer.Facts) { f.Patient.Sex = priorauth.GenderUnknown }},
		{"ADHD at 20", adhd, "paRequiredWhen=false not-required NA", func(f *payer.Facts) { f.Patient.Age = ptr(int64(20)) }},
		{"ADHD at 21", adhd, "paRequiredWhen=true age=true diagnosis=true approved A1", func(f *payer.Facts) {
			f.Patient.Age = ptr(int64(21))
			f.Diagnoses = []payer.Diagnosis{{Code: "406506008"}}
		}},
		{"ADHD at 2", adhd, "paRequiredWhen=true age=false denied A3 AGE", func(f *payer.Facts) { f.Patient.Age = ptr(int64(2)) }},
		{"inhaler at 4", inhaler, "paRequiredWhen=true age=true diagnosis=false denied A3 DX-NOT-SUPPORTED", func(f *payer.Facts) { f.Patient.Age = ptr(int64(4)) }},
		{"inhaler at 3", inhaler, "paRequiredWhen=true age=false denied A3 AGE", func(f *payer.Facts) { f.Patient.Age = ptr(int64(3)) }},
		{"asthma, inhaled steroid a year ago", inhaler, "paRequiredWhen=true age=true diagnosis=true steroid-first=true approved A1", func(f *payer.Facts) {
			f.Diagnoses, f.History = []payer.Diagnosis{{Code: "195967001"}}, []payer.PastDrug{{RxCUI: "895994", DaysAgo: 365}}
		}},
		{"asthma, inhaled steroid longer ago", inhaler, "paRequiredWhen=true age=true diagnosis=true steroid-first=false denied A3 STEP-THERAPY", func(f *payer.Facts) {
			f.Diagnoses, f.History = []payer.Diagnosis{{Code: "195967001"}}, []payer.PastDrug{{RxCUI: "895994", DaysAgo: 366}}
		}},
		{"pill at 60", brandPill, "paRequiredWhen=true dispense-as-written=false age-and-sex=true generic-first=false denied A3 STEP-THERAPY", func(f *payer.Facts) { f.Patient.Age = ptr(int64(60)) }},
		{"pill at 61", brandPill, "paRequiredWhen=true dispense-as-written=false age-and-sex=false denied A3 DEMOGRAPHIC-EDIT", func(f *payer.Facts) { f.Patient.Age = ptr(int64(61)) }},
		{"third injector of a year", epinephrine, "paRequiredWhen=true allergy=false denied A3 DX-NOT-SUPPORTED", func(f *payer.Facts) {
			f.History = []payer.PastDrug{{RxCUI: epinephrine, DaysAgo: 365}, {RxCUI: epinephrine, DaysAgo: 1}}
		}},
		{"second injector of a year", epinephrine, "paRequiredWhen=false not-required NA", func(f *payer.Facts) {
			f.History = []payer.PastDrug{{RxCUI: epinephrine, DaysAgo: 366}, {RxCUI: epinephrine, DaysAgo: 1}}
		}},
		{"two injectors", epinephrine, "paRequiredWhen=false not-required NA", func(f *payer.Facts) { f.Request.Quantity = ptr(2.0) }},
		{"four injectors", epinephrine, "paRequiredWhen=true allergy=true two-packs=false approved A1", func(f *payer.Facts) {
			f.Request.Quantity, f.Allergies = ptr(4.0), []payer.Allergy{{Code: "91935009"}}
		}},
		{"six injectors", epinephrine, "paRequiredWhen=true allergy=true two-packs=true modified A6 QL-EXCEEDED", func(f *payer.Facts) {
			f.Request.Quantity, f.Allergies = ptr(6.0), []payer.Allergy{{Code: "91935009"}}
		}},
		{"three inhalers", inhaler, "paRequiredWhen=true age=true diagnosis=true steroid-first=true partially-approved A2 QUANTITY-LIMIT", func(f *payer.Facts) {
			f.Request.Quantity, f.Request.DaysSupply, f.Diagnoses = ptr(3.0), ptr(int64(60)), []payer.Diagnosis{{Code: "13645005"}}
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := trace(decide(t, asking(test.drug, test.change))); got != test.want {
				t.Errorf("got\n%s, want\n%s", got, test.want)
			}
		})
	}
}

// TestInsulinByHbA1c holds the criterion to its edge, for which the known population has no case.
func TestInsulinByHbA1c(t *testing.T) {
	for value, want := range map[float64]priorauth.Decision{8.9: priorauth.DecisionDenied, 9: priorauth.DecisionApproved} {
		d := decide(t, asking("106892", func(f *payer.Facts) {
			f.Diagnoses = []payer.Diagnosis{{Code: "44054006"}}
			f.Observations = map[string]payer.Observation{"4548-4": {Value: value}}
		}))
		if d.Outcome != want {
			t.Errorf("HbA1c %g: %s, want %s", value, d.Outcome, want)
		}
	}
}

func TestGrant(t *testing.T) {
	injectors := func(n float64) payer.Facts {
		return asking(epinephrine, func(f *payer.Facts) { f.Request.Quantity, f.Allergies = &n, []payer.Allergy{{Code: "1"}} })
	}
	copd := func(change func(*payer.Request)) payer.Facts {
		return asking(inhaler, func(f *payer.Facts) { f.Diagnoses = []payer.Diagnosis{{Code: "13645005"}}; change(&f.Request) })
	}
	year := priorauth.Period{Start: monday, End: time.Date(2027, 3, 2, 9, 0, 0, 0, time.UTC)}
	tests := []struct {
		name  string
		facts payer.Facts
		want  payer.Grant
	}{
		{"modified", injectors(6), payer.Grant{Quantity: 4, Unit: "injector", Months: 12, Period: year}},
		{"as asked", injectors(3), payer.Grant{Quantity: 3, Unit: "injector", Months: 12, Period: year}},
		{"nothing said", copd(func(*payer.Request) {}), payer.Grant{Quantity: 1, Unit: "inhaler", DaysSupply: 30, Months: 12, Period: year}},
		{"90 days", copd(func(rx *payer.Request) { rx.DaysSupply, rx.Refills = ptr(int64(90)), ptr(int64(3)) }),
			payer.Grant{Quantity: 3, Unit: "inhaler", DaysSupply: 90, Refills: ptr(int64(3)), Months: 12, Period: year}},
		{"31 days", copd(func(rx *payer.Request) { rx.DaysSupply = ptr(int64(31)) }),
			payer.Grant{Quantity: 2, Unit: "inhaler", DaysSupply: 31, Months: 12, Period: year}},
		{"less than allowed", copd(func(rx *payer.Request) { rx.Quantity, rx.DaysSupply = ptr(2.0), ptr(int64(90)) }),
			payer.Grant{Quantity: 2, Unit: "inhaler", DaysSupply: 90, Months: 12, Period: year}},
		{"more than allowed", copd(func(rx *payer.Request) { rx.Quantity, rx.DaysSupply = ptr(5.0), ptr(int64(90)) }),
			payer.Grant{Quantity: 3, Unit: "inhaler", DaysSupply: 90, Months: 12, Period: year}},
		{"more than allowed, no days said", copd(func(rx *payer.Request) { rx.Quantity = ptr(2.0) }),
			payer.Grant{Quantity: 1, Unit: "inhaler", DaysSupply: 30, Months: 12, Period: year}},
	}
	for _, test := range tests {
		d := decide(t, test.facts)
		if d.Approved == nil {
			t.Errorf("%s: %s", test.name, trace(d))
		} else if diff := cmp.Diff(test.want, *d.Approved); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", test.name, diff)
		}
	}
}

func TestMonthsEndInShortMonths(t *testing.T) {
	f := asking(oxycodone, func(f *payer.Facts) {
		f.Request.DaysSupply, f.Diagnoses = ptr(int64(30)), []payer.Diagnosis{{Code: "82423001"}}
	})
	at := time.Date(2026, 1, 31, 23, 30, 0, 0, time.FixedZone("", -5*3600)) // 1 February in UTC
	for at, want := range map[time.Time]time.Time{
		at:                   time.Date(2026, 3, 1, 4, 30, 0, 0, time.UTC),
		at.AddDate(0, 0, -1): time.Date(2026, 2, 28, 4, 30, 0, 0, time.UTC),
	} {
		d, err := defaultRules(t).Decide(f, nil, at)
		if err != nil || d.Approved == nil || !d.Approved.Period.End.Equal(want) {
			t.Errorf("one month from %v: %+v %v, want %v", at, d.Approved, err, want)
		}
	}
}

func TestMissingInformationIsDue(t *testing.T) {
	f := asking(adalimumab, nil)
	d := decide(t, f)
	want := []priorauth.MissingItem{{Field: "prescriberSpecialty", Ask: "Is the prescriber a rheumatologist, or was one consulted?", DueAt: monday.Add(48 * time.Hour)}}
	if diff := cmp.Diff(want, d.Missing); diff != "" || !d.DecideBy.Equal(monday.Add(72*time.Hour)) {
		t.Errorf("standard: decide by %v, (-want +got)\n%s", d.DecideBy, diff)
	}
	f.Request.Priority = priorauth.UrgencyExpedited
	d = decide(t, f)
	if !d.Missing[0].DueAt.Equal(monday.Add(24*time.Hour)) || !d.DecideBy.Equal(monday.Add(24*time.Hour)) {
		t.Errorf("expedited: due %v, decide by %v; no answer may be due after the decision", d.Missing[0].DueAt, d.DecideBy)
	}
}

func TestDenialSaysHowToAppeal(t *testing.T) {
	f := asking(brandPill, nil)
	d := decide(t, f)
	if d.Appeal == nil || d.PeerToPeer == nil {
		t.Fatalf("no appeal or no one to call: %+v", d)
	}
	if want := monday.AddDate(0, 0, 65); !d.Appeal.Deadline.Equal(want) || d.Appeal.Channel != priorauth.AppealChannelPortal || d.Appeal.Address == nil {
		t.Errorf("appeal %+v, want until %v by portal with an address", d.Appeal, want)
	}
	if d.PeerToPeer.PhoneNumber == nil || !d.PeerToPeer.AvailableUntil.Equal(monday.AddDate(0, 0, 14)) {
		t.Errorf("peer to peer %+v", d.PeerToPeer)
	}
	if d.Reasons[0].Text == nil || !strings.Contains(*d.Reasons[0].Text, "generic") {
		t.Errorf("the reason is not specific: %+v", d.Reasons)
	}
	f.Plan.LineOfBusiness = priorauth.PayerLineOfBusinessCommercial
	if d = decide(t, f); !d.Appeal.Deadline.Equal(monday.AddDate(0, 0, 60)) {
		t.Errorf("a line of business without a row: until %v", d.Appeal.Deadline)
	}
}

func TestOnFile(t *testing.T) {
	f := asking(inhaler, func(f *payer.Facts) {
		f.Diagnoses = []payer.Diagnosis{{Code: "13645005"}}
	})
	first := decide(t, f)
	a, ok := first.Authorization("A-1", f)
	if !ok {
		t.Fatal("an approval gives no authorization")
	}
	if d := decide(t, f, a); d.Stage != payer.StageOnFile || d.OnFile != "A-1" || d.Action != priorauth.ActionCodeA1 || len(d.Checks) > 0 {
		t.Errorf("the approval is not found again: %+v", d)
	} else if _, ok := d.Authorization("A-2", f); ok {
		t.Error("an answer from the file must not be filed again: it would run on for ever")
	}
	until := func(a payer.Authorization, number string, t time.Time) payer.Authorization {
		a.Number, a.Until = number, t
		return a
	}
	for name, change := range map[string]func(*payer.Authorization){
		"patient":  func(a *payer.Authorization) { a.PatientID = "P2" },
		"drug":     func(a *payer.Authorization) { a.RxCUI = oxycodone },
		"payer":    func(a *payer.Authorization) { a.Payer = "Other" },
		"begins":   func(a *payer.Authorization) { a.From = monday.Add(1) },
		"ended":    func(a *payer.Authorization) { a.Until = monday },
		"quantity": func(a *payer.Authorization) { a.Quantity = 0.5 },
	} {
		asked := f
		asked.Request.Quantity = ptr(1.0)
		b := a
		change(&b)
		if d := decide(t, asked, b); d.Stage == payer.StageOnFile {
			t.Errorf("%s: the authorization does not cover the request, yet it answered", name)
		}
	}
	later := []payer.Authorization{a, until(a, "A-3", a.Until.AddDate(1, 0, 0)), until(a, "A-2", a.Until.AddDate(1, 0, 0))}
	for range 2 {
		if d := decide(t, f, later...); d.OnFile != "A-2" {
			t.Errorf("number %s answered, want the longest and of those the least", d.OnFile)
		}
		slices.Reverse(later)
	}
	denied := decide(t, asking(brandPill, nil))
	if _, ok := denied.Authorization("X", f); ok {
		t.Error("a denial gives an authorization")
	}
	f.Plan.MemberID = ""
	if d := decide(t, f, a); d.Outcome != priorauth.DecisionContactPayer {
		t.Errorf("a stranger has an authorization: %+v", d)
	}
}

func TestRepeatedDenial(t *testing.T) {
	rules := defaultRules(t)
	f := asking(brandPill, func(f *payer.Facts) { f.Request.Quantity = ptr(28.0) })
	again := func(days int, change func(*payer.Facts)) payer.Decision {
		g := f
		if change != nil {
			change(&g)
		}
		d, err := rules.Decide(g, nil, monday.AddDate(0, 0, days))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	first := again(0, nil)
	tests := []struct {
		name   string
		second payer.Decision
		want   bool
	}{
		{"the next day", again(1, nil), true},
		{"on the last day to appeal", again(65, nil), true},
		{"when the time to appeal is over", again(66, nil), false},
		{"another drug in the record", again(7, func(f *payer.Facts) { f.History = []payer.PastDrug{{RxCUI: simvastatin}} }), true},
		{"another spelling of the drug's name", again(7, func(f *payer.Facts) { f.Request.Name = "other" }), true},
		{"another quantity", again(7, func(f *payer.Facts) { f.Request.Quantity = ptr(84.0) }), false},
		{"another plan", again(7, func(f *payer.Facts) { f.Plan.MemberID = "M2" }), false},
		{"another patient", again(7, func(f *payer.Facts) { f.Patient.ID = "P2" }), false},
		{"now expedited", again(7, func(f *payer.Facts) { f.Request.Priority = priorauth.UrgencyExpedited }), false},
		{"another reason", again(7, func(f *payer.Facts) { f.Patient.Age = ptr(int64(61)) }), false},
		{"now approved", again(7, func(f *payer.Facts) { f.History = []payer.PastDrug{{RxCUI: "748962"}} }), false},
		{"decided before the first", again(-1, nil), false},
	}
	for _, test := range tests {
		if got := test.second.Repeats(first); got != test.want {
			t.Errorf("%s: Repeats is %t", test.name, got)
		}
	}
	var kept payer.Decision
	if data, err := json.Marshal(first); err != nil {
		t.Error(err)
	} else if err := json.Unmarshal(data, &kept); err != nil || cmp.Diff(first, kept) != "" || !again(1, nil).Repeats(kept) {
		t.Errorf("a decision kept as JSON is another: %v %s", err, cmp.Diff(first, kept))
	}
	if approved := again(7, func(f *payer.Facts) { f.History = []payer.PastDrug{{RxCUI: "748962"}} }); approved.Repeats(approved) {
		t.Error("an approval repeats itself")
	}
}

// TestFingerprintIsStable: services keep fingerprints, so the digest may not change with a release.
func TestFingerprintIsStable(t *testing.T) {
	const want = "3b86a95c2118fd50df8b01d00111e6f1f75f2840a416f209b1706d6f7081207a"
	f := asking(brandPill, func(f *payer.Facts) { f.Request.Quantity = ptr(28.0) })
	if got := f.Fingerprint(); got != want {
		t.Errorf("fingerprint %s, want %s", got, want)
	}
	seen := map[string]string{want: "as it is"}
	for name, change := range map[string]func(*payer.Request){
		"days":             func(rx *payer.Request) { rx.DaysSupply = ptr(int64(3)) },
		"refills":          func(rx *payer.Request) { rx.Refills = ptr(int64(3)) },
		"specialty":        func(rx *payer.Request) { rx.PrescriberSpecialty = ptr("true") },
		"empty specialty":  func(rx *payer.Request) { rx.PrescriberSpecialty = ptr("") },
		"as written":       func(rx *payer.Request) { rx.DispenseAsWritten = ptr(true) },
		"not as written":   func(rx *payer.Request) { rx.DispenseAsWritten = ptr(false) },
		"quantity as days": func(rx *payer.Request) { rx.Quantity, rx.DaysSupply = nil, ptr(int64(28)) },
		"no quantity":      func(rx *payer.Request) { rx.Quantity = nil },
		"quoted rxcui":     func(rx *payer.Request) { rx.RxCUI += `"` },
		"another drug":     func(rx *payer.Request) { rx.RxCUI = oxycodone },
		"expedited":        func(rx *payer.Request) { rx.Priority = priorauth.UrgencyExpedited },
	} {
		g := f
		change(&g.Request)
		p := g.Fingerprint()
		if other, ok := seen[p]; ok {
			t.Errorf("%s: the fingerprint of %s", name, other)
		}
		seen[p] = name
	}
	f.Request.Priority = priorauth.UrgencyStandard
	if f.Fingerprint() != want {
		t.Error("standard is what an absent priority means")
	}
}

func TestFactsAreRefused(t *testing.T) {
	nan := 0.0
	nan /= nan
	for member, change := range map[string]func(*payer.Facts){
		"rx.quantity ":   func(f *payer.Facts) { f.Request.Quantity = ptr(2e9) },
		"rx.daysSupply ": func(f *payer.Facts) { f.Request.DaysSupply = ptr(int64(36526)) },
		"rx.rxcui":       func(f *payer.Facts) { f.Request.RxCUI = "" },
		"pt.id":          func(f *payer.Facts) { f.Patient.ID = "" },
		"rx.quantity":    func(f *payer.Facts) { f.Request.Quantity = &nan },
		"rx.daysSupply":  func(f *payer.Facts) { f.Request.DaysSupply = ptr(int64(0)) },
		"rx.refills":     func(f *payer.Facts) { f.Request.Refills = ptr(int64(-1)) },
		"rx.priority":    func(f *payer.Facts) { f.Request.Priority = "SECRET" },
		"pt.age":         func(f *payer.Facts) { f.Patient.Age = ptr(int64(-1)) },
		"obs":            func(f *payer.Facts) { f.Observations = map[string]payer.Observation{"SECRET": {Value: nan}} },
	} {
		_, err := defaultRules(t).Decide(asking(inhaler, change), nil, monday)
		if !errors.Is(err, payer.ErrFacts) || !strings.Contains(err.Error(), ": "+member) {
			t.Errorf("%s: %v", member, err)
		} else if strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error quotes the value: %v", member, err)
		}
	}
}

// TestConcurrentUse is for the race detector; without it, it still sees answers that differ.
func TestConcurrentUse(t *testing.T) {
	rules := defaultRules(t)
	requests := []payer.Facts{
		asking(inhaler, nil), asking(brandPill, nil), asking(adalimumab, nil), asking(oxycodone, nil), asking(simvastatin, nil),
		asking(epinephrine, func(f *payer.Facts) { f.Request.Quantity, f.Allergies = ptr(9.0), []payer.Allergy{{Code: "1"}} }),
	}
	want := make([]payer.Decision, len(requests))
	for i, f := range requests {
		want[i] = decide(t, f)
	}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for n := range 60 {
				i := (worker + n) % len(requests)
				d, err := rules.Decide(requests[i], nil, monday)
				if err != nil || cmp.Diff(want[i], d) != "" {
					t.Errorf("request %d: another answer than alone: %v", i, err)
					return
				}
				if _, err := rules.Clock("medicaid", payer.BenefitPharmacy, ""); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}
