package drivertest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/driver"
)

var zeroTime time.Time

func testStreamReads(_ *testing.T, s *suite) {
	d := s.open()
	for i := 1; i <= 9; i++ {
		s.append(d, "a/1", int64(i-1), made(fmt.Sprint(i), fmt.Sprint("k", i))) // over partitions
	}
	s.append(d, "a/2", driver.NoStream, made("x", "k"))
	s.append(d, "b/1", driver.NoStream, made("y", "k"))
	read := func(q driver.StreamQuery) ([]driver.Record, error) { return d.Stream(s.Context(), q) }
	got, err := read(driver.StreamQuery{Stream: "a/1", From: 1, Limit: 100})
	s.wantIDs("the whole stream", got, err, "1", "2", "3", "4", "5", "6", "7", "8", "9")
	got, err = read(driver.StreamQuery{Stream: "a/1", From: 4, Limit: 3})
	s.wantIDs("three from version 4", got, err, "4", "5", "6")
	got, err = read(driver.StreamQuery{Stream: "a/1", Backward: true, Limit: 3})
	s.wantIDs("the last three, newest first", got, err, "9", "8", "7")
	got, err = read(driver.StreamQuery{Stream: "a/1", From: 4, Backward: true, Limit: 100})
	s.wantIDs("backward from version 4", got, err, "4", "3", "2", "1")
	got, err = read(driver.StreamQuery{Stream: "a/1", From: 10, Limit: 100})
	s.wantIDs("behind the last version", got, err)
	for _, c := range []struct {
		prefix, after string
		limit         int
		want          string
	}{
		{"", "", 10, "[a/1 a/2 b/1]"}, {"a/", "", 10, "[a/1 a/2]"}, {"a/", "a/1", 10, "[a/2]"}, {"", "", 2, "[a/1 a/2]"}, {"c", "", 10, "[]"},
	} {
		if names, err := d.Streams(s.Context(), c.prefix, c.after, c.limit); err != nil || fmt.Sprint(names) != c.want {
			s.Errorf("Streams(%q, %q, %d) = %v, %v; want %s", c.prefix, c.after, c.limit, names, err, c.want)
		}
	}
	s.clean(d)
}

func testPartitionReads(_ *testing.T, s *suite) {
	d := s.openWith(Options{Partitions: 1})
	for i := range 50 {
		e := made(fmt.Sprint(i), fmt.Sprint("k", i%5))
		if i%10 == 3 {
			e.Type = "test.thing.rare"
		}
		s.append(d, "", driver.AnyVersion, e)
	}
	read := func(q driver.PartitionQuery) driver.Batch {
		s.Helper()
		if q.Limit == 0 {
			q.Limit = 1000
		}
		b, err := d.Partition(s.Context(), q)
		if err != nil {
			s.Fatalf("Partition(%+v): %v", q, err)
		}
		return b
	}
	want := func(what string, b driver.Batch, next int64, ids ...string) {
		s.Helper()
		s.wantIDs(what, b.Records, nil, ids...)
		if b.Next != next {
			s.Errorf("%s: Next is %d, want %d: the first offset that was not looked at", what, b.Next, next)
		}
	}
	want("a limit", read(driver.PartitionQuery{From: 10, Limit: 3}), 13, "10", "11", "12")
	want("an upper bound", read(driver.PartitionQuery{From: 47, To: 49}), 49, "47", "48")
	want("the end", read(driver.PartitionQuery{From: 48}), 50, "48", "49")
	want("behind the end", read(driver.PartitionQuery{From: 50}), 50)
	rare := func(t string) bool { return t == "test.thing.rare" }
	want("a type", read(driver.PartitionQuery{Match: rare}), 50, "3", "13", "23", "33", "43")
	want("a type, behind the last", read(driver.PartitionQuery{From: 44, Match: rare}), 50)
	want("a type that does not exist", read(driver.PartitionQuery{Match: func(string) bool { return false }}), 50)
	want("a type with a limit", read(driver.PartitionQuery{Match: rare, Limit: 2}), 14, "3", "13")
	want("a type up to a bound", read(driver.PartitionQuery{Match: rare, To: 20}), 20, "3", "13")
	want("a key", read(driver.PartitionQuery{Key: "k4", From: 30}), 50, "34", "39", "44", "49")
	want("a key and a type", read(driver.PartitionQuery{Key: "k3", Match: rare, To: 30}), 30, "3", "13", "23")
	if b := read(driver.PartitionQuery{MaxBytes: 25}); len(b.Records) == 0 || len(b.Records) > 4 || b.Next != int64(len(b.Records)) {
		s.Errorf("25 bytes of payload: %d records, Next %d; want to stop after the record that reaches them", len(b.Records), b.Next)
	}
	big := made("big", "k")
	big.Payload = []byte(`{"t":"` + strings.Repeat("x", 1000) + `"}`)
	s.append(d, "", driver.AnyVersion, big)
	if b := read(driver.PartitionQuery{From: 50, MaxBytes: 1}); len(b.Records) != 1 || b.Next != 51 {
		s.Errorf("a record larger than MaxBytes: %d records, Next %d; want it all the same, or readers stand still", len(b.Records), b.Next)
	}
	s.clean(d)
}

