package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/migrate"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/sqlite"
	"github.com/carebus/carebus/eventstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var begin = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is a time that a test moves on.
type clock struct{ now time.Time }

func (c *clock) time() time.Time { c.now = c.now.Add(time.Second); return c.now }

// source is a store that a test fills.
type source struct {
	t      *testing.T
	name   string
	clock  *clock
	store  *eventstore.Store
	engine Engine
	rand   *rand.Rand
	n      int
}

func newSource(t *testing.T, name string, partitions int) *source {
	t.Helper()
	s := &source{t: t, name: name, clock: &clock{begin}, rand: rand.New(rand.NewPCG(7, 7))}
	if path, ok := strings.CutPrefix(name, "sqlite:"); ok {
		d, err := sqlite.Open(t.Context(), path, &sqlite.Options{Partitions: partitions, Clock: s.clock.time})
		if err != nil {
			t.Fatal(err)
		}
		s.engine = d
	} else {
		d, err := postgres.Open(t.Context(), name, &postgres.Options{Partitions: partitions, Clock: s.clock.time})
		if err != nil {
			t.Fatal(err)
		}
		s.engine = d
	}
	// Nothing is refused: what is in a store is archived, whatever it is.
	s.store = eventstore.New(s.engine, &eventstore.Options{Admit: func(context.Context, *event.Event) error { return nil }})
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func file(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "care.db") }

// payloads that a line cannot hold as they are, and some that it can.
var payloads = []string{
	`{"a":1}`, `{ "a" : 1.0, "b":"<&>\u2028é" , "a":2}`, "{\n  \"a\": 1\r\n}", ` {"a":1}`, "{\"a\":1}\t", `{"big":123456789012345678901234567890.10}`, ``, `null`, "not JSON", "{\"a\":\"\xff\"}",
}

// add appends n events of a few histories, some with odd payloads, some large.
func (s *source) add(n int) {
	s.t.Helper()
	for range n {
		s.n++
		key := fmt.Sprint("P", s.rand.IntN(9))
		payload := payloads[s.rand.IntN(len(payloads))]
		if s.rand.IntN(10) == 0 {
			payload = `{"text":"` + strings.Repeat("a note ", 2000) + `"}`
		}
		e := event.Event{Metadata: event.Metadata{
			ID: fmt.Sprint("E", s.n), Type: fmt.Sprint("clinic.patient.visited", s.rand.IntN(3)), Version: "1.0.0", Source: "clinic", CorrelationID: "C", Timestamp: int64(s.n) - 50, PartitionKey: key, TraceID: strings.Repeat("a", 32), CausationID: "<c>",
		}, Payload: []byte(payload)}
		stream := ""
		if s.rand.IntN(3) > 0 {
			stream = "clinic.patient/" + key
		}
		if _, err := s.store.Append(s.t.Context(), stream, eventstore.AnyVersion, e); err != nil {
			s.t.Fatal(err)
		}
	}
}

// now is a time that no event was recorded at, behind all there are.
func (s *source) now() time.Time { return s.clock.time() }

