package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus/eventstore/migrate"
)

func newBackupCommand(a *app) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:   "backup --to FILE",
		Short: "Copy a store in a file while it runs, and prove the copy",
		Long: `Copies the store as it is at one moment, events, read models, checkpoints and all, while its services go on. The copy is
verified before it gets its name, so a file of that name is a whole store: open it with --store sqlite:FILE, or put it in
the place of the lost one while no service runs.

A store on a PostgreSQL server is backed up by the server's own means: see docs/operations.md.`,
		Example: "carebus backup --store sqlite:care.db --to backup/care-2026-03-01.db",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			name, err := a.storeName()
			if err != nil {
				return err
			}
			if onServer(name) {
				return usagef("%s is on a server: use pg_dump or pg_basebackup, see docs/operations.md", shown(name))
			}
			bar := newProgress(cmd.ErrOrStderr(), "verifying the copy")
			report, err := migrate.Backup(cmd.Context(), strings.TrimPrefix(name, "sqlite:"), strings.TrimPrefix(to, "sqlite:"), bar.set)
			bar.end()
			if err != nil {
				return err
			}
			if a.json() {
				return printJSON(cmd.OutOrStdout(), report)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s and all tables copied to %s, %d bytes, verified\n", plural(report.Events, "event"), to, report.Bytes)
			return err
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the file to make; it must not exist")
	_ = cmd.MarkFlagRequired("to")
	return cmd
}
