package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus/eventstore/migrate"
)

func newMigrateCommand(a *app) *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use:   "migrate --from sqlite:PATH --to postgres://…",
		Short: "Move a whole store from a file to a PostgreSQL server",
		Long: `Copies the log, with its places, times and hash chains, and every table beside it: checkpoints, parked keys, sagas, timers,
read models, jobs. The target must be empty: a database, or a schema named by search_path in the address, which is created.

End the services first: the file is locked for writers meanwhile, and is not changed. A copy that was broken off goes on
where it ended when the command is given again; until it is finished the target is not opened as a store. Both stores are
verified, and the last hash of each partition must be the same.`,
		Example: `carebus migrate --from sqlite:carebus.db --to 'postgres://carebus@db.example/care?sslmode=verify-full'`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path, ok := strings.CutPrefix(from, "sqlite:")
			if !ok || path == "" {
				return usagef("--from %s: give sqlite:PATH", shown(from))
			}
			if !onServer(to) {
				return usagef("--to %s: give postgres://USER@HOST:PORT/DATABASE", to)
			}
			bars := &stages{progress: newProgress(cmd.ErrOrStderr(), "")}
			report, err := migrate.Run(cmd.Context(), path, to, bars.set)
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
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s and %s in %s moved to %s; both stores are whole, and the same\n", plural(report.Events, "event"), plural(int64(len(report.Partitions)), "partition"),
				plural(rows, "row"), plural(int64(len(report.Tables)), "table"), shown(to))
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "the store to move, sqlite:PATH")
	cmd.Flags().StringVar(&to, "to", "", "where to, postgres://…; a password is better given by PGPASSWORD or a password file")
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
