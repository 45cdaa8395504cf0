package eventstore_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/sqlite"
	"github.com/carebus/carebus/eventstore/storetest"
)

// A history is what 64 writers have asked of a stream and been told, with the times of both. It is linearizable when there
// is an order of all calls, each between its times, in which one stream after the other call would have told the same.
type (
	asked struct {
		stream   string
		id       string // of the event to append; empty to read
		expected int64
	}
	told struct {
		conflict bool
		version  int64  // after the call
		events   uint64 // of a read: which events, in which order
		looks    int    // see hasten
	}
	// content is a stream: how many events, and which, in which order.
	content struct {
		version int64
		events  uint64
		looks   int // calls told of this version so far
	}
)

// hasten makes the search short, which otherwise tries the orders of calls that changed nothing. Such a call belongs to the
// version that it was told; those of one version commute, so that the order of their beginnings is as good as any; and
// the append that ends the version comes after them. looks is a call's place among them, for the append their number.
func hasten(history []porcupine.Operation) {
	type at struct {
		stream  string
		version int64
	}
	slices.SortFunc(history, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	looks := map[at]int{}
	each := func(append bool, set func(in asked, out *told)) {
		for i := range history {
			in, out := history[i].Input.(asked), history[i].Output.(told)
			if append == (in.id != "" && !out.conflict) {
				set(in, &out)
				history[i].Output = out
			}
		}
	}
	each(false, func(in asked, out *told) {
		out.looks = looks[at{in.stream, out.version}]
		looks[at{in.stream, out.version}]++
	})
	each(true, func(in asked, out *told) { out.looks = looks[at{in.stream, out.version - 1}] })
}

func followed(events uint64, id string) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, events, id)
	return h.Sum64()
}

var streamModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		of := map[string][]porcupine.Operation{}
		for _, o := range history {
			stream := o.Input.(asked).stream
			of[stream] = append(of[stream], o)
		}
		var out [][]porcupine.Operation
		for _, h := range of {
			out = append(out, h)
		}
		return out
	},
	Init: func() any { return content{} },
	Step: func(state, input, output any) (bool, any) {
		c, in, out := state.(content), input.(asked), output.(told)
		if out.looks != c.looks {
			return false, c
		}
		look := content{c.version, c.events, c.looks + 1}
		switch {
		case in.id == "":
			return out.version == c.version && out.events == c.events, look
		case out.conflict:
			return in.expected != eventstore.AnyVersion && in.expected != c.version && out.version == c.version, look
		}
		next := content{c.version + 1, followed(c.events, in.id), 0}
		return (in.expected == eventstore.AnyVersion || in.expected == c.version) && out.version == next.version, next
	},
}

// TestLinearizable: 64 writers of two processes on one stream, and on 64 streams.
func TestLinearizable(t *testing.T) {
	engines := map[string]func(t *testing.T) func() (driver.Driver, error){
		"sqlite": func(t *testing.T) func() (driver.Driver, error) {
			path := filepath.Join(t.TempDir(), "linear.db")
			return func() (driver.Driver, error) { return sqlite.Open(context.Background(), path, nil) }
		},
		"postgres": func(t *testing.T) func() (driver.Driver, error) {
			address := storetest.Postgres(t) // skips
			return func() (driver.Driver, error) { return postgres.Open(context.Background(), address, nil) }
		},
	}
	for name, engine := range engines {
		for _, streams := range []int{1, 64} {
			t.Run(fmt.Sprintf("%s, %d streams", name, streams), func(t *testing.T) {
				open := engine(t)
				var stores []*eventstore.Store
				for range 2 {
					d, err := open()
					if err != nil {
						t.Fatal(err)
					}
					stores = append(stores, newStore(t, d, nil))
				}
				linearizable(t, stores, streams)
			})
		}
	}
}

func linearizable(t *testing.T, stores []*eventstore.Store, streams int) {
	const writers = 64
	calls := 30
	if testing.Short() {
		calls = 8
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	begin := time.Now()
	histories := make([][]porcupine.Operation, writers)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			seen := map[string]int64{}
			for n := range calls {
				in := asked{stream: fmt.Sprint("s/", rnd.IntN(streams)), expected: eventstore.AnyVersion}
				if rnd.IntN(4) > 0 {
					in.id = fmt.Sprint(w, "-", n)
				}
				if rnd.IntN(3) > 0 {
					in.expected = seen[in.stream] // what this writer saw last
				}
				call := time.Since(begin).Nanoseconds()
				out, err := ask(stores[(w+n)%len(stores)], in)
				if err != nil {
					errs[w] = err
					return
				}
				seen[in.stream] = out.version
				histories[w] = append(histories[w], porcupine.Operation{ClientId: w, Input: in, Call: call, Output: out, Return: time.Since(begin).Nanoseconds()})
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var all []porcupine.Operation
	for _, h := range histories {
		all = append(all, h...)
	}
	hasten(all)
	if !porcupine.CheckOperations(streamModel, all) {
		t.Errorf("the history of %d calls is not linearizable", len(all))
	}
	conflicts := 0
	for _, o := range all {
		if o.Output.(told).conflict {
			conflicts++
		}
	}
	t.Logf("%d calls, %d conflicts", len(all), conflicts)
	// The check can fail: one answer changed, and it must.
	for i, o := range all {
		if out := o.Output.(told); !out.conflict {
			out.version += 1000
			all[i].Output = out
			break
		}
	}
	hasten(all)
	if porcupine.CheckOperations(streamModel, all) {
		t.Error("a history with a wrong answer passes")
	}
}

func ask(s *eventstore.Store, in asked) (out told, err error) {
	ctx := context.Background()
	if in.id == "" {
		records, err := s.Stream(ctx, eventstore.StreamQuery{Stream: in.stream, From: 1, Limit: 1 << 20})
		if errors.Is(err, eventstore.ErrNotFound) {
			return told{}, nil
		}
		for _, r := range records {
			out.version, out.events = r.StreamVersion, followed(out.events, r.ID)
		}
		return out, err
	}
	e := event.Event{
		Metadata: event.Metadata{ID: in.id, Type: "test.thing.done", Version: "1.0.0", Source: "linear", CorrelationID: "f", Timestamp: 1, PartitionKey: in.stream},
		Payload:  []byte(`{}`),
	}
	receipts, err := s.Append(ctx, in.stream, in.expected, e)
	var conflict *eventstore.ConflictError
	if errors.As(err, &conflict) {
		return told{conflict: true, version: conflict.Actual}, nil
	}
	if err != nil {
		return told{}, err
	}
	return told{version: receipts[0].StreamVersion}, nil
}
