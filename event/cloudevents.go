package event

import (
	"mime"
	"net/url"
	"slices"
	"strings"
)

// Media types of the CloudEvents JSON format.
const (
	ContentTypeCloudEvent      = "application/cloudevents+json"
	ContentTypeCloudEventBatch = "application/cloudevents-batch+json"
)

// schemaBase and schemaVersions frame the dataschema attribute: base, type, versions, version.
const (
	schemaBase     = "https://carebus.dev/schemas/"
	schemaVersions = "/versions/"
)

var cloudPlaces = places{
	id:          place{"/id", "id"},
	typ:         place{"/type", "type"},
	source:      place{"/source", "source"},
	correlation: place{"/correlationid", "correlationid"},
	causation:   place{"/causationid", "causationid"},
	timestamp:   place{"/time", "time"},
	version:     place{"/schemaversion", "schemaversion"},
	trace:       place{"/traceparent", "traceparent"},
	key:         place{"/partitionkey", "partitionkey"},
	payload:     place{"/data", "data"},
}

// under returns the places of an element of a batch.
func (p places) under(root string) *places {
	for _, at := range []*place{&p.id, &p.typ, &p.source, &p.correlation, &p.causation, &p.timestamp, &p.version, &p.trace, &p.key, &p.payload} {
		at.pointer = root + at.pointer
	}
	return &p
}

// attributeNames are the CloudEvents attributes that the envelope has a place for, in the order they are written.
// The first four are required by CloudEvents itself.
var attributeNames = [...]string{
	"specversion", "id", "source", "type", "time", "datacontenttype", "dataschema",
	"correlationid", "causationid", "partitionkey", "traceparent", "schemaversion",
}

// Indexes into attributeNames.
const (
	attrSpecVersion = iota
	attrID
	attrSource
	attrType
	attrTime
	attrContentType
	attrSchema
	attrCorrelation
	attrCausation
	attrKey
	attrTraceparent
	attrVersion
	attrCount
)

// attributes are the context attributes of one CloudEvent, whatever form it came in.
type attributes struct {
	text [attrCount]string
	has  [attrCount]bool
	bad  [attrCount]bool // there, but reported already as not a string
}

// memberOf maps attributes to the members that they become, where that is one to one.
var memberOf = [attrCount]member{
	attrID: memberID, attrSource: memberSource, attrType: memberType, attrTime: memberTimestamp,
	attrCorrelation: memberCorrelation, attrCausation: memberCausation, attrKey: memberKey,
	attrTraceparent: memberTrace, attrVersion: memberVersion,
}

// metadata turns the attributes into the envelope's metadata and reports everything that is wrong with them.
// root is the pointer of the CloudEvent.
func (r *report) metadata(a *attributes, root string, at *places, o *Options) Metadata {
	m := Metadata{
		ID: a.text[attrID], Type: a.text[attrType], Source: eventSource(a.text[attrSource]),
		CorrelationID: a.text[attrCorrelation], CausationID: a.text[attrCausation],
		PartitionKey: a.text[attrKey], Version: a.text[attrVersion],
	}
	var has, bad member
	for n, bit := range memberOf {
		if a.has[n] {
			has |= bit
		}
		if a.bad[n] {
			bad |= bit
		}
	}
	use := func(n int) bool { return a.has[n] && !a.bad[n] }

	switch {
	case !a.has[attrSpecVersion]:
		r.refuse(root+"/specversion", "cloudevents.specversion", "specversion is missing", "send a CloudEvent of version 1.0")
	case use(attrSpecVersion) && a.text[attrSpecVersion] != "1.0":
		r.refuse(root+"/specversion", "cloudevents.specversion", "specversion is not 1.0", "send a CloudEvent of version 1.0")
	}
	if use(attrContentType) && !jsonContentType(a.text[attrContentType]) {
		r.refuse(root+"/datacontenttype", "cloudevents.content-type", "datacontenttype is not JSON in UTF-8",
			"send the data as application/json")
	}
	if use(attrTime) && !r.readTime(at.timestamp, a.text[attrTime], &m.Timestamp) {
		bad |= memberTimestamp
	}
	if use(attrTraceparent) {
		trace, ok := traceOf(a.text[attrTraceparent])
		m.TraceID = trace
		if !ok {
			bad |= memberTrace
			r.refuse(at.trace.pointer, "cloudevents.traceparent", "traceparent is not a W3C trace context",
				"send 00-<trace id>-<span id>-<flags> in lower-case hexadecimal, or leave it out")
		}
	}
	if use(attrSchema) {
		schema := a.text[attrSchema]
		last := schema[strings.LastIndexByte(schema, '/')+1:]
		if !a.has[attrVersion] && versionOK(last) {
			m.Version = last
			has |= memberVersion
		}
		if schema != schemaBase+m.Type+schemaVersions+m.Version {
			r.lost(root, "dataschema")
		}
	}
	r.checkMetadata(&m, at, has, bad, false, o)
	return m
}

