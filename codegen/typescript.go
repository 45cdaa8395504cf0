package codegen

import (
	"embed"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/carebus/carebus/schema"
)

//go:embed typescript/*.ts
var library embed.FS

// TypeScript generates modules (ES 2022) with an interface for the newest version of every major of every event type, and
// what is thin enough to come along: the envelope, and a client of the gateway's HTTP API. The files are returned by name;
// they follow from the arguments alone.
//
//	types/DOMAIN.ts    the payloads of a domain
//	events.ts          EventTypes: event type and major version to payload
//	envelope.ts        metadata, newEvent, isEvent
//	client.ts          the client; index.ts exports everything
//
// What a schema says and a type cannot (bounds, patterns, formats, conditions) is told in the comments.
func TypeScript(types []schema.Document, o *Options) (map[string][]byte, error) {
	docs, err := newest(types)
	if err != nil {
		return nil, err
	}
	header := o.header()
	files := map[string][]byte{}
	entries, err := library.ReadDir("typescript")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, err := library.ReadFile("typescript/" + e.Name())
		if err != nil {
			return nil, err
		}
		files[e.Name()] = []byte(header + "\n" + string(text))
	}
	domains, of := byDomain(docs)
	for _, domain := range domains {
		m := &tsModule{split: tsSplit(of[domain]), types: map[string]*tsType{}}
		for _, d := range of[domain] {
			b := tsBuilder{m: m, doc: d}
			if err := b.payload(); err != nil {
				return nil, fmt.Errorf("codegen: %s %s: %w", d.eventType, d.versionText(), err)
			}
		}
		files["types/"+domain+".ts"] = []byte(m.render(header, domain))
	}
	files["events.ts"] = []byte(tsEvents(header, domains, docs))
	return files, nil
}

// tsModule is the module of a domain.
type tsModule struct {
	split map[string]bool // $defs whose name stands for different things in different schemas of the domain
	types map[string]*tsType
	order []*tsType
}

// tsType is a declaration.
type tsType struct {
	name, text, shape string
}

// interfaceName is the payload's: always with its major, so that a new major renames nothing.
func (d *document) interfaceName() string { return d.base() + "V" + strconv.Itoa(d.version[0]) }

// tsSplit finds the names that need a prefix: those with several shapes, and those of payloads.
func tsSplit(docs []*document) map[string]bool {
	split, shapes := map[string]bool{}, map[string]string{}
	for _, d := range docs {
		for _, def := range d.root.Defs {
			s := shapeOf(def.node, d.root.Defs, nil)
			if other, ok := shapes[goName(def.name)]; ok && other != s {
				split[goName(def.name)] = true
			}
			shapes[goName(def.name)] = s
		}
	}
	for _, d := range docs {
		split[d.interfaceName()] = true
	}
	return split
}

func (m *tsModule) render(header, domain string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n// The payloads of the domain %s.\n", header, domain)
	for _, t := range m.order {
		b.WriteString("\n" + t.text)
	}
	return b.String()
}

// tsBuilder makes the declarations of one schema.
type tsBuilder struct {
	m   *tsModule
	doc *document
}

func (b tsBuilder) payload() error {
	d := b.doc
	about := fmt.Sprintf("The payload of %s, version %s. %s", d.eventType, d.versionText(), d.root.Description)
	if d.root.Title != "" {
		about = strings.TrimSuffix(d.root.Title, ".") + ". " + about
	}
	_, err := b.declare(d.interfaceName(), about, d.root)
	return err
}

var tsIdentifier = regexp.MustCompile(`^[A-Za-z_$][A-Za-z0-9_$]*$`)

// declare adds a type of that name, unless it is there with the same shape, and returns the name.
func (b tsBuilder) declare(name, about string, n *node) (string, error) {
	if !tsIdentifier.MatchString(name) {
		return "", fmt.Errorf("%q cannot name a type; rename it in the schema", name)
	}
	shape := shapeOf(n, b.doc.root.Defs, nil)
	if t, ok := b.m.types[name]; ok {
		if t.shape != shape {
			return "", fmt.Errorf("two types would be named %s; give one a name of its own in $defs", name)
		}
		return name, nil
	}
	t := &tsType{name: name, shape: shape}
	b.m.types[name], b.m.order = t, append(b.m.order, t) // before its parts: a type may refer to itself
	head := tsDoc("", about, n)
	if !n.plainObject() {
		text, err := b.typeOf(n, name, true)
		if len(text) > 100 && len(n.Enum) > 0 && n.Ref == "" && len(n.All)+len(n.Any)+len(n.One) == 0 && n.Const == nil {
			text = "\n  | " + strings.Join(tsEnum(n), "\n  | ")
		}
		t.text = fmt.Sprintf("%sexport type %s = %s;\n", head, name, text)
		return name, err
	}
	body, err := b.object(n, name)
	t.text = fmt.Sprintf("%sexport interface %s %s\n", head, name, body)
	return name, err
}

