package event

import (
	"encoding/json"
	"time"
)

// Metadata is the part of an event that every service understands, whatever the payload says. It is the envelope's
// "metadata" object; the JSON names are in the comments.
type Metadata struct {
	ID            string // eventId: opaque, unique, 1–128 visible ASCII characters; ours are UUIDv7
	Type          string // eventType: domain.entity.action, or the short form domain.action
	Source        string // eventSource: the service that states the fact
	CorrelationID string // correlationId: the flow that this event belongs to
	CausationID   string // causationId: the event whose handling caused this one; empty at the start of a flow
	Timestamp     int64  // timestamp: when the fact happened, epoch milliseconds, negative before 1970
	Version       string // version: semantic version of the schema of Type
	TraceID       string // traceId: the W3C trace, 32 hexadecimal digits, when there is one
	PartitionKey  string // partitionKey: events of one key are ordered; empty means the schema's x-entity-id
}

// Time returns the timestamp as a time in UTC.
func (m Metadata) Time() time.Time { return time.UnixMilli(m.Timestamp).UTC() }

// Event is an envelope whose payload is still the JSON text that the producer wrote. It is what stores, buses and
// codecs pass on: the payload is never decoded and encoded again on its way.
//
// The payload must not be changed once the event has been handed over; it may be shared between goroutines.
type Event struct {
	Metadata
	Payload json.RawMessage

	err    error // why Definition.New could not encode the payload; reported by Check
	stated bool  // the timestamp 0 means 1 January 1970, and not a timestamp still to be filled in
}

// Of is an event whose payload has been decoded to T. Handlers receive it.
type Of[T any] struct {
	Metadata
	Payload T

	stated bool // as in Event
}

// Definition ties an event type and a schema version to the Go type of its payload.
// The zero Definition is not usable: create it with Define.
type Definition[T any] struct {
	eventType string
	version   string
}

// Define returns the definition of eventType at version. Catalog packages hold generated definitions; services may
// define their own.
func Define[T any](eventType, version string) Definition[T] {
	return Definition[T]{eventType: eventType, version: version}
}

// Type returns the event type, such as "medication.prescription.created".
func (d Definition[T]) Type() string { return d.eventType }

// Version returns the semantic version of the schema that T was written for.
func (d Definition[T]) Version() string { return d.version }

// New returns an event of this definition. Id, timestamp, correlation, causation and trace are left empty: publishing
// fills them from the context (see Complete). A payload that cannot be encoded is reported when the event is checked
// or published, so that New can be used in an expression.
func (d Definition[T]) New(source string, payload T) Event {
	raw, err := json.Marshal(payload)
	return Event{
		Metadata: Metadata{Type: d.eventType, Source: source, Version: d.version},
		Payload:  raw,
		err:      err,
	}
}
