package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
)

type replayFlags struct {
	from, to, reason string
	fresh, yes, wait bool
}

// replayReport is what `carebus replay -o json` prints.
type replayReport struct {
	Group  string `json:"group"`
	Events int64  `json:"events"` // in the part that is replayed; the group's patterns choose among them
	From   string `json:"from"`
	To     string `json:"to"`
	State  string `json:"state"` // "begun"; with --wait "done"; "nothing" when there was nothing to do
}

func newReplayCommand(a *app) *cobra.Command {
	var f replayFlags
	cmd := &cobra.Command{
		Use:   "replay GROUP --from PLACE --reason TEXT",
		Short: "Let a consumer group handle a part of the log again",
		Long: `Moves a consumer group back to a place in the log. It handles the part from there up to --to again, each event marked as
replayed, and then goes on where it was. What is handled again is what the group's patterns fit; its handlers decide
about effects outside. To only look at old events, use carebus tail --from.`,
		Example: "carebus replay prior-auth --from -1h --reason 'fixed the payer lookup' --yes --wait",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now()
			from, err := parsePosition("from", f.from, now)
			if err != nil {
				return err
			}
			to, err := parsePosition("to", f.to, now)
			if err != nil {
				return err
			}
			if strings.TrimSpace(f.reason) == "" {
				return usagef("--reason is empty; say why, for the audit")
			}
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				return a.replay(ctx, cmd, p, args[0], from, to, f)
			})
		},
		ValidArgsFunction: completeOne(a.completeStored(groupNames)),
	}
	cmd.Flags().StringVar(&f.from, "from", "", "where to begin: "+positionHelp)
	cmd.Flags().StringVar(&f.to, "to", "now", "where to end, in the same words")
	cmd.Flags().StringVar(&f.reason, "reason", "", "why, for the audit")
	cmd.Flags().BoolVar(&f.fresh, "new", false, "the group has never run; create it")
	cmd.Flags().BoolVar(&f.yes, "yes", false, "do it without asking")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until the group has handled it all")
	_ = cmd.MarkFlagRequired("from")
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}

// groupNames are the groups that begin so, for completion.
func groupNames(cmd *cobra.Command, p *carebus.Platform, begun string) (names []string, err error) {
	b, err := bus.New(cmd.Context(), p.Store(), nil)
	if err != nil {
		return nil, err
	}
	groups, err := b.Groups(cmd.Context())
	for _, g := range groups {
		if strings.HasPrefix(g.Name, begun) {
			names = append(names, g.Name)
		}
	}
	return names, err
}

func (a *app) replay(ctx context.Context, cmd *cobra.Command, p *carebus.Platform, group string, from, to position, f replayFlags) error {
	status, err := p.Bus().Group(ctx, group)
	unknown := errors.Is(err, bus.ErrNoGroup)
	switch {
	case unknown && !f.fresh:
		return notFoundf("no group %s has run on this store; see carebus group list, or add --new to create it", group)
	case err == nil && f.fresh:
		return usagef("--new: group %s exists; leave --new out", group)
	case err != nil && !unknown:
		return err
	}
	events, err := replayed(ctx, p, status, from, to)
	if err != nil {
		return err
	}
	report := replayReport{Group: group, Events: events, From: f.from, To: f.to, State: "begun"}
	if events == 0 && !unknown {
		report.State = "nothing"
		fmt.Fprintf(cmd.ErrOrStderr(), "group %s has handled nothing between %s and %s; nothing was done\n", group, f.from, f.to)
		return a.printReplay(cmd, report)
	}
	what := fmt.Sprintf("Group %s handles %s again, from %s to %s, as far as its patterns fit.", group, plural(events, "event"), f.from, f.to)
	if unknown {
		what = fmt.Sprintf("New group %s handles %s, from %s to %s, when it first runs.", group, plural(events, "event"), f.from, f.to)
	}
	if status.Replay != nil {
		what += fmt.Sprintf(" It takes the place of a replay under way (%d of %d done).", status.Replay.Done, status.Replay.Total)
	}
	if err := a.confirm(cmd, f.yes, what); err != nil {
		return err
	}
	if err := p.Bus().Replay(ctx, group, from.target(), to.target(), bus.Act{Actor: actor(), Reason: f.reason}); err != nil {
		return err
	}
	if f.wait {
		if err := waitForReplay(ctx, cmd, p, group); err != nil {
			return err
		}
		report.State = "done"
	}
	return a.printReplay(cmd, report)
}

func (a *app) printReplay(cmd *cobra.Command, r replayReport) error {
	if a.json() {
		return printJSON(cmd.OutOrStdout(), r)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "replay of %s to %s: %s\n", plural(r.Events, "event"), r.Group, r.State)
	return err
}

// replayed counts the events between two places, up to where the group is.
func replayed(ctx context.Context, p *carebus.Platform, status bus.GroupStatus, from, to position) (events int64, err error) {
	if err := errors.Join(from.exists(p.Store()), to.exists(p.Store())); err != nil {
		return 0, err
	}
	type place struct {
		topic     string
		partition int
	}
	read := func(to bus.Target) (map[place]int64, error) {
		at, err := p.Bus().Resolve(ctx, status.Name, to)
		out := map[place]int64{}
		for _, one := range at {
			out[place{one.Topic, one.Partition}] = one.Offset
		}
		return out, err
	}
	starts, err := read(from.target())
	if err != nil {
		return 0, err
	}
	ends, err := read(to.target())
	if err != nil {
		return 0, err
	}
	heads, err := read(bus.End())
	if err != nil {
		return 0, err
	}
	if status.Replay == nil { // in a replay the group is behind where it will go on
		for _, s := range status.Partitions {
			at := place{s.Topic, s.Partition}
			heads[at] = min(heads[at], s.Next)
		}
	}
	for at, start := range starts {
		end := heads[at]
		if bound, ok := ends[at]; ok {
			end = min(end, bound)
		}
		events += max(0, end-start)
	}
	return events, nil
}

// waitForReplay returns when the group has no replay under way any more. A group that nobody runs is waited for too.
func waitForReplay(ctx context.Context, cmd *cobra.Command, p *carebus.Platform, group string) error {
	bar := newProgress(cmd.ErrOrStderr(), "replaying")
	defer bar.end()
	told, total := false, int64(0)
	for {
		tick := p.Store().Tick()
		s, err := p.Bus().Group(ctx, group)
		if err != nil {
			return err
		}
		switch {
		case s.Replay == nil || s.Replay.Done >= s.Replay.Total:
			return nil
		case s.State != "running":
			return fmt.Errorf("group %s is %s (%s); the replay goes on when it is resumed", group, s.State, s.Reason)
		case len(s.Members) == 0 && !told:
			fmt.Fprintf(cmd.ErrOrStderr(), "no process runs group %s now; waiting for one\n", group)
			told = true
		}
		left := s.Replay.Total - s.Replay.Done // partitions that are through no longer count
		total = max(total, left)
		bar.set(total-left, total)
		if _, err := p.Store().Wait(ctx, tick); err != nil {
			return fmt.Errorf("the replay goes on, but is not waited for any more: %w", err)
		}
	}
}
