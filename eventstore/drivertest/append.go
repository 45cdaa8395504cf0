package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/driver"
)

func testEmpty(_ *testing.T, s *suite) {
	d := s.openWith(Options{Partitions: 5})
	if n := d.Info().Partitions; n != 5 {
		s.Errorf("%d partitions, want the 5 that it was created with", n)
	}
	if fmt.Sprint(s.heads(d)) != "[0 0 0 0 0]" {
		s.Errorf("heads of an empty store: %v", s.heads(d))
	}
	if b, err := d.Partition(s.Context(), driver.PartitionQuery{Limit: 10}); err != nil || len(b.Records) > 0 || b.Next != 0 {
		s.Errorf("an empty partition: %+v, %v; want nothing, and Next equal to From", b, err)
	}
	if _, err := d.Partition(s.Context(), driver.PartitionQuery{Partition: 5, Limit: 10}); !errors.Is(err, driver.ErrNotFound) {
		s.Errorf("a partition that does not exist: %v, want ErrNotFound", err)
	}
	if _, err := d.Stream(s.Context(), driver.StreamQuery{Stream: "none", From: 1, Limit: 10}); !errors.Is(err, driver.ErrNotFound) {
		s.Errorf("a stream that does not exist: %v, want ErrNotFound", err)
	}
	if v, err := d.StreamVersion(s.Context(), "none"); err != nil || v != 0 {
		s.Errorf("version of a stream that does not exist: %d, %v; want 0", v, err)
	}
	if _, err := d.Get(s.Context(), "none"); !errors.Is(err, driver.ErrNotFound) {
		s.Errorf("an event that does not exist: %v, want ErrNotFound", err)
	}
	for _, most := range []int64{0, 1} {
		if types, err := d.Types(s.Context(), most); err != nil || len(types) > 0 {
			s.Errorf("types of an empty store: %v, %v", types, err)
		}
	}
	if rs, err := d.Correlation(s.Context(), "none", zeroTime, 10); err != nil || len(rs) > 0 {
		s.Errorf("a flow that does not exist: %v, %v; want nothing", rs, err)
	}
	s.clean(d)
	if _, err := s.engine.Open(s.Context(), s.storage, Options{Partitions: 6}); err == nil {
		s.Error("a storage of 5 partitions was opened with 6: keys would change their place")
	}
}

func testAppendAndRead(_ *testing.T, s *suite) {
	d := s.open()
	e := made("e1", "key")
	r := s.append(d, "thing/1", driver.NoStream, e)[0]
	if r.EventID != "e1" || r.Partition != driver.PartitionOf("key", d.Info().Partitions) || r.Offset != 0 ||
		r.Stream != "thing/1" || r.StreamVersion != 1 || r.Duplicate || r.RecordedAt.IsZero() {
		s.Errorf("receipt %+v", r)
	}
	want := driver.Record{Event: e, Partition: r.Partition, Offset: 0, Stream: "thing/1", StreamVersion: 1, RecordedAt: r.RecordedAt}
	got, err := d.Get(s.Context(), "e1")
	if err != nil || !same(got, want) {
		s.Errorf("Get: %+v, %v\nwant %+v", got, err, want)
	}
	stream, err := d.Stream(s.Context(), driver.StreamQuery{Stream: "thing/1", From: 1, Limit: 10})
	if err != nil || len(stream) != 1 || !same(stream[0], want) {
		s.Errorf("Stream: %+v, %v\nwant %+v", stream, err, want)
	}
	if log := s.partition(d, r.Partition); len(log) != 1 || !same(log[0], want) {
		s.Errorf("Partition: %+v\nwant %+v", log, want)
	}
	flow, err := d.Correlation(s.Context(), e.CorrelationID, zeroTime, 10)
	if err != nil || len(flow) != 1 || !same(flow[0], want) {
		s.Errorf("Correlation: %+v, %v\nwant %+v", flow, err, want)
	}
	typed, err := d.Type(s.Context(), driver.TypeQuery{Type: e.Type, Limit: 10})
	if err != nil || len(typed) != 1 || !same(typed[0], want) {
		s.Errorf("Type: %+v, %v\nwant %+v", typed, err, want)
	}
	got.Payload[0] = 'X' // records belong to the caller
	if again, err := d.Get(s.Context(), "e1"); err != nil || again.Payload[0] != '{' {
		s.Errorf("a caller changed what is stored: %s, %v", again.Payload, err)
	}
	s.clean(d)
}

