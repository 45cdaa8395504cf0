package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/carebus/carebus/event"
)

// maxFindings bounds how many findings one payload or document collects, maxFaults how many of the library's are looked
// at for that: a megabyte can hold hundreds of thousands, and finding their places takes seconds.
const (
	maxFindings = 50
	maxFaults   = 1000
)

// findings turns the library's verdict into ours. The library's own texts quote values, which may be protected: they are
// never used. What a finding says comes from the schema, and from names of members that the schema declares.
func (f *form) findings(err error, value any) []event.Finding {
	if err == nil {
		return nil
	}
	var verdict *jsonschema.ValidationError
	if !errors.As(err, &verdict) {
		return []event.Finding{{Rule: "schema", Message: "the payload could not be checked", Remedy: "send JSON values only"}}
	}
	c := newCollector(f, value)
	c.collect(verdict)
	return c.finish()
}

// large finds the numbers that nothing compares.
func (f *form) large(value any) []event.Finding {
	c := newCollector(f, value)
	largeNumbers(value, nil, func(location []string) {
		if !c.take(1) {
			return
		}
		at, _ := c.place(location)
		c.add(at, "number", fmt.Sprintf("the number has more than %d characters, or an exponent beyond %d", maxNumberText, maxPayloadExponent), "send a number that fits a float64")
	})
	return c.finish()
}

func newCollector(f *form, value any) *collector {
	return &collector{form: f, value: value, seen: map[[2]string]bool{}}
}

// finish returns what was collected, in order and bounded.
func (c *collector) finish() []event.Finding {
	for _, f := range c.deferred {
		parent := f.Pointer[:strings.LastIndexByte(f.Pointer, '/')]
		if !slices.ContainsFunc(c.out, func(o event.Finding) bool { return o.Pointer == parent || strings.HasPrefix(o.Pointer, parent+"/") }) {
			c.add(f.Pointer, f.Rule, f.Message, f.Remedy)
		}
	}
	sort.SliceStable(c.out, func(i, j int) bool {
		a, b := c.out[i], c.out[j]
		return a.Pointer < b.Pointer || a.Pointer == b.Pointer && a.Rule < b.Rule
	})
	if more := c.passed + max(0, len(c.out)-maxFindings); more > 0 {
		c.out = append(c.out[:min(len(c.out), maxFindings)], event.Finding{Rule: "schema", Message: fmt.Sprintf("and %d more", more), Remedy: "mend these first"})
	}
	return c.out
}

type collector struct {
	*form
	value    any // what is judged
	out      []event.Finding
	deferred []event.Finding // only said when nothing else is wrong with the object: an alternative that failed for
	// another reason leaves its members undeclared
	seen   map[[2]string]bool
	taken  int // faults looked at
	passed int // faults beyond maxFaults
}

// take says whether n more faults are to be looked at.
func (c *collector) take(n int) bool {
	if c.taken+n > maxFaults {
		c.passed += n
		return false
	}
	c.taken += n
	return true
}

func (c *collector) add(pointer, rule, message, remedy string) {
	if key := [2]string{pointer, rule}; !c.seen[key] {
		c.seen[key] = true
		c.out = append(c.out, event.Finding{Pointer: pointer, Rule: rule, Message: message, Remedy: remedy})
	}
}

