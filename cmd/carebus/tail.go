package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

type tailFlags struct {
	from, correlation, key string
	limit                  int64
	noFollow               bool
	payload, reveal        bool
}

func newTailCommand(a *app) *cobra.Command {
	var f tailFlags
	cmd := &cobra.Command{
		Use:   "tail [PATTERN...]",
		Short: "Show events as they are stored",
		Long: `Follows the store, and prints every event of the types that a pattern fits: "medication.prescription.*",
"patient.**". Without a pattern all types are shown, except carebus's own, which "platform.**" names. With -o json each
event is one line of JSON. Protected values of payloads are masked.`,
		Example: `carebus tail --from beginning
  carebus tail 'priorauth.**' --from -1h --payload
  carebus tail --no-follow -o json --correlation C1 | jq .metadata.eventType`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.from == "" {
				f.from = "now"
				if f.noFollow {
					f.from = "beginning"
				}
			}
			from, err := parsePosition("from", f.from, time.Now())
			if err != nil {
				return err
			}
			for _, pattern := range args {
				if err := bus.CheckPattern(pattern); err != nil {
					return err
				}
			}
			if f.limit < 0 {
				return usagef("--limit %d: give a number of events, or 0 for all", f.limit)
			}
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				t := &tailer{a: a, p: p, f: f, w: cmd.OutOrStdout(), match: matchAny(args)}
				err := t.run(ctx, from)
				if errors.Is(err, context.Canceled) {
					return nil // a person has seen enough
				}
				return err
			})
		},
		ValidArgsFunction: completePatterns,
	}
	cmd.Flags().StringVar(&f.from, "from", "", "where to begin: "+positionHelp+" (default now; with --no-follow the beginning)")
	cmd.Flags().BoolVar(&f.noFollow, "no-follow", false, "end at the last event stored")
	cmd.Flags().Int64Var(&f.limit, "limit", 0, "end after so many events; 0 for no limit")
	cmd.Flags().StringVar(&f.correlation, "correlation", "", "only events of this flow")
	cmd.Flags().StringVar(&f.key, "key", "", "only events with this partition key")
	cmd.Flags().BoolVar(&f.payload, "payload", false, "show payloads too (-o json always has them)")
	cmd.Flags().BoolVar(&f.reveal, "reveal", false, "show protected values")
	return cmd
}

// matchAny chooses the event types that some pattern fits; without patterns all.
func matchAny(patterns []string) func(string) bool {
	if len(patterns) == 0 {
		patterns = []string{"**"}
	}
	return func(eventType string) bool {
		return slices.ContainsFunc(patterns, func(p string) bool { return bus.Matches(p, eventType) })
	}
}

// tailer follows a store.
type tailer struct {
	a     *app
	p     *carebus.Platform
	f     tailFlags
	w     io.Writer
	match func(string) bool
	seen  int64
	after time.Time // with --correlation: what was recorded up to then has been seen
}

// run shows what is stored from a position on, and then what comes.
func (t *tailer) run(ctx context.Context, from position) error {
	store := t.p.Store()
	next, err := from.offsets(ctx, store)
	if err != nil {
		return err
	}
	for p := range next {
		// A key lives in one partition, and a position in one partition says nothing of others: the rest is never read.
		if next[p] < 0 || t.f.key != "" && p != eventstore.PartitionOf(t.f.key, len(next)) {
			next[p] = math.MaxInt64
		}
	}
	for {
		tick := store.Tick()
		heads, err := store.Heads(ctx)
		if err != nil {
			return err
		}
		if err := t.p.Refresh(ctx); err != nil { // masks of types registered meanwhile
			return err
		}
		for r, err := range t.records(ctx, next) {
			if err != nil {
				return err
			}
			next[r.Partition] = r.Offset + 1
			if t.f.key != "" && r.PartitionKey != t.f.key {
				continue
			}
			if err := t.print(r); err != nil {
				return err
			}
			if t.seen++; t.f.limit > 0 && t.seen == t.f.limit {
				return nil
			}
		}
		for p := range next {
			next[p] = max(next[p], heads[p])
		}
		if t.f.noFollow {
			return nil
		}
		if _, err := store.Wait(ctx, tick); err != nil {
			return err
		}
	}
}

// records are the events from next on of the types wanted, in the order they were recorded; those of one flow come from
// the store's index. The caller moves next past each.
func (t *tailer) records(ctx context.Context, next []int64) iter.Seq2[eventstore.Record, error] {
	store := t.p.Store()
	if t.f.correlation == "" {
		return store.All(ctx, next, t.match)
	}
	return func(yield func(eventstore.Record, error) bool) {
		// A microsecond has one event per partition at most, so a page ends behind the microsecond that it began with.
		page := store.Partitions() + 1000
		after := t.after
		for {
			records, err := store.Correlation(ctx, t.f.correlation, after, page)
			if err != nil {
				yield(eventstore.Record{}, err)
				return
			}
			for _, r := range records {
				if r.Offset >= next[r.Partition] && t.match(r.Type) && !yield(r, nil) {
					return
				}
			}
			if len(records) == 0 {
				return
			}
			last := records[len(records)-1].RecordedAt
			if len(records) < page {
				t.after = last.Add(-time.Minute) // clocks of processes differ a little
				return
			}
			after = last.Add(-time.Microsecond)
		}
	}
}

func (t *tailer) print(r eventstore.Record) error {
	if t.a.json() {
		return printLine(t.w, show(t.p.Registry(), r, t.f.reveal))
	}
	_, err := fmt.Fprintf(t.w, "%s  %-36s  %-16s  %s  %-20s  %d:%d\n", factTime(r.Metadata), r.Type, r.PartitionKey, r.ID, r.Source, r.Partition, r.Offset)
	if err == nil && t.f.payload {
		_, err = fmt.Fprintf(t.w, "    %s\n", compact(show(t.p.Registry(), r, t.f.reveal).Payload))
	}
	return err
}
