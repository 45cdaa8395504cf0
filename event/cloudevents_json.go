package event

// ParseCloudEvent reads a CloudEvent 1.0 in structured mode, the JSON event format, under the rules of Parse. Pointers
// of findings lead into the CloudEvent. What the envelope has no place for (subject, unknown extensions, a foreign
// dataschema) is dropped with a warning that names it.
func ParseCloudEvent(data []byte, o *Options) (Event, []Finding, error) {
	o = o.orDefault()
	if r := checkSize(len(data), "", o); r.refused {
		warnings, err := r.outcome(&Metadata{})
		return Event{}, warnings, err
	}
	s := newScanner(data, "", 0, o.MaxDepth)
	defer s.release()
	c := cloudEvent{s: s, at: &cloudPlaces}
	complete := s.end(c.walk(s.space(0)))
	return c.event(complete, o)
}

// BatchItem is one CloudEvent of a batch: an event with its warnings, or why it was refused.
type BatchItem struct {
	Event    Event
	Warnings []Finding
	Err      error // an *InvalidError
}

// ParseCloudEventBatch reads a batch of CloudEvents in JSON. Every element is judged by itself, with its index first
// in the pointers of its findings ("/3/type"). The error is for a text that is not a batch at all: not JSON, or not an
// array. The options are for each element; the size of the batch is the caller's to limit.
func ParseCloudEventBatch(data []byte, o *Options) ([]BatchItem, error) {
	o = o.orDefault()
	s := newScanner(data, "", 0, o.MaxDepth+1)
	defer s.release()
	i := s.space(0)
	if i < len(data) && data[i] != '[' {
		if end := s.value(i); s.end(end) {
			s.refuse("", "cloudevents.batch", "the batch is "+kind(data[i])+", not an array", "send an array of CloudEvents")
		}
		_, err := s.outcome(&Metadata{})
		return nil, err
	}
	if i >= len(data) {
		s.ended()
		_, err := s.outcome(&Metadata{})
		return nil, err
	}
	items := []BatchItem{}
	end := s.array(i, func(_, i int) int {
		root := s.pointer()
		c := cloudEvent{s: s, root: root, at: cloudPlaces.under(root), from: i}
		end := c.walk(i)
		if end < 0 {
			return -1
		}
		c.to = end
		var item BatchItem
		item.Event, item.Warnings, item.Err = c.event(true, o)
		items = append(items, item)
		s.report = report{}
		return end
	})
	if !s.end(end) {
		_, err := s.outcome(&Metadata{})
		return nil, err
	}
	return items, nil
}

// cloudEvent is what a walk over the structured form has found.
type cloudEvent struct {
	s        *scanner
	root     string // pointer of the CloudEvent
	at       *places
	from, to int // the CloudEvent's text, for its size; to is 0 for the whole text
	attributes
	data    token
	hasData bool
}

// walk reads the whole CloudEvent.
func (c *cloudEvent) walk(i int) int {
	s := c.s
	if i >= len(s.data) {
		return s.ended()
	}
	if s.data[i] == '{' {
		return s.object(i, c.attribute)
	}
	end := s.value(i)
	if end >= 0 {
		s.refuse(c.root, "event.kind", "the event is "+kind(s.data[i])+", not an object", "send a CloudEvent in the JSON event format")
		// Nothing can be missing from what is no object: leave it at that.
		c.hasData = true
		for n := range c.has {
			c.has[n], c.bad[n] = true, true
		}
	}
	return end
}

// attribute reads one member of the CloudEvent.
func (c *cloudEvent) attribute(name []byte, i int) int {
	s := c.s
	if i >= len(s.data) {
		return s.ended()
	}
	first := s.data[i]
	switch string(name) {
	case "data":
		c.hasData = true
		end := s.value(i)
		if end >= 0 && first != '{' {
			s.refuse(s.pointer(), "payload.kind", "data is "+kind(first)+", not an object", "send data as an object")
		}
		c.data = token{from: i, to: end}
		return end
	case "data_base64":
		end := s.value(i)
		if end >= 0 && first != 'n' {
			c.hasData = true
			s.refuse(s.pointer(), "cloudevents.base64", "data_base64 is not accepted", "send the data as a JSON object in data")
		}
		return end
	}
	if n := attributeIndex(string(name)); n >= 0 {
		return c.known(n, i)
	}
	end := s.value(i)
	switch {
	case end < 0:
	case !attributeName(string(name)):
		s.refuse(s.pointer(), "cloudevents.attribute", "the attribute's name has other characters than lower-case letters and digits",
			"rename it, or put it into the data")
	case first == '{' || first == '[':
		s.refuse(s.pointer(), "cloudevents.kind", "an attribute is "+kind(first)+", and CloudEvents has no such attributes", "put it into the data")
	case first != 'n':
		s.lost(c.root, string(name))
	}
	return end
}

