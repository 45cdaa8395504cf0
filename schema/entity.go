package schema

import (
	"bytes"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/carebus/carebus/event"
)

// path is the JSON pointer that a mark of the document holds, as member names.
func (d *document) path(mark string) ([]string, bool) {
	text, ok := d.root.raw[mark].(string)
	if !ok {
		return nil, false
	}
	tokens, ok := pointerTokens(text)
	return tokens, ok && len(tokens) > 0
}

// checkPath checks that the mark, when there is one, leads to a text or number of the payload; when needed, that every
// valid payload has it.
func (d *document) checkPath(mark string, needed bool) []event.Finding {
	v, has := d.root.raw[mark]
	if !has {
		return nil
	}
	fail := func(message, remedy string) []event.Finding {
		return []event.Finding{{Pointer: "/" + mark, Rule: "schema." + strings.TrimPrefix(mark, "x-"), Message: message, Remedy: remedy}}
	}
	tokens, ok := d.path(mark)
	if !ok {
		return fail(mark+" is not a JSON pointer to a member of the payload", `write a pointer such as "/patientId"`)
	}
	p := newProof(false, false)
	at := subject{nodes: []*node{d.root}}
	for _, name := range tokens {
		f := p.facts(at)
		declared := false
		for _, n := range f.nodes {
			declared = declared || n.properties[name] != nil
		}
		if !declared {
			return fail("the schema declares no property "+quote(name)+" there", "point at a declared property")
		}
		if needed && !f.required[name] {
			return fail("property "+quote(name)+" is optional, so events without it would have no place in the order",
				"make it required, or point at a property that is")
		}
		at = f.member(name)
	}
	if v == nil || p.facts(at).kinds&^(kindString|kindNumber) != 0 {
		return fail("what it points at may be something else than a string or a number", "declare its type as string or integer")
	}
	return nil
}

// Complete returns e with its partition key set to its entity's id, when it has no key and its schema names the id with
// x-entity-id. Nothing else is changed, and nothing at all when the type is unknown or the payload has no id there.
func (r *Registry) Complete(e event.Event) event.Event {
	if e.PartitionKey == "" {
		e.PartitionKey, _ = r.EntityID(e)
	}
	return e
}

// EntityID returns the id of the entity that the event is about, found where its schema's x-entity-id points.
func (r *Registry) EntityID(e event.Event) (string, bool) {
	found, err := r.readAs(e.Type, e.Version)
	if err != nil {
		return "", false
	}
	return textAt(e.Payload, found.entity)
}

// SubjectID returns the id of the person whom the event is about, found where its schema's x-subject-id points.
func (r *Registry) SubjectID(e event.Event) (string, bool) {
	found, err := r.readAs(e.Type, e.Version)
	if err != nil {
		return "", false
	}
	return textAt(e.Payload, found.subject)
}

// walker reads a payload token by token; the decoder's buffers are kept between payloads.
type walker struct {
	in      bytes.Reader
	decoder *jsontext.Decoder
}

var walkers = sync.Pool{New: func() any {
	w := &walker{}
	w.decoder = jsontext.NewDecoder(&w.in)
	return w
}}

// textAt returns the string or number at a path of object members, reading no further than there. Numbers are written in
// one form, so that 7 and 7.0 are one id.
func textAt(payload []byte, path []string) (string, bool) {
	if len(path) == 0 {
		return "", false
	}
	w := walkers.Get().(*walker)
	defer walkers.Put(w)
	w.in.Reset(payload)
	w.decoder.Reset(&w.in, jsontext.AllowDuplicateNames(true))
	d := w.decoder
	for _, name := range path {
		if d.PeekKind() != '{' {
			return "", false
		}
		if _, err := d.ReadToken(); err != nil {
			return "", false
		}
		for {
			t, err := d.ReadToken()
			if err != nil || t.Kind() != '"' {
				return "", false
			}
			if t.String() == name {
				break
			}
			if err := d.SkipValue(); err != nil {
				return "", false
			}
		}
	}
	t, err := d.ReadToken()
	if err != nil {
		return "", false
	}
	switch t.Kind() {
	case '"':
		text := t.String()
		return text, text != ""
	case '0':
		n, ok := parseDecimal(t.String())
		return n.String(), ok
	}
	return "", false
}
