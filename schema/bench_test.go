package schema

import (
	"encoding/json"
	"testing"

	"github.com/carebus/carebus/event"
)

func BenchmarkEntityID(b *testing.B) {
	r := New()
	p, err := r.Propose(Document{Type: rx, Version: "1.0.0", Schema: rxSchema("")})
	if err != nil {
		b.Fatal(err)
	}
	if err := r.Apply(p.Event); err != nil {
		b.Fatal(err)
	}
	e := event.Event{Metadata: event.Metadata{Type: rx, Version: "1.0.0"},
		Payload: json.RawMessage(`{"medication":{"code":{"system":"rxnorm","code":"314076"}},"patientId":"P1","prescriptionId":"RX12345678"}`)}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := r.EntityID(e); !ok {
			b.Fatal("no id")
		}
	}
}

// BenchmarkDiff compares two versions of an ordinary size.
func BenchmarkDiff(b *testing.B) {
	old, next := rxSchema(`,"notes":{"type":"string"}`), rxSchema(`,"notes":{"type":"string"},"more":{"type":"object","properties":{"a":{"type":"string"}}}`)
	for b.Loop() {
		if _, bump, err := Diff(old, next); err != nil || bump != Minor {
			b.Fatal(bump, err)
		}
	}
}
