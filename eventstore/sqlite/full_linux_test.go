package sqlite_test

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/sqlite"
	"github.com/carebus/carebus/eventstore/storetest"
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
	storetest.Full(t, opener(filepath.Join(dir, "full.db")), eventstore.ErrFull, func() {
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
	storetest.Full(t, opener(filepath.Join(t.TempDir(), "limit.db")), eventstore.ErrUnavailable, func() { set(before.Cur) })
}

func opener(path string) func() (driver.Driver, error) {
	return func() (driver.Driver, error) { return sqlite.Open(context.Background(), path, nil) }
}
