package sqlite

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/carebus/carebus/eventstore/driver"
)

var _ driver.Sizer = (*DB)(nil)

// Size returns the lengths of the database ("data") and of its write-ahead log ("wal").
func (d *DB) Size(context.Context) (map[string]int64, error) {
	out := map[string]int64{}
	for part, suffix := range map[string]string{"data": "", "wal": "-wal"} {
		f, err := os.Stat(d.path + suffix)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			out[part] = 0
		case err != nil:
			return nil, mapError(err)
		default:
			out[part] = f.Size()
		}
	}
	return out, nil
}
