package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore"
)

func newEventCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "event",
		Short: "Look at single events",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newEventGetCommand(a))
	return cmd
}

func newEventGetCommand(a *app) *cobra.Command {
	var reveal bool
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show one event: envelope, payload and place",
		Long:  "Shows one event by its id. Protected values of the payload are masked.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				stored, err := p.Store().Get(ctx, args[0])
				if errors.Is(err, eventstore.ErrNotFound) {
					return notFoundf("no event %s in this store", args[0])
				}
				if err != nil {
					return err
				}
				r := show(p.Registry(), stored, reveal)
				w := cmd.OutOrStdout()
				if a.json() {
					return printJSON(w, r)
				}
				m, version := r.Metadata, ""
				if r.Stream != "" {
					version = fmt.Sprint(r.StreamVersion)
				}
				err = fields(w,
					"event", m.ID, "type", m.Type+" "+m.Version, "source", m.Source, "time", factTime(m),
					"correlation", m.CorrelationID, "cause", m.CausationID, "trace", m.TraceID, "key", m.PartitionKey,
					"stream", r.Stream, "stream version", version, "place", r.place(), "recorded", r.RecordedAt)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(w, "\n%s\n", indented(r.Payload, ""))
				return err
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show protected values")
	return cmd
}
