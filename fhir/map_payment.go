package fhir

import (
	"encoding/json"
	"math/big"
	"strings"
)

// payor is who pays, read from a Coverage.
func (m *mapping) payor(coverage node) obj {
	r := coverage.first("payor").asReference()
	if !r.exists() {
		return nil
	}
	t := m.follow(r, "Organization", "Patient", "RelatedPerson")
	return obj{}.set("id", t.id).set("name", t.name)
}

// payer is who pays a claim: the insurer, else the payor of its coverage, else what the coverage is called.
func (m *mapping) payer() obj {
	p := obj{}
	if t := m.provider(m.top.reference("insurer")); t.exists() {
		p.set("id", t.id).set("name", t.name)
	}
	insurance := m.top.first("insurance")
	for _, i := range m.top.list("insurance") {
		if focal, _ := i.bool("focal"); focal {
			insurance = i
			break
		}
	}
	r := insurance.reference("coverage")
	if !r.exists() {
		return p
	}
	t := m.follow(r, "Coverage")
	if t.sum != nil {
		p.set("planId", t.sum.PlanID)
		for _, onward := range t.sum.Refs {
			if onward.Use == "payor" && p["id"] == nil {
				o := m.followIn(onward.reference(), onward.Scope, "Organization")
				p.set("id", o.id).set("name", o.name)
			}
		}
		if p["name"] == nil {
			p.set("name", t.sum.PayerName)
		}
	}
	if p["name"] == nil {
		p.set("name", r.display)
	}
	return p
}

// mapClaim: a claim for payment, or with use preauthorization a request for prior authorization.
func mapClaim(m *mapping) {
	if m.inError() {
		return
	}
	use, status := m.top.text("use"), m.top.text("status")
	switch {
	case status == "draft":
		m.skip = "Claim with status draft: not submitted yet"
		return
	case use == "predetermination":
		m.skip = "Claim with use predetermination: a question, not a claim"
		return
	}
	patient, ok := m.patient("patient")
	if !ok {
		return
	}
	created := firstOf(m.top.moment("created"), m.top.get("billablePeriod").moment("start"))
	if use == "preauthorization" {
		m.priorAuthRequest(patient, created)
		return
	}
	provider := m.provider(m.top.reference("provider"))
	prescription := m.follow(m.top.reference("prescription"), "MedicationRequest")
	other := "professional"
	if prescription.exists() {
		other = "pharmacy"
	}
	p := obj{
		"claimId": m.doc.id, "patientId": patient, "submittedAt": m.when(created).UTC().Format(instantLayout), "source": "fhir",
		"claimType": oneOf(m.top.get("type").code(), other, "pharmacy", "institutional", "professional", "oral", "vision"),
	}.
		set("provider", obj{}.set("id", provider.id).set("name", provider.name)).
		set("payer", m.payer()).set("prescriptionId", prescription.id).set("status", status)
	if total, ok := m.top.get("total").usd(); ok {
		p.set("total", total)
	}
	m.emit("payment.claim.submitted", p, m.doc.id, created)
	if status == "cancelled" {
		m.voided(patient)
	}
}

func (m *mapping) voided(patient string) {
	at := firstOf(m.top.get("meta").moment("lastUpdated"), m.top.moment("created"))
	m.emit("payment.claim.voided", obj{"claimId": m.doc.id, "patientId": patient, "reason": "cancelled", "voidedAt": m.when(at).UTC().Format(instantLayout)}, m.doc.id, at)
}

func changeClaim(m, before *mapping) {
	if patient, ok := m.patient("patient"); ok && m.top.text("status") == "cancelled" && before.top.text("status") != "cancelled" && m.top.text("use") != "preauthorization" {
		m.voided(patient)
		return
	}
	m.skip = "a later version of a Claim that does not cancel it: no event says what changed"
}

// priorAuthRequest: the payer's file number of the request is its id, because the answer carries it too.
func (m *mapping) priorAuthRequest(patient string, created moment) {
	id := priorAuthID(m.top, m.doc.id)
	p := obj{"priorAuthId": id, "patientId": patient, "submittedAt": m.when(created).UTC().Format(instantLayout)}.
		set("payer", m.payer()).set("prescriber", m.prescriber(m.top.reference("provider")))
	if r := m.top.reference("prescription"); r.exists() {
		p.set("prescriptionId", m.follow(r, "MedicationRequest").id)
	}
	m.emit("priorauth.request.submitted", p, id, created)
}

func priorAuthID(top node, fallback string) string {
	for _, i := range top.list("identifier") {
		if v := i.text("value"); opaque(v) {
			return v
		}
	}
	return fallback
}

// mapClaimResponse: the payer's answer to a claim or to a request for prior authorization.
func mapClaimResponse(m *mapping) {
	if m.inError() {
		return
	}
	if s := m.top.text("status"); s == "draft" || s == "cancelled" {
		m.skip = "ClaimResponse with status " + s + ": no answer"
		return
	}
	patient, ok := m.patient("patient")
	if !ok {
		return
	}
	switch m.top.text("use") {
	case "preauthorization":
		m.priorAuthDecision(patient)
	case "predetermination":
		m.skip = "ClaimResponse with use predetermination: an estimate, not an answer"
	default:
		request := m.follow(m.top.reference("request"), "Claim")
		m.adjudicated(patient, request.id)
	}
}

