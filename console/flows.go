package console

import (
	"bytes"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
	"github.com/carebus/carebus/saga"
)

// flowRow is a flow in a list of those that have moved lately.
type flowRow struct {
	ID      string
	First   string // type of the first event seen of it
	Last    string
	LastAt  time.Time
	Events  int
	Failed  bool
	Sources int
}

// flows lists the flows of the latest events. There is no index of flows: a flow is a correlation id, and is found by it.
func (q *request) flows() (*view, error) {
	if id := strings.TrimSpace(q.q.Get("id")); id != "" {
		http.Redirect(q.w, q.r, at("flows", id), http.StatusSeeOther)
		return nil, nil
	}
	match, err := q.match(filter{Type: q.q.Get("type")}, auth.Read)
	if err != nil {
		return nil, err
	}
	if !q.caller().MaySome(auth.Read) {
		return nil, q.g.Deny(q.ctx(), auth.Read, "")
	}
	found, err := q.p.Store().Latest(q.ctx(), eventstore.LatestQuery{Limit: 300, Match: func(t string) bool { return match(t) && !strings.HasPrefix(t, "platform.") }})
	if err != nil {
		return nil, err
	}
	rows := []*flowRow{}
	byID := map[string]*flowRow{}
	sources := map[[2]string]bool{}
	for _, r := range found.Records {
		f := byID[r.CorrelationID]
		if f == nil {
			if len(rows) == 100 {
				continue
			}
			f = &flowRow{ID: r.CorrelationID, Last: r.Type, LastAt: r.RecordedAt}
			byID[r.CorrelationID] = f
			rows = append(rows, f)
		}
		f.Events++
		f.First = r.Type
		if k := [2]string{r.CorrelationID, r.Source}; !sources[k] {
			sources[k] = true
			f.Sources++
		}
	}
	return &view{Template: "flows", Title: "Flows", Nav: "Flows", CLI: []string{command("flow", "CORRELATION")}, API: "/v1/events?order=newest&payload=none", Live: "every=2000",
		Data: map[string]any{"Rows": rows, "Type": q.q.Get("type"), "Looked": len(found.Records), "Types": q.p.Registry().Types()}}, nil
}

// flowView is what the page of a flow shows.
type flowView struct {
	ID        string
	Flow      *flow.Flow
	Mark      string
	All       bool
	Groups    bool
	Show      string // sequence, tree, table
	Limit     int
	Drawn     int
	After     string // recorded after this time: a later part of a long flow
	Behind    string // when the last one drawn was recorded; empty when there are none behind it
	SVG       template.HTML
	Tree      []treeRow
	Sagas     []saga.Detail
	Subjects  []string
	Reactions []flow.Reaction
	Gap       time.Duration // the longest time without an event
	GapAfter  string
}

type treeRow struct {
	*flow.Event
	Depth int
	Last  bool
}

// Pad is the class of a row's depth; deeper rows stand as far in as the deepest.
func (t treeRow) Pad() string { return "d" + strconv.Itoa(min(t.Depth, 16)) }

// readFlow reads a flow's events, most at most: those recorded after a time.
func (q *request) readFlow(id string, all, groups bool, after time.Time, most int) (*flow.Flow, error) {
	query := url.Values{"most": {strconv.Itoa(most)}}
	if !after.IsZero() {
		query.Set("after", after.UTC().Format(time.RFC3339Nano))
	}
	if all {
		query.Set("all", "true")
	}
	if groups {
		query.Set("groups", "true")
	}
	var f flow.Flow
	if err := q.get("/v1/flows/"+url.PathEscape(id), query, &f); err != nil {
		return nil, err
	}
	return &f, nil
}

// mostOfFlow bounds what a page looks at of one flow: an import makes a whole life one, and the page is asked for again and
// again while it is looked at.
const mostOfFlow = 500

