package fhir_test

import (
	"strings"
	"testing"

	"github.com/carebus/carebus/fhir"
)

const rxSystem = `"system":"http://www.nlm.nih.gov/research/umls/rxnorm","code":"197361"`

func request(requester, medication string) string {
	return `{"resourceType":"MedicationRequest","id":"m1","status":"active","intent":"order","subject":{"reference":"Patient/p1"},` +
		`"authoredOn":"2019-05-01T08:00:00-04:00",` + requester + `,` + medication + `}`
}

const coded = `"medicationCodeableConcept":{"coding":[{` + rxSystem + `,"display":"amlodipine 5 MG Oral Tablet"}],"text":"Amlodipine"}`

// TestReferenceForms: every form of reference to the same practitioner leads to the same prescriber.
func TestReferenceForms(t *testing.T) {
	forms := map[string]string{
		"relative":     `{"reference":"Practitioner/d1"}`,
		"versioned":    `{"reference":"Practitioner/d1/_history/2"}`,
		"absolute":     `{"reference":"https://ehr.example/fhir/Practitioner/d1"}`,
		"abs, version": `{"reference":"https://ehr.example/fhir/Practitioner/d1/_history/7"}`,
		"uuid":         `{"reference":"urn:uuid:d1"}`,
		"conditional":  `{"reference":"Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|1234567893"}`,
		"escaped":      `{"reference":"Practitioner?identifier=http%3A%2F%2Fhl7.org%2Ffhir%2Fsid%2Fus-npi%7C1234567893"}`,
		"by _id":       `{"reference":"Practitioner?_id=d1"}`,
		"logical":      `{"type":"Practitioner","identifier":{"system":"http://hl7.org/fhir/sid/us-npi","value":"1234567893"}}`,
		"untyped":      `{"identifier":{"system":"http://hl7.org/fhir/sid/us-npi","value":"1234567893"}}`,
		"bare text":    `"Practitioner/d1"`,
		"role":         `{"reference":"PractitionerRole/r1"}`,
	}
	role := `{"resourceType":"PractitionerRole","id":"r1","practitioner":{"reference":"Practitioner/d1"}}`
	for name, form := range forms {
		for _, order := range []string{"before", "after"} {
			t.Run(name+" "+order, func(t *testing.T) {
				lines := []string{doc, role, ann, request(`"requester":`+form, coded)}
				if order == "after" {
					lines = []string{request(`"requester":`+form, coded), ann, role, doc}
				}
				in := files{"a.ndjson": strings.Join(lines, "\n") + "\n"}
				if name == "uuid" {
					in = files{"a.json": `{"resourceType":"Bundle","entry":[{"resource":` + strings.Join(lines, `},{"resource":`) + `}]}`}
				}
				items, rep := importFiles(t, in)
				p := payload(t, only(t, items, "medication.prescription.created"))
				got, _ := p["prescriber"].(map[string]any)
				if got["id"] != "d1" || got["npi"] != "1234567893" || got["name"] != "Dr. Eve Ash" {
					t.Errorf("prescriber %v; problems %v", got, rep.Problems)
				}
			})
		}
	}
}

// TestUnresolved: what is not in the input keeps what the reference itself says.
func TestUnresolved(t *testing.T) {
	forms := map[string]struct{ ref, id, npi, name string }{
		"relative":    {`{"reference":"Practitioner/x9","display":"Dr. X"}`, "x9", "", "Dr. X"},
		"conditional": {`{"reference":"Practitioner?identifier=http://hl7.org/fhir/sid/us-npi|9999900000"}`, "9999900000", "9999900000", ""},
	}
	for name, f := range forms {
		t.Run(name, func(t *testing.T) {
			items, _ := importFiles(t, files{"a.json": request(`"requester":`+f.ref, coded)})
			got, _ := payload(t, only(t, items, "medication.prescription.created"))["prescriber"].(map[string]any)
			text := func(k string) string { s, _ := got[k].(string); return s }
			if text("id") != f.id || text("npi") != f.npi || text("name") != f.name {
				t.Errorf("prescriber %v", got)
			}
		})
	}
}

