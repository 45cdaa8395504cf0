package postgres_test

import (
	"context"
	"testing"

	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/drivertest"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Postgres(t) // skips
	drivertest.Run(t, drivertest.Engine{
		Storage: storetest.Postgres,
		Open: func(ctx context.Context, address string, o drivertest.Options) (driver.Driver, error) {
			return postgres.Open(ctx, address, &postgres.Options{Partitions: o.Partitions, Clock: o.Clock})
		},
	})
}
