package payer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/carebus/carebus/catalog/priorauth"
)

// Facts is all that a decision may rest on: one request for one drug, and what was known at its moment. Days are counted
// back from that moment, so that the same facts give the same answer whenever the question is asked again.
//
// The JSON names are the names that the expressions of a rule file use: rx.rxcui, pt.age, dx, hist, allergy, obs, plan.
// All of it is protected health information. Decide only reads it.
type Facts struct {
	Request      Request                `json:"rx"`
	Patient      Patient                `json:"pt"`
	Diagnoses    []Diagnosis            `json:"dx,omitempty"`
	History      []PastDrug             `json:"hist,omitempty"`
	Allergies    []Allergy              `json:"allergy,omitempty"`
	Observations map[string]Observation `json:"obs,omitempty"` // the latest by LOINC code
	Plan         Plan                   `json:"plan"`
}

// Request is the drug that is asked for. Nil members are unknown.
type Request struct {
	RxCUI               string            `json:"rxcui"` // RxNorm concept; required
	Name                string            `json:"name,omitempty"`
	Quantity            *float64          `json:"quantity,omitempty"`   // for each fill
	DaysSupply          *int64            `json:"daysSupply,omitempty"` // days that the quantity lasts
	Refills             *int64            `json:"refills,omitempty"`
	Priority            priorauth.Urgency `json:"priority,omitempty"` // empty is standard
	PrescriberSpecialty *string           `json:"prescriberSpecialty,omitempty"`
	DispenseAsWritten   *bool             `json:"dispenseAsWritten,omitempty"`
}

// Patient is whom the drug is for.
type Patient struct {
	ID    string           `json:"id"`            // required; authorizations on file are found by it
	Age   *int64           `json:"age,omitempty"` // whole years
	Sex   priorauth.Gender `json:"sex,omitempty"`
	State string           `json:"state,omitempty"`
}

// Diagnosis is a condition on the record, resolved ones too.
type Diagnosis struct {
	Code    string `json:"code"` // SNOMED CT
	Display string `json:"display,omitempty"`
	Active  bool   `json:"active"`
	DaysAgo int64  `json:"daysAgo"` // since onset
}

// PastDrug is one drug prescribed before, or at the same moment.
type PastDrug struct {
	RxCUI   string `json:"rxcui,omitempty"`
	Name    string `json:"name,omitempty"`
	DaysAgo int64  `json:"daysAgo"`
}

// Allergy is an allergy or intolerance on the record.
type Allergy struct {
	Code string `json:"code"`
}

// Observation is a measured value, in the unit that is usual for its code.
type Observation struct {
	Value   float64 `json:"value"`
	DaysAgo int64   `json:"daysAgo"`
}

// Plan is who would pay.
type Plan struct {
	Payer          string                        `json:"payer,omitempty"`
	LineOfBusiness priorauth.PayerLineOfBusiness `json:"lob,omitempty"`
	// MemberID is the payer's number of the patient. Empty says that the payer does not know the patient: the answer is
	// then to contact the payer, whatever the drug.
	MemberID string `json:"memberId,omitempty"`
}

// Authorization is an approval that the payer has on file.
type Authorization struct {
	Number    string
	PatientID string
	RxCUI     string
	Payer     string
	From      time.Time // first instant
	Until     time.Time // the instant after the last
	// Quantity lasts for DaysSupply days. A request for more is not covered and is decided anew. Zero is no limit.
	Quantity   float64
	DaysSupply int64
}

// covers reports whether a answers the request of f at the given moment.
func (a Authorization) covers(f *Facts, at time.Time) bool {
	return a.PatientID == f.Patient.ID && a.RxCUI == f.Request.RxCUI && a.Payer == f.Plan.Payer &&
		!at.Before(a.From) && at.Before(a.Until) &&
		(a.Quantity == 0 || !exceeds(&f.Request, a.Quantity, a.DaysSupply))
}

