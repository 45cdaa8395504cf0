package bridge

import (
	"context"
	"database/sql"
	"errors"
	"sort"
	"sync"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// A bridge keeps its state in the store's own database, so that events and the offsets that say they were read commit
// together. All statements are the subset that SQLite and PostgreSQL share; times are microseconds.
//
// carebus_bridge_store has one row, the name by which the store's records are known in Kafka: a header on each of them.
//
// carebus_bridge_leases is who copies in. Every commit is a compare-and-set on epoch: a process whose lease was taken
// over is undone, however late it wakes up.
//
// carebus_bridge_offsets is how far a topic partition was read: next is the offset of the first record not settled.
// topic_id tells a topic from one of the same name that was created later. Each commit is a compare-and-set on next too.
//
// carebus_bridge_refused points at records that could not become events. Nothing of their value is copied: Kafka has it,
// for as long as the topic keeps it.
//
// carebus_bridge_ranges is what a bridge has copied in: offsets [lo, hi) of a partition of the store. The same bridge does
// not copy them out again. Neighbours are one row, so that a bridge that reads a long topic into a quiet store has few.
var tables = []string{`
CREATE TABLE carebus_bridge_store (
	one BIGINT PRIMARY KEY,
	id TEXT NOT NULL
);
CREATE TABLE carebus_bridge_leases (
	bridge TEXT PRIMARY KEY,
	owner TEXT NOT NULL,
	epoch BIGINT NOT NULL,
	expires_at BIGINT NOT NULL
);
CREATE TABLE carebus_bridge_offsets (
	bridge TEXT NOT NULL,
	topic TEXT NOT NULL,
	part BIGINT NOT NULL,
	topic_id TEXT NOT NULL,
	next BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (bridge, topic, part)
);
CREATE TABLE carebus_bridge_refused (
	bridge TEXT NOT NULL,
	topic TEXT NOT NULL,
	part BIGINT NOT NULL,
	pos BIGINT NOT NULL,
	topic_id TEXT NOT NULL,
	event_id TEXT NOT NULL,
	event_type TEXT NOT NULL,
	rule TEXT NOT NULL,
	error TEXT NOT NULL,
	attempts BIGINT NOT NULL,
	refused_at BIGINT NOT NULL,
	PRIMARY KEY (bridge, topic, part, pos, topic_id)
);
CREATE TABLE carebus_bridge_ranges (
	bridge TEXT NOT NULL,
	part BIGINT NOT NULL,
	lo BIGINT NOT NULL,
	hi BIGINT NOT NULL,
	PRIMARY KEY (bridge, part, lo)
);
CREATE UNIQUE INDEX carebus_bridge_ranges_hi ON carebus_bridge_ranges (bridge, part, hi);
`}

// storeID returns the id of a store, giving it one when it has none.
func storeID(ctx context.Context, tx *eventstore.Tx) (string, error) {
	// Two processes may open a new store at once: the first one's id stands.
	_, err := tx.ExecContext(ctx, `INSERT INTO carebus_bridge_store (one, id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING`, event.NewID())
	if err != nil {
		return "", err
	}
	var id string
	err = tx.QueryRowContext(ctx, `SELECT id FROM carebus_bridge_store`).Scan(&id)
	return id, err
}

// place is a partition of a topic.
type place struct {
	topic string
	part  int32
}

// progress is a row of carebus_bridge_offsets.
type progress struct {
	topicID string
	next    int64
}

func (b *Bridge) readProgress(ctx context.Context, q eventstore.Querier) (map[place]progress, error) {
	rows, err := q.QueryContext(ctx, `SELECT topic, part, topic_id, next FROM carebus_bridge_offsets WHERE bridge = $1`, b.name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[place]progress{}
	for rows.Next() {
		var at place
		var p progress
		if err := rows.Scan(&at.topic, &at.part, &p.topicID, &p.next); err != nil {
			return nil, err
		}
		out[at] = p
	}
	return out, rows.Err()
}

// errFenced: another process has taken over, or a person has moved the bridge. What was done is undone.
var errFenced = errors.New("bridge: another process copies in under this name")

func oneRow(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n != 1 {
		return errFenced
	}
	return nil
}

// noteCopied widens the ranges of what was copied in. Receipts of duplicates are not of this bridge's doing.
func (b *Bridge) noteCopied(ctx context.Context, tx *eventstore.Tx, receipts []eventstore.Receipt) error {
	type run struct{ lo, hi int64 }
	last := map[int]*run{}
	flush := func(part int, r *run) error {
		res, err := tx.ExecContext(ctx, `UPDATE carebus_bridge_ranges SET hi = $1 WHERE bridge = $2 AND part = $3 AND hi = $4`, r.hi, b.name, part, r.lo)
		if err = oneRow(res, err); !errors.Is(err, errFenced) {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO carebus_bridge_ranges (bridge, part, lo, hi) VALUES ($1, $2, $3, $4)`, b.name, part, r.lo, r.hi)
		return err
	}
	for _, rc := range receipts {
		if rc.Duplicate {
			continue
		}
		switch r := last[rc.Partition]; {
		case r != nil && r.hi == rc.Offset:
			r.hi++
			continue
		case r != nil && rc.Offset >= r.lo && rc.Offset < r.hi:
			continue // twice in one append
		case r != nil:
			if err := flush(rc.Partition, r); err != nil {
				return err
			}
		}
		last[rc.Partition] = &run{rc.Offset, rc.Offset + 1}
	}
	for part, r := range last {
		if err := flush(part, r); err != nil {
			return err
		}
	}
	return nil
}

// copied remembers, for a partition of the store, which events in [from, to) this bridge has brought in.
//
// The answer for an event never changes once the event is stored, since both commit together. So what lies below the head
// may be remembered: 1. the head is read; 2. the ranges are read, in a snapshot that is later and so has all that belongs to
// events below that head.
type copied struct {
	mu       sync.Mutex
	from, to int64
	ranges   [][2]int64 // [lo, hi), ascending
}

const copiedRanges = 1000 // remembered per partition, at most

func (c *copied) has(ctx context.Context, b *Bridge, part int, offset int64) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if offset < c.from || offset >= c.to {
		if err := c.load(ctx, b, part, offset); err != nil {
			return false, err
		}
	}
	i := sort.Search(len(c.ranges), func(i int) bool { return c.ranges[i][1] > offset })
	return i < len(c.ranges) && c.ranges[i][0] <= offset, nil
}

func (c *copied) load(ctx context.Context, b *Bridge, part int, offset int64) error {
	heads, err := b.store.Heads(ctx)
	if err != nil {
		return err
	}
	var ranges [][2]int64
	err = b.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT lo, hi FROM carebus_bridge_ranges WHERE bridge = $1 AND part = $2 AND hi > $3 ORDER BY lo LIMIT $4`, b.name, part, offset, copiedRanges)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var r [2]int64
			if err := rows.Scan(&r[0], &r[1]); err != nil {
				return err
			}
			ranges = append(ranges, r)
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	c.from, c.to, c.ranges = offset, max(heads[part], offset+1), ranges
	if len(ranges) == copiedRanges {
		c.to = min(c.to, ranges[copiedRanges-1][1]) // there may be more behind
	}
	return nil
}
