package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Buckets, in seconds: of what takes a commit, and of what may take long.
var (
	fast = []float64{0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2.5, 5, 10}
	slow = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 30, 60, 300, 3600}
)

// metrics are told by the hooks what happens. It implements the hooks of eventstore, bus and gateway.
type metrics struct {
	names *names

	stored       *prometheus.CounterVec // domain, type
	duplicates   prometheus.Counter
	appends      *prometheus.CounterVec // outcome
	appendTime   prometheus.Histogram
	commitTime   prometheus.Histogram
	commitUnits  prometheus.Histogram
	commitWait   prometheus.Histogram
	commitFailed prometheus.Counter

	handled     *prometheus.CounterVec // group, result
	failures    *prometheus.CounterVec // group, class
	keysParked  *prometheus.CounterVec // group, class
	handlerTime *prometheus.HistogramVec
	latency     *prometheus.HistogramVec
	calls       *prometheus.CounterVec // group, outcome
	callTime    *prometheus.HistogramVec

	sagasStarted *prometheus.CounterVec // saga
	sagasEnded   *prometheus.CounterVec // saga, status
	sagaSteps    *prometheus.CounterVec // saga, step, outcome

	requests       *prometheus.CounterVec // route, method, status
	requestTime    *prometheus.HistogramVec
	inFlight       prometheus.Gauge
	live           prometheus.Gauge
	deliveries     *prometheus.CounterVec // outcome
	deliveryTime   prometheus.Histogram
	denials        *prometheus.CounterVec // verb
	spans          *prometheus.CounterVec // outcome
	build          *prometheus.GaugeVec
	described      []described
	storedByType   sync.Map // type -> prometheus.Counter
	perGroup       sync.Map // group -> *groupMetrics
	sagaEventTypes map[string]func(sagaEvent)
}

// described is a metric as its documentation has it.
type described struct {
	name, kind, help string
	labels           []string
}

// groupMetrics are those that events of a group move, looked up once.
type groupMetrics struct {
	label         string
	handled       prometheus.Counter
	time, latency prometheus.Observer
}

func newMetrics(r prometheus.Registerer) *metrics {
	var all []described
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		all = append(all, described{"carebus_" + name, "counter", help, labels})
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "carebus_" + name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		all = append(all, described{"carebus_" + name, "histogram", help, labels})
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "carebus_" + name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		all = append(all, described{"carebus_" + name, "gauge", help, labels})
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "carebus_" + name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	one := func(v *prometheus.HistogramVec) prometheus.Histogram {
		return v.WithLabelValues().(prometheus.Histogram)
	}
	m := &metrics{
		names:        newNames(),
		stored:       counter("events_stored_total", "Events stored by this process, duplicates aside.", "domain", "type"),
		duplicates:   counter("events_duplicate_total", "Events that were stored already.").WithLabelValues(),
		appends:      counter("appends_total", "Appends outside of transactions, by outcome.", "outcome"),
		appendTime:   one(histogram("append_duration_seconds", "From the call of an append until its events were on stable storage.", fast)),
		commitTime:   one(histogram("commit_duration_seconds", "Duration of group commits, handlers and fsync included.", fast)),
		commitUnits:  one(histogram("commit_units", "Appends and transactions that shared a commit.", prometheus.ExponentialBuckets(1, 2, 11))),
		commitWait:   one(histogram("commit_wait_seconds", "How long the first in the queue of a commit had waited for it to begin.", fast)),
		commitFailed: counter("commit_failures_total", "Commits that failed as a whole.").WithLabelValues(),

		handled:     counter("handled_total", "Events that the handlers of a group have run for, by result.", "group", "result"),
		failures:    counter("handler_failures_total", "Failed runs of handlers, by class of the failure.", "group", "class"),
		keysParked:  counter("keys_parked_total", "Keys parked by this process.", "group", "class"),
		handlerTime: histogram("handler_duration_seconds", "Time in the handlers of a group, for one event or one batch.", fast, "group"),
		latency:     histogram("event_latency_seconds", "From an event being recorded until its effects were committed; replays and redrives aside.", slow, "group"),
		calls:       counter("calls_total", "Outside calls and forwarded events, by outcome.", "group", "outcome"),
		callTime:    histogram("call_duration_seconds", "Duration of outside calls and of forwarding.", slow, "group"),

		sagasStarted: counter("sagas_started_total", "Sagas begun by this process.", "saga"),
		sagasEnded:   counter("sagas_ended_total", "Sagas that have come to their end, by status.", "saga", "status"),
		sagaSteps:    counter("saga_steps_total", "Steps of sagas, by outcome.", "saga", "step", "outcome"),

		requests:     counter("http_requests_total", "HTTP requests, by route, method and class of the status; \"broken\" when the connection was.", "route", "method", "status"),
		requestTime:  histogram("http_request_duration_seconds", "Duration of HTTP requests; live streams and waiting fetches aside.", fast, "route", "method"),
		inFlight:     gauge("http_requests_in_flight", "HTTP requests being answered.").WithLabelValues(),
		live:         gauge("live_clients", "Live streams that are open.").WithLabelValues(),
		deliveries:   counter("webhook_deliveries_total", "Posts to webhooks, by outcome.", "outcome"),
		deliveryTime: one(histogram("webhook_delivery_duration_seconds", "Duration of posts to webhooks.", slow)),
		denials:      counter("denials_total", "What was denied at the door, by the verb that was not granted.", "verb"),
		spans:        counter("trace_spans_total", "Spans exported and lost.", "outcome"),
		build:        gauge("build_info", "1, with the version of the program.", "version"),
	}
	for _, g := range gauges {
		all = append(all, described{"carebus_" + g.name, "gauge", g.help, g.labels})
	}
	m.described = append(all, described{"carebus_" + refusedName, "counter", refusedHelp, nil}, described{"carebus_" + failuresName, "counter", failuresHelp, []string{"what"}})
	m.sagaEventTypes = map[string]func(sagaEvent){
		"platform.saga.started":        func(e sagaEvent) { m.sagasStarted.WithLabelValues(m.names.sagas.get(e.Saga)).Inc() },
		"platform.saga.completed":      func(e sagaEvent) { m.sagasEnded.WithLabelValues(m.names.sagas.get(e.Saga), "completed").Inc() },
		"platform.saga.failed":         func(e sagaEvent) { m.sagasEnded.WithLabelValues(m.names.sagas.get(e.Saga), "failed").Inc() },
		"platform.saga.compensated":    func(e sagaEvent) { m.step(e, "compensated") },
		"platform.saga.step-failed":    func(e sagaEvent) { m.step(e, "failed") },
		"platform.saga.step-completed": func(e sagaEvent) { m.step(e, "completed") },
	}
	return m
}

