package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/asyncapi"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/flow"
)

func newAsyncAPICommand(a *app) *cobra.Command {
	var o asyncapi.Options
	var observed bool
	cmd := &cobra.Command{
		Use:   "asyncapi",
		Short: "Describe the events, and the services observed, as an AsyncAPI document",
		Long: `Writes an AsyncAPI document in JSON: a channel for every entity, a message for every type and major version of event that
the registry knows, with its schema and examples, and with --observed who sends and receives what, as this store has seen
it. Code generators and documentation tools read it.`,
		Example: `  carebus asyncapi > events.json
  carebus asyncapi --observed --title "Medication access" > services.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if observed {
				return a.withBus(cmd, func(ctx context.Context, p *carebus.Platform, b *bus.Bus) error {
					services, err := observedServices(ctx, p, b)
					if err != nil {
						return err
					}
					return writeAsyncAPI(cmd, p, services, o)
				})
			}
			return a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error { return writeAsyncAPI(cmd, p, nil, o) })
		},
	}
	cmd.Flags().StringVar(&o.Title, "title", "carebus", "of what is described")
	cmd.Flags().StringVar(&o.Version, "version", "1.0.0", "of what is described")
	cmd.Flags().StringVar(&o.Spec, "spec", "3.0.0", "version of AsyncAPI: 3.0.0 or 3.1.0")
	cmd.Flags().BoolVar(&observed, "observed", false, "add the services and groups of the store")
	return cmd
}

func writeAsyncAPI(cmd *cobra.Command, p *carebus.Platform, services []asyncapi.Service, o asyncapi.Options) error {
	text, err := asyncapi.Document(p.Registry().Documents(), services, &o)
	if errors.Is(err, asyncapi.ErrSpec) {
		return usagef("--spec %s: give 3.0.0 or 3.1.0", o.Spec)
	}
	if err != nil {
		return err
	}
	_, err = cmd.OutOrStdout().Write(append(text, '\n'))
	return err
}

// observedServices are the publishers and the groups of a store, from its whole log.
func observedServices(ctx context.Context, p *carebus.Platform, b *bus.Bus) ([]asyncapi.Service, error) {
	groups, err := flow.ReadGroups(ctx, p.Store(), b)
	if err != nil {
		return nil, err
	}
	seen, err := flow.Observe(ctx, p.Store(), groups, &flow.ObserveOptions{Last: -1})
	if err != nil {
		return nil, err
	}
	return asyncapi.Observed(seen), nil
}
