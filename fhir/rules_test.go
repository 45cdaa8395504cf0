package fhir_test

import (
	"slices"
	"strings"
	"testing"
)

// TestStatusRules: which events one resource becomes, by its status and kind.
func TestStatusRules(t *testing.T) {
	subject := `"subject":{"reference":"Patient/p1"}`
	patient := `"patient":{"reference":"Patient/p1"}`
	cases := []struct {
		name, resource string
		want           []string
		skip           string // part of the reason
	}{
		{"plain patient", ann, []string{"patient.record.created"}, ""},
		{"deceased", strings.Replace(ann, `"gender"`, `"deceasedBoolean":true,"gender"`, 1), []string{"patient.record.created", "patient.record.updated"}, ""},
		{"not deceased", strings.Replace(ann, `"gender"`, `"deceasedBoolean":false,"gender"`, 1), []string{"patient.record.created"}, ""},
		{"proposal", strings.Replace(request(`"x":1`, coded), `"order"`, `"proposal"`, 1), nil, "intent proposal"},
		{"prescription in error", strings.Replace(request(`"x":1`, coded), `"active"`, `"entered-in-error"`, 1), []string{"medication.prescription.created", "medication.prescription.cancelled"}, ""},
		{"active coverage", `{"resourceType":"Coverage","id":"c","status":"active","beneficiary":{"reference":"Patient/p1"},"payor":[{"display":"Acme"}],"period":{"start":"2020-01-01"}}`, []string{"patient.enrolled"}, ""},
		{"draft coverage", `{"resourceType":"Coverage","id":"c","status":"draft","beneficiary":{"reference":"Patient/p1"}}`, nil, "status draft"},
		{"consent", `{"resourceType":"Consent","id":"c","status":"active",` + patient + `,"dateTime":"2020-01-01","scope":{"coding":[{"code":"research"}]}}`, []string{"patient.consent.provided"}, ""},
		{"consent withdrawn", `{"resourceType":"Consent","id":"c","status":"inactive",` + patient + `,"dateTime":"2020-01-01"}`, []string{"patient.consent.revoked"}, ""},
		{"consent proposed", `{"resourceType":"Consent","id":"c","status":"proposed",` + patient + `}`, nil, "status proposed"},
		{"dispense", `{"resourceType":"MedicationDispense","id":"d","status":"completed",` + subject + `,"whenHandedOver":"2020-01-01T10:00:00Z","authorizingPrescription":[{"reference":"MedicationRequest/m1"}],` + coded + `}`, []string{"medication.prescription.filled"}, ""},
		{"dispense under way", `{"resourceType":"MedicationDispense","id":"d","status":"in-progress",` + subject + `}`, nil, "not handed over"},
		{"dispense without time", `{"resourceType":"MedicationDispense","id":"d","status":"completed",` + subject + `,"authorizingPrescription":[{"reference":"MedicationRequest/m1"}]}`, nil, "without a time"},
		{"claim", `{"resourceType":"Claim","id":"c","status":"active","use":"claim",` + patient + `,"created":"2020-01-01"}`, []string{"payment.claim.submitted"}, ""},
		{"claim cancelled", `{"resourceType":"Claim","id":"c","status":"cancelled","use":"claim",` + patient + `,"created":"2020-01-01"}`, []string{"payment.claim.submitted", "payment.claim.voided"}, ""},
		{"claim in error", `{"resourceType":"Claim","id":"c","status":"entered-in-error",` + patient + `}`, nil, "entered-in-error"},
		{"preauthorization", `{"resourceType":"Claim","id":"c","status":"active","use":"preauthorization",` + patient + `,"created":"2020-01-01"}`, []string{"priorauth.request.submitted"}, ""},
		{"predetermination", `{"resourceType":"Claim","id":"c","status":"active","use":"predetermination",` + patient + `}`, nil, "predetermination"},
		{"claim paid", `{"resourceType":"ClaimResponse","id":"r","status":"active","use":"claim",` + patient + `,"created":"2020-01-01","outcome":"complete","request":{"reference":"Claim/c"}}`, []string{"payment.claim.approved"}, ""},
		{"claim refused", `{"resourceType":"ClaimResponse","id":"r","status":"active","use":"claim",` + patient + `,"created":"2020-01-01","outcome":"error","request":{"reference":"Claim/c"}}`, []string{"payment.claim.rejected"}, ""},
		{"claim queued", `{"resourceType":"ClaimResponse","id":"r","status":"active","use":"claim",` + patient + `,"created":"2020-01-01","outcome":"queued"}`, nil, "queued"},
		{"explanation", `{"resourceType":"ExplanationOfBenefit","id":"e","status":"active",` + patient + `,"created":"2020-01-01","outcome":"complete","claim":{"reference":"Claim/c"}}`, []string{"payment.claim.approved"}, ""},
		{"task", `{"resourceType":"Task","id":"t","status":"requested","owner":{"reference":"Practitioner/d1"},"for":{"reference":"Patient/p1"},"code":{"text":"call"},"authoredOn":"2020-01-01"}`, []string{"care.task.assigned"}, ""},
		{"task done", `{"resourceType":"Task","id":"t","status":"completed","owner":{"reference":"Practitioner/d1"},"for":{"reference":"Patient/p1"},"code":{"text":"call"},"authoredOn":"2020-01-01"}`, []string{"care.task.assigned", "care.task.completed"}, ""},
		{"task of nobody", `{"resourceType":"Task","id":"t","status":"requested"}`, nil, "without an owner"},
		{"message", `{"resourceType":"Communication","id":"c","status":"completed",` + subject + `,"sent":"2020-01-01T10:00:00Z","recipient":[{"reference":"Practitioner/d1"}],"payload":[{"contentString":"hello"}]}`, []string{"care.communication.sent"}, ""},
		{"message not sent", `{"resourceType":"Communication","id":"c","status":"preparation",` + subject + `}`, nil, "not sent"},
		{"interaction", `{"resourceType":"DetectedIssue","id":"i","status":"final","code":{"coding":[{"code":"DRG"}]},` + patient + `,"severity":"high","identifiedDateTime":"2020-01-01","implicated":[{"reference":"#a"},{"reference":"#b"}],"contained":[{"resourceType":"Medication","id":"a","code":{"text":"warfarin"}},{"resourceType":"MedicationRequest","id":"b","medicationCodeableConcept":{"text":"aspirin"}}]}`, []string{"medication.interaction.detected"}, ""},
		{"other issue", `{"resourceType":"DetectedIssue","id":"i","status":"final"}`, nil, "no interaction"},
		{"team", `{"resourceType":"CareTeam","id":"t",` + subject + `,"participant":[{"member":{"reference":"Practitioner/d1"}}]}`, []string{"care.team.updated"}, ""},
		{"practitioner", doc, []string{"provider.profile.updated"}, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			items, rep := importFiles(t, files{"a.json": c.resource})
			if !slices.Equal(types(items), c.want) {
				t.Errorf("events %v, want %v; %v %v", types(items), c.want, rep.Skips, rep.Problems)
			}
			for reason := range rep.Skips {
				if c.skip == "" || !strings.Contains(reason, c.skip) {
					t.Errorf("skipped: %q, want %q", reason, c.skip)
				}
			}
		})
	}
}

