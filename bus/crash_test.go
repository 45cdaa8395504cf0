package bus_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
)

// child is the process that the crash tests kill. It prints "ack KEY SEQ" when an append was acknowledged.
//
//	publish-consume  64 goroutines append numbered events to their keys' streams, and the groups handle them
//	consume          the groups handle them
func child(mode string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	path := os.Getenv("CAREBUS_BUS_STORE")
	lease, err := time.ParseDuration(os.Getenv("CAREBUS_BUS_LEASE"))
	fatal(err)
	d, err := storetest.Driver(nil, path, 0, nil)
	fatal(err)
	s := eventstore.New(d, nil)
	b, end, err := openBus(ctx, s, &bus.Options{Lease: lease})
	fatal(err)
	defer end()
	fatal(crashGroups(b))
	var wg sync.WaitGroup
	if mode == "publish-consume" {
		var out sync.Mutex
		for i := range 64 {
			wg.Go(func() { publishForever(ctx, s, fmt.Sprintf("k%02d", i), &out) })
		}
	}
	fatal(b.Run(ctx))
	wg.Wait()
	fatal(s.Close())
}

// crashGroups are the groups of the crash tests: one whose commits take turns, and one whose commits need not.
func crashGroups(b *bus.Bus) error {
	return errors.Join(b.Handle("g", bus.On(thingDoneV1, applyEffect), bus.BatchSize(64, 1<<20)),
		b.Handle("concurrent", bus.On(thingDoneV1, applyEffect), bus.BatchSize(64, 1<<20), bus.Concurrent()))
}

func publishForever(ctx context.Context, s *eventstore.Store, key string, out *sync.Mutex) {
	stream := "test.thing/" + key
	seq, err := s.StreamVersion(ctx, stream)
	for ctx.Err() == nil {
		fatal(err)
		_, err = s.Append(ctx, stream, seq, numberedEvent(key, int(seq)+1))
		if err != nil {
			if ctx.Err() == nil {
				fatal(err)
			}
			return
		}
		seq++
		out.Lock()
		fmt.Printf("ack %s %d\n", key, seq)
		out.Unlock()
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

// process is a running child.
type process struct {
	cmd    *exec.Cmd
	stdout io.ReadCloser
	stderr strings.Builder
	acked  map[string]int
	read   chan struct{}
}

func startChild(t *testing.T, mode, path string, lease time.Duration) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), acked: map[string]int{}, read: make(chan struct{})}
	if overKafka {
		seeds, err := brokers()
		if err != nil {
			t.Fatal(err)
		}
		p.cmd.Env = []string{"CAREBUS_BUS_RUN=" + run, "CAREBUS_TEST_KAFKA=" + strings.Join(seeds, ",")}
	}
	p.cmd.Env = append(append(os.Environ(), p.cmd.Env...), "CAREBUS_BUS_CHILD="+mode, "CAREBUS_BUS_STORE="+path, "CAREBUS_BUS_LEASE="+lease.String())
	p.cmd.Stderr = &p.stderr
	var err error
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.read)
		in := bufio.NewScanner(p.stdout)
		for in.Scan() {
			f := strings.Fields(in.Text())
			if len(f) != 3 || f[0] != "ack" {
				continue // a line cut by the kill
			}
			if n, err := strconv.Atoi(f[2]); err == nil {
				p.acked[f[1]] = max(p.acked[f[1]], n)
			}
		}
	}()
	return p
}

// end sends sig, waits, and returns what was acknowledged.
func (p *process) end(t *testing.T, sig os.Signal) map[string]int {
	t.Helper()
	_ = p.cmd.Process.Signal(sig)
	<-p.read
	err := p.cmd.Wait()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Exited() {
		t.Fatalf("child ended by itself: %v\n%s", err, p.stderr.String())
	}
	return p.acked
}

