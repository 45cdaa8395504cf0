package pharmacy

import (
	"context"
	"fmt"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
)

// Source is the eventSource of the service.
const Source = "pharmacy-service"

// Stock is what a pharmacy has of a drug.
type Stock struct {
	PharmacyID   string                 `json:"pharmacyId"`
	NDC          string                 `json:"ndc"`
	OnHand       float64                `json:"onHand"`
	Received     float64                `json:"received"`               // ever
	Reservations map[string]Reservation `json:"reservations,omitempty"` // by reservation id
	Taken        map[string]float64     `json:"taken,omitempty"`        // what was dispensed for a reservation, and neither returned nor handed over
	Version      int64                  `json:"version"`                // events that this state understands
	LastUpdated  int64                  `json:"lastUpdated"`            // timestamp of the last of them, epoch milliseconds
}

// Reservation is a part of the stock that is put aside.
type Reservation struct {
	Quantity       float64 `json:"quantity"`
	PrescriptionID string  `json:"prescriptionId,omitempty"`
}

// Available is what is not reserved.
func (s Stock) Available() float64 {
	out := s.OnHand
	for _, r := range s.Reservations {
		out -= r.Quantity
	}
	return out
}

// Stocks is the stock as an aggregate: streams "medication.inventory/PHARMACY:NDC".
var Stocks = aggregate.Define("medication.inventory",
	aggregate.Snapshots[Stock](100, 2),
	aggregate.On(medication.InventoryAdjustedV1, func(s *Stock, e event.Of[medication.InventoryAdjusted]) {
		p := e.Payload
		s.touch(e.Metadata, p.PharmacyID, p.NDC)
		s.OnHand += p.Change
		if p.Reason == medication.InventoryAdjustedReasonReceived {
			s.Received += p.Change
		}
		if p.PrescriptionID == nil {
			return
		}
		switch p.Reason {
		case medication.InventoryAdjustedReasonDispensed:
			if s.Taken == nil {
				s.Taken = map[string]float64{}
			}
			s.Taken[*p.PrescriptionID] -= p.Change
			delete(s.Reservations, *p.PrescriptionID)
		case medication.InventoryAdjustedReasonReturnedToStock:
			delete(s.Taken, *p.PrescriptionID)
		}
	}),
	aggregate.On(medication.InventoryReservedV1, func(s *Stock, e event.Of[medication.InventoryReserved]) {
		p := e.Payload
		s.touch(e.Metadata, p.PharmacyID, p.NDC)
		if s.Reservations == nil {
			s.Reservations = map[string]Reservation{}
		}
		s.Reservations[p.ReservationID] = Reservation{Quantity: p.Quantity, PrescriptionID: text(p.PrescriptionID)}
	}),
	aggregate.On(medication.PrescriptionPickedUpV1, func(s *Stock, e event.Of[medication.PrescriptionPickedUp]) {
		s.touch(e.Metadata, s.PharmacyID, s.NDC)
		delete(s.Taken, e.Payload.PrescriptionID)
	}),
	aggregate.On(medication.InventoryReleasedV1, func(s *Stock, e event.Of[medication.InventoryReleased]) {
		s.touch(e.Metadata, e.Payload.PharmacyID, e.Payload.NDC)
		delete(s.Reservations, e.Payload.ReservationID)
	}),
)

