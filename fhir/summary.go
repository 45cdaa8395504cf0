package fhir

// indexed says whether other resources may need a summary of this kind.
func indexed(kind string) bool {
	switch kind {
	case "Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Condition", "Goal", "CareTeam",
		"Coverage", "Encounter", "Claim", "MedicationRequest", "MedicationStatement", "Patient":
		return true
	}
	return false
}

// remember puts into the index what other resources may ask about this one.
func (r *run) remember(doc *document, x *found) error {
	top := doc.top()
	if x.fullURL != "" {
		if u := parseReference(x.fullURL); u.id != doc.id || u.kind != "" && u.kind != x.kind {
			if err := r.index.alias(x.scope, x.fullURL, x.kind, doc.id); err != nil {
				return err
			}
		}
	}
	if !indexed(x.kind) || x.kind == "Claim" && top.text("use") != "preauthorization" {
		return nil // of claims, only requests for prior authorization are asked for: their answer must carry their id
	}
	if x.kind == "Encounter" {
		start := top.get("period").moment("start")
		if ref := top.reference("subject"); ref.id != "" && start.exists() {
			if err := r.index.began(ref.id, start.at); err != nil {
				return err
			}
		}
	}
	s, tokens := summarise(top, x.kind, doc.id, x.scope)
	return r.index.add(s, tokens)
}

// summarise reads a summary and the identifiers (system|value) by which others may refer to the resource.
func summarise(top node, kind, id, scope string) (*summary, []string) {
	s := &summary{Kind: kind, ID: id, Updated: top.get("meta").moment("lastUpdated").instant()}
	ref := func(use string, r reference) {
		if r.id != "" || r.token != "" {
			s.Refs = append(s.Refs, store(r, use, "", scope))
		}
	}
	switch kind {
	case "Practitioner":
		s.Name = humanName(top.list("name")).fullName()
		s.NPI = top.identifier(systemNPI)
	case "PractitionerRole":
		ref("practitioner", top.reference("practitioner"))
		ref("organization", top.reference("organization"))
		s.Name = top.reference("practitioner").display
	case "RelatedPerson":
		s.Name = humanName(top.list("name")).fullName()
	case "Organization", "Location", "HealthcareService":
		s.Name = top.text("name")
		s.NPI = top.identifier(systemNPI)
		s.NCPDP = top.identifier(systemNCPDP)
		if kind == "Location" {
			ref("organization", top.reference("managingOrganization"))
		}
	case "Medication":
		s.Codings, s.Name = top.get("code").concept()
	case "Condition":
		s.Codings, s.Name = top.get("code").concept()
	case "Goal":
		s.Name = top.get("description").label()
		s.Priority = top.get("priority").code()
	case "CareTeam":
		s.Name = top.text("name")
		for _, p := range top.list("participant") {
			if r := p.reference("member"); r.exists() {
				s.Members = append(s.Members, store(r, "member", p.first("role").label(), scope))
			}
		}
	case "Coverage":
		payor := top.first("payor").asReference()
		ref("payor", payor)
		s.PayerName = payor.display
		s.MemberID = top.text("subscriberId")
		for _, c := range top.list("class") {
			if c.get("type").code() == "plan" && s.PlanID == "" {
				s.PlanID = c.text("value")
				s.Name = c.text("name")
			}
		}
		if s.Name == "" {
			s.Name = top.get("type").label()
		}
	case "Claim":
		if top.text("use") == "preauthorization" {
			s.Name = priorAuthID(top, id)
		}
	case "Encounter":
		s.Start = top.get("period").moment("start").at
	case "MedicationRequest", "MedicationStatement":
		s.Codings, s.Name = top.get("medicationCodeableConcept").concept()
		ref("medication", top.reference("medicationReference"))
		ref("patient", top.reference("subject"))
		ref("requester", top.reference("requester"))
		ref("encounter", top.reference("encounter"))
	}
	var tokens []string
	switch kind {
	case "Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Patient", "Coverage", "MedicationRequest":
		for _, i := range top.list("identifier") {
			if v := i.text("value"); v != "" {
				tokens = append(tokens, i.text("system")+"|"+v)
			}
		}
	}
	return s, tokens
}