func (c *collector) collect(e *jsonschema.ValidationError) {
	switch e.ErrorKind.(type) {
	case *kind.Schema, *kind.Group, *kind.Reference, *kind.AllOf:
		// The library walks objects in random order; what is passed over shall not be left to chance.
		slices.SortStableFunc(e.Causes, func(a, b *jsonschema.ValidationError) int {
			return slices.Compare(a.InstanceLocation, b.InstanceLocation)
		})
		for _, cause := range e.Causes {
			c.collect(cause)
		}
		return
	}
	if !c.take(1) {
		return
	}
	at, schemas := c.place(e.InstanceLocation)
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, m := range k.Missing {
			c.add(at+"/"+pointerToken(m), "required", "the member is missing", "send it")
		}
	case *kind.AdditionalProperties:
		c.taken-- // each of the members counts, not their sum
		slices.Sort(k.Properties)
		for _, m := range k.Properties {
			if c.take(1) {
				c.unknown(at, m, schemas)
			}
		}
	case *kind.FalseSchema:
		c.forbidden(at, e.InstanceLocation)
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
	case *kind.PropertyNames:
		c.propertyNames(e.InstanceLocation, k.Property)
	case *kind.Contains:
		c.add(at, "contains", "no item of the list is one that the schema asks for", "see the schema for what must be among the items")
	case *kind.MinContains:
		c.add(at, "minContains", fmt.Sprintf("fewer than %d items of the list are what the schema asks for", k.Want), "see the schema for what must be among the items")
	case *kind.MaxContains:
		c.add(at, "maxContains", fmt.Sprintf("more than %d items of the list are what the schema counts", k.Want), "send fewer of them")
	case *kind.Not:
		c.add(at, "not", "the value is one that the schema excludes", "see the schema for what may stand here")
	case *kind.AnyOf:
		c.alternatives(at, "anyOf", "the value fits none of the alternatives of the schema", e)
	case *kind.OneOf:
		if k.Subschemas != nil {
			c.add(at, "oneOf", "the value fits more than one of the alternatives of the schema", "send a value that fits only one")
		} else {
			c.alternatives(at, "oneOf", "the value fits none of the alternatives of the schema", e)
		}
	default:
		rule := "schema"
		if path := e.ErrorKind.KeywordPath(); len(path) > 0 {
			rule = path[len(path)-1]
		}
		c.add(at, rule, "the value does not hold to "+rule+" of the schema", "see the schema for what may stand here")
	}
}

func (c *collector) unknown(at, name string, schemas []map[string]any) {
	remedy := "leave it out; a new member needs a new version of the schema"
	declared := declaredNames(schemas)
	if slices.Contains(declared, name) {
		c.deferred = append(c.deferred, event.Finding{Pointer: at + "/" + pointerToken(name), Rule: "unknown-member",
			Message: "the schema does not allow the member beside the others", Remedy: "leave it out, or send what it belongs to"})
		return
	}
	// A name of a few letters is a few edits away from any other.
	if near := nearest(name, declared); len(near) > 0 && edits(name, near[0]) <= max(1, len(name)/3) {
		remedy = "did you mean " + near[0] + "? Else " + remedy
	}
	c.add(at+"/"+pointerToken(name), "unknown-member", "the schema declares no such member", remedy)
}

// forbidden reports a value that may not be there at all: a member that no part of a composed object declares, or an
// item beyond the last.
func (c *collector) forbidden(at string, location []string) {
	if len(location) == 0 {
		c.add("", "schema", "the schema lets nothing pass", "ask the owner of the schema")
		return
	}
	last := len(location) - 1
	parent, parents := c.place(location[:last])
	if _, list := c.at(location[:last]).([]any); list {
		c.add(at, "items", "the list may not have this item", "leave it out")
		return
	}
	c.unknown(parent, location[last], parents)
}

// propertyNames reports a member whose name the schema refuses; the name itself may be protected. The library lends out
// the location and may have written another one over it: where the member is not there, the whole payload is named.
func (c *collector) propertyNames(location []string, name string) {
	at := ""
	if object, ok := c.at(location).(map[string]any); ok {
		if _, ok := object[name]; ok {
			at, _ = c.place(location)
			at += "/*"
		}
	}
	c.add(at, "propertyNames", "the name of a member is not one that the schema allows", "see the schema for what names may be")
}

