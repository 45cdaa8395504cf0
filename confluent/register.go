package confluent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/mod/semver"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

// registerBody is a schema as clients send it, to be registered, looked up or checked.
type registerBody struct {
	Schema     string            `json:"schema"`
	Type       string            `json:"schemaType"`
	References []json.RawMessage `json:"references"`
	Metadata   *metadataBody     `json:"metadata"`
	RuleSet    *struct {
		Migration []json.RawMessage `json:"migrationRules"`
		Domain    []json.RawMessage `json:"domainRules"`
		Encoding  []json.RawMessage `json:"encodingRules"`
	} `json:"ruleSet"`
	ID      int `json:"id"`
	Version int `json:"version"`
}

// proposed is a schema that has been read and is valid by itself.
type proposed struct {
	registerBody
	subject     string
	fingerprint string
	semver      string // the version asked for; empty when it is left to us
}

func (p *proposed) document(version string) schema.Document {
	return schema.Document{Type: p.subject, Version: version, Schema: json.RawMessage(p.Schema)}
}

// readSchema reads a schema and refuses what would be lost or cannot be had.
func readSchema(r *request) (*proposed, error) {
	p := &proposed{subject: r.path["subject"]}
	if err := readBody(r, &p.registerBody); err != nil {
		return nil, err
	}
	switch kind := strings.ToUpper(p.Type); {
	case kind == "":
		return nil, refuse(codeInvalidSchema, "there is no schemaType, which means AVRO; this registry has JSON Schema only: send \"schemaType\": \"JSON\"")
	case kind != "JSON":
		return nil, refuse(codeInvalidSchema, "schemaType %s is not supported; this registry has JSON Schema only: send \"schemaType\": \"JSON\"", bounded(p.Type))
	case strings.TrimSpace(p.Schema) == "":
		return nil, refuse(codeInvalidSchema, "Empty schema: send the JSON Schema's text as \"schema\"")
	case len(p.References) > 0:
		return nil, refuse(codeInvalidSchema, "references to other schemas are not supported; put what is shared into $defs")
	case p.RuleSet != nil && len(p.RuleSet.Migration)+len(p.RuleSet.Domain)+len(p.RuleSet.Encoding) > 0:
		return nil, refuse(codeInvalidRules, "rule sets are not supported; upcasters bring old events to a new major")
	}
	if m := p.Metadata; m != nil {
		if len(m.Tags)+len(m.Sensitive) > 0 {
			return nil, refuse(codeInvalidSchema, "tags are not kept; mark members in the schema itself, such as \"x-phi\": true")
		}
		for key := range m.Properties {
			switch key {
			case propertyVersion, propertyDeprecated, propertyReason, propertyReplacedBy: // as we tell them ourselves
			default:
				return nil, refuse(codeInvalidSchema, "metadata property %s is not kept; the only one that is taken is version; write an annotation x-… into the schema itself", bounded(key))
			}
		}
		p.semver = m.Properties[propertyVersion]
	}
	var err error
	p.fingerprint, err = fingerprintOf(p.Schema)
	return p, err
}

// fingerprintOf checks a schema by itself and returns what it is told apart by.
func fingerprintOf(schemaText string) (string, error) {
	// An empty registry admits whatever is valid, and says in its event what it admits.
	p, err := schema.New().Propose(schema.Document{Type: "schema.text.checked", Version: "1.0.0", Schema: json.RawMessage(schemaText)})
	if err != nil {
		return "", err
	}
	var registered struct{ Fingerprint string }
	err = json.Unmarshal(p.Event.Payload, &registered)
	return registered.Fingerprint, err
}

func (h *Handler) register(r *request) (any, error) {
	subject := r.path["subject"]
	if err := h.authorize(r, true, subject); err != nil {
		return nil, err
	}
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	p, err := readSchema(r)
	if err != nil {
		return nil, err
	}
	v, err := h.admit(r, p)
	if err != nil {
		return nil, err
	}
	if !acceptsUnknown(r) {
		return map[string]int{"id": v.text.id}, nil
	}
	return h.body(r, v), nil
}

// admit registers a schema unless it is registered, and returns its version. Where the version is left to us, others may
// register the same type meanwhile, here or in another process:
//
//  1. The same schema, before the candidate was chosen: the candidate would be a second version of it. So the registry
//     is asked for the schema once more after choosing.
//  2. Anything, after that: the registry refuses a version that is not above all others, or says that it has this very
//     one.
//
// In both cases everything is looked at again. Somebody got on each time, so it ends.
func (h *Handler) admit(r *request, p *proposed) (*version, error) {
	for {
		ix, err := h.look(r.ctx())
		if err != nil {
			return nil, err
		}
		if v := byContent(ix.subjects[p.subject], p.fingerprint, p.semver); v != nil {
			if p.ID > 0 && p.ID != v.text.id {
				return nil, wrongID(p)
			}
			return h.unhide(r.ctx(), v)
		}
		if p.ID > 0 {
			return nil, wrongID(p)
		}
		if next := len(ix.subjects[p.subject]) + 1; p.Version > 0 && p.Version != next {
			return nil, refuse(codeInvalidVersion, "Version is not one more than previous version: the next is %d; leave it out", next)
		}
		candidate := p.semver
		if candidate == "" {
			if candidate, err = h.choose(p); err != nil {
				return nil, err
			}
			if h.known(p) {
				h.forget()
				continue
			}
		} else if _, err := h.r.Registry().Propose(p.document(candidate)); err != nil {
			return nil, err
		}
		doc := p.document(candidate)
		if h.o.Caller != nil {
			doc.RegisteredBy = h.o.Caller(r.Request)
		}
		if err := h.keep(r.ctx(), p); err != nil {
			return nil, err
		}
		_, err = h.r.RegisterSchema(r.ctx(), doc)
		h.forget()
		if err != nil && !overtaken(p, err) {
			return nil, err
		}
	}
}

