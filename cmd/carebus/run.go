package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/services/care"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/patient"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/portal"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/priorauth"
	"github.com/carebus/carebus/services/safety"
)

// services are the reference services that can run in a process of their own.
var services = map[string]func(ctx context.Context, p *carebus.Platform) error{
	"care": func(ctx context.Context, p *carebus.Platform) error { return care.Join(ctx, p, care.Options{}) },
	"fulfillment": func(ctx context.Context, p *carebus.Platform) error {
		return fulfillment.Join(ctx, p, fulfillment.Options{})
	},
	"patient":     func(ctx context.Context, p *carebus.Platform) error { return patient.Join(ctx, p) },
	"payer":       func(ctx context.Context, p *carebus.Platform) error { return payer.Join(ctx, p, payer.Options{}) },
	"portal":      func(ctx context.Context, p *carebus.Platform) error { return portal.Join(ctx, p) },
	"prescribing": func(ctx context.Context, p *carebus.Platform) error { return prescribing.Join(ctx, p) },
	"priorauth": func(ctx context.Context, p *carebus.Platform) error {
		// The formulary is what the payer's rules are about.
		rules, err := payer.DefaultRules()
		if err != nil {
			return err
		}
		drugs := rules.Drugs()
		return priorauth.Join(ctx, p, priorauth.Options{Required: func(m medication.Medication, _ *medication.Payer) (bool, error) {
			return m.Code != nil && m.Code.Code != nil && slices.Contains(drugs, *m.Code.Code), nil
		}})
	},
	"safety": func(ctx context.Context, p *carebus.Platform) error { return safety.Join(ctx, p, safety.Options{}) },
}

func serviceNames() []string { return slices.Sorted(maps.Keys(services)) }

type runFlags struct {
	lease     time.Duration
	demo      bool
	world     demoWorld
	telemetry telemetryFlags
}

func newRunCommand(a *app) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [SERVICE...]",
		Short: "Run reference services in this process, until it is told to stop",
		Long: `Runs reference services on the store, which other processes may share: ` + strings.Join(serviceNames(), ", ") + `.
Without a name it runs all of them. Several processes may run the same service: they share its work, and when one of them
dies the others take over within the lease. Ctrl-C, or a termination signal, lets what is under way finish and commit, and
hands the rest to the others at once.

With --demo they are the services of the demo, and simulation is one more: the people around them. Drive them from another
process with carebus demo --no-services.`,
		Example: `carebus run
  carebus run payer priorauth
  carebus run --demo`,
		RunE: func(cmd *cobra.Command, args []string) error {
			have := serviceNames()
			if f.demo {
				have = demoNames()
			}
			if len(args) == 0 {
				args = have
			}
			for _, name := range args {
				if !slices.Contains(have, name) {
					return usagef("no service %s; there are %s", name, strings.Join(have, ", "))
				}
			}
			for _, theirs := range []string{"pickup", "mended"} {
				if cmd.Flags().Changed(theirs) && !f.demo {
					return usagef("--%s goes with --demo", theirs)
				}
			}
			if err := f.world.check(); err != nil {
				return err
			}
			return a.runServices(cmd, f, slices.Compact(slices.Sorted(slices.Values(args))))
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return demoNames(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().DurationVar(&f.lease, "lease", 10*time.Second, "how long work stays with a process that gives no sign of life")
	cmd.Flags().BoolVar(&f.demo, "demo", false, "run the services as the demo does, for carebus demo --no-services")
	f.world.add(cmd)
	f.telemetry.add(cmd, "warn", false)
	return cmd
}

func (a *app) runServices(cmd *cobra.Command, f runFlags, names []string) (err error) {
	t, err := f.telemetry.start(cmd.Context(), cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	o := t.options()
	o.Lease, o.Member = f.lease, memberName()
	return a.with(cmd, o, func(ctx context.Context, p *carebus.Platform) error {
		t.Watch(p)
		var errs []error
		if f.demo {
			errs = append(errs, f.world.join(ctx, p, names...))
		} else {
			for _, name := range names {
				errs = append(errs, services[name](ctx, p))
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "running %s\n", strings.Join(names, ", "))
		return p.Run(ctx)
	})
}

// memberName tells operators which process has which partitions: host, process, and what tells it from another one of that
// number. A name must never come twice: by it a death is told from a return.
func memberName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strings.ToLower(rand.Text()[:8]))
}
