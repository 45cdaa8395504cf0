package asyncapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/carebus/carebus/flow"
	"github.com/carebus/carebus/schema"
)

// Service is a publisher or a consumer of events.
type Service struct {
	Name     string
	Sends    []string // event types
	Receives []string // event types
}

// Observed are the publishers and the groups of a topology as services.
func Observed(t *flow.Topology) []Service {
	var out []Service
	for _, s := range t.Services {
		service := Service{Name: s.Name}
		for _, p := range s.Published {
			service.Sends = append(service.Sends, p.Type)
		}
		out = append(out, service)
	}
	for _, g := range t.Groups {
		out = append(out, Service{Name: g.Group, Receives: g.Types})
	}
	return out
}

// Options of a document. The zero value works.
type Options struct {
	Title   string // default: "carebus"
	Version string // of what is described; default: "1.0.0"
	// Spec is the version of AsyncAPI: 3.0.0, the default, or 3.1.0.
	Spec string
}

// ErrSpec refuses a version of AsyncAPI that this package does not write.
var ErrSpec = errors.New("asyncapi: the version of the specification is not 3.0.0 or 3.1.0")

type object = map[string]any

func ref(parts ...string) object { return object{"$ref": "#/" + strings.Join(parts, "/")} }

// Document writes the document for types, of which the newest version of each major counts, and services. Its bytes
// follow from the arguments alone. A service that sends or receives a type that is not among types does so without a
// message here.
func Document(types []schema.Document, services []Service, o *Options) ([]byte, error) {
	var opts Options
	if o != nil {
		opts = *o
	}
	if opts.Title == "" {
		opts.Title = "carebus"
	}
	if opts.Version == "" {
		opts.Version = "1.0.0"
	}
	switch opts.Spec {
	case "":
		opts.Spec = "3.0.0"
	case "3.0.0", "3.1.0":
	default:
		return nil, fmt.Errorf("%w; it is %q", ErrSpec, opts.Spec)
	}
	d := &document{messages: object{}, schemas: object{"Metadata": metadata()}, channels: object{}, of: map[string][]string{}}
	for _, t := range newest(types) {
		if err := d.message(t); err != nil {
			return nil, fmt.Errorf("asyncapi: %s %s: %w", t.Type, t.Version, err)
		}
	}
	operations := object{}
	for _, s := range services {
		for action, names := range map[string][]string{"send": s.Sends, "receive": s.Receives} {
			for channel, keys := range d.byChannel(names) {
				refs := []object{}
				for _, key := range keys {
					refs = append(refs, ref("channels", channel, "messages", key))
				}
				operations[action+"."+key(s.Name)+"."+channel] = object{"action": action, "title": s.Name, "channel": ref("channels", channel), "messages": refs}
			}
		}
	}
	return json.MarshalIndent(object{
		"asyncapi":           opts.Spec,
		"info":               object{"title": opts.Title, "version": opts.Version, "description": "Events as they are published: an envelope with metadata and a payload."},
		"defaultContentType": "application/json",
		"channels":           d.channels,
		"operations":         operations,
		"components":         object{"messages": d.messages, "schemas": d.schemas},
	}, "", "  ")
}

// newest returns the newest version of each major of each type, by type and version.
func newest(types []schema.Document) []schema.Document {
	best := map[string]schema.Document{}
	for _, t := range types {
		k := t.Type + "." + major(t.Version)
		if b, ok := best[k]; !ok || later(t.Version, b.Version) {
			best[k] = t
		}
	}
	out := make([]schema.Document, 0, len(best))
	for _, t := range best {
		out = append(out, t)
	}
	slices.SortFunc(out, func(a, b schema.Document) int {
		if c := strings.Compare(a.Type, b.Type); c != 0 {
			return c
		}
		if later(a.Version, b.Version) {
			return 1
		}
		return -1
	})
	return out
}

func major(version string) string {
	m, _, _ := strings.Cut(version, ".")
	return m
}

func later(a, b string) bool {
	x, y := strings.Split(a, "."), strings.Split(b, ".")
	for i := range min(len(x), len(y)) {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m > n
		}
	}
	return len(x) > len(y)
}

// key makes a text fit to be the key of an AsyncAPI map: letters, digits, dot, hyphen and underscore.
func key(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '_'
	}, s)
}

type document struct {
	messages, schemas, channels object
	of                          map[string][]string // message keys of an event type
}

// channelOf is the entity that a type is about: all of its name but the last part.
func channelOf(eventType string) string {
	if i := strings.LastIndex(eventType, "."); i > 0 {
		return key(eventType[:i])
	}
	return key(eventType)
}

