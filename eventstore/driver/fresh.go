package driver

import (
	"fmt"
	"hash/maphash"
	"time"
)

// Fresh knows of most new event ids, without a look at the store, that they are new. Ids made of the time (UUIDv7) rise,
// but not strictly in the order of commits: callers make them, then wait for each other. So an id is new when it is
// above every id stored a while ago, and is none of those stored since. Ids beyond the near future (names, hashes) say
// nothing about time: they are left out of it, and cost a look.
type Fresh struct {
	seed  maphash.Seed
	limit string // ids at or above it are not judged
	until time.Time
	floor string // the highest id below limit that was stored before the two generations

	// Hashes stand for ids: two that collide only cost a look.
	old, young       map[uint64]struct{}
	oldMax, youngMax string
}

// generation is how many ids are remembered at least.
const generation = 8192

// NewFresh returns one that Begin must be called on.
func NewFresh() *Fresh { return &Fresh{seed: maphash.MakeSeed()} }

// Stale says that Begin must be called: the future that limit stands for has come near.
func (f *Fresh) Stale(now time.Time) bool { return f.young == nil || now.After(f.until) }

// FreshLimit is the limit to begin with: what a UUIDv7 of an hour from now begins with.
func FreshLimit(now time.Time) string {
	ms := now.Add(time.Hour).UnixMilli()
	return fmt.Sprintf("%08x-%04x", ms>>16, ms&0xffff)
}

// Begin starts anew from the highest id below limit that is stored.
func (f *Fresh) Begin(now time.Time, limit, floor string) {
	f.limit, f.floor, f.until = limit, floor, now.Add(30*time.Minute)
	f.old, f.young = map[uint64]struct{}{}, make(map[uint64]struct{}, generation)
	f.oldMax, f.youngMax = "", ""
}

// IsNew is true only for ids that are not stored.
func (f *Fresh) IsNew(id string) bool {
	if id <= f.floor || id >= f.limit {
		return false
	}
	h := maphash.String(f.seed, id)
	_, young := f.young[h]
	_, old := f.old[h]
	return !young && !old
}

// Add says that an id is stored, or may be: one too many only costs a look.
func (f *Fresh) Add(id string) {
	if id >= f.limit {
		return
	}
	f.young[maphash.String(f.seed, id)] = struct{}{}
	f.youngMax = max(f.youngMax, id)
	if len(f.young) >= generation {
		f.floor = max(f.floor, f.oldMax)
		f.old, f.oldMax = f.young, f.youngMax
		f.young, f.youngMax = make(map[uint64]struct{}, generation), ""
	}
}
