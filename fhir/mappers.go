package fhir

// mapper says what one kind of resource becomes.
type mapper struct {
	events func(*mapping)              // the resource as new
	change func(next, before *mapping) // a later version; nil when no event says what changed
	rank   int                         // order of files, lower first: a cause before its consequences
}

const lastRank = 9

var mappers = map[string]mapper{
	"Patient":           {events: mapPatient, rank: 1},
	"MedicationRequest": {events: mapMedicationRequest, rank: 3},
}
