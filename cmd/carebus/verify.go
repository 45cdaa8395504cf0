package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/eventstore"
)

func newVerifyCommand(a *app) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Prove that the store is whole, or name what is wrong",
		Long: `Walks the whole store: offsets and versions without gaps, every record's hash following from the one before, indexes that
agree with the log. Exit code 1 when anything is wrong.

With --archive it is an archive that is proved, file by file, and, where a store is named, that it is the beginning of it.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir != "" {
				return a.verifyArchive(cmd, dir)
			}
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				bar := newProgress(cmd.ErrOrStderr(), "verifying")
				report, err := p.Store().Verify(ctx, bar.set)
				bar.end()
				if err != nil {
					return fmt.Errorf("the walk could not be finished, after %s: %w", plural(report.Events, "event"), err)
				}
				if a.json() {
					err = printJSON(cmd.OutOrStdout(), report)
				} else if err = a.printFaults(cmd.OutOrStdout(), report.Faults); err == nil {
					_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s, %s\n", plural(report.Events, "event"), plural(int64(report.Partitions), "partition"), plural(report.FaultCount, "fault"))
				}
				if err == nil && report.FaultCount > 0 {
					err = fmt.Errorf("the store contradicts itself: %s; keep a copy of the files before anything else", plural(report.FaultCount, "fault"))
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&dir, "archive", "", "prove the archive in this folder")
	return cmd
}

func (a *app) printFaults(w io.Writer, faults []eventstore.Fault) error {
	if len(faults) == 0 {
		return nil
	}
	rows := [][]string{}
	for _, f := range faults {
		rows = append(rows, []string{fmt.Sprintf("%d:%d", f.Partition, f.Offset), f.EventID, f.Rule, f.Detail})
	}
	return a.table(w, []string{"place", "event", "rule", "detail"}, rows)
}

// progress is a bar on a terminal, and nothing elsewhere.
type progress struct {
	w    io.Writer
	what string
	unit string // what is counted
	bar  *progressbar.ProgressBar
}

func newProgress(w io.Writer, what string) *progress {
	if !isTerminal(w) {
		w = nil
	}
	return &progress{w: w, what: what, unit: "events"}
}

// set shows how much of how much is done; a total of -1 is not known.
func (p *progress) set(done, total int64) {
	if p.w == nil {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(p.w), progressbar.OptionSetDescription(p.what),
			progressbar.OptionShowCount(), progressbar.OptionShowIts(), progressbar.OptionSetItsString(p.unit),
			progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish())
	}
	_ = p.bar.Set64(done)
}

func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
