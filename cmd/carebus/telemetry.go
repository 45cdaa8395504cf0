package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/gateway"
	"github.com/carebus/carebus/telemetry"
)

// telemetryFlags of the commands that run for long.
type telemetryFlags struct {
	endpoint string
	ratio    float64
	format   string
	level    string
	metrics  string
}

// add adds the flags. level is the command's own log level. Commands that serve HTTP anyway have the metrics there; others are
// told where to serve them.
func (f *telemetryFlags) add(cmd *cobra.Command, level string, serves bool) {
	cmd.Flags().StringVar(&f.endpoint, "otlp-endpoint", "", "send traces there by OTLP over HTTP, such as http://localhost:4318 (env OTEL_EXPORTER_OTLP_ENDPOINT and its family)")
	cmd.Flags().Float64Var(&f.ratio, "trace-ratio", 1, "ratio of the traces that are sampled, 0 to 1 (env OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG)")
	cmd.Flags().StringVar(&f.format, "log-format", "text", "text or json")
	cmd.Flags().StringVar(&f.level, "log-level", level, "debug, info, warn or error")
	if !serves {
		cmd.Flags().StringVar(&f.metrics, "metrics-listen", "", "serve /metrics for Prometheus at this address on loopback, such as 127.0.0.1:9464")
	}
}

// observed is what a command tells of itself.
type observed struct {
	*telemetry.Telemetry
	log *slog.Logger
	end context.CancelFunc
	// done is closed when the metrics are served no more.
	done chan struct{}
	err  error
}

// start makes logs, metrics and traces for a command.
func (f *telemetryFlags) start(ctx context.Context, cmd *cobra.Command) (*observed, error) {
	handler, err := telemetry.NewLogHandler(cmd.ErrOrStderr(), f.format, f.level)
	if err != nil {
		return nil, &usageError{err}
	}
	o := &telemetry.Options{Version: version(), Endpoint: f.endpoint, Logger: slog.New(handler)}
	if cmd.Flags().Changed("trace-ratio") {
		o.Ratio = &f.ratio
	}
	t, err := telemetry.New(ctx, o)
	if err != nil {
		return nil, &usageError{err}
	}
	s := &observed{Telemetry: t, log: o.Logger, end: func() {}, done: make(chan struct{})}
	if f.metrics == "" {
		close(s.done)
		return s, nil
	}
	return s, s.listen(ctx, cmd, f.metrics)
}

// listen serves the metrics alone.
func (s *observed) listen(ctx context.Context, cmd *cobra.Command, address string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("--metrics-listen %s: %w", address, err)
	}
	if !gateway.ListenLocal(l.Addr()) {
		return errors.Join(usagef("--metrics-listen %s can be reached from other machines; give an address on loopback", address), l.Close())
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.Handler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	go func() {
		defer close(s.done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.err = err
		}
	}()
	s.end = func() { _ = server.Close() }
	fmt.Fprintf(cmd.ErrOrStderr(), "metrics at http://%s/metrics\n", l.Addr())
	return nil
}

// options are those of a platform that is observed.
func (s *observed) options() *carebus.Options {
	return &carebus.Options{Logger: s.log, Hooks: s.Hooks()}
}

// mount serves the metrics at the door to those who may read something.
func (s *observed) mount() map[string]gateway.Mount {
	return map[string]gateway.Mount{"GET /metrics": {Handler: s.Handler(), Verb: "read"}}
}

// stop sends what is left, for a few seconds at most. Spans that are lost do not make a command fail.
func (s *observed) stop() error {
	s.end()
	<-s.done
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		s.log.Warn("the last spans were not sent", "error", err.Error())
	}
	return s.err
}
