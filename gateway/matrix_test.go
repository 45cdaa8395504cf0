package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

const matrixPolicy = `
roles:
  operator:
    operate: ["**"]
    read: ["*"]
principals:
  - {name: pharmacy, tokens: [T], publish: [medication.prescription.filled, medication.prescription.returned], subscribe: ["medication.**"], read: ["patient.*"]}
  - {name: payer, tokens: [T], publish: ["payment.claim.*"], subscribe: ["payment.**", priorauth.request.submitted]}
  - {name: operator, tokens: [T], roles: [operator]}
  - {name: auditor, tokens: [T], read: ["platform.**"]}
  - {name: registrar, tokens: [T], register: ["patient.**"]}
  - {name: everything, tokens: [T], publish: ["**"], subscribe: ["**", "platform.**"], read: ["**", "platform.**"], operate: ["**", "platform.**"], register: ["**"]}
  - {name: nothing, tokens: [T]}
  - {name: reader, tokens: [T], read: ["medication.prescription.*"]}
  - {name: one, tokens: [T], publish: [patient.record.created], subscribe: [patient.record.created]}
  - {name: middle, tokens: [T], subscribe: ["medication.*.reserved", "*.prescription.filled"], operate: [payment.claim.approved]}
`

// The types of the matrix, by a letter each; upper case are the platform's own.
var matrixTypes = map[byte]string{
	'f': "medication.prescription.filled", 'r': "medication.prescription.returned", 'i': "medication.inventory.reserved", 'c': "medication.prescription.created", 'p': "payment.claim.approved",
	'e': "patient.enrolled", 'a': "priorauth.request.submitted", 'n': "patient.record.created", 'D': "platform.access.denied", 'K': "platform.key.parked",
}

// matrix is what each may do, written out by hand: publish, subscribe, read, operate, register.
var matrix = map[string][5]string{
	"pharmacy":   {"fr", "fric", "e", "", ""},
	"payer":      {"p", "pa", "", "", ""},
	"operator":   {"", "", "fricpean", "fricpean", ""},
	"auditor":    {"", "", "DK", "", ""},
	"registrar":  {"", "", "", "", "en"},
	"everything": {"fricpean", "fricpeanDK", "fricpeanDK", "fricpeanDK", "fricpean"},
	"nothing":    {"", "", "", "", ""},
	"reader":     {"", "", "frc", "", ""},
	"one":        {"n", "n", "", "", ""},
	"middle":     {"", "fi", "", "p", ""},
}

// wide are routes that are not about one type: who gets an answer from them, by hand.
var wide = map[string][]string{
	"/v1/topology": {"operator", "everything"}, "/v1/projections": {"operator", "everything"}, "/v1/streams": {"operator", "everything"}, "/v1/streams?prefix=medication": {"operator", "everything"},
	"/v1/projections/x": {"operator", "everything"}, "/v1/jobs": {"operator", "everything"}, "/v1/jobs/x": {"operator", "everything"}, "/v1/sagas": {"auditor", "everything"}, "/v1/sagas/x": {"auditor", "everything"},
	"/v1/sagas?reveal=true": {"everything"}, "/v1/dead-letters": {"operator", "everything"}, "/v1/dead-letters?reveal=true": {"operator", "everything"}, "/v1/dead-letters/by-error": {"operator", "everything"},
	"/v1/dead-letters?group=svc-medication.prescription.created":          {"operator", "everything", "reader"},
	"/v1/dead-letters?group=svc-payment.claim.approved&error=canary":      {"operator", "everything"}, // middle may operate, but not read
	"/v1/dead-letters/svc-medication.prescription.created/key-1?reveal=1": {"operator", "everything"},
	"/v1/streams/patient.record/canary-state/state":                       {"operator", "everything"}, "/v1/streams/patient.record/canary-state/state?payload=masked": {"operator", "everything"},
	"/metrics": {"operator", "everything", "middle"}, "/v1/schemas": {"pharmacy", "payer", "operator", "auditor", "registrar", "everything", "reader", "one", "middle"},
	"/asyncapi.json":     {"pharmacy", "payer", "operator", "auditor", "registrar", "everything", "reader", "one", "middle"},
	"/registry/subjects": {"pharmacy", "payer", "operator", "auditor", "registrar", "everything", "reader", "one", "middle"}, // an empty list for nothing
	"/registry/subjects/patient.enrolled/versions/latest": {"pharmacy", "payer", "operator", "auditor", "registrar", "everything", "reader", "one", "middle"},
}

