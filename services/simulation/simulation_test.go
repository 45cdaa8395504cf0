package simulation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/simulation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// written runs a simulation on a store of its own and returns what was prescribed and who was admitted, in order.
func written(t *testing.T, seed uint64, run int64, again bool) (out string) {
	t.Helper()
	p := carebustest.Open(t)
	times := 1
	if again {
		times = 2
	}
	for range times { // a world that begins anew writes nothing twice
		world := simulation.New(seed, run, 30, true)
		if err := errors.Join(world.Admit(t.Context(), p), world.Prescribe(t.Context(), p, 60)); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"patient.record/", "medication.prescription/"} {
		streams, err := p.Store().Streams(t.Context(), prefix, "", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range streams {
			records, err := p.Store().Stream(t.Context(), eventstore.StreamQuery{Stream: s, From: 1, Limit: 10})
			if err != nil {
				t.Fatal(err)
			}
			if prefix == "medication.prescription/" && len(records) != 1 {
				t.Errorf("%s has %d events", s, len(records))
			}
			var p struct {
				PatientID, FirstName, DateOfBirth string
				Medication                        struct{ Name string }
				Payer                             struct{ PlanID string }
			}
			if err := json.Unmarshal(records[0].Payload, &p); err != nil {
				t.Fatal(err)
			}
			out += fmt.Sprintln(s, p)
		}
	}
	return out
}

func TestSeeds(t *testing.T) {
	first := written(t, 1, 1, false)
	if got := written(t, 1, 1, true); got != first {
		t.Errorf("the same seed and run give another population, or something twice:\n%s\n%s", first, got)
	}
	if first == written(t, 2, 1, false) || first == written(t, 1, 2, false) {
		t.Error("another seed or run gives the same population")
	}
}

func TestFormulary(t *testing.T) {
	rx := func(code string) medication.Medication {
		return medication.Medication{Code: &medication.Codeable{Code: &code}}
	}
	plan := simulation.NewPlan
	for _, c := range []struct {
		mended bool
		code   string
		plan   *string
		asked  bool
		fails  bool
	}{
		{code: "314076"}, {code: "327361", asked: true}, {code: "106892"}, {code: "327361", plan: &plan, fails: true}, {code: "327361", plan: &plan, mended: true, asked: true},
	} {
		f, err := simulation.Formulary(c.mended)
		if err != nil {
			t.Fatal(err)
		}
		asked, err := f(rx(c.code), &medication.Payer{PlanID: c.plan})
		if asked != c.asked || (err != nil) != c.fails {
			t.Errorf("%+v: %v, %v", c, asked, err)
		}
	}
}

// TestSupply: what prescriptions from elsewhere need is delivered once.
func TestSupply(t *testing.T) {
	p := carebustest.Open(t)
	code, quantity := "314076", 30.0
	for i := range 3 {
		rx := prescribing.Create{PrescriptionCreated: medication.PrescriptionCreated{PatientID: "P1", Medication: medication.Medication{Name: "Lisinopril", Code: &medication.Codeable{Code: &code}}}}
		if i > 0 {
			rx.Medication.Quantity = &quantity
		}
		if _, err := prescribing.Do(t.Context(), p, fmt.Sprint("RX", i), rx); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := simulation.Supply(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
	}
	streams, err := p.Store().Streams(t.Context(), "medication.inventory/", "", 10)
	if err != nil || len(streams) != 1 {
		t.Fatalf("%v, %v", streams, err)
	}
	s, err := pharmacy.Stocks.Load(t.Context(), p, streams[0][len("medication.inventory/"):])
	if err != nil || s.State.OnHand != 61 {
		t.Errorf("%+v, %v; want 61 on hand", s, err)
	}
}

func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	defer p.Close()
	world := simulation.New(1, 1, 20, false)
	if err := errors.Join(world.Admit(ctx, p), world.Deliver(ctx, p, 50), world.Prescribe(ctx, p, 50)); err != nil {
		panic(err)
	}
	types, err := p.Store().Types(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Println(types["patient.record.created"], "patients,", types["medication.prescription.created"], "prescriptions")
	// Output: 20 patients, 50 prescriptions
}
