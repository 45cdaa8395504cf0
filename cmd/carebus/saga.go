package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
)

func newSagaCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "saga",
		Short: "Look at sagas, and help those that are stuck",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSagaListCommand(a), newSagaShowCommand(a),
		newSagaActCommand(a, "resume", "Try again what is stuck, or rests after a failed try",
			"Tries again what is stuck, with all its tries anew, and what rests after a failed try, without waiting.", saga.Resume),
		newSagaActCommand(a, "skip", "Go on as if what is stuck had been done",
			"Says that a person has taken care of what is stuck: the saga goes on as if the step, or its compensation, had been done.", saga.Skip),
		newSagaActCommand(a, "cancel", "Undo what a saga has done, in reverse",
			"Has a saga undone. Calls under way are waited for.", saga.Cancel))
	return cmd
}

func newSagaListCommand(a *app) *cobra.Command {
	var q saga.Query
	var status string
	cmd := &cobra.Command{
		Use:     "list [SAGA]",
		Short:   "List sagas by id",
		Example: "carebus saga list medication-fulfillment --status stuck",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Limit < 1 {
				return usagef("--limit %d: give a number above 0", q.Limit)
			}
			switch q.Status = saga.Status(status); q.Status {
			case "", saga.Running, saga.Compensating, saga.Stuck, saga.Parked, saga.Completed, saga.Failed, saga.Cancelled:
			default:
				return usagef("--status %s: give running, compensating, stuck, parked, completed, failed or cancelled", status)
			}
			if len(args) == 1 {
				q.Saga = args[0]
			}
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				sagas, err := saga.List(ctx, p.Store(), q)
				if err != nil {
					return err
				}
				if len(sagas) == q.Limit {
					fmt.Fprintf(cmd.ErrOrStderr(), "there may be more; go on with --after %s\n", sagas[len(sagas)-1].ID)
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), sagas)
				}
				rows := [][]string{}
				for _, s := range sagas {
					rows = append(rows, []string{s.ID, s.Saga, fmt.Sprint(s.Version), string(s.Status), s.Step, s.Key, s.StartedAt.Format(time.RFC3339)})
				}
				return a.table(cmd.OutOrStdout(), []string{"id", "saga", "version", "status", "step", "about", "began"}, rows)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&status, "status", "", "only those that are running, compensating, stuck, parked, completed, failed or cancelled")
	cmd.Flags().StringVar(&q.After, "after", "", "begin behind this id")
	cmd.Flags().IntVar(&q.Limit, "limit", 100, "list at most so many")
	return cmd
}

func newSagaShowCommand(a *app) *cobra.Command {
	var reveal bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show a saga with its steps",
		Long:  "Shows a saga with its steps. Its error text may hold protected values, and is masked. Its history is carebus stream show platform.saga/ID.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				d, err := saga.Show(ctx, p.Store(), args[0])
				if err != nil {
					return sagaError(err)
				}
				if d.Error != "" && !reveal {
					d.Error = "•••"
				}
				return a.printSaga(cmd, d)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show the error text")
	return cmd
}

func (a *app) printSaga(cmd *cobra.Command, d saga.Detail) error {
	w := cmd.OutOrStdout()
	if a.json() {
		return printJSON(w, d)
	}
	if err := fields(w,
		"saga", fmt.Sprintf("%s, version %d", d.Saga, d.Version), "id", d.ID, "about", d.Key, "status", string(d.Status), "error", d.Error,
		"correlation", d.CorrelationID, "began", d.StartedAt.Format(time.RFC3339), "last move", d.UpdatedAt.Format(time.RFC3339),
		"undone", strings.Join(d.Undone, ", "), "not undone", strings.Join(d.Left, ", "),
	); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows := [][]string{}
	for _, s := range d.Steps {
		until, doing := "", s.State
		if !s.Until.IsZero() {
			until = s.Until.Format(time.RFC3339)
		}
		if s.Compensating {
			doing = "undoing: " + doing
		}
		tries := ""
		if s.Attempts > 0 {
			tries = fmt.Sprint(s.Attempts)
		}
		rows = append(rows, []string{s.Name, doing, tries, until})
	}
	return a.table(w, []string{"step", "state", "tries", "until"}, rows)
}

func newSagaActCommand(a *app, verb, short, long string, do func(context.Context, *eventstore.Store, string, saga.Act) error) *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   verb + " ID --reason TEXT",
		Short: short,
		Long:  long + " It is an event of its own, with who and why; a process that runs the saga carries it out.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReason(reason); err != nil {
				return err
			}
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				d, err := saga.Show(ctx, p.Store(), args[0])
				if err != nil {
					return sagaError(err)
				}
				if err := a.confirm(cmd, yes, fmt.Sprintf("%s 1 saga: %s %s is %s, at %s", verb, d.Saga, d.ID, d.Status, d.Step)); err != nil {
					return err
				}
				if err := do(ctx, p.Store(), args[0], saga.Act{Actor: actor(), Reason: reason}); err != nil {
					return sagaError(err)
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), d)
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "asked for; carebus saga show "+d.ID+" shows what came of it")
				return err
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the audit")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

// sagaError names what is not there as the exit code for it wants.
func sagaError(err error) error {
	if errors.Is(err, saga.ErrNoInstance) {
		return notFoundf("%v; see carebus saga list", err)
	}
	return err
}
