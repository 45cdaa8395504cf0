// Package sqlite is the embedded engine of the event store: one file, no server, nothing to install. It needs no C
// compiler. Several processes may share a file on one machine; not over a network file system.
//
//	d, err := sqlite.Open(ctx, "care.db", nil)
//	store := eventstore.New(d, nil)
//
// Every commit is on the disk before it is acknowledged: WAL mode with synchronous=FULL. One connection writes; readers
// have their own and are never held up. The stored format is described in schema.go.
package sqlite
