package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/fhir"
)

func patientItem(id, payload, at string) fhir.Item {
	e := event.Event{Metadata: event.Metadata{ID: id, Type: "patient.record.created", Source: "fhir-import", CorrelationID: "C", Version: "1.0.0", Timestamp: 1677600000000}, Payload: json.RawMessage(payload)}
	return fhir.Item{Event: e, File: "f.json", Pointer: at, Type: "Patient", ID: id}
}

// A refused event is reported with its place, and does not take its batch along; an id that an earlier import has used
// with other content is a duplicate.
func TestImportRefusals(t *testing.T) {
	ctx := context.Background()
	p, err := carebus.Open(ctx, filepath.Join(t.TempDir(), "a.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	im := &importer{p: p, events: map[string]eventCounts{}, moved: map[string]int64{}}
	if err := im.publish(ctx, []fhir.Item{patientItem("known", `{"patientId":"P0"}`, "/0")}); err != nil {
		t.Fatal(err)
	}
	var items []fhir.Item
	for i := range 20 {
		items = append(items, patientItem(fmt.Sprint("e", i), fmt.Sprintf(`{"patientId":"P%d"}`, i), fmt.Sprint("/", i)))
	}
	items[3] = patientItem("bad", `{"patientId":"P3","firstName":7,"secret":"secret"}`, "/3")
	items[4] = patientItem("worse", `{"patientId":9}`, "/3") // a second event of the same resource
	items[11] = patientItem("known", `{"patientId":"P0","firstName":"Jane"}`, "/11")
	items[12] = patientItem("known", `{"patientId":"P0"}`, "/12")
	if err := im.publish(ctx, items); err != nil {
		t.Fatal(err)
	}
	if got, want := im.events["patient.record.created"], (eventCounts{Published: 17, Known: 2, Refused: 2}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
	account := fhir.Report{Total: fhir.Counts{Resources: 20, Mapped: 20}, ByType: map[string]fhir.Counts{"Patient": {Resources: 20, Mapped: 20}}}
	r := im.report(account, true)
	if r.Published != 17 || r.Duplicates != 2 || r.Errors != 1 || r.Mapped != 19 || r.ByType["Patient"].Errors != 1 || r.ByType["Patient"].Mapped != 19 {
		t.Errorf("reported %+v", r)
	}
	if len(r.Problems) != 2 || r.Problems[0].Pointer != "/3" || r.Problems[0].File != "f.json" || !strings.Contains(r.Problems[0].Message, "/payload/") {
		t.Errorf("problems %+v", r.Problems)
	}
	if strings.Contains(fmt.Sprint(r.Problems), "secret\"") {
		t.Errorf("a value is shown: %+v", r.Problems)
	}
	if types, err := p.Store().Types(ctx); err != nil || types["patient.record.created"] != 17 {
		t.Errorf("stored %v, %v", types, err)
	}
}

// An import that is broken off says so, and leaves a store that the next one completes.
func TestImportBrokenOff(t *testing.T) {
	dir := t.TempDir()
	store := filepath.Join(dir, "a.db")
	var lines bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&lines, `{"resourceType":"Patient","id":"p%d","birthDate":"1990-01-02","meta":{"lastUpdated":"2023-01-01T00:00:00Z"}}`+"\n", i)
	}
	input := filepath.Join(dir, "p.ndjson")
	if err := os.WriteFile(input, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := carebus.Open(ctx, store, nil)
	if err != nil {
		t.Fatal(err)
	}
	im := &importer{p: p, events: map[string]eventCounts{}, moved: map[string]int64{}}
	batches := 0
	_, err = fhir.New(nil).Run(ctx, []string{input}, func(ctx context.Context, items []fhir.Item) error {
		if batches++; batches == 3 {
			cancel()
		}
		return im.publish(ctx, items)
	})
	if err == nil || im.events["patient.record.created"].Published != 400 {
		t.Fatalf("err %v, counted %+v", err, im.events)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(context.Background(), []string{"import", "fhir", input, "--store", store, "-o", "json"}, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("exit code %d: %s", code, errs.String())
	}
	var r importReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Published != 600 || r.Known != 400 || !r.Complete {
		t.Errorf("reported %+v, %v", r, err)
	}
}

// TestImportDevelopmentData holds the counts of the population that the importer was developed with.
func TestImportDevelopmentData(t *testing.T) {
	data := os.Getenv("CAREBUS_TEST_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "..", "shared", "data")
	}
	data = filepath.Join(data, "fhir-dev")
	if _, err := os.Stat(data); err != nil {
		t.Skip("fhir-dev is not there:", err)
	}
	if testing.Short() {
		t.Skip("fhir-dev: not in short tests")
	}
	t.Parallel()
	folders, err := filepath.Glob(filepath.Join(data, "synthea*"))
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(t.TempDir(), "a.db")
	importAll := func(folders ...string) (r importReport) {
		t.Helper()
		if err := json.Unmarshal([]byte(carebusOK(t, append([]string{"import", "fhir", "-o", "json", "--store", store}, folders...)...)), &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := importAll(folders...)
	if r.Published != 20723 || r.Errors != 0 {
		t.Errorf("%d published, %d errors, %v", r.Published, r.Errors, r.Problems)
	}
	for kind, want := range map[string]int64{"Patient": 188, "MedicationRequest": 3240, "Claim": 3240 + 6275, "ExplanationOfBenefit": 6275,
		"CarePlan": 504, "CareTeam": 358, "Practitioner": 375, "Organization": 255} {
		if got := r.ByType[kind].Mapped; got != want {
			t.Errorf("%d distinct %s, want %d", got, kind, want)
		}
	}
	for kind, c := range r.ByType {
		if c.Resources != c.Mapped+c.Repeated+c.Skipped+c.Errors {
			t.Errorf("%s: resources without an outcome: %+v", kind, c)
		}
	}
	if r := importAll(folders[0]); r.Published != 0 || r.Known == 0 {
		t.Errorf("imported again: %d published, %d known", r.Published, r.Known)
	}
}
