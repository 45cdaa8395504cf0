package bus

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// worker handles one partition for as long as this member holds its lease: read a batch, prepare it (decoding, outside
// calls), commit effects and checkpoint in one unit, again. Parked keys that are due are drained in between, by the
// same goroutine: no second party ever handles events of this partition for this group.
type worker struct {
	g     *group
	part  int
	epoch int64
	next  int64     // checkpoint as committed
	pos   int64     // where to read on; ahead of next only over events that the group does not want
	late  time.Time // when a checkpoint that lags behind pos is brought up to date; zero when none does

	lane // what is known of it beyond pos, where events come from a transport

	replay replayWindow
	doubt  int64 // offsets below it may have been in hand when the former owner died: one at a time, marked first
	suspect
	failing // the event that failed last, and how often

	parked  map[string]*parkedKey
	dueAt   time.Time           // when the next parked key is due; zero when none is
	answers map[string]apply    // outside calls that were answered but not yet committed, by event id
	denied  map[string]struct{} // outside calls that were refused, by event id

	held      context.Context // ends when the partition is to be given back; set by run
	fenced    func(part int)
	refreshed chan struct{}
	stopped   chan struct{} // closed by stop
	done      chan struct{} // closed when run has returned
}

// suspect is the event that the former owner died on.
type suspect struct {
	handling int64
	deaths   int
	marked   bool // this worker has marked it, and not come past it
}

type failing struct {
	offset int64
	tries  int
}

// suspectDeaths is how many deaths on one marked event make it a suspect.
const suspectDeaths = 2

func newWorker(g *group, c claim, fenced func(int)) *worker {
	w := &worker{
		g: g, part: c.part, epoch: c.epoch, next: c.next, pos: c.next, replay: c.replay,
		suspect: suspect{handling: c.handling, deaths: c.deaths}, failing: failing{offset: -1},
		parked: map[string]*parkedKey{}, answers: map[string]apply{}, denied: map[string]struct{}{},
		fenced: fenced, refreshed: make(chan struct{}, 1), stopped: make(chan struct{}), done: make(chan struct{}),
	}
	w.lane = lane{gap: -1, text: c.seen, resume: c.resumeSeen}
	if c.unclean && g.handlers[0].forward == nil { // who hands runs of events on does nothing by one that it could die of
		w.doubt = c.next + int64(g.set.batch)
	}
	return w
}

// boundDoubt leaves out of doubt what was stored after the partition changed hands: the former owner cannot have died on it.
// One event at a time costs two commits for each, and a group that is slow for that reason may lose its next lease too.
func (w *worker) boundDoubt(ctx context.Context) error {
	if w.doubt == 0 {
		return nil
	}
	heads, err := w.g.bus.heads(ctx, []int{w.part})
	if err == nil {
		w.doubt = min(w.doubt, heads[w.part])
	}
	return err
}

