package portal_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/services/portal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run joins the portal to a new platform and runs it until stop.
func run(dir string) (p *carebus.Platform, stop func()) {
	p, err := carebus.Open(context.Background(), "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	if err := portal.Join(context.Background(), p); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() {
		cancel()
		if err := <-done; err != nil {
			panic(err)
		}
		_ = p.Close()
	}
}

// settled waits until the portal has handled everything.
func settled(p *carebus.Platform) {
	for tick := p.Store().Tick(); ; {
		g, err := p.Bus().Group(context.Background(), portal.Group)
		if err == nil && g.Lag == 0 {
			return
		}
		if tick, err = p.Store().Wait(context.Background(), tick); err != nil {
			panic(err)
		}
	}
}

func status(id string, s medication.PrescriptionStatus, at time.Time) event.Event {
	return medication.PrescriptionStatusChangedV1.New("prescribing-service", medication.PrescriptionStatusChanged{PrescriptionID: id, PatientID: "P1", Status: s}).At(at)
}

// TestNews: each news is told once, a status that patients are not told of is only shown, and late news of the past
// changes nothing.
func TestNews(t *testing.T) {
	p, stop := run(t.TempDir())
	defer stop()
	now := time.Now()
	for _, e := range []event.Event{
		status("RX1", medication.PrescriptionStatusReady, now.Add(-time.Hour)),
		medication.PrescriptionReadyForPickupV1.New("pharmacy-service", medication.PrescriptionReadyForPickup{PrescriptionID: "RX1", PatientID: "P1"}).At(now),
		status("RX1", medication.PrescriptionStatusPendingAuthorization, now.Add(-2*time.Hour)), // late
		status("RX2", medication.PrescriptionStatusOnHold, now.Add(-time.Minute)),
	} {
		if _, err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		settled(p)
	}
	if err := p.Bus().Replay(t.Context(), portal.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	settled(p)
	types, err := p.Store().Types(t.Context())
	if err != nil || types["patient.notification.sent"] != 3 {
		t.Errorf("%v, %v; want three notifications, also after a replay", types, err)
	}
	news, err := portal.StatusOf(t.Context(), p.Store(), "P1")
	if err != nil || len(news) != 2 || news[0].PrescriptionID != "RX1" || news[0].Status != "ready-for-pickup" || news[1].Status != "on-hold" {
		t.Errorf("%+v, %v", news, err)
	}
	if news, err := portal.StatusOf(t.Context(), p.Store(), "P2"); err != nil || len(news) != 0 {
		t.Errorf("a patient without prescriptions: %+v, %v", news, err)
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	p, stop := run(dir)
	defer stop()
	ctx := context.Background()
	if _, err := p.Publish(ctx, status("RX12345678", medication.PrescriptionStatusReady, time.Now())); err != nil {
		panic(err)
	}
	settled(p)
	news, err := portal.StatusOf(ctx, p.Store(), "P1")
	if err != nil {
		panic(err)
	}
	fmt.Println(news[0].PrescriptionID, "is", news[0].Status)
	// Output: RX12345678 is ready
}
