package fhir

import "strings"

// mapMedicationRequest: an order is a prescription. `stopped` and `completed` are courses that ended, not cancellations.
func mapMedicationRequest(m *mapping) {
	switch intent := m.top.text("intent"); intent {
	case "proposal", "plan", "option":
		m.skip = "MedicationRequest with intent " + intent + ": not an order"
		return
	}
	status := m.top.text("status")
	if status == "draft" {
		m.skip = "MedicationRequest with status draft: not an order yet"
		return
	}
	patient, ok := m.patient("subject")
	if !ok {
		return
	}
	authored := m.top.moment("authoredOn")
	drug := m.medication(m.top)
	dispense := m.top.get("dispenseRequest")
	quantity := dispense.get("quantity")
	what := drug.payload().set("directions", directions(m.top.list("dosageInstruction"))).
		set("quantity", amount(quantity.number("value"))).set("quantityUnit", quantity.text("unit")).
		set("daysSupply", whole(dispense.get("expectedSupplyDuration").number("value")))
	if what["name"] == nil {
		what["name"] = "not stated"
	}
	p := obj{"prescriptionId": m.doc.id, "patientId": patient, "medication": what, "source": "fhir"}.
		set("prescriber", m.prescriber(m.top.reference("requester"))).set("authoredOn", authored.instant()).
		set("refills", whole(dispense.number("numberOfRepeatsAllowed"))).
		set("status", oneOf(status, "unknown", requestStatuses...)).
		set("priority", oneOf(m.top.text("priority"), "", priorities...)).
		set("conditions", m.conditions(m.top.list("reasonReference"))).set("encounterId", m.encounter().id)
	m.emit("medication.prescription.created", p, m.doc.id, authored)
	if status == "cancelled" || status == "entered-in-error" {
		m.cancelled(patient, status, authored)
	}
}

// requestStatuses are FHIR's for a MedicationRequest; a prescription knows them all.
var requestStatuses = []string{"active", "on-hold", "cancelled", "completed", "entered-in-error", "stopped", "unknown"}

var priorities = []string{"routine", "urgent", "asap", "stat"}

func (m *mapping) cancelled(patient, status string, authored moment) {
	at := firstOf(m.top.get("meta").moment("lastUpdated"), authored)
	reason := m.top.get("statusReason").label()
	if reason == "" {
		reason = status
	}
	m.emit("medication.prescription.cancelled", obj{"prescriptionId": m.doc.id, "patientId": patient, "reason": reason, "cancelledAt": m.when(at).UTC().Format("2006-01-02T15:04:05Z")},
		m.doc.id, at)
}

func changeMedicationRequest(m, before *mapping) {
	was, is := before.top.text("status"), m.top.text("status")
	patient, ok := m.patient("subject")
	switch {
	case !ok:
	case was == is:
		m.skip = "a later version of a MedicationRequest with the same status: no event says what changed"
	case is == "cancelled" || is == "entered-in-error":
		m.cancelled(patient, is, m.top.moment("authoredOn"))
	default:
		m.emit("medication.prescription.status-changed", obj{"prescriptionId": m.doc.id, "patientId": patient, "status": oneOf(is, "unknown", requestStatuses...), "previousStatus": oneOf(was, "unknown", requestStatuses...)},
			m.doc.id, m.top.get("meta").moment("lastUpdated"))
	}
}

func (m *mapping) prescriber(r reference) obj {
	p := m.provider(r)
	return obj{}.set("id", p.id).set("npi", npiOf(p.npi)).set("name", p.name)
}

// mapMedicationDispense: a completed dispense is a fill, when it says when.
func mapMedicationDispense(m *mapping) {
	if m.inError() {
		return
	}
	switch status := m.top.text("status"); status {
	case "completed":
	default:
		m.skip = "MedicationDispense with status " + status + ": not handed over"
		return
	}
	patient, ok := m.patient("subject")
	if !ok {
		return
	}
	at := firstOf(m.top.moment("whenHandedOver"), m.top.moment("whenPrepared"), m.top.get("meta").moment("lastUpdated"))
	if !at.exists() {
		m.skip = "MedicationDispense without a time: a fill needs filledAt"
		return
	}
	prescription := m.follow(m.top.first("authorizingPrescription").asReference(), "MedicationRequest")
	if prescription.id == "" {
		m.skip = "MedicationDispense without authorizingPrescription: a fill needs its prescription"
		return
	}
	drug := m.medication(m.top)
	quantity := m.top.get("quantity")
	what := drug.payload().set("quantity", amount(quantity.number("value"))).set("quantityUnit", quantity.text("unit")).
		set("daysSupply", whole(m.top.get("daysSupply").number("value"))).set("directions", directions(m.top.list("dosageInstruction")))
	m.emit("medication.prescription.filled", obj{
		"prescriptionId": prescription.id, "patientId": patient, "fillId": m.doc.id, "filledAt": at.instant(), "source": "fhir",
		"medication": what, "pharmacy": m.pharmacy(), "prescriber": m.prescriberOf(prescription),
	}, prescription.id, at)
}

