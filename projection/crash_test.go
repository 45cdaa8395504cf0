package projection_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/projection"
)

const crashLease = 150 * time.Millisecond

// child is the process that the crash tests kill.
//
//	all      16 goroutines append numbered events to their keys' streams, the projection runs, rebuilds follow each other
//	apply    the projection runs
//	rebuild  one rebuild in small steps; "progress DONE" is printed after each commit
func child(mode string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	d, err := storetest.Driver(nil, os.Getenv("CAREBUS_PROJECTION_STORE"), 0, nil)
	fatal(err)
	s := eventstore.New(d, nil)
	b, err := bus.New(ctx, s, &bus.Options{Lease: crashLease, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	fatal(err)
	p := &platform{b, s}
	projection.SetLease(crashLease)
	def := counts(1, applyStep)
	if mode == "rebuild" {
		fatal(projection.Rebuild(ctx, p, def, why, func(pr projection.Progress) { fmt.Println("progress", pr.Events) }))
		fatal(s.Close())
		return
	}
	fatal(projection.Register(ctx, p, def, bus.BatchSize(64, 1<<20)))
	fmt.Println("registered")
	var wg sync.WaitGroup
	if mode == "all" {
		for i := range 16 {
			wg.Go(func() { publishForever(ctx, s, fmt.Sprintf("k%02d", i)) })
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				err := projection.Rebuild(ctx, p, def, why, nil)
				if err != nil && !errors.Is(err, projection.ErrBuilding) && ctx.Err() == nil {
					fatal(err)
				}
			}
		})
	}
	fatal(p.Run(ctx))
	wg.Wait()
	fatal(s.Close())
}

func publishForever(ctx context.Context, s *eventstore.Store, key string) {
	stream := "test.step/" + key
	seq, err := s.StreamVersion(ctx, stream)
	for ctx.Err() == nil {
		fatal(err)
		if _, err = s.Append(ctx, stream, seq, stepEvent(key, seq+1)); err == nil {
			seq++
		} else if ctx.Err() != nil {
			return
		}
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

type process struct {
	cmd    *exec.Cmd
	lines  chan string
	stderr strings.Builder
}

func startChild(t *testing.T, mode, path string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0]), lines: make(chan string, 10_000)}
	p.cmd.Env = append(os.Environ(), "CAREBUS_PROJECTION_CHILD="+mode, "CAREBUS_PROJECTION_STORE="+path)
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	must(t, err)
	must(t, p.cmd.Start())
	go func() {
		defer close(p.lines)
		for in := bufio.NewScanner(out); in.Scan(); {
			p.lines <- in.Text()
		}
	}()
	return p
}

// end sends sig and waits. A child that had ended by itself with an error fails the test.
func (p *process) end(t *testing.T, sig os.Signal) {
	t.Helper()
	_ = p.cmd.Process.Signal(sig)
	for range p.lines {
	}
	err := p.cmd.Wait()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Exited() {
		t.Fatalf("child ended by itself: %v\n%s", err, p.stderr.String())
	}
}

// TestKill: a process that publishes, projects and rebuilds is killed at random, again and again. At the end each event
// has been applied once.
func TestKill(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	path := filepath.Join(t.TempDir(), "kill.db")
	for range rounds {
		c := startChild(t, "all", path)
		if _, ok := <-c.lines; !ok {
			c.end(t, syscall.SIGKILL)
			t.Fatal("the child said nothing")
		}
		time.Sleep(time.Duration(rnd.IntN(300)) * time.Millisecond) // the random moment of the kill is the test
		c.end(t, syscall.SIGKILL)
	}
	s := openStore(t, path)
	storetest.Settle(t, s.Update)
	p := newPlatform(t, s)
	projection.SetLease(crashLease)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	idle(t, p)
	redriveSuspects(t, p)
	check := func() (total int64) {
		got := dump(t, s)
		for i := range 16 {
			key := fmt.Sprintf("k%02d", i)
			n, err := s.StreamVersion(t.Context(), "test.step/"+key)
			must(t, err)
			if got[key] != n {
				t.Errorf("key %s: %d stored, %d applied", key, n, got[key])
			}
			total += n
		}
		return total
	}
	total := check()
	st, err := projection.Get(t.Context(), s, "counts")
	must(t, err)
	t.Logf("%d kills, %d events, %d generations", rounds, total, st.Generation)
	rebuildPatiently(t, p, d)
	check()
	st, err = projection.Get(t.Context(), s, "counts")
	must(t, err)
	onlyTables(t, s, fmt.Sprintf("counts_g%d", st.Generation))
}

