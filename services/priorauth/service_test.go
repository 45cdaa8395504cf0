package priorauth_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/catalog/payment"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/priorauth"
)

// running joins the service and runs the platform until the test ends.
func running(t *testing.T, more ...func(p *carebus.Platform) error) *carebus.Platform {
	t.Helper()
	p := carebustest.Open(t)
	err := priorauth.Join(t.Context(), p, priorauth.Options{
		Required: func(m medication.Medication, _ *medication.Payer) (bool, error) {
			return m.Name != "Lisinopril 10mg Tablet", nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range more {
		if err := m(p); err != nil {
			t.Fatal(err)
		}
	}
	carebustest.Run(t, p)
	return p
}

// settled waits until everything was handled and returns how many events there are of each type.
func settled(t *testing.T, p *carebus.Platform) map[string]int64 {
	t.Helper()
	carebustest.Settle(t, p)
	types, err := p.Store().Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return types
}

func publish(t *testing.T, p *carebus.Platform, events ...event.Event) {
	t.Helper()
	for _, e := range events {
		if _, err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

func prescription(id, name string, at time.Time, conditions ...string) event.Event {
	rx := medication.PrescriptionCreated{
		PrescriptionID: id, PatientID: "P1", Medication: medication.Medication{Name: name, Code: &medication.Codeable{Code: ptr("rx-" + name)}}, AuthoredOn: at,
		Payer: &medication.Payer{ID: ptr("PAYER1")},
	}
	for _, c := range conditions {
		rx.Conditions = append(rx.Conditions, medication.Codeable{Code: &c})
	}
	e := medication.PrescriptionCreatedV1.New("provider-system", rx).At(at)
	e.PartitionKey = "P1"
	return e
}

// TestRequests: a prescription leads to a request that carries what was known of the patient on its day, or to the
// determination that none is needed.
func TestRequests(t *testing.T) {
	p := running(t)
	day := time.Date(2023, 3, 1, 10, 0, 0, 0, time.UTC)
	record := patient.RecordCreatedV1.New("patient-service", patient.RecordCreated{PatientID: "P1", DateOfBirth: ptr("1980-05-15"), Gender: patient.GenderFemale, Address: &patient.Address{State: ptr("OH")}})
	plan := care.PlanCreatedV1.New("care", care.PlanCreated{CarePlanID: "CP1", PatientID: "P1", Conditions: []care.Codeable{{Code: ptr("asthma")}}}).At(day.AddDate(-1, 0, 0))
	plan.PartitionKey = "P1"
	publish(t, p, record, plan,
		prescription("RX1", "Lisinopril 10mg Tablet", day.AddDate(0, -2, 0), "hypertension"),
		prescription("RX2", "Humira", day.AddDate(0, -1, 0)),
		prescription("RX3", "Humira", day, "arthritis"),
		prescription("RX4", "Humira", day.AddDate(-2, 0, 0)), // an older one that comes late
	)
	types := settled(t, p)
	if types["priorauth.determination.not-required"] != 1 || types["priorauth.request.submitted"] != 3 {
		t.Fatalf("%v", types)
	}
	facts := func(id string) string {
		r, err := priorauth.Requests.Load(t.Context(), p, priorauth.ID(id))
		if err != nil {
			t.Fatal(err)
		}
		c := r.State.Clinical
		out := fmt.Sprint("age ", *c.AgeYears, " ", c.Gender, " ", *c.State)
		for _, d := range c.Diagnoses {
			out += fmt.Sprint("; ", *d.Code.Code, " ", *d.DaysAgo)
		}
		for _, h := range c.MedicationHistory {
			out += fmt.Sprint("; ", h.Name, " ", *h.DaysAgo)
		}
		return out
	}
	for id, want := range map[string]string{
		"RX2": "age 42 female OH; asthma 337; hypertension 31; Lisinopril 10mg Tablet 31",
		"RX3": "age 42 female OH; asthma 365; hypertension 59; arthritis 0; Lisinopril 10mg Tablet 59; Humira 28",
		"RX4": "age 40 female OH",
	} {
		if got := facts(id); got != want {
			t.Errorf("%s: %s\nwant %s", id, got, want)
		}
	}
}

// TestDecisions: the payer's answers move the requests, each as it says, and only once, however often they are handled.
func TestDecisions(t *testing.T) {
	answers := map[string]catalog.DecisionMade{
		"RX1": {Decision: catalog.DecisionApproved, AuthNumber: ptr("AUTH1"), ApprovedQuantity: ptr(2.0)},
		"RX2": {Decision: catalog.DecisionDenied, Reasons: []catalog.Reason{{Code: "STEP-THERAPY", Text: ptr("Try a generic first")}}},
		"RX3": {Decision: catalog.DecisionPended, MissingInformation: []catalog.MissingItem{{Field: "daysSupply", Ask: "For how many days?"}}},
		"RX4": {Decision: catalog.DecisionModified, Reasons: []catalog.Reason{{Code: "QUANTITY-LIMIT"}}},
		"RX5": {Decision: catalog.DecisionContactPayer},
	}
	p := running(t, func(p *carebus.Platform) error {
		return p.Handle("payer", bus.On(catalog.RequestSubmittedV1, func(_ context.Context, tx bus.Tx, e event.Of[catalog.RequestSubmitted]) error {
			d := answers[*e.Payload.PrescriptionID]
			d.PriorAuthID, d.PatientID = e.Payload.PriorAuthID, e.Payload.PatientID
			return tx.Append(catalog.DecisionMadeV1.New("payer-service", d))
		}))
	})
	for id := range answers {
		publish(t, p, prescription(id, "Humira", time.Now()))
	}
	settled(t, p)
	status := func() (out []string) {
		for _, id := range []string{"RX1", "RX2", "RX3", "RX4", "RX5"} {
			r, err := priorauth.Requests.Load(t.Context(), p, priorauth.ID(id))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, fmt.Sprint(r.State.Status, " ", r.Version, " ", r.State.StatusReason))
		}
		return out
	}
	want := []string{"APPROVED 2 ", "DENIED 2 Try a generic first", "PENDED 2 information is missing", "APPROVED 2 ", "PENDED 2 information is missing"}
	if got := status(); !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if err := p.Bus().Replay(t.Context(), priorauth.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	settled(t, p)
	if got := status(); !slices.Equal(got, want) {
		t.Errorf("after handling everything again: %q\nwant %q", got, want)
	}
	// The flow is one: the prescription's correlation is that of the decision.
	rs, err := p.Store().Stream(t.Context(), eventstore.StreamQuery{Stream: "priorauth.request/PA-RX1", From: 1, Limit: 10})
	if err != nil || len(rs) != 2 {
		t.Fatal(err)
	}
	flow, err := p.Store().Correlation(t.Context(), rs[1].CorrelationID, time.Time{}, 100)
	if err != nil || len(flow) < 4 || flow[0].Type != "medication.prescription.created" {
		t.Errorf("%d events of the flow, %v", len(flow), err)
	}
	if got, err := priorauth.Do(t.Context(), p, "PA-RX3", priorauth.Update{Fields: json.RawMessage(`{"medication":{"daysSupply":30}}`), Answers: "daysSupply"}); err != nil || got.State.Status != "SUBMITTED" || *got.State.Medication.DaysSupply != 30 {
		t.Errorf("the answer to the payer: %+v, %v", got, err)
	}
}

// TestRejectedClaim: a claim that was refused for want of an authorization asks for one; other refusals do not.
func TestRejectedClaim(t *testing.T) {
	p := running(t)
	publish(t, p, prescription("RX1", "Lisinopril 10mg Tablet", time.Now()), prescription("RX2", "Lisinopril 10mg Tablet", time.Now()))
	settled(t, p)
	reject := func(claim, rx, code string) event.Event {
		return payment.ClaimRejectedV1.New("payer-service", payment.ClaimRejected{ClaimID: claim, PrescriptionID: &rx, RejectCodes: []payment.RejectCode{{Code: &code}}, Payer: &payment.Payer{ID: ptr("PAYER1")}})
	}
	publish(t, p, reject("C1", "RX1", "75"))
	settled(t, p) // claims are keys of their own: which of two comes first is open
	publish(t, p, reject("C2", "RX2", "79"), reject("C3", "RX1", "75"))
	if types := settled(t, p); types["priorauth.request.submitted"] != 1 {
		t.Errorf("%v; want one request", types)
	}
	r, err := priorauth.Requests.Load(t.Context(), p, "PA-RX1")
	if err != nil || *r.State.ClaimID != "C1" || r.State.PatientID != "P1" || *r.State.Payer.ID != "PAYER1" || r.State.Medication.Name != "Lisinopril 10mg Tablet" {
		t.Errorf("%+v, %v", r, err)
	}
	publish(t, p, reject("C9", "unknown", "70"))
	settled(t, p)
	if letters, err := p.Bus().DeadLetters(t.Context(), bus.Filter{}, 10); err != nil || len(letters) != 1 {
		t.Errorf("a claim for an unknown prescription: %+v, %v; want it parked", letters, err)
	}
}

func TestJoinWantsAFormulary(t *testing.T) {
	if err := priorauth.Join(t.Context(), carebustest.Open(t), priorauth.Options{}); err == nil {
		t.Error("joined without knowing what payers want to be asked about")
	}
}

// TestRecordNotHandledYet: a prescription that is handled before its patient's record finds the record in the store.
func TestRecordNotHandledYet(t *testing.T) {
	p := carebustest.Open(t)
	record := patient.RecordCreatedV1.New("patient-service", patient.RecordCreated{PatientID: "P1", DateOfBirth: ptr("1980-05-15"), Gender: patient.GenderFemale, Address: &patient.Address{State: ptr("OH")}})
	if _, err := p.Append(t.Context(), "patient.record/P1", eventstore.NoStream, record); err != nil {
		t.Fatal(err)
	}
	err := priorauth.Join(t.Context(), p, priorauth.Options{
		Required: func(medication.Medication, *medication.Payer) (bool, error) { return true, nil },
		Group:    []bus.Option{bus.Start(bus.FromNow)},
	})
	if err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	carebustest.Settle(t, p)
	publish(t, p, prescription("RX1", "Humira", time.Date(2023, 3, 1, 0, 0, 0, 0, time.UTC)))
	carebustest.Settle(t, p)
	r, err := priorauth.Requests.Load(t.Context(), p, priorauth.ID("RX1"))
	if err != nil {
		t.Fatal(err)
	}
	if c := r.State.Clinical; c == nil || c.AgeYears == nil || *c.AgeYears != 42 || c.Gender != "female" || *c.State != "OH" {
		t.Errorf("%+v", c)
	}
}
