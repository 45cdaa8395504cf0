package gateway

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/carebus/carebus/event"
)

// bodies bounds the memory of request bodies that are being read and handled.
type bodies struct {
	budget int64 // of all
	share  int64 // of one principal
	pool   sync.Pool

	mu   sync.Mutex
	held int64
	of   map[string]int64 // held, by principal
}

// take holds memory for a body of a principal, if there is some.
func (b *bodies) take(name string, size int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.held+size > b.budget || b.of[name]+size > b.share {
		return false
	}
	if b.of == nil {
		b.of = map[string]int64{}
	}
	b.held += size
	b.of[name] += size
	return true
}

func (b *bodies) give(name string, size int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held -= size
	if b.of[name] -= size; b.of[name] <= 0 {
		delete(b.of, name)
	}
}

// read reads a whole body, and returns how to give its memory back. The bytes are not to be kept beyond that.
func (b *bodies) read(w http.ResponseWriter, r *http.Request, limit int64) (data []byte, done func(), err error) {
	size := r.ContentLength
	if size > limit {
		return nil, nil, &http.MaxBytesError{Limit: limit}
	}
	if size < 0 {
		size = limit
	}
	name := callerOf(r.Context()).Name
	if !b.take(name, size) {
		return nil, nil, tooMany("the gateway holds as many request bodies as it may; try again")
	}
	buf, _ := b.pool.Get().(*bytes.Buffer)
	if buf == nil {
		buf = new(bytes.Buffer)
	}
	done = func() {
		b.give(name, size)
		if buf.Cap() <= 1<<20 { // one large batch is not kept for ever
			buf.Reset()
			b.pool.Put(buf)
		}
	}
	// A client that sends slower than this is no client but an attack, or gone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime))
	_, err = buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err != nil {
		done()
		return nil, nil, bodyProblem(err)
	}
	return buf.Bytes(), done, nil
}

// bodyTime is how long a client may take to send a body.
const bodyTime = 30 * time.Second

func bodyProblem(err error) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return err
	case errors.Is(err, os.ErrDeadlineExceeded):
		return newProblem(http.StatusRequestTimeout, "slow-body", "the body did not come within %v", bodyTime)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return badRequest("the body ended early")
	}
	return badRequest("the body cannot be read")
}

// errSplit is a text that is no list of JSON values.
var errSplit = &event.InvalidError{Findings: []event.Finding{{
	Rule: "json.syntax", Message: "the body is neither one JSON object, an array of them, nor one object per line", Remedy: "check commas and brackets between the events",
}}}

// elements divides a body into the texts of its events: those of an array, or one after the other with white space between.
// The texts are not checked; each is one value if it is JSON at all.
func elements(data []byte, limit int) ([][]byte, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	data = trimLeft(data)
	array := len(data) > 0 && data[0] == '['
	if array {
		data = trimLeft(data[1:])
		if len(data) > 0 && data[0] == ']' {
			if len(trimLeft(data[1:])) > 0 {
				return nil, errSplit
			}
			return nil, nil
		}
	}
	var out [][]byte
	for len(data) > 0 {
		n := valueEnd(data)
		if n == 0 || len(out) == limit {
			return out, overLimit(n, limit)
		}
		out = append(out, data[:n])
		data = trimLeft(data[n:])
		if !array {
			continue
		}
		switch {
		case len(data) > 0 && data[0] == ',':
			if data = trimLeft(data[1:]); len(data) == 0 {
				return nil, errSplit
			}
		case len(data) > 0 && data[0] == ']' && len(trimLeft(data[1:])) == 0:
			return out, nil
		default:
			return nil, errSplit
		}
	}
	if array {
		return nil, errSplit
	}
	return out, nil
}

func overLimit(n, limit int) error {
	if n == 0 {
		return errSplit
	}
	return newProblem(http.StatusRequestEntityTooLarge, "too-many-events", "a request may have %d events; send several", limit)
}

func trimLeft(data []byte) []byte { return bytes.TrimLeft(data, " \t\r\n\x1e") } // 0x1e begins a text of RFC 7464

// valueEnd is the length of the object that data begins with; 0 when it begins with none or does not end.
func valueEnd(data []byte) int {
	if data[0] != '{' {
		return 0
	}
	depth := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			for i++; i < len(data); i++ {
				j := bytes.IndexByte(data[i:], '"')
				if j < 0 {
					return 0
				}
				i += j
				escapes := 0
				for k := i - 1; data[k] == '\\'; k-- {
					escapes++
				}
				if escapes%2 == 0 {
					break
				}
			}
		}
	}
	return 0
}
