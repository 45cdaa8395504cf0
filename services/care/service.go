package care

import (
	"context"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
)

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	aggregate.Log
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

// Join makes this process a member of the service. It reacts to
//
//	priorauth.status.denied                 somebody has to talk about an appeal, or another therapy
//	care.task.assigned, .completed, .overdue   the lists of work
func Join(ctx context.Context, p Platform, o Options) error {
	if o.Coordinator == "" {
		o.Coordinator = "care-coordinator"
	}
	if o.Within <= 0 {
		o.Within = 48 * time.Hour
	}
	if err := p.Store().Migrate(ctx, Source, tables); err != nil {
		return err
	}
	return p.Handle(Group, append([]bus.Option{
		bus.On(priorauth.StatusDeniedV1, func(ctx context.Context, tx bus.Tx, e event.Of[priorauth.StatusDenied]) error {
			d, id := e.Payload, "TASK-"+e.Payload.PriorAuthID
			title := "Talk about an appeal or another therapy"
			c := AssignTask{care.TaskAssigned{
				PatientID: &d.PatientID, Title: &title, Assignee: care.Party{ID: &o.Coordinator}, DueAt: tx.Now().Add(o.Within), Priority: care.TaskPriorityUrgent,
				PriorAuthID: &d.PriorAuthID, PrescriptionID: d.PrescriptionID,
			}}
			_, err := Tasks.UpdateTx(ctx, tx, p, id, func(t Task) ([]event.Event, error) {
				if t.Version > 0 {
					return nil, nil // there is a task for it, whatever became of it
				}
				return c.decide(id, tx.Now())(t)
			}, aggregate.Once(e.ID))
			return err
		}),
		bus.On(care.TaskAssignedV1, func(_ context.Context, tx bus.Tx, e event.Of[care.TaskAssigned]) error {
			t, due := e.Payload, int64(0)
			if !t.DueAt.IsZero() {
				due = t.DueAt.UnixMilli()
			}
			assignee := text(t.Assignee.ID)
			if assignee == "" {
				assignee = text(t.Assignee.Name)
			}
			_, err := tx.Exec(`INSERT INTO care_tasks (task_id, patient_id, title, assignee, due_at, state) VALUES ($1, $2, $3, $4, $5, 'open')
				ON CONFLICT (task_id) DO UPDATE SET assignee = excluded.assignee, due_at = excluded.due_at, state = 'open'`, t.TaskID, text(t.PatientID), text(t.Title), assignee, due)
			return err
		}),
		bus.On(care.TaskCompletedV1, func(_ context.Context, tx bus.Tx, e event.Of[care.TaskCompleted]) error {
			return state(tx, e.Payload.TaskID, "completed")
		}),
		bus.On(care.TaskOverdueV1, func(_ context.Context, tx bus.Tx, e event.Of[care.TaskOverdue]) error {
			return state(tx, e.Payload.TaskID, "overdue")
		}),
	}, o.Group...)...)
}

func state(tx bus.Tx, taskID, state string) error {
	_, err := tx.Exec(`UPDATE care_tasks SET state = $1 WHERE task_id = $2`, state, taskID)
	return err
}
