package event

import (
	"bytes"
	"hash/maphash"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"
)

// scanner walks a JSON text once and strictly: RFC 8259 grammar, valid UTF-8, no duplicate members, bounded depth.
// It decodes nothing that it is not asked for. Methods take the index of a value's first byte and return the index
// after the value, or -1 when the text cannot be followed any further (the reason is then among the findings).
// Duplicates and bad UTF-8 do not end the walk, so that they are reported together with everything else.
type scanner struct {
	report
	data     []byte
	root     string // pointer of the value that the walk started at
	depth    int    // open objects and arrays, those around the root included
	maxDepth int
	path     []step
	names    [][]byte // member names of all open objects, innermost last
	table    []uint32 // hash table for the names of one large object; 0 is free, n is names[n-1]
	seed     maphash.Seed
}

// step is the way down from one open object or array: a member name, an element index, or (index -1) not known yet.
type step struct {
	name  []byte
	index int
}

// smallObject is the number of members up to which comparing names pairwise is faster than hashing them.
const smallObject = 16

var scanners = sync.Pool{New: func() any { return &scanner{seed: maphash.MakeSeed()} }}

// newScanner returns a pooled scanner over data, whose root value lies inside depth open objects.
func newScanner(data []byte, root string, depth, maxDepth int) *scanner {
	s := scanners.Get().(*scanner)
	s.data, s.root, s.depth, s.maxDepth = data, root, depth, maxDepth
	return s
}

// release gives the scanner back; its findings have been taken by then.
func (s *scanner) release() {
	clear(s.path)
	clear(s.names[:cap(s.names)])
	if cap(s.names) > 4096 {
		s.names, s.table = nil, nil
	}
	s.report, s.data, s.root = report{}, nil, ""
	s.path, s.names = s.path[:0], s.names[:0]
	scanners.Put(s)
}

// space skips white space.
func (s *scanner) space(i int) int {
	for i < len(s.data) {
		switch s.data[i] {
		case ' ', '\n', '\r', '\t':
			i++
		default:
			return i
		}
	}
	return i
}

// value walks any value.
func (s *scanner) value(i int) int {
	if i >= len(s.data) {
		return s.ended()
	}
	switch c := s.data[i]; {
	case c == '"':
		end, _ := s.text(i)
		return end
	case c == '{':
		return s.object(i, nil)
	case c == '[':
		return s.array(i, nil)
	case c == '-' || c >= '0' && c <= '9':
		return s.number(i)
	case c == 't':
		return s.literal(i, "true")
	case c == 'f':
		return s.literal(i, "false")
	case c == 'n':
		return s.literal(i, "null")
	}
	return s.syntax(i, "a JSON value is expected")
}

// object walks an object. visit, when given, walks each member's value.
func (s *scanner) object(i int, visit func(name []byte, i int) int) int {
	if !s.enter() {
		return -1
	}
	at, first := len(s.path)-1, len(s.names)
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == '}' {
		s.leave(first)
		return i + 1
	}
	for {
		s.path[at] = step{index: -1}
		if i >= len(s.data) {
			return s.ended()
		}
		if s.data[i] != '"' {
			return s.syntax(i, "a member name in double quotes is expected")
		}
		end, plain := s.text(i)
		if end < 0 {
			return -1
		}
		name := s.data[i+1 : end-1]
		if !plain {
			name = unquote(name)
		}
		s.path[at] = step{name: name}
		s.names = append(s.names, name)
		if n := len(s.names) - first; n <= smallObject {
			s.compare(first)
		}
		if i = s.space(end); i >= len(s.data) {
			return s.ended()
		}
		if s.data[i] != ':' {
			return s.syntax(i, "a colon is expected after a member name")
		}
		i = s.space(i + 1)
		if visit != nil {
			i = visit(name, i)
		} else {
			i = s.value(i)
		}
		if i < 0 {
			return -1
		}
		if i = s.space(i); i >= len(s.data) {
			return s.ended()
		}
		switch s.data[i] {
		case ',':
			i = s.space(i + 1)
		case '}':
			if len(s.names)-first > smallObject {
				s.hashNames(at, first)
			}
			s.leave(first)
			return i + 1
		default:
			return s.syntax(i, "a comma or } is expected after a member")
		}
	}
}