// plainObject reports whether an interface says all of it.
func (n *node) plainObject() bool {
	return (n.kind() == "object" || len(n.Types) == 0 && len(n.Properties) > 0) && len(n.Properties) > 0 && !n.combined()
}

func (n *node) combined() bool {
	return n.Ref != "" || n.Const != nil || len(n.Enum) > 0 || len(n.All)+len(n.Any)+len(n.One) > 0
}

// object is the body of an interface.
func (b tsBuilder) object(n *node, name string) (string, error) {
	var out strings.Builder
	out.WriteString("{\n")
	for _, m := range n.Properties {
		text, err := b.typeOf(m.node, within(name, m.name), false)
		if err != nil {
			return "", fmt.Errorf("/%s: %w", m.name, err)
		}
		mark := "?"
		if slices.Contains(n.Required, m.name) {
			mark = ""
		}
		fmt.Fprintf(&out, "%s  %s%s: %s;\n", tsDoc("  ", m.node.Description, m.node), tsKey(m.name), mark, text)
	}
	for _, required := range n.Required {
		if n.Properties.find(required) == nil {
			fmt.Fprintf(&out, "  %s: unknown;\n", tsKey(required))
		}
	}
	if n.values() != nil || len(n.Patterns) > 0 || n.Values != nil && *n.Values.always && len(n.Properties) > 0 {
		out.WriteString("  [key: string]: unknown;\n")
	}
	out.WriteString("}")
	return out.String(), nil
}

// typeOf writes the type of n; name is for what has to be declared for it. whole is for the declaration of name itself.
func (b tsBuilder) typeOf(n *node, name string, whole bool) (string, error) {
	if n.always != nil {
		if *n.always {
			return "unknown", nil
		}
		return "never", nil
	}
	if len(n.Properties) > 0 && !whole {
		return b.declare(name, n.Description, n)
	}
	var parts []string // of an intersection
	add := func(text string) {
		if text != "" && text != "unknown" && !slices.Contains(parts, text) {
			parts = append(parts, text)
		}
	}
	if n.Ref != "" {
		text, err := b.reference(n.Ref)
		if err != nil {
			return "", err
		}
		add(text)
	}
	own, err := b.own(n, name)
	if err != nil {
		return "", err
	}
	add(own)
	for i, part := range n.All {
		text, err := b.typeOf(part, name+"Part"+strconv.Itoa(i+1), false)
		if err != nil {
			return "", fmt.Errorf("/allOf/%d: %w", i, err)
		}
		add(text)
	}
	for _, list := range [][]*node{n.Any, n.One} {
		var either []string
		for i, part := range list {
			text, err := b.typeOf(part, name+"Option"+strconv.Itoa(i+1), false)
			if err != nil {
				return "", fmt.Errorf("alternative %d: %w", i, err)
			}
			if !slices.Contains(either, text) {
				either = append(either, text)
			}
		}
		if !slices.Contains(either, "unknown") { // else they only demand something of what is described beside them
			add(strings.Join(either, " | "))
		}
	}
	switch len(parts) {
	case 0:
		return "unknown", nil
	case 1:
		return parts[0], nil
	}
	for i, p := range parts {
		parts[i] = bracketed(p, '|')
	}
	return strings.Join(parts, " & "), nil
}

