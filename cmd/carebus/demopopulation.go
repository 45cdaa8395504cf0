package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/event"
)

// demoDrug is a line of the demo's formulary, which all of its services know.
type demoDrug struct {
	rxnorm, name, form string
	quantity           float64
	days               int64
	cents              int64  // price of a fill
	covered            string // ICD-10 code that the plans pay for; empty: no prior authorization needed
	coveredText        string
}

// demoFormulary is a small piece of a real one. Prices are invented.
var demoFormulary = []demoDrug{
	{"314076", "Lisinopril 10 MG Oral Tablet", "tablet", 30, 30, 940, "", ""},
	{"860975", "Metformin hydrochloride 500 MG Oral Tablet", "tablet", 60, 30, 1210, "", ""},
	{"617312", "Atorvastatin 20 MG Oral Tablet", "tablet", 30, 30, 1375, "", ""},
	{"308182", "Amoxicillin 250 MG Oral Capsule", "capsule", 21, 7, 780, "", ""},
	{"327361", "Adalimumab 40 MG Prefilled Pen", "pen", 2, 28, 692250, "M06.9", "Rheumatoid arthritis, unspecified"},
	{"1991302", "Semaglutide 1 MG Pen Injector", "pen", 1, 28, 93577, "E11.9", "Type 2 diabetes mellitus without complications"},
	{"1657981", "Evolocumab 140 MG Prefilled Syringe", "syringe", 2, 28, 57290, "E78.01", "Familial hypercholesterolemia"},
}

func demoDrugByCode(code *medication.Codeable) (demoDrug, bool) {
	for _, d := range demoFormulary {
		if code != nil && code.Code != nil && d.rxnorm == *code.Code {
			return d, true
		}
	}
	return demoDrug{}, false
}

// demoPlans are the plan codes that the prior authorization service knows. demoNewPlan is one that the payer has begun
// to use and nobody has told it of: what names it cannot be handled until the service is mended.
var demoPlans = []string{"PPO-GOLD", "HMO-SILVER", "MEDICARE-D"}

const demoNewPlan = "PPO-PLATINUM"

var (
	demoFirst  = strings.Fields("Ada Ben Carla Dmitri Elena Farid Grace Hugo Imani Jonas Keiko Luis Maya Noor Omar Priya Quinn Rosa Sam Tara")
	demoLast   = strings.Fields("Abbott Baker Castillo Dunn Eriksen Fischer Gupta Hansen Ito Jones Kowalski Lopez Moreau Nguyen Okafor Petrov")
	demoCities = []string{"Columbus", "Dayton", "Toledo", "Akron"}
)

type demoPatient struct {
	id, first, last, plan string
	drug                  int // what a patient with a prior authorization is treated with
}

// demoPopulation invents patients and prescriptions. The same seed, run and size give the same ones.
type demoPopulation struct {
	prefix   string
	rng      *rand.Rand
	patients []demoPatient
	poisoned int // patients on the plan that nobody knows
	written  int // prescriptions so far
}

// maxPoisoned bounds the keys that a demo parks: the point is a fault of a few, not a flood.
const maxPoisoned = 20

func newDemoPopulation(seed uint64, run int64, size int) *demoPopulation {
	d := &demoPopulation{prefix: fmt.Sprintf("%d-%d", seed, run), rng: rand.New(rand.NewPCG(seed, uint64(run)))}
	pick := func(from []string) string { return from[d.rng.IntN(len(from))] }
	for i := range size {
		d.patients = append(d.patients, demoPatient{
			id: fmt.Sprintf("P%s-%04d", d.prefix, i+1), first: pick(demoFirst), last: pick(demoLast), plan: pick(demoPlans), drug: 4 + d.rng.IntN(3),
		})
	}
	d.rng.Shuffle(size, func(i, j int) { d.patients[i], d.patients[j] = d.patients[j], d.patients[i] })
	for i := 2; i < size && d.poisoned < maxPoisoned; i += 25 {
		d.patients[i].plan = demoNewPlan
		d.poisoned++
	}
	return d
}

func (d *demoPopulation) record(p demoPatient) event.Event {
	gender := patient.GenderFemale
	if d.rng.IntN(2) == 0 {
		gender = patient.GenderMale
	}
	return patient.RecordCreatedV1.New("patient-service", patient.RecordCreated{
		PatientID: p.id, FirstName: &p.first, LastName: &p.last, Gender: gender,
		DateOfBirth: new(fmt.Sprintf("%d-%02d-%02d", 1935+d.rng.IntN(80), 1+d.rng.IntN(12), 1+d.rng.IntN(28))),
		Address:     &patient.Address{City: new(demoCities[d.rng.IntN(len(demoCities))]), State: new("OH")},
	})
}

// demoSource is the provider system's name. The demo's services look only at what it prescribes, and at what follows
// from that: a store may hold other people's prescriptions too.
const demoSource = "provider-system"

// prescribe writes the next prescription. Everybody gets one before anybody gets another.
func (d *demoPopulation) prescribe(now time.Time) event.Event {
	i := d.written
	if d.written++; i >= len(d.patients) {
		i = d.rng.IntN(len(d.patients))
	}
	p := d.patients[i]
	drug := demoFormulary[d.rng.IntN(4)]
	if p.plan == demoNewPlan || d.rng.IntN(3) == 0 {
		drug = demoFormulary[p.drug]
	}
	reason := medication.Codeable{System: new("http://hl7.org/fhir/sid/icd-10-cm"), Code: new("Z76.0"), Display: new("Encounter for issue of repeat prescription")}
	if drug.covered != "" {
		reason.Code, reason.Display = &drug.covered, &drug.coveredText
		if d.rng.IntN(5) == 0 { // not what the plan pays the drug for
			reason.Code, reason.Display = new("M79.7"), new("Fibromyalgia")
		}
	}
	e := medication.PrescriptionCreatedV1.New(demoSource, medication.PrescriptionCreated{
		PrescriptionID: fmt.Sprintf("RX%s-%06d", d.prefix, d.written), PatientID: p.id,
		Medication: medication.Medication{
			Code: &medication.Codeable{System: new("http://www.nlm.nih.gov/research/umls/rxnorm"), Code: &drug.rxnorm, Display: &drug.name},
			Name: drug.name, Form: &drug.form, Quantity: &drug.quantity, QuantityUnit: &drug.form, DaysSupply: &drug.days,
		},
		Prescriber: &medication.Prescriber{ID: new("PROV456"), Name: new("Dr. Robin Gray")},
		AuthoredOn: now.UTC(), Refills: new(int64(d.rng.IntN(6))), Status: medication.PrescriptionStatusActive,
		Conditions: []medication.Codeable{reason}, Payer: &medication.Payer{ID: new("PAYER789"), PlanID: &p.plan},
	})
	e.PartitionKey = p.id
	return e
}
