package eventstore

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carebus/carebus/eventstore/driver"
)

// sequencer is the one that commits: a goroutine that takes whatever waits, carries it out as one transaction, and
// answers. While it waits for the disk the next group gathers, so groups grow with the load by themselves. While it waits for its
// turn among processes, its own group grows.
type sequencer struct {
	d      driver.Driver
	opts   Options
	news   *news
	queue  chan *ticket
	bytes  chan struct{} // closed and replaced whenever queued bytes go down
	mu     sync.Mutex    // guards closed, queued, bytes
	closed bool
	queued int64
	done   chan struct{}
	stats  counters
	hooks  []CommitHook

	group []*ticket      // under way; of the goroutine that commits
	units []*driver.Unit // theirs
}

// ticket is a unit in the queue.
type ticket struct {
	unit  *driver.Unit
	size  int64
	at    time.Time   // of entering the queue; only with hooks
	begun atomic.Bool // taken by the sequencer, or given up by its caller: whoever sets it first
	err   error       // set before ready is closed
	ready chan struct{}
}

type counters struct {
	commits, units, events, failures, refused atomic.Int64
	busy                                      atomic.Int64 // ns spent in commits
	largest                                   atomic.Int64
}

// Stats are counters since the store was opened, and the present state of the queue.
type Stats struct {
	Commits  int64         // durable transactions
	Units    int64         // appends and updates carried out in them; a concurrent update is a commit of its own
	Events   int64         // events appended directly (not by updates)
	Failures int64         // commits that failed as a whole
	Largest  int64         // most units that shared a commit
	Busy     time.Duration // time spent in commits
	Queued   int           // units waiting now
	Bytes    int64         // of appends waiting now, as QueueBytes counts them
	Refused  int64         // callers who gave up while the queue was full: ErrBackPressure
}

// Stats returns the store's counters.
func (s *Store) Stats() Stats {
	c := &s.seq.stats
	s.seq.mu.Lock()
	queued := s.seq.queued
	s.seq.mu.Unlock()
	return Stats{
		Commits: c.commits.Load(), Units: c.units.Load(), Events: c.events.Load(), Failures: c.failures.Load(),
		Largest: c.largest.Load(), Busy: time.Duration(c.busy.Load()), Queued: len(s.seq.queue), Bytes: queued, Refused: c.refused.Load(),
	}
}

func newSequencer(d driver.Driver, o Options, n *news, hooks []CommitHook) *sequencer {
	s := &sequencer{d: d, opts: o, news: n, hooks: hooks, queue: make(chan *ticket, o.QueueUnits), bytes: make(chan struct{}), done: make(chan struct{})}
	go s.run()
	return s
}

// do queues a unit and waits for its end.
func (s *sequencer) do(ctx context.Context, u *driver.Unit) error {
	t := &ticket{unit: u, ready: make(chan struct{})}
	if len(s.hooks) > 0 {
		t.at = time.Now()
	}
	for i := range u.Append.Events {
		t.size += int64(len(u.Append.Events[i].Payload)) + 256
	}
	if err := s.enter(ctx, t); err != nil {
		return err
	}
	select {
	case <-t.ready:
	case <-ctx.Done():
		if t.begun.CompareAndSwap(false, true) {
			return fmt.Errorf("eventstore: gave up while waiting for the writer, nothing was stored: %w", context.Cause(ctx))
		}
		<-t.ready // begun: the truth is what the commit says
	}
	if t.err != nil {
		return t.err
	}
	return u.Err
}

// enter puts a ticket into the queue, waiting while the queue is full.
func (s *sequencer) enter(ctx context.Context, t *ticket) error {
	full := func() error {
		s.stats.refused.Add(1)
		return fmt.Errorf("eventstore: %w; try again later: %w", ErrBackPressure, context.Cause(ctx))
	}
	for {
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			return ErrClosed
		}
		if s.queued == 0 || s.queued+t.size <= s.opts.QueueBytes {
			select {
			case s.queue <- t:
				s.queued += t.size
				s.mu.Unlock()
				return nil
			default:
			}
		}
		freed := s.bytes
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return full()
		}
	}
}

