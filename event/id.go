package event

import (
	"encoding/binary"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// lastInstant is the instant of the newest id of this process, in 1/4096 milliseconds.
var lastInstant atomic.Int64

// NewID returns a new UUIDv7 in its text form. Ids of one process are strictly increasing, in the order of the calls,
// so that an index over them grows at its end. It is safe for concurrent use.
//
// The 62 random bits come from math/rand/v2, whose generator is ChaCha8, kept by the runtime per thread and seeded by
// the operating system: no system call and no lock per id. An id must be unique, not secret, and is never a
// credential; together with a time of 48 bits and a counter of 12 that is what RFC 9562 asks for.
func NewID() string {
	now := time.Now().UnixNano()
	// RFC 9562, 6.2 method 3: the 12 bits after the milliseconds are a finer clock; method 1 where it stands still:
	// the instant is counted up, and may run ahead of the clock for as long as ids are made faster than 4 per µs.
	instant := now/1e6<<12 | now%1e6<<12/1e6
	for {
		last := lastInstant.Load()
		next := max(instant, last+1)
		if lastInstant.CompareAndSwap(last, next) {
			instant = next
			break
		}
	}
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(instant>>12)<<16|0x7000|uint64(instant&0xfff))
	binary.BigEndian.PutUint64(id[8:], 1<<63|rand.Uint64()>>2)
	return id.String()
}
