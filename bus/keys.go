package bus

import (
	"hash/maphash"
	"math"
	"math/bits"
	"sync/atomic"
)

// keyCount estimates how many distinct keys a group has seen in this process, by linear counting over a fixed bitmap
// (Whang et al., 1990): 8 KiB whatever the number, within a few percent up to some hundred thousand keys and an
// underestimate beyond, which errs on the side of stopping a flood.
type keyCount struct {
	words [1024]atomic.Uint64
}

var keySeed = maphash.MakeSeed()

func (c *keyCount) add(key string) {
	h := maphash.String(keySeed, key)
	w, bit := &c.words[(h>>6)%1024], uint64(1)<<(h%64)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

func (c *keyCount) estimate() float64 {
	const m = 1024 * 64
	set := 0
	for i := range c.words {
		set += bits.OnesCount64(c.words[i].Load())
	}
	if set >= m {
		set = m - 1
	}
	return -m * math.Log(1-float64(set)/m)
}