func (d *document) message(t schema.Document) error {
	name := key(t.Type) + ".v" + major(t.Version)
	var s object
	if err := json.Unmarshal(t.Schema, &s); err != nil {
		return err
	}
	title, _ := s["title"].(string)
	description, _ := s["description"].(string)
	examples, _ := s["examples"].([]any)
	delete(s, "examples") // they are the message's
	if err := d.component(name, s); err != nil {
		return err
	}
	m := object{
		"name": t.Type, "contentType": "application/json",
		"correlationId": object{"location": "$message.payload#/metadata/correlationId"},
		"payload": object{
			"type": "object", "required": []string{"metadata", "payload"},
			"properties": object{
				"metadata": object{"allOf": []object{ref("components", "schemas", "Metadata"), {"properties": object{"eventType": object{"const": t.Type}}}}},
				"payload":  ref("components", "schemas", name),
			},
		},
		"x-version": t.Version,
	}
	if title != "" {
		m["title"] = title
	}
	if description != "" {
		m["summary"] = description
	}
	if t.Deprecated {
		m["x-deprecated"] = true
		if t.ReplacedBy != "" {
			m["x-replaced-by"] = t.ReplacedBy
		}
	}
	for _, x := range []string{"x-owner", "x-data-class", "x-entity-id", "x-subject-id"} {
		if v, ok := s[x]; ok {
			m[x] = v
		}
	}
	said := []object{}
	for i, e := range examples {
		said = append(said, object{"name": fmt.Sprint("example", i+1), "payload": object{"metadata": sample(t), "payload": e}})
	}
	if len(said) > 0 {
		m["examples"] = said
	}
	d.messages[name] = m
	channel := channelOf(t.Type)
	c, _ := d.channels[channel].(object)
	if c == nil {
		c = object{"address": channel, "messages": object{}}
		d.channels[channel] = c
	}
	c["messages"].(object)[name] = ref("components", "messages", name)
	d.of[t.Type] = append(d.of[t.Type], name)
	return nil
}

// byChannel are the messages of types, by channel, in order.
func (d *document) byChannel(types []string) map[string][]string {
	out := map[string][]string{}
	for _, t := range slices.Compact(slices.Sorted(slices.Values(types))) {
		if keys := d.of[t]; len(keys) > 0 {
			out[channelOf(t)] = append(out[channelOf(t)], keys...)
		}
	}
	return out
}

// component puts a schema and its definitions among the components.
func (d *document) component(name string, s object) error {
	defs, _ := s["$defs"].(object)
	for _, drop := range []string{"$defs", "$schema", "$id"} {
		delete(s, drop)
	}
	out, err := draft7(s, name)
	if err != nil {
		return err
	}
	d.schemas[name] = out
	for def, of := range defs {
		out, err := draft7(of, name)
		if err != nil {
			return fmt.Errorf("$defs/%s: %w", def, err)
		}
		d.schemas[name+"."+key(def)] = out
	}
	return nil
}

// draft7 rewrites a schema of draft 2020-12 within the profile that the registry admits. Only its references differ.
func draft7(v any, name string) (any, error) {
	s, ok := v.(object)
	if !ok {
		return v, nil // true or false
	}
	out := object{}
	for k, member := range s {
		var err error
		switch k {
		case "$ref":
		case "properties", "patternProperties":
			out[k], err = eachMember(member, name)
		case "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames":
			out[k], err = draft7(member, name)
		case "allOf", "anyOf", "oneOf":
			list := []any{}
			for _, of := range listOf(member) {
				var one any
				if one, err = draft7(of, name); err != nil {
					break
				}
				list = append(list, one)
			}
			out[k] = list
		case "prefixItems", "dependentRequired", "dependentSchemas", "unevaluatedProperties", "unevaluatedItems", "minContains", "maxContains", "$dynamicRef":
			err = fmt.Errorf("the keyword %s has no counterpart in draft-07", k)
		default:
			out[k] = member // a value, or an annotation
		}
		if err != nil {
			return nil, err
		}
	}
	to, refers := s["$ref"].(string)
	if !refers {
		return out, nil
	}
	def, local := strings.CutPrefix(to, "#/$defs/")
	if !local {
		return nil, fmt.Errorf("the reference %s leads out of the schema", to)
	}
	target := ref("components", "schemas", name+"."+key(def))
	if len(out) == 0 {
		return target, nil
	}
	out["allOf"] = append([]any{target}, listOf(out["allOf"])...)
	return out, nil
}

func eachMember(v any, name string) (any, error) {
	members, ok := v.(object)
	if !ok {
		return v, nil
	}
	out := object{}
	for k, of := range members {
		var err error
		if out[k], err = draft7(of, name); err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
	}
	return out, nil
}

func listOf(v any) []any {
	l, _ := v.([]any)
	return l
}

// metadata is the schema of an envelope's metadata; see package event.
func metadata() object {
	text := func(what string) object { return object{"type": "string", "description": what} }
	return object{
		"type": "object", "description": "Who said what, when, and why.",
		"required": []string{"eventId", "eventType", "eventSource", "correlationId", "timestamp", "version"},
		"properties": object{
			"eventId":       text("The id of the event: the same id is the same fact."),
			"eventType":     text("domain.entity.action"),
			"eventSource":   text("The service that states it."),
			"correlationId": text("The flow that it belongs to."),
			"causationId":   text("The event that led to it."),
			"timestamp":     object{"type": "integer", "description": "When it happened, in milliseconds since 1970 UTC."},
			"version":       text("The version of the payload's schema."),
			"traceId":       text("The trace that it belongs to."),
			"partitionKey":  text("Events with the same key are in order."),
		},
	}
}

// sample is the metadata of an example.
func sample(t schema.Document) object {
	return object{"eventId": "0198c9e2-7a51-7c3e-9d0a-6a2f1c7be001", "eventType": t.Type, "eventSource": "example-service",
		"correlationId": "0198c9e2-7a51-7c3e-9d0a-6a2f1c7be000", "timestamp": 1677609600000, "version": t.Version}
}
