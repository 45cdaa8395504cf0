package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/catalog/payment"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
)

// The demo is a choreography: five services that know events and not each other.
//
//	provider-system    medication.prescription.created
//	prior-auth         priorauth.request.submitted, or priorauth.determination.not-required
//	payer              priorauth.decision.made
//	prior-auth         priorauth.status.approved or .denied
//	pharmacy           payment.claim.submitted           when the plan has agreed or need not be asked
//	payer              payment.claim.approved
//	pharmacy           medication.prescription.filled, medication.prescription.ready-for-pickup
//	patient-portal     patient.notification.sent         it is ready, or it was refused
//	care-coordination  care.task.assigned                talk to the patient about another therapy
//
// Every event of a flow has the patient as its key, so that each service sees a patient's events in order.
var demoGroups = []string{"care-coordination", "patient-portal", "payer", "pharmacy", "prior-auth"}

var demoTables = []string{`
CREATE TABLE demo_runs (
	run BIGINT PRIMARY KEY,
	seed BIGINT NOT NULL,
	started_at BIGINT NOT NULL
);
CREATE TABLE demo_handled (
	grp TEXT NOT NULL,
	event_id TEXT NOT NULL,
	PRIMARY KEY (grp, event_id)
);
CREATE TABLE demo_orders (
	prescription_id TEXT PRIMARY KEY,
	run BIGINT NOT NULL,
	rxnorm TEXT NOT NULL,
	prescriber TEXT NOT NULL,
	claims BIGINT NOT NULL,
	fills BIGINT NOT NULL
);`}

