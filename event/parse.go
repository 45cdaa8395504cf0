package event

import (
	"strconv"
	"strings"
	"time"
)

// Options are the limits that an event is checked against. The zero value of a field stands for its default.
type Options struct {
	MaxBytes  int              // an envelope larger than this is refused; 1 MiB
	WarnBytes int              // an envelope of this size or larger gets a warning; 64 KiB
	MaxDepth  int              // objects and arrays nested deeper, the envelope included, are refused; 64, at most 1000
	Now       func() time.Time // the clock for MaxAhead; time.Now
	MaxAhead  time.Duration    // a timestamp further ahead of the clock is refused; 24 h
}

// maxMaxDepth keeps the recursion, and the stack of who reads the payload later, bounded whatever the options say.
const maxMaxDepth = 1000

var defaultOptions = Options{
	MaxBytes:  1 << 20,
	WarnBytes: 64 << 10,
	MaxDepth:  64,
	Now:       time.Now,
	MaxAhead:  24 * time.Hour,
}

// orDefault returns the options with the defaults filled in.
func (o *Options) orDefault() *Options {
	if o == nil {
		return &defaultOptions
	}
	filled := *o
	if filled.MaxBytes <= 0 {
		filled.MaxBytes = defaultOptions.MaxBytes
	}
	if filled.WarnBytes <= 0 {
		filled.WarnBytes = defaultOptions.WarnBytes
	}
	if filled.MaxDepth <= 0 {
		filled.MaxDepth = defaultOptions.MaxDepth
	}
	filled.MaxDepth = min(filled.MaxDepth, maxMaxDepth)
	if filled.Now == nil {
		filled.Now = defaultOptions.Now
	}
	if filled.MaxAhead <= 0 {
		filled.MaxAhead = defaultOptions.MaxAhead
	}
	return &filled
}

// Parse reads an envelope in its native JSON form, in one pass. The payload is a copy of the bytes that the producer
// wrote; data is not kept. The findings returned with an event are warnings. An envelope that breaks a rule is refused
// with an *InvalidError, which holds everything that is wrong with it. Nil options are the defaults.
func Parse(data []byte, o *Options) (Event, []Finding, error) {
	o = o.orDefault()
	if r := checkSize(len(data), "", o); r.refused {
		warnings, err := r.outcome(&Metadata{})
		return Event{}, warnings, err
	}
	s := newScanner(data, "", 0, o.MaxDepth)
	defer s.release()
	p := envelope{s: s}
	complete := s.end(p.walk(s.space(0)))
	return p.event(complete, o)
}

// checkSize reports a document or event of n bytes that is over a limit.
func checkSize(n int, pointer string, o *Options) report {
	var r report
	switch {
	case n > o.MaxBytes:
		r.refuse(pointer, "event.size", "the event is larger than "+strconv.Itoa(o.MaxBytes)+" bytes",
			"keep large documents elsewhere and send their address")
	case n >= o.WarnBytes:
		r.warn(pointer, "event.size", "the event has "+strconv.Itoa(o.WarnBytes)+" bytes or more",
			"smaller events travel faster: keep large documents elsewhere and send their address")
	}
	return r
}

// token is the text of a string value between its quotes, by place.
type token struct {
	from, to int
	plain    bool // no escapes
}

// envelope is what a walk over the native form has found.
type envelope struct {
	s         *scanner
	has, bad  member
	texts     [9]token // by the member's bit number
	timestamp token    // a number, when stated
	stated    bool     // the timestamp is a number
	metadata  token    // the metadata object
	payload   token    // the payload object
	seen      [2]bool  // metadata, payload: there, whatever their kind
}

