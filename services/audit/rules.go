package audit

import (
	"slices"

	"github.com/carebus/carebus/catalog/medication"
)

// checks holds the rules against what the events have said.
func (l *ledger) checks() []Check {
	approvals := Check{Name: "approval-has-its-request", Rule: "every approved authorization belongs to one request, of the same patient and prescription, and rests on a decision of the payer"}
	for _, id := range sorted(l.requests) {
		r := l.requests[id]
		if r.approved > 0 {
			approvals.hold(r.submitted == 1 && r.approved == 1 && r.patient != "somebody else" && r.grants > 0, id,
				"approved %d times, submitted %d times, %d decisions of the payer approve", r.approved, r.submitted, r.grants)
		}
	}
	return []Check{approvals, l.fills(), l.oneFill(), l.released(), l.reversed(), l.completions(), *l.negative, *l.sums, l.claimsOnce(), l.noticesOnce()}
}

// fills: no fill without a verified prescription, reserved stock and a paid claim.
func (l *ledger) fills() Check {
	c := Check{Name: "fill-is-covered", Rule: "no fill without a verified prescription, reserved stock and a paid claim, each before it"}
	for _, id := range sorted(l.prescriptions) {
		p := l.prescriptions[id]
		for _, f := range p.fills {
			c.Looked++
			if p.verified.IsZero() || p.verified.After(f.at) {
				c.violated(id, "fill %s: the prescription was not verified before", f.id)
			}
			reserved := false
			for _, at := range p.held {
				reserved = reserved || !at.After(f.at)
			}
			if !reserved {
				c.violated(id, "fill %s: no stock was reserved before", f.id)
			}
			paid := l.claims[f.claim]
			if paid == nil || paid.prescription != id || len(paid.approved) == 0 || paid.approved[0].After(f.at) {
				c.violated(id, "fill %s: its claim was not paid before", f.id)
			}
		}
	}
	return c
}

func (l *ledger) oneFill() Check {
	c := Check{Name: "one-fill-at-a-time", Rule: "a prescription has one fill at most that was not returned, which is handed over once at most"}
	for _, id := range sorted(l.prescriptions) {
		p := l.prescriptions[id]
		if len(p.fills)+p.returned+p.pickedUp > 0 {
			c.hold(len(p.fills)-p.returned <= 1 && p.returned <= len(p.fills) && p.pickedUp+p.returned <= len(p.fills), id,
				"%d fills, %d returned, %d handed over", len(p.fills), p.returned, p.pickedUp)
		}
	}
	return c
}

// released: every failed saga has released what it took.
func (l *ledger) released() Check {
	c := Check{Name: "failure-has-released", Rule: "a fulfilment that failed holds no stock, and no claim that the payer pays for"}
	last := map[string]*attempt{} // of each prescription
	for _, id := range sorted(l.attempts) {
		a := l.attempts[id]
		if o := last[a.prescription]; o == nil || a.startedAt.After(o.startedAt) {
			last[a.prescription] = a
		}
	}
	for _, id := range sorted(l.attempts) {
		a := l.attempts[id]
		if a.failed == 0 || a.stuck > 0 { // what is stuck says so, and waits for a person
			continue
		}
		c.Looked++
		claim := l.claims["CLM-"+id[len("FUL-"):]]
		if claim != nil && len(claim.approved) > 0 && claim.voided != 1 {
			c.violated(id, "its claim was paid, and voided %d times", claim.voided)
		}
		if p := l.prescriptions[a.prescription]; p != nil && last[a.prescription] == a && len(p.reserved)+len(p.taken) > 0 {
			c.violated(id, "stock is still reserved or taken for its prescription")
		}
	}
	return c
}

// reversed: what was undone is exactly what was done, in reverse.
func (l *ledger) reversed() Check {
	c := Check{Name: "undone-in-reverse", Rule: "a fulfilment that failed has undone, last first, exactly the steps that have something to undo, and says so"}
	for _, id := range sorted(l.attempts) {
		a := l.attempts[id]
		if a.failed == 0 || a.stuck > 0 {
			continue
		}
		// The claim counts as done with its submission; its step is told with the payer's answer.
		var want []medication.FulfillmentStep
		if slices.Contains(a.done, medication.FulfillmentStepFill) {
			want = append(want, medication.FulfillmentStepFill)
		}
		if claim := l.claims["CLM-"+id[len("FUL-"):]]; claim != nil && claim.submitted > 0 {
			want = append(want, medication.FulfillmentStepClaim)
		}
		if slices.Contains(a.done, medication.FulfillmentStepReserve) {
			want = append(want, medication.FulfillmentStepReserve)
		}
		c.hold(slices.Equal(a.undone, want) && slices.Equal(a.compensated, want), id, "undone %v, told %v, done that can be undone (last first) %v", a.undone, a.compensated, want)
	}
	return c
}

// completions: a fulfilment ends once.
func (l *ledger) completions() Check {
	c := Check{Name: "fulfilment-ends-once", Rule: "a fulfilment begins once, and completes or fails once; one that has completed and not failed has its fill and its paid claim"}
	for _, id := range sorted(l.attempts) {
		a := l.attempts[id]
		c.hold(a.started == 1 && a.completed <= 1 && a.failed <= 1, id, "started %d times, completed %d, failed %d", a.started, a.completed, a.failed)
		if a.completed == 1 && a.failed == 0 {
			p, claim := l.prescriptions[a.prescription], l.claims[a.claim]
			if p == nil || len(p.fills)-p.returned != 1 {
				c.violated(id, "completed, and there is no fill, or it was returned")
			}
			if claim == nil || len(claim.approved) != 1 || claim.voided > 0 {
				c.violated(id, "completed, and its claim is not paid")
			}
		}
	}
	return c
}

func (l *ledger) claimsOnce() Check {
	c := Check{Name: "claim-is-answered-once", Rule: "a claim is submitted once, answered once at most, and voided once at most, after it was paid"}
	for _, id := range sorted(l.claims) {
		v := l.claims[id]
		if v.submitted > 0 {
			c.hold(v.submitted == 1 && len(v.approved)+v.rejected <= 1 && v.voided <= len(v.approved), id,
				"submitted %d times, approved %d, rejected %d, voided %d", v.submitted, len(v.approved), v.rejected, v.voided)
		}
	}
	return c
}

func (l *ledger) noticesOnce() Check {
	c := Check{Name: "notice-is-sent-once", Rule: "no notification is sent twice"}
	for id, n := range l.notices {
		c.hold(n == 1, id, "sent %d times", n)
	}
	return c
}
