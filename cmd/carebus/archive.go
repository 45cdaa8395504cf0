package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore/archive"
	"github.com/carebus/carebus/eventstore/migrate"
)

func newArchiveCommand(a *app) *cobra.Command {
	var to, before string
	var fileBytes int64
	cmd := &cobra.Command{
		Use:   "archive --to DIR --before TIME",
		Short: "Write closed periods to compressed files, and read them",
		Long: `Writes every event recorded before a time to compressed files in a folder, with the store's hash chain, so that they can be
read and proved without the store, and made a store again. Nothing is removed from the store, and nobody waits.

Run it again with a later time and it goes on behind what is there; broken off at any point it goes on too. The payloads
in the files are as they are in the store: keep the folder on an encrypted disk.`,
		Example: `carebus archive --to /archive/care --before 2026-01-01
carebus archive read /archive/care 'medication.**' --from 2025-03-01 --to 2025-04-01
carebus verify --archive /archive/care
carebus archive restore /archive/care --to sqlite:then.db`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			at, err := parseTime("before", before, time.Now())
			if err != nil {
				return err
			}
			store, err := a.engine(cmd.Context())
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, store.Close()) }()
			bar := newProgress(cmd.ErrOrStderr(), "archiving")
			report, err := archive.Write(cmd.Context(), store, to, at, &archive.Options{Progress: bar.set, FileBytes: fileBytes})
			bar.end()
			if err != nil {
				return err
			}
			if a.json() {
				return printJSON(cmd.OutOrStdout(), report)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s archived in %s, %d bytes; the archive has %s, all recorded before %s\n",
				plural(report.Added, "event"), plural(int64(report.Files), "file"), report.Bytes, plural(report.Events, "event"), report.Before.Format(time.RFC3339))
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the folder of the archive; it is created")
	cmd.Flags().StringVar(&before, "before", "", "archive what was recorded before: 2026-01-01, 2026-01-01T10:00:00Z, or a time ago such as -90d")
	cmd.Flags().Int64Var(&fileBytes, "file-bytes", 256<<20, "size of a file before compression")
	_ = cmd.MarkFlagRequired("to")
	_ = cmd.MarkFlagRequired("before")
	cmd.AddCommand(newArchiveListCommand(a), newArchiveReadCommand(a), newArchiveRestoreCommand(a))
	return cmd
}

// engine opens the store that the flags name, for reading, without a platform over it.
func (a *app) engine(ctx context.Context) (migrate.Engine, error) {
	name, err := a.storeName()
	if err != nil {
		return nil, err
	}
	return migrate.OpenEngine(ctx, name)
}

func newArchiveListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list DIR",
		Short: "Show what an archive holds, with the hash at the end of each partition",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := archive.Open(args[0])
			if err != nil {
				return err
			}
			m := f.Manifest()
			if a.json() {
				return printJSON(cmd.OutOrStdout(), m)
			}
			rows := [][]string{}
			for p, part := range m.Partitions {
				row := []string{fmt.Sprint(p), fmt.Sprint(part.Events), fmt.Sprint(len(part.Files)), "", "", part.Hash}
				if n := len(part.Files); n > 0 {
					row[3], row[4] = part.Files[0].From.Format(time.RFC3339), part.Files[n-1].To.Format(time.RFC3339)
				}
				rows = append(rows, row)
			}
			w := cmd.OutOrStdout()
			if err := a.table(w, []string{"partition", "events", "files", "first", "last", "hash"}, rows); err != nil {
				return err
			}
			if !m.Unfinished.IsZero() {
				_, err = fmt.Fprintf(w, "unfinished: the run up to %s was broken off; give the command again\n", m.Unfinished.Format(time.RFC3339))
				return err
			}
			_, err = fmt.Fprintf(w, "%s, all recorded before %s\n", plural(m.Events(), "event"), m.Before.Format(time.RFC3339))
			return err
		},
	}
}

