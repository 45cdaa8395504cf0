package prescribing

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/projection"
)

// Source is the eventSource of the service, and Group the name of its consumer group.
const (
	Source = "prescribing-service"
	Group  = "prescribing"
)

// Prescription is a prescription and where it stands.
type Prescription struct {
	medication.PrescriptionCreated

	Status       medication.PrescriptionStatus `json:"status"`
	StatusReason string                        `json:"statusReason,omitempty"`
	PriorAuthID  string                        `json:"priorAuthId,omitempty"`
	AuthNumber   string                        `json:"authNumber,omitempty"`
	Version      int64                         `json:"version"`     // events that this state understands
	LastUpdated  int64                         `json:"lastUpdated"` // timestamp of the last of them, epoch milliseconds
}

// Prescriptions is the prescription as an aggregate: streams "medication.prescription/ID".
var Prescriptions = aggregate.Define("medication.prescription",
	on(medication.PrescriptionCreatedV1, func(r *Prescription, p medication.PrescriptionCreated) {
		r.PrescriptionCreated, r.Status = p, medication.PrescriptionStatusActive
	}),
	on(medication.PrescriptionStatusChangedV1, func(r *Prescription, p medication.PrescriptionStatusChanged) {
		r.Status, r.StatusReason = p.Status, text(p.Reason)
		if p.PriorAuthID != nil {
			r.PriorAuthID = *p.PriorAuthID
		}
	}),
	on(medication.PrescriptionReadyV1, func(r *Prescription, p medication.PrescriptionReady) {
		r.Status, r.StatusReason, r.AuthNumber = medication.PrescriptionStatusReady, "", text(p.AuthNumber)
	}),
	on(medication.PrescriptionCancelledV1, func(r *Prescription, p medication.PrescriptionCancelled) {
		r.Status, r.StatusReason = medication.PrescriptionStatusCancelled, p.Reason
	}),
)

// on is an evolve function that also counts.
func on[T any](def event.Definition[T], evolve func(*Prescription, T)) aggregate.Option[Prescription] {
	return aggregate.On(def, func(r *Prescription, e event.Of[T]) {
		evolve(r, e.Payload)
		r.Version++
		r.LastUpdated = e.Timestamp
	})
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// Command is something that is to happen to a prescription: Create or Cancel.
type Command interface {
	decide(id string, r Prescription, now time.Time) ([]event.Event, error)
}

// Do carries out a command on a prescription and returns it, when its events are on stable storage. What contradicts the
// prescription is refused with a *RefusedError.
func Do(ctx context.Context, l aggregate.Log, prescriptionID string, c Command, opts ...aggregate.UpdateOption) (aggregate.Loaded[Prescription], error) {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return Prescriptions.Update(ctx, l, prescriptionID, func(r Prescription) ([]event.Event, error) { return c.decide(prescriptionID, r, now) }, opts...)
}

// RefusedError says why a command cannot be carried out. It quotes no value of the prescription.
type RefusedError struct {
	Command string // "create"
	Rule    string // stable: "exists", "value", "status"
	Message string
	Remedy  string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("prescribing: %s refused: %s [%s]; %s", e.Command, e.Message, e.Rule, e.Remedy)
}

// Create makes a prescription. Its PrescriptionID is filled in.
type Create struct{ medication.PrescriptionCreated }

func (c Create) decide(id string, r Prescription, now time.Time) ([]event.Event, error) {
	switch {
	case r.Version > 0:
		return nil, &RefusedError{"create", "exists", "there is a prescription with this id", "choose another id"}
	case c.PatientID == "" || c.Medication.Name == "":
		return nil, &RefusedError{"create", "value", "patient or medication is missing", "say for whom and what it is"}
	case c.Medication.Quantity != nil && *c.Medication.Quantity <= 0, c.Medication.DaysSupply != nil && *c.Medication.DaysSupply <= 0:
		return nil, &RefusedError{"create", "value", "quantity or days supply is not above zero", "give how much, and for how many days"}
	}
	c.PrescriptionID = id
	if c.AuthoredOn.IsZero() {
		c.AuthoredOn = now
	}
	return []event.Event{medication.PrescriptionCreatedV1.New(Source, c.PrescriptionCreated)}, nil
}

// Cancel ends a prescription that was not handed over yet.
type Cancel struct {
	Reason string // required
	By     *medication.Party
}

// over are the statuses that nothing follows.
var over = []medication.PrescriptionStatus{medication.PrescriptionStatusCancelled, medication.PrescriptionStatusPickedUp, medication.PrescriptionStatusCompleted}

func (c Cancel) decide(id string, r Prescription, now time.Time) ([]event.Event, error) {
	switch {
	case r.Version == 0:
		return nil, &RefusedError{"cancel", "exists", "there is no prescription with this id", "look up its id"}
	case c.Reason == "":
		return nil, &RefusedError{"cancel", "value", "there is no reason", "say why"}
	case r.Status == medication.PrescriptionStatusCancelled:
		return nil, nil
	case slices.Contains(over, r.Status):
		return nil, &RefusedError{"cancel", "status", "the prescription is " + string(r.Status), "it is too late"}
	}
	return []event.Event{medication.PrescriptionCancelledV1.New(Source, medication.PrescriptionCancelled{
		PrescriptionID: id, PatientID: r.PatientID, Reason: c.Reason, RequestedBy: c.By, CancelledAt: now, Medication: &r.Medication, Prescriber: r.Prescriber, Pharmacy: r.Pharmacy,
	})}, nil
}

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	aggregate.Log
	Handle(group string, opts ...bus.Option) error
}

