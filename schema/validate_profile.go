package schema

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/carebus/carebus/event"
)

var errNotObject = errors.New("schema: a document is a JSON object")

// keywords of the profile, by what their value holds: subschemas to look into, or nothing that matters here.
var keywords = map[string]holds{
	"properties": holdsNamed, "patternProperties": holdsNamed, "$defs": holdsNamed, "dependentSchemas": holdsNamed,
	"items": holdsSchema, "additionalProperties": holdsSchema, "propertyNames": holdsSchema, "contains": holdsSchema,
	"not": holdsSchema, "if": holdsSchema, "then": holdsSchema, "else": holdsSchema,
	"allOf": holdsList, "anyOf": holdsList, "oneOf": holdsList, "prefixItems": holdsList,

	"$schema": holdsNothing, "$id": holdsNothing, "$ref": holdsNothing, "$comment": holdsNothing,
	"title": holdsNothing, "description": holdsNothing, "examples": holdsNothing, "default": holdsNothing,
	"deprecated": holdsNothing, "readOnly": holdsNothing, "writeOnly": holdsNothing,
	"type": holdsNothing, "enum": holdsNothing, "const": holdsNothing, "required": holdsNothing, "format": holdsNothing,
	"pattern": holdsNothing, "minLength": holdsNothing, "maxLength": holdsNothing,
	"minimum": holdsNothing, "maximum": holdsNothing, "exclusiveMinimum": holdsNothing, "exclusiveMaximum": holdsNothing, "multipleOf": holdsNothing,
	"minItems": holdsNothing, "maxItems": holdsNothing, "uniqueItems": holdsNothing, "minContains": holdsNothing, "maxContains": holdsNothing,
	"minProperties": holdsNothing, "maxProperties": holdsNothing, "dependentRequired": holdsNothing,
	"contentEncoding": holdsNothing, "contentMediaType": holdsNothing,
}

type holds int

const (
	holdsNothing holds = iota
	holdsSchema
	holdsNamed
	holdsList
)

// checkProfile finds what leaves the dialect that documents are written in: JSON Schema 2020-12 without what would let
// one document load another, close objects by itself, or mean different things in different places.
func checkProfile(doc []byte) []event.Finding {
	if err := strict(doc); err != nil {
		return []event.Finding{{Pointer: syntaxPointer(err), Rule: "schema.json", Message: "the document is no strict JSON text (no duplicate members, valid UTF-8)", Remedy: "send one JSON object"}}
	}
	tree, err := parseDoc(doc)
	if err != nil {
		return []event.Finding{{Rule: "schema.json", Message: "the document is not a JSON object", Remedy: `write a schema with "type": "object"`}}
	}
	p := &profile{root: tree}
	p.schema(tree, "", 0)
	p.cycles()
	largeNumbers(tree, nil, func(location []string) {
		at := ""
		for _, token := range location {
			at += "/" + pointerToken(token)
		}
		p.refuse(at, "number", fmt.Sprintf("the number has more than %d characters, or an exponent beyond %d", maxNumberText, maxPayloadExponent), "write a number that fits a float64")
	})
	p.meta()
	slices.SortStableFunc(p.findings, func(a, b event.Finding) int { return strings.Compare(a.Pointer, b.Pointer) })
	return p.findings
}

// syntaxPointer is the place where a text stops being strict JSON.
func syntaxPointer(err error) string {
	var at *jsontext.SyntacticError
	if errors.As(err, &at) {
		return string(at.JSONPointer)
	}
	return ""
}

const dialect = "https://json-schema.org/draft/2020-12/schema"

var metaSchema = sync.OnceValues(func() (*jsonschema.Schema, error) {
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(jsonschema.SchemeURLLoader{}) // the library brings it along
	return compiler.Compile(dialect)
})

// meta adds what the meta-schema refuses, where nothing is said about the place yet.
func (p *profile) meta() {
	schema, err := metaSchema()
	if err != nil {
		p.refuse("", "meta", "the meta-schema cannot be compiled", "report this")
		return
	}
	var verdict *jsonschema.ValidationError
	if !errors.As(schema.Validate(p.root), &verdict) {
		return
	}
	c := newCollector(nil, p.root)
	c.collect(verdict)
	for _, f := range c.finish() {
		if !slices.ContainsFunc(p.findings, func(other event.Finding) bool { return other.Pointer == f.Pointer }) {
			p.refuse(f.Pointer, "meta", f.Message, f.Remedy)
		}
	}
}

