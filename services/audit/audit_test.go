package audit_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/catalog/payment"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/services/audit"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/pharmacy"
	service "github.com/carebus/carebus/services/priorauth"
)

func ptr[T any](v T) *T { return &v }

const ndc = "99999-0001-30"

var day = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// What the services state of a prescription, RX1, in the order in which it happens.
var (
	stockID   = pharmacy.ID("PHARM123", ndc)
	received  = medication.InventoryAdjustedV1.New(pharmacy.Source, medication.InventoryAdjusted{InventoryID: stockID, PharmacyID: "PHARM123", NDC: ndc, Change: 50, OnHand: ptr(50.0), Reason: "received"})
	verified  = medication.PrescriptionVerifiedV1.New(pharmacy.Source, medication.PrescriptionVerified{PrescriptionID: "RX1", PatientID: "P1"})
	reserved  = medication.InventoryReservedV1.New(pharmacy.Source, medication.InventoryReserved{InventoryID: stockID, PharmacyID: "PHARM123", NDC: ndc, ReservationID: "RX1", PrescriptionID: ptr("RX1"), Quantity: 30, Available: ptr(20.0)})
	dispensed = medication.InventoryAdjustedV1.New(pharmacy.Source, medication.InventoryAdjusted{InventoryID: stockID, PharmacyID: "PHARM123", NDC: ndc, Change: -30, OnHand: ptr(20.0), Reason: "dispensed", PrescriptionID: ptr("RX1")})
	claimed   = payment.ClaimSubmittedV1.New(pharmacy.Source, payment.ClaimSubmitted{ClaimID: "CLM-RX1", PatientID: "P1", PrescriptionID: ptr("RX1"), ClaimType: "pharmacy", Total: ptr(catalog.USD(100))})
	paid      = payment.ClaimApprovedV1.New(payer.Source, payment.ClaimApproved{ClaimID: "CLM-RX1", PatientID: "P1", PrescriptionID: ptr("RX1")})
	filled    = medication.PrescriptionFilledV2.New(pharmacy.Source, medication.PrescriptionFilled{PrescriptionID: "RX1", PatientID: "P1", FillID: ptr("F-RX1"), FilledAt: day, ClaimID: ptr("CLM-RX1"),
		Medication: medication.DispensedMedication{NDC: ptr(ndc)}, Pharmacy: medication.Pharmacy{ID: ptr("PHARM123")}, Prescriber: medication.Prescriber{ID: ptr("PROV1")}, Cost: &medication.Cost{TotalCost: ptr(catalog.USD(100))}})
	started   = medication.FulfillmentStartedV1.New(fulfillment.Source, medication.FulfillmentStarted{PrescriptionID: "RX1", FulfillmentID: ptr("FUL-RX1")})
	reserving = medication.FulfillmentStepCompletedV1.New(fulfillment.Source, medication.FulfillmentStepCompleted{PrescriptionID: "RX1", FulfillmentID: ptr("FUL-RX1"), Step: medication.FulfillmentStepReserve})
	completed = medication.FulfillmentCompletedV1.New(fulfillment.Source, medication.FulfillmentCompleted{PrescriptionID: "RX1", FulfillmentID: ptr("FUL-RX1"), ClaimID: ptr("CLM-RX1")})
	failed    = medication.FulfillmentFailedV1.New(fulfillment.Source, medication.FulfillmentFailed{PrescriptionID: "RX1", FulfillmentID: ptr("FUL-RX1"), Reason: "timeout", Timestamp: day, Compensated: []medication.FulfillmentStep{"claim", "reserve"}})
	pickedUp  = medication.PrescriptionPickedUpV1.New(pharmacy.Source, medication.PrescriptionPickedUp{PrescriptionID: "RX1", PatientID: "P1"})
	requested = priorauth.RequestSubmittedV1.New(service.Source, priorauth.RequestSubmitted{PriorAuthID: "PA1", PatientID: "P1", PrescriptionID: ptr("RX1")})
	decided   = priorauth.DecisionMadeV1.New(payer.Source, priorauth.DecisionMade{PriorAuthID: "PA1", PatientID: "P1", Decision: priorauth.DecisionApproved})
	notice    = patient.NotificationSentV1.New("patient-portal", patient.NotificationSent{PatientID: "P1", NotificationID: "N1", Topic: "prescription-ready", Channel: patient.NotificationChannelSMS})
)

