package schema

import "slices"

// validating keywords are judged by proof; the others, by meanings.
var validating = func() map[string]bool {
	m := map[string]bool{}
	for _, keyword := range assertions {
		m[keyword] = true
	}
	for _, keyword := range []string{"properties", "patternProperties", "additionalProperties", "propertyNames", "dependentSchemas",
		"dependencies", "items", "additionalItems", "prefixItems", "contains", "allOf", "anyOf", "oneOf", "not", "if", "then", "else",
		"$ref", "$defs", "definitions", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef", "$recursiveRef"} {
		m[keyword] = true
	}
	return m
}()

// meanings lists the differences that do not decide which values are valid: annotations, marks, new properties.
func meanings(from, to *document) []Change {
	m := &meaning{seen: map[[2]*node]bool{}}
	m.root(from, to)
	m.pair(from.root, to.root)
	if !m.definitionsMet(from, to) {
		m.add("", "definitions", "definitions that nothing refers to changed", Patch)
	}
	return m.changes
}

type meaning struct {
	changes []Change
	seen    map[[2]*node]bool
}

func (m *meaning) add(pointer, rule, message string, bump Bump) {
	m.changes = append(m.changes, Change{Pointer: pointer, Rule: rule, Message: message, Bump: bump})
}

func (m *meaning) refuse(pointer, rule, message, remedy string) {
	m.changes = append(m.changes, Change{Pointer: pointer, Rule: rule, Message: message, Remedy: remedy, Bump: Major})
}

// root compares the marks that stand on the whole document.
func (m *meaning) root(from, to *document) {
	a, b := from.root.raw, to.root.raw
	if canonical(a["x-entity-id"]) != canonical(b["x-entity-id"]) {
		m.refuse("/x-entity-id", "entity-id-changed", "x-entity-id changed: events of one entity would no longer be in order",
			"leave it as it was, or "+newMajor)
	}
	switch was, is := a["x-subject-id"], b["x-subject-id"]; {
	case canonical(was) == canonical(is):
	case was == nil:
		m.add("/x-subject-id", "subject-id-added", "the events say now whom they are about", Minor)
	default:
		m.refuse("/x-subject-id", "subject-id-changed", "x-subject-id changed: what protects a person's data would look in another place",
			"leave it as it was, or "+newMajor)
	}
	m.dataClass(a["x-data-class"], b["x-data-class"])
}

// dataClasses are in rising order of protection.
var dataClasses = []string{"public", "internal", "confidential", "restricted"}

func (m *meaning) dataClass(was, is any) {
	if canonical(was) == canonical(is) {
		return
	}
	rank := func(v any) int {
		if v == nil {
			return 0
		}
		text, _ := v.(string)
		return slices.Index(dataClasses, text)
	}
	if a, b := rank(was), rank(is); a >= 0 && b >= a {
		m.add("/x-data-class", "data-class-raised", "the data class was raised", Minor)
		return
	}
	m.refuse("/x-data-class", "data-class-lowered", "the data class was lowered, or is not one of public, internal, confidential, restricted",
		"leave it as it was, or "+newMajor)
}

// pair compares two schemas that stand at the same place, and those below them.
func (m *meaning) pair(a, b *node) {
	key := [2]*node{a, b}
	if m.seen[key] {
		return
	}
	m.seen[key] = true
	m.annotations(a, b)
	x, y := a.reached(), b.reached()
	for _, at := range sortedKeys(x) {
		if y[at] != nil {
			m.pair(x[at], y[at])
		}
	}
	declared := a.declaredNames()
	for _, name := range sortedKeys(b.declaredNames()) {
		if declared[name] == nil {
			m.add(b.declaredNames()[name].pointer, "property-added", "property "+quote(name)+" was added", Minor)
		}
	}
}

// chain is n with the targets of its references: what its annotations are made of.
func (n *node) chain() []*node {
	list := []*node{n}
	for n.ref != nil && len(list) < maxDepth && !slices.Contains(list, n.ref) {
		n = n.ref
		list = append(list, n)
	}
	return list
}

// parts are the schemas that n is made of: itself, what it refers to, and the members of allOf.
func (n *node) parts() []*node {
	f := &facts{}
	f.gather(subject{nodes: []*node{n}})
	return f.nodes
}

// reached are the children of n and of what it is made of.
func (n *node) reached() map[string]*node {
	m := map[string]*node{}
	for _, link := range n.parts() {
		for at, c := range link.children() {
			if m[at] == nil {
				m[at] = c
			}
		}
	}
	return m
}

