package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

func nativeOf(t testing.TB, e event.Event) string {
	t.Helper()
	return string(e.AppendJSON(nil))
}

func TestPublishForms(t *testing.T) {
	_, p, s := newGateway(t, nil)
	url := s.URL + "/v1/events"
	binary := func(e event.Event) (string, []string) {
		var headers []string
		for name, value := range event.CloudEventHeaders(event.HTTP, e) {
			headers = append(headers, name, value)
		}
		return string(e.Payload), headers
	}
	one := enrolled("P1", 1)
	body, headers := binary(enrolled("P1", 9))
	for _, c := range []struct {
		name, body string
		headers    []string
		status, n  int
	}{
		{"object", nativeOf(t, one), nil, 201, 1},
		{"object again", nativeOf(t, one), nil, 200, 1},
		{"array", "[" + nativeOf(t, enrolled("P1", 2)) + " ,\n" + nativeOf(t, enrolled("P2", 3)) + "]", nil, 201, 2},
		{"lines", nativeOf(t, enrolled("P1", 4)) + "\n" + nativeOf(t, enrolled("P2", 5)) + "\n", []string{"Content-Type", "application/x-ndjson"}, 201, 2},
		{"CloudEvent as JSON", string(event.AppendCloudEvent(nil, enrolled("P1", 6))), nil, 201, 1},
		{"structured", string(event.AppendCloudEvent(nil, enrolled("P1", 7))), []string{"Content-Type", "application/cloudevents+json; charset=UTF-8"}, 201, 1},
		{"batched", string(event.AppendCloudEventBatch(nil, []event.Event{enrolled("P1", 8), enrolled("P2", 8)})), []string{"Content-Type", "application/cloudevents-batch+json"}, 201, 2},
		{"binary", body, headers, 201, 1},
		{"byte order mark", "\xef\xbb\xbf" + nativeOf(t, enrolled("P1", 10)), nil, 201, 1},
	} {
		var out published
		status, text := send(t, http.MethodPost, url, c.body, c.headers...)
		if err := json.Unmarshal(text, &out); err != nil || status != c.status || out.Published+out.Duplicates != c.n || len(out.Results) != c.n {
			t.Errorf("%s: %d %s", c.name, status, text)
			continue
		}
		for _, r := range out.Results {
			got, err := p.Store().Get(t.Context(), r.EventID)
			if err != nil || got.Offset != *r.Offset || got.Partition != *r.Partition {
				t.Errorf("%s: %+v is not where its receipt says: %+v, %v", c.name, got.Metadata, r, err)
			}
		}
	}
}

