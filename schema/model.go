package schema

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// kinds is a set of JSON types. Integers and other numbers are apart, so that "number" is both.
type kinds uint8

const (
	kindNull kinds = 1 << iota
	kindBoolean
	kindInteger
	kindFraction
	kindString
	kindArray
	kindObject

	kindNumber = kindInteger | kindFraction
	kindAny    = kindNull | kindBoolean | kindNumber | kindString | kindArray | kindObject
)

var kindNames = map[string]kinds{
	"null": kindNull, "boolean": kindBoolean, "integer": kindInteger, "number": kindNumber,
	"string": kindString, "array": kindArray, "object": kindObject,
}

func (k kinds) String() string {
	if k == kindAny {
		return "any type"
	}
	var names []string
	for _, name := range []string{"null", "boolean", "number", "integer", "string", "array", "object"} {
		bits := kindNames[name]
		if k&bits == bits && (name != "integer" || k&kindFraction == 0) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "no type"
	}
	return strings.Join(names, " or ")
}

func kindOf(v any) kinds {
	switch v := v.(type) {
	case nil:
		return kindNull
	case bool:
		return kindBoolean
	case string:
		return kindString
	case exact:
		if v.integer() {
			return kindInteger
		}
		return kindFraction
	case []any:
		return kindArray
	}
	return kindObject
}

// bound is a limit of a number.
type bound struct {
	value     exact
	exclusive bool
}

// value is one allowed value of an enum or const.
type value struct {
	v    any
	text string // canonical
}

// node is one schema of a document: an object or a boolean. Its fields are the keywords that say which values are
// valid; raw has the others too. Nodes are not changed after their document is loaded.
type node struct {
	pointer string
	raw     object // nil for a boolean schema
	never   bool   // the schema false

	types      kinds // kindAny when the keyword is absent
	values     []value
	finite     bool // values holds all that is allowed
	extensible bool // x-extensible-enum: readers accept any value of the type

	low, high     *bound
	multiples     []exact
	minLen        *exact
	maxLen        *exact
	pattern       *string
	format        *string
	prefix        []*node
	items         *node
	minItems      *exact
	maxItems      *exact
	unique        bool
	contains      *node
	minContains   *exact
	maxContains   *exact
	properties    map[string]*node
	declares      bool // there is a properties or patternProperties keyword
	patterns      map[string]*node
	additional    *node
	names         *node
	required      map[string]bool
	dependents    map[string][]string
	dependSchemas map[string]*node
	minProperties *exact
	maxProperties *exact

	ref              *node
	refOnly          bool // draft-07: what stands beside the reference is ignored
	all, any_, one   []*node
	not              *node
	if_, then, else_ *node

	// opaque names keywords that constrain values in ways this package does not reason about.
	opaque []string
}

// document is a parsed schema document.
type document struct {
	tree   any
	root   *node
	nodes  map[string]*node
	legacy bool // draft-07 and earlier: what stands beside a $ref is ignored
	ids    map[string]string
	used   map[string]bool // pointers of the nodes reached by following keywords and references from the root
}

// loadDocument parses doc. What is no schema (a string where a schema belongs, a bound that is no number) is an error.
func loadDocument(doc []byte) (*document, error) {
	tree, err := parseDocument(doc)
	if err != nil {
		return nil, err
	}
	return newDocument(tree)
}

func newDocument(tree any) (*document, error) {
	d := &document{tree: tree, nodes: map[string]*node{}, ids: map[string]string{}, used: map[string]bool{}}
	if o, ok := tree.(object); ok {
		dialect, _ := o["$schema"].(string)
		d.legacy = strings.Contains(dialect, "draft-0")
	}
	d.findIDs("", tree)
	var err error
	if d.root, err = d.node("", tree); err != nil {
		return nil, err
	}
	return d, nil
}