func same(a, b driver.Record) bool {
	return a.Metadata == b.Metadata && string(a.Payload) == string(b.Payload) && a.Partition == b.Partition && a.Offset == b.Offset &&
		a.Stream == b.Stream && a.StreamVersion == b.StreamVersion && a.RecordedAt.Equal(b.RecordedAt)
}

// testContent: what was said comes back to the byte.
func testContent(_ *testing.T, s *suite) {
	d := s.open()
	for i, payload := range []string{
		`{}`, `{ "spaced" :  1.0 }`, `{"big":123456789012345678901234567890.10}`, `{"text":"é \u00e9 \ud83d\ude00 😀 \" \\ \/"}`,
		`{"nul":"\u0000"}`, "{\"line\":\n\t1}", `{"long":"` + strings.Repeat("x", 300_000) + `"}`,
	} {
		e := made(fmt.Sprint("payload-", i), "key")
		e.Payload = json.RawMessage(payload)
		s.append(d, "", driver.AnyVersion, e)
		if got, err := d.Get(s.Context(), e.ID); err != nil || string(got.Payload) != payload {
			s.Errorf("payload %.60s came back as %.60s, %v", payload, got.Payload, err)
		}
	}
	for i, change := range []func(*event.Event){
		func(e *event.Event) { e.Timestamp = -1577923200000 },
		func(e *event.Event) { e.Timestamp = 0 },
		func(e *event.Event) { e.CausationID, e.TraceID = "", "" },
		func(e *event.Event) { e.PartitionKey = strings.Repeat("é", 128) },
		func(e *event.Event) { e.PartitionKey = `'; DROP TABLE events; --` },
		func(e *event.Event) { e.ID = strings.Repeat("i", 128) },
		func(e *event.Event) { e.ID = "~~~ not a UUID" },
		func(e *event.Event) { e.Version = "1.0.0-rc.1" },
		func(e *event.Event) { e.Type = "patient.enrolled" },
	} {
		e := made(fmt.Sprint("meta-", i), "key")
		change(&e)
		s.append(d, "", driver.AnyVersion, e)
		if got, err := d.Get(s.Context(), e.ID); err != nil || got.Metadata != e.Metadata {
			s.Errorf("metadata %+v came back as %+v, %v", e.Metadata, got.Metadata, err)
		}
	}
	s.clean(d)
}

func testPlaces(_ *testing.T, s *suite) {
	// The values of Kafka's murmur2 for these keys, made positive as its partitioner does.
	for key, hash := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
	} {
		for _, n := range []int{1, 12, 100} {
			if got, want := driver.PartitionOf(key, n), int(uint32(hash)&0x7fffffff)%n; got != want {
				s.Errorf("key %q lies in partition %d of %d, in Kafka in %d", key, got, n, want)
			}
		}
	}
	d := s.open()
	next := make([]int64, d.Info().Partitions)
	var units []*driver.Unit
	for i := range 200 {
		units = append(units, unit("", driver.AnyVersion, made(fmt.Sprint("e", i), fmt.Sprint("key", i%37))))
	}
	heads := s.commit(d, units...)
	for i, u := range units {
		p := driver.PartitionOf(fmt.Sprint("key", i%37), len(next))
		if u.Err != nil || u.Receipts[0].Partition != p || u.Receipts[0].Offset != next[p] {
			s.Fatalf("unit %d: %+v, %v; want partition %d, offset %d: units are carried out in order", i, u.Receipts, u.Err, p, next[p])
		}
		next[p]++
	}
	if fmt.Sprint(heads) != fmt.Sprint(next) {
		s.Errorf("heads %v, want %v", heads, next)
	}
	if n := len(s.all(d)); n != 200 {
		s.Errorf("%d events stored, want 200", n)
	}
	s.clean(d)
}

