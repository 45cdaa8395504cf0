package payer_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/services/payer"
)

// TestKnownPopulation decides every prescription of the test data as it was made, an approval being on file for the
// later ones, and compares with what an independent evaluation of the same criteria gave.
func TestKnownPopulation(t *testing.T) {
	if testing.Short() {
		t.Skip("reads all FHIR test data")
	}
	people := persons(t)
	if len(people) != 188 {
		t.Fatalf("%d patients, want 188", len(people))
	}
	rules := defaultRules(t)
	got := map[string]int{}
	requests, repeats := 0, 0
	for i := range people {
		p := &people[i]
		var onFile []payer.Authorization
		first := map[string]payer.Decision{} // denials by fingerprint
		for index := range p.requests {
			f, at := p.facts(t, index)
			d, err := rules.Decide(f, onFile, at)
			if err != nil {
				t.Fatal(err)
			}
			if err := consistent(d); err != nil {
				t.Errorf("rule %s: %v", d.RuleID, err)
			}
			requests++
			if a, ok := d.Authorization(fmt.Sprintf("A%d", len(onFile)), f); ok {
				onFile = append(onFile, a)
			}
			outcome := string(d.Outcome)
			switch {
			case d.Stage == payer.StageOnFile:
				outcome = "on file"
			case d.Outcome == priorauth.DecisionDenied:
				outcome += " " + d.Reasons[0].Code
				if earlier, ok := first[d.Fingerprint]; ok && d.Repeats(earlier) {
					repeats++
				} else {
					first[d.Fingerprint] = d
				}
			}
			got[d.RuleID+" "+outcome]++
		}
	}
	want := map[string]int{
		" not-required":                   2604,
		"PA-RESP-001 approved":            129,
		"PA-RESP-001 on file":             14,
		"PA-CV-002 approved":              7,
		"PA-CV-002 on file":               4,
		"PA-CV-002 denied STEP-THERAPY":   257,
		"PA-OPI-003 approved":             4,
		"PA-OPI-003 on file":              3,
		"PA-OPI-004 pended":               41,
		"PA-OPI-004 not-required":         9,
		"PA-SUD-005 approved":             8,
		"PA-SUD-005 on file":              3,
		"PA-ADHD-006 not-required":        3,
		"PA-ALZ-007 denied STEP-THERAPY":  3,
		"PA-DM-008 approved":              18,
		"PA-DM-008 on file":               77,
		"PA-CONT-009 approved":            18,
		"PA-CONT-009 on file":             2,
		"PA-CONT-009 denied STEP-THERAPY": 22,
		"PA-ONC-010 approved":             4,
		"QL-EPI-011 not-required":         10,
	}
	keys := slices.Sorted(maps.Keys(want))
	for k := range got {
		if _, ok := want[k]; !ok {
			keys = append(keys, k)
		}
	}
	for _, k := range keys {
		if got[k] != want[k] {
			t.Errorf("%-40s %4d, want %d", k, got[k], want[k])
		}
	}
	if requests != 3240 {
		t.Errorf("%d requests, want 3240", requests)
	}
	t.Logf("%d of the denials repeat an earlier one", repeats)
}
