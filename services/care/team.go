package care

import (
	"context"
	"slices"
	"time"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Team is who cares for a patient.
type Team struct {
	Members []care.TeamMember `json:"members,omitempty"`
	Version int64             `json:"version"` // events that this state understands
}

// Teams is the team of a patient as an aggregate: streams "care.team/PATIENT".
var Teams = aggregate.Define("care.team",
	aggregate.On(care.TeamUpdatedV1, func(t *Team, e event.Of[care.TeamUpdated]) {
		t.Version++
		if e.Payload.Members != nil {
			t.Members = e.Payload.Members
			return
		}
		t.Members = changed(t.Members, e.Payload.Added, e.Payload.Removed)
	}),
)

// who tells members apart.
func who(m care.TeamMember) string {
	for _, id := range []*string{m.ProviderID, m.MemberID, m.Name} {
		if text(id) != "" {
			return *id
		}
	}
	return ""
}

func changed(members, added, removed []care.TeamMember) []care.TeamMember {
	out := []care.TeamMember{}
	is := func(list []care.TeamMember, m care.TeamMember) bool {
		return slices.ContainsFunc(list, func(x care.TeamMember) bool { return who(x) == who(m) })
	}
	for _, m := range members {
		if !is(removed, m) && !is(added, m) {
			out = append(out, m)
		}
	}
	return append(out, added...)
}

// ChangeTeam adds members to a patient's team and takes members from it. A member is known by its provider id, else by
// its member id, else by its name; one that is added again gets the role given now.
type ChangeTeam struct {
	Add, Remove []care.TeamMember
	Reason      string
	By          string
}

// UpdateTeam carries out a ChangeTeam.
func UpdateTeam(ctx context.Context, l aggregate.Log, patientID string, c ChangeTeam, opts ...aggregate.UpdateOption) (aggregate.Loaded[Team], error) {
	at := now()
	return Teams.Update(ctx, l, patientID, func(t Team) ([]event.Event, error) {
		for _, m := range slices.Concat(c.Add, c.Remove) {
			if who(m) == "" {
				return nil, &RefusedError{"change-team", "value", "a member has neither id nor name", "say who it is"}
			}
		}
		var added, removed []care.TeamMember
		for _, m := range c.Add {
			if !slices.ContainsFunc(t.Members, func(x care.TeamMember) bool { return who(x) == who(m) && text(x.Role) == text(m.Role) }) {
				added = append(added, m)
			}
		}
		for _, m := range t.Members {
			if slices.ContainsFunc(c.Remove, func(x care.TeamMember) bool { return who(x) == who(m) }) {
				removed = append(removed, m)
			}
		}
		if len(added)+len(removed) == 0 {
			return nil, nil
		}
		return []event.Event{care.TeamUpdatedV1.New(Source, care.TeamUpdated{
			PatientID: patientID, Added: added, Removed: removed, Members: changed(t.Members, added, removed), Reason: optional(c.Reason), UpdatedBy: optional(c.By), UpdatedAt: at,
		})}, nil
	}, opts...)
}

// Plan is a care plan.
type Plan struct {
	care.PlanCreated

	Version int64 `json:"version"` // events that this state understands
}

// Plans is the care plan as an aggregate: streams "care.plan/ID".
var Plans = aggregate.Define("care.plan",
	aggregate.On(care.PlanCreatedV1, func(p *Plan, e event.Of[care.PlanCreated]) {
		p.PlanCreated = e.Payload
		p.Version++
	}),
)

// CreatePlan makes a care plan. CarePlanID and CreatedDate are filled in.
func CreatePlan(ctx context.Context, l aggregate.Log, planID string, plan care.PlanCreated, opts ...aggregate.UpdateOption) (aggregate.Loaded[Plan], error) {
	return Plans.Update(ctx, l, planID, func(p Plan) ([]event.Event, error) {
		switch {
		case p.Version > 0:
			return nil, &RefusedError{"create-plan", "exists", "there is a plan with this id", "choose another id"}
		case plan.PatientID == "":
			return nil, &RefusedError{"create-plan", "value", "no patient is named", "say for whom it is"}
		}
		plan := plan
		plan.CarePlanID = planID
		if plan.CreatedDate == nil {
			plan.CreatedDate = optional(now().Format(time.RFC3339))
		}
		return []event.Event{care.PlanCreatedV1.New(Source, plan)}, nil
	}, opts...)
}

// Communicate records that something was said about a patient. SentAt is filled in.
func Communicate(ctx context.Context, p Platform, c care.CommunicationSent) (eventstore.Receipt, error) {
	if c.PatientID == "" {
		return eventstore.Receipt{}, &RefusedError{"communicate", "value", "no patient is named", "say whom it is about"}
	}
	if c.SentAt.IsZero() {
		c.SentAt = now()
	}
	receipts, err := p.Store().Append(ctx, "", eventstore.AnyVersion, care.CommunicationSentV1.New(Source, c))
	if err != nil {
		return eventstore.Receipt{}, err
	}
	return receipts[0], nil
}
