package schema

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carebus/carebus/event"
)

const rx = "medication.prescription.created"

// rxSchema is a schema with more properties and marks put in.
func rxSchema(properties string) json.RawMessage {
	return json.RawMessage(`{"$schema":"https://json-schema.org/draft/2020-12/schema","title":"Prescription created",
		"description":"A prescription was created.","x-entity-id":"/prescriptionId","x-subject-id":"/patientId",
		"type":"object","required":["prescriptionId"],
		"properties":{"prescriptionId":{"type":"string"},"patientId":{"type":"string"}` + properties + `}}`)
}

// register proposes and applies a version.
func register(t *testing.T, r *Registry, eventType, version string, schema json.RawMessage) Proposal {
	t.Helper()
	p, err := r.Propose(Document{Type: eventType, Version: version, Schema: schema})
	if err != nil {
		t.Fatalf("%s %s: %v", eventType, version, err)
	}
	if !p.Known {
		if err := r.Apply(p.Event); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func rxEvent(version, payload string) event.Event {
	return event.Event{Metadata: event.Metadata{ID: "e1", Type: rx, Version: version}, Payload: json.RawMessage(payload)}
}

func TestRegisterAndGet(t *testing.T) {
	r := New()
	p := register(t, r, rx, "1.0.0", rxSchema(""))
	if p.Event.Type != "platform.schema.registered" || p.Event.Source != "carebus" || p.Event.PartitionKey != rx || p.Event.Version != "1.0.0" {
		t.Errorf("event %+v", p.Event.Metadata)
	}
	if want := "schema-" + rx + "-1.0.0-"; !strings.HasPrefix(p.Event.ID, want) || len(p.Event.ID) != len(want)+16 {
		t.Errorf("event id %q", p.Event.ID)
	}
	var payload map[string]any
	if err := json.Unmarshal(p.Event.Payload, &payload); err != nil {
		t.Fatal(err)
	}
	if payload["eventType"] != rx || payload["version"] != "1.0.0" || payload["bump"] != "major" {
		t.Errorf("payload %v", payload)
	}
	e := event.Complete(t.Context(), p.Event)
	if _, err := e.Check(nil); err != nil {
		t.Errorf("the event is not valid: %v", err)
	}

	register(t, r, rx, "1.1.0", rxSchema(`,"notes":{"type":"string"}`))
	register(t, r, rx, "1.2.0-rc.1", rxSchema(`,"notes":{"type":"integer"}`))
	if got := r.Versions(rx); !slices.Equal(got, []string{"1.0.0", "1.1.0", "1.2.0-rc.1"}) {
		t.Errorf("versions %v", got)
	}
	if doc, err := r.Latest(rx); err != nil || doc.Version != "1.1.0" || !strings.HasPrefix(doc.Fingerprint, "sha256:") || len(doc.Fingerprint) != 71 {
		t.Errorf("latest %+v, %v", doc, err)
	}
	if got := r.Types(); !slices.Equal(got, []string{rx}) {
		t.Errorf("types %v", got)
	}
	doc, err := r.Get(rx, "1.0.0")
	if err != nil || !json.Valid(doc.Schema) {
		t.Fatalf("get: %v", err)
	}
	doc.Schema[0] = 'x'
	if again, _ := r.Get(rx, "1.0.0"); !json.Valid(again.Schema) {
		t.Error("a caller changed the registry's document")
	}
}

func TestRegisterTwice(t *testing.T) {
	r := New()
	first := register(t, r, rx, "1.0.0", rxSchema(""))
	// The same document in another layout, its members in another order.
	var sorted map[string]any
	if err := json.Unmarshal(rxSchema(""), &sorted); err != nil {
		t.Fatal(err)
	}
	again, err := json.MarshalIndent(sorted, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Propose(Document{Type: rx, Version: "1.0.0", Schema: again}); err != nil || !p.Known {
		t.Errorf("known %v, %v", p.Known, err)
	}
	if err := r.Apply(first.Event); err != nil {
		t.Errorf("applying again: %v", err)
	}
	other := Document{Type: rx, Version: "1.0.0", Schema: rxSchema(`,"notes":{"type":"string"}`)}
	_, err = r.Propose(other)
	if !errors.Is(err, ErrVersionExists) || !errors.Is(err, ErrVersion) {
		t.Errorf("another content: %v", err)
	}
	// Two processes that register the same write the same event; one that registers another is found out.
	q, err := New().Propose(other)
	if err != nil {
		t.Fatal(err)
	}
	if q.Event.ID == first.Event.ID {
		t.Error("different documents, the same event id")
	}
	if err := r.Apply(q.Event); !errors.Is(err, ErrVersionExists) {
		t.Errorf("applying another content: %v", err)
	}
	if got, _ := New().Propose(Document{Type: rx, Version: "1.0.0", Schema: rxSchema("")}); got.Event.ID != first.Event.ID || string(got.Event.Payload) != string(first.Event.Payload) {
		t.Error("the same document, another event")
	}
}

func TestVersionGate(t *testing.T) {
	added := rxSchema(`,"notes":{"type":"string"}`)
	for _, c := range []struct {
		name, version, want, suggested string
		schema                         json.RawMessage
	}{
		{"not a version", "1.0", "not complete", "", added},
		{"no number", "one", "not a semantic version", "", added},
		{"build metadata", "1.2.0+5", "build metadata", "", added},
		{"below the highest", "1.0.5", "not above 1.1.0", "1.1.1", added},
		{"major 0", "0.1.0", "major 0", "2.0.0-draft.1", added},
		{"a skipped major", "3.0.0", "skips versions", "2.0.0", added},
		{"a major that does not begin at .0.0", "2.1.0", "skips versions", "2.0.0", added},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := New()
			register(t, r, rx, "1.0.0", rxSchema(""))
			register(t, r, rx, "1.1.0", rxSchema(`,"more":{"type":"string"}`))
			_, err := r.Propose(Document{Type: rx, Version: c.version, Schema: c.schema})
			var v *VersionError
			if !errors.As(err, &v) || !errors.Is(err, ErrVersion) || errors.Is(err, ErrVersionExists) {
				t.Fatalf("%v", err)
			}
			if !strings.Contains(err.Error(), c.want) || v.Suggested != c.suggested {
				t.Errorf("%v (suggested %q), want %q and %q", err, v.Suggested, c.want, c.suggested)
			}
		})
	}
	if _, err := New().Propose(Document{Type: rx, Version: "1.2.0", Schema: added}); !errors.Is(err, ErrVersion) {
		t.Errorf("a first version that is not 1.0.0: %v", err)
	}
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(""))
	if p := register(t, r, rx, "2.0.0", rxSchema(`,"must":{"type":"string"}`)); len(p.Changes) == 0 || len(p.Warnings) == 0 {
		t.Errorf("a new major lists what changed and wants an upcaster: %+v", p)
	}
	register(t, r, rx, "1.1.0", added) // an old major goes on
	register(t, r, rx, "3.0.0-draft.1", rxSchema(""))
	register(t, r, rx, "3.0.0", rxSchema(""))
}

