package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

// sized is an event with a payload of about n bytes, which compresses well or not at all.
func sized(id string, n int, random bool) event.Event {
	e := made(id, "k")
	text := strings.Repeat("the patient was seen and is well; ", n/34+1)[:n]
	if random {
		raw := make([]byte, n*3/4)
		rng := rand.New(rand.NewPCG(1, uint64(n)))
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		text = base64.StdEncoding.EncodeToString(raw)
	}
	e.Payload = json.RawMessage(fmt.Sprintf(`{"note":%q}`, text))
	return e
}

func raw(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// TestCompression: large payloads take less room and come back to the byte, by every way of reading; the chain and the
// rule for duplicates are about what was said, not about how it is kept.
func TestCompression(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	s := open(t, path, nil)
	events := []event.Event{sized("small", 3000, false), sized("edge", 4096, false), sized("large", 200_000, false), sized("random", 50_000, true)}
	stream := "test.thing/k"
	if _, err := s.Append(t.Context(), stream, eventstore.NoStream, events...); err != nil {
		t.Fatal(err)
	}
	same := func(r eventstore.Record, want event.Event) {
		t.Helper()
		if !bytes.Equal(r.Payload, want.Payload) {
			t.Errorf("%s: %d bytes came back, %d were stored", want.ID, len(r.Payload), len(want.Payload))
		}
	}
	records, err := s.Stream(t.Context(), eventstore.StreamQuery{Stream: stream, From: 1, Limit: 10})
	if err != nil || len(records) != len(events) {
		t.Fatalf("%d records, %v", len(records), err)
	}
	for i, r := range records {
		same(r, events[i])
		one, err := s.Get(t.Context(), r.ID)
		if err != nil {
			t.Fatal(err)
		}
		same(one, events[i])
		batch, err := s.Partition(t.Context(), eventstore.PartitionQuery{Partition: r.Partition, From: r.Offset, Limit: 1})
		if err != nil || len(batch.Records) != 1 {
			t.Fatalf("%+v, %v", batch, err)
		}
		same(batch.Records[0], events[i])
	}
	if r, err := s.Append(t.Context(), stream, eventstore.AnyVersion, events[2]); err != nil || !r[0].Duplicate {
		t.Errorf("%+v, %v; want a duplicate", r, err)
	}
	verified(t, s)
	kept := map[string]int{}
	rows, err := raw(t, path).Query(`SELECT id, LENGTH(payload) FROM events`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			t.Fatal(err)
		}
		kept[id] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		compressed := kept[e.ID] < len(e.Payload)
		if compressed != (e.ID == "edge" || e.ID == "large") || e.ID == "large" && kept[e.ID] > len(e.Payload)/20 {
			t.Errorf("%s: %d bytes are kept of %d", e.ID, kept[e.ID], len(e.Payload))
		}
	}
}

// TestDamagedCompression: a compressed payload that was damaged is an error of the store, and verify tells of it.
func TestDamagedCompression(t *testing.T) {
	for _, damage := range []string{
		`UPDATE events SET payload = SUBSTR(payload, 1, 40)`,
		`UPDATE events SET payload = SUBSTR(payload, 1, 4) || x'ffffffffffffffffffffffff'`,
		`UPDATE events SET payload = SUBSTR(payload, 1, 4)`,
	} {
		path := filepath.Join(t.TempDir(), "c.db")
		s := open(t, path, nil)
		if _, err := s.Append(t.Context(), "", eventstore.AnyVersion, sized("large", 20_000, false)); err != nil {
			t.Fatal(err)
		}
		if _, err := raw(t, path).Exec(damage); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Get(t.Context(), "large"); !errors.Is(err, eventstore.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", damage, err)
		}
		if r, err := s.Verify(t.Context(), nil); err != nil || r.FaultCount != 1 || r.Faults[0].EventID != "large" || r.Faults[0].Rule != "hash-chain" {
			t.Errorf("%s: %+v, %v; want one fault", damage, r, err)
		}
	}
}

// TestFormatOne: a store of the first format is read as it is, and gets the number of this one when it is written to, so
// that an older program, which would take compressed payloads for text, refuses it.
func TestFormatOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	open(t, path, nil)
	db := raw(t, path)
	if _, err := db.Exec(`PRAGMA user_version = 1`); err != nil {
		t.Fatal(err)
	}
	format := func(o *sqlite.Options) (reported, kept int) {
		d, err := sqlite.Open(context.Background(), path, o)
		if err != nil {
			t.Fatal(err)
		}
		reported = d.Info().Format
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := db.QueryRow(`PRAGMA user_version`).Scan(&kept); err != nil {
			t.Fatal(err)
		}
		return reported, kept
	}
	if r, k := format(&sqlite.Options{ReadOnly: true}); r != 1 || k != 1 {
		t.Errorf("read only: format %d, kept %d", r, k)
	}
	if r, k := format(nil); r != 2 || k != 2 {
		t.Errorf("for writing: format %d, kept %d", r, k)
	}
}
