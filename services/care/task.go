package care

import (
	"context"
	"fmt"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Source is the eventSource of the service, and Group the name of its consumer group.
const (
	Source = "care-coordination-service"
	Group  = "care-coordination"
)

// Task is something that somebody has to do for a patient.
type Task struct {
	care.TaskAssigned

	Completed   *care.TaskCompleted `json:"completed,omitempty"`
	Overdue     bool                `json:"overdue,omitempty"` // its due time has passed, and that was noticed
	Version     int64               `json:"version"`           // events that this state understands
	LastUpdated int64               `json:"lastUpdated"`       // timestamp of the last of them, epoch milliseconds
}

// Tasks is the task as an aggregate: streams "care.task/ID".
var Tasks = aggregate.Define("care.task",
	aggregate.On(care.TaskAssignedV1, func(t *Task, e event.Of[care.TaskAssigned]) {
		t.TaskAssigned, t.Overdue = e.Payload, false
		t.touch(e.Metadata)
	}),
	aggregate.On(care.TaskCompletedV1, func(t *Task, e event.Of[care.TaskCompleted]) {
		t.Completed = &e.Payload
		t.touch(e.Metadata)
	}),
	aggregate.On(care.TaskOverdueV1, func(t *Task, e event.Of[care.TaskOverdue]) {
		t.Overdue = true
		t.touch(e.Metadata)
	}),
)

func (t *Task) touch(m event.Metadata) {
	t.Version++
	t.LastUpdated = m.Timestamp
}

// RefusedError says why a command cannot be carried out. It quotes no value of a record.
type RefusedError struct {
	Command string // "complete-task"
	Rule    string // stable: "exists", "value", "completed"
	Message string
	Remedy  string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("care: %s refused: %s [%s]; %s", e.Command, e.Message, e.Rule, e.Remedy)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// AssignTask gives a task to somebody, or to somebody else. TaskID, AssignedAt and PreviousAssignee are filled in.
type AssignTask struct{ care.TaskAssigned }

// Assign carries out an AssignTask. A task that is completed is not assigned again.
func Assign(ctx context.Context, l aggregate.Log, taskID string, c AssignTask, opts ...aggregate.UpdateOption) (aggregate.Loaded[Task], error) {
	return Tasks.Update(ctx, l, taskID, c.decide(taskID, now()), opts...)
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func (c AssignTask) decide(id string, at time.Time) aggregate.Decide[Task] {
	return func(t Task) ([]event.Event, error) {
		p := c.TaskAssigned
		switch {
		case text(p.Assignee.ID) == "" && text(p.Assignee.Name) == "":
			return nil, &RefusedError{"assign-task", "value", "nobody is named to do it", "give the assignee's id or name"}
		case t.Completed != nil:
			return nil, &RefusedError{"assign-task", "completed", "the task is completed", "make a new task"}
		}
		p.TaskID = id
		if p.AssignedAt.IsZero() {
			p.AssignedAt = at
		}
		if t.Version > 0 {
			if text(t.Assignee.ID) == text(p.Assignee.ID) && text(t.Assignee.Name) == text(p.Assignee.Name) && (p.DueAt.IsZero() || p.DueAt.Equal(t.DueAt)) {
				return nil, nil
			}
			p = t.reassigned(p)
		}
		return []event.Event{care.TaskAssignedV1.New(Source, p)}, nil
	}
}

// reassigned is the task with a new assignee, and what the command says otherwise.
func (t Task) reassigned(p care.TaskAssigned) care.TaskAssigned {
	out := t.TaskAssigned
	previous := t.Assignee
	out.PreviousAssignee, out.Assignee, out.AssignedAt, out.AssignedBy = &previous, p.Assignee, p.AssignedAt, p.AssignedBy
	if !p.DueAt.IsZero() {
		out.DueAt = p.DueAt
	}
	return out
}

// CompleteTask says that a task is done. TaskID, PatientID, Title and CompletedAt are filled in.
type CompleteTask struct{ care.TaskCompleted }

// Complete carries out a CompleteTask. Completing twice changes nothing.
func Complete(ctx context.Context, l aggregate.Log, taskID string, c CompleteTask, opts ...aggregate.UpdateOption) (aggregate.Loaded[Task], error) {
	at := now()
	return Tasks.Update(ctx, l, taskID, func(t Task) ([]event.Event, error) {
		switch {
		case t.Version == 0:
			return nil, &RefusedError{"complete-task", "exists", "there is no task with this id", "look up its id"}
		case t.Completed != nil:
			return nil, nil
		}
		p := c.TaskCompleted
		p.TaskID, p.PatientID, p.Title, p.CarePlanID = taskID, t.PatientID, t.Title, t.CarePlanID
		if p.CompletedAt.IsZero() {
			p.CompletedAt = at
		}
		return []event.Event{care.TaskCompletedV1.New(Source, p)}, nil
	}, opts...)
}

// OpenTask is what a list of work shows.
type OpenTask struct {
	TaskID    string    `json:"taskId"`
	PatientID string    `json:"patientId"`
	Title     string    `json:"title"`
	Assignee  string    `json:"assignee"`
	DueAt     time.Time `json:"dueAt,omitzero"`
	Overdue   bool      `json:"overdue"`
}

// TasksOf lists the open tasks of somebody, the most urgent first. Its texts may be protected.
func TasksOf(ctx context.Context, s *eventstore.Store, assigneeID string, limit int) ([]OpenTask, error) {
	return open(ctx, s, `state <> 'completed' AND assignee = $1 ORDER BY CASE WHEN due_at = 0 THEN 1 ELSE 0 END, due_at, task_id LIMIT $2`, assigneeID, limit)
}

func open(ctx context.Context, s *eventstore.Store, where string, args ...any) ([]OpenTask, error) {
	out := []OpenTask{}
	err := s.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT task_id, patient_id, title, assignee, due_at, state FROM care_tasks WHERE `+where, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var t OpenTask
			var due int64
			var state string
			if err := rows.Scan(&t.TaskID, &t.PatientID, &t.Title, &t.Assignee, &due, &state); err != nil {
				return err
			}
			if due > 0 {
				t.DueAt = time.UnixMilli(due).UTC()
			}
			t.Overdue = state == "overdue"
			out = append(out, t)
		}
		return rows.Err()
	})
	return out, err
}
