package priorauth

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/catalog/payment"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
)

// Group is the name of the service's consumer group.
const Group = "prior-auth"

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	aggregate.Log
	Handle(group string, opts ...bus.Option) error
}

var _ projection.Platform = Platform(nil)

// Options of the service.
type Options struct {
	// Required says whether the payer wants to be asked about a medication before it pays for it: the formulary. Required.
	// payer is nil where the prescription names none. An error parks the prescription, until somebody has mended what it
	// says, or names a dependency that is tried again; see bus.Classify.
	Required func(m medication.Medication, payer *medication.Payer) (bool, error)
	// Group has further options of the consumer group, such as bus.Version.
	Group []bus.Option
}

// tables are what the service knows of patients, from events. A request carries it to the payer, so that the payer can
// decide upon the request alone.
const tables = `
CREATE TABLE priorauth_patients (patient_id TEXT PRIMARY KEY, birth TEXT NOT NULL, gender TEXT NOT NULL, state TEXT NOT NULL);
CREATE TABLE priorauth_history (prescription_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, system TEXT NOT NULL, code TEXT NOT NULL, name TEXT NOT NULL, authored_at BIGINT NOT NULL);
CREATE INDEX priorauth_history_patient ON priorauth_history (patient_id, authored_at);
CREATE TABLE priorauth_conditions (patient_id TEXT NOT NULL, system TEXT NOT NULL, code TEXT NOT NULL, display TEXT NOT NULL, known_at BIGINT NOT NULL, PRIMARY KEY (patient_id, system, code));`

type service struct {
	p        Platform
	required func(medication.Medication, *medication.Payer) (bool, error)
}

// Join makes this process a member of the service. It reacts to
//
//	medication.prescription.created   an authorization is asked for, or is found not to be required
//	payment.claim.rejected            by codes 70, 75, 76: the second way into a request
//	priorauth.decision.made           the payer's answer moves the request
//	patient.record.created, care.plan.created   what a request says of the patient
//
// and keeps the read models of Views. An event that is handled twice has its effect once: requests are made under the id
// of their prescription.
func Join(ctx context.Context, p Platform, o Options) error {
	if o.Required == nil {
		return errors.New("priorauth: Options.Required is not set; say which medications payers want to be asked about")
	}
	if err := p.Store().Migrate(ctx, Source, tables); err != nil {
		return err
	}
	if err := projection.Register(ctx, p, Views); err != nil {
		return err
	}
	s := &service{p, o.Required}
	return p.Handle(Group, append([]bus.Option{
		bus.On(patient.RecordCreatedV1, s.patient),
		bus.On(care.PlanCreatedV1, s.plan),
		bus.On(medication.PrescriptionCreatedV1, s.prescription),
		bus.On(payment.ClaimRejectedV1, s.rejected),
		bus.On(priorauth.DecisionMadeV1, s.decision),
	}, o.Group...)...)
}

// ID is the id of the prior authorization of a prescription.
func ID(prescriptionID string) string { return "PA-" + prescriptionID }

func (s *service) patient(_ context.Context, tx bus.Tx, e event.Of[patient.RecordCreated]) error {
	r, state := e.Payload, ""
	if r.Address != nil {
		state = text(r.Address.State)
	}
	_, err := tx.Exec(`INSERT INTO priorauth_patients (patient_id, birth, gender, state) VALUES ($1, $2, $3, $4)
		ON CONFLICT (patient_id) DO UPDATE SET birth = excluded.birth, gender = excluded.gender, state = excluded.state`,
		r.PatientID, text(r.DateOfBirth), string(r.Gender), state)
	return err
}

func (s *service) plan(_ context.Context, tx bus.Tx, e event.Of[care.PlanCreated]) error {
	for _, c := range e.Payload.Conditions {
		if err := learn(tx, e.Payload.PatientID, text(c.System), text(c.Code), text(c.Display), e.Timestamp); err != nil {
			return err
		}
	}
	return nil
}

