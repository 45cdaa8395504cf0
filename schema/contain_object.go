package schema

import (
	"slices"
)

// members proves the keywords about objects.
func (p *proof) members(s subject, f *facts, sup *node) bool {
	ok := true
	for _, name := range sortedKeys(sup.required) {
		if !f.required[name] {
			ok = p.fail(breach{keyword: "required", name: name, sub: f.declaring(name), sup: sup})
		}
	}
	if n := sup.minProperties; n != nil && !atLeast(f.minProps, n) {
		ok = p.fail(breach{keyword: "minProperties", sub: f.primary("minProperties"), sup: sup, subText: limit(f.minProps), supText: limit(n)})
	}
	if n := sup.maxProperties; n != nil && !atMost(f.maxProps, n) &&
		(!f.closed || len(f.patternTexts) > 0 || count(len(f.declared)).compare(*n) > 0) {
		ok = p.fail(breach{keyword: "maxProperties", sub: f.primary("maxProperties"), sup: sup, subText: limit(f.maxProps), supText: limit(n)})
	}
	for _, name := range sortedKeys(sup.dependents) {
		for _, other := range sup.dependents[name] {
			if f.required[other] || !p.possible(f, name) || f.dependsOn(name, other) {
				continue
			}
			ok = p.fail(breach{keyword: "dependentRequired", name: name, sub: f.primary("dependentRequired"), sup: sup})
		}
	}
	for _, name := range sortedKeys(sup.dependSchemas) {
		want := sup.dependSchemas[name]
		// Where the member is present, sub's own schema for that case holds too.
		present := s
		for _, n := range f.nodes {
			if have := n.dependSchemas[name]; have != nil {
				present = present.with(have)
			}
		}
		if p.possible(f, name) && !p.try(func() bool { return p.within(present, want) }) {
			ok = p.fail(breach{keyword: "dependentSchemas", name: name, sub: f.primary("dependentSchemas"), sup: sup})
		}
	}
	if sup.names != nil {
		ok = p.memberNames(f, sup) && ok
	}
	return p.memberValues(f, sup) && ok
}

// declaring is the schema that declares the property, else the subject's own.
func (f *facts) declaring(name string) *node {
	for _, n := range f.nodes {
		if n.properties[name] != nil {
			return n
		}
	}
	return f.primary("properties")
}

func (f *facts) dependsOn(name, other string) bool {
	return slices.ContainsFunc(f.nodes, func(n *node) bool { return slices.Contains(n.dependents[name], other) })
}

// possible tells whether a value of sub can have the member.
func (p *proof) possible(f *facts, name string) bool {
	if f.closed && !f.allows(name) {
		return false
	}
	inner := p.facts(f.member(name))
	return !inner.empty()
}

// allows tells whether a closed object may have the member.
func (f *facts) allows(name string) bool {
	if f.declared[name] {
		return true
	}
	for pattern := range f.patternTexts {
		if matched, known := matches(pattern, name); matched || !known {
			return true
		}
	}
	return false
}

// member is what sub says about the value of the member.
func (f *facts) member(name string) subject {
	var s subject
	for _, n := range f.nodes {
		schemas, _ := n.member(name)
		s.nodes = append(s.nodes, schemas...)
	}
	return s.orAnything()
}

// member lists the schemas that n applies to the member for sure, and says whether that is all of them: an expression
// that Go cannot compile might match.
func (n *node) member(name string) (schemas []*node, all bool) {
	all = true
	own := n.properties[name]
	if own != nil {
		schemas = append(schemas, own)
	}
	other := own == nil
	for _, pattern := range sortedKeys(n.patterns) {
		switch matched, known := matches(pattern, name); {
		case !known:
			all = false
			other = false
		case matched:
			schemas = append(schemas, n.patterns[pattern])
			other = false
		}
	}
	if other && n.additional != nil {
		schemas = append(schemas, n.additional)
	}
	return schemas, all
}

func (p *proof) memberNames(f *facts, sup *node) bool {
	for _, n := range f.nodes {
		if n.names != nil && p.try(func() bool { return p.place(subject{nodes: []*node{n.names}}, sup.names) }) {
			return true
		}
	}
	if names, all := f.allNames(); all {
		listed := &node{types: kindString, finite: true}
		for _, name := range names {
			listed.allow(name)
		}
		if p.try(func() bool { return p.place(subject{nodes: []*node{listed}}, sup.names) }) {
			return true
		}
	}
	return p.fail(breach{keyword: "propertyNames", sub: f.primary("propertyNames"), sup: sup})
}

