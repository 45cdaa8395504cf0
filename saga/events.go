package saga

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
)

// The platform's own events about sagas. Their schemas are in the catalog; saga may not import it, so the definitions
// stand here. Every one is in the stream of its instance, "platform.saga/" + id.
var (
	startedV1       = event.Define[started]("platform.saga.started", "1.0.0")
	stepStartedV1   = event.Define[stepStarted]("platform.saga.step-started", "1.0.0")
	stepCompletedV1 = event.Define[stepCompleted]("platform.saga.step-completed", "1.0.0")
	stepFailedV1    = event.Define[stepFailed]("platform.saga.step-failed", "1.0.0")
	compensatedV1   = event.Define[compensated]("platform.saga.compensated", "1.0.0")
	completedV1     = event.Define[completed]("platform.saga.completed", "1.0.0")
	failedV1        = event.Define[sagaFailed]("platform.saga.failed", "1.0.0")
	cancelledV1     = event.Define[acted]("platform.saga.cancelled", "1.0.0")
	resumedV1       = event.Define[acted]("platform.saga.resumed", "1.0.0")
)

const streamPrefix = "platform.saga/"

// of is what every event says of its instance.
type of struct {
	SagaID  string `json:"sagaId"`
	Saga    string `json:"saga"`
	Version string `json:"definitionVersion,omitempty"`
	Key     string `json:"key,omitempty"`
}

type started struct {
	of
	Steps       []string        `json:"steps"`
	TriggeredBy string          `json:"triggeredBy,omitempty"`
	Input       json.RawMessage `json:"input,omitempty"`
}

// stepStarted begins a try that takes a transaction of its own: an outside call, or a retry. Published with a partition
// key of its own for each call, so that calls of one instance run side by side.
type stepStarted struct {
	of
	Step         string `json:"step"`
	Attempt      int    `json:"attempt"`
	Compensating bool   `json:"compensating,omitempty"`
}

type stepCompleted struct {
	of
	Step    string `json:"step"`
	Attempt int    `json:"attempt"`
}

// stepFailed is also what the timer of a wait publishes, with the reason timeout.
type stepFailed struct {
	of
	Step         string     `json:"step"`
	Attempt      int        `json:"attempt"`
	Compensating bool       `json:"compensating,omitempty"`
	Reason       string     `json:"reason,omitempty"`
	Class        string     `json:"class,omitempty"`
	Error        string     `json:"error,omitempty"`
	Final        bool       `json:"final,omitempty"`
	RetryAt      *time.Time `json:"retryAt,omitempty"`
}

type compensated struct {
	of
	Step    string `json:"step"`
	Attempt int    `json:"attempt"`
	Reason  string `json:"reason,omitempty"`
}

type completed struct {
	of
	Steps     []string  `json:"steps"`
	StartedAt time.Time `json:"startedAt"`
}

type sagaFailed struct {
	of
	Step          string    `json:"step,omitempty"`
	Attempt       int       `json:"attempt,omitempty"`
	Reason        string    `json:"reason"`
	Class         string    `json:"class,omitempty"`
	Error         string    `json:"error,omitempty"`
	Compensated   []string  `json:"compensated"`
	Uncompensated []string  `json:"uncompensated"`
	StartedAt     time.Time `json:"startedAt"`
}

// acted is what a person did to an instance.
type acted struct {
	of
	Reason string `json:"reason"`
	Actor  string `json:"actor"`
	Skip   bool   `json:"skipped,omitempty"` // resumed: what was stuck is taken for done
}

// news is an instance's event on its way into the log: in its stream, ordered by its id, part of its flow.
func (x *instance) news(e event.Event) event.Event {
	e.PartitionKey = x.id
	e.CorrelationID = x.correlation
	return e
}

func (x *instance) of() of {
	return of{SagaID: x.id, Saga: x.name, Version: strconv.Itoa(x.version), Key: x.key}
}

const source = bus.Source
