package bus

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	"github.com/carebus/carebus/eventstore"
)

// Positions is how far a group has come, as one snapshot or one transaction sees it: an event below Next has had its
// effects, unless its key is parked at or before it.
type Positions struct {
	State  string             // running, paused, stopped; empty when the group has never run
	Next   []int64            // per partition: first offset not handled; a replay under way does not count as a step back
	Parked map[ParkedAt]int64 // parked keys: offset of the first event that is not done
}

// ParkedAt is a parked key and its partition.
type ParkedAt struct {
	Partition int
	Key       string
}

// Equal reports whether nothing has been handled, parked, drained or given up between p and o.
func (p Positions) Equal(o Positions) bool {
	if len(p.Next) != len(o.Next) {
		return false
	}
	for i := range p.Next {
		if p.Next[i] != o.Next[i] {
			return false
		}
	}
	return maps.Equal(p.Parked, o.Parked)
}

// ReadPositions reads a group's positions. It is for components that build on a group's checkpoint; people see
// Bus.Group. A group that has never run is at the beginning of each of the partitions, and so is one that reads lanes of a
// transport, which are no partitions of the store; see FromStore.
func ReadPositions(ctx context.Context, q eventstore.Querier, group string, partitions int) (Positions, error) {
	p := Positions{Next: make([]int64, partitions), Parked: map[ParkedAt]int64{}}
	err := q.QueryRowContext(ctx, `SELECT state FROM carebus_groups WHERE grp = $1`, group).Scan(&p.State)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return p, err
	}
	err = eachRow(ctx, q, func(rows *sql.Rows) error {
		var part int
		var next, resume int64
		if err := rows.Scan(&part, &next, &resume); err != nil {
			return err
		}
		if part >= 0 && part < partitions {
			p.Next[part] = max(next, resume)
		}
		return nil
	}, `SELECT part, next, resume_at FROM carebus_checkpoints WHERE grp = $1`, group)
	if err != nil {
		return p, err
	}
	err = eachRow(ctx, q, func(rows *sql.Rows) error {
		var k ParkedAt
		var head int64
		if err := rows.Scan(&k.Partition, &k.Key, &head); err != nil {
			return err
		}
		p.Parked[k] = head
		return nil
	}, `SELECT part, pkey, head FROM carebus_parked WHERE grp = $1 AND part < $2`, group, partitions)
	return p, err
}

// Progress is how far a group is with the events of this store, wherever it reads them: from the store or from lanes.
type Progress struct {
	Positions
	transport Transport
	seen      map[int]seen      // by lane, as of the checkpoint
	waiting   map[ParkedAt]seen // of keys parked in lanes, as of the first event that is not done
}

// Passed reports whether the group is done with an event of this store that it wants: its checkpoint lies behind the event,
// and the event's key is not parked at it or before it.
func (p Progress) Passed(eventType string, partition int, offset int64, key string) bool {
	if partition < 0 || partition >= len(p.Next) {
		return false
	}
	if p.transport == nil || ours(eventType) {
		head, parked := p.Parked[ParkedAt{partition, key}]
		return offset < p.Next[partition] && (!parked || offset < head)
	}
	lane, ok := p.transport.LaneOf(eventType, key)
	if !ok {
		return false
	}
	known, parked := p.waiting[ParkedAt{lane, key}]
	if !parked {
		known = p.seen[lane]
	}
	at, ok := known.Logs[p.transport.Log(partition)]
	return ok && offset <= at
}

// Progress reads how far a group is.
func (b *Bus) Progress(ctx context.Context, q eventstore.Querier, group string) (Progress, error) {
	at, err := ReadPositions(ctx, q, group, b.store.Partitions())
	p := Progress{Positions: at, seen: map[int]seen{}, waiting: map[ParkedAt]seen{}}
	if err != nil || b.opts.Transport == nil {
		return p, err
	}
	err = eachRow(ctx, q, func(rows *sql.Rows) error {
		var lane int
		var text string
		if err := rows.Scan(&lane, &text); err != nil {
			return err
		}
		p.transport = b.opts.Transport
		p.seen[lane], err = parseSeen(text)
		return err
	}, `SELECT part, CASE WHEN resume_at > 0 THEN resume_seen ELSE seen END FROM carebus_checkpoints WHERE grp = $1 AND part >= $2`, group, FirstLane)
	if err != nil {
		return p, err
	}
	err = eachRow(ctx, q, func(rows *sql.Rows) error {
		var k ParkedAt
		var text string
		if err := rows.Scan(&k.Partition, &k.Key, &text); err != nil {
			return err
		}
		p.waiting[k], err = parseSeen(text)
		return err
	}, `SELECT part, pkey, seen FROM carebus_parked WHERE grp = $1 AND part >= $2`, group, FirstLane)
	return p, err
}

