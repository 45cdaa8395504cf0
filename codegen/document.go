package codegen

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/carebus/carebus/schema"
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

func parseDocument(from schema.Document) (*document, error) {
	d := &document{eventType: from.Type, root: &node{}}
	parts := strings.Split(from.Type, ".")
	switch len(parts) {
	case 2, 3:
		d.domain, d.entity = parts[0], parts[len(parts)-2]
	default:
		return nil, fmt.Errorf("%q is no event type; use domain.entity.action", from.Type)
	}
	numbers := strings.Split(from.Version, ".")
	if len(numbers) != 3 {
		return nil, fmt.Errorf("%q is no version; use MAJOR.MINOR.PATCH", from.Version)
	}
	for i, n := range numbers {
		var err error
		if d.version[i], err = strconv.Atoi(n); err != nil {
			return nil, fmt.Errorf("%q is no version; use MAJOR.MINOR.PATCH", from.Version)
		}
	}
	if err := json.Unmarshal(from.Schema, d.root); err != nil {
		return nil, err
	}
	if from.Deprecated {
		d.root.Deprecated = true
	}
	if from.ReplacedBy != "" {
		d.root.ReplacedBy = from.ReplacedBy
	}
	return d, nil
}

// newest parses the highest version of every major of every event type, ordered by type and version. Pre-releases have no
// types: they may change in any way.
func newest(types []schema.Document) ([]*document, error) {
	highest := map[string]*document{} // by type and major
	for _, t := range types {
		if strings.Contains(t.Version, "-") {
			continue
		}
		d, err := parseDocument(t)
		if err != nil {
			return nil, fmt.Errorf("codegen: %s %s: %w", t.Type, t.Version, err)
		}
		key := fmt.Sprint(d.eventType, " ", d.version[0])
		if h := highest[key]; h == nil || slices.Compare(h.version[:], d.version[:]) < 0 {
			highest[key] = d
		}
	}
	docs := make([]*document, 0, len(highest))
	for _, d := range highest {
		docs = append(docs, d)
	}
	slices.SortFunc(docs, func(a, b *document) int {
		if c := strings.Compare(a.eventType, b.eventType); c != 0 {
			return c
		}
		return slices.Compare(a.version[:], b.version[:])
	})
	for i, d := range docs {
		d.newest = i == len(docs)-1 || docs[i+1].eventType != d.eventType
	}
	return docs, nil
}

// byDomain divides documents by their domain; the domains come in order.
func byDomain(docs []*document) (domains []string, of map[string][]*document) {
	of = map[string][]*document{}
	for _, d := range docs {
		of[d.domain] = append(of[d.domain], d)
	}
	return slices.Sorted(maps.Keys(of)), of
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

// node is a part of a schema, as far as the types depend on it.
type node struct {
	Ref         string   `json:"$ref"`
	Types       kinds    `json:"type"`
	Format      string   `json:"format"`
	Enum        []any    `json:"enum"`
	Const       *literal `json:"const"`
	Extensible  bool     `json:"x-extensible-enum"`
	Properties  members  `json:"properties"`
	Patterns    members  `json:"patternProperties"`
	Required    []string `json:"required"`
	Items       *node    `json:"items"`
	Prefix      []*node  `json:"prefixItems"`
	Values      *node    `json:"additionalProperties"`
	All         []*node  `json:"allOf"`
	Any         []*node  `json:"anyOf"`
	One         []*node  `json:"oneOf"`
	Defs        members  `json:"$defs"`
	Title       string   `json:"title"`
	Description string   `json:"description"`
	PHI         bool     `json:"x-phi"`
	Deprecated  bool     `json:"deprecated"`
	ReplacedBy  string   `json:"x-replaced-by"`

	Pattern   string          `json:"pattern"`
	Minimum   json.RawMessage `json:"minimum"`
	Maximum   json.RawMessage `json:"maximum"`
	Above     json.RawMessage `json:"exclusiveMinimum"`
	Below     json.RawMessage `json:"exclusiveMaximum"`
	MinLength json.RawMessage `json:"minLength"`
	MaxLength json.RawMessage `json:"maxLength"`

	always *bool // the schemas true and false
}

// UnmarshalJSON also takes true and false, which are schemas.
func (n *node) UnmarshalJSON(text []byte) error {
	var b bool
	if json.Unmarshal(text, &b) == nil {
		*n = node{always: &b}
		return nil
	}
	type plain node
	return json.Unmarshal(text, (*plain)(n))
}

// kind is the one type that the schema allows, or "" when it allows several or does not say.
func (n *node) kind() string {
	if len(n.Types) == 1 {
		return n.Types[0]
	}
	return ""
}

// values is the schema of members that have no name here; nil when the schema says nothing about them.
func (n *node) values() *node {
	if n.Values == nil || n.Values.always != nil {
		return nil
	}
	return n.Values
}

// kinds are the JSON types of a schema: a name or a list of them.
type kinds []string

// UnmarshalJSON reads both forms.
func (k *kinds) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*k = kinds{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(k))
}

// literal is a value as it is written; null is one too.
type literal struct{ json.RawMessage }

// words returns the values of a set of strings, or nil.
func (n *node) words() []string {
	if n.kind() != "string" {
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

var errKind = errors.New("it is something else")

// UnmarshalJSON keeps the order, which a map would lose.
func (m *members) UnmarshalJSON(text []byte) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	if first, err := dec.Token(); err != nil || first != json.Delim('{') {
		return fmt.Errorf("members are an object of schemas: %w", cmp.Or(err, errKind))
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
