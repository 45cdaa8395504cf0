package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

func newDLQCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "dlq",
		Aliases: []string{"deadletter"},
		Short:   "Look at and settle what could not be handled",
		Long: `Looks at and settles dead letters. When a group fails on an event for good, the event's key is parked: that event and
the later ones of the key wait, in order, while all other keys go on. Settle the cause and redrive the key, or correct the
event, or give it up. Error texts and payloads may hold protected values, and are masked.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newDLQListCommand(a), newDLQShowCommand(a), newDLQRedriveCommand(a), newDLQSkipCommand(a), newDLQDiscardCommand(a), newDLQEditCommand(a))
	return cmd
}

// filterFlags choose dead letters.
type filterFlags struct{ group, key, class, eventType, text string }

func (f *filterFlags) add(a *app, cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.group, "group", "", "only of this group")
	cmd.Flags().StringVar(&f.key, "key", "", "only this partition key")
	cmd.Flags().StringVar(&f.class, "class", "", "only this kind of failure: dependency, permanent or suspect")
	cmd.Flags().StringVar(&f.eventType, "type", "", "only where an event of this type failed")
	cmd.Flags().StringVar(&f.text, "error", "", "only where the error text has this part")
	_ = cmd.RegisterFlagCompletionFunc("group", a.completeStored(groupNames))
	_ = cmd.RegisterFlagCompletionFunc("type", completeTypes)
	_ = cmd.RegisterFlagCompletionFunc("class", cobra.FixedCompletions([]string{"dependency", "permanent", "suspect"}, cobra.ShellCompDirectiveNoFileComp))
}

func (f *filterFlags) filter() (bus.Filter, error) {
	switch bus.Class(f.class) {
	case "", bus.Dependency, bus.Permanent, bus.Suspect:
	default:
		return bus.Filter{}, usagef("--class %s: no such kind of failure; use dependency, permanent or suspect", f.class)
	}
	return bus.Filter{Group: f.group, Key: f.key, Class: bus.Class(f.class), EventType: f.eventType, Error: f.text}, nil
}

// mask hides an error text, as the schema of the event that tells of it does.
func mask(reg *schema.Registry, d *bus.DeadLetter, reveal bool) {
	if reveal || d.Error == "" {
		return
	}
	payload, err := json.Marshal(map[string]string{"error": d.Error})
	if err != nil {
		payload = nil
	}
	var shown struct {
		Error string `json:"error"`
	}
	told := event.Event{Metadata: event.Metadata{Type: "platform.key.parked", Version: "1.0.0"}, Payload: payload}
	if err := json.Unmarshal(reg.Mask(told), &shown); err != nil {
		shown.Error = "•••"
	}
	d.Error = shown.Error
}

func newDLQListCommand(a *app) *cobra.Command {
	var f filterFlags
	var limit int
	var reveal bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List parked keys, the longest parked first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			filter, err := f.filter()
			if err != nil {
				return err
			}
			if limit < 1 {
				return usagef("--limit %d: give a number above 0", limit)
			}
			return a.withBus(cmd, func(ctx context.Context, p *carebus.Platform, b *bus.Bus) error {
				letters, err := b.DeadLetters(ctx, filter, limit+1)
				if err != nil {
					return err
				}
				if len(letters) > limit {
					letters = letters[:limit]
					fmt.Fprintf(cmd.ErrOrStderr(), "there are more than %d; choose with the flags, or raise --limit\n", limit)
				}
				rows := [][]string{}
				for i := range letters {
					d := &letters[i]
					mask(p.Registry(), d, reveal)
					rows = append(rows, []string{d.Group, d.Key, fmt.Sprint(d.Events), string(d.Class), d.EventType, fmt.Sprint(d.Attempts), d.ParkedAt.Format(time.RFC3339), d.State, d.Error})
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), letters)
				}
				if len(letters) == 0 {
					fmt.Fprintln(cmd.ErrOrStderr(), "nothing is parked")
				}
				return a.table(cmd.OutOrStdout(), []string{"group", "key", "events", "class", "failed on", "tries", "parked", "state", "error"}, rows)
			})
		},
	}
	f.add(a, cmd)
	cmd.Flags().IntVar(&limit, "limit", 200, "list at most so many")
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show error texts")
	return cmd
}

// letterPage is what `carebus dlq show -o json` prints.
type letterPage struct {
	bus.DeadLetter
	Event   record   `json:"event"`   // the one that failed
	Waiting []record `json:"waiting"` // it and the events behind it
	More    bool     `json:"more,omitempty"`
}

// maxWaiting is how many waiting events of a key are shown.
const maxWaiting = 50

func newDLQShowCommand(a *app) *cobra.Command {
	var reveal bool
	cmd := &cobra.Command{
		Use:   "show GROUP KEY",
		Short: "Show a parked key: the failed event, why, and what waits behind it",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withBus(cmd, func(ctx context.Context, p *carebus.Platform, b *bus.Bus) error {
				page, err := readLetter(ctx, p, b, args[0], args[1], reveal)
				if err != nil {
					return err
				}
				return a.printLetter(cmd, page)
			})
		},
		ValidArgsFunction: a.completeLetters(),
	}
	cmd.Flags().BoolVar(&reveal, "reveal", false, "show the error text and protected values")
	return cmd
}

// oneLetter finds the dead letter of a group and key.
func oneLetter(ctx context.Context, b *bus.Bus, group, key string) (bus.DeadLetter, error) {
	letters, err := b.DeadLetters(ctx, bus.Filter{Group: group, Key: key}, 1)
	if err != nil {
		return bus.DeadLetter{}, err
	}
	if len(letters) == 0 {
		return bus.DeadLetter{}, notFoundf("group %s has no parked key %s; see carebus dlq list", group, key)
	}
	return letters[0], nil
}

// waitingEvents reads what waits of a parked key, the failed event first.
func waitingEvents(ctx context.Context, b *bus.Bus, d bus.DeadLetter, limit int) ([]eventstore.Record, error) {
	records, err := b.Waiting(ctx, d, limit)
	if err == nil && len(records) == 0 {
		err = fmt.Errorf("the events of group %s, key %s are not in the log; run carebus verify", d.Group, d.Key)
	}
	return records, err
}

func readLetter(ctx context.Context, p *carebus.Platform, b *bus.Bus, group, key string, reveal bool) (page letterPage, err error) {
	if page.DeadLetter, err = oneLetter(ctx, b, group, key); err != nil {
		return page, err
	}
	records, err := waitingEvents(ctx, b, page.DeadLetter, maxWaiting+1)
	if err != nil {
		return page, err
	}
	if len(records) > maxWaiting {
		records, page.More = records[:maxWaiting], true
	}
	for _, r := range records {
		page.Waiting = append(page.Waiting, show(p.Registry(), r, reveal))
	}
	page.Event = page.Waiting[0]
	page.EventID, page.EventType = page.Event.Metadata.ID, page.Event.Metadata.Type
	mask(p.Registry(), &page.DeadLetter, reveal)
	return page, nil
}

func (a *app) printLetter(cmd *cobra.Command, page letterPage) error {
	w, m := cmd.OutOrStdout(), page.Event.Metadata
	if a.json() {
		return printJSON(w, page)
	}
	err := fields(w, "group", page.Group, "key", page.Key, "state", page.State, "class", string(page.Class), "error", page.Error,
		"tries", fmt.Sprint(page.Attempts), "parked", page.ParkedAt.Format(time.RFC3339), "next try", page.NextTry.Format(time.RFC3339), "job", page.Job,
		"waiting", plural(page.Events, "event"), "event", m.ID, "type", m.Type+" "+m.Version, "source", m.Source, "time", factTime(m),
		"correlation", m.CorrelationID, "place", page.Event.place())
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "\n%s\n", indented(page.Event.Payload, "")); err != nil || len(page.Waiting) < 2 {
		return err
	}
	rows := [][]string{}
	for _, r := range page.Waiting[1:] {
		rows = append(rows, []string{r.Metadata.ID, r.Metadata.Type, factTime(r.Metadata), r.place()})
	}
	fmt.Fprintln(w)
	if err := a.table(w, []string{"waiting behind it", "type", "time", "place"}, rows); err != nil {
		return err
	}
	if page.More {
		fmt.Fprintf(cmd.ErrOrStderr(), "only the first %d are shown\n", maxWaiting)
	}
	return nil
}

// completeLetters offers groups and then their parked keys.
func (a *app) completeLetters() cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return a.completeStored(groupNames)(cmd, args, begun)
		case 1:
			return a.completeStored(func(cmd *cobra.Command, p *carebus.Platform, begun string) (keys []string, err error) {
				b, err := bus.New(cmd.Context(), p.Store(), nil)
				if err != nil {
					return nil, err
				}
				letters, err := b.DeadLetters(cmd.Context(), bus.Filter{Group: args[0]}, 200)
				for _, d := range letters {
					if strings.HasPrefix(d.Key, begun) {
						keys = append(keys, d.Key)
					}
				}
				return keys, err
			})(cmd, args, begun)
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// settled is what the commands that settle one parked key print with -o json.
type settled struct {
	Group   string `json:"group"`
	Key     string `json:"key"`
	Act     string `json:"act"`
	Events  int64  `json:"events"` // given up, or corrected
	EventID string `json:"eventId"`
	Waiting int64  `json:"waiting"` // events of the key that still wait
}

func (a *app) printSettled(cmd *cobra.Command, s settled) error {
	if a.json() {
		return printJSON(cmd.OutOrStdout(), s)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s of group %s, key %s; %s still waiting\n", s.Act, plural(s.Events, "event"), s.Group, s.Key, plural(s.Waiting, "event"))
	return err
}

func newDLQSkipCommand(a *app) *cobra.Command {
	return newGiveUpCommand(a, &cobra.Command{
		Use:   "skip GROUP KEY --reason TEXT",
		Short: "Give up the failed event of a key; those behind it are tried at once",
	}, func(d bus.DeadLetter) (settled, string) {
		return settled{Group: d.Group, Key: d.Key, Act: "skipped", Events: 1, EventID: d.EventID, Waiting: d.Events - 1},
			fmt.Sprintf("Group %s never handles event %s (%s) of key %s; %s behind it come next.", d.Group, d.EventID, d.EventType, d.Key, plural(d.Events-1, "event"))
	}, (*bus.Bus).Skip)
}

func newDLQDiscardCommand(a *app) *cobra.Command {
	return newGiveUpCommand(a, &cobra.Command{
		Use:   "discard GROUP KEY --reason TEXT",
		Short: "Give up all waiting events of a key",
	}, func(d bus.DeadLetter) (settled, string) {
		return settled{Group: d.Group, Key: d.Key, Act: "discarded", Events: d.Events, EventID: d.EventID},
			fmt.Sprintf("Group %s never handles the %s of key %s that wait now.", d.Group, plural(d.Events, "event"), d.Key)
	}, (*bus.Bus).Discard)
}

// newGiveUpCommand completes a command that gives up events of a parked key.
func newGiveUpCommand(a *app, cmd *cobra.Command, preview func(bus.DeadLetter) (settled, string), do func(b *bus.Bus, ctx context.Context, group, key string, act bus.Act) error) *cobra.Command {
	var reason string
	var yes bool
	cmd.Args = cobra.ExactArgs(2)
	cmd.ValidArgsFunction = a.completeLetters()
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkReason(reason); err != nil {
			return err
		}
		return a.with(cmd, nil, func(ctx context.Context, p *carebus.Platform) error {
			d, err := oneLetter(ctx, p.Bus(), args[0], args[1])
			if err != nil {
				return err
			}
			s, what := preview(d)
			if err := a.confirm(cmd, yes, what); err != nil {
				return err
			}
			if err := do(p.Bus(), ctx, d.Group, d.Key, bus.Act{Actor: actor(), Reason: reason}); err != nil {
				return err
			}
			return a.printSettled(cmd, s)
		})
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	reasonFlag(cmd, &reason, true)
	return cmd
}

var errNothingChanged = errors.New("the payload says the same as the event already does; nothing was done")
