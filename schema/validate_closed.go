package schema

import (
	"maps"
	"slices"
	"strings"
)

// closeObjects rewrites a document so that every declared object is closed: a member that is not declared is refused.
//
// An object is declared when it has properties or patternProperties. One whose members are also declared by branches
// (allOf, oneOf, if, …, a $ref beside properties) is closed over all of them together, and the branches stay open, or each
// would refuse the others' members. A free-form object, with no declarations at all, stays open, and so does a map
// (additionalProperties with a schema). What "not" says stays as it is.
func closeObjects(tree map[string]any) {
	defs, _ := tree["$defs"].(map[string]any)
	written, _ := deepCopy(defs).(map[string]any)
	c := &closer{defs: written, branches: map[string]any{}}
	c.schema(tree, false)
	for _, def := range defs {
		c.sub(def, false)
	}
	maps.Copy(defs, c.branches)
}

// branchSuffix names the copy of a definition that is used as a branch: its own top level stays open.
const branchSuffix = "(branch)"

type closer struct {
	defs     map[string]any // as written
	branches map[string]any // copies, by name with suffix
}

func (c *closer) schema(s map[string]any, branch bool) {
	if s == nil {
		return
	}
	parts := c.parts(s)
	_, hasRef := s["$ref"].(string)
	composed := c.declares(s, 0) && (hasRef || len(parts) > 0)
	if _, open := s["additionalProperties"]; !open && !branch && c.declares(s, 0) {
		if composed {
			s["unevaluatedProperties"] = false
		} else {
			s["additionalProperties"] = false
		}
	}
	for name, value := range s {
		switch {
		case name == "not" || name == "$defs" || slices.Contains(branchKeywords, name):
		case keywords[name] == holdsSchema:
			c.sub(value, false)
		case keywords[name] == holdsNamed:
			named, _ := value.(map[string]any)
			for _, sub := range named {
				c.sub(sub, false)
			}
		case keywords[name] == holdsList:
			list, _ := value.([]any)
			for _, sub := range list {
				c.sub(sub, false)
			}
		}
	}
	for _, part := range parts {
		c.schema(part, true)
	}
	if hasRef && (branch || composed) {
		c.refAsBranch(s)
	}
}

func (c *closer) sub(v any, branch bool) {
	if s, ok := v.(map[string]any); ok {
		c.schema(s, branch)
	}
}

var branchKeywords = []string{"allOf", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas"}

// parts are the schemas that speak about the same object as s.
func (c *closer) parts(s map[string]any) (out []map[string]any) {
	for _, name := range branchKeywords {
		switch v := s[name].(type) {
		case []any:
			for _, sub := range v {
				if m, ok := sub.(map[string]any); ok {
					out = append(out, m)
				}
			}
		case map[string]any:
			if name != "dependentSchemas" {
				out = append(out, v)
				continue
			}
			for _, sub := range v {
				if m, ok := sub.(map[string]any); ok {
					out = append(out, m)
				}
			}
		}
	}
	return out
}

// declares says whether s, or a part of it, names members. Its own $ref does not count: alone, the definition is closed
// where it stands.
func (c *closer) declares(s map[string]any, depth int) bool {
	if s["properties"] != nil || s["patternProperties"] != nil {
		return true
	}
	if depth > maxSchemaDepth {
		return false
	}
	for _, part := range c.parts(s) {
		if c.declares(part, depth+1) || c.refDeclares(part, depth+1) {
			return true
		}
	}
	return false
}

// refDeclares says whether what s refers to names members, there or where it refers to in turn.
func (c *closer) refDeclares(s map[string]any, depth int) bool {
	ref, ok := s["$ref"].(string)
	if !ok || depth > maxSchemaDepth {
		return false
	}
	def, ok := c.defs[unescapeToken(strings.TrimPrefix(ref, defsPrefix))].(map[string]any)
	return ok && (c.declares(def, depth+1) || c.refDeclares(def, depth+1))
}

// refAsBranch leads a reference to the copy of its definition whose top level stays open.
func (c *closer) refAsBranch(s map[string]any) {
	ref, _ := s["$ref"].(string)
	name := unescapeToken(strings.TrimPrefix(ref, defsPrefix))
	if strings.HasSuffix(name, branchSuffix) {
		return
	}
	copied := name + branchSuffix
	s["$ref"] = ref + branchSuffix
	if _, done := c.branches[copied]; done {
		return
	}
	def, ok := c.defs[name].(map[string]any)
	if !ok {
		c.branches[copied] = c.defs[name]
		return
	}
	own := deepCopy(def).(map[string]any)
	c.branches[copied] = own
	c.schema(own, true)
}

func deepCopy(v any) any {
	switch x := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(x))
		for k, e := range x {
			out[k] = deepCopy(e)
		}
		return out
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			out[i] = deepCopy(e)
		}
		return out
	}
	return v
}

// openEnums drops the enums that may grow: a reader lets their unknown values pass.
func openEnums(tree map[string]any) {
	if tree["x-extensible-enum"] == true {
		delete(tree, "enum")
	}
	for name, value := range tree {
		switch keywords[name] {
		case holdsSchema:
			if s, ok := value.(map[string]any); ok {
				openEnums(s)
			}
		case holdsNamed:
			named, _ := value.(map[string]any)
			for _, sub := range named {
				if s, ok := sub.(map[string]any); ok {
					openEnums(s)
				}
			}
		case holdsList:
			list, _ := value.([]any)
			for _, sub := range list {
				if s, ok := sub.(map[string]any); ok {
					openEnums(s)
				}
			}
		}
	}
}
