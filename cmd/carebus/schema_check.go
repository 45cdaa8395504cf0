package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/semver"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/schema"
)

func newSchemaCheckCommand(a *app) *cobra.Command {
	var eventType, version, against, format string
	cmd := &cobra.Command{
		Use:   "check FILE|FOLDER",
		Short: "Say whether schemas would be admitted, and why not",
		Long: `Checks a schema against the rules and against every earlier version of its major, and changes nothing. Every change is
shown with its place, rule, the step of the version that it needs, and what to do instead. Exit code 4 when it does not
fit, 1 when it is no valid schema.

A folder holds files TYPE/VERSION.json, as a repository of schemas does. They are admitted one after the other, each
type's versions in ascending order, on top of what --against names:

  (nothing)     the store's registry, or without a store the catalog
  store         the store's registry
  catalog       the catalog of this program
  none          nothing: the folder alone
  git:REVISION  the same folder as it was there, such as git:origin/main
  FOLDER        another folder with files TYPE/VERSION.json

Against a revision or a folder a version that was there must be there still, unchanged. All findings of all files are
shown, with file and line. Exit code 0 when all would be admitted, 1 when any is refused, 2 for a wrong command line,
3 when the folder or revision is not there.`,
		Example: `  carebus schema check schemas/lab.result.received/1.1.0.json
  carebus schema check schemas --against git:origin/main --format github`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !slices.Contains([]string{"text", "json", "github"}, format) {
				return usagef("--format %s: give text, json or github", format)
			}
			if format == "text" && a.json() {
				format = "json"
			}
			info, err := os.Stat(args[0])
			if err == nil && info.IsDir() {
				if eventType != "" || version != "" {
					return usagef("--type and --version go with a file")
				}
				return a.checkFolder(cmd, args[0], against, format)
			}
			if against != "" || format == "github" {
				return usagef("--against and --format github go with a folder; %s is none", args[0])
			}
			doc, err := schemaFile(a, args[0], eventType, version)
			if err != nil {
				return err
			}
			return a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error {
				proposal, err := p.Registry().Propose(doc)
				v, err := judged(doc, proposal, err)
				return errors.Join(a.printVerdict(cmd.OutOrStdout(), v, format == "json"), err)
			})
		},
	}
	schemaFlags(cmd, &eventType, &version)
	cmd.Flags().StringVar(&against, "against", "", "with a folder: store, catalog, none, git:REVISION or another folder")
	cmd.Flags().StringVar(&format, "format", "text", "text, json, or github: annotations of a workflow")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"text", "json", "github"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// checked is a file of a folder, and what the registry says to it.
type checked struct {
	File string `json:"file"`
	verdict
	Notes []note `json:"notes"` // all that is to be said about it, by line
}

// note is one thing to be said about a place of a file.
type note struct {
	Line    int    `json:"line"`
	Pointer string `json:"pointer"`
	Rule    string `json:"rule"`
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	Refusal bool   `json:"refusal"` // the file is refused for it; otherwise it is a warning
}

func (n note) String() string {
	text := n.Message
	if n.Pointer != "" {
		text = n.Pointer + ": " + text
	}
	text += " [" + n.Rule + "]"
	if n.Remedy != "" {
		text += "; " + n.Remedy
	}
	return text
}

// folderReport is what `schema check FOLDER -o json` prints.
type folderReport struct {
	Files    []checked `json:"files"`
	Types    int       `json:"types"`
	Admitted int       `json:"admitted"`
	Known    int       `json:"known"` // registered already, the same
	Refused  int       `json:"refused"`
}

func (a *app) checkFolder(cmd *cobra.Command, dir, against, format string) error {
	check := func(base *schema.Registry, were []schema.Document) error {
		report, err := checkSchemas(dir, base, were)
		if err != nil {
			return err
		}
		switch format {
		case "json":
			err = printJSON(cmd.OutOrStdout(), report)
		case "github":
			err = report.annotate(cmd.OutOrStdout())
		default:
			err = report.print(cmd.OutOrStdout())
		}
		if err == nil && report.Refused > 0 {
			err = fmt.Errorf("%d of %s refused", report.Refused, plural(int64(len(report.Files)), "file"))
		}
		return err
	}
	revision, isRevision := strings.CutPrefix(against, "git:")
	switch {
	case against == "":
		return a.withRegistry(cmd, func(_ context.Context, p *carebus.Platform) error { return check(p.Registry(), nil) })
	case against == "store":
		return a.with(cmd, reading(), func(_ context.Context, p *carebus.Platform) error { return check(p.Registry(), nil) })
	case against == "catalog":
		var docs []schema.Document
		for _, e := range catalog.Entries() {
			docs = append(docs, schema.Document{Type: e.Type, Version: e.Version, Schema: e.Schema})
		}
		base, _ := registryOf(docs)
		return check(base, nil)
	case against == "none":
		return check(schema.New(), nil)
	case isRevision:
		docs, err := schemasAt(cmd.Context(), revision, dir)
		if err != nil {
			return err
		}
		return check(registryOf(docs))
	}
	docs, err := readSchemaFolder(against)
	if err != nil {
		return err
	}
	return check(registryOf(docs))
}