// overtaken tells whether a registration failed because of another one at the same time. The event of a registration has
// an id that follows from its content, but a time of its own: ErrDifferentContent means that this very schema has just
// been registered by somebody else.
func overtaken(p *proposed, err error) bool {
	return errors.Is(err, eventstore.ErrDifferentContent) ||
		p.semver == "" && (errors.Is(err, schema.ErrVersion) || errors.Is(err, schema.ErrIncompatible))
}

func wrongID(p *proposed) *problem {
	return refuse(codeNotPermitted, "Subject '%s' is not in import mode: ids are given by this registry; leave it out", bounded(p.subject))
}

// keep keeps the text as it was sent, before anybody can ask for it.
func (h *Handler) keep(ctx context.Context, p *proposed) error {
	return h.store.Update(ctx, func(tx *eventstore.Tx) error { return keepText(ctx, tx, p.fingerprint, p.Schema) })
}

// choose returns the lowest version within the latest major that the rules admit the schema as.
func (h *Handler) choose(p *proposed) (string, error) {
	registry := h.r.Registry()
	candidate := "1.0.0"
	last, err := registry.Latest(p.subject)
	if err == nil && semver.Prerelease("v"+last.Version) == "" {
		candidate = nextPatch(last.Version)
	}
	// At most three rounds: a minor step instead of the patch, and either above the pre-releases that are there.
	for range 8 {
		_, err = registry.Propose(p.document(candidate))
		var incompatible *schema.IncompatibleError
		var taken *schema.VersionError
		switch {
		case err == nil:
			return candidate, nil
		case errors.As(err, &incompatible) && incompatible.Required < schema.Major:
			candidate = incompatible.Suggested
		case errors.As(err, &taken) && semver.Major("v"+taken.Suggested) == semver.Major("v"+candidate):
			candidate = taken.Suggested
		default:
			return "", err
		}
	}
	return "", err
}

// known tells whether the registry has the schema under its type already.
func (h *Handler) known(p *proposed) bool {
	registry := h.r.Registry()
	return slices.ContainsFunc(registry.Versions(p.subject), func(version string) bool {
		doc, err := registry.Get(p.subject, version)
		return err == nil && doc.Fingerprint == p.fingerprint
	})
}

// nextPatch is the version behind a release.
func nextPatch(v string) string {
	var major, minor, patch int
	if _, err := fmt.Sscanf(v, "%d.%d.%d", &major, &minor, &patch); err != nil {
		return v // no registered version is without its three numbers
	}
	return fmt.Sprintf("%d.%d.%d", major, minor, patch+1)
}

func (h *Handler) lookup(r *request) (any, error) {
	all, err := h.subject(r)
	if err != nil {
		return nil, err
	}
	p, err := readSchema(r)
	if err != nil {
		return nil, err
	}
	v := byContent(all, p.fingerprint, p.semver)
	if v == nil || !shown(r, v) {
		return nil, refuse(codeSchema, "Schema not found")
	}
	return h.body(r, v), nil
}

// compatibility says whether a schema would be admitted: against one version, or as the next one.
func (h *Handler) compatibility(r *request) (any, error) {
	subject := r.path["subject"]
	if err := h.authorize(r, false, subject); err != nil {
		return nil, err
	}
	if err := checkSubject(subject); err != nil {
		return nil, err
	}
	p, err := readSchema(r)
	if err != nil {
		return nil, err
	}
	ix, err := h.look(r.ctx())
	if err != nil {
		return nil, err
	}
	number := 0
	if _, one := r.path["version"]; one {
		if number, err = parseVersion(r); err != nil {
			return nil, err
		}
	}
	var messages []string
	if number == 0 {
		messages, err = h.againstRules(p)
	} else {
		v := pick(ix.subjects[subject], number)
		if v == nil || v.hidden {
			if latest(ix.subjects[subject]) == nil {
				return nil, unknownSubject(subject)
			}
			return nil, refuse(codeVersion, "Version %d not found.", number)
		}
		messages, err = breaking(v, p)
	}
	if err != nil {
		return nil, err
	}
	answer := struct {
		Is       bool     `json:"is_compatible"`
		Messages []string `json:"messages,omitempty"`
	}{Is: len(messages) == 0}
	if r.flag("verbose") {
		answer.Messages = messages
	}
	return answer, nil
}

// againstRules says why the schema would not be admitted: as the version asked for, or as one of the latest major.
func (h *Handler) againstRules(p *proposed) ([]string, error) {
	var err error
	if p.semver != "" {
		_, err = h.r.Registry().Propose(p.document(p.semver))
	} else {
		_, err = h.choose(p)
	}
	var incompatible *schema.IncompatibleError
	switch {
	case errors.As(err, &incompatible):
		return append(texts(incompatible.Changes), fmt.Sprintf("it fits as version %s: send it with metadata.properties.version", incompatible.Suggested)), nil
	case errors.Is(err, schema.ErrVersion):
		return []string{err.Error()}, nil
	}
	return nil, err
}

// breaking lists the changes from a version to the schema that need a new major.
func breaking(v *version, p *proposed) ([]string, error) {
	changes, _, err := schema.Diff(json.RawMessage(v.text.schema), json.RawMessage(p.Schema))
	return texts(changes), err
}

func texts(changes []schema.Change) (list []string) {
	for _, c := range changes {
		if c.Bump == schema.Major {
			list = append(list, c.String())
		}
	}
	return list
}
