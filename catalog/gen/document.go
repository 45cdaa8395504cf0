package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// document is the schema of one version of an event type.
type document struct {
	eventType string
	domain    string
	entity    string // the domain itself for a type of two parts
	version   [3]int
	newest    bool // no higher major exists
	root      *node
}

func parseDocument(eventType, version string, text []byte) (*document, error) {
	d := &document{eventType: eventType, root: &node{}}
	parts := strings.Split(eventType, ".")
	switch len(parts) {
	case 2, 3:
		d.domain, d.entity = parts[0], parts[len(parts)-2]
	default:
		return nil, fmt.Errorf("%q is no event type; use domain.entity.action", eventType)
	}
	numbers := strings.Split(version, ".")
	if len(numbers) != 3 {
		return nil, fmt.Errorf("%q is no version; use MAJOR.MINOR.PATCH", version)
	}
	for i, n := range numbers {
		var err error
		if d.version[i], err = strconv.Atoi(n); err != nil {
			return nil, fmt.Errorf("%q is no version; use MAJOR.MINOR.PATCH", version)
		}
	}
	return d, json.Unmarshal(text, d.root)
}

// base is the event's name in Go, without a major: PrescriptionCreated, or Enrolled for a type of two parts.
func (d *document) base() string {
	return goName(strings.TrimPrefix(d.eventType, d.domain+"."))
}

// payload is the name of the struct.
func (d *document) payload() string {
	if d.newest {
		return d.base()
	}
	return d.base() + strconv.Itoa(d.version[0])
}

// definition is the name of the event.Definition.
func (d *document) definition() string { return d.base() + "V" + strconv.Itoa(d.version[0]) }

func (d *document) versionText() string {
	return fmt.Sprintf("%d.%d.%d", d.version[0], d.version[1], d.version[2])
}

// node is a part of a schema, as far as the Go types depend on it.
type node struct {
	Ref         string   `json:"$ref"`
	Type        string   `json:"type"`
	Format      string   `json:"format"`
	Enum        []any    `json:"enum"`
	Properties  members  `json:"properties"`
	Required    []string `json:"required"`
	Items       *node    `json:"items"`
	Values      *node    `json:"additionalProperties"`
	Defs        members  `json:"$defs"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	PHI         bool     `json:"x-phi"`
	Deprecated  bool     `json:"deprecated"`
	ReplacedBy  string   `json:"x-replaced-by"`
}

// words returns the values of a set of strings, or nil.
func (n *node) words() []string {
	if n.Type != "string" {
		return nil
	}
	out := make([]string, 0, len(n.Enum))
	for _, v := range n.Enum {
		s, ok := v.(string)
		if !ok {
			return nil
		}
		out = append(out, s)
	}
	return out
}

// members are named parts in the order of the file.
type members []member

type member struct {
	name string
	node *node
}

func (m members) find(name string) *node {
	for _, x := range m {
		if x.name == name {
			return x.node
		}
	}
	return nil
}

// UnmarshalJSON keeps the order, which a map would lose.
func (m *members) UnmarshalJSON(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if _, err := dec.Token(); err != nil {
		return err
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return err
		}
		n := &node{}
		if err := dec.Decode(n); err != nil {
			return fmt.Errorf("/%s: %w", key, err)
		}
		*m = append(*m, member{key.(string), n})
	}
	return nil
}