func TestPublishRefusals(t *testing.T) {
	_, p, s := newGateway(t, &Options{MaxBody: 64 << 10, MaxEvents: 20})
	url := s.URL + "/v1/events"
	good, bad := nativeOf(t, enrolled("P1", 1)), strings.Replace(nativeOf(t, enrolled("P1", 2)), `"patientId":"P1",`, "", 1)
	stored := enrolled("P9", 1)
	publishMany(t, p, stored)
	other := stored
	other.Payload = enrolled("P9", 2).Payload
	platform := strings.Replace(good, "patient.enrolled", "platform.group.paused", 1)
	before, err := p.Store().Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, query, body, contentType string
		status                         int
		rule                           string
	}{
		{"nothing", "", "", "application/json", 400, ""},
		{"empty array", "", "[]", "application/json", 400, ""},
		{"no JSON", "", "patient", "application/json", 422, "json.syntax"},
		{"array not closed", "", "[" + good, "application/json", 422, "json.syntax"},
		{"array without comma", "", "[" + good + good + "]", "application/json", 422, "json.syntax"},
		{"array with a tail", "", "[" + good + "]x", "application/json", 422, "json.syntax"},
		{"array with a trailing comma", "", "[" + good + ",]", "application/json", 422, "json.syntax"},
		{"array of numbers", "", "[1]", "application/json", 422, "json.syntax"},
		{"one of two is bad", "", "[" + good + "," + bad + "]", "application/json", 422, "required"},
		{"reserved", "", platform, "application/json", 422, "event.reserved"},
		{"different content", "", nativeOf(t, other), "application/json", 409, ""},
		{"content type", "", good, "text/plain", 415, ""},
		{"charset", "", good, "application/json; charset=latin1", 415, ""},
		{"too large", "", `{"x":"` + strings.Repeat("x", 64<<10) + `"}`, "application/json", 413, ""},
		{"too many", "", strings.Repeat(good+"\n", 21), "application/json", 413, ""},
		{"atomic", "?atomic=perhaps", good, "application/json", 400, ""},
		{"expected alone", "?expected=1", good, "application/json", 400, ""},
		{"expected a word", "?expected=x&stream=patient.record/P1", good, "application/json", 400, ""},
		{"conflict", "?expected=3&stream=patient.record/P1", good, "application/json", 409, ""},
		{"a stream, not atomic", "?atomic=false&stream=patient.record/P1", good, "application/json", 400, ""},
	} {
		status, text := send(t, http.MethodPost, url+c.query, c.body, "Content-Type", c.contentType)
		var problem Problem
		if err := json.Unmarshal(text, &problem); err != nil || status != c.status || problem.Status != c.status || problem.Type == "" {
			t.Errorf("%s: %d %s", c.name, status, text)
			continue
		}
		if c.rule != "" && (len(problem.Findings) == 0 || !strings.HasPrefix(problem.Findings[0].Findings[0].Rule, c.rule)) {
			t.Errorf("%s: %s, want the rule %s", c.name, text, c.rule)
		}
	}
	if after, err := p.Store().Heads(t.Context()); err != nil || fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("something was stored: %v, then %v (%v)", before, after, err)
	}
}

// TestPublishEach: with atomic=false every event has its own fate.
func TestPublishEach(t *testing.T) {
	_, p, s := newGateway(t, nil)
	stored := enrolled("P9", 1)
	publishMany(t, p, stored)
	other := stored
	other.Payload = enrolled("P9", 2).Payload
	body := strings.Join([]string{
		nativeOf(t, enrolled("P1", 1)), `{"metadata":{}}`, nativeOf(t, stored), nativeOf(t, other),
		strings.Replace(nativeOf(t, enrolled("P1", 2)), "patient.enrolled", "nobody.knows.this", 1), nativeOf(t, enrolled("P2", 3)),
	}, "\n")
	for _, dry := range []bool{true, false} {
		var out published
		status, text := send(t, http.MethodPost, s.URL+"/v1/events?atomic=false&dryRun="+fmt.Sprint(dry), body)
		if err := json.Unmarshal(text, &out); err != nil || status != http.StatusMultiStatus || len(out.Results) != 6 {
			t.Fatalf("%d %s", status, text)
		}
		refused := ""
		for _, r := range out.Results {
			if r.Refused {
				refused += fmt.Sprint(r.Index, " ")
				if len(r.Findings) == 0 || r.Findings[0].Rule == "" {
					t.Errorf("refused without a finding: %+v", r)
				}
			}
		}
		if want := map[bool]string{true: "1 4 ", false: "1 3 4 "}[dry]; refused != want { // only the store knows that an id is taken
			t.Errorf("dry run %v: refused %s, want %s", dry, refused, want)
		}
		if !dry && (out.Published != 2 || out.Duplicates != 1 || out.Refused != 3) {
			t.Errorf("%+v", out)
		}
	}
}

func TestPublishStream(t *testing.T) {
	_, _, s := newGateway(t, nil)
	url := s.URL + "/v1/events?stream=patient.enrollment/P1&expected="
	for i := range 2 {
		var out published
		if status := call(t, http.MethodPost, url+fmt.Sprint(i), nativeOf(t, enrolled("P1", i)), &out); status != 201 || out.Results[0].StreamVersion != int64(i+1) {
			t.Fatalf("%d %+v", status, out)
		}
	}
	var problem Problem
	if status := call(t, http.MethodPost, url+"1", nativeOf(t, enrolled("P1", 7)), &problem); status != 409 || problem.Actual == nil || *problem.Actual != 2 {
		t.Errorf("%d %+v", status, problem)
	}
	var history struct {
		Version int64
		Events  []record
		Next    int64
	}
	if status := call(t, http.MethodGet, s.URL+"/v1/streams/patient.enrollment/P1?limit=1", nil, &history); status != 200 || history.Version != 2 || len(history.Events) != 1 || history.Next != 2 {
		t.Errorf("%d %+v", status, history)
	}
	if status := call(t, http.MethodGet, s.URL+"/v1/streams/patient.enrollment/P2", nil, nil); status != 404 {
		t.Errorf("a stream that does not exist: %d", status)
	}
}

