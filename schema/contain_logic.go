package schema

// logic proves anyOf, oneOf, not and if.
func (p *proof) logic(s subject, f *facts, sup *node) bool {
	ok := true
	if len(sup.any_) > 0 && !p.try(func() bool { return p.anyOf(s, sup.any_, maxSplits) }) {
		ok = p.fail(breach{keyword: "anyOf", sub: f.primary("anyOf", "oneOf"), sup: sup})
	}
	if len(sup.one) > 0 && !p.same(f, sup, "oneOf") && !p.try(func() bool { return p.oneOf(s, sup.one, maxSplits) }) {
		ok = p.fail(breach{keyword: "oneOf", sub: f.primary("oneOf", "anyOf"), sup: sup})
	}
	if sup.not != nil && !p.same(f, sup, "not") && !p.excluded(s, f, sup.not) {
		ok = p.fail(breach{keyword: "not", sub: f.primary("not"), sup: sup})
	}
	if sup.if_ != nil && (sup.then != nil || sup.else_ != nil) && !p.same(f, sup, "if", "then", "else") &&
		!p.try(func() bool { return p.conditional(s, sup) }) {
		ok = p.fail(breach{keyword: "if", sub: f.primary("if"), sup: sup})
	}
	return ok
}

// same tells whether sub has these keywords with the same content, and that both sides read them in the same way.
func (p *proof) same(f *facts, sup *node, keywords ...string) bool {
	for _, n := range f.nodes {
		if sameKeywords(n, sup, keywords...) && (p.subClosed == p.supClosed || sealedKeywords(n, keywords...)) {
			return true
		}
	}
	return false
}

// maxSplits bounds how often a subject is taken apart into cases.
const maxSplits = 3

// anyOf proves that each value of s is accepted by some branch, taking s apart where no branch takes all of it.
func (p *proof) anyOf(s subject, branches []*node, splits int) bool {
	for _, b := range branches {
		if p.within(s, b) {
			return true
		}
	}
	return p.apart(s, splits, func(one subject, splits int) bool { return p.anyOf(one, branches, splits) })
}

// oneOf proves that each value of s is accepted by exactly one branch.
func (p *proof) oneOf(s subject, branches []*node, splits int) bool {
	for i, b := range branches {
		if !p.within(s, b) {
			continue
		}
		alone := true
		for j, other := range branches {
			if j != i && !p.disjoint(s.with(b), subject{nodes: []*node{other}}, 0) {
				alone = false
				break
			}
		}
		if alone {
			return true
		}
	}
	return p.apart(s, splits, func(one subject, splits int) bool { return p.oneOf(one, branches, splits) })
}

// apart proves the claim for each case of s: its alternatives, else its types, else its values.
func (p *proof) apart(s subject, splits int, claim func(subject, int) bool) bool {
	if splits == 0 {
		return false
	}
	if *p.steps++; *p.steps > maxSteps {
		return false
	}
	f := p.facts(s)
	if f.empty() {
		return true
	}
	if len(f.choices) > 0 {
		choice := f.choices[0]
		for _, branch := range choice {
			one := s.with(branch)
			one.split = append(one.split[:len(one.split):len(one.split)], choice[0])
			if !claim(one, splits-1) {
				return false
			}
		}
		return true
	}
	var cases []*node
	if f.kinds&(f.kinds-1) != 0 {
		for _, k := range []kinds{kindNull, kindBoolean, kindInteger, kindFraction, kindString, kindArray, kindObject} {
			if f.kinds&k != 0 {
				cases = append(cases, &node{types: k, raw: object{}})
			}
		}
	} else if f.finite && len(f.values) > 1 {
		for _, v := range f.values {
			cases = append(cases, &node{types: kindAny, raw: object{}, finite: true, values: []value{v}})
		}
	}
	for _, one := range cases {
		if !claim(s.with(one), splits-1) {
			return false
		}
	}
	return len(cases) > 0
}

// excluded proves that no value of s is accepted by what sup negates.
func (p *proof) excluded(s subject, f *facts, negated *node) bool {
	if p.disjoint(s, subject{nodes: []*node{negated}}, 0) {
		return true
	}
	for _, n := range f.nodes {
		// What sub negates covers what sup negates. How closing reads below a negation is not relied on.
		if n.not != nil && sealed(n.not) && sealed(negated) {
			q := newProof(false, false)
			q.steps = p.steps
			if q.place(subject{nodes: []*node{negated}}, n.not) {
				return true
			}
		}
	}
	return false
}

// conditional proves both outcomes of an if, or the one that is certain.
func (p *proof) conditional(s subject, sup *node) bool {
	branch := func(b *node, taken subject) bool {
		return b == nil || p.within(taken, b)
	}
	// Where sub and the condition cannot both hold, else applies; where sub implies it, then does.
	if p.disjoint(s, subject{nodes: []*node{sup.if_}}, 0) {
		return branch(sup.else_, s)
	}
	then := s
	if p.subClosed == p.supClosed || sealed(sup.if_) {
		then = s.given(sup.if_)
	}
	return branch(sup.then, then) && branch(sup.else_, s)
}

// maxDisjoint bounds how deep a difference between two schemas is looked for.
const maxDisjoint = 8

// disjoint proves that no value is accepted by both. Both are taken as open as they can be.
func (p *proof) disjoint(a, b subject, depth int) bool {
	if *p.steps++; *p.steps > maxSteps || depth > maxDisjoint {
		return false
	}
	open := &proof{steps: p.steps}
	f, g := open.facts(a), open.facts(b)
	both := open.facts(subject{nodes: append(append([]*node{}, a.nodes...), b.nodes...), split: append(append([]*node{}, a.split...), b.split...)})
	if f.empty() || g.empty() || both.empty() || both.scalarless() {
		return true
	}
	if both.kinds == kindObject {
		names := map[string]bool{}
		for name := range both.required {
			names[name] = true
		}
		for _, name := range sortedKeys(names) {
			if open.disjoint(f.member(name), g.member(name), depth+1) {
				return true
			}
		}
	}
	// One side's alternatives must all be apart from the other.
	for _, side := range [2]struct {
		f     *facts
		s, to subject
	}{{f, a, b}, {g, b, a}} {
		for _, choice := range side.f.choices {
			apart := true
			for _, branch := range choice {
				one := side.s.with(branch)
				one.split = append(one.split[:len(one.split):len(one.split)], choice[0])
				if !open.disjoint(one, side.to, depth+1) {
					apart = false
					break
				}
			}
			if apart {
				return true
			}
		}
	}
	return false
}

// scalarless tells that only numbers or strings are left, and that their limits leave none.
func (f *facts) scalarless() bool {
	numbers := f.kinds&kindNumber == 0
	if f.low != nil && f.high != nil {
		c := f.low.value.compare(f.high.value)
		numbers = numbers || c > 0 || c == 0 && (f.low.exclusive || f.high.exclusive)
	}
	texts := f.kinds&kindString == 0 || f.minLen != nil && f.maxLen != nil && f.minLen.compare(*f.maxLen) > 0
	return f.kinds&^(kindNumber|kindString) == 0 && numbers && texts
}