type service struct{ p Platform }

// Join makes this process a member of the service. It reacts to
//
//	priorauth.determination.not-required, priorauth.status.approved   the prescription is ready to be filled
//	priorauth.status.pending, .denied                                 its status says so
//	medication.fulfillment.started, .failed                           likewise: in fulfilment, on hold
//	medication.prescription.filled, .picked-up                        likewise
//
// and keeps the read model View. options are further options of the consumer group.
func Join(ctx context.Context, p Platform, options ...bus.Option) error {
	if err := projection.Register(ctx, p, View); err != nil {
		return err
	}
	s := &service{p}
	return p.Handle(Group, append([]bus.Option{
		bus.On(priorauth.DeterminationNotRequiredV1, func(ctx context.Context, tx bus.Tx, e event.Of[priorauth.DeterminationNotRequired]) error {
			d := e.Payload
			return s.ready(ctx, tx, e.ID, medication.PrescriptionReady{PrescriptionID: d.PrescriptionID, PatientID: text(d.PatientID), Medication: prescribed(d.Medication)}, nil)
		}),
		bus.On(priorauth.StatusApprovedV1, func(ctx context.Context, tx bus.Tx, e event.Of[priorauth.StatusApproved]) error {
			a := e.Payload
			return s.ready(ctx, tx, e.ID, medication.PrescriptionReady{
				PrescriptionID: text(a.PrescriptionID), PatientID: a.PatientID, Medication: prescribed(a.Medication), PriorAuthID: &a.PriorAuthID, AuthNumber: a.AuthNumber, RefillsAllowed: a.ApprovedRefills,
			}, a.ApprovedQuantity)
		}),
		bus.On(priorauth.StatusPendingV1, func(ctx context.Context, tx bus.Tx, e event.Of[priorauth.StatusPending]) error {
			return s.status(ctx, tx, e.ID, text(e.Payload.PrescriptionID), medication.PrescriptionStatusChanged{
				PatientID: e.Payload.PatientID, Status: medication.PrescriptionStatusPendingAuthorization, PriorAuthID: &e.Payload.PriorAuthID, Reason: new("The payer needs more information."),
			})
		}),
		bus.On(priorauth.StatusDeniedV1, func(ctx context.Context, tx bus.Tx, e event.Of[priorauth.StatusDenied]) error {
			changed := medication.PrescriptionStatusChanged{PatientID: e.Payload.PatientID, Status: medication.PrescriptionStatusDenied, PriorAuthID: &e.Payload.PriorAuthID}
			if len(e.Payload.Reasons) > 0 {
				if changed.Reason = e.Payload.Reasons[0].Text; changed.Reason == nil {
					changed.Reason = &e.Payload.Reasons[0].Code
				}
			}
			return s.status(ctx, tx, e.ID, text(e.Payload.PrescriptionID), changed)
		}),
		bus.On(medication.FulfillmentStartedV1, func(ctx context.Context, tx bus.Tx, e event.Of[medication.FulfillmentStarted]) error {
			return s.status(ctx, tx, e.ID, e.Payload.PrescriptionID, medication.PrescriptionStatusChanged{PatientID: text(e.Payload.PatientID), Status: medication.PrescriptionStatusInFulfillment})
		}),
		bus.On(medication.PrescriptionFilledV2, func(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionFilled]) error {
			return s.status(ctx, tx, e.ID, e.Payload.PrescriptionID, medication.PrescriptionStatusChanged{PatientID: e.Payload.PatientID, Status: medication.PrescriptionStatusFilled},
				medication.PrescriptionStatusInFulfillment)
		}),
		bus.On(medication.PrescriptionPickedUpV1, func(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionPickedUp]) error {
			return s.status(ctx, tx, e.ID, e.Payload.PrescriptionID, medication.PrescriptionStatusChanged{PatientID: e.Payload.PatientID, Status: medication.PrescriptionStatusPickedUp},
				medication.PrescriptionStatusFilled)
		}),
		bus.On(medication.FulfillmentFailedV1, func(ctx context.Context, tx bus.Tx, e event.Of[medication.FulfillmentFailed]) error {
			return s.status(ctx, tx, e.ID, e.Payload.PrescriptionID, medication.PrescriptionStatusChanged{PatientID: text(e.Payload.PatientID), Status: medication.PrescriptionStatusOnHold, Reason: &e.Payload.Reason},
				medication.PrescriptionStatusReady, medication.PrescriptionStatusInFulfillment, medication.PrescriptionStatusFilled)
		}),
	}, options...)...)
}

