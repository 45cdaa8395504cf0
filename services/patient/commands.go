package patient

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/event"
)

// Command is something that is to happen to a patient's record: one of the command types of this package.
type Command interface {
	decide(id string, r Record, now time.Time) ([]event.Event, error)
}

// Do carries out a command on a patient's record and returns the record after it, when its events are on stable storage.
// A command that contradicts the record is refused with a *RefusedError; one that would change nothing publishes nothing.
// Give aggregate.Once for commands that callers may repeat.
func Do(ctx context.Context, l aggregate.Log, patientID string, c Command, opts ...aggregate.UpdateOption) (aggregate.Loaded[Record], error) {
	now := time.Now()
	return Records.Update(ctx, l, patientID, func(r Record) ([]event.Event, error) { return c.decide(patientID, r, now) }, opts...)
}

// RefusedError says which rule a command breaks, and what to do. It quotes no value of the record.
type RefusedError struct {
	Command string // "change-address"
	Rule    string // stable: "exists", "not-exists", "deceased", "value", "known", "active"
	Message string
	Remedy  string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("patient: %s refused: %s [%s]; %s", e.Command, e.Message, e.Rule, e.Remedy)
}

// mustLive refuses what cannot be done for somebody without a record, or who has died.
func (r Record) mustLive(command string) error {
	if err := r.mustExist(command); err != nil {
		return err
	}
	if r.Deceased != nil && *r.Deceased {
		return &RefusedError{command, "deceased", "the patient has died", "correct the record first if that is wrong"}
	}
	return nil
}

func (r Record) mustExist(command string) error {
	if !r.Exists() {
		return &RefusedError{command, "exists", "the patient has no record", "create it first"}
	}
	return nil
}

// Create makes a patient's record. Its PatientID is filled in.
type Create struct{ patient.RecordCreated }

func (c Create) decide(id string, r Record, now time.Time) ([]event.Event, error) {
	const name = "create"
	if r.Exists() {
		return nil, &RefusedError{name, "not-exists", "the patient has a record already", "update it, or choose another id"}
	}
	if err := checkBirth(name, c.DateOfBirth, now); err != nil {
		return nil, err
	}
	if err := checkGender(name, c.Gender); err != nil {
		return nil, err
	}
	c.PatientID = id
	return []event.Event{patient.RecordCreatedV1.New(Source, c.RecordCreated)}, nil
}

func checkGender(command string, g patient.Gender) error {
	if g != "" && !g.Known() {
		return &RefusedError{command, "value", "the gender is none of those that the catalog lists", "use female, male, other or unknown"}
	}
	return nil
}

// checkBirth accepts a date as precise as it is known: year, month or day.
func checkBirth(command string, date *string, now time.Time) error {
	if date == nil {
		return nil
	}
	for _, layout := range []string{time.DateOnly, "2006-01", "2006"} {
		if t, err := time.Parse(layout, *date); err == nil {
			if t.After(now.Add(24 * time.Hour)) { // somewhere it is tomorrow
				return &RefusedError{command, "value", "the date of birth lies in the future", "give the day of birth"}
			}
			return nil
		}
	}
	return &RefusedError{command, "value", "the date of birth is no date", "write it as YYYY-MM-DD, YYYY-MM or YYYY"}
}

// ChangeDemographics changes who the patient is said to be. Members that are nil or empty keep their value.
type ChangeDemographics struct {
	FirstName, MiddleName, LastName, Suffix, DateOfBirth *string
	Gender                                               patient.Gender
	Reason, By                                           string
}

func (c ChangeDemographics) decide(id string, r Record, now time.Time) ([]event.Event, error) {
	const name = "change-demographics"
	if err := r.mustExist(name); err != nil {
		return nil, err
	}
	if err := checkBirth(name, c.DateOfBirth, now); err != nil {
		return nil, err
	}
	if err := checkGender(name, c.Gender); err != nil {
		return nil, err
	}
	p := patient.DemographicsChanged{
		FirstName: changed(r.FirstName, c.FirstName), MiddleName: changed(r.MiddleName, c.MiddleName), LastName: changed(r.LastName, c.LastName),
		Suffix: changed(r.Suffix, c.Suffix), DateOfBirth: changed(r.DateOfBirth, c.DateOfBirth),
	}
	if c.Gender != r.Gender {
		p.Gender = c.Gender
	}
	if same(p, patient.DemographicsChanged{}) {
		return nil, nil
	}
	p.PatientID, p.ChangedAt, p.Reason, p.ChangedBy = id, now.UTC(), optional(c.Reason), optional(c.By)
	return []event.Event{patient.DemographicsChangedV1.New(Source, p)}, nil
}

