package event

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the envelope's native JSON form to dst and returns it. Optional members that are empty are left
// out; the payload is written as it is, without a check, and as null when there is none.
func (e Event) AppendJSON(dst []byte) []byte {
	dst = slices.Grow(dst, e.jsonSize())
	dst = append(dst, `{"metadata":`...)
	dst = e.Metadata.appendJSON(dst)
	dst = append(dst, `,"payload":`...)
	dst = appendPayload(dst, e.Payload)
	return append(dst, '}')
}

// jsonSize is the size of the JSON form where no character needs an escape.
func (e *Event) jsonSize() int {
	const names = len(`{"metadata":{"eventId":"","eventType":"","eventSource":"","correlationId":"","causationId":"","timestamp":1700000000000,"version":"","traceId":"","partitionKey":""},"payload":}`)
	return names + len(e.ID) + len(e.Type) + len(e.Source) + len(e.CorrelationID) + len(e.CausationID) + len(e.Version) + len(e.TraceID) + len(e.PartitionKey) + len(e.Payload)
}

func (m *Metadata) appendJSON(dst []byte) []byte {
	dst = appendText(append(dst, `{"eventId":`...), m.ID)
	dst = appendText(append(dst, `,"eventType":`...), m.Type)
	dst = appendText(append(dst, `,"eventSource":`...), m.Source)
	dst = appendText(append(dst, `,"correlationId":`...), m.CorrelationID)
	if m.CausationID != "" {
		dst = appendText(append(dst, `,"causationId":`...), m.CausationID)
	}
	dst = strconv.AppendInt(append(dst, `,"timestamp":`...), m.Timestamp, 10)
	dst = appendText(append(dst, `,"version":`...), m.Version)
	if m.TraceID != "" {
		dst = appendText(append(dst, `,"traceId":`...), m.TraceID)
	}
	if m.PartitionKey != "" {
		dst = appendText(append(dst, `,"partitionKey":`...), m.PartitionKey)
	}
	return append(dst, '}')
}

func appendPayload(dst, payload []byte) []byte {
	if len(payload) == 0 {
		return append(dst, "null"...)
	}
	return append(dst, payload...)
}

// appendText appends v as a JSON string. Invalid UTF-8 becomes U+FFFD.
func appendText(dst []byte, v string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(v); {
		c := v[i]
		if plainText[c] {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(v[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, v[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		dst = append(dst, v[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, v[start:]...), '"')
}

// size is the length of the native form (a little less when a string needs escapes, which no valid string but a quote
// or backslash does).
func (e *Event) size() int {
	n := len(`{"metadata":{"eventId":"","eventType":"","eventSource":"","correlationId":"","timestamp":,"version":""},"payload":}`)
	n += len(e.ID) + len(e.Type) + len(e.Source) + len(e.CorrelationID) + len(e.Version) + len(e.Payload)
	var digits [20]byte
	n += len(strconv.AppendInt(digits[:0], e.Timestamp, 10))
	if e.CausationID != "" {
		n += len(`,"causationId":""`) + len(e.CausationID)
	}
	if e.TraceID != "" {
		n += len(`,"traceId":""`) + len(e.TraceID)
	}
	if e.PartitionKey != "" {
		n += len(`,"partitionKey":""`) + len(e.PartitionKey)
	}
	return n
}

// MarshalJSON returns the native form, as AppendJSON. An event whose payload could not be encoded by New fails with
// the *InvalidError that Check would report.
func (e Event) MarshalJSON() ([]byte, error) {
	if e.err != nil {
		var r report
		r.refuse(nativePlaces.payload.pointer, "payload.encode", whyNotEncoded(e.err), "use types that encoding/json can write")
		_, err := r.outcome(&e.Metadata)
		return nil, err
	}
	return e.AppendJSON(make([]byte, 0, e.size())), nil
}

// UnmarshalJSON is Parse with the default options; warnings are dropped.
func (e *Event) UnmarshalJSON(data []byte) error {
	parsed, _, err := Parse(data, nil)
	if err != nil {
		return err
	}
	*e = parsed
	return nil
}

// MarshalJSON returns the envelope's metadata object: what a read model keeps of an event whose payload it leaves out.
// A struct that embeds Metadata inherits it, and should have its own.
func (m Metadata) MarshalJSON() ([]byte, error) { return m.appendJSON(make([]byte, 0, 384)), nil }

// UnmarshalJSON reads a metadata object under the rules of Parse.
func (m *Metadata) UnmarshalJSON(data []byte) error {
	data = bytes.TrimSpace(data)
	wrapped := make([]byte, 0, len(data)+32)
	wrapped = append(append(append(wrapped, `{"metadata":`...), data...), `,"payload":{}}`...)
	parsed, _, err := Parse(wrapped, nil)
	if err != nil {
		return err
	}
	*m = parsed.Metadata
	return nil
}

var (
	_ json.Marshaler   = Event{}
	_ json.Unmarshaler = (*Event)(nil)
	_ json.Marshaler   = Metadata{}
	_ json.Unmarshaler = (*Metadata)(nil)
)