func prescribed(m *priorauth.Medication) *medication.Medication {
	if m == nil {
		return nil
	}
	out := medication.Medication{NDC: m.NDC, Name: m.Name, Strength: m.Strength, Form: m.Form, Quantity: m.Quantity, QuantityUnit: m.QuantityUnit, DaysSupply: m.DaysSupply, Directions: m.Directions}
	if m.Code != nil {
		c := medication.Codeable(*m.Code)
		out.Code = &c
	}
	return &out
}

// ready says that a prescription can be filled, to the pharmacy, and where it stands, to the patient. A prescription that
// was cancelled meanwhile stays so. atMost is what the payer has approved of the quantity, where it has said so.
func (s *service) ready(ctx context.Context, tx bus.Tx, eventID string, p medication.PrescriptionReady, atMost *float64) error {
	if p.PrescriptionID == "" || p.PatientID == "" {
		return nil // an authorization that is not about a prescription
	}
	_, err := Prescriptions.UpdateTx(ctx, tx, s.p, p.PrescriptionID, func(r Prescription) ([]event.Event, error) {
		late := slices.Contains(granted, r.Status) // and yet something new, when a claim was rejected for want of it
		if slices.Contains(over, r.Status) || late && (p.PriorAuthID == nil || r.PriorAuthID == *p.PriorAuthID) {
			return nil, nil
		}
		p.ReadyAt, p.Prescriber, p.Pharmacy = tx.Now(), r.Prescriber, r.Pharmacy
		if r.Version > 0 {
			p.Medication = &r.Medication
		}
		if m := p.Medication; m != nil && m.Quantity != nil && atMost != nil && *atMost < *m.Quantity {
			part := *m
			part.Quantity = atMost
			p.Medication = &part
		}
		return []event.Event{
			medication.PrescriptionReadyV1.New(Source, p),
			r.changed(medication.PrescriptionStatusChanged{PrescriptionID: p.PrescriptionID, PatientID: p.PatientID, Status: medication.PrescriptionStatusReady, PriorAuthID: p.PriorAuthID}, tx.Now()),
		}, nil
	}, aggregate.Once(eventID))
	return err
}

// granted are the statuses of a prescription that may be filled, or is.
var granted = []medication.PrescriptionStatus{
	medication.PrescriptionStatusReady, medication.PrescriptionStatusInFulfillment, medication.PrescriptionStatusFilled, medication.PrescriptionStatusPickedUp,
}

// status says where a prescription stands now; only if it stood in one of from, where any are given.
func (s *service) status(ctx context.Context, tx bus.Tx, eventID, prescriptionID string, p medication.PrescriptionStatusChanged, from ...medication.PrescriptionStatus) error {
	if prescriptionID == "" {
		return nil
	}
	p.PrescriptionID = prescriptionID
	_, err := Prescriptions.UpdateTx(ctx, tx, s.p, prescriptionID, func(r Prescription) ([]event.Event, error) {
		if slices.Contains(over, r.Status) || r.Status == p.Status || len(from) > 0 && !slices.Contains(from, r.Status) {
			return nil, nil
		}
		return []event.Event{r.changed(p, tx.Now())}, nil
	}, aggregate.Once(eventID))
	return err
}

func (r Prescription) changed(p medication.PrescriptionStatusChanged, now time.Time) event.Event {
	p.PreviousStatus, p.ChangedAt = r.Status, now
	return medication.PrescriptionStatusChangedV1.New(Source, p)
}
