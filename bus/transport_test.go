package bus_test

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/bus/kafka"
	"github.com/carebus/carebus/eventstore"
)

// With CAREBUS_TEST_BUS=kafka the tests of this package run with Kafka as the bus: on the brokers of CAREBUS_TEST_KAFKA, or on
// one in this process.
var overKafka = os.Getenv("CAREBUS_TEST_BUS") == "kafka"

// brokers are started once.
var brokers = sync.OnceValues(func() ([]string, error) {
	if seeds := os.Getenv("CAREBUS_TEST_KAFKA"); seeds != "" {
		return strings.Split(seeds, ","), nil
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		return nil, err
	}
	closeBrokers = c.Close
	return c.ListenAddrs(), nil
})

var closeBrokers = func() {}

// run names what this run of the tests makes on the brokers.
var run = cmp.Or(os.Getenv("CAREBUS_BUS_RUN"), strconv.Itoa(os.Getpid()))

// openBus opens a bus as the tests are to have it. end is called when it has ended.
func openBus(ctx context.Context, s *eventstore.Store, o *bus.Options) (b *bus.Bus, end func(), err error) {
	if !overKafka {
		b, err := bus.New(ctx, s, o)
		return b, func() {}, err
	}
	seeds, err := brokers()
	if err != nil {
		return nil, nil, err
	}
	h := fnv.New64a()
	fmt.Fprint(h, s.Info().Location, run)
	tr, err := kafka.Open(ctx, s, &kafka.Options{
		Client: []kgo.Opt{kgo.SeedBrokers(seeds...)}, Prefix: fmt.Sprintf("t%x.", h.Sum64()), Session: 6 * time.Second,
	})
	if err != nil {
		return nil, nil, err
	}
	set := bus.Options{}
	if o != nil {
		set = *o
	}
	set.Transport = tr
	if b, err = bus.New(ctx, s, &set); err != nil {
		return nil, nil, err
	}
	return b, tr.Close, b.Handle(tr.RelayGroup(), tr.Relay()...)
}