// findIDs notes what $anchor and $id name, so that references to them can be followed.
func (d *document) findIDs(pointer string, v any) {
	switch v := v.(type) {
	case object:
		for _, keyword := range []string{"$id", "id", "$anchor"} {
			if id, ok := v[keyword].(string); ok && id != "" {
				if keyword == "$anchor" {
					id = "#" + id
				}
				if _, taken := d.ids[id]; !taken {
					d.ids[id] = pointer
				}
			}
		}
		for _, name := range sortedKeys(v) {
			if name != "enum" && name != "const" && name != "default" && name != "examples" {
				d.findIDs(pointer+"/"+pointerToken(name), v[name])
			}
		}
	case []any:
		for i, item := range v {
			d.findIDs(pointer+"/"+strconv.Itoa(i), item)
		}
	}
}

// documentError says where and why a schema document cannot be understood.
type documentError struct{ pointer, message, remedy string }

func (e *documentError) Error() string {
	at := e.pointer
	if at == "" {
		at = "(document)"
	}
	return at + ": " + e.message + "; " + e.remedy
}

// node returns the schema at pointer, parsing it on first use. It is registered before its members are parsed, so a
// reference that leads back to it finds it.
func (d *document) node(pointer string, v any) (*node, error) {
	if n := d.nodes[pointer]; n != nil {
		return n, nil
	}
	n := &node{pointer: pointer, types: kindAny}
	d.nodes[pointer] = n
	d.used[pointer] = true
	switch v := v.(type) {
	case bool:
		n.never = !v
		return n, nil
	case object:
		n.raw = v
	default:
		return nil, &documentError{pointer, "a schema is an object or a boolean, not " + kindOf(v).String(), "write an object here"}
	}
	p := parser{d: d, n: n}
	p.scalars()
	p.arrays()
	p.objects()
	p.logic()
	return n, p.err
}

// parser reads the keywords of one node; the first fault is kept.
type parser struct {
	d   *document
	n   *node
	err error
}

func (p *parser) fail(keyword, message, remedy string) {
	if p.err == nil {
		p.err = &documentError{p.n.pointer + "/" + pointerToken(keyword), message, remedy}
	}
}

func (p *parser) number(keyword string) *exact {
	switch v := p.n.raw[keyword].(type) {
	case nil:
	case exact:
		return &v
	default:
		p.fail(keyword, keyword+" is not a number", "give a number")
	}
	return nil
}

func (p *parser) text(keyword string) *string {
	switch v := p.n.raw[keyword].(type) {
	case nil:
	case string:
		return &v
	default:
		p.fail(keyword, keyword+" is not a string", "give a string")
	}
	return nil
}

func (p *parser) schema(keyword string) *node {
	v, has := p.n.raw[keyword]
	if !has {
		return nil
	}
	n, err := p.d.node(p.n.pointer+"/"+keyword, v)
	if err != nil && p.err == nil {
		p.err = err
	}
	return n
}

func (p *parser) schemas(keyword string) []*node {
	v, has := p.n.raw[keyword]
	if !has {
		return nil
	}
	items, ok := v.([]any)
	if !ok {
		p.fail(keyword, keyword+" is not an array", "give an array of schemas")
		return nil
	}
	list := make([]*node, 0, len(items))
	for i, item := range items {
		n, err := p.d.node(p.n.pointer+"/"+keyword+"/"+strconv.Itoa(i), item)
		if err != nil {
			if p.err == nil {
				p.err = err
			}
			return nil
		}
		list = append(list, n)
	}
	return list
}

func (p *parser) schemaMap(keyword string) map[string]*node {
	v, has := p.n.raw[keyword]
	if !has {
		return nil
	}
	members, ok := v.(object)
	if !ok {
		p.fail(keyword, keyword+" is not an object", "give an object whose members are schemas")
		return nil
	}
	m := make(map[string]*node, len(members))
	for _, name := range sortedKeys(members) {
		n, err := p.d.node(p.n.pointer+"/"+keyword+"/"+pointerToken(name), members[name])
		if err != nil {
			if p.err == nil {
				p.err = err
			}
			return nil
		}
		m[name] = n
	}
	return m
}

func (p *parser) names(keyword string, v any) []string {
	items, ok := v.([]any)
	if !ok {
		p.fail(keyword, keyword+" is not an array of names", "give an array of strings")
		return nil
	}
	var names []string
	for _, item := range items {
		name, ok := item.(string)
		if !ok {
			p.fail(keyword, keyword+" holds something that is not a name", "give an array of strings")
			return nil
		}
		names = append(names, name)
	}
	return names
}