// once makes a reaction happen once whatever comes: the mark that an event was handled is a row of the transaction that
// does the work, so a group that is sent back in the log finds what it has done already.
func once[T any](def event.Definition[T], react func(ctx context.Context, tx bus.Tx, e event.Of[T]) ([]event.Event, error)) bus.Option {
	return bus.On(def, func(ctx context.Context, tx bus.Tx, e event.Of[T]) error {
		res, err := tx.Exec(`INSERT INTO demo_handled (grp, event_id) VALUES ($1, $2) ON CONFLICT (grp, event_id) DO NOTHING`, bus.DeliveryFrom(ctx).Group, e.ID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		events, err := react(ctx, tx, e)
		if err != nil || len(events) == 0 {
			return err
		}
		for i := range events {
			events[i].PartitionKey = e.PartitionKey
		}
		return tx.Append(events...)
	})
}

// demoServices are the services of one run.
type demoServices struct {
	run    int64
	mended bool // the prior authorization service has been told of the new plan
}

func (d *demoServices) join(p *carebus.Platform) error {
	version := "1.0.0"
	if d.mended {
		version = "1.1.0" // other code than the one that failed: parked keys are tried again at once
	}
	// A demo that is run often parks a few keys each time. That is no flood.
	calm := bus.FloodLimit(100 * maxPoisoned)
	return errors.Join(
		p.Handle("prior-auth", bus.Version(version), calm, once(medication.PrescriptionCreatedV1, d.requestPriorAuth), once(priorauth.DecisionMadeV1, d.conclude)),
		p.Handle("payer", once(priorauth.RequestSubmittedV1, d.decide), once(payment.ClaimSubmittedV1, d.adjudicate)),
		p.Handle("pharmacy", once(medication.PrescriptionCreatedV1, d.order), once(priorauth.DeterminationNotRequiredV1, d.unasked),
			once(priorauth.StatusApprovedV1, d.authorized), once(payment.ClaimApprovedV1, d.fill)),
		p.Handle("patient-portal", once(priorauth.StatusDeniedV1, d.tellDenied), once(medication.PrescriptionReadyForPickupV1, d.tellReady)),
		p.Handle("care-coordination", once(priorauth.StatusDeniedV1, d.follow)),
	)
}

// errUnknownPlan is what some patients' prescriptions run into. It names no plan: error texts go into the audit.
var errUnknownPlan = errors.New("the plan code is not in the plan table; add the plan, then redrive the key")

func (d *demoServices) requestPriorAuth(_ context.Context, _ bus.Tx, e event.Of[medication.PrescriptionCreated]) ([]event.Event, error) {
	rx := e.Payload
	drug, known := demoDrugByCode(rx.Medication.Code)
	if e.Source != demoSource || !known || rx.Payer == nil || rx.Payer.PlanID == nil {
		return nil, nil
	}
	if drug.covered == "" {
		return []event.Event{priorauth.DeterminationNotRequiredV1.New("priorauth-service", priorauth.DeterminationNotRequired{
			PriorAuthID: "PA-" + rx.PrescriptionID, PrescriptionID: rx.PrescriptionID, PatientID: &rx.PatientID,
			Reason: new("The plan pays for this medication without asking."), DeterminedAt: now(),
		})}, nil
	}
	if !slices.Contains(demoPlans, *rx.Payer.PlanID) && !(d.mended && *rx.Payer.PlanID == demoNewPlan) {
		return nil, bus.Fatal(errUnknownPlan)
	}
	request := priorauth.RequestSubmitted{
		PriorAuthID: "PA-" + rx.PrescriptionID, PatientID: rx.PatientID, PrescriptionID: &rx.PrescriptionID,
		Medication: &priorauth.Medication{Code: &priorauth.Codeable{System: rx.Medication.Code.System, Code: rx.Medication.Code.Code}, Name: rx.Medication.Name, Quantity: rx.Medication.Quantity, DaysSupply: rx.Medication.DaysSupply},
		Payer:      &priorauth.Payer{ID: rx.Payer.ID, PlanID: rx.Payer.PlanID},
		Urgency:    priorauth.UrgencyStandard, Benefit: priorauth.RequestSubmittedBenefitPharmacy, Status: priorauth.PriorAuthStatusSubmitted,
		SubmittedAt: now(),
	}
	for _, c := range rx.Conditions {
		request.Diagnoses = append(request.Diagnoses, priorauth.Codeable{System: c.System, Code: c.Code, Display: c.Display})
	}
	return []event.Event{priorauth.RequestSubmittedV1.New("priorauth-service", request)}, nil
}

// decide is the payer's rule: the plan pays for the drug where the diagnosis is the one it covers it for.
func (d *demoServices) decide(_ context.Context, _ bus.Tx, e event.Of[priorauth.RequestSubmitted]) ([]event.Event, error) {
	request := e.Payload
	if e.Source != "priorauth-service" || request.Medication == nil || request.Medication.Code == nil {
		return nil, nil
	}
	drug, _ := demoDrugByCode(&medication.Codeable{Code: request.Medication.Code.Code})
	decision := priorauth.DecisionMade{
		PriorAuthID: request.PriorAuthID, PatientID: request.PatientID, PrescriptionID: request.PrescriptionID, Payer: request.Payer,
		DecidedAt: now(), DecidedBy: new("AUTO-RULES"),
	}
	met := slices.ContainsFunc(request.Diagnoses, func(c priorauth.Codeable) bool { return c.Code != nil && *c.Code == drug.covered })
	if met {
		decision.Decision, decision.ActionCode = priorauth.DecisionApproved, priorauth.ActionCodeA1
		decision.AuthNumber = new("AUTH-" + request.PriorAuthID)
	} else {
		decision.Decision, decision.ActionCode = priorauth.DecisionDenied, priorauth.ActionCodeA3
		decision.Reasons = []priorauth.Reason{{Code: "DIAGNOSIS-NOT-COVERED", Text: new("The plan covers this medication for another diagnosis.")}}
		decision.Appeal = &priorauth.Appeal{Deadline: now().AddDate(0, 0, 180), Channel: priorauth.AppealChannelPortal}
	}
	return []event.Event{priorauth.DecisionMadeV1.New("payer-service", decision)}, nil
}

// conclude says what the payer's answer means for the request.
func (d *demoServices) conclude(_ context.Context, _ bus.Tx, e event.Of[priorauth.DecisionMade]) ([]event.Event, error) {
	answer := e.Payload
	switch {
	case e.Source != "payer-service":
		return nil, nil
	case answer.Decision == priorauth.DecisionApproved:
		return []event.Event{priorauth.StatusApprovedV1.New("priorauth-service", priorauth.StatusApproved{
			PriorAuthID: answer.PriorAuthID, PatientID: answer.PatientID, PrescriptionID: answer.PrescriptionID, Payer: answer.Payer,
			Status: priorauth.PriorAuthStatusApproved, AuthNumber: answer.AuthNumber, DecisionDate: answer.DecidedAt, DecisionBy: answer.DecidedBy,
		})}, nil
	}
	return []event.Event{priorauth.StatusDeniedV1.New("priorauth-service", priorauth.StatusDenied{
		PriorAuthID: answer.PriorAuthID, PatientID: answer.PatientID, PrescriptionID: answer.PrescriptionID, Payer: answer.Payer,
		Status: priorauth.PriorAuthStatusDenied, Reasons: answer.Reasons, Appeal: answer.Appeal, DecisionDate: answer.DecidedAt, DecisionBy: answer.DecidedBy,
	})}, nil
}

// order puts a prescription on the pharmacy's list.
func (d *demoServices) order(_ context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCreated]) ([]event.Event, error) {
	rx := e.Payload
	drug, known := demoDrugByCode(rx.Medication.Code)
	if e.Source != demoSource || !known {
		return nil, nil
	}
	prescriber := ""
	if rx.Prescriber != nil && rx.Prescriber.ID != nil {
		prescriber = *rx.Prescriber.ID
	}
	_, err := tx.Exec(`INSERT INTO demo_orders (prescription_id, run, rxnorm, prescriber, claims, fills) VALUES ($1, $2, $3, $4, 0, 0)`, rx.PrescriptionID, d.run, drug.rxnorm, prescriber)
	return nil, err
}