// registryOf admits documents in ascending order of their versions, and returns those that it took. What it refuses was
// never registered: it is no reason to refuse what mends it.
func registryOf(docs []schema.Document) (*schema.Registry, []schema.Document) {
	r := schema.New()
	docs = slices.SortedFunc(slices.Values(docs), func(x, y schema.Document) int { return byVersion(x.Type, x.Version, y.Type, y.Version) })
	var took []schema.Document
	for _, d := range docs {
		if p, err := r.Propose(d); err == nil && r.Apply(p.Event) == nil {
			took = append(took, d)
		}
	}
	return r, took
}

func byVersion(typeA, versionA, typeB, versionB string) int {
	return cmp.Or(strings.Compare(typeA, typeB), semver.Compare("v"+versionA, "v"+versionB), strings.Compare(versionA, versionB))
}

// checkSchemas holds a folder against the rules, on top of base. What were there before must be there still.
func checkSchemas(dir string, base *schema.Registry, were []schema.Document) (folderReport, error) {
	report := folderReport{Files: []checked{}}
	types := map[string]bool{}
	there := map[string]bool{}
	broken := map[string]string{} // by type: the version that begins a major and was refused
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name != dir && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		if d.IsDir() || !strings.HasSuffix(d.Name(), ".json") {
			return nil
		}
		c := checked{File: filepath.ToSlash(name)}
		below, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		c.Type, c.Version = path.Dir(filepath.ToSlash(below)), strings.TrimSuffix(d.Name(), ".json")
		if strings.Contains(c.Type, "/") || c.Type == "." {
			c.refuse("schema.file", "a schema is not looked for here", "name the file TYPE/VERSION.json, such as lab.result.received/1.0.0.json")
		}
		report.Files = append(report.Files, c)
		return nil
	})
	if err != nil {
		return report, err
	}
	slices.SortStableFunc(report.Files, func(x, y checked) int { return byVersion(x.Type, x.Version, y.Type, y.Version) })
	for i := range report.Files {
		c := &report.Files[i]
		if c.Verdict != "" {
			continue
		}
		types[c.Type], there[c.Type+" "+c.Version] = true, true
		if first := broken[c.Type]; first != "" {
			c.refuse("schema.order", fmt.Sprintf("it cannot be judged: %s, before it, is refused", first), "see to that one first")
			continue
		}
		text, err := os.ReadFile(filepath.FromSlash(c.File))
		if err != nil {
			return report, err
		}
		if err := c.judge(base, text); err != nil {
			return report, err
		}
		if _, err := base.Get(c.Type, c.Version); err != nil && c.refused() && strings.HasSuffix(c.Version, ".0.0") {
			broken[c.Type] = c.Version
		}
	}
	for _, d := range were {
		if !there[d.Type+" "+d.Version] {
			c := checked{File: path.Join(filepath.ToSlash(dir), d.Type, d.Version+".json"), verdict: verdict{Type: d.Type, Version: d.Version}}
			c.refuse("schema.removed", "this version was there, and is gone: events of it are stored, and must stay readable", "bring it back; deprecate it in the registry when it is not to be used any more")
			report.Files = append(report.Files, c)
		}
	}
	slices.SortStableFunc(report.Files, func(x, y checked) int { return byVersion(x.Type, x.Version, y.Type, y.Version) })
	report.Types = len(types)
	for _, c := range report.Files {
		switch c.Verdict {
		case "admitted":
			report.Admitted++
		case "known":
			report.Known++
		default:
			report.Refused++
		}
	}
	return report, nil
}

func (c *checked) refused() bool { return c.Verdict != "admitted" && c.Verdict != "known" }

// refuse is for what the registry has no part in.
func (c *checked) refuse(rule, message, remedy string) {
	c.Verdict, c.Problem = "refused", message
	c.Changes, c.Findings = []schema.Change{}, []event.Finding{}
	c.Notes = append(c.Notes, note{Line: 1, Rule: rule, Message: message, Remedy: remedy, Refusal: true})
}

