package priorauth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
)

// Command is something that is to happen to a request: one of the command types of this package.
type Command interface {
	name() string
	decide(id string, r Request, now time.Time) ([]event.Event, error)
}

// moves says from which statuses a command is possible.
var moves = map[string][]Status{
	"create":              {None},
	"submit":              {None, Draft},
	"update":              {Draft, Submitted, Pended},
	"request-information": {Submitted, Appealed},
	"approve":             {Submitted, Pended, Appealed},
	"deny":                {Submitted, Pended, Appealed},
	"appeal":              {Denied},
	"cancel":              {Draft, Submitted, Pended, Appealed},
	"expire":              {Pended, Approved},
}

// RefusedError says why a command cannot be carried out. It quotes no value of the request.
type RefusedError struct {
	Command string // "approve"
	Rule    string // stable: "status", "value", "deadline"
	Status  Status // of the request; None when it does not exist
	Message string
	Remedy  string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("priorauth: %s refused: %s [%s]; %s", e.Command, e.Message, e.Rule, e.Remedy)
}

// Do carries out a command on a request and returns the request after it, when its events are on stable storage. A move
// that is impossible from where the request stands is refused with a *RefusedError. Give aggregate.Once for commands that
// callers may repeat.
func Do(ctx context.Context, l aggregate.Log, priorAuthID string, c Command, opts ...aggregate.UpdateOption) (aggregate.Loaded[Request], error) {
	return Requests.Update(ctx, l, priorAuthID, decide(c, priorAuthID, time.Now()), opts...)
}

// DoTx is Do inside a handler's transaction.
func DoTx(ctx context.Context, tx bus.Tx, l aggregate.Log, priorAuthID string, c Command, opts ...aggregate.UpdateOption) (aggregate.Loaded[Request], error) {
	return Requests.UpdateTx(ctx, tx, l, priorAuthID, decide(c, priorAuthID, tx.Now()), opts...)
}

func decide(c Command, id string, now time.Time) aggregate.Decide[Request] {
	return func(r Request) ([]event.Event, error) {
		if from := moves[c.name()]; !slices.Contains(from, r.Status) {
			return nil, &RefusedError{c.name(), "status", r.Status, "the request " + standing(r.Status), "it is possible when it " + possible(from)}
		}
		return c.decide(id, r, now.UTC().Truncate(time.Millisecond))
	}
}

func standing(s Status) string {
	if s == None {
		return "does not exist"
	}
	return "is " + string(s)
}

func possible(from []Status) string {
	var b bytes.Buffer
	for i, s := range from {
		if i > 0 {
			b.WriteString(" or ")
		}
		b.WriteString(standing(s))
	}
	return b.String()
}

func refuse(c Command, r Request, message, remedy string) error {
	return &RefusedError{c.name(), "value", r.Status, message, remedy}
}

// Create drafts a request. PriorAuthID, Status and CreatedAt are filled in.
type Create struct{ priorauth.RequestCreated }

func (Create) name() string { return "create" }

func (c Create) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	if c.PatientID == "" || c.PrescriptionID == "" || c.Medication.Name == "" {
		return nil, refuse(c, r, "patient, prescription or medication is missing", "say for whom and what it is")
	}
	c.PriorAuthID, c.Status = id, Draft
	if c.CreatedAt.IsZero() {
		c.CreatedAt = now
	}
	return []event.Event{priorauth.RequestCreatedV1.New(Source, c.RequestCreated)}, nil
}

// Submit sends a request to the payer. Members that it leaves empty are taken from the draft, if there is one;
// PriorAuthID, Status and SubmittedAt are filled in.
type Submit struct{ priorauth.RequestSubmitted }

func (Submit) name() string { return "submit" }

func (c Submit) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	said, err := json.Marshal(c.RequestSubmitted)
	if err != nil {
		return nil, err
	}
	if c.PatientID == "" {
		c.PatientID = r.PatientID
		if said, err = json.Marshal(c.RequestSubmitted); err != nil {
			return nil, err
		}
	}
	p, err := merged(r.RequestSubmitted, said)
	if err != nil {
		return nil, err
	}
	if p.PatientID == "" || p.Medication == nil && len(p.Items) == 0 {
		return nil, refuse(c, r, "patient or medication is missing", "say for whom and what it is")
	}
	if r.Status == Draft && p.PatientID != r.PatientID {
		return nil, refuse(c, r, "the draft is for another patient", "submit it under an id of its own")
	}
	p.PriorAuthID, p.Status = id, Submitted
	if p.SubmittedAt.IsZero() {
		p.SubmittedAt = now
	}
	return []event.Event{priorauth.RequestSubmittedV1.New(Source, p)}, nil
}

// Update changes members of a request. On a pended request it is the answer to the payer, who looks at it again.
type Update struct {
	Fields  json.RawMessage // the members that change, as in priorauth.request.submitted
	Reason  string
	Answers string // the payer's question that this answers
	By      string
}

func (Update) name() string { return "update" }

