package scaling_test

import (
	"fmt"
	"time"

	"github.com/carebus/carebus/scaling"
)

// The more wait for a commit, the more share it: with ten times the load an answer takes little longer.
func ExampleSimulate() {
	costs := scaling.Costs{Publish: 30 * time.Microsecond, Group: time.Millisecond, Row: 50 * time.Microsecond, Sync: 2 * time.Millisecond}
	for _, rate := range []float64{500, 5000} {
		r := scaling.Simulate(costs, scaling.Load{EventsPerSecond: rate, Processes: 2, Cores: 8, Apart: true})
		fmt.Printf("%.0f events/s: %.0f events a commit\n", rate, r.PerSecond/r.Commits)
	}
	// Output:
	// 500 events/s: 2 events a commit
	// 5000 events/s: 20 events a commit
}

func ExampleSize() {
	m, err := scaling.Reference()
	if err != nil {
		panic(err)
	}
	costs, err := m.Costs("postgres")
	if err != nil {
		panic(err)
	}
	plan := scaling.Size(costs, scaling.Demand{EventsPerSecond: 500, Services: 12}, m.Broker)
	fmt.Println(plan.Databases, "database,", plan.Brokers, "brokers")
	// Output: 1 database, 0 brokers
}