// learn keeps the first time that a condition was known.
func learn(tx bus.Tx, patientID, system, code, display string, at int64) error {
	if code == "" {
		return nil
	}
	_, err := tx.Exec(`INSERT INTO priorauth_conditions (patient_id, system, code, display, known_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (patient_id, system, code) DO UPDATE SET known_at = excluded.known_at WHERE excluded.known_at < priorauth_conditions.known_at`,
		patientID, system, code, display, at)
	return err
}

func (s *service) prescription(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCreated]) error {
	rx := e.Payload
	authored := rx.AuthoredOn
	if authored.IsZero() {
		authored = e.Time()
	}
	for _, c := range rx.Conditions {
		if err := learn(tx, rx.PatientID, text(c.System), text(c.Code), text(c.Display), authored.UnixMilli()); err != nil {
			return err
		}
	}
	system, code := coding(rx.Medication.Code)
	res, err := tx.Exec(`INSERT INTO priorauth_history (prescription_id, patient_id, system, code, name, authored_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (prescription_id) DO NOTHING`, rx.PrescriptionID, rx.PatientID, system, code, rx.Medication.Name, authored.UnixMilli())
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err // known: the group was sent back in the log
	}
	required, err := s.required(rx.Medication, rx.Payer)
	if err != nil {
		return err
	}
	if !required {
		return tx.Append(priorauth.DeterminationNotRequiredV1.New(Source, priorauth.DeterminationNotRequired{
			PriorAuthID: ID(rx.PrescriptionID), PatientID: &rx.PatientID, PrescriptionID: rx.PrescriptionID, Medication: asked(rx.Medication),
			Payer: payerOf(rx.Payer), Reason: new("Payers pay for this medication without being asked."), DeterminedBy: new(Source), DeterminedAt: tx.Now(),
		}))
	}
	request := priorauth.RequestSubmitted{
		PatientID: rx.PatientID, PrescriptionID: &rx.PrescriptionID, Medication: asked(rx.Medication), Payer: payerOf(rx.Payer),
		Urgency: priorauth.UrgencyStandard, Benefit: priorauth.RequestSubmittedBenefitPharmacy, SubmittedAt: authored.UTC(), SubmittedBy: new(Source),
	}
	if rx.Prescriber != nil {
		request.Prescriber = &priorauth.Prescriber{ID: rx.Prescriber.ID, NPI: rx.Prescriber.NPI, Name: rx.Prescriber.Name, Specialty: rx.Prescriber.Specialty}
	}
	if rx.Coverage != nil {
		c := priorauth.Coverage(*rx.Coverage)
		request.Coverage = &c
	}
	for _, c := range rx.Conditions {
		request.Diagnoses = append(request.Diagnoses, priorauth.Codeable(c))
	}
	if request.Clinical, err = clinical(tx, rx.PatientID, rx.PrescriptionID, authored); err != nil {
		return err
	}
	_, err = DoTx(ctx, tx, s.p, ID(rx.PrescriptionID), Submit{request}, aggregate.Once(e.ID))
	return known(err)
}

// known takes a request that is past a command already for the second handling of a fact: the first one has had its
// effect.
func known(err error) error {
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Rule == "status" && refused.Status != None {
		return nil
	}
	return err
}

func coding(c *medication.Codeable) (system, code string) {
	if c == nil {
		return "", ""
	}
	return text(c.System), text(c.Code)
}

func asked(m medication.Medication) *priorauth.Medication {
	out := priorauth.Medication{NDC: m.NDC, Name: m.Name, Strength: m.Strength, Form: m.Form, Quantity: m.Quantity, QuantityUnit: m.QuantityUnit, DaysSupply: m.DaysSupply, Directions: m.Directions}
	if m.Code != nil {
		c := priorauth.Codeable(*m.Code)
		out.Code = &c
	}
	return &out
}

func payerOf(p *medication.Payer) *priorauth.Payer {
	if p == nil {
		return nil
	}
	return &priorauth.Payer{ID: p.ID, Name: p.Name, PlanID: p.PlanID, PlanName: p.PlanName, LineOfBusiness: priorauth.PayerLineOfBusiness(p.LineOfBusiness)}
}

