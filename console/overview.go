package console

import (
	"html/template"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/saga"
)

func (s *server) routes() {
	s.assetRoutes()
	s.signRoutes()
	s.page("{$}", (*request).overview)
	s.page("tail", (*request).tail)
	s.mux.HandleFunc("GET "+base+"live", s.admitted((*request).live))
	s.page("search", (*request).search)
	s.page("find", (*request).find)
	s.mux.HandleFunc("GET "+base+"find.json", s.admitted((*request).findJSON))
	s.page("events/{id}", (*request).event)
	s.form("events/{id}/reveal", (*request).revealEvent)
	s.page("flows", (*request).flows)
	s.page("flows/{id}", (*request).flow)
	s.mux.HandleFunc("GET "+base+"flows/{id}/export", s.admitted((*request).exportFlow))
	s.page("compare", (*request).compare)
	s.page("topology", (*request).topology)
	s.page("groups", (*request).groups)
	s.page("groups/{group}", (*request).group)
	s.form("groups/{group}/{act}", (*request).actOnGroup)
	s.page("failures", (*request).failures)
	s.page("failure", (*request).failure)
	s.form("failure/reveal", (*request).revealFailure)
	s.form("failure/correct", (*request).correctFailure)
	s.form("failure/{act}", (*request).settleFailure)
	s.page("redrive", (*request).previewRedrive)
	s.form("redrive", (*request).startRedrive)
	s.page("jobs", (*request).jobs)
	s.page("jobs/{id}", (*request).job)
	s.form("jobs/{id}/cancel", (*request).cancelJob)
	s.page("catalog", (*request).catalog)
	s.page("catalog/{type}", (*request).schema)
	s.page("catalog/{type}/diff", (*request).schemaDiff)
	s.page("sagas", (*request).sagas)
	s.page("sagas/{id}", (*request).saga)
	s.form("sagas/{id}/reveal", (*request).revealSaga)
	s.form("sagas/{id}/{act}", (*request).actOnSaga)
	s.page("patients", (*request).patients)
	s.page("patients/{id}", (*request).patient)
	s.page("entities/{category}/{id}", (*request).entity)
	s.form("entities/{category}/{id}/reveal", (*request).revealEntity)
	s.page("projections", (*request).projections)
	s.form("projections/{name}/{act}", (*request).actOnProjection)
	s.page("audit", (*request).audit)
	s.page("{rest...}", func(*request) (*view, error) {
		return nil, problem(404, "the console has no such page")
	})
}

// spans are the lengths of the traffic chart.
var spans = []struct {
	Name string
	Span time.Duration
}{{"15m", 15 * time.Minute}, {"1h", time.Hour}, {"24h", 24 * time.Hour}, {"7d", 7 * 24 * time.Hour}}

