package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/codegen"
	"github.com/carebus/carebus/schema"
)

// generators by the name of the language.
var generators = map[string]func([]schema.Document, *codegen.Options) (map[string][]byte, error){
	"typescript": codegen.TypeScript,
	"go":         codegen.Go,
}

// generated is what `schema generate -o json` prints.
type generated struct {
	Dir     string   `json:"dir"`
	Types   int      `json:"types"`
	Files   int      `json:"files"`
	Written []string `json:"written"`
	Removed []string `json:"removed"`
}

func newSchemaGenerateCommand(a *app) *cobra.Command {
	var language, out, from string
	cmd := &cobra.Command{
		Use:   "generate --lang LANGUAGE [PATTERN...]",
		Short: "Write types for events in TypeScript, with a client, or in Go",
		Long: `Writes types for the newest version of every major of the event types that the patterns fit; without one, of all types.
The schemas are those of the store's registry, without a store those of the catalog, and with --from those of a folder with
files TYPE/VERSION.json.

Files that are in step already are not touched, and those that a former run wrote and that are not generated any more are
removed. A file of somebody else's is never overwritten.`,
		Example: `  carebus schema generate --lang typescript --out src/events 'medication.**' 'priorauth.**'
  carebus schema generate --lang go --from schemas --out internal/events`,
		RunE: func(cmd *cobra.Command, args []string) error {
			generate, ok := generators[language]
			if !ok {
				return usagef("--lang %q: give typescript or go", language)
			}
			for _, pattern := range args {
				if err := bus.CheckPattern(pattern); err != nil {
					return err
				}
			}
			write := func(types []schema.Document) error {
				if len(args) > 0 {
					types = matching(types, matchAny(args))
				}
				if len(types) == 0 {
					return notFoundf("no event type fits the patterns")
				}
				files, err := generate(types, nil)
				if err != nil {
					return err
				}
				written, removed, err := codegen.Write(out, files, nil)
				if err != nil {
					return err
				}
				return a.printGenerated(cmd, generated{filepath.ToSlash(out), countTypes(types), len(files), orNone(written), orNone(removed)})
			}
			if from == "" {
				return a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error { return write(p.Registry().Documents()) })
			}
			types, err := readSchemaFolder(from)
			if err != nil {
				return err
			}
			return write(types)
		},
		ValidArgsFunction: completePatterns,
	}
	cmd.Flags().StringVar(&language, "lang", "", "typescript or go")
	cmd.Flags().StringVar(&out, "out", "events", "folder to write to")
	cmd.Flags().StringVar(&from, "from", "", "folder with schemas, TYPE/VERSION.json, in place of the registry")
	_ = cmd.MarkFlagDirname("out")
	_ = cmd.MarkFlagDirname("from")
	_ = cmd.RegisterFlagCompletionFunc("lang", cobra.FixedCompletions([]string{"typescript", "go"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func readSchemaFolder(dir string) ([]schema.Document, error) {
	types, err := codegen.Read(os.DirFS(dir))
	if errors.Is(err, codegen.ErrNoSchemas) || errors.Is(err, fs.ErrNotExist) {
		return nil, notFoundf("%s: there is no TYPE/VERSION.json in it", dir)
	}
	return types, err
}

func matching(types []schema.Document, match func(string) bool) (out []schema.Document) {
	for _, t := range types {
		if match(t.Type) {
			out = append(out, t)
		}
	}
	return out
}

func countTypes(types []schema.Document) int {
	names := map[string]bool{}
	for _, t := range types {
		names[t.Type] = true
	}
	return len(names)
}

func orNone(names []string) []string { return append([]string{}, names...) }

func (a *app) printGenerated(cmd *cobra.Command, g generated) error {
	if a.json() {
		return printJSON(cmd.OutOrStdout(), g)
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s: %s of %s; %d written, %d removed\n", g.Dir, plural(int64(g.Files), "file"), plural(int64(g.Types), "event type"), len(g.Written), len(g.Removed))
	return err
}
