package care

import (
	"context"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/event"
)

// MarkOverdue states care.task.overdue for a task that is due and not completed, once for each assignment; for any other
// task, and for one that is not there, it does nothing. The service does so by itself when the time has come.
func MarkOverdue(ctx context.Context, l aggregate.Log, taskID string, at time.Time, opts ...aggregate.UpdateOption) (aggregate.Loaded[Task], error) {
	return Tasks.Update(ctx, l, taskID, overdue(taskID, at), opts...)
}

func overdue(id string, at time.Time) aggregate.Decide[Task] {
	return func(t Task) ([]event.Event, error) {
		if !t.awaited() || at.Before(t.DueAt) {
			return nil, nil
		}
		return []event.Event{care.TaskOverdueV1.New(Source, care.TaskOverdue{
			TaskID: id, PatientID: t.PatientID, Title: t.Title, Assignee: &t.Assignee, DueAt: t.DueAt, Priority: t.Priority, CarePlanID: t.CarePlanID, DetectedAt: at.UTC(),
		})}, nil
	}
}

// awaited tells a task that can still become overdue.
func (t Task) awaited() bool {
	return t.Version > 0 && t.Completed == nil && !t.Overdue && !t.DueAt.IsZero()
}

// watch keeps the timer of a task in line with what the task is now, whatever event has led here: a task that is handled
// again, late, or after it has changed once more gets the timer that it needs and no other.
//
// Its event is care.task.due and not care.task.overdue, since a task may be completed in the same moment:
//
//  1. the timer fires, and its event is stored;
//  2. somebody completes the task, or gives it another time;
//  3. the event is handled: the task as it is then, in the same transaction, decides.
//
// Whichever of 2 and 3 is stored first, the history of the task is true.
func (s *service) watch(ctx context.Context, tx bus.Tx, taskID string) error {
	now, err := Tasks.UpdateTx(ctx, tx, s.p, taskID, func(Task) ([]event.Event, error) { return nil, nil })
	if err != nil {
		return err
	}
	t, id := now.State, "care/"+taskID+"/due"
	if !t.awaited() {
		_, err := s.p.Timers().CancelTx(tx, id)
		return err
	}
	return s.p.Timers().SetTx(ctx, tx, id, t.DueAt, care.TaskDueV1.New(Source, care.TaskDue{TaskID: taskID, PatientID: t.PatientID, DueAt: t.DueAt}))
}

// due decides about a task whose time has come. A time that the task no longer has decides nothing: the other one has a
// timer of its own.
func (s *service) due(ctx context.Context, tx bus.Tx, e event.Of[care.TaskDue]) error {
	if _, err := Tasks.UpdateTx(ctx, tx, s.p, e.Payload.TaskID, overdue(e.Payload.TaskID, tx.Now()), aggregate.Once(e.ID)); err != nil {
		return err
	}
	return s.watch(ctx, tx, e.Payload.TaskID) // a clock that was set back since the timer fired has let nothing happen
}
