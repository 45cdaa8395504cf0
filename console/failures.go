package console

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/gateway"
)

// failureKind is dead letters with one error at one place.
type failureKind struct {
	Group     string
	EventType string
	Class     string
	Error     string
	Keys      int
	Events    int64
	First     time.Time
	Last      time.Time
}

// URL lists the dead letters of the kind.
func (k failureKind) URL() string {
	return at("failures") + "?" + url.Values{"group": {k.Group}, "type": {k.EventType}, "class": {k.Class}}.Encode()
}

func (q *request) failureKinds(query url.Values) ([]failureKind, error) {
	var list struct{ Errors []failureKind }
	err := q.get("/v1/dead-letters/by-error", query, &list)
	return list.Errors, err
}

// letterNames are what dead letters are filtered by, as the API has them.
var letterNames = []string{"group", "key", "class", "type"}

func (q *request) letterFilter() url.Values {
	out := url.Values{}
	for _, name := range letterNames {
		if v := q.q.Get(name); v != "" {
			out.Set(name, v)
		}
	}
	return out
}

func (q *request) failures() (*view, error) {
	filter := q.letterFilter()
	kinds, err := q.failureKinds(filter)
	if err != nil {
		return nil, err
	}
	var list struct {
		DeadLetters []bus.DeadLetter
		More        bool
	}
	filter.Set("limit", "100")
	if err := q.get("/v1/dead-letters", filter, &list); err != nil {
		return nil, err
	}
	filter.Del("limit")
	return &view{Template: "failures", Title: "Failures", Nav: "Failures",
		CLI: []string{command("dlq", "list", "--group", filter.Get("group"), "--type", filter.Get("type"))},
		API: "/v1/dead-letters?" + filter.Encode(), Live: "every=2000",
		Data: map[string]any{"Kinds": kinds, "Letters": list.DeadLetters, "More": list.More, "Filter": filter, "Query": filter.Encode(), "Filtered": len(filter) > 0, "Redrive": at("redrive") + "?" + filter.Encode()}}, nil
}

// letterView is what the page about a parked key shows.
type letterView struct {
	bus.DeadLetter
	Waiting  []record
	More     bool
	Revealed bool
	Reason   string
	Payload  string // in the editor
	Findings []event.Finding
	Checked  bool
	Title    string
	May      bool // operate
}

func letterPath(group, key string) string {
	return "/v1/dead-letters/" + url.PathEscape(group) + "/" + url.PathEscape(key)
}

func (q *request) readLetter(group, key string, reveal bool) (letterView, error) {
	var d letterView
	query := url.Values{"payload": {"masked"}}
	if reveal {
		query = url.Values{"payload": {"full"}, "reveal": {"true"}}
	}
	if err := q.get(letterPath(group, key), query, &d); err != nil {
		return d, err
	}
	d.Revealed = reveal
	if doc, err := q.p.Registry().Latest(d.EventType); err == nil {
		d.Title = headOf(doc.Schema).Title
	}
	d.May = q.caller().MayAll(auth.Operate, d.EventType)
	return d, nil
}

func (q *request) failureView(d letterView) *view {
	return &view{Template: "failure", Title: d.Key, Nav: "Failures", CLI: []string{command("dlq", "show", d.Group, d.Key)}, API: letterPath(d.Group, d.Key), Data: d}
}

func (q *request) failure() (*view, error) {
	d, err := q.readLetter(q.q.Get("group"), q.q.Get("key"), false)
	if err != nil {
		var p *gateway.Problem
		if errors.As(err, &p) && p.Status == http.StatusNotFound && q.q.Get("key") != "" {
			return &view{Template: "settled", Title: "Not parked", Nav: "Failures", Data: map[string]string{"Group": q.q.Get("group"), "Key": q.q.Get("key")}}, nil
		}
		return nil, err
	}
	return q.failureView(d), nil
}

