package codegen

import (
	"encoding/json"
	"fmt"
	"go/token"
	"slices"
	"strings"
)

// goPackage is a package to be written.
type goPackage struct {
	name  string
	docs  []*document
	types map[string]*goType // by Go name
	order []*goType          // as they were met
	split map[string]bool    // $defs whose name stands for different things in different schemas of the domain
}

// goType is a struct or a set of words.
type goType struct {
	name     string
	doc      string
	fields   []goField
	values   []goValue
	imports  map[string]bool
	entities map[string]bool // entities whose events use it; it is written to the entity's file when there is one only
	event    *document       // set when it is an event's payload
	shape    string
}

type goField struct {
	Name, Type, Tag, Doc string
}

type goValue struct {
	Name, Value string
}

func buildPackage(domain string, docs []*document) (*goPackage, error) {
	if !token.IsIdentifier(domain) {
		return nil, fmt.Errorf("domain %q cannot name a Go package", domain)
	}
	p := &goPackage{name: domain, docs: docs, types: map[string]*goType{}, split: splitDefs(docs)}
	for _, d := range docs {
		b := builder{pkg: p, doc: d, defs: d.root.Defs}
		if _, err := b.object(d.payload(), d.root, d); err != nil {
			return nil, fmt.Errorf("%s %s: %w", d.eventType, d.versionText(), err)
		}
	}
	return p, p.checkNames()
}

// splitDefs finds the names that need a prefix: those with several shapes, and those of payloads.
func splitDefs(docs []*document) map[string]bool {
	split, shapes := map[string]bool{}, map[string]string{}
	for _, d := range docs {
		for _, def := range d.root.Defs {
			s := shapeOf(def.node, d.root.Defs, nil)
			if other, ok := shapes[def.name]; ok && other != s {
				split[def.name] = true
			}
			shapes[def.name] = s
		}
	}
	for _, d := range docs {
		split[d.payload()] = true
	}
	return split
}

// shapeOf writes down all that the Go type of n depends on, references followed.
func shapeOf(n *node, defs members, open []string) string {
	if n == nil {
		return ""
	}
	if name, ok := strings.CutPrefix(n.Ref, "#/$defs/"); ok {
		if slices.Contains(open, name) {
			return "&" + name
		}
		return name + shapeOf(defs.find(name), defs, append(open, name))
	}
	var b strings.Builder
	enum, _ := json.Marshal(n.Enum)
	fmt.Fprintf(&b, "%s,%s,%s,%v(", strings.Join(n.Types, "|"), n.Format, enum, slices.Sorted(slices.Values(n.Required)))
	for _, m := range n.Properties {
		fmt.Fprintf(&b, "%q:%s;", m.name, shapeOf(m.node, defs, open))
	}
	fmt.Fprintf(&b, ")[%s]{%s}", shapeOf(n.Items, defs, open), shapeOf(n.values(), defs, open))
	for _, part := range slices.Concat(n.All, n.Any, n.One, n.Prefix) {
		fmt.Fprintf(&b, "|%s", shapeOf(part, defs, open))
	}
	if n.Const != nil {
		fmt.Fprintf(&b, "=%s", n.Const.RawMessage)
	}
	if n.Extensible {
		b.WriteByte('+')
	}
	return b.String()
}

// checkNames refuses names that would not compile, saying which schema to change.
func (p *goPackage) checkNames() error {
	taken := map[string]string{}
	take := func(name, what string) error {
		if other, ok := taken[name]; ok {
			return fmt.Errorf("package %s: %s and %s are both named %s in Go; rename one of them in the schemas", p.name, other, what, name)
		}
		if !token.IsIdentifier(name) {
			return fmt.Errorf("package %s: %s cannot be named %q in Go; rename it in the schemas", p.name, what, name)
		}
		taken[name] = what
		return nil
	}
	for _, d := range p.docs {
		if err := take(d.definition(), "the definition of "+d.eventType); err != nil {
			return err
		}
	}
	for _, t := range p.order {
		if err := take(t.name, "type "+t.name); err != nil {
			return err
		}
		for _, v := range t.values {
			if err := take(v.Name, fmt.Sprintf("the word %q of %s", v.Value, t.name)); err != nil {
				return err
			}
		}
		fields := map[string]bool{}
		for _, f := range t.fields {
			if fields[f.Name] {
				return fmt.Errorf("package %s: two members of %s are named %s in Go; rename one of them in the schemas", p.name, t.name, f.Name)
			}
			fields[f.Name] = true
		}
	}
	return nil
}

// builder makes the types of one schema.
type builder struct {
	pkg  *goPackage
	doc  *document
	defs members
}

