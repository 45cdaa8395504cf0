package console

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
	"golang.org/x/mod/semver"
)

type schemaRow struct {
	Type       string `json:"eventType"`
	Versions   []string
	Latest     string
	Title      string
	Owner      string
	DataClass  string
	Deprecated bool
}

func (q *request) catalog() (*view, error) {
	var list struct{ Types []schemaRow }
	if err := q.get("/v1/schemas", nil, &list); err != nil {
		return nil, err
	}
	want := strings.ToLower(strings.TrimSpace(q.q.Get("q")))
	type domainOf struct {
		Name  string
		Types []schemaRow
	}
	var domains []domainOf
	n := 0
	for _, t := range list.Types {
		if want != "" && !strings.Contains(strings.ToLower(t.Type+" "+t.Title+" "+t.Owner), want) {
			continue
		}
		n++
		if len(domains) == 0 || domains[len(domains)-1].Name != domain(t.Type) {
			domains = append(domains, domainOf{Name: domain(t.Type)})
		}
		d := &domains[len(domains)-1]
		d.Types = append(d.Types, t)
	}
	return &view{Template: "catalog", Title: "Catalog", Nav: "Catalog", CLI: []string{command("schema", "list")}, API: "/v1/schemas",
		Data: map[string]any{"Domains": domains, "Q": q.q.Get("q"), "N": n, "All": len(list.Types)}}, nil
}

// member is a property of a schema.
type member struct {
	Path      string
	Type      string
	Required  bool
	Protected bool
	About     string
	Depth     int
}

// Pad is the class of a member's depth.
func (m member) Pad() string { return treeRow{Depth: m.Depth}.Pad() }

// use is who publishes a type at which version, lately.
type use struct {
	Source, Version string
	Events          int
	Last            time.Time
}

func (q *request) schema() (*view, error) {
	eventType := q.path("type")
	version := q.q.Get("version")
	if version == "" {
		version = "latest"
	}
	path := "/v1/schemas/" + url.PathEscape(eventType) + "/" + url.PathEscape(version)
	var doc struct {
		Type, Version, ReplacedBy, DeprecationReason, RegisteredBy, Fingerprint string
		Deprecated                                                              bool
		Schema                                                                  json.RawMessage
	}
	if err := q.get(path, nil, &doc); err != nil {
		return nil, err
	}
	versions := q.p.Registry().Versions(eventType)
	d := map[string]any{"Doc": doc, "Type": eventType, "Versions": versions, "Head": headOf(doc.Schema), "Members": membersOf(doc.Schema)}
	var marks struct {
		Entity  string `json:"x-entity-id"`
		Subject string `json:"x-subject-id"`
	}
	_ = json.Unmarshal(doc.Schema, &marks) // a schema without these marks has none
	d["Marks"] = marks
	if q.caller().May(auth.Read, eventType) {
		uses, err := q.uses(eventType)
		if err != nil {
			return nil, err
		}
		d["Uses"] = uses
	}
	groups, err := q.groupRows()
	if err != nil {
		return nil, err
	}
	groups = slices.DeleteFunc(groups, func(g groupRow) bool {
		return !slices.ContainsFunc(g.Patterns, func(p string) bool { return bus.Matches(p, eventType) })
	})
	d["Groups"] = groups
	return &view{Template: "schema", Title: eventType, Nav: "Catalog", CLI: []string{command("catalog", "show", eventType), command("schema", "get", eventType+"@"+doc.Version)}, API: path, Data: d}, nil
}

// uses are the services that have published a type, by version, as its latest events say.
func (q *request) uses(eventType string) ([]use, error) {
	records, err := q.p.Store().Type(q.ctx(), eventstore.TypeQuery{Type: eventType, Backward: true, Limit: 200})
	if err != nil {
		return nil, err
	}
	var out []use
	for _, r := range records {
		i := slices.IndexFunc(out, func(u use) bool { return u.Source == r.Source && u.Version == r.Version })
		if i < 0 {
			i = len(out)
			out = append(out, use{Source: r.Source, Version: r.Version, Last: r.RecordedAt})
		}
		out[i].Events++
		if r.RecordedAt.After(out[i].Last) {
			out[i].Last = r.RecordedAt
		}
	}
	return out, nil
}

// membersOf lists a schema's properties, in the order in which it has them.
func membersOf(doc json.RawMessage) []member {
	var out []member
	defs := map[string]json.RawMessage{}
	var root struct {
		Defs map[string]json.RawMessage `json:"$defs"`
	}
	if json.Unmarshal(doc, &root) == nil {
		defs = root.Defs
	}
	var walk func(doc json.RawMessage, path string, depth int)
	walk = func(doc json.RawMessage, path string, depth int) {
		var s struct {
			Required   []string        `json:"required"`
			Properties json.RawMessage `json:"properties"`
		}
		if depth > 5 || json.Unmarshal(doc, &s) != nil || len(s.Properties) == 0 {
			return
		}
		for _, name := range namesInOrder(s.Properties) {
			var all map[string]json.RawMessage
			if json.Unmarshal(s.Properties, &all) != nil {
				return
			}
			if len(out) >= 400 {
				return
			}
			property := all[name]
			inner, m := follow(property, defs)
			m.Path, m.Depth, m.Required = path+name, depth, slices.Contains(s.Required, name)
			out = append(out, m)
			walk(inner, path+name+".", depth+1)
		}
	}
	walk(doc, "", 0)
	return out
}

