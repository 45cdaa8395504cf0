package bus

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// item is an event on its way through the handlers.
type item struct {
	rec     eventstore.Record
	steps   []apply
	err     error // preparation failed: for good
	called  apply // effects of the outside call's answer
	callErr error // the outside call failed: this time
}

// outcome is what one unit came to.
type outcome struct {
	done     int   // items settled: handled, parked, skipped, or put behind a parked key
	next     int64 // the checkpoint
	failed   *failure
	parked   []*parkedKey     // parked by this unit
	followed map[string]int64 // parked keys that got later events: key -> offset of the last
	released []string         // keys that somebody released meanwhile
	stop     string           // why the group must stop itself; empty when it need not
}

type failure struct {
	class Class
	err   error
}

// errRedo: an event failed in a unit without savepoints; run the unit again with one per event.
var errRedo = errors.New("bus: run again with savepoints")

// prepare decodes outside the transaction, where it holds up nobody.
func (w *worker) prepare(records []eventstore.Record) []item {
	items := make([]item, len(records))
	for i, r := range records {
		it := &items[i]
		it.rec = r
		if it.err = w.bad[r.Offset]; it.err != nil {
			continue
		}
		for _, h := range w.g.handlers {
			if h.each == nil || !h.match(r.Type) {
				continue
			}
			var step apply
			err := guard(func() (err error) { step, err = h.each(w.g, r); return err })
			if err != nil {
				it.err = err
				break
			}
			it.steps = append(it.steps, step)
		}
		w.g.keys.add(r.PartitionKey)
	}
	return items
}

// attempt runs items as one unit: effects, parked rows and checkpoint, one commit. end is the offset behind everything
// that was looked at. It returns an error only when nothing was committed.
//
// The first run is without savepoints, the common case being that nothing fails. When an event fails the unit is undone
// and run again with a savepoint per event, so that the others keep their effects.
func (w *worker) attempt(ctx context.Context, items []item, end int64, probe bool) (outcome, error) {
	first := items[0].rec.Offset
	switch {
	case first < w.doubt:
		items, end = items[:1], first+1
		if w.handling == first && w.deaths > 0 {
			w.g.accused.Lock()
			defer w.g.accused.Unlock()
		}
		if err := w.mark(ctx, first); err != nil {
			return outcome{}, err
		}
	case probe:
		items, end = items[:1], first+1
	}
	if err := w.outside(ctx, items, false); err != nil {
		return outcome{}, err
	}
	tries := w.failing
	out, err := w.unit(ctx, items, end, false)
	if redone(err) {
		w.failing = tries
		out, err = w.unit(ctx, items, end, true)
	}
	return out, err
}

// redone says of the error of a unit that it is not the store's, but a handler's: of one event's, which is to be found.
func redone(err error) bool {
	if err == nil || errors.Is(err, errRedo) {
		return err != nil
	}
	for _, theirs := range []error{errFenced, ErrLost, eventstore.ErrUnavailable, eventstore.ErrClosed, eventstore.ErrFull, eventstore.ErrCorrupt, eventstore.ErrReadOnly, context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, theirs) {
			return false
		}
	}
	return true // it has swallowed the error of a statement, or of an append in a transaction that cannot
}

func (w *worker) unit(ctx context.Context, items []item, end int64, careful bool) (outcome, error) {
	var out outcome
	limit := w.g.set.hold + w.g.set.timeout
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	told := runs{hooks: w.g.bus.handleHooks}
	update := w.g.bus.store.Update
	if w.g.set.concurrent && !careful && len(w.parked) == 0 {
		update = w.g.bus.store.UpdateConcurrent
	}
	err := update(ctx, func(tx *eventstore.Tx) error {
		out = outcome{done: len(items), next: end}
		if w.g.handlers[0].batch != nil && !careful {
			if err := w.runBatch(ctx, tx, items, &out, &told); err != nil {
				return errRedo
			}
			return w.checkpoint(ctx, tx, out.next)
		}
		if w.g.handlers[0].forward != nil && !careful && len(w.parked) == 0 {
			if err := w.runForwarded(ctx, tx, items, &told); err != nil {
				return errRedo
			}
			return w.checkpoint(ctx, tx, out.next)
		}
		begin := time.Now()
		for i := range items {
			it := &items[i]
			wait, err := w.follow(ctx, tx, it.rec, &out)
			if err != nil {
				return err
			}
			if wait {
				continue
			}
			err = w.runItem(ctx, tx, it, careful, &told)
			if err != nil {
				if !careful {
					return errRedo
				}
				stays, serr := w.fail(ctx, tx, it, err, &out, &told)
				if serr != nil {
					return serr
				}
				if stays {
					out.done, out.next = i, it.rec.Offset
					break
				}
				if out.stop != "" {
					out.done, out.next = i+1, it.rec.Offset+1
					break
				}
				continue
			}
			if i+1 < len(items) && time.Since(begin) > w.g.set.hold && w.g.handlers[0].forward == nil {
				out.done, out.next = i+1, it.rec.Offset+1
				break
			}
		}
		if err := w.checkpoint(ctx, tx, out.next); err != nil {
			return err
		}
		if out.stop != "" {
			return w.stopGroup(ctx, tx, out.stop) // raises the epoch: after the checkpoint, which needs the old one
		}
		return nil
	})
	told.tell(err)
	return out, err
}

