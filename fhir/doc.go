// Package fhir turns HL7 FHIR R4 data into catalog events.
//
// An [Importer] reads files and directories: single resources, bundles of every type (nested ones too), Parameters,
// arrays, and one resource per line (bulk export), each packed with gzip or not. It never holds more than one resource,
// and hands events to the caller in batches:
//
//	report, err := fhir.New(nil).Run(ctx, []string{"export/"}, func(ctx context.Context, items []fhir.Item) error {
//		return publish(ctx, items)
//	})
//
// # Two passes
//
// References point anywhere: forward, into other files, by identifier. So the input is read twice. The first pass keeps
// short summaries of what others refer to (practitioners, roles, organizations, places, medications, conditions, goals,
// teams, coverages, encounters, what a prescription prescribes) and learns which resources come in several versions.
// The second pass publishes. Both keep their knowledge in memory up to Options.MemoryLimit and then in temporary files,
// so that memory does not grow with the input. Temporary files hold protected health information: they are readable by
// the user only and unlinked as soon as they are open. Standard input ("-") is copied to such a file first.
//
// Files are published in the order given, directories in lexical order, except that a file whose resources are causes
// (providers, patients, prescriptions, claims) goes before files of their consequences (fills, answers, tasks). Inside
// a file the order is the file's. Nothing is sorted by time, but the events of one resource are in order, and the
// versions of one resource are in the order of meta.lastUpdated, then meta.versionId, then appearance.
//
// # Identity
//
// Importing twice adds nothing. An event's id is a name-based UUID (RFC 9562 version 8, SHA-256) over the event type,
// the resource's type and id, and its content: what its events would say, computed from the resource alone. So
//
//   - narrative, meta, unmapped members and the order of members do not count;
//   - references count as the id they end in: urn:uuid:X, Patient/X, https://host/Patient/X and Patient/X/_history/2
//     are one, while a conditional or logical reference counts as its identifier;
//   - what a reference resolves to does not count. Importing a patient file alone and later with the practitioners'
//     file gives the same ids with fuller payloads: the store keeps the first event and refuses the second, which the
//     caller may count as a duplicate;
//   - the host of an absolute reference does not count: two servers that use one id mean one resource here.
//
// The packaging does not matter: bundles, and a bulk export of the same resources in any order, give the same events to
// the byte. A resource without an id takes that of its bundle entry's fullUrl, else one made of its content.
//
// The same resource with the same content again is a duplicate. With other content it is a later version: a Patient
// gives demographics, address, contact or record changes; a MedicationRequest status changes and cancellation; a
// CareTeam what was added and removed; a Task completion; a Claim that it was voided; providers, consents, statements and
// answers are stated again in full. A change that no event can tell is skipped with that reason. Versions are compared
// inside one import: whether an earlier import knew the resource is the store's knowledge.
//
// # Time, flow and key
//
// The timestamp is when the fact happened (see the table), never the time of the import. A partial date starts at its
// first day, a date without an offset is UTC. Without a date it is meta.lastUpdated, else the start of the encounter,
// else the start of 1970, which Report.Undated counts (provider profiles are always so in Synthea). A date more than a
// day ahead is an error. The correlation id is the encounter's id, for a fill also the prescription's encounter; without
// one the patient's id; else the resource's own. The partition key is the entity's id.
//
// # Account
//
// Every resource is accounted for; see [Report] for the equation. Members of a wrong type read as absent and are counted
// as warnings. A resource that lacks what its event cannot do without is an error or a skip, and the import goes on.
// Problems name file, line, JSON pointer, type and id, and never another value.
//
// # Mapping
//
//	Patient               patient.record.created        at the first encounter, else meta.lastUpdated, else birthDate
//	  deceased[x]         patient.record.updated        reason "deceased", at deceasedDateTime
//	Coverage              patient.enrolled              period.start; not draft, cancelled
//	Consent               patient.consent.provided      dateTime; status active
//	                      patient.consent.revoked       status inactive, rejected
//	MedicationRequest     medication.prescription.created   authoredOn; intents proposal, plan, option are skipped
//	  cancelled, in error medication.prescription.cancelled meta.lastUpdated; "stopped" is a course that ended: no event
//	MedicationDispense    medication.prescription.filled    whenHandedOver, whenPrepared; status completed only
//	DetectedIssue         medication.interaction.detected   identified[x]; drug interactions with two named drugs
//	MedicationStatement   medication.adherence.reported     dateAsserted, effective[x]
//	Claim                 payment.claim.submitted       created; claimId is the Claim's id
//	  preauthorization    priorauth.request.submitted   created; priorAuthId is the first identifier, else the id
//	  cancelled           payment.claim.voided          meta.lastUpdated
//	ClaimResponse         payment.claim.approved        created; outcome complete, partial
//	                      payment.claim.rejected        outcome error
//	  preauthorization    priorauth.decision.made       by review action A1 A2 A3 A4 A6, else by outcome
//	ExplanationOfBenefit  payment.claim.approved, .rejected  created; claimId is the claim referred to
//	CarePlan              care.plan.created             created, period.start
//	CareTeam              care.team.updated             period.start; the first state adds all members
//	Task                  care.task.assigned            authoredOn; has an owner
//	  completed           care.task.completed           executionPeriod.end, lastModified
//	Communication         care.communication.sent       sent; completed, in-progress
//	Practitioner          provider.profile.updated      meta.lastUpdated
//	Organization          provider.profile.updated      meta.lastUpdated
//
// Status entered-in-error is skipped everywhere but for prescriptions, which are cancelled. Every other resource type is
// skipped as "no mapping", and a type that FHIR R4 does not define as "unknown".
package fhir
