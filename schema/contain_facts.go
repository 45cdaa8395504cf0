package schema

import (
	"slices"
)

// facts are what the schemas of a subject say together.
type facts struct {
	nodes   []*node   // the subject's schemas with the targets of references and the members of allOf
	choices [][]*node // anyOf and oneOf that are not decided yet

	kinds               kinds
	finite              bool
	values              []value
	low, high           *bound
	multiples           []exact
	minLen, maxLen      *exact
	patterns, formats   []string
	minItems, maxItems  *exact
	unique              bool
	required            map[string]bool
	minProps, maxProps  *exact
	closed              bool            // there are no members but those that declared and patterns allow
	declared            map[string]bool // names that some schema at this place, or a branch of one, declares
	patternTexts        map[string]bool
	contradicts, opaque bool
}

// empty tells that no value is meant at all.
func (f *facts) empty() bool {
	return f.contradicts || f.kinds == 0 || f.finite && len(f.values) == 0
}

func (p *proof) facts(s subject) *facts {
	f := &facts{kinds: kindAny, required: map[string]bool{}}
	f.gather(s)
	*p.steps += len(f.nodes)
	for _, n := range f.nodes {
		f.add(n, p.subClosed)
	}
	if f.finite {
		f.values = slices.DeleteFunc(f.values, func(v value) bool { return kindOf(v.v)&f.kinds == 0 })
		var has kinds
		for _, v := range f.values {
			has |= kindOf(v.v)
		}
		f.kinds &= has
	} else if f.kinds != 0 && f.kinds&^(kindNull|kindBoolean) == 0 {
		// Few values can be written out.
		f.finite = true
		for _, v := range []any{nil, true, false} {
			if kindOf(v)&f.kinds != 0 {
				f.values = append(f.values, value{v, canonical(v)})
			}
		}
	}
	if n := count(len(f.required)); f.minProps == nil || f.minProps.compare(n) < 0 {
		f.minProps = &n
	}
	if p.subClosed {
		f.close()
	}
	f.nodes = append(f.nodes, s.conditions...) // for what they say of members and items; they close nothing
	return f
}

// gather flattens the subject: what holds at once.
func (f *facts) gather(s subject) {
	seen := map[*node]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		if n.ref != nil {
			visit(n.ref)
		}
		if n.refOnly {
			return // what stands beside the reference is ignored
		}
		f.nodes = append(f.nodes, n)
		for _, member := range n.all {
			visit(member)
		}
		for _, choice := range [][]*node{n.any_, n.one} {
			if len(choice) > 0 && !slices.Contains(s.split, choice[0]) {
				f.choices = append(f.choices, choice)
			}
		}
	}
	for _, n := range s.nodes {
		visit(n)
	}
	if len(f.nodes) == 0 {
		f.nodes = []*node{anything} // a reference that leads only to itself
	}
}

func (f *facts) add(n *node, closed bool) {
	f.contradicts = f.contradicts || n.never || n.not != nil && n.not.acceptsAll()
	f.kinds &= n.types
	f.opaque = f.opaque || len(n.opaque) > 0
	if n.finite && (closed || !n.extensible) {
		if f.finite {
			f.values = slices.DeleteFunc(f.values, func(v value) bool { return !contains(n.values, v) })
		} else {
			f.values = slices.Clone(n.values)
		}
		f.finite = true
	}
	if n.low != nil && (f.low == nil || covers(n.low, f.low, false, 1)) {
		f.low = n.low
	}
	if n.high != nil && (f.high == nil || covers(n.high, f.high, false, -1)) {
		f.high = n.high
	}
	for _, m := range n.multiples {
		f.multiples = append(f.multiples, m)
		if m.integer() {
			f.kinds &^= kindFraction
		}
	}
	f.minLen, f.maxLen = larger(f.minLen, n.minLen), smaller(f.maxLen, n.maxLen)
	f.minItems, f.maxItems = larger(f.minItems, n.minItems), smaller(f.maxItems, n.maxItems)
	f.minProps, f.maxProps = larger(f.minProps, n.minProperties), smaller(f.maxProps, n.maxProperties)
	f.unique = f.unique || n.unique
	if n.pattern != nil {
		f.patterns = append(f.patterns, *n.pattern)
	}
	if n.format != nil {
		f.formats = append(f.formats, *n.format)
	}
	for name := range n.required {
		f.required[name] = true
	}
}