// exceeds reports whether the request is for more than amount in perDays days; perDays 0 is for each fill. A request
// that says no days is taken for one such span.
func exceeds(rx *Request, amount float64, perDays int64) bool {
	if rx.Quantity == nil {
		return false
	}
	const rounding = 1 + 1e-9 // of the division in allowed: what was granted covers the same request again
	return *rx.Quantity > allowed(rx, amount, perDays)*rounding
}

// allowed is the amount for the days that the request is for. Whole units stay whole, rounded up: 31 days of two pens in 28
// are three pens. An amount with a fraction is a measure, such as millilitres, and is not rounded.
func allowed(rx *Request, amount float64, perDays int64) float64 {
	if perDays == 0 || rx.DaysSupply == nil {
		return amount
	}
	v := amount * float64(*rx.DaysSupply) / float64(perDays)
	if amount == math.Trunc(amount) {
		return math.Ceil(v)
	}
	return v
}

// ErrFacts is what Decide wraps when the facts are no question that can be answered; the text names the member.
var ErrFacts = errors.New("payer: the facts are not a valid request")

// Beyond these a number is a mistake.
const (
	maxQuantity = 1e9
	maxDays     = 36_525
)

// check refuses facts that no rule could judge rightly. It never quotes a value.
func (f *Facts) check() error {
	bad := func(member, what string) error { return fmt.Errorf("%w: %s %s", ErrFacts, member, what) }
	rx := &f.Request
	switch {
	case rx.RxCUI == "":
		return bad("rx.rxcui", "is empty; look the drug up in RxNorm first")
	case f.Patient.ID == "":
		return bad("pt.id", "is empty")
	case rx.Quantity != nil && !(*rx.Quantity > 0 && *rx.Quantity <= maxQuantity):
		return bad("rx.quantity", "is not a positive number up to a billion; leave it out where it is unknown")
	case rx.DaysSupply != nil && (*rx.DaysSupply <= 0 || *rx.DaysSupply > maxDays):
		return bad("rx.daysSupply", "is not a positive number of days up to a hundred years; leave it out where it is unknown")
	case rx.Refills != nil && *rx.Refills < 0:
		return bad("rx.refills", "is negative")
	case rx.Priority != "" && !rx.Priority.Known():
		return bad("rx.priority", "is neither standard nor expedited")
	case f.Patient.Age != nil && *f.Patient.Age < 0:
		return bad("pt.age", "is negative")
	}
	for code, o := range f.Observations {
		if math.IsNaN(o.Value) || math.IsInf(o.Value, 0) || code == "" {
			return bad("obs", "holds a value that is not a number, or has no code")
		}
	}
	return nil
}

// Fingerprint says who asks whom for what, as 64 hexadecimal digits: two requests with the same fingerprint are one
// request, sent again. It is stable between processes and releases.
//
// What is known of the patient is not in it, nor is the drug's name: a record grows with every visit. Whether that changes
// the answer is seen by deciding again; see Decision.Repeats.
//
// It is a digest of protected health information over few possible values: do not publish it.
func (f Facts) Fingerprint() string {
	rx := &f.Request
	var b []byte
	for _, part := range []string{
		"v1", f.Patient.ID, f.Plan.Payer, string(f.Plan.LineOfBusiness), f.Plan.MemberID,
		rx.RxCUI, number(rx.Quantity), integer(rx.DaysSupply), integer(rx.Refills), string(rx.urgency()),
		text(rx.PrescriberSpecialty), truth(rx.DispenseAsWritten),
	} {
		b = strconv.AppendQuote(b, part) // quoting keeps the parts apart, whatever characters they hold
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func text(v *string) string {
	if v == nil {
		return ""
	}
	return "=" + *v // an empty text is not an absent one
}

func truth(v *bool) string {
	if v == nil {
		return ""
	}
	return strconv.FormatBool(*v)
}

func number(v *float64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatFloat(*v, 'g', -1, 64)
}

func integer(v *int64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatInt(*v, 10)
}

func (rx *Request) urgency() priorauth.Urgency {
	if rx.Priority == "" {
		return priorauth.UrgencyStandard
	}
	return rx.Priority
}
