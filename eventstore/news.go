package eventstore

import (
	"context"
	"sync"
)

// Tick is a moment in the life of a store, as counted by commits; see Wait.
type Tick uint64

// news spreads word of commits: to those who wait for any, and to those who wait for one partition to grow. Waiters
// sleep on a channel that the commit closes, so a thousand of them cost a commit nothing but that.
type news struct {
	mu    sync.Mutex
	tick  Tick
	any   chan struct{}
	heads []int64
	parts []chan struct{} // per partition; nil until somebody waits
}

func newNews(partitions int) *news {
	return &news{any: make(chan struct{}), heads: make([]int64, partitions), parts: make([]chan struct{}, partitions)}
}

// publish tells of a commit after which the partitions have these heads.
func (n *news) publish(heads []int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.tick++
	close(n.any)
	n.any = make(chan struct{})
	for p, h := range heads {
		if h > n.heads[p] {
			n.heads[p] = h
			if n.parts[p] != nil {
				close(n.parts[p])
				n.parts[p] = nil
			}
		}
	}
}

func (n *news) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.any)
	n.any = make(chan struct{})
	for p, c := range n.parts {
		if c != nil {
			close(c)
			n.parts[p] = nil
		}
	}
}

var closedChan = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// After returns a channel that is closed once a partition has events at offset or beyond: at once when it has them now,
// whichever process stored them. It may also be closed early; look, and ask again.
func (s *Store) After(partition int, offset int64) <-chan struct{} {
	n := s.news
	n.mu.Lock()
	defer n.mu.Unlock()
	if partition < 0 || partition >= len(n.heads) || n.heads[partition] > offset {
		return closedChan
	}
	if n.parts[partition] == nil {
		n.parts[partition] = make(chan struct{})
	}
	return n.parts[partition]
}

// Tick returns the present moment, to be given to Wait: take it, look at the store, then wait for what came after.
func (s *Store) Tick() Tick {
	s.news.mu.Lock()
	defer s.news.mu.Unlock()
	return s.news.tick
}

// Wait blocks until something was committed after since, by this process or another, and returns the new moment. It
// returns the context's error when ctx ends first.
func (s *Store) Wait(ctx context.Context, since Tick) (Tick, error) {
	for {
		s.news.mu.Lock()
		tick, news := s.news.tick, s.news.any
		s.news.mu.Unlock()
		if tick != since {
			return tick, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return tick, ctx.Err()
		}
		select {
		case <-s.watched:
			return tick, ErrClosed
		default:
		}
	}
}
