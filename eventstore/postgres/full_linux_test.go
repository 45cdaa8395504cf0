package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/storetest"
)

// TestDiskFull: the disk that the tables are on fills up. (Where it is WAL's disk that does, the server ends itself, and
// starts when there is room: that is the case of a server that was killed.)
func TestDiskFull(t *testing.T) {
	server := storetest.NewCluster(t)
	dir, err := os.MkdirTemp("", "carebus-full")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("carebus-test", dir, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("mounting a small file system needs root: %v", err)
	}
	t.Cleanup(func() {
		server.Stop(t) // it holds files open
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	})
	tables, ballast := filepath.Join(dir, "tables"), filepath.Join(dir, "ballast")
	if err := os.Mkdir(tables, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil { // #nosec G302 -- the server is another user
		t.Fatal(err)
	}
	u, err := user.Lookup("postgres") // who runs the server where root starts it
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(tables, uid, -1); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), server.Address)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{fmt.Sprintf("CREATE TABLESPACE small LOCATION '%s'", tables), "CREATE DATABASE small TABLESPACE small"} {
		if _, err := conn.Exec(t.Context(), q); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ballast, make([]byte, 30<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	address, err := url.Parse(server.Address)
	if err != nil {
		t.Fatal(err)
	}
	address.Path = "/small"
	storetest.Full(t, func() (driver.Driver, error) { return postgres.Open(context.Background(), address.String(), nil) }, eventstore.ErrFull, func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	})
}
