package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// filter chooses events of a live stream.
type filter struct {
	Type, Key, Correlation, Source string
}

func (q *request) filter() filter {
	return filter{q.q.Get("type"), q.q.Get("key"), q.q.Get("correlation"), q.q.Get("source")}
}

// match returns which types are chosen, of those that the caller may have.
func (q *request) match(f filter, v auth.Verb) (func(string) bool, error) {
	patterns := []string{"**"}
	if f.Type != "" {
		patterns = strings.FieldsFunc(f.Type, func(r rune) bool { return r == ',' || r == ' ' })
	}
	if len(patterns) > 50 {
		return nil, problem(http.StatusBadRequest, "give 50 patterns at most")
	}
	for _, p := range patterns {
		if err := bus.CheckPattern(p); err != nil {
			return nil, problem(http.StatusBadRequest, "%s", err)
		}
	}
	c := q.caller()
	known := map[string]bool{}
	return func(t string) bool {
		ok, seen := known[t]
		if !seen {
			ok = c.May(v, t) && slices.ContainsFunc(patterns, func(p string) bool { return bus.Matches(p, t) })
			known[t] = ok
		}
		return ok
	}, nil
}

func (f filter) keep(r *eventstore.Record) bool {
	return (f.Key == "" || r.PartitionKey == f.Key) && (f.Correlation == "" || r.CorrelationID == f.Correlation) && (f.Source == "" || r.Source == f.Source)
}

// row is an event in the tail: no payload.
type row struct {
	ID          string `json:"id"`
	Type        string `json:"type"`
	Source      string `json:"source"`
	Key         string `json:"key"`
	Correlation string `json:"correlation"`
	At          string `json:"at"`
}

func rowsOf(records []eventstore.Record) []row {
	out := make([]row, len(records))
	for i, r := range records {
		out[i] = row{r.ID, clean(r.Type), clean(r.Source), clean(r.PartitionKey), r.CorrelationID, r.RecordedAt.UTC().Format("15:04:05.000")}
	}
	return out
}

// mostRows bounds the rows of a page, and of one message of a live stream.
const mostRows = 200

func (q *request) tail() (*view, error) {
	f := q.filter()
	match, err := q.match(f, auth.Subscribe)
	if err != nil {
		return nil, err
	}
	if !q.caller().MaySome(auth.Subscribe) {
		return nil, q.g.Deny(q.ctx(), auth.Subscribe, "")
	}
	heads, err := q.p.Store().Heads(q.ctx())
	if err != nil {
		return nil, err
	}
	found, err := q.p.Store().Latest(q.ctx(), eventstore.LatestQuery{Before: heads, Key: f.Key, Match: match, Keep: f.keep, Limit: 50})
	if err != nil {
		return nil, err
	}
	var d struct {
		Filter filter
		Rows   []row
		Stream string
	}
	d.Filter, d.Rows = f, rowsOf(found.Records)
	query := q.r.URL.Query()
	query.Set("rows", "1")
	query.Set("from", placesText(heads))
	d.Stream = base + "live?" + query.Encode()
	api := q.r.URL.Query()
	return &view{Template: "tail", Title: "Tail", Nav: "Tail", CLI: []string{command("tail", f.Type, "--key", f.Key, "--correlation", f.Correlation)},
		API: "/v1/live?" + api.Encode(), Data: d}, nil
}

