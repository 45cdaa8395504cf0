package flow

import (
	"context"
	"slices"
	"strings"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// Group is a consumer group: what it wants, and how far it has come.
type Group struct {
	Status   bus.GroupStatus
	Progress bus.Progress
}

// ReadGroups returns every group that has ever run on the store, by name. It reads the groups' own tables, not the log.
func ReadGroups(ctx context.Context, store *eventstore.Store, b *bus.Bus) ([]Group, error) {
	all, err := b.Groups(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Group, len(all))
	err = store.View(ctx, func(q eventstore.Querier) error {
		for i, s := range all {
			p, err := b.Progress(ctx, q, s.Name)
			if err != nil {
				return err
			}
			out[i] = Group{s, p}
		}
		return nil
	})
	return out, err
}

// wants reports whether the group has a handler for a type of event.
func (g *Group) wants(eventType string) bool {
	return slices.ContainsFunc(g.Status.Patterns, func(p string) bool { return bus.Matches(p, eventType) })
}

// handling says of every event which of the groups have handled it, and for which it waits.
func (f *Flow) handling(groups []Group) {
	for i := range f.Events {
		e := &f.Events[i]
		gaveUp := map[string]bool{}
		for _, n := range e.Effects {
			if x := f.Events[n].Failure; x != nil && x.Skipped {
				gaveUp[x.Group] = true
			}
		}
		for g := range groups {
			name := groups[g].Status.Name
			switch {
			case !groups[g].wants(e.Type) || gaveUp[name]:
			case groups[g].Progress.Passed(e.Type, e.Partition, e.Offset, e.Key):
				e.HandledBy = append(e.HandledBy, name)
			default:
				e.WaitingFor = append(e.WaitingFor, name)
			}
		}
	}
}

// handlingText is what a drawing says of the groups of an event; empty when nothing is known.
func handlingText(e *Event) string {
	var parts []string
	if len(e.HandledBy) > 0 {
		parts = append(parts, "handled by: "+strings.Join(e.HandledBy, ", "))
	}
	if len(e.WaitingFor) > 0 {
		parts = append(parts, "waiting: "+strings.Join(e.WaitingFor, ", "))
	}
	return strings.Join(parts, "; ")
}
