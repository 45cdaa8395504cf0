package schema

import "strings"

const newMajor = "publish it as a new major version"

// change words a finding. A breach in the backward direction is something that old producers send and the new schema
// refuses: it was tightened. One in the forward direction is something that new producers may send and old consumers
// refuse: it was loosened.
func (f *finding) change() Change {
	c := Change{Pointer: f.new.pointer, Bump: Major}
	if f.unproven != "" {
		c.Rule = "unprovable"
		c.Message = f.unproven + ", so it counts as breaking"
		c.Remedy = "leave this part as it was, or " + newMajor
		return c
	}
	switch f.keyword {
	case "member":
		c.Pointer = f.old.pointer + "/properties/" + pointerToken(f.name)
		c.Rule, c.Message = "property-removed", "property "+quote(f.name)+" was removed; producers of the old version still send it"
		c.Remedy = "keep it and mark it deprecated, or " + newMajor
		return c
	case "properties":
		c.Rule, c.Message = "object-closed", "the object had no declared properties and could hold anything; now it holds only what is declared"
		c.Remedy = "declare a new property beside it, or " + newMajor
		return c
	case "required":
		return f.requiredChange(c)
	case "type":
		return f.typeChange(c)
	case "enum", "const":
		return f.valuesChange(c)
	case "additionalProperties":
		if f.name != "" {
			c.Pointer = f.old.pointer + "/properties/" + pointerToken(f.name)
			if f.old.properties[f.name] == nil {
				c.Pointer = f.new.pointer
			}
		}
	}
	return f.keywordChange(c)
}

func (f *finding) requiredChange(c Change) Change {
	at := f.new
	if at.properties[f.name] != nil {
		c.Pointer = at.pointer + "/properties/" + pointerToken(f.name)
	} else {
		c.Pointer = at.pointer + "/required"
	}
	if f.forward {
		c.Rule, c.Message = "required-dropped", "property "+quote(f.name)+" was required and is optional now; consumers rely on it"
		c.Remedy = "keep it required, or " + newMajor
		return c
	}
	switch {
	case at.properties[f.name] == nil:
		c.Rule, c.Message = "required-undeclared", "property "+quote(f.name)+" is required but not declared"
		c.Remedy = "declare it as an optional property, or " + newMajor
	case f.old.properties[f.name] == nil:
		c.Rule, c.Message = "required-property-added", "a new property "+quote(f.name)+" is required; producers of the old version do not send it"
		c.Remedy = "make it optional, or " + newMajor
	default:
		c.Rule, c.Message = "required-added", "property "+quote(f.name)+" was optional and is required now; producers of the old version may leave it out"
		c.Remedy = "leave it optional, or " + newMajor
	}
	return c
}

func (f *finding) typeChange(c Change) Change {
	was := "was " + f.oldText + ", is " + f.newText
	switch {
	case f.backward && f.forward:
		c.Rule, c.Message = "type-changed", "the type "+was
	case f.backward:
		c.Rule, c.Message = "type-narrowed", "the type "+was+"; producers of the old version may send the rest"
	default:
		c.Rule, c.Message = "type-widened", "the type "+was+"; consumers of the old version cannot read the rest"
	}
	c.Remedy = "keep the type and add a new optional property, or " + newMajor
	return c
}

func (f *finding) valuesChange(c Change) Change {
	switch {
	case f.backward && f.forward:
		c.Rule, c.Message = f.keyword+"-changed", "the allowed values changed"
	case f.backward:
		c.Rule, c.Message = f.keyword+"-narrowed", "values that were allowed are not allowed any more"
	default:
		c.Rule, c.Message = f.keyword+"-widened", "values are allowed that consumers of the old version do not know"
	}
	c.Remedy = "keep the allowed values, or " + newMajor
	if f.keyword == "enum" && f.forward {
		c.Remedy += "; an enum that is meant to grow says x-extensible-enum from its first version on"
	}
	return c
}

// subjects say what a keyword is about.
var subjects = map[string]string{
	"minimum": "the lower bound", "maximum": "the upper bound", "multipleOf": "the divisor",
	"minLength": "the minimum length", "maxLength": "the maximum length", "pattern": "the pattern", "format": "the format",
	"minItems": "the minimum number of items", "maxItems": "the maximum number of items",
	"uniqueItems": "the uniqueness of items", "contains": "what the array must contain", "maxContains": "how often the array may contain it",
	"minProperties": "the minimum number of properties", "maxProperties": "the maximum number of properties",
	"propertyNames": "the allowed property names", "patternProperties": "the properties by pattern",
	"additionalProperties": "what other properties may be", "dependentRequired": "what a property requires",
	"dependentSchemas": "what a property implies", "anyOf": "the alternatives", "oneOf": "the alternatives",
	"not": "what is excluded", "if": "the condition", "false": "what is allowed",
}

func (f *finding) keywordChange(c Change) Change {
	what := subjects[f.keyword]
	if what == "" {
		what = "the keyword " + f.keyword
	}
	texts := ""
	if f.oldText != "" && f.newText != "" && f.oldText != f.newText {
		texts = " (was " + f.oldText + ", is " + f.newText + ")"
	}
	base := hyphenated(f.keyword)
	switch {
	case f.backward && f.forward:
		c.Rule, c.Message = base+"-changed", what+" changed"+texts
	case f.backward:
		c.Rule, c.Message = base+"-tightened", what+" became tighter"+texts+", or could not be shown not to; producers of the old version may be refused"
	default:
		c.Rule, c.Message = base+"-loosened", what+" became looser"+texts+", or could not be shown not to; consumers of the old version may refuse it"
	}
	c.Remedy = "leave it as it was, or " + newMajor
	return c
}

func quote(name string) string { return "“" + name + "”" }

// hyphenated turns minLength into min-length.
func hyphenated(keyword string) string {
	var b strings.Builder
	for _, r := range strings.TrimPrefix(keyword, "$") {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('-')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}