// TestKill: a process that publishes from 64 goroutines and consumes with a transactional handler is killed at random,
// 100 times on one store. Every acknowledged event is there once, versions and offsets have no gaps, every effect is
// there once and in order (applyEffect refuses anything else), and the store verifies.
func TestKill(t *testing.T) {
	rounds := 100
	if testing.Short() {
		rounds = 8
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "kill.db")
	s := openStore(t, path)
	createEffects(t, s)
	const lease = 150 * time.Millisecond

	acked := map[string]int{}
	for range rounds {
		p := startChild(t, "publish-consume", path, lease)
		time.Sleep(time.Duration(20+rnd.IntN(600)) * time.Millisecond) // the random moment of the kill is the test
		for k, n := range p.end(t, syscall.SIGKILL) {
			acked[k] = max(acked[k], n)
		}
	}

	storetest.Settle(t, s.Update)
	// Let the survivors' work finish: the group handles what is left, and keys parked as suspects are redriven.
	b := newBus(t, s, &bus.Options{Lease: lease})
	if err := crashGroups(b); err != nil {
		t.Fatal(err)
	}
	stop := start(t, b)
	idle(t, b)
	if l, err := b.DeadLetters(t.Context(), bus.Filter{}, 1000); err != nil {
		t.Fatal(err)
	} else if len(l) > 0 {
		for _, d := range l {
			if d.Class != bus.Suspect {
				t.Errorf("key %s parked as %s: %s", d.Key, d.Class, d.Error)
			}
		}
		t.Logf("%d keys were parked as suspects", len(l))
		if _, err := b.Redrive(t.Context(), bus.Redrive{Act: bus.Act{Reason: "killed by the test"}}); err != nil {
			t.Fatal(err)
		}
		eventually(t, s, func() bool {
			l, err := b.DeadLetters(t.Context(), bus.Filter{}, 1)
			return err == nil && len(l) == 0
		})
	}
	stop()

	total := 0
	done, beside := lastSeqs(t, s, "g"), lastSeqs(t, s, "concurrent")
	for i := range 64 {
		key := fmt.Sprintf("k%02d", i)
		stored, err := s.StreamVersion(t.Context(), "test.thing/"+key)
		if err != nil {
			t.Fatal(err)
		}
		total += int(stored)
		if int(stored) < acked[key] {
			t.Errorf("key %s: %d acknowledged, %d stored", key, acked[key], stored)
		}
		if done[key] != int(stored) || beside[key] != int(stored) {
			t.Errorf("key %s: %d stored, effects up to %d, and %d concurrently", key, stored, done[key], beside[key])
		}
	}
	var effects int
	if err := s.View(t.Context(), func(q eventstore.Querier) error {
		return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM effects`).Scan(&effects)
	}); err != nil {
		t.Fatal(err)
	}
	if effects != 2*total {
		t.Errorf("%d events, %d effects of two groups", total, effects)
	}
	r, err := s.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Faults) > 0 {
		t.Errorf("verify: %v", r.Faults)
	}
	t.Logf("%d kills, %d events", rounds, total)
}

// TestTwoProcessesShareAGroup: two processes share the partitions; when one is killed the other takes over its share,
// and no effect is doubled.
func TestTwoProcessesShareAGroup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "share.db")
	s := openStore(t, path)
	createEffects(t, s)
	const lease = 600 * time.Millisecond
	b := newBus(t, s, nil) // an observer: not a member
	one := startChild(t, "consume", path, lease)
	two := startChild(t, "consume", path, lease)

	owners := func() map[string]int {
		out := map[string]int{}
		for _, group := range []string{"g", "concurrent"} {
			st, err := b.Group(t.Context(), group)
			if err != nil {
				return out
			}
			for _, p := range st.Partitions {
				if p.Owner != "" {
					out[p.Owner]++
				}
			}
		}
		return out
	}
	eventually(t, s, func() bool {
		o := owners()
		n := 0
		for _, c := range o {
			n += c
		}
		return len(o) == 2 && n == 2*s.Partitions()
	})

	stop := make(chan struct{})
	published := make(chan int)
	go func() {
		seq := 0
		for {
			select {
			case <-stop:
				published <- seq
				return
			default:
			}
			seq++
			batch := make([]event.Event, 0, 100)
			for k := range 100 {
				batch = append(batch, numberedEvent(fmt.Sprint("k", k), seq))
			}
			if _, err := s.Append(context.Background(), "", eventstore.AnyVersion, batch...); err != nil {
				t.Error(err)
				published <- seq
				return
			}
		}
	}()
	eventually(t, s, func() bool { return len(lastSeqs(t, s, "g")) == 100 && len(lastSeqs(t, s, "concurrent")) == 100 })
	killed := time.Now()
	one.end(t, syscall.SIGKILL)
	eventually(t, s, func() bool { o := owners(); return len(o) == 1 && sum(o) == 2*s.Partitions() })
	t.Logf("partitions moved %v after the kill; the lease is %v", time.Since(killed).Round(time.Millisecond), lease)
	close(stop)
	last := <-published
	eventually(t, s, func() bool {
		for _, group := range []string{"g", "concurrent"} {
			for _, n := range lastSeqs(t, s, group) {
				if n != last {
					return false
				}
			}
		}
		return true
	})
	_ = two.cmd.Process.Signal(syscall.SIGTERM)
	<-two.read
	if err := two.cmd.Wait(); err != nil {
		t.Errorf("the second process did not end cleanly: %v\n%s", err, two.stderr.String())
	}
	var effects int
	if err := s.View(t.Context(), func(q eventstore.Querier) error {
		return q.QueryRowContext(t.Context(), `SELECT COUNT(*) FROM effects`).Scan(&effects)
	}); err != nil {
		t.Fatal(err)
	}
	if effects != 2*100*last {
		t.Errorf("%d events, %d effects of two groups", 100*last, effects)
	}
	if o := owners(); len(o) != 0 {
		t.Errorf("after a clean end partitions still have owners: %v", o)
	}
}

func sum(m map[string]int) (n int) {
	for _, c := range m {
		n += c
	}
	return n
}
