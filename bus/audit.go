package bus

import (
	"context"
	"encoding/json"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Source is the eventSource of the events that the platform itself states.
const Source = "carebus"

// The platform's own events about groups and keys. Their schemas are in the catalog; bus may not import it, so the
// definitions stand here, and a test of the root package holds the two together.
var (
	groupPausedV1    = event.Define[groupChanged]("platform.group.paused", "1.0.0")
	groupResumedV1   = event.Define[groupChanged]("platform.group.resumed", "1.0.0")
	groupSoughtV1    = event.Define[groupSought]("platform.group.sought", "1.0.0")
	groupRemovedV1   = event.Define[groupRemoved]("platform.group.removed", "1.0.0")
	keyParkedV1      = event.Define[keyEvent]("platform.key.parked", "1.0.0")
	keyReleasedV1    = event.Define[keyEvent]("platform.key.released", "1.0.0")
	keySkippedV1     = event.Define[keyEvent]("platform.key.skipped", "1.0.0")
	redriveStartV1   = event.Define[redriveEvent]("platform.redrive.started", "1.0.0")
	redriveEndV1     = event.Define[redriveEvent]("platform.redrive.finished", "1.0.0")
	replayStartV1    = event.Define[replayEvent]("platform.replay.started", "1.0.0")
	eventCorrectedV1 = event.Define[corrected]("platform.event.corrected", "1.0.0")
)

type groupChanged struct {
	Group     string `json:"group"`
	Reason    string `json:"reason"`
	Actor     string `json:"actor"`
	Automatic bool   `json:"automatic,omitempty"`
}

type groupRemoved struct {
	Group        string `json:"group"`
	Reason       string `json:"reason"`
	Actor        string `json:"actor"`
	ParkedEvents int64  `json:"parkedEvents,omitempty"`
}

type groupSought struct {
	Group     string     `json:"group"`
	Reason    string     `json:"reason"`
	Actor     string     `json:"actor"`
	Positions []position `json:"positions"`
}

type position struct {
	Partition int   `json:"partition"`
	From      int64 `json:"from"`
	To        int64 `json:"to"`
}

type keyEvent struct {
	Group     string `json:"group"`
	Partition int    `json:"partition"`
	Key       string `json:"key"`
	Offset    int64  `json:"offset"`
	EventID   string `json:"eventId,omitempty"`
	EventType string `json:"eventType,omitempty"`
	Class     string `json:"class,omitempty"`
	Error     string `json:"error,omitempty"`
	Attempts  int    `json:"attempts,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Actor     string `json:"actor,omitempty"`
}

type redriveEvent struct {
	JobID  string `json:"jobId"`
	Group  string `json:"group"`
	Keys   int64  `json:"keys"`
	Failed int64  `json:"failed,omitempty"`
	Reason string `json:"reason"`
	Actor  string `json:"actor"`
	State  string `json:"state,omitempty"`
}

type replayEvent struct {
	Group     string     `json:"group"`
	Reason    string     `json:"reason"`
	Actor     string     `json:"actor"`
	Events    int64      `json:"events"`
	Positions []position `json:"positions"`
}

type corrected struct {
	Group     string          `json:"group"`
	EventID   string          `json:"eventId"`
	EventType string          `json:"eventType"`
	Version   string          `json:"version"`
	Reason    string          `json:"reason"`
	Actor     string          `json:"actor"`
	Payload   json.RawMessage `json:"payload"`
}

// audit appends a platform event about a group in the transaction of the act itself.
func audit(ctx context.Context, tx *eventstore.Tx, group string, e event.Event) error {
	e.PartitionKey = group
	_, err := tx.Append(ctx, "", eventstore.AnyVersion, e)
	return err
}

type keyAct int

const (
	keyParked keyAct = iota
	keySkipped
)

// auditFailure records what became of an event that failed for good, as an effect of that event.
func (w *worker) auditFailure(ctx context.Context, tx *eventstore.Tx, act keyAct, r eventstore.Record, class Class, cause error, reason string) error {
	p := keyEvent{
		Group: w.g.name, Partition: w.part, Key: r.PartitionKey, Offset: r.Offset, EventID: r.ID, EventType: r.Type,
		Class: string(class), Error: errorText(cause), Attempts: w.failing.tries, Reason: reason, Actor: Source,
	}
	def := keyParkedV1
	if act == keySkipped {
		def = keySkippedV1
	}
	return audit(event.ContextWithCause(ctx, r.Metadata), tx, w.g.name, def.New(Source, p))
}

func (w *worker) auditReleased(ctx context.Context, tx *eventstore.Tx, k *parkedKey) error {
	return audit(ctx, tx, w.g.name, keyReleasedV1.New(Source, keyEvent{
		Group: w.g.name, Partition: w.part, Key: k.key, Offset: k.tail, Attempts: k.attempts, Reason: "drained", Actor: Source,
	}))
}
