package kafka_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/bus/kafka"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// A service publishes; another, with a database of its own, handles what comes over Kafka.
func ExampleOpen() {
	ctx, cancel := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "kafka")
	check(err)
	defer os.RemoveAll(dir)
	brokers, err := kfake.NewCluster(kfake.NumBrokers(1)) // a broker in this process; yours is Apache Kafka
	check(err)
	defer brokers.Close()
	service := func(name string) (*eventstore.Store, *bus.Bus, func()) {
		engine, err := sqlite.Open(ctx, filepath.Join(dir, name), nil)
		check(err)
		store := eventstore.New(engine, nil)
		transport, err := kafka.Open(ctx, store, &kafka.Options{Client: []kgo.Opt{kgo.SeedBrokers(brokers.ListenAddrs()...)}})
		check(err)
		b, err := bus.New(ctx, store, &bus.Options{Transport: transport})
		check(err)
		check(b.Handle(transport.RelayGroup(), transport.Relay()...))
		return store, b, func() { transport.Close(); check(store.Close()) }
	}

	clinic, relay, endClinic := service("clinic.db")
	defer endClinic()
	_, pharmacy, endPharmacy := service("pharmacy.db")
	defer endPharmacy()
	arrived := make(chan string)
	check(pharmacy.Handle("counter", bus.OnRecord("medication.**", func(_ context.Context, _ bus.Tx, r eventstore.Record) error {
		arrived <- string(r.Payload)
		return nil
	})))
	ended := make(chan error, 2)
	go func() { ended <- relay.Run(ctx) }()
	go func() { ended <- pharmacy.Run(ctx) }()

	_, err = clinic.Append(ctx, "", eventstore.AnyVersion, event.Event{
		Metadata: event.Metadata{ID: "1", Type: "medication.prescription.created", Source: "clinic", Version: "1.0.0", CorrelationID: "1", Timestamp: 1, PartitionKey: "RX1"},
		Payload:  []byte(`{"prescriptionId":"RX1"}`),
	})
	check(err)
	fmt.Println(<-arrived)
	cancel()
	check(<-ended)
	check(<-ended)
	// Output: {"prescriptionId":"RX1"}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
