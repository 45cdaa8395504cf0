package console

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/eventstore"
)

// patientRecord is the category of the streams of patients.
const patientRecord = "patient.record"

// patients finds patients by id or name. The name is looked for in their records, newest first; what is found is masked.
func (q *request) patients() (*view, error) {
	name := strings.TrimSpace(q.q.Get("name"))
	d := map[string]any{"Name": name}
	v := &view{Template: "patients", Title: "Patients", Nav: "Patients", CLI: []string{command("stream", "list", patientRecord+"/")}, Data: d}
	if name != "" && visible(name) && q.caller().MayAll(auth.Read, patientRecord+".**") {
		if version, err := q.p.Store().StreamVersion(q.ctx(), patientRecord+"/"+name); err == nil && version > 0 {
			http.Redirect(q.w, q.r, at("patients", name), http.StatusSeeOther)
			return nil, nil
		}
	}
	query := url.Values{"type": {"patient.record.*,patient.demographics.*"}, "order": {"newest"}, "limit": {"100"}}
	if name != "" {
		query.Set("text", longestWord(name))
	}
	if c := q.q.Get("cursor"); c != "" {
		query.Set("cursor", c)
	}
	page, err := q.records(query)
	if err != nil {
		return nil, err
	}
	type hit struct {
		ID       string
		Type     string
		At       time.Time
		Payload  json.RawMessage
		Recorded time.Time
	}
	var hits []hit
	for _, r := range page.Events {
		e, err := q.p.Store().Get(q.ctx(), r.Metadata.EventID)
		if err != nil {
			return nil, err
		}
		id, ok := q.p.Registry().SubjectID(e.Event)
		if !ok || slices.ContainsFunc(hits, func(h hit) bool { return h.ID == id }) || !hasWords(e.Payload, name) {
			continue
		}
		hits = append(hits, hit{ID: id, Type: r.Metadata.EventType, At: time.UnixMilli(r.Metadata.Timestamp), Payload: r.Payload, Recorded: r.RecordedAt})
	}
	d["Hits"] = hits
	if page.Next != "" {
		u := q.r.URL.Query()
		u.Set("cursor", page.Next)
		d["Next"] = q.r.URL.Path + "?" + u.Encode()
	}
	query.Set("payload", "masked")
	v.API = "/v1/events?" + query.Encode()
	return v, nil
}

func longestWord(text string) string {
	return slices.MaxFunc(strings.Fields(text), func(a, b string) int { return len(a) - len(b) })
}

// hasWords says whether a payload has every word of a text, as a name has its parts.
func hasWords(payload []byte, text string) bool {
	lower := strings.ToLower(string(payload))
	for _, w := range strings.Fields(strings.ToLower(text)) {
		if !strings.Contains(lower, w) {
			return false
		}
	}
	return true
}

// entityView is what the page of an entity shows: what it is or was, what each event has made of it, and which event has
// set what.
type entityView struct {
	Category, ID string
	Version      int64 // shown
	Latest       int64
	RecordedAt   time.Time
	State        json.RawMessage
	Masked       bool
	At           string
	Steps        []Step
	Selected     *Step
	Blame        []blame
	HasState     bool
	HasHistory   bool
	Missing      string // why there is no state
	Self         string // address without version and time

	Patient bool
	Moments []Moment
	Flows   []flowOf
	Next    string
	Before  bool
}

// blame says which event has set a member.
type blame struct {
	Pointer string
	Value   json.RawMessage
	Step    Step
	Fresh   bool // set by the event that is selected
}

// flowOf is a flow that touches a patient.
type flowOf struct {
	ID     string
	Types  []string
	Last   time.Time
	Events int
	Title  string
}

func (q *request) patient() (*view, error) {
	v, d, err := q.readEntity(patientRecord, q.path("id"), false)
	if err != nil {
		return nil, err
	}
	return v, q.story(d)
}

func (q *request) entity() (*view, error) {
	if q.path("category") == patientRecord {
		http.Redirect(q.w, q.r, at("patients", q.path("id"))+"?"+q.r.URL.RawQuery, http.StatusSeeOther)
		return nil, nil
	}
	v, _, err := q.readEntity(q.path("category"), q.path("id"), false)
	return v, err
}