func (d *demoServices) unasked(_ context.Context, tx bus.Tx, e event.Of[priorauth.DeterminationNotRequired]) ([]event.Event, error) {
	if e.Source != "priorauth-service" || e.Payload.PatientID == nil {
		return nil, nil
	}
	return d.claim(tx, e.Payload.PrescriptionID, *e.Payload.PatientID, nil)
}

func (d *demoServices) authorized(_ context.Context, tx bus.Tx, e event.Of[priorauth.StatusApproved]) ([]event.Event, error) {
	if e.Source != "priorauth-service" || e.Payload.PrescriptionID == nil {
		return nil, nil
	}
	return d.claim(tx, *e.Payload.PrescriptionID, e.Payload.PatientID, e.Payload.AuthNumber)
}

// ordered reads what the pharmacy has on its list.
func ordered(tx bus.Tx, prescriptionID string) (drug demoDrug, prescriber string, err error) {
	var rxnorm string
	if err := tx.QueryRow(`SELECT rxnorm, prescriber FROM demo_orders WHERE prescription_id = $1`, prescriptionID).Scan(&rxnorm, &prescriber); err != nil {
		return drug, "", fmt.Errorf("prescription %s is not on the pharmacy's list: %w", prescriptionID, err)
	}
	drug, _ = demoDrugByCode(&medication.Codeable{Code: &rxnorm})
	return drug, prescriber, nil
}

func (d *demoServices) claim(tx bus.Tx, prescriptionID, patientID string, authorization *string) ([]event.Event, error) {
	drug, _, err := ordered(tx, prescriptionID)
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(`UPDATE demo_orders SET claims = claims + 1 WHERE prescription_id = $1`, prescriptionID); err != nil {
		return nil, err
	}
	return []event.Event{payment.ClaimSubmittedV1.New("pharmacy-service", payment.ClaimSubmitted{
		ClaimID: "CLM-" + prescriptionID, PatientID: patientID, PrescriptionID: &prescriptionID, ClaimType: payment.ClaimTypePharmacy,
		Medication: &payment.DispensedMedication{Name: &drug.name, Quantity: &drug.quantity, DaysSupply: &drug.days},
		Total:      new(catalog.USD(drug.cents)), PriorAuthNumber: authorization, SubmittedAt: now(),
	})}, nil
}

