// Package timer publishes events at a time to come: a reminder, a deadline, a follow-up call in two weeks.
//
//	timers, err := timer.Open(ctx, store, nil)
//	err = timers.Set(ctx, "follow-up/P1", time.Now().AddDate(0, 0, 14), followUpDueV1.New("care-service", due))
//	_, err = timers.Cancel(ctx, "follow-up/P1")
//	err = timers.Run(ctx) // beside the bus's
//
// A timer is a row. [Timers.SetTx] and [Timers.CancelTx] make it part of a handler's transaction: the timer is there if
// and only if the handler's other effects are. When it is due, one of the processes that run [Timers.Run] appends its
// event and deletes the row in one transaction: the event is published once, whoever dies meanwhile, and never before
// its time by the clock that the processes of the store share. It is late by up to [Options].Every, and by however long
// no process was running.
//
// An event keeps the correlation and the cause of the moment when its timer was set; its timestamp is when it fired.
package timer
