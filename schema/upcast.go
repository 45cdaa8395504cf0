package schema

import (
	"encoding/json"
	"fmt"

	"github.com/carebus/carebus/event"
)

// upcaster turns the payload of one major into that of the next.
type upcaster = func(json.RawMessage) (json.RawMessage, error)

// AddUpcaster tells how the payload of an event type becomes that of the next major: to must be from+1. The function must
// not keep or change what it is given, must be safe for concurrent use, and should depend on nothing else. A step that
// has an upcaster already is replaced. The type need not be registered yet.
func (r *Registry) AddUpcaster(eventType string, from, to int, f func(json.RawMessage) (json.RawMessage, error)) error {
	if from < 1 || to != from+1 {
		return fmt.Errorf("schema: an upcaster of %s goes from one major to the next, not from %d to %d", eventType, from, to)
	}
	if f == nil {
		return fmt.Errorf("schema: the upcaster of %s from %d to %d is nil", eventType, from, to)
	}
	return r.change(eventType, func(l *lineage) error {
		l.upcasters[from] = f
		return nil
	})
}

// Upcast returns the event as one of the given major version: its payload passed through the upcasters in between, its
// version the highest known one of that major. An event of that major is returned unchanged. A missing step, or one that
// fails, is an *UpcastError; a major without a registered version is an *UnknownError.
func (r *Registry) Upcast(e event.Event, to int) (event.Event, error) {
	if problem := versionProblem(e.Version); problem != "" {
		return event.Event{}, &VersionError{Type: bounded(e.Type), Version: e.Version, Problem: problem}
	}
	from := major(e.Version)
	if from == to {
		return e, nil
	}
	if to < from {
		return event.Event{}, &UpcastError{Type: e.Type, From: from, To: to}
	}
	l := r.lineage(e.Type)
	if l == nil || !l.registered {
		return event.Event{}, r.unknownType(e.Type)
	}
	target := l.newest[to]
	if target == nil {
		return event.Event{}, &UnknownError{Type: e.Type, Version: fmt.Sprintf("%d.x", to), Known: l.names()}
	}
	for step := from; step < to; step++ {
		f := l.upcasters[step]
		if f == nil {
			return event.Event{}, &UpcastError{Type: e.Type, From: step, To: step + 1}
		}
		payload, err := runUpcaster(f, e.Payload)
		if err != nil {
			return event.Event{}, &UpcastError{Type: e.Type, From: step, To: step + 1, Err: err}
		}
		e.Payload = payload
	}
	e.Version = target.doc.Version
	return e, nil
}

// runUpcaster turns a panic into an error. What was panicked with is named by its Go type only: it may hold a value of
// the payload.
func runUpcaster(f upcaster, payload json.RawMessage) (out json.RawMessage, err error) {
	defer func() {
		if v := recover(); v != nil {
			out, err = nil, fmt.Errorf("the upcaster panicked (%T)", v)
		}
	}()
	return f(payload)
}
