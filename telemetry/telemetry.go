package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/carebus/carebus"
)

// Options of telemetry. The zero value works: metrics, and no traces.
type Options struct {
	// Service names this program in traces: the resource attribute service.name. Default: OTEL_SERVICE_NAME, else "carebus".
	Service string
	// Version of this program, in traces and in carebus_build_info.
	Version string
	// Endpoint is where traces are sent by OTLP over HTTP: the base URL of a collector, such as http://localhost:4318. Default:
	// what OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_EXPORTER_OTLP_ENDPOINT say; without either there are no traces. The other
	// variables of that family (headers, certificates, timeout, compression) hold too.
	Endpoint string
	// Ratio of traces that are sampled, 0 to 1. Default: OTEL_TRACES_SAMPLER_ARG, else all.
	Ratio *float64
	// CollectEvery is how old the answers of the store may be that a scrape is given. Default 5 s.
	CollectEvery time.Duration
	// CollectTimeout bounds how long a scrape waits for the store; it is given older answers then. Default 3 s.
	CollectTimeout time.Duration
	// Logger receives what goes wrong with the sending of traces, at most once a minute. Default slog.Default().
	Logger *slog.Logger
}

// Telemetry holds the metrics and the tracer of one platform. All methods are safe for concurrent use.
type Telemetry struct {
	o        Options
	log      *slog.Logger
	registry *prometheus.Registry
	metrics  *metrics
	tracing  *tracing // nil without traces
	collect  *collector
}

// New returns telemetry. An option that makes no sense is an error.
func New(ctx context.Context, o *Options) (*Telemetry, error) {
	t := &Telemetry{registry: prometheus.NewRegistry()}
	if o != nil {
		t.o = *o
	}
	if t.o.CollectEvery <= 0 {
		t.o.CollectEvery = 5 * time.Second
	}
	if t.o.CollectTimeout <= 0 {
		t.o.CollectTimeout = 3 * time.Second
	}
	if t.log = t.o.Logger; t.log == nil {
		t.log = slog.Default()
	}
	if r := t.o.Ratio; r != nil && !(*r >= 0 && *r <= 1) {
		return nil, fmt.Errorf("telemetry: Ratio %g; give 0 to 1", *r)
	}
	t.metrics = newMetrics(t.registry)
	t.metrics.build.WithLabelValues(t.o.Version).Set(1)
	t.collect = newCollector(t.metrics.names, t.o.CollectEvery, t.o.CollectTimeout)
	t.registry.MustRegister(t.collect, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	var err error
	t.tracing, err = newTracing(ctx, t.o, t.log, t.metrics)
	return t, err
}

// Hooks are for carebus.Options.Hooks.
func (t *Telemetry) Hooks() []any {
	if t.tracing == nil {
		return []any{t.metrics}
	}
	return []any{t.tracing, t.metrics}
}

// Watch has scrapes ask a platform, the one with these hooks: its lag, its sizes and so on. A platform that is closed gives
// its last answers.
func (t *Telemetry) Watch(p *carebus.Platform) {
	t.metrics.names.watch(p.Registry())
	t.collect.watch(p)
}

// Handler answers with the metrics, in the formats of Prometheus and OpenMetrics.
func (t *Telemetry) Handler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true, MaxRequestsInFlight: 4, Timeout: 2 * t.o.CollectTimeout,
		ErrorHandling: promhttp.ContinueOnError, Registry: t.registry,
	})
}

// Shutdown sends the spans that wait, for as long as ctx lasts, and ends tracing. What could not be sent is dropped, and told
// as an error.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	if t.tracing == nil {
		return nil
	}
	// The provider is given all the time that it wants, and wants none once exports are broken off: so nothing of it is left
	// running.
	defer context.AfterFunc(ctx, t.tracing.breakOff)()
	err := t.tracing.provider.Shutdown(context.WithoutCancel(ctx))
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("telemetry: sending the last spans: %w", err)
	}
	return nil
}
