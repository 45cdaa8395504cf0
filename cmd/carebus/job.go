package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
)

func newJobCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "job",
		Short: "Follow and cancel redrives",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newJobListCommand(a), newJobShowCommand(a), newJobCancelCommand(a))
	return cmd
}

// The store is opened for writing also to look at jobs: who sees a job's end first writes it down.

func newJobListCommand(a *app) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List jobs, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 1 {
				return usagef("--limit %d: give a number above 0", limit)
			}
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				jobs, err := p.Bus().Jobs(ctx, limit)
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), jobs)
				}
				rows := [][]string{}
				for _, j := range jobs {
					rows = append(rows, []string{j.ID, j.Kind, j.Group, j.State, fmt.Sprint(j.Total), fmt.Sprint(j.Remaining), fmt.Sprint(j.Failed), j.Created.Format(time.RFC3339), j.Actor, j.Reason})
				}
				if len(jobs) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "no job yet; carebus dlq redrive begins one")
				}
				return a.table(cmd.OutOrStdout(), []string{"job", "kind", "group", "state", "keys", "remaining", "failed", "begun", "by", "reason"}, rows)
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "list at most so many")
	return cmd
}

func newJobShowCommand(a *app) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "show JOB",
		Short: "Show a job's progress",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				j, err := p.Bus().Job(ctx, args[0])
				if err == nil && wait {
					j, err = waitForJob(ctx, cmd, p.Bus(), j)
				}
				if err != nil {
					return err
				}
				return a.printJob(cmd, j)
			})
		},
		ValidArgsFunction: completeOne(a.completeStored(jobNames)),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the job has ended")
	return cmd
}

func newJobCancelCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "cancel JOB --reason WHY",
		Short: "Take back what a job has not done yet",
		Long:  "Takes back what a job has not done yet. Keys that were not tried wait for their next try as before.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				if err := p.Bus().CancelJob(ctx, args[0], bus.Act{Actor: actor(), Reason: reason}); err != nil {
					return err
				}
				j, err := p.Bus().Job(ctx, args[0])
				if err != nil {
					return err
				}
				return a.printJob(cmd, j)
			})
		},
		ValidArgsFunction: completeOne(a.completeStored(jobNames)),
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

func (a *app) printJob(cmd *cobra.Command, j bus.Job) error {
	if a.json() {
		return printJSON(cmd.OutOrStdout(), j)
	}
	return fields(cmd.OutOrStdout(), "job", j.ID, "kind", j.Kind, "group", j.Group, "state", j.State, "keys", fmt.Sprint(j.Total),
		"remaining", fmt.Sprint(j.Remaining), "failed", fmt.Sprint(j.Failed), "reason", j.Reason, "by", j.Actor, "begun", j.Created.Format(time.RFC3339))
}

// jobNames are the jobs that begin so, for completion.
func jobNames(cmd *cobra.Command, p *carebus.Platform, begun string) (names []string, err error) {
	b, err := bus.New(cmd.Context(), p.Store(), nil)
	if err != nil {
		return nil, err
	}
	jobs, err := b.Jobs(cmd.Context(), 50)
	for _, j := range jobs {
		if strings.HasPrefix(j.ID, begun) {
			names = append(names, j.ID)
		}
	}
	return names, err
}

// jobLook is how often the progress of a job is looked at: another process does the work.
const jobLook = 200 * time.Millisecond

// waitForJob returns when the job has ended, whoever does it.
func waitForJob(ctx context.Context, cmd *cobra.Command, b *bus.Bus, j bus.Job) (bus.Job, error) {
	bar := newProgress(cmd.ErrOrStderr(), "redriving")
	bar.unit = "keys"
	defer bar.end()
	ticker := time.NewTicker(jobLook)
	defer ticker.Stop()
	for j.State == "running" {
		bar.set(j.Total-j.Remaining, j.Total)
		select {
		case <-ctx.Done():
			return j, fmt.Errorf("the job goes on, but is not waited for any more: %w; see carebus job show %s", ctx.Err(), j.ID)
		case <-ticker.C:
		}
		var err error
		if j, err = b.Job(ctx, j.ID); err != nil {
			return j, err
		}
	}
	return j, nil
}
