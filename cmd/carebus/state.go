package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	catalogcare "github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/catalog/medication"
	catalogpatient "github.com/carebus/carebus/catalog/patient"
	catalogpriorauth "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/care"
	"github.com/carebus/carebus/services/patient"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/priorauth"
)

// entities are the kinds of entity whose state the program can fold, by category.
var entities = map[string]entity{
	care.Plans.Category():                entityOf(care.Plans, catalogcare.PlanCreatedV1.Type(), catalogcare.PlanCreatedV1.Version()),
	care.Tasks.Category():                entityOf(care.Tasks, catalogcare.TaskAssignedV1.Type(), catalogcare.TaskAssignedV1.Version()),
	care.Teams.Category():                entityOf(care.Teams, catalogcare.TeamUpdatedV1.Type(), catalogcare.TeamUpdatedV1.Version()),
	pharmacy.Stocks.Category():           entityOf(pharmacy.Stocks, medication.InventoryReservedV1.Type(), medication.InventoryReservedV1.Version()),
	prescribing.Prescriptions.Category(): entityOf(prescribing.Prescriptions, medication.PrescriptionCreatedV1.Type(), medication.PrescriptionCreatedV1.Version()),
	priorauth.Requests.Category():        entityOf(priorauth.Requests, catalogpriorauth.RequestSubmittedV1.Type(), catalogpriorauth.RequestSubmittedV1.Version()),
	patient.Records.Category():           entityOf(patient.Records, catalogpatient.RecordCreatedV1.Type(), catalogpatient.RecordCreatedV1.Version()),
}

// entity is an aggregate whose state is shown as JSON. Its protected values are masked as those of an event type are,
// whose members have the same names; a member that the type does not have is masked too.
type entity struct {
	state   func(ctx context.Context, p *carebus.Platform, id string, at moment) (entityState, error)
	history func(ctx context.Context, p *carebus.Platform, id string, at moment, yield func(entityStep) error) error
	as      event.Metadata
}

// moment is a version, a time, or, when both are zero, now.
type moment struct {
	version int64
	time    time.Time
}

type entityState struct {
	Stream     string          `json:"stream"`
	Version    int64           `json:"version"`
	RecordedAt time.Time       `json:"recordedAt"`
	State      json.RawMessage `json:"state,omitempty"`
	History    []entityStep    `json:"history,omitempty"`
}

type entityStep struct {
	Version    int64              `json:"version"`
	RecordedAt time.Time          `json:"recordedAt"`
	EventID    string             `json:"eventId"`
	Type       string             `json:"eventType"`
	Source     string             `json:"source"`
	Changes    []aggregate.Change `json:"changes"`

	before, after json.RawMessage
}

func entityOf[S any](d *aggregate.Definition[S], eventType, version string) entity {
	return entity{
		as: event.Metadata{Type: eventType, Version: version},
		state: func(ctx context.Context, p *carebus.Platform, id string, at moment) (entityState, error) {
			var got aggregate.Loaded[S]
			var err error
			switch {
			case at.version > 0:
				got, err = d.AtVersion(ctx, p, id, at.version)
			case !at.time.IsZero():
				got, err = d.At(ctx, p, id, at.time)
			default:
				got, err = d.Load(ctx, p, id)
			}
			if err != nil {
				return entityState{}, err
			}
			text, err := json.Marshal(got.State)
			return entityState{Stream: d.Stream(id), Version: got.Version, RecordedAt: got.RecordedAt, State: text}, err
		},
		history: func(ctx context.Context, p *carebus.Platform, id string, at moment, yield func(entityStep) error) error {
			before, err := json.Marshal(*new(S))
			if err != nil {
				return err
			}
			for step, err := range d.History(ctx, p, id) {
				if err != nil {
					return err
				}
				r := step.Record
				if at.version > 0 && r.StreamVersion > at.version || !at.time.IsZero() && r.RecordedAt.After(at.time) {
					return nil
				}
				after, err := json.Marshal(step.State)
				if err != nil {
					return err
				}
				if err := yield(entityStep{r.StreamVersion, r.RecordedAt, r.ID, r.Type, r.Source, step.Changes, before, after}); err != nil {
					return err
				}
				before = after
			}
			return nil
		},
	}
}

type stateFlags struct {
	at           string
	diff, reveal bool
}