func (p *parser) scalars() {
	n := p.n
	switch v := n.raw["type"].(type) {
	case nil:
	case string, []any:
		list, many := v.([]any)
		if !many {
			list = []any{v}
		}
		n.types = 0
		for _, item := range list {
			name, _ := item.(string)
			bits, ok := kindNames[name]
			if !ok {
				p.fail("type", "type names no JSON type", "use null, boolean, integer, number, string, array or object")
			}
			n.types |= bits
		}
	default:
		p.fail("type", "type is neither a string nor an array", "name a JSON type")
	}
	if v, has := n.raw["enum"]; has {
		items, ok := v.([]any)
		if !ok {
			p.fail("enum", "enum is not an array", "list the values")
		}
		n.finite = true
		for _, item := range items {
			n.allow(item)
		}
	}
	if v, has := n.raw["const"]; has {
		text := canonical(v)
		kept := n.values
		n.values = nil
		if !n.finite || slices.ContainsFunc(kept, func(o value) bool { return o.text == text }) {
			n.allow(v)
		}
		n.finite = true
	}
	if open, _ := n.raw["x-extensible-enum"].(bool); open && n.raw["enum"] != nil {
		if _, constant := n.raw["const"]; !constant {
			n.extensible = true
		}
	}
	if v := p.number("minimum"); v != nil {
		n.low = &bound{value: *v}
	}
	if v := p.number("maximum"); v != nil {
		n.high = &bound{value: *v}
	}
	n.low = p.exclusive("exclusiveMinimum", n.low, 1)
	n.high = p.exclusive("exclusiveMaximum", n.high, -1)
	if v := p.number("multipleOf"); v != nil {
		n.multiples = []exact{*v}
	}
	n.minLen, n.maxLen = p.number("minLength"), p.number("maxLength")
	n.pattern, n.format = p.text("pattern"), p.text("format")
}

func (n *node) allow(v any) {
	text := canonical(v)
	if !slices.ContainsFunc(n.values, func(o value) bool { return o.text == text }) {
		n.values = append(n.values, value{v, text})
	}
}

// exclusive joins an exclusive bound with the inclusive one: the tighter holds. side is 1 for lower bounds. In draft-04
// the keyword was a boolean about the inclusive bound.
func (p *parser) exclusive(keyword string, with *bound, side int) *bound {
	switch v := p.n.raw[keyword].(type) {
	case nil:
	case bool:
		if with != nil && v {
			return &bound{value: with.value, exclusive: true}
		}
	case exact:
		if with == nil || v.compare(with.value)*side >= 0 {
			return &bound{value: v, exclusive: true}
		}
	default:
		p.fail(keyword, keyword+" is not a number", "give a number")
	}
	return with
}

func (p *parser) arrays() {
	n := p.n
	if _, list := n.raw["items"].([]any); list {
		n.prefix, n.items = p.schemas("items"), p.schema("additionalItems")
	} else {
		n.prefix, n.items = p.schemas("prefixItems"), p.schema("items")
	}
	n.minItems, n.maxItems = p.number("minItems"), p.number("maxItems")
	n.unique, _ = n.raw["uniqueItems"].(bool)
	if n.contains = p.schema("contains"); n.contains != nil {
		n.minContains, n.maxContains = p.number("minContains"), p.number("maxContains")
	}
}