func (q *request) flow() (*view, error) {
	d := flowView{ID: q.path("id"), All: q.q.Get("all") != "", Groups: q.q.Get("groups") != "", Show: q.q.Get("show"), Mark: q.q.Get("mark")}
	if !slices.Contains([]string{"sequence", "tree", "table"}, d.Show) {
		d.Show = "sequence"
	}
	d.Limit = 200
	if n, err := strconv.Atoi(q.q.Get("limit")); err == nil {
		d.Limit = min(max(n, 1), 1000)
	}
	var after time.Time
	if d.After = q.q.Get("after"); d.After != "" {
		var err error
		if after, err = time.Parse(time.RFC3339Nano, d.After); err != nil {
			return nil, problem(http.StatusBadRequest, "after: give a time such as 2026-11-27T10:00:00.25Z")
		}
	}
	f, err := q.readFlow(d.ID, d.All, d.Groups, after, max(mostOfFlow, d.Limit))
	if err != nil {
		return nil, err
	}
	d.Flow = f
	if d.ID != f.CorrelationID && d.Mark == "" {
		d.Mark = d.ID // reached by one of its events
	}
	d.Drawn = min(len(f.Events), d.Limit)
	if d.Drawn > 0 && (d.Drawn < len(f.Events) || f.More) {
		d.Behind = f.Events[d.Drawn-1].RecordedAt.Format(time.RFC3339Nano)
	}
	if d.Sagas, err = q.sagasOf(f.CorrelationID); err != nil {
		return nil, err
	}
	for i := 1; i < len(f.Events); i++ {
		if gap := time.Duration((f.Events[i].AtMs - f.Events[i-1].AtMs) * float64(time.Millisecond)); gap > d.Gap {
			d.Gap, d.GapAfter = gap, f.Events[i-1].Type
		}
	}
	d.Reactions = slices.Clone(f.Reactions)
	slices.SortStableFunc(d.Reactions, func(a, b flow.Reaction) int { return int(b.MaxMs - a.MaxMs) })
	d.Reactions = d.Reactions[:min(len(d.Reactions), 20)]
	switch d.Show {
	case "sequence":
		var b bytes.Buffer
		o := &flow.PageOptions{Options: flow.Options{Limit: d.Limit}, Mark: d.Mark, Expected: expected(d.Sagas), Link: func(e *flow.Event) string { return at("events", e.EventID) }}
		if err := f.WritePage(&b, o); err != nil {
			return nil, err
		}
		d.SVG = template.HTML(b.String()) //nolint:gosec // flow escapes every name and text
	case "tree":
		d.Tree = treeOf(f, d.Limit)
	}
	if d.Subjects, err = q.subjectsOf(f); err != nil {
		return nil, err
	}
	api := "/v1/flows/" + url.PathEscape(d.ID)
	if d.All {
		api += "?all=true"
	}
	all := ""
	if d.All {
		all = "--all"
	}
	return &view{Template: "flow", Title: "Flow", Nav: "Flows", CLI: []string{command("flow", d.ID) + map[bool]string{true: " " + all}[all != ""]}, API: api,
		Live: "correlation=" + url.QueryEscape(f.CorrelationID), Data: d}, nil
}