// mapExplanationOfBenefit: what the payer decided about a claim.
func mapExplanationOfBenefit(m *mapping) {
	if m.inError() {
		return
	}
	if s := m.top.text("status"); s == "draft" || s == "cancelled" {
		m.skip = "ExplanationOfBenefit with status " + s
		return
	}
	patient, ok := m.patient("patient")
	if !ok {
		return
	}
	claim := m.follow(m.top.reference("claim"), "Claim").id
	if claim == "" {
		claim = m.top.identifier("clm_id")
	}
	m.adjudicated(patient, claim)
}

// adjudicated states the outcome of a claim.
func (m *mapping) adjudicated(patient, claim string) {
	if claim == "" {
		claim = m.doc.id
	}
	created := m.top.moment("created")
	p := obj{"claimId": claim, "patientId": patient}.set("payer", m.payer())
	switch outcome := m.top.text("outcome"); outcome {
	case "queued":
		m.skip = m.doc.kind + " with outcome queued: no decision yet"
		return
	case "error":
		reason := m.top.path("error", "code").label()
		if reason == "" {
			reason = m.top.text("disposition")
		}
		if reason == "" {
			reason = "error"
		}
		p["rejectedAt"] = m.when(created).UTC().Format(instantLayout)
		m.emit("payment.claim.rejected", p.set("reason", reason), claim, created)
		return
	}
	p["approvedAt"] = m.when(created).UTC().Format(instantLayout)
	if paid, ok := m.paid(); ok {
		p.set("insurancePay", paid)
	}
	if charged, ok := m.total("submitted"); ok {
		p.set("submittedAmount", charged)
	}
	m.emit("payment.claim.approved", p, claim, created)
}

// paid is the payment, else the benefit in the totals.
func (m *mapping) paid() (json.Number, bool) {
	if v, ok := m.top.get("payment").get("amount").usd(); ok {
		return v, true
	}
	return m.total("benefit")
}

// total is the amount of one category of the totals, added up.
func (m *mapping) total(category string) (json.Number, bool) {
	sum, found := new(big.Rat), false
	for _, t := range m.top.list("total") {
		if t.get("category").code() != category {
			continue
		}
		if v, ok := t.get("amount").usd(); ok {
			r, _ := new(big.Rat).SetString(string(v))
			sum.Add(sum, r)
			found = true
		}
	}
	return json.Number(sum.FloatString(2)), found
}

// priorAuthDecision reads the X12 action of each item; the answer as a whole is what all items agree on.
func (m *mapping) priorAuthDecision(patient string) {
	id := priorAuthID(m.top, m.doc.id)
	if t := m.follow(m.top.reference("request"), "Claim"); t.sum != nil && t.sum.Name != "" {
		id = t.sum.Name
	} else if t.exists() && t.id != "" && !m.top.first("identifier").exists() {
		id = t.id
	}
	created := m.top.moment("created")
	review := m.reviews()
	decision := review.decision()
	if decision == "" {
		switch m.top.text("outcome") {
		case "queued":
			decision = "pended"
		case "complete":
			decision = "approved"
		case "partial":
			decision = "partially-approved"
		default:
			m.skip = "ClaimResponse without a decision: the payer could not process the request"
			return
		}
	}
	number := review.number
	if number == "" {
		number = m.top.text("preAuthRef")
	}
	p := obj{"priorAuthId": id, "patientId": patient, "decision": decision, "decidedAt": m.when(created).UTC().Format(instantLayout)}.
		set("authNumber", number).set("payer", m.payer()).set("reasons", review.reasons())
	m.emit("priorauth.decision.made", p, id, created)
}

// reviews are the actions of a Da Vinci PAS response.
type reviews struct {
	actions        map[string]int
	number, reason string
}

func (m *mapping) reviews() reviews {
	r := reviews{actions: map[string]int{}}
	for _, member := range []string{"item", "addItem"} {
		for _, item := range m.top.list(member) {
			for _, a := range item.list("adjudication") {
				for _, e := range a.list("extension") {
					if !strings.HasSuffix(e.text("url"), "extension-reviewAction") {
						continue
					}
					for _, part := range e.list("extension") {
						switch url := part.text("url"); {
						case strings.HasSuffix(url, "reviewActionCode"):
							r.actions[part.get("valueCodeableConcept").code()]++
						case url == "number" && r.number == "":
							r.number = part.text("valueString")
						case url == "reasonCode" && r.reason == "":
							r.reason = part.get("valueCodeableConcept").code()
						}
					}
				}
			}
		}
	}
	return r
}

func (r reviews) reasons() []obj {
	if r.reason == "" {
		return nil
	}
	return []obj{{"code": r.reason}}
}

// decision is empty when no item has an action. An unknown action is for a person to look at: pended.
func (r reviews) decision() string {
	var all, approved, denied, modified, pended int
	for code, n := range r.actions {
		all += n
		switch code {
		case "A1":
			approved += n
		case "A2", "A6":
			modified += n
		case "A3", "A5":
			denied += n
		default:
			pended += n
		}
	}
	switch {
	case all == 0:
		return ""
	case pended > 0:
		return "pended"
	case approved == all:
		return "approved"
	case denied == all:
		return "denied"
	}
	return "partially-approved"
}
