package console

import (
	"net/http"
	"net/url"

	"github.com/carebus/carebus/bus"
)

func (q *request) jobs() (*view, error) {
	var list struct{ Jobs []bus.Job }
	err := q.get("/v1/jobs", url.Values{"limit": {"100"}}, &list)
	if err != nil && !missing(err) {
		return nil, err
	}
	groups, gerr := q.groupRows()
	if gerr != nil {
		return nil, gerr
	}
	var replays []groupRow
	for _, g := range groups {
		if g.Replay != nil {
			replays = append(replays, g)
		}
	}
	return &view{Template: "jobs", Title: "Jobs", Nav: "Jobs", CLI: []string{command("job", "list")}, API: "/v1/jobs", Live: "every=1000",
		Data: map[string]any{"Jobs": list.Jobs, "Hidden": err != nil, "Replays": replays, "Works": q.work.list()}}, nil
}

func (q *request) job() (*view, error) {
	id := q.path("id")
	var j bus.Job
	if err := q.get("/v1/jobs/"+url.PathEscape(id), nil, &j); err != nil {
		return nil, err
	}
	return &view{Template: "job", Title: "Job", Nav: "Jobs", CLI: []string{command("job", "show", id)}, API: "/v1/jobs/" + url.PathEscape(id), Live: "every=500",
		Data: map[string]any{"J": j, "Done": j.Total - j.Remaining, "Percent": percent(j.Total-j.Remaining, j.Total), "Query": url.Values{"group": {j.Group}}.Encode()}}, nil
}

func (q *request) cancelJob() (*view, error) {
	id := q.path("id")
	if err := q.api(http.MethodPost, "/v1/jobs/"+url.PathEscape(id)+"/cancel", nil, nil); err != nil {
		return nil, err
	}
	return q.done(at("jobs", id), "The job is cancelled: keys that were not tried yet wait as before.")
}
