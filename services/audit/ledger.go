package audit

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/catalog/payment"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/priorauth"
)

// ledger is what the events say, entity by entity.
type ledger struct {
	readers map[string]func(eventstore.Record) error

	requests      map[string]*request
	prescriptions map[string]*prescription
	attempts      map[string]*attempt // of fulfilments, by fulfilment id
	claims        map[string]*claim
	stocks        map[string]*stock
	notices       map[string]int // notifications by id

	negative, sums *Check
	notRequired    int64
	decisions      map[string]int64
}

type request struct {
	patient, prescription string
	submitted, approved   int
	grants                int // decisions of the payer that approve
	status                catalog.PriorAuthStatus
}

type prescription struct {
	verified time.Time
	fills    []fill
	returned int
	pickedUp int
	reserved map[string]float64   // by stock
	taken    map[string]float64   // likewise
	held     map[string]time.Time // when it was first reserved
}

type fill struct {
	id, claim string
	at        time.Time
}

type attempt struct {
	prescription               string
	started, completed, failed int
	stuck                      int
	reason                     string
	claim                      string
	done, undone               []medication.FulfillmentStep
	compensated                []medication.FulfillmentStep // as the failure says
	startedAt                  time.Time
}

type claim struct {
	prescription                string
	submitted, rejected, voided int
	approved                    []time.Time
}

type stock struct {
	onHand, reserved float64
	reservations     map[string]float64
}

func newLedger() *ledger {
	l := &ledger{
		requests: map[string]*request{}, prescriptions: map[string]*prescription{}, attempts: map[string]*attempt{}, claims: map[string]*claim{}, stocks: map[string]*stock{},
		notices: map[string]int{}, decisions: map[string]int64{},
		negative: &Check{Name: "stock-never-negative", Rule: "what a pharmacy has of a drug, and what of it is not reserved, is never below zero"},
		sums:     &Check{Name: "stock-adds-up", Rule: "what an event says of the stock is the sum of what has happened to it"},
	}
	l.readers = map[string]func(eventstore.Record) error{}
	l.readPriorAuth()
	l.readFulfillment()
	l.readClaims()
	l.readStock()
	on(l, patient.NotificationSentV1, "", func(e event.Of[patient.NotificationSent], _ eventstore.Record) { l.notices[e.Payload.NotificationID]++ })
	return l
}

// on has events of a type read that a service has stated; an empty source is every one.
func on[T any](l *ledger, d event.Definition[T], source string, fn func(e event.Of[T], r eventstore.Record)) {
	l.readers[d.Type()] = func(r eventstore.Record) error {
		if source != "" && r.Source != source {
			return nil
		}
		e, err := d.Decode(r.Event)
		if err != nil {
			return fmt.Errorf("audit: event %s of type %s: %w", r.ID, r.Type, err)
		}
		fn(e, r)
		return nil
	}
}

func (l *ledger) wants(eventType string) bool { return l.readers[eventType] != nil }

func (l *ledger) add(r eventstore.Record) error { return l.readers[r.Type](r) }

