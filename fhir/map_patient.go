package fhir

import "github.com/carebus/carebus/event"

type obj map[string]any

func (m *mapping) emit(typ string, p obj, entity string, at moment) {
	m.add(event.Define[obj](typ, "1.0.0").New("x", p), entity, at)
}

func mapPatient(m *mapping) {
	n := humanName(m.top.list("name"))
	m.emit("patient.record.created", obj{"patientId": m.doc.id, "firstName": n.first("given").string(), "lastName": n.text("family"), "dateOfBirth": m.top.moment("birthDate").date()}, m.doc.id, m.top.moment("birthDate"))
}

func mapMedicationRequest(m *mapping) {
	id, ok := m.patient("subject")
	if !ok {
		return
	}
	p := m.provider(m.top.reference("requester"))
	m.emit("medication.prescription.created", obj{"prescriptionId": m.doc.id, "patientId": id, "prescriber": obj{"id": p.id, "name": p.name, "npi": p.npi}}, m.doc.id, m.top.moment("authoredOn"))
}