// alternatives reports a value that fits no branch. Where all branches but one are ruled out by the type of the value,
// or by a constant that tells them apart, what is wrong in that one is reported instead.
func (c *collector) alternatives(at, rule, message string, e *jsonschema.ValidationError) {
	depth := len(e.InstanceLocation)
	var meant []*jsonschema.ValidationError
	var wanted []any
	told := map[string][]string{}
	for _, branch := range e.Causes {
		out := false
		for _, leaf := range leaves(branch, nil) {
			switch k := leaf.ErrorKind.(type) {
			case *kind.Type:
				out = out || len(leaf.InstanceLocation) == depth
			case *kind.Const:
				if len(leaf.InstanceLocation) == depth+1 {
					out = true
					wanted = append(wanted, k.Want)
					told[leaf.InstanceLocation[depth]] = leaf.InstanceLocation
				}
			}
		}
		if !out {
			meant = append(meant, branch)
		}
	}
	switch {
	case len(meant) == 1:
		c.collect(meant[0])
	case len(meant) == 0 && len(told) == 1 && len(wanted) == len(e.Causes):
		for _, location := range told {
			tag, _ := c.place(location)
			c.add(tag, "const", "the value is none of those that tell the alternatives apart: "+values(wanted), "send one of them, in this spelling")
		}
	default:
		c.add(at, rule, message, "see the schema for what may stand here")
	}
}

func leaves(e *jsonschema.ValidationError, to []*jsonschema.ValidationError) []*jsonschema.ValidationError {
	if len(e.Causes) == 0 {
		return append(to, e)
	}
	for _, cause := range e.Causes {
		to = leaves(cause, to)
	}
	return to
}

// at is the value at a location, nil where there is none.
func (c *collector) at(location []string) any {
	v := c.value
	for _, token := range location {
		v = step(v, token)
	}
	return v
}

func step(v any, token string) any {
	switch x := v.(type) {
	case map[string]any:
		return x[token]
	case []any:
		if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(x) {
			return x[i]
		}
	}
	return nil
}

// place is the JSON pointer of an instance location, and the schemas that speak about it. Keys of maps are not the
// schema's words and may be protected: they read "*".
func (c *collector) place(location []string) (string, []map[string]any) {
	at := ""
	if c.form == nil { // a schema document, in which nothing is protected
		for _, token := range location {
			at += "/" + pointerToken(token)
		}
		return at, nil
	}
	schemas, value := c.expand([]map[string]any{c.doc}), c.value
	for _, token := range location {
		var next []map[string]any
		_, named := value.([]any)
		for _, s := range schemas {
			if _, list := value.([]any); list {
				next = append(next, itemSchemas(s, token)...)
				continue
			}
			more, declared := memberSchemas(s, token)
			next, named = append(next, more...), named || declared
		}
		if named {
			at += "/" + pointerToken(token)
		} else {
			at += "/*"
		}
		schemas, value = c.expand(next), step(value, token)
	}
	return at, schemas
}

func itemSchemas(s map[string]any, token string) (out []map[string]any) {
	sub := s["items"]
	prefix, _ := s["prefixItems"].([]any)
	if i, err := strconv.Atoi(token); err == nil && i >= 0 && i < len(prefix) {
		sub = prefix[i]
	}
	for _, v := range []any{sub, s["contains"]} {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

// memberSchemas are what s says about a member, and whether s declares it by its name.
func memberSchemas(s map[string]any, name string) (out []map[string]any, declared bool) {
	add := func(v any) {
		if m, ok := v.(map[string]any); ok {
			out = append(out, m)
		}
	}
	properties, _ := s["properties"].(map[string]any)
	sub, declared := properties[name]
	add(sub)
	covered := declared
	patterns, _ := s["patternProperties"].(map[string]any)
	for pattern, sub := range patterns {
		if fits, err := regexp.MatchString(pattern, name); err == nil && fits {
			covered = true
			add(sub)
		}
	}
	if !covered {
		add(s["additionalProperties"])
	}
	return out, declared
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
		if text, ok := v.(string); ok {
			texts = append(texts, text)
		} else if text, err := json.Marshal(v); err == nil {
			texts = append(texts, string(text))
		}
	}
	return strings.Join(texts, ", ")
}

func decimal(r *big.Rat) string {
	if r.IsInt() {
		return r.Num().String()
	}
	return strings.TrimRight(r.FloatString(12), "0")
}