// person is what the service knows of a patient. The record and a prescription have different keys, so that the
// prescription may be handled first: then the record's first event says it, which is stored already, if there is one.
func person(tx bus.Tx, patientID string) (birth, gender, state string, err error) {
	err = tx.QueryRow(`SELECT birth, gender, state FROM priorauth_patients WHERE patient_id = $1`, patientID).Scan(&birth, &gender, &state)
	if !errors.Is(err, sql.ErrNoRows) {
		return birth, gender, state, err
	}
	records, err := tx.Stream(eventstore.StreamQuery{Stream: "patient.record/" + patientID, From: 1, Limit: 1})
	if errors.Is(err, eventstore.ErrNotFound) || err == nil && (len(records) == 0 || records[0].Type != patient.RecordCreatedV1.Type()) {
		return "", "", "", nil
	}
	if err != nil {
		return "", "", "", err
	}
	e, err := patient.RecordCreatedV1.Decode(records[0].Event)
	if err != nil {
		return "", "", "", err
	}
	if e.Payload.Address != nil {
		state = text(e.Payload.Address.State)
	}
	return text(e.Payload.DateOfBirth), string(e.Payload.Gender), state, nil
}

// clinical is what is known of the patient as of a moment.
func clinical(tx bus.Tx, patientID, prescriptionID string, at time.Time) (*priorauth.ClinicalFacts, error) {
	facts := &priorauth.ClinicalFacts{}
	birth, gender, state, err := person(tx, patientID)
	if err != nil {
		return nil, err
	}
	facts.Gender, facts.State = priorauth.Gender(gender), optional(state)
	if born, err := time.Parse(time.DateOnly, birth); err == nil && !at.Before(born) {
		years := int64(at.Sub(born).Hours() / 24 / 365.25)
		facts.AgeYears = &years
	}
	days := func(since int64) *int64 {
		n := (at.UnixMilli() - since) / (24 * time.Hour).Milliseconds()
		return &n
	}
	err = each(tx, `SELECT system, code, display, known_at FROM priorauth_conditions WHERE patient_id = $1 AND known_at <= $2 ORDER BY known_at, code`,
		[]any{patientID, at.UnixMilli()}, func(system, code, display string, since int64) {
			facts.Diagnoses = append(facts.Diagnoses, priorauth.ClinicalDiagnosis{
				Code: priorauth.Codeable{System: optional(system), Code: &code, Display: optional(display)}, OnsetAt: time.UnixMilli(since).UTC(), DaysAgo: days(since),
			})
		})
	if err != nil {
		return nil, err
	}
	err = each(tx, `SELECT system, code, name, authored_at FROM priorauth_history WHERE patient_id = $1 AND authored_at <= $2 AND prescription_id <> $3 ORDER BY authored_at, prescription_id`,
		[]any{patientID, at.UnixMilli(), prescriptionID}, func(system, code, name string, since int64) {
			tried := priorauth.MedicationTried{Name: name, PrescribedAt: time.UnixMilli(since).UTC(), DaysAgo: days(since)}
			if code != "" {
				tried.Code = &priorauth.Codeable{System: optional(system), Code: &code}
			}
			facts.MedicationHistory = append(facts.MedicationHistory, tried)
		})
	return facts, err
}

func each(tx bus.Tx, query string, args []any, row func(a, b, c string, at int64)) error {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var a, b, c string
		var at int64
		if err := rows.Scan(&a, &b, &c, &at); err != nil {
			return err
		}
		row(a, b, c, at)
	}
	return rows.Err()
}

// asksForAuthorization are the NCPDP reject codes that an authorization can mend: not covered, authorization required,
// plan limits exceeded.
var asksForAuthorization = []string{"70", "75", "76"}

