package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/services/audit"
)

func newAuditCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "audit",
		Short: "Hold what the reference services have done against the rules that must never be broken",
		Long: `Reads the store, and nothing else, and checks that every authorization rests on a request and a decision, that nothing was
filled without a verified prescription, reserved stock and a paid claim, that every fulfilment that failed has released
what it took, that no stock was ever below zero, that every entity's state is the fold of its history, and that every read
model equals one that is built from scratch. The exit code is 1 when a rule is broken.

Services that are at work meanwhile are seen half-way: stop them, or let them come to rest.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				models, err := known(ctx, p)
				if err != nil {
					return err
				}
				report, err := audit.Run(ctx, p, models...)
				if err != nil {
					return err
				}
				if a.json() {
					err = printJSON(cmd.OutOrStdout(), report)
				} else {
					err = a.printAudit(cmd.OutOrStdout(), report)
				}
				if n := report.Violations(); err == nil && n > 0 {
					err = fmt.Errorf("%s of the rules", plural(n, "violation"))
				}
				return err
			})
		},
	}
}

func (a *app) printAudit(w io.Writer, r audit.Report) error {
	for _, o := range []struct {
		name   string
		counts map[string]int64
	}{{"authorizations", r.Outcomes.PriorAuth}, {"payer's answers", r.Outcomes.Decisions}, {"claims", r.Outcomes.Claims}, {"fulfilments", r.Outcomes.Fulfillments}} {
		if len(o.counts) == 0 {
			continue
		}
		parts := []string{}
		for _, kind := range slices.Sorted(maps.Keys(o.counts)) {
			parts = append(parts, fmt.Sprintf("%d %s", o.counts[kind], strings.ToLower(kind)))
		}
		fmt.Fprintf(w, "%-16s%s\n", o.name, strings.Join(parts, ", "))
	}
	fmt.Fprintf(w, "%-16s%d handed over, %d returned to stock\n\n", "medications", r.Outcomes.PickedUp, r.Outcomes.Returned)
	rows := [][]string{}
	for _, c := range r.Checks {
		rows = append(rows, []string{c.Name, fmt.Sprint(c.Looked), fmt.Sprint(c.Violations)})
	}
	if err := a.table(w, []string{"rule", "checked", "violations"}, rows); err != nil {
		return err
	}
	for _, c := range r.Checks {
		if c.Violations == 0 {
			continue
		}
		fmt.Fprintf(w, "\n%s: %s\n", c.Name, c.Rule)
		for _, v := range c.First {
			fmt.Fprintf(w, "  %s: %s\n", v.Where, v.What)
		}
	}
	return nil
}
