package payer

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/carebus/carebus/catalog/priorauth"
)

// Benefit is what a request falls under. Rules are about drugs and have the first two; clocks know all three, since the
// deadlines for services are not those for drugs.
type Benefit string

// The benefits.
const (
	BenefitPharmacy Benefit = "pharmacy" // a drug from a pharmacy
	BenefitMedical  Benefit = "medical"  // a drug given by a clinician
	BenefitServices Benefit = "services" // items and services that are no drugs
)

func (b Benefit) known() bool {
	return b == BenefitPharmacy || b == BenefitMedical || b == BenefitServices
}

// Clock says how soon a payer must decide. Calendar time counts, from the arrival of the request; asking for missing
// information does not stop it.
type Clock struct {
	Deadline time.Duration // from arrival to the last moment for a decision
	Remind   time.Duration // from arrival to the moment to remind the reviewer
	Escalate time.Duration // from arrival to the moment to hand over to a supervisor; after Remind, before Deadline
	Source   string        // what the figures rest on
}

// ErrNoClock is what Clock wraps when the rule file has no clock for the question.
var ErrNoClock = errors.New("payer: no decision clock")

// Clock returns the clock for a line of business, a benefit and an urgency; an empty urgency is standard. Lines of
// business that the file does not name have its clocks for "*". Where there is none either, the error is ErrNoClock.
func (r *Rules) Clock(lob priorauth.PayerLineOfBusiness, benefit Benefit, urgency priorauth.Urgency) (Clock, error) {
	if urgency == "" {
		urgency = priorauth.UrgencyStandard
	}
	for _, lob := range []string{string(lob), anyOther} {
		if c, ok := r.clocks[clockKey{lob, benefit, urgency}]; ok {
			return c, nil
		}
	}
	return Clock{}, fmt.Errorf("%w for this line of business, benefit and urgency in rule set %s %s; add one for \"*\"", ErrNoClock, r.id, r.version)
}

// Dispensing is how long a fill may wait, and how much may be given without a decision.
type Dispensing struct {
	PickupDays          int  // days after which a fill nobody picked up is reversed
	BusinessDays        bool // the days of PickupDays are Mondays to Fridays
	EmergencySupplyDays int  // days of supply that a pharmacy may give while a decision is awaited
	Source              string
}

// PickupBy returns the last moment of the pickup window of a fill that was ready at the given time, which is the same
// time of day at the end of the window. Holidays count as business days: the window is then short rather than long.
func (d Dispensing) PickupBy(ready time.Time) time.Time {
	if !d.BusinessDays {
		return ready.AddDate(0, 0, d.PickupDays)
	}
	for left := d.PickupDays; left > 0; {
		ready = ready.AddDate(0, 0, 1)
		if day := ready.Weekday(); day != time.Saturday && day != time.Sunday {
			left--
		}
	}
	return ready
}

// Dispensing returns the figures for a payer, by its name without regard to case. A payer that the file does not name
// has those for "*".
func (r *Rules) Dispensing(payer string) Dispensing {
	if d, ok := r.dispensing[strings.ToLower(strings.TrimSpace(payer))]; ok {
		return d
	}
	return r.dispensing[anyOther]
}

// anyOther is the key of a row that holds for everything without a row of its own.
const anyOther = "*"

type clockKey struct {
	lob     string
	benefit Benefit
	urgency priorauth.Urgency
}