// allNames lists every name that a member can have, when they are finitely many.
func (f *facts) allNames() ([]string, bool) {
	if f.closed && len(f.patternTexts) == 0 {
		return sortedKeys(f.declared), true
	}
	for _, n := range f.nodes {
		if n.additional != nil && n.additional.never && len(n.patterns) == 0 {
			return sortedKeys(n.properties), true
		}
	}
	return nil, false
}

// memberValues proves what properties, patternProperties and additionalProperties of sup say: for each name that
// either side mentions, and then for all others.
func (p *proof) memberValues(f *facts, sup *node) bool {
	if sup.properties == nil && sup.patterns == nil && sup.additional == nil {
		return true
	}
	ok := true
	named := map[string]bool{}
	for name := range sup.properties {
		named[name] = true
	}
	for _, n := range f.nodes {
		for name := range n.properties {
			named[name] = true
		}
	}
	for name := range f.declared {
		named[name] = true
	}
	for _, name := range sortedKeys(named) {
		if f.closed && !f.allows(name) {
			continue
		}
		wanted, all := sup.member(name)
		if !all {
			ok = p.fail(breach{keyword: "patternProperties", name: name, sub: f.primary("patternProperties"), sup: sup,
				unproven: "a pattern cannot be compiled"})
		}
		have := f.member(name)
		for _, want := range wanted {
			if want == sup.additional && want.never {
				if !p.possible(f, name) {
					continue
				}
				ok = p.fail(breach{keyword: "additionalProperties", name: name, sub: f.declaring(name), sup: sup})
				continue
			}
			ok = p.place(have, want) && ok
		}
	}
	if f.closed && len(f.patternTexts) == 0 {
		return ok
	}
	for _, pattern := range sortedKeys(sup.patterns) {
		ok = p.others(f, sup, pattern, sup.patterns[pattern], named) && ok
	}
	if sup.additional != nil {
		ok = p.others(f, sup, "", sup.additional, named) && ok
	}
	return ok
}

// others proves that the members that neither side names satisfy want: those matching pattern, or, when pattern is
// empty, those that no pattern of sup matches.
func (p *proof) others(f *facts, sup *node, pattern string, want *node, named map[string]bool) bool {
	var sure subject
	for _, n := range f.nodes {
		if pattern != "" && n.patterns[pattern] != nil {
			sure.nodes = append(sure.nodes, n.patterns[pattern])
		}
		// Without patterns, additionalProperties applies to every name that is not mentioned.
		if len(n.patterns) == 0 && n.additional != nil {
			sure.nodes = append(sure.nodes, n.additional)
		}
	}
	if slices.ContainsFunc(sure.nodes, func(n *node) bool { return n.never }) {
		return true
	}
	// A name may match any of sub's patterns or none: each of these cases alone must do.
	for _, n := range f.nodes {
		if len(n.patterns) == 0 || pattern != "" && n.patterns[pattern] != nil {
			continue
		}
		if p.try(func() bool {
			for text, have := range n.patterns {
				if pattern == "" && sup.patterns[text] != nil {
					continue // not the business of sup's additionalProperties
				}
				if !p.place(subject{nodes: append(slices.Clip(sure.nodes), have)}, want) {
					return false
				}
			}
			if f.closed {
				return true // names outside the patterns do not exist
			}
			rest := anything
			if n.additional != nil {
				rest = n.additional
			}
			return p.place(subject{nodes: append(slices.Clip(sure.nodes), rest)}, want)
		}) {
			return true
		}
	}
	if want.never {
		return p.fail(breach{keyword: "additionalProperties", sub: f.primary("additionalProperties", "properties"), sup: sup})
	}
	return p.place(sure.orAnything(), want)
}

// closure proves, at one place, that sup's being closed takes nothing away: that members which sub may have are allowed.
func (p *proof) closure(s subject, sup *node) bool {
	shut, surely, branches := sup.outline()
	if !shut {
		return true
	}
	f := p.facts(s)
	if f.empty() || f.kinds&kindObject == 0 {
		return true
	}
	at := sup.effective()
	names, all := f.allNames()
	if !all && !f.closed {
		return p.fail(breach{keyword: "properties", sub: f.primary("properties"), sup: at})
	}
	ok := true
	for _, name := range names {
		if surely.allows(name) || !p.possible(f, name) || p.evaluated(s, f, sup, branches, name) {
			continue
		}
		ok = p.fail(p.dropped(f, sup, at, name))
	}
	if !all {
		for _, name := range sortedKeys(f.declared) {
			if !surely.allows(name) && p.possible(f, name) && !p.evaluated(s, f, sup, branches, name) {
				ok = p.fail(p.dropped(f, sup, at, name))
			}
		}
		for _, pattern := range sortedKeys(f.patternTexts) {
			if !surely.patternTexts[pattern] {
				ok = p.fail(breach{keyword: "patternProperties", sub: f.primary("patternProperties"), sup: at})
			}
		}
	}
	return ok
}

