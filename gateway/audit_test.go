package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// TestActsAreRecorded: everything that somebody does to a group, a dead letter, a job, a saga, a webhook or a schema leaves an
// event with their name, and their reason where the act wants one; without a reason it is not done. Who is shown error texts
// is recorded, and who is not granted is not shown them.
func TestActsAreRecorded(t *testing.T) {
	door, tokens := keyring(t, `
principals:
  - {name: nurse, tokens: [T], read: ["**", "platform.**"]}
  - {name: operator-jane, tokens: [T], publish: ["**"], subscribe: ["**"], read: ["**", "platform.**"], operate: ["**", "platform.**"], register: ["**"]}
`)
	_, p, s := newGateway(t, &Options{Door: door})
	if err := p.Handle("svc", bus.Tries(1), bus.OnRecord("patient.enrolled", func(_ context.Context, _ bus.Tx, r eventstore.Record) error {
		if strings.HasPrefix(r.PartitionKey, "bad") {
			return bus.Fatal(errors.New("canary: the allergy of Jane Doe cannot be read"))
		}
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"bad1", "bad2", "bad3", "bad4"} {
		publishMany(t, p, enrolled(key, 1))
	}
	letters := func() int {
		dead, err := p.Bus().DeadLetters(t.Context(), bus.Filter{Group: "svc"}, 100)
		if err != nil {
			t.Fatal(err)
		}
		return len(dead)
	}
	for letters() < 4 {
		tick := p.Store().Tick()
		if _, err := p.Store().Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	as := func(name, method, path string, body any) (int, string) {
		t.Helper()
		status, text := send(t, method, s.URL+path, body, "Authorization", "Bearer "+tokens[name])
		return status, string(text)
	}
	// last is the newest event of a type, as who did it and why.
	type told struct{ Actor, Reason, RegisteredBy, EventID string }
	last := func(eventType string) (out told, n int) {
		t.Helper()
		all := platformEvents(t, p, eventType)
		newest := int64(-1)
		for _, e := range all {
			r, err := p.Store().Get(t.Context(), e.ID)
			if err != nil {
				t.Fatal(err)
			}
			if at := r.RecordedAt.UnixNano(); at >= newest {
				newest = at
				out = told{}
				if err := json.Unmarshal(e.Payload, &out); err != nil {
					t.Fatal(err)
				}
			}
		}
		return out, len(all)
	}

	for _, path := range []string{"/v1/dead-letters?group=svc", "/v1/dead-letters/by-error", "/v1/dead-letters/svc/bad1"} {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		if status, text := as("nurse", http.MethodGet, path, nil); status != http.StatusOK || strings.Contains(text, "canary") {
			t.Errorf("%s: %d %s", path, status, text)
		}
		if status, text := as("nurse", http.MethodGet, path+sep+"reveal=true", nil); status != http.StatusForbidden || strings.Contains(text, "canary") {
			t.Errorf("%s: %d %s", path, status, text)
		}
		if status, text := as("nurse", http.MethodGet, path+sep+"error=canary", nil); status == http.StatusOK && strings.HasPrefix(path, "/v1/dead-letters?") { // it would tell by guessing
			t.Errorf("%s: %s", path, text)
		}
		_, before := last("platform.field.revealed")
		if status, text := as("operator-jane", http.MethodGet, path+sep+"reveal=true", nil); status != http.StatusOK || !strings.Contains(text, "canary") {
			t.Errorf("%s: %d %s", path, status, text)
		}
		if got, n := last("platform.field.revealed"); n == before || got.Actor != "operator-jane" || got.EventID == "" {
			t.Errorf("%s: %+v, %d events after %d", path, got, n, before)
		}
	}

	var job struct{ Job bus.Job }
	for _, c := range []struct {
		method, path string
		body         map[string]any
		event        string
		wants        bool // a reason
	}{
		{"POST", "/v1/groups/svc/pause", nil, "platform.group.paused", true},
		{"POST", "/v1/groups/svc/seek", map[string]any{"to": "end"}, "platform.group.sought", true},
		{"POST", "/v1/groups/svc/replay", map[string]any{"from": "beginning"}, "platform.replay.started", true},
		{"POST", "/v1/groups/svc/replay/cancel", nil, "platform.group.sought", true},
		{"POST", "/v1/dead-letters/redrive", map[string]any{"group": "svc", "keysPerSecond": 0.001}, "platform.redrive.started", true},
		{"POST", "/v1/jobs/JOB/cancel", nil, "platform.redrive.finished", true},
		{"POST", "/v1/dead-letters/svc/bad1/correct", map[string]any{"payload": enrolled("bad1", 2).Payload}, "platform.event.corrected", true},
		{"POST", "/v1/dead-letters/svc/bad2/skip", nil, "platform.key.skipped", true},
		{"POST", "/v1/dead-letters/svc/bad3/discard", nil, "platform.key.released", true},
		{"POST", "/v1/groups/svc/resume", nil, "platform.group.resumed", true},
		{"POST", "/v1/webhooks", map[string]any{"id": "h", "url": "https://hooks.example.org/x?secret=canary", "patterns": []string{"medication.**"}}, "platform.webhook.registered", false},
		{"PUT", "/v1/webhooks/h", map[string]any{"url": "https://hooks.example.org/y?secret=canary", "patterns": []string{"medication.**"}}, "platform.webhook.registered", false},
		{"POST", "/v1/webhooks/h/rotate", nil, "platform.webhook.registered", false},
		{"DELETE", "/v1/webhooks/h?reason=", nil, "platform.webhook.removed", true},
		{"PUT", "/v1/groups/mine", map[string]any{"patterns": []string{"medication.**"}}, "", false},
		{"DELETE", "/v1/groups/mine?reason=", nil, "platform.group.removed", true},
		{"PUT", "/v1/schemas/lab.result.filed/1.0.0", nil, "platform.schema.registered", false},
		{"POST", "/v1/schemas/lab.result.filed/deprecate", nil, "platform.schema.deprecated", true},
	} {
		path := strings.Replace(c.path, "JOB", job.Job.ID, 1)
		body := map[string]any{}
		for k, v := range c.body {
			body[k] = v
		}
		if strings.HasPrefix(path, "/v1/schemas/") && c.method == http.MethodPut {
			_, _, doc := exampleOf(t, p, "patient.enrolled")
			body = nil
			if err := json.Unmarshal(doc, &body); err != nil {
				t.Fatal(err)
			}
		}
		_, before := last(orType(c.event))
		const reason = "the reason why"
		if c.wants {
			without := path
			if c.method != http.MethodDelete {
				body["reason"] = "  "
			}
			if status, text := as("operator-jane", c.method, without, body); status != http.StatusUnprocessableEntity && status != http.StatusBadRequest {
				t.Errorf("%s %s without a reason: %d %s", c.method, path, status, text)
			}
			if _, n := last(orType(c.event)); n != before {
				t.Errorf("%s %s without a reason is recorded", c.method, path)
			}
			if c.method != http.MethodDelete {
				body["reason"] = reason
			} else {
				path += "the%20reason%20why"
			}
		}
		if status, text := as("nurse", c.method, path, body); status != http.StatusForbidden {
			t.Errorf("%s %s by a nurse: %d %s", c.method, path, status, text)
		}
		status, text := as("operator-jane", c.method, path, body)
		if status >= 300 {
			t.Errorf("%s %s: %d %s", c.method, path, status, text)
			continue
		}
		if strings.HasSuffix(path, "/redrive") {
			if err := json.Unmarshal([]byte(text), &job); err != nil || job.Job.ID == "" {
				t.Fatal(err, text)
			}
		}
		if c.event == "" {
			continue
		}
		got, n := last(c.event)
		switch {
		case n <= before:
			t.Errorf("%s %s: no %s tells of it", c.method, path, c.event)
		case c.event == "platform.schema.deprecated": // its event has the reason only
			if got.Reason != reason {
				t.Errorf("%s %s: %+v", c.method, path, got)
			}
		case got.Actor+got.RegisteredBy != "operator-jane", c.wants && !strings.HasSuffix(got.Reason, reason):
			t.Errorf("%s %s: %+v", c.method, path, got)
		}
	}
	for _, e := range platformEvents(t, p, "platform.webhook.registered") {
		if strings.Contains(string(e.Payload), "canary") {
			t.Errorf("a credential of an address is in the store: %s", e.Payload)
		}
	}
}

func orType(eventType string) string {
	if eventType == "" {
		return "platform.none.there"
	}
	return eventType
}

// TestSagaActsWantAReason: the engine's own tests hold that they are recorded with it.
func TestSagaActsWantAReason(t *testing.T) {
	door, tokens := keyring(t, `
principals:
  - {name: operator-jane, tokens: [T], read: ["platform.**"], operate: ["platform.**"]}
`)
	p := openPlatform(t, &carebus.Options{})
	_, s := serveOn(t, p, &Options{Door: door})
	for _, act := range []string{"resume", "skip", "cancel"} {
		status, text := send(t, http.MethodPost, s.URL+"/v1/sagas/none/"+act, map[string]any{"reason": " "}, "Authorization", "Bearer "+tokens["operator-jane"])
		if status != http.StatusUnprocessableEntity {
			t.Errorf("%s without a reason: %d %s", act, status, text)
		}
		status, text = send(t, http.MethodPost, s.URL+"/v1/sagas/none/"+act, map[string]any{"reason": "why"}, "Authorization", "Bearer "+tokens["operator-jane"])
		if status != http.StatusNotFound {
			t.Errorf("%s of none: %d %s", act, status, text)
		}
	}
}