func testTypeReads(_ *testing.T, s *suite) {
	d := s.open()
	for i, ms := range []int64{5000, -7000, 3000, 3000, 0, 9000} {
		e := made(fmt.Sprint(i), fmt.Sprint("k", i))
		e.Timestamp = ms
		s.append(d, "", driver.AnyVersion, e)
	}
	other := made("other", "k")
	other.Type = "test.other.done"
	s.append(d, "", driver.AnyVersion, other)
	q := driver.TypeQuery{Type: "test.thing.done", Limit: 100}
	got, err := d.Type(s.Context(), q)
	if err != nil || len(got) != 6 || got[0].ID != "1" || got[1].ID != "4" || got[4].ID != "0" || got[5].ID != "5" {
		s.Errorf("by time: %v, %v; want the order of timestamps", ids(got), err)
	}
	forward := ids(got)
	q.Backward = true
	got, err = d.Type(s.Context(), q)
	if err != nil {
		s.Error(err)
	}
	for i, id := range ids(got) {
		if id != forward[len(forward)-1-i] {
			s.Errorf("backward %v is not %v turned round", ids(got), forward)
			break
		}
	}
	q.Backward, q.From, q.To = false, time.UnixMilli(0), time.UnixMilli(5000)
	if got, err = d.Type(s.Context(), q); err != nil || len(got) != 3 || got[0].ID != "4" {
		s.Errorf("from 0 up to 5000: %v, %v; want three: the end does not belong to it", ids(got), err)
	}
	for _, backward := range []bool{false, true} { // page by page, the same
		q = driver.TypeQuery{Type: "test.thing.done", Limit: 1, Backward: backward}
		var pages []string
		for {
			got, err := d.Type(s.Context(), q)
			if err != nil {
				s.Fatal(err)
			}
			if len(got) == 0 {
				break
			}
			r := got[len(got)-1]
			pages = append(pages, r.ID)
			q.After = driver.Cursor{Timestamp: r.Timestamp, Partition: r.Partition, Offset: r.Offset, Valid: true}
		}
		if len(pages) != 6 || !backward && fmt.Sprint(pages) != fmt.Sprint(forward) {
			s.Errorf("page by page, backward %v: %v, want %v", backward, pages, forward)
		}
	}
	for most, want := range map[int64]int64{0: 6, 1: 1, 5: 5, 6: 6, 7: 6} {
		if types, err := d.Types(s.Context(), most); err != nil || len(types) != 2 || types["test.thing.done"] != want || types["test.other.done"] != 1 {
			s.Errorf("Types, up to %d: %v, %v; want %d and 1", most, types, err, want)
		}
	}
}

