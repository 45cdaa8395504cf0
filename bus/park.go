package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// parkedKey is a row of carebus_parked as the worker knows it.
type parkedKey struct {
	key      string
	head     int64
	tail     int64
	base     int64 // of a lane: seen is as of here
	seen     string
	attempts int
	nextAt   int64 // µs
	job      string
	draining bool // a drain is under way and gave way to live events: this try is counted already
}

// loadParked reads the partition's parked keys: when the lease is taken, and when an operator may have acted.
func (w *worker) loadParked(ctx context.Context) error {
	parked := map[string]*parkedKey{}
	err := w.g.bus.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT pkey, head, tail, base, seen, attempts, next_at, job FROM carebus_parked WHERE grp = $1 AND part = $2`, w.g.name, w.part)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			k := &parkedKey{}
			if err := rows.Scan(&k.key, &k.head, &k.tail, &k.base, &k.seen, &k.attempts, &k.nextAt, &k.job); err != nil {
				return err
			}
			parked[k.key] = k
		}
		return rows.Err()
	})
	if err != nil {
		return err
	}
	for key, k := range parked {
		if old := w.parked[key]; old != nil {
			k.draining = old.draining
		}
	}
	w.parked = parked
	w.schedule()
	return nil
}

// schedule works out when the next parked key is due.
func (w *worker) schedule() {
	next := int64(math.MaxInt64)
	for _, k := range w.parked {
		if k.draining {
			next = 0
		}
		next = min(next, k.nextAt)
	}
	w.dueAt = time.Time{}
	if len(w.parked) > 0 {
		w.dueAt = time.UnixMicro(next)
	}
}

// settle brings memory up to what a unit has committed.
func (w *worker) settle(out outcome) {
	for _, k := range out.released {
		delete(w.parked, k)
	}
	for k, tail := range out.followed {
		if p := w.parked[k]; p != nil {
			p.tail = tail
		}
	}
	for _, k := range out.parked {
		if tail, ok := out.followed[k.key]; ok {
			k.tail = tail
		}
		w.parked[k.key] = k
	}
	if len(out.released)+len(out.parked) > 0 {
		w.schedule()
	}
	if out.failed == nil {
		clear(w.answers)
		clear(w.denied)
	}
}

// follow puts an event behind its parked key, if there is one, and reports whether it did. The row is the truth, not
// the memory: when an operator released the key a moment ago the update finds no row, and the event is handled now.
func (w *worker) follow(ctx context.Context, tx *eventstore.Tx, r eventstore.Record, out *outcome) (bool, error) {
	if len(w.parked) == 0 && len(out.parked) == 0 {
		return false, nil
	}
	known := w.parked[r.PartitionKey] != nil
	for _, k := range out.released {
		if k == r.PartitionKey {
			known = false
		}
	}
	for _, k := range out.parked {
		if k.key == r.PartitionKey {
			known = true
		}
	}
	if !known {
		return false, nil
	}
	res, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET tail = $1, count = count + 1 WHERE grp = $2 AND part = $3 AND pkey = $4`,
		r.Offset, w.g.name, w.part, r.PartitionKey)
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); err != nil {
		return false, err
	} else if n == 0 {
		out.released = append(out.released, r.PartitionKey)
		return false, nil
	}
	if out.followed == nil {
		out.followed = map[string]int64{}
	}
	out.followed[r.PartitionKey] = r.Offset
	return true, nil
}

// park sets a key aside: one row, in the transaction that moves the checkpoint past its event.
func (w *worker) park(ctx context.Context, tx *eventstore.Tx, r eventstore.Record, class Class, cause error, out *outcome) error {
	now := tx.Now()
	next := now.Add(backoff(1, w.g.set.drainMin, w.g.set.drainMax)).UnixMicro()
	seen := w.trail.at(w.seen, r.Offset).text(w.part)
	_, err := tx.ExecContext(ctx, `INSERT INTO carebus_parked (grp, part, pkey, head, tail, count, class, error, event_id, event_type, attempts, next_at, state, job, parked_at, tried_at, base, seen)
		VALUES ($1, $2, $3, $4, $5, 1, $6, $7, $8, $9, $10, $11, 'waiting', '', $12, $13, $14, $15)`,
		w.g.name, w.part, r.PartitionKey, r.Offset, r.Offset, string(class), errorText(cause), r.ID, r.Type, w.failing.tries, next, now.UnixMicro(), now.UnixMicro(), r.Offset, seen)
	if err != nil {
		return err
	}
	out.parked = append(out.parked, &parkedKey{key: r.PartitionKey, head: r.Offset, tail: r.Offset, base: r.Offset, seen: seen, attempts: w.failing.tries, nextAt: next})
	w.g.log.WarnContext(w.deliveryContext(ctx, r, false), "bus: key parked", "partition", w.part, "offset", r.Offset, "eventId", r.ID, "eventType", r.Type, "class", class, "error", logText(cause))
	return w.auditFailure(ctx, tx, keyParked, r, class, cause, "")
}

