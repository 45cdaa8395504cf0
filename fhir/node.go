package fhir

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// document is one decoded resource. Reading it never fails: a member of a wrong type reads as absent and is noted,
// because a wrong telecom must not cost a prescription. What an event cannot do without, its mapping demands.
type document struct {
	root  map[string]any
	kind  string
	id    string
	wrong []string // JSON pointers of members with a type that FHIR does not allow there
}

func decode(raw []byte) (*document, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber() // amounts keep their digits
	var root map[string]any
	if err := dec.Decode(&root); err != nil {
		return nil, err
	}
	return &document{root: root}, nil
}

// node is a place in a document, present or not. The zero node is absent.
type node struct {
	v    any
	at   string // JSON pointer
	name string // member, not yet part of at
	doc  *document
}

func (d *document) top() node { return node{v: d.root, doc: d} }

func (n node) pointer() string {
	if n.name == "" {
		return n.at
	}
	name := n.name
	if strings.ContainsAny(name, "~/") {
		name = strings.ReplaceAll(strings.ReplaceAll(name, "~", "~0"), "/", "~1")
	}
	return n.at + "/" + name
}

func (n node) exists() bool { return n.v != nil }

func (n node) note() {
	if n.doc != nil && len(n.doc.wrong) < 20 {
		n.doc.wrong = append(n.doc.wrong, n.pointer())
	}
}

// get returns a member of an object.
func (n node) get(name string) node {
	if n.v == nil {
		return node{}
	}
	m, ok := n.v.(map[string]any)
	if !ok {
		n.note()
		return node{}
	}
	v := m[name]
	if v == nil {
		return node{}
	}
	return node{v: v, at: n.pointer(), name: name, doc: n.doc}
}

// list returns the items of an array member. A single value where FHIR wants an array is taken as one item.
func (n node) list(name string) []node {
	l := n.get(name)
	if l.v == nil {
		return nil
	}
	items, ok := l.v.([]any)
	if !ok {
		l.note()
		return []node{l}
	}
	out := make([]node, 0, len(items))
	for i, v := range items {
		if v != nil {
			out = append(out, node{v: v, at: l.pointer(), name: strconv.Itoa(i), doc: n.doc})
		}
	}
	return out
}

// first returns the first item of an array member.
func (n node) first(name string) node {
	if l := n.list(name); len(l) > 0 {
		return l[0]
	}
	return node{}
}

// path follows members, taking the first item of arrays.
func (n node) path(names ...string) node {
	for _, name := range names {
		n = n.get(name)
		if items, ok := n.v.([]any); ok {
			if len(items) == 0 {
				return node{}
			}
			n = node{v: items[0], at: n.pointer(), name: "0", doc: n.doc}
		}
	}
	return n
}

// text returns a string member, trimmed.
func (n node) text(name string) string { return n.get(name).string() }

func (n node) string() string {
	switch v := n.v.(type) {
	case nil:
		return ""
	case string:
		return strings.TrimSpace(v)
	case json.Number:
		n.note()
		return v.String()
	default:
		n.note()
		return ""
	}
}

// number returns a numeric member as it is written, or "".
func (n node) number(name string) json.Number {
	m := n.get(name)
	switch v := m.v.(type) {
	case nil:
		return ""
	case json.Number:
		return v
	case string: // some writers quote decimals
		m.note()
		if v != "" && (v[0] == '-' || v[0] >= '0' && v[0] <= '9') && json.Valid([]byte(v)) {
			return json.Number(v)
		}
		return ""
	default:
		m.note()
		return ""
	}
}

func (n node) bool(name string) (value, ok bool) {
	m := n.get(name)
	b, ok := m.v.(bool)
	if !ok && m.v != nil {
		m.note()
	}
	return b, ok
}
