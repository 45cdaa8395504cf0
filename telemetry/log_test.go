package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/gateway"
)

// TestRecordsKnowTheirEvent: what a handler logs, and what the bus logs of it, says which event it is about.
func TestRecordsKnowTheirEvent(t *testing.T) {
	r := newReceiver(t)
	w := open(t, &Options{Endpoint: r.url})
	log := w.tel.log
	err := w.Handle("g", bus.Tries(1), bus.On(askedV1, func(ctx context.Context, _ bus.Tx, e event.Of[payload]) error {
		log.InfoContext(ctx, "handled", "own", 1, "eventId", "mine")
		log.With("group", "other").WithGroup("inner").InfoContext(ctx, "grouped")
		if e.Payload.Note == "bad" {
			return errors.New("no")
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	e := askedV1.New(source, payload{Key: "secret-key", Note: "bad"})
	e.ID, e.CorrelationID = "E1", "flow-1"
	w.publish(t.Context(), e)
	w.idle()
	log.Info("outside")

	stored, err := w.Store().Get(t.Context(), "E1")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]map[string]any{}
	for line := range strings.Lines(w.logs.String()) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if record["msg"] != "grouped" && (strings.Count(line, `"eventId"`) > 1 || strings.Count(line, `"group"`) > 1) {
			t.Errorf("an attribute is there twice: %s", line)
		}
		seen[record["msg"].(string)] = record
	}
	for msg, want := range map[string]map[string]any{
		"handled":         {"own": 1.0, "eventId": "mine", "eventType": "test.thing.asked", "correlationId": "flow-1", "group": "g", "traceId": stored.TraceID},
		"bus: key parked": {"eventId": "E1", "eventType": "test.thing.asked", "correlationId": "flow-1", "group": "g", "traceId": stored.TraceID, "class": "permanent"},
		"outside":         {"eventId": nil, "traceId": nil},
	} {
		for key, value := range want {
			if seen[msg] == nil || seen[msg][key] != value {
				t.Errorf("%q has %s = %v, want %v; all of it: %v", msg, key, seen[msg][key], value, seen[msg])
			}
		}
	}
	if inner, _ := seen["grouped"]["inner"].(map[string]any); inner["eventId"] != "E1" || seen["grouped"]["group"] != "other" {
		t.Errorf("%v", seen["grouped"])
	}
	for _, bad := range [][2]string{{"xml", "info"}, {"json", "loud"}} {
		if _, err := NewLogHandler(w.logs, bad[0], bad[1]); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
}

// TestNoPayloadGetsOut: values of payloads, partition keys, and words of requests are in no log, metric or span, whatever goes wrong
// with them.
func TestNoPayloadGetsOut(t *testing.T) {
	r := newReceiver(t)
	w := open(t, &Options{Endpoint: r.url})
	const canary, number = "CANARY4471", "4471447144714471447144714471" // too large for the handler's type
	err := errors.Join(
		w.Handle("returns", bus.Tries(2), bus.Backoff(time.Millisecond, time.Millisecond), bus.On(askedV1, func(context.Context, bus.Tx, event.Of[payload]) error {
			return errors.New("the rule of the house is broken")
		})),
		w.Handle("panics", bus.Tries(1), bus.On(askedV1, func(_ context.Context, _ bus.Tx, e event.Of[payload]) error {
			panic(fmt.Sprintf("cannot do with %+v", e.Payload))
		})),
		w.Handle("stops", bus.Tries(1), bus.OnFailure(bus.StopGroup), bus.On(askedV1, func(_ context.Context, _ bus.Tx, e event.Of[payload]) error {
			panic(e.Payload.Note)
		})),
		w.Handle("late", bus.Tries(1), bus.Backoff(time.Millisecond, time.Millisecond), bus.On(askedV1, func(ctx context.Context, tx bus.Tx, e event.Of[payload]) error {
			if bus.DeliveryFrom(ctx).Attempt < 3 {
				return bus.Transient(errors.New("down"))
			}
			_, err := tx.Exec(`INSERT INTO no_such_table (note) VALUES ($1)`, e.Payload.Note)
			return err
		})),
		w.Handle("appends", bus.Tries(1), bus.On(askedV1, func(_ context.Context, tx bus.Tx, e event.Of[payload]) error {
			bad := answeredV1.New(source, e.Payload)
			bad.Payload = json.RawMessage(`{"key":"` + e.Payload.Note + `","n":"` + e.Payload.Note + `"}`) // breaks the schema
			return tx.Append(bad)
		})),
		w.Handle("calls", bus.Tries(1), bus.OnCall(askedV1, bus.Call[payload, int]{
			Do: func(context.Context, string, event.Of[payload]) (int, error) {
				return 0, bus.Fatal(errors.New("refused"))
			},
			Done: func(context.Context, bus.Tx, event.Of[payload], int) error { return nil },
		})),
	)
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	url := w.serve(&gateway.Options{})
	key := "KEY" + canary
	good := strings.Replace(envelope("E1", "test.thing.asked", key), `"n":1`, `"n":1,"note":"`+canary+`"`, 1)
	for _, body := range []string{
		good,
		strings.Replace(strings.Replace(strings.Replace(good, `"n":1`, `"n":`+number, 1), "E1", "E2", 1), key, key+"-2", 1), // cannot be decoded
		strings.Replace(strings.Replace(good, `"n":1`, `"n":"`+canary+`"`, 1), "E1", "E3", 1),                               // breaks the schema
		strings.Replace(good, `"note"`, `"`+canary+`"`, 1),
		good[:len(good)-20],
	} {
		send(t, http.MethodPost, url+"/v1/events", body)
	}
	send(t, http.MethodGet, url+"/v1/dead-letters/returns/"+key, "")
	send(t, http.MethodGet, url+"/v1/events?key="+key, "", "X-Custom", canary)
	send(t, http.MethodGet, url+"/"+canary, "")
	for {
		tick := w.Store().Tick()
		parked := 0
		for _, group := range []string{"returns", "panics", "late", "appends", "calls"} {
			s, err := w.Bus().Group(t.Context(), group)
			if err != nil && !errors.Is(err, bus.ErrNoGroup) {
				t.Fatal(err)
			}
			if s.ParkedKeys == 2 {
				parked++
			}
		}
		if s, err := w.Bus().Group(t.Context(), "stops"); err == nil && s.State == "stopped" && parked == 5 {
			break
		}
		if _, err := w.Store().Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	spans := r.flush(w)
	if len(spans) < 10 {
		t.Errorf("only %d spans: the test shows nothing", len(spans))
	}
	_, metrics := send(t, http.MethodGet, url+"/metrics", "")
	for where, text := range map[string]string{"logs": w.logs.String(), "metrics": metrics, "traces": string(r.raw)} {
		if len(text) < 500 {
			t.Errorf("%s: only %d bytes: the test shows nothing", where, len(text))
		}
		for _, secret := range []string{canary, "4471447"} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("%s: %q in …%q", where, secret, text[max(0, i-300):min(len(text), i+60)])
			}
		}
	}
	if !strings.Contains(w.logs.String(), "bus: key parked") {
		t.Error("nothing was logged")
	}
}

// TestLogHandlerOutside: a record outside of any event is as it was.
func TestLogHandlerOutside(t *testing.T) {
	b := &lockedBuffer{}
	slog.New(LogHandler(slog.NewTextHandler(b, nil))).Info("hello", "a", 1)
	if !strings.Contains(b.String(), "msg=hello a=1\n") {
		t.Errorf("%q", b.String())
	}
}