// OnAppend counts what was stored.
func (m *metrics) OnAppend(ctx context.Context, events []event.Event, inTx bool) (context.Context, func([]eventstore.Receipt, error)) {
	begun := time.Now()
	return ctx, func(receipts []eventstore.Receipt, err error) {
		if !inTx {
			m.appends.WithLabelValues(outcomeOf(err)).Inc()
			if err == nil {
				m.appendTime.Observe(time.Since(begun).Seconds())
			}
		}
		for i := range receipts {
			if receipts[i].Duplicate {
				m.duplicates.Inc()
				continue
			}
			m.storedOf(events[i].Type).Inc()
			if tell := m.sagaEventTypes[events[i].Type]; tell != nil {
				var e sagaEvent
				if json.Unmarshal(events[i].Payload, &e) == nil {
					tell(e)
				}
			}
		}
	}
}

func (m *metrics) storedOf(eventType string) prometheus.Counter {
	if c, ok := m.storedByType.Load(eventType); ok {
		return c.(prometheus.Counter)
	}
	label := m.names.typ(eventType)
	d := domain(label)
	c := m.stored.WithLabelValues(d, label)
	if label != other {
		m.storedByType.Store(strings.Clone(eventType), c)
	}
	return c
}

// sagaEvent is what is counted of the events that sagas state: names of the code.
type sagaEvent struct {
	Saga string `json:"saga"`
	Step string `json:"step"`
}

func (m *metrics) step(e sagaEvent, outcome string) {
	saga, step := m.names.sagas.get(e.Saga), other
	if m.names.steps.get(e.Saga+"\x00"+e.Step) != other {
		step = e.Step
	}
	m.sagaSteps.WithLabelValues(saga, step, outcome).Inc()
}

// outcomeOf names what came of an append.
func outcomeOf(err error) string {
	var invalid *event.InvalidError
	switch {
	case err == nil:
		return "stored"
	case errors.As(err, &invalid):
		return "invalid"
	case errors.Is(err, eventstore.ErrConflict), errors.Is(err, eventstore.ErrDifferentContent):
		return "conflict"
	case errors.Is(err, eventstore.ErrBackPressure):
		return "back_pressure"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "cancelled"
	case errors.Is(err, eventstore.ErrFull):
		return "full"
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrClosed), errors.Is(err, eventstore.ErrCorrupt):
		return "unavailable"
	}
	return "refused" // by a rule: an unknown type, a schema
}

