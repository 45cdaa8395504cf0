package eventstore_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// model is what a store must be: lists and maps, without a file, an index or a cache.
type model struct {
	log     [][]eventstore.Record // by partition
	order   []eventstore.Record   // as recorded
	byID    map[string]eventstore.Record
	streams map[string][]string // ids
	rows    map[string]int      // the table that transactions write to
}

func newModel(partitions int) *model {
	return &model{log: make([][]eventstore.Record, partitions), byID: map[string]eventstore.Record{}, streams: map[string][]string{}, rows: map[string]int{}}
}

func (m *model) clone() *model {
	c := newModel(len(m.log))
	for p := range m.log {
		c.log[p] = slices.Clone(m.log[p])
	}
	c.order = slices.Clone(m.order)
	for k, v := range m.byID {
		c.byID[k] = v
	}
	for k, v := range m.streams {
		c.streams[k] = slices.Clone(v)
	}
	for k, v := range m.rows {
		c.rows[k] = v
	}
	return c
}

// append does what Store.Append promises. Times are not the model's to know: it leaves RecordedAt empty.
func (m *model) append(stream string, expected int64, events []event.Event) ([]eventstore.Receipt, error) {
	seen := map[string]event.Event{}
	known := 0
	for _, e := range events {
		if r, ok := m.byID[e.ID]; ok {
			if !sameEvent(r.Event, e) {
				return nil, eventstore.ErrDifferentContent
			}
			known++
		}
		if first, ok := seen[e.ID]; ok && !sameEvent(first, e) {
			return nil, eventstore.ErrDifferentContent
		}
		seen[e.ID] = e
	}
	if known < len(events) && stream != "" {
		if v := int64(len(m.streams[stream])); known > 0 || expected != eventstore.AnyVersion && expected != v {
			return nil, &eventstore.ConflictError{Stream: stream, Expected: expected, Actual: v}
		}
	}
	var out []eventstore.Receipt
	for _, e := range events {
		r, duplicate := m.byID[e.ID]
		if !duplicate {
			p := eventstore.PartitionOf(e.PartitionKey, len(m.log))
			r = eventstore.Record{Event: e, Partition: p, Offset: int64(len(m.log[p])), Stream: stream}
			if stream != "" {
				m.streams[stream] = append(m.streams[stream], e.ID)
				r.StreamVersion = int64(len(m.streams[stream]))
			}
			m.log[p] = append(m.log[p], r)
			m.order = append(m.order, r)
			m.byID[e.ID] = r
		}
		out = append(out, eventstore.Receipt{EventID: r.ID, Partition: r.Partition, Offset: r.Offset, Stream: r.Stream, StreamVersion: r.StreamVersion, Duplicate: duplicate})
	}
	return out, nil
}

func sameEvent(a, b event.Event) bool {
	return a.Metadata == b.Metadata && string(a.Payload) == string(b.Payload)
}

