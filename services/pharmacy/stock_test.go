package pharmacy_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/pharmacy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(dir string) *carebus.Platform {
	p, err := carebus.Open(context.Background(), "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	return p
}

const ndc = "12345-6789-10"

func TestStock(t *testing.T) {
	p := openAt(t.TempDir())
	defer p.Close()
	step := func(c pharmacy.Command, onHand, available float64) {
		t.Helper()
		got, err := pharmacy.Do(t.Context(), p, "PH1", ndc, c)
		if err != nil || got.State.OnHand != onHand || got.State.Available() != available {
			t.Fatalf("%T: %+v, %v; want %g on hand, %g available", c, got.State, err, onHand, available)
		}
	}
	refused := func(c pharmacy.Command, rule string) {
		t.Helper()
		_, err := pharmacy.Do(t.Context(), p, "PH1", ndc, c)
		var re *pharmacy.RefusedError
		if !errors.As(err, &re) || re.Rule != rule || re.Remedy == "" {
			t.Errorf("%T: %v, want it refused by the rule %q", c, err, rule)
		}
	}
	refused(pharmacy.Reserve{ID: "RX1", Quantity: 1}, "stock")
	refused(pharmacy.Receive{}, "value")
	step(pharmacy.Receive{Quantity: 100}, 100, 100)
	step(pharmacy.Reserve{ID: "RX1", Quantity: 30}, 100, 70)
	step(pharmacy.Reserve{ID: "RX1", Quantity: 30}, 100, 70)
	refused(pharmacy.Reserve{ID: "RX1", Quantity: 31}, "reservation")
	refused(pharmacy.Reserve{ID: "RX2", Quantity: 71}, "stock")
	refused(pharmacy.Reserve{ID: "RX2"}, "value")
	step(pharmacy.Reserve{ID: "RX2", Quantity: 70}, 100, 0)
	refused(pharmacy.WriteOff{Quantity: 1, Reason: medication.InventoryAdjustedReasonDamaged}, "stock")
	step(pharmacy.Release{ID: "RX2", Reason: medication.InventoryReleasedReasonCompensation}, 100, 70)
	step(pharmacy.Release{ID: "RX2"}, 100, 70)
	refused(pharmacy.Dispense{ID: "RX2"}, "reservation")
	step(pharmacy.Dispense{ID: "RX1"}, 70, 70)
	step(pharmacy.Dispense{ID: "RX1"}, 70, 70)
	step(pharmacy.Reserve{ID: "RX1", Quantity: 30}, 70, 70) // said again, late
	step(pharmacy.Release{ID: "RX1"}, 70, 70)
	step(pharmacy.Return{ID: "RX1"}, 100, 100)
	refused(pharmacy.Return{ID: "RX1"}, "reservation")
	refused(pharmacy.HandOver{ID: "RX1"}, "reservation")
	step(pharmacy.Reserve{ID: "RX3", Quantity: 10}, 100, 90)
	step(pharmacy.Dispense{ID: "RX3"}, 90, 90)
	step(pharmacy.HandOver{ID: "RX3", PatientID: "P1"}, 90, 90)
	refused(pharmacy.HandOver{ID: "RX3", PatientID: "P1"}, "reservation")
	refused(pharmacy.Return{ID: "RX3"}, "reservation")
	step(pharmacy.Receive{Quantity: 10}, 100, 100)
	refused(pharmacy.WriteOff{Quantity: 1, Reason: "eaten"}, "value")
	step(pharmacy.WriteOff{Quantity: 5, Reason: medication.InventoryAdjustedReasonExpired}, 95, 95)
}

// TestNobodyOversells: 20 pharmacists reserve and dispense at once; no more goes out than came in.
func TestNobodyOversells(t *testing.T) {
	p := openAt(t.TempDir())
	defer p.Close()
	if _, err := pharmacy.Do(t.Context(), p, "PH1", ndc, pharmacy.Receive{Quantity: 100}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var out atomic.Int64
	for i := range 20 {
		wg.Go(func() {
			for j := range 4 {
				id := fmt.Sprint("RX", i, "-", j)
				_, err := pharmacy.Do(context.Background(), p, "PH1", ndc, pharmacy.Reserve{ID: id, Quantity: 3})
				var re *pharmacy.RefusedError
				if errors.As(err, &re) && re.Rule == "stock" {
					continue
				}
				if err == nil {
					_, err = pharmacy.Do(context.Background(), p, "PH1", ndc, pharmacy.Dispense{ID: id})
				}
				if err != nil {
					t.Error(err)
					return
				}
				out.Add(3)
			}
		})
	}
	wg.Wait()
	got, err := pharmacy.Stocks.Load(t.Context(), p, pharmacy.ID("PH1", ndc))
	if err != nil || out.Load() != 99 || got.State.OnHand != 1 {
		t.Errorf("%d went out, %g left, %v; want 99 and 1", out.Load(), got.State.OnHand, err)
	}
}

// TestNeverNegative: whatever is tried, nothing is below zero at any moment, and what was received is on hand, taken or
// written off.
func TestNeverNegative(t *testing.T) {
	p := openAt(t.TempDir())
	defer p.Close()
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		ph := fmt.Sprint("PH", n)
		ids := rapid.SampledFrom([]string{"a", "b", "c"})
		quantity := func() float64 { return float64(rapid.IntRange(1, 40).Draw(t, "quantity")) / 4 }
		in, off, gone := 0.0, 0.0, 0.0
		for range rapid.IntRange(1, 20).Draw(t, "commands") {
			var c pharmacy.Command
			switch rapid.IntRange(0, 6).Draw(t, "command") {
			case 0:
				c = pharmacy.Receive{Quantity: quantity()}
			case 1:
				c = pharmacy.Reserve{ID: ids.Draw(t, "id"), Quantity: quantity()}
			case 2:
				c = pharmacy.Release{ID: ids.Draw(t, "id")}
			case 3:
				c = pharmacy.Dispense{ID: ids.Draw(t, "id")}
			case 4:
				c = pharmacy.Return{ID: ids.Draw(t, "id")}
			case 5:
				c = pharmacy.WriteOff{Quantity: quantity(), Reason: medication.InventoryAdjustedReasonDamaged}
			case 6:
				c = pharmacy.HandOver{ID: ids.Draw(t, "id"), PatientID: "P1"}
			}
			before, err := pharmacy.Stocks.Load(context.Background(), p, pharmacy.ID(ph, ndc))
			if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
				t.Fatal(err)
			}
			_, err = pharmacy.Do(context.Background(), p, ph, ndc, c)
			var re *pharmacy.RefusedError
			if errors.As(err, &re) {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			switch c := c.(type) {
			case pharmacy.Receive:
				in += c.Quantity
			case pharmacy.WriteOff:
				off += c.Quantity
			case pharmacy.HandOver:
				gone += before.State.Taken[c.ID]
			}
		}
		if in == 0 {
			return
		}
		for step, err := range pharmacy.Stocks.History(context.Background(), p, pharmacy.ID(ph, ndc)) {
			if err != nil {
				t.Fatal(err)
			}
			if step.State.OnHand < 0 || step.State.Available() < 0 {
				t.Fatalf("below zero: %+v", step.State)
			}
		}
		got, err := pharmacy.Stocks.Load(context.Background(), p, pharmacy.ID(ph, ndc))
		if err != nil {
			t.Fatal(err)
		}
		taken := 0.0
		for _, q := range got.State.Taken {
			taken += q
		}
		if got.State.OnHand+taken+off+gone != in {
			t.Fatalf("%g received, %g written off: %+v", in, off, got.State)
		}
	})
}

func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	p := openAt(dir)
	defer p.Close()
	ctx := context.Background()
	for _, c := range []pharmacy.Command{pharmacy.Receive{Quantity: 50}, pharmacy.Reserve{ID: "RX1", Quantity: 30}, pharmacy.Reserve{ID: "RX2", Quantity: 30}} {
		stock, err := pharmacy.Do(ctx, p, "PHARM123", ndc, c)
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(stock.State.OnHand, stock.State.Available())
	}
	// Output:
	// 50 50
	// 50 20
	// pharmacy: reserve refused: there is not enough in stock [stock]; order more, or ask another pharmacy
}
