package priorauth

import (
	"encoding/json"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
)

// Source is the eventSource of the service.
const Source = "priorauth-service"

// Status is where a request stands. The zero Status is that of a request that does not exist.
type Status = priorauth.PriorAuthStatus

// The statuses that a request goes through.
const (
	None      Status = ""
	Draft            = priorauth.PriorAuthStatusDraft
	Submitted        = priorauth.PriorAuthStatusSubmitted
	Pended           = priorauth.PriorAuthStatusPended
	Approved         = priorauth.PriorAuthStatusApproved
	Denied           = priorauth.PriorAuthStatusDenied
	Appealed         = priorauth.PriorAuthStatusAppealed
	Cancelled        = priorauth.PriorAuthStatusCancelled
	Expired          = priorauth.PriorAuthStatusExpired
)

// Request is a prior authorization: what is asked for, and where it stands.
type Request struct {
	priorauth.RequestSubmitted

	Status       Status                      `json:"status"`
	StatusReason string                      `json:"statusReason,omitempty"`
	CreatedAt    time.Time                   `json:"createdAt,omitzero"`
	Missing      []priorauth.MissingItem     `json:"missing,omitempty"` // while pended
	Approval     *priorauth.StatusApproved   `json:"approval,omitempty"`
	Denial       *priorauth.StatusDenied     `json:"denial,omitempty"` // the last one
	Appeals      []priorauth.AppealSubmitted `json:"appeals,omitempty"`
	Version      int64                       `json:"version"`     // events that this state understands
	LastUpdated  int64                       `json:"lastUpdated"` // timestamp of the last of them, epoch milliseconds
}

// Requests is the prior authorization as an aggregate: streams "priorauth.request/ID".
var Requests = aggregate.Define("priorauth.request",
	on(priorauth.RequestCreatedV1, func(r *Request, p priorauth.RequestCreated) {
		r.RequestSubmitted = priorauth.RequestSubmitted{
			PriorAuthID: p.PriorAuthID, PatientID: p.PatientID, PrescriptionID: &p.PrescriptionID, Medication: &p.Medication,
			ProviderID: p.ProviderID, PayerID: p.PayerID, Urgency: p.Urgency, Source: p.Source,
		}
		r.CreatedAt, r.Status = p.CreatedAt, Draft
	}),
	on(priorauth.RequestSubmittedV1, func(r *Request, p priorauth.RequestSubmitted) {
		if r.CreatedAt.IsZero() {
			r.CreatedAt = p.SubmittedAt
		}
		r.RequestSubmitted, r.Status = p, Submitted
	}),
	on(priorauth.RequestUpdatedV1, (*Request).merge),
	on(priorauth.RequestCancelledV1, func(r *Request, p priorauth.RequestCancelled) {
		r.Status, r.StatusReason = Cancelled, text(p.Reason)
	}),
	on(priorauth.StatusPendingV1, func(r *Request, p priorauth.StatusPending) {
		r.Status, r.Missing, r.StatusReason = Pended, p.Missing, "information is missing"
	}),
	on(priorauth.StatusApprovedV1, (*Request).approve),
	//nolint:staticcheck // deprecated, and still understood: a naming example that somebody may have published
	on(priorauth.RequestApprovedV1, func(r *Request, p priorauth.RequestApproved) { r.approve(priorauth.StatusApproved(p)) }),
	on(priorauth.StatusDeniedV1, func(r *Request, p priorauth.StatusDenied) {
		r.Status, r.Denial, r.Missing, r.StatusReason = Denied, &p, nil, reasonsOf(p.Reasons)
	}),
	on(priorauth.AppealSubmittedV1, func(r *Request, p priorauth.AppealSubmitted) {
		r.Status, r.StatusReason = Appealed, ""
		r.Appeals = append(r.Appeals, p)
	}),
	on(priorauth.StatusUpdatedV1, func(r *Request, p priorauth.StatusUpdated) {
		r.Status, r.StatusReason = p.Status, text(p.StatusReason)
	}),
)

// on is an evolve function that also counts.
func on[T any](def event.Definition[T], evolve func(*Request, T)) aggregate.Option[Request] {
	return aggregate.On(def, func(r *Request, e event.Of[T]) {
		evolve(r, e.Payload)
		r.Version++
		r.LastUpdated = e.Timestamp
	})
}

func (r *Request) approve(p priorauth.StatusApproved) {
	r.Status, r.Approval, r.Missing, r.StatusReason = Approved, &p, nil, ""
}

// merge takes the members that an update names, and keeps all others. An answer to a payer who waits for one puts the
// request before the payer again.
func (r *Request) merge(p priorauth.RequestUpdated) {
	id, patient := r.PriorAuthID, r.PatientID
	// The update was checked to fit when it was published; one of another origin that does not fit changes nothing.
	next, err := merged(r.RequestSubmitted, p.UpdatedFields)
	if err == nil {
		r.RequestSubmitted = next
	}
	r.PriorAuthID, r.PatientID = id, patient // who it is about is not for an update to say
	if r.Status == Pended {
		r.Status, r.Missing, r.StatusReason = Submitted, nil, ""
	}
}

func merged(r priorauth.RequestSubmitted, fields json.RawMessage) (priorauth.RequestSubmitted, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return r, err
	}
	var next priorauth.RequestSubmitted // a copy of its own: pointers of r are not written through
	if err := json.Unmarshal(text, &next); err != nil {
		return r, err
	}
	return next, json.Unmarshal(fields, &next)
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func reasonsOf(reasons []priorauth.Reason) string {
	if len(reasons) == 0 {
		return ""
	}
	if t := text(reasons[0].Text); t != "" {
		return t
	}
	return reasons[0].Code
}