func (s *source) write(dir string, before time.Time, o *Options) Report {
	s.t.Helper()
	r, err := Write(s.t.Context(), s.engine, dir, before, o)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// records are those of the store that were recorded before a time.
func (s *source) records(before time.Time, match func(driver.Record) bool) (out []driver.Record) {
	s.t.Helper()
	for r, err := range s.store.All(s.t.Context(), nil, nil) {
		if err != nil {
			s.t.Fatal(err)
		}
		if r.RecordedAt.Before(before) && (match == nil || match(r)) {
			out = append(out, r)
		}
	}
	return out
}

func read(t *testing.T, dir string, q Query) (out []driver.Record) {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for r, err := range a.All(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func same(t *testing.T, what string, want, got []driver.Record) {
	t.Helper()
	for i := range got { // no bytes and nil bytes are the same payload
		if len(got[i].Payload) == 0 {
			got[i].Payload = nil
		}
	}
	for i := range want {
		if len(want[i].Payload) == 0 {
			want[i].Payload = nil
		}
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("%s: %s", what, cmp.Diff(want, got))
	}
}

func whole(t *testing.T, dir string, s *source) Manifest {
	t.Helper()
	a, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, err := a.Verify(t.Context(), nil)
	if err != nil || len(r.Faults) > 0 || r.Events != a.Manifest().Events() {
		t.Fatalf("%+v, %v", r, err)
	}
	if s != nil {
		if err := a.Join(t.Context(), s.engine); err != nil {
			t.Fatal(err)
		}
	}
	return a.Manifest()
}

func engines(t *testing.T, run func(t *testing.T, name func() string)) {
	t.Run("sqlite", func(t *testing.T) { run(t, func() string { return file(t) }) })
	t.Run("postgres", func(t *testing.T) { run(t, func() string { return storetest.Postgres(t) }) })
}

// TestWrite: what was recorded before a time is in the archive, byte for byte; the next run goes on behind it; one that has
// nothing to do changes nothing.
func TestWrite(t *testing.T) {
	engines(t, func(t *testing.T, name func() string) {
		s := newSource(t, name(), 5)
		dir := filepath.Join(t.TempDir(), "archive")
		s.add(300)
		january := s.now()
		s.add(200)
		r := s.write(dir, january, &Options{FileBytes: 40 << 10})
		if r.Added != 300 || r.Events != 300 || r.Files < 6 {
			t.Errorf("%+v", r)
		}
		same(t, "january", s.records(january, nil), read(t, dir, Query{}))
		if m := whole(t, dir, s); !m.Before.Equal(january) || !m.Unfinished.IsZero() {
			t.Errorf("before %v, unfinished %v; want %v", m.Before, m.Unfinished, january)
		}
		before := folder(t, dir)
		if r := s.write(dir, january, nil); r.Added != 0 || r.Files != 0 || r.Events != 300 {
			t.Errorf("a second time: %+v", r)
		}
		if r := s.write(dir, january.Add(-time.Hour), nil); r.Added != 0 || !r.Before.Equal(january) {
			t.Errorf("an earlier time: %+v", r)
		}
		if after := folder(t, dir); !reflect.DeepEqual(before, after) {
			t.Error("a run that has nothing to do has changed the archive")
		}
		february := s.now()
		if r := s.write(dir, february, &Options{FileBytes: 40 << 10}); r.Added != 200 || r.Events != 500 {
			t.Errorf("february: %+v", r)
		}
		whole(t, dir, s)
		for name, content := range before {
			if now := folder(t, dir)[name]; name != manifestName && !bytes.Equal(now, content) {
				t.Errorf("%s has changed", name)
			}
		}
		same(t, "february", s.records(february, nil), read(t, dir, Query{}))
		all := s.records(february, nil)
		from, to := all[100].RecordedAt, all[333].RecordedAt
		same(t, "a time", all[100:333], read(t, dir, Query{From: from, To: to}))
		same(t, "a key", s.records(february, func(r driver.Record) bool { return r.PartitionKey == "P3" }), read(t, dir, Query{Key: "P3"}))
		visited := func(typ string) bool { return typ == "clinic.patient.visited1" }
		same(t, "a type", s.records(to, func(r driver.Record) bool { return visited(r.Type) && !r.RecordedAt.Before(from) }), read(t, dir, Query{From: from, To: to, Match: visited}))
		a, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, err := range a.All(t.Context(), Query{}) {
			if err != nil {
				t.Error(err)
			}
			break // and whoever has enough leaves nothing behind
		}
	})
}

func folder(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestTexts: names that are not UTF-8 come back as they were. (PostgreSQL does not store them.)
func TestTexts(t *testing.T) {
	s := newSource(t, file(t), 3)
	dir := t.TempDir()
	for i, text := range []string{"\xff\xfe", "a\x00b", "é\u2028<", `"\`, ""} {
		e := event.Event{Metadata: event.Metadata{ID: fmt.Sprint(i, text), Type: "a.b.c" + text, Version: text, Source: text, CorrelationID: text, CausationID: text, TraceID: text, PartitionKey: "k" + text}, Payload: []byte(`{}`)}
		if _, err := s.store.Append(t.Context(), "s"+text, eventstore.AnyVersion, e); err != nil {
			t.Fatal(err)
		}
	}
	before := s.now()
	s.write(dir, before, nil)
	whole(t, dir, s)
	same(t, "texts", s.records(before, nil), read(t, dir, Query{}))
}

// TestEmpty: a store without events has an archive, which is restored as a store without events.
func TestEmpty(t *testing.T) {
	s := newSource(t, file(t), 4)
	dir := t.TempDir()
	if r := s.write(dir, s.now(), nil); r.Events != 0 || r.Files != 0 {
		t.Errorf("%+v", r)
	}
	if m := whole(t, dir, s); len(m.Partitions) != 4 || m.Before.IsZero() {
		t.Errorf("%+v", m)
	}
	to := file(t)
	if r, err := Restore(t.Context(), dir, to, nil); err != nil || r.Events != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	s.add(10)
	if r := s.write(dir, s.now(), nil); r.Added != 10 {
		t.Errorf("%+v", r)
	}
	whole(t, dir, s)
}

// TestRestore: a restored store has the same events at the same places, with the same hashes, goes on as a store, and can be
// archived on in the same folder. A run that was broken off goes on.
func TestRestore(t *testing.T) {
	engines(t, func(t *testing.T, name func() string) {
		s := newSource(t, name(), 3)
		dir := t.TempDir()
		s.add(200)
		for range 6000 / 500 { // more than one transaction
			var many []event.Event
			for range 500 {
				s.n++
				many = append(many, event.Event{Metadata: event.Metadata{ID: fmt.Sprint("E", s.n), Type: "clinic.patient.seen", Version: "1.0.0", Source: "clinic", CorrelationID: "C", PartitionKey: "P1"}, Payload: []byte(`{}`)})
			}
			if _, err := s.store.Append(t.Context(), "clinic.patient/P1", eventstore.AnyVersion, many...); err != nil {
				t.Fatal(err)
			}
		}
		before := s.now()
		s.write(dir, before, &Options{FileBytes: 200 << 10})
		s.add(20)
		to := name()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if _, err := Restore(ctx, dir, to, func(stage string, done, _ int64) {
			if done > 4000 {
				cancel()
			}
		}); !errors.Is(err, context.Canceled) {
			t.Fatalf("%v; want that it was broken off", err)
		}
		if _, err := migrate.OpenEngine(t.Context(), to); !errors.Is(err, driver.ErrNotFound) && !errors.Is(err, driver.ErrFormat) {
			t.Errorf("opening an unfinished store: %v", err)
		}
		r, err := Restore(t.Context(), dir, to, nil)
		if err != nil || r.Events != 6200 || r.Resumed == 0 || r.Resumed == 6200 {
			t.Fatalf("%+v, %v", r, err)
		}
		restored := newSource(t, to, 0)
		restored.clock.now, restored.n = before.Add(time.Hour), 10_000
		same(t, "restored", s.records(before, nil), restored.records(before, nil))
		whole(t, dir, restored) // the hashes
		restored.add(50)
		if v, err := restored.store.Verify(t.Context(), nil); err != nil || v.FaultCount > 0 || v.Events != 6250 {
			t.Errorf("%+v, %v", v, err)
		}
		if r := restored.write(dir, restored.now(), nil); r.Added != 50 {
			t.Errorf("%+v", r)
		}
		whole(t, dir, restored)
		if _, err := Restore(t.Context(), dir, to, nil); err == nil {
			t.Error("a store that is there was taken for a target")
		}
	})
}

// TestRefusals: what would make a wrong archive is refused with an error that says so.
func TestRefusals(t *testing.T) {
	s, other := newSource(t, file(t), 3), newSource(t, file(t), 3)
	dir := t.TempDir()
	s.add(40)
	s.write(dir, s.now(), nil)
	refused := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v; want %v", what, err, want)
		}
	}
	_, err := Write(t.Context(), s.engine, dir, time.Now(), nil)
	refused("a period that is not closed", err, ErrOpen)
	_, err = Write(t.Context(), other.engine, dir, other.now(), nil)
	refused("an empty store", err, ErrDiffers)
	other.rand = rand.New(rand.NewPCG(8, 8))
	other.add(100)
	_, err = Write(t.Context(), other.engine, dir, other.now(), nil)
	refused("another store", err, ErrDiffers)
	_, err = Write(t.Context(), newSource(t, file(t), 4).engine, dir, s.now(), nil)
	refused("other partitions", err, ErrDiffers)
	unlock, err := lock(filepath.Join(dir, lockName))
	if err != nil {
		t.Fatal(err)
	}
	_, err = Write(t.Context(), s.engine, dir, s.now(), nil)
	refused("two at a time", err, ErrLocked)
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.TempDir())
	refused("no archive", err, driver.ErrNotFound)
	if err := os.WriteFile(filepath.Join(dir, manifestName), []byte(`{"format":2,"partitions":[{}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(dir)
	refused("a newer format", err, driver.ErrFormat)
}

// TestTampering: every change of a file is found, and the file named; of an event, also by whoever reads it.
func TestTampering(t *testing.T) {
	s := newSource(t, file(t), 3)
	dir := t.TempDir()
	s.add(120)
	before := s.now()
	s.write(dir, before, &Options{FileBytes: 50 << 10})
	m := whole(t, dir, s)
	good := folder(t, dir)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found := func(what, name string) {
		t.Helper()
		a, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		report, err := a.Verify(t.Context(), nil)
		if err != nil || len(report.Faults) != 1 || report.Faults[0].File != name || !strings.Contains(report.Faults[0].Detail, name) {
			t.Errorf("%s of %s: %+v, %v", what, name, report, err)
		}
		write(name, good[name])
		whole(t, dir, s)
	}
	for p, part := range m.Partitions {
		for i, f := range part.Files {
			for range 10 {
				bad := slices.Clone(good[f.Name])
				bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
				write(f.Name, bad)
				found("a bit", f.Name)
			}
			write(f.Name, good[f.Name][:len(good[f.Name])-1-r.IntN(len(good[f.Name])-1)])
			found("a part", f.Name)
			write(f.Name, append(slices.Clone(good[f.Name]), good[f.Name]...))
			found("more", f.Name)
			write(f.Name, good[m.Partitions[(p+1)%3].Files[0].Name])
			found("another one in the place", f.Name)
			if err := os.Remove(filepath.Join(dir, f.Name)); err != nil {
				t.Fatal(err)
			}
			found("the absence", f.Name)
			if i > 0 { // a manifest that leaves one out
				a, err := Open(dir)
				if err != nil {
					t.Fatal(err)
				}
				a.m.Partitions[p].Files = slices.Delete(slices.Clone(a.m.Partitions[p].Files), i, i+1)
				w := &writer{dir: dir, m: a.m, opts: Options{disk: osDisk{}}}
				if err := w.save(); err != nil {
					t.Fatal(err)
				}
				if _, err := Open(dir); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), manifestName) {
					t.Errorf("a file left out: %v", err)
				}
				write(manifestName, good[manifestName])
			}
		}
	}
	// Whoever makes a consistent archive of something else is found by the store.
	records := read(t, dir, Query{})
	forged := newSource(t, file(t), 3)
	for i := range records {
		forged.clock.now = records[i].RecordedAt.Add(-time.Second)
		records[i].Timestamp++
		if _, err := forged.store.Append(t.Context(), records[i].Stream, eventstore.AnyVersion, records[i].Event); err != nil {
			t.Fatal(err)
		}
	}
	other := t.TempDir()
	forged.write(other, before, nil)
	a, err := Open(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Join(t.Context(), s.engine); !errors.Is(err, ErrDiffers) {
		t.Errorf("a forged archive: %v; want ErrDiffers", err)
	}
}

// crashing is a disk that loses power at a step: what was not synced may be gone, and names that were not synced too.
type crashing struct {
	osDisk
	left    int    // steps until then
	kept    string // of names that were not synced: "all", "none", or "last", as no disk promises an order
	open    []*crashingFile
	undo    []func() error // of renames and removals whose folder was not synced
	crashed bool
}

var errCrash = errors.New("the power is gone")

func (c *crashing) step() error {
	if c.crashed {
		return errCrash
	}
	if c.left--; c.left < 0 {
		c.crashed = true
		return errCrash
	}
	return nil
}

type crashingFile struct {
	output
	c      *crashing
	path   string
	synced int64
	size   int64
}

func (f *crashingFile) Write(p []byte) (int, error) {
	if err := f.c.step(); err != nil {
		n, _ := f.output.Write(p[:len(p)/2])
		f.size += int64(n)
		return n, err
	}
	n, err := f.output.Write(p)
	f.size += int64(n)
	return n, err
}

func (f *crashingFile) Sync() error {
	if err := f.c.step(); err != nil {
		return err
	}
	f.synced = f.size
	return f.output.Sync()
}

func (c *crashing) Create(path string) (output, error) {
	if err := c.step(); err != nil {
		return nil, err
	}
	out, err := c.osDisk.Create(path)
	if err != nil {
		return nil, err
	}
	f := &crashingFile{output: out, c: c, path: path}
	c.open = append(c.open, f)
	return f, nil
}

func (c *crashing) Rename(from, to string) error {
	if err := c.step(); err != nil {
		return err
	}
	old, err := os.ReadFile(to)
	had := err == nil
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	c.undo = append(c.undo, func() error {
		err := os.WriteFile(from, content, 0o600)
		if had {
			return errors.Join(err, os.WriteFile(to, old, 0o600))
		}
		return errors.Join(err, os.Remove(to))
	})
	for _, f := range c.open {
		if f.path == from {
			f.path = to
		}
	}
	return c.osDisk.Rename(from, to)
}

func (c *crashing) Remove(path string) error {
	if err := c.step(); err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	c.undo = append(c.undo, func() error { return os.WriteFile(path, content, 0o600) })
	return c.osDisk.Remove(path)
}

func (c *crashing) SyncFolder(dir string) error {
	if err := c.step(); err != nil {
		return err
	}
	c.undo = nil
	return c.osDisk.SyncFolder(dir)
}

// lose leaves what a disk has after the power was gone.
func (c *crashing) lose(t *testing.T) {
	t.Helper()
	if c.kept != "all" {
		undo := c.undo
		if c.kept == "last" && len(undo) > 0 {
			undo = undo[:len(undo)-1]
		}
		for _, u := range slices.Backward(undo) {
			if err := u(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, f := range c.open {
		if f.synced < f.size {
			if err := os.Truncate(f.path, f.synced); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
	}
}

// TestCrash: the power goes at every step of a run, with and without the names that were not synced. What is there then is
// an archive, and the next run ends as if nothing had happened.
func TestCrash(t *testing.T) {
	s := newSource(t, file(t), 3)
	s.add(60)
	january := s.now()
	s.add(60)
	february := s.now()
	o := func(d disk) *Options { return &Options{FileBytes: 60 << 10, disk: d} }
	reference := t.TempDir()
	s.write(reference, january, o(osDisk{}))
	s.write(reference, february, o(osDisk{}))
	want := whole(t, reference, s)
	crashes, stride := 0, 1
	if testing.Short() {
		stride = 5
	}
	for step := 0; ; step += stride {
		through := 0
		for _, kept := range []string{"all", "none", "last"} {
			dir := t.TempDir()
			s.write(dir, january, o(osDisk{}))
			c := &crashing{left: step, kept: kept}
			_, err := Write(t.Context(), s.engine, dir, february, o(c))
			if err == nil {
				through++
				continue
			}
			crashes++
			if !errors.Is(err, errCrash) {
				t.Fatalf("step %d: %v", step, err)
			}
			c.lose(t)
			m := whole(t, dir, s)
			if m.Events() < 60 || m.Events() > 120 || m.Events() > 60 && m.Unfinished.IsZero() && m.Before.Equal(january) {
				t.Fatalf("step %d: %d events, before %v, unfinished %v", step, m.Events(), m.Before, m.Unfinished)
			}
			if !m.Unfinished.IsZero() {
				if _, err := Restore(t.Context(), dir, file(t), nil); !errors.Is(err, ErrUnfinished) {
					t.Errorf("step %d: restoring an unfinished archive: %v", step, err)
				}
			}
			same(t, fmt.Sprint("step ", step), s.records(january, nil), read(t, dir, Query{To: january}))
			s.write(dir, february, o(osDisk{}))
			if got := whole(t, dir, s); !reflect.DeepEqual(got, want) {
				t.Fatalf("step %d: %s", step, cmp.Diff(want, got))
			}
			for name := range folder(t, dir) {
				if strings.HasSuffix(name, temporary) {
					t.Errorf("step %d: %s is left", step, name)
				}
			}
		}
		if through == 3 {
			break
		}
	}
	if crashes < 60/stride {
		t.Errorf("only %d crashes", crashes)
	}
	t.Logf("%d crashes", crashes)
}