func testCorrelationReads(_ *testing.T, s *suite) {
	d := s.open()
	var receipts []driver.Receipt
	for i := range 6 {
		e := made(fmt.Sprint(i), fmt.Sprint("k", i))
		e.CorrelationID = []string{"one", "two"}[i%2]
		e.Timestamp -= int64(i) // recorded order counts, not that of timestamps
		receipts = append(receipts, s.append(d, "", driver.AnyVersion, e)...)
	}
	got, err := d.Correlation(s.Context(), "one", zeroTime, 100)
	s.wantIDs("a flow", got, err, "0", "2", "4")
	got, err = d.Correlation(s.Context(), "one", zeroTime, 2)
	s.wantIDs("a flow with a limit", got, err, "0", "2")
	got, err = d.Correlation(s.Context(), "one", receipts[2].RecordedAt, 100)
	s.wantIDs("a flow, behind a time", got, err, "4")
}

func testRecordedAt(_ *testing.T, s *suite) {
	var now atomic.Int64
	now.Store(1_700_000_000_000_000)
	d := s.openWith(Options{Partitions: 1, Clock: func() time.Time { return time.UnixMicro(now.Load()) }})
	var times []time.Time
	for i := range 6 {
		if i == 3 {
			now.Add(-10_000_000) // a clock that was set back
		} else {
			now.Add(int64(i) * 1000)
		}
		r := s.append(d, "", driver.AnyVersion, made(fmt.Sprint(i), "k"))[0]
		if len(times) > 0 && !r.RecordedAt.After(times[len(times)-1]) {
			s.Errorf("record %d has %v after %v: recordedAt increases along a partition, whatever the clock does", i, r.RecordedAt, times[len(times)-1])
		}
		times = append(times, r.RecordedAt)
	}
	for i, at := range times {
		if off, err := d.OffsetAt(s.Context(), 0, at); err != nil || off != int64(i) {
			s.Errorf("OffsetAt the moment of record %d: %d, %v", i, off, err)
		}
		if off, err := d.OffsetAt(s.Context(), 0, at.Add(time.Microsecond)); err != nil || off != int64(i)+1 {
			s.Errorf("OffsetAt a moment after record %d: %d, %v; want %d", i, off, err, i+1)
		}
	}
	if off, err := d.OffsetAt(s.Context(), 0, times[0].Add(-time.Hour)); err != nil || off != 0 {
		s.Errorf("OffsetAt before all: %d, %v", off, err)
	}
	s.clean(d)
}

