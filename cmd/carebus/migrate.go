package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus/eventstore/migrate"
)

func newMigrateCommand(a *app) *cobra.Command {
	var from, to string
	var o migrate.Options
	cmd := &cobra.Command{
		Use:   "migrate --from STORE --to STORE [--partitions N]",
		Short: "Move a whole store to another place, or to another number of partitions",
		Long: `Copies the log, with its places, times and hash chains, and every table beside it: checkpoints, parked keys, sagas, timers,
read models, jobs. From a file to a file or a PostgreSQL server; from a server to a server. The target must be empty: a
file that is not there, a database, or a schema named by search_path in the address, which is created.

With --partitions the events are laid out anew: each goes to the partition of its key, in the order of recording, so that
every key keeps its order. Checkpoints and parked keys move with them: what was handled stays handled, and what was not is
still to come. For a number that is no multiple of the present one every group must first have handled all.

End the services first: the store is locked for writers meanwhile, and is not changed. A copy that was broken off goes on
where it ended when the command is given again; until it is finished the target is not opened as a store. Both stores are
verified. With the same partitions the last hash of each must be the same; with others, the events of each key.`,
		Example: `carebus migrate --from sqlite:carebus.db --to 'postgres://carebus@db.example/care?sslmode=verify-full'
carebus migrate --from sqlite:carebus.db --to sqlite:wide.db --partitions 48`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct{ flag, name string }{{"from", from}, {"to", to}} {
				if !isStoreName(f.name) {
					return usagef("--%s %s: give sqlite:PATH or postgres://USER@HOST:PORT/DATABASE", f.flag, shown(f.name))
				}
			}
			if onServer(from) && !onServer(to) {
				return usagef("from a server to a file only events can be moved: carebus archive, then carebus archive restore")
			}
			if o.Partitions < 0 || o.Partitions > 4096 {
				return usagef("--partitions %d: use 1 to 4096", o.Partitions)
			}
			bars := &stages{progress: newProgress(cmd.ErrOrStderr(), "")}
			o.Progress = bars.set
			report, err := migrate.Run(cmd.Context(), from, to, &o)
			bars.end()
			if err != nil {
				return err
			}
			if a.json() {
				return printJSON(cmd.OutOrStdout(), report)
			}
			rows := int64(0)
			for _, t := range report.Tables {
				rows += t.Rows
			}
			same := "and the same"
			if report.Keys > 0 {
				same = fmt.Sprintf("and %s have the same events in the same order", plural(report.Keys, "key"))
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s and %s in %s moved to %s; both stores are whole, %s\n", plural(report.Events, "event"), plural(int64(len(report.Partitions)), "partition"),
				plural(rows, "row"), plural(int64(len(report.Tables)), "table"), shown(to), same)
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the store to move, sqlite:PATH or postgres://…")
	cmd.Flags().StringVar(&to, "to", "", "where to, sqlite:PATH or postgres://…; a password is better given by PGPASSWORD or a password file")
	cmd.Flags().IntVar(&o.Partitions, "partitions", 0, "partitions of the target (default: as many as the source has)")
	_ = cmd.MarkFlagRequired("from")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}

// stages shows one bar after the other.
type stages struct {
	*progress
}

func (s *stages) set(stage string, done, total int64) {
	if s.what != stage {
		s.end()
		s.what, s.bar = stage, nil
	}
	s.progress.set(done, total)
}
