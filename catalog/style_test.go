package catalog_test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/carebus/carebus/catalog"
)

// TestHouseStyle holds what every schema of the catalog must say besides being valid.
func TestHouseStyle(t *testing.T) {
	for _, e := range catalog.Entries() {
		t.Run(e.Type+"/"+e.Version, func(t *testing.T) {
			for _, fault := range faults(t, e) {
				t.Error(fault)
			}
		})
	}
}

// TestSameNameSameThing keeps one name for one thing in a domain. Where two schemas mean different things by one name
// the generator gives both a prefix, which is right but reads worse than two names.
func TestSameNameSameThing(t *testing.T) {
	type meaning struct{ text, where string }
	seen := map[string]meaning{}
	for _, e := range catalog.Entries() {
		domain, _, _ := strings.Cut(e.Type, ".")
		for name, def := range member(document(t, e), "$defs") {
			text, err := json.Marshal(def)
			if err != nil {
				t.Fatal(err)
			}
			key := domain + " " + name
			other, ok := seen[key]
			switch {
			case !ok:
				seen[key] = meaning{string(text), e.Type + " " + e.Version}
			case other.text != string(text):
				t.Errorf("$defs/%s of %s %s is not that of %s; make them the same or name one anew", name, e.Type, e.Version, other.where)
			}
		}
	}
}

func TestStyleFindsFaults(t *testing.T) {
	good, ok := catalog.Lookup("platform.group.paused", "")
	if !ok {
		t.Fatal("no platform.group.paused")
	}
	if f := faults(t, good); len(f) != 0 {
		t.Fatalf("faults in a good schema: %v", f)
	}
	for _, tt := range []struct{ old, new, want string }{
		{`"title": "Group paused",`, ``, "title"},
		{`"x-owner": "carebus",`, ``, "x-owner"},
		{`"x-data-class": "internal"`, `"x-data-class": "secret"`, "x-data-class"},
		{`"x-entity-id": "/group"`, `"x-entity-id": "/groups"`, "x-entity-id"},
		{`"required": ["group",`, `"required": [`, "x-entity-id"},
		{`"x-entity-id": "/group",`, `"x-entity-id": "/group", "x-subject-id": "/who",`, "x-subject-id"},
		{`"x-entity-id": "/group",`, `"x-entity-id": "/group", "deprecated": true,`, "x-replaced-by"},
		{`"actor": {"type": "string", "description": "The person or program that did it."}`, `"actor": {"type": "string"}`, "description"},
		{`"type": "object",`, `"type": "object", "additionalProperties": false,`, "additionalProperties"},
		{`"required": ["group",`, `"required": ["nobody", "group",`, "nobody"},
		{`"x-entity-id": "/group",`, `"x-entity-id": "/group", "x-surprise": 1,`, "x-surprise"},
	} {
		bad := good
		text := strings.Replace(string(good.Schema), tt.old, tt.new, 1)
		if text == string(good.Schema) {
			t.Errorf("%s does not occur in the schema", tt.old)
		}
		bad.Schema = json.RawMessage(text)
		if f := strings.Join(faults(t, bad), "; "); !strings.Contains(f, tt.want) {
			t.Errorf("%s became %s: found %q", tt.old, tt.new, f)
		}
	}
}

// keywords are those that the generator and the registry know, and annotations.
var keywords = strings.Fields(`$schema $ref $defs title description examples type required properties items enum format pattern
	minimum maximum minLength maxLength minItems maxItems uniqueItems additionalProperties deprecated default const
	x-owner x-data-class x-entity-id x-subject-id x-phi x-extensible-enum x-replaced-by`)

var camel = regexp.MustCompile(`^[a-z][a-zA-Z0-9]*$`)

