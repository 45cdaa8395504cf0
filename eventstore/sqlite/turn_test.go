package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/carebus/carebus/eventstore/driver"
)

// TestTurns: while one handle commits back to back, another one gets its turn all the time.
func TestTurns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "turns.db")
	open := func() *DB {
		d, err := Open(context.Background(), path, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	greedy, modest := open(), open()
	write := func(d *DB, rows int) error {
		u := &driver.Unit{Ctx: t.Context(), Run: func(tx driver.Tx) error {
			for range rows {
				if _, err := tx.ExecContext(context.Background(), `INSERT INTO meta (name, value) VALUES ('turn', '1') ON CONFLICT (name) DO UPDATE SET value = value + 1`); err != nil {
					return err
				}
			}
			return nil
		}}
		_, err := d.Commit(t.Context(), []*driver.Unit{u})
		return errors.Join(err, u.Err)
	}
	var greeds atomic.Int64
	stop, done := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := write(greedy, 1000); err != nil {
				done <- err
				return
			}
			greeds.Add(1)
		}
	}()
	const turns = 30
	for range turns {
		if err := write(modest, 1); err != nil {
			t.Fatal(err)
		}
	}
	n := greeds.Load()
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n > 5*turns {
		t.Errorf("the other process committed %d times while this one did %d times; turns are not taken", n, turns)
	}
}

// TestLargeUnits: what a large unit may have to undo goes to a file, what others may stays in memory, whichever came
// before.
func TestLargeUnits(t *testing.T) {
	d, err := Open(t.Context(), filepath.Join(t.TempDir(), "large.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	for _, large := range []bool{false, true, true, false, true, false} {
		var store int
		u := &driver.Unit{Ctx: t.Context(), Large: large, Run: func(tx driver.Tx) error {
			return tx.QueryRowContext(context.Background(), `PRAGMA temp_store`).Scan(&store)
		}}
		if _, err := d.Commit(t.Context(), []*driver.Unit{u}); err != nil || u.Err != nil {
			t.Fatal(err, u.Err)
		}
		if want := map[bool]int{false: 2, true: 0}[large]; store != want {
			t.Errorf("large %t: temp_store is %d, want %d", large, store, want)
		}
	}
}
