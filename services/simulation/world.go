package simulation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/medication"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/priorauth"
)

// Group is the name of the world's consumer group.
const Group = "simulation"

const tables = `CREATE TABLE simulation_fills (prescription_id TEXT PRIMARY KEY, fill_id TEXT NOT NULL, pharmacy TEXT NOT NULL, ndc TEXT NOT NULL);`

type world struct{ p *carebus.Platform }

// Join makes this process a member of the world. It reacts to
//
//	priorauth.status.pending                     three in four prescribers answer the payer's questions
//	priorauth.status.denied                      half of them appeal, once; every other appeal with something to support it
//	medication.prescription.ready-for-pickup     nine in ten patients come
//
// options are further options of the consumer group.
func Join(ctx context.Context, p *carebus.Platform, options ...bus.Option) error {
	if err := p.Store().Migrate(ctx, Group, tables); err != nil {
		return err
	}
	w := &world{p}
	return p.Handle(Group, append([]bus.Option{
		bus.On(catalog.StatusPendingV1, w.pending),
		bus.On(catalog.StatusDeniedV1, w.denied),
		bus.On(medication.PrescriptionFilledV2, w.filled),
		bus.On(medication.PrescriptionReadyForPickupV1, w.ready),
	}, options...)...)
}

// Formulary returns what a prior authorization service knows of the payer's rules: everything but one drug that the payer
// has put on its list lately, and, unless mended, the plan NewPlan.
func Formulary(mended bool) (func(m medication.Medication, p *medication.Payer) (bool, error), error) {
	rules, err := payer.DefaultRules()
	if err != nil {
		return nil, err
	}
	drugs := slices.DeleteFunc(rules.Drugs(), func(code string) bool { return code == unlisted.rxnorm })
	return func(m medication.Medication, p *medication.Payer) (bool, error) {
		if !mended && p != nil && p.PlanID != nil && *p.PlanID == NewPlan {
			return false, bus.Fatal(ErrUnknownPlan)
		}
		return m.Code != nil && m.Code.Code != nil && slices.Contains(drugs, *m.Code.Code), nil
	}, nil
}

// ErrUnknownPlan is why a formulary that is not mended parks a prescription. It names no plan: error texts go into the audit.
var ErrUnknownPlan = errors.New("the plan code is not in the plan table; add the plan, then redrive the key")

// Overturn is how the payer's reviewer decides: a denial for want of a step before is overturned when the appeal has
// something to support it.
func Overturn(a catalog.AppealSubmitted, denied payer.Decision) bool {
	return len(a.Attachments) > 0 && len(denied.Reasons) > 0 && denied.Reasons[0].Code == "STEP-THERAPY"
}

// chance is a number below n that depends on who decides about what.
func chance(who, id string, n uint32) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(who + "/" + id))
	return h.Sum32() >> 8 % n
}

// answers are what prescribers say when they are asked, by the member that is missing.
var answers = map[string]string{
	"daysSupply":          `{"medication": {"daysSupply": %d}}`,
	"prescriberSpecialty": `{"prescriber": {"specialty": "rheumatology"}}`,
	"age":                 `{"clinical": {"ageYears": 47}}`,
	"sex":                 `{"clinical": {"gender": "female"}}`,
}

func (w *world) pending(ctx context.Context, tx bus.Tx, e event.Of[catalog.StatusPending]) error {
	if chance("answer", e.Payload.PriorAuthID, 4) == 0 {
		return nil // nobody answers
	}
	fields := map[string]map[string]any{}
	for _, m := range e.Payload.Missing {
		text, ok := answers[m.Field]
		if !ok {
			return nil // nothing that the prescriber knows
		}
		if m.Field == "daysSupply" {
			text = fmt.Sprintf(text, 5+10*chance("days", e.Payload.PriorAuthID, 2))
		}
		var said map[string]map[string]any
		if err := json.Unmarshal([]byte(text), &said); err != nil {
			return err
		}
		for member, values := range said {
			if fields[member] == nil {
				fields[member] = map[string]any{}
			}
			for name, v := range values {
				fields[member][name] = v
			}
		}
	}
	text, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	_, err = priorauth.DoTx(ctx, tx, w.p, e.Payload.PriorAuthID, priorauth.Update{Fields: text, Reason: "the payer asked", By: "PROV456"}, aggregate.Once(e.ID))
	return tooLate(err)
}

