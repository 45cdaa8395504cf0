package telemetry

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/saga"
)

// collector asks the store when Prometheus scrapes. Scrapes that come soon after another are given the same answers, and one
// for which the store takes too long is given those of before: collect_age_seconds tells how old they are.
type collector struct {
	names          *names
	every, timeout time.Duration
	descs          map[string]*prometheus.Desc

	mu       sync.Mutex // held while the store is asked: one at a time
	p        *carebus.Platform
	answers  map[string]answer // by the name of the question
	failures map[string]int
}

// answer is what a question came to.
type answer struct {
	at      time.Time
	metrics []prometheus.Metric
}

// question is a part of what is asked of the store. Each fails by itself.
type question struct {
	name string
	ask  func(c *collector, ctx context.Context) ([]prometheus.Metric, error)
}

var questions = [...]question{
	{"groups", (*collector).askGroups}, {"sagas", (*collector).askSagas}, {"projections", (*collector).askProjections},
	{"timers", (*collector).askTimers}, {"store", (*collector).askStore},
}

// The gauges that are asked for.
var gauges = []struct {
	name, help string
	labels     []string
}{
	{"group_lag_events", "Events stored that a group has not looked at yet.", []string{"group"}},
	{"group_lag_seconds", "Age of the first of them; 0 when there is none.", []string{"group"}},
	{"group_state", "1 for the state that a group is in: running, paused by a person, stopped by itself.", []string{"group", "state"}},
	{"group_members", "Processes that are members of a group.", []string{"group"}},
	{"parked_keys", "Keys that are parked: dead letters.", []string{"group", "class"}},
	{"parked_events", "Events of parked keys, waiting.", []string{"group", "class"}},
	{"breaker_open", "1 while the circuit breaker of a group is open in this process.", []string{"group"}},
	{"saga_instances", "Sagas that have not come to an end, by status; at most 10,000 of each status are counted.", []string{"saga", "status"}},
	{"projection_lag_events", "Events stored that a read model has not looked at yet.", []string{"projection"}},
	{"projection_parked_keys", "Keys of a read model that are parked.", []string{"projection"}},
	{"projection_building", "1 while another generation of a read model is being built.", []string{"projection"}},
	{"projection_build_ratio", "How much of a build is done, 0 to 1; 0 when there is none.", []string{"projection"}},
	{"timers_pending", "Timers that are to fire; at most 100,000 are counted.", nil},
	{"timers_late", "Timers that have been due for more than a second.", nil},
	{"timers_late_seconds", "How long the first of them has been due.", nil},
	{"store_bytes", "Bytes that the store takes on disk.", []string{"part"}},
	{"store_events", "Events in the store.", nil},
	{"queue_units", "Appends and transactions waiting for a commit.", nil},
	{"queue_bytes", "Bytes of the appends that wait.", nil},
	{"collect_age_seconds", "Age of the answers of the store that this scrape was given.", []string{"what"}},
}

// The counters that are asked for.
const (
	refusedName  = "queue_refused_total"
	failuresName = "collect_failures_total"
	refusedHelp  = "Callers who gave up while the queue of writers was full: back pressure."
	failuresHelp = "Questions that the store did not answer in time, or with an error."
)

func newCollector(n *names, every, timeout time.Duration) *collector {
	c := &collector{names: n, every: every, timeout: timeout, descs: map[string]*prometheus.Desc{}, answers: map[string]answer{}, failures: map[string]int{}}
	for _, g := range gauges {
		c.descs[g.name] = prometheus.NewDesc("carebus_"+g.name, g.help, g.labels, nil)
	}
	c.descs[refusedName] = prometheus.NewDesc("carebus_"+refusedName, refusedHelp, nil, nil)
	c.descs[failuresName] = prometheus.NewDesc("carebus_"+failuresName, failuresHelp, []string{"what"}, nil)
	return c
}

func (c *collector) watch(p *carebus.Platform) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.p = p
}

// Describe is for prometheus.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		out <- d
	}
}

// Collect is for prometheus.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	for _, q := range questions {
		a, ok := c.answers[q.name]
		if !ok || time.Since(a.at) >= c.every {
			fresh, err := q.ask(c, ctx)
			switch {
			case err == nil:
				a = answer{time.Now(), fresh}
				c.answers[q.name] = a
			case !errors.Is(err, eventstore.ErrClosed):
				c.failures[q.name]++
			}
		}
		for _, m := range a.metrics {
			out <- m
		}
		if !a.at.IsZero() {
			out <- c.gauge("collect_age_seconds", time.Since(a.at).Seconds(), q.name)
		}
		out <- prometheus.MustNewConstMetric(c.descs[failuresName], prometheus.CounterValue, float64(c.failures[q.name]), q.name)
	}
	// What costs nothing is always of now.
	stats := c.p.Store().Stats()
	out <- c.gauge("queue_units", float64(stats.Queued))
	out <- c.gauge("queue_bytes", float64(stats.Bytes))
	out <- prometheus.MustNewConstMetric(c.descs[refusedName], prometheus.CounterValue, float64(stats.Refused))
	if b := c.p.Bus(); b != nil {
		open := sums{}
		for group, is := range b.BreakerOpen() {
			open.add(truth(is), c.names.groups.get(group))
		}
		for _, m := range c.gauges("breaker_open", open) {
			out <- m
		}
	}
}

