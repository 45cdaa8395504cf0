package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxText is how much of one JSON value is kept; a larger one is cut off there, which is beyond what an event may have.
const maxText = 2 << 20

// text is one JSON value of an input, not yet known to be an event.
type text struct {
	data  []byte // valid until the next call
	line  int    // where it begins, from 1
	index int    // from 1
}

// splitter divides a stream into JSON values: those of an array, of lines, or one after the other. It holds one value in
// memory. A value that is not JSON ends where the next line begins with "{", so that one broken line of many costs
// nothing but itself.
type splitter struct {
	r     io.Reader
	buf   []byte // read and not yet given out, from start on
	start int
	eof   bool
	line  int // of buf[start]
	array bool
	count int
}

func newSplitter(r io.Reader) *splitter { return &splitter{r: r, line: 1} }

// at returns the byte i behind the start, reading on as needed; false at the end of the input.
func (s *splitter) at(i int) (byte, bool, error) {
	for s.start+i >= len(s.buf) {
		if s.eof {
			return 0, false, nil
		}
		if s.start > 0 {
			s.buf = s.buf[:copy(s.buf, s.buf[s.start:])]
			s.start = 0
		}
		if len(s.buf) == cap(s.buf) {
			s.buf = append(s.buf, make([]byte, max(64<<10, len(s.buf)))...)[:len(s.buf)]
		}
		n, err := s.r.Read(s.buf[len(s.buf):cap(s.buf)])
		s.buf = s.buf[:len(s.buf)+n]
		if errors.Is(err, io.EOF) {
			s.eof = true
		} else if err != nil {
			return 0, false, err
		}
	}
	return s.buf[s.start+i], true, nil
}

func (s *splitter) skip(n int) {
	s.line += bytes.Count(s.buf[s.start:s.start+n], []byte{'\n'})
	s.start += n
}

// next returns the next value, or io.EOF. An array that does not end is an error.
func (s *splitter) next() (text, error) {
	for {
		c, ok, err := s.at(0)
		switch {
		case err != nil:
			return text{}, err
		case !ok && s.array:
			return text{}, fmt.Errorf("line %d: the array does not end; was the file cut off?", s.line)
		case !ok:
			return text{}, io.EOF
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == 0x1e, s.array && c == ',': // 0x1e begins a text of RFC 7464
			s.skip(1)
			continue
		case c == 0xef && s.count == 0 && s.line == 1: // a byte order mark
			if _, ok, err := s.at(2); err != nil {
				return text{}, err
			} else if ok && bytes.HasPrefix(s.buf[s.start:], []byte("\xef\xbb\xbf")) {
				s.skip(3)
				continue
			}
		case c == '[' && !s.array:
			s.array = true
			s.skip(1)
			continue
		case c == ']' && s.array:
			s.array = false
			s.skip(1)
			continue
		}
		return s.value()
	}
}

// value takes the value that begins at the start.
func (s *splitter) value() (text, error) {
	n, cut, err := s.extent()
	if err != nil {
		return text{}, err
	}
	data := s.buf[s.start : s.start+n]
	if !json.Valid(data) {
		if i := bytes.Index(data, []byte("\n{")); i >= 0 {
			n, data, cut = i, data[:i], false
		}
	}
	s.count++
	t := text{data: bytes.TrimRight(data, " \t\r\n"), line: s.line, index: s.count}
	s.skip(n)
	if cut {
		t.data = bytes.Clone(t.data) // drop reads on into the same buffer
		return t, s.drop()
	}
	return t, nil
}

// maxNesting is beyond the depth that an event may have; a text nested deeper is broken.
const maxNesting = 200

// scan follows the nesting of a value, so far as to find its end, or soon enough that it has none.
type scan struct {
	open   []byte // of '{' and '['
	last   byte   // outside of strings, white space apart
	before byte   // the byte before, whatever it is
	str    bool
	escape bool
	broken bool // not JSON: the value ends with the line
}

// step takes one byte and says whether the value ends with it, or before it.
func (n *scan) step(c byte) (ends, before bool) {
	start := n.before == '\n' && c == '{' // of the next line of many, if this one is broken
	n.before = c
	switch {
	case n.broken, n.str && c == '\n': // no string has a line break
		return c == '\n' || start, true
	case n.str && n.escape:
		n.escape = false
		return false, false
	case n.str && c == '\\':
		n.escape = true
		return false, false
	case c == '"':
		n.str = !n.str
	case n.str, c == ' ', c == '\t', c == '\r':
		return false, false
	case c == '{' || c == '[':
		if top := n.top(); top == '{' && n.last != ':' || top == '[' && n.last != '[' && n.last != ',' || len(n.open) == maxNesting {
			n.broken = true
			return start, true
		}
		n.open = append(n.open, c)
	case c == '}' || c == ']':
		if n.top() != c-2 { // '{' and '[' are two before their ends
			if len(n.open) == 0 {
				return true, true
			}
			n.broken = true
			return false, false
		}
		n.open = n.open[:len(n.open)-1]
		return len(n.open) == 0, false
	case len(n.open) == 0 && (c == '\n' || c == ','):
		return true, true
	case c == '\n':
		return false, false
	}
	n.last = c
	return false, false
}

func (n *scan) top() byte {
	if len(n.open) == 0 {
		return 0
	}
	return n.open[len(n.open)-1]
}

// extent is the length of the value at the start. cut: it goes on beyond maxText.
func (s *splitter) extent() (n int, cut bool, err error) {
	var state scan
	for n = 0; n < maxText; n++ {
		c, ok, err := s.at(n)
		if err != nil || !ok {
			return n, false, err
		}
		if ends, before := state.step(c); ends {
			if before && n > 0 {
				return n, false, nil
			}
			return n + 1, false, nil
		}
	}
	return n, true, nil
}

// drop skips the rest of a value that was cut off: up to a line that begins with "{", or to the end.
func (s *splitter) drop() error {
	last := byte(0)
	for {
		c, ok, err := s.at(0)
		if err != nil || !ok || last == '\n' && c == '{' {
			return err
		}
		last = c
		s.skip(1)
	}
}
