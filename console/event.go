package console

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
	"github.com/carebus/carebus/schema"
)

// eventView is what the page about an event shows.
type eventView struct {
	record
	Raw      json.RawMessage // the envelope, with the payload as it is shown
	Causes   []record        // the chain of causes, the first one first
	Effects  []flow.Event
	More     int  // effects that are not listed
	Cut      bool // the flow is long: effects were looked for among the next events of it
	Self     *flow.Event
	Took     time.Duration
	Schema   schema.Document
	Title    string
	About    string
	Owner    string
	Class    string
	Valid    string // what the schema says against it; empty when nothing
	Known    bool   // the schema is registered
	Subject  string
	Entity   string // address of the entity that its stream is of
	Revealed bool
	Reason   string
}

// mostCauses bounds how far a chain of causes is followed.
const mostCauses = 25

func (q *request) event() (*view, error) { return q.showEvent(q.path("id"), "") }

func (q *request) showEvent(id, reason string) (*view, error) {
	d := eventView{Revealed: reason != "", Reason: reason}
	visibility := "masked"
	if d.Revealed {
		visibility = "full"
	}
	path := "/v1/events/" + url.PathEscape(id)
	if err := q.get(path, url.Values{"payload": {visibility}}, &d.record); err != nil {
		return nil, err
	}
	m := d.Metadata
	envelope, err := json.Marshal(map[string]any{"metadata": m, "payload": d.Payload})
	if err != nil {
		return nil, err
	}
	d.Raw = envelope
	for cause := m.CausationID; cause != "" && len(d.Causes) < mostCauses; {
		var r record
		if err := q.get("/v1/events/"+url.PathEscape(cause), url.Values{"payload": {"none"}}, &r); err != nil {
			if missing(err) {
				break
			}
			return nil, err
		}
		if slices.ContainsFunc(d.Causes, func(x record) bool { return x.Metadata.EventID == r.Metadata.EventID }) || r.Metadata.EventID == id {
			break // a circle, made by hand
		}
		d.Causes = append(d.Causes, r)
		cause = r.Metadata.CausationID
	}
	if len(d.Causes) > 0 && d.Causes[0].Metadata.CorrelationID == m.CorrelationID {
		d.Took = max(0, d.RecordedAt.Sub(d.Causes[0].RecordedAt))
	}
	slices.Reverse(d.Causes)
	f, err := q.readFlow(m.CorrelationID, true, true, time.Time{}, mostOfFlow)
	if err == nil && f.More { // a long one: what this event has caused lies behind it
		f, err = q.readFlow(m.CorrelationID, true, true, d.RecordedAt.Add(-time.Microsecond), mostOfFlow)
	}
	if err == nil {
		d.Cut = f.More
		for i := range f.Events {
			e := &f.Events[i]
			if e.EventID != id {
				continue
			}
			d.Self = e
			for _, n := range e.Effects[:min(len(e.Effects), 50)] {
				d.Effects = append(d.Effects, f.Events[n])
			}
			d.More = len(e.Effects) - len(d.Effects)
		}
	} else if !missing(err) {
		return nil, err
	}
	q.describe(&d)
	if category, entity, ok := strings.Cut(d.Stream, "/"); ok {
		switch {
		case category == "platform.saga":
			d.Entity = at("sagas", entity)
		case q.o.States[category] != nil || q.o.Histories[category] != nil:
			d.Entity = entityURL(category, entity)
		}
	}
	return &view{Template: "event", Title: m.EventType, Nav: "Search", CLI: []string{command("flow", id)}, API: path + "?payload=masked", Data: d}, nil
}

