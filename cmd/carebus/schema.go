package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/schema"
)

func newSchemaCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "The schemas of event types: look, check, compare, register",
		Long: `The registry of a store holds the catalog's schemas and those registered in it. Without a store the commands that only
look and judge use the catalog.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newSchemaListCommand(a), newSchemaGetCommand(a), newSchemaCheckCommand(a), newSchemaDiffCommand(a),
		newSchemaRegisterCommand(a), newSchemaValidateCommand(a), newSchemaDeprecateCommand(a), newSchemaHistoryCommand(a),
		newSchemaGenerateCommand(a))
	return cmd
}

// completeSchemaTypes offers the types of the store's registry, or of the catalog.
func (a *app) completeSchemaTypes() cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) (out []string, _ cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		err := a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error {
			for _, t := range p.Registry().Types() {
				if strings.HasPrefix(t, begun) {
					out = append(out, t)
				}
			}
			return nil
		})
		if err != nil {
			return completeTypes(cmd, args, begun)
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// schemaEntry is a version as `schema get -o json` prints it.
type schemaEntry struct {
	Type              string          `json:"type"`
	Version           string          `json:"version"`
	Deprecated        bool            `json:"deprecated"`
	DeprecationReason string          `json:"deprecationReason,omitempty"`
	ReplacedBy        string          `json:"replacedBy,omitempty"`
	RegisteredBy      string          `json:"registeredBy,omitempty"`
	Fingerprint       string          `json:"fingerprint"`
	Schema            json.RawMessage `json:"schema"`
}

// typeEntry is a type as `schema list -o json` prints it.
type typeEntry struct {
	Type     string         `json:"type"`
	Versions []versionEntry `json:"versions"`
}

type versionEntry struct {
	Version     string `json:"version"`
	Deprecated  bool   `json:"deprecated"`
	Fingerprint string `json:"fingerprint"`
}

func newSchemaListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "list [PATTERN...]",
		Short: "List event types and their versions",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, pattern := range args {
				if err := bus.CheckPattern(pattern); err != nil {
					return err
				}
			}
			return a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error {
				reg := p.Registry()
				entries, rows := []typeEntry{}, [][]string{}
				for _, t := range reg.Types() {
					if len(args) > 0 && !matchAny(args)(t) {
						continue
					}
					e, shown := typeEntry{Type: t, Versions: []versionEntry{}}, []string{}
					for _, v := range reg.Versions(t) {
						doc, err := reg.Get(t, v)
						if err != nil {
							return err
						}
						e.Versions = append(e.Versions, versionEntry{v, doc.Deprecated, doc.Fingerprint})
						if doc.Deprecated {
							v += " (deprecated)"
						}
						shown = append(shown, v)
					}
					entries, rows = append(entries, e), append(rows, []string{t, strings.Join(shown, ", ")})
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), entries)
				}
				return a.table(cmd.OutOrStdout(), []string{"type", "versions"}, rows)
			})
		},
		ValidArgsFunction: completePatterns,
	}
}

func newSchemaGetCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "get TYPE[@VERSION]",
		Short: "Print a schema; without a version the newest",
		Long:  "Prints the schema, indented. With -o json it comes with what the registry knows of it.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error {
				doc, err := findSchema(p.Registry(), args[0])
				if err != nil {
					return err
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), schemaEntry{doc.Type, doc.Version, doc.Deprecated, doc.DeprecationReason, doc.ReplacedBy, doc.RegisteredBy, doc.Fingerprint, doc.Schema})
				}
				if doc.Deprecated {
					fmt.Fprintf(cmd.ErrOrStderr(), "%s %s is deprecated: %s\n", doc.Type, doc.Version, doc.DeprecationReason)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", indented(doc.Schema, ""))
				return err
			})
		},
		ValidArgsFunction: a.completeSchemaTypes(),
	}
}

// findSchema finds TYPE or TYPE@VERSION.
func findSchema(reg *schema.Registry, name string) (schema.Document, error) {
	t, v, versioned := strings.Cut(name, "@")
	if !versioned {
		return reg.Latest(t)
	}
	return reg.Get(t, v)
}

// schemaFile reads a schema and says of which type and version it is: from the flags, or from a path …/TYPE/VERSION.json.
func schemaFile(a *app, path, eventType, version string) (schema.Document, error) {
	doc := schema.Document{Type: eventType, Version: version}
	if path != "-" {
		dir, file := filepath.Split(filepath.Clean(path))
		if dir = filepath.Base(dir); doc.Type == "" && strings.Contains(dir, ".") && dir != "." && dir != ".." {
			doc.Type = dir
		}
		if name, ok := strings.CutSuffix(file, ".json"); ok && doc.Version == "" && strings.Count(name, ".") >= 2 {
			doc.Version = name
		}
	}
	if doc.Type == "" || doc.Version == "" {
		return doc, usagef("%s does not say of which type and version it is; add --type and --version, or name the file …/TYPE/VERSION.json", path)
	}
	data, err := readFile(a, path)
	doc.Schema = data
	return doc, err
}

func readFile(a *app, path string) ([]byte, error) {
	if path == "-" {
		return io.ReadAll(io.LimitReader(a.stdin, 16<<20))
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, notFoundf("%s: no such file", path)
	}
	return data, err
}

// verdict is what `schema check` and `schema register` print.
type verdict struct {
	Type      string          `json:"type"`
	Version   string          `json:"version"`
	Verdict   string          `json:"verdict"`             // "admitted", "known", "incompatible", "version", "invalid"
	Problem   string          `json:"problem,omitempty"`   // of the version
	Against   string          `json:"against,omitempty"`   // the earlier version that it does not fit
	Required  schema.Bump     `json:"required"`            // the step that the changes need
	Suggested string          `json:"suggested,omitempty"` // a version that would be admitted
	Changes   []schema.Change `json:"changes"`
	Findings  []event.Finding `json:"findings"` // what is wrong with the document itself, and warnings
}

// judged turns what the registry answers into a verdict, and a refusal into a short error with its exit code.
func judged(doc schema.Document, p schema.Proposal, err error) (verdict, error) {
	v := verdict{Type: doc.Type, Version: doc.Version, Verdict: "admitted", Required: p.Required, Changes: p.Changes, Findings: p.Warnings}
	if p.Known {
		v.Verdict = "known"
	}
	var incompatible *schema.IncompatibleError
	var number *schema.VersionError
	var invalid *event.InvalidError
	switch {
	case errors.As(err, &incompatible):
		v.Verdict, v.Against, v.Required, v.Suggested, v.Changes = "incompatible", incompatible.Against, incompatible.Required, incompatible.Suggested, incompatible.Changes
		err = fmt.Errorf("%w: %s %s needs a %s step from %s; take version %s, or change it back", schema.ErrIncompatible, doc.Type, doc.Version, v.Required, v.Against, v.Suggested)
	case errors.As(err, &number):
		v.Verdict, v.Problem, v.Suggested = "version", number.Problem, number.Suggested
	case errors.As(err, &invalid):
		v.Verdict, v.Findings = "invalid", invalid.Findings
		err = fmt.Errorf("%s %s is no schema that the registry takes", doc.Type, doc.Version)
	case err != nil:
		return verdict{}, err
	}
	if v.Changes == nil {
		v.Changes = []schema.Change{}
	}
	if v.Findings == nil {
		v.Findings = []event.Finding{}
	}
	return v, err
}

// headline is the verdict in a few words.
func (v verdict) headline() string {
	switch v.Verdict {
	case "known":
		return "known, registered already with the same content"
	case "incompatible":
		return fmt.Sprintf("incompatible with %s: needs a %s step, such as %s", v.Against, v.Required, v.Suggested)
	case "version":
		return "version " + v.Problem
	case "refused":
		return "refused: " + v.Problem
	case "admitted":
		if v.Required != schema.None {
			return fmt.Sprintf("admitted, a %s step", v.Required)
		}
	}
	return v.Verdict
}

func (a *app) printVerdict(w io.Writer, v verdict, asJSON bool) error {
	if v.Verdict == "" {
		return nil // it did not come to one
	}
	if asJSON {
		return printJSON(w, v)
	}
	if _, err := fmt.Fprintf(w, "%s %s: %s\n", v.Type, v.Version, v.headline()); err != nil {
		return err
	}
	for _, f := range v.Findings {
		if _, err := fmt.Fprintf(w, "  %s\n", f); err != nil {
			return err
		}
	}
	return printChanges(w, v.Changes)
}

func printChanges(w io.Writer, changes []schema.Change) error {
	for _, c := range changes {
		if _, err := fmt.Fprintf(w, "  %s\n", c); err != nil {
			return err
		}
	}
	return nil
}

func schemaFlags(cmd *cobra.Command, eventType, version *string) {
	cmd.Flags().StringVar(eventType, "type", "", "event type (default: from a path …/TYPE/VERSION.json)")
	cmd.Flags().StringVar(version, "version", "", "version (default: from a path …/TYPE/VERSION.json)")
	_ = cmd.RegisterFlagCompletionFunc("type", completeTypes)
}

func newSchemaRegisterCommand(a *app) *cobra.Command {
	var eventType, version string
	cmd := &cobra.Command{
		Use:   "register FILE",
		Short: "Register a new type, or a new version of one",
		Long:  "Registers a schema in the store, for every process that uses it. A version, once registered, never changes.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			doc, err := schemaFile(a, args[0], eventType, version)
			if err != nil {
				return err
			}
			doc.RegisteredBy = actor()
			p, err := a.open(cmd.Context(), cmd, nil)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, p.Close()) }()
			proposal, err := p.RegisterSchema(cmd.Context(), doc)
			v, err := judged(doc, proposal, err)
			if v.Verdict == "admitted" && err == nil {
				v.Verdict = "registered"
			}
			return errors.Join(a.printVerdict(cmd.OutOrStdout(), v, a.json()), err)
		},
	}
	schemaFlags(cmd, &eventType, &version)
	return cmd
}

// diffReport is what `schema diff -o json` prints.
type diffReport struct {
	From     string          `json:"from"`
	To       string          `json:"to"`
	Required schema.Bump     `json:"required"`
	Changes  []schema.Change `json:"changes"`
}

func newSchemaDiffCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "diff A B",
		Short:   "Say what changed between two schemas, and the step it needs",
		Long:    "Compares any two schemas: each is a file, or TYPE@VERSION of the registry.",
		Example: "carebus schema diff medication.prescription.filled@1.0.0 medication.prescription.filled@2.0.0",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error {
				var docs [2]json.RawMessage
				for i, name := range args {
					if _, err := os.Stat(name); err == nil || name == "-" {
						if docs[i], err = readFile(a, name); err != nil {
							return err
						}
						continue
					}
					if strings.HasSuffix(name, ".json") {
						return notFoundf("%s: no such file", name)
					}
					doc, err := findSchema(p.Registry(), name)
					if err != nil {
						return err
					}
					docs[i] = doc.Schema
				}
				changes, required, err := schema.Diff(docs[0], docs[1])
				if err != nil {
					return err
				}
				if changes == nil {
					changes = []schema.Change{}
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), diffReport{args[0], args[1], required, changes})
				}
				text := "nothing differs"
				if required != schema.None {
					text = fmt.Sprintf("%s; together a %s step", plural(int64(len(changes)), "change"), required)
				}
				if _, err := fmt.Fprintln(cmd.OutOrStdout(), text); err != nil {
					return err
				}
				return printChanges(cmd.OutOrStdout(), changes)
			})
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
			out, _ := a.completeSchemaTypes()(cmd, nil, begun)
			return out, cobra.ShellCompDirectiveDefault
		},
	}
}

func newSchemaValidateCommand(a *app) *cobra.Command {
	f := publishFlags{dryRun: true}
	cmd := &cobra.Command{
		Use:   "validate [FILE|-...]",
		Short: "Check events, or payloads of a type, and store nothing",
		Long:  "Checks events as carebus publish --dry-run does; with --type the input is payloads. Exit code 1 when any is refused.",
		RunE: func(cmd *cobra.Command, args []string) error {
			f.source = "carebus-cli"
			return a.publish(cmd, f, args)
		},
	}
	cmd.Flags().StringVar(&f.eventType, "type", "", "the input is payloads of this event type")
	cmd.Flags().StringVar(&f.version, "version", "", "with --type: version of the schema (default: the newest)")
	_ = cmd.RegisterFlagCompletionFunc("type", completeTypes)
	return cmd
}
