package kafka

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Headers of every record that a relay writes. The value is the envelope in its native form.
const (
	headerContent = "content-type"
	headerType    = "event-type"
	headerID      = "event-id"
	headerFlow    = "correlation-id"
	// headerOrigin holds, separated by spaces: the log, the event's offset in it, the offset of the event sent before it to
	// the same partition (-1 for none), when the store recorded it (µs), and stream version and stream, where it has one.
	headerOrigin = "carebus-origin"
)

var contentJSON = []byte("application/json")

// encode makes a record, whose parts are one piece of memory.
func encode(r eventstore.Record, topic string, partition int32, log string, prev int64) *kgo.Record {
	const numbers = 4 * 21
	buf := make([]byte, 0, 512+len(r.Payload)+2*(len(r.ID)+len(r.CorrelationID)+len(r.PartitionKey)+len(r.Type))+len(log)+numbers+len(r.Stream))
	part := func(add func(b []byte) []byte) []byte {
		from := len(buf)
		buf = add(buf)
		return buf[from:len(buf):len(buf)]
	}
	text := func(s string) []byte { return part(func(b []byte) []byte { return append(b, s...) }) }
	return &kgo.Record{
		Topic: topic, Partition: partition, Value: part(r.AppendJSON), Key: text(r.PartitionKey),
		Headers: []kgo.RecordHeader{
			{Key: headerContent, Value: contentJSON},
			{Key: headerType, Value: text(r.Type)},
			{Key: headerID, Value: text(r.ID)},
			{Key: headerFlow, Value: text(r.CorrelationID)},
			{Key: headerOrigin, Value: part(func(b []byte) []byte {
				b = append(b, log...)
				for _, n := range [...]int64{r.Offset, prev, r.RecordedAt.UnixMicro()} {
					b = strconv.AppendInt(append(b, ' '), n, 10)
				}
				if r.Stream != "" {
					b = strconv.AppendInt(append(b, ' '), r.StreamVersion, 10)
					b = append(append(b, ' '), r.Stream...)
				}
				return b
			})},
		},
	}
}

// trusted are the limits for events that a store has admitted by its own.
var trusted = &event.Options{MaxBytes: math.MaxInt32, WarnBytes: math.MaxInt32, MaxAhead: 1 << 62}

// decode reads a record. An event of a type that is not wanted is left unread: only its place and type are known.
func decode(r *kgo.Record, lane int, wanted func(eventType string) bool) bus.Delivered {
	d := bus.Delivered{Record: eventstore.Record{Partition: lane, Offset: r.Offset, RecordedAt: r.Timestamp.UTC()}}
	var id, origin string
	for _, h := range r.Headers {
		switch h.Key {
		case headerOrigin:
			origin = string(h.Value)
		case headerType:
			d.Type = string(h.Value)
		case headerID:
			id = string(h.Value)
		}
	}
	var stream string
	var version int64
	limits := trusted
	if origin == "" {
		limits = nil // from somebody who is no relay
	} else if err := parseOrigin(origin, &d, &stream, &version); err != nil {
		d.Err = err
	}
	if d.Err == nil && origin != "" && d.Type != "" && !wanted(d.Type) {
		return d
	}
	if d.Err == nil {
		e, _, err := event.Parse(r.Value, limits)
		if d.Err = err; err == nil {
			d.Event = e
		}
	}
	if d.PartitionKey == "" {
		d.PartitionKey = string(r.Key)
	}
	if d.Err != nil {
		d.Err = fmt.Errorf("topic %s partition %d offset %d: the record is no event: %w", r.Topic, r.Partition, r.Offset, d.Err)
		if d.ID = id; id == "" {
			d.ID = fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset)
		}
		d.CorrelationID = d.ID
	}
	d.Stream, d.StreamVersion = stream, version
	return d
}

func parseOrigin(text string, d *bus.Delivered, stream *string, version *int64) error {
	var numbers [4]int64
	log, rest, ok := strings.Cut(text, " ")
	n := 0
	for ; ok && n < 3; n++ {
		var field string
		field, rest, ok = cut(rest)
		v, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return fmt.Errorf("header %s: field %d is no number", headerOrigin, n+2)
		}
		numbers[n] = v
	}
	if log == "" || n < 3 {
		return fmt.Errorf("header %s: a field is missing", headerOrigin)
	}
	if rest != "" {
		field, name, _ := cut(rest)
		v, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return fmt.Errorf("header %s: field 5 is no number", headerOrigin)
		}
		*version, *stream = v, name
	}
	d.Origin = bus.Origin{Log: log, Offset: numbers[0], Prev: numbers[1]}
	d.RecordedAt = time.UnixMicro(numbers[2]).UTC()
	return nil
}

// cut is strings.Cut at a space; ok also at the end.
func cut(s string) (field, rest string, ok bool) {
	if s == "" {
		return "", "", false
	}
	field, rest, _ = strings.Cut(s, " ")
	return field, rest, true
}
