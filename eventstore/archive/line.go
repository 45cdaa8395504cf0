package archive

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/carebus/carebus/eventstore/driver"
)

// header and end are the first and the last line of a file.
type header struct {
	Carebus    string `json:"carebus"` // "archive"
	Format     int    `json:"format"`
	Partitions int    `json:"partitions"`
	Partition  int    `json:"partition"`
	First      int64  `json:"first"`
	Before     string `json:"before"`
}

type end struct {
	Last   int64  `json:"last"`
	Events int64  `json:"events"`
	After  string `json:"after"`
}

// line is an event, all but its payload, which is written behind as it is.
type line struct {
	Offset        int64           `json:"offset"`
	RecordedAt    int64           `json:"recordedAt"`
	Stream        string          `json:"stream,omitempty"`
	StreamVersion int64           `json:"streamVersion,omitempty"`
	ID            string          `json:"eventId"`
	Type          string          `json:"eventType"`
	Source        string          `json:"eventSource"`
	CorrelationID string          `json:"correlationId"`
	CausationID   string          `json:"causationId,omitempty"`
	Timestamp     int64           `json:"timestamp"`
	Version       string          `json:"version"`
	TraceID       string          `json:"traceId,omitempty"`
	PartitionKey  string          `json:"partitionKey"`
	Base64        bool            `json:"base64,omitempty"`
	Payload       json.RawMessage `json:"payload,omitempty"`
}

// texts are the members that base64 covers, beside the payload.
func (l *line) texts() []*string {
	return []*string{&l.Stream, &l.ID, &l.Type, &l.Source, &l.CorrelationID, &l.CausationID, &l.Version, &l.TraceID, &l.PartitionKey}
}

// plain reports whether a payload can stand in a line as it is, and be read from there as it was.
func plain(payload []byte) bool {
	space := func(b byte) bool { return b == ' ' || b == '\t' }
	return len(payload) > 0 && !space(payload[0]) && !space(payload[len(payload)-1]) && !bytes.ContainsAny(payload, "\r\n") && utf8.Valid(payload) && json.Valid(payload)
}

// appendLine appends a record and the end of its line.
func appendLine(b []byte, r *driver.Record) ([]byte, error) {
	l := line{
		Offset: r.Offset, RecordedAt: r.RecordedAt.UnixMicro(), Stream: r.Stream, StreamVersion: r.StreamVersion, ID: r.ID, Type: r.Type, Source: r.Source,
		CorrelationID: r.CorrelationID, CausationID: r.CausationID, Timestamp: r.Timestamp, Version: r.Version, TraceID: r.TraceID, PartitionKey: r.PartitionKey,
	}
	payload := []byte(r.Payload)
	l.Base64 = !plain(payload)
	for _, text := range l.texts() {
		l.Base64 = l.Base64 || !utf8.ValidString(*text)
	}
	if l.Base64 {
		for _, text := range l.texts() {
			*text = base64.StdEncoding.EncodeToString([]byte(*text))
		}
		payload = []byte(`"` + base64.StdEncoding.EncodeToString(payload) + `"`)
	}
	head, err := json.Marshal(l)
	if err != nil {
		return b, err
	}
	b = append(b, head[:len(head)-1]...)
	b = append(b, `,"payload":`...)
	b = append(b, payload...)
	return append(b, "}\n"...), nil
}

// parseLine reads what appendLine has written. The text of its error holds nothing of the line.
func parseLine(text []byte, partition int) (r driver.Record, err error) {
	var l line
	if json.Unmarshal(text, &l) != nil {
		return r, fmt.Errorf("a line is not an event")
	}
	if l.Base64 {
		for _, text := range l.texts() {
			b, err := base64.StdEncoding.DecodeString(*text)
			if err != nil {
				return r, fmt.Errorf("a line is not an event")
			}
			*text = string(b)
		}
		var payload []byte // which base64 is for
		if json.Unmarshal(l.Payload, &payload) != nil {
			return r, fmt.Errorf("a line is not an event")
		}
		l.Payload = payload
	}
	r.Partition, r.Offset, r.Stream, r.StreamVersion, r.RecordedAt = partition, l.Offset, l.Stream, l.StreamVersion, time.UnixMicro(l.RecordedAt).UTC()
	r.ID, r.Type, r.Source, r.CorrelationID, r.CausationID = l.ID, l.Type, l.Source, l.CorrelationID, l.CausationID
	r.Timestamp, r.Version, r.TraceID, r.PartitionKey, r.Payload = l.Timestamp, l.Version, l.TraceID, l.PartitionKey, l.Payload
	return r, nil
}
