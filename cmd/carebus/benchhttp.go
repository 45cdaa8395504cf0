package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/gateway"
)

// httpReport is what `carebus bench http -o json` prints.
type httpReport struct {
	Machine string      `json:"machine"`
	Engine  string      `json:"engine"`
	Bytes   int         `json:"payloadBytes"`
	Results []httpPoint `json:"results"`
}

// httpPoint is one measure. CPU is in cores: 1 is one core busy all the time. The server is this process; the clients
// are another one on the same machine, so both shares count.
type httpPoint struct {
	Name      string  `json:"name"`
	Rate      float64 `json:"perSecond"`
	Median    float64 `json:"medianMicros,omitempty"`
	P99       float64 `json:"p99Micros,omitempty"`
	InProcess float64 `json:"inProcess,omitempty"` // the same without HTTP, per second
	Ratio     float64 `json:"ratio,omitempty"`
	Server    float64 `json:"serverCores,omitempty"`
	Clients   float64 `json:"clientCores"`
}

type httpConfig struct {
	events      int
	connections int
	followers   int
	dir         string
}

func newBenchHTTPCommand(a *app) *cobra.Command {
	var c httpConfig
	cmd := &cobra.Command{
		Use:   "http",
		Short: "Measure the HTTP API beside the same work without it",
		Long: `Measures, on a fresh store in a temporary folder and over loopback: publishing singly and in batches of 100, live streams
to many clients at once, and consuming by lease; each beside the same work without HTTP in the same run. The clients are
a process of their own. A core is 1: with two cores, server and clients share 2.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.events < 1000 || c.connections < 1 || c.followers < 1 {
				return usagef("give --events from 1000, --connections and --followers from 1")
			}
			r, err := benchHTTP(cmd.Context(), c, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if a.json() {
				return printJSON(cmd.OutOrStdout(), r)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s · %s · payload %d bytes\n\n", r.Machine, r.Engine, r.Bytes)
			rows := [][]string{}
			blank := func(format string, v float64) string {
				if v == 0 {
					return ""
				}
				return fmt.Sprintf(format, v)
			}
			for _, p := range r.Results {
				rows = append(rows, []string{p.Name, fmt.Sprintf("%.0f", p.Rate), blank("%.0f", p.Median), blank("%.0f", p.P99),
					blank("%.0f", p.InProcess), blank("%.2f", p.Ratio), blank("%.2f", p.Server), blank("%.2f", p.Clients)})
			}
			return a.table(cmd.OutOrStdout(), []string{"measure", "per second", "median µs", "p99 µs", "without HTTP", "ratio", "server cores", "client cores"}, rows)
		},
	}
	cmd.Flags().IntVar(&c.events, "events", 30_000, "events per measure")
	cmd.Flags().IntVar(&c.connections, "connections", 64, "connections that publish and consume")
	cmd.Flags().IntVar(&c.followers, "followers", 500, "clients of the live stream")
	cmd.Flags().StringVar(&c.dir, "dir", "", "folder for the temporary store (default: the system's)")
	cmd.AddCommand(newBenchClientsCommand())
	return cmd
}

// httpBench is one run.
type httpBench struct {
	bench
	hc     httpConfig
	url    string
	self   string
	report *httpReport
}

func benchHTTP(ctx context.Context, c httpConfig, talk io.Writer) (r *httpReport, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.dir, "carebus-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	log := slog.New(slog.NewTextHandler(talk, &slog.HandlerOptions{Level: slog.LevelWarn}))
	p, err := carebus.Open(ctx, "sqlite:"+dir+"/carebus.db", &carebus.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	g, err := gateway.New(ctx, p, &gateway.Options{Logger: log})
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	running, stopRunning := context.WithCancel(context.WithoutCancel(ctx))
	served, ran := make(chan error, 1), make(chan error, 1)
	go func() { served <- gateway.Serve(serving, l, g, &gateway.ServeOptions{Logger: log}) }()
	go func() { ran <- p.Run(running) }()
	defer func() {
		stopServing()
		err = errors.Join(err, <-served)
		stopRunning()
		err = errors.Join(err, <-ran)
	}()
	info := p.Store().Info()
	b := &httpBench{
		bench: bench{c: benchConfig{events: c.events}, p: p}, hc: c, url: "http://" + l.Addr().String(), self: self,
		report: &httpReport{
			Machine: fmt.Sprintf("%d cores, %s/%s, %s", runtime.GOMAXPROCS(0), runtime.GOOS, runtime.GOARCH, runtime.Version()),
			Engine:  fmt.Sprintf("%s, %d partitions", info.Name, info.Partitions), Bytes: len(benchEvent(benchKey(1)).Payload), Results: []httpPoint{},
		},
	}
	for _, measure := range []func(context.Context) (httpPoint, error){b.singly, b.batches, b.fanOut, b.fanOutPaced, b.leases} {
		point, err := measure(ctx)
		if err != nil {
			return nil, err
		}
		b.report.Results = append(b.report.Results, point)
		fmt.Fprintf(talk, "%-48s %9.0f/s  ratio %.2f\n", point.Name, point.Rate, point.Ratio)
	}
	return b.report, nil
}

// clients runs the process of the clients and returns what it has measured, with the CPU that both have used. start is
// called when the clients are ready, unless it is nil.
func (b *httpBench) clients(ctx context.Context, name string, start func() error, args ...string) (httpPoint, error) {
	cmd := exec.CommandContext(ctx, b.self, append([]string{"bench", "http", "clients", b.url}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return httpPoint{}, err
	}
	if err := cmd.Start(); err != nil {
		return httpPoint{}, err
	}
	read := bufio.NewReader(out)
	if _, err = read.ReadString('\n'); err != nil {
		return httpPoint{}, errors.Join(fmt.Errorf("%s: the clients are not ready", name), cmd.Wait())
	}
	used, begin := processCPU(), time.Now()
	if start != nil {
		if err := start(); err != nil {
			return httpPoint{}, errors.Join(err, cmd.Process.Kill(), cmd.Wait())
		}
	}
	text, err := io.ReadAll(read)
	took := time.Since(begin).Seconds()
	server := (processCPU() - used).Seconds()
	if err = errors.Join(err, cmd.Wait()); err != nil {
		return httpPoint{}, fmt.Errorf("%s: %w", name, err)
	}
	var got clientResult
	if err := json.Unmarshal(text, &got); err != nil {
		return httpPoint{}, fmt.Errorf("%s: %w", name, err)
	}
	cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return httpPoint{Name: name, Rate: float64(got.Count) / got.Seconds, Median: got.Median, P99: got.P99, Server: server / took, Clients: cpu.Seconds() / took}, nil
}

func (p httpPoint) beside(inProcess float64) httpPoint {
	p.InProcess, p.Ratio = inProcess, p.Rate/inProcess
	return p
}

func (b *httpBench) singly(ctx context.Context) (httpPoint, error) {
	n := b.hc.events / b.hc.connections * b.hc.connections
	own, _, err := b.publish(ctx, b.hc.connections, n)
	if err != nil {
		return httpPoint{}, err
	}
	p, err := b.clients(ctx, fmt.Sprintf("publish singly, %d connections", b.hc.connections), nil, "publish", "--events", strconv.Itoa(n), "--connections", strconv.Itoa(b.hc.connections), "--batch", "1")
	return p.beside(own), err
}

func (b *httpBench) batches(ctx context.Context) (httpPoint, error) {
	const size = 100
	n := max(2*b.hc.events/size, b.hc.connections)
	begin := time.Now()
	err := inParallel(b.hc.connections, n, func(int) error {
		events := make([]event.Event, size)
		for i := range events {
			events[i] = benchEvent(benchKey(int(b.next.Add(1))))
		}
		_, err := b.p.PublishBatch(ctx, events)
		return err
	})
	own := float64(n*size) / time.Since(begin).Seconds()
	if err != nil {
		return httpPoint{}, err
	}
	p, err := b.clients(ctx, fmt.Sprintf("publish batches of %d, %d connections", size, b.hc.connections), nil, "publish", "--events", strconv.Itoa(n*size), "--connections", strconv.Itoa(b.hc.connections), "--batch", strconv.Itoa(size))
	return p.beside(own), err
}

// fanOut measures deliveries of live events, published as fast as the store takes them.
func (b *httpBench) fanOut(ctx context.Context) (httpPoint, error) {
	n := max(b.hc.events/30, 100)
	return b.clients(ctx, fmt.Sprintf("live to %d clients, deliveries", b.hc.followers), func() error { return b.liveEvents(ctx, n, 100, 0) },
		"follow", "--events", strconv.Itoa(n), "--connections", strconv.Itoa(b.hc.followers))
}

// fanOutPaced measures how long it takes from publishing to the client, at a rate that the machine bears.
func (b *httpBench) fanOutPaced(ctx context.Context) (httpPoint, error) {
	const perSecond = 50
	n := max(b.hc.events/150, 20)
	return b.clients(ctx, fmt.Sprintf("live to %d clients, %d events a second", b.hc.followers, perSecond), func() error { return b.liveEvents(ctx, n, 1, time.Second/perSecond) },
		"follow", "--events", strconv.Itoa(n), "--connections", strconv.Itoa(b.hc.followers))
}

// liveEvents publishes events that carry the time at which they were published, as their correlation.
func (b *httpBench) liveEvents(ctx context.Context, n, batch int, pause time.Duration) error {
	begin := time.Now()
	for done := 0; done < n; done += batch {
		if wait := time.Until(begin.Add(time.Duration(done) * pause)); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
		events := make([]event.Event, min(batch, n-done))
		for i := range events {
			events[i] = benchEvent(benchKey(int(b.next.Add(1))))
			events[i].CorrelationID = liveMark + strconv.FormatInt(time.Now().UnixNano(), 10)
		}
		if _, err := b.p.PublishBatch(ctx, events); err != nil {
			return err
		}
	}
	return nil
}

// leases measures consuming over HTTP: fetch with a lease, acknowledge.
func (b *httpBench) leases(ctx context.Context) (httpPoint, error) {
	own, err := b.consume(ctx, int64(b.hc.events), bus.OnRecord("**", func(context.Context, bus.Tx, eventstore.Record) error { return nil }))
	if err != nil {
		return httpPoint{}, err
	}
	p, err := b.clients(ctx, "consume by lease, 8 clients", nil, "consume", "--events", strconv.Itoa(b.hc.events), "--connections", "8")
	return p.beside(own), err
}
