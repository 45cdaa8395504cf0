package schema

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/carebus/carebus/event"
)

// The events that a registry is made of.
const (
	typeRegistered = "platform.schema.registered"
	typeDeprecated = "platform.schema.deprecated"
	source         = "carebus"
)

// StreamOf returns the name of the stream that holds the history of an event type's schemas.
func StreamOf(eventType string) string { return "platform.schema/" + eventType }

type registered struct {
	EventType    string          `json:"eventType"`
	Version      string          `json:"version"`
	Schema       json.RawMessage `json:"schema"`
	Fingerprint  string          `json:"fingerprint"`
	Bump         Bump            `json:"bump"`
	RegisteredBy string          `json:"registeredBy,omitempty"`
}

type deprecated struct {
	EventType    string `json:"eventType"`
	Version      string `json:"version,omitempty"`
	Reason       string `json:"reason"`
	ReplacedBy   string `json:"replacedBy,omitempty"`
	DeprecatedBy string `json:"deprecatedBy,omitempty"`
}

// fact is an event of the registry. Its id follows from its content, so that two processes that register the same
// document write the same event. The time is left to whoever publishes it.
func fact(eventType, about, id string, payload any) (event.Event, error) {
	raw, err := json.Marshal(payload)
	if err != nil {
		return event.Event{}, fmt.Errorf("schema: %w", err)
	}
	return event.Event{
		Metadata: event.Metadata{ID: id, Type: eventType, Source: source, CorrelationID: id, Version: "1.0.0", PartitionKey: about},
		Payload:  raw,
	}, nil
}

// maxID is the longest event id.
const maxID = 128

func factID(parts ...string) string {
	id := strings.Join(parts, "-")
	if len(id) <= maxID {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return parts[0] + "-" + hex.EncodeToString(sum[:])
}

// Apply folds one event into the registry: platform.schema.registered and platform.schema.deprecated; other events
// change nothing, and neither does an event that has been applied before. What the events say is history and is not
// judged again. An event that cannot be read, whose document does not compile any more, or that gives a version another
// content than it has, is an error and changes nothing.
func (r *Registry) Apply(e event.Event) error {
	switch e.Type {
	case typeRegistered:
		return r.applyRegistered(e)
	case typeDeprecated:
		return r.applyDeprecated(e)
	}
	return nil
}

func (r *Registry) applyRegistered(e event.Event) error {
	var p registered
	if err := json.Unmarshal(e.Payload, &p); err != nil {
		return fmt.Errorf("schema: event %s cannot be read: %w", bounded(e.ID), err)
	}
	if problem := versionProblem(p.Version); problem != "" {
		return &VersionError{Type: bounded(p.EventType), Version: p.Version, Problem: problem}
	}
	if l := r.lineage(p.EventType); l != nil && l.byVersion[p.Version] != nil && l.byVersion[p.Version].doc.Fingerprint == p.Fingerprint {
		return nil
	}
	added, err := newEntry(Document{Type: p.EventType, Version: p.Version, Schema: p.Schema, RegisteredBy: p.RegisteredBy})
	if err != nil {
		return err
	}
	if p.Fingerprint != "" && p.Fingerprint != added.doc.Fingerprint {
		return fmt.Errorf("schema %s %s: the document of event %s does not have the fingerprint that the event states; the history was altered",
			p.EventType, p.Version, bounded(e.ID))
	}
	return r.change(p.EventType, func(l *lineage) error {
		if have := l.byVersion[p.Version]; have != nil {
			if have.doc.Fingerprint == added.doc.Fingerprint {
				return nil
			}
			return existsError(added.doc)
		}
		l.versions = append(l.versions, added)
		l.byVersion[p.Version] = added
		return nil
	})
}

func existsError(doc Document) error {
	return &VersionError{Type: doc.Type, Version: doc.Version, exists: true,
		Problem: "is registered with another schema; a version is never changed, register the next one"}
}

func (r *Registry) applyDeprecated(e event.Event) error {
	var p deprecated
	if err := json.Unmarshal(e.Payload, &p); err != nil {
		return fmt.Errorf("schema: event %s cannot be read: %w", bounded(e.ID), err)
	}
	if err := r.known(p.EventType, p.Version); err != nil {
		return err
	}
	return r.change(p.EventType, func(l *lineage) error {
		gone := &deprecation{reason: p.Reason, replacedBy: p.ReplacedBy}
		if p.Version == "" {
			l.gone = gone
			return nil
		}
		for i, have := range l.versions {
			if have.doc.Version == p.Version {
				marked := *have
				marked.gone = gone
				l.versions[i], l.byVersion[p.Version] = &marked, &marked
			}
		}
		return nil
	})
}

// known checks that a type, and when given its version, is registered.
func (r *Registry) known(eventType, version string) error {
	if version != "" {
		_, _, err := r.find(eventType, version)
		return err
	}
	if l := r.lineage(eventType); l == nil || !l.registered {
		return r.unknownType(eventType)
	}
	return nil
}

// ProposeDeprecation returns the event that marks a version of a type, or with an empty version the whole type, as not
// to be used for new events. A reason is required; replacedBy, when given, is the event type to use instead. The event
// belongs into the stream StreamOf(eventType), and then into Apply. What is unknown is an *UnknownError.
func (r *Registry) ProposeDeprecation(eventType, version, reason, replacedBy string) (event.Event, error) {
	if err := r.known(eventType, version); err != nil {
		return event.Event{}, err
	}
	if strings.TrimSpace(reason) == "" {
		return event.Event{}, fmt.Errorf("schema: deprecating %s needs a reason; say why, and what to use instead", eventType)
	}
	if replacedBy != "" {
		if err := r.known(replacedBy, ""); err != nil {
			return event.Event{}, fmt.Errorf("schema: the replacement of %s: %w", eventType, err)
		}
		if replacedBy == eventType && version == "" {
			return event.Event{}, fmt.Errorf("schema: %s cannot be replaced by itself; name the type to use instead", eventType)
		}
	}
	p := deprecated{EventType: eventType, Version: version, Reason: reason, ReplacedBy: replacedBy}
	raw, err := json.Marshal(p)
	if err != nil {
		return event.Event{}, fmt.Errorf("schema: %w", err)
	}
	sum := sha256.Sum256(raw)
	which := version
	if which == "" {
		which = "all"
	}
	return fact(typeDeprecated, eventType, factID("schema-deprecated", eventType, which, hex.EncodeToString(sum[:8])), p)
}
