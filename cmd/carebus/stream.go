package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore"
)

func newStreamCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "stream",
		Short: "Look at streams, the histories of entities",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newStreamShowCommand(a), newStreamListCommand(a))
	return cmd
}

type streamFlags struct {
	from            int64
	limit           int
	backward        bool
	at              string
	payload, reveal bool
}

// streamPage is what `carebus stream show -o json` prints.
type streamPage struct {
	Stream  string   `json:"stream"`
	Version int64    `json:"version"` // of the stream: the number of its events
	Events  []record `json:"events"`
	Next    int64    `json:"next,omitempty"` // the --from that goes on behind the last event shown
}

func newStreamShowCommand(a *app) *cobra.Command {
	var f streamFlags
	cmd := &cobra.Command{
		Use:     "show STREAM",
		Short:   "Show the history of one entity",
		Long:    "Shows the events of a stream in order. Protected values of payloads are masked.",
		Example: "carebus stream show patient.record/P987654321 --at 2026-03-01T00:00:00Z",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var at time.Time
			if f.at != "" {
				var err error
				if at, err = parseTime("at", f.at, time.Now()); err != nil {
					return err
				}
			}
			if f.limit < 0 || f.from < 0 {
				return usagef("--from and --limit are not negative")
			}
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				page, err := readStream(ctx, p, args[0], f, at)
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), page)
				}
				return a.printStream(cmd, page, f)
			})
		},
		ValidArgsFunction: completeOne(a.completeStored(func(cmd *cobra.Command, p *carebus.Platform, begun string) ([]string, error) {
			return p.Store().Streams(cmd.Context(), begun, "", 100)
		})),
	}
	cmd.Flags().Int64Var(&f.from, "from", 0, "first version shown, counted from 1 (backward: the newest)")
	cmd.Flags().IntVar(&f.limit, "limit", 100, "show at most so many events; 0 for all")
	cmd.Flags().BoolVar(&f.backward, "backward", false, "newest first")
	cmd.Flags().StringVar(&f.at, "at", "", "as the stream was at this time: what had been recorded by then")
	cmd.Flags().BoolVar(&f.payload, "payload", false, "show payloads too (-o json always has them)")
	cmd.Flags().BoolVar(&f.reveal, "reveal", false, "show protected values")
	return cmd
}

// readStream reads the part of a stream that the flags ask for.
func readStream(ctx context.Context, p *carebus.Platform, stream string, f streamFlags, at time.Time) (streamPage, error) {
	page := streamPage{Stream: stream, Events: []record{}}
	var err error
	if page.Version, err = p.Store().StreamVersion(ctx, stream); err != nil {
		return page, err
	}
	if page.Version == 0 {
		return page, notFoundf("no stream %s; see carebus stream list", stream)
	}
	q := eventstore.StreamQuery{Stream: stream, From: f.from, Backward: f.backward, Limit: 500}
	if q.From == 0 && !f.backward {
		q.From = 1
	}
	for q.Backward || q.From <= page.Version {
		records, err := p.Store().Stream(ctx, q)
		if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return page, err
		}
		for _, r := range records {
			if !at.IsZero() && r.RecordedAt.After(at) {
				if f.backward {
					continue
				}
				return page, nil
			}
			if f.limit > 0 && len(page.Events) == f.limit {
				page.Next = r.StreamVersion
				return page, nil
			}
			page.Events = append(page.Events, show(p.Registry(), r, f.reveal))
		}
		if len(records) < q.Limit {
			break
		}
		last := records[len(records)-1].StreamVersion
		if q.From = last + 1; f.backward {
			if q.From = last - 1; q.From == 0 {
				break
			}
		}
	}
	return page, nil
}

func (a *app) printStream(cmd *cobra.Command, page streamPage, f streamFlags) error {
	w := cmd.OutOrStdout()
	rows := [][]string{}
	for _, r := range page.Events {
		rows = append(rows, []string{fmt.Sprint(r.StreamVersion), factTime(r.Metadata), r.Metadata.Type, r.Metadata.Version, r.Metadata.ID, r.Metadata.Source, r.place()})
	}
	if !f.payload {
		if err := a.table(w, []string{"version", "time", "type", "schema", "event", "source", "place"}, rows); err != nil {
			return err
		}
	} else {
		for i, r := range page.Events {
			if _, err := fmt.Fprintf(w, "%s  %s  %s  %s\n    %s\n", rows[i][0], rows[i][1], rows[i][2], rows[i][4], compact(r.Payload)); err != nil {
				return err
			}
		}
	}
	if page.Next > 0 {
		fmt.Fprintf(cmd.ErrOrStderr(), "of %s; go on with --from %d\n", plural(page.Version, "event"), page.Next)
	}
	return nil
}

type streamEntry struct {
	Stream  string `json:"stream"`
	Version int64  `json:"version"`
}

func newStreamListCommand(a *app) *cobra.Command {
	var after string
	var limit int
	cmd := &cobra.Command{
		Use:     "list [PREFIX]",
		Short:   "List streams by name",
		Example: "carebus stream list patient.record/",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usagef("--limit %d: give a number above 0", limit)
			}
			prefix := ""
			if len(args) == 1 {
				prefix = args[0]
			}
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				names, err := p.Store().Streams(ctx, prefix, after, limit)
				if err != nil {
					return err
				}
				entries, rows := []streamEntry{}, [][]string{}
				for _, n := range names {
					v, err := p.Store().StreamVersion(ctx, n)
					if err != nil {
						return err
					}
					entries = append(entries, streamEntry{n, v})
					rows = append(rows, []string{n, fmt.Sprint(v)})
				}
				if len(names) == limit {
					fmt.Fprintf(cmd.ErrOrStderr(), "there may be more; go on with --after %s\n", names[limit-1])
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), entries)
				}
				return a.table(cmd.OutOrStdout(), []string{"stream", "version"}, rows)
			})
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&after, "after", "", "begin behind this name")
	cmd.Flags().IntVar(&limit, "limit", 200, "list at most so many")
	return cmd
}
