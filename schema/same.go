package schema

import "slices"

// assertions are the keywords that decide which values are valid, apart from those whose content is schemas.
var assertions = []string{
	"type", "enum", "const", "x-extensible-enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
	"minLength", "maxLength", "pattern", "format", "minItems", "maxItems", "uniqueItems", "minContains", "maxContains",
	"required", "dependentRequired", "minProperties", "maxProperties",
}

// children lists the schemas below n by keyword (and name or position). References are followed: a reference to a
// schema and the same schema written in place are the same.
func (n *node) children() map[string]*node {
	m := map[string]*node{}
	put := func(keyword string, c *node) {
		if c != nil {
			m[keyword] = c
		}
	}
	lists := map[string][]*node{"prefixItems": n.prefix, "allOf": n.all, "anyOf": n.any_, "oneOf": n.one}
	for keyword, list := range lists {
		for i, c := range list {
			m[keyword+"/"+count(i).String()] = c
		}
	}
	maps := map[string]map[string]*node{"properties": n.properties, "patternProperties": n.patterns, "dependentSchemas": n.dependSchemas}
	for keyword, schemas := range maps {
		for name, c := range schemas {
			m[keyword+"/"+pointerToken(name)] = c
		}
	}
	put("items", n.items)
	put("contains", n.contains)
	put("additionalProperties", n.additional)
	put("propertyNames", n.names)
	put("not", n.not)
	put("if", n.if_)
	put("then", n.then)
	put("else", n.else_)
	return m
}

// bare follows a reference that stands alone.
func (n *node) bare() *node {
	for range maxDepth {
		if n.ref == nil || !n.refOnly && n.constrains() {
			return n
		}
		n = n.ref
	}
	return n
}

// constrains tells whether n itself says anything about values, its reference apart.
func (n *node) constrains() bool {
	if n.raw == nil {
		return n.never
	}
	for _, keyword := range assertions {
		if _, has := n.raw[keyword]; has {
			return true
		}
	}
	return n.declares || len(n.opaque) > 0 || len(n.children()) > 0
}

// sameSchema tells whether two schemas say the same by having the same content, whatever their annotations.
func sameSchema(a, b *node) bool { return same(a, b, map[[2]*node]bool{}) }

func same(a, b *node, assumed map[[2]*node]bool) bool {
	a, b = a.bare(), b.bare()
	if a == b {
		return true
	}
	pair := [2]*node{a, b}
	if assumed[pair] {
		return true
	}
	assumed[pair] = true
	if a.never != b.never || a.declares != b.declares || (a.ref == nil) != (b.ref == nil) || !slices.Equal(a.opaque, b.opaque) {
		return false
	}
	if a.ref != nil && !same(a.ref, b.ref, assumed) {
		return false
	}
	for _, keyword := range a.opaque {
		// Only what refers to nothing else can be told by its text.
		switch a.raw[keyword].(type) {
		case bool:
		case string:
			if keyword != "$ref" {
				return false
			}
		default:
			return false
		}
		if canonical(a.raw[keyword]) != canonical(b.raw[keyword]) {
			return false
		}
	}
	for _, keyword := range assertions {
		if !sameAssertion(a, b, keyword) {
			return false
		}
	}
	x, y := a.children(), b.children()
	if len(x) != len(y) {
		return false
	}
	for at, c := range x {
		if y[at] == nil || !same(c, y[at], assumed) {
			return false
		}
	}
	return true
}

func sameAssertion(a, b *node, keyword string) bool {
	switch keyword {
	case "type":
		return a.types == b.types
	case "enum", "const":
		return a.finite == b.finite && len(a.values) == len(b.values) &&
			!slices.ContainsFunc(a.values, func(v value) bool { return !contains(b.values, v) })
	case "x-extensible-enum":
		return a.extensible == b.extensible
	case "dependentRequired":
		if len(a.dependents) != len(b.dependents) {
			return false
		}
		for name, needs := range a.dependents {
			others, has := b.dependents[name]
			if !has || !slices.Equal(sorted(needs), sorted(others)) {
				return false
			}
		}
		return true
	case "required":
		return slices.Equal(sortedKeys(a.required), sortedKeys(b.required))
	}
	v, hasA := a.raw[keyword]
	w, hasB := b.raw[keyword]
	return hasA == hasB && canonical(v) == canonical(w)
}

func sorted(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

// sameKeywords tells whether the schemas below these keywords are the same on both sides.
func sameKeywords(a, b *node, keywords ...string) bool {
	x, y := a.under(keywords), b.under(keywords)
	if len(x) != len(y) || len(x) == 0 {
		return false
	}
	for at, c := range x {
		if y[at] == nil || !sameSchema(c, y[at]) {
			return false
		}
	}
	return true
}

func (n *node) under(keywords []string) map[string]*node {
	m := n.children()
	for at := range m {
		keyword := at
		for i := range at {
			if at[i] == '/' {
				keyword = at[:i]
				break
			}
		}
		if !slices.Contains(keywords, keyword) {
			delete(m, at)
		}
	}
	return m
}

// nature is what decides whether closing a schema only takes values away.
type nature struct {
	negates bool // somewhere a schema counts when it fails: not, if, oneOf, maxContains
	closes  bool // somewhere closing changes what is valid
}

func (n *node) nature(seen map[*node]bool) nature {
	if seen[n] {
		return nature{}
	}
	seen[n] = true
	t := nature{
		negates: n.not != nil || n.if_ != nil || len(n.one) > 0 || n.maxContains != nil || len(n.opaque) > 0,
		closes:  n.declares || n.extensible,
	}
	children := n.children()
	if n.ref != nil {
		children["$ref"] = n.ref
	}
	for _, c := range children {
		u := c.nature(seen)
		t.negates, t.closes = t.negates || u.negates, t.closes || u.closes
	}
	return t
}

// monotone tells that n closed accepts nothing that n open does not.
func monotone(n *node) bool {
	t := n.nature(map[*node]bool{})
	return !t.negates || !t.closes
}

// sealed tells that n closed and n open are the same.
func sealed(n *node) bool { return !n.nature(map[*node]bool{}).closes }

func sealedKeywords(n *node, keywords ...string) bool {
	for _, c := range n.under(keywords) {
		if !sealed(c) {
			return false
		}
	}
	return true
}
