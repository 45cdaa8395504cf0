package fhir

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// peekSize is how much of a file decides whether it holds one resource per line.
const peekSize = 64 << 10

// found is one resource as it stands in the input. raw is valid until visit returns.
type found struct {
	raw     []byte
	kind    string // resourceType; empty when it has none
	fullURL string // of the bundle entry
	scope   string // the bundle: fullUrls mean something only inside it
	pointer string // JSON pointer in the file or line
	line    int64  // 1-based, in a file with one resource per line
	err     error  // it could not be read; raw is empty
	bare    bool   // a bundle entry without a resource
}

// walker finds the resources of one file without ever holding more than one of them.
type walker struct {
	file    string
	limit   int64 // bytes that one resource may have
	visit   func(*found) error
	bundles int64

	line  int64
	bufs  [][]byte // raw text per nesting depth
	guard *guard
}

// stopError carries an error of visit through the walk, so that it is not mistaken for bad input.
type stopError struct{ err error }

func (e *stopError) Error() string { return e.err.Error() }

// placeError is a reading error with its place.
type placeError struct {
	pointer string
	line    int64
	err     error
}

func (e *placeError) Error() string { return e.err.Error() }
func (e *placeError) Unwrap() error { return e.err }

// errTooLarge stops a file in which one resource is longer than the limit.
var errTooLarge = errors.New("one resource is larger than the limit")

// maxNesting bounds bundles in bundles. JSON nesting itself is bounded by the decoder.
const maxNesting = 32

// run walks one file: a resource or bundle, several one after the other, or one per line.
func (w *walker) run(r *bufio.Reader) error {
	if onePerLine(r) {
		return w.lines(r)
	}
	w.guard = &guard{r: r, max: w.limit}
	dec := jsontext.NewDecoder(w.guard, lenient...)
	for {
		if dec.PeekKind() == jsontext.KindInvalid {
			_, err := dec.ReadToken()
			if errors.Is(err, io.EOF) {
				return nil
			}
			return &placeError{err: err}
		}
		if err := w.value(dec, "", nil, 0); err != nil {
			return err
		}
	}
}

// lenient: duplicate members and stray bytes in a text are no reason to lose a patient's record.
var lenient = []jsontext.Options{jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)}

// onePerLine looks at the first line that is not blank: when it is a whole object by itself, a broken line loses
// only itself. The name of the file says nothing: NDJSON comes as .json as well.
func onePerLine(r *bufio.Reader) bool {
	head, _ := r.Peek(peekSize)
	for len(head) > 0 {
		line, rest, more := bytes.Cut(head, []byte("\n"))
		line = bytes.TrimSpace(line)
		if len(line) > 0 {
			return more && line[0] == '{' && line[len(line)-1] == '}'
		}
		head = rest
	}
	return false
}

