package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/schema"
)

// Problem is an error as it is answered: a problem document (RFC 9457). No text in it quotes a value of a payload.
type Problem struct { //nolint:errname // the name that RFC 9457 gives it
	Type     string     `json:"type,omitempty" doc:"Stable name of the kind of problem, as a URN."`
	Title    string     `json:"title" doc:"The kind of problem, for people."`
	Status   int        `json:"status" doc:"The HTTP status."`
	Detail   string     `json:"detail,omitempty" doc:"What is wrong this time."`
	Findings []refusal  `json:"findings,omitempty" doc:"What is wrong with each event, or with each parameter."`
	Actual   *int64     `json:"actualVersion,omitempty" doc:"On a version conflict: the version that the stream has."`
	Retry    int        `json:"-"`
	cause    error      // for the log, never sent
	headers  [][]string // name, value
}

// refusal is one event of a request, or the request itself, and what is wrong with it.
type refusal struct {
	Index    int             `json:"index" doc:"Of the event in the request, from 0."`
	EventID  string          `json:"eventId,omitempty"`
	Type     string          `json:"eventType,omitempty"`
	Findings []event.Finding `json:"findings"`
}

func (p *Problem) Error() string {
	if p.Detail == "" {
		return p.Title
	}
	return p.Title + ": " + p.Detail
}

// Unwrap returns what has caused the problem.
func (p *Problem) Unwrap() error { return p.cause }

// GetStatus is for huma.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is for huma.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders is for huma.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.Retry > 0 {
		h.Set("Retry-After", strconv.Itoa(p.Retry))
	}
	for _, pair := range p.headers {
		h.Set(pair[0], pair[1])
	}
	return h
}

func newProblem(status int, kind, format string, args ...any) *Problem {
	return &Problem{Type: "urn:carebus:problem:" + kind, Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

func badRequest(format string, args ...any) *Problem {
	return newProblem(http.StatusBadRequest, "bad-request", format, args...)
}

func notFound(format string, args ...any) *Problem {
	return newProblem(http.StatusNotFound, "not-found", format, args...)
}

func conflict(format string, args ...any) *Problem {
	return newProblem(http.StatusConflict, "conflict", format, args...)
}

func tooMany(format string, args ...any) *Problem {
	p := newProblem(http.StatusTooManyRequests, "back-pressure", format, args...)
	p.Retry = 1
	return p
}

// problemOf turns an error of the platform into a problem.
func problemOf(err error) *Problem {
	var problem *Problem
	var invalid *event.InvalidError
	var version *eventstore.ConflictError
	var incompatible *schema.IncompatibleError
	var config *bus.ConfigError
	var tooLarge *http.MaxBytesError
	var p *Problem
	switch {
	case errors.As(err, &problem):
		return problem
	case errors.As(err, &invalid):
		p = newProblem(http.StatusUnprocessableEntity, "invalid-event", "%s", "the event breaks a rule; see the findings")
		p.Findings = []refusal{{EventID: invalid.EventID, Type: invalid.Type, Findings: invalid.Findings}}
	case errors.As(err, &version):
		p = conflict("%s", err)
		p.Type = "urn:carebus:problem:version-conflict"
		p.Actual = &version.Actual
	case errors.Is(err, eventstore.ErrDifferentContent):
		p = conflict("an event id is stored already with another content; state a new fact under a new id")
		p.Type = "urn:carebus:problem:different-content"
	case errors.Is(err, carebus.ErrReserved):
		p = newProblem(http.StatusUnprocessableEntity, "reserved", "%s", err)
	case errors.As(err, &incompatible):
		p = newProblem(http.StatusConflict, "incompatible-schema", "%s", err)
		r := refusal{Type: incompatible.Type}
		for _, c := range incompatible.Changes {
			r.Findings = append(r.Findings, event.Finding{Pointer: c.Pointer, Rule: c.Rule, Message: c.Message, Remedy: c.Remedy})
		}
		p.Findings = []refusal{r}
	case errors.Is(err, schema.ErrVersion):
		p = newProblem(http.StatusConflict, "schema-version", "%s", err)
	case errors.Is(err, eventstore.ErrNotFound), errors.Is(err, schema.ErrUnknownType), errors.Is(err, schema.ErrUnknownVersion),
		errors.Is(err, bus.ErrNoGroup), errors.Is(err, bus.ErrNotParked), errors.Is(err, bus.ErrNoJob), errors.Is(err, saga.ErrNoInstance):
		p = notFound("%s", err)
	case errors.Is(err, bus.ErrReason), errors.Is(err, saga.ErrReason):
		p = newProblem(http.StatusUnprocessableEntity, "reason-required", "%s; say why in \"reason\"", err)
	case errors.As(err, &config):
		p = newProblem(http.StatusUnprocessableEntity, "bad-setting", "%s", err)
	case errors.Is(err, bus.ErrHasMembers), errors.Is(err, saga.ErrEnded), errors.Is(err, saga.ErrNotStuck), errors.Is(err, saga.ErrUndoing), errors.Is(err, saga.ErrParked):
		p = conflict("%s", err)
	case errors.As(err, &tooLarge):
		p = newProblem(http.StatusRequestEntityTooLarge, "too-large", "the body may have %d bytes", tooLarge.Limit)
	case errors.Is(err, eventstore.ErrBackPressure):
		p = tooMany("%s; nothing was stored; try again", err)
	case errors.Is(err, eventstore.ErrFull):
		p = newProblem(http.StatusInsufficientStorage, "full", "the store is full")
		p.Retry = 30
	case errors.Is(err, eventstore.ErrReadOnly):
		p = newProblem(http.StatusForbidden, "read-only", "%s", err)
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrClosed), errors.Is(err, context.DeadlineExceeded):
		p = newProblem(http.StatusServiceUnavailable, "unavailable", "the store does not answer now")
		p.Retry = 1
	case errors.Is(err, context.Canceled):
		p = newProblem(http.StatusRequestTimeout, "cancelled", "the client went away, or the gateway ends; try again")
	default:
		p = newProblem(http.StatusInternalServerError, "internal", "the log says more")
	}
	p.cause = err
	return p
}

// writeProblem answers with a problem.
func writeProblem(w http.ResponseWriter, err error) {
	p := problemOf(err)
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p)
}

// ownProblems puts our problem documents in the place of huma's, which would repeat the values that they refuse.
func ownProblems(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := newProblem(e.Status, "bad-request", "%s", e.Detail)
	for i, d := range e.Errors {
		p.Findings = append(p.Findings, refusal{Index: i, Findings: []event.Finding{{Pointer: d.Location, Rule: "request.parameter", Message: d.Message}}})
	}
	return p, nil
}
