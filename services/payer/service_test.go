package payer_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/payment"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/services/payer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running joins the service and runs the platform until the test ends.
func running(t *testing.T, o payer.Options) *carebus.Platform {
	t.Helper()
	p := carebustest.Open(t)
	if err := payer.Join(t.Context(), p, o); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	return p
}

// settled publishes events and waits until the service has handled everything.
func settled(t *testing.T, p *carebus.Platform, events ...event.Event) {
	t.Helper()
	for _, e := range events {
		if _, err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	carebustest.Settle(t, p)
}

// asthmatic asks for the inhaler of rule PA-RESP-001.
func asthmatic(id string, at time.Time, change func(*priorauth.RequestSubmitted)) event.Event {
	inhaler, name, asthma, age, days := "896209", "fluticasone-salmeterol", "195967001", int64(40), int64(30)
	ics := "895994"
	r := priorauth.RequestSubmitted{
		PriorAuthID: id, PatientID: "P1", PrescriptionID: &id, Medication: &priorauth.Medication{Name: name, Code: &priorauth.Codeable{Code: &inhaler}},
		Payer: &priorauth.Payer{ID: &[]string{"PAYER1"}[0]}, SubmittedAt: at,
		Clinical: &priorauth.ClinicalFacts{
			AgeYears: &age, Gender: priorauth.GenderFemale,
			Diagnoses:         []priorauth.ClinicalDiagnosis{{Code: priorauth.Codeable{Code: &asthma}, DaysAgo: &days}},
			MedicationHistory: []priorauth.MedicationTried{{Name: "fluticasone", Code: &priorauth.Codeable{Code: &ics}, DaysAgo: &days}},
		},
	}
	if change != nil {
		change(&r)
	}
	e := priorauth.RequestSubmittedV1.New("priorauth-service", r).At(at)
	e.PartitionKey = r.PatientID
	return e
}

// decisions returns the payer's answers by request, the last of each.
func decisions(t *testing.T, p *carebus.Platform) map[string]priorauth.DecisionMade {
	t.Helper()
	out := map[string]priorauth.DecisionMade{}
	for r, err := range p.Store().All(t.Context(), nil, func(typ string) bool { return typ == priorauth.DecisionMadeV1.Type() }) {
		if err != nil {
			t.Fatal(err)
		}
		d, err := priorauth.DecisionMadeV1.Decode(r.Event)
		if err != nil {
			t.Fatal(err)
		}
		out[d.Payload.PriorAuthID] = d.Payload
	}
	return out
}

func TestDecisionsAsEvents(t *testing.T) {
	p := running(t, payer.Options{Member: func(patientID string, c *priorauth.Coverage) string {
		if patientID == "STRANGER" {
			return ""
		}
		return "M-" + patientID
	}})
	day := time.Date(2023, 3, 1, 10, 0, 0, 0, time.UTC)
	none := func(r *priorauth.RequestSubmitted) {
		r.PatientID, r.Clinical.MedicationHistory, r.Clinical.Diagnoses = "P2", nil, nil
	}
	settled(t, p,
		asthmatic("PA1", day, nil),
		asthmatic("PA2", day.AddDate(0, 2, 0), nil), // covered by what was approved for PA1
		asthmatic("PA3", day, none),
		asthmatic("PA4", day.AddDate(0, 0, 7), none), // the same request again
		// Dated by an instant: the inhaled steroid of two years ago is too long ago for the rule.
		asthmatic("PA8", day, func(r *priorauth.RequestSubmitted) {
			r.PatientID = "P8"
			r.Clinical.MedicationHistory[0].DaysAgo, r.Clinical.MedicationHistory[0].PrescribedAt = nil, day.AddDate(-2, 0, 0)
		}),
		asthmatic("PA9", day, func(r *priorauth.RequestSubmitted) {
			r.PatientID = "P9"
			r.Clinical.MedicationHistory[0].DaysAgo, r.Clinical.MedicationHistory[0].PrescribedAt = nil, day.AddDate(0, -2, 0)
		}),
		asthmatic("PA5", day, func(r *priorauth.RequestSubmitted) { r.PatientID = "STRANGER" }),
		asthmatic("PA6", day, func(r *priorauth.RequestSubmitted) { r.PatientID, r.Medication.Code = "P6", nil }),
		asthmatic("PA7", day, func(r *priorauth.RequestSubmitted) { r.PatientID, *r.Medication.Code.Code = "P7", "no-such-drug" }),
	)
	got := decisions(t, p)
	for id, want := range map[string]priorauth.Decision{
		"PA1": priorauth.DecisionApproved, "PA2": priorauth.DecisionApproved, "PA3": priorauth.DecisionDenied, "PA4": priorauth.DecisionDenied,
		"PA5": priorauth.DecisionContactPayer, "PA6": priorauth.DecisionPended, "PA7": priorauth.DecisionNotRequired,
		"PA8": priorauth.DecisionDenied, "PA9": priorauth.DecisionApproved,
	} {
		if got[id].Decision != want {
			t.Errorf("%s: %s, want %s", id, got[id].Decision, want)
		}
	}
	if d := got["PA1"]; *d.AuthNumber != "AUTH-PA1" || d.Rule.RuleID != "PA-RESP-001" || len(d.Rule.Results) < 4 || !d.EffectivePeriod.Start.Equal(day) || d.OnFile != nil {
		t.Errorf("%+v", d)
	}
	if d := got["PA2"]; d.OnFile == nil || *d.AuthorizationOnFile != "AUTH-PA1" {
		t.Errorf("the second request was decided anew: %+v", d)
	}
	if a, b := got["PA3"], got["PA4"]; len(a.Reasons) == 0 || a.Reasons[0].Code != "DX-NOT-SUPPORTED" || a.Appeal == nil || !a.Appeal.Deadline.Equal(b.Appeal.Deadline) || !a.DecidedAt.Equal(b.DecidedAt) {
		t.Errorf("a denied request, repeated, has another answer: %+v %+v", a, b)
	}
	due, err := payer.Inbox(t.Context(), p.Store(), 10)
	if err != nil || len(due) != 2 || due[0].PriorAuthID != "PA5" && due[1].PriorAuthID != "PA5" {
		t.Errorf("the inbox: %+v, %v; want PA5 and PA6", due, err)
	}
	answer := priorauth.RequestUpdatedV1.New("priorauth-service", priorauth.RequestUpdated{PriorAuthID: "PA6", UpdatedFields: json.RawMessage(`{"medication":{"code":{"code":"896209"}}}`)})
	other := priorauth.RequestUpdatedV1.New("priorauth-service", priorauth.RequestUpdated{PriorAuthID: "PA1", UpdatedFields: json.RawMessage(`{"urgency":"expedited"}`)})
	cancel := priorauth.RequestCancelledV1.New("priorauth-service", priorauth.RequestCancelled{PriorAuthID: "PA5"})
	settled(t, p, answer, other, cancel)
	if d := decisions(t, p)["PA6"]; d.Decision != priorauth.DecisionApproved || *d.AuthNumber != "AUTH-PA6" {
		t.Errorf("after the answer: %+v", d)
	}
	if types, err := p.Store().Types(t.Context()); err != nil || types["priorauth.decision.made"] != 10 {
		t.Errorf("%v, %v; want one decision for each question, and none for a request that is decided", types, err)
	}
	if due, err := payer.Inbox(t.Context(), p.Store(), 10); err != nil || len(due) != 0 {
		t.Errorf("the inbox: %+v, %v; want it empty", due, err)
	}
}

func TestClaims(t *testing.T) {
	p := running(t, payer.Options{})
	claim := func(id, patientID, drug string, cents int64) event.Event {
		total := catalog.USD(cents)
		return payment.ClaimSubmittedV1.New("pharmacy-service", payment.ClaimSubmitted{
			ClaimID: id, PatientID: patientID, PrescriptionID: &id, ClaimType: payment.ClaimTypePharmacy, Total: &total,
			Medication: &payment.DispensedMedication{Code: &payment.Codeable{Code: &drug}},
		})
	}
	settled(t, p, asthmatic("PA1", time.Now(), nil))
	first := claim("C1", "P1", "896209", 30000)
	settled(t, p, first, claim("C2", "P9", "896209", 30000), claim("C3", "P9", "314076", 1000), claim("C4", "P9", "314076", 900000))
	settled(t, p, payment.ClaimVoidedV1.New("pharmacy-service", payment.ClaimVoided{ClaimID: "C4"}))
	if err := p.Bus().Replay(t.Context(), payer.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	settled(t, p)
	if types, err := p.Store().Types(t.Context()); err != nil || types["priorauth.decision.made"] != 1 {
		t.Errorf("%v, %v; want one decision, however often the request is handled", types, err)
	}
	out := map[string]string{}
	for r, err := range p.Store().All(t.Context(), nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		switch r.Type {
		case payment.ClaimApprovedV1.Type():
			e, err := payment.ClaimApprovedV1.Decode(r.Event)
			if err != nil {
				t.Fatal(err)
			}
			out[e.Payload.ClaimID] += fmt.Sprint("paid ", *e.Payload.PatientPay, "+", *e.Payload.InsurancePay)
		case payment.ClaimRejectedV1.Type():
			e, err := payment.ClaimRejectedV1.Decode(r.Event)
			if err != nil {
				t.Fatal(err)
			}
			out[e.Payload.ClaimID] += "rejected " + *e.Payload.RejectCodes[0].Code
		}
	}
	want := map[string]string{"C1": "paid 30.00+270.00", "C2": "rejected 75", "C3": "paid 1.00+9.00", "C4": "paid 50.00+8950.00"}
	if fmt.Sprint(out) != fmt.Sprint(want) {
		t.Errorf("%v\nwant %v; each claim answered once", out, want)
	}
}

// TestAppeal: an appeal against a denial is answered once: upheld, or overturned by the reviewer, and then the payer pays.
func TestAppeal(t *testing.T) {
	appeal := func(attachments ...priorauth.Attachment) event.Event {
		e := priorauth.AppealSubmittedV1.New("priorauth-service", priorauth.AppealSubmitted{PriorAuthID: "PA1", AppealID: "PA1-1", SubmittedAt: time.Now(), Attachments: attachments})
		e.PartitionKey = "P1"
		return e
	}
	for _, c := range []struct {
		name   string
		appeal event.Event
		want   priorauth.Decision
	}{
		{"upheld", appeal(), priorauth.DecisionUpheld},
		{"overturned", appeal(priorauth.Attachment{}), priorauth.DecisionApproved},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := running(t, payer.Options{Overturn: func(a priorauth.AppealSubmitted, denied payer.Decision) bool {
				return len(a.Attachments) > 0 && denied.Reasons[0].Code == "STEP-THERAPY"
			}})
			settled(t, p, asthmatic("PA1", time.Now(), func(r *priorauth.RequestSubmitted) { r.Clinical.MedicationHistory = nil }))
			if d := decisions(t, p)["PA1"]; d.Decision != priorauth.DecisionDenied {
				t.Fatalf("%+v", d)
			}
			settled(t, p, c.appeal)
			if err := p.Bus().Replay(t.Context(), payer.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
				t.Fatal(err)
			}
			carebustest.Settle(t, p)
			d := decisions(t, p)["PA1"]
			if d.Decision != c.want || (c.want == priorauth.DecisionApproved) != (d.AuthNumber != nil) || (c.want == priorauth.DecisionUpheld) != (len(d.Reasons) > 0) {
				t.Errorf("%+v", d)
			}
			types, err := p.Store().Types(t.Context())
			if err != nil || types["priorauth.decision.made"] != 2 {
				t.Errorf("%v, %v; want 2 decisions", types, err)
			}
		})
	}
}

// TestLateRequest: an authorization for a prescription of years ago, as imports have them, pays for its own prescription
// when that is filled today, and for no other.
func TestLateRequest(t *testing.T) {
	p := running(t, payer.Options{})
	long := time.Now().AddDate(-6, 0, 0)
	claim := func(id, rx string) event.Event {
		inhaler := "896209"
		e := payment.ClaimSubmittedV1.New("pharmacy-service", payment.ClaimSubmitted{ClaimID: id, PatientID: "P1", PrescriptionID: &rx, ClaimType: payment.ClaimTypePharmacy,
			Medication: &payment.DispensedMedication{Code: &payment.Codeable{Code: &inhaler}}, Total: new(catalog.USD(10000))})
		return e
	}
	settled(t, p, asthmatic("RX1", long, nil))
	settled(t, p, claim("C1", "RX1"), claim("C2", "RX2"))
	types, err := p.Store().Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := decisions(t, p)["RX1"]
	if d.Decision != priorauth.DecisionApproved || d.EffectivePeriod.End.After(time.Now()) {
		t.Errorf("%+v", d)
	}
	if types["payment.claim.approved"] != 1 || types["payment.claim.rejected"] != 1 {
		t.Errorf("%v; want one claim paid, one rejected", types)
	}
}