func (s *sequencer) run() {
	defer close(s.done)
	last := 0 // units of the group before
	for t := range s.queue {
		switch {
		case s.opts.Linger > 0:
			time.Sleep(s.opts.Linger)
		case last > 1:
			// Those who were answered a moment ago are about to come back: let them run first, as long as they come, or
			// the first of them would get a commit of their own, and all others wait for it.
			for n := -1; n < len(s.queue) && len(s.queue) < s.opts.GroupUnits; {
				n = len(s.queue)
				runtime.Gosched()
			}
		}
		s.group, s.units = s.group[:0], s.units[:0]
		s.take(t)
		if last = len(s.group); last > 0 {
			s.commit()
		}
	}
}

// take takes t, unless it is nil, and what else waits into the group, as far as there is room.
func (s *sequencer) take(t *ticket) {
	var freed int64
	for {
		if t != nil {
			freed += t.size
			if t.begun.CompareAndSwap(false, true) {
				s.group = append(s.group, t)
				s.units = append(s.units, t.unit)
			}
		}
		if len(s.group) >= s.opts.GroupUnits {
			break
		}
		t = nil
		select {
		case t = <-s.queue: // nil when it is closed and empty
		default:
		}
		if t == nil {
			break
		}
	}
	s.mu.Lock()
	s.queued -= freed
	close(s.bytes)
	s.bytes = make(chan struct{})
	s.mu.Unlock()
}

// more is for an engine whose turn has come: who has queued meanwhile joins the group.
func (s *sequencer) more() []*driver.Unit {
	n := len(s.units)
	s.take(nil)
	return s.units[n:]
}

// commit has the group carried out, and answers.
func (s *sequencer) commit() {
	begin := time.Now()
	var heads []int64
	var err error
	if d, ok := s.d.(driver.Queued); ok {
		heads, err = d.CommitQueued(context.Background(), s.units, s.more)
	} else {
		heads, err = s.d.Commit(context.Background(), s.units)
	}
	group, units := s.group, s.units
	took := time.Since(begin)
	s.stats.busy.Add(int64(took))
	if err != nil {
		s.stats.failures.Add(1)
	} else {
		s.stats.commits.Add(1)
		s.stats.units.Add(int64(len(units)))
		if n := int64(len(units)); n > s.stats.largest.Load() {
			s.stats.largest.Store(n)
		}
		for _, u := range units {
			if u.Err == nil {
				s.stats.events.Add(int64(len(u.Receipts)))
			}
		}
		s.news.publish(heads)
	}
	for _, t := range group {
		t.err = err
		close(t.ready)
	}
	if len(s.hooks) == 0 {
		return
	}
	c := Commit{Units: len(group), Took: took, Err: err}
	for _, t := range group {
		c.Waited = max(c.Waited, begin.Sub(t.at))
	}
	for _, h := range s.hooks {
		h.OnCommit(c)
	}
}

// close lets the queue run empty.
func (s *sequencer) close() {
	s.mu.Lock()
	if !s.closed {
		s.closed = true
		close(s.queue)
		close(s.bytes) // callers that wait for room see closed
		s.bytes = make(chan struct{})
	}
	s.mu.Unlock()
	<-s.done
}

// PanicError is a panic of a function given to Update, turned into an error.
type PanicError struct {
	Value any
	Stack []byte
}

func newPanicError(v any) *PanicError { return &PanicError{Value: v, Stack: debug.Stack()} }

func (e *PanicError) Error() string { return fmt.Sprintf("panic in a transaction: %v", e.Value) }

// Unwrap returns the value, when the panic was an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	if err == nil {
		return nil
	}
	return errors.Join(err)
}