func (q *request) overview() (*view, error) {
	var d struct {
		Stored          int64
		Span            string
		Spans           []string
		Chart           template.HTML
		InSpan          int64
		PerMinute       float64
		Groups          []groupRow
		MoreGroups      int
		MaxLag          int64
		LagGroup        string
		Parked, Stopped int64
		ParkedEvents    int64
		Failures        []failureKind
		Stuck           int
		Queued          int
		Changes         []record
		SeesAll         bool // and so how much there is of everything
	}
	if c := q.caller(); !c.MaySome(auth.Read) && !c.MaySome(auth.Operate) {
		return nil, q.g.Deny(q.ctx(), auth.Read, "")
	}
	now := time.Now()
	d.SeesAll = q.caller().MayAll(auth.Read, "**")
	heads, err := q.p.Store().Heads(q.ctx())
	if err != nil {
		return nil, err
	}
	d.Stored, d.Queued = sum(heads), q.p.Store().Stats().Queued
	span := time.Hour
	d.Span = "1h"
	for _, s := range spans {
		d.Spans = append(d.Spans, s.Name)
		if s.Name == q.q.Get("span") {
			span, d.Span = s.Span, s.Name
		}
	}
	if d.SeesAll {
		bars, err := q.traffic.bars(q.ctx(), q.p.Store(), span, now)
		if err != nil {
			return nil, err
		}
		for _, b := range bars {
			d.InSpan += b.Events
		}
		last := bars[len(bars)-2:] // the one under way is not full
		d.PerMinute = float64(last[0].Events+last[1].Events) / now.Sub(last[0].From).Minutes()
		d.Chart = chart(bars)
	}

	groups, err := q.groupRows()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		if g.Lag > d.MaxLag {
			d.MaxLag, d.LagGroup = g.Lag, g.Name
		}
		d.Parked += g.ParkedKeys
		d.ParkedEvents += g.Waiting
		if g.State != "running" {
			d.Stopped++
		}
	}
	slices.SortStableFunc(groups, func(a, b groupRow) int { return b.worry() - a.worry() })
	if d.MoreGroups = len(groups) - 8; d.MoreGroups > 0 {
		groups = groups[:8]
	}
	d.Groups = groups
	kinds, err := q.failureKinds(url.Values{"limit": {"5"}})
	if err != nil && !missing(err) {
		return nil, err
	}
	d.Failures = kinds
	for _, status := range []saga.Status{saga.Stuck, saga.Parked} {
		var list struct{ Sagas []saga.Instance }
		if err := q.get("/v1/sagas", url.Values{"status": {string(status)}, "limit": {"100"}}, &list); err != nil {
			if missing(err) {
				continue
			}
			return nil, err
		}
		d.Stuck += len(list.Sagas)
	}
	changes, err := q.records(url.Values{"type": auditTypes(""), "order": {"newest"}, "limit": {"10"}})
	if err != nil {
		return nil, err
	}
	d.Changes = changes.Events
	return &view{Template: "overview", Title: "Overview", Nav: "Overview", CLI: []string{command("group", "list"), command("dlq", "list")}, API: "/v1/groups", Live: "every=2000", Data: d}, nil
}

// records asks the API for events; payloads are masked unless the query says otherwise.
func (q *request) records(query url.Values) (recordPage, error) {
	var p recordPage
	if !query.Has("payload") {
		query.Set("payload", "masked")
	}
	if patterns := query["type"]; len(patterns) > 1 {
		query["type"] = []string{strings.Join(patterns, ",")}
	}
	err := q.get("/v1/events", query, &p)
	return p, err
}

// groupRow is a group in a list.
type groupRow struct {
	bus.GroupStatus
	Rate      float64
	RateKnown bool
	Done      int64 // of the log, in percent
	Total     int64
}

// worry orders groups by how much they want to be looked at.
func (g groupRow) worry() int {
	w := int(min(g.Lag, 1<<30))
	if g.State != "running" {
		w += 1 << 31
	}
	if g.ParkedKeys > 0 {
		w += 1 << 20
	}
	return w
}

// Level of a group's lag: ok, warn, bad.
func (g groupRow) Level() string {
	switch {
	case g.State != "running" || g.Lag > 10_000:
		return "bad"
	case g.Lag > 500 || g.ParkedKeys > 0 || g.LagUnknown:
		return "warn"
	}
	return "ok"
}

func (q *request) groupRows() ([]groupRow, error) {
	var list struct{ Groups []bus.GroupStatus }
	if err := q.get("/v1/groups", nil, &list); err != nil {
		return nil, err
	}
	now := time.Now()
	out := make([]groupRow, len(list.Groups))
	for i, g := range list.Groups {
		out[i] = rowOf(g)
		out[i].Rate, out[i].RateKnown = q.rates.of(g, now)
	}
	return out, nil
}

func rowOf(g bus.GroupStatus) groupRow {
	out := groupRow{GroupStatus: g}
	var next int64
	for _, p := range g.Partitions {
		next += min(p.Next, p.Head)
		out.Total += p.Head
	}
	if out.Done = 100; out.Total > 0 {
		out.Done = percent(next, out.Total)
	}
	return out
}