// redriveSuspects tries keys again that were parked because the process had been killed on them twice.
func redriveSuspects(t *testing.T, p *platform) {
	t.Helper()
	l, err := p.DeadLetters(t.Context(), bus.Filter{}, 100)
	must(t, err)
	if len(l) == 0 {
		return
	}
	t.Logf("%d keys were parked as suspects", len(l))
	_, err = p.Redrive(t.Context(), bus.Redrive{Act: why})
	must(t, err)
	eventually(t, p.store, func() bool {
		l, err := p.DeadLetters(t.Context(), bus.Filter{}, 1)
		return err == nil && len(l) == 0
	})
}

// rebuildPatiently rebuilds once the lease of a dead builder has run out.
func rebuildPatiently(t *testing.T, p *platform, d *projection.Definition) (first projection.Progress) {
	t.Helper()
	for {
		told := false
		err := projection.Rebuild(t.Context(), p, d, why, func(pr projection.Progress) {
			if !told {
				first, told = pr, true
			}
		})
		if err == nil {
			return first
		}
		if !errors.Is(err, projection.ErrBuilding) {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), crashLease/3)
		_, _ = p.store.Wait(ctx, p.store.Tick())
		cancel()
	}
}

// TestAKilledRebuildGoesOn: the next rebuild by the same program begins where the killed one was, and the result is right.
func TestAKilledRebuildGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rebuild.db")
	s := openStore(t, path)
	p := newPlatform(t, s)
	projection.SetLease(crashLease)
	d := counts(1, applyStep)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	const keys = 200
	n := int64(scale() / keys)
	publishSteps(t, s, keys, 1, n)
	idle(t, p)

	c := startChild(t, "rebuild", path)
	for range 4 {
		if _, ok := <-c.lines; !ok {
			c.end(t, syscall.SIGKILL)
			t.Fatal("the child ended before it was killed")
		}
	}
	c.end(t, syscall.SIGKILL)
	storetest.Settle(t, s.Update)
	wantAll(t, dump(t, s), keys, n)
	st, err := projection.Get(t.Context(), s, "counts")
	must(t, err)
	if st.Build == nil {
		t.Skip("the rebuild was faster than the kill")
	}
	if st.Build.Done == 0 || st.Build.Done > st.Build.Total || st.Build.Events == 0 || st.Build.Reason != why.Reason {
		t.Errorf("status of the build: %+v", st.Build)
	}
	done := st.Build.Events
	// Meanwhile the live tables go on.
	publishSteps(t, s, keys, n+1, n+1)
	idle(t, p)
	first := rebuildPatiently(t, p, d)
	if first.Generation != st.Build.Generation || first.Events <= done {
		t.Errorf("it began anew: generation %d at %d events, after generation %d at %d", first.Generation, first.Events, st.Build.Generation, done)
	}
	wantAll(t, dump(t, s), keys, n+1)
	publishSteps(t, s, keys, n+2, n+2)
	idle(t, p)
	wantAll(t, dump(t, s), keys, n+2)
	wantFold(t, s)
	onlyTables(t, s, fmt.Sprintf("counts_g%d", first.Generation))
}

// TestTwoProcesses: two processes share the live group while a third rebuilds; one is killed.
func TestTwoProcesses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "two.db")
	s := openStore(t, path)
	p := newPlatform(t, s)
	projection.SetLease(5 * time.Second)
	d := counts(1, applyStep)
	const keys = 50
	n := int64(scale() / keys / 4)
	publishSteps(t, s, keys, 1, n)
	one, two := startChild(t, "apply", path), startChild(t, "apply", path)
	<-one.lines
	<-two.lines
	var last []eventstore.Receipt
	for seq := n + 1; seq <= 2*n; seq++ {
		last = publishSteps(t, s, keys, seq, seq)
		if seq%(n/5) == 0 {
			must(t, projection.Rebuild(t.Context(), p, d, why, nil))
		}
		if seq == n+n/2 {
			one.end(t, syscall.SIGKILL)
		}
	}
	err := projection.Wait(t.Context(), p, d, last...)
	var parked *projection.ParkedError
	if err != nil && !errors.As(err, &parked) {
		t.Fatal(err)
	}
	two.end(t, syscall.SIGTERM)
	must(t, projection.Register(t.Context(), p, d))
	start(t, p)
	idle(t, p)
	redriveSuspects(t, p)
	wantAll(t, dump(t, s), keys, 2*n)
	wantFold(t, s)
}
