package projection

import (
	"context"
	"strconv"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// The platform's own event about a projection. Its schema is in the catalog, which this package may not import.
var rebuiltV1 = event.Define[rebuilt]("platform.projection.rebuilt", "1.0.0")

type rebuilt struct {
	Projection string    `json:"projection"`
	Version    string    `json:"version"`
	Events     int64     `json:"events"`
	Reason     string    `json:"reason"`
	Actor      string    `json:"actor"`
	StartedAt  time.Time `json:"startedAt"`
	FinishedAt time.Time `json:"finishedAt"`
}

// audit records a rebuild in the transaction of its switch.
func (b *builder) audit(ctx context.Context, tx *eventstore.Tx, events int64) error {
	e := rebuiltV1.New(bus.Source, rebuilt{
		Projection: b.def.name, Version: strconv.Itoa(b.def.version), Events: events,
		Reason: b.row.reason, Actor: b.row.actor, StartedAt: b.row.began, FinishedAt: tx.Now().UTC(),
	})
	e.PartitionKey = b.def.name
	_, err := tx.Append(ctx, "", eventstore.AnyVersion, e)
	return err
}