// TestTeamChanges: a later version of a team says who came and who went.
func TestTeamChanges(t *testing.T) {
	team := func(at string, members ...string) string {
		var p []string
		for _, id := range members {
			p = append(p, `{"role":[{"text":"nurse"}],"member":{"reference":"Practitioner/`+id+`"}}`)
		}
		return stamped(`{"resourceType":"CareTeam","id":"t","status":"active","subject":{"reference":"Patient/p1"},"participant":[`+strings.Join(p, ",")+`]}`, at)
	}
	items, _ := importFiles(t, files{"a.ndjson": team("2021-01-01T00:00:00Z", "b", "c") + "\n" + team("2020-01-01T00:00:00Z", "a", "b") + "\n"})
	if len(items) != 2 {
		t.Fatalf("events %v", types(items))
	}
	ids := func(n int, member string) string {
		var out []string
		list, _ := payload(t, items[n])[member].([]any)
		for _, m := range list {
			o, _ := m.(map[string]any)
			id, _ := o["providerId"].(string)
			out = append(out, id)
		}
		return strings.Join(out, " ")
	}
	if ids(0, "added") != "a b" || ids(0, "removed") != "" || ids(1, "added") != "c" || ids(1, "removed") != "a" {
		t.Errorf("first +%s -%s, second +%s -%s", ids(0, "added"), ids(0, "removed"), ids(1, "added"), ids(1, "removed"))
	}
}