// follow says what a property is, going through references and lists. It returns the schema of what has members.
func follow(doc json.RawMessage, defs map[string]json.RawMessage) (json.RawMessage, member) {
	var m member
	list := ""
	for range 8 {
		var s struct {
			Ref         string          `json:"$ref"`
			Type        json.RawMessage `json:"type"`
			Description string          `json:"description"`
			Format      string          `json:"format"`
			Enum        []any           `json:"enum"`
			Const       any             `json:"const"`
			Items       json.RawMessage `json:"items"`
			PHI         bool            `json:"x-phi"`
		}
		if json.Unmarshal(doc, &s) != nil {
			return doc, m
		}
		if m.About == "" {
			m.About = s.Description
		}
		m.Protected = m.Protected || s.PHI
		if name, ok := strings.CutPrefix(s.Ref, "#/$defs/"); ok && defs[name] != nil {
			doc = defs[name]
			continue
		}
		kind := strings.Trim(string(s.Type), `"`)
		if kind == "array" && len(s.Items) > 0 {
			list += "list of "
			doc = s.Items
			continue
		}
		switch {
		case len(s.Enum) > 0:
			kind = "one of " + words(s.Enum)
		case s.Const != nil:
			kind = "always " + words([]any{s.Const})
		case s.Format != "":
			kind += " (" + s.Format + ")"
		}
		m.Type = list + kind
		break
	}
	return doc, m
}

func words(values []any) string {
	var b strings.Builder
	for i, v := range values {
		if i == 8 {
			b.WriteString(" …")
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		text, _ := json.Marshal(v)
		b.Write(bytes.Trim(text, `"`))
	}
	return b.String()
}

// namesInOrder are the members of an object as the text has them.
func namesInOrder(doc json.RawMessage) []string {
	var out []string
	d := json.NewDecoder(bytes.NewReader(doc))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return out
		}
		name, _ := t.(string)
		out = append(out, name)
		var skip json.RawMessage
		if d.Decode(&skip) != nil {
			return out
		}
	}
	return out
}

// schemaDiff holds any two versions of a type against each other.
func (q *request) schemaDiff() (*view, error) {
	eventType := q.path("type")
	if err := q.get("/v1/schemas/"+url.PathEscape(eventType)+"/latest", nil, nil); err != nil { // as the caller
		return nil, err
	}
	versions := q.p.Registry().Versions(eventType)
	from, to := q.q.Get("from"), q.q.Get("to")
	if to == "" && len(versions) > 0 {
		to = versions[len(versions)-1]
	}
	if from == "" {
		from = versions[max(len(versions)-2, 0)]
	}
	a, err := q.p.Registry().Get(eventType, from)
	if err != nil {
		return nil, problem(http.StatusNotFound, "%s", err)
	}
	b, err := q.p.Registry().Get(eventType, to)
	if err != nil {
		return nil, problem(http.StatusNotFound, "%s", err)
	}
	changes, bump, err := schema.Diff(a.Schema, b.Schema)
	if err != nil {
		return nil, problem(http.StatusUnprocessableEntity, "%s", err)
	}
	sameMajor := semver.Major("v"+from) == semver.Major("v"+to)
	d := map[string]any{"Type": eventType, "Versions": versions, "From": from, "To": to, "Changes": changes, "Bump": bump.String(), "SameMajor": sameMajor,
		"Breaks": sameMajor && bump == schema.Major, "Lines": diffLines(indented(a.Schema), indented(b.Schema))}
	if q.caller().May(auth.Read, eventType) {
		uses, err := q.uses(eventType)
		if err != nil {
			return nil, err
		}
		d["Uses"] = uses
	}
	return &view{Template: "schemadiff", Title: eventType + ": " + from + " to " + to, Nav: "Catalog", CLI: []string{command("schema", "diff", eventType+"@"+from, eventType+"@"+to)},
		API: "/v1/schemas/" + url.PathEscape(eventType) + "/" + to, Data: d}, nil
}

// diffLine is a line of two documents held against each other.
type diffLine struct {
	Op   string // same, gone, new, skip
	Text string
}

// diffLines is the difference of two texts by lines. Runs of equal lines are shortened.
func diffLines(a, b string) []diffLine {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	if len(x) > 3000 || len(y) > 3000 {
		return []diffLine{{"skip", "the documents are too long to be shown side by side"}}
	}
	length := make([][]int32, len(x)+1)
	for i := range length {
		length[i] = make([]int32, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var all []diffLine
	for i, j := 0, 0; i < len(x) || j < len(y); {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			all = append(all, diffLine{"same", x[i]})
			i, j = i+1, j+1
		case j == len(y) || i < len(x) && length[i+1][j] >= length[i][j+1]:
			all = append(all, diffLine{"gone", x[i]})
			i++
		default:
			all = append(all, diffLine{"new", y[j]})
			j++
		}
	}
	const near = 3
	keep := make([]bool, len(all))
	for i, l := range all {
		if l.Op != "same" {
			for k := max(i-near, 0); k <= min(i+near, len(all)-1); k++ {
				keep[k] = true
			}
		}
	}
	var out []diffLine
	for i, l := range all {
		switch {
		case keep[i]:
			out = append(out, l)
		case len(out) == 0 || out[len(out)-1].Op != "skip":
			out = append(out, diffLine{"skip", "…"})
		}
	}
	return out
}