func (p *parser) objects() {
	n := p.n
	_, n.declares = n.raw["properties"]
	n.properties = p.schemaMap("properties")
	n.patterns = p.schemaMap("patternProperties")
	n.declares = n.declares || n.patterns != nil
	n.additional = p.schema("additionalProperties")
	n.names = p.schema("propertyNames")
	n.required = map[string]bool{}
	if v, has := n.raw["required"]; has {
		if _, old := v.(bool); !old {
			for _, name := range p.names("required", v) {
				n.required[name] = true
			}
		}
	}
	n.dependents, n.dependSchemas = map[string][]string{}, map[string]*node{}
	if v, ok := n.raw["dependentRequired"].(object); ok {
		for _, name := range sortedKeys(v) {
			n.dependents[name] = p.names("dependentRequired", v[name])
		}
	}
	for name, s := range p.schemaMap("dependentSchemas") {
		n.dependSchemas[name] = s
	}
	// The keyword of draft-07 is refused by the profile; here it is understood for what it means there.
	if v, ok := n.raw["dependencies"].(object); ok {
		for _, name := range sortedKeys(v) {
			if _, list := v[name].([]any); list {
				n.dependents[name] = append(n.dependents[name], p.names("dependencies", v[name])...)
				continue
			}
			s, err := p.d.node(n.pointer+"/dependencies/"+pointerToken(name), v[name])
			if err != nil {
				if p.err == nil {
					p.err = err
				}
				return
			}
			if n.dependSchemas[name] != nil {
				n.opaque = append(n.opaque, "dependencies")
			}
			n.dependSchemas[name] = s
		}
	}
	n.minProperties, n.maxProperties = p.number("minProperties"), p.number("maxProperties")
}

func (p *parser) logic() {
	n := p.n
	n.all, n.any_, n.one = p.schemas("allOf"), p.schemas("anyOf"), p.schemas("oneOf")
	n.not = p.schema("not")
	if n.if_ = p.schema("if"); n.if_ != nil {
		n.then, n.else_ = p.schema("then"), p.schema("else")
	}
	for _, keyword := range []string{"unevaluatedItems", "$dynamicRef", "$recursiveRef"} {
		if _, has := n.raw[keyword]; has {
			n.opaque = append(n.opaque, keyword)
		}
	}
	if _, has := n.raw["unevaluatedProperties"]; has {
		rest := p.schema("unevaluatedProperties")
		inPlace := n.raw["$ref"] != nil || len(n.all)+len(n.any_)+len(n.one) > 0 || n.not != nil || n.if_ != nil || len(n.dependSchemas) > 0
		switch {
		case inPlace:
			n.opaque = append(n.opaque, "unevaluatedProperties")
		case n.additional == nil:
			n.additional = rest // without applicators beside it, it says the same
		}
	}
	if ref := p.text("$ref"); ref != nil {
		p.reference(*ref)
	}
}

func (p *parser) reference(ref string) {
	pointer, found := "", false
	if at, ok := p.d.ids[ref]; ok {
		pointer, found = at, true
	} else if fragment, local := strings.CutPrefix(ref, "#"); local {
		pointer, found = unescapeFragment(fragment), true
	} else if base, fragment, _ := strings.Cut(ref, "#"); base != "" {
		if at, ok := p.d.ids[base]; ok {
			pointer, found = at+unescapeFragment(fragment), true
		}
	}
	if !found {
		p.n.opaque = append(p.n.opaque, "$ref")
		return
	}
	target, ok := lookUp(p.d.tree, pointer)
	if !ok {
		p.fail("$ref", "the reference leads to nothing in this document", "define it under $defs and write #/$defs/Name")
		return
	}
	n, err := p.d.node(pointer, target)
	if err != nil && p.err == nil {
		p.err = err
	}
	p.n.ref, p.n.refOnly = n, p.d.legacy
}

// unescapeFragment decodes the percent escapes of a URI fragment.
func unescapeFragment(fragment string) string {
	var b strings.Builder
	for i := 0; i < len(fragment); i++ {
		if fragment[i] == '%' && i+2 < len(fragment) {
			if c, err := strconv.ParseUint(fragment[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(c))
				i += 2
				continue
			}
		}
		b.WriteByte(fragment[i])
	}
	return b.String()
}

// lookUp finds the value that a JSON pointer names.
func lookUp(v any, pointer string) (any, bool) {
	tokens, ok := pointerTokens(pointer)
	if !ok {
		return nil, false
	}
	for _, t := range tokens {
		switch in := v.(type) {
		case object:
			if v, ok = in[t]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(t)
			if err != nil || i < 0 || i >= len(in) {
				return nil, false
			}
			v = in[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// matches tells whether a property name falls under a pattern of patternProperties; an expression that Go cannot
// compile may match anything.
func matches(pattern, name string) (matched, known bool) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return false, false
	}
	return re.MatchString(name), true
}

func (n *node) String() string { return fmt.Sprintf("schema %q", n.pointer) }