func newStateCommand(a *app) *cobra.Command {
	var f stateFlags
	cmd := &cobra.Command{
		Use:   "state STREAM",
		Short: "Show what an entity is, or was, as its events tell",
		Long: `Folds the events of an entity and shows its state: now, after a version, or as it was known at a time. With --diff it shows
which event has changed what. Protected values are masked.`,
		Example: `carebus state patient.record/P987654321
  carebus state patient.record/P987654321 --at 3
  carebus state patient.record/P987654321 --at -7d --diff`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := parseMoment(f.at)
			if err != nil {
				return err
			}
			category, id, ok := strings.Cut(args[0], "/")
			e, known := entities[category]
			if !ok || id == "" || !known {
				return usagef("%s: no entity whose state is known; give CATEGORY/ID with a category of %s", args[0], strings.Join(slices.Sorted(maps.Keys(entities)), ", "))
			}
			return a.with(cmd, reading(), func(ctx context.Context, p *carebus.Platform) error {
				got, err := e.state(ctx, p, id, at)
				if errors.Is(err, eventstore.ErrNotFound) {
					return notFoundf("no events of %s by then; see carebus stream list", args[0])
				}
				if err != nil {
					return err
				}
				mask := func(state json.RawMessage) json.RawMessage {
					if f.reveal {
						return state
					}
					return unmaskCounts(state, p.Registry().Mask(event.Event{Metadata: e.as, Payload: state}))
				}
				got.State = mask(got.State)
				if f.diff {
					if err := e.history(ctx, p, id, at, func(s entityStep) error {
						s.mask(mask)
						got.History = append(got.History, s)
						return nil
					}); err != nil {
						return err
					}
				}
				if a.json() {
					return printJSON(cmd.OutOrStdout(), got)
				}
				return a.printState(cmd, got, f)
			})
		},
		ValidArgsFunction: completeOne(a.completeStored(func(cmd *cobra.Command, p *carebus.Platform, begun string) ([]string, error) {
			return p.Store().Streams(cmd.Context(), begun, "", 100)
		})),
	}
	cmd.Flags().StringVar(&f.at, "at", "", "a version, or a time: what had been recorded by then")
	cmd.Flags().BoolVar(&f.diff, "diff", false, "show what each event has changed")
	cmd.Flags().BoolVar(&f.reveal, "reveal", false, "show protected values")
	return cmd
}

// unmaskCounts puts back what a state counts of itself, which no schema speaks of and which tells nothing.
func unmaskCounts(state, masked json.RawMessage) json.RawMessage {
	var plain, out map[string]json.RawMessage
	if json.Unmarshal(state, &plain) != nil || json.Unmarshal(masked, &out) != nil {
		return masked
	}
	for _, name := range []string{"version", "lastUpdated"} {
		if v, ok := plain[name]; ok && out[name] != nil {
			out[name] = v
		}
	}
	text, err := json.Marshal(out)
	if err != nil {
		return masked
	}
	return text
}

func parseMoment(text string) (moment, error) {
	if text == "" {
		return moment{}, nil
	}
	if v, err := strconv.ParseInt(text, 10, 64); err == nil && v > 0 {
		return moment{version: v}, nil
	}
	t, err := parseTime("at", text, time.Now())
	return moment{time: t}, err
}

// mask puts the masked values into the changes, taken from the masked states before and after.
func (s *entityStep) mask(mask func(json.RawMessage) json.RawMessage) {
	before, after := mask(s.before), mask(s.after)
	for i, c := range s.Changes {
		if c.From != nil {
			s.Changes[i].From = valueAt(before, c.Pointer)
		}
		if c.To != nil {
			s.Changes[i].To = valueAt(after, c.Pointer)
		}
	}
}

var unescaper = strings.NewReplacer("~1", "/", "~0", "~")

// valueAt is what a JSON pointer points at; where the way there ends early, as it does in a masked value, it is the value
// at the end.
func valueAt(doc json.RawMessage, pointer string) json.RawMessage {
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		var object map[string]json.RawMessage
		var list []json.RawMessage
		if json.Unmarshal(doc, &object) == nil && object != nil {
			v, ok := object[unescaper.Replace(name)]
			if !ok {
				return doc
			}
			doc = v
		} else if i, err := strconv.Atoi(name); err == nil && json.Unmarshal(doc, &list) == nil && i < len(list) {
			doc = list[i]
		} else {
			return doc
		}
	}
	return doc
}

func (a *app) printState(cmd *cobra.Command, s entityState, f stateFlags) error {
	w := cmd.OutOrStdout()
	if !f.diff {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s, version %d, recorded %s\n", s.Stream, s.Version, s.RecordedAt.Format(time.RFC3339))
		return printJSON(w, s.State)
	}
	rows := [][]string{}
	for _, step := range s.History {
		version, when, what := fmt.Sprint(step.Version), step.RecordedAt.Format(time.RFC3339), step.Type
		if len(step.Changes) == 0 {
			rows = append(rows, []string{version, when, what, "", "", ""})
		}
		for _, c := range step.Changes {
			rows = append(rows, []string{version, when, what, c.Pointer, orNothing(c.From), orNothing(c.To)})
			version, when, what = "", "", ""
		}
	}
	return a.table(w, []string{"version", "recorded", "event", "member", "from", "to"}, rows)
}

func orNothing(value json.RawMessage) string {
	if value == nil {
		return ""
	}
	return compact(value)
}
