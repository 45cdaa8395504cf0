package projection

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// errNotYet: the switch was not possible now; nothing was changed.
var errNotYet = errors.New("projection: not yet")

// switchOver is the last step: one transaction that brings the build to exactly the group's checkpoints and puts it in
// the place of the live generation.
//
//  1. The group's positions are locked. No unit of the group can commit until we have: it finds either the old
//     generation live, having committed before, or the new one.
//  2. Units that share our commit may have run just before us. What they handled is in the log, but what people skipped
//     in such a unit is not visible to a reader yet, so we only go on when the positions are those that are committed.
//  3. What is left of the log, at most limit entries, is applied. The positions are then those of the build.
//  4. Views, live generation and tables change together. A reader's snapshot has all of it or nothing.
func (b *builder) switchOver(ctx context.Context, limit int64) error {
	var st staged
	err := b.careful(ctx, func(ctx context.Context, tx *eventstore.Tx, careful bool) error {
		st = staged{}
		now, err := bus.LockPositions(ctx, tx, b.def.name, len(b.pos))
		if err != nil {
			return err
		}
		committed, err := b.look(ctx)
		if err != nil {
			return err
		}
		if !now.Equal(committed) || !b.near(now, limit) {
			return errNotYet
		}
		pos := append([]int64(nil), b.pos...)
		defer func() { b.pos = pos }() // what is applied here is undone when a later part fails
		if err := b.finish(ctx, tx, now, &st, careful); err != nil {
			return err
		}
		if b.check != nil {
			return b.compare(ctx, tx)
		}
		return b.takeOver(ctx, tx, b.events+st.events)
	})
	if err != nil {
		return err
	}
	b.settle(st)
	b.tell()
	return nil
}

// near reports whether what is left to do is at most limit log entries.
func (b *builder) near(now bus.Positions, limit int64) bool {
	for p, next := range now.Next {
		if next < b.pos[p] {
			return false // somebody has sought the group back: it must come by again first
		}
		limit -= next - b.pos[p]
	}
	for k, head := range b.held {
		if to, _ := b.until(k, now.Parked); to > head {
			limit -= to - head
		}
	}
	return limit >= 0
}

// finish applies what the build does not have yet.
func (b *builder) finish(ctx context.Context, tx *eventstore.Tx, now bus.Positions, st *staged, careful bool) error {
	for p, to := range now.Next {
		for b.pos[p] < to {
			c := b.read(ctx, eventstore.PartitionQuery{Partition: p, From: b.pos[p], To: to})
			if c.err != nil {
				return c.err
			}
			if _, err := b.apply(ctx, tx, c.items, now.Parked, st, careful, time.Time{}); err != nil {
				return err
			}
			b.pos[p] = c.next
		}
	}
	for k, head := range b.held {
		to, _ := b.until(k, now.Parked)
		for head < to {
			c := b.read(ctx, eventstore.PartitionQuery{Partition: k.Partition, From: head, To: to, Key: k.Key})
			if c.err != nil {
				return c.err
			}
			st.key = k
			if _, err := b.apply(ctx, tx, c.items, nil, st, careful, time.Time{}); err != nil {
				return err
			}
			head = c.next
		}
	}
	return nil
}

func (b *builder) takeOver(ctx context.Context, tx *eventstore.Tx, events int64) error {
	rows, err := load(ctx, tx, b.def.name)
	if err != nil || len(rows) == 0 {
		return errors.Join(err, ErrNotFound)
	}
	r := rows[0]
	if err := dropViews(ctx, tx, r.tables); err != nil {
		return err
	}
	if err := createViews(ctx, tx, b.def.tables, b.row.gen); err != nil {
		return err
	}
	if err := dropTables(ctx, tx, r.tables, r.live); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE carebus_projections SET version = $1, digest = $2, tables = $3, live = $4, events = $5, live_since = $6 WHERE name = $7`,
		b.def.version, b.def.digest, strings.Join(b.def.tables, " "), b.row.gen, events, tx.Now().UnixMicro(), b.def.name); err != nil {
		return err
	}
	r.build.gen = 0 // its tables are live now
	if err := clearBuild(ctx, tx, r); err != nil {
		return err
	}
	return b.audit(ctx, tx, events)
}
