package kafka_test

import (
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/carebus/carebus/bus"
)

// TestAway: while no broker can be reached, groups are shown all the same, with what only the brokers know marked as unknown, and
// can be paused.
func TestAway(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	closed := sync.OnceFunc(cluster.Close)
	t.Cleanup(closed)
	s := newService(t, cluster.ListenAddrs(), options(cluster.ListenAddrs(), prefix()))
	s.book()
	s.handle("reads", bus.On(thingDoneV1, enter))
	s.handle("own", bus.On(thingDoneV1, enter), bus.FromStore())
	s.run()
	s.publish(made("k", 1))
	s.until(func() bool { return s.entered("reads")["k"] == 1 && s.entered("own")["k"] == 1 })
	if g, err := s.bus.Group(t.Context(), "reads"); err != nil || g.LagUnknown {
		t.Fatalf("%+v, %v", g, err)
	}
	closed()
	if err := s.bus.Pause(t.Context(), "reads", bus.Act{Reason: "the broker is away"}); err != nil {
		t.Fatal(err)
	}
	groups, err := s.bus.Groups(t.Context())
	if err != nil || len(groups) != 3 {
		t.Fatalf("%+v, %v", groups, err)
	}
	for _, g := range groups {
		if g.LagUnknown != (g.Name == "reads") || g.Name == "reads" && (g.State != "paused" || len(g.Partitions) != s.store.Partitions()) {
			t.Errorf("%+v", g)
		}
	}
	all, err := s.bus.Summary(t.Context())
	if err != nil || len(all) != 3 {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, g := range all {
		if g.LagUnknown != (g.Name == "reads") {
			t.Errorf("%+v", g)
		}
	}
}
