package safety

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/timer"
)

// Source is the eventSource of the service, and Group the name of its consumer group.
const (
	Source = "medication-safety-service"
	Group  = "medication-safety"
)

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	Store() *eventstore.Store
	Timers() *timer.Timers
	Handle(group string, opts ...bus.Option) error
}

// Options of the service. The zero value works.
type Options struct {
	Interactions *Interactions // default: DefaultInteractions
	// Course is how long a prescription lasts that states no days of supply. Default 90 days.
	Course time.Duration
	// Window is how far a report of adherence looks back. Default 180 days.
	Window time.Duration
	// Grace is how long after the end of the supply a refill is missed. Default 7 days.
	Grace time.Duration
	// Recent is how long after that it is still worth a report, when it becomes known late. Default 30 days.
	Recent time.Duration
	// Group has further options of the consumer group, such as bus.Version.
	Group []bus.Option
}

// A medication may be known from its cancellation or a fill before its prescription arrives. Moments are epoch
// milliseconds, 0 where they are not known.
const tables = `
CREATE TABLE safety_patients (patient_id TEXT PRIMARY KEY, turn BIGINT NOT NULL);
CREATE TABLE safety_medications (prescription_id TEXT PRIMARY KEY, patient_id TEXT NOT NULL, system TEXT NOT NULL, code TEXT NOT NULL, name TEXT NOT NULL,
	from_at BIGINT NOT NULL, until_at BIGINT NOT NULL, cancelled_at BIGINT NOT NULL, refills BIGINT NOT NULL, continuous BIGINT NOT NULL);
CREATE INDEX safety_medications_patient ON safety_medications (patient_id);
CREATE TABLE safety_findings (prescription_id TEXT NOT NULL, rule_id TEXT NOT NULL, drug TEXT NOT NULL, with_id TEXT NOT NULL, PRIMARY KEY (prescription_id, rule_id, drug));
CREATE TABLE safety_fills (fill_id TEXT PRIMARY KEY, prescription_id TEXT NOT NULL, patient_id TEXT NOT NULL, drug TEXT NOT NULL, system TEXT NOT NULL, code TEXT NOT NULL, name TEXT NOT NULL,
	filled_at BIGINT NOT NULL, picked_up_at BIGINT NOT NULL, days BIGINT NOT NULL, remaining BIGINT NOT NULL, returned BIGINT NOT NULL, reported BIGINT NOT NULL, missed BIGINT NOT NULL);
CREATE INDEX safety_fills_drug ON safety_fills (patient_id, drug);
CREATE INDEX safety_fills_prescription ON safety_fills (prescription_id);
CREATE TABLE safety_refills (patient_id TEXT NOT NULL, drug TEXT NOT NULL, fill_id TEXT NOT NULL, missed_at BIGINT NOT NULL, PRIMARY KEY (patient_id, drug));`

type service struct {
	o      Options
	timers *timer.Timers
}

// Join makes this process a member of the service. It reacts to
//
//	medication.prescription.created, .cancelled            what a patient takes, and whether it interacts
//	medication.prescription.filled, .picked-up, .returned  how long the supply lasts
func Join(ctx context.Context, p Platform, o Options) error {
	if o.Interactions == nil {
		var err error
		if o.Interactions, err = DefaultInteractions(); err != nil {
			return err
		}
	}
	for _, d := range []struct {
		of   *time.Duration
		days int
	}{{&o.Course, 90}, {&o.Window, 180}, {&o.Grace, 7}, {&o.Recent, 30}} {
		if *d.of <= 0 {
			*d.of = time.Duration(d.days) * day
		}
	}
	if err := p.Store().Migrate(ctx, Source, tables); err != nil {
		return err
	}
	s := &service{o: o, timers: p.Timers()}
	return p.Handle(Group, append([]bus.Option{
		bus.On(medication.PrescriptionCreatedV1, s.created),
		bus.On(medication.PrescriptionCancelledV1, s.cancelled),
		bus.On(medication.PrescriptionFilledV2, s.filled),
		bus.On(medication.PrescriptionPickedUpV1, s.pickedUp),
		bus.On(medication.PrescriptionReturnedV1, s.returned),
	}, o.Group...)...)
}

const day = 24 * time.Hour

// lastsLong bounds what a sender may claim of a supply: ten years, so that sums stay moments.
const lastsLong = 3650

