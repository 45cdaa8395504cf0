// Package migrate moves a whole store from an SQLite file to a PostgreSQL server: the log with its places, times and hash
// chains, and every table that components and services keep beside it: checkpoints, parked keys, sagas, timers, read
// models, jobs.
//
//	report, err := migrate.Run(ctx, "care.db", "postgres://…", nil)
//
// The file is locked for writers meanwhile and is not changed. A copy that was interrupted goes on where it ended; until
// it is finished no program opens the target as a store. At the end both stores are verified, and the last hash of each
// partition, which stands for all its events, must be the same.
package migrate