// mostSteps bounds the history of an entity that is shown: the newest.
const mostSteps = 200

func (q *request) readEntity(category, id string, reveal bool) (*view, *entityView, error) {
	if !q.caller().MayAll(auth.Read, category+".**") {
		return nil, nil, q.g.Deny(q.ctx(), auth.Read, category+".**")
	}
	d := &entityView{Category: category, ID: id, Patient: category == patientRecord, Self: entityURL(category, id)}
	d.HasState, d.HasHistory = q.o.States[category] != nil, q.o.Histories[category] != nil
	stream := category + "/" + id
	var err error
	if d.Latest, err = q.p.Store().StreamVersion(q.ctx(), stream); err != nil {
		return nil, nil, err
	}
	if d.Latest == 0 && !d.Patient {
		return nil, nil, problem(http.StatusNotFound, "no events of this stream")
	}
	query := url.Values{"payload": {"masked"}}
	if reveal {
		query.Set("payload", "full")
	}
	atFlag := ""
	if text := strings.TrimSpace(q.value("at")); text != "" {
		t, ok := momentOf(text, time.Now())
		if !ok {
			return nil, nil, problem(http.StatusBadRequest, "at: give a time such as 2026-11-27T10:00, or a distance such as 7d")
		}
		d.At, atFlag = text, t.UTC().Format(time.RFC3339)
		query.Set("at", t.UTC().Format(time.RFC3339Nano))
	} else if n, err := strconv.ParseInt(q.value("version"), 10, 64); err == nil && n > 0 {
		d.Version = min(n, max(d.Latest, 1))
		atFlag = strconv.FormatInt(d.Version, 10)
		query.Set("version", atFlag)
	}
	path := "/v1/streams/" + url.PathEscape(category) + "/" + url.PathEscape(id) + "/state"
	if d.HasState && d.Latest > 0 {
		var s struct {
			Version    int64
			RecordedAt time.Time
			Masked     bool
			State      json.RawMessage
		}
		switch err := q.get(path, query, &s); {
		case missing(err):
			d.Missing = "There were no events of it by then."
		case err != nil:
			return nil, nil, err
		default:
			d.Version, d.RecordedAt, d.State, d.Masked = s.Version, s.RecordedAt, s.State, s.Masked
		}
	}
	if d.HasHistory && d.Latest > 0 {
		if err := q.history(d, reveal); err != nil {
			return nil, nil, err
		}
	}
	title := category + "/" + id
	nav := "Search"
	if d.Patient {
		title, nav = "Patient "+id, "Patients"
	}
	api := path
	if len(query) > 0 {
		api += "?" + query.Encode()
	}
	return &view{Template: "entity", Title: title, Nav: nav, CLI: []string{command("state", stream, "--at", atFlag), command("state", stream, "--diff")}, API: api, Data: d}, d, nil
}

// value is a parameter of the address or, in a form, of the form.
func (q *request) value(name string) string {
	if q.r.Method == http.MethodPost {
		return q.r.PostFormValue(name)
	}
	return q.q.Get(name)
}

// history reads what each event has made of the entity, and from it who has set what by the version that is shown.
func (q *request) history(d *entityView, reveal bool) error {
	members := map[string]blame{}
	err := q.o.Histories[d.Category](q.ctx(), q.p, d.ID, reveal, func(s Step) error {
		if d.Version > 0 && s.Version <= d.Version {
			for _, c := range s.Changes {
				for p := range members { // what held the members that are set now, or were part of what is
					if p == c.Pointer || strings.HasPrefix(p, c.Pointer+"/") || strings.HasPrefix(c.Pointer, p+"/") && len(members[p].Value) > 0 && members[p].Value[0] != '{' && members[p].Value[0] != '[' {
						delete(members, p)
					}
				}
				by := Step{Version: s.Version, RecordedAt: s.RecordedAt, EventID: s.EventID, Type: s.Type, Source: s.Source}
				eachLeaf(c.Pointer, c.To, func(pointer string, value json.RawMessage) {
					members[pointer] = blame{Pointer: pointer, Value: value, Step: by}
				})
			}
		}
		d.Steps = append(d.Steps, s)
		if len(d.Steps) > mostSteps {
			d.Steps = d.Steps[1:]
		}
		return nil
	})
	if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
		return fmt.Errorf("console: history of %s: %w", d.Category, err)
	}
	for i := range d.Steps {
		if s := d.Steps[i]; s.Version == d.Version {
			d.Selected = &s
		}
	}
	for _, p := range slices.Sorted(maps.Keys(members)) {
		b := members[p]
		b.Fresh = b.Step.Version == d.Version
		d.Blame = append(d.Blame, b)
	}
	slices.Reverse(d.Steps)
	return nil
}

