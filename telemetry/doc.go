// Package telemetry makes what a platform does visible: metrics for Prometheus, traces for OpenTelemetry, and logs that say
// which event they belong to.
//
//	t, err := telemetry.New(ctx, &telemetry.Options{Version: "1.4.2"})
//	p, err := carebus.Open(ctx, "sqlite:care.db", &carebus.Options{Hooks: t.Hooks(), Logger: slog.New(telemetry.LogHandler(handler))})
//	t.Watch(p)
//	http.Handle("/metrics", t.Handler())
//	…
//	err = t.Shutdown(ctx)
//
// The core packages know nothing of this one: they declare hooks (eventstore.AppendHook, bus.HandleHook and others), which
// are told what happens, where it happens. Other hooks can stand beside these.
//
// # Metrics
//
// Names begin with "carebus_", units are seconds and bytes, counters end with "_total". The table is in
// docs/observability.md. Labels come from bounded sets: event types of the registry (others are counted as "other"), names of
// groups, sagas and projections (beyond so many, "other"), and words of the code. An event's id, key, or source is never a
// label. What has to be asked of the store (lag, parked keys, sagas, timers, sizes) is asked when Prometheus scrapes, at most
// once in [Options].CollectEvery, within a time limit, over indexes, and beside the writer, never before it.
//
// # Traces
//
// The traceId of an envelope is the id of the trace. An envelope names no span, but the span of an event's publishing has an id
// that follows from the event's id ([event.SpanOf]). So a handler, in whatever process, knows the parent of its span:
//
//	HTTP request            server    parent: the caller's traceparent
//	  publish TYPE          producer  parent: the active span; else the publishing of the event that caused it
//	    process TYPE        consumer  parent: the publishing of the event; of a batch: links to them
//	    call TYPE           consumer  an outside call or a forwarded event, with the same parent
//	      POST              client    a webhook; its traceparent is sent
//	    step NAME           internal  of a saga
//
// An event that is given a trace by its producer is published within that trace, with a link to the active span of the other.
// A run of handlers that was undone leaves no spans; it is run again.
//
// Whether a trace is sampled follows from its id and the ratio alone, so all processes with one ratio decide alike. A request
// whose traceparent says that it is sampled, is: the request, and what is published in it; what handles that, by the ratio.
//
// Spans are handed to a queue that drops what does not fit. A collector that is slow or dead costs spans, never time.
// No attribute holds a payload, an error text, a partition key, a stream, or the path of a request.
//
// # Logs
//
// [LogHandler] adds to each record what is known from its context: eventId, eventType, correlationId, group, traceId.
package telemetry
