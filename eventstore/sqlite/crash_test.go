package sqlite_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/sqlite"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("CAREBUS_SQLITE_CHILD"); path != "" {
		child(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func open(t *testing.T, path string, o *sqlite.Options) *eventstore.Store {
	t.Helper()
	d, err := sqlite.Open(context.Background(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, nil)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// made is an event whose content follows from its id.
func made(id, key string) event.Event {
	return event.Event{
		Metadata: event.Metadata{ID: id, Type: "test.thing.done", Version: "1.0.0", Source: "crash-test", CorrelationID: "flow-" + key, Timestamp: 1, PartitionKey: key},
		Payload:  []byte(`{"id":"` + id + `","filler":"` + strings.Repeat("x", 400) + `"}`),
	}
}

// verified fails unless the store proves itself.
func verified(t *testing.T, s *eventstore.Store) int64 {
	t.Helper()
	r, err := s.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.Faults {
		t.Errorf("verify: %+v", f)
	}
	return r.Events
}

// child appends from 64 goroutines, each to a stream of its own, alone and in batches, until it is killed. It prints the
// id of every event that was acknowledged.
func child(path string) {
	ctx := context.Background()
	fatal := func(err error) {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
	d, err := sqlite.Open(ctx, path, nil)
	if err != nil {
		fatal(err)
	}
	s := eventstore.New(d, nil)
	var wg sync.WaitGroup
	var out sync.Mutex
	for i := range 64 {
		wg.Go(func() {
			key := fmt.Sprint("k", i)
			version, err := s.StreamVersion(ctx, key)
			for {
				if err != nil {
					fatal(err)
				}
				batch := make([]event.Event, 1+i%4)
				var text strings.Builder
				for j := range batch {
					id := fmt.Sprintf("%s-%d", key, version+int64(j)+1)
					batch[j] = made(id, key)
					text.WriteString(id + "\n")
				}
				if _, err = s.Append(ctx, key, version, batch...); err == nil {
					version += int64(len(batch))
					out.Lock()
					fmt.Print(text.String())
					out.Unlock()
				}
			}
		})
	}
	wg.Wait()
}

// TestKill: a process that appends is killed again and again. Every acknowledged event is there, streams have no gaps,
// a batch is there whole or not at all, and the store verifies.
func TestKill(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 8
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "kill.db")
	acked := map[string]bool{}
	for round := range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CAREBUS_SQLITE_CHILD="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// At random is the test: now and then while it opens the store, mostly some time after its first answer.
		wait, opening := time.Duration(5+rnd.IntN(250))*time.Millisecond, round%4 == 3
		kill := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
		if !opening {
			kill.Stop()
		}
		in := bufio.NewReader(stdout)
		for first := !opening; ; first = false {
			line, err := in.ReadString('\n')
			if err != nil {
				break // a line without its end was cut by the kill
			}
			if first {
				kill.Reset(wait)
			}
			acked[strings.TrimSuffix(line, "\n")] = true
		}
		err = cmd.Wait()
		kill.Stop()
		var ee *exec.ExitError
		if !errors.As(err, &ee) || ee.Exited() {
			t.Fatalf("round %d: the child ended by itself: %v\n%s", round, err, stderr.String())
		}
	}

	s := open(t, path, nil)
	var total int64
	for i := range 64 {
		key := fmt.Sprint("k", i)
		for from := int64(1); ; {
			rs, err := s.Stream(t.Context(), eventstore.StreamQuery{Stream: key, From: from, Limit: 1000})
			if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
				t.Fatal(err)
			}
			for _, r := range rs {
				if r.ID != fmt.Sprintf("%s-%d", key, from) || r.StreamVersion != from {
					t.Fatalf("stream %s, version %d, is event %s", key, r.StreamVersion, r.ID)
				}
				delete(acked, r.ID)
				from++
				total++
			}
			if len(rs) == 0 {
				if per := int64(1 + i%4); (from-1)%per != 0 {
					t.Errorf("stream %s has %d events, all appended by %d", key, from-1, per)
				}
				break
			}
		}
	}
	for id := range acked {
		t.Errorf("%s was acknowledged and is not there", id)
	}
	if n := verified(t, s); n != total || n == 0 {
		t.Errorf("verify saw %d events, the streams hold %d", n, total)
	}
	t.Logf("%d kills, %d events", rounds, total)
}
