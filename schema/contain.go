package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Containment: is every value that one schema accepts accepted by another? It is decided by proof. What cannot be
// proven counts as broken, and says so; an answer of yes is always right. The proof goes through both schemas side by
// side, collects what the smaller one (sub) guarantees, and derives each keyword of the larger one (sup) from it.
//
// Each side is taken closed or open. Closed is how producers are held: an object that declares properties has no
// others, in the meaning of unevaluatedProperties false, and an extensible enum allows its listed values only. Open is
// how consumers read: as written, and an extensible enum accepts any value of its type.

// breach is a keyword of sup that sub does not guarantee.
type breach struct {
	keyword  string
	name     string // the property spoken of, if any
	sub, sup *node
	subText  string // what sub says, for the message; made of schema text only
	supText  string
	unproven string // set when no counterexample is claimed: why the proof stops
}

// maxSteps bounds one proof, counted in schemas looked at: beyond it they count as too complex.
const maxSteps = 100_000

// proof is one containment question being answered.
type proof struct {
	subClosed, supClosed bool
	breaches             []breach
	quiet                int // above 0: failures are not recorded, another way is being tried
	depth                int // how deep into the value the proof is
	steps                *int
	open                 map[string]int // what is being proven, and at which depth it began
	done                 map[string]bool
}

func newProof(subClosed, supClosed bool) *proof {
	return &proof{subClosed: subClosed, supClosed: supClosed, steps: new(int), open: map[string]int{}, done: map[string]bool{}}
}

// subject is what sub is known to be at one place: all these schemas at once. split are the alternatives (named by
// their first branch) of which one has been chosen already.
//
// conditions hold too, but as the if of a conditional, which by itself declares nothing.
type subject struct {
	nodes      []*node
	split      []*node
	conditions []*node
}

func (s subject) with(n *node) subject {
	s.nodes = append(slices.Clip(s.nodes), n)
	return s
}

// given adds a condition that holds.
func (s subject) given(n *node) subject {
	s.conditions = append(slices.Clip(s.conditions), n)
	return s
}

func (p *proof) fail(b breach) bool {
	if p.quiet == 0 {
		p.breaches = append(p.breaches, b)
	}
	return false
}

// try proves quietly.
func (p *proof) try(prove func() bool) bool {
	p.quiet++
	defer func() { p.quiet-- }()
	return prove()
}

// place proves sub ⊆ sup at a place of the value of its own: the root, a member, an item.
func (p *proof) place(s subject, sup *node) bool {
	p.depth++
	defer func() { p.depth-- }()
	ok := p.within(s, sup)
	if p.supClosed && *p.steps <= maxSteps {
		ok = p.closure(s, sup) && ok
	}
	return ok
}

// within proves that every value at this place that s accepts is accepted by sup.
//
// Recursive schemas: a pair that is being proven already is assumed to hold. That is an induction over the depth of the
// value, so it is sound only when the value has been descended into since; if not, the schema refers to itself in place.
// A pair proven under an assumption that fails later is no harm: the failure is part of the same conjunction, and in a
// quiet attempt nothing is remembered.
func (p *proof) within(s subject, sup *node) bool {
	if *p.steps++; *p.steps > maxSteps {
		return p.fail(breach{keyword: "complexity", sub: s.nodes[0], sup: sup, unproven: "the schemas are too complex to compare"})
	}
	key := pairKey(s, sup)
	if depth, on := p.open[key]; on {
		if depth == p.depth {
			return p.fail(breach{keyword: "$ref", sub: s.nodes[0], sup: sup, unproven: "the schema refers to itself without a member or item in between"})
		}
		return true
	}
	if p.quiet == 0 {
		if ok, known := p.done[key]; known {
			return ok
		}
	}
	p.open[key] = p.depth
	ok := p.prove(s, sup)
	delete(p.open, key)
	if p.quiet == 0 {
		p.done[key] = ok
	}
	return ok
}

