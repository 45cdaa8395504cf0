package storetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// Engine is the engine that tests run on: "sqlite" or "postgres".
func Engine() string {
	if e := os.Getenv("CAREBUS_TEST_ENGINE"); e != "" {
		return e
	}
	return "sqlite"
}

// New returns the name of a store that does not exist yet, "sqlite:PATH" or "postgres://…", on the engine of the tests.
func New(t testing.TB) string {
	t.Helper()
	return Name(t, filepath.Join(t.TempDir(), "test.db"))
}

// Name returns the name of the store at path on the engine of the tests: on a server a schema stands for the path, the
// same one for the same path in every process. It is removed when the test ends; t is nil in a process that a test has
// started.
func Name(t testing.TB, path string) string {
	switch e := Engine(); e {
	case "sqlite":
		return "sqlite:" + path
	case "postgres":
		server := os.Getenv("CAREBUS_TEST_POSTGRES")
		if server == "" {
			panic("CAREBUS_TEST_ENGINE is postgres and CAREBUS_TEST_POSTGRES is not set; start a server with scripts/postgres")
		}
		sum := sha256.Sum256([]byte(path))
		name := "test_" + hex.EncodeToString(sum[:12])
		if _, seen := dropped.LoadOrStore(name, true); !seen && t != nil {
			dropLater(t, server, name)
		}
		return within(server, name)
	default:
		panic(fmt.Sprintf("CAREBUS_TEST_ENGINE is %q; use sqlite or postgres", e))
	}
}

// dropped are the schemas of paths that a test will drop: the first one that has named the path.
var dropped sync.Map

// Postgres returns the address of a schema of its own on the server of CAREBUS_TEST_POSTGRES, and skips the test when that
// is not set.
func Postgres(t testing.TB) string {
	t.Helper()
	return Schema(t, server(t))
}

// server is the one that the environment names; without one the test is skipped.
func server(t testing.TB) string {
	t.Helper()
	s := os.Getenv("CAREBUS_TEST_POSTGRES")
	if s == "" {
		t.Skip("CAREBUS_TEST_POSTGRES is not set; start a server with scripts/postgres")
	}
	return s
}

// Schema returns the address of a schema of its own on a server. It is dropped when the test ends.
func Schema(t testing.TB, server string) string {
	t.Helper()
	name := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	dropLater(t, server, name)
	return within(server, name)
}

// within is the address of a schema on a server.
func within(server, schema string) string {
	u, err := url.Parse(server)
	if err != nil {
		panic("the address of the PostgreSQL server is not a URL")
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func dropLater(t testing.TB, server, schema string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := drop(ctx, server, schema); err != nil {
			t.Errorf("dropping schema %s: %v", schema, err)
		}
	})
}

func drop(ctx context.Context, server, schema string) error {
	c, err := pgx.Connect(ctx, server)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close(ctx) }()
	_, err = c.Exec(ctx, fmt.Sprintf(`DROP SCHEMA IF EXISTS %s CASCADE`, pgx.Identifier{schema}.Sanitize()))
	return err
}

// Settle waits for what processes that were killed have sent to a server before: it carries out a commit whose client is
// gone. update is the store's Update; a transaction begins only after that one has ended.
func Settle[T any](t testing.TB, update func(ctx context.Context, fn func(tx T) error) error) {
	t.Helper()
	if err := update(context.Background(), func(T) error { return nil }); err != nil {
		t.Fatal(err)
	}
}

// Driver opens the engine of the store at path, as Name names it. Partitions 0 and a nil clock are the engine's own.
func Driver(t testing.TB, path string, partitions int, clock func() time.Time) (driver.Driver, error) {
	name := Name(t, path)
	if path, ok := strings.CutPrefix(name, "sqlite:"); ok {
		return sqlite.Open(context.Background(), path, &sqlite.Options{Partitions: partitions, Clock: clock})
	}
	return postgres.Open(context.Background(), name, &postgres.Options{Partitions: partitions, Clock: clock})
}
