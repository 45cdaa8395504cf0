package driver

import (
	"context"
	"sync"
)

// Names are the interned types and origins of a store, as readers know them. Ids are never reused, so what is known stays
// true; what is not known is read. Make one with NewNames. Safe for concurrent use.
type Names struct {
	load    func(ctx context.Context) (types map[int64]string, origins map[int64][2]string, err error)
	mu      sync.RWMutex
	types   map[int64]string
	origins map[int64][2]string
	maxType int64
}

// NewNames returns names that load reads: all types by id, and all origins (source and version) by id.
func NewNames(load func(ctx context.Context) (types map[int64]string, origins map[int64][2]string, err error)) *Names {
	return &Names{load: load}
}

// Load reads them.
func (n *Names) Load(ctx context.Context) error {
	types, origins, err := n.load(ctx)
	if err != nil {
		return err
	}
	maxType := int64(0)
	for id := range types {
		maxType = max(maxType, id)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(types) >= len(n.types) && len(origins) >= len(n.origins) {
		n.types, n.origins, n.maxType = types, origins, maxType
	}
	return nil
}

// Fill puts names in the place of ids, if they are known.
func (n *Names) Fill(r *Record, typ, origin int64) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	t, ok1 := n.types[typ]
	o, ok2 := n.origins[origin]
	r.Type, r.Source, r.Version = t, o[0], o[1]
	return ok1 && ok2
}

// Matching returns the ids of the types that match, whether that is all of them, and the highest id that is known: upTo at
// least, if there is such a type. A nil match is all.
func (n *Names) Matching(ctx context.Context, match func(string) bool, upTo int64) (ids []int64, all bool, known int64, err error) {
	n.mu.RLock()
	stale := n.maxType < upTo
	n.mu.RUnlock()
	if stale {
		if err := n.Load(ctx); err != nil {
			return nil, false, 0, err
		}
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	all = true
	for id := int64(1); id <= n.maxType && match != nil; id++ {
		name, ok := n.types[id]
		if !ok {
			continue
		}
		if match(name) {
			ids = append(ids, id)
		} else {
			all = false
		}
	}
	return ids, all, n.maxType, nil
}
