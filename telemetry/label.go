package telemetry

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/schema"
)

// other stands for what has no label of its own.
const other = "other"

// Bounds of the label sets.
const (
	maxTypes  = 1000
	maxNames  = 200 // groups, sagas, projections
	maxSteps  = 500
	maxRoutes = 300
)

// names are the label sets that grow at run time, each up to its bound.
type names struct {
	types                              set
	groups, sagas, projections, routes set
	steps                              set
	registry                           atomic.Pointer[schema.Registry]
}

func newNames() *names {
	n := &names{types: set{max: maxTypes}, groups: set{max: maxNames}, sagas: set{max: maxNames}, projections: set{max: maxNames}, routes: set{max: maxRoutes}, steps: set{max: maxSteps}}
	for _, e := range catalog.Entries() { // while the platform is being opened there is no registry yet
		n.types.get(e.Type)
	}
	return n
}

func (n *names) watch(r *schema.Registry) { n.registry.Store(r) }

// typ is the label of an event type: itself when the registry knows it.
func (n *names) typ(eventType string) string {
	if n.types.has(eventType) {
		return eventType
	}
	if r := n.registry.Load(); r == nil || len(r.Versions(eventType)) == 0 {
		return other
	}
	return n.types.get(eventType)
}

// domain is the first part of a type that is a label.
func domain(eventType string) string {
	d, _, _ := strings.Cut(eventType, ".")
	return d
}

// set keeps the first values that it is asked for; those that come when it is full are "other".
type set struct {
	max    int
	known  sync.Map
	number atomic.Int64
	mu     sync.Mutex
}

func (s *set) has(v string) bool {
	_, ok := s.known.Load(v)
	return ok
}

func (s *set) get(v string) string {
	if s.has(v) {
		return v
	}
	if s.number.Load() >= int64(s.max) {
		return other
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.has(v) {
		return v
	}
	if s.number.Load() >= int64(s.max) {
		return other
	}
	s.known.Store(strings.Clone(v), nil)
	s.number.Add(1)
	return v
}