// faults checks one entry against the house style.
func faults(t *testing.T, e catalog.Entry) []string {
	doc := document(t, e)
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for _, name := range []string{"title", "description", "x-owner", "x-data-class", "x-entity-id"} {
		if s, _ := doc[name].(string); strings.TrimSpace(s) == "" {
			add("%s is missing", name)
		}
	}
	if doc["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		add("$schema is not draft 2020-12")
	}
	if c := doc["x-data-class"]; c != "restricted" && c != "internal" {
		add("x-data-class is neither restricted nor internal")
	}
	if entity, _ := doc["x-entity-id"].(string); !points(doc, doc, entity, true) {
		add("x-entity-id %s is no required string member", entity)
	}
	if subject, ok := doc["x-subject-id"].(string); ok && !points(doc, doc, subject, false) {
		add("x-subject-id %s is no string member", subject)
	}
	replacedBy, _ := doc["x-replaced-by"].(string)
	deprecated, _ := doc["deprecated"].(bool)
	if deprecated != (replacedBy != "") {
		add("deprecated and x-replaced-by go together")
	}
	if _, ok := catalog.Lookup(replacedBy, ""); deprecated && !ok {
		add("x-replaced-by %q is not in the catalog", replacedBy)
	}
	phi := false
	walk(doc, "", func(at string, n map[string]any) {
		if n["x-phi"] == true {
			phi = true
		}
		out = append(out, nodeFaults(doc, at, n)...)
	})
	if phi && doc["x-data-class"] != "restricted" {
		add("x-data-class must be restricted: a member is x-phi")
	}
	return out
}

func nodeFaults(doc map[string]any, at string, n map[string]any) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, at+": "+fmt.Sprintf(format, args...)) }
	if s, _ := n["description"].(string); s == "" {
		add("description is missing")
	} else if r := []rune(s); unicode.IsLower(r[0]) || r[len(r)-1] != '.' {
		add("description is no sentence: start it with a capital and end it with a full stop")
	}
	for k := range n {
		if !slices.Contains(keywords, k) {
			add("keyword %s is not known here", k)
		}
	}
	if n["additionalProperties"] == false {
		add("additionalProperties: false is refused: the registry closes payloads on the way in")
	}
	if ref, ok := n["$ref"].(string); ok {
		if _, ok := member(doc, "$defs")[strings.TrimPrefix(ref, "#/$defs/")]; !ok {
			add("%s is not in $defs", ref)
		}
	} else if _, ok := n["type"].(string); !ok {
		add("type is missing")
	}
	props := member(n, "properties")
	for name := range props {
		if !camel.MatchString(name) {
			add("member %s is not camelCase", name)
		}
	}
	required, _ := n["required"].([]any)
	for _, r := range required {
		if _, ok := props[r.(string)]; !ok {
			add("required member %s is not declared", r)
		}
	}
	return out
}

// walk visits n and the schemas in it.
func walk(n map[string]any, at string, visit func(at string, n map[string]any)) {
	visit(at, n)
	for _, group := range []string{"properties", "$defs"} {
		for name, x := range member(n, group) {
			if x, ok := x.(map[string]any); ok {
				walk(x, at+"/"+group+"/"+name, visit)
			}
		}
	}
	for _, name := range []string{"items", "additionalProperties"} {
		if x := member(n, name); x != nil {
			if name == "items" && x["$ref"] != nil {
				continue // the array's description says it
			}
			walk(x, at+"/"+name, visit)
		}
	}
}

// points reports whether a JSON pointer leads to a string member, required on the whole way if so asked.
func points(doc, n map[string]any, pointer string, required bool) bool {
	if ref, ok := n["$ref"].(string); ok {
		target, _ := member(doc, "$defs")[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		return target != nil && points(doc, target, pointer, required)
	}
	if pointer == "" {
		return n["type"] == "string"
	}
	name, rest, _ := strings.Cut(strings.TrimPrefix(pointer, "/"), "/")
	if rest != "" {
		rest = "/" + rest
	}
	if names, _ := n["required"].([]any); required && !slices.Contains(names, any(name)) {
		return false
	}
	next, _ := member(n, "properties")[name].(map[string]any)
	return next != nil && points(doc, next, rest, required)
}

func document(t *testing.T, e catalog.Entry) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal(e.Schema, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func member(n map[string]any, name string) map[string]any {
	m, _ := n[name].(map[string]any)
	return m
}
