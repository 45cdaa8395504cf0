package fulfillment

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/payment"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/services/pharmacy"
)

// Source is the eventSource of the service, and Name that of the saga.
const (
	Source = "medication-saga-service"
	Name   = "medication-fulfillment"
)

// Fulfillment is what an instance of the saga knows.
type Fulfillment struct {
	PrescriptionID string                `json:"prescriptionId"`
	Attempt        int                   `json:"attempt,omitempty"` // at this prescription, from 1
	PatientID      string                `json:"patientId"`
	PharmacyID     string                `json:"pharmacyId"`
	PrescriberID   string                `json:"prescriberId,omitempty"`
	Medication     medication.Medication `json:"medication"`
	NDC            string                `json:"ndc"`
	Quantity       float64               `json:"quantity"`
	DaysSupply     int64                 `json:"daysSupply,omitempty"`
	PriorAuthID    string                `json:"priorAuthId,omitempty"`
	AuthNumber     string                `json:"authNumber,omitempty"`
	Total          catalog.USD           `json:"total"`
	PatientPay     catalog.USD           `json:"patientPay,omitempty"`
	InsurancePay   catalog.USD           `json:"insurancePay,omitempty"`
	Paid           bool                  `json:"paid,omitempty"` // the payer has approved the claim
	PickupBy       time.Time             `json:"pickupBy,omitzero"`
}

// ID is the id of the saga's instance for a prescription: the first one. Further attempts append -2, -3 and so on.
func ID(prescriptionID string) string { return "FUL-" + prescriptionID }

func (f Fulfillment) id() string      { return ID(f.PrescriptionID) + f.again() }
func (f Fulfillment) claimID() string { return "CLM-" + f.PrescriptionID + f.again() }
func (f Fulfillment) fillID() string  { return "F-" + f.PrescriptionID + f.again() }

func (f Fulfillment) again() string {
	if f.Attempt < 2 {
		return ""
	}
	return fmt.Sprintf("-%d", f.Attempt)
}

type service struct {
	p Platform
	o Options
}

// define is the saga, at its version 1.
func (s *service) define() *saga.Definition[Fulfillment] {
	claimOf := func(f Fulfillment) string { return f.claimID() }
	return saga.Define(Name, 1,
		saga.Do("verify", s.verify),
		saga.Do("reserve", s.reserve).Compensate(s.release),
		saga.Do("claim", s.claim).Compensate(s.void),
		saga.Await("payer", claimOf,
			saga.On(payment.ClaimApprovedV1, func(p payment.ClaimApproved) string { return p.ClaimID }, approved),
			saga.On(payment.ClaimRejectedV1, func(p payment.ClaimRejected) string { return p.ClaimID }, rejected),
		).Timeout(s.o.PayerAnswers),
		saga.Do("fill", s.fill).Compensate(s.putBack),
		saga.Do("notify", s.notify).NoUndo(),
		saga.Await("pickup", func(f Fulfillment) string { return f.PrescriptionID },
			saga.On(medication.PrescriptionPickedUpV1, func(p medication.PrescriptionPickedUp) string { return p.PrescriptionID },
				func(*Fulfillment, event.Of[medication.PrescriptionPickedUp]) error { return nil }),
		).Timeout(s.o.PickupWindow),
	).About(func(f Fulfillment) string { return f.PrescriptionID })
}

// did appends what a step says, and that it was done.
func did(tx bus.Tx, f *Fulfillment, step medication.FulfillmentStep, events ...event.Event) error {
	return tx.Append(append(events, medication.FulfillmentStepCompletedV1.New(Source, medication.FulfillmentStepCompleted{
		PrescriptionID: f.PrescriptionID, PatientID: &f.PatientID, FulfillmentID: new(f.id()), Step: step, CompletedAt: tx.Now(),
	}))...)
}

// undid appends what a compensation says, and that it was done.
func undid(tx bus.Tx, f *Fulfillment, step medication.FulfillmentStep, action string, events ...event.Event) error {
	return tx.Append(append(events, medication.FulfillmentCompensatedV1.New(Source, medication.FulfillmentCompensated{
		PrescriptionID: f.PrescriptionID, PatientID: &f.PatientID, FulfillmentID: new(f.id()), Step: step, Action: &action, CompensatedAt: tx.Now(),
	}))...)
}

