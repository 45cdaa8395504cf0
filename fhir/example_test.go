package fhir_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/carebus/carebus/fhir"
)

// A bulk export on standard input, in no particular order.
func Example() {
	export := strings.Join([]string{
		`{"resourceType":"MedicationRequest","id":"rx1","status":"stopped","intent":"order","subject":{"reference":"Patient/p1"},"authoredOn":"1969-03-01","requester":{"reference":"Practitioner/d1"},"medicationCodeableConcept":{"text":"Digoxin 0.125 MG"}}`,
		`{"resourceType":"Patient","id":"p1","name":[{"family":"Oak","given":["Ann"]}],"birthDate":"1944-05-01"}`,
		`{"resourceType":"Observation","id":"o1"}`,
	}, "\n") + "\n"

	importer := fhir.New(&fhir.Options{Stdin: strings.NewReader(export)})
	report, err := importer.Run(context.Background(), []string{"-"}, func(_ context.Context, items []fhir.Item) error {
		for _, it := range items {
			fmt.Println(it.Event.Type, it.Event.Time().Format("2006-01-02"), it.Type+"/"+it.ID, "line", it.Line)
		}
		return nil
	})
	fmt.Println(report.Total.Resources, "resources,", report.Total.Mapped, "mapped,", report.Skips, err)
	// Output:
	// medication.prescription.created 1969-03-01 MedicationRequest/rx1 line 1
	// patient.record.created 1944-05-01 Patient/p1 line 2
	// 3 resources, 2 mapped, map[no mapping for Observation:1] <nil>
}