func (n *node) declaredNames() map[string]*node {
	m := map[string]*node{}
	for _, link := range n.parts() {
		for name, c := range link.properties {
			if m[name] == nil {
				m[name] = c
			}
		}
	}
	return m
}

// annotation is the value of a keyword that n has itself or by reference.
func (n *node) annotation(keyword string) any {
	for _, link := range n.chain() {
		if v, has := link.raw[keyword]; has {
			return v
		}
	}
	return nil
}

// protected tells whether n is marked as protected health information, itself or by what it is made of.
func (n *node) protected() bool {
	for _, link := range n.parts() {
		if marked(link.raw["x-phi"]) {
			return true
		}
	}
	return false
}

func marked(v any) bool {
	on, boolean := v.(bool)
	return boolean && on || !boolean && v != nil
}

func (m *meaning) annotations(a, b *node) {
	at := b.pointer
	keywords := map[string]bool{}
	for _, n := range append(a.chain(), b.chain()...) {
		for keyword := range n.raw {
			keywords[keyword] = true
		}
	}
	top := a.pointer == "" && b.pointer == ""
	for _, keyword := range sortedKeys(keywords) {
		switch keyword {
		case "x-entity-id", "x-subject-id", "x-data-class":
			if top {
				continue // root has compared them
			}
		case "$schema":
			continue
		case "x-phi", "x-extensible-enum":
			continue
		}
		if validating[keyword] {
			continue
		}
		was, is := a.annotation(keyword), b.annotation(keyword)
		if canonical(was) == canonical(is) {
			continue
		}
		pointer := at + "/" + pointerToken(keyword)
		switch keyword {
		case "default":
			m.add(pointer, "default-changed", "the default changed, and with it what absence means", Minor)
		case "deprecated":
			m.add(pointer, "deprecated", "what is deprecated changed", Minor)
		case "readOnly", "writeOnly":
			m.add(pointer, "access-changed", keyword+" changed", Minor)
		case "contentEncoding", "contentMediaType", "contentSchema":
			m.refuse(pointer, "content-changed", keyword+" changed: consumers would decode the text in another way", "keep it and add a new optional property, or "+newMajor)
		default:
			m.add(pointer, "annotation-changed", keyword+" changed", Patch)
		}
	}
	switch was, is := a.protected(), b.protected(); {
	case was && !is:
		m.refuse(at, "phi-lowered", "the mark of protected health information was taken away", "keep x-phi, or "+newMajor)
	case is && !was:
		m.add(at, "phi-raised", "it is marked as protected health information now", Minor)
	case was && canonical(a.annotation("x-phi")) != canonical(b.annotation("x-phi")):
		m.refuse(at, "phi-changed", "the kind of protected health information changed", "keep x-phi as it was, or "+newMajor)
	}
	m.enums(a, b)
}

// enums compares lists of values that are meant to grow.
func (m *meaning) enums(a, b *node) {
	a, b = a.chain()[len(a.chain())-1], b.chain()[len(b.chain())-1]
	if !a.finite || !b.finite {
		return
	}
	switch {
	case a.extensible && !b.extensible:
		m.add(b.pointer, "enum-closed", "the enum is not extensible any more", Minor)
	case !a.extensible && b.extensible:
		m.refuse(b.pointer, "enum-opened", "the enum became extensible: consumers of the old version would meet values that they do not know",
			"leave it as it was, or "+newMajor)
	case a.extensible && b.extensible:
		if slices.ContainsFunc(b.values, func(v value) bool { return !contains(a.values, v) }) {
			m.add(b.pointer, "enum-extended", "values were added to an extensible enum", Minor)
		}
	}
}

// definitionsMet tells whether the definitions that nothing refers to are the same in both documents. Those that
// something refers to are compared where they are used.
func (m *meaning) definitionsMet(from, to *document) bool {
	return canonical(from.unused()) == canonical(to.unused())
}

func (d *document) unused() any {
	rest := object{}
	root, _ := d.tree.(object)
	for _, keyword := range []string{"$defs", "definitions"} {
		definitions, _ := root[keyword].(object)
		for name, v := range definitions {
			if pointer := "/" + keyword + "/" + pointerToken(name); d.nodes[pointer] == nil {
				rest[pointer] = v
			}
		}
	}
	return rest
}
