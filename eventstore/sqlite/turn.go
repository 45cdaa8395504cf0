package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/carebus/carebus/eventstore/driver"
)

// turn makes processes that write to one store take turns. SQLite's own lock is not fair: a process that commits back to
// back takes it again before a waiting one has looked, and the waiting one may starve for seconds, lose its leases and
// be taken for dead. So a writer first takes the lock of a file beside the store, and keeps it until its transaction has
// begun: while one waits for the transaction under way to end, nobody else can begin.
type turn struct {
	file    *os.File
	timeout time.Duration
}

var errTurn = fmt.Errorf("%w: another process has not let go of the store", driver.ErrUnavailable)

func openTurn(path string, timeout time.Duration) (*turn, error) {
	f, err := os.OpenFile(path+"-turn", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &turn{f, timeout}, nil
}

// begin calls start, in turn, until it does not find the store locked, ctx ends, or the timeout is over; the last error
// is returned then.
func (t *turn) begin(ctx context.Context, start func() error) error {
	deadline := time.Now().Add(t.timeout)
	err := retry(ctx, deadline, func() (bool, error) { return tryLock(t.file) })
	if err != nil {
		return err
	}
	defer unlock(t.file)
	return retry(ctx, deadline, func() (bool, error) {
		err := start()
		var e *sqlite.Error
		if errors.As(err, &e) && e.Code()&0xff == sqlite3.SQLITE_BUSY {
			return false, err
		}
		return true, err
	})
}

// retry calls try until it is done, with pauses that grow to a millisecond: another process's turn ends soon.
func retry(ctx context.Context, deadline time.Time, try func() (done bool, err error)) error {
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, time.Millisecond) {
		done, err := try()
		switch {
		case done:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Now().After(deadline):
			if err == nil {
				err = errTurn
			}
			return err
		}
		time.Sleep(pause)
	}
}

func (t *turn) close() error { return t.file.Close() }