func (c Update) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(c.Fields, &fields); err != nil || fields == nil {
		return nil, refuse(c, r, "the fields are no JSON object", "give the members that change, with their new values")
	}
	for _, fixed := range []string{"priorAuthId", "patientId", "status", "submittedAt"} {
		if _, ok := fields[fixed]; ok {
			return nil, refuse(c, r, fixed+" is not for an update to change", "leave it out")
		}
	}
	after, err := merged(r.RequestSubmitted, c.Fields)
	if err != nil {
		return nil, refuse(c, r, "a field does not have the type that it has in priorauth.request.submitted", "see carebus catalog show priorauth.request.submitted")
	}
	if same(after, r.RequestSubmitted) && r.Status != Pended {
		return nil, nil
	}
	return []event.Event{priorauth.RequestUpdatedV1.New(Source, priorauth.RequestUpdated{
		PriorAuthID: id, PatientID: &r.PatientID, PrescriptionID: r.PrescriptionID, UpdatedFields: c.Fields,
		Reason: optional(c.Reason), Answers: optional(c.Answers), UpdatedBy: optional(c.By), UpdatedAt: now,
	})}, nil
}

func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// RequestInformation pends a request: the payer needs more. Ids and Status are filled in.
type RequestInformation struct{ priorauth.StatusPending }

func (RequestInformation) name() string { return "request-information" }

func (c RequestInformation) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	if len(c.Missing) == 0 {
		return nil, refuse(c, r, "nothing is said to be missing", "name each item, and by when it is needed")
	}
	c.PriorAuthID, c.PatientID, c.PrescriptionID, c.Status = id, r.PatientID, r.PrescriptionID, Pended
	if c.PendedAt.IsZero() {
		c.PendedAt = now
	}
	return []event.Event{priorauth.StatusPendingV1.New(Source, c.StatusPending)}, nil
}

// Approve approves a request. Ids, medication and Status are filled in.
type Approve struct{ priorauth.StatusApproved }

func (Approve) name() string { return "approve" }

func (c Approve) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	if p := c.EffectivePeriod; p != nil && !p.End.IsZero() && !p.End.After(p.Start) {
		return nil, refuse(c, r, "the approval ends before it begins", "give a period with its end after its start")
	}
	c.PriorAuthID, c.PatientID, c.PrescriptionID, c.Status = id, r.PatientID, r.PrescriptionID, Approved
	if c.Medication == nil {
		c.Medication = r.Medication
	}
	if c.DecisionDate.IsZero() {
		c.DecisionDate = now
	}
	return []event.Event{priorauth.StatusApprovedV1.New(Source, c.StatusApproved)}, nil
}

// Deny denies a request. A denial says why. Ids, medication and Status are filled in.
type Deny struct{ priorauth.StatusDenied }

func (Deny) name() string { return "deny" }

func (c Deny) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	if len(c.Reasons) == 0 || c.Reasons[0].Code == "" {
		return nil, refuse(c, r, "there is no reason", "a denial says why, with a code")
	}
	c.PriorAuthID, c.PatientID, c.PrescriptionID, c.Status = id, r.PatientID, r.PrescriptionID, Denied
	if c.Medication == nil {
		c.Medication = r.Medication
	}
	if c.DecisionDate.IsZero() {
		c.DecisionDate = now
	}
	return []event.Event{priorauth.StatusDeniedV1.New(Source, c.StatusDenied)}, nil
}

// Appeal asks for a denied request to be looked at again, within the time that the denial gives. Ids are filled in.
type Appeal struct{ priorauth.AppealSubmitted }

func (Appeal) name() string { return "appeal" }

func (c Appeal) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	if r.Denial != nil && r.Denial.Appeal != nil && !r.Denial.Appeal.Deadline.IsZero() && now.After(r.Denial.Appeal.Deadline) {
		return nil, &RefusedError{c.name(), "deadline", r.Status, "the time to appeal is over", "submit a new request"}
	}
	c.PriorAuthID, c.PatientID, c.PrescriptionID = id, &r.PatientID, r.PrescriptionID
	if c.AppealID == "" {
		c.AppealID = fmt.Sprintf("%s-%d", id, len(r.Appeals)+1)
	}
	if c.Level == nil {
		level := int64(len(r.Appeals) + 1)
		c.Level = &level
	}
	if c.SubmittedAt.IsZero() {
		c.SubmittedAt = now
	}
	return []event.Event{
		priorauth.AppealSubmittedV1.New(Source, c.AppealSubmitted),
		r.moved(id, Appealed, "", now),
	}, nil
}

// Cancel ends a request that is not decided.
type Cancel struct {
	Reason string
	By     *priorauth.Party
}

func (Cancel) name() string { return "cancel" }

func (c Cancel) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	return []event.Event{
		priorauth.RequestCancelledV1.New(Source, priorauth.RequestCancelled{
			PriorAuthID: id, PatientID: &r.PatientID, PrescriptionID: r.PrescriptionID, Reason: optional(c.Reason), CancelledBy: c.By, CancelledAt: now,
		}),
		r.moved(id, Cancelled, c.Reason, now),
	}, nil
}

// Expire ends an approval whose period is over, or a pended request whose answer did not come in time.
type Expire struct{ Reason string }

func (Expire) name() string { return "expire" }

func (c Expire) decide(id string, r Request, now time.Time) ([]event.Event, error) {
	return []event.Event{r.moved(id, Expired, c.Reason, now)}, nil
}

// moved is the event for moves that have none of their own.
func (r Request) moved(id string, to Status, reason string, now time.Time) event.Event {
	return priorauth.StatusUpdatedV1.New(Source, priorauth.StatusUpdated{
		PriorAuthID: id, PatientID: &r.PatientID, PrescriptionID: r.PrescriptionID, Status: to, PreviousStatus: r.Status,
		StatusReason: optional(reason), UpdatedAt: now,
	})
}