// lost warns of an attribute that the envelope has no place for.
func (r *report) lost(root, name string) {
	var b strings.Builder
	writeToken(&b, []byte(name))
	r.warn(root+"/"+b.String(), "cloudevents.extension", "the envelope has no place for "+b.String()+"; it was dropped",
		"put what consumers need into the data")
}

// attributeIndex returns the index of a known attribute's name, or -1.
func attributeIndex(name string) int { return slices.Index(attributeNames[:], name) }

// attributeName tells whether a name is one that CloudEvents allows: lower-case letters and digits.
func attributeName(name string) bool {
	for i := range len(name) {
		if c := name[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}

// jsonContentType tells whether a media type is JSON, by its name or its suffix, in UTF-8.
func jsonContentType(v string) bool {
	if v == "application/json" {
		return true
	}
	media, parameters, err := mime.ParseMediaType(v)
	if err != nil || media != "application/json" && media != "text/json" && !strings.HasSuffix(media, "+json") {
		return false
	}
	charset := parameters["charset"]
	return charset == "" || strings.EqualFold(charset, "utf-8") || strings.EqualFold(charset, "us-ascii")
}

// The source attribute is a URI reference, an event source any visible ASCII. The two are mapped so that every event
// source comes back as it was, and a foreign source that is a URI or a path of several segments does too:
//
//   - a source of one path segment (/pharmacy-service) is the event source in percent-encoding;
//   - any other is the event source itself.

// sourceOf returns the source attribute of an event source.
func sourceOf(source string) string {
	if strings.ContainsAny(source, "/:") && eventSource(source) == source && uriReference(source) {
		return source
	}
	return "/" + encodeSegment(source)
}

// eventSource returns the event source of a source attribute.
func eventSource(source string) string {
	if len(source) < 2 || source[0] != '/' {
		return source
	}
	segment := source[1:]
	if plainSegment(segment) {
		return segment
	}
	name, err := url.PathUnescape(segment)
	if err != nil || encodeSegment(name) != segment {
		return source
	}
	return name
}

func plainSegment(v string) bool {
	for i := range len(v) {
		if !unreserved(v[i]) {
			return false
		}
	}
	return true
}

func unreserved(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

func encodeSegment(v string) string {
	if plainSegment(v) && v != "." && v != ".." { // dot segments would be resolved away
		return v
	}
	var b strings.Builder
	for i := range len(v) {
		if c := v[i]; unreserved(c) && v != "." && v != ".." {
			b.WriteByte(c)
		} else {
			writePercent(&b, c)
		}
	}
	return b.String()
}

func writePercent(b *strings.Builder, c byte) {
	const hex = "0123456789ABCDEF"
	b.WriteByte('%')
	b.WriteByte(hex[c>>4])
	b.WriteByte(hex[c&15])
}

// uriReference tells whether v may stand as a URI reference (RFC 3986).
func uriReference(v string) bool {
	for i := range len(v) {
		if c := v[i]; !unreserved(c) && !strings.ContainsRune(":/?#@!$&'()*+,;=%", rune(c)) {
			return false
		}
	}
	_, err := url.Parse(v)
	return err == nil && strings.Count(v, "#") <= 1
}

// traceOf returns the trace id of a W3C traceparent, of this version or a later one.
func traceOf(v string) (string, bool) {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' {
		return "", false
	}
	version, trace, span, flags := v[:2], v[3:35], v[36:52], v[53:55]
	if !lowerHex(version) || version == "ff" || !lowerHex(span) || span == "0000000000000000" || !lowerHex(flags) {
		return "", false
	}
	if len(v) > 55 && (version == "00" || v[55] != '-') {
		return "", false
	}
	return trace, traceOK(trace)
}

// appendTraceparent appends a traceparent for m. The envelope keeps no span: the span id is derived from the event's id,
// so that one event has one span id wherever it is written.
func appendTraceparent(dst []byte, m *Metadata) []byte {
	const hex = "0123456789abcdef"
	dst = append(append(append(dst, "00-"...), m.TraceID...), '-')
	span := uint64(14695981039346656037) // FNV-1a
	for i := range len(m.ID) {
		span = (span ^ uint64(m.ID[i])) * 1099511628211
	}
	if span == 0 {
		span = 1
	}
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, hex[span>>shift&15])
	}
	return append(dst, "-00"...)
}

// rfc3339Milli is how times are written: RFC 3339, UTC, milliseconds.
const rfc3339Milli = "2006-01-02T15:04:05.000Z"
