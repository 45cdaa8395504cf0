package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/flow"
)

func newTopologyCommand(a *app) *cobra.Command {
	var mermaid, svg bool
	var theme, since string
	var limit int
	cmd := &cobra.Command{
		Use:   "topology",
		Short: "Show who publishes what and who consumes it",
		Long: `Shows the services, the types of event that they publish, and the consumer groups that want them, with rates, lag and
parked keys, from what the store really holds: as text, or with --mermaid as a Mermaid flowchart or with --svg in SVG. Who publishes
is taken from the latest 20,000 events; --since looks at more or less. Payloads are never looked at.`,
		Example: `carebus topology
  carebus topology --since beginning -o json
  carebus topology --svg --since -1h > topology.svg`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
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
			o, err := observeSince(since, time.Now())
			if err != nil {
				return err
			}
			return a.withBus(cmd, func(ctx context.Context, p *carebus.Platform, b *bus.Bus) error {
				groups, err := flow.ReadGroups(ctx, p.Store(), b)
				if err != nil {
					return err
				}
				t, err := flow.Observe(ctx, p.Store(), groups, o)
				if err != nil {
					return err
				}
				w, d := cmd.OutOrStdout(), &flow.Options{Limit: limit, Theme: colours}
				switch {
				case a.json():
					return printJSON(w, t)
				case mermaid:
					return t.WriteMermaid(w, d)
				case svg:
					return t.WriteSVG(w, d)
				}
				return t.WriteText(w, d)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&mermaid, "mermaid", false, "draw a Mermaid flowchart")
	cmd.Flags().BoolVar(&svg, "svg", false, "draw an SVG")
	cmd.Flags().StringVar(&theme, "theme", "auto", "colours of the SVG: auto, light or dark")
	cmd.Flags().StringVar(&since, "since", "", "look at the events recorded since: beginning, a time, or a time ago (-1h, -7d)")
	cmd.Flags().IntVar(&limit, "limit", 200, "draw at most so many types (-o json has all)")
	return cmd
}

// observeSince reads --since; empty leaves the choice to flow.Observe.
func observeSince(since string, now time.Time) (*flow.ObserveOptions, error) {
	o := &flow.ObserveOptions{At: now}
	if since == "" {
		return o, nil
	}
	p, err := parsePosition("since", since, now)
	if err != nil {
		return nil, err
	}
	switch p.kind {
	case atBeginning:
		o.Last = -1
	case atTime:
		o.Since = p.time
	default:
		return nil, usagef("--since %s: give beginning, a time, or a time ago such as -1h", since)
	}
	return o, nil
}

// themeOf reads --theme.
func themeOf(theme string) (flow.Theme, error) {
	colours, ok := map[string]flow.Theme{"auto": flow.ThemeAuto, "light": flow.ThemeLight, "dark": flow.ThemeDark}[theme]
	if !ok {
		return "", usagef("--theme %s: give auto, light or dark", theme)
	}
	return colours, nil
}
