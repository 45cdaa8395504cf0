package safety_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/services/safety"
)

func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	defer p.Close()
	if err := safety.Join(ctx, p, safety.Options{}); err != nil {
		panic(err)
	}
	found := make(chan medication.InteractionDetected, 1)
	err = p.Handle("alerts", bus.On(medication.InteractionDetectedV1, func(_ context.Context, _ bus.Tx, e event.Of[medication.InteractionDetected]) error {
		found <- e.Payload
		return nil
	}))
	if err != nil {
		panic(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()

	at := time.Date(2023, 2, 27, 15, 0, 0, 0, time.UTC)
	for _, rx := range []event.Event{prescribed("RX1", "855332", at, nil), prescribed("RX2", "849574", at.AddDate(0, 0, 7), nil)} {
		if _, err := p.Publish(ctx, rx); err != nil {
			panic(err)
		}
	}
	f := <-found
	fmt.Println(*f.PrescriptionID, f.Severity, *f.Description)
	fmt.Println(*f.Recommendation)
	cancel()
	if err := <-done; err != nil {
		panic(err)
	}
	// Output:
	// RX2 high Bleeding, above all of the stomach.
	// Choose another painkiller, or check the INR more often.
}

func ExampleDaysCovered() {
	day := func(month, day int) time.Time { return time.Date(2023, time.Month(month), day, 9, 0, 0, 0, time.UTC) }
	covered, days := safety.DaysCovered([]safety.Fill{{At: day(1, 1), Days: 30}, {At: day(2, 5), Days: 30}}, day(1, 1), day(3, 2))
	fmt.Println(covered, "of", days)
	// Output: 55 of 60
}
