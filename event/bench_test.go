package event_test

import (
	"context"
	"testing"

	"github.com/carebus/carebus/event"
)

const sample = `{
  "metadata": {
    "eventId": "9f7d62e3-383f-4d28-a690-25c3890a13d6",
    "eventType": "medication.prescription.filled",
    "eventSource": "pharmacy-service",
    "correlationId": "5720d7ba-24a2-483a-93b1-3d79927e507e",
    "causationId": "3fa4d17c-8918-42d2-a7a9-3d4c650e8584",
    "timestamp": 1677609600000,
    "version": "1.0.0",
    "traceId": "1234567890abcdef1234567890abcdef",
    "partitionKey": "RX12345678"
  },
  "payload": {
    "prescriptionId": "RX12345678",
    "patientId": "P987654321",
    "medicationCode": "12345",
    "medicationName": "Lisinopril 10mg Tablet",
    "quantity": 30,
    "daysSupply": 30,
    "filledAt": "2023-03-01T10:00:00Z",
    "pharmacyId": "PHARM123",
    "prescriberId": "PROV456"
  }
}`

func BenchmarkParse(b *testing.B) {
	data := []byte(sample)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := event.Parse(data, nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	e := parse(b, sample)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Check(nil); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	e := parse(b, sample)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
}

func BenchmarkComplete(b *testing.B) {
	e := parse(b, sample)
	e.ID, e.CorrelationID, e.CausationID, e.Timestamp = "", "", "", 0
	ctx := event.ContextWithCause(context.Background(), event.Metadata{ID: "a", CorrelationID: "b"})
	b.ReportAllocs()
	for b.Loop() {
		event.Complete(ctx, e)
	}
}

func BenchmarkNewID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		event.NewID()
	}
}

// parse returns the event of a text that must be acceptable.
func parse(t testing.TB, text string) event.Event {
	t.Helper()
	e, _, err := event.Parse([]byte(text), nil)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