// revealFailure shows the error text and the payloads, and an editor.
func (q *request) revealFailure() (*view, error) {
	purpose, reason, err := q.reasonGiven()
	if err != nil {
		return nil, err
	}
	group, key := q.r.PostFormValue("group"), q.r.PostFormValue("key")
	seen, err := q.readLetter(group, key, false)
	if err != nil {
		return nil, err
	}
	d, err := q.readLetter(group, key, true) // refused to those who may not, before anything is recorded
	if err != nil {
		return nil, err
	}
	for i, r := range seen.Waiting {
		fields := maskedFields(r.Payload)
		if i == 0 {
			fields = append(fields, "error")
		}
		stored, err := q.p.Store().Get(q.ctx(), r.Metadata.EventID)
		if err != nil {
			return nil, err
		}
		if err := q.reveal(stored, fields, purpose, reason); err != nil {
			return nil, err
		}
	}
	d.Reason = reason
	if len(d.Waiting) > 0 {
		d.Payload = indented(d.Waiting[0].Payload)
	}
	return q.failureView(d), nil
}

func indented(doc json.RawMessage) string {
	var v any
	d := json.NewDecoder(strings.NewReader(string(doc)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return string(doc)
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return string(doc)
	}
	return string(text)
}

// correctFailure checks an edited payload against its schema and, unless only that was asked, has it handled in the place
// of the failed one.
func (q *request) correctFailure() (*view, error) {
	group, key, reason := q.r.PostFormValue("group"), q.r.PostFormValue("key"), strings.TrimSpace(q.r.PostFormValue("reason"))
	d, err := q.readLetter(group, key, false)
	if err != nil {
		return nil, err
	}
	if !d.May {
		return nil, q.g.Deny(q.ctx(), auth.Operate, d.EventType)
	}
	d.Payload, d.Reason, d.Revealed, d.Checked = q.r.PostFormValue("payload"), reason, true, true
	r, err := q.p.Store().Get(q.ctx(), d.EventID)
	if err != nil {
		return nil, err
	}
	e := r.Event
	e.Payload = json.RawMessage(d.Payload)
	d.Findings = q.findings(e)
	if q.r.PostFormValue("do") != "correct" || len(d.Findings) > 0 {
		v := q.failureView(d)
		if len(d.Findings) > 0 && q.r.PostFormValue("do") == "correct" {
			v.Status = http.StatusUnprocessableEntity
		}
		return v, nil
	}
	if reason == "" {
		return nil, problem(http.StatusUnprocessableEntity, "say why: the reason is recorded")
	}
	body := map[string]any{"payload": json.RawMessage(d.Payload), "reason": reason}
	if err := q.api(http.MethodPost, letterPath(group, key)+"/correct", body, nil); err != nil {
		return nil, err
	}
	return q.done(at("failure")+"?"+url.Values{"group": {group}, "key": {key}}.Encode(), "The correction is stored as an event of its own, and %s is tried again with it.", key)
}

// findings are what is wrong with an event's payload: nothing quotes a value.
func (q *request) findings(e event.Event) []event.Finding {
	if !json.Valid(e.Payload) {
		return []event.Finding{{Pointer: "/", Rule: "json", Message: "this is not JSON", Remedy: "look for a missing comma, quote or brace"}}
	}
	err := q.p.Registry().Validate(e)
	if err == nil {
		return nil
	}
	var invalid *event.InvalidError
	if errors.As(err, &invalid) {
		return invalid.Findings
	}
	return []event.Finding{{Pointer: "/", Rule: "schema", Message: err.Error()}}
}

// settleFailure gives up an event or a key, or tries the key again.
func (q *request) settleFailure() (*view, error) {
	act, group, key := q.path("act"), q.r.PostFormValue("group"), q.r.PostFormValue("key")
	reason := strings.TrimSpace(q.r.PostFormValue("reason"))
	if reason == "" {
		return nil, problem(http.StatusUnprocessableEntity, "say why: the reason is recorded")
	}
	if act == "retry" {
		var out struct{ Job *bus.Job }
		body := map[string]any{"group": group, "key": key, "reason": reason}
		if err := q.api(http.MethodPost, "/v1/dead-letters/redrive", body, &out); err != nil {
			return nil, err
		}
		return q.done(at("failure")+"?"+url.Values{"group": {group}, "key": {key}}.Encode(), "%s is tried again.", key)
	}
	if !slices.Contains([]string{"skip", "discard"}, act) {
		return nil, problem(http.StatusNotFound, "there is no such act")
	}
	if q.r.PostFormValue("sure") == "" {
		return nil, problem(http.StatusUnprocessableEntity, "say that you are sure: what is given up is given up for good")
	}
	if err := q.api(http.MethodPost, letterPath(group, key)+"/"+act, map[string]any{"reason": reason}, nil); err != nil {
		return nil, err
	}
	return q.done(at("failures")+"?"+url.Values{"group": {group}}.Encode(), "%s", map[string]string{"skip": "The failed event is given up; what waits behind it is tried.", "discard": "All that waited is given up; later events of the key are handled again."}[act])
}

// previewRedrive counts what would be tried again, and freezes the bound.
func (q *request) previewRedrive() (*view, error) {
	filter := q.letterFilter()
	body := map[string]any{"dryRun": true}
	for name, v := range filter {
		body[name] = v[0]
	}
	var out struct{ Preview bus.Preview }
	if err := q.api(http.MethodPost, "/v1/dead-letters/redrive", body, &out); err != nil {
		return nil, err
	}
	filter.Set("limit", "20")
	var list struct {
		DeadLetters []bus.DeadLetter
		More        bool
	}
	if err := q.get("/v1/dead-letters", filter, &list); err != nil {
		return nil, err
	}
	filter.Del("limit")
	byType := map[string]int{}
	for _, l := range list.DeadLetters {
		byType[l.EventType]++
	}
	cli := command("dlq", "redrive", filter.Get("group"), filter.Get("key"), "--type", filter.Get("type"), "--dry-run")
	return &view{Template: "redrive", Title: "Redrive", Nav: "Failures", CLI: []string{cli}, API: "/v1/dead-letters?" + filter.Encode(),
		Data: map[string]any{"Preview": out.Preview, "Before": out.Preview.Before.Format(time.RFC3339Nano), "Letters": list.DeadLetters, "More": list.More, "Filter": filter, "Names": letterNames}}, nil
}

// startRedrive begins a job over what was previewed, and nothing that was parked since.
func (q *request) startRedrive() (*view, error) {
	reason := strings.TrimSpace(q.r.PostFormValue("reason"))
	if reason == "" {
		return nil, problem(http.StatusUnprocessableEntity, "say why: the reason is recorded")
	}
	before, err := time.Parse(time.RFC3339Nano, q.r.PostFormValue("before"))
	keys, err2 := strconv.ParseInt(q.r.PostFormValue("keys"), 10, 64)
	if err != nil || err2 != nil {
		return nil, problem(http.StatusUnprocessableEntity, "begin with the preview: it freezes what the redrive is about")
	}
	body := map[string]any{"before": before, "keys": keys, "reason": reason}
	for _, name := range letterNames {
		if v := q.r.PostFormValue(name); v != "" {
			body[name] = v
		}
	}
	if text := strings.TrimSpace(q.r.PostFormValue("rate")); text != "" {
		rate, err := strconv.ParseFloat(text, 64)
		if err != nil || rate < 0 || rate > 100_000 {
			return nil, problem(http.StatusUnprocessableEntity, "rate: give keys per second, or nothing for all at once")
		}
		body["keysPerSecond"] = rate
	}
	var out struct{ Job bus.Job }
	if err := q.api(http.MethodPost, "/v1/dead-letters/redrive", body, &out); err != nil {
		return nil, err
	}
	return q.done(at("jobs", out.Job.ID), "The redrive is under way.")
}
