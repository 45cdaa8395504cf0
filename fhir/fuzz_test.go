package fhir_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/carebus/carebus/fhir"
)

// FuzzImport: whatever the bytes, Run neither panics nor fails, and the account adds up.
func FuzzImport(f *testing.F) {
	for _, seed := range []string{
		ann, doc, request(`"requester":{"reference":"Practitioner?identifier=a|b"}`, coded), request(`"requester":"x"`, `"medicationReference":{"reference":"#m"}`),
		`{"resourceType":"Bundle","entry":[{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Claim","id":"1","use":"preauthorization","patient":{"reference":"urn:uuid:2"},"total":{"value":1e3}}}]}`,
		`{"resourceType":"Parameters","parameter":[{"part":[{"resource":{"resourceType":"Task","id":"t","owner":{},"status":"completed"}}]}]}`,
		`{"resourceType":"CarePlan","id":"c","subject":{"reference":"Patient/1"},"activity":[{"detail":{"code":{"text":"x"}}}],"careTeam":[{"reference":"#t"}],"contained":[{"resourceType":"CareTeam","id":"t","participant":[{"member":{"reference":"#t"}}]}]}`,
		`{"resourceType":"ExplanationOfBenefit","id":"e","patient":{"reference":"Patient/1"},"total":[{"category":{"coding":[{"code":"benefit"}]},"amount":{"value":"1.005"}}]}`,
		`{"resourceType":"MedicationDispense","id":"d","status":"completed","whenHandedOver":"2020","subject":{"identifier":{"value":"1"}},"authorizingPrescription":[{"reference":"MedicationRequest/1"}],"quantity":{"value":1e400}}`,
		"\xef\xbb\xbf" + ann + "\r\n" + ann, "[[[", "\x1f\x8b\x08",
	} {
		f.Add([]byte(seed))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, in []byte) {
		o := &fhir.Options{Stdin: bytes.NewReader(in), TempDir: dir, MaxResource: 1 << 20}
		var events int64
		rep, err := fhir.New(o).Run(context.Background(), []string{"-"}, func(_ context.Context, items []fhir.Item) error {
			events += int64(len(items))
			for _, it := range items {
				if _, err := it.Event.Check(nil); err != nil {
					t.Errorf("%s: %v", it.Event.Type, err)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		checkAccount(t, rep, events)
	})
}
