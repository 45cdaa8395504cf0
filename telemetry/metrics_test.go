package telemetry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
)

// TestMetricsTellWhatHappened: one of each thing, and its metric.
func TestMetricsTellWhatHappened(t *testing.T) {
	w := open(t, nil)
	ctx := context.Background()
	boom, down := errors.New("boom"), 2 // the first run is undone, and run again with care
	err := w.Handle("strict", bus.Tries(2), bus.Backoff(time.Millisecond, time.Millisecond), bus.On(askedV1, func(_ context.Context, tx bus.Tx, e event.Of[payload]) error {
		switch {
		case e.Payload.Note == "bad":
			return boom
		case e.Payload.Note == "down" && down > 0:
			down--
			return bus.Transient(boom)
		}
		return tx.Append(answeredV1.New(source, payload{Key: e.Payload.Key, N: e.Payload.N}))
	}))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Handle("lenient", bus.Tries(1), bus.OnFailure(bus.SkipEvent), bus.OnBatch("test.thing.answered", func(context.Context, bus.Tx, []eventstore.Record) error { return boom })); err != nil {
		t.Fatal(err)
	}
	stop := w.run()
	good := askedV1.New(source, payload{Key: "good", N: 1})
	good.ID, good.Timestamp, good.CorrelationID = "G1", 1763900000000, "flow"
	w.publish(ctx, good)
	w.publish(ctx, good)
	w.idle()
	w.publish(ctx, askedV1.New(source, payload{Key: "sick", N: 1, Note: "bad"}))
	w.idle()
	w.publish(ctx, askedV1.New(source, payload{Key: "late", N: 1, Note: "down"}))
	w.idle()
	w.publish(ctx, askedV1.New(source, payload{Key: "sick", N: 2})) // waits behind the parked one
	w.idle()
	other := good
	other.Payload = []byte(`{"key":"other","n":2}`)
	if _, err := w.Publish(ctx, other); !errors.Is(err, eventstore.ErrDifferentContent) {
		t.Fatal(err)
	}
	if _, err := w.Append(ctx, "test/1", 7, askedV1.New(source, payload{Key: "x", N: 1})); !errors.Is(err, eventstore.ErrConflict) {
		t.Fatal(err)
	}
	if _, err := w.Publish(ctx, event.Event{Metadata: event.Metadata{Type: "Bad", Source: source, Version: "1.0.0"}, Payload: []byte(`{}`)}); err == nil {
		t.Fatal("a bad event was accepted")
	}
	if _, err := w.Publish(ctx, event.Event{Metadata: event.Metadata{Type: "test.thing.unheard", Source: source, Version: "1.0.0"}, Payload: []byte(`{}`)}); err == nil {
		t.Fatal("an unknown event was accepted")
	}
	w.want(4, "events_stored_total", "type", "test.thing.asked", "domain", "test")
	w.want(2, "events_stored_total", "type", "test.thing.answered")
	w.want(1, "events_stored_total", "type", "platform.key.parked")
	w.want(2, "events_stored_total", "type", "platform.key.skipped")
	w.want(1, "events_duplicate_total")
	w.want(2, "appends_total", "outcome", "conflict")
	w.want(2, "appends_total", "outcome", "invalid")
	w.want(w.value("appends_total", "outcome", "stored"), "append_duration_seconds")
	w.want(2, "handled_total", "group", "strict", "result", "handled")
	w.want(2, "event_latency_seconds", "group", "strict")
	w.want(1, "handled_total", "group", "strict", "result", "parked")
	w.want(2, "handled_total", "group", "strict", "result", "retried") // the sick event, and the late one
	w.want(1, "handler_failures_total", "group", "strict", "class", "dependency")
	w.want(2, "handler_failures_total", "group", "strict", "class", "permanent")
	w.want(1, "keys_parked_total", "group", "strict", "class", "permanent")
	w.want(1, "parked_keys", "group", "strict", "class", "permanent")
	w.want(2, "parked_events", "group", "strict", "class", "permanent")
	w.want(2, "handled_total", "group", "lenient", "result", "skipped")
	w.want(0, "group_lag_events")
	w.want(0, "group_lag_seconds")
	w.want(1, "group_state", "group", "strict", "state", "running")
	w.want(1, "group_members", "group", "strict")
	w.want(0, "breaker_open", "group", "strict")
	if w.value("store_bytes", "part", "data") == 0 || w.value("store_bytes", "part", "wal") == 0 {
		t.Error("the store has no size")
	}
	var total int64
	heads, err := w.Store().Heads(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		total += h
	}
	w.want(float64(total), "store_events")
	if s := w.Store().Stats(); float64(s.Commits) != w.value("commit_units") || s.Commits == 0 {
		t.Errorf("%d commits, %v observed", s.Commits, w.value("commit_units"))
	}

	if err := w.Timers().Set(ctx, "soon", time.Now().Add(time.Hour), answeredV1.New(source, payload{Key: "t"})); err != nil {
		t.Fatal(err)
	}
	w.want(1, "timers_pending")
	w.want(0, "timers_late")
	if err := w.Bus().Pause(ctx, "strict", bus.Act{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	w.want(1, "group_state", "group", "strict", "state", "paused")
	stop()
	w.publish(ctx, askedV1.New(source, payload{Key: "k", N: 1}))
	if err := w.Timers().Set(ctx, "past", time.Now().Add(-time.Minute), answeredV1.New(source, payload{Key: "t"})); err != nil {
		t.Fatal(err)
	}
	if w.value("group_lag_events", "group", "strict") < 1 || w.value("group_lag_seconds", "group", "strict") <= 0 {
		t.Error("what waits is no lag")
	}
	w.want(1, "timers_late")
	if late := w.value("timers_late_seconds"); late < 59 {
		t.Errorf("late by %v s, of a minute", late)
	}
	for _, what := range []string{"groups", "sagas", "projections", "timers", "store"} {
		w.want(0, "collect_failures_total", "what", what)
	}
}

// TestCountsEqualTheStore: whatever is undone and run again, what was stored is counted once.
func TestCountsEqualTheStore(t *testing.T) {
	w := open(t, nil)
	seed := rand.Uint64()
	t.Log("seed", seed)
	for _, group := range []string{"one", "two"} {
		err := w.Handle(group, carebustest.Faults(seed, 0.2), bus.Backoff(time.Millisecond, time.Millisecond), bus.BreakAfter(1000),
			bus.On(askedV1, func(_ context.Context, tx bus.Tx, e event.Of[payload]) error {
				_ = tx.Savepoint(func() error { // never to be seen
					return errors.Join(tx.Append(answeredV1.New(source, payload{Key: "undone", N: -1})), errors.New("undo it"))
				})
				return tx.Append(answeredV1.New(source, payload{Key: e.Payload.Key, N: e.Payload.N}))
			}))
		if err != nil {
			t.Fatal(err)
		}
	}
	w.run()
	const n = 400
	for i := 0; i < n; i += 20 {
		var events []event.Event
		for j := range 20 {
			events = append(events, askedV1.New(source, payload{Key: fmt.Sprint("k", (i+j)%37), N: i + j}))
		}
		w.publish(t.Context(), events...)
	}
	w.idle()
	types, err := w.Store().Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if types["test.thing.answered"] != 2*n {
		t.Errorf("%d answers to %d questions of two groups", types["test.thing.answered"], n)
	}
	for eventType, stored := range types {
		w.want(float64(stored), "events_stored_total", "type", eventType)
	}
	for _, group := range []string{"one", "two"} {
		w.want(n, "handled_total", "group", group, "result", "handled")
		w.want(n, "event_latency_seconds", "group", group)
	}
	if w.value("handled_total", "result", "retried") == 0 || w.value("handled_total", "result", "undone") == 0 {
		t.Error("no fault was injected: the test shows nothing")
	}
}

// TestSagaMetrics: what sagas have come to, and what is under way.
func TestSagaMetrics(t *testing.T) {
	w := open(t, nil)
	ctx := t.Context()
	type state struct {
		Covered bool `json:"covered"`
	}
	d := saga.Define("errand", 1,
		saga.Do("reserve", func(context.Context, bus.Tx, *state) error { return nil }).Compensate(func(context.Context, bus.Tx, *state) error { return nil }),
		saga.Call("claim", func(_ context.Context, _ string, s state) (int, error) {
			if !s.Covered {
				return 0, saga.Refuse("not-covered")
			}
			return 1, nil
		}, nil),
		saga.Await("answer", func(state) string { return "A1" }, saga.On[state](answeredV1, func(e payload) string { return e.Key }, nil)))
	if err := saga.Register(ctx, w, d); err != nil {
		t.Fatal(err)
	}
	w.run()
	for id, s := range map[string]state{"S1": {true}, "S2": {false}} {
		if err := d.Start(ctx, w.Store(), id, s); err != nil {
			t.Fatal(err)
		}
	}
	until := func(id string, is func(x saga.Detail) bool) {
		for {
			tick := w.Store().Tick()
			x, err := saga.Show(ctx, w.Store(), id)
			if err != nil {
				t.Fatal(err)
			}
			if is(x) {
				return
			}
			if _, err := w.Store().Wait(ctx, tick); err != nil {
				t.Fatal(err)
			}
		}
	}
	until("S1", func(x saga.Detail) bool { return strings.Contains(x.Step, "answer") })
	until("S2", func(x saga.Detail) bool { return x.Status.Ended() })
	w.want(1, "saga_instances", "saga", "errand", "status", "running")
	w.publish(ctx, answeredV1.New(source, payload{Key: "A1", N: 1}))
	until("S1", func(x saga.Detail) bool { return x.Status.Ended() })
	w.want(0, "saga_instances", "saga", "errand")
	w.idle() // what was committed has been counted by then
	w.want(2, "sagas_started_total", "saga", "errand")
	w.want(1, "sagas_ended_total", "saga", "errand", "status", "completed")
	w.want(1, "sagas_ended_total", "saga", "errand", "status", "failed")
	w.want(2, "saga_steps_total", "step", "reserve", "outcome", "completed")
	w.want(1, "saga_steps_total", "step", "reserve", "outcome", "compensated")
	w.want(1, "saga_steps_total", "step", "claim", "outcome", "failed")
	w.want(1, "saga_steps_total", "step", "answer", "outcome", "completed")
	w.want(2, "calls_total", "group", "saga-errand-calls", "outcome", "ok")
}

// TestSeriesAreBounded: thousands of keys, flows, sources, paths, methods and groups make no more series than the bounds, and
// nothing that a client sends becomes a label.
func TestSeriesAreBounded(t *testing.T) {
	w := open(t, nil)
	ctx := t.Context()
	canary := "canary7731"
	if err := w.Handle("all", bus.OnRecord("test.**", func(context.Context, bus.Tx, eventstore.Record) error { return nil })); err != nil {
		t.Fatal(err)
	}
	w.run()
	url := w.serve(nil)
	count := func() (series int, text string) {
		status, text := send(t, http.MethodGet, url+"/metrics", "")
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "carebus_") {
				series++
			}
		}
		return series, text
	}
	for i := range 20 { // everything that there is once
		e := askedV1.New(source, payload{Key: "k"})
		e.ID, e.CorrelationID = fmt.Sprint("first-", i), "flow"
		w.publish(ctx, e)
		send(t, http.MethodGet, url+"/nowhere", "")
		send(t, "BREW", url+"/v1/events", "")
		send(t, http.MethodGet, url+"/v1/dead-letters/all/none", "")
	}
	w.idle()
	count()
	before, _ := count()
	for i := 0; i < 2000; i += 100 {
		var events []event.Event
		for j := range 100 {
			e := askedV1.New(fmt.Sprint(canary, "-source-", i+j), payload{Key: fmt.Sprint(canary, i+j), Note: canary})
			e.CorrelationID = fmt.Sprint(canary, "-flow-", i+j)
			events = append(events, e)
		}
		w.publish(ctx, events...)
	}
	for i := range 200 {
		send(t, http.MethodGet, fmt.Sprint(url, "/", canary, "/", i), "")
		send(t, http.MethodGet, fmt.Sprint(url, "/v1/dead-letters/all/", canary, i), "")
		send(t, http.MethodGet, fmt.Sprint(url, "/v1/events/", canary, i), "")
		send(t, fmt.Sprint("BREW", i), url+"/v1/events", "")
	}
	w.idle()
	after, text := count()
	if after-before > 40 { // the routes that were not asked for before
		t.Errorf("%d series have become %d", before, after)
	}
	if i := strings.Index(text, canary); i >= 0 {
		t.Errorf("a client's words are in the metrics: %.200s", text[max(0, i-80):])
	}

	m := w.tel.metrics
	for i := range 3 * maxNames {
		m.group(fmt.Sprint("group-", i)).handled.Inc()
		m.step(sagaEvent{Saga: fmt.Sprint("saga-", i), Step: fmt.Sprint("step-", i)}, "completed")
	}
	for i := range 2 * maxTypes {
		m.names.types.get(fmt.Sprint("registered.type.number", i))
		m.storedOf(fmt.Sprint("registered.type.number", i)).Inc()
		m.storedOf(fmt.Sprint("unknown.type.number", i)).Inc()
	}
	for name, bound := range map[string]int{"carebus_handled_total": 7 * (maxNames + 1), "carebus_saga_steps_total": maxSteps + 1, "carebus_events_stored_total": maxTypes + 1} {
		if n := len(w.gather()[name].GetMetric()); n > bound {
			t.Errorf("%s has %d series, more than %d", name, n, bound)
		}
	}
}

// TestACollectionThatFails: the store's last answers are served, and their age and the failure are told.
func TestACollectionThatFails(t *testing.T) {
	w := open(t, &Options{CollectTimeout: time.Nanosecond})
	w.gather()
	if w.value("collect_failures_total") == 0 {
		t.Fatal("a question was answered in no time")
	}
	w.tel.collect.timeout = time.Minute
	w.value("store_events")
	events, failures := w.value("store_events"), w.value("collect_failures_total")
	if events == 0 {
		t.Fatal("no answer")
	}
	w.tel.collect.timeout = time.Nanosecond
	if w.value("timers_pending"); w.value("collect_failures_total") <= failures {
		t.Error("the failure is not counted")
	}
	if w.value("store_events") != events || w.value("collect_age_seconds", "what", "store") <= 0 {
		t.Error("the last answer is gone")
	}
}
