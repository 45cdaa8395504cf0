package gateway

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// record is a stored event as it is answered: the envelope and its place in the store.
type record struct {
	Metadata      metadata        `json:"metadata"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	Masked        bool            `json:"masked,omitempty" doc:"Protected values of the payload are hidden."`
	Partition     int             `json:"partition"`
	Offset        int64           `json:"offset"`
	Stream        string          `json:"stream,omitempty"`
	StreamVersion int64           `json:"streamVersion,omitempty"`
	RecordedAt    time.Time       `json:"recordedAt"`
}

// metadata is that of the envelope, with its members spelled out for the API's description.
type metadata struct {
	EventID       string `json:"eventId"`
	EventType     string `json:"eventType"`
	EventSource   string `json:"eventSource"`
	CorrelationID string `json:"correlationId"`
	CausationID   string `json:"causationId,omitempty"`
	Timestamp     int64  `json:"timestamp" doc:"When the fact happened, in epoch milliseconds."`
	Version       string `json:"version" doc:"Semantic version of the schema."`
	TraceID       string `json:"traceId,omitempty"`
	PartitionKey  string `json:"partitionKey"`
}

// Visibility of payloads: what a request asks to see.
const (
	payloadFull   = "full"
	payloadMasked = "masked"
	payloadNone   = "none"
)

func (g *Gateway) show(r eventstore.Record, payload string) record {
	m := r.Metadata
	out := record{
		Metadata:  metadata{m.ID, m.Type, m.Source, m.CorrelationID, m.CausationID, m.Timestamp, m.Version, m.TraceID, m.PartitionKey},
		Partition: r.Partition, Offset: r.Offset, Stream: r.Stream, StreamVersion: r.StreamVersion, RecordedAt: r.RecordedAt,
	}
	switch payload {
	case payloadNone:
	case payloadMasked:
		out.Payload, out.Masked = g.p.Registry().Mask(r.Event), true
	default:
		out.Payload = r.Payload
	}
	return out
}

// readable are the types that the caller may see, of those that some pattern fits. It is for one goroutine: answers are kept,
// since a policy has patterns too.
func readable(ctx context.Context, v auth.Verb, patterns []string) func(eventType string) bool {
	if len(patterns) == 0 {
		patterns = []string{"**"}
	}
	c := callerOf(ctx)
	known := map[string]bool{}
	return func(t string) bool {
		ok, seen := known[t]
		if !seen {
			for _, p := range patterns {
				ok = ok || bus.Matches(p, t)
			}
			ok = ok && c.May(v, t)
			known[t] = ok
		}
		return ok
	}
}

func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if err := bus.CheckPattern(p); err != nil {
			return newProblem(400, "bad-pattern", "%s", err)
		}
	}
	return nil
}

// places is an offset per partition, as a text that a client gives back: a cursor, the id of a live event.
type places []int64

func (p places) String() string { return string(p.append(nil)) }

func (p places) append(dst []byte) []byte {
	var buf [256]byte
	raw := append(buf[:0], 1)
	for _, n := range p {
		raw = binary.AppendUvarint(raw, uint64(n))
	}
	return base64.RawURLEncoding.AppendEncode(dst, raw)
}

// parsePlaces reads the text of places for a store of so many partitions.
func parsePlaces(text string, partitions int) (places, bool) {
	if len(text) > 16*partitions+64 {
		return nil, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) == 0 || raw[0] != 1 {
		return nil, false
	}
	raw = raw[1:]
	out := make(places, partitions)
	for i := range out {
		n, size := binary.Uvarint(raw)
		if size <= 0 || n > 1<<62 {
			return nil, false
		}
		out[i], raw = int64(n), raw[size:]
	}
	return out, len(raw) == 0
}

// frame is the text of an event on one line.
func frame(dst []byte, e event.Event, cloud bool) []byte {
	start := len(dst)
	if cloud {
		dst = event.AppendCloudEvent(dst, e)
	} else {
		dst = e.AppendJSON(dst)
	}
	// A payload is the text that its producer wrote. Line breaks in it, which JSON has only between tokens, would end the line.
	for i := start; i < len(dst); i++ {
		if dst[i] == '\n' || dst[i] == '\r' {
			dst[i] = ' '
		}
	}
	return dst
}
