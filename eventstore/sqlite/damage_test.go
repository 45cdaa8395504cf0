package sqlite_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// filled makes a store of 600 events and closes it, so that all of it is in the one file.
func filled(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "whole.db")
	s := open(t, path, &sqlite.Options{Partitions: 3})
	for i := range 60 {
		batch := make([]event.Event, 10)
		for j := range batch {
			batch[j] = made(fmt.Sprintf("e%d-%d", i, j), fmt.Sprint("k", i%7))
		}
		if _, err := s.Append(t.Context(), fmt.Sprint("s/", i), eventstore.NoStream, batch...); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// tamper changes a store behind the engine's back.
func tamper(t *testing.T, path string, statements string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := db.Exec(statements)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		t.Fatalf("%s: %d rows, %v", statements, n, err)
	}
}

// TestTampering: verify names the place of what somebody changed.
func TestTampering(t *testing.T) {
	const at = `pos = (1 << 40) + 30` // partition 1, offset 30
	for name, c := range map[string]struct {
		change string
		rule   string
		offset int64
	}{
		"payload":       {`UPDATE events SET payload = replace(payload, 'x', 'y') WHERE ` + at, "hash-chain", 30},
		"timestamp":     {`UPDATE events SET timestamp = timestamp + 1 WHERE ` + at, "hash-chain", 30},
		"recorded":      {`UPDATE events SET recorded = recorded + 1 WHERE ` + at, "hash-chain", 30},
		"type":          {`INSERT INTO types (name) VALUES ('test.thing.undone'); UPDATE events SET type = 2 WHERE ` + at, "hash-chain", 30},
		"source":        {`UPDATE origins SET source = 'somebody else'`, "hash-chain", 0},
		"hash":          {`UPDATE events SET hash = zeroblob(32) WHERE ` + at, "hash-chain", 30},
		"key":           {`UPDATE events SET key = 'k1' WHERE ` + at, "partition", 30},
		"removed":       {`DELETE FROM events WHERE ` + at, "offset-gap", 30},
		"first removed": {`DELETE FROM events WHERE pos = 1 << 40`, "offset-gap", 0},
		"put in": {`INSERT INTO events SELECT (1 << 40) + 1000000, 'new', type, origin, correlation, causation, timestamp, recorded, trace, key, NULL, NULL, hash, payload FROM events WHERE ` + at,
			"hash-chain", 1000000},
		"version":        {`UPDATE events SET version = 100 WHERE ` + at, "stream-version", 0},
		"stream removed": {`DELETE FROM streams WHERE name = 's/3'`, "stream-version", 0},
		"type removed":   {`DELETE FROM types`, "hash-chain", 0},
		"source removed": {`DELETE FROM origins`, "hash-chain", 0},
	} {
		t.Run(name, func(t *testing.T) {
			path := filled(t)
			tamper(t, path, c.change)
			s := open(t, path, nil)
			r, err := s.Verify(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.Faults {
				if f.Rule == c.rule && (f.Offset == c.offset && (f.Partition == 1 || c.offset == 0)) {
					return
				}
			}
			t.Errorf("verify found %+v, want %s at partition 1, offset %d", r.Faults, c.rule, c.offset)
		})
	}
}

// TestDamage: bytes of the file are changed at random. Either the damage is found, by an error or a fault, or it changes
// nothing that can be read. Nothing panics.
func TestDamage(t *testing.T) {
	path := filled(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want, err := everything(t, path)
	if err != nil || strings.Count(want, "\n") != 600 {
		t.Fatalf("the whole store: %v", err)
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	found := 0
	for i := range 150 {
		file := append([]byte(nil), whole...)
		switch i % 3 {
		case 0:
			file[rnd.IntN(len(file))] ^= 1 << rnd.IntN(8)
		case 1:
			p := rnd.IntN(len(file))
			for j := p; j < min(p+512, len(file)); j++ {
				file[j] = byte(rnd.Uint32())
			}
		case 2:
			file = file[:rnd.IntN(len(file))]
		}
		path := filepath.Join(t.TempDir(), "damaged.db")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := everything(t, path)
		if err != nil {
			found++
		} else if got != want && len(file) > 0 { // an empty file is a new store
			t.Errorf("damage %d was not found", i)
			break
		}
	}
	if found < 50 {
		t.Errorf("%d of 150 damages were found", found)
	}
}

// everything verifies and reads a store through the public methods.
func everything(t *testing.T, path string) (string, error) {
	d, err := sqlite.Open(t.Context(), path, nil)
	if err != nil {
		return "", err
	}
	s := eventstore.New(d, nil)
	defer s.Close()
	r, err := s.Verify(t.Context(), nil)
	if err != nil {
		return "", err
	}
	if r.FaultCount > 0 {
		return "", fmt.Errorf("%+v", r.Faults)
	}
	var b strings.Builder
	for r, err := range s.All(t.Context(), nil, nil) {
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%d %d %s %d %v %+v %s\n", r.Partition, r.Offset, r.Stream, r.StreamVersion, r.RecordedAt, r.Metadata, r.Payload)
	}
	return b.String(), nil
}

// TestForeignFiles: what is not a store of ours is refused and left as it is.
func TestForeignFiles(t *testing.T) {
	write := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "foreign")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		path   func(t *testing.T) string
		remedy string
	}{
		"a text":       {func(t *testing.T) string { return write(t, strings.Repeat("just a text\n", 1000)) }, "choose another path"},
		"a short text": {func(t *testing.T) string { return write(t, "x") }, "choose another path"},
		"another database": {func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "foreign")
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(`CREATE TABLE meta (name TEXT, value TEXT)`); err != nil {
				t.Fatal(err)
			}
			return path
		}, "choose another path"},
		"a newer format": {func(t *testing.T) string {
			path := filled(t)
			db, err := sql.Open("sqlite", path)
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			if _, err := db.Exec(`PRAGMA user_version = 99`); err != nil {
				t.Fatal(err)
			}
			return path
		}, "use a newer carebus"},
	} {
		t.Run(name, func(t *testing.T) {
			path := c.path(t)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range []*sqlite.Options{nil, {ReadOnly: true}} {
				d, err := sqlite.Open(t.Context(), path, o)
				if err == nil {
					_ = d.Close()
				}
				if !errors.Is(err, eventstore.ErrFormat) || !strings.Contains(err.Error(), c.remedy) || !strings.Contains(err.Error(), path) {
					t.Errorf("%v; want ErrFormat that names the file and says %q", err, c.remedy)
				}
			}
			after, err := os.ReadFile(path)
			if err != nil || string(after) != string(before) {
				t.Errorf("the file was changed, %v", err)
			}
			files, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(files) > 1 && !strings.Contains(path, "whole.db") {
				t.Errorf("%v, %v lie beside it now", files, err)
			}
		})
	}
	if _, err := sqlite.Open(t.Context(), "", nil); err == nil {
		t.Error("an empty path was accepted")
	}
	if _, err := sqlite.Open(t.Context(), t.TempDir(), nil); err == nil {
		t.Error("a folder was accepted")
	}
	if _, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "x"), &sqlite.Options{Partitions: 5000}); err == nil {
		t.Error("5000 partitions were accepted")
	}
}

