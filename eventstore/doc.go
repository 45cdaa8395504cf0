// Package eventstore keeps events: durable, in order, for ever.
//
// An event is appended to a partition (chosen by its partition key) and, when it belongs to the history of an entity, to
// a stream. Offsets in a partition and versions in a stream have no gaps. [Store.Append] returns when the events are on
// stable storage. Nothing changes or removes an event.
//
//	d, err := sqlite.Open(ctx, "care.db", nil)
//	s := eventstore.New(d, nil)
//	defer s.Close()
//	receipts, err := s.Append(ctx, "patient.record/P1", eventstore.NoStream, created)
//
// # Appending
//
// All events of one Append are stored, or none. The version that the caller has seen is checked: a mismatch is
// [ErrConflict] with the actual version. The same event id again gives the first receipt, marked as a duplicate; the
// same id with another content is [ErrDifferentContent].
//
// # Group commit
//
// Callers hand their appends and transactions to one sequencer, which carries out all that wait in one durable
// transaction and then answers all: many callers share one fsync, and a single caller waits for nobody. The queue is
// bounded; when it is full callers wait until their context ends ([ErrBackPressure]).
//
// # Transactions
//
// [Store.Update] runs a function inside such a commit. It may append events and change tables of the same database, all
// or nothing. While it runs every other writer waits, so it must not wait for anything outside.
package eventstore