// OnCommit measures group commits.
func (m *metrics) OnCommit(c eventstore.Commit) {
	if c.Err != nil {
		m.commitFailed.Inc()
		return
	}
	m.commitTime.Observe(c.Took.Seconds())
	m.commitUnits.Observe(float64(c.Units))
	m.commitWait.Observe(c.Waited.Seconds())
}

func (m *metrics) group(name string) *groupMetrics {
	if g, ok := m.perGroup.Load(name); ok {
		return g.(*groupMetrics)
	}
	label := m.names.groups.get(name)
	g := &groupMetrics{
		label:   label,
		handled: m.handled.WithLabelValues(label, string(bus.Handled)), time: m.handlerTime.WithLabelValues(label), latency: m.latency.WithLabelValues(label),
	}
	if label != other {
		m.perGroup.Store(name, g)
	}
	return g
}

// OnHandle measures handlers.
func (m *metrics) OnHandle(ctx context.Context, records []eventstore.Record) (context.Context, func(bus.Handling)) {
	d := bus.DeliveryFrom(ctx)
	return ctx, func(h bus.Handling) {
		g := m.group(d.Group)
		if h.Result == bus.Undone {
			m.handled.WithLabelValues(g.label, string(h.Result)).Add(float64(len(records)))
			return
		}
		g.time.Observe(h.Took.Seconds())
		if h.Result == bus.Handled {
			g.handled.Add(float64(len(records)))
			if !d.Replay && !d.Redrive {
				now := time.Now()
				for i := range records {
					g.latency.Observe(max(now.Sub(records[i].RecordedAt).Seconds(), 0))
				}
			}
			return
		}
		m.handled.WithLabelValues(g.label, string(h.Result)).Add(float64(len(records)))
		m.failures.WithLabelValues(g.label, string(h.Class)).Inc()
		if h.Result == bus.Parked && !d.Redrive {
			m.keysParked.WithLabelValues(g.label, string(h.Class)).Inc()
		}
	}
}

// OnCall measures outside calls.
func (m *metrics) OnCall(ctx context.Context, _ eventstore.Record) (context.Context, func(error)) {
	begun, d := time.Now(), bus.DeliveryFrom(ctx)
	return ctx, func(err error) {
		label, outcome := m.names.groups.get(d.Group), "ok"
		if err != nil {
			outcome = "failed"
		}
		m.calls.WithLabelValues(label, outcome).Inc()
		m.callTime.WithLabelValues(label).Observe(time.Since(begun).Seconds())
	}
}

// OnRequest measures requests.
func (m *metrics) OnRequest(r *http.Request) (*http.Request, func(route string, status int)) {
	begun, method := time.Now(), methodOf(r.Method)
	m.inFlight.Inc()
	return r, func(route string, status int) {
		m.inFlight.Dec()
		label := m.route(route)
		class := "broken"
		if status > 0 {
			class = strconv.Itoa(status/100) + "xx"
		}
		m.requests.WithLabelValues(label, method, class).Inc()
		if !waits(route) {
			m.requestTime.WithLabelValues(label, method).Observe(time.Since(begun).Seconds())
		}
	}
}

// route is the label of a route: its pattern without the method. The patterns are those of the code; what fits none is
// "other", whatever its path.
func (m *metrics) route(pattern string) string {
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	if pattern == "" || pattern == "/" {
		return other
	}
	return m.names.routes.get(pattern)
}

// waits reports whether a route's requests last as long as nothing happens.
func waits(route string) bool {
	return strings.HasSuffix(route, "/v1/live") || strings.HasSuffix(route, "/v1/groups/{group}/fetch")
}

// methodOf bounds what a client may send as a method.
func methodOf(m string) string {
	switch m {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return m
	}
	return other
}

// OnLive shows how many live streams are open.
func (m *metrics) OnLive(clients int) { m.live.Set(float64(clients)) }

// OnDelivery counts posts to webhooks.
func (m *metrics) OnDelivery(ctx context.Context, _ string, _ eventstore.Record) (context.Context, func(outcome string, status int)) {
	begun := time.Now()
	return ctx, func(outcome string, _ int) {
		m.deliveries.WithLabelValues(strings.NewReplacer(" ", "_", "-", "_").Replace(outcome)).Inc()
		m.deliveryTime.Observe(time.Since(begun).Seconds())
	}
}

// OnDenial counts denials.
func (m *metrics) OnDenial(verb string) { m.denials.WithLabelValues(verb).Inc() }
