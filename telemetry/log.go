package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
)

// NewLogHandler returns a handler that writes to w, in the format "json" or "text", what has the level ("debug", "info",
// "warn", "error") or a higher one, with what LogHandler adds. Another format or level is an error.
func NewLogHandler(w io.Writer, format, level string) (slog.Handler, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("telemetry: log level %q; give debug, info, warn or error", level)
	}
	o := &slog.HandlerOptions{Level: l}
	switch format {
	case "json":
		return LogHandler(slog.NewJSONHandler(w, o)), nil
	case "text":
		return LogHandler(slog.NewTextHandler(w, o)), nil
	}
	return nil, fmt.Errorf("telemetry: log format %q; give json or text", format)
}

// LogHandler returns a handler that adds to each record what is known from its context of the event that is being handled
// and of the active span: eventId, eventType, correlationId, group, traceId and spanId. What the record has already, it keeps.
// Use the methods of slog.Logger that take a context: InfoContext and the others.
func LogHandler(next slog.Handler) slog.Handler { return &logHandler{next: next} }

type logHandler struct {
	next slog.Handler
	has  map[string]bool // attributes given by With
}

// Enabled is next's.
func (h *logHandler) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

// WithAttrs remembers which of the attributes are given.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	has := make(map[string]bool, len(h.has)+len(attrs))
	for k := range h.has {
		has[k] = true
	}
	for _, a := range attrs {
		has[a.Key] = true
	}
	return &logHandler{next: h.next.WithAttrs(attrs), has: has}
}

// WithGroup is next's: what is added is in the group then.
func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{next: h.next.WithGroup(name)}
}

// Handle adds what is known.
func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	if ctx == nil {
		return h.next.Handle(context.Background(), r)
	}
	cause, handling := event.CauseFrom(ctx)
	delivery := bus.DeliveryFrom(ctx)
	span := trace.SpanContextFromContext(ctx)
	if !handling && delivery.Group == "" && !span.IsValid() {
		return h.next.Handle(ctx, r)
	}
	var mine [16]string
	own := mine[:0]
	r.Attrs(func(a slog.Attr) bool {
		own = append(own, a.Key)
		return true
	})
	var add [6]slog.Attr
	out := add[:0]
	put := func(key, value string) {
		if value == "" || h.has[key] {
			return
		}
		for _, k := range own {
			if k == key {
				return
			}
		}
		out = append(out, slog.String(key, value))
	}
	put("group", delivery.Group)
	put("eventId", cause.ID)
	put("eventType", cause.Type)
	put("correlationId", cause.CorrelationID)
	if span.IsValid() {
		put("traceId", span.TraceID().String())
		put("spanId", span.SpanID().String())
	} else {
		put("traceId", cause.TraceID)
	}
	r = r.Clone()
	r.AddAttrs(out...)
	return h.next.Handle(ctx, r)
}
