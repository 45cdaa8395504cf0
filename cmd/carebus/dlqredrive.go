package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
)

type redriveFlags struct {
	filterFlags
	all, yes, dryRun, wait bool
	rate                   float64
	reason                 string
}

// redriveReport is what `carebus dlq redrive -o json` prints.
type redriveReport struct {
	Preview bus.Preview `json:"preview"`
	Job     *bus.Job    `json:"job,omitempty"` // absent after --dry-run
}

func newDLQRedriveCommand(a *app) *cobra.Command {
	var f redriveFlags
	cmd := &cobra.Command{
		Use:   "redrive [GROUP [KEY]] --reason TEXT",
		Short: "Try parked keys again, from the failed event on, in order",
		Long: `Asks the groups to try the chosen keys again. It is done by the processes that run the groups, as a job with a number to
follow; a group that nobody runs keeps the wish. What is parked later than now is not part of it.`,
		Example: `carebus dlq redrive prior-auth --error 'no plan' --reason 'plan table mended' --rate 20 --yes
  carebus dlq redrive --all --dry-run`,
		Args: cobra.MaximumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			for i, into := range []*string{&f.group, &f.key} {
				if i < len(args) {
					if *into != "" && *into != args[i] {
						return usagef("%s and %s: name one", *into, args[i])
					}
					*into = args[i]
				}
			}
			filter, err := f.filter()
			if err != nil {
				return err
			}
			if filter == (bus.Filter{}) != f.all {
				return usagef("choose dead letters by group, key or flags, or all of them with --all, not both")
			}
			if f.rate < 0 {
				return usagef("--rate %g: give keys per second, or 0 for all at once", f.rate)
			}
			if !f.dryRun {
				if err := checkReason(f.reason); err != nil {
					return err
				}
			}
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error { return a.redrive(ctx, cmd, p.Bus(), filter, f) })
		},
		ValidArgsFunction: a.completeLetters(),
	}
	f.filterFlags.add(a, cmd)
	cmd.Flags().BoolVar(&f.all, "all", false, "all parked keys of all groups")
	cmd.Flags().Float64Var(&f.rate, "rate", 0, "keys per second; 0 for all at once")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only count, and check the failed events against their schemas")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until every key has been tried")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do it without asking")
	reasonFlag(cmd, &f.reason, false)
	return cmd
}

func (a *app) redrive(ctx context.Context, cmd *cobra.Command, b *bus.Bus, filter bus.Filter, f redriveFlags) error {
	preview, err := b.PreviewRedrive(ctx, filter)
	if err != nil {
		return err
	}
	if preview.Keys == 0 {
		return notFoundf("no parked key fits; see carebus dlq list")
	}
	for _, text := range preview.Invalid {
		fmt.Fprintln(cmd.ErrOrStderr(), "will fail again, its schema refuses it:", text)
	}
	report := redriveReport{Preview: preview}
	what := fmt.Sprintf("%s with %s are tried again.", plural(preview.Keys, "parked key"), plural(preview.Events, "waiting event"))
	if f.dryRun {
		if a.json() {
			return printJSON(cmd.OutOrStdout(), report)
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s with %s would be tried again; %d will fail, their schemas refuse them\n", plural(preview.Keys, "parked key"), plural(preview.Events, "waiting event"), len(preview.Invalid))
		return err
	}
	if err := a.confirm(cmd, f.yes, what); err != nil {
		return err
	}
	filter.Before = preview.Before
	job, err := b.Redrive(ctx, bus.Redrive{Filter: filter, Act: bus.Act{Actor: actor(), Reason: f.reason}, Rate: f.rate})
	if err != nil {
		return err
	}
	report.Job = &job
	if f.wait {
		if *report.Job, err = waitForJob(ctx, cmd, b, job); err != nil {
			return err
		}
	}
	if a.json() {
		return printJSON(cmd.OutOrStdout(), report)
	}
	return a.printJob(cmd, *report.Job)
}

func newDLQEditCommand(a *app) *cobra.Command {
	var reason, payload string
	var yes bool
	cmd := &cobra.Command{
		Use:   "edit GROUP KEY --payload FILE|- --reason TEXT",
		Short: "Let a group handle the failed event of a key with a corrected payload",
		Long: `Gives a group a corrected payload for the failed event of a key, and has the key tried again. History is not changed: the
correction is a new event that names the one it corrects, and other groups go on seeing the original. The corrected payload
must keep to the event's schema.`,
		Example: `carebus dlq show pharmacy RX1 --reveal -o json | jq .event.payload > fixed.json
  carebus dlq edit pharmacy RX1 --payload fixed.json --reason 'plan code mistyped' --yes`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkReason(reason); err != nil {
				return err
			}
			fixed, err := a.readPayload(payload)
			if err != nil {
				return err
			}
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				return a.correct(ctx, cmd, p, args[0], args[1], fixed, reason, yes)
			})
		},
		ValidArgsFunction: a.completeLetters(),
	}
	cmd.Flags().StringVar(&payload, "payload", "", "file with the corrected payload, or - for standard input")
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	_ = cmd.MarkFlagRequired("payload")
	_ = cmd.MarkFlagFilename("payload", "json")
	reasonFlag(cmd, &reason, true)
	return cmd
}

