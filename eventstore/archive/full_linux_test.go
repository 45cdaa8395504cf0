package archive

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/carebus/carebus/eventstore/driver"
)

// TestDiskFull: the archive's disk is full. The run says so, what was there stays whole, and with room it goes on.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("carebus-test", dir, "tmpfs", 0, "size=128k"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	s := newSource(t, file(t), 3)
	s.add(30)
	to := filepath.Join(dir, "archive")
	s.write(to, s.now(), nil)
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 1<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	s.add(300)
	before := s.now()
	if _, err := Write(t.Context(), s.engine, to, before, &Options{FileBytes: 50 << 10}); !errors.Is(err, driver.ErrFull) {
		t.Fatalf("%v; want ErrFull", err)
	}
	if m := whole(t, to, s); m.Events() < 30 || m.Events() >= 330 {
		t.Errorf("%d events while full", m.Events())
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	s.write(to, before, nil)
	whole(t, to, s)
	same(t, "with room again", s.records(before, nil), read(t, to, Query{}))
}