// pharmacy is who dispensed, and where.
func (m *mapping) pharmacy() obj {
	t := m.provider(m.top.first("performer").reference("actor"))
	if t.kind != "Organization" {
		if l := m.top.reference("location"); l.exists() {
			t = m.follow(l, "Location")
		}
	}
	p := obj{}.set("id", t.id).set("name", t.name).set("npi", npiOf(t.npi))
	if t.sum != nil {
		p.set("ncpdpId", ncpdpOf(t.sum.NCPDP))
	}
	return p
}

// prescriberOf is who asked for what was dispensed.
func (m *mapping) prescriberOf(prescription target) obj {
	if prescription.sum != nil {
		for _, onward := range prescription.sum.Refs {
			if onward.Use == "requester" {
				p := m.followIn(onward.reference(), onward.Scope, "Practitioner", "Organization")
				return obj{}.set("id", p.id).set("npi", npiOf(p.npi)).set("name", p.name)
			}
		}
	}
	return obj{}
}

// interactionCodes are the kinds of issue (HL7 ActCode) in which medications concern each other.
var interactionCodes = map[string]string{
	"DRG": "drug-drug", "DDI": "drug-drug", "DINT": "drug-drug", "TDRGINT": "drug-drug", "DUPTHPY": "duplicate-therapy",
	"DUPTHPCLS": "duplicate-therapy", "DUPTHPGEN": "duplicate-therapy",
}

// mapDetectedIssue: interactions between medications and duplicate therapy; other issues have no event.
func mapDetectedIssue(m *mapping) {
	if m.inError() {
		return
	}
	kind, ok := interactionCodes[strings.ToUpper(m.top.get("code").code())]
	if !ok {
		m.skip = "DetectedIssue that is no interaction between medications"
		return
	}
	var drugs []obj
	for _, i := range m.top.list("implicated") {
		r := i.asReference()
		if r.kind != "" && !strings.HasPrefix(r.kind, "Medication") {
			continue
		}
		if d := m.implicated(r); d.name != "" || d.code != "" {
			drugs = append(drugs, d.payload())
		}
	}
	if len(drugs) < 2 {
		m.skip = "DetectedIssue that names fewer than two medications"
		return
	}
	patient, ok := m.patient("patient", "subject")
	if !ok {
		return
	}
	at := firstOf(m.top.moment("identifiedDateTime"), m.top.get("identifiedPeriod").moment("start"))
	m.emit("medication.interaction.detected", obj{
		"patientId": patient, "interactionId": m.doc.id, "interactionType": kind, "medications": drugs, "source": "fhir",
		"severity": oneOf(m.top.text("severity"), "unknown", "high", "moderate", "low"),
	}.set("description", m.top.text("detail")).set("detectedAt", at.instant()).set("status", m.top.text("status")), patient, at)
}

// mapMedicationStatement: what the patient is said to take.
func mapMedicationStatement(m *mapping) {
	if m.inError() {
		return
	}
	patient, ok := m.patient("subject")
	if !ok {
		return
	}
	period := m.top.get("effectivePeriod")
	at := firstOf(m.top.moment("dateAsserted"), m.top.moment("effectiveDateTime"), period.moment("start"))
	drug := m.medication(m.top)
	// FHIR R4 states what is taken, not how well: only "not-taken" speaks of adherence.
	taken := m.top.text("status")
	adherence := "unknown"
	if taken == "not-taken" {
		adherence = "non-adherent"
	}
	m.emit("medication.adherence.reported", obj{"patientId": patient, "reportId": m.doc.id, "source": "fhir", "status": adherence}.
		set("medication", drug.payload()).set("recordStatus", taken).set("reportedAt", m.top.moment("dateAsserted").instant()).
		set("period", obj{}.set("start", period.moment("start").instant()).set("end", period.moment("end").instant())), patient, at)
}