func placesText(at []int64) string {
	out := make([]string, len(at))
	for i, n := range at {
		out[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(out, ",")
}

func parsePlaces(text string, partitions int) ([]int64, bool) {
	parts := strings.Split(text, ",")
	if len(parts) != partitions {
		return nil, false
	}
	out := make([]int64, partitions)
	for i, p := range parts {
		n, err := strconv.ParseInt(p, 10, 64)
		if err != nil || n < 0 {
			return nil, false
		}
		out[i] = n
	}
	return out, true
}

// recheck is how often a stream finds out whether its reader may still have it.
const recheck = 10 * time.Second

// live is the stream of a page: with rows, the events that it lists; otherwise a message whenever there is something new for
// the page to look at. What comes faster than a person reads is put together: at most 200 rows, four times a second.
func (q *request) live() error {
	if !q.caller().MaySome(auth.Subscribe) && !q.caller().MaySome(auth.Read) {
		return q.g.Deny(q.ctx(), auth.Subscribe, "")
	}
	f := q.filter()
	rows := q.q.Get("rows") != ""
	verb := auth.Read
	if rows {
		verb = auth.Subscribe
	}
	match, err := q.match(f, verb)
	if err != nil {
		return err
	}
	commits := !rows && f == (filter{}) // a page about more than events: every commit may have changed it
	store := q.p.Store()
	from := q.r.Header.Get("Last-Event-ID")
	if from == "" {
		from = q.q.Get("from")
	}
	at, ok := parsePlaces(from, store.Partitions())
	if !ok {
		if at, err = store.Heads(q.ctx()); err != nil {
			return err
		}
	}
	pause := 250 * time.Millisecond
	if n, err := strconv.Atoi(q.q.Get("every")); err == nil {
		pause = min(max(time.Duration(n)*time.Millisecond, pause), time.Minute)
	}
	h := q.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	q.w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(q.w)
	send := func(text string) error {
		if err := control.SetWriteDeadline(time.Now().Add(30 * time.Second)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := fmt.Fprint(q.w, text); err != nil {
			return err
		}
		return control.Flush()
	}
	if send(": hello\n\n") != nil {
		return nil
	}
	session := q.session()
	checked := time.Now()
	for {
		if time.Since(checked) > recheck { // the policy may have changed, the session may be over
			ctx, err := q.g.Still(q.r)
			if err != nil || q.session() != session {
				return nil
			}
			q.r, checked = q.r.WithContext(ctx), time.Now()
			if match, err = q.match(f, verb); err != nil {
				return nil
			}
		}
		tick := store.Tick()
		heads, err := store.Heads(q.ctx())
		if err != nil {
			return nil // the browser comes back with its last id
		}
		switch {
		case commits:
			at = heads
			if send(fmt.Sprintf("id: %s\nevent: news\ndata: {}\n\n", placesText(at))) != nil || !q.rest(pause) {
				return nil
			}
		case !slices.Equal(heads, at):
			found, err := store.Latest(q.ctx(), eventstore.LatestQuery{From: at, Before: heads, Key: f.Key, Match: match, Keep: f.keep, Limit: mostRows})
			if err != nil {
				return nil
			}
			at = heads
			if len(found.Records) > 0 || found.More {
				text, err := json.Marshal(map[string]any{"rows": rowsOf(found.Records), "more": found.More})
				if err != nil {
					return err
				}
				if !rows {
					text = []byte("{}")
				}
				if send(fmt.Sprintf("id: %s\nevent: news\ndata: %s\n\n", placesText(at), text)) != nil {
					return nil
				}
			}
			if !q.rest(pause) {
				return nil
			}
		}
		if !q.wait(tick, send) {
			return nil
		}
	}
}

// rest waits for a while, unless the stream is to end.
func (q *request) rest(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-q.ctx().Done():
	case <-q.Console.ctx.Done():
	}
	return false
}

// wait waits for a commit, or until it is time to look whether the reader may still have the stream. It keeps the connection
// alive.
func (q *request) wait(tick eventstore.Tick, send func(string) error) bool {
	ctx, cancel := contextUntil(q.ctx(), q.Console.ctx, recheck)
	defer cancel()
	_, err := q.p.Store().Wait(ctx, tick)
	switch {
	case err == nil:
		return true
	case q.ctx().Err() != nil || q.Console.ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded):
		return false
	}
	return send(":\n\n") == nil
}

// contextUntil ends with either context, or after a while.
func contextUntil(a, b context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(a, d)
	stop := context.AfterFunc(b, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}
