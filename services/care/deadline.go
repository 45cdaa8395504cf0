package care

import (
	"context"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
)

// approaching makes a task of a decision that the payer is about to be late with: one of each request. A reminder is the
// payer's own affair.
func (s *service) approaching(ctx context.Context, tx bus.Tx, e event.Of[priorauth.DeadlineApproaching]) error {
	d := e.Payload
	if d.Stage != priorauth.DeadlineApproachingStageEscalation {
		return nil
	}
	due := d.Deadline
	if !due.After(tx.Now()) {
		due = tx.Now().Add(s.within)
	}
	return s.make(ctx, tx, e.ID, "TASK-"+d.PriorAuthID+"-DEADLINE", care.TaskAssigned{
		PatientID: d.PatientID, Title: new("Ask the payer for its decision: it is due soon"), DueAt: due, PriorAuthID: &d.PriorAuthID, PrescriptionID: d.PrescriptionID,
	})
}

// missed makes a task of a decision that did not come in time.
func (s *service) missed(ctx context.Context, tx bus.Tx, e event.Of[priorauth.DeadlineMissed]) error {
	d := e.Payload
	return s.make(ctx, tx, e.ID, "TASK-"+d.PriorAuthID+"-MISSED", care.TaskAssigned{
		PatientID: d.PatientID, Title: new("The payer is late with its decision: see to the patient's supply, and complain"),
		DueAt: tx.Now().Add(s.within), PriorAuthID: &d.PriorAuthID, PrescriptionID: d.PrescriptionID,
	})
}
