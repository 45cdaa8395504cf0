package aggregate_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/event"
)

// contact is how a patient can be reached.
type contact struct {
	Phone string `json:"phone,omitempty"`
	Email string `json:"email,omitempty"`
}

var contacts = aggregate.Define("patient.record",
	aggregate.On(patient.RecordCreatedV1, func(c *contact, e event.Of[patient.RecordCreated]) {
		c.set(e.Payload.PhoneNumber, e.Payload.Email)
	}),
	aggregate.On(patient.ContactChangedV1, func(c *contact, e event.Of[patient.ContactChanged]) {
		c.set(e.Payload.PhoneNumber, e.Payload.Email)
	}))

func (c *contact) set(phone, email *string) {
	if phone != nil {
		c.Phone = *phone
	}
	if email != nil {
		c.Email = *email
	}
}

// The state of a patient's contact data is what its events make of it; a command looks at it and says what happened.
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

	first, second := "614-555-1234", "614-555-9999"
	if _, err := contacts.Update(ctx, p, "P1", func(contact) ([]event.Event, error) {
		return []event.Event{patient.RecordCreatedV1.New("patient-service", patient.RecordCreated{PatientID: "P1", PhoneNumber: &first})}, nil
	}); err != nil {
		panic(err)
	}
	change := func(phone string) aggregate.Decide[contact] {
		return func(c contact) ([]event.Event, error) {
			if c.Phone == phone {
				return nil, errors.New("that is the number already")
			}
			return []event.Event{patient.ContactChangedV1.New("patient-service", patient.ContactChanged{PatientID: "P1", PhoneNumber: &phone})}, nil
		}
	}
	now, err := contacts.Update(ctx, p, "P1", change(second))
	fmt.Println(now.State.Phone, now.Version, err)
	_, err = contacts.Update(ctx, p, "P1", change(second))
	fmt.Println(err)
	before, err := contacts.AtVersion(ctx, p, "P1", 1)
	fmt.Println(before.State.Phone, err)
	// Output:
	// 614-555-9999 2 <nil>
	// that is the number already
	// 614-555-1234 <nil>
}