// flood says why the group must stop: keys are being parked at a rate that points at the code or the world.
func (w *worker) flood(ctx context.Context, tx *eventstore.Tx) (reason string, err error) {
	var recent, total int64
	since := tx.Now().Add(-time.Minute).UnixMicro()
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_parked WHERE grp = $1 AND parked_at > $2`, w.g.name, since).Scan(&recent); err != nil {
		return "", err
	}
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_parked WHERE grp = $1`, w.g.name).Scan(&total); err != nil {
		return "", err
	}
	limit := int64(w.g.set.floodKeys)
	active := w.g.keys.estimate()
	switch {
	case recent > limit:
		return fmt.Sprintf("%d keys parked within a minute (limit %d): a fault of the code or of something it needs; mend it, then resume the group and redrive", recent, limit), nil
	case total > limit && float64(total) > 0.01*active:
		return fmt.Sprintf("%d keys are parked, more than 1 %% of the %.0f active ones: mend the cause, then resume the group and redrive", total, active), nil
	}
	return "", nil
}

// stopGroup stops the group in every process: the state is written and every epoch raised, so no member commits again.
func (w *worker) stopGroup(ctx context.Context, tx *eventstore.Tx, reason string) error {
	w.g.log.Error("bus: group stopped", "reason", reason)
	return setGroupState(ctx, tx, w.g.name, groupStopped, reason, "carebus")
}

// drainDue gives the parked keys that are due another try: each from head to tail, in order, effects and head moving in
// one transaction. A key with much to do gives way to live events after every batch.
func (w *worker) drainDue(ctx context.Context) error {
	if w.dueAt.IsZero() || time.Now().Before(w.dueAt) || w.g.breaker.open() {
		return nil
	}
	now := time.Now().UnixMicro()
	for _, k := range w.parked {
		if k.nextAt > now && !k.draining {
			continue
		}
		if err := w.drainKey(ctx, k); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	w.schedule()
	return nil
}

// drainKey tries one parked key.
//
//  1. The try is counted and the next one scheduled, durably, before anything is handled: a process that dies here does
//     not come back to the same key at once.
//  2. Events from head on are handled, and head moves behind the last good one, conditional on head being where it was
//     (an operator may have skipped or discarded meanwhile) and on the lease.
//  3. Behind the tail the row is deleted. No event can slip in between: only this goroutine moves the tail.
func (w *worker) drainKey(ctx context.Context, k *parkedKey) error {
	if !k.draining {
		gone, err := w.beginDrain(ctx, k)
		if err != nil {
			return err
		}
		if gone {
			delete(w.parked, k.key)
			return nil
		}
	}
	released, failed, err := w.drainSlice(context.WithoutCancel(ctx), k)
	k.draining = !released && !failed && err == nil
	if released {
		delete(w.parked, k.key)
	}
	return err
}

func (w *worker) beginDrain(ctx context.Context, k *parkedKey) (gone bool, err error) {
	next := time.Now().Add(backoff(k.attempts+1, w.g.set.drainMin, w.g.set.drainMax)).UnixMicro()
	err = w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		gone = false
		if err := w.fence(ctx, tx); err != nil {
			return err
		}
		res, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET attempts = attempts + 1, next_at = $1, state = 'waiting', tried_at = $2 WHERE grp = $3 AND part = $4 AND pkey = $5`,
			next, tx.Now().UnixMicro(), w.g.name, w.part, k.key)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			gone = true
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT head, tail, base, seen, attempts, job FROM carebus_parked WHERE grp = $1 AND part = $2 AND pkey = $3`,
			w.g.name, w.part, k.key).Scan(&k.head, &k.tail, &k.base, &k.seen, &k.attempts, &k.job)
	})
	k.nextAt = next
	return gone, err
}

