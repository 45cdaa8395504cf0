// Package care is the care coordination service: plans, the team around a patient, tasks and what was said about them.
//
//	task, err := care.Assign(ctx, p, "T1", care.AssignTask{…})
//	task, err = care.Complete(ctx, p, "T1", care.CompleteTask{…})
//	n, err := care.NoticeOverdue(ctx, p, time.Now(), 100)
//
// Tasks, plans and teams are entities made of their events. A denied prior authorization becomes a task by itself.
package care
