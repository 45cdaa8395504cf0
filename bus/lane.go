package bus

import (
	"context"
	"errors"

	"github.com/carebus/carebus/eventstore"
)

// lane is what a worker knows of a lane of a transport, beside its position.
type lane struct {
	text   string // of seen, as it was read from the checkpoint
	resume string // the same for after a replay
	seen   seen   // as of next
	ahead  seen   // as of pos
	trail  trail  // from next to pos
	bad    map[int64]error

	gap     int64 // at pos, events that came too early begin; -1 for none
	scanned int64 // up to here nothing else was found
	told    bool  // the gap was logged
}

// begin reads what the checkpoint says of the lane.
func (w *worker) begin() (err error) {
	if w.seen, err = parseSeen(w.text); err != nil {
		return err
	}
	w.rewind()
	return nil
}

// rewind goes back to what is committed.
func (w *worker) rewind() {
	w.ahead, w.trail = w.seen.clone(), nil
	w.gap, w.scanned = -1, 0
}

// passed notes that the checkpoint has moved.
func (w *worker) passed(next int64) {
	if w.part < FirstLane {
		return
	}
	w.seen = w.trail.at(w.seen, next)
	w.trail = w.trail.behind(next)
}

// readLane reads on at pos: the events that are the next of their origins. Repetitions are passed over. Where events came
// too early it looks behind them for those that were missing, after which they come again; until then it stays where it is.
func (w *worker) readLane(ctx context.Context) (eventstore.Batch, error) {
	if w.gap >= 0 {
		return w.crossGap(ctx)
	}
	clear(w.bad)
	found, next, err := w.g.member.Read(ctx, w.part, w.pos, w.g.set.batch, w.g.set.batchBytes)
	if err != nil {
		return eventstore.Batch{}, err
	}
	b := eventstore.Batch{Next: next}
	for i := range found {
		d := &found[i]
		if w.replay.to > 0 && d.Offset >= w.replay.to {
			b.Next = w.replay.to
			return b, nil
		}
		switch w.ahead.judge(d.Origin) {
		case repeated:
			continue
		case early:
			w.gap, w.scanned, w.told = d.Offset, d.Offset, false
			b.Next = d.Offset
			if b.Next == w.pos {
				return w.crossGap(ctx)
			}
			return b, nil
		}
		w.ahead.add(d.Origin)
		w.trail = append(w.trail, step{d.Offset, d.Origin})
		if w.wants(d) {
			b.Records = append(b.Records, d.Record)
		}
	}
	return b, nil
}

// wants reports whether the group handles an event, and keeps why one cannot be read: that must not be passed over, as
// nobody knows what it is.
func (w *worker) wants(d *Delivered) bool {
	err := d.Err
	if err == nil && d.Origin.Log == "" && w.g.bus.opts.Validate != nil && w.matches(d.Type) {
		err = w.g.bus.opts.Validate(d.Event) // no store has checked it
	}
	if err != nil {
		if w.bad == nil {
			w.bad = map[int64]error{}
		}
		w.bad[d.Offset] = Fatal(err)
		return true
	}
	return w.matches(d.Type)
}

// crossGap looks behind events that came too early, where the gap is, for one that is the next of its origin. It returns an
// empty batch that ends there, or at pos when there is none yet.
func (w *worker) crossGap(ctx context.Context) (eventstore.Batch, error) {
	for {
		found, next, err := w.g.member.Read(ctx, w.part, w.scanned, w.g.set.batch, w.g.set.batchBytes)
		if err != nil {
			return eventstore.Batch{}, err
		}
		for i := range found {
			if w.ahead.judge(found[i].Origin) == nextOne {
				w.gap, w.scanned = -1, 0
				return eventstore.Batch{Next: found[i].Offset}, nil
			}
		}
		if next == w.scanned {
			break
		}
		w.scanned = next
	}
	if !w.told {
		w.told = true
		topic, partition := w.g.transport.Place(w.part)
		w.g.log.ErrorContext(ctx, "bus: events are missing that were sent before others; waiting until their relay has sent them again", "topic", topic, "partition", partition, "offset", w.pos)
	}
	return eventstore.Batch{Next: w.pos}, nil
}

// stopLost stops the group, as events were removed from a lane that it has not handled. It reports whether that is done.
func (w *worker) stopLost(ctx context.Context, cause error) bool {
	err := w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		if err := w.fence(ctx, tx); err != nil {
			return err
		}
		return w.stopGroup(ctx, tx, cause.Error())
	})
	if err != nil && !errors.Is(err, errFenced) {
		w.g.log.Warn("bus: stopping the group", "error", errorText(err))
		w.pause(ctx, w.g.backoff(1))
		return false
	}
	return true
}

// drainScan is how many events a drain of a lane looks over in one go.
const drainScan = 50_000

// waiting reads the events of a parked key from its head on. known tells what is to be kept of the lane at an offset.
func (w *worker) waiting(ctx context.Context, k *parkedKey) (b eventstore.Batch, known func(offset int64) string, err error) {
	if w.part < FirstLane {
		b, err = w.g.bus.store.Partition(ctx, eventstore.PartitionQuery{
			Partition: w.part, From: k.head, To: k.tail + 1, Key: k.key, Match: w.matches,
			Limit: w.g.drainLimit(), MaxBytes: w.g.set.batchBytes,
		})
		return b, func(int64) string { return "" }, err
	}
	base, err := parseSeen(k.seen)
	if err != nil {
		return b, nil, err
	}
	clear(w.bad)
	var way trail
	ahead := base.clone()
	size := 0
	b.Next = k.base
	for b.Next <= k.tail && len(way) < drainScan && size < w.g.set.batchBytes && len(b.Records) < w.g.drainLimit() {
		found, next, err := w.g.transport.Fetch(ctx, w.part, b.Next, w.g.drainLimit(), w.g.set.batchBytes)
		if err != nil {
			return b, nil, err
		}
		if next == b.Next {
			break
		}
		for i := range found {
			d := &found[i]
			if d.Offset > k.tail {
				next = k.tail + 1
				break
			}
			if ahead.judge(d.Origin) != nextOne {
				continue
			}
			ahead.add(d.Origin)
			way = append(way, step{d.Offset, d.Origin})
			if d.Offset >= k.head && d.PartitionKey == k.key && w.wants(d) {
				b.Records = append(b.Records, d.Record)
				size += len(d.Payload)
			}
		}
		b.Next = next
	}
	return b, func(offset int64) string { return way.at(base, offset).text(w.part) }, nil
}