func contains(list []value, v value) bool {
	return slices.ContainsFunc(list, func(o value) bool { return o.text == v.text })
}

func larger(a, b *exact) *exact {
	if a == nil || b != nil && b.compare(*a) > 0 {
		return b
	}
	return a
}

func smaller(a, b *exact) *exact {
	if a == nil || b != nil && b.compare(*a) < 0 {
		return b
	}
	return a
}

// acceptsAll tells that n is true, or {}.
func (n *node) acceptsAll() bool { return !n.never && n.ref == nil && !n.constrains() }

// primary is the schema to name in a message: the one that has one of the keywords, else the subject's own.
func (f *facts) primary(keywords ...string) *node {
	for _, n := range f.nodes {
		for _, keyword := range keywords {
			if _, has := n.raw[keyword]; has {
				return n
			}
		}
	}
	return f.nodes[0]
}

// every tells whether sub is a finite list whose numbers all hold.
func (f *facts) every(hold func(exact) bool) bool {
	if !f.finite {
		return false
	}
	for _, v := range f.values {
		if n, ok := v.v.(exact); ok && !hold(n) {
			return false
		}
	}
	return true
}

func (f *facts) everyString(hold func(string) bool) bool {
	if !f.finite {
		return false
	}
	for _, v := range f.values {
		if text, ok := v.v.(string); ok && !hold(text) {
			return false
		}
	}
	return true
}

// anything is the schema true, for places that sub says nothing about.
var anything = &node{types: kindAny}

// item is what sub says about the item at position i.
func (f *facts) item(i int) subject {
	var s subject
	for _, n := range f.nodes {
		if item := n.item(i); item != nil {
			s.nodes = append(s.nodes, item)
		}
	}
	return s.orAnything()
}

func (s subject) orAnything() subject {
	if len(s.nodes) == 0 {
		s.nodes = []*node{anything}
	}
	return s
}

// everyItem is what sub says about every item, whatever its position.
func (f *facts) everyItem() subject {
	var s subject
	for _, n := range f.nodes {
		if len(n.prefix) == 0 && n.items != nil {
			s.nodes = append(s.nodes, n.items)
		}
	}
	return s.orAnything()
}

// close works out which members a closed object can have. An object is closed as a whole when a schema at its place, or
// a branch of one, declares members, over all that they declare together. The branches of all alternatives count: one of
// them may have allowed the member, and more members allowed is the safe side for sub.
func (f *facts) close() {
	declares, opened := false, f.opaque
	f.declared, f.patternTexts = map[string]bool{}, map[string]bool{}
	seen := map[*node]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		if n == nil || seen[n] {
			return
		}
		seen[n] = true
		opened = opened || n.additional != nil && !n.additional.never || len(n.opaque) > 0
		declares = declares || n.declares
		for name := range n.properties {
			f.declared[name] = true
		}
		for pattern := range n.patterns {
			f.patternTexts[pattern] = true
		}
		for _, branch := range n.inPlace() {
			visit(branch)
		}
	}
	for _, n := range f.nodes {
		visit(n)
	}
	f.closed = declares && !opened
}

// inPlace lists the schemas that n applies to the same value and that may allow members of it.
func (n *node) inPlace() []*node {
	list := slices.Concat(n.all, n.any_, n.one)
	for _, b := range []*node{n.ref, n.if_, n.then, n.else_} {
		if b != nil {
			list = append(list, b)
		}
	}
	for _, name := range sortedKeys(n.dependSchemas) {
		list = append(list, n.dependSchemas[name])
	}
	return list
}