// own is what n says of itself, without references and alternatives.
func (b tsBuilder) own(n *node, name string) (string, error) {
	switch {
	case n.Const != nil:
		return string(n.Const.RawMessage), nil // JSON is a type too
	case len(n.Enum) > 0:
		return strings.Join(tsEnum(n), " | "), nil
	}
	types := n.Types
	if len(types) == 0 {
		switch {
		case len(n.Properties) > 0 || n.values() != nil || len(n.Patterns) > 0:
			types = kinds{"object"}
		case n.Items != nil || len(n.Prefix) > 0:
			types = kinds{"array"}
		}
	}
	var out []string
	for _, kind := range types {
		text, err := b.ofKind(n, kind, name)
		if err != nil {
			return "", err
		}
		if !slices.Contains(out, text) {
			out = append(out, text)
		}
	}
	return strings.Join(out, " | "), nil
}

func (b tsBuilder) ofKind(n *node, kind, name string) (string, error) {
	switch kind {
	case "string", "boolean", "null":
		return kind, nil
	case "integer", "number":
		return "number", nil
	case "array":
		if len(n.Prefix) > 0 || n.Items == nil {
			return "unknown[]", nil
		}
		item, err := b.typeOf(n.Items, name+"Item", false)
		if err != nil {
			return "", fmt.Errorf("/items: %w", err)
		}
		return bracketed(bracketed(item, '|'), '&') + "[]", nil
	case "object":
		switch {
		case len(n.Properties) > 0, len(n.Required) > 0:
			return b.object(n, name)
		case n.values() != nil:
			value, err := b.typeOf(n.values(), name+"Value", false)
			if err != nil {
				return "", fmt.Errorf("/additionalProperties: %w", err)
			}
			return "{ [key: string]: " + value + " }", nil
		}
		return "{ [key: string]: unknown }", nil
	}
	return "", fmt.Errorf("type %q is none of JSON's", kind)
}

// reference declares what a $ref refers to.
func (b tsBuilder) reference(ref string) (string, error) {
	if ref == "#" {
		return b.doc.interfaceName(), nil
	}
	def, ok := strings.CutPrefix(ref, "#/$defs/")
	target := b.doc.root.Defs.find(def)
	if !ok || target == nil {
		return "", fmt.Errorf("$ref %s: not in $defs of this schema", ref)
	}
	name := goName(def)
	if b.m.split[name] {
		name = within(b.doc.interfaceName(), def)
	}
	return b.declare(name, target.Description, target)
}

// bracketed puts a type in brackets when the operator stands in it outside of brackets and texts.
func bracketed(text string, operator byte) string {
	depth, inText := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case strings.IndexByte("([{", c) >= 0:
			depth++
		case strings.IndexByte(")]}", c) >= 0:
			depth--
		case depth == 0 && c == operator:
			return "(" + text + ")"
		}
	}
	return text
}

// tsEnum are the listed values; the union of an extensible one is left open, and editors still offer the values.
func tsEnum(n *node) []string {
	var out []string
	open := map[string]bool{}
	for _, v := range n.Enum {
		out = append(out, tsText(v))
		switch v.(type) {
		case string:
			open["(string & {})"] = n.Extensible
		case float64:
			open["(number & {})"] = n.Extensible
		}
	}
	for _, rest := range slices.Sorted(maps.Keys(open)) {
		if open[rest] {
			out = append(out, rest)
		}
	}
	return out
}

// tsKey is the name of a member as it is declared.
func tsKey(name string) string {
	if tsIdentifier.MatchString(name) {
		return name
	}
	return tsText(name)
}

// tsText is a literal; JSON's are TypeScript's.
func tsText(v any) string {
	text, err := json.Marshal(v)
	if err != nil { // what was read from JSON can be written as JSON
		panic(err)
	}
	return string(text)
}

// tsAlias names the namespace of a domain.
func tsAlias(domain string) string {
	var b strings.Builder
	for i, w := range words(domain) {
		if i > 0 {
			w = strings.ToUpper(w[:1]) + w[1:]
		}
		b.WriteString(w)
	}
	if slices.Contains(tsReserved, b.String()) {
		b.WriteString("Events")
	}
	return b.String()
}

// tsReserved are words that cannot name a namespace, and names that the modules have already.
var tsReserved = strings.Fields(`any as async await boolean break case catch class const continue debugger declare default delete do else
	enum export extends false finally for from function get if implements import in instanceof interface is let module namespace never new
	null number object of package private protected public require return set static string super switch symbol this throw true try type
	typeof undefined unknown var void while with yield versions`)

