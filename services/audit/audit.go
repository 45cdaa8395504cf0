package audit

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/services/care"
	"github.com/carebus/carebus/services/patient"
	"github.com/carebus/carebus/services/pharmacy"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/priorauth"
)

// Report is what an audit has found.
type Report struct {
	Checks   []Check  `json:"checks"`
	Outcomes Outcomes `json:"outcomes"`
}

// Violations is how often the rules are broken.
func (r Report) Violations() (n int64) {
	for _, c := range r.Checks {
		n += c.Violations
	}
	return n
}

// Check is one rule.
type Check struct {
	Name       string      `json:"name"`
	Rule       string      `json:"rule"`   // in words
	Looked     int64       `json:"looked"` // how many things it was held against
	Violations int64       `json:"violations"`
	First      []Violation `json:"first,omitempty"` // ten at most
}

// Violation is what breaks a rule, and where. It quotes ids only.
type Violation struct {
	Where string `json:"where"`
	What  string `json:"what"`
}

const shown = 10

func (c *Check) violated(where, format string, args ...any) {
	c.Violations++
	if len(c.First) < shown {
		c.First = append(c.First, Violation{where, fmt.Sprintf(format, args...)})
	}
}

// hold looks at one thing: it must be so.
func (c *Check) hold(so bool, where, format string, args ...any) {
	c.Looked++
	if !so {
		c.violated(where, format, args...)
	}
}

// Outcomes are how the workflows ended, or that they have not.
type Outcomes struct {
	PriorAuth    map[string]int64 `json:"priorAuth"`    // requests, by where they stand; and "not-required"
	Decisions    map[string]int64 `json:"decisions"`    // of payers, by kind
	Claims       map[string]int64 `json:"claims"`       // approved, rejected, voided, open
	Fulfillments map[string]int64 `json:"fulfillments"` // completed (waiting for the patient, or picked up), under way, and failed, by reason
	PickedUp     int64            `json:"pickedUp"`
	Returned     int64            `json:"returned"`
}

// Run audits what is stored now, and compares the projections with a rebuild of each. Let everything under way come to its
// end before: a service that is just writing is seen half-way.
func Run(ctx context.Context, p *carebus.Platform, projections ...*projection.Definition) (Report, error) {
	var r Report
	l := newLedger()
	for record, err := range p.Store().All(ctx, nil, l.wants) {
		if err != nil {
			return r, err
		}
		if err := l.add(record); err != nil {
			return r, err
		}
	}
	r.Checks, r.Outcomes = l.checks(), l.outcomes()
	folds := &Check{Name: "state-is-its-history", Rule: "the state of every patient, prescription, request, stock and task equals the fold of its events from the first one"}
	for _, fold := range []func(context.Context, *carebus.Platform, *Check) error{
		folded(patient.Records), folded(prescribing.Prescriptions), folded(priorauth.Requests), folded(pharmacy.Stocks), folded(care.Tasks),
	} {
		if err := fold(ctx, p, folds); err != nil {
			return r, err
		}
	}
	rebuilt := &Check{Name: "projection-is-its-rebuild", Rule: "every read model equals one that is built from the log from scratch"}
	for _, d := range projections {
		differences, err := projection.Check(ctx, p, d, nil)
		if err != nil {
			return r, err
		}
		rebuilt.Looked++
		for _, diff := range differences {
			rebuilt.violated("projection "+d.Name(), "table %s: %d rows missing, %d too many", diff.Table, diff.Missing, diff.Extra)
		}
	}
	verify := &Check{Name: "store-is-whole", Rule: "the store's chains, indexes and counters agree with each other"}
	whole, err := p.Store().Verify(ctx, nil)
	if err != nil {
		return r, err
	}
	verify.Looked = whole.Events
	for _, fault := range whole.Faults {
		verify.violated("store", "%+v", fault)
	}
	verify.Violations = whole.FaultCount
	r.Checks = append(r.Checks, *folds, *rebuilt, *verify)
	return r, nil
}

// folded compares every entity of a kind, as services load it, with the fold of its whole history.
func folded[S any](d *aggregate.Definition[S]) func(context.Context, *carebus.Platform, *Check) error {
	return func(ctx context.Context, p *carebus.Platform, c *Check) error {
		prefix := d.Category() + "/"
		for after := ""; ; {
			streams, err := p.Store().Streams(ctx, prefix, after, 500)
			if err != nil || len(streams) == 0 {
				return err
			}
			for _, stream := range streams {
				loaded, err := d.Load(ctx, p, stream[len(prefix):])
				if err != nil {
					return err
				}
				events, err := history(ctx, p.Store(), stream)
				if err != nil {
					return err
				}
				scratch, err := d.Fold(events...)
				if err != nil {
					return err
				}
				have, err := json.Marshal(loaded.State)
				if err != nil {
					return err
				}
				want, err := json.Marshal(scratch)
				if err != nil {
					return err
				}
				c.hold(string(have) == string(want) && loaded.Version == int64(len(events)), stream, "the state at version %d is not what its %d events say", loaded.Version, len(events))
			}
			after = streams[len(streams)-1]
		}
	}
}

func history(ctx context.Context, s *eventstore.Store, stream string) (out []event.Event, err error) {
	for from := int64(1); ; {
		records, err := s.Stream(ctx, eventstore.StreamQuery{Stream: stream, From: from, Limit: 1000})
		if err != nil || len(records) == 0 {
			return out, err
		}
		for _, r := range records {
			out = append(out, r.Event)
		}
		from += int64(len(records))
	}
}
