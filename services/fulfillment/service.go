package fulfillment

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/services/pharmacy"
)

// Group is the name of the service's consumer group, beside those of the saga.
const Group = "medication-fulfillment"

// Platform is where the service runs. *carebus.Platform is one.
type Platform interface {
	aggregate.Log
	Handle(group string, opts ...bus.Option) error
}

// Options of the service. The zero value works.
type Options struct {
	// Pharmacy fills prescriptions that name none. Default "PHARM123".
	Pharmacy string
	// NDC is the package of a medication that a pharmacy has. Default: the function NDC.
	NDC func(m medication.Medication) string
	// Price is what a fill costs. Default 35.50 dollars.
	Price func(m medication.Medication, quantity float64) catalog.USD
	// PayerAnswers is how long the payer may take to answer a claim. Default 24 h.
	PayerAnswers time.Duration
	// PickupWindow is how long a fill waits for the patient before it is undone. Default 10 days.
	PickupWindow time.Duration
	// Group has further options of the consumer group, such as bus.Version.
	Group []bus.Option
}

const tables = `
CREATE TABLE fulfillment_prescriptions (prescription_id TEXT PRIMARY KEY, prescriber TEXT NOT NULL, quantity DOUBLE PRECISION NOT NULL, days_supply BIGINT NOT NULL,
	pharmacy TEXT NOT NULL, expires TEXT NOT NULL, cancelled BIGINT NOT NULL);
CREATE TABLE fulfillment_started (prescription_id TEXT PRIMARY KEY);
CREATE TABLE fulfillment_failed (saga_id TEXT PRIMARY KEY);`

// attempts replace fulfillment_started: a prescription that failed for want of an authorization is tried again when it has
// one. attempt 0 is a statement that came while a fulfilment was under way and begins one if that fails.
const attempts = `
CREATE TABLE fulfillment_attempts (event_id TEXT PRIMARY KEY, prescription_id TEXT NOT NULL, attempt BIGINT NOT NULL, saga_id TEXT NOT NULL, failed BIGINT NOT NULL, state TEXT NOT NULL);
CREATE INDEX fulfillment_attempts_prescription ON fulfillment_attempts (prescription_id, attempt);
INSERT INTO fulfillment_attempts (event_id, prescription_id, attempt, saga_id, failed, state) SELECT 'first/' || prescription_id, prescription_id, 1, 'FUL-' || prescription_id, 0, '' FROM fulfillment_started;
DROP TABLE fulfillment_started;`

// Join makes this process a member of the service. It reacts to
//
//	medication.prescription.ready       a fulfilment begins; another one, when the last has failed and there is news
//	medication.prescription.created     what it needs to know: prescriber, quantity, pharmacy, expiry
//	medication.prescription.cancelled   a fulfilment that is under way is undone
//	platform.saga.failed                medication.fulfillment.failed, with the reason and what was undone
//
// and, as the saga, to the payer's answers and to the pickup; and it keeps the pharmacy's queue, pharmacy.Queue.
func Join(ctx context.Context, p Platform, o Options) error {
	if o.Pharmacy == "" {
		o.Pharmacy = "PHARM123"
	}
	if o.NDC == nil {
		o.NDC = NDC
	}
	if o.Price == nil {
		o.Price = func(medication.Medication, float64) catalog.USD { return 3550 }
	}
	if o.PayerAnswers <= 0 {
		o.PayerAnswers = 24 * time.Hour
	}
	if o.PickupWindow <= 0 {
		o.PickupWindow = 10 * 24 * time.Hour
	}
	if err := p.Store().Migrate(ctx, Source, tables, attempts); err != nil {
		return err
	}
	s := &service{p, o}
	def := s.define()
	if err := saga.Register(ctx, p, def); err != nil {
		return err
	}
	if err := projection.Register(ctx, p, pharmacy.Queue); err != nil {
		return err
	}
	return p.Handle(Group, append([]bus.Option{
		bus.On(medication.PrescriptionCreatedV1, s.created),
		bus.On(medication.PrescriptionCancelledV1, func(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCancelled]) error {
			return s.cancelled(tx, e.Payload.PrescriptionID)
		}),
		bus.On(medication.PrescriptionReadyV1, func(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionReady]) error {
			return s.ready(ctx, tx, def, e)
		}),
		bus.On(platform.SagaFailedV1, func(ctx context.Context, tx bus.Tx, e event.Of[platform.SagaFailed]) error {
			return s.failed(ctx, tx, def, e)
		}),
	}, o.Group...)...)
}