// testTwoWriters: two processes write at once; nothing is lost, doubled, or given a place twice.
func testTwoWriters(_ *testing.T, s *suite) {
	a, b := s.open(), s.open()
	const each = 60
	var wg sync.WaitGroup
	for w, d := range []driver.Driver{a, b} {
		wg.Go(func() {
			for i := range each {
				own := unit("", driver.AnyVersion, made(fmt.Sprint("own-", w, "-", i), fmt.Sprint("k", i)))
				both := unit("", driver.AnyVersion, made(fmt.Sprint("both-", i), "k"))
				stream := unit("s", driver.AnyVersion, made(fmt.Sprint("stream-", w, "-", i), "k"))
				if _, err := d.Commit(context.Background(), []*driver.Unit{own, both, stream}); err != nil {
					s.Errorf("Commit: %v", err)
					return
				}
				if err := errors.Join(own.Err, both.Err, stream.Err); err != nil {
					s.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := len(s.all(a)); n != 5*each {
		s.Errorf("%d events stored, want %d", n, 5*each)
	}
	if fmt.Sprint(s.heads(a)) != fmt.Sprint(s.heads(b)) {
		s.Errorf("two views of one store: heads %v and %v", s.heads(a), s.heads(b))
	}
	if v, err := b.StreamVersion(s.Context(), "s"); err != nil || v != 2*each {
		s.Errorf("version %d of a stream that two wrote to, %v; want %d", v, err, 2*each)
	}
	won := 0
	for _, d := range []driver.Driver{a, b} {
		u := unit("race", driver.NoStream, made(fmt.Sprintf("race-%p", d), "k"))
		s.commit(d, u)
		if u.Err == nil {
			won++
		} else if !errors.Is(u.Err, driver.ErrConflict) {
			s.Error(u.Err)
		}
	}
	if won != 1 {
		s.Errorf("%d of two processes created one stream", won)
	}
	s.clean(a)
	s.clean(b)
}

// testWatch: a process learns of another one's commits.
func testWatch(_ *testing.T, s *suite) {
	a, b := s.open(), s.open()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	news := make(chan []int64, 100)
	done := make(chan error, 1)
	go func() {
		done <- b.Watch(ctx, func(heads []int64) {
			select {
			case news <- heads:
			case <-ctx.Done():
			}
		})
	}()
	for i := range 5 {
		s.append(a, "", driver.AnyVersion, made(fmt.Sprint(i), "k"))
		for total := int64(0); total <= int64(i); { // it may call too often, never too seldom
			told := <-news
			total = 0
			for p, h := range s.heads(b) {
				total += h
				if told != nil && told[p] > h {
					s.Errorf("Watch said that partition %d has grown to %d; it has %d", p, told[p], h)
				}
			}
		}
	}
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		s.Errorf("Watch ended with %v after its context", err)
	}
}

func testReopen(_ *testing.T, s *suite) {
	d := s.openWith(Options{Partitions: 3})
	s.append(d, "s", driver.NoStream, made("1", "k"), made("2", "k2"))
	before := s.all(d)
	if err := d.Close(); err != nil {
		s.Fatal(err)
	}
	d = s.open()
	if n := d.Info().Partitions; n != 3 {
		s.Errorf("%d partitions after opening again, want 3", n)
	}
	after := s.all(d)
	for id, r := range before {
		if !same(after[id], r) {
			s.Errorf("event %s was %+v, and after opening again is %+v", id, r, after[id])
		}
	}
	if r := s.append(d, "s", 2, made("3", "k")); r[0].StreamVersion != 3 {
		s.Errorf("version %d after opening again, want 3", r[0].StreamVersion)
	}
	if r := s.append(d, "", driver.AnyVersion, before["1"].Event); !r[0].Duplicate {
		s.Error("an event of before counts as new after opening again")
	}
	s.clean(d)
}

func testCancelled(_ *testing.T, s *suite) {
	d := s.open()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	u := unit("", driver.AnyVersion, made("1", "k"))
	if _, err := d.Commit(ctx, []*driver.Unit{u}); err == nil && u.Err == nil {
		s.Error("a commit whose context had ended was carried out")
	}
	if _, err := d.Partition(ctx, driver.PartitionQuery{Limit: 1}); err == nil {
		s.Error("a read whose context had ended succeeded")
	}
	if n := len(s.all(d)); n != 0 {
		s.Errorf("%d events stored", n)
	}
	s.append(d, "", driver.AnyVersion, made("1", "k"))
	tx := transaction(func(tx driver.Tx) error {
		_, err := tx.Append(ctx, driver.Append{Events: []event.Event{made("2", "k")}, Expected: driver.AnyVersion})
		return err
	})
	s.commit(d, tx)
	if !errors.Is(tx.Err, context.Canceled) {
		s.Errorf("an append in a transaction whose context had ended: %v, want context.Canceled", tx.Err)
	}
	s.clean(d)
}

func testClosed(_ *testing.T, s *suite) {
	d := s.open()
	s.append(d, "", driver.AnyVersion, made("1", "k"))
	if err := d.Close(); err != nil {
		s.Fatal(err)
	}
	if _, err := d.Commit(s.Context(), []*driver.Unit{unit("", driver.AnyVersion, made("2", "k"))}); !errors.Is(err, driver.ErrClosed) {
		s.Errorf("Commit after Close: %v, want ErrClosed", err)
	}
	if _, err := d.Heads(s.Context()); !errors.Is(err, driver.ErrClosed) {
		s.Errorf("Heads after Close: %v, want ErrClosed", err)
	}
	if _, err := d.Get(s.Context(), "1"); !errors.Is(err, driver.ErrClosed) {
		s.Errorf("Get after Close: %v, want ErrClosed", err)
	}
	if err := d.Close(); err != nil {
		s.Errorf("closing twice: %v", err)
	}
}