// TestBackPressure: when the queue of writers stays full the answer is 429 with Retry-After, and later the same request is
// accepted.
func TestBackPressure(t *testing.T) {
	_, p, s := newGateway(t, &Options{PublishWait: 50 * time.Millisecond})
	release, held := make(chan struct{}), make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		ended <- p.Store().Update(context.Background(), func(*eventstore.Tx) error { close(held); <-release; return nil })
	}()
	<-held
	body := nativeOf(t, enrolled("P1", 1))
	status, text := send(t, http.MethodPost, s.URL+"/v1/events", body)
	if status != http.StatusTooManyRequests {
		t.Errorf("%d %s", status, text)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if status, text := send(t, http.MethodPost, s.URL+"/v1/events", body); status != http.StatusCreated && status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
}

// TestCloudEventsSDK: the official SDK publishes in each mode, and reads what a live stream says.
func TestCloudEventsSDK(t *testing.T) {
	_, p, s := newGateway(t, nil)
	for i, encode := range []func(context.Context) context.Context{cloudevents.WithEncodingStructured, cloudevents.WithEncodingBinary} {
		protocol, err := cloudevents.NewHTTP(cloudevents.WithTarget(s.URL+"/v1/events"), cloudevents.WithRoundTripper(client.Transport))
		if err != nil {
			t.Fatal(err)
		}
		c, err := cloudevents.NewClient(protocol)
		if err != nil {
			t.Fatal(err)
		}
		e := cloudevents.NewEvent()
		e.SetID(fmt.Sprint("ce-", i))
		e.SetType("patient.enrolled")
		e.SetSource("/patient-service")
		e.SetTime(time.UnixMilli(1763900000000))
		e.SetExtension("schemaversion", "1.0.0")
		e.SetExtension("correlationid", "flow-1")
		if err := e.SetData("application/json", map[string]any{"patientId": "P1", "program": map[string]any{"name": "Adhésion €"}}); err != nil {
			t.Fatal(err)
		}
		if result := c.Send(encode(context.Background()), e); !cloudevents.IsACK(result) {
			t.Fatalf("mode %d: %v", i, result)
		}
		got, err := p.Store().Get(t.Context(), e.ID())
		if err != nil || got.Source != "patient-service" || got.CorrelationID != "flow-1" || !bytes.Contains(got.Payload, []byte("Adhésion €")) {
			t.Errorf("mode %d: %+v %s %v", i, got.Metadata, got.Payload, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, body := follow(ctx, t, s.URL+"/v1/live?format=cloudevents&from=beginning", "")
	defer body.Close()
	for i := range 2 {
		data, err := stream.next()
		if err != nil {
			t.Fatal(err)
		}
		var e cloudevents.Event
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Validate() != nil || e.Type() != "patient.enrolled" || !strings.HasPrefix(e.ID(), "ce-") {
			t.Errorf("event %d: %s: %v, %v", i, data, err, e.Validate())
		}
	}
}

func FuzzElements(f *testing.F) {
	f.Add([]byte(`[{"a":[1,"\"]"]},{"b":{}}]`))
	f.Add([]byte("{\"a\":\"\\\\\"}\n{\"b\":1}"))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := elements(data, 100)
		if err != nil {
			return
		}
		// What was taken apart, put together again, is the same list to a JSON parser that takes the whole.
		var want []json.RawMessage
		if json.Unmarshal(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), &want) == nil && len(want) > 0 && len(want) != len(got) {
			t.Errorf("%q: %d elements, want %d", data, len(got), len(want))
		}
	})
}
