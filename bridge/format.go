package bridge

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"strings"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/confluent"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Format is how an event becomes the value and the headers of a record.
type Format string

const (
	// Native: the envelope, {"metadata": …, "payload": …}, as application/json.
	Native Format = "native"
	// CloudEvents: a CloudEvent in structured mode, as application/cloudevents+json.
	CloudEvents Format = "cloudevents"
	// CloudEventsBinary: a CloudEvent in binary mode: attributes in headers ce_*, the payload alone as the value.
	CloudEventsBinary Format = "cloudevents-binary"
)

// Headers of every record that a bridge writes, beside the content type and those of CloudEvents.
const (
	HeaderStore = "carebus-store" // which store the record was copied from
	headerType  = "event-type"
	headerID    = "event-id"
	headerFlow  = "correlation-id"
	headerTrace = "traceparent"
)

const contentType = "content-type"

// encode fills key, value and headers of a record. schemaID is nil without framing.
func encode(ctx context.Context, f Format, r eventstore.Record, store string, schemaID func(ctx context.Context, eventType, version string) (int, error)) (*kgo.Record, error) {
	e := r.Event
	out := &kgo.Record{Key: []byte(e.PartitionKey)}
	header := func(name, value string) {
		out.Headers = append(out.Headers, kgo.RecordHeader{Key: name, Value: []byte(value)})
	}
	trace := ""
	for name, value := range event.CloudEventHeaders(event.Kafka, e) {
		if name == "ce_traceparent" {
			trace = value
		}
		if f == CloudEventsBinary {
			header(name, value)
		}
	}
	switch f {
	case Native:
		header(contentType, "application/json")
		out.Value = e.AppendJSON(nil)
	case CloudEvents:
		header(contentType, event.ContentTypeCloudEvent)
		out.Value = event.AppendCloudEvent(nil, e)
	case CloudEventsBinary:
		out.Value = e.Payload
		if schemaID != nil {
			id, err := schemaID(ctx, e.Type, e.Version)
			if err != nil {
				return nil, err
			}
			out.Value = confluent.AppendWire(nil, id, e.Payload)
		}
	}
	header(headerType, e.Type)
	header(headerID, e.ID)
	header(headerFlow, e.CorrelationID)
	if trace != "" {
		header(headerTrace, trace)
	}
	header(HeaderStore, store)
	return out, nil
}

// headerOf returns the last value of a header, whose name is compared without regard to case.
func headerOf(r *kgo.Record, name string) string {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if strings.EqualFold(r.Headers[i].Key, name) {
			return string(r.Headers[i].Value)
		}
	}
	return ""
}

func headers(r *kgo.Record) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, h := range r.Headers {
			if !yield(h.Key, string(h.Value)) {
				return
			}
		}
	}
}

// decode reads the event of a record, in the format that its headers name.
func decode(r *kgo.Record, limits *event.Options) (event.Event, error) {
	if r.Value == nil {
		return event.Event{}, refusal("bridge.empty", "the record has no value: a tombstone is not an event")
	}
	media, _, _ := strings.Cut(headerOf(r, contentType), ";")
	media = strings.ToLower(strings.TrimSpace(media))
	var e event.Event
	var err error
	switch {
	case media == event.ContentTypeCloudEventBatch:
		return e, refusal("bridge.batch", "a batch of CloudEvents cannot be one record; write one record per event")
	case strings.HasPrefix(media, "application/cloudevents"):
		if media != event.ContentTypeCloudEvent && media != "application/cloudevents" {
			return e, refusal("bridge.format", "a CloudEvent in a format other than JSON; use application/cloudevents+json")
		}
		e, _, err = event.ParseCloudEvent(r.Value, limits)
	case headerOf(r, "ce_specversion") != "":
		body := r.Value
		// A text of JSON never begins with a zero byte: this is the frame of a schema registry's serializer.
		if bytes.HasPrefix(body, []byte{0}) {
			if _, body, err = confluent.SplitWire(body); err != nil {
				return e, refusal("bridge.frame", "the value begins like a schema registry's frame, and is none")
			}
		}
		e, _, err = event.ParseCloudEventBinary(event.Kafka, headers(r), body, limits)
	case bytes.HasPrefix(r.Value, []byte{0}):
		return e, refusal("bridge.frame", "a value in a schema registry's frame has no envelope; write CloudEvents in binary mode, whose headers are the envelope")
	default:
		e, _, err = event.Parse(r.Value, limits)
	}
	return e, err
}

// refusal is an InvalidError for what the envelope's own rules do not know.
func refusal(rule, message string) error {
	return &event.InvalidError{Findings: []event.Finding{{Rule: rule, Message: message}}}
}

// Topic names where events are copied to: a name in which {type}, {domain} and {entity} stand for the whole event type
// and its parts. An event of the short form, domain.action, has its domain for an entity.
type Topic string

// DefaultTopic is one topic per domain: events of different types about one entity stay in order, in one partition.
const DefaultTopic = Topic("carebus.{domain}")

// Of returns the topic of an event type.
func (t Topic) Of(eventType string) string {
	domain, rest, _ := strings.Cut(eventType, ".")
	entity, _, long := strings.Cut(rest, ".")
	if !long {
		entity = domain
	}
	return strings.NewReplacer("{type}", eventType, "{domain}", domain, "{entity}", entity).Replace(string(t))
}

// Check returns what is wrong with a template, or nil.
func (t Topic) Check() error {
	name := t.Of("domain.entity.acted")
	if name == "" || len(name) > 249 || name == "." || name == ".." {
		return fmt.Errorf("bridge: topic %q: 1 to 249 characters", string(t))
	}
	for _, c := range name {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-", c) {
			return fmt.Errorf("bridge: topic %q: only letters, digits, dots, underscores and hyphens, and {type}, {domain}, {entity}", string(t))
		}
	}
	return nil
}
