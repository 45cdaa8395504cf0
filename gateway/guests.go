package gateway

import (
	"math"
	"sync"
)

// guests bounds how many requests of one principal are under way, live streams and waiting fetches among them: connections
// are everybody's.
type guests struct {
	most int

	mu sync.Mutex
	in map[string]int
}

// enter counts a request in, and returns how to count it out; false when there are too many.
func (s *guests) enter(name string) (leave func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in[name] >= s.most {
		return nil, false
	}
	if s.in == nil {
		s.in = map[string]int{}
	}
	s.in[name]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.in[name]--; s.in[name] == 0 {
			delete(s.in, name)
		}
	}, true
}

// seconds is a time to wait as Retry-After says it.
func seconds(s float64) int { return int(min(max(math.Ceil(s), 1), 3600)) }