func approved(patientID string) event.Event {
	return priorauth.StatusApprovedV1.New(service.Source, priorauth.StatusApproved{PriorAuthID: "PA1", PatientID: patientID, PrescriptionID: ptr("RX1"), Status: "APPROVED"})
}

func undone(step medication.FulfillmentStep) event.Event {
	return medication.FulfillmentCompensatedV1.New(fulfillment.Source, medication.FulfillmentCompensated{PrescriptionID: "RX1", FulfillmentID: ptr("FUL-RX1"), Step: step})
}

// violated publishes events and returns the names of the rules that they break.
func violated(t *testing.T, events ...event.Event) (names []string) {
	t.Helper()
	p := carebustest.Open(t)
	for i, e := range events {
		e.ID = event.NewID() // the same fact may be stated twice
		if _, err := p.Publish(t.Context(), e); err != nil {
			t.Fatalf("event %d, %s: %v", i, e.Type, err)
		}
	}
	r, err := audit.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Checks {
		if c.Violations > 0 {
			names = append(names, c.Name)
			if len(c.First) == 0 || c.First[0].Where == "" || c.First[0].What == "" {
				t.Errorf("%s: %+v", c.Name, c.First)
			}
		}
	}
	return names
}

// TestRules: what is in order breaks no rule, and each thing that is not breaks its own.
func TestRules(t *testing.T) {
	whole := []event.Event{requested, decided, approved("P1"), received, started, verified, reserved, reserving, claimed, paid, dispensed, filled, completed, notice, pickedUp}
	without := func(e event.Event) []event.Event {
		return slices.DeleteFunc(slices.Clone(whole), func(o event.Event) bool { return o.Type == e.Type && string(o.Payload) == string(e.Payload) })
	}
	twice := func(e event.Event) []event.Event { return append(slices.Clone(whole), e) }
	toFailure := []event.Event{received, started, verified, reserved, reserving, claimed, paid}
	voided := payment.ClaimVoidedV1.New(pharmacy.Source, payment.ClaimVoided{ClaimID: "CLM-RX1", PrescriptionID: ptr("RX1")})
	released := medication.InventoryReleasedV1.New(pharmacy.Source, medication.InventoryReleased{InventoryID: stockID, PharmacyID: "PHARM123", NDC: ndc, ReservationID: "RX1", PrescriptionID: ptr("RX1"), Quantity: 30, Available: ptr(50.0)})
	wrong := received
	wrong.Payload = []byte(fmt.Sprintf(`{"inventoryId":%q,"pharmacyId":"PHARM123","ndc":%q,"change":50,"onHand":51,"reason":"received"}`, stockID, ndc))
	lost := medication.InventoryAdjustedV1.New(pharmacy.Source, medication.InventoryAdjusted{InventoryID: stockID, PharmacyID: "PHARM123", NDC: ndc, Change: -21, Reason: "damaged"})
	for _, c := range []struct {
		name   string
		events []event.Event
		want   []string
	}{
		{"in order", whole, nil},
		{"failed in order", append(slices.Clone(toFailure), undone("claim"), voided, undone("reserve"), released, failed), nil},
		{"under way", toFailure, nil},
		{"no request", without(requested), []string{"approval-has-its-request"}},
		{"no decision", without(decided), []string{"approval-has-its-request"}},
		{"approved twice", twice(approved("P1")), []string{"approval-has-its-request"}},
		{"approved for another", append(without(approved("P1")), approved("P2")), []string{"approval-has-its-request"}},
		{"not verified", without(verified), []string{"fill-is-covered"}},
		{"verified too late", append(without(verified), verified), []string{"fill-is-covered"}},
		{"not reserved", without(reserved), []string{"fill-is-covered", "stock-adds-up"}},
		{"not paid", without(paid), []string{"fill-is-covered", "fulfilment-ends-once"}},
		{"filled twice", twice(filled), []string{"one-fill-at-a-time", "fulfilment-ends-once"}},
		{"handed over twice", twice(pickedUp), []string{"one-fill-at-a-time"}},
		{"claim not voided", append(slices.Clone(toFailure), undone("claim"), undone("reserve"), released, failed), []string{"failure-has-released"}},
		{"stock not released", append(slices.Clone(toFailure), undone("claim"), voided, undone("reserve"), failed), []string{"failure-has-released"}},
		{"undone in the wrong order", append(slices.Clone(toFailure), undone("reserve"), released, undone("claim"), voided, failed), []string{"undone-in-reverse"}},
		{"undone in part", append(slices.Clone(toFailure), undone("claim"), voided, released, failed), []string{"undone-in-reverse"}},
		{"ended twice", twice(completed), []string{"fulfilment-ends-once"}},
		{"below zero", []event.Event{received, reserved, lost}, []string{"stock-never-negative"}},
		{"a wrong sum", []event.Event{wrong}, []string{"stock-adds-up"}},
		{"claimed twice", twice(claimed), []string{"claim-is-answered-once"}},
		{"paid twice", twice(paid), []string{"fulfilment-ends-once", "claim-is-answered-once"}},
		{"told twice", twice(notice), []string{"notice-is-sent-once"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := violated(t, c.events...); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

// TestForeignFills: what other systems report is not held to the rules of these services.
func TestForeignFills(t *testing.T) {
	e := filled
	e.Source = "fhir-import"
	if got := violated(t, e); got != nil {
		t.Errorf("%v", got)
	}
}

// TestSpoiledState: a snapshot that was tampered with shows, to a process that has nothing but the store.
func TestSpoiledState(t *testing.T) {
	path := storetest.New(t)
	process := func(do func(p *carebus.Platform)) {
		p, err := carebus.Open(t.Context(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		do(p)
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	look := func(p *carebus.Platform) audit.Check {
		r, err := audit.Run(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return r.Checks[slices.IndexFunc(r.Checks, func(c audit.Check) bool { return c.Name == "state-is-its-history" })]
	}
	process(func(p *carebus.Platform) {
		for range 150 {
			if _, err := pharmacy.Do(t.Context(), p, "PHARM123", ndc, pharmacy.Receive{Quantity: 1}); err != nil {
				t.Fatal(err)
			}
		}
	})
	process(func(p *carebus.Platform) {
		if c := look(p); c.Looked != 1 || c.Violations != 0 {
			t.Fatalf("%+v", c)
		}
		err := p.Store().Update(t.Context(), func(tx *eventstore.Tx) error {
			res, err := tx.ExecContext(t.Context(), `UPDATE carebus_snapshots SET state = REPLACE(CAST(state AS TEXT), '"onHand":', '"onHand":1')`)
			if err != nil {
				return err
			}
			if n, err := res.RowsAffected(); err != nil || n == 0 {
				return fmt.Errorf("%d snapshots, %w", n, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	process(func(p *carebus.Platform) {
		if c := look(p); c.Violations != 1 {
			t.Errorf("%+v; want the spoiled stock found", c)
		}
	})
}

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	defer p.Close()
	if _, err := p.Publish(ctx, filled); err != nil { // out of the blue
		panic(err)
	}
	report, err := audit.Run(ctx, p)
	if err != nil {
		panic(err)
	}
	for _, c := range report.Checks {
		for _, v := range c.First {
			fmt.Printf("%s: %s: %s\n", c.Name, v.Where, v.What)
		}
	}
	// Output:
	// fill-is-covered: RX1: fill F-RX1: the prescription was not verified before
	// fill-is-covered: RX1: fill F-RX1: no stock was reserved before
	// fill-is-covered: RX1: fill F-RX1: its claim was not paid before
}
