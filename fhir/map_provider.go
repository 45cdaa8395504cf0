package fhir

func mapPractitioner(m *mapping) {
	n := humanName(m.top.list("name"))
	var qualifications []obj
	for _, q := range m.top.list("qualification") {
		if codes, text := q.get("code").concept(); text != "" {
			c := coding{Display: text}
			if len(codes) > 0 {
				c.System, c.Code = codes[0].System, codes[0].Code
			}
			qualifications = append(qualifications, c.payload())
		}
	}
	m.providerProfile(obj{"providerType": "practitioner"}.set("name", n.fullName()).set("qualifications", qualifications))
}

func mapOrganization(m *mapping) {
	m.providerProfile(obj{"providerType": "organization"}.set("name", m.top.text("name")))
}

// providerProfile states what is known about a person or an organization that provides care or pays for it.
func (m *mapping) providerProfile(p obj) {
	a := bestAddress(m.top.list("address"))
	p["providerId"], p["source"] = m.doc.id, "fhir"
	npi := m.top.identifier(systemNPI)
	if npiOf(npi) == "" && npi != "" {
		p.set("identifiers", []obj{{"system": "http://hl7.org/fhir/sid/us-npi", "value": npi}})
	}
	p.set("npi", npiOf(npi)).set("phoneNumber", m.top.telecom("phone")).set("email", m.top.telecom("email")).
		set("address", addressOf(a))
	m.emit("provider.profile.updated", p, m.doc.id, m.top.get("meta").moment("lastUpdated"))
}
