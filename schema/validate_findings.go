package schema

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sort"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/carebus/carebus/event"
)

// maxFindings bounds how many findings one payload or document collects.
const maxFindings = 50

// findings turns the library's verdict into ours. The library's own texts quote values, which may be protected: they are
// never used. What a finding says comes from the schema, and from names of members that the schema declares.
func (f *form) findings(err error) []event.Finding {
	if err == nil {
		return nil
	}
	var verdict *jsonschema.ValidationError
	if !errors.As(err, &verdict) {
		return []event.Finding{{Rule: "schema", Message: "the payload could not be checked", Remedy: "send JSON values only"}}
	}
	c := &collector{form: f, seen: map[[2]string]bool{}}
	c.collect(verdict)
	sort.SliceStable(c.out, func(i, j int) bool {
		a, b := c.out[i], c.out[j]
		return a.Pointer < b.Pointer || a.Pointer == b.Pointer && a.Rule < b.Rule
	})
	if more := len(c.out) - maxFindings; more > 0 {
		c.out = append(c.out[:maxFindings], event.Finding{Rule: "schema", Message: fmt.Sprintf("and %d more", more), Remedy: "mend these first"})
	}
	return c.out
}

type collector struct {
	*form
	out  []event.Finding
	seen map[[2]string]bool
}

func (c *collector) add(pointer, rule, message, remedy string) {
	if key := [2]string{pointer, rule}; !c.seen[key] {
		c.seen[key] = true
		c.out = append(c.out, event.Finding{Pointer: pointer, Rule: rule, Message: message, Remedy: remedy})
	}
}

func (c *collector) collect(e *jsonschema.ValidationError) {
	at, schemas := c.place(e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, m := range k.Missing {
			c.add(at+"/"+pointerToken(m), "required", "the member is missing", "send it")
		}
	case *kind.AdditionalProperties:
		for _, m := range k.Properties {
			c.unknown(at, m, schemas)
		}
	case *kind.FalseSchema:
		// A member that no part of a composed object declares.
		parent, parents := c.place(e.InstanceLocation[:max(0, len(e.InstanceLocation)-1)])
		if len(e.InstanceLocation) == 0 {
			c.add("", "schema", "the schema lets nothing pass", "ask the owner of the schema")
			return
		}
		c.unknown(parent, e.InstanceLocation[len(e.InstanceLocation)-1], parents)
	case *kind.Type:
		c.add(at, "type", "expected "+strings.Join(k.Want, " or ")+", found "+k.Got, "send the value as "+strings.Join(k.Want, " or "))
	case *kind.Enum:
		c.add(at, "enum", "the value is none of those allowed: "+values(k.Want), "send one of them, in this spelling")
	case *kind.Const:
		c.add(at, "const", "the value is not the one allowed: "+values([]any{k.Want}), "send it")
	case *kind.Format:
		if f := formatNamed(k.Want); f != nil {
			c.add(at, "format", "the value is not "+f.what+" (format "+f.name+")", f.remedy)
		} else {
			c.add(at, "format", "the value is not of the format "+k.Want, "send it in that format")
		}
	case *kind.Pattern:
		c.add(at, "pattern", "the value does not match the pattern "+k.Want, "send a value that matches")
	case *kind.MinLength:
		c.add(at, "minLength", fmt.Sprintf("the text is shorter than %d characters", k.Want), "send a longer one, or leave the member out if it may be absent")
	case *kind.MaxLength:
		c.add(at, "maxLength", fmt.Sprintf("the text is longer than %d characters", k.Want), "send a shorter one")
	case *kind.Minimum:
		c.add(at, "minimum", "the number is below "+decimal(k.Want), "send at least that")
	case *kind.ExclusiveMinimum:
		c.add(at, "exclusiveMinimum", "the number is not above "+decimal(k.Want), "send more than that")
	case *kind.Maximum:
		c.add(at, "maximum", "the number is above "+decimal(k.Want), "send at most that")
	case *kind.ExclusiveMaximum:
		c.add(at, "exclusiveMaximum", "the number is not below "+decimal(k.Want), "send less than that")
	case *kind.MultipleOf:
		c.add(at, "multipleOf", "the number is no multiple of "+decimal(k.Want), "send one")
	case *kind.MinItems:
		c.add(at, "minItems", fmt.Sprintf("the list has fewer than %d items", k.Want), "send more")
	case *kind.MaxItems:
		c.add(at, "maxItems", fmt.Sprintf("the list has more than %d items", k.Want), "send fewer")
	case *kind.UniqueItems:
		c.add(at, "uniqueItems", fmt.Sprintf("items %d and %d of the list are equal", k.Duplicates[0], k.Duplicates[1]), "send each once")
	case *kind.MinProperties:
		c.add(at, "minProperties", fmt.Sprintf("the object has fewer than %d members", k.Want), "send more")
	case *kind.MaxProperties:
		c.add(at, "maxProperties", fmt.Sprintf("the object has more than %d members", k.Want), "send fewer")
	case *kind.DependentRequired:
		for _, m := range k.Missing {
			c.add(at+"/"+pointerToken(m), "dependentRequired", "the member is missing, which "+k.Prop+" asks for", "send it, or leave "+k.Prop+" out")
		}
	case *kind.AnyOf:
		c.add(at, "anyOf", "the value fits none of the alternatives of the schema", "see the schema for what may stand here")
	case *kind.OneOf:
		c.add(at, "oneOf", "the value fits none of the alternatives of the schema, or more than one", "see the schema for what may stand here")
	default:
		if len(e.Causes) > 0 {
			for _, cause := range e.Causes {
				c.collect(cause)
			}
			return
		}
		rule := "schema"
		if path := e.ErrorKind.KeywordPath(); len(path) > 0 {
			rule = path[len(path)-1]
		}
		c.add(at, rule, "the value does not hold to "+rule+" of the schema", "see the schema for what may stand here")
	}
}

