package gateway

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// hub follows the store once for all live streams that have caught up: it keeps the last events, with their text, and wakes
// who waits. A stream that has not caught up, or falls behind, reads the store by itself. The hub runs while it is watched.
type hub struct {
	ctx   context.Context
	store *eventstore.Store
	hooks []LiveHook

	mu       sync.Mutex
	watchers int
	stop     context.CancelFunc
	running  sync.WaitGroup
	ring     []live // in the order they were recorded; ring[0] has the number first
	first    int64
	bytes    int
	start    places        // what lies before ring[0]: every event at these places or beyond is in the ring, up to next
	next     places        // behind the last one
	news     chan struct{} // closed when something was added
}

// live is an event with its text, which is made once for all.
type live struct {
	eventstore.Record
	text []byte // the native form on one line
}

// The ring holds so many events, or bytes of text and payload, and up to twice of it.
const (
	ringEvents = 8192
	ringBytes  = 16 << 20
)

func newHub(ctx context.Context, store *eventstore.Store, hooks []LiveHook) *hub {
	return &hub{ctx: ctx, store: store, hooks: hooks, news: make(chan struct{})}
}

// watch keeps the hub running until unwatch.
func (h *hub) watch() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers++
	h.tell()
	if h.watchers > 1 || h.ctx.Err() != nil {
		return
	}
	ctx, stop := context.WithCancel(h.ctx)
	h.stop = stop
	h.running.Go(func() { h.follow(ctx) })
}

func (h *hub) unwatch() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.watchers--
	h.tell()
	if h.watchers == 0 && h.stop != nil {
		h.stop()
		h.stop = nil
		h.ring, h.start, h.next, h.bytes = nil, nil, nil, 0
	}
}

// tell is called with the lock held.
func (h *hub) tell() {
	for _, hook := range h.hooks {
		hook.OnLive(h.watchers)
	}
}

func (h *hub) wait() { h.running.Wait() }

// follow fills the ring from the present heads on.
func (h *hub) follow(ctx context.Context) {
	var next places
	for ctx.Err() == nil {
		tick := h.store.Tick()
		heads, err := h.store.Heads(ctx)
		if err == nil && next == nil {
			next = heads
			h.add(ctx, nil, next)
		}
		if err == nil && !slices.Equal(heads, next) {
			var batch []live
			for r, rerr := range h.store.All(ctx, next, nil) {
				if err = rerr; err != nil {
					break
				}
				batch = append(batch, live{r, frame(nil, r.Event, false)})
				next[r.Partition] = r.Offset + 1
				if len(batch) == 256 {
					h.add(ctx, batch, next)
					batch = nil
				}
			}
			h.add(ctx, batch, next)
		}
		if err == nil {
			_, err = h.store.Wait(ctx, tick)
		}
		if err != nil && ctx.Err() == nil { // the store cannot be read now; look again soon
			pause := time.NewTimer(time.Second)
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
		}
	}
}

// add puts events into the ring and wakes who waits.
func (h *hub) add(ctx context.Context, batch []live, next places) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil { // nobody watches any more; the ring may be another follower's
		return
	}
	if h.start == nil {
		h.start = slices.Clone(next)
	}
	h.ring = append(h.ring, batch...)
	h.next = slices.Clone(next)
	for i := range batch {
		h.bytes += len(batch[i].text) + len(batch[i].Payload)
	}
	if len(h.ring) > 2*ringEvents || h.bytes > 2*ringBytes { // now and then, since it copies
		drop := 0
		for len(h.ring)-drop > ringEvents || h.bytes > ringBytes && drop < len(h.ring) {
			r := &h.ring[drop]
			h.start[r.Partition] = r.Offset + 1
			h.bytes -= len(r.text) + len(r.Payload)
			drop++
		}
		h.first += int64(drop)
		h.ring = slices.Clone(h.ring[drop:])
	}
	close(h.news)
	h.news = make(chan struct{})
}

// since returns the events from a number on, and the number to go on from. ok is false when the ring does not reach back to
// where the caller is: to the places at, or, when at is nil, to the number from.
func (h *hub) since(from int64, at places) (batch []live, next int64, news <-chan struct{}, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.start == nil {
		return nil, 0, h.news, false
	}
	if at != nil {
		for p, offset := range at {
			if offset < h.start[p] {
				return nil, 0, h.news, false
			}
		}
		from = h.first
	}
	if from < h.first {
		return nil, 0, h.news, false
	}
	return h.ring[from-h.first:], h.first + int64(len(h.ring)), h.news, true
}
