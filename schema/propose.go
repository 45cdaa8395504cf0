package schema

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/carebus/carebus/event"
)

// Proposal is what a registry says to a document that it would admit.
type Proposal struct {
	Changes  []Change        // against the highest earlier version of the same major, pre-releases apart; against the highest of the last major for a new one
	Required Bump            // the step that the changes need
	Warnings []event.Finding // what is allowed but worth a thought; pointers are into the document
	Known    bool            // this very version is registered already: there is nothing to do, and no Event
	Event    event.Event     // append it to the stream StreamOf(Type), then Apply it
}

// Propose checks a document against the rules and against every earlier version of its major, and changes nothing. Only
// Type, Version, Schema and RegisteredBy of the document are read. A document that is admitted comes with the event that
// registers it.
//
// Refusals: *event.InvalidError for a document that is no valid schema within the profile, or whose x-entity-id,
// x-subject-id or examples do not hold (pointers are into the document); *VersionError for a version that cannot be
// taken; *IncompatibleError for changes that need a larger step.
//
// A pre-release (1.1.0-rc.1) may differ from the versions before it in any way, and nothing is held to it later.
func (r *Registry) Propose(doc Document) (Proposal, error) {
	if problem := versionProblem(doc.Version); problem != "" {
		return Proposal{}, &VersionError{Type: bounded(doc.Type), Version: doc.Version, Problem: problem}
	}
	if findings := checkName(doc.Type); findings != nil {
		return Proposal{}, refused(doc, findings)
	}
	model, err := loadDocument(doc.Schema)
	if err != nil {
		return Proposal{}, refused(doc, []event.Finding{documentFinding(err)})
	}
	print := fingerprint(model.tree)
	l := r.lineage(doc.Type)
	if l == nil {
		l = &lineage{}
	}
	if have := l.byVersion[doc.Version]; have != nil {
		if have.doc.Fingerprint == print {
			return Proposal{Known: true}, nil
		}
		return Proposal{}, existsError(doc)
	}
	doc.Fingerprint = print
	warnings, err := checkDocument(doc, model)
	if err != nil {
		return Proposal{}, err
	}
	if err := l.checkVersion(doc); err != nil {
		return Proposal{}, err
	}
	proposal, err := l.judge(doc, model)
	if err != nil {
		return Proposal{}, err
	}
	proposal.Warnings = append(warnings, proposal.Warnings...)
	step := proposal.Required
	if major(doc.Version) != l.lastMajor() {
		step = Major
	}
	proposal.Event, err = fact(typeRegistered, doc.Type,
		factID("schema", doc.Type, doc.Version, strings.TrimPrefix(print, "sha256:")[:16]),
		registered{EventType: doc.Type, Version: doc.Version, Schema: doc.Schema, Fingerprint: print, Bump: step, RegisteredBy: doc.RegisteredBy})
	return proposal, err
}

func refused(doc Document, findings []event.Finding) error {
	return &event.InvalidError{Type: bounded(doc.Type), Findings: findings}
}

// checkName applies the envelope's rule about event types.
func checkName(eventType string) []event.Finding {
	_, err := event.Event{Metadata: event.Metadata{
		ID: "x", Type: eventType, Source: source, CorrelationID: "x", Timestamp: 1e12, Version: "1.0.0"}, Payload: json.RawMessage("{}"),
	}.Check(nil)
	invalid, ok := err.(*event.InvalidError) //nolint:errorlint // Check documents this type.
	if !ok {
		return nil
	}
	for i := range invalid.Findings {
		invalid.Findings[i].Pointer = ""
	}
	return invalid.Findings
}

func documentFinding(err error) event.Finding {
	if at, ok := err.(*documentError); ok { //nolint:errorlint // made in this package, never wrapped.
		return event.Finding{Pointer: at.pointer, Rule: "schema.document", Message: at.message, Remedy: at.remedy}
	}
	return event.Finding{Rule: "schema.document", Message: err.Error(), Remedy: "give a JSON Schema (2020-12) within the registry's profile"}
}

