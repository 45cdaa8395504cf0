package console

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/bus"
)

// groups lists the consumer groups, those that want to be looked at first unless the address says otherwise.
func (q *request) groups() (*view, error) {
	rows, err := q.groupRows()
	if err != nil {
		return nil, err
	}
	sort := q.q.Get("sort")
	slices.SortStableFunc(rows, func(a, b groupRow) int {
		switch sort {
		case "name":
			return strings.Compare(a.Name, b.Name)
		case "parked":
			return int(b.ParkedKeys - a.ParkedKeys)
		case "rate":
			return int(b.Rate*1000 - a.Rate*1000)
		case "lag":
			return int(b.Lag - a.Lag)
		}
		return b.worry() - a.worry()
	})
	return &view{Template: "groups", Title: "Consumer groups", Nav: "Groups", CLI: []string{command("group", "list")}, API: "/v1/groups", Live: "every=1000",
		Data: map[string]any{"Rows": rows, "Sort": sort}}, nil
}

func (q *request) group() (*view, error) {
	name := q.path("group")
	path := "/v1/groups/" + url.PathEscape(name)
	var s bus.GroupStatus
	if err := q.get(path, nil, &s); err != nil {
		return nil, err
	}
	row := rowOf(s)
	row.Rate, row.RateKnown = q.rates.of(s, time.Now())
	var eta time.Duration
	if row.RateKnown && row.Rate > 0 && row.Lag > 0 {
		eta = time.Duration(float64(row.Lag) / row.Rate * float64(time.Second))
	}
	kinds, err := q.failureKinds(url.Values{"group": {name}, "limit": {"10"}})
	if err != nil && !missing(err) {
		return nil, err
	}
	return &view{Template: "group", Title: name, Nav: "Groups", CLI: []string{command("group", "list"), command("group", "pause", name, "--reason", "…")}, API: path, Live: "every=1000",
		Data: map[string]any{"G": row, "Failures": kinds, "ETA": eta}}, nil
}

// actOnGroup pauses, resumes, seeks, replays, with a reason.
func (q *request) actOnGroup() (*view, error) {
	name, act := q.path("group"), q.path("act")
	body := map[string]any{"reason": strings.TrimSpace(q.r.PostFormValue("reason"))}
	path := "/v1/groups/" + url.PathEscape(name) + "/" + act
	var told string
	switch act {
	case "pause":
		told = "paused; its events wait in the log"
	case "resume":
		told = "goes on where it was"
	case "seek":
		to := strings.TrimSpace(q.r.PostFormValue("to"))
		if q.r.PostFormValue("sure") == "" {
			return nil, problem(http.StatusUnprocessableEntity, "say that you are sure: seeking handles events again, or never")
		}
		place, err := q.place(to)
		if err != nil {
			return nil, err
		}
		body["to"], told = place, "moved to "+to
	case "replay":
		from, err := q.place(strings.TrimSpace(q.r.PostFormValue("from")))
		if err != nil {
			return nil, err
		}
		to, err := q.place(strings.TrimSpace(q.r.PostFormValue("until")))
		if err != nil {
			return nil, err
		}
		if to == "" {
			to = "end"
		}
		body["from"], body["to"], told = from, to, "handles a part of the log again; its progress is shown here"
	case "cancel-replay":
		path, told = "/v1/groups/"+url.PathEscape(name)+"/replay/cancel", "goes on where it was before the replay"
	default:
		return nil, problem(http.StatusNotFound, "there is no such act")
	}
	if body["reason"] == "" {
		return nil, problem(http.StatusUnprocessableEntity, "say why: the reason is recorded")
	}
	if err := q.api(http.MethodPost, path, body, nil); err != nil {
		return nil, err
	}
	return q.done(at("groups", name), "%s %s", name, told)
}

// place reads a place in the log as people write it, into what the API takes.
func (q *request) place(text string) (string, error) {
	switch text {
	case "", "beginning", "end", "now":
		return text, nil
	}
	if t, ok := momentOf(text, time.Now()); ok {
		return t.UTC().Format(time.RFC3339Nano), nil
	}
	if part, offset, ok := strings.Cut(text, ":"); ok {
		if _, err := strconv.Atoi(part); err == nil {
			if _, err := strconv.ParseInt(offset, 10, 64); err == nil {
				return text, nil
			}
		}
	}
	return "", problem(http.StatusUnprocessableEntity, "give beginning, end, a time, a distance such as 2h, or PARTITION:OFFSET")
}