// declare returns the type of that name, and whether it has still to be filled in.
func (b builder) declare(name string, n *node) (*goType, bool, error) {
	shape := shapeOf(n, b.defs, nil)
	t, ok := b.pkg.types[name]
	switch {
	case !ok:
		t = &goType{name: name, doc: n.Description, imports: map[string]bool{}, entities: map[string]bool{}, shape: shape}
		b.pkg.types[name] = t
		b.pkg.order = append(b.pkg.order, t)
	case t.shape != shape:
		return nil, false, fmt.Errorf("two types would be named %s in Go; give one a name of its own in $defs", name)
	}
	// A type known already is walked again for an entity that is new to it, so that its parts are marked as shared.
	again := !t.entities[b.doc.entity]
	t.entities[b.doc.entity] = true
	return t, again, nil
}

func (b builder) object(name string, n *node, event *document) (*goType, error) {
	t, todo, err := b.declare(name, n)
	if err != nil || !todo {
		return t, err
	}
	t.event = event
	t.fields = nil
	for _, m := range n.Properties {
		f, err := b.field(t, n, m)
		if err != nil {
			return nil, fmt.Errorf("/%s: %w", m.name, err)
		}
		t.fields = append(t.fields, f)
	}
	return t, nil
}

func (b builder) words(name string, n *node) (*goType, error) {
	t, _, err := b.declare(name, n)
	if err != nil || t.values != nil {
		return t, err
	}
	for _, w := range n.words() {
		t.values = append(t.values, goValue{t.name + goName(w), w})
	}
	return t, nil
}

func (b builder) field(t *goType, parent *node, m member) (goField, error) {
	g, err := b.typeOf(t, within(t.name, m.name), m.node)
	if err != nil {
		return goField{}, err
	}
	f := goField{Name: goName(m.name), Type: g.name, Tag: m.name, Doc: m.node.Description}
	required := slices.Contains(parent.Required, m.name)
	switch {
	case required && g.name == "time.Time":
		// A time that was forgotten is left out, so that it is refused as missing and not published as the year 1.
		f.Tag += ",omitzero"
	case !required:
		f.Tag += ",omitzero"
		if !g.absent {
			f.Type = "*" + g.name
		}
	}
	if m.node.PHI {
		f.Doc += " Protected health information."
	}
	if m.node.Deprecated {
		f.Doc += "\n\nDeprecated: not for new work."
	}
	return f, nil
}

// use is how a type is written where it is used.
type use struct {
	name   string
	absent bool // its zero value can stand for a member that is absent
}

// typeOf returns the Go type of n; name is for a type that has to be declared for it. in is the type that uses it.
func (b builder) typeOf(in *goType, name string, n *node) (use, error) {
	if n.Ref != "" {
		def, ok := strings.CutPrefix(n.Ref, "#/$defs/")
		target := b.defs.find(def)
		if !ok || target == nil {
			return use{}, fmt.Errorf("$ref %s: not in $defs of this schema", n.Ref)
		}
		name, n = goName(def), target
		if b.pkg.split[def] {
			name = within(b.doc.payload(), def)
		}
		if n.Ref != "" {
			return use{}, fmt.Errorf("$defs/%s is only another $ref; refer to that one", def)
		}
	}
	switch n.kind() {
	case "string":
		if n.words() != nil && len(n.Enum) > 0 {
			t, err := b.words(name, n)
			if err != nil {
				return use{}, err
			}
			return use{t.name, true}, nil
		}
		if n.Format == "date-time" {
			in.imports["time"] = true
			return use{"time.Time", true}, nil
		}
		return use{"string", false}, nil
	case "integer":
		return use{"int64", false}, nil
	case "number":
		if n.Format == "usd" {
			in.imports["github.com/carebus/carebus/catalog"] = true
			return use{"catalog.USD", false}, nil
		}
		return use{"float64", false}, nil
	case "boolean":
		return use{"bool", false}, nil
	case "array":
		if n.Items == nil {
			return use{}, fmt.Errorf("an array needs items")
		}
		item, err := b.typeOf(in, name+"Item", n.Items)
		return use{"[]" + item.name, true}, err
	case "object":
		switch {
		case len(n.Properties) > 0 && n.values() != nil:
			return use{}, fmt.Errorf("properties together with additionalProperties have no Go type here; put the open part into a member of its own")
		case len(n.Properties) > 0:
			t, err := b.object(name, n, nil)
			if err != nil {
				return use{}, err
			}
			return use{t.name, false}, nil
		case n.values() != nil:
			value, err := b.typeOf(in, name+"Value", n.values())
			return use{"map[string]" + value.name, true}, err
		}
	case "":
	default:
		return use{}, fmt.Errorf("type %q has no Go type here", n.kind())
	}
	in.imports["encoding/json"] = true
	return use{"json.RawMessage", true}, nil
}