// array walks an array. visit, when given, walks each element.
func (s *scanner) array(i int, visit func(index, i int) int) int {
	if !s.enter() {
		return -1
	}
	at, first := len(s.path)-1, len(s.names)
	i = s.space(i + 1)
	if i < len(s.data) && s.data[i] == ']' {
		s.leave(first)
		return i + 1
	}
	for n := 0; ; n++ {
		s.path[at] = step{index: n}
		if visit != nil {
			i = visit(n, i)
		} else {
			i = s.value(i)
		}
		if i < 0 {
			return -1
		}
		if i = s.space(i); i >= len(s.data) {
			return s.ended()
		}
		switch s.data[i] {
		case ',':
			i = s.space(i + 1)
		case ']':
			s.leave(first)
			return i + 1
		default:
			return s.syntax(i, "a comma or ] is expected after an element")
		}
	}
}

func (s *scanner) enter() bool {
	s.depth++
	if s.depth > s.maxDepth {
		s.refuse(s.pointer(), "json.depth", "objects and arrays are nested deeper than "+strconv.Itoa(s.maxDepth)+" levels",
			"flatten the payload")
		return false
	}
	s.path = append(s.path, step{index: -1})
	return true
}

func (s *scanner) leave(first int) {
	s.depth--
	s.path = s.path[:len(s.path)-1]
	s.names = s.names[:first]
}

// compare looks for the newest name among the earlier names of its object.
func (s *scanner) compare(first int) {
	last := len(s.names) - 1
	name := s.names[last]
	for _, other := range s.names[first:last] {
		if len(other) == len(name) && bytes.Equal(other, name) {
			s.duplicate()
			return
		}
	}
}

// hashNames looks for duplicates among all names of a large object, in linear time whatever the sender chose.
func (s *scanner) hashNames(at, first int) {
	names := s.names[first:]
	size := 64
	for size < 2*len(names) {
		size *= 2
	}
	if cap(s.table) < size {
		s.table = make([]uint32, size)
	}
	table := s.table[:size]
	clear(table)
	for n, name := range names {
		slot := int(maphash.Bytes(s.seed, name)) & (size - 1)
		for table[slot] != 0 && !bytes.Equal(names[table[slot]-1], name) {
			slot = (slot + 1) & (size - 1)
		}
		if table[slot] == 0 {
			table[slot] = uint32(n + 1)
		} else if n >= smallObject { // earlier ones have been reported by compare
			s.path[at] = step{name: name}
			s.duplicate()
		}
	}
}

func (s *scanner) duplicate() {
	s.refuse(s.pointer(), "json.duplicate", "the member is there more than once", "send each member once")
}

// plainText marks the bytes that a string holds as they are: visible ASCII, space and DEL, without quote and backslash.
var plainText = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// text walks a string. plain tells that it has no escapes: its value is then the text between the quotes.
func (s *scanner) text(i int) (end int, plain bool) {
	d := s.data
	plain = true
	clean := true
	for i++; i < len(d); {
		c := d[i]
		switch {
		case plainText[c]:
			i++
		case c == '"':
			return i + 1, plain
		case c == '\\':
			plain = false
			n, paired := escape(d[i:])
			if n == 0 {
				return s.syntax(i, "an escape in a string is not one that JSON knows"), false
			}
			if !paired && clean {
				clean = false
				s.refuse(s.pointer(), "json.utf8", "a string has an unpaired surrogate escape", "escape characters outside the basic plane as a pair, or write them as UTF-8")
			}
			i += n
		case c < 0x20:
			return s.syntax(i, "a control character in a string is not escaped"), false
		default:
			r, size := utf8.DecodeRune(d[i:])
			if r == utf8.RuneError && size == 1 && clean {
				clean = false
				s.refuse(s.pointer(), "json.utf8", "a string is not valid UTF-8 (byte "+strconv.Itoa(i)+")", "send the text as UTF-8")
			}
			i += size
		}
	}
	return s.ended(), false
}

// escape returns the length of the escape at the start of d, 0 when it is none, and whether it stands for a whole
// character: a surrogate must come with its other half.
func escape(d []byte) (n int, paired bool) {
	if len(d) < 2 {
		return 0, false
	}
	switch d[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, true
	case 'u':
		high, ok := hex4(d[2:])
		if !ok {
			return 0, false
		}
		if high < 0xd800 || high > 0xdfff {
			return 6, true
		}
		if high < 0xdc00 && len(d) >= 12 && d[6] == '\\' && d[7] == 'u' {
			if low, ok := hex4(d[8:]); ok && low >= 0xdc00 && low <= 0xdfff {
				return 12, true
			}
		}
		return 6, false
	}
	return 0, false
}

