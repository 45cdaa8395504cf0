package carebus_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/carebus/carebus/fhir"
)

// TestFHIRFitsTheCatalog: every event made of the FHIR test data is one that the platform accepts, and their numbers are
// those that are known of the data.
func TestFHIRFitsTheCatalog(t *testing.T) {
	if testing.Short() {
		t.Skip("reads all FHIR test data, twice")
	}
	root := os.Getenv("CAREBUS_TEST_DATA")
	if root == "" {
		root = filepath.Join("..", "shared", "data")
	}
	dir := filepath.Join(root, "fhir-dev")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no folder %s (CAREBUS_TEST_DATA names the folder above)", dir)
	}
	synthea, err := filepath.Glob(filepath.Join(dir, "synthea*"))
	if err != nil || len(synthea) == 0 {
		t.Fatalf("no Synthea folders in %s: %v", dir, err)
	}
	p := newPlatform(t)
	check := func(ctx context.Context, items []fhir.Item) error {
		for _, item := range items {
			if _, _, err := p.Check(ctx, item.Event); err != nil {
				t.Errorf("%s#%s: %v", item.File, item.Pointer, err)
			}
		}
		return nil
	}
	report, err := fhir.New(nil).Run(t.Context(), synthea, check)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{
		"patient.record.created": 188, "medication.prescription.created": 3240, "payment.claim.submitted": 9515,
		"care.plan.created": 504, "care.team.updated": 358,
	} {
		if got := report.Events[name]; got != want {
			t.Errorf("%s: %d events, want %d", name, got, want)
		}
	}
	total := report.Total
	if total.Errors > 0 || total.Resources != total.Mapped+total.Duplicates+total.Skipped+total.Errors {
		t.Errorf("the resources are not all accounted for: %+v", total)
	}
	all, err := fhir.New(nil).Run(t.Context(), []string{dir}, check)
	if err != nil || all.Total.Errors > 0 {
		t.Errorf("the whole folder: %+v, %v", all.Total, err)
	}
	if kinds := len(all.Events); kinds < 15 {
		t.Errorf("only %d types of events", kinds)
	}
}