func daysOf(n int64) time.Duration { return time.Duration(min(max(n, 0), lastsLong)) * day }

// takeTurn lets events about one patient be handled one after the other, by all members: their prescriptions are in
// different partitions, and two that are handled at once would not see each other.
func takeTurn(tx bus.Tx, patientID string) error {
	_, err := tx.Exec(`INSERT INTO safety_patients (patient_id, turn) VALUES ($1, 1)
		ON CONFLICT (patient_id) DO UPDATE SET turn = safety_patients.turn + 1`, patientID)
	return err
}

// taken is a medication that a patient takes, over a time.
type taken struct {
	prescriptionID, patientID string
	system, code, name        string
	from, until, cancelled    int64
	refills                   int64 // -1: not known
	continuous                bool
}

func load(tx bus.Tx, prescriptionID, patientID string) (taken, error) {
	m := taken{prescriptionID: prescriptionID, patientID: patientID, refills: -1}
	err := tx.QueryRow(`SELECT system, code, name, from_at, until_at, cancelled_at, refills, continuous FROM safety_medications WHERE prescription_id = $1`, prescriptionID).
		Scan(&m.system, &m.code, &m.name, &m.from, &m.until, &m.cancelled, &m.refills, &m.continuous)
	if errors.Is(err, sql.ErrNoRows) {
		return m, nil
	}
	return m, err
}

func (m *taken) save(tx bus.Tx) error {
	continuous := 0
	if m.continuous {
		continuous = 1
	}
	_, err := tx.Exec(`INSERT INTO safety_medications (prescription_id, patient_id, system, code, name, from_at, until_at, cancelled_at, refills, continuous) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (prescription_id) DO UPDATE SET system = excluded.system, code = excluded.code, name = excluded.name, from_at = excluded.from_at, until_at = excluded.until_at,
			cancelled_at = excluded.cancelled_at, refills = excluded.refills, continuous = excluded.continuous`,
		m.prescriptionID, m.patientID, m.system, m.code, m.name, m.from, m.until, m.cancelled, m.refills, continuous)
	return err
}

// lasts makes the time over which the medication is taken longer. Fills with a pause between them are one therapy.
func (m *taken) lasts(from time.Time, d time.Duration) {
	until := from.Add(d).UnixMilli()
	if m.until == 0 || from.UnixMilli() < m.from {
		m.from = from.UnixMilli()
	}
	m.until = max(m.until, until)
}

func (m *taken) end() int64 {
	if m.cancelled != 0 {
		return min(m.until, m.cancelled)
	}
	return m.until
}

// together reports whether both are taken at some time.
func together(a, b taken) bool {
	return a.from < a.end() && b.from < b.end() && a.from < b.end() && b.from < a.end()
}

const rxNorm = "http://www.nlm.nih.gov/research/umls/rxnorm"

// rxcui is the code of the medication where it is one of RxNorm, or of a sender that names no system.
func (m *taken) rxcui() string {
	if m.system != "" && m.system != rxNorm {
		return ""
	}
	return m.code
}

func valueOf[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func coding(c *medication.Codeable) (system, code string) {
	if c == nil {
		return "", ""
	}
	return valueOf(c.System), valueOf(c.Code)
}

func orElse(t, other time.Time) time.Time {
	if t.IsZero() {
		return other
	}
	return t
}

func (s *service) created(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCreated]) error {
	rx := e.Payload
	switch rx.Status {
	case medication.PrescriptionStatusDraft, medication.PrescriptionStatusEnteredInError, medication.PrescriptionStatusCancelled, medication.PrescriptionStatusDenied:
		return nil // nobody takes it
	}
	if err := takeTurn(tx, rx.PatientID); err != nil {
		return err
	}
	m, err := load(tx, rx.PrescriptionID, rx.PatientID)
	if err != nil {
		return err
	}
	m.system, m.code = coding(rx.Medication.Code)
	m.name = rx.Medication.Name
	m.continuous = valueOf(rx.CourseOfTherapy) == "continuous"
	course := s.o.Course
	if n := valueOf(rx.Medication.DaysSupply); n > 0 {
		course = daysOf(min(n, lastsLong) * (1 + min(max(valueOf(rx.Refills), 0), lastsLong)))
	}
	if rx.Refills != nil {
		m.refills = *rx.Refills
	}
	m.lasts(orElse(rx.AuthoredOn, e.Time()), course)
	if err := m.save(tx); err != nil {
		return err
	}
	if err := s.check(tx, m); err != nil {
		return err
	}
	return s.supplies(ctx, tx, rx.PrescriptionID)
}

