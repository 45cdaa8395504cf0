package schema

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/carebus/carebus/event"
)

// Document is one version of an event type's schema.
type Document struct {
	Type              string          // the event type
	Version           string          // semantic version, without build metadata
	Schema            json.RawMessage // JSON Schema 2020-12 of the payload
	Deprecated        bool            // not to be used for new events; they are still accepted
	ReplacedBy        string          // the event type to use instead, if deprecated and replaced
	DeprecationReason string          // why it is deprecated
	RegisteredBy      string          // who registered it, if known
	Fingerprint       string          // "sha256:" and the hex digest of the canonical document, annotations included
}

// Registry knows the schemas of all event types: their versions, what is deprecated, and how to bring an old event to a
// newer major. It is a fold of events and holds no other state; [New] returns an empty one, and [Registry.Apply] adds
// what an event says. All methods are safe for concurrent use; reading takes no lock.
type Registry struct {
	mu    sync.Mutex // held by those who change types
	types atomic.Pointer[map[string]*lineage]
}

// New returns an empty registry.
func New() *Registry {
	r := &Registry{}
	r.types.Store(&map[string]*lineage{})
	return r
}

// lineage is all that is known of one event type. It is not changed after it has been stored.
type lineage struct {
	versions   []*entry // ascending
	byVersion  map[string]*entry
	gone       *deprecation // of the whole type
	upcasters  map[int]upcaster
	newest     map[int]*entry // per major, the highest release, else the highest pre-release
	registered bool           // there is a version; an upcaster alone makes no type
}

// entry is one version, ready for use.
type entry struct {
	doc      Document
	model    *document
	compiled *compiled
	entity   []string // path of x-entity-id; nil when there is none
	subject  []string
	gone     *deprecation
}

type deprecation struct{ reason, replacedBy string }

func (r *Registry) lineage(eventType string) *lineage { return (*r.types.Load())[eventType] }

// change replaces the lineage of a type by what edit makes of a copy of it.
func (r *Registry) change(eventType string, edit func(*lineage) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	types := *r.types.Load()
	next := &lineage{byVersion: map[string]*entry{}, upcasters: map[int]upcaster{}}
	if l := types[eventType]; l != nil {
		*next = *l
		next.versions = slices.Clone(l.versions)
		next.byVersion = maps.Clone(l.byVersion)
		next.upcasters = maps.Clone(l.upcasters)
	}
	if err := edit(next); err != nil {
		return err
	}
	next.index()
	types = maps.Clone(types)
	types[eventType] = next
	r.types.Store(&types)
	return nil
}

func (l *lineage) index() {
	slices.SortFunc(l.versions, func(a, b *entry) int { return compareVersions(a.doc.Version, b.doc.Version) })
	l.newest = map[int]*entry{}
	l.registered = len(l.versions) > 0
	for _, e := range l.versions {
		m := major(e.doc.Version)
		if have := l.newest[m]; have == nil || prerelease(have.doc.Version) || !prerelease(e.doc.Version) {
			l.newest[m] = e
		}
	}
}

// Get returns one version of a type's schema. An unknown type or version is an *UnknownError.
func (r *Registry) Get(eventType, version string) (Document, error) {
	l, e, err := r.find(eventType, version)
	if err != nil {
		return Document{}, err
	}
	return l.document(e), nil
}

// Latest returns the highest version of a type that is no pre-release, or the highest pre-release of a type that has
// nothing else. An unknown type is an *UnknownError.
func (r *Registry) Latest(eventType string) (Document, error) {
	l := r.lineage(eventType)
	if l == nil || !l.registered {
		return Document{}, r.unknownType(eventType)
	}
	last := l.versions[len(l.versions)-1]
	for _, e := range slices.Backward(l.versions) {
		if !prerelease(e.doc.Version) {
			last = e
			break
		}
	}
	return l.document(last), nil
}

// Versions returns the versions of a type, ascending; none when the type is unknown.
func (r *Registry) Versions(eventType string) []string {
	l := r.lineage(eventType)
	if l == nil {
		return nil
	}
	return l.names()
}

func (l *lineage) names() []string {
	names := make([]string, 0, len(l.versions))
	for _, e := range l.versions {
		names = append(names, e.doc.Version)
	}
	return names
}

