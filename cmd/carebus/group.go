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

func newGroupCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "group",
		Short: "Look at and steer consumer groups",
		Long: `Looks at and steers the consumer groups of a store, whichever processes run them: the store carries the wish, and every
member obeys it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newGroupListCommand(a), newGroupShowCommand(a), newGroupPauseCommand(a), newGroupResumeCommand(a), newGroupSeekCommand(a))
	return cmd
}

// withBus opens an existing store to look at its groups.
func (a *app) withBus(cmd *cobra.Command, fn func(ctx context.Context, p *carebus.Platform, b *bus.Bus) error) error {
	return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
		b, err := bus.New(ctx, p.Store(), nil) // a read-only platform has none
		if err != nil {
			return err
		}
		return fn(ctx, p, b)
	})
}

func newGroupListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List groups with their lag and parked keys",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withBus(cmd, func(ctx context.Context, _ *carebus.Platform, b *bus.Bus) error {
				groups, err := b.Groups(ctx)
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), groups)
				}
				if len(groups) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "no group has run on this store yet; carebus demo runs some")
				}
				return a.printGroups(cmd, groups)
			})
		},
	}
}

func (a *app) printGroups(cmd *cobra.Command, groups []bus.GroupStatus) error {
	rows := [][]string{}
	for _, g := range groups {
		rows = append(rows, []string{g.Name, g.State, lagText(g), fmt.Sprint(g.ParkedKeys), fmt.Sprint(g.Waiting), fmt.Sprint(len(g.Members)), strings.Join(g.Patterns, " ")})
	}
	return a.table(cmd.OutOrStdout(), []string{"group", "state", "lag", "parked keys", "parked events", "members", "patterns"}, rows)
}

// lagText is a group's lag for people.
func lagText(g bus.GroupStatus) string {
	if g.LagUnknown {
		return "unknown: Kafka cannot be reached"
	}
	return fmt.Sprint(g.Lag)
}

func newGroupShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "show GROUP",
		Short: "Show one group, partition by partition",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBus(cmd, func(ctx context.Context, _ *carebus.Platform, b *bus.Bus) error {
				g, err := b.Group(ctx, args[0])
				if err != nil {
					return err
				}
				return a.printGroup(cmd, g)
			})
		},
		ValidArgsFunction: completeOne(a.completeStored(groupNames)),
	}
}

func (a *app) printGroup(cmd *cobra.Command, g bus.GroupStatus) error {
	w := cmd.OutOrStdout()
	if a.json() {
		return printJSON(w, g)
	}
	replay := ""
	if g.Replay != nil {
		replay = fmt.Sprintf("%d of %d", g.Replay.Done, g.Replay.Total)
	}
	err := fields(w, "group", g.Name, "state", g.State, "reason", g.Reason, "version", g.Version, "patterns", strings.Join(g.Patterns, " "),
		"members", strings.Join(g.Members, " "), "lag", lagText(g), "parked keys", fmt.Sprint(g.ParkedKeys), "parked events", fmt.Sprint(g.Waiting), "replay", replay)
	if err != nil || len(g.Partitions) == 0 {
		return err
	}
	rows := [][]string{}
	for _, p := range g.Partitions {
		name := fmt.Sprint(p.Partition)
		if p.Topic != "" {
			name = p.Topic + "/" + name
		}
		rows = append(rows, []string{name, fmt.Sprint(p.Next), fmt.Sprint(p.Head), fmt.Sprint(p.Head - p.Next), p.Owner})
	}
	fmt.Fprintln(w)
	return a.table(w, []string{"partition", "next", "head", "lag", "owner"}, rows)
}

func newGroupPauseCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "pause GROUP --reason TEXT",
		Short: "Make every member of a group stop after what it has in hand",
		Long:  "Makes every member of a group stop after what it has in hand, in all processes, until it is resumed. Events wait in the log.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.steer(cmd, args[0], reason, true, func(ctx context.Context, b *bus.Bus, act bus.Act) error { return b.Pause(ctx, args[0], act) })
		},
		ValidArgsFunction: completeOne(a.completeStored(groupNames)),
	}
	reasonFlag(cmd, &reason, true)
	return cmd
}

func newGroupResumeCommand(a *app) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "resume GROUP",
		Short: "Let a paused or stopped group go on",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.steer(cmd, args[0], reason, false, func(ctx context.Context, b *bus.Bus, act bus.Act) error { return b.Resume(ctx, args[0], act) })
		},
		ValidArgsFunction: completeOne(a.completeStored(groupNames)),
	}
	reasonFlag(cmd, &reason, false)
	return cmd
}

// reasonFlag is how the commands that change something ask why.
func reasonFlag(cmd *cobra.Command, reason *string, required bool) {
	cmd.Flags().StringVar(reason, "reason", "", "why, for the audit")
	if required {
		_ = cmd.MarkFlagRequired("reason")
	}
}

func checkReason(reason string) error {
	if strings.TrimSpace(reason) == "" {
		return usagef("--reason is empty; say why, for the audit")
	}
	return nil
}

// steer does something to a group and shows the group as it is then.
func (a *app) steer(cmd *cobra.Command, group, reason string, required bool, do func(ctx context.Context, b *bus.Bus, act bus.Act) error) error {
	if required {
		if err := checkReason(reason); err != nil {
			return err
		}
	}
	return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
		if err := do(ctx, p.Bus(), bus.Act{Actor: actor(), Reason: reason}); err != nil {
			return err
		}
		g, err := p.Bus().Group(ctx, group)
		if err != nil {
			return err
		}
		if a.json() {
			return printJSON(cmd.OutOrStdout(), g)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "group %s is %s, lag %s\n", g.Name, g.State, lagText(g))
		return err
	})
}

func newGroupSeekCommand(a *app) *cobra.Command {
	var to, reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   "seek GROUP --to PLACE --reason TEXT",
		Short: "Move a group to another place in the log for good",
		Long: `Moves a group to another place. Going back makes it handle events again as if for the first time; going forward skips
