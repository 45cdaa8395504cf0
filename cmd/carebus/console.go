package main

import (
	"context"
	"encoding/json"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/console"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/gateway"
	"github.com/carebus/carebus/services/patient"
)

// newConsole is the web console over what this program knows: its entities, its read models, the stories of patients.
func newConsole(ctx context.Context, p *carebus.Platform, o gateway.Options) *console.Console {
	return console.New(ctx, p, &console.Options{States: o.States, Histories: histories(), Story: story, Projections: projections(), Local: o.Door == nil, Logger: o.Logger})
}

// histories tell what each event has made of the entities that the program knows.
func histories() map[string]console.History {
	out := map[string]console.History{}
	for category, e := range entities {
		out[category] = func(ctx context.Context, p *carebus.Platform, id string, reveal bool, yield func(console.Step) error) error {
			return e.history(ctx, p, id, moment{}, func(s entityStep) error {
				if !reveal {
					s.mask(func(state json.RawMessage) json.RawMessage {
						return unmaskCounts(state, p.Registry().Mask(event.Event{Metadata: e.as, Payload: state}))
					})
				}
				step := console.Step{Version: s.Version, RecordedAt: s.RecordedAt, EventID: s.EventID, Type: s.Type, Source: s.Source}
				for _, c := range s.Changes {
					step.Changes = append(step.Changes, console.Change{Pointer: c.Pointer, From: c.From, To: c.To})
				}
				return yield(step)
			})
		}
	}
	return out
}

// story is what has happened to a patient, of whatever service.
func story(ctx context.Context, p *carebus.Platform, id string, before console.Moment, limit int) ([]console.Moment, error) {
	has, err := known(ctx, p)
	if err != nil {
		return nil, err
	}
	for _, d := range has {
		if d.Name() != patient.Timeline.Name() {
			continue
		}
		moments, err := patient.TimelineOf(ctx, p.Store(), id, patient.Moment{At: before.At, EventID: before.EventID}, limit)
		out := make([]console.Moment, len(moments))
		for i, m := range moments {
			out[i] = console.Moment{At: m.At, EventID: m.EventID, Type: m.Type, Title: m.Title, Source: m.Source, CorrelationID: m.CorrelationID}
		}
		return out, err
	}
	return nil, nil // nobody has run the patient service on this store
}
