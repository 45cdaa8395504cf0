package event

import (
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Limits of the metadata members, in bytes.
const (
	maxID      = 128
	maxType    = 255
	maxSource  = 128
	maxVersion = 128
	maxKey     = 256
)

// member is one member of the metadata, as a set bit.
type member uint16

const (
	memberID member = 1 << iota
	memberType
	memberSource
	memberCorrelation
	memberCausation
	memberTimestamp
	memberVersion
	memberTrace
	memberKey
)

// place is where a form of the envelope keeps a member, and what the member is called there.
type place struct{ pointer, name string }

// places is where one form of the envelope (native, CloudEvents) keeps everything, so that all forms share the rules.
type places struct {
	id, typ, source, correlation, causation, timestamp, version, trace, key, payload place
}

var nativePlaces = places{
	id:          place{"/metadata/eventId", "eventId"},
	typ:         place{"/metadata/eventType", "eventType"},
	source:      place{"/metadata/eventSource", "eventSource"},
	correlation: place{"/metadata/correlationId", "correlationId"},
	causation:   place{"/metadata/causationId", "causationId"},
	timestamp:   place{"/metadata/timestamp", "timestamp"},
	version:     place{"/metadata/version", "version"},
	trace:       place{"/metadata/traceId", "traceId"},
	key:         place{"/metadata/partitionKey", "partitionKey"},
	payload:     place{"/payload", "payload"},
}

// checkMetadata applies every rule about single members. has tells which members are there, bad which of those have
// been reported already; stated tells that the timestamp came as a number.
func (r *report) checkMetadata(m *Metadata, at *places, has, bad member, stated bool, o *Options) {
	check := func(bit member) bool { return has&^bad&bit != 0 }
	require := func(bit member, p place, remedy string) {
		if has&bit == 0 {
			r.refuse(p.pointer, "metadata.required", p.name+" is missing", remedy)
		}
	}
	require(memberID, at.id, "give every event an id of its own, such as a UUIDv7")
	if check(memberID) {
		r.checkID(at.id, m.ID)
	}
	require(memberType, at.typ, "name what happened: domain.entity.action")
	if check(memberType) {
		r.checkType(at.typ, m.Type)
	}
	require(memberSource, at.source, "name the service that states the fact")
	if check(memberSource) {
		r.checkSource(at.source, m.Source)
	}
	require(memberCorrelation, at.correlation, "carry the id of the flow on; a first event starts one with a new id")
	if check(memberCorrelation) {
		r.checkID(at.correlation, m.CorrelationID)
	}
	if check(memberCausation) {
		r.checkID(at.causation, m.CausationID)
	}
	require(memberTimestamp, at.timestamp, "say when the fact happened")
	if check(memberTimestamp) {
		r.checkTimestamp(at.timestamp, m.Timestamp, stated, o)
	}
	require(memberVersion, at.version, "give the semantic version of the event type's schema, such as 1.0.0")
	if check(memberVersion) {
		r.checkVersion(at.version, m.Version)
	}
	if check(memberTrace) {
		r.checkTrace(at.trace, m.TraceID)
	}
	if check(memberKey) {
		r.checkKey(at.key, m.PartitionKey)
	}
}

// visible tells whether v is 1 to max visible ASCII characters.
func visible(v string, max int) bool {
	if v == "" || len(v) > max {
		return false
	}
	for i := range len(v) {
		if v[i] <= ' ' || v[i] > '~' {
			return false
		}
	}
	return true
}

func (r *report) checkID(p place, v string) {
	if visible(v, maxID) {
		return
	}
	r.refuse(p.pointer, "metadata.id", p.name+" "+whyNotVisible(v, maxID), "use 1 to 128 visible ASCII characters, such as a UUID")
}

func (r *report) checkSource(p place, v string) {
	if visible(v, maxSource) {
		return
	}
	r.refuse(p.pointer, "metadata.source", p.name+" "+whyNotVisible(v, maxSource),
		"use 1 to 128 visible ASCII characters, such as pharmacy-service")
}

func whyNotVisible(v string, max int) string {
	switch {
	case v == "":
		return "is empty"
	case len(v) > max:
		return "is longer than " + strconv.Itoa(max) + " characters"
	}
	return "has a space, a control character or a character outside ASCII"
}

// partNames are the parts of an event type, by their number.
var partNames = [...][]string{2: {"domain", "action"}, 3: {"domain", "entity", "action"}}

func (r *report) checkType(p place, v string) {
	if typeOK(v) {
		return
	}
	refuse := func(why string) {
		remedy := "name it domain.entity.action in lower case, such as medication.prescription.filled"
		if c := correctedType(v); c != "" {
			remedy = "name it " + c
		}
		r.refuse(p.pointer, "metadata.type", p.name+" "+why, remedy)
	}
	if v == "" {
		refuse("is empty")
		return
	}
	if len(v) > maxType {
		refuse("is longer than " + strconv.Itoa(maxType) + " characters")
		return
	}
	parts := strings.Split(v, ".")
	if n := len(parts); n == 1 {
		refuse("has one part; it needs a domain, an entity and an action")
		return
	} else if n > 3 {
		refuse("has " + strconv.Itoa(n) + " parts; it has at most three: domain, entity and action")
		return
	}
	for i, name := range partNames[len(parts)] {
		if why := whyNotPart(parts[i]); why != "" {
			refuse("is wrong in its " + name + " part, which " + why)
			return
		}
	}
}

// typeOK is the grammar of event types: two or three parts of lower-case letters, digits and hyphens, each beginning
// with a letter and not ending with a hyphen.
func typeOK(v string) bool {
	if len(v) > maxType {
		return false
	}
	parts, start := 1, true
	for i := range len(v) {
		switch c := v[i]; {
		case c >= 'a' && c <= 'z':
			start = false
		case c >= '0' && c <= '9':
			if start {
				return false
			}
		case c == '-':
			if start || i+1 == len(v) || v[i+1] == '.' {
				return false
			}
		case c == '.':
			if start {
				return false
			}
			parts++
			start = true
		default:
			return false
		}
	}
	return !start && (parts == 2 || parts == 3)
}

func whyNotPart(part string) string {
	if part == "" {
		return "is empty"
	}
	if c := part[0]; c == '-' || c >= '0' && c <= '9' {
		return "must begin with a letter"
	}
	for _, c := range part {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-':
		case unicode.IsUpper(c):
			return "has an upper-case letter"
		case c == '_':
			return "has an underscore; words are joined by hyphens"
		case c == ' ':
			return "has a space; words are joined by hyphens"
		default:
			return "has a character other than letters, digits and hyphens"
		}
	}
	if part[len(part)-1] == '-' {
		return "ends with a hyphen"
	}
	return ""
}