// alive takes back the death that the next owner has counted, if it has: this process has lost its lease, because it or the
// store was slow, and has not died. An event is not to be parked for that.
func (w *worker) alive(ctx context.Context) {
	err := w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET deaths = deaths - 1 WHERE grp = $1 AND part = $2 AND epoch > $3 AND next = $4 AND deaths > 0`,
			w.g.name, w.part, w.epoch, w.next)
		return err
	})
	if err != nil {
		w.g.log.Warn("bus: a lost lease stays counted as a death", "partition", w.part, "error", errorText(err))
	}
}

// refresh makes the worker look at its parked keys again: an operator may have asked for a redrive.
func (w *worker) refresh() {
	select {
	case w.refreshed <- struct{}{}:
	default:
	}
}

// stop asks the worker to end after the unit under way.
func (w *worker) stop() { close(w.stopped) }

func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.held = ctx
	go func() {
		select {
		case <-w.stopped:
			cancel()
		case <-ctx.Done():
		}
	}()
	loaded := false
	for ctx.Err() == nil {
		err := func() error {
			if !loaded {
				if err := w.loadParked(ctx); err != nil {
					return err
				}
				if err := w.begin(); err != nil {
					return err
				}
				if err := w.boundDoubt(ctx); err != nil {
					return err
				}
				loaded = true
			}
			if err := w.drainDue(ctx); err != nil {
				return err
			}
			if w.replay.to > 0 && w.pos >= w.replay.to {
				return w.endReplay(ctx)
			}
			batch, err := w.read(ctx)
			switch {
			case err != nil:
				return err
			case batch.Next == w.pos:
				return w.rest(ctx)
			case len(batch.Records) == 0:
				// Nothing wanted. The checkpoint follows now and then, not at every glance, to keep the writer free.
				w.pos = batch.Next
				if w.pos-w.next >= 10_000 {
					return w.flush(ctx)
				}
				return nil
			}
			return w.handle(ctx, batch)
		}()
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, errFenced):
			w.fenced(w.part)
			return
		case errors.Is(err, ErrLost):
			if w.stopLost(ctx, err) {
				w.fenced(w.part)
				return
			}
		default:
			// The store itself failed, or the transport. What was not committed will be read again.
			w.g.log.Warn("bus: partition", "partition", w.part, "error", errorText(err))
			w.pos = w.next
			w.rewind()
			w.failing.tries++
			w.pause(ctx, w.g.backoff(w.failing.tries))
		}
	}
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), w.g.set.timeout)
	defer cancelLast()
	if w.marked {
		w.alive(last)
	}
	// A last checkpoint over what was skipped, so that the next owner does not skip it again.
	if w.pos > w.next {
		_ = w.flush(last)
	}
}

// read reads on at pos.
func (w *worker) read(ctx context.Context) (eventstore.Batch, error) {
	if w.part >= FirstLane {
		return w.readLane(ctx)
	}
	return w.g.bus.store.Partition(ctx, eventstore.PartitionQuery{
		Partition: w.part, From: w.pos, To: w.replay.to, Match: w.matches,
		Limit: w.g.set.batch, MaxBytes: w.g.set.batchBytes,
	})
}

// news is closed when there may be something to read.
func (w *worker) news() <-chan struct{} {
	if w.part >= FirstLane {
		return w.g.member.After(w.part, max(w.pos, w.scanned))
	}
	return w.g.bus.store.After(w.part, w.pos)
}

// rest waits until there is something to do: news in the partition, a parked key due, an operator's wish. A checkpoint
// that lags behind skipped events is brought up to date after a moment.
func (w *worker) rest(ctx context.Context) error {
	news := w.news()
	quiet := time.NewTimer(time.Hour)
	defer quiet.Stop()
	if w.pos > w.next {
		if w.late.IsZero() {
			w.late = time.Now().Add(50 * time.Millisecond)
		}
		quiet.Reset(time.Until(w.late))
	}
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	if !w.dueAt.IsZero() {
		due.Reset(time.Until(w.dueAt))
	}
	select {
	case <-ctx.Done():
		return nil
	case <-news:
		return nil
	case <-due.C:
		return nil
	case <-w.refreshed:
		return w.loadParked(ctx)
	case <-quiet.C:
		return w.flush(ctx)
	}
}

// flush commits the checkpoint alone.
func (w *worker) flush(ctx context.Context) error {
	if w.pos == w.next {
		return nil
	}
	err := w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error { return w.checkpoint(ctx, tx, w.pos) })
	if err == nil {
		w.next, w.late = w.pos, time.Time{}
		w.passed(w.next)
	}
	return err
}

// checkpoint moves the checkpoint inside a transaction, if this worker still holds the partition.
func (w *worker) checkpoint(ctx context.Context, tx *eventstore.Tx, next int64) error {
	if w.part >= FirstLane {
		return oneRow(tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET next = $1, handling = -1, deaths = 0, updated_at = $2, seen = $3
			WHERE grp = $4 AND part = $5 AND next = $6 AND epoch = $7`,
			next, tx.Now().UnixMicro(), w.trail.at(w.seen, next).text(w.part), w.g.name, w.part, w.next, w.epoch))
	}
	return oneRow(tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET next = $1, handling = -1, deaths = 0, updated_at = $2
		WHERE grp = $3 AND part = $4 AND next = $5 AND epoch = $6`,
		next, tx.Now().UnixMicro(), w.g.name, w.part, w.next, w.epoch))
}

// endReplay ends a bounded replay: the group goes on where it was before.
func (w *worker) endReplay(ctx context.Context) error {
	resume := w.replay.resume
	if w.part < FirstLane {
		resume = max(resume, w.pos)
	}
	err := w.g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		if err := forgetReplayed(ctx, tx, w.g.name, w.part); err != nil {
			return err
		}
		return oneRow(tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET next = $1, replay_from = 0, replay_to = 0, resume_at = 0, updated_at = $2, seen = resume_seen, resume_seen = ''
			WHERE grp = $3 AND part = $4 AND next = $5 AND epoch = $6`,
			resume, tx.Now().UnixMicro(), w.g.name, w.part, w.next, w.epoch))
	})
	if err != nil {
		return err
	}
	w.next, w.pos, w.replay, w.text = resume, resume, replayWindow{}, w.resume
	return w.begin()
}

