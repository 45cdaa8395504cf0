package fhir

func mapPractitioner(m *mapping) {
	n := humanName(m.top.list("name"))
	m.providerProfile(obj{"type": "practitioner"}.set("name", n.fullName()).
		set("specialty", m.top.first("qualification").get("code").label()))
}

func mapOrganization(m *mapping) {
	m.providerProfile(obj{"type": "organization"}.set("name", m.top.text("name")))
}

// providerProfile states what is known about a person or an organization that provides care or pays for it.
func (m *mapping) providerProfile(p obj) {
	a := bestAddress(m.top.list("address"))
	p["providerId"] = m.doc.id
	p.set("npi", m.top.identifier(systemNPI)).set("phoneNumber", m.top.telecom("phone")).set("email", m.top.telecom("email")).
		set("address", addressOf(a))
	m.emit("provider.profile.updated", p, m.doc.id, m.top.get("meta").moment("lastUpdated"))
}