// Types returns the names of all event types with a schema, sorted.
func (r *Registry) Types() []string {
	var names []string
	for name, l := range *r.types.Load() {
		if l.registered {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Documents returns every version of every event type, ordered by type, and ascending.
func (r *Registry) Documents() []Document {
	types := *r.types.Load()
	var out []Document
	for _, name := range slices.Sorted(maps.Keys(types)) {
		l := types[name]
		for _, e := range l.versions {
			out = append(out, l.document(e))
		}
	}
	return out
}

// document is the entry's document as others may have it: with what is known by now, and a schema text of their own.
func (l *lineage) document(e *entry) Document {
	doc := e.doc
	doc.Schema = slices.Clone(doc.Schema)
	for _, gone := range []*deprecation{l.gone, e.gone} {
		if gone != nil {
			doc.Deprecated, doc.DeprecationReason, doc.ReplacedBy = true, gone.reason, gone.replacedBy
		}
	}
	return doc
}

func (r *Registry) find(eventType, version string) (*lineage, *entry, error) {
	l := r.lineage(eventType)
	if l == nil || !l.registered {
		return nil, nil, r.unknownType(eventType)
	}
	e := l.byVersion[version]
	if e == nil {
		return l, nil, &UnknownError{Type: eventType, Version: version, Known: l.names()}
	}
	return l, e, nil
}

func (r *Registry) unknownType(eventType string) error {
	return &UnknownError{Type: eventType, Known: nearest(eventType, r.Types())}
}

// Validate checks an event as its producer is held to it: its type and version are registered, and its payload is valid
// with every declared object closed. Deprecated schemas still accept events. The error is an *event.InvalidError with
// every finding; no finding quotes a value.
func (r *Registry) Validate(e event.Event) error {
	_, found, err := r.find(e.Type, e.Version)
	if err != nil {
		return unknownEvent(&e, err)
	}
	return invalid(&e, found.compiled.closed(e.Payload))
}

// ValidateOpen checks an event as a consumer reads it: members that the schema does not declare are let pass, and so are
// unknown values of an extensible enum. A version that is not registered is read as the highest one known of its major.
func (r *Registry) ValidateOpen(e event.Event) error {
	found, err := r.readAs(e.Type, e.Version)
	if err != nil {
		return unknownEvent(&e, err)
	}
	return invalid(&e, found.compiled.open(e.Payload))
}

// readAs finds the version, or the highest known one of its major.
func (r *Registry) readAs(eventType, version string) (*entry, error) {
	l, found, err := r.find(eventType, version)
	if err != nil && l != nil && versionProblem(version) == "" {
		if newest := l.newest[major(version)]; newest != nil {
			return newest, nil
		}
	}
	return found, err
}

func unknownEvent(e *event.Event, err error) error {
	unknown, ok := err.(*UnknownError) //nolint:errorlint // find returns it unwrapped, and this is the hot path's cold side.
	if !ok {
		return err
	}
	return &event.InvalidError{EventID: e.ID, Type: e.Type, Findings: []event.Finding{unknown.finding()}}
}

// invalid turns what is wrong with a payload into an error about its event.
func invalid(e *event.Event, findings []event.Finding) error {
	refused := false
	for i := range findings {
		refused = refused || !findings[i].Warning
	}
	if !refused {
		return nil
	}
	findings = slices.Clone(findings)
	for i := range findings {
		findings[i].Pointer = "/payload" + findings[i].Pointer
	}
	return &event.InvalidError{EventID: e.ID, Type: e.Type, Findings: findings}
}

// newEntry makes a document ready for use.
func newEntry(doc Document) (*entry, error) {
	model, err := loadDocument(doc.Schema)
	if err != nil {
		return nil, refusedDocument(doc, err)
	}
	c, err := prepareDoc(doc.Schema)
	if err != nil {
		return nil, refusedDocument(doc, err)
	}
	doc.Schema = slices.Clone(doc.Schema)
	doc.Fingerprint = fingerprint(model.tree)
	e := &entry{doc: doc, model: model, compiled: c}
	e.entity, _ = model.path("x-entity-id")
	e.subject, _ = model.path("x-subject-id")
	return e, nil
}

func refusedDocument(doc Document, err error) error {
	return fmt.Errorf("schema %s %s: %w", bounded(doc.Type), bounded(doc.Version), err)
}
