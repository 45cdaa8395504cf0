package driver

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestFresh: an id that is stored is never called new, in whatever order ids come; ids made of the time, a little out of
// order, nearly always are.
func TestFresh(t *testing.T) {
	now := time.Now()
	f := NewFresh()
	if !f.Stale(now) {
		t.Error("not stale before it has begun")
	}
	f.Begin(now, FreshLimit(now), "")
	stored := map[string]bool{}
	rnd := rand.New(rand.NewPCG(1, 2))
	looked, timed := 0, 0
	for i := range 60_000 {
		var id string
		switch rnd.IntN(10) {
		case 0:
			id = fmt.Sprintf("%016x", rnd.Uint64()) // a hash
		case 1:
			id = fmt.Sprint("name-", rnd.IntN(5000))
		default:
			ms := now.UnixMilli() + int64(i)/10
			id = fmt.Sprintf("%08x-%04x-7%03x", ms>>16, ms&0xffff, rnd.IntN(4096))
			timed++
			if !f.IsNew(id) && !stored[id] {
				looked++
			}
		}
		if f.IsNew(id) && stored[id] {
			t.Fatalf("%s is stored and was called new", id)
		}
		stored[id] = true
		f.Add(id)
		if i%100 == 0 {
			for id := range stored {
				if f.IsNew(id) {
					t.Fatalf("%s is stored and was called new", id)
				}
				if rnd.IntN(50) == 0 {
					break
				}
			}
		}
	}
	if looked > timed/100 {
		t.Errorf("%d of %d new ids cost a look", looked, timed)
	}
	if !f.Stale(now.Add(time.Hour)) {
		t.Error("not stale although its future has come")
	}
	if id := fmt.Sprintf("%08x-%04x-7000", now.Add(2*time.Hour).UnixMilli()>>16, 0); f.IsNew(id) {
		t.Error("an id of the far future was judged")
	}
}
