package sqlite_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/drivertest"
	"github.com/carebus/carebus/eventstore/sqlite"
)

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Engine{
		Storage: func(t testing.TB) string { return filepath.Join(t.TempDir(), "suite.db") },
		Open: func(ctx context.Context, path string, o drivertest.Options) (driver.Driver, error) {
			return sqlite.Open(ctx, path, &sqlite.Options{Partitions: o.Partitions, Clock: o.Clock})
		},
	})
}
