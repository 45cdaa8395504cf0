package flow

import (
	"encoding/json"
	"strings"

	"github.com/carebus/carebus/eventstore"
)

// Work is what an event says of work that a service has done by itself: a step of a saga.
type Work struct {
	Saga         string `json:"saga,omitempty"` // name of the saga, where the event says it
	Step         string `json:"step,omitempty"`
	What         string `json:"what"` // started, step-started, step-completed, step-failed, compensated, completed …
	Attempt      int    `json:"attempt,omitempty"`
	Class        string `json:"class,omitempty"`        // of a failure
	Compensating bool   `json:"compensating,omitempty"` // the step is being undone
	Final        bool   `json:"final,omitempty"`        // a failed try was the last
}

const (
	sagaPrefix      = "platform.saga."
	fulfillmentStep = "medication.fulfillment.step-completed"
)

// workOf reads an event about a step of a saga; nil for every other event. Of the payload it takes names of the
// definition and numbers, nothing that is about a patient.
func workOf(r eventstore.Record) *Work {
	what, saga := strings.CutPrefix(r.Type, sagaPrefix)
	if !saga && r.Type != fulfillmentStep {
		return nil
	}
	w := Work{}
	if json.Unmarshal(r.Payload, &w) != nil {
		w = Work{}
	}
	if !saga {
		what = "step-completed"
		w = Work{Step: w.Step, Attempt: w.Attempt} // a domain's own event: other members may be about the patient
	}
	w.What = what
	return &w
}

// lifeline is who an event is drawn at: its source, or the saga that it is a transition of. All sagas of a platform state
// their events under the platform's name, which would make them one.
func (e *Event) lifeline() string {
	if e.Work != nil && e.Work.Saga != "" && strings.HasPrefix(e.Type, sagaPrefix) {
		return "saga " + e.Work.Saga
	}
	return e.Source
}

// workText is what a drawing says of a step.
func workText(w *Work) string {
	var b strings.Builder
	switch verb, ofStep := strings.CutPrefix(w.What, "step-"); {
	case ofStep:
		b.WriteString("step " + w.Step + " " + verb)
	case w.What == "compensated":
		b.WriteString("step " + w.Step + " undone")
	default:
		b.WriteString("saga " + w.What)
		if w.Step != "" {
			b.WriteString(" at " + w.Step)
		}
	}
	var notes []string
	if w.Compensating {
		notes = append(notes, "undoing")
	}
	if w.Attempt > 1 || w.What == "step-failed" && w.Attempt > 0 {
		notes = append(notes, "try "+itoa(w.Attempt))
	}
	if w.Class != "" {
		notes = append(notes, w.Class)
	}
	if w.What == "step-failed" && w.Final {
		notes = append(notes, "for good")
	}
	if len(notes) > 0 {
		b.WriteString(" (" + strings.Join(notes, ", ") + ")")
	}
	return b.String()
}
