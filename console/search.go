package console

import (
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/saga"
)

// record is an event as the API answers it.
type record struct {
	Metadata struct {
		EventID       string `json:"eventId"`
		EventType     string `json:"eventType"`
		EventSource   string `json:"eventSource"`
		CorrelationID string `json:"correlationId"`
		CausationID   string `json:"causationId,omitempty"`
		Timestamp     int64  `json:"timestamp"`
		Version       string `json:"version"`
		TraceID       string `json:"traceId,omitempty"`
		PartitionKey  string `json:"partitionKey"`
	} `json:"metadata"`
	Payload       json.RawMessage `json:"payload,omitempty"`
	Masked        bool            `json:"masked,omitempty"`
	Partition     int             `json:"partition"`
	Offset        int64           `json:"offset"`
	Stream        string          `json:"stream,omitempty"`
	StreamVersion int64           `json:"streamVersion,omitempty"`
	RecordedAt    time.Time       `json:"recordedAt"`
}

type recordPage struct {
	Events []record `json:"events"`
	Next   string   `json:"next"`
}

// searchNames are the parameters of a search, as the API has them.
var searchNames = []string{"type", "correlation", "key", "subject", "source", "text"}

func (q *request) search() (*view, error) {
	var d struct {
		Q      map[string]string
		Member string
		Asked  bool
		Page   recordPage
		Next   string // address of the next page
		Cursor bool
		Oldest bool // first
		Types  []string
	}
	d.Q = map[string]string{}
	ask := url.Values{"order": {"newest"}, "limit": {"50"}}
	for _, name := range searchNames {
		if v := strings.TrimSpace(q.q.Get(name)); v != "" {
			d.Q[name], d.Asked = v, true
			ask.Set(name, v)
		}
	}
	if v := strings.TrimSpace(q.q.Get("member")); v != "" {
		d.Member, d.Asked = v, true
		ask.Set("member", v)
	}
	for _, name := range []string{"since", "until"} {
		text := strings.TrimSpace(q.q.Get(name))
		if text == "" {
			continue
		}
		t, ok := momentOf(text, time.Now())
		if !ok {
			return nil, problem(http.StatusBadRequest, "%s: give a time such as 2026-11-27T10:00, or a distance such as 2h, 30m, 7d", name)
		}
		d.Q[name], d.Asked = text, true
		ask.Set(name, t.UTC().Format(time.RFC3339Nano))
	}
	if n, err := strconv.Atoi(q.q.Get("limit")); err == nil {
		ask.Set("limit", strconv.Itoa(min(max(n, 1), mostRows)))
	}
	if c := q.q.Get("cursor"); c != "" {
		d.Cursor = true
		ask.Set("cursor", c)
	}
	if d.Q["correlation"] != "" {
		d.Oldest = true // a flow is read from its beginning, and a long one by its index
		ask.Set("order", "oldest")
	}
	ask.Set("payload", "none")
	var err error
	if d.Page, err = q.records(ask); err != nil {
		return nil, err
	}
	if d.Page.Next != "" {
		next := q.r.URL.Query()
		next.Set("cursor", d.Page.Next)
		d.Next = q.r.URL.Path + "?" + next.Encode()
	}
	d.Types = q.p.Registry().Types()
	ask.Set("payload", "masked")
	cli := command("tail", d.Q["type"], "--no-follow", "--from", d.Q["since"], "--correlation", d.Q["correlation"], "--key", d.Q["key"])
	return &view{Template: "search", Title: "Search", Nav: "Search", CLI: []string{cli}, API: "/v1/events?" + ask.Encode(), Data: d}, nil
}

var distance = regexp.MustCompile(`^-?(\d+)\s*(s|m|h|d|w)$`)