// handle brings a batch to an end, however many tries and pauses it takes, or returns an error of the store.
func (w *worker) handle(ctx context.Context, batch eventstore.Batch) error {
	items := w.prepare(batch.Records)
	for len(items) > 0 {
		probe, err := w.g.breaker.wait(ctx)
		if err != nil {
			return nil // the context has ended
		}
		// A unit that has begun is finished even when the context ends meanwhile: that is the graceful drain.
		out, err := w.attempt(context.WithoutCancel(ctx), items, batch.Next, probe)
		if err != nil {
			if probe {
				w.g.breaker.release()
			}
			return err
		}
		if out.next > w.next { // whatever became of the event that processes died on: from here on it is one like others
			w.suspect = suspect{handling: -1}
		}
		w.next, w.pos, w.late = out.next, out.next, time.Time{}
		w.passed(w.next)
		w.settle(out)
		if out.stop != "" {
			return errFenced // the group has stopped itself; the member loop sees why
		}
		items = items[out.done:]
		if out.failed == nil {
			w.failing = failing{offset: -1}
			w.g.breaker.success()
		} else if out.failed.class == Dependency {
			w.g.breaker.failure()
			w.g.log.InfoContext(w.deliveryContext(ctx, items[0].rec, false), "bus: dependency failed, trying again", "partition", w.part, "offset", items[0].rec.Offset,
				"eventId", items[0].rec.ID, "error", logText(out.failed.err))
			w.pause(ctx, w.g.backoff(w.failing.tries))
		} else {
			if probe {
				w.g.breaker.success() // the dependency answered; it is the event that is bad
			}
			w.pause(ctx, w.g.backoff(w.failing.tries))
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

func (w *worker) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// backoff doubles from the first pause to the longest, with up to a fifth of jitter so that members spread out.
func (g *group) backoff(tries int) time.Duration {
	return backoff(tries, g.set.retryMin, g.set.retryMax)
}

func backoff(tries int, first, longest time.Duration) time.Duration {
	d := float64(first) * math.Pow(2, float64(max(tries-1, 0)))
	d = min(d, float64(longest))
	return time.Duration(d * (0.8 + 0.2*rand.Float64()))
}

// matches reports whether the worker handles events of a type: where lanes bring events, the store's own log brings only the
// platform's, and lanes all others.
func (w *worker) matches(eventType string) bool {
	if w.g.transport != nil && ours(eventType) == (w.part >= FirstLane) {
		return false
	}
	return w.g.matches(eventType)
}

// ours says of an event type, or a pattern, that it is one of the platform's own.
func ours(eventType string) bool { return strings.HasPrefix(eventType, "platform.") }

func (g *group) matches(eventType string) bool {
	for _, h := range g.handlers {
		if h.match(eventType) {
			return true
		}
	}
	return false
}