func (c *collector) gauge(name string, v float64, labels ...string) prometheus.Metric {
	return prometheus.MustNewConstMetric(c.descs[name], prometheus.GaugeValue, v, labels...)
}

// sums add up what has the same labels: what is beyond the bound of a label set is "other" together.
type sums map[[2]string]float64

func (s sums) add(v float64, labels ...string) {
	var key [2]string
	copy(key[:], labels)
	s[key] += v
}

// top keeps the largest.
func (s sums) top(v float64, labels ...string) {
	var key [2]string
	copy(key[:], labels)
	s[key] = max(s[key], v)
}

func (c *collector) gauges(name string, s sums) []prometheus.Metric {
	n := 0
	for _, g := range gauges {
		if g.name == name {
			n = len(g.labels)
		}
	}
	out := make([]prometheus.Metric, 0, len(s))
	for key, v := range s {
		out = append(out, c.gauge(name, v, key[:n]...))
	}
	return out
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func (c *collector) askGroups(ctx context.Context) ([]prometheus.Metric, error) {
	b := c.p.Bus()
	if b == nil {
		return nil, nil
	}
	groups, err := b.Summary(ctx)
	if err != nil {
		return nil, err
	}
	lag, age, state, members, keys, events := sums{}, sums{}, sums{}, sums{}, sums{}, sums{}
	for _, g := range groups {
		label := c.names.groups.get(g.Name)
		if !g.LagUnknown { // no figure is better than one that looks well
			lag.add(float64(g.Lag), label)
			switch {
			case !g.Oldest.IsZero():
				age.top(max(time.Since(g.Oldest).Seconds(), 0), label)
			case g.Lag == 0:
				age.top(0, label)
			}
		}
		members.add(float64(g.Members), label)
		for _, s := range []string{"running", "paused", "stopped"} {
			state.add(truth(g.State == s), label, s)
		}
		for _, class := range []bus.Class{bus.Dependency, bus.Permanent, bus.Suspect} {
			keys.add(float64(g.Parked[class].Keys), label, string(class))
			events.add(float64(g.Parked[class].Events), label, string(class))
		}
	}
	out := c.gauges("group_lag_events", lag)
	out = append(out, c.gauges("group_lag_seconds", age)...)
	out = append(out, c.gauges("group_members", members)...)
	out = append(out, c.gauges("group_state", state)...)
	out = append(out, c.gauges("parked_keys", keys)...)
	return append(out, c.gauges("parked_events", events)...), nil
}

func (c *collector) askSagas(ctx context.Context) ([]prometheus.Metric, error) {
	counts, err := saga.CountOpen(ctx, c.p.Store())
	if err != nil {
		return nil, err
	}
	instances := sums{}
	for name, byStatus := range counts {
		for _, s := range []saga.Status{saga.Running, saga.Compensating, saga.Stuck, saga.Parked} {
			instances.add(float64(byStatus[s]), c.names.sagas.get(name), string(s))
		}
	}
	// One that had instances a moment ago has none now: say so, instead of nothing.
	c.names.sagas.known.Range(func(name, _ any) bool {
		for _, s := range []saga.Status{saga.Running, saga.Compensating, saga.Stuck, saga.Parked} {
			instances.add(0, name.(string), string(s))
		}
		return true
	})
	return c.gauges("saga_instances", instances), nil
}

func (c *collector) askProjections(ctx context.Context) ([]prometheus.Metric, error) {
	if c.p.Bus() == nil { // read-only: List would have to create its tables
		return nil, nil
	}
	all, err := projection.List(ctx, c.p.Store())
	if err != nil {
		return nil, err
	}
	lag, parked, building, ratio := sums{}, sums{}, sums{}, sums{}
	for _, s := range all {
		label := c.names.projections.get(s.Name)
		lag.add(float64(s.Lag), label)
		parked.add(float64(s.ParkedKeys), label)
		building.add(truth(s.Build != nil), label)
		part := 0.0
		if s.Build != nil && s.Build.Total > 0 {
			part = float64(s.Build.Done) / float64(s.Build.Total)
		}
		ratio.top(part, label)
	}
	out := c.gauges("projection_lag_events", lag)
	out = append(out, c.gauges("projection_parked_keys", parked)...)
	out = append(out, c.gauges("projection_building", building)...)
	return append(out, c.gauges("projection_build_ratio", ratio)...), nil
}

func (c *collector) askTimers(ctx context.Context) ([]prometheus.Metric, error) {
	t := c.p.Timers()
	if t == nil {
		return nil, nil
	}
	s, err := t.Stats(ctx)
	if err != nil {
		return nil, err
	}
	late := 0.0
	if s.Late > 0 {
		late = time.Since(s.Oldest).Seconds()
	}
	return []prometheus.Metric{c.gauge("timers_pending", float64(s.Pending)), c.gauge("timers_late", float64(s.Late)), c.gauge("timers_late_seconds", late)}, nil
}

func (c *collector) askStore(ctx context.Context) ([]prometheus.Metric, error) {
	size, err := c.p.Store().Size(ctx)
	if err != nil {
		return nil, err
	}
	heads, err := c.p.Store().Heads(ctx)
	if err != nil {
		return nil, err
	}
	var events int64
	for _, h := range heads {
		events += h
	}
	out := []prometheus.Metric{c.gauge("store_events", float64(events))}
	for part, n := range size {
		out = append(out, c.gauge("store_bytes", float64(n), part))
	}
	return out, nil
}