func TestIncompatible(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(`,"notes":{"type":"string"}`))
	register(t, r, rx, "1.1.0", rxSchema(`,"notes":{"type":"string"},"more":{"type":"string"}`))
	for _, c := range []struct {
		name, version, properties, against, suggested, rule, place string
		required                                                   Bump
	}{
		{"removal", "1.2.0", `,"more":{"type":"string"}`, "1.1.0", "2.0.0", "property-removed", "/properties/notes", Major},
		{"another type", "1.2.0", `,"notes":{"type":"integer"},"more":{"type":"string"}`, "1.1.0", "2.0.0", "type-changed", "/properties/notes", Major},
		{"step too small", "1.1.1", `,"notes":{"type":"string"},"more":{"type":"string"},"x":{"type":"string"}`, "1.1.0", "1.2.0", "property-added", "/properties/x", Minor},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Propose(Document{Type: rx, Version: c.version, Schema: rxSchema(c.properties)})
			var e *IncompatibleError
			if !errors.As(err, &e) || !errors.Is(err, ErrIncompatible) {
				t.Fatalf("%v", err)
			}
			if e.Against != c.against || e.Suggested != c.suggested || e.Required != c.required || len(e.Changes) != 1 {
				t.Errorf("%+v", e)
			}
			if got := e.Changes[0]; got.Rule != c.rule || got.Pointer != c.place {
				t.Errorf("%+v", got)
			}
			for _, part := range []string{c.rule, c.place, c.suggested, e.Changes[0].Remedy} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the text does not have %q: %v", part, err)
				}
			}
		})
	}
}