func newArchiveReadCommand(a *app) *cobra.Command {
	var f tailFlags
	var from, to string
	cmd := &cobra.Command{
		Use:   "read DIR [PATTERN...]",
		Short: "Show archived events, in the order of recording",
		Long: `Shows the events of an archive. --from and --to are times of recording. With -o json each event is a line, as with
carebus tail. Protected values are masked by the schemas of the store, or of the catalog where there is no store.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := archive.Query{Key: f.key, Match: matchAny(args[1:])}
			for _, t := range []struct {
				flag, text string
				to         *time.Time
			}{{"from", from, &q.From}, {"to", to, &q.To}} {
				if t.text == "" {
					continue
				}
				at, err := parseTime(t.flag, t.text, time.Now())
				if err != nil {
					return err
				}
				*t.to = at
			}
			files, err := archive.Open(args[0])
			if err != nil {
				return err
			}
			return a.withRegistry(cmd, func(ctx context.Context, p *carebus.Platform) error {
				t := &tailer{a: a, p: p, f: f, w: cmd.OutOrStdout()}
				for r, err := range files.All(ctx, q) {
					if err != nil {
						return err
					}
					if err := t.print(r); err != nil {
						return err
					}
					if t.seen++; f.limit > 0 && t.seen == f.limit {
						return nil
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "only what was recorded at or after")
	cmd.Flags().StringVar(&to, "to", "", "only what was recorded before")
	cmd.Flags().StringVar(&f.key, "key", "", "only events with this partition key")
	cmd.Flags().Int64Var(&f.limit, "limit", 0, "end after so many events; 0 for no limit")
	cmd.Flags().BoolVar(&f.payload, "payload", false, "show payloads too (-o json always has them)")
	cmd.Flags().BoolVar(&f.reveal, "reveal", false, "show protected values")
	return cmd
}

func newArchiveRestoreCommand(a *app) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "restore DIR --to STORE",
		Short: "Make a store of an archive: the same events at the same places",
		Long: `Makes a store of the events of an archive, with their places, times and hashes, and verifies it. Every command works on it:
tail, state, flow, replay. Nothing but events is in it: groups begin as new ones, and read models are built anew. A run
that was broken off goes on when the command is given again.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !isStoreName(to) {
				return usagef("--to %s: give sqlite:PATH or postgres://USER@HOST:PORT/DATABASE", shown(to))
			}
			bars := &stages{progress: newProgress(cmd.ErrOrStderr(), "")}
			report, err := archive.Restore(cmd.Context(), args[0], to, bars.set)
			bars.end()
			if err != nil {
				return err
			}
			if a.json() {
				return printJSON(cmd.OutOrStdout(), report)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s restored to %s; the store is whole, and the same as the archive\n", plural(report.Events, "event"), shown(to))
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the store to make, sqlite:PATH or postgres://…; it must not exist")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// verifyArchive proves an archive, and holds it against the store where one is named.
func (a *app) verifyArchive(cmd *cobra.Command, dir string) (err error) {
	f, err := archive.Open(dir)
	if err != nil {
		return err
	}
	bar := newProgress(cmd.ErrOrStderr(), "verifying")
	report, err := f.Verify(cmd.Context(), bar.set)
	bar.end()
	if err != nil {
		return err
	}
	w := cmd.OutOrStdout()
	if a.json() {
		err = printJSON(w, report)
	} else {
		err = printArchiveFaults(w, report)
	}
	if err != nil {
		return err
	}
	if n := int64(len(report.Faults)); n > 0 {
		return fmt.Errorf("%w: %s; put good copies in the place of the files named", archive.ErrDamaged, plural(n, "fault"))
	}
	if a.store == "" {
		return nil
	}
	store, err := a.engine(cmd.Context())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := f.Join(cmd.Context(), store); err != nil {
		return err
	}
	if !a.json() {
		_, err = fmt.Fprintf(w, "it is the beginning of the store %s\n", shown(a.store))
	}
	return err
}

func printArchiveFaults(w io.Writer, r archive.VerifyReport) error {
	for _, f := range r.Faults {
		if _, err := fmt.Fprintln(w, f.Detail); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s in %s, %s\n", plural(r.Events, "event"), plural(int64(r.Files), "file"), plural(int64(len(r.Faults)), "fault"))
	return err
}
