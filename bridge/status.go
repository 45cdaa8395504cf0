package bridge

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// Status is what a bridge has done since it was opened. All are counters.
type Status struct {
	Sent       int64 `json:"sent"`       // events that Kafka has acknowledged
	PassedOut  int64 `json:"passedOut"`  // events not copied out because this bridge had copied them in
	Failed     int64 `json:"failed"`     // tries to send that failed, each of which is made again or parks the key
	Stored     int64 `json:"stored"`     // events copied in
	Duplicates int64 `json:"duplicates"` // records whose event was in the store already
	PassedIn   int64 `json:"passedIn"`   // records not copied in because they were copied out of this store
	Refused    int64 `json:"refused"`    // records that became dead letters
	Commits    int64 `json:"commits"`    // transactions on the way in
	Fenced     int64 `json:"fenced"`     // times that another process had taken over
	Retries    int64 `json:"retries"`    // transactions on the way in that failed and are made again
}

type counters struct {
	sent, passed, failed                                            atomic.Int64
	stored, duplicates, own, refused, commits, fencedTimes, retries atomic.Int64
}

// Status returns the counters.
func (b *Bridge) Status() Status {
	c := &b.count
	return Status{
		Sent: c.sent.Load(), PassedOut: c.passed.Load(), Failed: c.failed.Load(),
		Stored: c.stored.Load(), Duplicates: c.duplicates.Load(), PassedIn: c.own.Load(), Refused: c.refused.Load(),
		Commits: c.commits.Load(), Fenced: c.fencedTimes.Load(), Retries: c.retries.Load(),
	}
}

// Position is how far a topic partition has been copied in.
type Position struct {
	Topic     string    `json:"topic"`
	Partition int32     `json:"partition"`
	Next      int64     `json:"next"` // offset of the first record that is not settled
	UpdatedAt time.Time `json:"updatedAt"`
}

// Positions returns how far the bridge has copied in, from the store; by topic and partition.
func (b *Bridge) Positions(ctx context.Context) ([]Position, error) {
	var out []Position
	err := b.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT topic, part, next, updated_at FROM carebus_bridge_offsets WHERE bridge = $1`, b.name)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p Position
			var at int64
			if err := rows.Scan(&p.Topic, &p.Partition, &p.Next, &at); err != nil {
				return err
			}
			p.UpdatedAt = time.UnixMicro(at).UTC()
			out = append(out, p)
		}
		return rows.Err()
	})
	slices.SortFunc(out, func(a, b Position) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	return out, err
}