// NDC returns the package that a medication names. Where it names none, which is usual for prescriptions, it is a stand-in
// with the labeler 99999, which nobody has: a pharmacy of the real world has a drug file that says which packages a code
// is sold in.
func NDC(m medication.Medication) string {
	if m.NDC != nil {
		return *m.NDC
	}
	h := fnv.New32a()
	if m.Code != nil && m.Code.Code != nil {
		_, _ = h.Write([]byte(*m.Code.Code))
	} else {
		_, _ = h.Write([]byte(m.Name))
	}
	return fmt.Sprintf("99999%06d", h.Sum32()%1_000_000)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func (s *service) created(_ context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCreated]) error {
	rx := e.Payload
	prescriber, pharmacyID, quantity, days := "", "", 0.0, int64(0)
	if rx.Prescriber != nil {
		if prescriber = text(rx.Prescriber.ID); prescriber == "" {
			prescriber = text(rx.Prescriber.NPI)
		}
	}
	if rx.Pharmacy != nil {
		pharmacyID = text(rx.Pharmacy.ID)
	}
	if rx.Medication.Quantity != nil {
		quantity = *rx.Medication.Quantity
	}
	if rx.Medication.DaysSupply != nil {
		days = *rx.Medication.DaysSupply
	}
	_, err := tx.Exec(`INSERT INTO fulfillment_prescriptions (prescription_id, prescriber, quantity, days_supply, pharmacy, expires, cancelled) VALUES ($1, $2, $3, $4, $5, $6, 0)
		ON CONFLICT (prescription_id) DO NOTHING`, rx.PrescriptionID, prescriber, quantity, days, pharmacyID, text(rx.ExpiresOn))
	return err
}

// cancelled marks the prescription. A fulfilment that has not been verified yet is refused then; a person decides about
// one that is further.
func (s *service) cancelled(tx bus.Tx, prescriptionID string) error {
	_, err := tx.Exec(`INSERT INTO fulfillment_prescriptions (prescription_id, prescriber, quantity, days_supply, pharmacy, expires, cancelled) VALUES ($1, '', 0, 0, '', '', 1)
		ON CONFLICT (prescription_id) DO UPDATE SET cancelled = 1`, prescriptionID)
	return err
}

type prescription struct {
	prescriber, pharmacy string
	quantity             float64
	days                 int64
	expires              time.Time
	cancelled            bool
}

func prescriptionOf(tx bus.Tx, id string) (p prescription, err error) {
	var expires string
	var cancelled int64
	err = tx.QueryRow(`SELECT prescriber, quantity, days_supply, pharmacy, expires, cancelled FROM fulfillment_prescriptions WHERE prescription_id = $1`, id).
		Scan(&p.prescriber, &p.quantity, &p.days, &p.pharmacy, &expires, &cancelled)
	if errors.Is(err, sql.ErrNoRows) {
		return p, nil
	}
	if day, derr := time.Parse(time.DateOnly, expires); derr == nil {
		p.expires = day.AddDate(0, 0, 1) // valid to the end of the day
	}
	p.cancelled = cancelled != 0
	return p, err
}

// ready begins a fulfilment, the first one for a prescription, and another for an authorization that the last one, which
// failed, did not have. It may be known before everything is undone: then the next attempt begins when that is done.
func (s *service) ready(ctx context.Context, tx bus.Tx, def *saga.Definition[Fulfillment], e event.Of[medication.PrescriptionReady]) error {
	r := e.Payload
	known, err := prescriptionOf(tx, r.PrescriptionID)
	if err != nil {
		return err
	}
	f := Fulfillment{
		PrescriptionID: r.PrescriptionID, PatientID: r.PatientID, PharmacyID: s.o.Pharmacy, PrescriberID: known.prescriber, Quantity: known.quantity, DaysSupply: known.days,
		PriorAuthID: text(r.PriorAuthID), AuthNumber: text(r.AuthNumber),
	}
	if r.Medication != nil {
		f.Medication = *r.Medication
		if r.Medication.Quantity != nil {
			f.Quantity = *r.Medication.Quantity
		}
		if r.Medication.DaysSupply != nil {
			f.DaysSupply = *r.Medication.DaysSupply
		}
	}
	if r.Prescriber != nil && f.PrescriberID == "" {
		f.PrescriberID = text(r.Prescriber.ID)
	}
	if known.pharmacy != "" {
		f.PharmacyID = known.pharmacy
	} else if r.Pharmacy != nil && text(r.Pharmacy.ID) != "" {
		f.PharmacyID = *r.Pharmacy.ID
	}
	if f.Quantity <= 0 {
		f.Quantity = 1 // one package, where nobody has said how much
	}
	f.NDC = s.o.NDC(f.Medication)
	f.Total = s.o.Price(f.Medication, f.Quantity)
	state, err := json.Marshal(f)
	if err != nil {
		return err
	}
	var now string
	err = tx.QueryRow(`SELECT state FROM fulfillment_attempts WHERE prescription_id = $1 AND attempt > 0 ORDER BY attempt DESC LIMIT 1`, r.PrescriptionID).Scan(&now)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if err == nil {
		var last Fulfillment
		if err := json.Unmarshal([]byte(now), &last); now != "" && err != nil {
			return err
		}
		if f.AuthNumber == "" || f.AuthNumber == last.AuthNumber {
			return nil // nothing new
		}
	}
	if first, err := once(tx, `INSERT INTO fulfillment_attempts (event_id, prescription_id, attempt, saga_id, failed, state) VALUES ($1, $2, 0, '', 0, $3) ON CONFLICT (event_id) DO NOTHING`,
		e.ID, r.PrescriptionID, string(state)); err != nil || !first {
		return err
	}
	return s.begin(ctx, tx, def, r.PrescriptionID)
}

