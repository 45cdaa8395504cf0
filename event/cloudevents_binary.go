package event

import (
	"iter"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Binding is a protocol binding of CloudEvents: how binary mode writes attributes as headers.
type Binding int

const (
	HTTP  Binding = iota // ce-id, percent-encoded values, Content-Type
	Kafka                // ce_id, plain UTF-8 values, content-type
)

func (b Binding) prefix() string {
	if b == Kafka {
		return "ce_"
	}
	return "ce-"
}

// CloudEventHeaders returns the headers of e in binary mode, name and value, the content type among them. The body is
// e.Payload.
func CloudEventHeaders(b Binding, e Event) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for n, name := range attributeNames {
			if !hasAttribute(n, &e.Metadata) {
				continue
			}
			header, value := b.prefix()+name, attribute(n, &e.Metadata)
			switch {
			case n == attrContentType && b == Kafka:
				header = "content-type"
			case n == attrContentType:
				header = "Content-Type"
			case b == HTTP:
				value = encodeHeader(value)
			}
			if !yield(header, value) {
				return
			}
		}
	}
}

// ParseCloudEventBinary reads a CloudEvent 1.0 in binary mode: its headers, in any order, each value by itself, and the
// body, which becomes the payload as it is. Headers of other purposes are passed over. Pointers of findings are those of
// the structured form: "/id" for the id, "/data" for the body. Otherwise as ParseCloudEvent.
func ParseCloudEventBinary(b Binding, headers iter.Seq2[string, string], body []byte, o *Options) (Event, []Finding, error) {
	o = o.orDefault()
	s := newScanner(body, cloudPlaces.payload.pointer, 1, o.MaxDepth)
	defer s.release()
	var a attributes
	headers(func(header, value string) bool {
		s.header(b, header, value, &a)
		return true
	})
	m := s.metadata(&a, "", &cloudPlaces, o)
	e := Event{Metadata: m, Payload: body, stated: m.Timestamp == 0}
	switch size := checkSize(e.size(), "", o); {
	case size.refused:
		s.add(size.findings[0])
		s.refused = true
	default:
		if len(size.findings) > 0 {
			s.add(size.findings[0])
		}
		s.checkPayload(cloudPlaces.payload, nil)
	}
	warnings, err := s.outcome(&e.Metadata)
	if err != nil {
		return Event{}, nil, err
	}
	e.Payload = append([]byte(nil), body...)
	return e, warnings, nil
}

// header takes one header into a, if it belongs to the CloudEvent.
func (r *report) header(b Binding, header, value string, a *attributes) {
	n, name := attrContentType, "datacontenttype"
	if !strings.EqualFold(header, "content-type") {
		if b == HTTP {
			header = strings.ToLower(header)
		}
		var ours bool
		if name, ours = strings.CutPrefix(header, b.prefix()); !ours {
			return
		}
		if !attributeName(name) || name == "data" || name == attributeNames[attrContentType] {
			var token strings.Builder
			writeToken(&token, []byte(name))
			r.refuse("/"+token.String(), "cloudevents.attribute", "the header names no attribute that a header can hold",
				"use lower-case letters and digits; data is the body, and its type the content type")
			return
		}
		if n = attributeIndex(name); n < 0 {
			r.lost("", name)
			return
		}
		if b == HTTP {
			value = decodeHeader(value)
		}
	}
	if a.has[n] {
		r.refuse("/"+name, "cloudevents.duplicate", "the header for "+name+" is there more than once", "send each header once")
		return
	}
	a.has[n], a.text[n] = true, value
	if !utf8.ValidString(value) {
		a.bad[n] = true
		r.refuse("/"+name, "cloudevents.utf8", name+" is not valid UTF-8", "send the text as UTF-8")
	}
}

// encodeHeader percent-encodes what an HTTP header cannot hold or would lose: everything but visible ASCII, and the
// double quote and percent sign (HTTP binding, 3.1.3.2).
func encodeHeader(v string) string {
	clean := func(c byte) bool { return c > ' ' && c <= '~' && c != '"' && c != '%' }
	i := 0
	for i < len(v) && clean(v[i]) {
		i++
	}
	if i == len(v) {
		return v
	}
	var b strings.Builder
	b.WriteString(v[:i])
	for ; i < len(v); i++ {
		if c := v[i]; clean(c) {
			b.WriteByte(c)
		} else {
			writePercent(&b, c)
		}
	}
	return b.String()
}

// decodeHeader undoes encodeHeader, after the quoting of RFC 7230 that some senders add. A percent sign that begins no
// encoding stands for itself.
func decodeHeader(v string) string {
	v = strings.Trim(v, " \t")
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		var b strings.Builder
		for i := 1; i < len(v)-1; i++ {
			if v[i] == '\\' && i+1 < len(v)-1 {
				i++
			}
			b.WriteByte(v[i])
		}
		v = b.String()
	}
	if !strings.Contains(v, "%") {
		return v
	}
	if decoded, err := url.PathUnescape(v); err == nil {
		return decoded
	}
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] == '%' && i+2 < len(v) {
			high, ok1 := unhex(v[i+1])
			low, ok2 := unhex(v[i+2])
			if ok1 && ok2 {
				b.WriteByte(high<<4 | low)
				i += 2
				continue
			}
		}
		b.WriteByte(v[i])
	}
	return b.String()
}
