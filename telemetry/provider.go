package telemetry

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"github.com/carebus/carebus/event"
)

// newTracing is nil without an endpoint to send to.
func newTracing(ctx context.Context, o Options, log *slog.Logger, m *metrics) (*tracing, error) {
	if disabled, _ := strconv.ParseBool(os.Getenv("OTEL_SDK_DISABLED")); disabled || os.Getenv("OTEL_TRACES_EXPORTER") == "none" && o.Endpoint == "" {
		return nil, nil
	}
	var opts []otlptracehttp.Option
	switch {
	case o.Endpoint != "":
		u, err := url.Parse(o.Endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("telemetry: endpoint %q; give the base URL of a collector that takes OTLP over HTTP, such as http://localhost:4318", o.Endpoint)
		}
		if !strings.HasSuffix(u.Path, "/v1/traces") {
			u = u.JoinPath("v1", "traces")
		}
		opts = append(opts, otlptracehttp.WithEndpointURL(u.String()))
	case os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" && os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "":
		return nil, nil
	}
	ratio, err := ratioOf(o)
	if err != nil {
		return nil, err
	}
	client, err := otlptrace.New(ctx, otlptracehttp.NewClient(opts...)) // it connects only when there is something to send
	if err != nil {
		return nil, fmt.Errorf("telemetry: %w", err)
	}
	res, err := resourceOf(ctx, o)
	if err != nil {
		return nil, err
	}
	ending, breakOff := context.WithCancel(context.WithoutCancel(ctx))
	byRatio := sdk.TraceIDRatioBased(ratio)
	t := &tracing{
		breakOff: breakOff,
		provider: sdk.NewTracerProvider(
			sdk.WithBatcher(&exporter{SpanExporter: client, ending: ending, log: log, metrics: m}),
			sdk.WithSpanProcessor(ended{m}),
			sdk.WithIDGenerator(idGenerator{}),
			sdk.WithSampler(sdk.ParentBased(byRatio)),
			sdk.WithResource(res),
		),
		sample: func(id trace.TraceID) bool {
			return byRatio.ShouldSample(sdk.SamplingParameters{ParentContext: context.Background(), TraceID: id}).Decision == sdk.RecordAndSample
		},
	}
	t.tracer = t.provider.Tracer("github.com/carebus/carebus", trace.WithInstrumentationVersion(o.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return t, nil
}

// ratioOf is the ratio of traces that are sampled.
func ratioOf(o Options) (float64, error) {
	if o.Ratio != nil {
		return *o.Ratio, nil
	}
	switch os.Getenv("OTEL_TRACES_SAMPLER") {
	case "always_off", "parentbased_always_off":
		return 0, nil
	case "traceidratio", "parentbased_traceidratio":
		text := os.Getenv("OTEL_TRACES_SAMPLER_ARG")
		if text == "" {
			return 1, nil
		}
		r, err := strconv.ParseFloat(text, 64)
		if err != nil || !(r >= 0 && r <= 1) {
			return 0, fmt.Errorf("telemetry: OTEL_TRACES_SAMPLER_ARG %q; give a ratio from 0 to 1", text)
		}
		return r, nil
	}
	return 1, nil
}

// resourceOf says which program, on which machine, the spans are of. The variables OTEL_RESOURCE_ATTRIBUTES and
// OTEL_SERVICE_NAME come before what is known here, and Options before them.
func resourceOf(ctx context.Context, o Options) (*resource.Resource, error) {
	own := []attribute.KeyValue{semconv.ServiceName("carebus"), semconv.ServiceInstanceID(event.NewID())}
	if o.Version != "" {
		own = append(own, semconv.ServiceVersion(o.Version))
	}
	opts := []resource.Option{resource.WithTelemetrySDK(), resource.WithHost(), resource.WithAttributes(own...), resource.WithFromEnv()}
	if o.Service != "" {
		opts = append(opts, resource.WithAttributes(semconv.ServiceName(o.Service)))
	}
	res, err := resource.New(ctx, opts...)
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("telemetry: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return res, nil
}

// exporter counts what is sent and what is lost, and says so now and then: the SDK would say it through a global.
type exporter struct {
	sdk.SpanExporter
	ending  context.Context
	log     *slog.Logger
	metrics *metrics
	said    atomic.Int64 // when, Unix nanoseconds
	lost    atomic.Int64 // since
}

// ExportSpans sends spans.
func (x *exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(x.ending, cancel)()
	err := x.SpanExporter.ExportSpans(ctx, spans)
	if err == nil {
		x.metrics.spans.WithLabelValues("exported").Add(float64(len(spans)))
		return nil
	}
	x.metrics.spans.WithLabelValues("lost").Add(float64(len(spans)))
	x.lost.Add(int64(len(spans)))
	now, last := time.Now().UnixNano(), x.said.Load()
	if now-last > int64(time.Minute) && x.said.CompareAndSwap(last, now) {
		x.log.Warn("telemetry: spans could not be sent; see the collector, or --otlp-endpoint", "lost", x.lost.Swap(0), "error", err.Error())
	}
	return nil
}

// idsKey holds the ids that a span is to have.
type idsKey struct{}

type ids struct {
	trace trace.TraceID
	span  trace.SpanID
}

// idGenerator makes random ids, except where the context says which.
type idGenerator struct{}

var _ sdk.IDGenerator = idGenerator{}

// NewIDs are those of a root span.
func (g idGenerator) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	if want, ok := ctx.Value(idsKey{}).(ids); ok {
		return want.trace, want.span
	}
	id := newTraceID()
	return id, g.NewSpanID(ctx, id)
}

// NewSpanID is that of a span with a parent.
func (idGenerator) NewSpanID(ctx context.Context, _ trace.TraceID) (id trace.SpanID) {
	if want, ok := ctx.Value(idsKey{}).(ids); ok {
		return want.span
	}
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

func newTraceID() (id trace.TraceID) {
	for !id.IsValid() {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

// ended counts the spans that have ended: those that are neither exported nor lost in time did not fit into the queue.
type ended struct{ metrics *metrics }

// OnStart is for the SDK.
func (ended) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd counts.
func (e ended) OnEnd(sdk.ReadOnlySpan) { e.metrics.spans.WithLabelValues("ended").Inc() }

// Shutdown is for the SDK.
func (ended) Shutdown(context.Context) error { return nil }

// ForceFlush is for the SDK.
func (ended) ForceFlush(context.Context) error { return nil }