// dropped is the breach that a member of sub is not allowed by sup.
func (p *proof) dropped(f *facts, sup, at *node, name string) breach {
	b := breach{keyword: "member", name: name, sub: f.declaring(name), sup: at}
	if sup.mentions(name) {
		b.keyword, b.unproven = branching, "some alternatives declare "+quote(name)+", and it could not be shown that one of them applies"
	}
	return b
}

// branching is the keyword of a breach that follows from another, about alternatives.
const branching = "(alternatives)"

// effective follows references: the schema that a message should point at.
func (n *node) effective() *node {
	for range maxDepth {
		if n.ref == nil || n.declares {
			break
		}
		n = n.ref
	}
	return n
}

// branch is a schema that allows members where it applies: where the value satisfies it, and its condition if it has one.
type branch struct{ schema, when *node }

// outline tells what is certain about a schema's members when it is closed: whether it is shut at all, the names that
// are always allowed, and the branches that allow more where they apply.
func (n *node) outline() (shut bool, surely *facts, branches []branch) {
	surely = &facts{declared: map[string]bool{}, patternTexts: map[string]bool{}}
	surely.gather(subject{nodes: []*node{n}})
	for _, m := range surely.nodes {
		shut = shut || m.declaresInPlace()
		for name := range m.properties {
			surely.declared[name] = true
		}
		for pattern := range m.patterns {
			surely.patternTexts[pattern] = true
		}
		for _, b := range slices.Concat(m.any_, m.one) {
			branches = append(branches, branch{schema: b})
		}
		if m.if_ != nil {
			branches = append(branches, branch{schema: m.if_})
		}
		if m.then != nil {
			branches = append(branches, branch{schema: m.then, when: m.if_})
		}
	}
	for _, m := range surely.nodes {
		if m.additional != nil {
			return false, surely, nil // additionalProperties speaks of all others
		}
	}
	return shut, surely, branches
}

// evaluated proves that whenever a value of sub has the member, a branch of sup that declares the member applies. In
// sub the member is there because some branch that declares it applies, or because sub declares it outright.
func (p *proof) evaluated(s subject, f *facts, sup *node, branches []branch, name string) bool {
	for _, n := range f.nodes {
		if sameSchema(n, sup) && p.subClosed == p.supClosed && n.properties[name] == nil {
			return true // the same branches decide on both sides
		}
	}
	var cases []subject
	for _, n := range f.nodes {
		if n.properties[name] != nil {
			cases = append(cases, s)
		}
		for _, part := range n.inPlace() {
			switch {
			case part == n.ref || slices.Contains(n.all, part): // among f.nodes by themselves
			case !part.mentions(name):
			case part == n.then:
				cases = append(cases, s.given(n.if_).with(part))
			case part == n.if_:
				cases = append(cases, s.given(part))
			default:
				cases = append(cases, s.with(part))
			}
		}
	}
	for _, one := range cases {
		if !slices.ContainsFunc(branches, func(b branch) bool {
			_, surely, _ := b.schema.outline()
			return surely.declared[name] && p.try(func() bool {
				return (b.when == nil || p.within(one, b.when)) && p.within(one, b.schema)
			})
		}) {
			return false
		}
	}
	return len(cases) > 0
}

// mentions tells whether the schema, or one that it applies to the same value, may allow the member.
func (n *node) mentions(name string) bool {
	f := &facts{nodes: []*node{n}}
	f.close()
	return f.allows(name)
}

// declaresInPlace tells whether n, or a schema that it applies to the same value, declares members.
func (n *node) declaresInPlace() bool {
	seen := map[*node]bool{}
	var visit func(n *node) bool
	visit = func(n *node) bool {
		if seen[n] {
			return false
		}
		seen[n] = true
		return n.declares || slices.ContainsFunc(n.inPlace(), visit)
	}
	return visit(n)
}
