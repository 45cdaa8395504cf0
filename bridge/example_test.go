package bridge_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bridge"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Two hospitals, each with its own store, and a topic between them.
func Example() {
	ctx, stop := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "")
	check(err)
	defer os.RemoveAll(dir)
	kafka, err := kfake.NewCluster(kfake.NumBrokers(1))
	check(err)
	defer kafka.Close()
	o := &bridge.Options{Client: []kgo.Opt{kgo.SeedBrokers(kafka.ListenAddrs()...)}, CreateTopics: true}

	here, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "here.db"), nil)
	check(err)
	out, err := bridge.Open(ctx, here, "partner", o)
	check(err)
	check(out.Out(bridge.Out{Patterns: []string{"patient.*"}, Topic: "hospitals.{domain}"}))

	there, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "there.db"), nil)
	check(err)
	arrived := make(chan string, 1)
	check(there.Handle("desk", bus.OnForward("patient.enrolled", func(_ context.Context, r eventstore.Record) error {
		arrived <- r.ID
		return nil
	})))
	in, err := bridge.Open(ctx, there, "partner", o)
	check(err)

	ended := make(chan error, 3)
	go func() { ended <- here.Run(ctx) }()
	go func() { ended <- there.Run(ctx) }()
	go func() { ended <- in.In(ctx, bridge.In{Topics: []string{"hospitals.patient"}}) }()

	_, err = here.Publish(ctx, event.Event{
		Metadata: event.Metadata{ID: "enrolment-1", Type: "patient.enrolled", Source: "patient-service", Version: "1.0.0"},
		Payload:  []byte(`{"patientId":"P1","enrollmentId":"E1","program":{"name":"Adherence"}}`),
	})
	check(err)
	fmt.Println(<-arrived)

	stop()
	for range 3 {
		check(<-ended)
	}
	out.Close()
	in.Close()
	check(here.Close())
	check(there.Close())
	// Output: enrolment-1
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
