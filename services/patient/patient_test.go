package patient_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog/medication"
	catalog "github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/patient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ptr[T any](v T) *T { return &v }

var jane = patient.Create{RecordCreated: catalog.RecordCreated{
	FirstName: ptr("Jane"), LastName: ptr("Doe"), DateOfBirth: ptr("1980-05-15"), Gender: catalog.GenderFemale,
	Address:     &catalog.Address{Street: ptr("123 Main St"), City: ptr("Columbus"), State: ptr("OH"), PostalCode: ptr("43215")},
	PhoneNumber: ptr("614-555-1234"), Email: ptr("jane.doe@example.com"),
}}

// TestLife goes through every command once, with the version after it.
func TestLife(t *testing.T) {
	p := carebustest.Open(t)
	do := func(c patient.Command, version int64) patient.Record {
		t.Helper()
		got, err := patient.Do(t.Context(), p, "P1", c)
		if err != nil {
			t.Fatalf("%T: %v", c, err)
		}
		if got.Version != version || got.State.Version != version {
			t.Fatalf("%T: version %d, the record counts %d; want %d", c, got.Version, got.State.Version, version)
		}
		return got.State
	}
	do(jane, 1)
	if r := do(patient.ChangeDemographics{LastName: ptr("Smith"), FirstName: ptr("Jane"), Reason: "marriage"}, 2); *r.LastName != "Smith" || *r.FirstName != "Jane" || r.Gender != "female" {
		t.Errorf("%+v", r)
	}
	do(patient.ChangeDemographics{LastName: ptr("Smith")}, 2) // nothing new
	moved := catalog.Address{Street: ptr("1 High St"), City: ptr("Dayton"), State: ptr("OH")}
	if r := do(patient.ChangeAddress{Address: moved}, 3); *r.Address.City != "Dayton" || r.Address.PostalCode != nil {
		t.Errorf("an address is replaced as a whole: %+v", r.Address)
	}
	do(patient.ChangeAddress{Address: moved}, 3)
	if r := do(patient.ChangeContact{Email: ptr("jane@example.org"), PreferredChannel: "email"}, 4); *r.Email != "jane@example.org" || *r.PhoneNumber != "614-555-1234" || r.PreferredChannel != "email" {
		t.Errorf("%+v", r)
	}
	do(patient.UpdatePreferences{PreferencesUpdated: catalog.PreferencesUpdated{PreferredLanguage: ptr("en"), Notifications: map[string]bool{"refill": true, "news": true}}}, 5)
	if r := do(patient.UpdatePreferences{PreferencesUpdated: catalog.PreferencesUpdated{Notifications: map[string]bool{"news": false}}}, 6); !r.Notifications["refill"] || r.Notifications["news"] || *r.PreferredLanguage != "en" {
		t.Errorf("preferences are merged: %+v", r)
	}
	do(patient.UpdatePreferences{PreferencesUpdated: catalog.PreferencesUpdated{Notifications: map[string]bool{"refill": true}}}, 6)
	do(patient.Enroll{Enrolled: catalog.Enrolled{Program: catalog.EnrolledProgram{Name: "Copay help"}, EnrollmentDate: ptr("2023-03-01")}}, 7)
	do(patient.ProvideConsent{ConsentProvided: catalog.ConsentProvided{ConsentID: ptr("C1"), Scope: "treatment"}}, 8)
	if r := do(patient.RevokeConsent{ConsentID: "C1", Reason: "moved"}, 9); r.Consents["C1"].Revoked == nil || r.Consents["C1"].Scope != "treatment" {
		t.Errorf("%+v", r.Consents)
	}
	do(patient.RevokeConsent{ConsentID: "C1"}, 9)
	if r := do(patient.UpdateRecord{Fields: catalog.RecordUpdatedFields{PrimaryProviderID: ptr("PROV1")}, Clear: []string{"email"}, MergedID: "P2", Reason: "merge"}, 10); r.Email != nil || *r.PrimaryProviderID != "PROV1" || fmt.Sprint(r.Merged) != "[P2]" {
		t.Errorf("%+v", r)
	}
	do(patient.UpdateRecord{MergedID: "P2", Reason: "merge"}, 10)
	last := do(patient.UpdateRecord{Fields: catalog.RecordUpdatedFields{Deceased: ptr(true), DeceasedDate: ptr("2024-01-02")}, Reason: "deceased"}, 11)

	records, err := p.Store().Stream(t.Context(), eventstore.StreamQuery{Stream: "patient.record/P1", From: 1, Limit: 100})
	if err != nil || len(records) != 11 {
		t.Fatalf("%d events, %v", len(records), err)
	}
	if last.LastUpdated != records[10].Timestamp || records[10].PartitionKey != "P1" {
		t.Errorf("last updated %d, the last event is of %d", last.LastUpdated, records[10].Timestamp)
	}
	var said map[string]any
	if err := json.Unmarshal(records[1].Payload, &said); err != nil || said["firstName"] != nil || said["lastName"] != "Smith" {
		t.Errorf("a change says what has not changed: %s", records[1].Payload)
	}
	if then, err := patient.Records.At(t.Context(), p, "P1", records[2].RecordedAt); err != nil || *then.State.Address.City != "Dayton" || *then.State.Email != "jane.doe@example.com" {
		t.Errorf("the record as it was: %+v, %v", then, err)
	}
	blame, err := patient.Records.Blame(t.Context(), p, "P1")
	if err != nil || blame["/address/city"].Type != "patient.address.changed" || blame["/lastName"].Type != "patient.demographics.changed" || blame["/firstName"].StreamVersion != 1 {
		t.Errorf("who has set what: %v, %v", blame, err)
	}
}