// TestReadOnly: a store opened for reading sees what others write, refuses writes, and never makes a file.
func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new folder", "store ?#%.db")
	if _, err := sqlite.Open(t.Context(), path, &sqlite.Options{ReadOnly: true}); !errors.Is(err, eventstore.ErrNotFound) {
		t.Errorf("a store that does not exist: %v, want ErrNotFound", err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looking made a folder: %v", err)
	}
	w := open(t, path, nil)
	r := open(t, path, &sqlite.Options{ReadOnly: true})
	news := r.After(eventstore.PartitionOf("k", r.Partitions()), 0)
	if _, err := w.Append(t.Context(), "", eventstore.AnyVersion, made("1", "k")); err != nil {
		t.Fatal(err)
	}
	<-news
	if _, err := r.Get(t.Context(), "1"); err != nil {
		t.Error(err)
	}
	if _, err := r.Append(t.Context(), "", eventstore.AnyVersion, made("2", "k")); !errors.Is(err, eventstore.ErrReadOnly) {
		t.Errorf("an append: %v, want ErrReadOnly", err)
	}
	err := r.Update(context.Background(), func(*eventstore.Tx) error { return nil })
	if !errors.Is(err, eventstore.ErrReadOnly) {
		t.Errorf("a transaction: %v, want ErrReadOnly", err)
	}
	verified(t, r)
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if i, err := f.Info(); err != nil || i.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v; want 0600: nobody else's to read", f.Name(), i.Mode(), err)
		}
	}
}
