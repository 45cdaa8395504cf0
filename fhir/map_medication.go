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
	p := obj{"prescriptionId": m.doc.id, "patientId": patient}.
		set("medicationCode", drug.code).set("medicationName", drug.name).
		set("prescriber", m.prescriber(m.top.reference("requester"))).
		set("directions", directions(m.top.list("dosageInstruction"))).
		set("quantity", dispense.get("quantity").number("value"))
	m.emit("medication.prescription.created", p, m.doc.id, authored)
	if status == "cancelled" || status == "entered-in-error" {
		m.cancelled(patient, status, authored)
	}
}

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
		m.emit("medication.prescription.status-changed", obj{"prescriptionId": m.doc.id, "patientId": patient, "status": is, "previousStatus": was},
			m.doc.id, m.top.get("meta").moment("lastUpdated"))
	}
}

func (m *mapping) prescriber(r reference) obj {
	p := m.provider(r)
	return obj{}.set("id", p.id).set("npi", p.npi).set("name", p.name)
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
	m.emit("medication.prescription.filled", obj{"prescriptionId": prescription.id, "patientId": patient, "fillId": m.doc.id, "filledAt": at.instant()}.
		set("medicationName", drug.name).set("medicationCode", drug.code).
		set("quantity", m.top.get("quantity").number("value")).set("daysSupply", m.top.get("daysSupply").number("value")),
		prescription.id, at)
}

// mapDetectedIssue: drug interactions and duplicate therapy; other issues have no event.
func mapDetectedIssue(m *mapping) {
	if m.inError() {
		return
	}
	code := strings.ToUpper(m.top.get("code").code())
	if code != "DRG" && code != "DUPTHPY" && code != "DINT" && code != "DDI" {
		m.skip = "DetectedIssue that is no interaction between medications"
		return
	}
	m.skip = "DetectedIssue that names fewer than two medications"
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
	at := firstOf(m.top.moment("dateAsserted"), m.top.moment("effectiveDateTime"), m.top.get("effectivePeriod").moment("start"))
	m.emit("medication.adherence.reported", obj{"patientId": patient}, patient, at)
}
