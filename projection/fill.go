package projection

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// item is an event that has been decoded for a build.
type item struct {
	rec   eventstore.Record
	steps []step
	err   error
}

// chunk is a part of one partition's log.
type chunk struct {
	part  int
	items []item
	next  int64
	err   error
}

// staged is what a transaction changes in the builder's memory once it has committed.
type staged struct {
	events int64
	held   map[bus.ParkedAt]int64
	key    bus.ParkedAt // the held key whose events are made up for; zero for none
}

// fill applies the log up to the positions of snap. A reader keeps chunks ahead, read and decoded, while others are being
// written; what is there when a transaction begins shares it.
func (b *builder) fill(ctx context.Context, snap bus.Positions) error {
	reading, stop := context.WithCancel(ctx)
	chunks := make(chan chunk, ahead)
	go func() {
		defer close(chunks)
		b.readAhead(reading, append([]int64(nil), b.pos...), snap.Next, chunks)
	}()
	defer func() {
		stop()
		for range chunks { // until the reader has gone
		}
	}()
	var waiting []chunk
	for c := range chunks {
		waiting = append(waiting[:0], c)
	more:
		for len(waiting) <= ahead {
			select {
			case c, ok := <-chunks:
				if !ok {
					break more
				}
				waiting = append(waiting, c)
			default:
				break more
			}
		}
		if err := b.write(ctx, waiting, snap.Parked); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (b *builder) readAhead(ctx context.Context, from, to []int64, out chan<- chunk) {
	for p := range from {
		for from[p] < to[p] {
			c := b.read(ctx, eventstore.PartitionQuery{Partition: p, From: from[p], To: to[p]})
			select {
			case out <- c:
			case <-ctx.Done():
				return
			}
			if c.err != nil {
				return
			}
			from[p] = c.next
		}
	}
}

// read reads and decodes a part of the log.
func (b *builder) read(ctx context.Context, q eventstore.PartitionQuery) chunk {
	q.Match, q.Limit, q.MaxBytes = b.def.matches, chunkEvents, chunkBytes
	batch, err := b.store.Partition(ctx, q)
	if err == nil && batch.Next <= q.From {
		err = fmt.Errorf("%w: partition %d has nothing at offset %d, below the checkpoint", eventstore.ErrCorrupt, q.Partition, q.From)
	}
	if err == nil {
		batch.Records, err = bus.Corrected(ctx, b.store, b.def.name, batch.Records)
	}
	c := chunk{part: q.Partition, next: batch.Next, err: err}
	if err == nil {
		c.items = b.prepare(batch.Records)
	}
	return c
}

func (b *builder) prepare(records []eventstore.Record) []item {
	items := make([]item, len(records))
	for i, r := range records {
		it := &items[i]
		it.rec = r
		for _, h := range b.def.handlers {
			if h.prepare == nil || !h.match(r.Type) {
				continue
			}
			var s step
			if it.err = guard(func() (err error) { s, err = h.prepare(b.up, r); return err }); it.err != nil {
				break
			}
			it.steps = append(it.steps, s)
		}
	}
	return items
}

// guard runs fn and turns a panic into an error.
func guard(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &bus.PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return fn()
}

// write commits chunks, in several transactions when they take long.
func (b *builder) write(ctx context.Context, cs []chunk, parked map[bus.ParkedAt]int64) error {
	for _, c := range cs {
		if c.err != nil {
			return c.err
		}
	}
	for len(cs) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		var st staged
		var full, done int // chunks finished, and items of the next
		pos := make([]int64, len(b.pos))
		err := b.careful(ctx, func(ctx context.Context, tx *eventstore.Tx, careful bool) (err error) {
			st, full, done = staged{}, 0, 0
			copy(pos, b.pos)
			for until := time.Now().Add(hold); full < len(cs) && done == 0; {
				c := &cs[full]
				if done, err = b.apply(ctx, tx, c.items, parked, &st, careful, until); err != nil {
					return err
				}
				pos[c.part] = c.next
				if done < len(c.items) {
					pos[c.part] = c.items[done].rec.Offset
				} else {
					full, done = full+1, 0
				}
				if time.Now().After(until) {
					break
				}
			}
			return b.save(ctx, tx, pos, st)
		})
		if err != nil {
			return err
		}
		b.pos = pos
		b.settle(st)
		b.tell()
		if cs = cs[full:]; len(cs) > 0 {
			cs[0].items = cs[0].items[done:]
		}
	}
	return nil
}

var errCareful = errors.New("projection: an event of a batch failed")

// careful runs fn in a transaction that keeps the build. A batch that failed is run again event by event, to find the
// guilty one. A transaction that has begun is finished even when ctx ends meanwhile.
func (b *builder) careful(ctx context.Context, fn func(ctx context.Context, tx *eventstore.Tx, careful bool) error) error {
	ctx = context.WithoutCancel(ctx)
	var err error
	for _, careful := range []bool{false, true} {
		err = b.store.Update(ctx, func(tx *eventstore.Tx) error {
			if err := b.renew(ctx, tx); err != nil {
				return err
			}
			return fn(ctx, tx, careful)
		})
		if !errors.Is(err, errCareful) {
			break
		}
	}
	return err
}

// apply runs the handlers for items, until the time is up, leaving out what the live group has not applied: events of
// parked keys from the head on, which are held, and what was given up. It returns how many items are behind it, at least
// one when there are any.
func (b *builder) apply(ctx context.Context, tx *eventstore.Tx, items []item, parked map[bus.ParkedAt]int64, st *staged, careful bool, until time.Time) (done int, err error) {
	if b.def.batched() && !careful {
		records := make([]eventstore.Record, 0, len(items))
		for i := range items {
			if !b.leftOut(items[i].rec, parked, st) {
				records = append(records, items[i].rec)
			}
		}
		st.events += int64(len(records))
		if len(records) > 0 && guard(func() error { return b.def.handlers[0].batch(ctx, b.tx(ctx, tx), records) }) != nil {
			return 0, errCareful
		}
		return len(items), nil
	}
	for i := range items {
		it := &items[i]
		if i > 0 && i%16 == 0 && !until.IsZero() && time.Now().After(until) {
			return i, nil
		}
		if !b.leftOut(it.rec, parked, st) {
			if err := b.applyOne(ctx, tx, it); err != nil {
				return 0, &EventError{Projection: b.def.name, EventID: it.rec.ID, EventType: it.rec.Type, Partition: it.rec.Partition, Offset: it.rec.Offset, Err: err}
			}
			st.events++
		}
	}
	return len(items), nil
}

func (b *builder) applyOne(ctx context.Context, tx *eventstore.Tx, it *item) error {
	if it.err != nil {
		return it.err
	}
	return guard(func() error {
		ctx := event.ContextWithCause(ctx, it.rec.Metadata)
		t := b.tx(ctx, tx)
		if b.def.batched() {
			return b.def.handlers[0].batch(ctx, t, []eventstore.Record{it.rec})
		}
		for _, s := range it.steps {
			if err := s(ctx, t); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *builder) tx(ctx context.Context, tx *eventstore.Tx) Tx {
	return Tx{db: storeTx{ctx, tx}, gen: b.gen, rebuild: true}
}

// leftOut reports whether the build passes an event over.
func (b *builder) leftOut(r eventstore.Record, parked map[bus.ParkedAt]int64, st *staged) bool {
	if len(b.held) == 0 && len(parked) == 0 && len(b.gone) == 0 {
		return false
	}
	k := bus.ParkedAt{Partition: r.Partition, Key: r.PartitionKey}
	if k == st.key {
		return b.givenUp(k, r.Offset)
	}
	if _, ok := b.held[k]; ok {
		return true
	}
	if _, ok := st.held[k]; ok {
		return true
	}
	if head, ok := parked[k]; ok && r.Offset >= head {
		if st.held == nil {
			st.held = map[bus.ParkedAt]int64{}
		}
		st.held[k] = r.Offset
		return true
	}
	return b.givenUp(k, r.Offset)
}

func (b *builder) givenUp(k bus.ParkedAt, offset int64) bool {
	for _, g := range b.gone[k] {
		if offset >= g.From && offset < g.To {
			return true
		}
	}
	return false
}

// save writes down how far the build has come.
func (b *builder) save(ctx context.Context, tx *eventstore.Tx, pos []int64, st staged) error {
	for part, next := range pos {
		if next == b.pos[part] {
			continue
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_projection_builds (name, part, next) VALUES ($1, $2, $3)
			ON CONFLICT (name, part) DO UPDATE SET next = excluded.next`, b.def.name, part, next); err != nil {
			return err
		}
	}
	for k, head := range st.held {
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_projection_held (name, part, pkey, head) VALUES ($1, $2, $3, $4)`, b.def.name, k.Partition, k.Key, head); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `UPDATE carebus_projections SET build_events = $1 WHERE name = $2`, b.events+st.events, b.def.name)
	return err
}

func (b *builder) settle(st staged) {
	b.events += st.events
	for k, head := range st.held {
		b.held[k] = head
	}
}

// until is the offset below which the events of a held key have been applied by the live group.
func (b *builder) until(k bus.ParkedAt, parked map[bus.ParkedAt]int64) (to int64, free bool) {
	to = b.pos[k.Partition]
	if head, ok := parked[k]; ok && head < to {
		return head, false
	}
	return to, true
}

// reconcile applies the events of held keys that the live group has applied since they were held, key by key, in order.
// A key that has no such event any more below the build's position is held no longer.
func (b *builder) reconcile(ctx context.Context, snap bus.Positions) error {
	for k, head := range b.held {
		to, free := b.until(k, snap.Parked)
		for head < to {
			c := b.read(ctx, eventstore.PartitionQuery{Partition: k.Partition, From: head, To: to, Key: k.Key})
			if c.err != nil {
				return c.err
			}
			for {
				var st staged
				var next int64
				var done int
				err := b.careful(ctx, func(ctx context.Context, tx *eventstore.Tx, careful bool) (err error) {
					st, next = staged{key: k}, c.next
					if done, err = b.apply(ctx, tx, c.items, nil, &st, careful, time.Now().Add(hold)); err != nil {
						return err
					}
					if done < len(c.items) {
						next = c.items[done].rec.Offset
					}
					return b.moveHeld(ctx, tx, k, next, free && next >= to)
				})
				if err != nil {
					return err
				}
				b.events += st.events
				head = next
				b.held[k] = head
				b.tell()
				if c.items = c.items[done:]; len(c.items) == 0 {
					break
				}
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		if free && head >= to {
			delete(b.held, k)
		}
	}
	return nil
}

func (b *builder) moveHeld(ctx context.Context, tx *eventstore.Tx, k bus.ParkedAt, head int64, free bool) error {
	var err error
	if free {
		_, err = tx.ExecContext(ctx, `DELETE FROM carebus_projection_held WHERE name = $1 AND part = $2 AND pkey = $3`, b.def.name, k.Partition, k.Key)
	} else {
		_, err = tx.ExecContext(ctx, `UPDATE carebus_projection_held SET head = $1 WHERE name = $2 AND part = $3 AND pkey = $4`, head, b.def.name, k.Partition, k.Key)
	}
	return err
}