// lines walks a file with one resource per line.
func (w *walker) lines(r *bufio.Reader) error {
	var buf []byte
	for {
		buf = buf[:0]
		tooLong := false
		var err error
		for {
			var part []byte
			part, err = r.ReadSlice('\n')
			if int64(len(buf)+len(part)) > w.limit {
				tooLong = true
				buf = buf[:0]
			} else if !tooLong {
				buf = append(buf, part...)
			}
			if !errors.Is(err, bufio.ErrBufferFull) {
				break
			}
		}
		w.line++
		if err != nil && err != io.EOF {
			return &placeError{line: w.line, err: err}
		}
		text := bytes.TrimSpace(buf)
		switch {
		case tooLong:
			if err := w.deliver(&found{err: errTooLarge}); err != nil {
				return err
			}
		case len(text) > 0:
			if err := w.lineValue(text); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func (w *walker) lineValue(text []byte) error {
	dec := jsontext.NewDecoder(bytes.NewBuffer(text), lenient...)
	err := w.value(dec, "", nil, 0)
	if err == nil {
		if _, end := dec.ReadToken(); !errors.Is(end, io.EOF) {
			err = &placeError{err: errors.New("more text follows the resource on its line")}
		}
	}
	var stop *stopError
	if err == nil || errors.As(err, &stop) {
		return err
	}
	f := &found{err: err}
	var place *placeError
	if errors.As(err, &place) {
		f.pointer, f.err = place.pointer, place.err
	}
	return w.deliver(f)
}

// value walks the next value: a resource, a bundle, or an array of them.
func (w *walker) value(dec *jsontext.Decoder, ptr string, entry *entry, depth int) error {
	switch dec.PeekKind() {
	case '{':
		return w.resource(dec, ptr, entry, depth)
	case '[':
		if depth >= maxNesting {
			return &placeError{pointer: ptr, err: errors.New("nested too deeply")}
		}
		if _, err := dec.ReadToken(); err != nil {
			return &placeError{pointer: ptr, err: err}
		}
		for i := 0; dec.PeekKind() != ']'; i++ {
			at := ptr + "/" + strconv.Itoa(i)
			if dec.PeekKind() == jsontext.KindInvalid {
				_, err := dec.ReadToken()
				return &placeError{pointer: at, err: noEOF(err)}
			}
			if err := w.value(dec, at, nil, depth+1); err != nil {
				return err
			}
		}
		_, err := dec.ReadToken()
		return err
	default:
		if err := dec.SkipValue(); err != nil {
			return &placeError{pointer: ptr, err: noEOF(err)}
		}
		return w.deliver(&found{pointer: ptr, err: errors.New("not a JSON object")})
	}
}

// entry is what a bundle says about the resource in it.
type entry struct {
	fullURL string
	scope   string
}

// resource reads one object. The entries of a bundle are walked as they come; anything else is gathered whole.
// A bundle may name its resourceType after its entries, so entries that stand before it are walked on trust.
func (w *walker) resource(dec *jsontext.Decoder, ptr string, in *entry, depth int) error {
	if depth >= maxNesting {
		return &placeError{pointer: ptr, err: errors.New("nested too deeply")}
	}
	for len(w.bufs) <= depth {
		w.bufs = append(w.bufs, nil)
	}
	raw := append(w.bufs[depth][:0], '{')
	fail := func(err error) error { return &placeError{pointer: ptr, err: noEOF(err)} }

	if _, err := dec.ReadToken(); err != nil {
		return fail(err)
	}
	kind, bare := "", int64(0)
	for dec.PeekKind() != '}' {
		name, err := memberName(dec)
		if err != nil {
			return fail(err)
		}
		isEntry := name == "entry" && dec.PeekKind() == '['
		if isEntry && (kind == "Bundle" || kind == "") {
			n, err := w.entries(dec, ptr+"/entry", depth)
			if err != nil {
				return err
			}
			bare += n
			continue
		}
		isKind := name == "resourceType"
		if len(raw) > 1 {
			raw = append(raw, ',')
		}
		raw = append(appendQuoted(raw, name), ':')
		value, err := dec.ReadValue()
		if err != nil {
			w.bufs[depth] = raw
			return fail(err)
		}
		raw = append(raw, value...)
		if isKind && value.Kind() == '"' {
			kind = unquote(value)
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return fail(err)
	}
	raw = append(raw, '}')
	w.bufs[depth] = raw
	if kind == "Bundle" {
		w.bundles++
		for range bare {
			if err := w.deliver(&found{pointer: ptr + "/entry", bare: true}); err != nil {
				return err
			}
		}
		return nil
	}
	if kind == "Parameters" {
		return w.parameters(raw, ptr, depth)
	}
	f := &found{raw: raw, kind: kind, pointer: ptr}
	if in != nil {
		f.fullURL, f.scope = in.fullURL, in.scope
	}
	return w.deliver(f)
}

// entries walks a bundle's entries and returns how many had no resource.
func (w *walker) entries(dec *jsontext.Decoder, ptr string, depth int) (bare int64, err error) {
	scope := w.file + "#" + strconv.FormatInt(w.line, 10) + ptr
	if _, err := dec.ReadToken(); err != nil {
		return 0, &placeError{pointer: ptr, err: err}
	}
	for i := 0; dec.PeekKind() != ']'; i++ {
		at := ptr + "/" + strconv.Itoa(i)
		has, err := w.entry(dec, at, scope, depth)
		if err != nil {
			return bare, err
		}
		if !has {
			bare++
		}
	}
	_, err = dec.ReadToken()
	return bare, err
}

func (w *walker) entry(dec *jsontext.Decoder, ptr, scope string, depth int) (has bool, err error) {
	fail := func(err error) (bool, error) { return false, &placeError{pointer: ptr, err: noEOF(err)} }
	if k := dec.PeekKind(); k != '{' {
		if err := dec.SkipValue(); err != nil {
			return fail(err)
		}
		return true, w.deliver(&found{pointer: ptr, err: errors.New("a bundle entry is not an object")})
	}
	if _, err := dec.ReadToken(); err != nil {
		return fail(err)
	}
	in := &entry{scope: scope}
	var early []byte // a resource that stands before its fullUrl waits for it
	for dec.PeekKind() != '}' {
		name, err := memberName(dec)
		if err != nil {
			return fail(err)
		}
		switch {
		case name == "fullUrl":
			value, err := dec.ReadValue()
			if err != nil {
				return fail(err)
			}
			if value.Kind() == '"' {
				in.fullURL = unquote(value)
			}
		case name == "resource" && dec.PeekKind() == 'n':
			if err := dec.SkipValue(); err != nil {
				return fail(err)
			}
		case name == "resource" && dec.PeekKind() == '{' && in.fullURL == "":
			value, err := dec.ReadValue()
			if err != nil {
				return false, &placeError{pointer: ptr + "/resource", err: noEOF(err)}
			}
			early, has = bytes.Clone(value), true
		case name == "resource":
			has = true
			if err := w.value(dec, ptr+"/resource", in, depth+1); err != nil {
				return true, err
			}
		default:
			if err := dec.SkipValue(); err != nil {
				return fail(err)
			}
		}
	}
	if _, err := dec.ReadToken(); err != nil {
		return fail(err)
	}
	if early != nil {
		sub := jsontext.NewDecoder(bytes.NewBuffer(early), lenient...)
		return true, w.value(sub, ptr+"/resource", in, depth+1)
	}
	return has, nil
}

// parameters delivers the resources that a Parameters resource carries, parts in parts included.
func (w *walker) parameters(raw []byte, ptr string, depth int) error {
	type parameter struct {
		Resource json.RawMessage   `json:"resource"`
		Part     []json.RawMessage `json:"part"`
	}
	var walk func(items []json.RawMessage, at string, depth int) error
	walk = func(items []json.RawMessage, at string, depth int) error {
		if depth >= maxNesting {
			return &placeError{pointer: at, err: errors.New("nested too deeply")}
		}
		for i, item := range items {
			here := at + "/" + strconv.Itoa(i)
			var p parameter
			if err := json.Unmarshal(item, &p); err != nil {
				if err := w.deliver(&found{pointer: here, err: errors.New("a parameter has members of a wrong type")}); err != nil {
					return err
				}
				continue
			}
			if len(p.Resource) > 0 && string(p.Resource) != "null" {
				sub := jsontext.NewDecoder(bytes.NewBuffer(p.Resource), lenient...)
				if err := w.value(sub, here+"/resource", nil, depth+1); err != nil {
					return err
				}
			}
			if err := walk(p.Part, here+"/part", depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	var top struct {
		Parameter []json.RawMessage `json:"parameter"`
	}
	w.bundles++
	if err := json.Unmarshal(raw, &top); err != nil {
		return w.deliver(&found{pointer: ptr, kind: "Parameters", err: errors.New("its parameter member is not an array")})
	}
	return walk(top.Parameter, ptr+"/parameter", depth)
}

func (w *walker) deliver(f *found) error {
	f.line = w.line
	if err := w.visit(f); err != nil {
		return &stopError{err}
	}
	if w.guard != nil {
		w.guard.mark = w.guard.n
	}
	return nil
}

// noEOF: inside a value the end of the text is not a normal end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// memberName reads the name of the next member. It is copied: the decoder reuses its buffer.
func memberName(dec *jsontext.Decoder) (string, error) {
	tok, err := dec.ReadToken()
	if err != nil {
		return "", err
	}
	return tok.String(), nil
}

func appendQuoted(dst []byte, name string) []byte {
	out, _ := jsontext.AppendQuote(dst, strings.ToValidUTF8(name, "\uFFFD"))
	return out
}

func unquote(v jsontext.Value) string {
	b, err := jsontext.AppendUnquote(nil, v)
	if err != nil && len(b) == 0 {
		return ""
	}
	return string(b)
}

// guard refuses to read on when one resource passes the limit: the decoder would hold all of it.
type guard struct {
	r            io.Reader
	n, mark, max int64
}

func (g *guard) Read(p []byte) (int, error) {
	if g.n-g.mark > g.max {
		return 0, fmt.Errorf("%w of %d MiB (Options.MaxResource)", errTooLarge, g.max>>20)
	}
	n, err := g.r.Read(p)
	g.n += int64(n)
	return n, err
}