// mixed are routes that answer everybody with what they may see.
var mixed = []string{
	"/v1/events?limit=1000", "/v1/events?type=**&type=platform.**&limit=1000", "/v1/events?key=key-1", "/v1/events?source=canary-source&type=platform.**&type=**", "/v1/events?payload=masked&limit=1000", "/v1/groups", "/v1/webhooks",
	"/v1/flows/canary-flow?groups=true&all=true", "/v1/flows/canary-flow?format=svg&groups=true", "/v1/flows/canary-flow?format=mermaid", "/v1/flows/canary-flow?format=text", "/v1/streams/shared/canary", "/v1/streams/shared/canary?from=4", "/v1/streams/shared/canary?from=1000",
	"/v1/events?correlation=canary-flow&type=**&type=platform.**",
}

// keyring is a door with a token for each principal.
func keyring(t testing.TB, policy string) (*auth.Door, map[string]string) {
	t.Helper()
	tokens := map[string]string{}
	for strings.Contains(policy, "[T]") {
		token, hash := auth.NewToken()
		before, after, _ := strings.Cut(policy, "[T]")
		_, name, _ := strings.Cut(before[strings.LastIndex(before, "\n"):], "name: ")
		name, _, _ = strings.Cut(name, ",")
		tokens[name], policy = token, before+`["`+hash+`"]`+after
	}
	door, err := auth.Parse([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	return door, tokens
}

// exampleOf is a valid payload of a type, from its schema.
func exampleOf(t testing.TB, p *carebus.Platform, eventType string) (version string, payload, doc json.RawMessage) {
	t.Helper()
	d, err := p.Registry().Latest(eventType)
	if err != nil {
		t.Fatal(err)
	}
	var head struct{ Examples []json.RawMessage }
	if err := json.Unmarshal(d.Schema, &head); err != nil || len(head.Examples) == 0 {
		t.Fatal(eventType, err)
	}
	return d.Version, head.Examples[0], d.Schema
}

// TestMatrix: ten principals, five verbs and ten types, through all routes, against expectations that were written out by
// hand. What somebody may not see is in no answer that they get.
func TestMatrix(t *testing.T) {
	door, tokens := keyring(t, matrixPolicy)
	if len(tokens) != len(matrix) {
		t.Fatalf("%d principals", len(tokens))
	}
	_, p, s := newGateway(t, &Options{
		Door: door, Heartbeat: 20 * time.Millisecond,
		Mount: map[string]Mount{"GET /metrics": {Verb: auth.Operate, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "canary-metrics 1") })}},
		States: map[string]State{"patient.record": func(context.Context, *carebus.Platform, string, int64, time.Time) (EntityState, error) {
			return EntityState{Version: 1, State: json.RawMessage(`{"name":"canary-state"}`), As: event.Metadata{Type: "patient.record.created", Version: "1.0.0"}}, nil
		}},
	})
	letters := "fricpeanDK"
	examples := map[string]event.Event{}
	docs := map[string]json.RawMessage{}
	for _, letter := range []byte(letters) {
		eventType := matrixTypes[letter]
		version, payload, doc := exampleOf(t, p, eventType)
		docs[eventType] = doc
		e := event.Event{Metadata: event.Metadata{Type: eventType, Source: "canary-source", Version: version, Timestamp: 1763900000000, PartitionKey: "key-1"}, Payload: payload}
		examples[eventType] = e
		for i, place := range []struct{ stream, flow string }{{"", "flow-" + eventType}, {"own/canary-" + eventType, "canary-own"}, {"shared/canary", "canary-flow"}} {
			e.ID, e.CorrelationID = fmt.Sprintf("canary-%s-%d", eventType, i), place.flow
			if _, err := p.Store().Append(t.Context(), place.stream, eventstore.AnyVersion, e); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Handle("svc-"+eventType, bus.OnRecord(eventType, func(context.Context, bus.Tx, eventstore.Record) error { return nil })); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	quick := &http.Client{Transport: &http.Transport{}} // keeps its connections
	defer quick.CloseIdleConnections()
	cells := 0
	for name, may := range matrix {
		as := func(method, path string, body any) (int, string) {
			t.Helper()
			status, _, text := sendBy(t, quick, method, s.URL+path, body, "Authorization", "Bearer "+tokens[name])
			return status, string(text)
		}
		// leak looks for what is not granted. Groups have the names of their types.
		leak := func(what, text string, granted string) {
			t.Helper()
			for _, letter := range []byte(letters) {
				if eventType := matrixTypes[letter]; !strings.ContainsRune(granted, rune(letter)) && (strings.Contains(text, "canary-"+eventType) || strings.Contains(text, "svc-"+eventType)) {
					t.Errorf("%s: %s shows %s: %.300s", name, what, eventType, text)
				}
			}
		}
		check := func(verb auth.Verb, eventType, what string, got, want bool, text string) {
			t.Helper()
			if got != want {
				t.Errorf("%s may %s %s: %s says %v, want %v: %.300s", name, verb, eventType, what, got, want, text)
			}
		}
		live := liveOf(t, s.URL+"/v1/live?from=beginning&type=**&type=platform.**", tokens[name])
		leak("live", live, may[1])
		for _, letter := range []byte(letters) {
			eventType := matrixTypes[letter]
			granted := func(verb int) bool { return strings.ContainsRune(may[verb], rune(letter)) }
			cells += len(may)

			e := examples[eventType]
			e.ID, e.CorrelationID = event.NewID(), "published"
			status, text := as(http.MethodPost, "/v1/events", e.AppendJSON(nil))
			check(auth.Publish, eventType, "publish", status == http.StatusCreated, granted(0), text)
			if !granted(0) && status != http.StatusForbidden && (status != http.StatusUnprocessableEntity || letter > 'Z') {
				t.Errorf("%s publishes %s: %d", name, eventType, status)
			}
			e.ID = event.NewID()
			_, text = as(http.MethodPost, "/v1/events?atomic=false", append(append([]byte("["), e.AppendJSON(nil)...), ']'))
			check(auth.Publish, eventType, "publish each", strings.Contains(text, `"published":1`), granted(0), text)

			check(auth.Subscribe, eventType, "live", strings.Contains(live, `"canary-`+eventType+`-0"`), granted(1), live)
			group := "/v1/groups/" + name + "-" + eventType
			status, text = as(http.MethodPut, group, map[string]any{"patterns": []string{eventType}, "start": "now"})
			check(auth.Subscribe, eventType, "consume", status == http.StatusCreated, granted(1), text)
			status, text = as(http.MethodPost, group+"/fetch", map[string]any{"waitSeconds": 0})
			check(auth.Subscribe, eventType, "fetch", status == http.StatusOK, granted(1), text)
			hook := map[string]any{"id": name + "-" + strings.ReplaceAll(eventType, ".", "-"), "url": "https://hooks.example.org/", "patterns": []string{eventType}}
			status, text = as(http.MethodPost, "/v1/webhooks", hook)
			check(auth.Subscribe, eventType, "webhook", status == http.StatusCreated, granted(1), text)
			if granted(1) { // each is a group with members: not all at once
				if status, text = as(http.MethodDelete, "/v1/webhooks/"+hook["id"].(string)+"?reason=x", nil); status != http.StatusNoContent {
					t.Errorf("%d %s", status, text)
				}
				send(t, http.MethodDelete, s.URL+group+"?reason=x", nil, "Authorization", "Bearer "+tokens["everything"])
			}

			status, text = as(http.MethodGet, "/v1/events/canary-"+eventType+"-0", nil)
			check(auth.Read, eventType, "one event", status == http.StatusOK, granted(2), text)
			for what, path := range map[string]string{"a search": "/v1/events?limit=1000&type=" + eventType, "a flow": "/v1/flows/flow-" + eventType, "a flow by event": "/v1/flows/canary-" + eventType + "-0", "a stream": "/v1/streams/own/canary-" + eventType} {
				status, text = as(http.MethodGet, path, nil)
				check(auth.Read, eventType, what, status == http.StatusOK && strings.Contains(text, "canary-"+eventType), granted(2), text)
				if !granted(2) { // nothing tells it from what does not exist
					_, other := as(http.MethodGet, strings.NewReplacer("flow-"+eventType, "flow-none", "canary-"+eventType, "none").Replace(path), nil)
					if strings.ReplaceAll(text, "canary-"+eventType, "none") != other {
						t.Errorf("%s: %s tells that %s exists: %s, not %s", name, path, eventType, text, other)
					}
				}
			}
			status, text = as(http.MethodGet, "/v1/groups/svc-"+eventType, nil)
			check(auth.Read, eventType, "a group", status == http.StatusOK, granted(2), text)
			refusal := func(text string) string { return strings.ReplaceAll(text, "svc-"+eventType, "svc-none") }
			if !granted(2) {
				if _, other := as(http.MethodGet, "/v1/groups/svc-none", nil); refusal(text) != other && name != "operator" { // who may read everything but the platform's own may know which groups there are
					t.Errorf("%s: the group tells that it exists: %s, not %s", name, text, other)
				}
			}
			status, text = as(http.MethodPost, "/v1/groups/svc-"+eventType+"/pause", map[string]any{"reason": "the matrix"})
			check(auth.Operate, eventType, "pause", status == http.StatusOK, granted(3), text)
			status, text = as(http.MethodPost, "/v1/groups/svc-"+eventType+"/seek", map[string]any{"reason": "the matrix", "to": "end"})
			check(auth.Operate, eventType, "seek", status == http.StatusOK, granted(3), text)
			status, text = as(http.MethodPost, "/v1/groups/svc-"+eventType+"/resume", map[string]any{"reason": "the matrix"})
			check(auth.Operate, eventType, "resume", status == http.StatusOK, granted(3), text)
			status, text = as(http.MethodPost, "/v1/dead-letters/svc-"+eventType+"/key-1/skip", map[string]any{"reason": "the matrix"})
			check(auth.Operate, eventType, "skip", status == http.StatusNotFound, granted(3), text)
			status, text = as(http.MethodPost, "/v1/dead-letters/redrive", map[string]any{"group": "svc-" + eventType, "dryRun": true})
			check(auth.Operate, eventType, "redrive", status == http.StatusOK, granted(3), text)

			status, text = as(http.MethodPut, "/v1/schemas/"+eventType+"/"+e.Version, docs[eventType])
			check(auth.Register, eventType, "a schema", status == http.StatusOK, granted(4), text)
			status, text = as(http.MethodPost, "/registry/subjects/"+eventType+"/versions", map[string]any{"schemaType": "JSON", "schema": string(docs[eventType])})
			check(auth.Register, eventType, "the registry", status == http.StatusOK, granted(4), text)
			status, text = as(http.MethodPost, "/v1/schemas/"+eventType+"/deprecate", map[string]any{"version": "9.9.9", "reason": "x"})
			check(auth.Register, eventType, "deprecate", status != http.StatusForbidden, granted(4), text)
		}
		for path, who := range wide {
			status, text := as(http.MethodGet, path, nil)
			if got := status == http.StatusOK || status == http.StatusNotFound; got != slices.Contains(who, name) && !(path == "/registry/subjects" && name == "nothing" && text == "[]") {
				t.Errorf("%s: GET %s: %d %.200s", name, path, status, text)
			}
			if strings.Contains(text, "canary") && !slices.Contains(who, name) {
				t.Errorf("%s: %s: %s", name, path, text)
			}
			if strings.HasSuffix(path, "payload=masked") && strings.Contains(text, "canary-state\"}") {
				t.Errorf("%s: not masked: %s", name, text)
			}
		}
		for _, path := range mixed {
			status, text := as(http.MethodGet, path, nil)
			if status != http.StatusOK && status != http.StatusNotFound {
				t.Errorf("%s: GET %s: %d %s", name, path, status, text)
			}
			leak(path, text, may[2])
			if may[2] == "" && strings.Contains(text, "canary") {
				t.Errorf("%s: GET %s: %s", name, path, text)
			}
		}
	}
	if cells != 500 {
		t.Errorf("%d cells", cells)
	}
}

// liveOf is all that a live stream sends of the past.
func liveOf(t testing.TB, url, token string) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var out strings.Builder
	lines := bufio.NewScanner(res.Body)
	lines.Buffer(nil, 1<<20)
	for beats := 0; beats < 2 && lines.Scan(); { // the second comes when everything was sent
		if lines.Text() == ":" {
			beats++
		}
		out.WriteString(lines.Text() + "\n")
	}
	return out.String()
}
