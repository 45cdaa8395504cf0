package schema

import (
	"regexp"
	"strconv"
	"unicode/utf8"
)

// fastNode judges a JSON text in one pass, without building values. It never says no: a text that it does not accept, for
// whatever reason, goes to the library, which has the last word. So it may be ignorant, but must never accept what the
// library refuses. Payloads are strict JSON by the time they come here (event.Check); on other texts it is unsure.
type fastNode struct {
	unsure bool  // says yes to nothing
	types  types // 0 is any

	members    map[string]*fastMember // declared members of an object
	required   uint64                 // bits of those that must be there
	additional *fastNode              // what undeclared members are held to; nil accepts none
	items      *fastNode              // what the items of an array are held to; nil accepts any
	minItems   int
	maxItems   int

	texts    []string // the strings allowed; nil is any
	format   func([]byte) bool
	pattern  *regexp.Regexp
	minRunes int
	maxRunes int

	// Bounds of numbers. Above and below are strict.
	min, max     *float64
	above, below bool
}

type fastMember struct {
	node *fastNode
	bit  uint64 // in required; 0 for optional members
}

type types uint8

const (
	typeNull types = 1 << iota
	typeBoolean
	typeInteger
	typeFraction // a number that is not written as an integer
	typeString
	typeArray
	typeObject
)

// anyValue accepts every value, with any members.
var anyValue = newFast()

func init() { anyValue.additional = anyValue }

func newFast() *fastNode { return &fastNode{maxItems: -1, maxRunes: -1} }

// accepts says yes, or that it is not sure.
func (n *fastNode) accepts(text []byte) bool {
	if n == nil {
		return false
	}
	s := fastScanner{text: text}
	if !s.value(n, 0) {
		return false
	}
	s.space()
	return s.at == len(text)
}

type fastScanner struct {
	text []byte
	at   int
}

// fastDepth bounds recursion.
const fastDepth = 64

func (s *fastScanner) space() {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

// next returns the next byte that is no space, and moves behind it; 0 at the end.
func (s *fastScanner) next() byte {
	s.space()
	if s.at == len(s.text) {
		return 0
	}
	s.at++
	return s.text[s.at-1]
}

func (s *fastScanner) value(n *fastNode, depth int) bool {
	if n.unsure || depth > fastDepth {
		return false
	}
	is := func(t types) bool { return n.types == 0 || n.types&t != 0 }
	switch c := s.next(); c {
	case '{':
		return is(typeObject) && s.object(n, depth)
	case '[':
		return is(typeArray) && s.array(n, depth)
	case '"':
		return is(typeString) && s.string(n)
	case 't':
		return is(typeBoolean) && n.texts == nil && s.word("true")
	case 'f':
		return is(typeBoolean) && n.texts == nil && s.word("false")
	case 'n':
		return is(typeNull) && n.texts == nil && s.word("null")
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		s.at--
		return n.texts == nil && s.number(n)
	}
	return false
}

// word reads a literal, whose first letter is behind us.
func (s *fastScanner) word(w string) bool {
	end := s.at - 1 + len(w)
	if end > len(s.text) || string(s.text[s.at-1:end]) != w {
		return false
	}
	s.at = end
	return true
}

func (s *fastScanner) object(n *fastNode, depth int) bool {
	if n.texts != nil {
		return false
	}
	var seen uint64
	c := s.next()
	if c == '}' {
		return n.required == 0
	}
	for {
		if c != '"' {
			return false
		}
		name, ok := s.plain()
		if !ok || s.next() != ':' {
			return false
		}
		node := n.additional
		if m := n.members[string(name)]; m != nil {
			node = m.node
			seen |= m.bit
		} else if !utf8.Valid(name) {
			return false // a reader that mends the text may find a declared name
		}
		if node == nil || !s.value(node, depth+1) {
			return false
		}
		switch s.next() {
		case '}':
			return seen&n.required == n.required
		case ',':
			c = s.next()
		default:
			return false
		}
	}
}

func (s *fastScanner) array(n *fastNode, depth int) bool {
	if n.texts != nil {
		return false
	}
	items := n.items
	if items == nil {
		items = anyValue
	}
	count := 0
	s.space()
	if s.at < len(s.text) && s.text[s.at] == ']' {
		s.at++
		return n.minItems == 0
	}
	for {
		if !s.value(items, depth+1) {
			return false
		}
		count++
		switch s.next() {
		case ']':
			return count >= n.minItems && (n.maxItems < 0 || count <= n.maxItems)
		case ',':
		default:
			return false
		}
	}
}

// plain returns the text of a string whose opening quote is behind us, and whether it stands for itself: no escapes, no
// control characters.
func (s *fastScanner) plain() ([]byte, bool) {
	begin := s.at
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return s.text[begin : s.at-1], true
		case c == '\\' || c < ' ':
			return nil, false
		}
	}
	return nil, false
}

