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

func encode(r eventstore.Record, topic string, partition int32, log string, prev int64) *kgo.Record {
	origin := make([]byte, 0, 96+len(r.Stream))
	origin = append(origin, log...)
	for _, n := range []int64{r.Offset, prev, r.RecordedAt.UnixMicro()} {
		origin = strconv.AppendInt(append(origin, ' '), n, 10)
	}
	if r.Stream != "" {
		origin = strconv.AppendInt(append(origin, ' '), r.StreamVersion, 10)
		origin = append(append(origin, ' '), r.Stream...)
	}
	return &kgo.Record{
		Topic: topic, Partition: partition, Key: []byte(r.PartitionKey), Value: r.AppendJSON(nil),
		Headers: []kgo.RecordHeader{
			{Key: headerContent, Value: []byte("application/json")},
			{Key: headerType, Value: []byte(r.Type)},
			{Key: headerID, Value: []byte(r.ID)},
			{Key: headerFlow, Value: []byte(r.CorrelationID)},
			{Key: headerOrigin, Value: origin},
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