// verify looks at the prescription as it is now: it may have been cancelled since it became ready.
func (s *service) verify(_ context.Context, tx bus.Tx, f *Fulfillment) error {
	known, err := prescriptionOf(tx, f.PrescriptionID)
	switch {
	case err != nil:
		return err
	case known.cancelled:
		return saga.Refuse("cancelled")
	case !known.expires.IsZero() && tx.Now().After(known.expires):
		return saga.Refuse("expired")
	case f.PrescriberID == "" && known.prescriber == "":
		return saga.Refuse("prescriber-unknown")
	}
	if f.PrescriberID == "" {
		f.PrescriberID = known.prescriber
	}
	v := medication.PrescriptionVerified{PrescriptionID: f.PrescriptionID, PatientID: f.PatientID, VerifiedAt: tx.Now(), PharmacyID: &f.PharmacyID}
	if f.PriorAuthID != "" {
		v.PriorAuthID = &f.PriorAuthID
	}
	return did(tx, f, medication.FulfillmentStepVerify, medication.PrescriptionVerifiedV1.New(pharmacy.Source, v))
}

func (s *service) reserve(ctx context.Context, tx bus.Tx, f *Fulfillment) error {
	_, err := pharmacy.DoTx(ctx, tx, s.p, f.PharmacyID, f.NDC, pharmacy.Reserve{ID: f.PrescriptionID, Quantity: f.Quantity})
	var refused *pharmacy.RefusedError
	if errors.As(err, &refused) {
		return saga.Refuse("out-of-stock")
	}
	if err != nil {
		return err
	}
	return did(tx, f, medication.FulfillmentStepReserve)
}

func (s *service) release(ctx context.Context, tx bus.Tx, f *Fulfillment) error {
	if _, err := pharmacy.DoTx(ctx, tx, s.p, f.PharmacyID, f.NDC, pharmacy.Release{ID: f.PrescriptionID, Reason: medication.InventoryReleasedReasonCompensation}); err != nil {
		return err
	}
	return undid(tx, f, medication.FulfillmentStepReserve, "release")
}

func (s *service) claim(_ context.Context, tx bus.Tx, f *Fulfillment) error {
	c := payment.ClaimSubmitted{
		ClaimID: f.claimID(), PatientID: f.PatientID, PrescriptionID: &f.PrescriptionID, ClaimType: payment.ClaimTypePharmacy, Total: &f.Total, SubmittedAt: tx.Now(), FillID: new(f.fillID()),
		Medication: &payment.DispensedMedication{NDC: &f.NDC, Name: &f.Medication.Name, Quantity: &f.Quantity}, Pharmacy: &payment.Pharmacy{ID: &f.PharmacyID},
	}
	if f.Medication.Code != nil {
		code := payment.Codeable(*f.Medication.Code)
		c.Medication.Code = &code
	}
	if f.DaysSupply > 0 {
		c.Medication.DaysSupply = &f.DaysSupply
	}
	if f.AuthNumber != "" {
		c.PriorAuthNumber = &f.AuthNumber
	}
	return tx.Append(payment.ClaimSubmittedV1.New(pharmacy.Source, c))
}

// void takes back a claim that the payer has paid, or may pay. It repeats the claim's keys. A rejected one needs no
// reversal.
func (s *service) void(_ context.Context, tx bus.Tx, f *Fulfillment) error {
	reason := "fulfilment was given up"
	var news []event.Event
	if f.Paid {
		news = append(news, payment.ClaimVoidedV1.New(pharmacy.Source, payment.ClaimVoided{
			ClaimID: f.claimID(), PatientID: &f.PatientID, PrescriptionID: &f.PrescriptionID, ClaimType: payment.ClaimTypePharmacy, Pharmacy: &payment.Pharmacy{ID: &f.PharmacyID}, Reason: &reason, VoidedAt: tx.Now(),
		}))
	}
	return undid(tx, f, medication.FulfillmentStepClaim, "void", news...)
}

