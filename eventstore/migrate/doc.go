// Package migrate moves a whole store to another place: the log with its times and hash chains, and every table that
// components and services keep beside it: checkpoints, parked keys, sagas, timers, read models, jobs. From an SQLite file
// to a file or a PostgreSQL server; from a server to a server.
//
//	report, err := migrate.Run(ctx, "sqlite:care.db", "postgres://…", nil)
//	report, err := migrate.Run(ctx, "sqlite:care.db", "sqlite:wide.db", &migrate.Options{Partitions: 24})
//
// The source is locked for writers meanwhile and is not changed. A copy that was interrupted goes on where it ended; until
// it is finished no program opens the target as a store. At the end both stores are verified. With the same number of
// partitions the places of events stay, and the last hash of each partition, which stands for all its events, must be the
// same.
//
// With another number of partitions the events are laid out anew, in the order in which they were recorded. What stays:
// the order of every key and of every history, ids, versions, times. What is new: partitions and offsets, and so the hash
// chains. Checkpoints and parked keys are carried over exactly, so that what was handled stays handled and what was not is
// still to come; see layout for how, and for when that cannot be (ErrBusy). Every key is compared on both ends: as many
// events, in the same order. Tables of services that hold partitions or offsets of their own are copied as they are: keep
// event ids in them instead.
package migrate
