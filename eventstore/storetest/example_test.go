package storetest_test

import (
	"fmt"
	"os"

	"github.com/carebus/carebus/eventstore/storetest"
)

func ExampleName() {
	before := os.Getenv("CAREBUS_TEST_ENGINE")
	defer os.Setenv("CAREBUS_TEST_ENGINE", before)
	os.Setenv("CAREBUS_TEST_ENGINE", "sqlite")
	fmt.Println(storetest.Name(nil, "/srv/care.db"))
	// Output: sqlite:/srv/care.db
}
