package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
)

// Full lets the disk of a new store fill up under 16 writers. They must get an error that is want, reads go on, what was
// acknowledged is there, and when there is room again the refused appends succeed, on the open store and on one opened anew.
func Full(t *testing.T, open func() (driver.Driver, error), want error, makeRoom func()) {
	t.Helper()
	opened := func() *eventstore.Store {
		t.Helper()
		d, err := open()
		if err != nil {
			t.Fatal(err)
		}
		return eventstore.New(d, nil)
	}
	s := opened()
	defer func() { _ = s.Close() }()
	if err := s.Migrate(t.Context(), "full", `CREATE TABLE effects (id TEXT PRIMARY KEY)`); err != nil {
		t.Fatal(err)
	}
	// put is an append, or a transaction that appends and writes a row; the id says which.
	put := func(s *eventstore.Store, i, n int) error {
		key := fmt.Sprint("k", i)
		id := fmt.Sprintf("%s-%d", key, n)
		e := event.Event{
			Metadata: event.Metadata{ID: id, Type: "test.thing.done", Version: "1.0.0", Source: "full-test", CorrelationID: "flow-" + key, Timestamp: 1, PartitionKey: key},
			Payload:  []byte(`{"id":"` + id + `","filler":"` + strings.Repeat("x", 400) + `"}`),
		}
		if i%2 == 0 {
			_, err := s.Append(context.Background(), key, int64(n-1), e)
			return err
		}
		return s.Update(context.Background(), func(tx *eventstore.Tx) error {
			if _, err := tx.ExecContext(context.Background(), `INSERT INTO effects (id) VALUES ($1)`, e.ID); err != nil {
				return err
			}
			_, err := tx.Append(context.Background(), key, int64(n-1), e)
			return err
		})
	}
	const writers = 16
	acked := make([]int, writers)
	refusals := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			for refused := 0; refused < 5; { // it keeps asking, as services do
				if err := put(s, i, acked[i]+1); err != nil {
					refused++
					refusals[i] = err
					continue
				}
				acked[i]++
			}
		})
	}
	wg.Wait()
	for i, err := range refusals {
		if !errors.Is(err, want) {
			t.Errorf("writer %d was refused with %v, want %v", i, err, want)
		}
	}
	check := func(s *eventstore.Store, when string) {
		t.Helper()
		var total, effects int
		for i, n := range acked {
			total += n
			v, err := s.StreamVersion(t.Context(), fmt.Sprint("k", i))
			if err != nil || v != int64(n) {
				t.Errorf("%s: stream k%d has %d events, %v; acknowledged were %d", when, i, v, err, n)
			}
			if i%2 == 1 {
				effects += n
			}
		}
		var rows int
		err := s.View(t.Context(), func(q eventstore.Querier) error {
			return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM effects`).Scan(&rows)
		})
		if err != nil || rows != effects {
			t.Errorf("%s: %d effects, %v; want %d", when, rows, err, effects)
		}
		r, err := s.Verify(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range r.Faults {
			t.Errorf("%s: verify: %+v", when, f)
		}
		if r.Events != int64(total) || total == 0 {
			t.Errorf("%s: verify saw %d events, acknowledged were %d", when, r.Events, total)
		}
	}
	check(s, "while full")
	makeRoom()
	more := func(s *eventstore.Store, when string) {
		t.Helper()
		for i := range writers {
			for range 20 {
				if err := put(s, i, acked[i]+1); err != nil {
					t.Fatalf("%s: %v", when, err)
				}
				acked[i]++
			}
		}
		check(s, when)
	}
	more(s, "with room again")
	if err := s.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
	s = opened()
	more(s, "opened again")
	t.Logf("%v acknowledged; refused with: %v", acked, refusals[0])
}
