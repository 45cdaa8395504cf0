package fhir_test

import (
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/carebus/carebus/fhir"
)

// dataDir is a folder of the real input; a test that needs it is skipped by name where it is absent.
func dataDir(t testing.TB, parts ...string) string {
	t.Helper()
	root := os.Getenv("CAREBUS_TEST_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "shared", "data")
	}
	dir := filepath.Join(append([]string{root}, parts...)...)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("real data absent: %s", filepath.Join(parts...))
	}
	return dir
}

// TestRealData holds the totals over the whole of the FHIR development input, and over its Synthea folders, where
// they were counted independently (distinct resource ids).
func TestRealData(t *testing.T) {
	t.Parallel()
	dir := dataDir(t, "fhir-dev")
	synthea := map[string]int64{}
	examples := map[string]int64{}
	ids := map[string]bool{}
	items, rep := importAll(t, nil, dir)
	for _, it := range items {
		if ids[it.Event.ID] {
			t.Fatalf("two events with id %s", it.Event.ID)
		}
		ids[it.Event.ID] = true
		if folder, _ := filepath.Rel(dir, it.File); folder[:7] == "synthea" {
			synthea[it.Event.Type]++
		} else {
			examples[it.Event.Type]++
		}
	}
	wantSynthea := map[string]int64{
		"patient.record.created":          188,
		"patient.record.updated":          13,
		"medication.prescription.created": 3240,
		"payment.claim.submitted":         3240 + 6275,
		"payment.claim.approved":          6275,
		"care.plan.created":               504,
		"care.team.updated":               358,
		"provider.profile.updated":        375 + 255,
	}
	if !maps.Equal(synthea, wantSynthea) {
		t.Errorf("Synthea folders\n got %v\nwant %v", synthea, wantSynthea)
	}
	if !maps.Equal(examples, wantExamples) {
		t.Errorf("example folders\n got %v\nwant %v", examples, wantExamples)
	}
	want := fhir.Counts{Resources: 66722, Mapped: 20804, Events: 20819, Duplicates: 904, Skipped: 45014}
	if rep.Total != want {
		t.Errorf("total %+v, want %+v", rep.Total, want)
	}
	if rep.Files != 311 || rep.Bundles != 196 || rep.Ignored != 2 || rep.ErrorCount != 0 || rep.Warnings != 0 {
		t.Errorf("files %d, bundles %d, ignored %d, errors %d, warnings %d: %v",
			rep.Files, rep.Bundles, rep.Ignored, rep.ErrorCount, rep.Warnings, rep.Problems)
	}
}

// wantExamples: among the official examples several resources lack what an event needs; the skips say so.
var wantExamples = map[string]int64{
	"patient.enrolled":                4,
	"patient.consent.provided":        10,
	"medication.prescription.created": 28,
	"medication.prescription.filled":  10,
	"medication.adherence.reported":   4,
	"payment.claim.submitted":         12,
	"payment.claim.approved":          2,
	"payment.claim.rejected":          1,
	"priorauth.request.submitted":     1,
	"priorauth.decision.made":         1,
	"care.plan.created":               10,
	"care.team.updated":               2,
	"care.task.assigned":              7,
	"care.task.completed":             2,
	"care.communication.sent":         2,
}

// TestPriorAuthData: the published PAS bundles, the deliberately broken ones too, are imported without a stop.
func TestPriorAuthData(t *testing.T) {
	items, rep := importAll(t, nil, dataDir(t, "prior-auth", "pas"))
	seen := map[any]int{}
	for _, it := range items {
		if it.Event.Type == "priorauth.decision.made" {
			seen[payload(t, it)["decision"]]++
		}
	}
	for _, d := range []string{"approved", "denied", "pended"} {
		if seen[d] == 0 {
			t.Errorf("no decision %q in %v", d, seen)
		}
	}
	t.Log(rep.Total, rep.Events, rep.Skips)
	for _, p := range rep.Problems {
		t.Log(p)
	}
}
