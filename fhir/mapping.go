package fhir

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/carebus/carebus/event"
)

// draft is an event before it gets its id, and the time at which the fact happened.
type draft struct {
	event event.Event
	at    time.Time
}

// mapping turns one resource into drafts. Without an index it does so from what the resource itself states: that is
// its identity, which is the same in every packaging and whatever else is imported with it.
type mapping struct {
	doc   *document
	top   node
	found *found
	index *index // nil: identity only
	now   time.Time

	events  []draft
	skip    string // why there is no event
	err     string // why it cannot be mapped
	undated bool
	fault   error // the index failed
}

func newMapping(doc *document, x *found, idx *index, now time.Time) *mapping {
	return &mapping{doc: doc, top: doc.top(), found: x, index: idx, now: now}
}

// run maps the resource as new.
func (m *mapping) run() []draft {
	m.events, m.err, m.skip = nil, "", ""
	mappers[m.doc.kind].events(m)
	if m.err != "" {
		return nil
	}
	return m.events
}

// change maps the resource as a later version of before.
func (m *mapping) change(before *mapping) []draft {
	m.events, m.err, m.skip = nil, "", ""
	if f := mappers[m.doc.kind].change; f != nil {
		f(m, before)
	} else {
		m.skip = "a later version of a " + m.doc.kind + ": no event says what changed"
	}
	if m.err != "" {
		return nil
	}
	return m.events
}

func (m *mapping) reject(format string, args ...any) { m.err = fmt.Sprintf(format, args...) }

// identity is the hash of everything that the resource's events would say.
func (m *mapping) identity() key {
	h := sha256.New()
	fmt.Fprintf(h, "%s\x00%s\x00", m.doc.kind, m.doc.id)
	events := m.run()
	for _, d := range events {
		fmt.Fprintf(h, "%s\x00%d\x00%s\x00", d.event.Type, d.at.UnixMilli(), d.event.Payload)
	}
	if len(events) == 0 {
		fmt.Fprintf(h, "%s\x00%s", m.err, m.skip)
	}
	return key(h.Sum(nil)[:16])
}

// add appends an event about entity; at falls back through what else dates the resource.
func (m *mapping) add(e event.Event, entity string, at moment) {
	e.PartitionKey = entity
	m.events = append(m.events, draft{event: e, at: m.when(at)})
}

// when finds the time of the fact: the member that says it, else meta.lastUpdated, else the start of the encounter,
// else the start of 1970, which the report counts. It is never the time of the import: a second import would differ.
func (m *mapping) when(at moment) time.Time {
	if !at.exists() {
		at = m.top.get("meta").moment("lastUpdated")
	}
	if at.exists() {
		return at.at
	}
	if s := m.encounter().sum; s != nil && !s.Start.IsZero() {
		return s.Start
	}
	m.undated = true
	return time.Unix(0, 0)
}

// items completes the drafts: ids, correlation, keys. It refuses what the envelope would refuse.
func (r *run) items(m *mapping, x *found, drafts []draft, salt string) ([]Item, error) {
	content := newMapping(m.doc, x, nil, m.now).identity()
	corr := m.correlation()
	out := make([]Item, 0, len(drafts))
	for i, d := range drafts {
		if d.at.After(m.now.Add(24 * time.Hour)) {
			return nil, errors.New("its date is in the future: the fact has not happened yet")
		}
		e := d.event.At(d.at)
		e.Source = r.o.Source
		e.CorrelationID = corr
		e.ID = eventID(e.Type, m.doc.kind, m.doc.id, content, salt, i)
		if !opaque(e.PartitionKey) {
			e.PartitionKey = ""
		}
		if _, err := e.Check(&event.Options{Now: func() time.Time { return m.now }}); err != nil {
			return nil, err // better here, with file and place, than as a batch that the store refuses
		}
		out = append(out, Item{
			Event: e, File: r.file, Line: x.line, Pointer: x.pointer, Type: m.doc.kind, ID: m.doc.id,
		})
	}
	return out, nil
}

// eventID is a name-based UUID (RFC 9562 version 8, SHA-256).
func eventID(eventType, kind, id string, content key, salt string, n int) string {
	h := sha256.New()
	fmt.Fprintf(h, "carebus.fhir.1\x00%s\x00%s\x00%s\x00%x\x00%x\x00%d", eventType, kind, id, content, salt, n)
	return uuid(h.Sum(nil))
}