// correctedType returns the name that v obviously means, or "": upper case lowered, words joined by hyphens.
func correctedType(v string) string {
	if len(v) > maxType {
		return ""
	}
	var b strings.Builder
	for i := range len(v) {
		c := v[i]
		switch {
		case c >= 'A' && c <= 'Z':
			// A new word begins where an upper-case letter follows a lower-case one or a digit (readyForPickup).
			if i > 0 && (v[i-1] >= 'a' && v[i-1] <= 'z' || v[i-1] >= '0' && v[i-1] <= '9') {
				b.WriteByte('-')
			}
			b.WriteByte(c + 'a' - 'A')
		case c == '_' || c == ' ':
			b.WriteByte('-')
		case c == '/' || c == ':':
			b.WriteByte('.')
		default:
			b.WriteByte(c)
		}
	}
	if c := b.String(); typeOK(c) {
		return c
	}
	return ""
}

// The instants that RFC 3339 can write and the platform accepts: the years 1 to 9999.
const (
	minTimestamp = -62135596800000
	maxTimestamp = 253402300799999
)

// sensible is where a value counts as a plausible recent time when other units are considered: 1980.
const sensible = 315532800000

func (r *report) checkTimestamp(p place, v int64, stated bool, o *Options) {
	latest := o.Now().UnixMilli()
	latest = min(latest+o.MaxAhead.Milliseconds(), maxTimestamp)
	switch {
	case v > latest:
		remedy := "give the time when the fact happened, and check the sender's clock"
		switch {
		case !stated:
		case v/1000 >= sensible && v/1000 <= latest:
			remedy = "it looks like microseconds: divide by 1000 to get milliseconds"
		case v/1000000 >= sensible && v/1000000 <= latest:
			remedy = "it looks like nanoseconds: divide by 1000000 to get milliseconds"
		}
		r.refuse(p.pointer, "metadata.timestamp-ahead", p.name+" is more than "+ahead(o.MaxAhead)+" ahead", remedy)
	case v < minTimestamp:
		r.refuse(p.pointer, "metadata.timestamp", p.name+" is before the year 1", "give epoch milliseconds, negative before 1970")
	case stated && v >= 0 && v*1000 <= latest && (v == 0 || v*1000 >= 100_000_000_000):
		r.warn(p.pointer, "metadata.timestamp-unit", p.name+" is within weeks of 1 January 1970, and reads sensibly as seconds",
			"multiply by 1000 if it is in seconds; timestamps are epoch milliseconds")
	}
}

