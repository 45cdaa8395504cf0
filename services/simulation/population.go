package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	catalog "github.com/carebus/carebus/catalog/medication"
	person "github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/patient"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/prescribing"
)

// drug is something that is prescribed.
type drug struct {
	rxnorm, ndc, name, form string
	quantity                float64
	days                    int64 // 0: the prescriber does not say
	conditions              []condition
	stock                   float64 // of what is needed, how much the pharmacy gets
}

type condition struct{ code, display string }

// What is paid for without asking comes first, then what the payer wants to be asked about, and last what it wants to be
// asked about and the formulary does not know of: its claim is rejected first.
var (
	plain = []drug{
		{"314076", "99999-0001-30", "Lisinopril 10 MG Oral Tablet", "tablet", 30, 30, []condition{{"59621000", "Essential hypertension"}}, 2},
		{"860975", "99999-0002-60", "Metformin hydrochloride 500 MG Oral Tablet", "tablet", 60, 30, []condition{{"44054006", "Type 2 diabetes mellitus"}}, 2},
		{"617312", "99999-0003-30", "Atorvastatin 20 MG Oral Tablet", "tablet", 30, 30, []condition{{"55822004", "Hyperlipidemia"}}, 2},
		{"308182", "99999-0004-21", "Amoxicillin 250 MG Oral Capsule", "capsule", 21, 7, []condition{{"444814009", "Viral sinusitis"}}, 0.5},
	}
	asked = []drug{
		{"896209", "99999-0005-01", "Fluticasone propionate 0.25 MG / salmeterol 0.05 MG Dry Powder Inhaler", "inhaler", 1, 30,
			[]condition{{"13645005", "Chronic obstructive lung disease"}, {"13645005", "Chronic obstructive lung disease"}, {"195967001", "Asthma"}}, 2},
		{"999967", "99999-0006-30", "Amlodipine 5 MG / hydrochlorothiazide 12.5 MG / olmesartan 40 MG Oral Tablet", "tablet", 30, 30, []condition{{"59621000", "Essential hypertension"}}, 2},
		{"1049221", "99999-0007-42", "Acetaminophen 325 MG / oxycodone 5 MG Oral Tablet", "tablet", 20, 0, []condition{{"82423001", "Chronic pain"}, {"283385000", "Laceration of thigh"}}, 2},
		{"327361", "99999-0008-02", "Adalimumab 40 MG Prefilled Pen", "pen", 2, 28, []condition{{"69896004", "Rheumatoid arthritis"}}, 2},
	}
	unlisted = drug{"106892", "99999-0009-30", "Insulin human, isophane 70 UNT/ML / regular 30 UNT/ML", "mL", 30, 30, []condition{{"44054006", "Type 2 diabetes mellitus"}}, 2}
)

// The plans of the population. NewPlan is one that the payer has begun to use and nobody has told the formulary of.
var plans = []string{"PPO-GOLD", "HMO-SILVER", "MEDICARE-D"}

// NewPlan is the plan code that Formulary does not know, unless it is told that it does.
const NewPlan = "PPO-PLATINUM"

// Pharmacy is the id of the only pharmacy.
const Pharmacy = "PHARM123"

var (
	firstNames = strings.Fields("Ada Ben Carla Dmitri Elena Farid Grace Hugo Imani Jonas Keiko Luis Maya Noor Omar Priya Quinn Rosa Sam Tara")
	lastNames  = strings.Fields("Abbott Baker Castillo Dunn Eriksen Fischer Gupta Hansen Ito Jones Kowalski Lopez Moreau Nguyen Okafor Petrov")
	cities     = []string{"Columbus", "Dayton", "Toledo", "Akron"}
)

// Population is a number of patients and what is prescribed for them. Its methods are called by one goroutine at a time.
type Population struct {
	Prefix string // of the run, in every id: patients are P1-1-0001, prescriptions RX1-1-000001

	rng      *rand.Rand
	patients []someone
	written  int
}

type someone struct {
	id, first, last, plan, birth string
	gender                       person.Gender
}

// maxUnknown bounds the patients on NewPlan: the point is a fault of a few, not a flood.
const maxUnknown = 20

// New invents a population. The same seed, run and size give the same one. unknown says whether some patients have NewPlan.
func New(seed uint64, run int64, size int, unknown bool) *Population {
	d := &Population{Prefix: fmt.Sprintf("%d-%d", seed, run), rng: rand.New(rand.NewPCG(seed, uint64(run)))}
	for i := range size {
		p := someone{id: fmt.Sprintf("P%s-%04d", d.Prefix, i+1), first: d.pick(firstNames), last: d.pick(lastNames), plan: d.pick(plans), gender: person.GenderFemale}
		if d.rng.IntN(2) == 0 {
			p.gender = person.GenderMale
		}
		p.birth = fmt.Sprintf("%d-%02d-%02d", 1935+d.rng.IntN(70), 1+d.rng.IntN(12), 1+d.rng.IntN(28))
		d.patients = append(d.patients, p)
	}
	d.rng.Shuffle(size, func(i, j int) { d.patients[i], d.patients[j] = d.patients[j], d.patients[i] })
	for i, n := 2, 0; unknown && i < size && n < maxUnknown; i += 25 {
		d.patients[i].plan = NewPlan
		n++
	}
	return d
}

func (d *Population) pick(from []string) string { return from[d.rng.IntN(len(from))] }