// verdict is the failure that is known before the handler runs.
func (w *worker) verdict(it *item) error {
	if it.rec.Offset == w.handling && w.deaths >= suspectDeaths && w.g.handlers[0].forward == nil {
		return &classified{Suspect, fmt.Errorf("the process died %d times while handling this event; look for memory, stack or time without bound, then redrive", w.deaths)}
	}
	if it.err != nil {
		return it.err
	}
	return it.callErr
}

// runItem runs an event's handlers, in a savepoint when careful.
func (w *worker) runItem(ctx context.Context, tx *eventstore.Tx, it *item, careful bool, told *runs) (err error) {
	ctx = w.deliveryContext(ctx, it.rec, false)
	if len(told.hooks) > 0 {
		ctx = told.begin(ctx, it.rec)
		defer func() { told.handled(err) }()
	}
	if err := w.verdict(it); err != nil {
		return err
	}
	t := Tx{tx: tx, ctx: ctx}
	if !careful {
		return w.g.around(ctx, t, it.rec, func(ctx context.Context, t Tx) error { return it.run(ctx, w.g, t) })
	}
	ctx, cancel := context.WithTimeout(ctx, w.g.set.timeout)
	defer cancel()
	t.ctx = ctx
	return tx.Savepoint(ctx, func() error {
		return w.g.around(ctx, t, it.rec, func(ctx context.Context, t Tx) error { return it.run(ctx, w.g, t) })
	})
}

// around runs handlers inside what is around them, and turns a panic into an error.
func (g *group) around(ctx context.Context, tx Tx, r eventstore.Record, run func(ctx context.Context, tx Tx) error) error {
	next := func(ctx context.Context) error {
		tx.ctx = ctx
		return run(ctx, tx)
	}
	for _, layer := range slices.Backward(g.set.around) {
		inner := next
		next = func(ctx context.Context) error { return layer(ctx, r, inner) }
	}
	return guard(func() error { return next(ctx) })
}

func (it *item) run(ctx context.Context, g *group, tx Tx) error {
	if b := g.handlers[0].batch; b != nil {
		return b(ctx, tx, []eventstore.Record{it.rec})
	}
	for _, step := range it.steps {
		if err := step(ctx, tx); err != nil {
			return err
		}
	}
	if it.called != nil {
		return it.called(ctx, tx)
	}
	return nil
}

func (w *worker) runBatch(ctx context.Context, tx *eventstore.Tx, items []item, out *outcome, told *runs) (err error) {
	records := make([]eventstore.Record, 0, len(items))
	for i := range items {
		wait, err := w.follow(ctx, tx, items[i].rec, out)
		if err != nil {
			return err
		}
		if !wait {
			records = append(records, items[i].rec)
		}
	}
	if len(records) == 0 {
		return nil
	}
	if len(records) == 1 {
		ctx = w.deliveryContext(ctx, records[0], false)
	} else {
		ctx = context.WithValue(ctx, deliveryKey{}, w.delivery(records[0], false))
	}
	if len(told.hooks) > 0 {
		ctx = told.begin(ctx, records...)
		defer func() { told.handled(err) }()
	}
	return w.g.around(ctx, Tx{tx: tx, ctx: ctx}, records[0], func(ctx context.Context, tx Tx) error {
		return w.g.handlers[0].batch(ctx, tx, records)
	})
}

// runForwarded is what is left to do for events that were handed on together: something at most, of the last one.
func (w *worker) runForwarded(ctx context.Context, tx *eventstore.Tx, items []item, told *runs) (err error) {
	last := &items[len(items)-1]
	ctx = w.deliveryContext(ctx, last.rec, false)
	if len(told.hooks) > 0 {
		records := make([]eventstore.Record, len(items))
		for i := range items {
			records[i] = items[i].rec
		}
		ctx = told.begin(ctx, records...)
		defer func() { told.handled(err) }()
	}
	for i := range items {
		if err := w.verdict(&items[i]); err != nil {
			return err
		}
	}
	return w.g.around(ctx, Tx{tx: tx, ctx: ctx}, last.rec, func(ctx context.Context, t Tx) error { return last.run(ctx, w.g, t) })
}

