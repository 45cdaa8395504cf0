package care

import (
	"context"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/timer"
)

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	aggregate.Log
	Timers() *timer.Timers
	Handle(group string, opts ...bus.Option) error
}

const tables = `
CREATE TABLE care_tasks (task_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, title TEXT NOT NULL, assignee TEXT NOT NULL, due_at BIGINT NOT NULL, state TEXT NOT NULL);
CREATE INDEX care_tasks_due ON care_tasks (state, due_at);
CREATE INDEX care_tasks_assignee ON care_tasks (assignee, due_at);`

// Options of the service. The zero value works.
type Options struct {
	// Coordinator gets the tasks that the service makes by itself. Default: "care-coordinator".
	Coordinator string
	// Within is how soon such a task is due. Default 48 h.
	Within time.Duration
	// Group has further options of the consumer group, such as bus.Version.
	Group []bus.Option
}

type service struct {
	p           Platform
	coordinator string
	within      time.Duration
}

// Join makes this process a member of the service. It reacts to
//
//	priorauth.status.denied                 somebody has to talk about an appeal, or another therapy
//	priorauth.deadline.approaching, .missed    somebody has to ask the payer, or to help without it
//	care.task.assigned, .completed, .overdue   the lists of work, and the timer of each task
//	care.task.due                           a task that is not completed is overdue
func Join(ctx context.Context, p Platform, o Options) error {
	if o.Coordinator == "" {
		o.Coordinator = "care-coordinator"
	}
	if o.Within <= 0 {
		o.Within = 48 * time.Hour
	}
	s := &service{p, o.Coordinator, o.Within}
	if err := p.Store().Migrate(ctx, Source, tables); err != nil {
		return err
	}
	return p.Handle(Group, append([]bus.Option{
		bus.On(priorauth.StatusDeniedV1, s.denied),
		bus.On(priorauth.DeadlineApproachingV1, s.approaching),
		bus.On(priorauth.DeadlineMissedV1, s.missed),
		bus.On(care.TaskAssignedV1, s.assigned),
		bus.On(care.TaskCompletedV1, func(ctx context.Context, tx bus.Tx, e event.Of[care.TaskCompleted]) error {
			return s.ended(ctx, tx, e.Payload.TaskID, "completed")
		}),
		bus.On(care.TaskOverdueV1, func(ctx context.Context, tx bus.Tx, e event.Of[care.TaskOverdue]) error {
			return s.ended(ctx, tx, e.Payload.TaskID, "overdue")
		}),
		bus.On(care.TaskDueV1, s.due),
	}, o.Group...)...)
}

func (s *service) denied(ctx context.Context, tx bus.Tx, e event.Of[priorauth.StatusDenied]) error {
	d := e.Payload
	return s.make(ctx, tx, e.ID, "TASK-"+d.PriorAuthID, care.TaskAssigned{
		PatientID: &d.PatientID, Title: new("Talk about an appeal or another therapy"), DueAt: tx.Now().Add(s.within), PriorAuthID: &d.PriorAuthID, PrescriptionID: d.PrescriptionID,
	})
}

// make gives an urgent task to the coordinator, unless there is one of that id, whatever became of it.
func (s *service) make(ctx context.Context, tx bus.Tx, eventID, taskID string, t care.TaskAssigned) error {
	t.Assignee, t.Priority = care.Party{ID: &s.coordinator}, care.TaskPriorityUrgent
	t.DueAt = t.DueAt.UTC().Truncate(time.Millisecond)
	_, err := Tasks.UpdateTx(ctx, tx, s.p, taskID, func(known Task) ([]event.Event, error) {
		if known.Version > 0 {
			return nil, nil
		}
		return AssignTask{t}.decide(taskID, tx.Now())(known)
	}, aggregate.Once(eventID))
	return err
}

func (s *service) assigned(ctx context.Context, tx bus.Tx, e event.Of[care.TaskAssigned]) error {
	t, due := e.Payload, int64(0)
	if !t.DueAt.IsZero() {
		due = t.DueAt.UnixMilli()
	}
	assignee := text(t.Assignee.ID)
	if assignee == "" {
		assignee = text(t.Assignee.Name)
	}
	if _, err := tx.Exec(`INSERT INTO care_tasks (task_id, patient_id, title, assignee, due_at, state) VALUES ($1, $2, $3, $4, $5, 'open')
		ON CONFLICT (task_id) DO UPDATE SET assignee = excluded.assignee, due_at = excluded.due_at, state = 'open'`, t.TaskID, text(t.PatientID), text(t.Title), assignee, due); err != nil {
		return err
	}
	return s.watch(ctx, tx, t.TaskID)
}

func (s *service) ended(ctx context.Context, tx bus.Tx, taskID, state string) error {
	if _, err := tx.Exec(`UPDATE care_tasks SET state = $1 WHERE task_id = $2`, state, taskID); err != nil {
		return err
	}
	return s.watch(ctx, tx, taskID)
}