// TestUUIDWithOtherID: a transaction's fullUrl is not the id that the resource has.
func TestUUIDWithOtherID(t *testing.T) {
	bundle := func(fullURL string) string {
		return `{"resourceType":"Bundle","type":"transaction","entry":[` +
			`{"fullUrl":"urn:uuid:0-0-2","resource":` + strings.ReplaceAll(request(`"requester":{"reference":"`+fullURL+`"}`, coded), "Patient/p1", "urn:uuid:0-0-3") + `},` +
			`{"fullUrl":"urn:uuid:0-0-3","resource":` + ann + `},` +
			`{"fullUrl":"` + fullURL + `","resource":` + doc + `}]}`
	}
	// Two bundles use one fullUrl for different people: it means something only inside its bundle.
	other := strings.NewReplacer(`"d1"`, `"d2"`, "Ash", "Fir", "1234567893", "1245319599", `"m1"`, `"m2"`).Replace(bundle("urn:uuid:0-0-1"))
	items, _ := importFiles(t, files{"a.json": bundle("urn:uuid:0-0-1"), "b.json": other})
	want := map[string]string{"m1": "d1", "m2": "d2"}
	for _, it := range items {
		if it.Event.Type != "medication.prescription.created" {
			continue
		}
		p := payload(t, it)
		got, _ := p["prescriber"].(map[string]any)
		if got["id"] != want[it.ID] || p["patientId"] != "p1" {
			t.Errorf("%s: prescriber %v of patient %v, want %s of p1", it.ID, got, p["patientId"], want[it.ID])
		}
		delete(want, it.ID)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
}

// TestNoID: a resource without an id takes the one of its bundle entry, else one made of its content.
func TestNoID(t *testing.T) {
	anon := strings.Replace(ann, `"id":"p1",`, "", 1)
	reordered := `{"birthDate":"1944-05-01","gender":"female","resourceType":"Patient","name":[{"given":["Ann"],"family":"Oak"}]}`
	items, _ := importFiles(t, files{"a.json": `{"resourceType":"Bundle","entry":[{"fullUrl":"urn:uuid:77","resource":` + anon + `}]}`})
	if id := only(t, items, "patient.record.created").ID; id != "77" {
		t.Errorf("id %q, want the entry's", id)
	}
	a, _ := importFiles(t, files{"a.json": anon})
	b, rep := importFiles(t, files{"b.ndjson": reordered + "\n", "c.json": anon})
	if a[0].ID == "" || a[0].ID != b[0].ID || a[0].Event.ID != b[0].Event.ID {
		t.Errorf("ids %q and %q of the same content", a[0].ID, b[0].ID)
	}
	if rep.Total.Duplicates != 1 {
		t.Errorf("duplicates %d, want 1", rep.Total.Duplicates)
	}
}

// TestMedicationForms: coded in place, contained, or in a Medication resource anywhere.
func TestMedicationForms(t *testing.T) {
	medication := `{"resourceType":"Medication","id":"med1","identifier":[{"system":"s","value":"v"}],"code":{"coding":[{` + rxSystem + `,"display":"amlodipine 5 MG Oral Tablet"}],"text":"Amlodipine"}}`
	forms := map[string]struct{ request, other string }{
		"coded":       {request(`"requester":{"reference":"Practitioner/d1"}`, coded), ""},
		"contained":   {request(`"contained":[`+medication+`]`, `"medicationReference":{"reference":"#med1"}`), ""},
		"resource":    {request(`"x":1`, `"medicationReference":{"reference":"Medication/med1"}`), medication},
		"by token":    {request(`"x":1`, `"medicationReference":{"reference":"Medication?identifier=s|v"}`), medication},
		"before it":   {request(`"x":1`, `"medicationReference":{"reference":"urn:uuid:med1"}`), medication},
		"with a text": {request(`"x":1`, `"medicationReference":{"reference":"Medication/med1","display":"something"}`), medication},
	}
	for name, f := range forms {
		t.Run(name, func(t *testing.T) {
			in := files{"MedicationRequest.ndjson": f.request + "\n"}
			if f.other != "" {
				in["zMedication.ndjson"] = f.other + "\n"
			}
			items, rep := importFiles(t, in)
			text := string(only(t, items, "medication.prescription.created").Event.Payload)
			if !strings.Contains(text, "197361") || !strings.Contains(text, "Amlodipine") {
				t.Errorf("medication missing in %s; %v", text, rep.Problems)
			}
		})
	}
}

func TestTimes(t *testing.T) {
	at := func(date string) int64 {
		r := strings.Replace(request(`"x":1`, coded), "2019-05-01T08:00:00-04:00", date, 1)
		items, _ := importFiles(t, files{"a.json": r})
		return only(t, items, "medication.prescription.created").Event.Timestamp
	}
	for date, want := range map[string]int64{
		"1970-01-01T00:00:01+00:00": 1000,
		"1969-12-31T19:00:00-05:00": 0,
		"1944":                      -820540800000,
		"1944-05":                   -810086400000,
		"1944-05-01":                -810086400000,
		"2019-05-01T08:00:00.5Z":    1556697600500,
		"2019-05-01T08:00:00":       1556697600000,
		"2019-05-01T08:00Z":         1556697600000,
	} {
		if got := at(date); got != want {
			t.Errorf("%s is %d, want %d", date, got, want)
		}
	}
	_, rep := importFiles(t, files{"a.json": strings.Replace(request(`"x":1`, coded), "2019-05-01T08:00:00-04:00", "last May", 1)})
	if rep.Undated != 1 || rep.Warnings == 0 {
		t.Errorf("undated %d, warnings %d", rep.Undated, rep.Warnings)
	}
}

func TestCorrelationAndKey(t *testing.T) {
	items, _ := importFiles(t, files{"a.json": request(`"encounter":{"reference":"Encounter/e1"}`, coded)})
	e := only(t, items, "medication.prescription.created").Event
	if e.CorrelationID != "e1" || e.PartitionKey != "m1" || e.Source != "fhir-import" {
		t.Errorf("correlation %q, key %q, source %q", e.CorrelationID, e.PartitionKey, e.Source)
	}
	items, _ = importAll(t, &fhir.Options{Source: "hospital"}, write(t, files{"a.json": request(`"x":1`, coded)}))
	e = only(t, items, "medication.prescription.created").Event
	if e.CorrelationID != "p1" || e.Source != "hospital" {
		t.Errorf("correlation %q, source %q", e.CorrelationID, e.Source)
	}
}
