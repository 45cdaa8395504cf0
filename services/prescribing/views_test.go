package prescribing_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog/medication"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/services/prescribing"
)

// TestViewOfFacts: the list follows the facts whoever states them, without the prescribing service, which may be behind or
// not there; what it says late takes nothing back; and a rebuild says the same.
func TestViewOfFacts(t *testing.T) {
	p := carebustest.Open(t)
	if err := projection.Register(t.Context(), p, prescribing.View); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	const id, patient = "RX1", "P1"
	rx := id
	created := medication.PrescriptionCreatedV1.New("ehr", medication.PrescriptionCreated{PrescriptionID: id, PatientID: patient, Medication: medication.Medication{Name: "Humira"}})
	ready := medication.PrescriptionReadyV1.New("ehr", medication.PrescriptionReady{PrescriptionID: id, PatientID: patient, Pharmacy: &medication.Pharmacy{ID: ptr("PH1")}})
	pended := catalog.StatusPendingV1.New("pa", catalog.StatusPending{PriorAuthID: "PA1", PatientID: patient, Status: "PENDED", Missing: []catalog.MissingItem{{Field: "daysSupply", Ask: "?"}}})
	says := func(s medication.PrescriptionStatus) event.Event {
		return medication.PrescriptionStatusChangedV1.New("prescribing-service", medication.PrescriptionStatusChanged{PrescriptionID: id, PatientID: patient, Status: s})
	}
	//nolint:staticcheck // that deprecated events are understood is what is tested
	approved := catalog.RequestApprovedV1.New("pa", catalog.RequestApproved{PriorAuthID: "PA1", PatientID: patient, Status: "APPROVED"})
	for i, step := range []struct {
		event event.Event
		want  string // status, authorization
	}{
		{created, "active "},
		{catalog.RequestSubmittedV1.New("pa", catalog.RequestSubmitted{PriorAuthID: "PA1", PatientID: patient, PrescriptionID: &rx}), "pending-authorization SUBMITTED"},
		{pended, "pending-authorization PENDED"},
		{catalog.RequestUpdatedV1.New("pa", catalog.RequestUpdated{PriorAuthID: "PA1", UpdatedFields: json.RawMessage(`{"urgency":"expedited"}`)}), "pending-authorization SUBMITTED"},
		{catalog.StatusDeniedV1.New("pa", catalog.StatusDenied{PriorAuthID: "PA1", PatientID: patient, Status: "DENIED", Reasons: []catalog.Reason{{Code: "X"}}}), "denied DENIED"},
		{catalog.StatusUpdatedV1.New("pa", catalog.StatusUpdated{PriorAuthID: "PA1", Status: "APPEALED"}), "pending-authorization APPEALED"},
		{approved, "authorized APPROVED"},
		{ready, "ready APPROVED"},
		{medication.PrescriptionVerifiedV1.New("pharmacy", medication.PrescriptionVerified{PrescriptionID: id, PatientID: patient}), "in-fulfillment APPROVED"},
		{medication.PrescriptionFilledV2.New("pharmacy", medication.PrescriptionFilled{PrescriptionID: id, PatientID: patient, FilledAt: time.Now()}), "filled APPROVED"},
		{says("in-fulfillment"), "filled APPROVED"},
		{medication.PrescriptionReadyForPickupV1.New("pharmacy", medication.PrescriptionReadyForPickup{PrescriptionID: id, PatientID: patient}), "ready-for-pickup APPROVED"},
		{says("in-fulfillment"), "ready-for-pickup APPROVED"},
		{says("filled"), "ready-for-pickup APPROVED"},
		{medication.PrescriptionReturnedV1.New("pharmacy", medication.PrescriptionReturned{PrescriptionID: id, PatientID: patient, Reason: "not-picked-up"}), "on-hold APPROVED"},
		{ready, "ready APPROVED"},
		{medication.PrescriptionPickedUpV1.New("pharmacy", medication.PrescriptionPickedUp{PrescriptionID: id, PatientID: patient}), "picked-up APPROVED"},
		{says("filled"), "picked-up APPROVED"},
		{medication.PrescriptionCancelledV1.New("ehr", medication.PrescriptionCancelled{PrescriptionID: id, PatientID: patient, Reason: "wrong", CancelledAt: time.Now()}), "cancelled APPROVED"},
		{medication.PrescriptionFilledV2.New("pharmacy", medication.PrescriptionFilled{PrescriptionID: id, PatientID: patient, FilledAt: time.Now()}), "cancelled APPROVED"},
	} {
		if _, err := p.Publish(t.Context(), step.event); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		carebustest.Settle(t, p)
		lines, err := prescribing.PrescriptionsOf(t.Context(), p.Store(), patient)
		if err != nil || len(lines) != 1 {
			t.Fatalf("step %d: %+v, %v", i, lines, err)
		}
		if got := string(lines[0].Status) + " " + string(lines[0].Authorization); got != step.want {
			t.Errorf("step %d, %s: %q, want %q", i, step.event.Type, got, step.want)
		}
	}
	imported := medication.PrescriptionCreatedV1.New("ehr", medication.PrescriptionCreated{PrescriptionID: "RX2", PatientID: patient, Medication: medication.Medication{Name: "Humira"}, Status: "stopped"})
	if _, err := p.Publish(t.Context(), imported); err != nil {
		t.Fatal(err)
	}
	carebustest.Settle(t, p)
	lines, err := prescribing.PrescriptionsOf(t.Context(), p.Store(), patient)
	if err != nil || !slices.ContainsFunc(lines, func(l prescribing.Line) bool { return l.PrescriptionID == "RX2" && l.Status == "stopped" }) {
		t.Errorf("an order that was stopped before it came: %+v, %v", lines, err)
	}
	if found, err := projection.Check(t.Context(), p, prescribing.View, nil); err != nil || len(found) > 0 {
		t.Errorf("a rebuild differs: %+v, %v", found, err)
	}
}