// TestEveryEarlierVersion: the highest version is not all that a new one must fit; a history may hold a version that
// was not judged by these rules.
func TestEveryEarlierVersion(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(`,"notes":{"type":"string"}`))
	model, err := parseDocument(rxSchema(""))
	if err != nil {
		t.Fatal(err)
	}
	forced, err := fact(typeRegistered, rx, "forced", registered{EventType: rx, Version: "1.1.0", Schema: rxSchema(""), Fingerprint: fingerprint(model)})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(forced); err != nil {
		t.Fatal(err)
	}
	_, err = r.Propose(Document{Type: rx, Version: "1.2.0", Schema: rxSchema(`,"more":{"type":"string"}`)})
	var e *IncompatibleError
	if !errors.As(err, &e) || e.Against != "1.0.0" {
		t.Errorf("%v", err)
	}
}

func TestWarnings(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(""))
	rules := func(p Proposal) (names []string) {
		for _, w := range p.Warnings {
			if !w.Warning || w.Remedy == "" {
				t.Errorf("%+v", w)
			}
			names = append(names, w.Rule)
		}
		return names
	}
	if p := register(t, r, rx, "1.1.0", rxSchema("")); !slices.Equal(rules(p), []string{"schema.unchanged"}) {
		t.Errorf("unchanged: %v", p.Warnings)
	}
	if p := register(t, r, rx, "1.2.0", json.RawMessage(strings.Replace(string(rxSchema("")), "Prescription created", "Another title", 1))); !slices.Equal(rules(p), []string{"schema.step"}) || p.Required != Patch {
		t.Errorf("a large step: %v", p.Warnings)
	}
	if p := register(t, r, "care.plan.created", "1.0.0", json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}}}`)); !slices.Equal(rules(p), []string{"schema.entity-id"}) {
		t.Errorf("no entity id: %v", p.Warnings)
	}
}

func TestRefusedDocuments(t *testing.T) {
	for _, c := range []struct{ name, schema, place string }{
		{"not JSON", `{"type":`, ""},
		{"a duplicate member", `{"type":"object","type":"object"}`, ""},
		{"an unknown type name", `{"type":"objekt"}`, "/type"},
		{"no object", `{"type":"string"}`, "/type"},
		{"a reference to nothing", `{"type":"object","properties":{"a":{"$ref":"#/$defs/x"}}}`, "/properties/a/$ref"},
		{"an entity id that is not declared", `{"type":"object","x-entity-id":"/id","properties":{"a":{"type":"string"}}}`, "/x-entity-id"},
		{"an entity id that is optional", `{"type":"object","x-entity-id":"/a","properties":{"a":{"type":"string"}}}`, "/x-entity-id"},
		{"an entity id that is an object", `{"type":"object","x-entity-id":"/a","required":["a"],"properties":{"a":{"type":"object"}}}`, "/x-entity-id"},
		{"an entity id that is no pointer", `{"type":"object","x-entity-id":"a","required":["a"],"properties":{"a":{"type":"string"}}}`, "/x-entity-id"},
		{"a subject that is not declared", `{"type":"object","x-subject-id":"/p","properties":{"a":{"type":"string"}}}`, "/x-subject-id"},
		{"an example of another type", `{"type":"object","properties":{"a":{"type":"string"}},"examples":[{"a":"x"},{"a":4711}]}`, "/examples/1/a"},
		{"an example with an undeclared member", `{"type":"object","properties":{"a":{"type":"string"}},"examples":[{"b":4711}]}`, "/examples/0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New().Propose(Document{Type: rx, Version: "1.0.0", Schema: json.RawMessage(c.schema)})
			var invalid *event.InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("%v", err)
			}
			for _, f := range invalid.Findings {
				if f.Rule == "" || f.Message == "" || f.Remedy == "" {
					t.Errorf("%+v", f)
				}
			}
			if f := invalid.Findings[0]; !strings.HasPrefix(f.Pointer, c.place) {
				t.Errorf("at %q, want %q: %v", f.Pointer, c.place, err)
			}
			if strings.Contains(err.Error(), "4711") {
				t.Errorf("a value is quoted: %v", err)
			}
		})
	}
	if _, err := New().Propose(Document{Type: "Not A Type", Version: "1.0.0", Schema: rxSchema("")}); err == nil {
		t.Error("a wrong name was admitted")
	}
}

func TestValidate(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(`,"status":{"type":"string","enum":["new","old"],"x-extensible-enum":true}`))
	for _, c := range []struct {
		name, version, payload string
		closed, open           string // where the finding is; "" accepts
	}{
		{"valid", "1.0.0", `{"prescriptionId":"RX1","status":"new"}`, "", ""},
		{"undeclared member", "1.0.0", `{"prescriptionId":"RX1","secret":1}`, "/payload", ""},
		{"value of a later version", "1.0.0", `{"prescriptionId":"RX1","status":"later"}`, "/payload/status", ""},
		{"missing member", "1.0.0", `{}`, "/payload", "/payload"},
		{"wrong type", "1.0.0", `{"prescriptionId":7}`, "/payload/prescriptionId", "/payload/prescriptionId"},
		{"a later version of the major", "1.7.0", `{"prescriptionId":"RX1","new":1}`, "/metadata/version", ""},
		{"another major", "2.0.0", `{"prescriptionId":"RX1"}`, "/metadata/version", "/metadata/version"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := rxEvent(c.version, c.payload)
			check := func(way string, err error, place string) {
				var invalid *event.InvalidError
				switch {
				case place == "" && err != nil:
					t.Errorf("%s: %v", way, err)
				case place != "" && !errors.As(err, &invalid):
					t.Errorf("%s: accepted (%v)", way, err)
				case place != "" && (!strings.HasPrefix(invalid.Findings[0].Pointer, place) || invalid.EventID != "e1" || invalid.Type != rx):
					t.Errorf("%s: %+v, want a finding at %s", way, invalid, place)
				}
			}
			check("closed", r.Validate(e), c.closed)
			check("open", r.ValidateOpen(e), c.open)
		})
	}
	e := rxEvent("1.0.0", `{}`)
	e.Type = "medication.prescription.createt"
	err := r.Validate(e)
	if err == nil || !strings.Contains(err.Error(), "/metadata/eventType") || !strings.Contains(err.Error(), "did you mean "+rx) {
		t.Errorf("unknown type: %v", err)
	}
}

func TestUnknown(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(""))
	_, err := r.Get("medication.perscription.created", "1.0.0")
	var u *UnknownError
	if !errors.Is(err, ErrUnknownType) || errors.Is(err, ErrUnknownVersion) || !errors.As(err, &u) || !slices.Equal(u.Known, []string{rx}) {
		t.Errorf("%v", err)
	}
	_, err = r.Get(rx, "9.0.0")
	if !errors.Is(err, ErrUnknownVersion) || errors.Is(err, ErrUnknownType) || !strings.Contains(err.Error(), "known are 1.0.0") {
		t.Errorf("%v", err)
	}
	if _, err = r.Latest("x.y"); !errors.Is(err, ErrUnknownType) {
		t.Errorf("%v", err)
	}
}

func TestDeprecation(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(""))
	register(t, r, rx, "1.1.0", rxSchema(`,"n":{"type":"string"}`))
	register(t, r, "medication.prescription.written", "1.0.0", rxSchema(""))
	for name, err := range map[string]error{
		"no reason":           second(r.ProposeDeprecation(rx, "", " ", "")),
		"unknown type":        second(r.ProposeDeprecation("a.b", "", "why", "")),
		"unknown version":     second(r.ProposeDeprecation(rx, "5.0.0", "why", "")),
		"unknown replacement": second(r.ProposeDeprecation(rx, "", "why", "c.d")),
		"itself":              second(r.ProposeDeprecation(rx, "", "why", rx)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	apply := func(version string) {
		e, err := r.ProposeDeprecation(rx, version, "replaced", "medication.prescription.written")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := event.Complete(t.Context(), e).Check(nil); err != nil {
			t.Error(err)
		}
	}
	apply("1.0.0")
	if doc, _ := r.Get(rx, "1.0.0"); !doc.Deprecated || doc.ReplacedBy == "" || doc.DeprecationReason != "replaced" {
		t.Errorf("%+v", doc)
	}
	if doc, _ := r.Get(rx, "1.1.0"); doc.Deprecated {
		t.Error("the other version is deprecated too")
	}
	apply("")
	if doc, _ := r.Latest(rx); !doc.Deprecated {
		t.Error("the type is not deprecated")
	}
	if err := r.Validate(rxEvent("1.0.0", `{"prescriptionId":"RX1"}`)); err != nil {
		t.Errorf("an event of a deprecated schema: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestApplyRefusesAlteredHistory(t *testing.T) {
	r := New()
	p, err := r.Propose(Document{Type: rx, Version: "1.0.0", Schema: rxSchema("")})
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*event.Event){
		"altered": func(e *event.Event) {
			e.Payload = json.RawMessage(strings.Replace(string(e.Payload), "patientId", "petientId", 1))
		},
		"not JSON":   func(e *event.Event) { e.Payload = json.RawMessage(`{`) },
		"no version": func(e *event.Event) { e.Payload = json.RawMessage(`{"eventType":"a.b","schema":{}}`) },
		"does not load": func(e *event.Event) {
			e.Payload = json.RawMessage(`{"eventType":"a.b","version":"1.0.0","schema":{"type":7}}`)
		},
		"not registered": func(e *event.Event) { e.Type, e.Payload = typeDeprecated, json.RawMessage(`{"eventType":"a.b"}`) },
	} {
		e := p.Event
		edit(&e)
		if err := r.Apply(e); err == nil {
			t.Errorf("%s: applied", name)
		}
	}
	if got := r.Types(); len(got) != 0 {
		t.Errorf("a refused event changed the registry: %v", got)
	}
	if err := r.Apply(rxEvent("1.0.0", `{`)); err != nil {
		t.Errorf("another type of event: %v", err)
	}
}

func TestEntityAndSubject(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(""))
	register(t, r, "care.visit.ended", "1.0.0", json.RawMessage(`{"type":"object","x-entity-id":"/a/b~1c","required":["a"],"$defs":{"A":{"type":"object","required":["b/c"],"properties":{"b/c":{"type":"integer"}}}},"properties":{"a":{"$ref":"#/$defs/A"}}}`))
	e := rxEvent("1.0.0", `{"extra":{"prescriptionId":"no"},"prescriptionId":"RX\u00311","patientId":"P1"}`)
	if got := r.Complete(e); got.PartitionKey != "RX11" {
		t.Errorf("key %q", got.PartitionKey)
	}
	if id, ok := r.SubjectID(e); id != "P1" || !ok {
		t.Errorf("subject %q", id)
	}
	e.PartitionKey = "mine"
	if got := r.Complete(e); got.PartitionKey != "mine" {
		t.Errorf("key %q", got.PartitionKey)
	}
	v := event.Event{Metadata: event.Metadata{Type: "care.visit.ended", Version: "1.0.0"}, Payload: json.RawMessage(`{"a":{"b/c":7.0}}`)}
	if id, ok := r.EntityID(v); id != "7" || !ok {
		t.Errorf("entity %q", id)
	}
	for _, payload := range []string{``, `{`, `[]`, `{"a":7}`, `{"a":{}}`, `{"a":{"b/c":{}}}`, `{"a":{"b/c":""}}`} {
		v.Payload = json.RawMessage(payload)
		if id, ok := r.EntityID(v); ok {
			t.Errorf("%s: entity %q", payload, id)
		}
	}
	if got := r.Complete(event.Event{}); got.PartitionKey != "" {
		t.Errorf("unknown type: %q", got.PartitionKey)
	}
}

func TestMask(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(`,
		"name":{"type":"string","x-phi":true},"weight":{"type":"number","x-phi":true},
		"address":{"type":"object","x-phi":true,"properties":{"city":{"type":"string"}}},
		"tags":{"type":"array","items":{"$ref":"#/$defs/Tag"}},
		"other":{"type":"object","additionalProperties":{"type":"string","x-phi":true}}},
		"$defs":{"Tag":{"type":"object","properties":{"kind":{"type":"string"},"text":{"type":"string","x-phi":true}}}`))
	payload := `{"prescriptionId":"RX1","name":"Ann","weight":70.5,"address":{"city":"Bern"},"tags":[{"kind":"k","text":"t"}],"other":{"x":"y"},"undeclared":{"deep":1}}`
	want := `{"address":"•••","name":"•••","other":{"x":"•••"},"prescriptionId":"RX1","tags":[{"kind":"k","text":"•••"}],"undeclared":{"deep":"•••"},"weight":"•••"}`
	if got := string(r.Mask(rxEvent("1.0.0", payload))); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := string(r.Mask(rxEvent("1.9.0", payload))); got != want {
		t.Errorf("a later minor: %s", got)
	}
	e := rxEvent("1.0.0", `{"a":[1,{"b":null}]}`)
	e.Type = "x.y"
	if got := string(r.Mask(e)); got != `{"a":["•••",{"b":"•••"}]}` {
		t.Errorf("an unknown type: %s", got)
	}
	if got := string(r.Mask(rxEvent("1.0.0", `{"name":"Ann"`))); got != `"•••"` {
		t.Errorf("not JSON: %s", got)
	}
}

func TestUpcast(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(""))
	register(t, r, rx, "2.0.0", rxSchema(`,"two":{"type":"string"}`))
	register(t, r, rx, "2.1.0", rxSchema(`,"two":{"type":"string"},"more":{"type":"string"}`))
	register(t, r, rx, "3.0.0", rxSchema(`,"three":{"type":"string"}`))
	wrap := func(name string) func(json.RawMessage) (json.RawMessage, error) {
		return func(p json.RawMessage) (json.RawMessage, error) {
			return json.RawMessage(`{"` + name + `":` + string(p) + `}`), nil
		}
	}
	e := rxEvent("1.0.0", `{}`)
	var missing *UpcastError
	if _, err := r.Upcast(e, 3); !errors.As(err, &missing) || !errors.Is(err, ErrNoUpcaster) || missing.From != 1 || missing.To != 2 {
		t.Errorf("%v", err)
	}
	for from, name := range map[int]string{1: "two", 2: "three"} {
		if err := r.AddUpcaster(rx, from, from+1, wrap(name)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := r.Upcast(e, 3); err != nil || got.Version != "3.0.0" || string(got.Payload) != `{"three":{"two":{}}}` {
		t.Errorf("%s %s, %v", got.Version, got.Payload, err)
	}
	if got, err := r.Upcast(e, 2); err != nil || got.Version != "2.1.0" {
		t.Errorf("%s, %v", got.Version, err)
	}
	if got, err := r.Upcast(e, 1); err != nil || got.Version != "1.0.0" || string(got.Payload) != `{}` {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := r.Upcast(e, 9); !errors.Is(err, ErrUnknownVersion) {
		t.Errorf("%v", err)
	}
	if _, err := r.Upcast(rxEvent("2.0.0", `{}`), 1); !errors.Is(err, ErrNoUpcaster) {
		t.Errorf("%v", err)
	}
	if err := r.AddUpcaster(rx, 1, 3, wrap("x")); err == nil {
		t.Error("a step of two was accepted")
	}
	if err := r.AddUpcaster(rx, 1, 2, nil); err == nil {
		t.Error("nil was accepted")
	}
	if err := r.AddUpcaster(rx, 1, 2, func(json.RawMessage) (json.RawMessage, error) { panic("PATIENT-SECRET") }); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Upcast(e, 2); err == nil || errors.Is(err, ErrNoUpcaster) || strings.Contains(err.Error(), "PATIENT-SECRET") {
		t.Errorf("a panic: %v", err)
	}
	if err := r.AddUpcaster("not.yet", 1, 2, wrap("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get("not.yet", "1.0.0"); !errors.Is(err, ErrUnknownType) {
		t.Errorf("an upcaster made a type: %v", err)
	}
}

// TestConcurrent validates while versions are registered; the race detector judges.
func TestConcurrent(t *testing.T) {
	r := New()
	register(t, r, rx, "1.0.0", rxSchema(""))
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				e := rxEvent("1.0.0", `{"prescriptionId":"RX1"}`)
				if err := r.Validate(e); err != nil {
					t.Error(err)
					return
				}
				r.Complete(e)
				r.Mask(e)
				if _, err := r.Latest(rx); err != nil {
					t.Error(err)
				}
				r.Types()
			}
		})
	}
	properties := ""
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		properties += `,"` + name + `":{"type":"string"}`
		register(t, r, rx, stepped(r.Versions(rx)[len(r.Versions(rx))-1], Minor), rxSchema(properties))
		if err := r.AddUpcaster(rx, 1, 2, func(p json.RawMessage) (json.RawMessage, error) { return p, nil }); err != nil {
			t.Error(err)
		}
	}
	close(done)
	readers.Wait()
	if got := len(r.Versions(rx)); got != 9 {
		t.Errorf("%d versions", got)
	}
}

// TestCatalog admits every schema of the catalog, in order.
func TestCatalog(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "catalog", "schemas", "*", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(files, func(a, b string) int {
		if c := strings.Compare(filepath.Dir(a), filepath.Dir(b)); c != 0 {
			return c
		}
		return compareVersions(strings.TrimSuffix(filepath.Base(a), ".json"), strings.TrimSuffix(filepath.Base(b), ".json"))
	})
	r := New()
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		p, err := r.Propose(Document{Type: filepath.Base(filepath.Dir(file)), Version: strings.TrimSuffix(filepath.Base(file), ".json"), Schema: doc})
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if err := r.Apply(p.Event); err != nil {
			t.Error(err)
		}
	}
	if len(files) == 0 {
		t.Skip("the catalog has no schemas yet")
	}
}

// TestDocuments: every version of every type, in order, with what is known of it by now.
func TestDocuments(t *testing.T) {
	r := New()
	if docs := r.Documents(); len(docs) != 0 {
		t.Errorf("an empty registry has %d documents", len(docs))
	}
	register(t, r, rx, "1.0.0", rxSchema(""))
	register(t, r, rx, "1.9.0", rxSchema(`,"note":{"type":"string"}`))
	register(t, r, rx, "1.10.0", rxSchema(`,"note":{"type":"string"},"more":{"type":"string"}`))
	register(t, r, "lab.result.received", "1.0.0", rxSchema(""))
	gone, err := r.ProposeDeprecation(rx, "1.0.0", "old", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Apply(gone); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range r.Documents() {
		text := d.Type + " " + d.Version
		if d.Deprecated {
			text += " deprecated"
		}
		got = append(got, text)
	}
	if want := []string{"lab.result.received 1.0.0", rx + " 1.0.0 deprecated", rx + " 1.9.0", rx + " 1.10.0"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
