package event

import (
	"context"
	"encoding/binary"
	"time"

	"go.opentelemetry.io/otel/trace"
)

type (
	causeKey       struct{}
	correlationKey struct{}
)

// ContextWithCause returns a context for the handling of the event that m belongs to: events that are completed with it
// carry m's correlation on and name m as their cause.
func ContextWithCause(ctx context.Context, m Metadata) context.Context {
	return context.WithValue(ctx, causeKey{}, &m)
}

// CauseFrom returns the metadata of the event being handled, if ctx belongs to the handling of one.
func CauseFrom(ctx context.Context) (Metadata, bool) {
	if m, ok := ctx.Value(causeKey{}).(*Metadata); ok {
		return *m, true
	}
	return Metadata{}, false
}

// ContextWithCorrelation returns a context whose first events belong to the flow id: for a request that brings a
// correlation from outside. The correlation of a cause comes before it.
func ContextWithCorrelation(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// SpanOf is the id of the span that stands for the publishing of an event, made from the event's id. The envelope names
// the trace but no span; with this, whoever handles the event, in any process, knows the parent of their own.
func SpanOf(eventID string) trace.SpanID {
	var sum uint64 = 14695981039346656037 // FNV-1a
	for i := range len(eventID) {
		sum = (sum ^ uint64(eventID[i])) * 1099511628211
	}
	var id trace.SpanID
	binary.BigEndian.PutUint64(id[:], max(sum, 1))
	return id
}

// Complete returns e with what can be known filled in, and never overwrites what is set:
//
//   - id: a new UUIDv7
//   - timestamp: now, unless At or Parse has set it
//   - correlation: the cause's, else that of ContextWithCorrelation, else a new UUIDv7
//   - causation: the cause's id
//   - trace: that of the active OpenTelemetry span, else the cause's
//
// The partition key is left to those who know the schema.
func Complete(ctx context.Context, e Event) Event {
	if e.ID == "" {
		e.ID = NewID()
	}
	if e.Timestamp == 0 && !e.stated {
		e.Timestamp = time.Now().UnixMilli()
	}
	cause, _ := ctx.Value(causeKey{}).(*Metadata)
	if cause == nil {
		cause = &Metadata{}
	}
	if e.CorrelationID == "" {
		e.CorrelationID = cause.CorrelationID
	}
	if e.CorrelationID == "" {
		e.CorrelationID, _ = ctx.Value(correlationKey{}).(string)
	}
	if e.CorrelationID == "" {
		e.CorrelationID = NewID()
	}
	if e.CausationID == "" {
		e.CausationID = cause.ID
	}
	if e.TraceID == "" {
		if span := trace.SpanContextFromContext(ctx); span.HasTraceID() {
			e.TraceID = span.TraceID().String()
		} else {
			e.TraceID = cause.TraceID
		}
	}
	return e
}