func hex4(d []byte) (rune, bool) {
	if len(d) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range d[:4] {
		h, ok := unhex(c)
		if !ok {
			return 0, false
		}
		r = r<<4 | rune(h)
	}
	return r, true
}

func unhex(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}

// unquote decodes the escapes of a string that text has walked. Halves of surrogate pairs become U+FFFD.
func unquote(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		if raw[i] != '\\' {
			out = append(out, raw[i])
			i++
			continue
		}
		n, paired := escape(raw[i:])
		switch c := raw[i+1]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(raw[i+2:])
			if n == 12 {
				low, _ := hex4(raw[i+8:])
				r = 0x10000 + (r-0xd800)<<10 + (low - 0xdc00)
			} else if !paired {
				r = utf8.RuneError
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, c)
		}
		i += n
	}
	return out
}

func (s *scanner) number(i int) int {
	d := s.data
	if d[i] == '-' {
		i++
	}
	switch {
	case i < len(d) && d[i] == '0':
		i++
	case i < len(d) && d[i] >= '1' && d[i] <= '9':
		i = digits(d, i)
	default:
		return s.syntax(i, "a number has no digits before its fraction")
	}
	if i < len(d) && d[i] == '.' {
		start := i + 1
		if i = digits(d, start); i == start {
			return s.syntax(i, "a number has no digits in its fraction")
		}
	}
	if i < len(d) && (d[i] == 'e' || d[i] == 'E') {
		start := i + 1
		if start < len(d) && (d[start] == '+' || d[start] == '-') {
			start++
		}
		if i = digits(d, start); i == start {
			return s.syntax(i, "a number has no digits in its exponent")
		}
	}
	return i
}

func digits(d []byte, i int) int {
	for i < len(d) && d[i] >= '0' && d[i] <= '9' {
		i++
	}
	return i
}

func (s *scanner) literal(i int, word string) int {
	if len(s.data)-i >= len(word) && string(s.data[i:i+len(word)]) == word {
		return i + len(word)
	}
	return s.syntax(i, "a JSON value is expected")
}

// end checks that nothing but white space follows the root value.
func (s *scanner) end(i int) bool {
	if i < 0 {
		return false
	}
	if i = s.space(i); i < len(s.data) {
		s.refuse(s.root, "json.trailing", "there is more text after the value (byte "+strconv.Itoa(i)+")", "send one value and nothing after it")
		return false
	}
	return true
}

func (s *scanner) ended() int {
	s.refuse(s.pointer(), "json.syntax", "the JSON text ends too early (byte "+strconv.Itoa(len(s.data))+")", "send the whole text")
	return -1
}

func (s *scanner) syntax(i int, message string) int {
	if i >= len(s.data) {
		return s.ended()
	}
	remedy := "send valid JSON (RFC 8259)"
	if i == 0 && bytes.HasPrefix(s.data, []byte("\xef\xbb\xbf")) {
		message, remedy = "the text begins with a byte order mark", "send the text without it"
	}
	s.refuse(s.pointer(), "json.syntax", message+" (byte "+strconv.Itoa(i)+")", remedy)
	return -1
}

// pointer is the JSON pointer of the place that the walk has reached.
func (s *scanner) pointer() string {
	if len(s.path) == 0 {
		return s.root
	}
	var b strings.Builder
	b.WriteString(s.root)
	for _, p := range s.path {
		switch {
		case p.name != nil:
			b.WriteByte('/')
			writeToken(&b, p.name)
		case p.index >= 0:
			b.WriteByte('/')
			b.WriteString(strconv.Itoa(p.index))
		}
	}
	return b.String()
}

// maxToken bounds how much of a member name a pointer repeats: names are the sender's, and end in logs.
const maxToken = 128

func writeToken(b *strings.Builder, name []byte) {
	cut := len(name) > maxToken
	if cut {
		name = name[:maxToken]
	}
	for len(name) > 0 {
		r, size := utf8.DecodeRune(name)
		switch {
		case r == '~':
			b.WriteString("~0")
		case r == '/':
			b.WriteString("~1")
		case r < 0x20 || r == 0x7f:
			b.WriteRune(utf8.RuneError)
		default:
			b.WriteRune(r)
		}
		name = name[size:]
	}
	if cut {
		b.WriteString("…")
	}
}

// kind names the JSON type of the value that begins with c.
func kind(c byte) string {
	switch c {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
