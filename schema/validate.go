package schema

import (
	"bytes"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/carebus/carebus/event"
)

// compiled is a schema document ready to judge payloads. It may be used concurrently.
type compiled struct {
	writers, readers form
}

// form is one reading of a document: with declared objects closed, or as written.
type form struct {
	fast *fastNode      // says yes, or that it is not sure
	doc  map[string]any // to tell declared names from keys of a map
	full func() (*jsonschema.Schema, error)
}

// compileDoc checks and compiles a schema document. One that is no JSON Schema, or that leaves the profile, is refused
// with an *event.InvalidError whose pointers lead into the document.
func compileDoc(doc []byte) (*compiled, error) {
	if findings := checkProfile(doc); len(findings) > 0 {
		return nil, &event.InvalidError{Findings: findings}
	}
	c, err := prepareDoc(doc)
	if err != nil {
		return nil, err
	}
	for _, f := range []*form{&c.readers, &c.writers} {
		if _, err := f.full(); err != nil {
			return nil, &event.InvalidError{Findings: []event.Finding{notASchema()}}
		}
	}
	return c, nil
}

// prepareDoc compiles a document that was checked when it was registered. The library's part, by far the larger one, is
// done when it is first asked: most programs meet few types, and few refusals.
func prepareDoc(doc []byte) (*compiled, error) {
	c := &compiled{}
	for _, f := range []struct {
		form    *form
		prepare func(map[string]any)
	}{{&c.writers, closeObjects}, {&c.readers, openEnums}} {
		tree, err := parseDoc(doc)
		if err != nil {
			return nil, &event.InvalidError{Findings: []event.Finding{unreadable()}}
		}
		f.prepare(tree)
		*f.form = form{fast: buildFast(tree), doc: tree, full: sync.OnceValues(func() (*jsonschema.Schema, error) { return compileTree(tree) })}
	}
	return c, nil
}

func compileTree(tree map[string]any) (*jsonschema.Schema, error) {
	const name = "urn:carebus:schema" // errors may quote it
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.UseLoader(jsonschema.SchemeURLLoader{}) // no document ever loads another one
	compiler.AssertFormat()
	for _, f := range formats {
		compiler.RegisterFormat(&jsonschema.Format{Name: f.name, Validate: f.validate})
	}
	if err := compiler.AddResource(name, tree); err != nil {
		return nil, err
	}
	return compiler.Compile(name)
}

// closed judges a payload as its producer is held to it: nil when it is valid. Pointers are relative to the payload.
func (c *compiled) closed(payload []byte) []event.Finding { return c.writers.check(payload) }

// open judges a payload as a consumer reads it: members and enum values that are not declared are let pass.
func (c *compiled) open(payload []byte) []event.Finding { return c.readers.check(payload) }

func (f *form) check(payload []byte) []event.Finding {
	if f.fast.accepts(payload) {
		return nil
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(payload))
	if err != nil {
		return []event.Finding{unreadable()}
	}
	if found := f.large(value); len(found) > 0 {
		return found
	}
	full, err := f.full()
	if err != nil {
		return []event.Finding{{Rule: "schema", Message: "the schema is broken", Remedy: "register a new version of it"}}
	}
	return f.findings(full.Validate(value), value)
}

func unreadable() event.Finding {
	return event.Finding{Rule: "json", Message: "this is no JSON text", Remedy: "send one JSON object"}
}

// parseDoc reads a schema document. Numbers keep their text.
func parseDoc(doc []byte) (map[string]any, error) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return nil, err
	}
	tree, ok := value.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	return tree, nil
}

// strict refuses what the library's reader lets pass: duplicate members, invalid UTF-8.
func strict(doc []byte) error {
	d := jsontext.NewDecoder(bytes.NewReader(doc))
	_, err := d.ReadValue()
	return err
}
