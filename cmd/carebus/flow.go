package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
)

// maxFlow bounds what is read of one flow: an import makes a whole patient's life one.
const maxFlow = 20_000

func newFlowCommand(a *app) *cobra.Command {
	var mermaid, svg, all, groups, reveal bool
	var theme string
	var limit int
	cmd := &cobra.Command{
		Use:   "flow CORRELATION|EVENT",
		Short: "Show who caused what in one flow",
		Long: `Draws the flow of a correlation id, or of the event with the given id: as a tree of causes, or with --mermaid as a
sequence diagram in Mermaid or with --svg in SVG, from what the store really holds. Payloads are never shown. The error texts of
failed handlers may hold protected values, and are masked. The saga engine's own account of steps that went well is left
out, unless --all is given. --groups says which consumer groups are past each event, and for which it waits.`,
		Example: `carebus flow 0198c9e2-7a51-7c3e-9d0a-6a2f1c7be001
  carebus flow --mermaid 0198c9e2-7a51-7c3e-9d0a-6a2f1c7be001 > flow.mmd
  carebus flow --svg 0198c9e2-7a51-7c3e-9d0a-6a2f1c7be001 > flow.svg`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit %d: give a number above 0", limit)
			}
			if mermaid && a.json() || svg && a.json() || mermaid && svg {
				return usagef("--mermaid, --svg and -o json are forms of the same; give one")
			}
			colours, err := themeOf(theme)
			if err != nil {
				return err
			}
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				records, more, err := readFlow(ctx, p, args[0], all, reveal)
				if err != nil {
					return err
				}
				var known []flow.Group
				if groups {
					if known, err = readGroups(ctx, p); err != nil {
						return err
					}
				}
				if more {
					fmt.Fprintf(cmd.ErrOrStderr(), "only the first %d events of the flow were read\n", maxFlow)
				}
				f := flow.Build(records, known...)
				w, o := cmd.OutOrStdout(), &flow.Options{Limit: limit, Theme: colours}
				switch {
				case a.json():
					return printJSON(w, f)
				case mermaid:
					return f.WriteMermaid(w, o)
				case svg:
					return f.WriteSVG(w, o)
				}
				return f.WriteTree(w, o)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&mermaid, "mermaid", false, "draw a Mermaid sequence diagram")
	cmd.Flags().BoolVar(&svg, "svg", false, "draw an SVG sequence diagram")
	cmd.Flags().StringVar(&theme, "theme", "auto", "colours of the SVG: auto, light or dark")
	cmd.Flags().IntVar(&limit, "limit", 200, "draw at most so many events (-o json has all)")
	cmd.Flags().BoolVar(&all, "all", false, "show the saga engine's events too")
	cmd.Flags().BoolVar(&groups, "groups", false, "show which groups have handled each event, and which have it before them")
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show the error texts of failures")
	return cmd
}

// readGroups reads how far every group has come.
func readGroups(ctx context.Context, p *carebus.Platform) ([]flow.Group, error) {
	b, err := bus.New(ctx, p.Store(), nil) // a read-only platform has none
	if err != nil {
		return nil, err
	}
	return flow.ReadGroups(ctx, p.Store(), b)
}

// readFlow reads the records of the flow with this correlation id, or of the event with this id.
func readFlow(ctx context.Context, p *carebus.Platform, id string, all, reveal bool) (records []eventstore.Record, more bool, err error) {
	records, err = p.Store().Correlation(ctx, id, time.Time{}, maxFlow+1)
	if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
		return nil, false, err
	}
	if len(records) == 0 {
		r, err := p.Store().Get(ctx, id)
		if errors.Is(err, eventstore.ErrNotFound) {
			return nil, false, notFoundf("no flow and no event %s in this store; carebus tail -o json shows correlation ids", id)
		}
		if err != nil {
			return nil, false, err
		}
		if records, err = p.Store().Correlation(ctx, r.CorrelationID, time.Time{}, maxFlow+1); err != nil {
			return nil, false, err
		}
	}
	more = len(records) > maxFlow
	records = records[:min(len(records), maxFlow)]
	if !reveal {
		for i := range records {
			records[i].Payload = p.Registry().Mask(records[i].Event)
		}
	}
	if !all {
		records = flow.Without(records, flow.Bookkeeping)
	}
	return records, more, nil
}