func ahead(d time.Duration) string {
	if d%time.Hour == 0 {
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return d.String()
}

func (r *report) checkVersion(p place, v string) {
	if len(v) <= maxVersion && versionOK(v) {
		return
	}
	message, remedy := p.name+" is not a semantic version", "give MAJOR.MINOR.PATCH, such as 1.0.0"
	switch core, build, has := strings.Cut(v, "+"); {
	case v == "":
		message = p.name + " is empty"
	case len(v) > maxVersion:
		message = p.name + " is longer than " + strconv.Itoa(maxVersion) + " characters"
	case has && build != "" && versionOK(core):
		message, remedy = p.name+" has build metadata, which tells no schemas apart", "write "+core
	default:
		core := strings.TrimPrefix(strings.TrimPrefix(v, "v"), "V")
		for _, c := range []string{core, core + ".0", core + ".0.0"} {
			if versionOK(c) {
				remedy = "write " + c
				break
			}
		}
	}
	r.refuse(p.pointer, "metadata.version", message, remedy)
}

// versionOK is the grammar of semantic versions 2.0.0, without build metadata.
func versionOK(v string) bool {
	core, pre, has := strings.Cut(v, "-")
	for n := range 3 {
		number, rest, more := strings.Cut(core, ".")
		if !numeric(number) || more != (n < 2) {
			return false
		}
		core = rest
	}
	for has {
		var id string
		id, pre, has = strings.Cut(pre, ".")
		if !preRelease(id) {
			return false
		}
	}
	return true
}

// numeric tells whether v is a decimal number without leading zeros that fits 32 bits: nobody compares larger ones right.
func numeric(v string) bool {
	if v == "" || len(v) > 9 || len(v) > 1 && v[0] == '0' {
		return false
	}
	for i := range len(v) {
		if v[i] < '0' || v[i] > '9' {
			return false
		}
	}
	return true
}

func preRelease(v string) bool {
	digits := true
	for i := range len(v) {
		switch c := v[i]; {
		case c >= '0' && c <= '9':
		case c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-':
			digits = false
		default:
			return false
		}
	}
	return v != "" && (!digits || len(v) == 1 || v[0] != '0')
}

func (r *report) checkTrace(p place, v string) {
	if traceOK(v) {
		return
	}
	message, remedy := p.name+" is not 32 lower-case hexadecimal digits", "give the W3C trace id, or leave the member out"
	if v == "" {
		message = p.name + " is empty"
	} else if strings.Trim(v, "0") == "" && len(v) == 32 {
		message, remedy = p.name+" is all zeros, which means no trace", "leave the member out"
	} else if c := strings.ToLower(strings.ReplaceAll(v, "-", "")); len(v) <= 36 && traceOK(c) {
		remedy = "write " + c
	}
	r.refuse(p.pointer, "metadata.trace", message, remedy)
}

func traceOK(v string) bool { return len(v) == 32 && lowerHex(v) && strings.Trim(v, "0") != "" }

func lowerHex(v string) bool {
	for i := range len(v) {
		if c := v[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func (r *report) checkKey(p place, v string) {
	var message string
	switch {
	case v == "":
		message = p.name + " is empty"
	case len(v) > maxKey:
		message = p.name + " is longer than " + strconv.Itoa(maxKey) + " bytes"
	case !utf8.ValidString(v):
		message = p.name + " is not valid UTF-8"
	case strings.IndexFunc(v, func(c rune) bool { return !unicode.IsPrint(c) }) >= 0:
		message = p.name + " has a character that cannot be printed"
	default:
		return
	}
	r.refuse(p.pointer, "metadata.key", message, "use 1 to 256 bytes of printable text, such as the entity's id; without it the schema's entity id is used")
}
