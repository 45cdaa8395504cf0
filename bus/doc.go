// Package bus delivers the events of a store to groups of handlers: each group sees every matching event, in order per
// key, and what a handler does through its transaction happens exactly once.
//
//	b, err := bus.New(ctx, store, nil)
//	err = b.Handle("prior-auth", bus.On(medication.PrescriptionCreatedV1,
//	    func(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCreated]) error {
//	        return tx.Append(priorauth.RequestSubmittedV1.New("priorauth-service", request(e)))
//	    }))
//	err = b.Run(ctx)
//
// # Guarantees
//
// Delivery is at least once: a handler may run again for an event whose first run left no trace. Effects made through
// the [Tx] are exactly once: the rows a handler changes, the events it appends and the checkpoint that says it ran
// commit together. Effects made elsewhere (a mail, an HTTP call) are the handler's own affair; [OnCall] gives them an
// intent, an idempotency key and a place to ask for the outcome.
//
// Events with the same partition key are handled in the order they were stored, always: also across retries, parked
// keys, redrives, members that come and go. Nothing is promised across keys.
//
// # Groups, members and leases
//
// A group is a name; every process that calls [Bus.Handle] with it is a member. Members share the partitions. A
// partition belongs to one member at a time, by a lease with a fencing token (epoch) that every commit checks: a member
// that was thought dead and wakes up late cannot commit. A member that dies is replaced within [Options].Lease.
//
// # Failures
//
// An error is a failed [Dependency] (tried again in place for as long as it takes, behind a circuit breaker, nothing is
// parked), [Permanent] (a few tries, then the group's [Policy]), or [Suspect] (processes died on it, twice). The
// default policy parks the key: one row, whatever the number of events that come to wait behind it, while every other
// key goes on. Parked keys are drained by themselves with growing pauses, at once when the handler's [Version] is new,
// and when a person redrives them. A flood of parked keys stops the group instead: see [FloodLimit].
//
// # What a handler may do inside its transaction
//
// Compute, read and write this database through the [Tx], append events. On SQLite all writers of the store wait while
// it does, so it must not wait for anything outside, and it should not take long: the unit is cut after 50 ms of
// handlers and committed, and a handler that overstays [Timeout] counts as a failed dependency. Decoding happens before
// the transaction; outside calls belong in [OnCall], which makes them before it.
//
// On PostgreSQL such transactions take turns too, over all processes: between reading and writing nobody else writes. A group
// that appends nothing and does not rely on that says so by [Concurrent].
//
// Handlers of one batch share one commit. When one of them fails, the batch is undone and run again with a savepoint
// per event, so a handler must not keep state in memory that a second run would spoil.
//
// # The platform's own events
//
// Parking, skipping, releasing, pausing, seeking, replaying and redriving are themselves events, of types platform.*,
// appended in the transaction of the act. Only patterns that name "platform" see them.
package bus