func (w *worker) deliveryContext(ctx context.Context, r eventstore.Record, redrive bool) context.Context {
	return event.ContextWithCause(context.WithValue(ctx, deliveryKey{}, w.delivery(r, redrive)), r.Metadata)
}

func (w *worker) delivery(r eventstore.Record, redrive bool) Delivery {
	d := Delivery{Group: w.g.name, Partition: w.part, Offset: r.Offset, Attempt: 1, Redrive: redrive}
	if w.failing.offset == r.Offset {
		d.Attempt += w.failing.tries
	}
	d.Replay = w.replay.to > 0 && r.Offset < w.replay.to
	return d
}

// fail decides what becomes of an event that failed. It returns true when the checkpoint stays before the event. A group
// that must stop has its reason in out.
func (w *worker) fail(ctx context.Context, tx *eventstore.Tx, it *item, err error, out *outcome, told *runs) (stays bool, _ error) {
	if w.failing.offset != it.rec.Offset {
		w.failing = failing{offset: it.rec.Offset}
	}
	w.failing.tries++
	class := w.g.classify(err)
	switch decide(class, err, w.failing.tries, w.g.set) {
	case again:
		told.failed(Retried, class)
		out.failed = &failure{class, err}
		return true, nil
	case park:
		told.failed(Parked, class)
		if err := w.park(ctx, tx, it.rec, class, err, out); err != nil {
			return false, err
		}
		out.stop, err = w.flood(ctx, tx)
		return false, err
	case skip:
		told.failed(Skipped, class)
		return false, w.auditFailure(ctx, tx, keySkipped, it.rec, class, err, "policy: skip the event")
	default:
		told.failed(Stopped, class)
		out.failed = &failure{class, err}
		out.stop = fmt.Sprintf("event %s of type %s failed (%s): %s; mend the cause, then resume", it.rec.ID, it.rec.Type, class, logText(err))
		return true, nil
	}
}

func (g *group) classify(err error) Class {
	if g.set.classify != nil {
		if c, ok := g.set.classify(err); ok {
			return c
		}
	}
	return Classify(err)
}