func (a *app) readPayload(name string) (json.RawMessage, error) {
	var data []byte
	var err error
	if name == "-" {
		data, err = io.ReadAll(a.stdin)
	} else if data, err = os.ReadFile(name); errors.Is(err, os.ErrNotExist) {
		return nil, notFoundf("%s: no such file", name)
	}
	return bytes.TrimSpace(data), err
}

func (a *app) correct(ctx context.Context, cmd *cobra.Command, p *carebus.Platform, group, key string, fixed json.RawMessage, reason string, yes bool) error {
	d, err := oneLetter(ctx, p.Bus(), group, key)
	if err != nil {
		return err
	}
	records, err := waitingEvents(ctx, p.Bus(), d, 1)
	if err != nil {
		return err
	}
	corrected := records[0].Event
	corrected.Payload = fixed
	if _, _, err := p.Check(ctx, corrected); err != nil {
		return explain(err)
	}
	changed := changedMembers(records[0].Payload, fixed)
	if len(changed) == 0 {
		return errNothingChanged
	}
	what := fmt.Sprintf("Group %s handles event %s (%s) of key %s with a corrected %s; %s with it are tried again.",
		group, records[0].ID, records[0].Type, key, strings.Join(changed, ", "), plural(d.Events, "waiting event"))
	if err := a.confirm(cmd, yes, what); err != nil {
		return err
	}
	if err := p.Bus().Correct(ctx, group, key, fixed, bus.Act{Actor: actor(), Reason: reason}); err != nil {
		return explain(err)
	}
	return a.printSettled(cmd, settled{Group: group, Key: key, Act: "corrected", Events: 1, EventID: records[0].ID, Waiting: d.Events})
}

// explain writes every finding of a refused payload.
func explain(err error) error {
	var invalid *event.InvalidError
	if !errors.As(err, &invalid) || len(invalid.Findings) == 0 {
		return err
	}
	lines := make([]string, len(invalid.Findings))
	for i, f := range invalid.Findings {
		lines[i] = f.String()
	}
	return fmt.Errorf("the corrected payload is refused: %s", strings.Join(lines, "; "))
}

// changedMembers names the members that differ between two payloads, and no values.
func changedMembers(before, after json.RawMessage) []string {
	var was, is map[string]any
	if json.Unmarshal(before, &was) != nil || json.Unmarshal(after, &is) != nil {
		return []string{"payload"}
	}
	changed := map[string]bool{}
	for name, v := range was {
		if other, ok := is[name]; !ok || !reflect.DeepEqual(v, other) {
			changed[name] = true
		}
	}
	for name := range is {
		if _, ok := was[name]; !ok {
			changed[name] = true
		}
	}
	return slices.Sorted(maps.Keys(changed))
}