// at returns the entry of a key, made when it is missing.
func at[T any](m map[string]*T, key string) *T {
	v := m[key]
	if v == nil {
		v = new(T)
		m[key] = v
	}
	return v
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (l *ledger) readPriorAuth() {
	on(l, catalog.RequestSubmittedV1, priorauth.Source, func(e event.Of[catalog.RequestSubmitted], _ eventstore.Record) {
		r := at(l.requests, e.Payload.PriorAuthID)
		r.patient, r.prescription, r.status = e.Payload.PatientID, text(e.Payload.PrescriptionID), catalog.PriorAuthStatusSubmitted
		r.submitted++
	})
	on(l, catalog.RequestCancelledV1, priorauth.Source, func(e event.Of[catalog.RequestCancelled], _ eventstore.Record) {
		at(l.requests, e.Payload.PriorAuthID).status = catalog.PriorAuthStatusCancelled
	})
	on(l, catalog.StatusApprovedV1, priorauth.Source, func(e event.Of[catalog.StatusApproved], _ eventstore.Record) {
		r := at(l.requests, e.Payload.PriorAuthID)
		r.approved++
		r.status = catalog.PriorAuthStatusApproved
		if r.patient != e.Payload.PatientID || r.prescription != text(e.Payload.PrescriptionID) {
			r.patient = "somebody else"
		}
	})
	on(l, catalog.StatusDeniedV1, priorauth.Source, func(e event.Of[catalog.StatusDenied], _ eventstore.Record) {
		at(l.requests, e.Payload.PriorAuthID).status = catalog.PriorAuthStatusDenied
	})
	on(l, catalog.StatusPendingV1, priorauth.Source, func(e event.Of[catalog.StatusPending], _ eventstore.Record) {
		at(l.requests, e.Payload.PriorAuthID).status = catalog.PriorAuthStatusPended
	})
	on(l, catalog.StatusUpdatedV1, priorauth.Source, func(e event.Of[catalog.StatusUpdated], _ eventstore.Record) {
		at(l.requests, e.Payload.PriorAuthID).status = e.Payload.Status
	})
	on(l, catalog.DeterminationNotRequiredV1, priorauth.Source, func(event.Of[catalog.DeterminationNotRequired], eventstore.Record) { l.notRequired++ })
	on(l, catalog.DecisionMadeV1, payer.Source, func(e event.Of[catalog.DecisionMade], _ eventstore.Record) {
		d := e.Payload.Decision
		l.decisions[string(d)]++
		r := at(l.requests, e.Payload.PriorAuthID)
		switch d {
		case catalog.DecisionApproved, catalog.DecisionPartiallyApproved, catalog.DecisionModified, catalog.DecisionNotRequired:
			r.grants++
		}
	})
}

func (l *ledger) readFulfillment() {
	on(l, medication.PrescriptionVerifiedV1, pharmacy.Source, func(e event.Of[medication.PrescriptionVerified], r eventstore.Record) {
		if p := at(l.prescriptions, e.Payload.PrescriptionID); p.verified.IsZero() {
			p.verified = r.RecordedAt
		}
	})
	on(l, medication.PrescriptionFilledV2, pharmacy.Source, func(e event.Of[medication.PrescriptionFilled], r eventstore.Record) {
		p := at(l.prescriptions, e.Payload.PrescriptionID)
		p.fills = append(p.fills, fill{text(e.Payload.FillID), text(e.Payload.ClaimID), r.RecordedAt})
	})
	on(l, medication.PrescriptionReturnedV1, pharmacy.Source, func(e event.Of[medication.PrescriptionReturned], _ eventstore.Record) {
		at(l.prescriptions, e.Payload.PrescriptionID).returned++
	})
	on(l, medication.PrescriptionPickedUpV1, pharmacy.Source, func(e event.Of[medication.PrescriptionPickedUp], _ eventstore.Record) {
		at(l.prescriptions, e.Payload.PrescriptionID).pickedUp++
	})
	on(l, medication.FulfillmentStartedV1, fulfillment.Source, func(e event.Of[medication.FulfillmentStarted], r eventstore.Record) {
		a := at(l.attempts, text(e.Payload.FulfillmentID))
		a.prescription, a.startedAt = e.Payload.PrescriptionID, r.RecordedAt
		a.started++
	})
	on(l, medication.FulfillmentStepCompletedV1, fulfillment.Source, func(e event.Of[medication.FulfillmentStepCompleted], _ eventstore.Record) {
		a := at(l.attempts, text(e.Payload.FulfillmentID))
		a.done = append(a.done, e.Payload.Step)
	})
	on(l, medication.FulfillmentCompensatedV1, fulfillment.Source, func(e event.Of[medication.FulfillmentCompensated], _ eventstore.Record) {
		a := at(l.attempts, text(e.Payload.FulfillmentID))
		a.undone = append(a.undone, e.Payload.Step)
	})
	on(l, medication.FulfillmentCompletedV1, fulfillment.Source, func(e event.Of[medication.FulfillmentCompleted], _ eventstore.Record) {
		a := at(l.attempts, text(e.Payload.FulfillmentID))
		a.completed++
		a.claim = text(e.Payload.ClaimID)
	})
	on(l, medication.FulfillmentFailedV1, fulfillment.Source, func(e event.Of[medication.FulfillmentFailed], _ eventstore.Record) {
		a := at(l.attempts, text(e.Payload.FulfillmentID))
		a.failed++
		a.reason, a.stuck, a.compensated = e.Payload.Reason, len(e.Payload.Stuck), e.Payload.Compensated
	})
}

func (l *ledger) readClaims() {
	on(l, payment.ClaimSubmittedV1, pharmacy.Source, func(e event.Of[payment.ClaimSubmitted], _ eventstore.Record) {
		c := at(l.claims, e.Payload.ClaimID)
		c.prescription = text(e.Payload.PrescriptionID)
		c.submitted++
	})
	on(l, payment.ClaimApprovedV1, payer.Source, func(e event.Of[payment.ClaimApproved], r eventstore.Record) {
		c := at(l.claims, e.Payload.ClaimID)
		c.approved = append(c.approved, r.RecordedAt)
	})
	on(l, payment.ClaimRejectedV1, payer.Source, func(e event.Of[payment.ClaimRejected], _ eventstore.Record) {
		at(l.claims, e.Payload.ClaimID).rejected++
	})
	on(l, payment.ClaimVoidedV1, pharmacy.Source, func(e event.Of[payment.ClaimVoided], _ eventstore.Record) { at(l.claims, e.Payload.ClaimID).voided++ })
}

// unit is less than any quantity: sums of parts such as 0.1 ml are not exact.
const unit = 1e-6

// readStock does the arithmetic of a stock, event by event, in the order of its stream.
func (l *ledger) readStock() {
	look := func(s *stock, id string, onHand, available *float64, r eventstore.Record) {
		l.negative.hold(s.onHand > -unit && s.onHand-s.reserved > -unit, id, "%g on hand, %g reserved after event %s", s.onHand, s.reserved, r.ID)
		if onHand != nil {
			l.sums.hold(near(*onHand, s.onHand), id, "event %s says %g on hand; it is %g", r.ID, *onHand, s.onHand)
		}
		if available != nil {
			l.sums.hold(near(*available, s.onHand-s.reserved), id, "event %s says %g available; it is %g", r.ID, *available, s.onHand-s.reserved)
		}
	}
	free := func(s *stock, p *prescription, id, reservation string) {
		s.reserved -= s.reservations[reservation]
		delete(s.reservations, reservation)
		delete(p.reserved, id)
	}
	on(l, medication.InventoryAdjustedV1, pharmacy.Source, func(e event.Of[medication.InventoryAdjusted], r eventstore.Record) {
		a := e.Payload
		s := at(l.stocks, a.InventoryID)
		s.onHand += a.Change
		if rx := text(a.PrescriptionID); rx != "" {
			p := at(l.prescriptions, rx)
			switch a.Reason {
			case medication.InventoryAdjustedReasonDispensed:
				l.sums.hold(near(s.reservations[rx], -a.Change), a.InventoryID, "event %s dispenses %g; %g is reserved", r.ID, -a.Change, s.reservations[rx])
				free(s, p, a.InventoryID, rx)
				put(&p.taken, a.InventoryID, -a.Change)
			case medication.InventoryAdjustedReasonReturnedToStock:
				l.sums.hold(near(p.taken[a.InventoryID], a.Change), a.InventoryID, "event %s returns %g; %g was dispensed", r.ID, a.Change, p.taken[a.InventoryID])
				delete(p.taken, a.InventoryID)
			}
		}
		look(s, a.InventoryID, a.OnHand, nil, r)
	})
	on(l, medication.InventoryReservedV1, pharmacy.Source, func(e event.Of[medication.InventoryReserved], r eventstore.Record) {
		v := e.Payload
		s, p := at(l.stocks, v.InventoryID), at(l.prescriptions, text(v.PrescriptionID))
		s.reserved += v.Quantity
		put(&s.reservations, v.ReservationID, v.Quantity)
		put(&p.reserved, v.InventoryID, v.Quantity)
		if _, ok := p.held[v.InventoryID]; !ok {
			put(&p.held, v.InventoryID, r.RecordedAt)
		}
		look(s, v.InventoryID, nil, v.Available, r)
	})
	on(l, medication.InventoryReleasedV1, pharmacy.Source, func(e event.Of[medication.InventoryReleased], r eventstore.Record) {
		v := e.Payload
		s, p := at(l.stocks, v.InventoryID), at(l.prescriptions, text(v.PrescriptionID))
		free(s, p, v.InventoryID, v.ReservationID)
		look(s, v.InventoryID, nil, v.Available, r)
	})
}

func put[V any](m *map[string]V, key string, v V) {
	if *m == nil {
		*m = map[string]V{}
	}
	(*m)[key] = v
}

func near(a, b float64) bool { return a-b < unit && b-a < unit }

// outcomes counts how everything ended.
func (l *ledger) outcomes() Outcomes {
	o := Outcomes{PriorAuth: map[string]int64{}, Decisions: l.decisions, Claims: map[string]int64{}, Fulfillments: map[string]int64{}}
	for _, r := range l.requests {
		if r.submitted > 0 {
			o.PriorAuth[string(r.status)]++
		}
	}
	if l.notRequired > 0 {
		o.PriorAuth["not-required"] = l.notRequired
	}
	for _, c := range l.claims {
		switch {
		case c.submitted == 0: // of another system
		case c.voided > 0:
			o.Claims["voided"]++
		case len(c.approved) > 0:
			o.Claims["approved"]++
		case c.rejected > 0:
			o.Claims["rejected"]++
		default:
			o.Claims["open"]++
		}
	}
	for _, a := range l.attempts {
		switch {
		case a.failed > 0:
			o.Fulfillments["failed: "+a.reason]++
		case a.completed > 0:
			o.Fulfillments["completed"]++
		default:
			o.Fulfillments["under way"]++
		}
	}
	for _, p := range l.prescriptions {
		o.PickedUp += int64(p.pickedUp)
		o.Returned += int64(p.returned)
	}
	return o
}

// sorted makes the order of what is found the same every time.
func sorted[T any](m map[string]*T) []string { return slices.Sorted(maps.Keys(m)) }
