package migrate_test

import (
	"context"
	"fmt"
	"os"

	"github.com/carebus/carebus/eventstore/migrate"
)

// It needs a server: scripts/postgres starts one.
func ExampleRun() {
	report, err := migrate.Run(context.Background(), "care.db", os.Getenv("CAREBUS_TEST_POSTGRES"), func(stage string, done, total int64) {
		fmt.Println(stage, done, "of", total)
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(report.Events, "events")
}