// judge asks the registry, and adds the schema to it when it is admitted.
func (c *checked) judge(r *schema.Registry, text []byte) error {
	doc := schema.Document{Type: c.Type, Version: c.Version, Schema: text}
	p, err := r.Propose(doc)
	if err == nil && !p.Known {
		if err := r.Apply(p.Event); err != nil {
			return err
		}
	}
	v, verr := judged(doc, p, err)
	if v.Verdict == "" { // no refusal, but something that went wrong
		return verr
	}
	c.verdict = v
	if errors.Is(err, schema.ErrVersionExists) {
		c.changedInPlace(r, text)
	}
	lines := newLines(text)
	c.Notes = []note{}
	for _, f := range c.Findings {
		n := note{Line: lines.of(f.Pointer), Pointer: f.Pointer, Rule: f.Rule, Message: f.Message, Remedy: f.Remedy, Refusal: !f.Warning}
		if lines.broken > 0 {
			n.Line = lines.broken
		}
		c.Notes = append(c.Notes, n)
	}
	if c.Verdict == "version" {
		remedy := ""
		if c.Suggested != "" {
			remedy = "take " + c.Suggested
		}
		c.Notes = append(c.Notes, note{Line: 1, Rule: "schema.version", Message: "version " + c.Version + " " + c.Problem, Remedy: remedy, Refusal: true})
	}
	for _, change := range c.Changes {
		if c.Verdict == "admitted" { // as it should be
			break
		}
		remedy := change.Remedy
		if c.Suggested != "" {
			remedy = strings.TrimPrefix(remedy+"; or take version "+c.Suggested, "; or ")
		}
		c.Notes = append(c.Notes, note{lines.of(change.Pointer), change.Pointer, change.Rule, fmt.Sprintf("%s: a %s step", change.Message, change.Bump), remedy, true})
	}
	slices.SortStableFunc(c.Notes, func(x, y note) int { return cmp.Compare(x.Line, y.Line) })
	return nil
}

// changedInPlace says what changed in a version that is registered already, and which version it could become: the first
// that the registry would take.
func (c *checked) changedInPlace(r *schema.Registry, text []byte) {
	have, err := r.Get(c.Type, c.Version)
	if err != nil {
		return
	}
	changes, required, err := schema.Diff(have.Schema, text)
	if err != nil {
		return // it is no schema at all, which the finding about its version does not hide for long
	}
	c.Changes, c.Required = changes, required
	highest := c.Version
	for _, v := range r.Versions(c.Type) {
		if semver.Major("v"+v) == semver.Major("v"+c.Version) && semver.Compare("v"+v, "v"+highest) > 0 {
			highest = v
		}
	}
	var n [3]int
	if _, err := fmt.Sscanf(highest, "%d.%d.%d", &n[0], &n[1], &n[2]); err != nil {
		return
	}
	for _, next := range [][3]int{{n[0], n[1], n[2] + 1}, {n[0], n[1] + 1, 0}, {n[0] + 1, 0, 0}} {
		version := fmt.Sprintf("%d.%d.%d", next[0], next[1], next[2])
		if _, err := r.Propose(schema.Document{Type: c.Type, Version: version, Schema: text}); err == nil {
			c.Suggested = version
			return
		}
	}
}

// schemasAt reads the folder as it was at a revision of the repository that it is in.
func schemasAt(ctx context.Context, revision, dir string) ([]schema.Document, error) {
	if revision == "" || strings.HasPrefix(revision, "-") {
		return nil, usagef("--against git:REVISION: give a revision")
	}
	listed, err := git(ctx, dir, "ls-tree", "-r", "-z", "--name-only", "--", revision, ".")
	if err != nil {
		return nil, notFoundf("--against git:%s: %v", revision, err)
	}
	var docs []schema.Document
	for _, name := range strings.Split(string(listed), "\x00") {
		eventType, file, ok := strings.Cut(name, "/")
		version, isJSON := strings.CutSuffix(file, ".json")
		if !ok || !isJSON || strings.Contains(file, "/") {
			continue
		}
		text, err := git(ctx, dir, "show", revision+":./"+name)
		if err != nil {
			return nil, fmt.Errorf("--against git:%s: %s: %w", revision, name, err)
		}
		docs = append(docs, schema.Document{Type: eventType, Version: version, Schema: json.RawMessage(text)})
	}
	return docs, nil
}

func (r folderReport) print(w io.Writer) error {
	for _, c := range r.Files {
		if c.Verdict == "known" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: %s\n", c.File, c.headline()); err != nil {
			return err
		}
		for _, n := range c.Notes {
			level := ""
			if !n.Refusal {
				level = "warning: "
			}
			if _, err := fmt.Fprintf(w, "  %s:%d: %s%s\n", c.File, n.Line, level, n); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintf(w, "%s of %s: %d admitted, %d known, %d refused\n", plural(int64(len(r.Files)), "file"), plural(int64(r.Types), "event type"), r.Admitted, r.Known, r.Refused)
	return err
}

// annotate writes what a GitHub workflow shows beside the lines of a change.
func (r folderReport) annotate(w io.Writer) error {
	for _, c := range r.Files {
		for _, n := range c.Notes {
			level := "warning"
			if n.Refusal {
				level = "error"
			}
			title := fmt.Sprintf("%s %s: %s", c.Type, c.Version, c.headline())
			if _, err := fmt.Fprintf(w, "::%s file=%s,line=%d,title=%s::%s\n", level, commandProperty(c.File), n.Line, commandProperty(title), commandText(n.String())); err != nil {
				return err
			}
		}
	}
	return nil
}

// commandText and commandProperty escape the text and the properties of a workflow command.
func commandText(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

func commandProperty(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(commandText(s))
}