// walk reads the whole envelope.
func (p *envelope) walk(i int) int {
	s := p.s
	if i < len(s.data) && s.data[i] != '{' {
		end := s.value(i)
		if end >= 0 {
			p.seen = [2]bool{true, true} // nothing can be missing from what is no object
			s.refuse("", "event.kind", "the event is "+kind(s.data[i])+", not an object", `send {"metadata": {…}, "payload": {…}}`)
		}
		return end
	}
	if i >= len(s.data) {
		return s.ended()
	}
	return s.object(i, func(name []byte, i int) int {
		switch string(name) {
		case "metadata":
			p.seen[0] = true
			end := p.part(i, "metadata", p.member)
			p.metadata = token{from: i, to: end}
			return end
		case "payload":
			p.seen[1] = true
			end := p.part(i, "payload", nil)
			p.payload = token{from: i, to: end}
			return end
		}
		s.refuse(s.pointer(), "event.unknown", "the envelope knows no such member", "an event has metadata and payload only; put it into the payload")
		return s.value(i)
	})
}

// part reads metadata or payload, which must be an object.
func (p *envelope) part(i int, name string, visit func([]byte, int) int) int {
	s := p.s
	if i >= len(s.data) || s.data[i] == '{' {
		if i >= len(s.data) {
			return s.ended()
		}
		return s.object(i, visit)
	}
	end := s.value(i)
	if end >= 0 {
		s.refuse(s.pointer(), name+".kind", name+" is "+kind(s.data[i])+", not an object", "send "+name+" as an object")
	}
	return end
}

// member reads one member of the metadata.
func (p *envelope) member(name []byte, i int) int {
	switch string(name) {
	case "eventId":
		return p.text(0, i, "eventId")
	case "eventType":
		return p.text(1, i, "eventType")
	case "eventSource":
		return p.text(2, i, "eventSource")
	case "correlationId":
		return p.text(3, i, "correlationId")
	case "causationId":
		return p.text(4, i, "causationId")
	case "timestamp":
		return p.time(i)
	case "version":
		return p.text(6, i, "version")
	case "traceId":
		return p.text(7, i, "traceId")
	case "partitionKey":
		return p.text(8, i, "partitionKey")
	}
	s := p.s
	s.refuse(s.pointer(), "metadata.unknown", "the metadata knows no such member", meant(string(name)))
	return s.value(i)
}

// optionalMembers may be left out of the metadata.
const optionalMembers = memberCausation | memberTrace | memberKey

func (p *envelope) text(n, i int, name string) int {
	s, bit := p.s, member(1)<<n
	p.has |= bit
	if i < len(s.data) && s.data[i] == '"' {
		end, plain := s.text(i)
		if end < 0 {
			p.bad |= bit
			return -1
		}
		p.texts[n] = token{i + 1, end - 1, plain}
		return end
	}
	end := s.value(i)
	if end >= 0 {
		p.bad |= bit
		remedy := "send " + name + " as a string"
		if bit&optionalMembers != 0 {
			remedy += ", or leave it out"
		}
		s.refuse(s.pointer(), "metadata.kind", name+" is "+kind(s.data[i])+", not a string", remedy)
	}
	return end
}

func (p *envelope) time(i int) int {
	s := p.s
	if i < len(s.data) && s.data[i] == '"' {
		return p.text(5, i, "timestamp")
	}
	p.has |= memberTimestamp
	end := s.value(i)
	if end < 0 {
		p.bad |= memberTimestamp
		return -1
	}
	if c := s.data[i]; c == '-' || c >= '0' && c <= '9' {
		p.timestamp, p.stated = token{from: i, to: end}, true
		return end
	}
	p.bad |= memberTimestamp
	s.refuse(s.pointer(), "metadata.kind", "timestamp is "+kind(s.data[i])+", not a number", "send epoch milliseconds")
	return end
}

// meant guesses which member a name stands for, and returns the remedy.
func meant(name string) string {
	if len(name) <= 2*len("correlationId") {
		plain := strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(name))
		switch plain {
		case "eventid", "id", "messageid":
			return "it is called eventId"
		case "eventtype", "type":
			return "it is called eventType"
		case "eventsource", "source":
			return "it is called eventSource"
		case "correlationid", "correlation":
			return "it is called correlationId"
		case "causationid", "causation":
			return "it is called causationId"
		case "timestamp", "time", "occurredat":
			return "it is called timestamp"
		case "version", "schemaversion", "eventversion":
			return "it is called version"
		case "traceid", "trace":
			return "it is called traceId"
		case "partitionkey", "key":
			return "it is called partitionKey"
		}
	}
	return "leave it out, or put it into the payload"
}

