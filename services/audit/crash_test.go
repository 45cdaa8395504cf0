package audit_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"

	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/services/audit"
	"github.com/carebus/carebus/services/care"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/patient"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/portal"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/priorauth"
	"github.com/carebus/carebus/services/safety"
	"github.com/carebus/carebus/services/simulation"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("CAREBUS_AUDIT_STORE"); path != "" {
		child(path, os.Getenv("CAREBUS_AUDIT_SERVICE"))
		return
	}
	goleak.VerifyTestMain(m)
}

// pickup is long beside the time that a killed process needs to come back, or every patient would come too late.
const pickup = 5 * time.Second

// members are the processes of the run: each service, and the world around them.
var members = map[string]func(ctx context.Context, p *carebus.Platform) error{
	"care": func(ctx context.Context, p *carebus.Platform) error { return care.Join(ctx, p, care.Options{}) },
	"fulfillment": func(ctx context.Context, p *carebus.Platform) error {
		return fulfillment.Join(ctx, p, fulfillment.Options{PickupWindow: pickup})
	},
	"patient": func(ctx context.Context, p *carebus.Platform) error { return patient.Join(ctx, p) },
	"payer": func(ctx context.Context, p *carebus.Platform) error {
		return payer.Join(ctx, p, payer.Options{Overturn: simulation.Overturn})
	},
	"portal":      func(ctx context.Context, p *carebus.Platform) error { return portal.Join(ctx, p) },
	"prescribing": func(ctx context.Context, p *carebus.Platform) error { return prescribing.Join(ctx, p) },
	"priorauth": func(ctx context.Context, p *carebus.Platform) error {
		formulary, err := simulation.Formulary(true)
		return errors.Join(err, priorauth.Join(ctx, p, priorauth.Options{Required: formulary}))
	},
	"safety": func(ctx context.Context, p *carebus.Platform) error { return safety.Join(ctx, p, safety.Options{}) },
	"world":  func(ctx context.Context, p *carebus.Platform) error { return simulation.Join(ctx, p) },
}

// open opens the store as a process that is taken for dead soon.
func open(ctx context.Context, path string) (*carebus.Platform, error) {
	return carebus.Open(ctx, path, &carebus.Options{Lease: 300 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
}

// child is one service until it is killed, or told to stop.
func child(path, name string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	p, err := open(ctx, path)
	if err == nil {
		err = members[name](ctx, p)
	}
	if err == nil {
		fmt.Println("running")
		err = p.Run(ctx)
	}
	if err == nil {
		err = p.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(3)
	}
}

// TestKilledServices: every service runs in a process of its own, and is killed again and again while prescriptions go
// through; the auditor finds nothing. CAREBUS_KILLS says how often each is killed.
func TestKilledServices(t *testing.T) {
	if testing.Short() {
		t.Skip("short: nine processes are started again and again")
	}
	kills := 5
	if n, err := strconv.Atoi(os.Getenv("CAREBUS_KILLS")); err == nil {
		kills = n
	}
	path := storetest.New(t)
	p, err := open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	world := simulation.New(1, 1, 100, false)
	if err := errors.Join(world.Admit(t.Context(), p), world.Deliver(t.Context(), p, 60*kills)); err != nil {
		t.Fatal(err)
	}

	var wg sync.WaitGroup
	over := make(chan struct{})
	for _, name := range slices.Sorted(maps.Keys(members)) {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(len(name)), uint64(name[0])))
			for n := 0; ; n++ {
				last := n == kills
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "CAREBUS_AUDIT_STORE="+path, "CAREBUS_AUDIT_SERVICE="+name)
				cmd.Stderr = os.Stderr
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Error(err)
					return
				}
				if n%4 != 3 || last { // else it may be killed while it opens the store
					if _, err := out.Read(make([]byte, 100)); err != nil {
						t.Errorf("%s did not begin: %v", name, err)
					}
				}
				if last {
					<-over
					_ = cmd.Process.Signal(syscall.SIGTERM)
					if err := cmd.Wait(); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					return
				}
				time.Sleep(time.Duration(rng.IntN(1200)) * time.Millisecond) // a random moment is what is tested
				_ = cmd.Process.Kill()
				_ = cmd.Wait()
			}
		})
	}
	for range kills {
		if err := world.Prescribe(t.Context(), p, 60); err != nil {
			t.Error(err)
		}
	}
	if err := rest(t.Context(), p); err != nil {
		t.Error(err)
	}
	close(over)
	wg.Wait()

	r, err := audit.Run(t.Context(), p, patient.Timeline, pharmacy.Queue, prescribing.View, priorauth.Views)
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
	t.Logf("%d kills of each of %d processes; %d prescriptions, %+v", kills, len(members), types["medication.prescription.created"], r.Outcomes)
	if n := types["medication.prescription.created"]; n != int64(60*kills) {
		t.Errorf("%d prescriptions", n)
	}
	if r.Outcomes.Fulfillments["completed"] == 0 || r.Outcomes.Fulfillments["under way"] > 0 {
		t.Errorf("%+v", r.Outcomes)
	}
}

// rest waits until nothing is under way. A key whose handler was killed in the middle of it twice is suspected of having
// done that, and parked: here it was not the event's fault, and it is tried again.
func rest(ctx context.Context, p *carebus.Platform) error {
	for {
		before, err := p.Store().Heads(ctx)
		if err != nil {
			return err
		}
		tick := p.Store().Tick()
		idle := true
		groups, err := p.Bus().Groups(ctx)
		if err != nil {
			return err
		}
		for _, g := range groups {
			if g.ParkedKeys > 0 {
				idle = false
				letters, err := p.Bus().DeadLetters(ctx, bus.Filter{Group: g.Name}, 10)
				if err != nil {
					return err
				}
				for _, d := range letters {
					if d.Class != bus.Suspect && d.Attempts > 30 {
						return fmt.Errorf("group %s: key %s is parked, and stays so: %s", g.Name, d.Key, d.Error)
					}
				}
				if _, err := p.Bus().Redrive(ctx, bus.Redrive{Filter: bus.Filter{Group: g.Name}, Act: bus.Act{Reason: "killed by the test"}}); err != nil && !errors.Is(err, bus.ErrNotParked) {
					return err
				}
			}
			idle = idle && g.State == "running" && g.Lag == 0
		}
		counts, err := saga.Count(ctx, p.Store(), fulfillment.Name)
		if err != nil {
			return err
		}
		for _, by := range counts {
			idle = idle && by[saga.Running]+by[saga.Compensating] == 0
		}
		after, err := p.Store().Heads(ctx)
		if err != nil {
			return err
		}
		if idle && len(groups) >= len(members) && slices.Equal(before, after) {
			return nil
		}
		if _, err := p.Store().Wait(ctx, tick); err != nil {
			return err
		}
	}
}
