package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestPublishAcrossBatches: refused events in the middle of batches cost only themselves, and the order stays.
func TestPublishAcrossBatches(t *testing.T) {
	t.Setenv("CAREBUS_STORE", filepath.Join(t.TempDir(), "test.db"))
	line := func(id int, member string) string {
		return fmt.Sprintf(`{"metadata":{"eventId":"E-%04d","eventType":"medication.prescription.filled","eventSource":"pharmacy-service","correlationId":"C","timestamp":1677609600000,"version":"1.0.0"},"payload":{"prescriptionId":"RX1","patientId":"P1",%s"filledAt":"2023-03-01T10:00:00Z"}}`, id, member)
	}
	publish := func(in string) (code int, report publishReport, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		code = run(t.Context(), []string{"publish", "-o", "json"}, strings.NewReader(in), &out, &errs)
		if err := json.Unmarshal(out.Bytes(), &report); err != nil {
			t.Fatalf("%v: %s %s", err, &out, &errs)
		}
		return code, report, errs.String()
	}
	if code, _, errs := publish(line(300, `"fillId":"other",`)); code != 0 {
		t.Fatal(errs)
	}
	const n = 3*publishBatch + 10
	lines := []string{}
	for i := range n {
		member := ""
		if i == 5 || i == 500 {
			member = `"unknown":1,`
		}
		lines = append(lines, line(i, member))
	}
	code, report, errs := publish(strings.Join(lines, "\n"))
	if code != 1 || report.Published != n-3 || report.Duplicates != 0 || report.Refused != 3 || len(report.Refusals) != 3 {
		t.Fatalf("%d %+v; want all but three published", code, report)
	}
	for i, want := range []int{6, 301, 501} {
		if r := report.Refusals[i]; r.Line != want || r.Index != want || r.File != "stdin" || len(r.Findings) == 0 || r.Findings[0].Rule == "" {
			t.Errorf("refusal %d: %+v; want line %d, with its rule", i+1, r, want)
		}
		if !strings.Contains(errs, fmt.Sprintf("stdin:%d: event %d: /", want, want)) {
			t.Errorf("stderr does not name line %d: %s", want, errs)
		}
	}
	if code, report, _ = publish(strings.Join(lines, "\n")); code != 1 || report.Published != 0 || report.Duplicates != n-3 || report.Refused != 3 {
		t.Errorf("again: %d %+v; want duplicates only", code, report)
	}

	var out bytes.Buffer
	if code := run(t.Context(), []string{"tail", "--no-follow", "-o", "json"}, strings.NewReader(""), &out, &bytes.Buffer{}); code != 0 {
		t.Fatalf("tail ended with %d", code)
	}
	last := ""
	for i, l := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var r record
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatal(err)
		}
		if i > 0 && r.Metadata.ID < last { // the first is the one that was there before
			t.Errorf("%s is stored behind %s", r.Metadata.ID, last)
		}
		if i > 0 {
			last = r.Metadata.ID
		}
	}
}
