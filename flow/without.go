package flow

import (
	"strings"

	"github.com/carebus/carebus/eventstore"
)

// Without returns records without those of the types that drop names. What they caused is hung on their own cause: a
// service that reacted to a dropped event has reacted to what led to that. Dropped events in a circle lead nowhere.
func Without(records []eventstore.Record, drop func(eventType string) bool) []eventstore.Record {
	causes := map[string]string{}
	for _, r := range records {
		if drop(r.Type) {
			causes[r.ID] = r.CausationID
		}
	}
	if len(causes) == 0 {
		return records
	}
	out := make([]eventstore.Record, 0, len(records)-len(causes))
	for _, r := range records {
		if _, dropped := causes[r.ID]; dropped {
			continue
		}
		for steps := 0; ; steps++ {
			cause, dropped := causes[r.CausationID]
			if !dropped || steps > len(causes) {
				break
			}
			r.CausationID = cause
		}
		out = append(out, r)
	}
	return out
}

// Bookkeeping are the events by which the saga engine tells that all goes well. They double what the services say of the
// same steps; failures, compensations and what people do are none of them.
func Bookkeeping(eventType string) bool {
	rest, ok := strings.CutPrefix(eventType, "platform.saga.")
	return ok && (rest == "started" || rest == "step-started" || rest == "step-completed" || rest == "completed")
}