func TestRefusals(t *testing.T) {
	p := carebustest.Open(t)
	future := time.Now().Add(72 * time.Hour).Format(time.DateOnly)
	refused := func(id string, c patient.Command, rule string) {
		t.Helper()
		_, err := patient.Do(t.Context(), p, id, c)
		var re *patient.RefusedError
		if !errors.As(err, &re) || re.Rule != rule || re.Remedy == "" || re.Command == "" {
			t.Errorf("%T: %v, want it refused by the rule %q", c, err, rule)
		}
	}
	consent := func(id, scope string, expires time.Time) patient.Command {
		return patient.ProvideConsent{ConsentProvided: catalog.ConsentProvided{ConsentID: &id, Scope: scope, ExpiresAt: expires}}
	}
	enroll := func(name string, dates ...string) patient.Command {
		e := catalog.Enrolled{Program: catalog.EnrolledProgram{Name: name}}
		if len(dates) == 2 {
			e.EnrollmentDate, e.EndDate = &dates[0], &dates[1]
		}
		return patient.Enroll{Enrolled: e}
	}
	for _, c := range []patient.Command{
		patient.ChangeDemographics{LastName: ptr("x")}, patient.ChangeAddress{}, patient.ChangeContact{Email: ptr("x")},
		patient.UpdatePreferences{}, enroll("x"), consent("C", "x", time.Time{}), patient.RevokeConsent{ConsentID: "C"}, patient.UpdateRecord{Reason: "x"},
	} {
		refused("nobody", c, "exists")
	}
	refused("P1", patient.Create{RecordCreated: catalog.RecordCreated{DateOfBirth: &future}}, "value")
	refused("P1", patient.Create{RecordCreated: catalog.RecordCreated{DateOfBirth: ptr("15.5.1980")}}, "value")
	refused("P1", patient.Create{RecordCreated: catalog.RecordCreated{Gender: "x"}}, "value")
	if _, err := patient.Do(t.Context(), p, "P1", jane); err != nil {
		t.Fatal(err)
	}
	refused("P1", jane, "not-exists")
	refused("P1", patient.ChangeDemographics{DateOfBirth: &future}, "value")
	refused("P1", patient.ChangeDemographics{Gender: "x"}, "value")
	refused("P1", patient.ChangeAddress{}, "value")
	refused("P1", patient.ChangeContact{PreferredChannel: "pigeon"}, "value")
	refused("P1", patient.UpdatePreferences{PreferencesUpdated: catalog.PreferencesUpdated{PreferredChannel: "pigeon"}}, "value")
	refused("P1", enroll(""), "value")
	refused("P1", enroll("x", "2023-03-01", "2023-02-01"), "value")
	refused("P1", consent("C1", "", time.Time{}), "value")
	refused("P1", consent("C1", "treatment", time.Now().Add(-time.Hour)), "value")
	refused("P1", patient.RevokeConsent{ConsentID: "C1"}, "known")
	refused("P1", patient.UpdateRecord{}, "value")
	refused("P1", patient.UpdateRecord{Reason: "merge", MergedID: "P1"}, "value")
	for _, c := range []patient.Command{enroll("x"), consent("C1", "treatment", time.Time{}), patient.UpdateRecord{Reason: "deceased", Fields: catalog.RecordUpdatedFields{Deceased: ptr(true)}}} {
		if _, err := patient.Do(t.Context(), p, "P1", c); err != nil {
			t.Fatal(err)
		}
	}
	refused("P1", enroll("x", "2023-03-01"), "deceased")
	refused("P1", consent("C2", "research", time.Time{}), "deceased")
	refused("P1", patient.ChangeContact{Email: ptr("y")}, "deceased")
	if _, err := patient.Do(t.Context(), p, "P1", patient.RevokeConsent{ConsentID: "C1"}); err != nil {
		t.Errorf("a consent can be taken back after death: %v", err)
	}
}

