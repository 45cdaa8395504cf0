package carebustest

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/event"
)

// Story is the test of one command on one entity: given what has happened, when a command is decided, then these events
// follow, or it is refused. It needs no store.
type Story[S any] struct {
	t      testing.TB
	d      *aggregate.Definition[S]
	past   []event.Event
	news   []event.Event
	err    error
	ignore map[string]bool
}

// Given begins a story with the events that have happened.
func Given[S any](t testing.TB, d *aggregate.Definition[S], past ...event.Event) *Story[S] {
	return &Story[S]{t: t, d: d, past: past, ignore: map[string]bool{}}
}

// Ignoring leaves members of payloads out of the comparison, by name: those that tell the time, for instance.
func (s *Story[S]) Ignoring(members ...string) *Story[S] {
	for _, m := range members {
		s.ignore[m] = true
	}
	return s
}

// When decides a command upon what has happened.
func (s *Story[S]) When(decide aggregate.Decide[S]) *Story[S] {
	s.t.Helper()
	state, err := s.d.Fold(s.past...)
	if err != nil {
		s.t.Fatalf("what was given cannot be folded: %v", err)
	}
	s.news, s.err = decide(state)
	return s
}

// Then fails the test unless exactly these events follow: their types, versions and payloads. What follows then has
// happened, so that a story may go on with another When.
func (s *Story[S]) Then(want ...event.Event) *Story[S] {
	s.t.Helper()
	if s.err != nil {
		s.t.Fatalf("refused: %v", s.err)
	}
	for i := range max(len(want), len(s.news)) {
		switch {
		case i >= len(want):
			s.t.Errorf("event %d: %s %s, want no more events", i+1, s.news[i].Type, s.news[i].Payload)
		case i >= len(s.news):
			s.t.Errorf("event %d is missing: want %s %s", i+1, want[i].Type, want[i].Payload)
		case s.news[i].Type != want[i].Type || s.news[i].Version != want[i].Version:
			s.t.Errorf("event %d is %s %s, want %s %s", i+1, s.news[i].Type, s.news[i].Version, want[i].Type, want[i].Version)
		case !reflect.DeepEqual(s.members(s.news[i]), s.members(want[i])):
			s.t.Errorf("event %d, %s, is\n\t%s\nwant\t%s", i+1, want[i].Type, s.news[i].Payload, want[i].Payload)
		}
	}
	s.past, s.news = append(s.past, s.news...), nil
	return s
}

// members is a payload without what is ignored.
func (s *Story[S]) members(e event.Event) any {
	in := json.NewDecoder(strings.NewReader(string(e.Payload)))
	in.UseNumber()
	var v any
	if err := in.Decode(&v); err != nil {
		s.t.Fatalf("the payload of %s is no JSON: %v", e.Type, err)
	}
	s.strip(v)
	return v
}

func (s *Story[S]) strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, m := range v {
			if s.ignore[name] {
				delete(v, name)
				continue
			}
			s.strip(m)
		}
	case []any:
		for _, m := range v {
			s.strip(m)
		}
	}
}

// ThenRefused fails the test unless the command was refused with an error that is want (errors.Is), or with any when want
// is nil; Err has it for a closer look.
func (s *Story[S]) ThenRefused(want error) {
	s.t.Helper()
	switch {
	case s.err == nil:
		s.t.Errorf("not refused: %d events follow", len(s.news))
	case want != nil && !errors.Is(s.err, want):
		s.t.Errorf("refused with %v, want %v", s.err, want)
	}
}

// Err returns why the command was refused; nil when it was not.
func (s *Story[S]) Err() error { return s.err }

// State returns what everything that has happened makes of the entity.
func (s *Story[S]) State() S {
	s.t.Helper()
	state, err := s.d.Fold(append(s.past, s.news...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}
