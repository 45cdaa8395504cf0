package telemetry

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
)

// tracing makes spans of what the hooks tell. It implements the hooks of eventstore, bus, saga and gateway.
type tracing struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	sample   func(trace.TraceID) bool
	w3c      propagation.TraceContext
	breakOff context.CancelFunc // ends exports, the present one and later ones
}

// maxLinks bounds the links of a batch.
const maxLinks = 128

var system = semconv.MessagingSystemKey.String("carebus")

// flags says whether a trace is sampled, by its id.
func (t *tracing) flags(id trace.TraceID) trace.TraceFlags {
	if t.sample(id) {
		return trace.FlagsSampled
	}
	return 0
}

// publishing is the span of an event's publishing, before it is known whether the event is stored.
type publishing struct {
	parent trace.SpanContext // may be invalid: a root
	link   trace.SpanContext
	trace  trace.TraceID
}

// OnAppend settles the trace of each event, and makes the spans when the events are stored. The id of such a span follows from
// the event's, so that those who handle the event know it. There is one only for an event that was stored, and once: a
// publication that was refused and is repeated would use the id twice.
func (t *tracing) OnAppend(ctx context.Context, events []event.Event, _ bool) (context.Context, func([]eventstore.Receipt, error)) {
	begun := time.Now()
	active := trace.SpanContextFromContext(ctx)
	cause, _ := event.CauseFrom(ctx)
	plan := make([]publishing, len(events))
	sampled := false
	for i := range events {
		e := &events[i]
		if e.ID == "" {
			e.ID = event.NewID()
		}
		plan[i] = t.place(e, active, cause)
		sampled = sampled || t.wanted(plan[i])
	}
	if !sampled {
		return ctx, nil
	}
	return ctx, func(receipts []eventstore.Receipt, err error) {
		if err != nil {
			return
		}
		ended := time.Now()
		for i := range receipts {
			if i < len(plan) && !receipts[i].Duplicate && t.wanted(plan[i]) {
				t.published(plan[i], &events[i], receipts[i], begun, ended)
			}
		}
	}
}

// place finds an event's trace and the parent of its span.
func (t *tracing) place(e *event.Event, active trace.SpanContext, cause event.Metadata) (p publishing) {
	if e.TraceID == "" && !active.IsValid() {
		e.TraceID = cause.TraceID
	}
	if e.TraceID == "" && !active.IsValid() {
		p.trace = newTraceID()
		e.TraceID = p.trace.String()
		return p
	}
	if e.TraceID == "" || e.TraceID == active.TraceID().String() {
		e.TraceID = active.TraceID().String()
		p.trace, p.parent = active.TraceID(), active
		return p
	}
	var err error
	if p.trace, err = trace.TraceIDFromHex(e.TraceID); err != nil {
		return publishing{} // it will be refused
	}
	p.link = active
	causation := e.CausationID
	if causation == "" {
		causation = cause.ID
	}
	if causation != "" {
		p.parent = t.spanOf(p.trace, causation)
	}
	return p
}

// spanOf is the span of the publishing of an event, wherever that was.
func (t *tracing) spanOf(id trace.TraceID, eventID string) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: event.SpanOf(eventID), TraceFlags: t.flags(id), Remote: true})
}

func (t *tracing) wanted(p publishing) bool {
	if p.parent.IsValid() {
		return p.parent.IsSampled()
	}
	return p.trace.IsValid() && t.sample(p.trace)
}

func (t *tracing) published(p publishing, e *event.Event, at eventstore.Receipt, begun, ended time.Time) {
	o := []trace.SpanStartOption{
		trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(begun),
		trace.WithAttributes(append(messageOf(e, "publish", semconv.MessagingOperationTypeSend),
			semconv.MessagingDestinationPartitionID(strconv.Itoa(at.Partition)), attribute.Int64("carebus.offset", at.Offset))...),
	}
	if p.link.IsValid() {
		o = append(o, trace.WithLinks(trace.Link{SpanContext: p.link}))
	}
	ctx := context.WithValue(context.Background(), idsKey{}, ids{p.trace, event.SpanOf(e.ID)})
	if p.parent.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, p.parent)
	}
	_, span := t.tracer.Start(ctx, "publish "+e.Type, o...)
	span.End(trace.WithTimestamp(ended))
}

// messageOf are the attributes of an event, by the semantic conventions of messaging: the type is the destination.
func messageOf(e *event.Event, operation string, kind attribute.KeyValue) []attribute.KeyValue {
	return []attribute.KeyValue{
		system, kind, semconv.MessagingOperationName(operation), semconv.MessagingDestinationName(e.Type),
		semconv.MessagingMessageID(e.ID), semconv.MessagingMessageConversationID(e.CorrelationID), semconv.MessagingMessageBodySize(len(e.Payload)),
	}
}

// consumer begins a span of an event that is handled or handed on.
func (t *tracing) consumer(ctx context.Context, r *eventstore.Record, operation string) (context.Context, trace.Span) {
	d := bus.DeliveryFrom(ctx)
	if id, err := trace.TraceIDFromHex(r.TraceID); err == nil {
		ctx = trace.ContextWithRemoteSpanContext(ctx, t.spanOf(id, r.ID))
	} else {
		ctx = trace.ContextWithSpanContext(ctx, trace.SpanContext{})
	}
	return t.tracer.Start(ctx, operation+" "+r.Type, trace.WithSpanKind(trace.SpanKindConsumer),
		trace.WithAttributes(append(messageOf(&r.Event, operation, semconv.MessagingOperationTypeProcess), deliveryOf(d)...)...))
}