// checkDocument checks a document by itself.
func checkDocument(doc Document, model *document) (warnings []event.Finding, err error) {
	c, err := compileDoc(doc.Schema)
	if err != nil {
		var many *event.InvalidError
		if errors.As(err, &many) {
			return nil, refused(doc, many.Findings)
		}
		return nil, refused(doc, []event.Finding{documentFinding(err)})
	}
	var findings []event.Finding
	if model.root.types != kindObject {
		findings = append(findings, event.Finding{Pointer: "/type", Rule: "schema.root",
			Message: "a payload is an object, and the schema does not say so", Remedy: `write "type": "object" at the root`})
	}
	findings = append(findings, model.checkPath("x-entity-id", true)...)
	findings = append(findings, model.checkPath("x-subject-id", false)...)
	examples, _ := model.root.raw["examples"].([]any)
	if len(examples) > 0 {
		var raw struct {
			Examples []json.RawMessage `json:"examples"`
		}
		if err := json.Unmarshal(doc.Schema, &raw); err != nil {
			return nil, refused(doc, []event.Finding{documentFinding(err)})
		}
		for i, example := range raw.Examples {
			for _, f := range c.closed(example) {
				f.Pointer = "/examples/" + strconv.Itoa(i) + f.Pointer
				findings = append(findings, f)
			}
		}
	}
	if slices.ContainsFunc(findings, func(f event.Finding) bool { return !f.Warning }) {
		return nil, refused(doc, findings)
	}
	warnings = findings
	if breaches(model.root, model.root, true, false) != nil {
		warnings = append(warnings, event.Finding{Rule: "schema.ambiguous", Warning: true,
			Message: "it could not be shown that consumers accept all that producers may send: alternatives or conditions overlap; every later version will need a new major",
			Remedy:  "tell the alternatives of oneOf apart by a required property with a const"})
	}
	if model.root.raw["x-entity-id"] == nil {
		warnings = append(warnings, event.Finding{Rule: "schema.entity-id", Warning: true,
			Message: "there is no x-entity-id: events have no default partition key, and no order",
			Remedy:  "name the entity's id, such as \"x-entity-id\": \"/patientId\""})
	}
	return warnings, nil
}

func (l *lineage) lastMajor() int {
	last := 0
	for _, e := range l.versions {
		if !prerelease(e.doc.Version) {
			last = major(e.doc.Version)
		}
	}
	return last
}

// checkVersion checks that the version's number comes next: above all of its major, or the first of the next major.
func (l *lineage) checkVersion(doc Document) error {
	last, m := l.lastMajor(), major(doc.Version)
	first := strconv.Itoa(last+1) + ".0.0"
	core, _, _ := strings.Cut(doc.Version, "-")
	fail := func(problem, suggested string) error {
		return &VersionError{Type: doc.Type, Version: doc.Version, Problem: problem, Suggested: suggested}
	}
	switch {
	case m == 0:
		return fail("is of major 0, which promises nothing; while a schema still changes freely, register pre-releases", first+"-draft.1")
	case m > last && core != first && last == 0:
		return fail("cannot be the first: a type begins at 1.0.0", first)
	case m > last && core != first:
		return fail("skips versions: the first of the next major is "+first, first)
	}
	for _, e := range l.versions {
		if major(e.doc.Version) == m && compareVersions(doc.Version, e.doc.Version) <= 0 {
			highest := l.highest(m)
			return fail("is not above "+highest+", the highest of its major", stepped(highest, Patch))
		}
	}
	return nil
}

// highest is the highest version of a major, pre-releases included.
func (l *lineage) highest(m int) string {
	highest := ""
	for _, e := range l.versions {
		if major(e.doc.Version) == m {
			highest = e.doc.Version
		}
	}
	return highest
}

// judge compares the document with every earlier release of its major.
func (l *lineage) judge(doc Document, model *document) (Proposal, error) {
	var p Proposal
	var before []*entry
	var last *entry
	for _, e := range l.versions {
		if prerelease(e.doc.Version) {
			continue
		}
		if major(e.doc.Version) == major(doc.Version) {
			before = append(before, e)
		}
		if major(e.doc.Version) <= major(doc.Version) {
			last = e
		}
	}
	if last == nil {
		return p, nil // the first of its type
	}
	p.Changes = diffDocuments(last.model, model)
	p.Required = required(p.Changes)
	if prerelease(doc.Version) {
		return p, nil
	}
	if len(before) == 0 {
		if l.upcasters[last.major()] == nil {
			p.Warnings = append(p.Warnings, event.Finding{Rule: "schema.upcaster", Warning: true,
				Message: fmt.Sprintf("a new major, and nothing brings events of major %d to it", last.major()),
				Remedy:  "add an upcaster before consumers ask for the new major"})
		}
		return p, nil
	}
	declared := declaredStep(last.doc.Version, doc.Version)
	for _, e := range slices.Backward(before) {
		changes, need := p.Changes, p.Required
		if e != last {
			changes = diffDocuments(e.model, model)
			need = required(changes)
		}
		var suggested string
		switch {
		case need == Major:
			suggested = strconv.Itoa(l.lastMajor()+1) + ".0.0"
		case e == last && need > declared:
			suggested = stepped(last.doc.Version, need)
		default:
			continue
		}
		return p, &IncompatibleError{Type: doc.Type, Version: doc.Version, Against: e.doc.Version, Required: need, Suggested: suggested, Changes: changes}
	}
	switch {
	case len(p.Changes) == 0:
		p.Warnings = append(p.Warnings, event.Finding{Rule: "schema.unchanged", Warning: true,
			Message: "it says the same as version " + last.doc.Version, Remedy: "no new version is needed"})
	case declared > max(p.Required, Patch):
		p.Warnings = append(p.Warnings, event.Finding{Rule: "schema.step", Warning: true,
			Message: "the step is larger than the changes need", Remedy: stepped(last.doc.Version, p.Required) + " would do"})
	}
	return p, nil
}

func (e *entry) major() int { return major(e.doc.Version) }
