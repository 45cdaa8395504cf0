package telemetry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/gateway"
	"github.com/carebus/carebus/saga"
)

// receiver is a collector that takes OTLP over HTTP.
type receiver struct {
	t   *testing.T
	url string

	mu       sync.Mutex
	spans    []*tracepb.Span
	resource []*commonpb.KeyValue
	raw      []byte
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{t: t}
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	r.url = s.URL
	return r
}

// ServeHTTP takes spans.
func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var in collectorpb.ExportTraceServiceRequest
	if err == nil {
		err = proto.Unmarshal(body, &in)
	}
	if err != nil || req.Method != http.MethodPost || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
		r.t.Errorf("%s %s %s: %v", req.Method, req.URL, req.Header.Get("Content-Type"), err)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw = append(r.raw, body...)
	for _, rs := range in.GetResourceSpans() {
		r.resource = rs.GetResource().GetAttributes()
		for _, ss := range rs.GetScopeSpans() {
			r.spans = append(r.spans, ss.GetSpans()...)
		}
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
}

// flush has what has ended be sent, and returns all spans by name; several of one name are numbered from the second on.
func (r *receiver) flush(w *world) map[string]*tracepb.Span {
	r.t.Helper()
	if err := w.tel.tracing.provider.ForceFlush(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortStableFunc(r.spans, func(a, b *tracepb.Span) int {
		return int(int64(a.GetStartTimeUnixNano()) - int64(b.GetStartTimeUnixNano()))
	})
	out := map[string]*tracepb.Span{}
	ids := map[string]bool{}
	for _, s := range r.spans {
		id := hex.EncodeToString(s.GetTraceId()) + hex.EncodeToString(s.GetSpanId())
		if ids[id] {
			r.t.Errorf("two spans have the id %s, one of them %q", id, s.GetName())
		}
		ids[id] = true
		name := s.GetName()
		for n := 2; out[name] != nil; n++ {
			name = fmt.Sprint(s.GetName(), " ", n)
		}
		out[name] = s
	}
	return out
}

func attr(attrs []*commonpb.KeyValue, key string) string {
	for _, a := range attrs {
		if a.GetKey() == key {
			switch v := a.GetValue().GetValue().(type) {
			case *commonpb.AnyValue_StringValue:
				return v.StringValue
			case *commonpb.AnyValue_IntValue:
				return fmt.Sprint(v.IntValue)
			case *commonpb.AnyValue_BoolValue:
				return fmt.Sprint(v.BoolValue)
			}
		}
	}
	return ""
}

// tree renders who is whose child.
func tree(spans map[string]*tracepb.Span) string {
	var lines []string
	for name, s := range spans {
		parent := hex.EncodeToString(s.GetParentSpanId())
		for other, p := range spans {
			if len(s.GetParentSpanId()) > 0 && string(p.GetSpanId()) == string(s.GetParentSpanId()) && string(p.GetTraceId()) == string(s.GetTraceId()) {
				parent = other
			}
		}
		lines = append(lines, fmt.Sprintf("%s <- %s", name, parent))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

const (
	callerTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	callerSpan  = "00f067aa0ba902b7"
)

// TestOneTrace: from a request with a traceparent through publishing, a handler, what it publishes, a second handler, a webhook and
// its receiver: one trace, and every span has its parent.
func TestOneTrace(t *testing.T) {
	r := newReceiver(t)
	w := open(t, &Options{Endpoint: r.url, Version: "1.2.3"})
	err := errors.Join(
		w.Handle("first", bus.On(askedV1, func(_ context.Context, tx bus.Tx, e event.Of[payload]) error {
			return tx.Append(answeredV1.New(source, payload{Key: e.Payload.Key, N: e.Payload.N}))
		})),
		w.Handle("second", bus.On(answeredV1, func(context.Context, bus.Tx, event.Of[payload]) error { return nil })),
	)
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	url := w.serve(&gateway.Options{Webhooks: gateway.WebhookOptions{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	heard := make(chan http.Header, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) { heard <- req.Header }))
	defer hook.Close()
	if status, text := send(t, http.MethodPost, url+"/v1/webhooks", fmt.Sprintf(`{"id":"hook","url":%q,"patterns":["test.thing.answered"]}`, hook.URL)); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	w.idle() // the webhook's group begins behind what there is
	status, text := send(t, http.MethodPost, url+"/v1/events", envelope("E1", "test.thing.asked", "K1"), "traceparent", "00-"+callerTrace+"-"+callerSpan+"-01")
	if status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	header := <-heard
	w.idle()

	spans := r.flush(w)
	for name, s := range spans {
		if strings.Contains(name, "webhooks") || strings.Contains(name, "platform.") { // the making of the webhook is another trace
			delete(spans, name)
		} else if got := hex.EncodeToString(s.GetTraceId()); got != callerTrace && name != "publish test.thing.asked" || name == "publish test.thing.asked" && got != callerTrace {
			t.Errorf("%s is of the trace %s", name, got)
		}
	}
	want := `POST /v1/events <- ` + callerSpan + `
POST <- call test.thing.answered
call test.thing.answered <- publish test.thing.answered
process test.thing.answered 2 <- publish test.thing.answered
process test.thing.answered <- publish test.thing.answered
process test.thing.asked <- publish test.thing.asked
publish test.thing.answered <- process test.thing.asked
publish test.thing.asked <- POST /v1/events`
	if got := tree(spans); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	post := spans["POST"]
	if got, want := header.Get("Traceparent"), "00-"+callerTrace+"-"+hex.EncodeToString(post.GetSpanId())+"-01"; got != want {
		t.Errorf("the webhook was sent traceparent %s, want %s", got, want)
	}
	records, err := w.Store().Correlation(t.Context(), "flow-1", time.Time{}, 10)
	if err != nil || len(records) != 2 || records[0].TraceID != callerTrace || records[1].TraceID != callerTrace {
		t.Errorf("%d records, %v", len(records), err)
	}
	for name, kind := range map[string]tracepb.Span_SpanKind{
		"POST /v1/events": tracepb.Span_SPAN_KIND_SERVER, "publish test.thing.asked": tracepb.Span_SPAN_KIND_PRODUCER,
		"process test.thing.asked": tracepb.Span_SPAN_KIND_CONSUMER, "POST": tracepb.Span_SPAN_KIND_CLIENT,
	} {
		if spans[name].GetKind() != kind {
			t.Errorf("%s is a %v", name, spans[name].GetKind())
		}
	}
	process := spans["process test.thing.asked"].GetAttributes()
	for key, want := range map[string]string{
		"messaging.system": "carebus", "messaging.operation.type": "process", "messaging.destination.name": "test.thing.asked", "messaging.consumer.group.name": "first",
		"messaging.message.id": "E1", "messaging.message.conversation_id": "flow-1", "carebus.result": "handled", "carebus.attempt": "1",
	} {
		if got := attr(process, key); got != want {
			t.Errorf("%s = %q, want %q", key, got, want)
		}
	}
	if attr(spans["POST /v1/events"].GetAttributes(), "http.route") != "/v1/events" || attr(spans["POST /v1/events"].GetAttributes(), "http.response.status_code") != "201" {
		t.Errorf("%v", spans["POST /v1/events"].GetAttributes())
	}
	if attr(r.resource, "service.name") != "carebus" || attr(r.resource, "service.version") != "1.2.3" {
		t.Errorf("resource %v", r.resource)
	}
}

// TestOnlyWhatHappened: a run that was undone leaves no span, neither of its own nor of what it would have published; what is
// published twice has one span; what is refused has none.
func TestOnlyWhatHappened(t *testing.T) {
	r := newReceiver(t)
	w := open(t, &Options{Endpoint: r.url})
	failing := true
	err := w.Handle("g", bus.Backoff(time.Millisecond, time.Millisecond), bus.On(askedV1, func(_ context.Context, tx bus.Tx, e event.Of[payload]) error {
		if err := tx.Append(answeredV1.New(source, payload{Key: e.Payload.Key, N: e.Payload.N})); err != nil {
			return err
		}
		if failing && e.Payload.Key == "late" { // its neighbours are undone with it, and run again; then it fails alone, and succeeds
			failing = false
			return bus.Transient(errors.New("down"))
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	late := askedV1.New(source, payload{Key: "late", N: 1})
	late.ID, late.CorrelationID, late.Timestamp = "L1", "flow", 1763900000000
	w.publish(t.Context(), late)
	w.publish(t.Context(), late)
	other := late
	other.Payload = []byte(`{"key":"late","n":2}`)
	if _, err := w.Publish(t.Context(), other); !errors.Is(err, eventstore.ErrDifferentContent) {
		t.Fatal(err)
	}
	w.run()
	w.idle()
	spans := r.flush(w)
	want := `process test.thing.asked <- publish test.thing.asked
publish test.thing.answered <- process test.thing.asked
publish test.thing.asked <- `
	if got := tree(without(spans, "platform.")); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func without(spans map[string]*tracepb.Span, part string) map[string]*tracepb.Span {
	for name := range spans {
		if strings.Contains(name, part) {
			delete(spans, name)
		}
	}
	return spans
}

// TestForeignTrace: an event that comes with a trace of its own is published in that one, below its cause, with a link to the
// request.
func TestForeignTrace(t *testing.T) {
	r := newReceiver(t)
	w := open(t, &Options{Endpoint: r.url})
	w.run()
	url := w.serve(nil)
	text := strings.Replace(envelope("E2", "test.thing.asked", "K"), `"version"`, `"causationId":"E0","traceId":"`+callerTrace+`","version"`, 1)
	if status, text := send(t, http.MethodPost, url+"/v1/events", text); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	spans := without(r.flush(w), "platform.")
	published, request := spans["publish test.thing.asked"], spans["POST /v1/events"]
	if hex.EncodeToString(published.GetTraceId()) != callerTrace || hex.EncodeToString(published.GetParentSpanId()) != event.SpanOf("E0").String() ||
		hex.EncodeToString(published.GetSpanId()) != event.SpanOf("E2").String() {
		t.Errorf("%v", published)
	}
	if links := published.GetLinks(); len(links) != 1 || string(links[0].GetSpanId()) != string(request.GetSpanId()) || string(links[0].GetTraceId()) != string(request.GetTraceId()) {
		t.Errorf("links %v", links)
	}
}

// TestStepsAndBatches: steps of sagas are spans below the run, and a batch is linked to its events.
func TestStepsAndBatches(t *testing.T) {
	r := newReceiver(t)
	w := open(t, &Options{Endpoint: r.url})
	d := saga.Define("errand", 1,
		saga.Do("fetch", func(_ context.Context, tx bus.Tx, _ *payload) error {
			return tx.Append(askedV1.New(source, payload{Key: "fetched"}))
		}),
		saga.Call("pay", func(context.Context, string, payload) (int, error) { return 1, nil }, nil))
	if err := saga.Register(t.Context(), w, d); err != nil {
		t.Fatal(err)
	}
	batches := make(chan int, 10)
	if err := w.Handle("batch", bus.OnBatch("test.thing.answered", func(_ context.Context, _ bus.Tx, rs []eventstore.Record) error { batches <- len(rs); return nil })); err != nil {
		t.Fatal(err)
	}
	w.publish(t.Context(), answeredV1.New(source, payload{Key: "b"}), answeredV1.New(source, payload{Key: "b"}), answeredV1.New(source, payload{Key: "b"}))
	if err := d.Start(t.Context(), w.Store(), "S1", payload{Key: "s"}); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.idle()
	for {
		tick := w.Store().Tick()
		if x, err := saga.Show(t.Context(), w.Store(), "S1"); err != nil {
			t.Fatal(err)
		} else if x.Status.Ended() {
			break
		}
		if _, err := w.Store().Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	w.idle()
	spans := r.flush(w)
	if got := tree(spans); !strings.Contains(got, "step fetch <- process platform.saga.started") || !strings.Contains(got, "publish test.thing.asked <- step fetch") ||
		!strings.Contains(got, "step pay <- call platform.saga.step-started") {
		t.Errorf("got\n%s", got)
	}
	if n := <-batches; n != 3 || len(spans["process batch"].GetLinks()) != 3 {
		t.Errorf("a batch of %d has %d links", n, len(spans["process batch"].GetLinks()))
	}
}

// TestRatio: what is not sampled has ids and no spans; what a caller has sampled has the spans of the request.
func TestRatio(t *testing.T) {
	r := newReceiver(t)
	none := 0.0
	w := open(t, &Options{Endpoint: r.url, Ratio: &none})
	if err := w.Handle("g", bus.On(askedV1, func(_ context.Context, tx bus.Tx, e event.Of[payload]) error {
		return tx.Append(answeredV1.New(source, payload{Key: e.Payload.Key}))
	})); err != nil {
		t.Fatal(err)
	}
	w.run()
	url := w.serve(nil)
	if status, text := send(t, http.MethodPost, url+"/v1/events", envelope("E1", "test.thing.asked", "K1")); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	w.idle()
	if spans := r.flush(w); len(spans) != 0 {
		t.Errorf("%d spans", len(spans))
	}
	records, err := w.Store().Correlation(t.Context(), "flow-1", time.Time{}, 10)
	if err != nil || len(records) != 2 || records[0].TraceID == "" || records[1].TraceID != records[0].TraceID {
		t.Errorf("%v, %v", records, err)
	}
	if status, text := send(t, http.MethodPost, url+"/v1/events", envelope("E2", "test.thing.asked", "K1"), "traceparent", "00-"+callerTrace+"-"+callerSpan+"-01"); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	w.idle()
	if got := tree(r.flush(w)); got != "POST /v1/events <- "+callerSpan+"\npublish test.thing.asked <- POST /v1/events" {
		t.Errorf("got\n%s", got)
	}
	for text, want := range map[string]float64{"0.25": 0.25, "": 1} {
		t.Setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
		t.Setenv("OTEL_TRACES_SAMPLER_ARG", text)
		if got, err := ratioOf(Options{}); err != nil || got != want {
			t.Errorf("ratio %v, %v", got, err)
		}
	}
	t.Setenv("OTEL_TRACES_SAMPLER_ARG", "2")
	if _, err := New(t.Context(), &Options{Endpoint: r.url}); err == nil {
		t.Error("a ratio of 2 is accepted")
	}
	if _, err := New(t.Context(), &Options{Endpoint: "collector:4317"}); err == nil {
		t.Error("an endpoint without a scheme is accepted")
	}
}

// TestDeadCollector: a collector that takes connections and never answers holds up nobody. What does not fit into the queue is
// dropped, and the end does not wait longer than it is told to.
func TestDeadCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			held = append(held, c)
		}
	}()
	defer func() {
		_ = l.Close()
		<-accepting
		for _, c := range held {
			_ = c.Close()
		}
	}()
	w := open(t, nil) // closes without a collector
	tel, err := New(t.Context(), &Options{Endpoint: "http://" + l.Addr().String(), Logger: w.tel.log})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	const n = 5000 // more than the queue holds
	for i := range n {
		_, end := tel.tracing.OnAppend(ctx, []event.Event{answeredV1.New(source, payload{Key: "k", N: i})}, false)
		end([]eventstore.Receipt{{Partition: 1, Offset: int64(i)}}, nil)
	}
	ended := 0.0
	all, err := tel.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == "carebus_trace_spans_total" {
			for _, m := range f.GetMetric() {
				if m.GetLabel()[0].GetValue() == "ended" {
					ended = m.GetCounter().GetValue()
				}
			}
		}
	}
	if ended != n {
		t.Errorf("%v spans have ended of %d", ended, n)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	if err := tel.Shutdown(over); err == nil {
		t.Error("the spans were sent to nobody")
	}
}
