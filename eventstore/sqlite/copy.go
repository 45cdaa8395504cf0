package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
)

// CopyTo writes the store as it is at one moment to a file that does not exist, readable by its owner only, and returns
// when it is on stable storage. Writers go on meanwhile; their log grows until the copy is through, and is reused then.
func (d *DB) CopyTo(ctx context.Context, path string) (err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // the engine takes an empty file
	if err != nil {
		return err
	}
	defer func() { err = d.readError(errors.Join(err, f.Close())) }()
	// A connection of its own: those of readers may write nothing, not even another file.
	db, err := sql.Open("sqlite", d.dsn())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, path); err != nil {
		return err
	}
	return f.Sync()
}
