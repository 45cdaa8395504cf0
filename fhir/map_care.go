package fhir

import "strings"

// member is one member of a care team.
type member struct {
	id, name, role string
}

func (c member) payload() obj {
	return obj{}.set("providerId", c.id).set("name", c.name).set("role", c.role)
}

func memberPayloads(all []member) []obj {
	var out []obj
	for _, c := range all {
		out = append(out, c.payload())
	}
	return out
}

func (m *mapping) members(participants []node) []member {
	var out []member
	for _, p := range participants {
		if r := p.reference("member"); r.exists() {
			t := m.provider(r)
			out = append(out, member{t.id, t.name, p.first("role").label()})
		}
	}
	return out
}

// mapCareTeam: the first state of a team adds all its members.
func mapCareTeam(m *mapping) {
	if m.inError() {
		return
	}
	if s := m.top.text("status"); s == "proposed" {
		m.skip = "CareTeam with status proposed: not a team yet"
		return
	}
	m.careTeam(m.members(m.top.list("participant")), nil, m.top.get("period").moment("start"))
}

func changeCareTeam(m, before *mapping) {
	was, is := before.members(before.top.list("participant")), m.members(m.top.list("participant"))
	has := func(all []member, c member) bool {
		for _, o := range all {
			if o.id == c.id && o.role == c.role && (c.id != "" || o.name == c.name) {
				return true
			}
		}
		return false
	}
	var added, removed []member
	for _, c := range is {
		if !has(was, c) {
			added = append(added, c)
		}
	}
	for _, c := range was {
		if !has(is, c) {
			removed = append(removed, c)
		}
	}
	if len(added)+len(removed) == 0 {
		m.skip = "a later version of a CareTeam with the same members"
		return
	}
	m.careTeam(added, removed, firstOf(m.top.get("meta").moment("lastUpdated"), m.top.get("period").moment("start")))
}

func (m *mapping) careTeam(added, removed []member, at moment) {
	patient, ok := m.patient("subject")
	if !ok {
		return
	}
	p := obj{"patientId": patient, "teamId": m.doc.id, "source": "fhir"}.
		set("added", memberPayloads(added)).set("removed", memberPayloads(removed)).
		set("members", memberPayloads(m.members(m.top.list("participant")))).
		set("name", m.top.text("name")).set("status", m.top.text("status"))
	m.emit("care.team.updated", p, patient, at)
}

// mapCarePlan states a plan with what it refers to.
func mapCarePlan(m *mapping) {
	if m.inError() {
		return
	}
	patient, ok := m.patient("subject")
	if !ok {
		return
	}
	period := m.top.get("period")
	created := firstOf(m.top.moment("created"), period.moment("start"))
	title := m.top.text("title")
	if title == "" {
		title = m.top.first("category").label()
	}
	if title == "" {
		title = m.top.text("description")
	}
	if title == "" {
		title = "Care plan"
	}
	author := m.provider(m.top.reference("author"))
	p := obj{"carePlanId": m.doc.id, "patientId": patient, "title": title, "createdDate": m.when(created).UTC().Format(instantLayout)}.
		set("status", m.top.text("status")).set("createdBy", author.id).
		set("period", obj{}.set("start", period.moment("start").instant()).set("end", period.moment("end").instant())).
		set("conditions", m.conditions(m.top.list("addresses"))).set("goals", m.goals()).set("activities", m.activities()).
		set("careTeam", m.planTeam())
	m.emit("care.plan.created", p, m.doc.id, created)
}

// conditions resolves references to conditions.
func (m *mapping) conditions(refs []node) []obj {
	var out []obj
	for _, r := range refs {
		t := m.follow(r.asReference(), "Condition")
		c := obj{}
		if t.sum != nil && len(t.sum.Codings) > 0 {
			c.set("code", t.sum.Codings[0].Code).set("display", t.name)
		} else {
			c.set("code", t.id).set("display", t.name)
		}
		if len(c) > 0 {
			out = append(out, c)
		}
	}
	return out
}

func (m *mapping) goals() []obj {
	var out []obj
	for _, g := range m.top.list("goal") {
		t := m.follow(g.asReference(), "Goal")
		o := obj{}.set("id", t.id).set("description", t.name)
		if t.sum != nil {
			o.set("priority", t.sum.Priority)
		}
		out = append(out, o)
	}
	return out
}

func (m *mapping) activities() []obj {
	var out []obj
	for _, a := range m.top.list("activity") {
		d := a.get("detail")
		text := d.get("code").label()
		if text == "" {
			text = d.text("description")
		}
		if text == "" {
			text = a.get("reference").text("display")
		}
		if text == "" {
			continue
		}
		out = append(out, obj{"description": text}.set("status", d.text("status")).set("type", activityType(d.text("kind"))).set("frequency", d.text("scheduledString")))
	}
	return out
}