// begin starts the next attempt at a prescription, if the last one has failed and something was said since.
func (s *service) begin(ctx context.Context, tx bus.Tx, def *saga.Definition[Fulfillment], prescriptionID string) error {
	var last, open int
	if err := tx.QueryRow(`SELECT COALESCE(MAX(attempt), 0), COALESCE(SUM(CASE WHEN attempt > 0 AND failed = 0 THEN 1 ELSE 0 END), 0) FROM fulfillment_attempts WHERE prescription_id = $1`,
		prescriptionID).Scan(&last, &open); err != nil || open > 0 {
		return err
	}
	var eventID, state string
	err := tx.QueryRow(`SELECT event_id, state FROM fulfillment_attempts WHERE prescription_id = $1 AND attempt = 0 ORDER BY event_id DESC LIMIT 1`, prescriptionID).Scan(&eventID, &state)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	var f Fulfillment
	if err == nil {
		err = json.Unmarshal([]byte(state), &f)
	}
	if err != nil {
		return err
	}
	if f.Attempt = last + 1; f.Attempt > maxAttempts {
		return nil
	}
	if _, err := tx.Exec(`UPDATE fulfillment_attempts SET attempt = $1, saga_id = $2 WHERE event_id = $3`, f.Attempt, f.id(), eventID); err != nil {
		return err
	}
	if err := def.StartTx(ctx, tx, f.id(), f); err != nil {
		return err
	}
	return tx.Append(medication.FulfillmentStartedV1.New(Source, medication.FulfillmentStarted{
		PrescriptionID: f.PrescriptionID, PatientID: &f.PatientID, FulfillmentID: new(f.id()), PharmacyID: &f.PharmacyID, Definition: new(Name + "/1"), StartedAt: tx.Now(),
	}))
}

// maxAttempts bounds how often one prescription is tried: payer and formulary may disagree for ever.
const maxAttempts = 5

// once reports whether a row is new: what it stands for has not been done before, also when the group was sent back in
// the log.
func once(tx bus.Tx, insert string, args ...any) (bool, error) {
	res, err := tx.Exec(insert, args...)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// steps are the names in the catalog of what the saga calls its steps.
var steps = map[string]medication.FulfillmentStep{
	"verify": medication.FulfillmentStepVerify, "reserve": medication.FulfillmentStepReserve, "claim": medication.FulfillmentStepClaim, "payer": medication.FulfillmentStepClaim,
	"fill": medication.FulfillmentStepFill, "notify": medication.FulfillmentStepNotify, "pickup": medication.FulfillmentStepNotify,
}

// undoable are the steps of the saga that have something to undo.
var undoable = []string{"reserve", "claim", "fill"}

// failed says how a fulfilment ended that did not succeed, and begins the next one when there is reason to.
func (s *service) failed(ctx context.Context, tx bus.Tx, def *saga.Definition[Fulfillment], e event.Of[platform.SagaFailed]) error {
	if e.Payload.Saga != Name || e.Payload.Key == nil {
		return nil
	}
	if first, err := once(tx, `INSERT INTO fulfillment_failed (saga_id) VALUES ($1) ON CONFLICT (saga_id) DO NOTHING`, e.Payload.SagaID); err != nil || !first {
		return err
	}
	f := medication.FulfillmentFailed{PrescriptionID: *e.Payload.Key, FulfillmentID: &e.Payload.SagaID, Reason: e.Payload.Reason, Timestamp: tx.Now(), Step: steps[text(e.Payload.Step)]}
	for _, step := range e.Payload.Compensated {
		if named, ok := steps[step]; ok {
			f.Compensated = append(f.Compensated, named)
		}
	}
	for _, step := range e.Payload.Uncompensated {
		if slices.Contains(undoable, step) { // a message that was sent stays sent: that is nothing for a person
			f.Stuck = append(f.Stuck, steps[step])
		}
	}
	if err := tx.Append(medication.FulfillmentFailedV1.New(Source, f)); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE fulfillment_attempts SET failed = 1 WHERE saga_id = $1`, e.Payload.SagaID); err != nil {
		return err
	}
	return s.begin(ctx, tx, def, f.PrescriptionID)
}