func (s *service) cancelled(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCancelled]) error {
	if err := takeTurn(tx, e.Payload.PatientID); err != nil {
		return err
	}
	m, err := load(tx, e.Payload.PrescriptionID, e.Payload.PatientID)
	if err != nil {
		return err
	}
	m.cancelled = orElse(e.Payload.CancelledAt, e.Time()).UnixMilli()
	if err := m.save(tx); err != nil {
		return err
	}
	return s.supplies(ctx, tx, e.Payload.PrescriptionID)
}

// check looks a medication up among the others that its patient takes at the same time.
func (s *service) check(tx bus.Tx, m taken) error {
	if !s.o.Interactions.Knows(m.rxcui()) || m.from >= m.end() {
		return nil
	}
	others, err := othersOf(tx, m)
	if err != nil {
		return err
	}
	for _, o := range others {
		if !together(m, o) || o.rxcui() == "" {
			continue
		}
		later, earlier := m, o
		if o.from > m.from || o.from == m.from && o.prescriptionID > m.prescriptionID {
			later, earlier = o, m
		}
		for _, i := range s.o.Interactions.Between(later.rxcui(), earlier.rxcui()) {
			if err := s.found(tx, i, later, earlier); err != nil {
				return err
			}
		}
	}
	return nil
}

func othersOf(tx bus.Tx, m taken) (out []taken, err error) {
	rows, err := tx.Query(`SELECT prescription_id, system, code, name, from_at, until_at, cancelled_at FROM safety_medications
		WHERE patient_id = $1 AND prescription_id <> $2 AND until_at > $3 AND from_at < $4 ORDER BY from_at, prescription_id`, m.patientID, m.prescriptionID, m.from, m.end())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		o := taken{patientID: m.patientID}
		if err := rows.Scan(&o.prescriptionID, &o.system, &o.code, &o.name, &o.from, &o.until, &o.cancelled); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, rows.Err()
}

// found states a finding, unless it is stated: under the same prescription, or, for the same two prescriptions, under the
// other one, before their dates turned out to be the other way round.
func (s *service) found(tx bus.Tx, i Interaction, later, earlier taken) error {
	var n int
	if err := tx.QueryRow(`SELECT COUNT(*) FROM safety_findings WHERE prescription_id = $1 AND rule_id = $2 AND with_id = $3`, earlier.prescriptionID, i.ID, later.prescriptionID).Scan(&n); err != nil || n > 0 {
		return err
	}
	res, err := tx.Exec(`INSERT INTO safety_findings (prescription_id, rule_id, drug, with_id) VALUES ($1, $2, $3, $4) ON CONFLICT (prescription_id, rule_id, drug) DO NOTHING`,
		later.prescriptionID, i.ID, earlier.rxcui(), earlier.prescriptionID)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	of := s.o.Interactions
	return tx.Append(medication.InteractionDetectedV1.New(Source, medication.InteractionDetected{
		InteractionID: new(i.ID + "/" + later.prescriptionID + "/" + earlier.rxcui()), PatientID: later.patientID, PrescriptionID: &later.prescriptionID,
		Medications: []medication.InteractingMedication{later.interacting(), earlier.interacting()},
		Severity:    i.Severity, InteractionType: medication.InteractionDetectedInteractionTypeDrugDrug, Code: &medication.Codeable{Code: &i.ID},
		Description: &i.Description, Recommendation: &i.Recommendation, Source: of.id + " " + of.version + ": " + i.Source,
		DetectedAt: tx.Now(), Status: new("final"), ReportedBy: self(),
	}))
}

func self() *medication.Party { return &medication.Party{ID: new(Source), Type: new("service")} }

func (m taken) interacting() medication.InteractingMedication {
	return medication.InteractingMedication{PrescriptionID: &m.prescriptionID, Code: m.codeable(), Name: m.name}
}

func (m *taken) codeable() *medication.Codeable {
	if m.code == "" {
		return nil
	}
	c := &medication.Codeable{Code: &m.code}
	if m.system != "" {
		c.System = &m.system
	}
	return c
}