// rejected asks for an authorization because a claim was refused for want of one.
func (s *service) rejected(ctx context.Context, tx bus.Tx, e event.Of[payment.ClaimRejected]) error {
	claim := e.Payload
	if claim.PrescriptionID == nil || !slices.ContainsFunc(claim.RejectCodes, func(c payment.RejectCode) bool {
		return slices.Contains(asksForAuthorization, text(c.Code))
	}) {
		return nil
	}
	var patientID, system, code, name string
	var authored int64
	err := tx.QueryRow(`SELECT patient_id, system, code, name, authored_at FROM priorauth_history WHERE prescription_id = $1`, *claim.PrescriptionID).
		Scan(&patientID, &system, &code, &name, &authored)
	if errors.Is(err, sql.ErrNoRows) {
		// Its event may be on the way: the claim's key is parked and tried again, and nobody waits for it.
		return errors.New("priorauth: a claim was rejected for a prescription that is not known")
	}
	if err != nil {
		return err
	}
	request := priorauth.RequestSubmitted{
		PatientID: patientID, PrescriptionID: claim.PrescriptionID, Medication: &priorauth.Medication{Name: name}, ClaimID: &claim.ClaimID,
		Urgency: priorauth.UrgencyStandard, Benefit: priorauth.RequestSubmittedBenefitPharmacy, SubmittedAt: tx.Now(), SubmittedBy: new(Source),
	}
	if code != "" {
		request.Medication.Code = &priorauth.Codeable{System: optional(system), Code: &code}
	}
	if claim.Payer != nil {
		request.Payer = &priorauth.Payer{ID: claim.Payer.ID, Name: claim.Payer.Name, PlanID: claim.Payer.PlanID}
	}
	if request.Clinical, err = clinical(tx, patientID, *claim.PrescriptionID, time.UnixMilli(authored).UTC()); err != nil {
		return err
	}
	_, err = DoTx(ctx, tx, s.p, ID(*claim.PrescriptionID), Submit{request}, aggregate.Once(e.ID))
	return known(err)
}

// decision says what the payer's answer means for the request.
func (s *service) decision(ctx context.Context, tx bus.Tx, e event.Of[priorauth.DecisionMade]) error {
	d := e.Payload
	var c Command
	switch d.Decision {
	case priorauth.DecisionApproved, priorauth.DecisionPartiallyApproved, priorauth.DecisionModified, priorauth.DecisionNotRequired:
		a := priorauth.StatusApproved{
			EffectivePeriod: d.EffectivePeriod, ApprovedQuantity: d.ApprovedQuantity, ApprovedRefills: d.ApprovedRefills, ApprovedDaysSupply: d.ApprovedDaysSupply,
			Payer: d.Payer, DecisionDate: d.DecidedAt, DecisionBy: d.DecidedBy, AuthNumber: d.AuthNumber,
		}
		for _, r := range d.Reasons { // what the payer has changed of the request
			a.Conditions = append(a.Conditions, r.Code)
		}
		c = Approve{a}
	case priorauth.DecisionDenied, priorauth.DecisionUpheld:
		c = Deny{priorauth.StatusDenied{Reasons: d.Reasons, Appeal: d.Appeal, PeerToPeer: d.PeerToPeer, Payer: d.Payer, DecisionDate: d.DecidedAt, DecisionBy: d.DecidedBy}}
	case priorauth.DecisionPended:
		c = RequestInformation{priorauth.StatusPending{Missing: d.MissingInformation, Payer: d.Payer, PendedAt: d.DecidedAt}}
	case priorauth.DecisionContactPayer:
		c = RequestInformation{priorauth.StatusPending{Missing: []priorauth.MissingItem{{Field: "coverage", Ask: "The payer wants to be contacted before it decides."}}, Payer: d.Payer, PendedAt: d.DecidedAt}}
	case priorauth.DecisionCancelled:
		c = Cancel{Reason: "cancelled by the payer"}
	default:
		return bus.Fatal(fmt.Errorf("priorauth: the payer's decision %q is none that this service knows; use a newer version of it, then redrive", d.Decision))
	}
	_, err := DoTx(ctx, tx, s.p, d.PriorAuthID, c, aggregate.Once(e.ID))
	return known(err)
}
