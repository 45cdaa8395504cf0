package eventstore_test

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
)

// TestCachedHistory: a history read before is complete although another process has appended meanwhile, is cut at the
// limit, and is not changed by a caller that writes into what it got; with a small cache and with none.
func TestCachedHistory(t *testing.T) {
	for _, bytes := range []int64{0, 100_000, -1} {
		t.Run(fmt.Sprint("cache ", bytes), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "cache.db")
			open := func(o *eventstore.Options) *eventstore.Store {
				d, err := storetest.Driver(t, path, 0, nil)
				if err != nil {
					t.Fatal(err)
				}
				s := eventstore.New(d, o)
				t.Cleanup(func() { _ = s.Close() })
				return s
			}
			reader, writer := open(&eventstore.Options{CacheBytes: bytes}), open(nil)
			read := func(stream string, limit int) []eventstore.Record {
				t.Helper()
				rs, err := reader.Stream(t.Context(), eventstore.StreamQuery{Stream: stream, From: 1, Limit: limit})
				if err != nil {
					t.Fatal(err)
				}
				return rs
			}
			for version := range int64(12) {
				for s := range 40 {
					stream := fmt.Sprint("s/", s)
					if _, err := writer.Append(t.Context(), stream, version, benchEvent(fmt.Sprint(s, "-", version))); err != nil {
						t.Fatal(err)
					}
					rs := read(stream, 100)
					if len(rs) != int(version)+1 {
						t.Fatalf("%s: %d records at version %d", stream, len(rs), version+1)
					}
					for i, r := range rs {
						if r.StreamVersion != int64(i)+1 || r.PartitionKey != fmt.Sprint(s, "-", i) || r.Payload[0] != '{' {
							t.Fatalf("%s: record %d is %+v", stream, i, r)
						}
						r.Payload[0] = 'X'
					}
					if rs := read(stream, 3); len(rs) != min(3, int(version)+1) {
						t.Fatalf("%s: %d records for a limit of 3 at version %d", stream, len(rs), version+1)
					}
				}
			}
			if _, err := reader.Append(t.Context(), "s/0", 12, benchEvent("x")); err != nil {
				t.Fatal(err)
			}
			if rs := read("s/0", 100); len(rs) != 13 {
				t.Errorf("%d records after an append through the same store, want 13", len(rs))
			}
		})
	}
}
