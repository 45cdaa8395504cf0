package storetest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/carebus/carebus/eventstore"
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
	switch e := Engine(); e {
	case "sqlite":
		return "sqlite:" + filepath.Join(t.TempDir(), "test.db")
	case "postgres":
		return Postgres(t)
	default:
		t.Fatalf("CAREBUS_TEST_ENGINE is %q; use sqlite or postgres", e)
		return ""
	}
}

// SQLite skips a test of what only SQLite has when the tests run on another engine. why is told.
func SQLite(t testing.TB, why string) {
	t.Helper()
	if Engine() != "sqlite" {
		t.Skipf("only on SQLite: %s", why)
	}
}

// Postgres returns the address of a schema of its own on the server of CAREBUS_TEST_POSTGRES, and skips the test when that
// is not set.
func Postgres(t testing.TB) string {
	t.Helper()
	server := os.Getenv("CAREBUS_TEST_POSTGRES")
	if server == "" {
		t.Skip("CAREBUS_TEST_POSTGRES is not set; start a server with scripts/postgres")
	}
	return Schema(t, server)
}

// Schema returns the address of a schema of its own on a server. It is dropped when the test ends.
func Schema(t testing.TB, server string) string {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal("the address of the PostgreSQL server is not a URL")
	}
	name := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	q := u.Query()
	q.Set("search_path", name)
	u.RawQuery = q.Encode()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := drop(ctx, server, name); err != nil {
			t.Errorf("dropping schema %s: %v", name, err)
		}
	})
	return u.String()
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

// Driver opens the engine of a store that New has named. clock and partitions may be left out: nil, 0.
func Driver(ctx context.Context, name string, partitions int, clock func() time.Time) (driver.Driver, error) {
	if path, ok := strings.CutPrefix(name, "sqlite:"); ok {
		return sqlite.Open(ctx, path, &sqlite.Options{Partitions: partitions, Clock: clock})
	}
	return postgres.Open(ctx, name, &postgres.Options{Partitions: partitions, Clock: clock})
}

// Open opens a store, which is closed when the test ends. Several may be open on one name, as if by several processes.
func Open(t testing.TB, name string, o *eventstore.Options) *eventstore.Store {
	t.Helper()
	d, err := Driver(context.Background(), name, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, o)
	t.Cleanup(func() { _ = s.Close() })
	return s
}