// TestActiveTwice: an enrollment that has not ended is not made again.
func TestActiveTwice(t *testing.T) {
	p := carebustest.Open(t)
	first := catalog.Enrolled{Program: catalog.EnrolledProgram{ID: ptr("PR1"), Name: "Adherence"}, EnrollmentDate: ptr("2023-03-01")}
	second := first
	second.EnrollmentDate = ptr("2024-03-01")
	ended := first
	ended.EndDate = ptr("2023-09-01")
	var re *patient.RefusedError
	for i, c := range []patient.Command{jane, patient.Enroll{Enrolled: first}, patient.Enroll{Enrolled: second}, patient.Enroll{Enrolled: ended}, patient.Enroll{Enrolled: second}} {
		got, err := patient.Do(t.Context(), p, "P1", c)
		switch {
		case i == 2:
			if !errors.As(err, &re) || re.Rule != "active" {
				t.Errorf("enrolled twice: %v", err)
			}
		case err != nil:
			t.Fatal(err)
		case i == 4 && (len(got.State.Enrollments) != 1 || *got.State.Enrollments[0].EnrollmentDate != "2024-03-01"):
			t.Errorf("%+v", got.State.Enrollments)
		}
	}
}

// TestOlderCode: the older name of the same fact is understood.
func TestOlderCode(t *testing.T) {
	p := carebustest.Open(t)
	if _, err := patient.Do(t.Context(), p, "P1", jane); err != nil {
		t.Fatal(err)
	}
	//nolint:staticcheck // that deprecated events are understood is what is tested
	older := catalog.DemographicsUpdatedV1.New("older-service", catalog.DemographicsUpdated{PatientID: "P1", FirstName: ptr("Janet")})
	if _, err := p.Append(t.Context(), "patient.record/P1", eventstore.AnyVersion, older); err != nil {
		t.Fatal(err)
	}
	got, err := patient.Records.Load(t.Context(), p, "P1")
	if err != nil || *got.State.FirstName != "Janet" || *got.State.LastName != "Doe" || got.State.Version != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestFold: whatever is done to a record, its state is the fold of its events, read by anybody at any version.
func TestFold(t *testing.T) {
	p := carebustest.Open(t)
	text := rapid.SampledFrom([]string{"a", "b", "c"})
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		id := fmt.Sprint("P", n)
		if _, err := patient.Do(context.Background(), p, id, jane); err != nil {
			t.Fatal(err)
		}
		states := []aggregate.Loaded[patient.Record]{}
		for range rapid.IntRange(1, 8).Draw(t, "commands") {
			var c patient.Command
			switch rapid.IntRange(0, 6).Draw(t, "command") {
			case 0:
				c = patient.ChangeDemographics{FirstName: ptr(text.Draw(t, "name"))}
			case 1:
				c = patient.ChangeAddress{Address: catalog.Address{City: ptr(text.Draw(t, "city"))}}
			case 2:
				c = patient.ChangeContact{Email: ptr(text.Draw(t, "email") + "@example.com")}
			case 3:
				c = patient.UpdatePreferences{PreferencesUpdated: catalog.PreferencesUpdated{Notifications: map[string]bool{text.Draw(t, "kind"): rapid.Bool().Draw(t, "on")}}}
			case 4:
				c = patient.ProvideConsent{ConsentProvided: catalog.ConsentProvided{ConsentID: ptr(text.Draw(t, "consent")), Scope: "treatment"}}
			case 5:
				c = patient.RevokeConsent{ConsentID: text.Draw(t, "consent")}
			case 6:
				c = patient.UpdateRecord{Reason: "correction", Clear: []string{rapid.SampledFrom([]string{"email", "suffix", "address"}).Draw(t, "clear")}}
			}
			got, err := patient.Do(context.Background(), p, id, c)
			var re *patient.RefusedError
			if errors.As(err, &re) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			states = append(states, got)
		}
		for step, err := range patient.Records.History(context.Background(), p, id) {
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range states {
				if s.Version == step.Record.StreamVersion && encoded(s.State) != encoded(step.State) {
					t.Fatalf("version %d\nwas  %s\nfold %s", s.Version, encoded(s.State), encoded(step.State))
				}
			}
		}
	})
}