func testDuplicates(_ *testing.T, s *suite) {
	d := s.open()
	a, b := made("a", "key"), made("b", "key")
	first := s.append(d, "", driver.AnyVersion, a, b)
	again := s.append(d, "", driver.AnyVersion, a, b)
	for i := range again {
		want := first[i]
		want.Duplicate = true
		if again[i] != want {
			s.Errorf("the second receipt is %+v, want the first one marked: %+v", again[i], want)
		}
	}
	mixed := s.append(d, "", driver.AnyVersion, b, made("c", "key"))
	if !mixed[0].Duplicate || mixed[1].Duplicate || mixed[1].Offset != 2 {
		s.Errorf("one known and one new event: %+v; want the known one marked, the new one stored", mixed)
	}
	twice := s.append(d, "", driver.AnyVersion, made("d", "key"), made("d", "key"))
	if twice[0].Duplicate || !twice[1].Duplicate || twice[0].Offset != twice[1].Offset {
		s.Errorf("one event twice in one append: %+v; want it stored once", twice)
	}
	for _, id := range []string{"", "00f067aa0ba902b700f067aa0ba902b7"} { // each try of a publication has a trace of its own
		traced := made("a", "key")
		traced.TraceID = id
		if r := s.append(d, "", driver.AnyVersion, traced); !r[0].Duplicate {
			s.Errorf("a known event in another trace: %+v; want it known, and stored once", r)
		}
		if got, err := d.Get(s.Context(), "a"); err != nil || got.TraceID != a.TraceID {
			s.Errorf("the trace that was stored is %q now, %v; want the first one, %q", got.TraceID, err, a.TraceID)
		}
	}
	other := made("a", "key")
	other.Payload = json.RawMessage(`{"id":"another"}`)
	bad := unit("", driver.AnyVersion, made("e", "key"), other)
	inside := unit("", driver.AnyVersion, made("f", "key"), func() event.Event { e := made("f", "key"); e.Timestamp++; return e }())
	same1, same2 := unit("", driver.AnyVersion, made("g", "key")), unit("", driver.AnyVersion, made("g", "key"))
	s.commit(d, bad, inside, same1, same2)
	for _, u := range []*driver.Unit{bad, inside} {
		if !errors.Is(u.Err, driver.ErrDifferentContent) {
			s.Errorf("another content under a known id: %v, want ErrDifferentContent", u.Err)
		}
	}
	if same1.Err != nil || same2.Err != nil || same1.Receipts[0].Duplicate || !same2.Receipts[0].Duplicate {
		s.Errorf("one event in two units of one commit: %+v %v, %+v %v; want the second one marked", same1.Receipts, same1.Err, same2.Receipts, same2.Err)
	}
	if all := s.all(d); len(all) != 5 {
		s.Errorf("%d events stored, want a, b, c, d, g: a refused append leaves nothing", len(all))
	}
	// Ids that are not made of the time, and ids of the past.
	for i, id := range []string{"zzz", "00000000-0000-7000-8000-000000000000", "mmm", "ffffffff-ffff-7fff-bfff-ffffffffffff", "AAA"} {
		s.append(d, "", driver.AnyVersion, made(id, "key"))
		if r := s.append(d, "", driver.AnyVersion, made(id, "key")); !r[0].Duplicate {
			s.Errorf("id %d, %s, was stored twice", i, id)
		}
	}
	stream := s.append(d, "s", driver.NoStream, made("h", "key"))
	if r := s.append(d, "s", driver.NoStream, made("h", "key")); !r[0].Duplicate || r[0].StreamVersion != stream[0].StreamVersion {
		s.Errorf("an append to a stream, repeated word for word: %+v; want the first receipt, not a conflict", r)
	}
	s.clean(d)
}

func testStreamVersions(_ *testing.T, s *suite) {
	d := s.open()
	s.append(d, "s", driver.NoStream, made("1", "k"), made("2", "k"))
	conflict := func(expected, actual int64) {
		s.Helper()
		u := unit("s", expected, made(fmt.Sprint("x", expected), "k"))
		s.commit(d, u)
		var ce *driver.ConflictError
		if !errors.As(u.Err, &ce) || ce.Stream != "s" || ce.Expected != expected || ce.Actual != actual || !errors.Is(u.Err, driver.ErrConflict) {
			s.Errorf("expected version %d of a stream at %d: %v; want a ConflictError that says so", expected, actual, u.Err)
		}
	}
	conflict(driver.NoStream, 2)
	conflict(1, 2)
	conflict(3, 2)
	r := s.append(d, "s", 2, made("3", "k2"))
	if r[0].StreamVersion != 3 {
		s.Errorf("version %d, want 3: versions have no gaps, whatever the partition", r[0].StreamVersion)
	}
	s.append(d, "s", driver.AnyVersion, made("4", "k"))
	u := unit("none", 1, made("y", "k"))
	s.commit(d, u)
	if !errors.Is(u.Err, driver.ErrConflict) {
		s.Errorf("expected version 1 of a stream that does not exist: %v, want ErrConflict", u.Err)
	}
	// In one commit each unit sees those before it.
	first, second, third := unit("t", driver.NoStream, made("t1", "k")), unit("t", 1, made("t2", "k")), unit("t", 1, made("t3", "k"))
	s.commit(d, first, second, third)
	if first.Err != nil || second.Err != nil || !errors.Is(third.Err, driver.ErrConflict) {
		s.Errorf("three units of one commit on one stream: %v, %v, %v; want the third to conflict", first.Err, second.Err, third.Err)
	}
	for stream, want := range map[string]int64{"s": 4, "t": 2, "none": 0} {
		if v, err := d.StreamVersion(s.Context(), stream); err != nil || v != want {
			s.Errorf("StreamVersion(%s) = %d, %v; want %d", stream, v, err, want)
		}
	}
	s.clean(d)
}

