package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

// record is a stored event as the commands print it with -o json: the envelope and its place in the store.
type record struct {
	Metadata      event.Metadata  `json:"metadata"`
	Payload       json.RawMessage `json:"payload"`
	Masked        bool            `json:"masked,omitempty"` // protected values of the payload are hidden
	Partition     int             `json:"partition"`
	Offset        int64           `json:"offset"`
	Stream        string          `json:"stream,omitempty"`
	StreamVersion int64           `json:"streamVersion,omitempty"`
	RecordedAt    string          `json:"recordedAt"`
}

// show is how a stored event may be shown: as it is with reveal, else with protected values masked.
func show(reg *schema.Registry, r eventstore.Record, reveal bool) record {
	out := record{
		Metadata: r.Metadata, Payload: r.Payload, Partition: r.Partition, Offset: r.Offset,
		Stream: r.Stream, StreamVersion: r.StreamVersion, RecordedAt: micros6(r.RecordedAt),
	}
	if !reveal {
		out.Payload, out.Masked = reg.Mask(r.Event), true
	}
	return out
}

func (r record) place() string { return fmt.Sprintf("%d:%d", r.Partition, r.Offset) }

// micros6 is a time as the store keeps it, to the microsecond.
func micros6(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// factTime is when a fact happened, to the millisecond.
func factTime(m event.Metadata) string { return m.Time().Format("2006-01-02T15:04:05.000Z") }

// printLine writes one JSON document on one line.
func printLine(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// indented is JSON for people.
func indented(raw json.RawMessage, prefix string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, prefix, "  "); err != nil {
		return prefix + "(not JSON)"
	}
	return prefix + b.String()
}

// compact is JSON on one line.
func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return "(not JSON)"
	}
	return b.String()
}

// fields writes names and values in two columns; empty values are left out.
func fields(w io.Writer, pairs ...string) error {
	width := 0
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, len(pairs[i]))
		}
	}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width, pairs[i], pairs[i+1]); err != nil {
			return err
		}
	}
	return nil
}

// plural is "1 event", "2 events".
func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