// changed is the new value, when it is one.
func changed(old, value *string) *string {
	if value == nil || old != nil && *old == *value {
		return nil
	}
	return value
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// ChangeAddress replaces the patient's home address.
type ChangeAddress struct {
	Address     patient.Address
	EffectiveAt time.Time // zero: now
	By          string
}

func (c ChangeAddress) decide(id string, r Record, _ time.Time) ([]event.Event, error) {
	const name = "change-address"
	if err := r.mustExist(name); err != nil {
		return nil, err
	}
	if same(c.Address, patient.Address{}) {
		return nil, &RefusedError{name, "value", "the address is empty", "give at least one part of it; clear it with an update of the record"}
	}
	if r.Address != nil && same(*r.Address, c.Address) {
		return nil, nil
	}
	return []event.Event{patient.AddressChangedV1.New(Source, patient.AddressChanged{
		PatientID: id, Address: c.Address, PreviousAddress: r.Address, EffectiveAt: c.EffectiveAt, ChangedBy: optional(c.By),
	})}, nil
}

// ChangeContact changes how the patient is reached. Members that are nil or empty keep their value.
type ChangeContact struct {
	PhoneNumber, Email *string
	PreferredChannel   patient.ContactChangedPreferredChannel
	By                 string
}

func (c ChangeContact) decide(id string, r Record, _ time.Time) ([]event.Event, error) {
	const name = "change-contact"
	if err := r.mustLive(name); err != nil {
		return nil, err
	}
	if c.PreferredChannel != "" && !c.PreferredChannel.Known() {
		return nil, &RefusedError{name, "value", "the channel is none of those that the catalog lists", "use sms, email, phone, mail, portal or push"}
	}
	p := patient.ContactChanged{PhoneNumber: changed(r.PhoneNumber, c.PhoneNumber), Email: changed(r.Email, c.Email)}
	if string(c.PreferredChannel) != r.PreferredChannel {
		p.PreferredChannel = c.PreferredChannel
	}
	if same(p, patient.ContactChanged{}) {
		return nil, nil
	}
	p.PatientID, p.ChangedBy = id, optional(c.By)
	return []event.Event{patient.ContactChangedV1.New(Source, p)}, nil
}

// UpdatePreferences changes how the patient wants to be served. Members that are absent keep their value; notifications
// are merged name by name. PatientID is filled in.
type UpdatePreferences struct{ patient.PreferencesUpdated }

func (c UpdatePreferences) decide(id string, r Record, _ time.Time) ([]event.Event, error) {
	const name = "update-preferences"
	if err := r.mustLive(name); err != nil {
		return nil, err
	}
	if c.PreferredChannel != "" && !c.PreferredChannel.Known() {
		return nil, &RefusedError{name, "value", "the channel is none of those that the catalog lists", "use sms, email, phone, mail, portal or push"}
	}
	after := r
	after.Notifications = nil
	for k, v := range r.Notifications {
		if after.Notifications == nil {
			after.Notifications = map[string]bool{}
		}
		after.Notifications[k] = v
	}
	after.preferences(c.PreferencesUpdated)
	if same(after, r) {
		return nil, nil
	}
	c.PatientID = id
	return []event.Event{patient.PreferencesUpdatedV1.New(Source, c.PreferencesUpdated)}, nil
}

// Enroll enrolls the patient in a program. PatientID is filled in.
type Enroll struct{ patient.Enrolled }

func (c Enroll) decide(id string, r Record, _ time.Time) ([]event.Event, error) {
	const name = "enroll"
	if err := r.mustLive(name); err != nil {
		return nil, err
	}
	if c.Program.Name == "" {
		return nil, &RefusedError{name, "value", "the program has no name", "name the program"}
	}
	if c.EnrollmentDate != nil && c.EndDate != nil && *c.EndDate < *c.EnrollmentDate {
		return nil, &RefusedError{name, "value", "the enrollment ends before it begins", "give an end date on or after the enrollment date"}
	}
	c.PatientID = id
	if i := slices.IndexFunc(r.Enrollments, func(e patient.Enrolled) bool { return sameProgram(e, c.Enrolled) }); i >= 0 {
		if same(r.Enrollments[i], c.Enrolled) {
			return nil, nil
		}
		if old := r.Enrollments[i]; old.EndDate == nil && c.EndDate == nil {
			return nil, &RefusedError{name, "active", "the patient is enrolled in the program already", "end that enrollment first"}
		}
	}
	return []event.Event{patient.EnrolledV1.New(Source, c.Enrolled)}, nil
}

// ProvideConsent records a consent. PatientID is filled in, and a consent id where there is none.
type ProvideConsent struct{ patient.ConsentProvided }

func (c ProvideConsent) decide(id string, r Record, now time.Time) ([]event.Event, error) {
	const name = "provide-consent"
	if err := r.mustLive(name); err != nil {
		return nil, err
	}
	if c.Scope == "" {
		return nil, &RefusedError{name, "value", "the consent has no scope", "say what it is for, such as treatment or research"}
	}
	if !c.ExpiresAt.IsZero() && (c.ExpiresAt.Before(c.EffectiveAt) || c.ExpiresAt.Before(now)) {
		return nil, &RefusedError{name, "value", "the consent expires before it takes effect", "give an expiry in the future, after the effective time"}
	}
	if c.ConsentID == nil {
		fresh := event.NewID()
		c.ConsentID = &fresh
	} else if old, ok := r.Consents[*c.ConsentID]; ok {
		if c.PatientID = id; same(old.ConsentProvided, c.ConsentProvided) && old.Revoked == nil {
			return nil, nil
		}
		return nil, &RefusedError{name, "known", "a consent with this id was given before", "give the new consent an id of its own"}
	}
	if c.ProvidedAt.IsZero() {
		c.ProvidedAt = now.UTC()
	}
	c.PatientID = id
	return []event.Event{patient.ConsentProvidedV1.New(Source, c.ConsentProvided)}, nil
}

// RevokeConsent takes a consent back.
type RevokeConsent struct {
	ConsentID string
	Reason    string
}

func (c RevokeConsent) decide(id string, r Record, now time.Time) ([]event.Event, error) {
	const name = "revoke-consent"
	if err := r.mustExist(name); err != nil {
		return nil, err
	}
	given, ok := r.Consents[c.ConsentID]
	if !ok {
		return nil, &RefusedError{name, "known", "there is no consent with this id", "look up the patient's consents"}
	}
	if given.Revoked != nil {
		return nil, nil
	}
	return []event.Event{patient.ConsentRevokedV1.New(Source, patient.ConsentRevoked{
		PatientID: id, ConsentID: c.ConsentID, Scope: optional(given.Scope), Reason: optional(c.Reason), RevokedAt: now.UTC(),
	})}, nil
}

// UpdateRecord changes several parts of a record at once, or parts that have no command of their own, such as the
// identifiers or that the patient has died. Members that are absent keep their value; Clear names those to be removed.
type UpdateRecord struct {
	Fields   patient.RecordUpdatedFields
	Clear    []string
	MergedID string // a duplicate of this patient that is merged into this record
	Reason   string // required
	By       string
}

func (c UpdateRecord) decide(id string, r Record, now time.Time) ([]event.Event, error) {
	const name = "update-record"
	if err := r.mustExist(name); err != nil {
		return nil, err
	}
	if c.Reason == "" {
		return nil, &RefusedError{name, "value", "there is no reason", "say why, such as correction, merge or deceased"}
	}
	if c.MergedID == id {
		return nil, &RefusedError{name, "value", "a record cannot be merged into itself", "name the duplicate"}
	}
	if err := checkBirth(name, c.Fields.DateOfBirth, now); err != nil {
		return nil, err
	}
	if err := checkGender(name, c.Fields.Gender); err != nil {
		return nil, err
	}
	p := patient.RecordUpdated{
		PatientID: id, UpdatedFields: c.Fields, ClearedFields: c.Clear, Reason: c.Reason, MergedPatientID: optional(c.MergedID), UpdatedBy: optional(c.By),
	}
	after := r
	after.Merged = slices.Clone(r.Merged)
	after.update(p)
	if same(after, r) {
		return nil, nil
	}
	return []event.Event{patient.RecordUpdatedV1.New(Source, p)}, nil
}