// event makes the event out of what was found. complete tells that the walk reached the end of the text: only then can
// something be called missing.
func (p *envelope) event(complete bool, o *Options) (Event, []Finding, error) {
	s := p.s
	var e Event
	if size := checkSize(len(s.data), "", o); len(size.findings) > 0 {
		s.add(size.findings[0])
	}
	p.read(&e)
	has := p.has
	if !p.seen[0] || p.metadata.to <= p.metadata.from || s.data[p.metadata.from] != '{' {
		if complete && !p.seen[0] {
			s.refuse("/metadata", "metadata.required", "metadata is missing", "send the envelope's metadata beside the payload")
		}
	} else {
		if !complete {
			has |= ^optionalMembers // what comes after the break is not known
			p.bad |= ^p.has
		}
		s.checkMetadata(&e.Metadata, &nativePlaces, has, p.bad, p.stated, o)
	}
	if complete && !p.seen[1] {
		s.refuse("/payload", "payload.required", "payload is missing", "send the fact itself, as an object")
	}
	warnings, err := s.outcome(&e.Metadata)
	if err != nil {
		return Event{}, nil, err
	}
	e.Payload = append([]byte(nil), s.data[p.payload.from:p.payload.to]...)
	return e, warnings, nil
}

// read copies the metadata out of the text. The strings share one copy of the metadata object's text: one allocation
// instead of seven.
func (p *envelope) read(e *Event) {
	s := p.s
	block, from := "", p.metadata.from
	if size := p.metadata.to - from; size > 0 && size <= 2048 {
		block = string(s.data[from:p.metadata.to])
	}
	text := func(n int) string {
		t := p.texts[n]
		switch {
		case t.to <= t.from:
			return ""
		case !t.plain:
			return string(unquote(s.data[t.from:t.to]))
		case block != "" && t.from > from:
			return block[t.from-from : t.to-from]
		}
		return string(s.data[t.from:t.to])
	}
	m := &e.Metadata
	m.ID, m.Type, m.Source = text(0), text(1), text(2)
	m.CorrelationID, m.CausationID = text(3), text(4)
	m.Version, m.TraceID, m.PartitionKey = text(6), text(7), text(8)
	if p.has&^p.bad&memberTimestamp == 0 {
		return
	}
	at := nativePlaces.timestamp
	if p.stated {
		ms, integer, ok := parseMillis(s.data[p.timestamp.from:p.timestamp.to])
		m.Timestamp = ms
		switch {
		case !integer:
			s.refuse(at.pointer, "metadata.timestamp", at.name+" is not a whole number", "give epoch milliseconds without fraction and exponent")
		case !ok:
			s.refuse(at.pointer, "metadata.timestamp", at.name+" is outside the years 1 to 9999", "give epoch milliseconds")
		}
		if !ok {
			p.bad |= memberTimestamp
		}
	} else if !s.readTime(at, text(5), &m.Timestamp) {
		p.bad |= memberTimestamp
	}
	e.stated = m.Timestamp == 0 && p.bad&memberTimestamp == 0
}

// readTime reads a timestamp that was given as RFC 3339 text, and reports what is wrong with it.
func (r *report) readTime(at place, text string, ms *int64) bool {
	v, exact, ok := parseTime(text)
	*ms = v
	if !ok {
		remedy := "give an RFC 3339 time, such as 2023-02-28T18:40:00.000Z"
		if at == nativePlaces.timestamp {
			remedy = "give epoch milliseconds as a number, or an RFC 3339 time"
		}
		if _, _, local := parseTime(text + "Z"); local {
			remedy = "add the offset from UTC, such as Z"
		}
		r.refuse(at.pointer, "metadata.timestamp", at.name+" is not an RFC 3339 time", remedy)
		return false
	}
	if !exact {
		r.warn(at.pointer, "metadata.timestamp-precision", at.name+" is finer than a millisecond; the rest was cut off", "send milliseconds")
	}
	return true
}