// mark writes down, durably, which event is about to be handled. Only after a death: in ordinary running the price of a
// commit per event would be paid for nothing. A process that dies on the marked event leaves the mark for its successor.
func (w *worker) mark(ctx context.Context, offset int64) error {
	if w.handling != offset {
		w.deaths = 0
	}
	w.handling = offset
	err := w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		// Fewer deaths than this worker knows of, if a former owner has taken one back (see alive).
		return oneRow(tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET handling = $1, deaths = CASE WHEN deaths < $2 THEN deaths ELSE $2 END WHERE grp = $3 AND part = $4 AND next = $5 AND epoch = $6`,
			offset, w.deaths, w.g.name, w.part, w.next, w.epoch))
	})
	w.marked = w.marked || err == nil
	return err
}

// outside does what is to be done before the transaction. What became of it is in the items; an error is of the store.
func (w *worker) outside(ctx context.Context, items []item, redrive bool) error {
	switch h := w.g.handlers[0]; {
	case h.forward != nil:
		w.forward(ctx, h, items)
		return nil
	case h.batch != nil:
		return nil
	}
	return w.calls(ctx, items, redrive)
}

// forward hands items on, all in one call. When it fails, none counts as handed on.
func (w *worker) forward(ctx context.Context, h *handler, items []item) {
	records := make([]eventstore.Record, len(items))
	for i := range items {
		records[i] = items[i].rec
		items[i].called, items[i].callErr = nil, nil
	}
	ctx, cancel := context.WithTimeout(w.deliveryContext(ctx, records[0], false), w.g.set.timeout)
	defer cancel()
	defer context.AfterFunc(w.held, cancel)()
	var done apply
	err := guard(func() (err error) { done, err = h.forward(ctx, w.part, records); return err })
	for i := range items {
		items[i].callErr = err
	}
	items[len(items)-1].called = done
}

// calls makes the outside calls of items, keys in parallel, each key in order. Answers are kept until their effects are
// committed, so that a try that fails for another reason does not call again.
func (w *worker) calls(ctx context.Context, items []item, redrive bool) error {
	queues := map[string][]*item{}
	var order, ids []string
	for i := range items {
		it := &items[i]
		it.callErr = nil
		h := w.g.callFor(it.rec.Type)
		if h == nil || it.called != nil || w.verdict(it) != nil || (!redrive && w.parked[it.rec.PartitionKey] != nil) {
			continue
		}
		if it.called = w.answers[it.rec.ID]; it.called != nil {
			continue
		}
		key := it.rec.PartitionKey
		if queues[key] == nil {
			order = append(order, key)
		}
		queues[key] = append(queues[key], it)
		if !h.call.bare {
			ids = append(ids, it.rec.ID)
		}
	}
	var unknown map[string]bool
	if len(ids) > 0 {
		var err error
		if unknown, err = w.intend(ctx, ids); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, w.g.set.calls)
	for _, key := range order {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			failed := false
			for _, it := range queues[key] {
				if failed {
					it.callErr = errNotCalled
					continue
				}
				it.called, it.callErr = w.call(ctx, it.rec, unknown[it.rec.ID] && !w.refused(it.rec.ID), redrive)
				failed = it.callErr != nil
			}
		})
	}
	wg.Wait()
	for _, key := range order {
		for _, it := range queues[key] {
			switch {
			case it.called != nil:
				w.answers[it.rec.ID] = it.called
			case !errors.Is(it.callErr, errNotCalled) && w.g.classify(it.callErr) == Permanent:
				w.denied[it.rec.ID] = struct{}{}
			}
		}
	}
	return nil
}

var errNotCalled = Transient(errors.New("an earlier event of the key failed before this one was called"))

// refused: the provider gave a clear no in this process, so nothing is unknown about the call.
func (w *worker) refused(id string) bool {
	_, ok := w.denied[id]
	return ok
}

func (g *group) callFor(eventType string) *handler {
	for _, h := range g.handlers {
		if h.call != nil && h.match(eventType) {
			return h
		}
	}
	return nil
}

func (w *worker) call(ctx context.Context, r eventstore.Record, unknown, redrive bool) (apply, error) {
	ctx, cancel := context.WithTimeout(w.deliveryContext(ctx, r, redrive), w.g.set.timeout)
	defer cancel()
	c := w.g.callFor(r.Type).call
	if c.bare {
		defer context.AfterFunc(w.held, cancel)()
	}
	var ends []func(error)
	for _, h := range w.g.bus.callHooks {
		var end func(error)
		if ctx, end = h.OnCall(ctx, r); end != nil {
			ends = append(ends, end)
		}
	}
	var step apply
	err := guard(func() (err error) {
		step, err = c.run(ctx, w.g, r, unknown)
		return err
	})
	for _, end := range ends {
		end(err)
	}
	if err != nil || c.bare {
		return step, err
	}
	return func(ctx context.Context, tx Tx) error {
		if err := step(ctx, tx); err != nil {
			return err
		}
		_, err := tx.Exec(`UPDATE carebus_calls SET state = $1 WHERE grp = $2 AND event_id = $3`, callDone, w.g.name, r.ID)
		return err
	}, nil
}

// intend writes the intent rows of calls about to be made and returns which of them had one already.
func (w *worker) intend(ctx context.Context, ids []string) (unknown map[string]bool, err error) {
	err = w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		unknown = map[string]bool{}
		now := tx.Now().UnixMicro()
		for _, id := range ids {
			var state string
			err := tx.QueryRowContext(ctx, `SELECT state FROM carebus_calls WHERE grp = $1 AND event_id = $2`, w.g.name, id).Scan(&state)
			switch {
			case errors.Is(err, sql.ErrNoRows):
				if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_calls (grp, event_id, state, updated_at) VALUES ($1, $2, $3, $4)`, w.g.name, id, callIntent, now); err != nil {
					return err
				}
			case err != nil:
				return err
			case state == callIntent:
				unknown[id] = true
			default:
				// Done before: a replay. The call is made anew, with the same key.
				if _, err := tx.ExecContext(ctx, `UPDATE carebus_calls SET state = $1, updated_at = $2 WHERE grp = $3 AND event_id = $4`, callIntent, now, w.g.name, id); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return unknown, err
}

// action is what follows a failure.
type action int

const (
	again action = iota
	park
	skip
	stop
)

// decide is the whole retry policy, a pure function.
func decide(class Class, err error, tries int, set settings) action {
	switch {
	case class == Dependency:
		return again
	case class == Permanent && tries < set.tries && !isFatal(err):
		return again
	}
	switch set.policy {
	case SkipEvent:
		return skip
	case StopGroup:
		return stop
	}
	return park
}

func isFatal(err error) bool {
	var c *classified
	return errors.As(err, &c) && c.class == Permanent
}

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
