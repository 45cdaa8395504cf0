package event_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"github.com/carebus/carebus/event"
)

func TestComplete(t *testing.T) {
	ctx := context.Background()
	before := time.Now().UnixMilli()
	e := event.Complete(ctx, event.Event{})
	if e.Timestamp < before || e.Timestamp > time.Now().UnixMilli() {
		t.Errorf("timestamp is %d", e.Timestamp)
	}
	for _, id := range []string{e.ID, e.CorrelationID} {
		if u, err := uuid.Parse(id); err != nil || u.Version() != 7 {
			t.Errorf("%q is no UUIDv7: %v", id, err)
		}
	}
	if e.ID == e.CorrelationID || e.CausationID != "" || e.TraceID != "" || e.PartitionKey != "" {
		t.Errorf("a first event is completed to %+v", e.Metadata)
	}

	ctx = event.ContextWithCorrelation(ctx, "flow")
	if e := event.Complete(ctx, event.Event{}); e.CorrelationID != "flow" || e.CausationID != "" {
		t.Errorf("with a correlation: %+v", e.Metadata)
	}
	cause := event.Metadata{ID: "cause", CorrelationID: "c", TraceID: "1234567890abcdef1234567890abcdef"}
	ctx = event.ContextWithCause(ctx, cause)
	if got, ok := event.CauseFrom(ctx); !ok || got != cause {
		t.Errorf("CauseFrom is %+v, %v", got, ok)
	}
	if e := event.Complete(ctx, event.Event{}); e.CorrelationID != "c" || e.CausationID != "cause" || e.TraceID != cause.TraceID {
		t.Errorf("with a cause: %+v", e.Metadata)
	}
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{1}})
	ctx = trace.ContextWithSpanContext(ctx, span)
	if e := event.Complete(ctx, event.Event{}); e.TraceID != "ab000000000000000000000000000000" {
		t.Errorf("with a span: %+v", e.Metadata)
	}
	set := event.Event{Metadata: event.Metadata{ID: "a", CorrelationID: "b", CausationID: "d", TraceID: "e", Timestamp: -5, PartitionKey: "k"}}
	if e := event.Complete(ctx, set); e.Metadata != set.Metadata {
		t.Errorf("what was set is overwritten: %+v", e.Metadata)
	}
	if _, ok := event.CauseFrom(context.Background()); ok {
		t.Error("a plain context has a cause")
	}
}

// A fact of the epoch's very millisecond keeps its time; a timestamp never set is missing.
func TestEpoch(t *testing.T) {
	epoch := parse(t, with("timestamp", "0"))
	if e := event.Complete(context.Background(), epoch); e.Timestamp != 0 {
		t.Error("a stated timestamp 0 is overwritten")
	}
	if e := event.Complete(context.Background(), event.Event{}.At(time.Unix(0, 0))); e.Timestamp != 0 {
		t.Error("At the epoch is overwritten")
	}
	roundTrips := event.AppendCloudEvent(nil, epoch)
	if e, _, err := event.ParseCloudEvent(roundTrips, nil); err != nil || !same(e, epoch) {
		t.Errorf("the epoch does not survive CloudEvents: %v", err)
	}
	epoch = event.Event{Metadata: epoch.Metadata, Payload: epoch.Payload}
	if _, err := epoch.Check(nil); err == nil || rules(t, err)[0] != "metadata.required" {
		t.Errorf("a timestamp never set: %v", err)
	}
}

func TestNewID(t *testing.T) {
	const workers, each = 4, 5000
	ids := make([][]string, workers)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				ids[w] = append(ids[w], event.NewID())
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, list := range ids {
		for i, id := range list {
			if seen[id] {
				t.Fatalf("%s is given twice", id)
			}
			seen[id] = true
			if i > 0 && id <= list[i-1] {
				t.Fatalf("%s comes after %s", id, list[i-1])
			}
		}
	}
	u, err := uuid.Parse(event.NewID())
	if err != nil || u.Version() != 7 || u.Variant() != uuid.RFC4122 {
		t.Fatalf("%v: version %d, variant %v (%v)", u, u.Version(), u.Variant(), err)
	}
	seconds, _ := u.Time().UnixTime()
	if d := time.Since(time.Unix(seconds, 0)); d > time.Minute || d < -time.Minute {
		t.Errorf("the id's time is %v away", d)
	}
}