// eachLeaf calls fn for the innermost members of a value that was set.
func eachLeaf(pointer string, value json.RawMessage, fn func(pointer string, value json.RawMessage)) {
	var object map[string]json.RawMessage
	switch {
	case value == nil:
	case json.Unmarshal(value, &object) == nil && len(object) > 0:
		for name, v := range object {
			eachLeaf(pointer+"/"+escaper.Replace(name), v, fn)
		}
	default:
		fn(pointer, value)
	}
}

// escaper writes a name as a part of a JSON pointer.
var escaper = strings.NewReplacer("~", "~0", "/", "~1")

// story adds what has happened to a patient elsewhere.
func (q *request) story(d *entityView) error {
	if q.o.Story == nil {
		return nil
	}
	var before Moment
	if text := q.q.Get("before"); text != "" {
		ms, id, _ := strings.Cut(text, ".")
		n, err := strconv.ParseInt(ms, 10, 64)
		if err != nil {
			return problem(http.StatusBadRequest, "before: give what a former page had")
		}
		before, d.Before = Moment{At: time.UnixMilli(n), EventID: id}, true
	}
	const limit = 100
	moments, err := q.o.Story(q.ctx(), q.p, d.ID, before, limit)
	if err != nil {
		return err
	}
	if len(moments) == limit {
		last := moments[limit-1]
		d.Next = d.Self + "?before=" + url.QueryEscape(fmt.Sprintf("%d.%s", last.At.UnixMilli(), last.EventID))
	}
	c := q.caller()
	flows := map[string]int{}
	for _, m := range moments {
		if !c.May(auth.Read, m.Type) {
			continue
		}
		d.Moments = append(d.Moments, m)
		i, ok := flows[m.CorrelationID]
		if !ok {
			i = len(d.Flows)
			flows[m.CorrelationID] = i
			d.Flows = append(d.Flows, flowOf{ID: m.CorrelationID, Last: m.At, Title: m.Title})
		}
		f := &d.Flows[i]
		f.Events++
		if !slices.Contains(f.Types, m.Type) && len(f.Types) < 40 {
			f.Types = append(f.Types, m.Type)
		}
	}
	if len(d.Moments) == 0 && d.Latest == 0 && !d.Before {
		return problem(http.StatusNotFound, "no events about a patient with this id")
	}
	return nil
}

// revealEntity shows the protected members of an entity's state.
func (q *request) revealEntity() (*view, error) {
	purpose, reason, err := q.reasonGiven()
	if err != nil {
		return nil, err
	}
	category, id := q.path("category"), q.path("id")
	_, seen, err := q.readEntity(category, id, false)
	if err != nil {
		return nil, err
	}
	if seen.Version == 0 {
		return nil, problem(http.StatusNotFound, "there were no events of it by then")
	}
	records, err := q.p.Store().Stream(q.ctx(), eventstore.StreamQuery{Stream: category + "/" + id, From: seen.Version, Limit: 1})
	if err != nil {
		return nil, err
	}
	if len(records) == 0 {
		return nil, problem(http.StatusNotFound, "no events of this stream")
	}
	if err := q.reveal(records[0], maskedFields(seen.State), purpose, reason); err != nil {
		return nil, err
	}
	v, d, err := q.readEntity(category, id, true)
	if err != nil {
		return nil, err
	}
	if d.Patient {
		err = q.story(d)
	}
	return v, err
}
