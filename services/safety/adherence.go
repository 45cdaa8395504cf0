package safety

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/event"
)

// supply is a fill as the service keeps it. One that was only heard of, by its pickup or return, has no filledAt.
type supply struct {
	id, prescriptionID   string
	system, code, name   string
	filledAt, pickedUpAt int64
	days                 int64
	remaining            int64 // refills left; -1: not stated
	reported, missed     bool
}

func (f supply) at() time.Time {
	if f.pickedUpAt != 0 {
		return time.UnixMilli(f.pickedUpAt).UTC()
	}
	return time.UnixMilli(f.filledAt).UTC()
}

// drugOf is what is the same when a drug is filled again, under another prescription too.
func drugOf(m taken) string {
	switch {
	case m.rxcui() != "":
		return rxNorm + "|" + m.code
	case m.code != "":
		return m.system + "|" + m.code
	}
	return "|" + strings.ToLower(strings.TrimSpace(m.name))
}

func (s *service) filled(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionFilled]) error {
	f, at := e.Payload, orElse(e.Payload.FilledAt, e.Time())
	if err := takeTurn(tx, f.PatientID); err != nil {
		return err
	}
	m, err := load(tx, f.PrescriptionID, f.PatientID)
	if err != nil {
		return err
	}
	dispensed := m
	if system, code := coding(f.Medication.Code); code != "" {
		dispensed.system, dispensed.code = system, code
	}
	if name := valueOf(f.Medication.Name); name != "" {
		dispensed.name = name
	}
	if dispensed.name == "" {
		dispensed.name = "not named"
	}
	if m.code == "" {
		m.system, m.code, m.name = dispensed.system, dispensed.code, dispensed.name
	}
	days := valueOf(f.Medication.DaysSupply)
	if days > 0 {
		m.lasts(at, daysOf(days))
		if err := m.save(tx); err != nil {
			return err
		}
		if err := s.check(tx, m); err != nil {
			return err
		}
	}
	id := valueOf(f.FillID)
	if id == "" {
		id = fmt.Sprintf("%s/%s", f.PrescriptionID, at.UTC().Format(time.DateOnly))
	}
	remaining := int64(-1)
	if f.RefillsRemaining != nil {
		remaining = *f.RefillsRemaining
	}
	if _, err := tx.Exec(`INSERT INTO safety_fills (fill_id, prescription_id, patient_id, drug, system, code, name, filled_at, picked_up_at, days, remaining, returned, reported, missed) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 0, $9, $10, 0, 0, 0)
		ON CONFLICT (fill_id) DO UPDATE SET drug = excluded.drug, system = excluded.system, code = excluded.code, name = excluded.name, filled_at = excluded.filled_at, days = excluded.days, remaining = excluded.remaining`,
		id, f.PrescriptionID, f.PatientID, drugOf(dispensed), dispensed.system, dispensed.code, dispensed.name, at.UnixMilli(), min(max(days, 0), lastsLong), remaining); err != nil {
		return err
	}
	return s.supplies(ctx, tx, f.PrescriptionID)
}

func (s *service) pickedUp(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionPickedUp]) error {
	p := e.Payload
	at := orElse(p.PickedUpAt, e.Time()).UnixMilli()
	return s.told(ctx, tx, p.PatientID, p.PrescriptionID, valueOf(p.FillID), "picked_up_at", at)
}

func (s *service) returned(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionReturned]) error {
	r := e.Payload
	return s.told(ctx, tx, r.PatientID, r.PrescriptionID, valueOf(r.FillID), "returned", 1)
}