func pairKey(s subject, sup *node) string {
	var b strings.Builder
	for _, n := range s.nodes {
		fmt.Fprintf(&b, "%p ", n)
	}
	for _, list := range [][]*node{s.split, s.conditions} {
		b.WriteByte('|')
		for _, n := range list {
			fmt.Fprintf(&b, "%p ", n)
		}
	}
	fmt.Fprintf(&b, "<%p", sup)
	return b.String()
}

func (p *proof) prove(s subject, sup *node) bool {
	if sup.raw == nil && !sup.never {
		return true
	}
	f := p.facts(s)
	if f.empty() {
		return true
	}
	if p.stated(f, sup) {
		return true
	}
	if len(f.choices) == 0 {
		return p.derive(s, f, sup)
	}
	if p.try(func() bool { return p.derive(s, f, sup) }) || p.try(func() bool { return p.split(s, f, sup) }) {
		return true
	}
	n := len(p.breaches)
	ok := p.derive(s, f, sup)
	if !ok && p.quiet == 0 && len(p.breaches) == n {
		// What failed was reported before, at another place that refers to the same pair.
		return false
	}
	return ok
}

// split proves each alternative of sub's first anyOf or oneOf by itself.
func (p *proof) split(s subject, f *facts, sup *node) bool {
	choice := f.choices[0]
	for _, branch := range choice {
		one := s.with(branch)
		one.split = append(slices.Clip(s.split), choice[0])
		if !p.within(one, sup) {
			return false
		}
	}
	return true
}

// stated tells whether sub says sup literally. Closing a schema only takes values away, except below keywords that
// negate, where it may add some; there the two sides must be read the same way.
func (p *proof) stated(f *facts, sup *node) bool {
	for _, n := range f.nodes {
		if !sameSchema(n, sup) {
			continue
		}
		if p.subClosed == p.supClosed || p.subClosed && monotone(n) {
			return true
		}
	}
	return false
}

// derive proves each keyword of sup; all of them are looked at, so that every breach is found.
func (p *proof) derive(s subject, f *facts, sup *node) bool {
	if sup.never {
		return p.fail(breach{keyword: "false", sub: f.primary("type"), sup: sup, subText: f.kinds.String(), supText: "nothing"})
	}
	ok := true
	and := func(proven bool) { ok = proven && ok }
	if sup.ref != nil {
		and(p.within(s, sup.ref))
	}
	for _, member := range sup.all {
		and(p.within(s, member))
	}
	for _, keyword := range sup.opaque {
		and(p.fail(breach{keyword: keyword, sub: f.primary(keyword), sup: sup, unproven: keyword + " is beyond what can be compared"}))
	}
	if f.kinds&^sup.types != 0 {
		return p.fail(breach{keyword: "type", sub: f.primary("type"), sup: sup, subText: f.kinds.String(), supText: sup.types.String()})
	}
	and(p.values(f, sup))
	if f.kinds&kindNumber != 0 {
		and(p.numbers(f, sup))
	}
	if f.kinds&kindString != 0 {
		and(p.strings(f, sup))
	}
	if f.kinds&kindArray != 0 {
		and(p.items(f, sup))
	}
	if f.kinds&kindObject != 0 {
		and(p.members(s, f, sup))
	}
	and(p.logic(s, f, sup))
	return ok
}

// values proves enum and const.
func (p *proof) values(f *facts, sup *node) bool {
	if !sup.finite || sup.extensible && !p.supClosed {
		return true
	}
	keyword := "enum"
	if _, constant := sup.raw["const"]; constant {
		keyword = "const"
	}
	if !f.finite {
		return p.fail(breach{keyword: keyword, sub: f.primary(keyword), sup: sup, subText: "any value", supText: plural(len(sup.values), "value")})
	}
	for _, v := range f.values {
		if !contains(sup.values, v) {
			return p.fail(breach{keyword: keyword, sub: f.primary(keyword), sup: sup,
				subText: plural(len(f.values), "value"), supText: plural(len(sup.values), "value")})
		}
	}
	return true
}

