package fhir

import (
	"slices"
	"strings"
)

// person is a patient as the events tell it.
type person struct {
	first, last, birth, gender  string
	street, city, state, postal string
	country, phone, email       string
	deceased                    bool
	died                        moment
	identifiers                 []obj
}

func readPerson(top node) person {
	n := humanName(top.list("name"))
	p := person{
		first: n.first("given").string(), last: n.text("family"),
		birth: top.moment("birthDate").date(), gender: top.text("gender"),
		phone: top.telecom("phone"), email: emailOf(top.telecom("email")), died: top.moment("deceasedDateTime"),
	}
	if p.first == "" && p.last == "" {
		p.last = n.text("text")
	}
	dead, _ := top.bool("deceasedBoolean")
	p.deceased = dead || p.died.exists()
	a := bestAddress(top.list("address"))
	for i, line := range a.list("line") {
		if i > 0 {
			p.street += ", "
		}
		p.street += line.string()
	}
	p.city, p.state, p.postal, p.country = a.text("city"), state(a.text("state")), a.text("postalCode"), a.text("country")
	for _, i := range top.list("identifier") {
		if v := i.text("value"); v != "" {
			p.identifiers = append(p.identifiers, obj{}.set("system", i.text("system")).set("value", v).set("type", i.get("type").code()))
		}
	}
	return p
}

// bestAddress is the home, else the first that is not old or a billing address.
func bestAddress(all []node) node {
	rank := func(n node) int {
		return slices.Index([]string{"home", "", "work", "temp", "billing", "old"}, n.text("use"))
	}
	best := node{}
	for _, a := range all {
		if !best.exists() || rank(a) < rank(best) {
			best = a
		}
	}
	return best
}

func (p person) address() obj {
	return obj{}.set("street", p.street).set("city", p.city).set("state", p.state).set("postalCode", p.postal)
}

func addressOf(a node) obj {
	street := ""
	for i, line := range a.list("line") {
		if i > 0 {
			street += ", "
		}
		street += line.string()
	}
	return obj{}.set("street", street).set("city", a.text("city")).set("state", state(a.text("state"))).set("postalCode", a.text("postalCode"))
}

func mapPatient(m *mapping) {
	p := readPerson(m.top)
	m.emit("patient.record.created", obj{"patientId": m.doc.id, "createdBy": "fhir-import", "source": "fhir"}.
		set("firstName", p.first).set("lastName", p.last).set("dateOfBirth", p.birth).set("gender", gender(p.gender)).
		set("address", p.address()).set("phoneNumber", p.phone).set("email", p.email).set("identifiers", p.identifiers),
		m.doc.id, m.recordStart())
	if p.deceased {
		m.deceased(p)
	}
}

// recordStart is when the record began: the patient's first encounter, else the last change of the resource, else birth.
func (m *mapping) recordStart() moment {
	if m.index != nil {
		for _, id := range []string{m.doc.id, parseReference(m.found.fullURL).id} {
			at, ok, err := m.index.firstEncounter(id)
			if err != nil {
				m.fault = err
			}
			if ok {
				return moment{at: at, whole: true}
			}
		}
	}
	return firstOf(m.top.get("meta").moment("lastUpdated"), m.top.moment("birthDate"))
}

func (m *mapping) deceased(p person) {
	fields := obj{"deceased": true}.set("deceasedDate", p.died.instant())
	at := p.died
	if !at.exists() {
		at = m.recordStart()
	}
	m.emit("patient.record.updated", obj{"patientId": m.doc.id, "reason": "deceased", "updatedFields": fields}, m.doc.id, at)
}

func changePatient(m, before *mapping) {
	was, is := readPerson(before.top), readPerson(m.top)
	at := m.top.get("meta").moment("lastUpdated")
	if !at.exists() {
		at = m.recordStart()
	}
	demo := obj{"patientId": m.doc.id}
	for _, f := range []struct{ name, was, is string }{
		{"firstName", was.first, is.first}, {"lastName", was.last, is.last}, {"dateOfBirth", was.birth, is.birth}, {"gender", gender(was.gender), gender(is.gender)},
	} {
		if f.was != f.is && f.is != "" {
			demo[f.name] = f.is
		}
	}
	if len(demo) > 1 {
		m.emit("patient.demographics.changed", demo, m.doc.id, at)
	}
	if was.street != is.street || was.city != is.city || was.state != is.state || was.postal != is.postal {
		m.emit("patient.address.changed", obj{"patientId": m.doc.id, "address": is.address()}, m.doc.id, at)
	}
	if was.phone != is.phone || was.email != is.email {
		m.emit("patient.contact.changed", obj{"patientId": m.doc.id}.set("phoneNumber", is.phone).set("email", is.email), m.doc.id, at)
	}
	if is.deceased && !was.deceased {
		m.deceased(is)
	}
	m.skip = "a later version of a Patient: nothing that an event carries has changed"
}

// mapCoverage: a person is enrolled with a payer from the start of the coverage on.
func mapCoverage(m *mapping) {
	if m.inError() {
		return
	}
	patient, ok := m.patient("beneficiary")
	if !ok {
		return
	}
	if s := m.top.text("status"); s == "cancelled" || s == "draft" {
		m.skip = "Coverage with status " + s + ": nobody is enrolled by it"
		return
	}
	sum, _ := summarise(m.top, "Coverage", m.doc.id, m.found.scope)
	period := m.top.get("period")
	start := period.moment("start")
	name := sum.Name
	if name == "" {
		name = "coverage"
	}
	m.emit("patient.enrolled", obj{"patientId": patient, "enrollmentId": m.doc.id}.
		set("program", obj{"name": name}.set("id", sum.PlanID)).set("payer", m.payor(m.top)).
		set("coverage", obj{}.set("memberId", sum.MemberID)).set("status", m.top.text("status")).set("enrollmentDate", start.date()).set("endDate", period.moment("end").date()),
		patient, start)
}

// mapConsent: an active permission is given, anything else that once was one is withdrawn.
func mapConsent(m *mapping) {
	if m.inError() {
		return
	}
	patient, ok := m.patient("patient", "subject")
	if !ok {
		return
	}
	at := m.top.moment("dateTime")
	provision := m.top.get("provision")
	switch status := m.top.text("status"); status {
	case "draft", "proposed":
		m.skip = "Consent with status " + status + ": not given yet"
		return
	case "rejected", "inactive":
		m.emit("patient.consent.revoked", obj{"patientId": patient, "consentId": m.doc.id, "reason": status}, patient, at)
		return
	}
	scope := m.top.get("scope").code()
	if scope == "" {
		scope = "unspecified"
	}
	m.emit("patient.consent.provided", obj{"patientId": patient, "consentId": m.doc.id, "scope": scope, "source": "fhir"}.
		set("decision", oneOf(provision.text("type"), "", "permit", "deny")).set("status", m.top.text("status")).
		set("providedAt", at.instant()).
		set("effectiveAt", provision.get("period").moment("start").instant()).set("expiresAt", provision.get("period").moment("end").instant()),
		patient, at)
}

// gender is FHIR's administrative gender; other words are unknown to the events.
func gender(v string) string {
	if v == "" {
		return ""
	}
	return oneOf(v, "unknown", "female", "male", "other")
}

// emailOf drops what cannot be an address.
func emailOf(v string) string {
	if name, host, ok := strings.Cut(v, "@"); !ok || name == "" || host == "" || strings.ContainsAny(v, " \t\r\n") || strings.Contains(host, "@") {
		return ""
	}
	return v
}