// sagasOf are the sagas that run in a flow: their own events say so.
func (q *request) sagasOf(correlation string) ([]saga.Detail, error) {
	if !q.caller().MayAll(auth.Read, "platform.saga.*") {
		return nil, nil
	}
	records, err := q.p.Store().Correlation(q.ctx(), correlation, time.Time{}, mostOfFlow)
	if err != nil {
		return nil, err
	}
	var out []saga.Detail
	seen := map[string]bool{}
	for _, r := range records {
		id, ok := strings.CutPrefix(r.Stream, "platform.saga/")
		if !ok || seen[id] || len(out) == 5 {
			continue
		}
		seen[id] = true
		var s saga.Detail
		if err := q.get("/v1/sagas/"+url.PathEscape(id), nil, &s); err != nil {
			if missing(err) {
				continue
			}
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// expected are the steps that sagas still have before them.
func expected(sagas []saga.Detail) []flow.Expected {
	var out []flow.Expected
	for _, s := range sagas {
		if s.Status.Ended() {
			continue
		}
		for _, step := range s.Steps {
			text := step.State + ": " + step.Name
			switch step.State {
			case "to-do":
				text = "expected: " + step.Name
			case "waiting", "calling", "running", "resting":
			default:
				continue
			}
			if !step.Until.IsZero() {
				text += ", until " + step.Until.UTC().Format("2006-01-02 15:04:05")
			}
			out = append(out, flow.Expected{Service: "saga " + s.Saga, Text: text})
		}
	}
	return out
}

// subjectsOf are the patients that a flow's first events are about.
func (q *request) subjectsOf(f *flow.Flow) ([]string, error) {
	var out []string
	for i := range f.Events[:min(len(f.Events), 5)] {
		r, err := q.p.Store().Get(q.ctx(), f.Events[i].EventID)
		if err != nil {
			return nil, err
		}
		if id, ok := q.p.Registry().SubjectID(r.Event); ok && !slices.Contains(out, id) {
			out = append(out, id)
		}
	}
	return out, nil
}

// treeOf is a flow's causation tree, in the order of reading.
func treeOf(f *flow.Flow, limit int) []treeRow {
	var out []treeRow
	var walk func(i, depth int, last bool)
	walk = func(i, depth int, last bool) {
		if len(out) == limit {
			return
		}
		e := &f.Events[i]
		out = append(out, treeRow{e, depth, last})
		for n, effect := range e.Effects {
			walk(effect, depth+1, n == len(e.Effects)-1)
		}
	}
	for i := range f.Events {
		if f.Events[i].Cause < 0 {
			walk(i, 0, false)
		}
	}
	return out
}

// exportFlow gives a flow as a file.
func (q *request) exportFlow() error {
	format := q.q.Get("format")
	forms := map[string][2]string{"svg": {"image/svg+xml", "svg"}, "mermaid": {"text/plain; charset=utf-8", "mmd"}, "json": {"application/json", "json"}, "text": {"text/plain; charset=utf-8", "txt"}}
	form, ok := forms[format]
	if !ok {
		return problem(http.StatusBadRequest, "format: give svg, mermaid, json or text")
	}
	query := url.Values{"format": {format}, "limit": {"1000"}}
	if q.q.Get("all") != "" {
		query.Set("all", "true")
	}
	var text []byte
	if err := q.get("/v1/flows/"+url.PathEscape(q.path("id")), query, &text); err != nil {
		return err
	}
	q.w.Header().Set("Content-Type", form[0])
	q.w.Header().Set("Content-Disposition", `attachment; filename="flow.`+form[1]+`"`)
	_, err := q.w.Write(text)
	return err
}

// compared is one row of two flows side by side.
type compared struct {
	A, B *flow.Event // nil: the other flow has no such event here
}

// Same says that both flows have the event.
func (c compared) Same() bool { return c.A != nil && c.B != nil }

// mostCompared bounds the events of each flow that are compared: the work grows with their product.
const mostCompared = 600

func (q *request) compare() (*view, error) {
	a, b := strings.TrimSpace(q.q.Get("a")), strings.TrimSpace(q.q.Get("b"))
	d := map[string]any{"A": a, "B": b}
	v := &view{Template: "compare", Title: "Compare two flows", Nav: "Flows", Data: d}
	if a == "" || b == "" {
		return v, nil
	}
	v.CLI = []string{command("flow", a), command("flow", b)}
	fa, err := q.readFlow(a, false, false, time.Time{}, mostCompared)
	if err != nil {
		return nil, err
	}
	fb, err := q.readFlow(b, false, false, time.Time{}, mostCompared)
	if err != nil {
		return nil, err
	}
	rows := align(fa.Events, fb.Events)
	same := 0
	var fork *compared
	for i := range rows {
		if rows[i].Same() {
			same++
		} else if fork == nil {
			fork = &rows[i]
		}
	}
	d["FA"], d["FB"], d["Rows"], d["Same"], d["Fork"] = fa, fb, rows, same, fork
	d["Cut"] = fa.More || fb.More
	v.API = "/v1/flows/" + url.PathEscape(a)
	return v, nil
}

// align puts two flows side by side: the longest sequence of events that both have, by type and source, in order.
func align(a, b []flow.Event) []compared {
	same := func(x, y *flow.Event) bool { return x.Type == y.Type && x.Source == y.Source }
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if same(&a[i], &b[j]) {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	var out []compared
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && same(&a[i], &b[j]):
			out = append(out, compared{&a[i], &b[j]})
			i, j = i+1, j+1
		case j == len(b) || i < len(a) && length[i+1][j] >= length[i][j+1]:
			out = append(out, compared{A: &a[i]})
			i++
		default:
			out = append(out, compared{B: &b[j]})
			j++
		}
	}
	return out
}
