package sqlite

import (
	"fmt"
	"hash/maphash"
	"time"
)

// fresh knows of most new event ids, without a look at the store, that they are new. Ids made of the time (UUIDv7) rise,
// but not strictly in the order of commits: callers make them, then wait for each other. So an id is new when it is
// above every id stored a while ago, and is none of those stored since. Ids beyond the near future (names, hashes) say
// nothing about time: they are left out of it, and cost a look.
type fresh struct {
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

func newFresh() *fresh { return &fresh{seed: maphash.MakeSeed()} }

// stale says that begin must be called: the future that limit stands for has come near.
func (f *fresh) stale(now time.Time) bool { return f.young == nil || now.After(f.until) }

// limitAt is the limit to begin with: what a UUIDv7 of an hour from now begins with.
func limitAt(now time.Time) string {
	ms := now.Add(time.Hour).UnixMilli()
	return fmt.Sprintf("%08x-%04x", ms>>16, ms&0xffff)
}

// begin starts anew from the highest id below limit that is stored.
func (f *fresh) begin(now time.Time, limit, floor string) {
	f.limit, f.floor, f.until = limit, floor, now.Add(30*time.Minute)
	f.old, f.young = map[uint64]struct{}{}, make(map[uint64]struct{}, generation)
	f.oldMax, f.youngMax = "", ""
}

// isNew is true only for ids that are not stored.
func (f *fresh) isNew(id string) bool {
	if id <= f.floor || id >= f.limit {
		return false
	}
	h := maphash.String(f.seed, id)
	_, young := f.young[h]
	_, old := f.old[h]
	return !young && !old
}

// add says that an id is stored, or may be: one too many only costs a look.
func (f *fresh) add(id string) {
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