func (p *proof) numbers(f *facts, sup *node) bool {
	ok := true
	integers := f.kinds&kindFraction == 0
	if b := sup.low; b != nil && !f.every(func(v exact) bool { return above(v, *b) }) && !covers(f.low, b, integers, 1) {
		ok = p.fail(breach{keyword: "minimum", sub: f.primary("minimum", "exclusiveMinimum"), sup: sup, subText: f.low.String(), supText: b.String()})
	}
	if b := sup.high; b != nil && !f.every(func(v exact) bool { return below(v, *b) }) && !covers(f.high, b, integers, -1) {
		ok = p.fail(breach{keyword: "maximum", sub: f.primary("maximum", "exclusiveMaximum"), sup: sup, subText: f.high.String(), supText: b.String()})
	}
	for _, m := range sup.multiples {
		known := f.every(func(v exact) bool { return v.multiple(m) }) ||
			slices.ContainsFunc(f.multiples, func(have exact) bool { return have.multiple(m) }) ||
			integers && exact{digits: "1"}.multiple(m)
		if !known {
			ok = p.fail(breach{keyword: "multipleOf", sub: f.primary("multipleOf"), sup: sup, supText: m.String()})
		}
	}
	return ok
}

func (b *bound) String() string {
	switch {
	case b == nil:
		return "none"
	case b.exclusive:
		return b.value.String() + " (exclusive)"
	}
	return b.value.String()
}

func above(v exact, b bound) bool {
	c := v.compare(b.value)
	return c > 0 || c == 0 && !b.exclusive
}

func below(v exact, b bound) bool {
	c := v.compare(b.value)
	return c < 0 || c == 0 && !b.exclusive
}

// covers tells whether the bound have implies the bound need; side is 1 for lower bounds, -1 for upper ones.
func covers(have, need *bound, integers bool, side int) bool {
	if have == nil {
		return false
	}
	if integers {
		have, need = have.forIntegers(side), need.forIntegers(side)
	}
	c := have.value.compare(need.value) * side
	return c > 0 || c == 0 && (have.exclusive || !need.exclusive)
}

// forIntegers is the inclusive bound that means the same for integers.
func (b *bound) forIntegers(side int) *bound {
	v, ok := b.value.round(side)
	if !ok {
		return b
	}
	if b.exclusive && b.value.integer() {
		if v, ok = v.plus(int64(side)); !ok {
			return b
		}
	}
	return &bound{value: v}
}

func (p *proof) strings(f *facts, sup *node) bool {
	ok := true
	length := func(hold func(n exact) bool) bool {
		return f.everyString(func(v string) bool { return hold(count(utf8.RuneCountInString(v))) })
	}
	if n := sup.minLen; n != nil && !atLeast(f.minLen, n) && !length(func(l exact) bool { return l.compare(*n) >= 0 }) {
		ok = p.fail(breach{keyword: "minLength", sub: f.primary("minLength"), sup: sup, subText: limit(f.minLen), supText: limit(n)})
	}
	if n := sup.maxLen; n != nil && !atMost(f.maxLen, n) && !length(func(l exact) bool { return l.compare(*n) <= 0 }) {
		ok = p.fail(breach{keyword: "maxLength", sub: f.primary("maxLength"), sup: sup, subText: limit(f.maxLen), supText: limit(n)})
	}
	if sup.pattern != nil && !trivial(*sup.pattern) && !slices.Contains(f.patterns, *sup.pattern) {
		re, err := regexp.Compile(*sup.pattern)
		if err != nil || !f.everyString(re.MatchString) {
			ok = p.fail(breach{keyword: "pattern", sub: f.primary("pattern"), sup: sup})
		}
	}
	if sup.format != nil && !slices.Contains(f.formats, *sup.format) {
		ok = p.fail(breach{keyword: "format", sub: f.primary("format"), sup: sup, supText: *sup.format})
	}
	return ok
}

