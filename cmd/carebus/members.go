package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// member is one member of a payload, as people want to read about it.
type member struct {
	Name        string `json:"name"` // "medication.ndc"; "[]" stands for each element of a list
	Type        string `json:"type"` // "string date-time", "list of string", "one of: a, b"
	Required    bool   `json:"required"`
	Protected   bool   `json:"protected,omitempty"` // protected health information
	Description string `json:"description,omitempty"`
}

// node is a part of a JSON Schema, as far as members are told from it.
type node struct {
	Ref         string     `json:"$ref"`
	Type        any        `json:"type"`
	Format      string     `json:"format"`
	Enum        []any      `json:"enum"`
	Const       any        `json:"const"`
	Items       *node      `json:"items"`
	Values      *node      `json:"additionalProperties"`
	Properties  properties `json:"properties"`
	Required    []string   `json:"required"`
	Description string     `json:"description"`
	PHI         bool       `json:"x-phi"`
	Defs        properties `json:"$defs"`
	never       bool
}

// UnmarshalJSON also takes the schemas true and false.
func (n *node) UnmarshalJSON(data []byte) error {
	if t := bytes.TrimSpace(data); len(t) > 0 && t[0] != '{' {
		n.never = string(t) == "false"
		return nil
	}
	type plain node
	return json.Unmarshal(data, (*plain)(n))
}

// properties are in the order of the document, which is that of their importance.
type properties []property

type property struct {
	name string
	node *node
}

func (p *properties) UnmarshalJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	if _, err := dec.Token(); err != nil {
		return err
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return err
		}
		n := &node{}
		if err := dec.Decode(n); err != nil {
			return err
		}
		*p = append(*p, property{fmt.Sprint(name), n})
	}
	return nil
}

func (p properties) find(name string) *node {
	for _, m := range p {
		if m.name == name {
			return m.node
		}
	}
	return nil
}

// maxMemberDepth bounds schemas that refer to themselves.
const maxMemberDepth = 8

// membersOf lists what a schema says of a payload.
func membersOf(schema json.RawMessage) ([]member, error) {
	root := &node{}
	if err := json.Unmarshal(schema, root); err != nil {
		return nil, err
	}
	m := lister{defs: root.Defs, out: []member{}}
	m.object("", root, false, 0)
	return m.out, nil
}

type lister struct {
	defs properties
	out  []member
}

// resolve follows references; what stands beside them comes first.
func (l *lister) resolve(n *node) *node {
	out := *n
	for range maxMemberDepth {
		name, ok := strings.CutPrefix(out.Ref, "#/$defs/")
		target := l.defs.find(name)
		if !ok || target == nil {
			break
		}
		beside := out
		out = *target
		out.PHI = out.PHI || beside.PHI
		if beside.Description != "" {
			out.Description = beside.Description
		}
	}
	return &out
}

func (l *lister) object(prefix string, n *node, phi bool, depth int) {
	if depth > maxMemberDepth {
		return
	}
	required := map[string]bool{}
	for _, r := range n.Required {
		required[r] = true
	}
	for _, p := range n.Properties {
		c := l.resolve(p.node)
		l.out = append(l.out, member{Name: prefix + p.name, Type: l.typeText(c), Required: required[p.name], Protected: phi || c.PHI, Description: c.Description})
		l.below(prefix+p.name, c, phi || c.PHI, depth+1)
	}
}

func (l *lister) below(name string, n *node, phi bool, depth int) {
	if n.Items != nil && depth <= maxMemberDepth {
		c := l.resolve(n.Items)
		l.below(name+"[]", c, phi || c.PHI, depth+1)
	}
	l.object(name+".", n, phi, depth)
}

func (l *lister) typeText(n *node) string {
	kind := ""
	switch t := n.Type.(type) {
	case string:
		kind = t
	case []any:
		words := []string{}
		for _, w := range t {
			words = append(words, fmt.Sprint(w))
		}
		kind = strings.Join(words, " or ")
	}
	switch {
	case len(n.Enum) > 0:
		words := []string{}
		for _, v := range n.Enum {
			words = append(words, fmt.Sprint(v))
		}
		return "one of: " + strings.Join(words, ", ")
	case n.Const != nil:
		return fmt.Sprintf("always %v", n.Const)
	case kind == "array" && n.Items != nil:
		return "list of " + l.typeText(l.resolve(n.Items))
	case kind == "array":
		return "list"
	case kind == "object" && n.Values != nil && !n.Values.never && len(n.Properties) == 0:
		return "object of " + l.typeText(l.resolve(n.Values))
	case n.Format != "":
		return kind + " " + n.Format
	case kind == "":
		return "any"
	}
	return kind
}
