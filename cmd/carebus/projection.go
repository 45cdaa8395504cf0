package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/services/patient"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/priorauth"
)

// projections are the read models of the reference services.
func projections() []*projection.Definition {
	return []*projection.Definition{patient.Timeline, pharmacy.Queue, prescribing.View, priorauth.Views}
}

// known are those that the store has.
func known(ctx context.Context, p *carebus.Platform) ([]*projection.Definition, error) {
	have, err := projection.List(ctx, p.Store())
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(projections(), func(d *projection.Definition) bool {
		return !slices.ContainsFunc(have, func(s projection.Status) bool { return s.Name == d.Name() })
	}), nil
}

func newProjectionCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "projection",
		Short: "Look at read models, rebuild them, compare them with a rebuild",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newProjectionListCommand(a), newProjectionRebuildCommand(a), newProjectionCheckCommand(a))
	return cmd
}

func newProjectionListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the read models of the store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.with(cmd, &carebus.Options{ReadOnly: true}, func(ctx context.Context, p *carebus.Platform) error {
				all, err := projection.List(ctx, p.Store())
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), all)
				}
				rows := [][]string{}
				for _, s := range all {
					build := ""
					if b := s.Build; b != nil {
						build = fmt.Sprintf("generation %d, %d of %d events", b.Generation, b.Done, b.Total)
						if !b.Active {
							build += ", waits for somebody to go on"
						}
					}
					rows = append(rows, []string{s.Name, s.State, fmt.Sprint(s.Version), fmt.Sprint(s.Generation), s.Since.UTC().Format(time.RFC3339), fmt.Sprint(s.Lag), fmt.Sprint(s.ParkedKeys), strings.Join(s.Tables, " "), build})
				}
				return a.table(cmd.OutOrStdout(), []string{"projection", "state", "version", "generation", "since", "lag", "parked keys", "tables", "build"}, rows)
			})
		},
	}
}

// projectionNamed runs do on a read model of the store that this program knows.
func (a *app) projectionNamed(cmd *cobra.Command, name string, do func(ctx context.Context, p *carebus.Platform, d *projection.Definition) error) error {
	return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
		models, err := known(ctx, p)
		if err != nil {
			return err
		}
		names := []string{}
		for _, d := range models {
			if d.Name() == name {
				return do(ctx, p, d)
			}
			names = append(names, d.Name())
		}
		if len(names) == 0 {
			return notFoundf("no projection %s, nor any other: carebus run makes those of the services", name)
		}
		return notFoundf("no projection %s; there are %s", name, strings.Join(names, ", "))
	})
}

func (a *app) buildProgress(cmd *cobra.Command, doing string) (show func(projection.Progress), end func()) {
	bar := newProgress(cmd.ErrOrStderr(), doing)
	return func(p projection.Progress) { bar.set(p.Done, p.Total) }, bar.end
}

func newProjectionRebuildCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "rebuild NAME",
		Short: "Build a read model anew from the log, beside the live one, and let it take over",
		Long: `Reads the log from its beginning and fills new tables, while the live ones are kept up to date and read. When the new ones
have caught up they take over in one transaction. A rebuild that was broken off goes on when it is said again.`,
		Example: `  carebus projection rebuild priorauth-views --reason 'a disk was restored'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReason(reason); err != nil {
				return err
			}
			return a.projectionNamed(cmd, args[0], func(ctx context.Context, p *carebus.Platform, d *projection.Definition) error {
				show, end := a.buildProgress(cmd, "building")
				var last projection.Progress
				err := projection.Rebuild(ctx, p, d, bus.Act{Actor: actor(), Reason: reason}, func(p projection.Progress) {
					last = p
					show(p)
				})
				end()
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), last)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "projection %s: generation %d has taken over, made of %s\n", d.Name(), last.Generation, plural(last.Events, "event"))
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	return cmd
}

func newProjectionCheckCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "check NAME",
		Short: "Compare a read model with one that is built from the log",
		Long: `Builds the read model anew beside the live one, compares the two at the same position of the log, and drops what it has
built. The exit code is 1 when they differ; carebus projection rebuild mends that.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.projectionNamed(cmd, args[0], func(ctx context.Context, p *carebus.Platform, d *projection.Definition) error {
				show, end := a.buildProgress(cmd, "building")
				found, err := projection.Check(ctx, p, d, show)
				end()
				switch {
				case err != nil:
					return err
				case a.json():
					err = printJSON(cmd.OutOrStdout(), found)
				case len(found) == 0:
					fmt.Fprintf(cmd.OutOrStdout(), "projection %s equals its rebuild\n", d.Name())
				default:
					rows := [][]string{}
					for _, f := range found {
						rows = append(rows, []string{f.Table, fmt.Sprint(f.Missing), fmt.Sprint(f.Extra)})
					}
					err = a.table(cmd.OutOrStdout(), []string{"table", "rows missing", "rows too many"}, rows)
				}
				if err == nil && len(found) > 0 {
					err = fmt.Errorf("projection %s is not what the log says; carebus projection rebuild %s --reason '…' mends it", d.Name(), d.Name())
				}
				return err
			})
		},
	}
}