// TestModel does random things to a store through two handles, as two processes would, and to the model; every answer
// must be the same. Handles are closed and opened again now and then.
func TestModel(t *testing.T) {
	steps := 2000
	if testing.Short() {
		steps = 800
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := &run{T: t, rnd: rand.New(rand.NewPCG(seed, 0)), path: filepath.Join(t.TempDir(), "model.db"), m: newModel(4)}
	for i := range r.stores {
		r.stores[i] = eventstore.New(openEngine(t, r.path), nil)
	}
	defer func() {
		for _, s := range r.stores {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	}()
	if err := r.stores[0].Migrate(t.Context(), "model", `CREATE TABLE model_rows (k TEXT PRIMARY KEY, n BIGINT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	s := r.stores[0]
	for r.step = range steps {
		if r.rnd.IntN(10) == 0 {
			s = r.stores[r.rnd.IntN(2)]
		}
		switch n := r.rnd.IntN(100); {
		case n < 50:
			r.append(s)
		case n < 65:
			r.update(s)
		case n < 66 && r.rnd.IntN(4) == 0:
			r.burst(s)
		case n < 99:
			r.read(s)
		default:
			i := r.rnd.IntN(2)
			if err := r.stores[i].Close(); err != nil {
				t.Fatal(err)
			}
			r.stores[i] = eventstore.New(openEngine(t, r.path), nil)
			s = r.stores[i]
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	r.everything()
}

type run struct {
	*testing.T
	rnd    *rand.Rand
	path   string
	stores [2]*eventstore.Store
	m      *model
	step   int
	nextID int
}

// event is mostly new; at times it is an old one, word for word or not.
func (r *run) event() event.Event {
	if len(r.m.order) > 0 && r.rnd.IntN(8) == 0 {
		among := len(r.m.order)
		if r.rnd.IntN(2) == 0 {
			among = min(among, 5) // it is the late answer that makes callers repeat themselves
		}
		e := r.m.order[len(r.m.order)-1-r.rnd.IntN(among)].Event
		e.Payload = slices.Clone(e.Payload)
		if r.rnd.IntN(4) == 0 {
			e.Payload = json.RawMessage(`{"other":true}`)
		}
		return e
	}
	r.nextID++
	id := []func() string{
		func() string { return fmt.Sprint("id-", r.nextID) },
		event.NewID,
		func() string { return fmt.Sprintf("%x-%d", r.rnd.Uint64(), r.nextID) },
	}[r.rnd.IntN(3)]()
	return event.Event{
		Metadata: event.Metadata{
			ID: id, Type: fmt.Sprintf("test.thing.done%d", r.rnd.IntN(3)), Source: "model-test", Version: "1.0.0",
			CorrelationID: fmt.Sprint("flow-", r.rnd.IntN(40)), Timestamp: 1 + int64(r.rnd.IntN(1000)), PartitionKey: fmt.Sprint("key-", r.rnd.IntN(25)),
		},
		Payload: json.RawMessage(fmt.Sprintf(`{"n":%d}`, r.rnd.IntN(1000))),
	}
}

func (r *run) stream() (name string, expected int64) {
	if r.rnd.IntN(2) == 0 {
		return "", eventstore.AnyVersion
	}
	name = fmt.Sprint("s/", r.rnd.IntN(12))
	switch r.rnd.IntN(6) {
	case 0:
		return name, eventstore.AnyVersion
	case 1:
		return name, int64(r.rnd.IntN(5))
	}
	return name, int64(len(r.m.streams[name]))
}

func (r *run) events() []event.Event {
	out := make([]event.Event, 1+r.rnd.IntN(4)*r.rnd.IntN(2))
	for i := range out {
		out[i] = r.event()
	}
	return out
}

// same compares two answers: receipts but for their times, and the kind of error.
func (r *run) same(what string, got, want []eventstore.Receipt, gotErr, wantErr error) {
	r.Helper()
	for i := range got {
		got[i].RecordedAt = time.Time{}
	}
	var gc, wc *eventstore.ConflictError
	switch {
	case errors.As(wantErr, &wc):
		if !errors.As(gotErr, &gc) || *gc != *wc {
			r.Errorf("step %d, %s: %v, want %v", r.step, what, gotErr, wantErr)
		}
	case !errors.Is(gotErr, wantErr) || wantErr == nil && !slices.Equal(got, want):
		r.Errorf("step %d, %s: %+v, %v\nwant %+v, %v", r.step, what, got, gotErr, want, wantErr)
	}
}

func (r *run) append(s *eventstore.Store) {
	stream, expected := r.stream()
	events := r.events()
	want, wantErr := r.m.append(stream, expected, events)
	got, err := s.Append(r.Context(), stream, expected, events...)
	r.same("append", got, want, err, wantErr)
}

// burst appends more than another handle reads to catch up.
func (r *run) burst(s *eventstore.Store) {
	events := make([]event.Event, 600)
	for i := range events {
		events[i] = r.event()
		events[i].ID = event.NewID()
	}
	want, wantErr := r.m.append("", eventstore.AnyVersion, events)
	got, err := s.Append(r.Context(), "", eventstore.AnyVersion, events...)
	r.same("burst", got, want, err, wantErr)
}

var errUndo = errors.New("undo")

// update is a transaction of appends, writes and savepoints, any of which may be undone.
func (r *run) update(s *eventstore.Store) {
	next := r.m.clone()
	undoAll := r.rnd.IntN(4) == 0
	err := s.Update(r.Context(), func(tx *eventstore.Tx) error {
		for range 1 + r.rnd.IntN(4) {
			part := next.clone()
			undo := r.rnd.IntN(3) == 0
			work := func() error {
				stream, expected := r.stream()
				events := r.events()
				want, wantErr := part.append(stream, expected, events)
				got, err := tx.Append(r.Context(), stream, expected, events...)
				r.same("append in a transaction", got, want, err, wantErr)
				k := fmt.Sprint("row-", r.rnd.IntN(10))
				part.rows[k]++
				if _, err := tx.ExecContext(r.Context(), `INSERT INTO model_rows (k, n) VALUES ($1, 1) ON CONFLICT (k) DO UPDATE SET n = model_rows.n + 1`, k); err != nil {
					return err
				}
				if undo {
					return errUndo
				}
				return nil
			}
			if err := tx.Savepoint(r.Context(), work); undo && !errors.Is(err, errUndo) || !undo && err != nil {
				return fmt.Errorf("savepoint: %w", err)
			}
			if !undo {
				next = part
			}
		}
		if undoAll {
			return errUndo
		}
		return nil
	})
	switch {
	case undoAll && !errors.Is(err, errUndo), !undoAll && err != nil:
		r.Fatalf("step %d: Update: %v", r.step, err)
	case !undoAll:
		r.m = next
	}
}

// records compares records but for their times.
func (r *run) records(what string, got, want []eventstore.Record, err error) {
	r.Helper()
	if err != nil {
		r.Errorf("step %d, %s: %v", r.step, what, err)
		return
	}
	for i := range max(len(got), len(want)) {
		if i == len(got) || i == len(want) {
			r.Errorf("step %d, %s: %d records, want %d", r.step, what, len(got), len(want))
			return
		}
		if g, w := got[i], want[i]; !sameEvent(g.Event, w.Event) || g.Partition != w.Partition || g.Offset != w.Offset || g.Stream != w.Stream || g.StreamVersion != w.StreamVersion {
			r.Errorf("step %d, %s: record %d is %+v\nwant %+v", r.step, what, i, g, w)
			return
		}
	}
}

func (r *run) pick(ids []string) (out []eventstore.Record) {
	for _, id := range ids {
		out = append(out, r.m.byID[id])
	}
	return out
}

// where keeps the records for which keep holds, at most limit.
func where(in []eventstore.Record, limit int, keep func(eventstore.Record) bool) (out []eventstore.Record) {
	for _, x := range in {
		if len(out) < limit && keep(x) {
			out = append(out, x)
		}
	}
	return out
}

func (r *run) read(s *eventstore.Store) {
	ctx, limit := r.Context(), 1+r.rnd.IntN(30)
	switch r.rnd.IntN(6) {
	case 0:
		p := r.rnd.IntN(len(r.m.log))
		log := r.m.log[p]
		from := r.rnd.IntN(len(log) + 1)
		q := eventstore.PartitionQuery{Partition: p, From: int64(from), Limit: limit}
		keep := func(eventstore.Record) bool { return true }
		switch r.rnd.IntN(3) {
		case 1:
			q.Key = fmt.Sprint("key-", r.rnd.IntN(25))
			keep = func(x eventstore.Record) bool { return x.PartitionKey == q.Key }
		case 2:
			q.Match = func(typ string) bool { return typ == "test.thing.done1" }
			keep = func(x eventstore.Record) bool { return x.Type == "test.thing.done1" }
		}
		b, err := s.Partition(ctx, q)
		// A batch may be short; what it says it has looked at it must have looked at.
		if err == nil && (b.Next < int64(from) || b.Next > int64(len(log)) || b.Next == int64(from) && from < len(log)) {
			r.Errorf("step %d: a batch from %d of %d ends at %d", r.step, from, len(log), b.Next)
			return
		}
		r.records("partition", b.Records, where(log[from:b.Next], len(log), keep), err)
	case 1:
		name := fmt.Sprint("s/", r.rnd.IntN(12))
		ids := r.m.streams[name]
		if v, err := s.StreamVersion(ctx, name); err != nil || v != int64(len(ids)) {
			r.Errorf("step %d: version of %s: %d, %v; want %d", r.step, name, v, err, len(ids))
		}
		from := 1 + r.rnd.IntN(len(ids)+1)*r.rnd.IntN(2)
		got, err := s.Stream(ctx, eventstore.StreamQuery{Stream: name, From: int64(from), Limit: limit})
		if len(ids) == 0 {
			if !errors.Is(err, eventstore.ErrNotFound) {
				r.Errorf("step %d: a stream that does not exist: %v", r.step, err)
			}
			return
		}
		r.records("stream", got, r.pick(ids[from-1:min(len(ids), from-1+limit)]), err)
	case 2:
		flow := fmt.Sprint("flow-", r.rnd.IntN(40))
		got, err := s.Correlation(ctx, flow, time.Time{}, limit)
		r.records("correlation", got, where(r.m.order, limit, func(x eventstore.Record) bool { return x.CorrelationID == flow }), err)
	case 3:
		q := eventstore.TypeQuery{Type: fmt.Sprintf("test.thing.done%d", r.rnd.IntN(3)), Limit: limit, Backward: r.rnd.IntN(2) == 0}
		if r.rnd.IntN(2) == 0 {
			q.From = time.UnixMilli(int64(r.rnd.IntN(1000)))
			q.To = q.From.Add(time.Duration(r.rnd.IntN(500)) * time.Millisecond)
		}
		all := where(r.m.order, len(r.m.order), func(x eventstore.Record) bool {
			return x.Type == q.Type && (q.From.IsZero() || x.Timestamp >= q.From.UnixMilli()) && (q.To.IsZero() || x.Timestamp < q.To.UnixMilli())
		})
		slices.SortFunc(all, byTimestamp)
		if q.Backward {
			slices.Reverse(all)
		}
		var got []eventstore.Record
		for {
			page, err := s.Type(ctx, q)
			if err != nil {
				r.Errorf("step %d: type: %v", r.step, err)
				return
			}
			if len(page) == 0 {
				break
			}
			got = append(got, page...)
			last := page[len(page)-1]
			q.After = eventstore.Cursor{Timestamp: last.Timestamp, Partition: last.Partition, Offset: last.Offset, Valid: true}
		}
		r.records(fmt.Sprintf("type %+v", q), got, all, nil)
	case 4:
		if len(r.m.order) > 0 {
			want := r.m.order[r.rnd.IntN(len(r.m.order))]
			got, err := s.Get(ctx, want.ID)
			r.records("get", []eventstore.Record{got}, []eventstore.Record{want}, err)
			if off, err := s.OffsetAt(ctx, want.Partition, got.RecordedAt); err != nil || off != want.Offset {
				r.Errorf("step %d: offset at the time of %s: %d, %v; want %d", r.step, want.ID, off, err, want.Offset)
			}
		}
	case 5:
		rows := map[string]int{}
		err := s.View(ctx, func(q eventstore.Querier) error {
			rs, err := q.QueryContext(ctx, `SELECT k, n FROM model_rows`)
			if err != nil {
				return err
			}
			defer rs.Close()
			for rs.Next() {
				var k string
				var n int
				if err := rs.Scan(&k, &n); err != nil {
					return err
				}
				rows[k] = n
			}
			return rs.Err()
		})
		if err != nil || fmt.Sprint(rows) != fmt.Sprint(r.m.rows) {
			r.Errorf("step %d: rows %v, %v; want %v", r.step, rows, err, r.m.rows)
		}
	}
}

func byTimestamp(a, b eventstore.Record) int {
	if a.Timestamp != b.Timestamp {
		return int(a.Timestamp - b.Timestamp)
	}
	if a.Partition != b.Partition {
		return a.Partition - b.Partition
	}
	return int(a.Offset - b.Offset)
}

// everything compares the whole of both handles with the model.
func (r *run) everything() {
	for _, s := range r.stores {
		var all []eventstore.Record
		var last time.Time
		for x, err := range s.All(context.Background(), nil, nil) {
			if err != nil {
				r.Fatal(err)
			}
			if !x.RecordedAt.After(last) {
				r.Errorf("%s was recorded at %v, not after %v", x.ID, x.RecordedAt, last)
			}
			last = x.RecordedAt
			all = append(all, x)
		}
		r.records("everything", all, r.m.order, nil)
		types, err := s.Types(r.Context())
		want := map[string]int64{}
		for _, x := range r.m.order {
			want[x.Type]++
		}
		if err != nil || fmt.Sprint(types) != fmt.Sprint(want) {
			r.Errorf("types %v, %v; want %v", types, err, want)
		}
		names, err := s.Streams(r.Context(), "s/", "", 1000)
		var wantNames []string
		for name := range r.m.streams {
			wantNames = append(wantNames, name)
		}
		slices.Sort(wantNames)
		if err != nil || !slices.Equal(names, wantNames) {
			r.Errorf("streams %v, %v; want %v", names, err, wantNames)
		}
		report, err := s.Verify(r.Context(), nil)
		if err != nil || report.FaultCount != 0 || report.Events != int64(len(r.m.order)) {
			r.Errorf("verify: %+v, %v; want %d events and no fault", report, err, len(r.m.order))
		}
	}
}