events for good. To handle a part again and then go on, use carebus replay.`,
		Example: "carebus group seek prior-auth --to now --reason 'the backlog was settled by hand' --yes",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := parsePosition("to", to, time.Now())
			if err != nil {
				return err
			}
			if err := checkReason(reason); err != nil {
				return err
			}
			return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
				what, err := seekPreview(ctx, p, args[0], to, place)
				if err != nil {
					return err
				}
				if err := a.confirm(cmd, yes, what); err != nil {
					return err
				}
				if err := p.Bus().Seek(ctx, args[0], place.target(), bus.Act{Actor: actor(), Reason: reason}); err != nil {
					return err
				}
				g, err := p.Bus().Group(ctx, args[0])
				if err != nil {
					return err
				}
				return a.printGroup(cmd, g)
			})
		},
		ValidArgsFunction: completeOne(a.completeStored(groupNames)),
	}
	cmd.Flags().StringVar(&to, "to", "", "where to: "+positionHelp)
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	_ = cmd.MarkFlagRequired("to")
	reasonFlag(cmd, &reason, true)
	return cmd
}

// seekPreview says what a seek would do, with counts.
func seekPreview(ctx context.Context, p *carebus.Platform, group, to string, place position) (string, error) {
	g, err := p.Bus().Group(ctx, group)
	if err != nil {
		return "", err
	}
	if err := place.exists(p.Store()); err != nil {
		return "", err
	}
	targets, err := p.Bus().Resolve(ctx, group, place.target())
	if err != nil {
		return "", err
	}
	var again, skipped int64
	for _, t := range targets {
		for _, s := range g.Partitions {
			if s.Topic == t.Topic && s.Partition == t.Partition {
				again += max(0, s.Next-t.Offset)
				skipped += max(0, t.Offset-s.Next)
			}
		}
	}
	what := fmt.Sprintf("Group %s moves to %s: %s handled again, %s skipped for good, as far as its patterns fit.", group, to, plural(again, "event"), plural(skipped, "event"))
	if g.ParkedKeys > 0 && again > 0 {
		what += fmt.Sprintf(" Of its %s those that come again are parked no more.", plural(g.ParkedKeys, "parked key"))
	}
	if g.Replay != nil {
		what += " The replay under way ends."
	}
	return what, nil
}