// tsEvents is the module with the map of all types.
func tsEvents(header string, domains []string, docs []*document) string {
	var b strings.Builder
	b.WriteString(header + "\n")
	for _, domain := range domains {
		fmt.Fprintf(&b, "import type * as %s from \"./types/%s.js\";\n", tsAlias(domain), domain)
	}
	b.WriteString("\n" + tsDoc("", "The payloads of all events: by event type, then by major version.", nil) + "export interface EventTypes {\n")
	for i, d := range docs {
		if i == 0 || docs[i-1].eventType != d.eventType {
			about := d.root.Title
			if about != "" {
				about = strings.TrimSuffix(about, ".") + "."
			}
			b.WriteString(tsDoc("  ", about, &node{Deprecated: newestOf(docs, d.eventType).root.Deprecated, ReplacedBy: newestOf(docs, d.eventType).root.ReplacedBy}))
			fmt.Fprintf(&b, "  %s: {\n", tsText(d.eventType))
		}
		fmt.Fprintf(&b, "    %d: %s.%s;\n", d.version[0], tsAlias(d.domain), d.interfaceName())
		if d.newest {
			b.WriteString("  };\n")
		}
	}
	b.WriteString("}\n\n" + tsDoc("", "The newest version of every major that these types know: what newEvent states.", nil))
	b.WriteString("export const versions: { readonly [T in keyof EventTypes]: { readonly [M in keyof EventTypes[T]]: string } } = {\n")
	for i, d := range docs {
		if i == 0 || docs[i-1].eventType != d.eventType {
			fmt.Fprintf(&b, "  %s: { ", tsText(d.eventType))
		}
		fmt.Fprintf(&b, "%d: %s", d.version[0], tsText(d.versionText()))
		if d.newest {
			b.WriteString(" },\n")
		} else {
			b.WriteString(", ")
		}
	}
	b.WriteString("};\n")
	for _, domain := range domains {
		fmt.Fprintf(&b, "export type * as %s from \"./types/%s.js\";\n", tsAlias(domain), domain)
	}
	return b.String()
}

func newestOf(docs []*document, eventType string) *document {
	var out *document
	for _, d := range docs {
		if d.eventType == eventType {
			out = d
		}
	}
	return out
}

// tsDoc is a comment: the text, what a type cannot say of n, and its deprecation.
func tsDoc(indent, text string, n *node) string {
	lines := wrapped(text, 110-len(indent))
	if n != nil {
		if facts := n.facts(); facts != "" {
			lines = append(lines, wrapped(facts, 110-len(indent))...)
		}
		if n.Deprecated {
			line := "@deprecated Not for new work."
			if n.ReplacedBy != "" {
				line = "@deprecated Use " + n.ReplacedBy + "."
			}
			lines = append(lines, line)
		}
	}
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], "*/", "*\\/")
	}
	switch len(lines) {
	case 0:
		return ""
	case 1:
		return indent + "/** " + lines[0] + " */\n"
	}
	return indent + "/**\n" + indent + " * " + strings.Join(lines, "\n"+indent+" * ") + "\n" + indent + " */\n"
}

// facts is what a schema demands of a value and its type does not show.
func (n *node) facts() string {
	var out []string
	switch n.Format {
	case "":
	case "date-time":
		out = append(out, "Format: date-time, as in 2026-01-31T09:30:00Z.")
	case "date":
		out = append(out, "Format: date, as in 2026-01-31.")
	default:
		out = append(out, "Format: "+n.Format+".")
	}
	if n.Pattern != "" {
		out = append(out, "Pattern: "+n.Pattern)
	}
	for _, limit := range []struct {
		what string
		at   json.RawMessage
	}{{"At least", n.Minimum}, {"At most", n.Maximum}, {"More than", n.Above}, {"Less than", n.Below}} {
		if limit.at != nil {
			out = append(out, limit.what+" "+string(limit.at)+".")
		}
	}
	if n.MinLength != nil {
		out = append(out, "Characters at least: "+string(n.MinLength)+".")
	}
	if n.MaxLength != nil {
		out = append(out, "Characters at most: "+string(n.MaxLength)+".")
	}
	if slices.Contains(n.Types, "integer") {
		out = append(out, "A whole number.")
	}
	if n.PHI {
		out = append(out, "Protected health information.")
	}
	return strings.Join(out, " ")
}
