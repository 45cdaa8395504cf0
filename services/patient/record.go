package patient

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/event"
)

// Source is the eventSource of the service.
const Source = "patient-service"

// Record is what is known of a patient.
type Record struct {
	patient.RecordCreated

	PreferredChannel    string              `json:"preferredChannel,omitempty"`
	PreferredPharmacyID string              `json:"preferredPharmacyId,omitempty"`
	Notifications       map[string]bool     `json:"notifications,omitempty"`
	QuietHours          *patient.QuietHours `json:"quietHours,omitempty"`
	Accessibility       []string            `json:"accessibility,omitempty"`
	Enrollments         []patient.Enrolled  `json:"enrollments,omitempty"`
	Consents            map[string]Consent  `json:"consents,omitempty"` // by consent id
	Merged              []string            `json:"merged,omitempty"`   // duplicates of this patient that were merged into this record
	Version             int64               `json:"version"`            // events that this record understands
	LastUpdated         int64               `json:"lastUpdated"`        // timestamp of the last of them, epoch milliseconds
}

// Consent is a consent that was given, and whether it was taken back.
type Consent struct {
	patient.ConsentProvided
	Revoked *patient.ConsentRevoked `json:"revoked,omitempty"`
}

// Exists reports whether the patient has a record.
func (r Record) Exists() bool { return r.Version > 0 }

// Records is the patient record as an aggregate: streams "patient.record/ID".
var Records = aggregate.Define("patient.record",
	on(patient.RecordCreatedV1, func(r *Record, p patient.RecordCreated) { r.RecordCreated = p }),
	on(patient.RecordUpdatedV1, (*Record).update),
	on(patient.DemographicsChangedV1, (*Record).demographics),
	//nolint:staticcheck // deprecated, and still understood: the name that the same fact had in older code
	on(patient.DemographicsUpdatedV1, func(r *Record, p patient.DemographicsUpdated) { r.demographics(patient.DemographicsChanged(p)) }),
	on(patient.AddressChangedV1, func(r *Record, p patient.AddressChanged) { r.Address = &p.Address }),
	on(patient.ContactChangedV1, func(r *Record, p patient.ContactChanged) {
		set(&r.PhoneNumber, p.PhoneNumber)
		set(&r.Email, p.Email)
		keep(&r.PreferredChannel, string(p.PreferredChannel))
	}),
	on(patient.PreferencesUpdatedV1, (*Record).preferences),
	on(patient.EnrolledV1, func(r *Record, p patient.Enrolled) {
		if i := slices.IndexFunc(r.Enrollments, func(e patient.Enrolled) bool { return sameProgram(e, p) }); i >= 0 {
			r.Enrollments[i] = p
			return
		}
		r.Enrollments = append(r.Enrollments, p)
	}),
	aggregate.On(patient.ConsentProvidedV1, func(r *Record, e event.Of[patient.ConsentProvided]) {
		if r.Consents == nil {
			r.Consents = map[string]Consent{}
		}
		r.Consents[consentID(e.Payload.ConsentID, e.ID)] = Consent{ConsentProvided: e.Payload}
		r.touch(e.Metadata)
	}),
	on(patient.ConsentRevokedV1, func(r *Record, p patient.ConsentRevoked) {
		if c, ok := r.Consents[p.ConsentID]; ok {
			c.Revoked = &p
			r.Consents[p.ConsentID] = c
		}
	}),
)

// on is an evolve function that also counts.
func on[T any](def event.Definition[T], evolve func(*Record, T)) aggregate.Option[Record] {
	return aggregate.On(def, func(r *Record, e event.Of[T]) {
		evolve(r, e.Payload)
		r.touch(e.Metadata)
	})
}

func (r *Record) touch(m event.Metadata) {
	r.Version++
	r.LastUpdated = m.Timestamp
}

// consentID is the id of a consent that has none of its own: that of its event.
func consentID(id *string, eventID string) string {
	if id != nil {
		return *id
	}
	return eventID
}

func sameProgram(a, b patient.Enrolled) bool {
	switch {
	case a.EnrollmentID != nil && b.EnrollmentID != nil:
		return *a.EnrollmentID == *b.EnrollmentID
	case a.Program.ID != nil && b.Program.ID != nil:
		return *a.Program.ID == *b.Program.ID
	}
	return a.Program.Name == b.Program.Name
}

func (r *Record) demographics(p patient.DemographicsChanged) {
	set(&r.FirstName, p.FirstName)
	set(&r.MiddleName, p.MiddleName)
	set(&r.LastName, p.LastName)
	set(&r.Suffix, p.Suffix)
	set(&r.DateOfBirth, p.DateOfBirth)
	keep(&r.Gender, p.Gender)
}

func (r *Record) preferences(p patient.PreferencesUpdated) {
	set(&r.PreferredLanguage, p.PreferredLanguage)
	if p.PreferredPharmacyID != nil {
		r.PreferredPharmacyID = *p.PreferredPharmacyID
	}
	keep(&r.PreferredChannel, string(p.PreferredChannel))
	if len(p.Notifications) > 0 {
		if r.Notifications == nil {
			r.Notifications = map[string]bool{}
		}
		maps.Copy(r.Notifications, p.Notifications)
	}
	set(&r.QuietHours, p.QuietHours)
	if p.Accessibility != nil {
		r.Accessibility = p.Accessibility
	}
}

func (r *Record) update(p patient.RecordUpdated) {
	u := p.UpdatedFields
	r.demographics(patient.DemographicsChanged{
		FirstName: u.FirstName, MiddleName: u.MiddleName, LastName: u.LastName, Suffix: u.Suffix, DateOfBirth: u.DateOfBirth, Gender: u.Gender,
	})
	set(&r.Address, u.Address)
	set(&r.PhoneNumber, u.PhoneNumber)
	set(&r.Email, u.Email)
	set(&r.PreferredLanguage, u.PreferredLanguage)
	if u.Identifiers != nil {
		r.Identifiers = u.Identifiers
	}
	set(&r.PrimaryProviderID, u.PrimaryProviderID)
	set(&r.Deceased, u.Deceased)
	set(&r.DeceasedDate, u.DeceasedDate)
	if p.MergedPatientID != nil && !slices.Contains(r.Merged, *p.MergedPatientID) {
		r.Merged = append(r.Merged, *p.MergedPatientID)
	}
	r.clear(p.ClearedFields)
}

// clear takes members out of the record by their JSON names. Names that it does not know clear nothing.
func (r *Record) clear(names []string) {
	for _, name := range names {
		switch name {
		case "firstName":
			r.FirstName = nil
		case "middleName":
			r.MiddleName = nil
		case "lastName":
			r.LastName = nil
		case "suffix":
			r.Suffix = nil
		case "dateOfBirth":
			r.DateOfBirth = nil
		case "gender":
			r.Gender = ""
		case "address":
			r.Address = nil
		case "phoneNumber":
			r.PhoneNumber = nil
		case "email":
			r.Email = nil
		case "preferredLanguage":
			r.PreferredLanguage = nil
		case "identifiers":
			r.Identifiers = nil
		case "primaryProviderId":
			r.PrimaryProviderID = nil
		case "deceased":
			r.Deceased = nil
		case "deceasedDate":
			r.DeceasedDate = nil
		}
	}
}

// set takes a new value, when there is one.
func set[T any](to **T, value *T) {
	if value != nil {
		*to = value
	}
}

func keep[T ~string](to *T, value T) {
	if value != "" {
		*to = value
	}
}

// same compares two values as they are written.
func same[T any](a, b T) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && string(x) == string(y)
}
