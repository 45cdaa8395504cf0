// Package postgres is the server engine of the event store: several processes, on several hosts, share a PostgreSQL
// database (version 14 or later).
//
//	d, err := postgres.Open(ctx, "postgres://user:password@db.example/care", nil)
//	store := eventstore.New(d, nil)
//
// # One writer at a time
//
// Every commit of every process holds one lock from its beginning to its end (a transaction-level advisory lock, first
// come, first served). It is what makes offsets gapless and visible in order: no transaction can take an offset while
// another has one that is not visible yet, and PostgreSQL lets the lock go only after the commit is durable and visible.
// It is also what components rely on: between reading a row in a transaction and writing it nobody else writes.
//
// A lock per partition would promise more and hold less: a group commit of any size touches all partitions, so that
// groups would wait for each other all the same; a handler's transaction appends to partitions that nobody knows before,
// in any order, which is how deadlocks are made; and every read-then-write of every component would need locks of its
// own. What counts for throughput is how little is done while the lock is held: events are checked, hashed, compressed
// and grouped outside of it, a group is one round trip to begin and one to insert and commit, and all that wait share it.
//
// Transactions that append nothing and rely on nobody's absence go beside it, each on a connection of its own (concurrent.go).
//
// # When things fail
//
//  1. A connection that is lost before the first unit of a group has run is made again, and the group waits, up to
//     Options.BusyTimeout: a restart of the server is a pause.
//  2. A group that has only appends is carried out again when its transaction is known to have left nothing.
//  3. A connection that is lost in COMMIT leaves its outcome open. The lock tells when the transaction has ended, in one
//     way or the other; then the first event of the group, or a token where it has none, is there or it is not.
//  4. A process that stops in the middle of a transaction holds up everybody. The server ends its session after
//     Options.IdleTimeout, which is shorter than a lease; when the process wakes up its transaction is gone.
//
// Notifications wake readers; a poll finds what a lost notification did not tell. docs/postgres.md is the operator's page;
// the stored format is described in schema.go.
package postgres
