package payer_test

import (
	"compress/gzip"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/services/payer"
)

// The members of FHIR resources that facts are made of.
type coding struct {
	Coding []struct{ Code, Display string }
}

type resource struct {
	ResourceType, ID, Gender, BirthDate  string
	Address                              []struct{ State string }
	Code, MedicationCodeableConcept      coding
	AuthoredOn, OnsetDateTime            string
	AbatementDateTime, EffectiveDateTime string
	RecordedDate                         string
	ValueQuantity                        *struct{ Value float64 }
}

// person is one patient's record.
type person struct {
	patient                                     resource
	requests, conditions, allergies, measurings []resource
}

// persons reads every Synthea bundle of the test data, each resource once.
func persons(t *testing.T) []person {
	t.Helper()
	root := os.Getenv("CAREBUS_TEST_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "data")
	}
	files, err := filepath.Glob(filepath.Join(root, "fhir-dev", "synthea*", "*.json.gz"))
	if err != nil || len(files) == 0 {
		t.Skipf("no bundles in %s (CAREBUS_TEST_DATA names the folder above fhir-dev)", filepath.Join(root, "fhir-dev"))
	}
	var out []person
	seen := map[string]bool{}
	for _, name := range files {
		p := readPerson(t, name, seen)
		if p.patient.ID != "" {
			out = append(out, p)
		}
	}
	return out
}

func readPerson(t *testing.T, name string, seen map[string]bool) (p person) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var bundle struct {
		Entry []struct{ Resource json.RawMessage }
	}
	if err := json.NewDecoder(z).Decode(&bundle); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, e := range bundle.Entry {
		var kind struct{ ResourceType, ID string }
		if err := json.Unmarshal(e.Resource, &kind); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if kind.ID != "" && seen[kind.ResourceType+kind.ID] {
			continue
		}
		seen[kind.ResourceType+kind.ID] = true
		var list *[]resource
		switch kind.ResourceType {
		case "Patient":
			list = nil
		case "MedicationRequest":
			list = &p.requests
		case "Condition":
			list = &p.conditions
		case "AllergyIntolerance":
			list = &p.allergies
		case "Observation":
			list = &p.measurings
		default:
			continue
		}
		var r resource
		if err := json.Unmarshal(e.Resource, &r); err != nil {
			t.Fatalf("%s: %s %s: %v", name, kind.ResourceType, kind.ID, err)
		}
		if list == nil {
			p.patient = r
		} else {
			*list = append(*list, r)
		}
	}
	slices.SortStableFunc(p.requests, func(a, b resource) int { return instant(t, a.AuthoredOn).Compare(instant(t, b.AuthoredOn)) })
	return p
}

func instant(t *testing.T, s string) time.Time {
	t.Helper()
	for _, form := range []string{time.RFC3339Nano, time.DateOnly} {
		if v, err := time.Parse(form, s); err == nil {
			return v
		}
	}
	t.Fatalf("not a date: %d characters", len(s))
	return time.Time{}
}

// facts are what was known of p when it made the request at the index, and when that was.
func (p *person) facts(t *testing.T, index int) (payer.Facts, time.Time) {
	t.Helper()
	request := p.requests[index]
	at := instant(t, request.AuthoredOn)
	days := func(then time.Time) int64 { return int64(at.Sub(then) / (24 * time.Hour)) }
	drug := request.MedicationCodeableConcept.Coding[0]
	age := int64(math.Floor(at.Sub(instant(t, p.patient.BirthDate)).Hours() / 24 / 365.25))
	f := payer.Facts{
		Request:      payer.Request{RxCUI: drug.Code, Name: drug.Display},
		Patient:      payer.Patient{ID: p.patient.ID, Age: &age, Sex: priorauth.Gender(p.patient.Gender), State: p.patient.Address[0].State},
		Plan:         payer.Plan{Payer: "Test Plan", LineOfBusiness: priorauth.PayerLineOfBusinessCommercial, MemberID: p.patient.ID},
		Observations: map[string]payer.Observation{},
	}
	if age < 0 { // one request of the data is fifty years older than its patient
		f.Patient.Age = nil
	}
	for _, c := range p.conditions {
		onset := instant(t, c.OnsetDateTime)
		if onset.After(at) {
			continue
		}
		code := c.Code.Coding[0]
		active := c.AbatementDateTime == "" || instant(t, c.AbatementDateTime).After(at)
		f.Diagnoses = append(f.Diagnoses, payer.Diagnosis{Code: code.Code, Display: code.Display, Active: active, DaysAgo: days(onset)})
	}
	for i, other := range p.requests {
		if then := instant(t, other.AuthoredOn); i != index && !then.After(at) {
			past := other.MedicationCodeableConcept.Coding[0]
			f.History = append(f.History, payer.PastDrug{RxCUI: past.Code, Name: past.Display, DaysAgo: days(then)})
		}
	}
	for _, a := range p.allergies {
		f.Allergies = append(f.Allergies, payer.Allergy{Code: a.Code.Coding[0].Code})
	}
	for _, o := range p.measurings {
		then := instant(t, o.EffectiveDateTime)
		if o.ValueQuantity == nil || then.After(at) {
			continue
		}
		code := o.Code.Coding[0].Code
		if known, ok := f.Observations[code]; !ok || days(then) < known.DaysAgo {
			f.Observations[code] = payer.Observation{Value: o.ValueQuantity.Value, DaysAgo: days(then)}
		}
	}
	return f, at
}