// trivial patterns match every text.
func trivial(pattern string) bool {
	return pattern == "" || pattern == "^" || pattern == "$" || pattern == ".*" || pattern == "^.*"
}

func limit(n *exact) string {
	if n == nil {
		return "none"
	}
	return n.String()
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func atLeast(have, need *exact) bool {
	return need.sign() <= 0 || have != nil && have.compare(*need) >= 0
}
func atMost(have, need *exact) bool { return have != nil && have.compare(*need) <= 0 }

// maxPositions bounds how many positions of a tuple are compared one by one.
const maxPositions = 1000

func (p *proof) items(f *facts, sup *node) bool {
	ok := true
	if n := sup.minItems; n != nil && !atLeast(f.minItems, n) {
		ok = p.fail(breach{keyword: "minItems", sub: f.primary("minItems"), sup: sup, subText: limit(f.minItems), supText: limit(n)})
	}
	if n := sup.maxItems; n != nil && !atMost(f.maxItems, n) {
		ok = p.fail(breach{keyword: "maxItems", sub: f.primary("maxItems"), sup: sup, subText: limit(f.maxItems), supText: limit(n)})
	}
	if sup.unique && !f.unique && !atMost(f.maxItems, ptr(count(1))) {
		ok = p.fail(breach{keyword: "uniqueItems", sub: f.primary("uniqueItems"), sup: sup})
	}
	positions := len(sup.prefix)
	for _, n := range f.nodes {
		positions = max(positions, len(n.prefix))
	}
	if positions > maxPositions {
		return p.fail(breach{keyword: "prefixItems", sub: f.primary("prefixItems"), sup: sup, unproven: "there are too many positions to compare"})
	}
	for i := range positions + 1 {
		want := sup.item(i)
		if want == nil || f.maxItems != nil && f.maxItems.compare(count(i)) <= 0 {
			continue
		}
		ok = p.place(f.item(i), want) && ok
	}
	if sup.contains != nil {
		ok = p.contained(f, sup) && ok
	}
	return ok
}

// item is the schema of the item at position i, nil when any is allowed.
func (n *node) item(i int) *node {
	if i < len(n.prefix) {
		return n.prefix[i]
	}
	return n.items
}

func (p *proof) contained(f *facts, sup *node) bool {
	ok := true
	need := sup.minContains
	if need == nil {
		need = ptr(count(1))
	}
	if need.sign() > 0 {
		proven := slices.ContainsFunc(f.nodes, func(n *node) bool {
			have := n.minContains
			if have == nil {
				have = ptr(count(1))
			}
			return n.contains != nil && atLeast(have, need) && p.try(func() bool { return p.place(subject{nodes: []*node{n.contains}}, sup.contains) })
		})
		if !proven {
			proven = atLeast(f.minItems, need) && p.try(func() bool { return p.place(f.everyItem(), sup.contains) })
		}
		if !proven {
			ok = p.fail(breach{keyword: "contains", sub: f.primary("contains"), sup: sup})
		}
	}
	if sup.maxContains != nil {
		proven := atMost(f.maxItems, sup.maxContains) || slices.ContainsFunc(f.nodes, func(n *node) bool {
			return n.contains != nil && n.maxContains != nil && atMost(n.maxContains, sup.maxContains) &&
				sameSchema(n.contains, sup.contains) && (p.subClosed == p.supClosed || !closes(n.contains, false, map[*node]bool{}))
		})
		if !proven {
			ok = p.fail(breach{keyword: "maxContains", sub: f.primary("maxContains"), sup: sup})
		}
	}
	return ok
}

func ptr[T any](v T) *T { return &v }

func count(n int) exact {
	d, _ := parseDecimal(fmt.Sprint(n))
	return d
}