// cycles refuses definitions that are made of themselves: they say nothing about any value. A definition whose members
// or items are of its own kind is fine.
func (p *profile) cycles() {
	defs, _ := p.root["$defs"].(map[string]any)
	c := &closer{}
	const under, done = 1, 2
	state := map[string]int{}
	var visit func(s map[string]any) bool
	visit = func(s map[string]any) bool {
		parts := c.parts(s)
		if not, ok := s["not"].(map[string]any); ok {
			parts = append(parts, not)
		}
		for _, part := range parts {
			if visit(part) {
				return true
			}
		}
		ref, _ := s["$ref"].(string)
		name, local := strings.CutPrefix(ref, defsPrefix)
		name = unescapeToken(name)
		def, ok := defs[name].(map[string]any)
		if !local || !ok || state[name] == done {
			return false
		}
		if state[name] == under {
			return true
		}
		state[name] = under
		cyclic := visit(def)
		state[name] = done
		if cyclic {
			p.refuse("/$defs/"+pointerToken(name), "cycle", "the definition is made of itself", "let a member or an item be of its kind, not the whole")
		}
		return false
	}
	for _, name := range slices.Sorted(maps.Keys(defs)) {
		visit(map[string]any{"$ref": defsPrefix + pointerToken(name)})
	}
}

type profile struct {
	root     map[string]any
	findings []event.Finding
}

func (p *profile) refuse(pointer, rule, message, remedy string) {
	if len(p.findings) < maxFindings {
		p.findings = append(p.findings, event.Finding{Pointer: pointer, Rule: "schema." + rule, Message: message, Remedy: remedy})
	}
}

// maxSchemaDepth bounds how deep a document may nest.
const maxSchemaDepth = 64

func (p *profile) schema(v any, at string, depth int) {
	s, ok := v.(map[string]any)
	if !ok {
		return // true, false, or what the meta-schema refuses
	}
	if depth > maxSchemaDepth {
		p.refuse(at, "depth", fmt.Sprintf("schemas are nested more than %d levels deep", maxSchemaDepth), "move inner objects to $defs")
		return
	}
	for name, value := range s {
		here := at + "/" + pointerToken(name)
		switch {
		case strings.HasPrefix(name, "unevaluated"):
			p.refuse(here, "closed", name+" is the platform's business: publishing closes every declared object, reading opens it", "leave it out")
			continue
		case name == "additionalProperties" && value == false:
			p.refuse(here, "closed", "closing is the platform's business: publishing closes every declared object, reading opens it", "leave it out")
			continue
		case name == "$schema" && value != dialect:
			p.refuse(here, "dialect", "the document is not of JSON Schema 2020-12", "write "+dialect+", or leave it out")
		case (name == "$schema" || name == "$id") && depth > 0:
			p.refuse(here, "dialect", name+" belongs to the whole document", "leave it out")
		case name == "$ref":
			p.ref(value, here)
		case name == "format":
			if text, ok := value.(string); ok && formatNamed(text) == nil {
				p.refuse(here, "format", "the format is not one that carebus checks", "use one of "+strings.Join(formatNames(), ", ")+", or a pattern")
			}
		case name == "pattern":
			p.pattern(value, here)
		}
		held, known := keywords[name]
		switch {
		case !known && !strings.HasPrefix(name, "x-"):
			p.refuse(here, "keyword", "the keyword is not part of the profile", "use the keywords of JSON Schema 2020-12 without $dynamicRef, $anchor and unevaluated…; own annotations begin with x-")
		case held == holdsSchema:
			p.schema(value, here, depth+1)
		case held == holdsNamed:
			named, _ := value.(map[string]any)
			for key, sub := range named {
				if name == "$defs" && strings.HasSuffix(key, branchSuffix) {
					p.refuse(here+"/"+pointerToken(key), "keyword", "names that end with "+branchSuffix+" are the platform's", "choose another name")
				}
				if name == "patternProperties" {
					p.pattern(key, here+"/"+pointerToken(key))
				}
				p.schema(sub, here+"/"+pointerToken(key), depth+1)
			}
		case held == holdsList:
			list, _ := value.([]any)
			for i, sub := range list {
				p.schema(sub, fmt.Sprintf("%s/%d", here, i), depth+1)
			}
		}
	}
}

func (p *profile) pattern(value any, at string) {
	if text, ok := value.(string); ok {
		if _, err := regexp.Compile(text); err != nil {
			p.refuse(at, "pattern", "the pattern is no regular expression of the RE2 syntax", "write it without look-around and back-references")
		}
	}
}

const defsPrefix = "#/$defs/"

func (p *profile) ref(value any, at string) {
	text, ok := value.(string)
	if !ok {
		return
	}
	name, local := strings.CutPrefix(text, defsPrefix)
	if !local || strings.Contains(name, "/") {
		p.refuse(at, "ref", "the reference does not lead to a definition of this document", `write "#/$defs/NAME"`)
		return
	}
	defs, _ := p.root["$defs"].(map[string]any)
	if _, ok := defs[unescapeToken(name)]; !ok {
		p.refuse(at, "ref", "the reference leads to nothing", "define it under $defs")
	}
}

func unescapeToken(token string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
}

// notASchema is for what the library refuses and nothing here has found.
func notASchema() event.Finding {
	return event.Finding{Rule: "schema.meta",
		Message: "this is not as JSON Schema 2020-12 wants it", Remedy: "compare keywords and values with the specification: their types, their bounds"}
}
