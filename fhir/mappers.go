package fhir

// mapper says what one kind of resource becomes.
type mapper struct {
	events func(*mapping)              // the resource as new
	change func(next, before *mapping) // a later version; nil when no event says what changed
	rank   int                         // order of files, lower first: a cause before its consequences
}

const lastRank = 9

var mappers = map[string]mapper{
	"Practitioner":         {events: mapPractitioner, change: again(mapPractitioner), rank: 0},
	"Organization":         {events: mapOrganization, change: again(mapOrganization), rank: 0},
	"Patient":              {events: mapPatient, change: changePatient, rank: 1},
	"Coverage":             {events: mapCoverage, rank: 2},
	"Consent":              {events: mapConsent, change: again(mapConsent), rank: 2},
	"MedicationRequest":    {events: mapMedicationRequest, change: changeMedicationRequest, rank: 3},
	"CareTeam":             {events: mapCareTeam, change: changeCareTeam, rank: 3},
	"CarePlan":             {events: mapCarePlan, rank: 4},
	"Claim":                {events: mapClaim, change: changeClaim, rank: 4},
	"MedicationDispense":   {events: mapMedicationDispense, rank: 5},
	"ClaimResponse":        {events: mapClaimResponse, change: again(mapClaimResponse), rank: 5},
	"ExplanationOfBenefit": {events: mapExplanationOfBenefit, rank: 6},
	"DetectedIssue":        {events: mapDetectedIssue, rank: 7},
	"MedicationStatement":  {events: mapMedicationStatement, change: again(mapMedicationStatement), rank: 7},
	"Task":                 {events: mapTask, change: changeTask, rank: 7},
	"Communication":        {events: mapCommunication, rank: 8},
}

// again is for events that carry the whole state: a later version is stated in full.
func again(events func(*mapping)) func(next, before *mapping) {
	return func(next, _ *mapping) { events(next) }
}

// inError skips what its author has withdrawn.
func (m *mapping) inError() bool {
	if m.top.text("status") == "entered-in-error" {
		m.skip = "status entered-in-error: the record was a mistake"
		return true
	}
	return false
}