func encoded(r patient.Record) string {
	b, err := json.Marshal(r)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// TestTimeline: every event that names a patient, of any service, newest first, page by page.
func TestTimeline(t *testing.T) {
	p := carebustest.Open(t)
	if err := patient.Join(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	day := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var want []string
	for i := range 7 {
		e := medication.PrescriptionCreatedV1.New("ehr", medication.PrescriptionCreated{PrescriptionID: fmt.Sprint("RX", i), PatientID: "P1", Medication: medication.Medication{Name: "Lisinopril"}}).At(day.AddDate(0, 0, -i/2))
		r, err := p.Publish(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, r.EventID)
	}
	if _, err := patient.Do(t.Context(), p, "P2", jane); err != nil {
		t.Fatal(err)
	}
	carebustest.Settle(t, p)
	var got []string
	var last patient.Moment
	for {
		page, err := patient.TimelineOf(t.Context(), p.Store(), "P1", last, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			if !last.At.IsZero() && m.At.After(last.At) || m.Type != "medication.prescription.created" || m.Title != "Prescription created" || m.Source != "ehr" || m.CorrelationID == "" {
				t.Errorf("%+v after %+v", m, last)
			}
			got, last = append(got, m.EventID), m
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if other, err := patient.TimelineOf(t.Context(), p.Store(), "P2", patient.Moment{}, 10); err != nil || len(other) != 1 {
		t.Errorf("%+v, %v", other, err)
	}
}

func Example() {
	ctx := context.Background()
	p, done := openExample()
	defer done()
	if _, err := patient.Do(ctx, p, "P987654321", jane); err != nil {
		panic(err)
	}
	now, err := patient.Do(ctx, p, "P987654321", patient.ChangeContact{PhoneNumber: ptr("614-555-9999")}, aggregate.Once("call-17"))
	if err != nil {
		panic(err)
	}
	fmt.Println(*now.State.FirstName, *now.State.PhoneNumber, now.State.Version)
	_, err = patient.Do(ctx, p, "P987654321", patient.RevokeConsent{ConsentID: "C1"})
	fmt.Println(err)
	// Output:
	// Jane 614-555-9999 2
	// patient: revoke-consent refused: there is no consent with this id [known]; look up the patient's consents
}

func openExample() (p *carebus.Platform, done func()) {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	if p, err = carebus.Open(context.Background(), "sqlite:"+filepath.Join(dir, "care.db"), nil); err != nil {
		panic(err)
	}
	return p, func() { _ = p.Close(); _ = os.RemoveAll(dir) }
}
