package sqlite_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// TestDiskFull: the disk fills up under 16 writers. They get an error that says so, reads go on, what was acknowledged is
// there, and when there is room again the refused appends succeed, on the open store and on one opened anew.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("carebus-test", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 56<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	runFull(t, filepath.Join(dir, "full.db"), eventstore.ErrFull, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "the rest"), make([]byte, 80<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	if _, err := sqlite.Open(t.Context(), filepath.Join(dir, "no-room.db"), nil); !errors.Is(err, eventstore.ErrFull) {
		t.Errorf("creating a store on a full disk: %v, want ErrFull", err)
	}
}

// TestFileTooLarge: as TestDiskFull, but the system refuses to let files grow, which the engine sees as a failing disk.
// It needs no rights. It must not run beside other tests, whose files are held to the same limit.
func TestFileTooLarge(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ) // the write fails with EFBIG instead
	defer signal.Reset(syscall.SIGXFSZ)
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	set := func(n uint64) {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: before.Max}); err != nil {
			t.Fatal(err)
		}
	}
	defer set(before.Cur)
	set(1 << 20)
	runFull(t, filepath.Join(t.TempDir(), "limit.db"), eventstore.ErrUnavailable, func() { set(before.Cur) })
}

func runFull(t *testing.T, path string, want error, makeRoom func()) {
	t.Helper()
	d, err := sqlite.Open(context.Background(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, nil)
	defer s.Close()
	if err := s.Migrate(t.Context(), "full", `CREATE TABLE effects (id TEXT PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	// put is an append, or a transaction that appends and writes a row; the id says which.
	put := func(s *eventstore.Store, i, n int) error {
		key := fmt.Sprint("k", i)
		e := made(fmt.Sprintf("%s-%d", key, n), key)
		if i%2 == 0 {
			_, err := s.Append(context.Background(), key, int64(n-1), e)
			return err
		}
		return s.Update(context.Background(), func(tx *eventstore.Tx) error {
			if _, err := tx.ExecContext(context.Background(), `INSERT INTO effects (id) VALUES ($1)`, e.ID); err != nil {
				return err
			}
			_, err := tx.Append(context.Background(), key, int64(n-1), e)
			return err
		})
	}
	const writers = 16
	acked := make([]int, writers)
	refusals := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for refused := 0; refused < 5; { // it keeps asking, as services do
				if err := put(s, i, acked[i]+1); err != nil {
					refused++
					refusals[i] = err
					continue
				}
				acked[i]++
			}
		})
	}
	wg.Wait()
	for i, err := range refusals {
		if !errors.Is(err, want) {
			t.Errorf("writer %d was refused with %v, want %v", i, err, want)
		}
	}
	check := func(s *eventstore.Store, when string) {
		t.Helper()
		var total, effects int
		for i, n := range acked {
			total += n
			v, err := s.StreamVersion(t.Context(), fmt.Sprint("k", i))
			if err != nil || v != int64(n) {
				t.Errorf("%s: stream k%d has %d events, %v; acknowledged were %d", when, i, v, err, n)
			}
			if i%2 == 1 {
				effects += n
			}
		}
		var rows int
		err := s.View(t.Context(), func(q eventstore.Querier) error {
			return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM effects`).Scan(&rows)
		})
		if err != nil || rows != effects {
			t.Errorf("%s: %d effects, %v; want %d", when, rows, err, effects)
		}
		if n := verified(t, s); n != int64(total) || n == 0 {
			t.Errorf("%s: verify saw %d events, acknowledged were %d", when, n, total)
		}
	}
	check(s, "while full")
	makeRoom()
	more := func(s *eventstore.Store, when string) {
		t.Helper()
		for i := range writers {
			for range 20 {
				if err := put(s, i, acked[i]+1); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				acked[i]++
			}
		}
		check(s, when)
	}
	more(s, "with room again")
	if err := s.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	more(open(t, path, nil), "opened again")
	t.Logf("%v acknowledged; refused with: %v", acked, refusals[0])
}
