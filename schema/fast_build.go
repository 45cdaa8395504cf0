package schema

import (
	"encoding/json"
	"regexp"
	"strconv"
	"strings"
)

// buildFast makes the fast judge of a document, after its objects have been closed or its enums opened. What it does not
// understand makes it unsure there.
func buildFast(tree map[string]any) *fastNode {
	defs, _ := tree["$defs"].(map[string]any)
	b := &fastBuilder{defs: defs, named: map[string]*fastNode{}}
	return b.node(tree)
}

type fastBuilder struct {
	defs  map[string]any
	named map[string]*fastNode // definitions, also those under way: they may refer to themselves
}

var unsure = &fastNode{unsure: true}

func (b *fastBuilder) node(v any) *fastNode {
	s, ok := v.(map[string]any)
	if !ok {
		if v == true {
			return anyValue
		}
		return unsure
	}
	if ref, is := onlyRef(s); is {
		return b.ref(ref)
	}
	n := newFast()
	b.fill(n, s)
	return n
}

// onlyRef returns what s refers to, when it says nothing else. What stands beside other keywords is the library's.
func onlyRef(s map[string]any) (string, bool) {
	ref, ok := s["$ref"].(string)
	for name := range s {
		ok = ok && (name == "$ref" || annotation(name))
	}
	return ref, ok
}

// fill sets n to what s says. Keywords that it does not know make it unsure.
func (b *fastBuilder) fill(n *fastNode, s map[string]any) {
	n.additional = anyValue
	required := map[string]bool{}
	for name, value := range s {
		if !b.keyword(n, name, value, required) {
			n.unsure = true
			return
		}
	}
	if len(required) > 64 {
		n.unsure = true
		return
	}
	bit := uint64(1)
	for name := range required {
		m := n.members[name]
		if m == nil {
			n.unsure = true // required but not declared: rare, and closed it can never hold
			return
		}
		m.bit = bit
		n.required |= bit
		bit <<= 1
	}
	if n.format != nil && (n.types == 0 || n.types&typeString != 0 && n.types&(typeInteger|typeFraction) != 0) {
		n.unsure = true // a format means other things for texts and for numbers
	}
}

func (b *fastBuilder) ref(ref string) *fastNode {
	name := unescapeToken(strings.TrimPrefix(ref, defsPrefix))
	if n := b.named[name]; n != nil {
		return n
	}
	s, ok := b.defs[name].(map[string]any)
	if ref, is := onlyRef(s); is || !ok {
		b.named[name] = unsure // should it lead to itself
		n := unsure
		if is {
			n = b.ref(ref)
		} else if b.defs[name] == true {
			n = anyValue
		}
		b.named[name] = n
		return n
	}
	n := newFast()
	b.named[name] = n // filled below: a definition may hold values of its own kind
	b.fill(n, s)
	return n
}

func annotation(name string) bool {
	switch name {
	case "$schema", "$id", "$comment", "$defs", "title", "description", "examples", "default", "deprecated", "readOnly", "writeOnly",
		"contentEncoding", "contentMediaType":
		return true
	}
	return strings.HasPrefix(name, "x-")
}

// keyword sets what one keyword says and returns false when it is beyond the fast judge.
func (b *fastBuilder) keyword(n *fastNode, name string, value any, required map[string]bool) (ok bool) {
	switch name {
	case "type":
		n.types, ok = fastTypes(value)
		return ok
	case "properties":
		properties, ok := value.(map[string]any)
		if !ok {
			return false
		}
		n.members = make(map[string]*fastMember, len(properties))
		for member, sub := range properties {
			n.members[member] = &fastMember{node: b.node(sub)}
		}
		return true
	case "required":
		names, ok := value.([]any)
		for _, v := range names {
			text, isText := v.(string)
			ok = ok && isText
			required[text] = true
		}
		return ok
	case "additionalProperties":
		if value == false {
			n.additional = nil
		} else {
			n.additional = b.node(value)
		}
		return true
	case "items":
		n.items = b.node(value)
		return true
	case "enum", "const":
		list, ok := value.([]any)
		if name == "const" {
			list, ok = []any{value}, true
		}
		if !ok || n.texts != nil {
			return false
		}
		n.texts = []string{}
		for _, v := range list {
			text, isText := v.(string)
			if !isText {
				return false
			}
			n.texts = append(n.texts, text)
		}
		return true
	case "pattern":
		text, ok := value.(string)
		if !ok {
			return false
		}
		var err error
		n.pattern, err = regexp.Compile(text)
		return err == nil
	case "format":
		text, _ := value.(string)
		f := formatNamed(text)
		if f == nil || f.match == nil {
			return false
		}
		n.format = f.match
		return true
	case "minLength":
		n.minRunes, ok = fastCount(value)
		return ok
	case "maxLength":
		n.maxRunes, ok = fastCount(value)
		return ok
	case "minItems":
		n.minItems, ok = fastCount(value)
		return ok
	case "maxItems":
		n.maxItems, ok = fastCount(value)
		return ok
	case "minimum", "exclusiveMinimum":
		if n.min != nil {
			return false
		}
		n.min, ok = fastBound(value)
		n.above = name == "exclusiveMinimum"
		return ok
	case "maximum", "exclusiveMaximum":
		if n.max != nil {
			return false
		}
		n.max, ok = fastBound(value)
		n.below = name == "exclusiveMaximum"
		return ok
	}
	return annotation(name)
}

func fastTypes(value any) (t types, ok bool) {
	list, isList := value.([]any)
	if !isList {
		list = []any{value}
	}
	for _, v := range list {
		switch v {
		case "null":
			t |= typeNull
		case "boolean":
			t |= typeBoolean
		case "integer":
			t |= typeInteger
		case "number":
			t |= typeInteger | typeFraction
		case "string":
			t |= typeString
		case "array":
			t |= typeArray
		case "object":
			t |= typeObject
		default:
			return 0, false
		}
	}
	return t, t != 0
}

func fastCount(value any) (int, bool) {
	number, _ := value.(json.Number)
	n, err := strconv.Atoi(string(number))
	return n, err == nil && n >= 0
}

// fastBound takes bounds of up to 15 digits and no exponent: they are exact, or ordered as their text is against numbers
// as short. An exponent could make a bound of another value than 0 read as 0.
func fastBound(value any) (*float64, bool) {
	number, _ := value.(json.Number)
	v, err := strconv.ParseFloat(string(number), 64)
	return &v, err == nil && len(number) <= 15 && !strings.ContainsAny(string(number), "eE")
}