// known reads an attribute that the envelope has a place for. Null means absent.
func (c *cloudEvent) known(n, i int) int {
	s := c.s
	switch s.data[i] {
	case '"':
		end, plain := s.text(i)
		c.has[n] = true
		if end < 0 {
			c.bad[n] = true
			return -1
		}
		text := s.data[i+1 : end-1]
		if !plain {
			text = unquote(text)
		}
		c.text[n] = string(text)
		return end
	case 'n':
		return s.value(i)
	}
	end := s.value(i)
	if end >= 0 {
		c.has[n], c.bad[n] = true, true
		name := attributeNames[n]
		s.refuse(s.pointer(), "cloudevents.kind", name+" is "+kind(s.data[i])+", not a string", "send "+name+" as a string")
	}
	return end
}

// event makes the event out of what was found. complete tells that the walk reached the end of the text.
func (c *cloudEvent) event(complete bool, o *Options) (Event, []Finding, error) {
	s := c.s
	size := len(s.data)
	if c.to > 0 {
		size = c.to - c.from
	}
	if !complete { // what comes after the break is not known
		_, err := s.outcome(&Metadata{ID: c.text[attrID], Type: c.text[attrType]})
		return Event{}, nil, err
	}
	m := s.metadata(&c.attributes, c.root, c.at, o)
	if !c.hasData {
		s.refuse(c.at.payload.pointer, "payload.required", "data is missing", "send the fact itself, as an object")
	}
	e := Event{Metadata: m, stated: m.Timestamp == 0}
	if !s.refused {
		e.Payload = append([]byte(nil), s.data[c.data.from:c.data.to]...)
	}
	if r := checkSize(max(size, e.size()), c.root, o); len(r.findings) > 0 {
		s.add(r.findings[0])
		s.refused = s.refused || r.refused
	}
	warnings, err := s.outcome(&e.Metadata)
	if err != nil {
		return Event{}, nil, err
	}
	return e, warnings, nil
}

// AppendCloudEvent appends e to dst as a CloudEvent 1.0 in the JSON event format. A valid event comes back as it was
// from ParseCloudEvent.
func AppendCloudEvent(dst []byte, e Event) []byte {
	dst = append(dst, '{')
	for n, name := range attributeNames {
		if !hasAttribute(n, &e.Metadata) {
			continue
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		dst = append(append(append(dst, '"'), name...), '"', ':')
		dst = appendText(dst, attribute(n, &e.Metadata))
	}
	dst = append(dst, `,"data":`...)
	dst = appendPayload(dst, e.Payload)
	return append(dst, '}')
}

// AppendCloudEventBatch appends events to dst as a batch of CloudEvents in JSON.
func AppendCloudEventBatch(dst []byte, events []Event) []byte {
	dst = append(dst, '[')
	for i, e := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendCloudEvent(dst, e)
	}
	return append(dst, ']')
}

// hasAttribute tells whether m has something to say in attribute n.
func hasAttribute(n int, m *Metadata) bool {
	switch n {
	case attrCausation:
		return m.CausationID != ""
	case attrKey:
		return m.PartitionKey != ""
	case attrTraceparent:
		return m.TraceID != ""
	}
	return true
}

// attribute returns attribute n of m in its canonical text form.
func attribute(n int, m *Metadata) string {
	switch n {
	case attrSpecVersion:
		return "1.0"
	case attrID:
		return m.ID
	case attrSource:
		return sourceOf(m.Source)
	case attrType:
		return m.Type
	case attrTime:
		return m.Time().Format(rfc3339Milli)
	case attrContentType:
		return "application/json"
	case attrSchema:
		return schemaBase + m.Type + schemaVersions + m.Version
	case attrCorrelation:
		return m.CorrelationID
	case attrCausation:
		return m.CausationID
	case attrKey:
		return m.PartitionKey
	case attrTraceparent:
		return string(appendTraceparent(make([]byte, 0, 55), m))
	}
	return m.Version
}
