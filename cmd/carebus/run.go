package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

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

func newRunCommand(a *app) *cobra.Command {
	var f telemetryFlags
	cmd := &cobra.Command{
		Use:   "run [SERVICE...]",
		Short: "Run reference services in this process, until it is told to stop",
		Long: `Runs reference services on the store, which other processes may share: ` + strings.Join(serviceNames(), ", ") + `.
Without a name it runs all of them. Ctrl-C, or a termination signal, lets what is under way finish and commit.`,
		Example: `carebus run
  carebus run payer priorauth`,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 0 {
				args = serviceNames()
			}
			for _, name := range args {
				if services[name] == nil {
					return usagef("no service %s; there are %s", name, strings.Join(serviceNames(), ", "))
				}
			}
			t, err := f.start(cmd.Context(), cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, t.stop()) }()
			return a.with(cmd, t.options(), func(ctx context.Context, p *carebus.Platform) error {
				t.Watch(p)
				var errs []error
				for _, name := range slices.Compact(slices.Sorted(slices.Values(args))) {
					errs = append(errs, services[name](ctx, p))
				}
				if err := errors.Join(errs...); err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "running %s\n", strings.Join(args, ", "))
				return p.Run(ctx)
			})
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return serviceNames(), cobra.ShellCompDirectiveNoFileComp
		},
	}
	f.add(cmd, "warn", false)
	return cmd
}