func (w *worker) drainSlice(ctx context.Context, k *parkedKey) (released, failed bool, err error) {
	batch, known, err := w.waiting(ctx, k)
	switch {
	case errors.Is(err, ErrLost): // it concerns nobody but this key
		return false, true, w.noteLost(ctx, k, err)
	case err != nil:
		return false, false, err
	}
	records, err := w.corrected(ctx, batch.Records)
	if err != nil {
		return false, false, err
	}
	items := w.prepare(records)
	if len(items) > 0 {
		if err := w.outside(ctx, items, true); err != nil {
			return false, false, err
		}
	}
	var head int64
	var seen string
	var fail *failure
	told := runs{hooks: w.g.bus.handleHooks}
	err = w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		released, fail, head = false, nil, batch.Next
		if err := w.fence(ctx, tx); err != nil {
			return err
		}
		handled := 0
		begin := time.Now()
		for i := range items {
			it := &items[i]
			if i > 0 && time.Since(begin) > w.g.set.hold {
				head = it.rec.Offset
				break
			}
			if err := w.redriveItem(ctx, tx, it, &told); err != nil {
				fail, head = &failure{w.g.classify(err), err}, it.rec.Offset
				told.failed(Parked, fail.class)
				if err := w.noteFailure(ctx, tx, k, it.rec, fail); err != nil {
					return err
				}
				break
			}
			handled++
		}
		seen = known(head)
		res, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET head = $1, base = $1, seen = $7, count = count - $2 WHERE grp = $3 AND part = $4 AND pkey = $5 AND head = $6`,
			head, handled, w.g.name, w.part, k.key, k.head, seen)
		if err := oneRow(res, err); err != nil {
			return err
		}
		if fail != nil || head <= k.tail {
			return nil
		}
		released = true
		if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_parked WHERE grp = $1 AND part = $2 AND pkey = $3 AND head > tail`, w.g.name, w.part, k.key); err != nil {
			return err
		}
		return w.auditReleased(ctx, tx, k)
	})
	told.tell(err)
	if err != nil {
		return false, false, err
	}
	k.head, k.base, k.seen = head, head, seen
	switch {
	case fail == nil:
		clear(w.answers)
		clear(w.denied)
	case fail.class == Dependency:
		w.g.breaker.failure()
		w.g.log.Info("bus: dependency failed while draining a key", "partition", w.part, "error", logText(fail.err))
	}
	return released, fail != nil, nil
}

// drainLimit is how many events of a parked key are read at once. Those that are forwarded are held by somebody outside
// until the last of them is done, so they come in ordinary batches.
func (g *group) drainLimit() int {
	for _, h := range g.handlers {
		if h.call != nil && h.call.bare {
			return g.set.batch
		}
	}
	return max(8192, g.set.batch)
}

func (w *worker) redriveItem(ctx context.Context, tx *eventstore.Tx, it *item, told *runs) (err error) {
	ctx, cancel := context.WithTimeout(w.deliveryContext(ctx, it.rec, true), w.g.set.timeout)
	defer cancel()
	if len(told.hooks) > 0 {
		ctx = told.begin(ctx, it.rec)
		defer func() { told.handled(err) }()
	}
	switch {
	case it.err != nil:
		return it.err
	case it.callErr != nil:
		return it.callErr
	}
	t := Tx{tx: tx, ctx: ctx}
	return tx.Savepoint(ctx, func() error {
		return w.g.around(ctx, t, it.rec, func(ctx context.Context, t Tx) error { return it.run(ctx, w.g, t) })
	})
}

// noteFailure keeps why a drained key failed again, and counts it against the job that asked.
func (w *worker) noteFailure(ctx context.Context, tx *eventstore.Tx, k *parkedKey, r eventstore.Record, f *failure) error {
	if _, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET class = $1, error = $2, event_id = $3, event_type = $4, job = '' WHERE grp = $5 AND part = $6 AND pkey = $7`,
		string(f.class), errorText(f.err), r.ID, r.Type, w.g.name, w.part, k.key); err != nil {
		return err
	}
	if k.job == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, `UPDATE carebus_jobs SET failed = failed + 1, updated_at = $1 WHERE id = $2`, tx.Now().UnixMicro(), k.job)
	return err
}

// noteLost keeps that the events of a parked key are gone.
func (w *worker) noteLost(ctx context.Context, k *parkedKey, cause error) error {
	return w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		if err := w.fence(ctx, tx); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET class = $1, error = $2, job = '' WHERE grp = $3 AND part = $4 AND pkey = $5`,
			string(Permanent), errorText(cause), w.g.name, w.part, k.key)
		return err
	})
}

// fence makes the transaction fail unless this worker still holds the partition.
func (w *worker) fence(ctx context.Context, tx *eventstore.Tx) error {
	return oneRow(tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET updated_at = $1 WHERE grp = $2 AND part = $3 AND epoch = $4`,
		tx.Now().UnixMicro(), w.g.name, w.part, w.epoch))
}
