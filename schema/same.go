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

// What stands below a negation (not, if, oneOf, maxContains) counts where it fails, so closing something there may make
// more values valid. An object is closed as a whole, after its branches: what a branch declares of the same object is
// closed by no branch. Places below it, and extensible enums, are.

// sealed tells that n, standing in place below a negation, means the same closed and open.
func sealed(n *node) bool { return !closes(n, true, map[*node]bool{}) }

func closes(n *node, inPlace bool, seen map[*node]bool) bool {
	if n.extensible || n.declares && !inPlace || len(n.opaque) > 0 {
		return true
	}
	if seen[n] {
		return false
	}
	seen[n] = true
	here := n.inPlace()
	if n.not != nil {
		here = append(here, n.not)
	}
	for _, c := range here {
		if closes(c, inPlace, seen) {
			return true
		}
	}
	for _, c := range n.children() {
		if !slices.Contains(here, c) && closes(c, false, seen) {
			return true
		}
	}
	return false
}

// monotone tells that n closed accepts nothing that n open does not.
func monotone(n *node) bool { return monotoneBelow(n, map[*node]bool{}) }

func monotoneBelow(n *node, seen map[*node]bool) bool {
	if seen[n] {
		return true
	}
	seen[n] = true
	if len(n.opaque) > 0 || n.maxContains != nil && closes(n.contains, false, map[*node]bool{}) {
		return false
	}
	for _, negated := range append([]*node{n.not, n.if_}, n.one...) {
		if negated != nil && !sealed(negated) {
			return false
		}
	}
	if n.ref != nil && !monotoneBelow(n.ref, seen) {
		return false
	}
	for _, c := range n.children() {
		if !monotoneBelow(c, seen) {
			return false
		}
	}
	return true
}

func sealedKeywords(n *node, keywords ...string) bool {
	for _, c := range n.under(keywords) {
		if !sealed(c) {
			return false
		}
	}
	return true
}
