package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/saga"
)

var sagaStatuses = []saga.Status{saga.Running, saga.Compensating, saga.Stuck, saga.Parked, saga.Completed, saga.Failed, saga.Cancelled}

func (q *request) sagas() (*view, error) {
	query := url.Values{"limit": {"100"}}
	for _, name := range []string{"saga", "status", "after"} {
		if v := q.q.Get(name); v != "" {
			query.Set(name, v)
		}
	}
	var list struct{ Sagas []saga.Instance }
	if err := q.get("/v1/sagas", query, &list); err != nil {
		return nil, err
	}
	next := ""
	if len(list.Sagas) == 100 {
		u := q.r.URL.Query()
		u.Set("after", list.Sagas[99].ID)
		next = q.r.URL.Path + "?" + u.Encode()
	}
	return &view{Template: "sagas", Title: "Sagas", Nav: "Sagas", CLI: []string{command("saga", "list", q.q.Get("saga"), "--status", q.q.Get("status"))}, API: "/v1/sagas?" + query.Encode(), Live: "every=2000&type=platform.saga.*",
		Data: map[string]any{"Rows": list.Sagas, "Status": q.q.Get("status"), "Saga": q.q.Get("saga"), "Statuses": sagaStatuses, "Next": next, "After": q.q.Get("after")}}, nil
}

func (q *request) saga() (*view, error) { return q.showSaga(q.path("id"), false) }

func (q *request) showSaga(id string, reveal bool) (*view, error) {
	path := "/v1/sagas/" + url.PathEscape(id)
	query := url.Values{}
	if reveal {
		query.Set("reveal", "true")
	}
	var s saga.Detail
	if err := q.get(path, query, &s); err != nil {
		return nil, err
	}
	var history struct {
		Version int64
		Events  []record
		Next    int64
	}
	if err := q.get("/v1/streams/platform.saga/"+url.PathEscape(id), url.Values{"limit": {"200"}, "payload": {"masked"}}, &history); err != nil && !missing(err) {
		return nil, err
	}
	done := 0
	for _, step := range s.Steps {
		if slices.Contains([]string{"done", "skipped", "undone"}, step.State) {
			done++
		}
	}
	return &view{Template: "saga", Title: s.Saga, Nav: "Sagas", CLI: []string{command("saga", "show", id)}, API: path, Live: "every=500&correlation=" + url.QueryEscape(s.CorrelationID),
		Data: map[string]any{"S": s, "History": history.Events, "More": history.Next, "Done": done, "Ended": s.Status.Ended(), "May": q.caller().MayAll(auth.Operate, "platform.saga.*"), "Revealed": reveal}}, nil
}

// revealSaga shows the error text of a saga.
func (q *request) revealSaga() (*view, error) {
	purpose, reason, err := q.reasonGiven()
	if err != nil {
		return nil, err
	}
	id := q.path("id")
	v, err := q.showSaga(id, true)
	if err != nil {
		return nil, err
	}
	history, _ := v.Data.(map[string]any)["History"].([]record)
	if len(history) == 0 {
		return nil, problem(http.StatusNotFound, "the saga has no history that you may read")
	}
	r, err := q.p.Store().Get(q.ctx(), history[len(history)-1].Metadata.EventID)
	if err != nil {
		return nil, err
	}
	return v, q.reveal(r, []string{"error"}, purpose, reason)
}

func (q *request) actOnSaga() (*view, error) {
	id, act, reason := q.path("id"), q.path("act"), strings.TrimSpace(q.r.PostFormValue("reason"))
	told, ok := map[string]string{"resume": "What is stuck is tried again.", "skip": "The saga goes on as if what was stuck had been done.", "cancel": "What the saga has done is being undone."}[act]
	if !ok {
		return nil, problem(http.StatusNotFound, "there is no such act")
	}
	if reason == "" {
		return nil, problem(http.StatusUnprocessableEntity, "say why: the reason is recorded")
	}
	if err := q.api(http.MethodPost, "/v1/sagas/"+url.PathEscape(id)+"/"+act, map[string]any{"reason": reason}, nil); err != nil {
		return nil, err
	}
	return q.done(at("sagas", id), "%s", told)
}