func testUnitsFailAlone(_ *testing.T, s *suite) {
	d := s.open()
	s.append(d, "s", driver.NoStream, made("0", "k"))
	boom := errors.New("boom")
	good1, good2 := unit("", driver.AnyVersion, made("1", "k")), unit("s", 1, made("2", "k"))
	conflict := unit("s", 7, made("3", "k"))
	fails := transaction(func(tx driver.Tx) error {
		if _, err := tx.Append(context.Background(), driver.Append{Stream: "s", Expected: driver.AnyVersion, Events: []event.Event{made("4", "k")}}); err != nil {
			return err
		}
		return boom
	})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	late := unit("", driver.AnyVersion, made("5", "k"))
	late.Ctx = ended
	s.commit(d, good1, conflict, fails, late, good2)
	if good1.Err != nil || good2.Err != nil {
		s.Errorf("good units failed with the bad ones: %v, %v", good1.Err, good2.Err)
	}
	if !errors.Is(conflict.Err, driver.ErrConflict) || !errors.Is(fails.Err, boom) || !errors.Is(late.Err, context.Canceled) {
		s.Errorf("errors of the bad units: %v, %v, %v", conflict.Err, fails.Err, late.Err)
	}
	all := s.all(d)
	if len(all) != 3 {
		s.Errorf("%d events stored, want 0, 1 and 2: a unit that fails leaves nothing", len(all))
	}
	if v := all["2"].StreamVersion; v != 2 {
		s.Errorf("version %d after a unit that was undone, want 2: versions have no gaps", v)
	}
	s.clean(d)
}

// testQueued: units that come when the commit's turn has come are carried out with the others, each with an outcome of its own.
func testQueued(t *testing.T, s *suite) {
	d := s.open()
	q, ok := d.(driver.Queued)
	if !ok {
		t.Skip("this engine does not ask for more")
	}
	s.table(d)
	boom := errors.New("boom")
	first := unit("s", driver.NoStream, made("1", "k"))
	second := unit("s", 1, made("2", "k"))
	conflict := unit("s", 1, made("3", "k"))
	fails := transaction(func(driver.Tx) error { return boom })
	large := transaction(func(tx driver.Tx) error {
		if _, err := tx.ExecContext(context.Background(), upsert, "large", 1); err != nil {
			return err
		}
		_, err := tx.Append(context.Background(), driver.Append{Stream: "s", Expected: 2, Events: []event.Event{made("4", "k")}})
		return err
	})
	large.Large = true
	late := []*driver.Unit{second, conflict, fails, large}
	heads, err := q.CommitQueued(s.Context(), []*driver.Unit{first}, func() []*driver.Unit {
		units := late
		late = nil
		return units
	})
	if err != nil || fmt.Sprint(heads) != fmt.Sprint(s.heads(d)) {
		t.Fatalf("heads %v, are %v; %v", heads, s.heads(d), err)
	}
	if first.Err != nil || second.Err != nil || large.Err != nil || !errors.Is(conflict.Err, driver.ErrConflict) || !errors.Is(fails.Err, boom) {
		t.Errorf("%v, %v, %v, %v, %v", first.Err, second.Err, large.Err, conflict.Err, fails.Err)
	}
	if all := s.all(d); len(all) != 3 || all["4"].StreamVersion != 3 || s.rows(d)["large"] != 1 {
		t.Errorf("events %v, rows %v", all, s.rows(d))
	}
	s.clean(d)
}
