package saga_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/saga"
)

// fulfilment is what a prescription's way to the patient carries from step to step.
type fulfilment struct {
	PrescriptionID string `json:"prescriptionId"`
	Covered        bool   `json:"covered"`
}

// The second prescription's claim is refused: what was reserved for it is released.
func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()

	say := func(what string) func(context.Context, bus.Tx, *fulfilment) error {
		return func(_ context.Context, _ bus.Tx, s *fulfilment) error {
			fmt.Println(s.PrescriptionID, what)
			return nil
		}
	}
	claim := func(_ context.Context, _ bus.Tx, s *fulfilment) error {
		if !s.Covered {
			return saga.Refuse("not-covered")
		}
		return nil
	}
	d := saga.Define("example-fulfilment", 1,
		saga.Do("reserve", say("reserved")).Compensate(say("released")),
		saga.Do("claim", claim),
		saga.Do("fill", say("filled")))
	if err := saga.Register(ctx, p, d); err != nil {
		log.Fatal(err)
	}
	running := make(chan error)
	go func() { running <- p.Run(ctx) }()

	for _, s := range []fulfilment{{"RX1", true}, {"RX2", false}} {
		id := "fulfilment-" + s.PrescriptionID
		if err := d.Start(ctx, p.Store(), id, s); err != nil {
			log.Fatal(err)
		}
		for {
			tick := p.Store().Tick()
			x, err := saga.Show(ctx, p.Store(), id)
			if err != nil {
				log.Fatal(err)
			}
			if x.Status.Ended() {
				fmt.Printf("%s %s %q\n", id, x.Status, x.Error)
				break
			}
			if _, err := p.Store().Wait(ctx, tick); err != nil {
				log.Fatal(err)
			}
		}
	}
	stop()
	if err := <-running; err != nil {
		log.Fatal(err)
	}
	// Output:
	// RX1 reserved
	// RX1 filled
	// fulfilment-RX1 completed ""
	// RX2 reserved
	// RX2 released
	// fulfilment-RX2 failed "not-covered"
}
