package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/driver"
)

// Engine says how to get at an engine.
type Engine struct {
	// Storage returns the name of a new, empty storage that is removed after the test: a path, an address with a schema.
	Storage func(t testing.TB) string
	// Open opens a storage, as another process would: several at once on one storage are independent of each other.
	Open func(ctx context.Context, storage string, o Options) (driver.Driver, error)
}

// Options of an opened engine.
type Options struct {
	Partitions int              // of a storage that is new
	Clock      func() time.Time // nil is the engine's own
}

// Run runs the suite. Sub-tests are parallel and each has a storage of its own.
func Run(t *testing.T, e Engine) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"Empty", testEmpty},
		{"AppendAndRead", testAppendAndRead},
		{"Content", testContent},
		{"Places", testPlaces},
		{"Duplicates", testDuplicates},
		{"StreamVersions", testStreamVersions},
		{"StreamReads", testStreamReads},
		{"UnitsFailAlone", testUnitsFailAlone},
		{"Queued", testQueued},
		{"Transactions", testTransactions},
		{"StreamsInside", testStreamsInside},
		{"Savepoints", testSavepoints},
		{"Concurrent", testConcurrent},
		{"PartitionReads", testPartitionReads},
		{"TypeReads", testTypeReads},
		{"CorrelationReads", testCorrelationReads},
		{"RecordedAt", testRecordedAt},
		{"View", testView},
		{"TwoWriters", testTwoWriters},
		{"Watch", testWatch},
		{"Reopen", testReopen},
		{"Cancelled", testCancelled},
		{"Closed", testClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, &suite{T: t, engine: e, storage: e.Storage(t)})
		})
	}
}

type suite struct {
	*testing.T
	engine  Engine
	storage string
}

// open opens the sub-test's storage.
func (s *suite) open() driver.Driver { return s.openWith(Options{}) }

func (s *suite) openWith(o Options) driver.Driver {
	s.Helper()
	d, err := s.engine.Open(context.Background(), s.storage, o)
	if err != nil {
		s.Fatalf("opening: %v", err)
	}
	s.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, driver.ErrClosed) {
			s.Errorf("closing: %v", err)
		}
	})
	return d
}

// clean fails unless Verify finds nothing.
func (s *suite) clean(d driver.Driver) {
	s.Helper()
	for p := range d.Info().Partitions {
		var progress int64
		err := d.Verify(s.Context(), p, func(n int64) { progress = n }, func(f driver.Fault) {
			s.Errorf("Verify finds a fault in a store that nobody has damaged: %+v", f)
		})
		if err != nil {
			s.Fatalf("Verify, partition %d: %v", p, err)
		}
		if heads := s.heads(d); progress != heads[p] {
			s.Errorf("Verify, partition %d: %d events walked of %d", p, progress, heads[p])
		}
	}
}

func (s *suite) heads(d driver.Driver) []int64 {
	s.Helper()
	heads, err := d.Heads(s.Context())
	if err != nil {
		s.Fatalf("Heads: %v", err)
	}
	return heads
}

func (s *suite) commit(d driver.Driver, units ...*driver.Unit) []int64 {
	s.Helper()
	before := s.heads(d)
	heads, err := d.Commit(s.Context(), units)
	if err != nil {
		s.Fatalf("Commit: %v", err)
	}
	got := s.heads(d)
	wrong := !slices.Equal(heads, got)
	if slices.Equal(before, got) { // nothing was appended: older ones will do
		wrong = slices.ContainsFunc(heads, func(h int64) bool { return h > slices.Max(got) })
	}
	if wrong {
		s.Errorf("Commit returned heads %v, but right after it they are %v", heads, got)
	}
	return heads
}

// append commits one append that must succeed.
func (s *suite) append(d driver.Driver, stream string, expected int64, events ...event.Event) []driver.Receipt {
	s.Helper()
	u := unit(stream, expected, events...)
	s.commit(d, u)
	if u.Err != nil {
		s.Fatalf("appending to %q at %d: %v", stream, expected, u.Err)
	}
	if len(u.Receipts) != len(events) {
		s.Fatalf("%d receipts for %d events", len(u.Receipts), len(events))
	}
	return u.Receipts
}

func unit(stream string, expected int64, events ...event.Event) *driver.Unit {
	a := driver.Append{Stream: stream, Expected: expected, Events: events}
	for i := range events {
		a.Digests = append(a.Digests, driver.ContentDigest(&events[i]))
	}
	return &driver.Unit{Append: a, Ctx: context.Background()}
}

func transaction(run func(tx driver.Tx) error) *driver.Unit {
	return &driver.Unit{Run: run, Ctx: context.Background()}
}

// made is an event with every member filled.
func made(id, key string) event.Event {
	return event.Event{
		Metadata: event.Metadata{
			ID: id, Type: "test.thing.done", Source: "suite", CorrelationID: "flow-" + id, CausationID: "cause-" + id,
			Timestamp: 1677609600000, Version: "1.2.3", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", PartitionKey: key,
		},
		Payload: json.RawMessage(`{"id":"` + id + `"}`),
	}
}

// partition reads a partition from its beginning.
func (s *suite) partition(d driver.Driver, p int) []driver.Record {
	s.Helper()
	var out []driver.Record
	for q := (driver.PartitionQuery{Partition: p, Limit: 7}); ; {
		b, err := d.Partition(s.Context(), q)
		if err != nil {
			s.Fatalf("Partition %d: %v", p, err)
		}
		if b.Next == q.From {
			return out
		}
		out = append(out, b.Records...)
		q.From = b.Next
	}
}

// all reads everything, by id, and checks that offsets have no gaps.
func (s *suite) all(d driver.Driver) map[string]driver.Record {
	s.Helper()
	out := map[string]driver.Record{}
	for p := range d.Info().Partitions {
		for i, r := range s.partition(d, p) {
			if r.Partition != p || r.Offset != int64(i) {
				s.Errorf("record %d of partition %d says partition %d, offset %d: offsets have no gaps", i, p, r.Partition, r.Offset)
			}
			if _, twice := out[r.ID]; twice {
				s.Errorf("event %s is stored twice", r.ID)
			}
			out[r.ID] = r
		}
	}
	return out
}

func ids(records []driver.Record) []string {
	out := make([]string, 0, len(records))
	for _, r := range records {
		out = append(out, r.ID)
	}
	return out
}

func (s *suite) wantIDs(what string, got []driver.Record, err error, want ...string) {
	s.Helper()
	if err != nil {
		s.Errorf("%s: %v", what, err)
		return
	}
	if fmt.Sprint(ids(got)) != fmt.Sprint(want) {
		s.Errorf("%s: %v, want %v", what, ids(got), want)
	}
}