// describe adds what the registry knows. What it says of the payload quotes no value.
func (q *request) describe(d *eventView) {
	e, err := q.p.Store().Get(q.ctx(), d.Metadata.EventID)
	if err != nil {
		return
	}
	d.Subject, _ = q.p.Registry().SubjectID(e.Event)
	d.Schema, err = q.p.Registry().Get(d.Metadata.EventType, d.Metadata.Version)
	if d.Known = err == nil; !d.Known {
		return
	}
	head := headOf(d.Schema.Schema)
	d.Title, d.About, d.Owner, d.Class = head.Title, head.Description, head.Owner, head.DataClass
	if err := q.p.Registry().Validate(e.Event); err != nil {
		d.Valid = err.Error()
	}
}

type schemaHead struct {
	Title       string `json:"title"`
	Description string `json:"description"`
	Owner       string `json:"x-owner"`
	DataClass   string `json:"x-data-class"`
}

func headOf(doc json.RawMessage) (h schemaHead) {
	_ = json.Unmarshal(doc, &h) // a schema without these members has none
	return h
}

// purposes are why protected values may be looked at.
var purposes = []string{"treatment", "payment", "operations", "support", "emergency"}

// reasonGiven reads why somebody wants to see protected values.
func (q *request) reasonGiven() (purpose, reason string, err error) {
	reason, purpose = strings.TrimSpace(q.r.PostFormValue("reason")), q.r.PostFormValue("purpose")
	if len(reason) < 3 || len(reason) > 1000 {
		return "", "", problem(http.StatusUnprocessableEntity, "say why you want to see protected values, in 3 to 1000 letters: the reason is recorded")
	}
	if !slices.Contains(purposes, purpose) {
		return "", "", problem(http.StatusUnprocessableEntity, "choose a purpose: %s", strings.Join(purposes, ", "))
	}
	return purpose, reason, nil
}

// reveal records that protected members of an event, or of what it led to, are shown. Nothing is shown when that fails.
func (q *request) reveal(r eventstore.Record, fields []string, purpose, reason string) error {
	if len(fields) == 0 {
		return nil
	}
	told := platform.FieldRevealed{EventID: r.ID, EventType: new(r.Type), Fields: fields, Actor: q.caller().Name, Purpose: &purpose, Reason: &reason, RevealedAt: time.Now()}
	if id, ok := q.p.Registry().SubjectID(r.Event); ok {
		told.SubjectID = &id
	}
	if _, err := q.p.Store().Append(q.ctx(), "", eventstore.AnyVersion, platform.FieldRevealedV1.New(bus.Source, told)); err != nil {
		return err
	}
	q.log.Info("console: protected values shown", "actor", q.caller().Name, "event", r.ID, "fields", len(fields))
	return nil
}

func (q *request) revealEvent() (*view, error) {
	purpose, reason, err := q.reasonGiven()
	if err != nil {
		return nil, err
	}
	id := q.path("id")
	var seen record
	if err := q.get("/v1/events/"+url.PathEscape(id), url.Values{"payload": {"masked"}}, &seen); err != nil { // as the caller
		return nil, err
	}
	r, err := q.p.Store().Get(q.ctx(), id)
	if err != nil {
		return nil, err
	}
	if err := q.reveal(r, maskedFields(seen.Payload), purpose, reason); err != nil {
		return nil, err
	}
	return q.showEvent(id, reason)
}

// maskedFields are the JSON pointers of what is masked in a document.
func maskedFields(doc json.RawMessage) []string {
	var v any
	if json.Unmarshal(doc, &v) != nil {
		return nil
	}
	out := []string{}
	var walk func(pointer string, v any)
	walk = func(pointer string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, x := range v {
				walk(pointer+"/"+escaper.Replace(name), x)
			}
		case []any:
			for i, x := range v {
				walk(pointer+"/"+strconv.Itoa(i), x)
			}
		case string:
			if v == masked {
				out = append(out, orRoot(pointer))
			}
		}
	}
	walk("", v)
	sort.Strings(out)
	if len(out) > 500 {
		out = append(out[:500], "…")
	}
	return out
}

func orRoot(pointer string) string {
	if pointer == "" {
		return "/"
	}
	return pointer
}
