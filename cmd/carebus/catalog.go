package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/event"
)

// catalogEntry is an event type's version as `carebus catalog -o json` prints it.
type catalogEntry struct {
	Type        string            `json:"type"`
	Version     string            `json:"version"`
	Title       string            `json:"title"`
	Description string            `json:"description"`
	Owner       string            `json:"owner"`
	DataClass   string            `json:"dataClass"`
	EntityID    string            `json:"entityId"`
	SubjectID   string            `json:"subjectId,omitempty"`
	Deprecated  bool              `json:"deprecated"`
	ReplacedBy  string            `json:"replacedBy,omitempty"`
	GoType      string            `json:"goType"`            // of the payload
	GoEvent     string            `json:"goEvent"`           // its event.Definition
	Members     []member          `json:"members,omitempty"` // of `catalog show`
	Example     json.RawMessage   `json:"example,omitempty"` // of `catalog show`: an event
	Schema      json.RawMessage   `json:"schema"`
	Examples    []json.RawMessage `json:"examples"` // payloads
}

func entryOf(e catalog.Entry) catalogEntry {
	goType, goEvent := goNames(e)
	return catalogEntry{
		GoType: goType, GoEvent: goEvent,
		Type: e.Type, Version: e.Version, Title: e.Title, Description: e.Description, Owner: e.Owner, DataClass: e.DataClass,
		EntityID: e.EntityID, SubjectID: e.SubjectID, Deprecated: e.Deprecated, ReplacedBy: e.ReplacedBy, Schema: e.Schema, Examples: e.Examples,
	}
}

// goNames are the names of the payload's struct and of the event's definition in the generated packages.
func goNames(e catalog.Entry) (payload, definition string) {
	domain, rest, _ := strings.Cut(e.Type, ".")
	base := ""
	for _, word := range strings.FieldsFunc(rest, func(r rune) bool { return r == '.' || r == '-' }) {
		base += strings.ToUpper(word[:1]) + word[1:]
	}
	major, _, _ := strings.Cut(e.Version, ".")
	payload = domain + "." + base
	if newest, ok := catalog.Lookup(e.Type, ""); ok && !strings.HasPrefix(newest.Version, major+".") {
		payload += major
	}
	return payload, domain + "." + base + "V" + major
}

func newCatalogCommand(a *app) *cobra.Command {
	list := newCatalogListCommand(a)
	cmd := &cobra.Command{
		Use:   "catalog",
		Short: "The healthcare events that carebus brings",
		Long:  "Lists the event types of the catalog, or explains one. It needs no store; types registered in a store are in carebus schema.",
		Args:  cobra.NoArgs,
		RunE:  func(_ *cobra.Command, args []string) error { return list.RunE(list, args) },
	}
	cmd.AddCommand(list, newCatalogShowCommand(a))
	return cmd
}

func newCatalogListCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "list [PATTERN...]",
		Short:   "List the event types",
		Example: "carebus catalog list 'medication.**'",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, pattern := range args {
				if err := bus.CheckPattern(pattern); err != nil {
					return err
				}
			}
			all := slices.DeleteFunc(catalog.Entries(), func(e catalog.Entry) bool { return len(args) > 0 && !matchAny(args)(e.Type) })
			if a.json() {
				out := []catalogEntry{}
				for _, e := range all {
					out = append(out, entryOf(e))
				}
				return printJSON(cmd.OutOrStdout(), out)
			}
			rows := [][]string{}
			for _, e := range all {
				remark := ""
				if e.Deprecated {
					remark = "deprecated"
					if e.ReplacedBy != "" {
						remark += ", use " + e.ReplacedBy
					}
				}
				if n := len(rows); n > 0 && rows[n-1][0] == e.Type {
					rows[n-1][1] += ", " + e.Version
					rows[n-1][2], rows[n-1][3] = e.Title, remark
					continue
				}
				rows = append(rows, []string{e.Type, e.Version, e.Title, remark})
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s; explain one with carebus catalog show TYPE\n", plural(int64(len(rows)), "event type"))
			return a.table(cmd.OutOrStdout(), []string{"type", "versions", "title", ""}, rows)
		},
		ValidArgsFunction: completePatterns,
	}
}

func newCatalogShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "show TYPE[@VERSION]",
		Short:   "Explain an event type, with an example",
		Example: "carebus catalog show medication.prescription.filled@1.0.0",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, version, _ := strings.Cut(args[0], "@")
			e, ok := catalog.Lookup(name, version)
			if !ok {
				return missingEntry(name, version)
			}
			out := entryOf(e)
			var err error
			if out.Members, err = membersOf(e.Schema); err != nil {
				return err
			}
			out.Example = exampleEvent(e)
			if a.json() {
				return printJSON(cmd.OutOrStdout(), out)
			}
			return a.explain(cmd.OutOrStdout(), out)
		},
		ValidArgsFunction: completeOne(completeTypes),
	}
}

func missingEntry(name, version string) error {
	versions, near := []string{}, []string{}
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, e := range catalog.Entries() {
		switch {
		case e.Type == name:
			versions = append(versions, e.Version)
		case slices.Contains(near, e.Type) || len(near) == 5:
		case strings.HasPrefix(e.Type, name) || last != "" && strings.Contains(e.Type, last):
			near = append(near, e.Type)
		}
	}
	switch {
	case len(versions) > 0:
		return notFoundf("no version %s of %s in the catalog; there is %s", version, name, strings.Join(versions, ", "))
	case len(near) > 0:
		return notFoundf("no event type %s in the catalog; did you mean %s?", name, strings.Join(near, " or "))
	}
	return notFoundf("no event type %s in the catalog; see carebus catalog, or carebus schema get for types registered in a store", name)
}

// exampleEvent is an event with the first example as its payload.
func exampleEvent(e catalog.Entry) json.RawMessage {
	if len(e.Examples) == 0 {
		return nil
	}
	ev := event.Event{
		Metadata: event.Metadata{
			ID: "01980000-0000-7000-8000-000000000001", Type: e.Type, Source: e.Owner, CorrelationID: "01980000-0000-7000-8000-000000000000",
			Timestamp: 1752537600000, Version: e.Version,
		},
		Payload: e.Examples[0],
	}
	return ev.AppendJSON(nil)
}

// explain tells people about an event type.
func (a *app) explain(w io.Writer, e catalogEntry) error {
	deprecated := ""
	if e.Deprecated {
		deprecated = "yes"
		if e.ReplacedBy != "" {
			deprecated += ", use " + e.ReplacedBy
		}
	}
	all, others := catalog.Entries(), []string{}
	for _, o := range all {
		if o.Type == e.Type && o.Version != e.Version {
			others = append(others, o.Version)
		}
	}
	if _, err := fmt.Fprintf(w, "%s %s: %s\n%s\n\n", e.Type, e.Version, e.Title, e.Description); err != nil {
		return err
	}
	err := fields(w, "published by", e.Owner, "data class", e.DataClass, "ordered by", strings.TrimPrefix(e.EntityID, "/"),
		"about the patient", strings.TrimPrefix(e.SubjectID, "/"), "deprecated", deprecated, "other versions", strings.Join(others, ", "),
		"in Go", e.GoType+", "+e.GoEvent)
	if err != nil {
		return err
	}
	if err := a.printMembers(w, e.Members); err != nil || e.Example == nil {
		return err
	}
	_, err = fmt.Fprintf(w, "\nExample:\n\n%s\n", indented(e.Example, ""))
	return err
}

func (a *app) printMembers(w io.Writer, members []member) error {
	rows := [][]string{}
	for _, m := range members {
		required, protected := "", ""
		if m.Required {
			required = "required"
		}
		if m.Protected {
			protected = "protected"
		}
		rows = append(rows, []string{m.Name, m.Type, required, protected, m.Description})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return a.table(w, []string{"member", "type", "", "", "meaning"}, rows)
}
