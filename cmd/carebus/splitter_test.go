package main

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

type piece struct {
	line int
	data string
}

func split(t *testing.T, r io.Reader) (out []piece, err error) {
	t.Helper()
	s := newSplitter(r)
	for {
		v, err := s.next()
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		data := string(v.data)
		if len(data) > 100 {
			data = data[:100]
		}
		out = append(out, piece{v.line, data})
		if v.index != len(out) {
			t.Errorf("index %d of value %d", v.index, len(out))
		}
	}
}

func TestSplitter(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		want []piece
		bad  bool // the input as a whole is
	}{
		"nothing":               {in: " \n\t\r\n"},
		"one":                   {in: `{"a":1}`, want: []piece{{1, `{"a":1}`}}},
		"mark":                  {in: "\xef\xbb\xbf{}", want: []piece{{1, `{}`}}},
		"lines":                 {in: "{\"a\":1}\r\n\n{\"b\":2}\n", want: []piece{{1, `{"a":1}`}, {3, `{"b":2}`}}},
		"sequence":              {in: "\x1e{}\n\x1e{}\n", want: []piece{{1, `{}`}, {2, `{}`}}},
		"together":              {in: `{"a":"}{"}{"b":"\"}"}`, want: []piece{{1, `{"a":"}{"}`}, {1, `{"b":"\"}"}`}}},
		"array":                 {in: "[\n{\"a\":[1,2]},\n\n{}]", want: []piece{{2, `{"a":[1,2]}`}, {4, `{}`}}},
		"arrays":                {in: `[{}][{}]`, want: []piece{{1, `{}`}, {1, `{}`}}},
		"empty array":           {in: `[]`},
		"array of others":       {in: `[1,"x",[2],null]`, want: []piece{{1, `1`}, {1, `"x"`}, {1, `[2]`}, {1, `null`}}},
		"others":                {in: "1\n\"x\"\nnull", want: []piece{{1, `1`}, {2, `"x"`}, {3, `null`}}},
		"over lines":            {in: "{\n\"a\":\n{\"b\":1}\n}\n{}", want: []piece{{1, "{\n\"a\":\n{\"b\":1}\n}"}, {5, `{}`}}},
		"broken line":           {in: "{\"a\":\n{\"b\":2}\n{\"c\":3}", want: []piece{{1, `{"a":`}, {2, `{"b":2}`}, {3, `{"c":3}`}}},
		"open string":           {in: "{\"a\":\"x\n{\"b\":2}", want: []piece{{1, `{"a":"x`}, {2, `{"b":2}`}}},
		"wrong inside":          {in: "{\"a\":x}\n{\"b\":2}", want: []piece{{1, `{"a":x}`}, {2, `{"b":2}`}}},
		"too many closed":       {in: "}\n{}", want: []piece{{1, `}`}, {2, `{}`}}},
		"wrong nesting":         {in: "{\"a\" {\"x\":1}}\n{\"b\":2]\n{\"c\":[1 {}]}\n{\"d\":4}", want: []piece{{1, `{"a" {"x":1}}`}, {2, `{"b":2]`}, {3, `{"c":[1 {}]}`}, {4, `{"d":4}`}}},
		"one wrong of an array": {in: `[{"a":},{"b":2}]`, want: []piece{{1, `{"a":}`}, {1, `{"b":2}`}}},
		"cut off":               {in: `{"a":`, want: []piece{{1, `{"a":`}}},
		"array cut off":         {in: `[{}`, want: []piece{{1, `{}`}}, bad: true},
		"array cut in value":    {in: `[{}, {"a"`, want: []piece{{1, `{}`}, {1, `{"a"`}}, bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.in), iotest.OneByteReader(strings.NewReader(c.in)), iotest.DataErrReader(strings.NewReader(c.in))} {
				got, err := split(t, r)
				if (err != nil) != c.bad {
					t.Errorf("error %v", err)
				}
				if len(got) != len(c.want) {
					t.Fatalf("got %+v, want %+v", got, c.want)
				}
				for i := range got {
					if got[i] != c.want[i] {
						t.Errorf("value %d: %+v, want %+v", i+1, got[i], c.want[i])
					}
				}
			}
		})
	}
}

// TestSplitterIsBounded: of a value beyond all limits little is kept, and what follows it is found.
func TestSplitterIsBounded(t *testing.T) {
	huge := io.MultiReader(strings.NewReader(`{"a":"`), io.LimitReader(repeated('x'), 64<<20), strings.NewReader("\"}\n{\"b\":2}\n"))
	s := newSplitter(huge)
	first, err := s.next()
	if err != nil || len(first.data) != maxText {
		t.Fatalf("%d bytes, %v; want it cut at %d", len(first.data), err, maxText)
	}
	second, err := s.next()
	if err != nil || string(second.data) != `{"b":2}` || second.line != 2 {
		t.Errorf("%q in line %d, %v", second.data, second.line, err)
	}
	if cap(s.buf) > 4*maxText {
		t.Errorf("the buffer grew to %d bytes", cap(s.buf))
	}
}

// TestSplitterIsLinear: no broken line is looked at again and again.
func TestSplitterIsLinear(t *testing.T) {
	for _, line := range []string{"{\n", "{\"a\":\n", "{\"a\":[\n", "[{\n"} {
		n := 20_000
		got, _ := split(t, strings.NewReader(strings.Repeat(line, n)))
		if len(got) < n/2 && line != "[{\n" {
			t.Errorf("%d values of %d broken lines %q", len(got), n, line)
		}
	}
}

type repeated byte

func (c repeated) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(c)
	}
	return len(p), nil
}

func TestSplitterPassesErrorsOn(t *testing.T) {
	if _, err := split(t, iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader(`{"a":1}`)))); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("%v; want the reader's error", err)
	}
}

func FuzzSplitter(f *testing.F) {
	f.Add("[{},{\"a\":\"\\\"\"}]\n{\"b\":\n{}")
	f.Fuzz(func(t *testing.T, in string) {
		got, _ := split(t, strings.NewReader(in))
		slow, _ := split(t, iotest.OneByteReader(strings.NewReader(in)))
		if len(got) != len(slow) {
			t.Errorf("%+v in one piece, %+v byte by byte", got, slow)
		}
	})
}
