// Package care is the care coordination service: plans, the team around a patient, tasks and what was said about them.
//
//	task, err := care.Assign(ctx, p, "T1", care.AssignTask{…})
//	task, err = care.Complete(ctx, p, "T1", care.CompleteTask{…})
//
// Tasks, plans and teams are entities made of their events. A denied prior authorization becomes a task by itself, and
// so does a payer that is late. A task that is not completed in time is stated to be overdue, by a durable timer, while
// the platform runs.
package care
