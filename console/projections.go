package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/projection"
)

// works are comparisons and rebuilds that were begun from the console, in this process.
type works struct {
	mu  sync.Mutex
	all []*work
}

type work struct {
	ID         string
	Kind       string // check, rebuild
	Projection string
	Actor      string
	Reason     string
	Began      time.Time
	cancel     context.CancelFunc

	Ended    time.Time
	State    string // running, finished, cancelled, failed
	Progress projection.Progress
	Found    []projection.Difference
	Error    string
}

// mostWorks is how many are remembered.
const mostWorks = 50

func (w *works) list() []work {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make([]work, len(w.all))
	for i, x := range w.all {
		out[len(out)-1-i] = *x
	}
	return out
}

func (w *works) add(x *work) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, x)
	if len(w.all) > mostWorks {
		w.all = w.all[1:]
	}
}

func (w *works) change(x *work, fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fn()
}

func (w *works) find(id string) *work {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.all {
		if x.ID == id {
			return x
		}
	}
	return nil
}

// projectionRow is a read model in the list.
type projectionRow struct {
	projection.Status
	Known  bool // its definition is part of this program
	Works  []work
	Wanted string // the command that does the same
}

func (q *request) projections() (*view, error) {
	var list struct{ Projections []projection.Status }
	if err := q.get("/v1/projections", nil, &list); err != nil {
		return nil, err
	}
	works := q.work.list()
	rows := make([]projectionRow, len(list.Projections))
	for i, s := range list.Projections {
		rows[i] = projectionRow{Status: s, Known: q.definition(s.Name) != nil}
		for _, w := range works {
			if w.Projection == s.Name && len(rows[i].Works) < 3 {
				rows[i].Works = append(rows[i].Works, w)
			}
		}
	}
	return &view{Template: "projections", Title: "Projections", Nav: "Projections", CLI: []string{command("projection", "list"), command("projection", "check", "NAME")}, API: "/v1/projections", Live: "every=1000",
		Data: map[string]any{"Rows": rows, "May": q.caller().MayAll(auth.Operate, "**")}}, nil
}

func (c *Console) definition(name string) *projection.Definition {
	i := slices.IndexFunc(c.o.Projections, func(d *projection.Definition) bool { return d.Name() == name })
	if i < 0 {
		return nil
	}
	return c.o.Projections[i]
}

// actOnProjection begins a comparison with a rebuild, or a rebuild, or cancels one. They go on when the page is left.
func (q *request) actOnProjection() (*view, error) {
	if err := q.mayAll(auth.Operate, "**"); err != nil {
		return nil, err
	}
	name, act, reason := q.path("name"), q.path("act"), strings.TrimSpace(q.r.PostFormValue("reason"))
	if act == "cancel" {
		w := q.work.find(q.r.PostFormValue("work"))
		if w == nil {
			return nil, problem(http.StatusNotFound, "this process knows of no such work")
		}
		w.cancel()
		return q.done(at("projections"), "The work on %s is cancelled; the live tables are as they were.", name)
	}
	d := q.definition(name)
	if d == nil {
		return nil, problem(http.StatusNotFound, "this program does not have the definition of a projection of this name")
	}
	if act != "check" && act != "rebuild" {
		return nil, problem(http.StatusNotFound, "there is no such act")
	}
	if reason == "" {
		return nil, problem(http.StatusUnprocessableEntity, "say why: the reason is recorded")
	}
	for _, w := range q.work.list() {
		if w.Projection == name && w.State == "running" {
			return nil, problem(http.StatusConflict, "a %s of %s is under way", w.Kind, name)
		}
	}
	ctx, cancel := context.WithCancel(q.Console.ctx)
	w := &work{ID: event.NewID(), Kind: act, Projection: name, Actor: q.caller().Name, Reason: reason, Began: time.Now(), State: "running", cancel: cancel}
	q.work.add(w)
	q.working.Go(func() {
		defer cancel()
		q.Console.carryOut(ctx, w, d)
	})
	return q.done(at("projections"), "The %s of %s is under way, beside the live tables.", act, name)
}

// carryOut does a work and remembers what came of it.
func (c *Console) carryOut(ctx context.Context, w *work, d *projection.Definition) {
	progress := func(p projection.Progress) { c.work.change(w, func() { w.Progress = p }) }
	var found []projection.Difference
	err := error(nil)
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v", v)
		}
		c.work.change(w, func() {
			w.Ended, w.Found, w.State = time.Now(), found, "finished"
			switch {
			case err != nil && ctx.Err() != nil:
				w.State = "cancelled"
			case err != nil:
				w.State, w.Error = "failed", whatFailed(err)
			}
		})
		if err != nil && ctx.Err() == nil {
			c.log.Error("console: work on a projection failed", "projection", w.Projection, "kind", w.Kind, "error", err.Error())
		}
	}()
	if w.Kind == "check" {
		found, err = projection.Check(ctx, c.p, d, progress)
	} else {
		err = projection.Rebuild(ctx, c.p, d, bus.Act{Actor: w.Actor, Reason: w.Reason}, progress)
	}
}

// whatFailed says why a work ended, without the text of a handler's error, which may hold protected values: the log has it.
func whatFailed(err error) string {
	var e *projection.EventError
	if errors.As(err, &e) {
		return fmt.Sprintf("a handler failed on event %s (%s); the log says more", e.EventID, e.EventType)
	}
	for _, known := range []error{projection.ErrBuilding, projection.ErrOlder, projection.ErrChanged} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "the log says more"
}
