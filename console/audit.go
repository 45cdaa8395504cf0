package console

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"
)

// auditKinds are the acts and happenings that people are accountable for, by a word for each.
var auditKinds = []struct{ Name, Types string }{
	{"groups", "platform.group.*,platform.replay.*"},
	{"failures", "platform.key.skipped,platform.key.released,platform.event.corrected,platform.redrive.*"},
	{"reveals", "platform.field.revealed"},
	{"denials", "platform.access.denied"},
	{"sagas", "platform.saga.cancelled,platform.saga.resumed"},
	{"projections", "platform.projection.*"},
	{"schemas", "platform.schema.*"},
	{"webhooks", "platform.webhook.*"},
}

// auditTypes are the patterns of a kind; of all but schemas, which a new store has many of, for an empty name.
func auditTypes(kind string) []string {
	var out []string
	for _, k := range auditKinds {
		if k.Name == kind || kind == "" && k.Name != "schemas" || kind == "all" {
			out = append(out, k.Types)
		}
	}
	return out
}

// auditRow is one entry: who did what, to what, why.
type auditRow struct {
	record
	Actor, Reason, What string
}

func (q *request) audit() (*view, error) {
	kind := q.q.Get("kind")
	types := auditTypes(kind)
	if len(types) == 0 {
		kind, types = "", auditTypes("")
	}
	query := url.Values{"type": types, "order": {"newest"}, "limit": {"100"}}
	text := strings.TrimSpace(q.q.Get("text"))
	if text != "" {
		query.Set("text", text)
	}
	if c := q.q.Get("cursor"); c != "" {
		query.Set("cursor", c)
	}
	page, err := q.records(query)
	if err != nil {
		return nil, err
	}
	rows := make([]auditRow, len(page.Events))
	for i, r := range page.Events {
		rows[i] = auditRowOf(r)
	}
	next := ""
	if page.Next != "" {
		u := q.r.URL.Query()
		u.Set("cursor", page.Next)
		next = q.r.URL.Path + "?" + u.Encode()
	}
	cli := command("tail", strings.Join(strings.Split(strings.Join(types, ","), ",")[:1], ""), "--no-follow", "--payload")
	if kind == "" {
		cli = command("tail", "platform.**", "--no-follow", "--payload")
	}
	return &view{Template: "audit", Title: "Audit", Nav: "Audit", CLI: []string{cli}, API: "/v1/events?" + query.Encode(),
		Data: map[string]any{"Rows": rows, "Kind": kind, "Kinds": auditKinds, "Text": text, "Next": next}}, nil
}

// auditRowOf takes out of the (masked) payload what an entry of the audit is about.
func auditRowOf(r record) auditRow {
	out := auditRow{record: r}
	var p map[string]json.RawMessage
	if json.Unmarshal(r.Payload, &p) != nil {
		return out
	}
	text := func(name string) string {
		var s string
		if json.Unmarshal(p[name], &s) == nil {
			return s
		}
		return strings.TrimSpace(string(p[name]))
	}
	for _, name := range []string{"actor", "registeredBy", "resumedBy", "pausedBy"} {
		if out.Actor == "" {
			out.Actor = text(name)
		}
	}
	out.Reason = text("reason")
	var parts []string
	for _, name := range []string{"group", "key", "partitionKey", "sagaId", "projection", "eventId", "eventType", "subjectId", "action", "resource", "keys", "url", "version", "fields", "purpose"} {
		if v := text(name); v != "" && v != "null" {
			parts = append(parts, name+" "+v)
		}
	}
	out.What = strings.Join(parts, " · ")
	return out
}

// When the fact happened.
func (a auditRow) When() time.Time { return time.UnixMilli(a.Metadata.Timestamp) }
