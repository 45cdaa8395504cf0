package payer_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/timer"
)

// office is where the payer works in these tests: a platform whose clock is moved by hand.
type office struct {
	*carebus.Platform
	t      *testing.T
	clock  *carebustest.Clock
	store  *eventstore.Store
	timers *timer.Timers
}

func newOffice(t *testing.T) *office {
	t.Helper()
	p, clock := carebustest.OpenAt(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	if err := payer.Join(t.Context(), p, payer.Options{}); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	return &office{p, t, clock, p.Store(), p.Timers()}
}

func (o *office) now() time.Time { return o.clock.Now() }

// receives publishes events and waits until they are handled, and what followed from them.
func (o *office) receives(events ...event.Event) {
	o.t.Helper()
	for _, e := range events {
		if _, err := o.store.Append(o.t.Context(), "", eventstore.AnyVersion, e); err != nil {
			o.t.Fatal(err)
		}
	}
	carebustest.Settle(o.t, o.Platform)
}

// passes lets time pass, fires what is due and waits until it is handled.
func (o *office) passes(d time.Duration) {
	o.t.Helper()
	o.clock.Jump(d)
	o.receives()
}

// said lists what was said of deadlines: "PA1 reminder payer-review 03-05 09:00".
func (o *office) said() string {
	o.t.Helper()
	var out []string
	for r, err := range o.store.All(o.t.Context(), nil, func(typ string) bool { return strings.HasPrefix(typ, "priorauth.deadline.") }) {
		if err != nil {
			o.t.Fatal(err)
		}
		var p priorauth.DeadlineApproaching
		if err := json.Unmarshal(r.Payload, &p); err != nil {
			o.t.Fatal(err)
		}
		if r.Type == priorauth.DeadlineMissedV1.Type() {
			p.Stage = "missed"
		}
		out = append(out, fmt.Sprint(p.PriorAuthID, " ", p.Stage, " ", *p.Assignee.ID, " ", p.Deadline.UTC().Format("01-02 15:04")))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func (o *office) expect(what, want string) {
	o.t.Helper()
	if got := o.said(); got != want {
		o.t.Errorf("%s: %q\nwant %q", what, got, want)
	}
}

func (o *office) pending() int {
	o.t.Helper()
	list, err := o.timers.Pending(o.t.Context(), "", 1000)
	if err != nil {
		o.t.Fatal(err)
	}
	return len(list)
}

// unnamed is a request that the rules have to pend: it does not say which drug it is for.
func unnamed(id string, at time.Time, change func(*priorauth.RequestSubmitted)) event.Event {
	return asthmatic(id, at, func(r *priorauth.RequestSubmitted) {
		r.Medication.Code = nil
		r.PatientID = "P-" + id
		if change != nil {
			change(r)
		}
	})
}

func answered(id string) event.Event {
	return priorauth.RequestUpdatedV1.New("priorauth-service", priorauth.RequestUpdated{PriorAuthID: id, UpdatedFields: json.RawMessage(`{"medication":{"code":{"code":"896209"}}}`)})
}

// TestDeadlines: a request of last year starts its clock now; figures follow line of business and urgency; a decision
// between reminder and escalation stops the rest.
func TestDeadlines(t *testing.T) {
	o := newOffice(t)
	o.receives(
		asthmatic("PA0", o.now(), nil), // decided at once
		unnamed("PA1", o.now().AddDate(-1, 0, 0), nil),
		unnamed("PA2", o.now(), func(r *priorauth.RequestSubmitted) { r.Payer.LineOfBusiness = priorauth.PayerLineOfBusinessMedicaid }),
		unnamed("PA3", o.now(), func(r *priorauth.RequestSubmitted) { r.Urgency = priorauth.UrgencyExpedited }),
		unnamed("PA4", o.now(), nil),
		unnamed("PA5", o.now(), nil),
	)
	if n := o.pending(); n != 15 {
		t.Fatalf("%d timers, want three for each request that waits", n)
	}
	o.expect("at once", "")
	due, err := payer.Inbox(t.Context(), o.store, 10)
	if err != nil || len(due) != 5 || due[0].PriorAuthID != "PA2" || !due[0].DecideBy.Equal(o.now().Add(24*time.Hour)) || !due[4].ReceivedAt.Equal(o.now()) {
		t.Errorf("the inbox: %+v, %v", due, err)
	}

	o.passes(16 * time.Hour)
	early := "PA2 reminder payer-review 03-03 09:00; PA3 reminder payer-review 03-03 09:00"
	o.expect("after 16 hours", early)
	o.receives(answered("PA2"), priorauth.RequestCancelledV1.New("priorauth-service", priorauth.RequestCancelled{PriorAuthID: "PA4"}))
	o.receives(priorauth.DecisionMadeV1.New("review-desk", priorauth.DecisionMade{PriorAuthID: "PA5", PatientID: "P-PA5", Decision: priorauth.DecisionDenied, DecidedAt: o.now()}))
	if n := o.pending(); n != 5 {
		t.Errorf("%d timers, want those of PA1 and what is left of PA3", n)
	}

	o.passes(56 * time.Hour)
	o.expect("after 72 hours", "PA1 escalation payer-supervisor 03-05 09:00; PA1 missed payer-supervisor 03-05 09:00; PA1 reminder payer-review 03-05 09:00; "+
		"PA2 reminder payer-review 03-03 09:00; PA3 escalation payer-supervisor 03-03 09:00; PA3 missed payer-supervisor 03-03 09:00; PA3 reminder payer-review 03-03 09:00")

	before := o.said()
	if err := o.Bus().Replay(t.Context(), payer.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	o.receives()
	if err := o.Bus().Seek(t.Context(), payer.Group, bus.Beginning(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	o.passes(240 * time.Hour)
	o.expect("ten days later, everything handled three times", before)
}

// TestDeadlineIsNeverMoreTime: an update that does not decide lets the clock go on; a request that becomes urgent gets
// the shorter clock, from then on; one that loses its urgency keeps it.
func TestDeadlineIsNeverMoreTime(t *testing.T) {
	o := newOffice(t)
	update := func(id, fields string) event.Event {
		return priorauth.RequestUpdatedV1.New("priorauth-service", priorauth.RequestUpdated{PriorAuthID: id, UpdatedFields: json.RawMessage(fields)})
	}
	o.receives(unnamed("PA1", o.now(), nil), unnamed("PA2", o.now(), nil), unnamed("PA3", o.now(), func(r *priorauth.RequestSubmitted) { r.Urgency = priorauth.UrgencyExpedited }))
	o.passes(10 * time.Hour)
	o.receives(update("PA1", `{"urgency":"expedited"}`), update("PA2", `{"claimId":"C1"}`), update("PA3", `{"urgency":"standard"}`))
	o.passes(12 * time.Hour)
	o.passes(time.Hour + 59*time.Minute)
	o.expect("a minute before the first deadline", "PA3 escalation payer-supervisor 03-03 09:00; PA3 reminder payer-review 03-03 09:00")
	o.passes(time.Minute)
	o.passes(10 * time.Hour)
	o.passes(38 * time.Hour)
	o.expect("at the end", "PA1 escalation payer-supervisor 03-03 19:00; PA1 missed payer-supervisor 03-03 19:00; PA1 reminder payer-review 03-03 19:00; "+
		"PA2 escalation payer-supervisor 03-05 09:00; PA2 missed payer-supervisor 03-05 09:00; PA2 reminder payer-review 03-05 09:00; "+
		"PA3 escalation payer-supervisor 03-03 09:00; PA3 missed payer-supervisor 03-03 09:00; PA3 reminder payer-review 03-03 09:00")
}