// told notes what became of a fill. A sender that does not say which one means the last that waited to be picked up.
func (s *service) told(ctx context.Context, tx bus.Tx, patientID, prescriptionID, fillID, column string, value int64) error {
	if err := takeTurn(tx, patientID); err != nil {
		return err
	}
	if fillID == "" {
		err := tx.QueryRow(`SELECT fill_id FROM safety_fills WHERE prescription_id = $1 AND picked_up_at = 0 AND returned = 0 ORDER BY filled_at DESC, fill_id DESC LIMIT 1`, prescriptionID).Scan(&fillID)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if _, err := tx.Exec(`INSERT INTO safety_fills (fill_id, prescription_id, patient_id, drug, system, code, name, filled_at, picked_up_at, days, remaining, returned, reported, missed) VALUES ($1, $2, $3, '', '', '', '', 0, 0, 0, -1, 0, 0, 0)
		ON CONFLICT (fill_id) DO NOTHING`, fillID, prescriptionID, patientID); err != nil {
		return err
	}
	if _, err := tx.Exec(`UPDATE safety_fills SET `+column+` = $1 WHERE fill_id = $2`, value, fillID); err != nil {
		return err
	}
	return s.supplies(ctx, tx, prescriptionID)
}

// supplies looks at the drugs of a prescription anew, after something was learned about it.
func (s *service) supplies(ctx context.Context, tx bus.Tx, prescriptionID string) error {
	rows, err := tx.Query(`SELECT DISTINCT patient_id, drug FROM safety_fills WHERE prescription_id = $1 AND drug <> '' ORDER BY drug`, prescriptionID)
	if err != nil {
		return err
	}
	var drugs [][2]string
	for rows.Next() {
		var d [2]string
		if err := rows.Scan(&d[0], &d[1]); err != nil {
			return errors.Join(err, rows.Close())
		}
		drugs = append(drugs, d)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return err
	}
	for _, d := range drugs {
		if err := s.supply(ctx, tx, d[0], d[1]); err != nil {
			return err
		}
	}
	return nil
}

// supply reports the refills of a drug that are not reported yet, and sets the timer for the next one.
func (s *service) supply(ctx context.Context, tx bus.Tx, patientID, drug string) error {
	list, err := suppliesOf(tx, patientID, drug)
	if err != nil {
		return err
	}
	fills := make([]Fill, len(list))
	for i, f := range list {
		fills[i] = Fill{f.at(), f.days}
	}
	for i, f := range list {
		if i == 0 || f.reported {
			continue
		}
		if _, err := tx.Exec(`UPDATE safety_fills SET reported = 1 WHERE fill_id = $1`, f.id); err != nil {
			return err
		}
		if r, ok := s.report(patientID, f, fills, f.at()); ok {
			r.ReportID = new("refill/" + f.id)
			if err := tx.Append(medication.AdherenceReportedV1.New(Source, r)); err != nil {
				return err
			}
		}
	}
	return s.awaitRefill(ctx, tx, patientID, drug, list, fills)
}

func suppliesOf(tx bus.Tx, patientID, drug string) (out []supply, err error) {
	rows, err := tx.Query(`SELECT fill_id, prescription_id, system, code, name, filled_at, picked_up_at, days, remaining, reported, missed FROM safety_fills
		WHERE patient_id = $1 AND drug = $2 AND filled_at <> 0 AND days > 0 AND returned = 0`, patientID, drug)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var f supply
		if err := rows.Scan(&f.id, &f.prescriptionID, &f.system, &f.code, &f.name, &f.filledAt, &f.pickedUpAt, &f.days, &f.remaining, &f.reported, &f.missed); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b supply) int {
		if c := a.at().Compare(b.at()); c != 0 {
			return c
		}
		return strings.Compare(a.id, b.id)
	})
	return out, rows.Err()
}

// report says how well a drug was taken up to a moment. There is none for a time of no days.
func (s *service) report(patientID string, f supply, fills []Fill, at time.Time) (medication.AdherenceReported, bool) {
	from := fills[0].At
	if begin := at.Add(-s.o.Window); from.Before(begin) {
		from = begin
	}
	covered, days := DaysCovered(fills, from, at)
	if days == 0 {
		return medication.AdherenceReported{}, false
	}
	share := float64(covered) / float64(days)
	m := taken{system: f.system, code: f.code}
	return medication.AdherenceReported{
		PatientID: patientID, PrescriptionID: &f.prescriptionID, Medication: &medication.Medication{Code: m.codeable(), Name: f.name},
		Status: status(share), Period: &medication.Period{Start: from.Truncate(day), End: at.Truncate(day)},
		Method: medication.AdherenceReportedMethodDaysCovered, ProportionOfDaysCovered: &share,
		Source: "pharmacy-fills", ReportedBy: self(), ReportedAt: at,
	}, true
}