// LockPositions reads a group's positions and holds them still until the transaction ends: a member that is about to
// commit waits, and finds what the transaction has done. One that has begun before and does not take turns (Concurrent) has not
// seen it, and begins again.
func LockPositions(ctx context.Context, tx *eventstore.Tx, group string, partitions int) (Positions, error) {
	if _, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET epoch = epoch + 1 WHERE grp = $1`, group); err != nil {
		return Positions{}, err
	}
	return ReadPositions(ctx, tx, group, partitions)
}

// holdStill keeps members of a group from committing until the transaction ends, those included that do not take turns
// (Concurrent). What is read of their places from then on is what it stays.
func holdStill(ctx context.Context, tx *eventstore.Tx, group string) error {
	_, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET updated_at = $1 WHERE grp = $2`, tx.Now().UnixMicro(), group)
	return err
}

func eachRow(ctx context.Context, q eventstore.Querier, scan func(*sql.Rows) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// GivenUp is a run of a key's events that a group has passed without effect: by the policy SkipEvent, or because a
// person skipped or discarded them.
type GivenUp struct {
	ParkedAt
	From, To int64 // offsets: the key's events in [From, To)
}

// ReadGivenUp returns what a group has given up, as the audit in the log says. match chooses the group's event types.
// from is 0 at first and then what the former call returned as next: only what came since is returned.
func ReadGivenUp(ctx context.Context, s *eventstore.Store, group string, match func(eventType string) bool, from int64) (gone []GivenUp, next int64, err error) {
	part := eventstore.PartitionOf(group, s.Partitions())
	audited := func(t string) bool { return t == keySkippedV1.Type() || t == keyReleasedV1.Type() }
	for {
		b, err := s.Partition(ctx, eventstore.PartitionQuery{Partition: part, From: from, Key: group, Match: audited, Limit: 500})
		if err != nil {
			return nil, 0, err
		}
		for _, r := range b.Records {
			of, err := keySkippedV1.Decode(r.Event)
			if r.Type == keyReleasedV1.Type() {
				of, err = keyReleasedV1.Decode(r.Event)
			}
			if err != nil {
				return nil, 0, err
			}
			g, err := givenUp(ctx, s, r, of.Payload, match)
			if err != nil {
				return nil, 0, err
			}
			if g.To > g.From {
				gone = append(gone, g)
			}
		}
		if b.Next == from {
			return gone, from, nil
		}
		from = b.Next
	}
}

func givenUp(ctx context.Context, s *eventstore.Store, r eventstore.Record, e keyEvent, match func(string) bool) (GivenUp, error) {
	g := GivenUp{ParkedAt: ParkedAt{e.Partition, e.Key}, From: e.Offset, To: e.Offset}
	if e.Partition >= FirstLane {
		return g, nil
	}
	if r.Type == keySkippedV1.Type() {
		g.To++
		return g, nil
	}
	var n int
	if _, err := fmt.Sscanf(e.Reason, discardedReason, &n); err != nil || e.Class == "" {
		return g, nil // drained: nothing was given up
	}
	for n > 0 {
		b, err := s.Partition(ctx, eventstore.PartitionQuery{Partition: e.Partition, From: g.To, Key: e.Key, Match: match, Limit: min(n, 500)})
		if err != nil {
			return g, err
		}
		if b.Next == g.To {
			break
		}
		n -= len(b.Records)
		g.To = b.Next
	}
	return g, nil
}

// discardedReason is how Discard words its audit.
const discardedReason = "discarded %d events:"

// Corrected puts the payloads that people have corrected for a group (see Bus.Correct) in the place of the original
// ones. It changes and returns records.
func Corrected(ctx context.Context, s *eventstore.Store, group string, records []eventstore.Record) ([]eventstore.Record, error) {
	b := Bus{store: s}
	return b.correctedFor(ctx, group, records)
}

// Same reports whether t and o belong to one transaction, so that what was read in one holds in the other.
func (t Tx) Same(o Tx) bool { return t.tx == o.tx }