// tooLate takes a command that a request is past for done.
func tooLate(err error) error {
	var refused *priorauth.RefusedError
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

func (w *world) denied(ctx context.Context, tx bus.Tx, e event.Of[catalog.StatusDenied]) error {
	id := e.Payload.PriorAuthID
	if e.Payload.Appeal == nil || chance("appeal", id, 2) == 0 {
		return nil
	}
	now, err := priorauth.Requests.Load(ctx, w.p, id)
	if err != nil || len(now.State.Appeals) > 0 {
		return err
	}
	a := catalog.AppealSubmitted{Argument: new("The patient has tried the alternatives."), SubmittedBy: &catalog.Party{ID: new("PROV456")}}
	if chance("attach", id, 2) == 0 {
		a.Attachments = []catalog.Attachment{{Title: new("Letter of medical necessity"), ContentType: new("application/pdf")}}
	}
	_, err = priorauth.DoTx(ctx, tx, w.p, id, priorauth.Appeal{AppealSubmitted: a}, aggregate.Once(e.ID))
	return tooLate(err)
}

func (w *world) filled(_ context.Context, tx bus.Tx, e event.Of[medication.PrescriptionFilled]) error {
	f := e.Payload
	if e.Source != pharmacy.Source || f.FillID == nil || f.Pharmacy.ID == nil || f.Medication.NDC == nil {
		return nil
	}
	_, err := tx.Exec(`INSERT INTO simulation_fills (prescription_id, fill_id, pharmacy, ndc) VALUES ($1, $2, $3, $4)
		ON CONFLICT (prescription_id) DO UPDATE SET fill_id = excluded.fill_id, pharmacy = excluded.pharmacy, ndc = excluded.ndc`, f.PrescriptionID, *f.FillID, *f.Pharmacy.ID, *f.Medication.NDC)
	return err
}

func (w *world) ready(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionReadyForPickup]) error {
	r := e.Payload
	if e.Source != pharmacy.Source || chance("pickup", r.PrescriptionID, 10) == 0 {
		return nil
	}
	var fillID, pharmacyID, ndc string
	if err := tx.QueryRow(`SELECT fill_id, pharmacy, ndc FROM simulation_fills WHERE prescription_id = $1`, r.PrescriptionID).Scan(&fillID, &pharmacyID, &ndc); err != nil {
		return err
	}
	_, err := pharmacy.DoTx(ctx, tx, w.p, pharmacyID, ndc, pharmacy.HandOver{ID: r.PrescriptionID, PatientID: r.PatientID, FillID: fillID}, aggregate.Once(e.ID))
	var refused *pharmacy.RefusedError
	if errors.As(err, &refused) {
		return nil // too late: it went back to stock
	}
	return err
}

// Supply delivers to the pharmacy what all prescriptions of the store need that were not delivered for before:
// prescriptions that come from elsewhere.
func Supply(ctx context.Context, p *carebus.Platform) error {
	need := map[string]float64{}
	for r, err := range p.Store().All(ctx, nil, func(eventType string) bool { return eventType == medication.PrescriptionCreatedV1.Type() }) {
		if err != nil {
			return err
		}
		e, err := medication.PrescriptionCreatedV1.Decode(r.Event)
		if err != nil {
			return err
		}
		quantity := 1.0
		if q := e.Payload.Medication.Quantity; q != nil {
			quantity = *q
		}
		need[fulfillment.NDC(e.Payload.Medication)] += quantity
	}
	packages := slices.Sorted(maps.Keys(need))
	return together(len(packages), func(i int) error {
		ndc := packages[i]
		now, err := pharmacy.Stocks.Load(ctx, p, pharmacy.ID(Pharmacy, ndc))
		if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return err
		}
		if more := need[ndc] - now.State.Received; more > 0 {
			_, err = pharmacy.Do(ctx, p, Pharmacy, ndc, pharmacy.Receive{Quantity: more})
			return err
		}
		return nil
	})
}