// activityType is what kind of activity a kind of request means.
func activityType(kind string) string {
	switch kind {
	case "":
		return ""
	case "Appointment":
		return "appointment"
	case "CommunicationRequest":
		return "communication"
	case "DeviceRequest":
		return "device"
	case "MedicationRequest":
		return "medication"
	case "NutritionOrder":
		return "nutrition"
	case "Task":
		return "task"
	case "ServiceRequest":
		return "service"
	case "VisionPrescription":
		return "vision"
	}
	return "other"
}

func (m *mapping) planTeam() []obj {
	var out []obj
	for _, r := range m.top.list("careTeam") {
		t := m.follow(r.asReference(), "CareTeam")
		if t.sum == nil {
			continue
		}
		for _, c := range t.sum.Members {
			ref := c.reference()
			p := m.followIn(ref, c.Scope, "Practitioner", "PractitionerRole", "Organization", "RelatedPerson", "Patient")
			out = append(out, member{p.id, p.name, c.Role}.payload())
		}
	}
	return out
}

// mapTask: a task with an owner is assigned; a completed one is completed as well.
func mapTask(m *mapping) {
	if m.inError() {
		return
	}
	switch s := m.top.text("status"); s {
	case "draft", "rejected", "cancelled", "failed":
		m.skip = "Task with status " + s + ": not assigned"
		return
	}
	if !m.top.reference("owner").exists() {
		m.skip = "Task without an owner: not assigned"
		return
	}
	m.taskAssigned(m.top.moment("authoredOn"))
	if m.top.text("status") == "completed" {
		m.taskCompleted()
	}
}

func changeTask(m, before *mapping) {
	if m.top.reference("owner").stated() != before.top.reference("owner").stated() && m.top.reference("owner").exists() {
		m.taskAssigned(firstOf(m.top.moment("lastModified"), m.top.get("meta").moment("lastUpdated")))
	}
	if m.top.text("status") == "completed" && before.top.text("status") != "completed" {
		m.taskCompleted()
	}
	m.skip = "a later version of a Task: neither completed nor given to someone else"
}

func (m *mapping) task() obj {
	p := obj{"taskId": m.doc.id}
	if r := m.top.reference("for"); r.exists() {
		p.set("patientId", m.follow(r, "Patient").id)
	}
	return p
}

func (m *mapping) taskAssigned(at moment) {
	owner := m.provider(m.top.reference("owner"))
	text := m.top.text("description")
	if text == "" {
		text = m.top.get("code").label()
	}
	m.emit("care.task.assigned", m.task().set("description", text).set("assignee", obj{}.set("id", owner.id).set("name", owner.name)).
		set("dueAt", m.top.get("restriction").get("period").moment("end").instant()).set("priority", oneOf(m.top.text("priority"), "", priorities...)), m.doc.id, at)
}

func (m *mapping) taskCompleted() {
	at := firstOf(m.top.get("executionPeriod").moment("end"), m.top.moment("lastModified"), m.top.moment("authoredOn"))
	m.emit("care.task.completed", m.task().set("completedAt", m.when(at).UTC().Format(instantLayout)), m.doc.id, at)
}

// mapCommunication: a message that was sent. Attachments are named, never copied.
func mapCommunication(m *mapping) {
	if m.inError() {
		return
	}
	switch s := m.top.text("status"); s {
	case "completed", "in-progress":
	default:
		m.skip = "Communication with status " + s + ": not sent"
		return
	}
	patient, ok := m.patient("subject")
	if !ok {
		return
	}
	var recipients []obj
	for _, r := range m.top.list("recipient") {
		t := m.provider(r.asReference())
		if t.exists() {
			recipients = append(recipients, obj{}.set("id", t.id).set("name", t.name))
		}
	}
	message := ""
	for _, p := range m.top.list("payload") {
		text := p.text("contentString")
		if text == "" {
			text = p.get("contentAttachment").text("title")
		}
		if text != "" && message != "" {
			message += "\n"
		}
		message += text
	}
	at := m.top.moment("sent")
	m.emit("care.communication.sent", obj{"communicationId": m.doc.id, "patientId": patient, "sentAt": m.when(at).UTC().Format(instantLayout)}.
		set("message", message).set("channel", channel(m.top.first("medium"))).set("recipients", recipients), patient, at)
}

// channel is the medium of a message in the words of the events.
func channel(medium node) string {
	if !medium.exists() {
		return ""
	}
	words := map[string]string{
		"WRITTEN": "written", "VERBAL": "in-person", "FACE": "in-person", "PHONE": "phone", "VIDEOCONF": "video", "FAXWRIT": "fax",
		"EMAILWRIT": "email", "MAILWRIT": "mail", "ELECTRONIC": "portal", "DICTATE": "voice",
	}
	if w := words[strings.ToUpper(medium.code())]; w != "" {
		return w
	}
	return oneOf(strings.ToLower(medium.label()), "other", "sms", "email", "phone", "voice", "fax", "mail", "portal", "push", "video", "in-person", "written")
}
