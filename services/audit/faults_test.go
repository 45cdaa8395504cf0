package audit_test

import (
	"errors"
	"maps"
	"reflect"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/services/audit"
	"github.com/carebus/carebus/services/care"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/portal"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/priorauth"
	"github.com/carebus/carebus/services/safety"
	"github.com/carebus/carebus/services/simulation"
)

// TestFaults: services whose handlers fail one time in eight come to the same end as services that never fail.
func TestFaults(t *testing.T) {
	outcomes := func(faults func(seed uint64) []bus.Option) (audit.Outcomes, map[string]int64) {
		p := carebustest.Open(t)
		formulary, err := simulation.Formulary(true)
		err = errors.Join(err,
			care.Join(t.Context(), p, care.Options{Group: faults(1)}),
			fulfillment.Join(t.Context(), p, fulfillment.Options{Group: faults(2)}),
			payer.Join(t.Context(), p, payer.Options{Overturn: simulation.Overturn, Group: faults(3)}),
			portal.Join(t.Context(), p, faults(4)...),
			prescribing.Join(t.Context(), p, faults(5)...),
			priorauth.Join(t.Context(), p, priorauth.Options{Required: formulary, Group: faults(6)}),
			safety.Join(t.Context(), p, safety.Options{Group: faults(7)}),
			simulation.Join(t.Context(), p, faults(8)...),
		)
		if err != nil {
			t.Fatal(err)
		}
		carebustest.Run(t, p)
		world := simulation.New(3, 1, 80, false) // one prescription for each: what is known of two depends on their order
		if err := errors.Join(world.Admit(t.Context(), p), plenty(t, p), world.Prescribe(t.Context(), p, 80)); err != nil {
			t.Fatal(err)
		}
		carebustest.Settle(t, p)
		r, err := audit.Run(t.Context(), p, priorauth.Views, prescribing.View, pharmacy.Queue)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.Checks {
			if c.Violations > 0 {
				t.Errorf("%+v", c)
			}
		}
		types, err := p.Store().Types(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		maps.DeleteFunc(types, func(eventType string, _ int64) bool { return eventType[:len("platform")] == "platform" })
		return r.Outcomes, types
	}
	without, events := outcomes(func(uint64) []bus.Option { return nil })
	with, again := outcomes(func(seed uint64) []bus.Option { return []bus.Option{carebustest.Faults(seed, 0.125)} })
	if !reflect.DeepEqual(without, with) {
		t.Errorf("with faults:    %+v\nwithout faults: %+v", with, without)
	}
	for _, eventType := range []string{"medication.prescription.filled", "payment.claim.submitted", "patient.notification.sent", "priorauth.status.approved", "care.task.assigned"} {
		if events[eventType] != again[eventType] || events[eventType] == 0 {
			t.Errorf("%s: %d with faults, %d without", eventType, again[eventType], events[eventType])
		}
	}
}

// plenty delivers enough of everything: whom a drug runs out for depends on who comes first.
func plenty(t *testing.T, p *carebus.Platform) error {
	world := simulation.New(3, 1, 80, false)
	return world.Deliver(t.Context(), p, 2000)
}