func uuid(sum []byte) string {
	b := [16]byte(sum[:16])
	b[6] = b[6]&0x0f | 0x80
	b[8] = b[8]&0x3f | 0x80
	s := hex.EncodeToString(b[:])
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// opaque says whether the envelope accepts the text as an id.
func opaque(s string) bool {
	if len(s) == 0 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// open decodes a resource and settles its id: its own, else the one that its bundle entry gives it (references in the
// bundle use that), else one made of its content.
func (r *run) open(x *found) (*document, error) {
	doc, err := decode(x.raw)
	if err != nil {
		return nil, errors.New("it cannot be decoded: nested too deeply, or a number out of range")
	}
	doc.kind = x.kind
	doc.id = doc.top().text("id")
	switch {
	case doc.id == "" && x.fullURL != "":
		doc.id = parseReference(x.fullURL).id
	case doc.id == "":
		text, err := json.Marshal(doc.root) // sorted members: independent of the writer
		if err != nil {
			return nil, errors.New("it has no id, and its content cannot be hashed")
		}
		sum := sha256.Sum256(text)
		doc.id = uuid(sum[:])
	}
	if !opaque(doc.id) {
		return nil, errors.New("its id is not 1 to 128 visible ASCII characters")
	}
	return doc, nil
}

// target is what a reference leads to, as far as it can be told.
type target struct {
	kind, id string
	name     string
	npi      string
	sum      *summary // nil when the resource is not in the input
}

func (t target) exists() bool { return t.id != "" || t.name != "" }

// follow resolves a reference to one of kinds (in the order to try for references that do not say their type).
func (m *mapping) follow(r reference, kinds ...string) target {
	return m.followIn(r, m.found.scope, kinds...)
}

func (m *mapping) followIn(r reference, scope string, kinds ...string) target {
	t := target{kind: r.kind, id: r.stated(), name: r.display}
	if r.local != "" {
		t.id = m.doc.id + "#" + r.local
		if s := m.contained(r.local); s != nil {
			t.kind, t.sum = s.Kind, s
		}
		return t.described()
	}
	if system, value, ok := strings.Cut(r.token, "|"); ok && r.id == "" {
		if t.id = value; strings.Contains(system, "us-npi") {
			t.npi = value
		}
	}
	if m.index == nil {
		t.id, t.name = r.stated(), ""
		return t
	}
	if r.kind != "" {
		kinds = []string{r.kind}
	}
	if r.url != "" {
		if s := m.find(hashOf("url", scope, r.url)); s != nil {
			r.id, t.id, t.kind = s.ID, s.ID, s.Kind
			kinds = []string{s.Kind}
		}
	}
	for _, kind := range kinds {
		var s *summary
		if r.id != "" {
			s = m.find(hashOf("id", kind, r.id))
		} else if r.token != "" {
			s = m.find(hashOf("token", kind, r.token))
		}
		if s != nil {
			t.kind, t.id, t.sum = kind, s.ID, s
			break
		}
	}
	return t.described()
}

// described takes name and NPI from what was found. The resource itself is a better witness than a display text.
func (t target) described() target {
	if t.sum != nil {
		if t.sum.Name != "" {
			t.name = t.sum.Name
		}
		if t.sum.NPI != "" {
			t.npi = t.sum.NPI
		}
	}
	return t
}

func (m *mapping) find(name key) *summary {
	s, err := m.index.find(name)
	if err != nil {
		m.fault = err
	}
	return s
}

// contained summarises a contained resource.
func (m *mapping) contained(local string) *summary {
	for _, c := range m.top.list("contained") {
		if c.text("id") == local {
			s, _ := summarise(c, c.text("resourceType"), m.doc.id+"#"+local, m.found.scope)
			return s
		}
	}
	return nil
}

// patient is the person that the resource is about. ok is false, and the mapping has failed, when there is none.
func (m *mapping) patient(members ...string) (id string, ok bool) {
	for _, name := range members {
		r := m.top.reference(name)
		if r.kind != "" && r.kind != "Patient" {
			continue
		}
		if t := m.follow(r, "Patient"); t.id != "" && (t.kind == "" || t.kind == "Patient") {
			return t.id, true
		}
	}
	m.reject("no patient: %s has no usable reference", strings.Join(members, " or "))
	return "", false
}

// provider follows a reference to whoever does something: a person, their role, or an organization.
func (m *mapping) provider(r reference) target {
	if !r.exists() {
		return target{}
	}
	t := m.follow(r, "Practitioner", "PractitionerRole", "Organization", "CareTeam", "RelatedPerson", "Patient", "HealthcareService", "Device")
	if t.sum != nil && t.kind == "PractitionerRole" {
		for _, onward := range t.sum.Refs {
			if onward.Use == "practitioner" {
				if p := m.followIn(onward.reference(), onward.Scope, "Practitioner"); p.exists() {
					return p
				}
			}
		}
	}
	return t
}

// encounter is the visit that the resource belongs to.
func (m *mapping) encounter() target {
	r := m.top.reference("encounter")
	if !r.exists() {
		r = m.top.path("item", "encounter").asReference()
	}
	if !r.exists() {
		r = m.top.path("context").asReference()
	}
	if !r.exists() || r.kind != "" && r.kind != "Encounter" {
		return target{}
	}
	return m.follow(r, "Encounter")
}

// correlation joins what happened in one encounter; without one, what concerns one patient.
func (m *mapping) correlation() string {
	if id := m.encounter().id; opaque(id) {
		return id
	}
	if m.doc.kind == "MedicationDispense" {
		if t := m.follow(m.top.first("authorizingPrescription").asReference(), "MedicationRequest"); t.sum != nil {
			for _, onward := range t.sum.Refs {
				if onward.Use == "encounter" && opaque(onward.ID) {
					return onward.ID
				}
			}
		}
	}
	for _, name := range []string{"subject", "patient", "beneficiary", "for"} {
		if r := m.top.reference(name); r.exists() {
			if t := m.follow(r, "Patient"); opaque(t.id) {
				return t.id
			}
		}
	}
	return m.doc.id
}

// coding is one code of a CodeableConcept.
type coding struct {
	System  string `json:"s,omitempty"`
	Code    string `json:"c,omitempty"`
	Display string `json:"d,omitempty"`
}

// concept reads a CodeableConcept: its codings and its text, or the first display.
func (n node) concept() (codes []coding, text string) {
	for _, c := range n.list("coding") {
		if code := (coding{c.text("system"), c.text("code"), c.text("display")}); code.Code != "" || code.Display != "" {
			codes = append(codes, code)
		}
	}
	text = n.text("text")
	for _, c := range codes {
		if text == "" {
			text = c.Display
		}
	}
	return codes, text
}

// label is the best text for a concept: text, display, or the code itself.
func (n node) label() string {
	codes, text := n.concept()
	if text == "" && len(codes) > 0 {
		text = codes[0].Code
	}
	return text
}

// code is the first code of a concept.
func (n node) code() string {
	codes, _ := n.concept()
	for _, c := range codes {
		if c.Code != "" {
			return c.Code
		}
	}
	return ""
}

func codeIn(codes []coding, systems ...string) string {
	for _, s := range systems {
		for _, c := range codes {
			if strings.Contains(c.System, s) && c.Code != "" {
				return c.Code
			}
		}
	}
	return ""
}

const (
	systemRxNorm = "rxnorm"
	systemNDC    = "sid/ndc"
	systemNPI    = "us-npi"
	systemNCPDP  = "NCPDP"
)

// identifier returns the value of the first identifier whose system contains one of the texts.
func (n node) identifier(systems ...string) string {
	for _, want := range systems {
		for _, i := range n.list("identifier") {
			if v := i.text("value"); v != "" && strings.Contains(strings.ToLower(i.text("system")), strings.ToLower(want)) {
				return v
			}
		}
	}
	return ""
}

// humanName chooses the official name, else the first, and never an old one when there is another.
func humanName(names []node) node {
	rank := map[string]int{"official": 0, "usual": 1, "": 2, "temp": 3, "nickname": 4, "anonymous": 5, "maiden": 6, "old": 7}
	best, bestRank := node{}, 100
	for _, n := range names {
		r, ok := rank[n.text("use")]
		if !ok {
			r = 2
		}
		if r < bestRank {
			best, bestRank = n, r
		}
	}
	return best
}

// fullName is a name as one would address it.
func (n node) fullName() string {
	if t := n.text("text"); t != "" {
		return t
	}
	var parts []string
	for _, member := range []string{"prefix", "given"} {
		for _, p := range n.list(member) {
			if s := p.string(); s != "" {
				parts = append(parts, s)
			}
		}
	}
	if f := n.text("family"); f != "" {
		parts = append(parts, f)
	}
	return strings.Join(parts, " ")
}

// telecom returns the first contact point of a system, preferring the lowest rank and never an old one.
func (n node) telecom(system string) string {
	best, bestRank := "", int64(1<<40)
	for _, t := range n.list("telecom") {
		if t.text("system") != system || t.text("use") == "old" || t.text("value") == "" {
			continue
		}
		rank := int64(1 << 30)
		if v, err := strconv.ParseInt(string(t.number("rank")), 10, 64); err == nil {
			rank = v
		}
		if rank < bestRank {
			best, bestRank = t.text("value"), rank
		}
	}
	return best
}
