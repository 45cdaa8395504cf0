package catalog_test

import (
	"strings"
	"testing"

	"github.com/carebus/carebus/catalog"
)

// promised are the event types that the catalog must have, with the member that names the entity where it is not the
// domain's usual one.
const promised = `
patient.record.created patient.record.updated patient.demographics.changed patient.demographics.updated
patient.address.changed patient.contact.changed patient.preferences.updated patient.enrolled
patient.consent.provided patient.consent.revoked patient.notification.sent

medication.prescription.created medication.prescription.filled medication.prescription.cancelled
medication.prescription.ready medication.prescription.status-changed medication.prescription.ready-for-pickup
medication.prescription.verified medication.prescription.picked-up medication.prescription.returned
medication.adherence.reported medication.interaction.detected
medication.inventory.reserved medication.inventory.released medication.inventory.adjusted
medication.fulfillment.started medication.fulfillment.step-completed medication.fulfillment.compensated
medication.fulfillment.completed medication.fulfillment.failed

priorauth.request.created priorauth.request.submitted priorauth.request.updated priorauth.request.approved
priorauth.request.cancelled priorauth.decision.made
priorauth.status.approved priorauth.status.denied priorauth.status.pending priorauth.status.updated
priorauth.appeal.submitted priorauth.determination.not-required
priorauth.deadline.approaching priorauth.deadline.missed

care.plan.created care.team.updated care.task.assigned care.task.completed care.task.due care.task.overdue
care.communication.sent

payment.claim.submitted payment.claim.approved payment.claim.rejected payment.claim.voided
provider.profile.updated

platform.schema.registered platform.schema.deprecated
platform.group.paused platform.group.resumed platform.group.sought platform.group.removed
platform.webhook.registered platform.webhook.removed
platform.bridge.sought platform.record.admitted platform.record.discarded
platform.key.parked platform.key.released platform.key.skipped
platform.redrive.started platform.redrive.finished platform.replay.started platform.replay.finished
platform.event.corrected
platform.saga.started platform.saga.step-completed platform.saga.step-failed platform.saga.compensated
platform.saga.completed platform.saga.failed platform.saga.step-started platform.saga.cancelled platform.saga.resumed
platform.projection.rebuilt platform.access.denied platform.field.revealed platform.subject.shredded
`

func TestEveryPromisedTypeExists(t *testing.T) {
	names := map[string]bool{}
	for _, name := range strings.Fields(promised) {
		names[name] = true
		if _, ok := catalog.Lookup(name, ""); !ok {
			t.Errorf("%s is not in the catalog", name)
		}
	}
	for _, e := range catalog.Entries() {
		if !names[e.Type] {
			t.Errorf("%s is in the catalog and not among the promised types; add it to the list", e.Type)
		}
	}
}

func TestEntitiesOfDomains(t *testing.T) {
	want := map[string]string{
		"patient.record": "/patientId", "patient.consent": "/patientId",
		"medication.prescription": "/prescriptionId", "medication.fulfillment": "/prescriptionId",
		"medication.adherence": "/patientId", "medication.interaction": "/patientId",
		"priorauth.request": "/priorAuthId", "priorauth.status": "/priorAuthId", "priorauth.decision": "/priorAuthId", "priorauth.deadline": "/priorAuthId",
		"care.plan": "/carePlanId", "care.team": "/patientId", "care.task": "/taskId", "care.communication": "/patientId",
		"payment.claim": "/claimId", "provider.profile": "/providerId",
		"platform.group": "/group", "platform.webhook": "/webhookId", "platform.key": "/group", "platform.saga": "/sagaId", "platform.schema": "/eventType",
	}
	for _, e := range catalog.Entries() {
		if pointer, ok := want[e.Type[:strings.LastIndex(e.Type, ".")]]; ok && e.EntityID != pointer {
			t.Errorf("%s %s: x-entity-id is %s, want %s", e.Type, e.Version, e.EntityID, pointer)
		}
	}
}