// momentOf reads a time as people write it: a time, a date, or a distance back from now.
func momentOf(text string, now time.Time) (time.Time, bool) {
	if m := distance.FindStringSubmatch(text); m != nil {
		n, err := strconv.Atoi(m[1])
		if err != nil || n > 100_000 {
			return time.Time{}, false
		}
		unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}[m[2]]
		return now.Add(-time.Duration(n) * unit), true
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02 15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// found is something that a text may mean.
type found struct {
	Kind string `json:"kind"`
	Text string `json:"text"`
	URL  string `json:"url"`
}

// lookUp says what a text may mean, the surest first: an id, a name, then words to search for. Each guess is one look by an
// index.
func (q *request) lookUp(text string) []found {
	text = strings.TrimSpace(text)
	if text == "" || len(text) > 256 {
		return nil
	}
	var out []found
	if visible(text) {
		var r record
		if q.get("/v1/events/"+url.PathEscape(text), url.Values{"payload": {"none"}}, &r) == nil {
			out = append(out, found{"event", r.Metadata.EventType + " " + text, at("events", text)})
		}
		var flow recordPage
		if q.get("/v1/events", url.Values{"correlation": {text}, "limit": {"1"}, "payload": {"none"}}, &flow) == nil && len(flow.Events) > 0 {
			out = append(out, found{"flow", text, at("flows", text)})
		}
		for category := range q.o.States {
			if version, err := q.p.Store().StreamVersion(q.ctx(), category+"/"+text); err == nil && version > 0 && q.caller().MayAll(auth.Read, category+".**") {
				out = append(out, found{category, text, entityURL(category, text)})
			}
		}
		slices.SortStableFunc(out, func(a, b found) int { return strings.Compare(a.Kind, b.Kind) })
		var s saga.Detail
		if q.get("/v1/sagas/"+url.PathEscape(text), nil, &s) == nil {
			out = append(out, found{"saga", s.Saga + " " + text, at("sagas", text)})
		}
	}
	lower := strings.ToLower(text)
	few := func(kind string, names []string, link func(string) string) {
		n := 0
		for _, name := range names {
			if n < 5 && strings.Contains(strings.ToLower(name), lower) {
				n++
				out = append(out, found{kind, name, link(name)})
			}
		}
	}
	few("type", q.p.Registry().Types(), func(t string) string { return at("catalog", t) })
	var list struct{ Groups []bus.GroupStatus }
	if q.get("/v1/groups", nil, &list) == nil {
		names := make([]string, len(list.Groups))
		for i, g := range list.Groups {
			names[i] = g.Name
		}
		few("group", names, func(g string) string { return at("groups", g) })
	}
	if strings.Contains(text, "*") && bus.CheckPattern(text) == nil {
		return append(out, found{"search", "events of type " + text, at("search") + "?type=" + url.QueryEscape(text)})
	}
	return append(out,
		found{"patients", "patients named " + text, at("patients") + "?name=" + url.QueryEscape(text)},
		found{"search", "events with the key " + text, at("search") + "?key=" + url.QueryEscape(text)},
		found{"search", "events whose payload has " + text, at("search") + "?text=" + url.QueryEscape(text)})
}

func visible(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

func entityURL(category, id string) string {
	if category == patientRecord {
		return at("patients", id)
	}
	return at("entities", category, id)
}

// find goes where a text leads: straight on when that is sure.
func (q *request) find() (*view, error) {
	text := q.q.Get("q")
	all := q.lookUp(text)
	sure := slices.DeleteFunc(slices.Clone(all), func(f found) bool { return f.Kind == "search" || f.Kind == "patients" })
	if len(sure) == 1 {
		http.Redirect(q.w, q.r, sure[0].URL, http.StatusSeeOther)
		return nil, nil
	}
	return &view{Template: "find", Title: "Find", Nav: "Search", CLI: []string{command("flow", text)}, Data: map[string]any{"Q": text, "All": all}}, nil
}

func (q *request) findJSON() error {
	out := q.lookUp(q.q.Get("q"))
	if out == nil {
		out = []found{}
	}
	q.w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(q.w).Encode(out)
}