func (s *fastScanner) string(n *fastNode) bool {
	if n.texts == nil && n.format == nil && n.pattern == nil && n.minRunes == 0 && n.maxRunes < 0 {
		return s.skipString()
	}
	text, ok := s.plain()
	if !ok {
		return false
	}
	if n.texts != nil {
		found := false
		for _, t := range n.texts {
			if t == string(text) {
				found = true
				break
			}
		}
		if !found {
			return false
		}
	}
	if n.minRunes > 0 || n.maxRunes >= 0 {
		if count := utf8.RuneCount(text); count < n.minRunes || n.maxRunes >= 0 && count > n.maxRunes {
			return false
		}
	}
	return (n.format == nil || n.format(text)) && (n.pattern == nil || n.pattern.Match(text))
}

func (s *fastScanner) skipString() bool {
	for ; s.at < len(s.text); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return true
		case c == '\\':
			if !s.escape() {
				return false
			}
		case c < ' ':
			return false
		}
	}
	return false
}

// escape moves from a backslash to the last character of its escape.
func (s *fastScanner) escape() bool {
	s.at++
	if s.at == len(s.text) {
		return false
	}
	switch s.text[s.at] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return true
	case 'u':
		for range 4 {
			s.at++
			if s.at == len(s.text) || !hexDigit(s.text[s.at]) {
				return false
			}
		}
		return true
	}
	return false
}

// number checks a number, whose grammar it reads strictly.
func (s *fastScanner) number(n *fastNode) bool {
	begin := s.at
	if s.text[s.at] == '-' {
		s.at++
	}
	whole := s.digits()
	if whole == 0 || whole > 1 && s.text[s.at-whole] == '0' {
		return false
	}
	integer, exponent := true, false
	if s.at < len(s.text) && s.text[s.at] == '.' {
		s.at++
		integer = false
		if s.digits() == 0 {
			return false
		}
	}
	if s.at < len(s.text) && (s.text[s.at] == 'e' || s.text[s.at] == 'E') {
		integer, exponent = false, true
		s.at++
		if s.at < len(s.text) && (s.text[s.at] == '+' || s.text[s.at] == '-') {
			s.at++
		}
		if n := s.digits(); n == 0 || n > 3 { // beyond maxPayloadExponent, perhaps
			return false
		}
	}
	text := s.text[begin:s.at]
	if len(text) > maxNumberText {
		return false
	}
	if n.types != 0 {
		// 1.0 and 1e2 are integers to JSON Schema; where only those will do, the library shall look.
		if integer && n.types&(typeInteger|typeFraction) == 0 || !integer && n.types&typeFraction == 0 {
			return false
		}
	}
	if n.format != nil && n.types&typeString == 0 && !n.format(text) {
		return false
	}
	if n.min == nil && n.max == nil {
		return true
	}
	// Up to 15 digits a decimal text and its float64 are ordered alike against a bound that is one.
	if len(text) > 15 || exponent {
		return false
	}
	v, err := strconv.ParseFloat(string(text), 64)
	switch {
	case err != nil,
		n.min != nil && (v < *n.min || n.above && v == *n.min),
		n.max != nil && (v > *n.max || n.below && v == *n.max):
		return false
	}
	return true
}

func (s *fastScanner) digits() int {
	begin := s.at
	for s.at < len(s.text) && s.text[s.at] >= '0' && s.text[s.at] <= '9' {
		s.at++
	}
	return s.at - begin
}
