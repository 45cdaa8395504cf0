package event

import (
	"encoding/json"
	"errors"
	"fmt"
)

// Check applies the rules of Parse to an event built in Go. The findings are warnings; an event that breaks a rule is
// refused with an *InvalidError, which holds everything that is wrong with it. Nil options are the defaults.
func (e Event) Check(o *Options) ([]Finding, error) {
	o = o.orDefault()
	s := newScanner(e.Payload, nativePlaces.payload.pointer, 1, o.MaxDepth)
	defer s.release()
	if size := checkSize(e.size(), "", o); len(size.findings) > 0 {
		s.add(size.findings[0])
		s.refused = size.refused
	}
	if !s.refused {
		s.checkPayload(nativePlaces.payload, e.err)
	}
	has := memberTimestamp
	if e.Timestamp == 0 && !e.stated {
		has = 0
	}
	for n, v := range [...]string{e.ID, e.Type, e.Source, e.CorrelationID, e.CausationID, "", e.Version, e.TraceID, e.PartitionKey} {
		if v != "" {
			has |= 1 << n
		}
	}
	s.checkMetadata(&e.Metadata, &nativePlaces, has, 0, true, o)
	return s.outcome(&e.Metadata)
}

// checkPayload reports a payload that is missing, is no object or is not strict JSON. failed is why New could not
// encode it.
func (s *scanner) checkPayload(at place, failed error) {
	i := s.space(0)
	switch {
	case failed != nil:
		s.refuse(at.pointer, "payload.encode", whyNotEncoded(failed), "use types that encoding/json can write")
	case i == len(s.data):
		s.refuse(at.pointer, "payload.required", at.name+" is missing", "send the fact itself, as an object")
	default:
		if s.end(s.value(i)) && s.data[i] != '{' {
			s.refuse(at.pointer, "payload.kind", at.name+" is "+kind(s.data[i])+", not an object", "send "+at.name+" as an object")
		}
	}
}

// whyNotEncoded names the Go type that stood in the way. The error's own text is not used: it may quote a value.
func whyNotEncoded(err error) string {
	var unsupported *json.UnsupportedTypeError
	var value *json.UnsupportedValueError
	var method *json.MarshalerError
	switch {
	case errors.As(err, &unsupported):
		return "the payload cannot be written as JSON: no form for the Go type " + unsupported.Type.String()
	case errors.As(err, &method):
		return "the payload cannot be written as JSON: the Go type " + method.Type.String() + " failed to write itself"
	case errors.As(err, &value) && value.Value.IsValid():
		return "the payload cannot be written as JSON: no form for a value of the Go type " + value.Value.Type().String()
	}
	return fmt.Sprintf("the payload cannot be written as JSON (%T)", err)
}