func approved(f *Fulfillment, e event.Of[payment.ClaimApproved]) error {
	f.Paid = true
	if p := e.Payload.PatientPay; p != nil {
		f.PatientPay = *p
	}
	if p := e.Payload.InsurancePay; p != nil {
		f.InsurancePay = *p
	}
	return nil
}

func rejected(_ *Fulfillment, e event.Of[payment.ClaimRejected]) error {
	if len(e.Payload.RejectCodes) > 0 && e.Payload.RejectCodes[0].Code != nil {
		return saga.Refuse("claim-rejected-" + *e.Payload.RejectCodes[0].Code)
	}
	return saga.Refuse("claim-rejected")
}

func (s *service) fill(ctx context.Context, tx bus.Tx, f *Fulfillment) error {
	if _, err := pharmacy.DoTx(ctx, tx, s.p, f.PharmacyID, f.NDC, pharmacy.Dispense{ID: f.PrescriptionID}); err != nil {
		return err
	}
	filled := medication.PrescriptionFilled{
		PrescriptionID: f.PrescriptionID, PatientID: f.PatientID, FillID: new(f.fillID()), FillNumber: new(int64(1)), FilledAt: tx.Now(), ClaimID: new(f.claimID()),
		Medication: medication.DispensedMedication{NDC: &f.NDC, Name: &f.Medication.Name, Quantity: &f.Quantity, Directions: f.Medication.Directions},
		Pharmacy:   medication.Pharmacy{ID: &f.PharmacyID}, Prescriber: medication.Prescriber{ID: &f.PrescriberID},
		Cost: &medication.Cost{PatientPay: &f.PatientPay, InsurancePay: &f.InsurancePay, TotalCost: &f.Total},
	}
	if f.DaysSupply > 0 {
		filled.Medication.DaysSupply = &f.DaysSupply
	}
	// The claim counts as done with the payer's answer, which has no step name of its own in the catalog.
	if err := did(tx, f, medication.FulfillmentStepClaim); err != nil {
		return err
	}
	return did(tx, f, medication.FulfillmentStepFill, medication.PrescriptionFilledV2.New(pharmacy.Source, filled))
}

// putBack is for what nobody picked up. What was handed over in the last moment stays with the patient: the instance is
// stuck then, and a person decides.
func (s *service) putBack(ctx context.Context, tx bus.Tx, f *Fulfillment) error {
	_, err := pharmacy.DoTx(ctx, tx, s.p, f.PharmacyID, f.NDC, pharmacy.Return{ID: f.PrescriptionID})
	var refused *pharmacy.RefusedError
	switch {
	case errors.As(err, &refused):
		return saga.Refuse("handed-over")
	case err != nil:
		return err
	}
	return undid(tx, f, medication.FulfillmentStepFill, "return to stock", medication.PrescriptionReturnedV1.New(pharmacy.Source, medication.PrescriptionReturned{
		PrescriptionID: f.PrescriptionID, PatientID: f.PatientID, ReturnedAt: tx.Now(),
	}))
}

func (s *service) notify(_ context.Context, tx bus.Tx, f *Fulfillment) error {
	f.PickupBy = tx.Now().Add(s.o.PickupWindow)
	return did(tx, f, medication.FulfillmentStepNotify,
		medication.PrescriptionReadyForPickupV1.New(pharmacy.Source, medication.PrescriptionReadyForPickup{
			PrescriptionID: f.PrescriptionID, PatientID: f.PatientID, FillID: new(f.fillID()), Pharmacy: &medication.Pharmacy{ID: &f.PharmacyID}, ReadyAt: tx.Now(), PickupBy: f.PickupBy, PatientPay: &f.PatientPay,
		}),
		medication.FulfillmentCompletedV1.New(Source, medication.FulfillmentCompleted{
			PrescriptionID: f.PrescriptionID, PatientID: &f.PatientID, FulfillmentID: new(f.id()), FillID: new(f.fillID()), ClaimID: new(f.claimID()), CompletedAt: tx.Now(),
		}))
}