// status is the verdict on a share of days: four fifths is the usual bound of adherence.
func status(share float64) medication.AdherenceStatus {
	switch {
	case share >= 0.8:
		return medication.AdherenceStatusAdherent
	case share >= 0.5:
		return medication.AdherenceStatusPartiallyAdherent
	}
	return medication.AdherenceStatusNonAdherent
}

// awaitRefill keeps the timer of a drug in line with its supply. The timer's event is complete when it is set, since
// nothing changes until then but by a handler that sets it anew. The row says for which fill and when, so that handling an
// event again neither sets a timer that has fired nor moves one.
func (s *service) awaitRefill(ctx context.Context, tx bus.Tx, patientID, drug string, list []supply, fills []Fill) error {
	sum := sha256.Sum256([]byte(patientID + "\x00" + drug))
	id := "safety/refill/" + hex.EncodeToString(sum[:16])
	var last supply
	missed := time.Time{}
	if len(list) > 0 {
		last = list[len(list)-1]
		due, err := s.expected(tx, patientID, last)
		if err != nil {
			return err
		}
		if at := suppliedUntil(fills).Add(s.o.Grace); due && !last.missed && at.After(tx.Now().Add(-s.o.Recent)) {
			missed = at
		}
	}
	var knownFill string
	var known int64
	err := tx.QueryRow(`SELECT fill_id, missed_at FROM safety_refills WHERE patient_id = $1 AND drug = $2`, patientID, drug).Scan(&knownFill, &known)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if missed.IsZero() && known == 0 || knownFill == last.id && (known == missed.UnixMilli() || known <= tx.Now().UnixMilli()) {
		return nil
	}
	if known != 0 {
		waited, err := s.timers.CancelTx(tx, id)
		if err != nil {
			return err
		}
		if !waited { // it has fired, and must not for this fill once more, should the one behind it be returned
			if _, err := tx.Exec(`UPDATE safety_fills SET missed = 1 WHERE fill_id = $1`, knownFill); err != nil {
				return err
			}
		}
	}
	if missed.IsZero() {
		_, err := tx.Exec(`DELETE FROM safety_refills WHERE patient_id = $1 AND drug = $2`, patientID, drug)
		return err
	}
	if _, err := tx.Exec(`INSERT INTO safety_refills (patient_id, drug, fill_id, missed_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (patient_id, drug) DO UPDATE SET fill_id = excluded.fill_id, missed_at = excluded.missed_at`, patientID, drug, last.id, missed.UnixMilli()); err != nil {
		return err
	}
	r, _ := s.report(patientID, last, fills, missed)
	r.ReportID = new("missed/" + last.id)
	if r.Status == medication.AdherenceStatusAdherent {
		r.Status = medication.AdherenceStatusPartiallyAdherent // by the days so far; but the supply is used up
	}
	r.Reasons = []medication.Codeable{{Display: new("A refill was due and was not filled.")}}
	return s.timers.SetTx(ctx, tx, id, missed, medication.AdherenceReportedV1.New(Source, r))
}

// expected reports whether another fill should follow the last one: refills are left, or the therapy goes on by its
// nature, and nobody has cancelled it.
func (s *service) expected(tx bus.Tx, patientID string, last supply) (bool, error) {
	m, err := load(tx, last.prescriptionID, patientID)
	if err != nil || m.cancelled != 0 {
		return false, err
	}
	if last.remaining >= 0 {
		return last.remaining > 0 || m.continuous, nil
	}
	var filled int64
	if err := tx.QueryRow(`SELECT COUNT(*) FROM safety_fills WHERE prescription_id = $1 AND filled_at <> 0 AND returned = 0`, last.prescriptionID).Scan(&filled); err != nil {
		return false, err
	}
	return m.continuous || m.refills >= filled, nil
}