func deliveryOf(d bus.Delivery) []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.MessagingConsumerGroupName(d.Group), semconv.MessagingDestinationPartitionID(strconv.Itoa(d.Partition)),
		attribute.Int64("carebus.offset", d.Offset), attribute.Int("carebus.attempt", d.Attempt),
		attribute.Bool("carebus.replay", d.Replay), attribute.Bool("carebus.redrive", d.Redrive),
	}
}

// withinKey holds what ends with a run of handlers.
type withinKey struct{}

// within are the spans inside a run, which are exported only if the run was not undone.
type within struct{ ends []func() }

// OnHandle makes the span of a run of handlers.
func (t *tracing) OnHandle(ctx context.Context, records []eventstore.Record) (context.Context, func(bus.Handling)) {
	var span trace.Span
	if len(records) == 1 {
		ctx, span = t.consumer(ctx, &records[0], "process")
	} else {
		ctx, span = t.batch(ctx, records)
	}
	if !span.IsRecording() {
		return ctx, nil
	}
	inside := &within{}
	return context.WithValue(ctx, withinKey{}, inside), func(h bus.Handling) {
		if h.Result == bus.Undone {
			return // a span that is never ended is never exported
		}
		for _, end := range inside.ends {
			end()
		}
		span.SetAttributes(attribute.String("carebus.result", string(h.Result)))
		if h.Result != bus.Handled {
			span.SetAttributes(semconv.ErrorTypeKey.String(string(h.Class)))
			span.SetStatus(codes.Error, string(h.Class)) // never the text: a handler may have put anything into it
		}
		span.End(trace.WithTimestamp(h.Ended))
	}
}

// batch begins the span of a batch, which belongs to no trace of its events.
func (t *tracing) batch(ctx context.Context, records []eventstore.Record) (context.Context, trace.Span) {
	links := make([]trace.Link, 0, min(len(records), maxLinks))
	for i := range records {
		if id, err := trace.TraceIDFromHex(records[i].TraceID); err == nil && len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: t.spanOf(id, records[i].ID)})
		}
	}
	return t.tracer.Start(ctx, "process batch", trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...),
		trace.WithAttributes(append(deliveryOf(bus.DeliveryFrom(ctx)), system, semconv.MessagingOperationTypeProcess, semconv.MessagingOperationName("process"),
			semconv.MessagingBatchMessageCount(len(records)))...))
}

// OnCall makes the span of an outside call.
func (t *tracing) OnCall(ctx context.Context, r eventstore.Record) (context.Context, func(error)) {
	ctx, span := t.consumer(ctx, &r, "call")
	return ctx, func(err error) { finish(span, err) }
}

// finish ends a span of something that may have failed.
func finish(span trace.Span, err error) {
	if err != nil {
		class := string(bus.Classify(err))
		span.SetAttributes(semconv.ErrorTypeKey.String(class))
		span.SetStatus(codes.Error, class)
	}
	span.End()
}

// OnStep makes the span of a saga's step.
func (t *tracing) OnStep(ctx context.Context, s saga.StepRun) (context.Context, func(error)) {
	name := "step "
	if s.Undo {
		name = "undo "
	}
	ctx, span := t.tracer.Start(ctx, name+s.Step, trace.WithAttributes(attribute.String("carebus.saga", s.Saga), attribute.String("carebus.saga.step", s.Step),
		attribute.Int("carebus.saga.version", s.Version), attribute.Int("carebus.attempt", s.Attempt)))
	if !span.IsRecording() {
		return ctx, nil
	}
	run, _ := ctx.Value(withinKey{}).(*within)
	if s.Outside || run == nil {
		return ctx, func(err error) { finish(span, err) }
	}
	return ctx, func(err error) {
		ended := time.Now()
		run.ends = append(run.ends, func() {
			if err != nil {
				span.SetAttributes(semconv.ErrorTypeKey.String(string(bus.Classify(err))))
				span.SetStatus(codes.Error, string(bus.Classify(err)))
			}
			span.End(trace.WithTimestamp(ended))
		})
	}
}

// OnRequest makes the span of a request, in the trace of its sender if there is one. Requests that wait, and those of monitors,
// have none.
func (t *tracing) OnRequest(r *http.Request) (*http.Request, func(route string, status int)) {
	switch r.URL.Path {
	case "/metrics", "/healthz", "/readyz", "/v1/live":
		return r, nil
	}
	method := methodOf(r.Method)
	ctx := t.w3c.Extract(r.Context(), propagation.HeaderCarrier(r.Header))
	ctx, span := t.tracer.Start(ctx, method, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(semconv.HTTPRequestMethodKey.String(method)))
	return r.WithContext(ctx), func(route string, status int) {
		if _, path, ok := strings.Cut(route, " "); ok {
			route = path
		}
		if route != "" && route != "/" { // the path itself may name a key
			span.SetName(method + " " + route)
			span.SetAttributes(semconv.HTTPRoute(route))
		}
		if status > 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		}
		if status == 0 || status >= 500 {
			span.SetStatus(codes.Error, "")
			span.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(status)))
		}
		span.End()
	}
}

// OnDelivery makes the span of a post to a webhook, inside that of the event that is handed on.
func (t *tracing) OnDelivery(ctx context.Context, webhook string, _ eventstore.Record) (context.Context, func(outcome string, status int)) {
	ctx, span := t.tracer.Start(ctx, http.MethodPost, trace.WithSpanKind(trace.SpanKindClient),
		trace.WithAttributes(semconv.HTTPRequestMethodPost, attribute.String("carebus.webhook", webhook)))
	return ctx, func(outcome string, status int) {
		span.SetAttributes(attribute.String("carebus.outcome", outcome))
		if status > 0 {
			span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		}
		if outcome != "accepted" {
			span.SetAttributes(semconv.ErrorTypeKey.String(outcome))
			span.SetStatus(codes.Error, outcome)
		}
		span.End()
	}
}