// adjudicate is the payer's answer to a claim: the patient pays a tenth, and 50 dollars at most.
func (d *demoServices) adjudicate(_ context.Context, _ bus.Tx, e event.Of[payment.ClaimSubmitted]) ([]event.Event, error) {
	claim := e.Payload
	if e.Source != "pharmacy-service" || claim.Total == nil {
		return nil, nil
	}
	share := min(*claim.Total/10, 5000)
	return []event.Event{payment.ClaimApprovedV1.New("payer-service", payment.ClaimApproved{
		ClaimID: claim.ClaimID, PatientID: claim.PatientID, PrescriptionID: claim.PrescriptionID, ClaimType: claim.ClaimType,
		SubmittedAmount: claim.Total, PatientPay: &share, InsurancePay: new(*claim.Total - share), ApprovedAt: now(),
	})}, nil
}

func (d *demoServices) fill(_ context.Context, tx bus.Tx, e event.Of[payment.ClaimApproved]) ([]event.Event, error) {
	claim := e.Payload
	if e.Source != "payer-service" || claim.PrescriptionID == nil {
		return nil, nil
	}
	drug, prescriber, err := ordered(tx, *claim.PrescriptionID)
	if err != nil {
		return nil, err
	}
	if _, err := tx.Exec(`UPDATE demo_orders SET fills = fills + 1 WHERE prescription_id = $1`, *claim.PrescriptionID); err != nil {
		return nil, err
	}
	return []event.Event{medication.PrescriptionFilledV2.New("pharmacy-service", medication.PrescriptionFilled{
		PrescriptionID: *claim.PrescriptionID, PatientID: claim.PatientID, FillID: new("F-" + *claim.PrescriptionID), FilledAt: now(),
		Medication: medication.DispensedMedication{Name: &drug.name, Quantity: &drug.quantity, DaysSupply: &drug.days},
		Pharmacy:   medication.Pharmacy{ID: new("PHARM123"), Name: new("Community Pharmacy")},
		Prescriber: medication.Prescriber{ID: &prescriber}, Cost: &medication.Cost{PatientPay: claim.PatientPay, InsurancePay: claim.InsurancePay, TotalCost: claim.SubmittedAmount},
		ClaimID: &claim.ClaimID,
	}), medication.PrescriptionReadyForPickupV1.New("pharmacy-service", medication.PrescriptionReadyForPickup{
		PrescriptionID: *claim.PrescriptionID, PatientID: claim.PatientID, FillID: new("F-" + *claim.PrescriptionID), ReadyAt: now(), PatientPay: claim.PatientPay,
	})}, nil
}

func (d *demoServices) tellDenied(_ context.Context, _ bus.Tx, e event.Of[priorauth.StatusDenied]) ([]event.Event, error) {
	return notify(e.Source == "priorauth-service", "prior-authorization-denied", e.Payload.PatientID, e.Payload.PrescriptionID), nil
}

func (d *demoServices) tellReady(_ context.Context, _ bus.Tx, e event.Of[medication.PrescriptionReadyForPickup]) ([]event.Event, error) {
	return notify(e.Source == "pharmacy-service", "prescription-ready", e.Payload.PatientID, &e.Payload.PrescriptionID), nil
}

func notify(ours bool, topic, patientID string, prescriptionID *string) []event.Event {
	if !ours || prescriptionID == nil {
		return nil
	}
	return []event.Event{patient.NotificationSentV1.New("patient-portal", patient.NotificationSent{
		PatientID: patientID, NotificationID: topic + "-" + *prescriptionID, Topic: topic, Channel: patient.NotificationChannelSMS, PrescriptionID: prescriptionID, SentAt: now(),
	})}
}

func (d *demoServices) follow(_ context.Context, _ bus.Tx, e event.Of[priorauth.StatusDenied]) ([]event.Event, error) {
	if e.Source != "priorauth-service" {
		return nil, nil
	}
	return []event.Event{care.TaskAssignedV1.New("care-coordination-service", care.TaskAssigned{
		TaskID: "TASK-" + e.Payload.PriorAuthID, PatientID: &e.Payload.PatientID, Title: new("Talk about another therapy, or an appeal"),
		Assignee: care.Party{ID: new("PROV789"), Role: new("care coordinator")}, AssignedAt: now(), DueAt: now().AddDate(0, 0, 2),
		Priority: care.TaskPriorityUrgent, PrescriptionID: e.Payload.PrescriptionID, PriorAuthID: &e.Payload.PriorAuthID,
	})}, nil
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