func (s *Stock) touch(m event.Metadata, pharmacyID, ndc string) {
	s.PharmacyID, s.NDC = pharmacyID, ndc
	s.Version++
	s.LastUpdated = m.Timestamp
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// unit is less than any quantity: sums of parts such as 0.1 ml are not exact.
const unit = 1e-6

// ID is the id of the stock of a drug at a pharmacy.
func ID(pharmacyID, ndc string) string { return pharmacyID + ":" + ndc }

// RefusedError says why a command cannot be carried out.
type RefusedError struct {
	Command string // "reserve"
	Rule    string // stable: "stock", "value", "reservation"
	Message string
	Remedy  string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("pharmacy: %s refused: %s [%s]; %s", e.Command, e.Message, e.Rule, e.Remedy)
}

// Command is something that is to happen to a stock: one of the command types of this package.
type Command interface {
	decide(s Stock, at place) ([]event.Event, error)
}

// place is which stock a command is about, and when.
type place struct {
	pharmacyID, ndc string
	now             time.Time
}

func (p place) id() string { return ID(p.pharmacyID, p.ndc) }

// Do carries out a command and returns the stock after it, when its events are on stable storage. What the stock does not
// allow is refused with a *RefusedError.
func Do(ctx context.Context, l aggregate.Log, pharmacyID, ndc string, c Command, opts ...aggregate.UpdateOption) (aggregate.Loaded[Stock], error) {
	at := place{pharmacyID, ndc, time.Now().UTC().Truncate(time.Millisecond)}
	return Stocks.Update(ctx, l, at.id(), func(s Stock) ([]event.Event, error) { return c.decide(s, at) }, opts...)
}

// DoTx is Do inside a handler's transaction.
func DoTx(ctx context.Context, tx bus.Tx, l aggregate.Log, pharmacyID, ndc string, c Command, opts ...aggregate.UpdateOption) (aggregate.Loaded[Stock], error) {
	at := place{pharmacyID, ndc, tx.Now()}
	return Stocks.UpdateTx(ctx, tx, l, at.id(), func(s Stock) ([]event.Event, error) { return c.decide(s, at) }, opts...)
}

func (p place) adjusted(s Stock, change float64, reason medication.InventoryAdjustedReason, prescriptionID string) event.Event {
	onHand := s.OnHand + change
	return medication.InventoryAdjustedV1.New(Source, medication.InventoryAdjusted{
		InventoryID: p.id(), PharmacyID: p.pharmacyID, NDC: p.ndc, Change: change, OnHand: &onHand, Reason: reason, PrescriptionID: optional(prescriptionID), AdjustedAt: p.now,
	})
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// Receive puts a delivery into the stock.
type Receive struct{ Quantity float64 }

func (c Receive) decide(s Stock, at place) ([]event.Event, error) {
	if !(c.Quantity > 0) {
		return nil, &RefusedError{"receive", "value", "the quantity is not above zero", "give how much was delivered"}
	}
	return []event.Event{at.adjusted(s, c.Quantity, medication.InventoryAdjustedReasonReceived, "")}, nil
}

// WriteOff takes out what is lost, damaged or expired. What is reserved is not written off.
type WriteOff struct {
	Quantity float64
	Reason   medication.InventoryAdjustedReason
}

func (c WriteOff) decide(s Stock, at place) ([]event.Event, error) {
	switch {
	case !(c.Quantity > 0) || !c.Reason.Known():
		return nil, &RefusedError{"write-off", "value", "the quantity is not above zero, or the reason is none that the catalog lists", "give both"}
	case s.Available()-c.Quantity < -unit:
		return nil, &RefusedError{"write-off", "stock", "there is not so much that is not reserved", "release reservations first"}
	}
	return []event.Event{at.adjusted(s, -c.Quantity, c.Reason, "")}, nil
}

// Reserve puts a part of the stock aside for a prescription. ID is the reservation's, by convention the prescription's:
// reserving again under it changes nothing.
type Reserve struct {
	ID       string
	Quantity float64
}

func (c Reserve) decide(s Stock, at place) ([]event.Event, error) {
	if c.ID == "" || !(c.Quantity > 0) {
		return nil, &RefusedError{"reserve", "value", "the id is empty or the quantity is not above zero", "give both"}
	}
	if r, ok := s.Reservations[c.ID]; ok {
		if r.Quantity != c.Quantity {
			return nil, &RefusedError{"reserve", "reservation", "there is a reservation with this id, of another quantity", "release it first"}
		}
		return nil, nil
	}
	if _, taken := s.Taken[c.ID]; taken {
		return nil, nil // reserved, and dispensed already
	}
	left := s.Available() - c.Quantity
	if left < -unit {
		return nil, &RefusedError{"reserve", "stock", "there is not enough in stock", "order more, or ask another pharmacy"}
	}
	return []event.Event{medication.InventoryReservedV1.New(Source, medication.InventoryReserved{
		InventoryID: at.id(), PharmacyID: at.pharmacyID, NDC: at.ndc, ReservationID: c.ID, PrescriptionID: &c.ID, Quantity: c.Quantity, Available: &left, ReservedAt: at.now,
	})}, nil
}

// Release gives a reservation up. Releasing what is not reserved changes nothing.
type Release struct {
	ID     string
	Reason medication.InventoryReleasedReason
}

func (c Release) decide(s Stock, at place) ([]event.Event, error) {
	r, ok := s.Reservations[c.ID]
	if !ok {
		return nil, nil
	}
	left := s.Available() + r.Quantity
	return []event.Event{medication.InventoryReleasedV1.New(Source, medication.InventoryReleased{
		InventoryID: at.id(), PharmacyID: at.pharmacyID, NDC: at.ndc, ReservationID: c.ID, PrescriptionID: optional(r.PrescriptionID), Quantity: r.Quantity,
		Available: &left, Reason: c.Reason, ReleasedAt: at.now,
	})}, nil
}

// Dispense takes what is reserved out of the stock. Dispensing again under the same id changes nothing.
type Dispense struct{ ID string }

func (c Dispense) decide(s Stock, at place) ([]event.Event, error) {
	if _, taken := s.Taken[c.ID]; taken {
		return nil, nil
	}
	r, ok := s.Reservations[c.ID]
	if !ok {
		return nil, &RefusedError{"dispense", "reservation", "nothing is reserved under this id", "reserve first"}
	}
	return []event.Event{at.adjusted(s, -r.Quantity, medication.InventoryAdjustedReasonDispensed, c.ID)}, nil
}

// HandOver gives what was dispensed to the patient, who cannot give it back: medication.prescription.picked-up. Handing
// over what was returned, or never dispensed, is refused.
type HandOver struct {
	ID        string
	PatientID string
	FillID    string
}

func (c HandOver) decide(s Stock, at place) ([]event.Event, error) {
	if _, taken := s.Taken[c.ID]; !taken {
		return nil, &RefusedError{"hand-over", "reservation", "nothing lies ready under this id", "it may have been handed over, or returned to stock; look at its history"}
	}
	e := medication.PrescriptionPickedUpV1.New(Source, medication.PrescriptionPickedUp{
		PrescriptionID: c.ID, PatientID: c.PatientID, FillID: optional(c.FillID), PharmacyID: &at.pharmacyID, PickedUpAt: at.now,
	})
	e.PartitionKey = c.ID // in order with what else happens to the prescription
	return []event.Event{e}, nil
}

// Return puts back what was dispensed. Returning what was handed over, or was never dispensed, is refused.
type Return struct{ ID string }

func (c Return) decide(s Stock, at place) ([]event.Event, error) {
	quantity, taken := s.Taken[c.ID]
	if !taken {
		return nil, &RefusedError{"return", "reservation", "nothing lies ready under this id", "it may have been handed over, or returned before; look at its history"}
	}
	return []event.Event{at.adjusted(s, quantity, medication.InventoryAdjustedReasonReturnedToStock, c.ID)}, nil
}