// steadily does something until the store can be reached. Then it may be done already: it must say nothing twice.
func steadily(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !errors.Is(err, eventstore.ErrUnavailable) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// together does n things at once, some at a time, so that they share commits, and returns the first error of each.
func together(n int, do func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, min(n, 32))
	for w := range errs {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += len(errs) {
				errs[w] = do(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Admit opens the patients' records. Those that there are stay as they are.
func (d *Population) Admit(ctx context.Context, p *carebus.Platform) error {
	creations := make([]patient.Create, len(d.patients))
	for i, who := range d.patients {
		creations[i] = patient.Create{RecordCreated: person.RecordCreated{
			FirstName: &who.first, LastName: &who.last, DateOfBirth: &who.birth, Gender: who.gender,
			Address: &person.Address{City: new(d.pick(cities)), State: new("OH")}, PreferredLanguage: new("en"),
		}}
	}
	return together(len(creations), func(i int) error {
		_, err := patient.Do(ctx, p, d.patients[i].id, creations[i])
		var refused *patient.RefusedError
		if errors.As(err, &refused) && refused.Rule == "not-exists" {
			return nil
		}
		return err
	})
}

// Deliver puts into stock what a number of prescriptions needs, of one drug too little.
func (d *Population) Deliver(ctx context.Context, p *carebus.Platform, prescriptions int) error {
	for _, of := range append(append(append([]drug{}, plain...), asked...), unlisted) {
		packages := of.stock * float64(prescriptions) / 6
		if _, err := pharmacy.Do(ctx, p, Pharmacy, of.ndc, pharmacy.Receive{Quantity: of.quantity * max(2, float64(int(packages)))}); err != nil {
			return err
		}
	}
	return nil
}

// Prescribe writes the next n prescriptions, and now and then something changes in a patient's record. While the store
// cannot be reached it tries again, until ctx ends.
func (d *Population) Prescribe(ctx context.Context, p *carebus.Platform, n int) error {
	type writing struct {
		id string
		rx prescribing.Create
		to patient.Command
	}
	work := make([]writing, n)
	for i := range work {
		work[i].id, work[i].rx = d.next()
		if d.rng.IntN(8) == 0 {
			work[i].to = d.news(work[i].id)
		}
	}
	return together(n, func(i int) error {
		w := work[i]
		err := steadily(ctx, func() error {
			_, err := prescribing.Do(ctx, p, w.id, w.rx)
			return err
		})
		var exists *prescribing.RefusedError
		if errors.As(err, &exists) && exists.Rule == "exists" {
			return nil // written before this simulation was killed, or its answer was lost; the news are of no consequence
		}
		if err != nil || w.to == nil {
			return err
		}
		return steadily(ctx, func() error {
			_, err := patient.Do(ctx, p, w.rx.PatientID, w.to, aggregate.Once(w.id))
			return err
		})
	})
}

// next invents a prescription. Everybody gets one before anybody gets another.
func (d *Population) next() (string, prescribing.Create) {
	i := d.written
	if d.written++; i >= len(d.patients) {
		i = d.rng.IntN(len(d.patients))
	}
	who := d.patients[i]
	of := plain[d.rng.IntN(len(plain))]
	switch n := d.rng.IntN(20); {
	case who.plan == NewPlan || n < 6:
		of = asked[d.rng.IntN(len(asked))]
	case n == 6:
		of = unlisted
	}
	why := of.conditions[d.rng.IntN(len(of.conditions))]
	if d.rng.IntN(8) == 0 {
		why = condition{"444814009", "Viral sinusitis"} // not what the plan pays the drug for
	}
	quantity := of.quantity
	if of.rxnorm == asked[0].rxnorm && d.rng.IntN(4) == 0 {
		quantity *= 3 // more than the plan allows
	}
	rx := catalog.PrescriptionCreated{
		PatientID: who.id, Refills: new(int64(d.rng.IntN(6))), Status: catalog.PrescriptionStatusActive,
		Medication: catalog.Medication{
			Code: &catalog.Codeable{System: new("http://www.nlm.nih.gov/research/umls/rxnorm"), Code: &of.rxnorm, Display: &of.name},
			NDC:  &of.ndc, Name: of.name, Form: &of.form, Quantity: &quantity, QuantityUnit: &of.form,
		},
		Prescriber: &catalog.Prescriber{ID: new("PROV456"), Name: new("Dr. Robin Gray")}, Pharmacy: &catalog.Pharmacy{ID: new(Pharmacy)},
		Conditions: []catalog.Codeable{{System: new("http://snomed.info/sct"), Code: &why.code, Display: &why.display}},
		Payer:      &catalog.Payer{ID: new("PAYER789"), PlanID: &who.plan},
	}
	if of.days > 0 {
		rx.Medication.DaysSupply = &of.days
	}
	return fmt.Sprintf("RX%s-%06d", d.Prefix, d.written), prescribing.Create{PrescriptionCreated: rx}
}

// news is something that changes in the record of the patient of a prescription.
func (d *Population) news(prescriptionID string) patient.Command {
	switch d.rng.IntN(4) {
	case 0:
		return patient.ChangeAddress{Address: person.Address{Street: new(fmt.Sprint(1+d.rng.IntN(900), " Main St")), City: new(d.pick(cities)), State: new("OH")}}
	case 1:
		return patient.ChangeContact{PhoneNumber: new(fmt.Sprintf("614-555-%04d", d.rng.IntN(10000)))}
	case 2:
		return patient.UpdatePreferences{PreferencesUpdated: person.PreferencesUpdated{PreferredChannel: person.PreferencesUpdatedPreferredChannelSMS, Notifications: map[string]bool{"prescription-ready": d.rng.IntN(2) == 0}}}
	}
	return patient.ProvideConsent{ConsentProvided: person.ConsentProvided{ConsentID: new("CONSENT-" + prescriptionID), Scope: "treatment", Purpose: []string{"TREAT"}, Decision: person.ConsentProvidedDecisionPermit}}
}