func (c *collector) unknown(at, name string, schemas []map[string]any) {
	remedy := "leave it out; a new member needs a new version of the schema"
	if near := nearest(name, declaredNames(schemas)); len(near) > 0 {
		remedy = "did you mean " + near[0] + "? Else " + remedy
	}
	c.add(at+"/"+pointerToken(name), "unknown-member", "the schema declares no such member", remedy)
}

// place is the JSON pointer of an instance location, and the schemas that speak about it. Keys of maps are not the
// schema's words and may be protected: they read "*".
func (f *form) place(location []string) (string, []map[string]any) {
	at := ""
	schemas := f.expand([]map[string]any{f.doc})
	for _, token := range location {
		var next []map[string]any
		named := false
		for _, s := range schemas {
			if properties, ok := s["properties"].(map[string]any); ok {
				if sub, ok := properties[token]; ok {
					named = true
					if m, ok := sub.(map[string]any); ok {
						next = append(next, m)
					}
					continue
				}
			}
			for _, keyword := range []string{"items", "additionalProperties"} {
				if m, ok := s[keyword].(map[string]any); ok {
					next = append(next, m)
					named = named || keyword == "items"
				}
			}
			if list, ok := s["prefixItems"].([]any); ok {
				named = true
				for _, sub := range list {
					if m, ok := sub.(map[string]any); ok {
						next = append(next, m)
					}
				}
			}
		}
		if named {
			at += "/" + pointerToken(token)
		} else {
			at += "/*"
		}
		schemas = f.expand(next)
	}
	return at, schemas
}

// expand adds what schemas refer to and are composed of.
func (f *form) expand(schemas []map[string]any) []map[string]any {
	defs, _ := f.doc["$defs"].(map[string]any)
	c := &closer{}
	for i := 0; i < len(schemas) && len(schemas) < 200; i++ {
		schemas = append(schemas, c.parts(schemas[i])...)
		if ref, ok := schemas[i]["$ref"].(string); ok {
			if def, ok := defs[unescapeToken(strings.TrimPrefix(ref, defsPrefix))].(map[string]any); ok {
				schemas = append(schemas, def)
			}
		}
	}
	return schemas
}

func declaredNames(schemas []map[string]any) (names []string) {
	for _, s := range schemas {
		properties, _ := s["properties"].(map[string]any)
		for name := range properties {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func values(want []any) string {
	var texts []string
	for i, v := range want {
		if i == 30 {
			texts = append(texts, "…")
			break
		}
		texts = append(texts, fmt.Sprint(v))
	}
	return strings.Join(texts, ", ")
}

func decimal(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	return strings.TrimRight(r.FloatString(12), "0")
}

// metaPointer is the place in a document that the meta-schema refused.
func metaPointer(err error) string {
	var refused *jsonschema.SchemaValidationError
	if !errors.As(err, &refused) {
		return ""
	}
	var verdict *jsonschema.ValidationError
	if !errors.As(refused.Err, &verdict) {
		return ""
	}
	deepest := verdict.InstanceLocation
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.InstanceLocation) > len(deepest) {
			deepest = e.InstanceLocation
		}
		for _, cause := range e.Causes {
			walk(cause)
		}
	}
	walk(verdict)
	at := ""
	for _, token := range deepest {
		at += "/" + pointerToken(token)
	}
	return at
}
