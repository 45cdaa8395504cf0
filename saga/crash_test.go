package saga_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/timer"
)

// fate is what the crash test's saga comes to, by its id: 0 to 4 is the step that refuses, more is success.
func fate(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return int(h.Sum32() % 10)
}

// hurried is a saga with every kind of step. Tries fail at random; its calls leave a file per key in dir, as a provider
// that honours keys would.
func hurried(dir string) *saga.Definition[order] {
	retry := saga.Backoff(1000, time.Millisecond, 5*time.Millisecond)
	id := func(s order) string { return strings.TrimPrefix(s.RX, "RX-") }
	judge := func(s order, step int) error {
		switch {
		case fate(id(s)) == step:
			return saga.Refuse("fate")
		case rand.IntN(10) == 0:
			return errors.New("chance")
		}
		return nil
	}
	do := func(nr int, name string) saga.Step[order] {
		return saga.Do(name, func(ctx context.Context, tx bus.Tx, s *order) error {
			if err := effect(name)(ctx, tx, s); err != nil {
				return err
			}
			return judge(*s, nr)
		}).Compensate(func(ctx context.Context, tx bus.Tx, s *order) error {
			if err := effect("undo-"+name)(ctx, tx, s); err != nil {
				return err
			}
			return judge(*s, -1)
		}).Retry(retry).RetryUndo(retry)
	}
	leave := func(key string) error {
		f, err := os.OpenFile(filepath.Join(dir, strings.ReplaceAll(key, "/", "_")), os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		return f.Close()
	}
	return saga.Define("hurried", 1,
		do(0, "verify"),
		do(1, "reserve"),
		saga.Call("claim", func(_ context.Context, key string, s order) (string, error) {
			if err := judge(s, 2); err != nil {
				return "", err
			}
			return key, leave(key)
		}, func(s *order, key string) error { s.Claim = key; return nil },
		).CompensateCall(func(_ context.Context, key string, s order) error {
			if s.Claim == "" {
				return errors.New("the state has lost the claim")
			}
			return errors.Join(judge(s, -1), leave(key))
		}).Retry(retry).RetryUndo(retry),
		saga.Await("payment", rx, saga.On(paidV1, paidKey, func(s *order, _ event.Of[paid]) error {
			if fate(id(*s)) == 3 {
				return saga.Refuse("fate")
			}
			return nil
		})),
		do(4, "fill"))
}

// expected are the effects of an instance that has ended, in order, and its outside effects.
func expected(id string) (status saga.Status, effects []string, files []string) {
	switch fate(id) {
	case 0:
		return saga.Failed, nil, nil
	case 1:
		return saga.Failed, []string{"verify", "undo-verify"}, nil
	case 2:
		return saga.Failed, []string{"verify", "reserve", "undo-reserve", "undo-verify"}, nil
	case 3, 4:
		return saga.Failed, []string{"verify", "reserve", "undo-reserve", "undo-verify"}, []string{"claim", "claim_undo"}
	}
	return saga.Completed, []string{"verify", "reserve", "fill"}, []string{"claim"}
}

// child is the process that the crash test kills. It starts sagas, pays for them, and carries them on.
func child(path string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	d, err := storetest.Driver(nil, path, 0, nil)
	fatal(err)
	s := eventstore.New(d, nil)
	b, err := bus.New(ctx, s, &bus.Options{Lease: 150 * time.Millisecond})
	fatal(err)
	def := hurried(filepath.Dir(path))
	fatal(saga.Register(ctx, struct {
		*bus.Bus
		shop
	}{b, shop{s}}, def))
	timers, err := timer.Open(ctx, s, &timer.Options{Every: time.Millisecond})
	fatal(err)
	var wg sync.WaitGroup
	wg.Go(func() { fatal(timers.Run(ctx)) })
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				id := event.NewID()
				fatal(def.Start(ctx, s, id, order{RX: "RX-" + id}))
				fmt.Println("started", id)
				_, err := s.Append(ctx, "", eventstore.AnyVersion, paidV1.New("test", paid{RX: "RX-" + id}))
				fatal(err)
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	fatal(b.Run(ctx))
	wg.Wait()
}

type shop struct{ s *eventstore.Store }

func (s shop) Store() *eventstore.Store { return s.s }

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

// TestKill: a process that starts and runs sagas is killed at random. Afterwards every instance that was started comes to
// the end that its fate says, with every effect once and in order.
func TestKill(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 5
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	path := filepath.Join(dir, "kill.db")
	h := &house{t: t, store: openStore(t, path, nil)}
	if err := h.store.Migrate(t.Context(), "test", effectsDDL); err != nil {
		t.Fatal(err)
	}
	acked := map[string]bool{}
	slow := time.Duration(0) // that a process takes to begin, on top
	if storetest.Engine() != "sqlite" {
		slow = 10 * time.Second
	}
	for range rounds {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "CAREBUS_SAGA_STORE="+path)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		wait := time.Duration(30+rnd.IntN(300)) * time.Millisecond
		kill := time.AfterFunc(wait+slow, func() { _ = cmd.Process.Kill() })
		in := bufio.NewScanner(out)
		for first := true; in.Scan(); first = false {
			if first && slow > 0 {
				kill.Reset(wait)
			}
			if f := strings.Fields(in.Text()); len(f) == 2 && len(f[1]) == 36 {
				acked[f[1]] = true
			}
		}
		kill.Stop()
		var ee *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &ee) && ee.Exited() {
			t.Fatalf("child ended by itself: %v\n%s", err, stderr.String())
		}
	}

	storetest.Settle(t, h.store.Update)
	// Let the survivors' work finish.
	var err error
	if h.timers, err = timer.Open(t.Context(), h.store, &timer.Options{Every: time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	fired := make(chan error, 1)
	go func() { fired <- h.timers.Run(ctx) }()
	h.run(hurried(dir))
	h.settle()
	// A bus event that the process died on twice is set aside as a suspect; the test is to blame.
	if l, err := h.DeadLetters(t.Context(), bus.Filter{}, 1000); err != nil {
		t.Fatal(err)
	} else if len(l) > 0 {
		for _, d := range l {
			if d.Class != bus.Suspect {
				t.Errorf("%s %s parked as %s: %s", d.Group, d.Key, d.Class, d.Error)
			}
		}
		if _, err := h.Redrive(t.Context(), bus.Redrive{Act: bus.Act{Reason: "killed by the test"}}); err != nil {
			t.Fatal(err)
		}
	}
	// The last events of payment may never have been published; publish them anew.
	for _, x := range h.unended() {
		h.publish(paidV1.New("test", paid{RX: "RX-" + x.ID}))
	}
	for {
		tick := h.store.Tick()
		if len(h.unended()) == 0 {
			break
		}
		if _, err := h.store.Wait(ctx, tick); err != nil {
			t.Fatal(err)
		}
	}
	h.settle()
	h.stop()
	cancel()
	if err := <-fired; err != nil {
		t.Error(err)
	}

	all, err := saga.List(t.Context(), h.store, saga.Query{Limit: 1_000_000})
	if err != nil {
		t.Fatal(err)
	}
	left := map[string][]string{} // outside effects by instance
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		id, what, _ := strings.Cut(e.Name(), "_")
		left[id] = append(left[id], what)
	}
	ends := map[saga.Status]int{}
	for _, x := range all {
		delete(acked, x.ID)
		ends[x.Status]++
		status, effects, files := expected(x.ID)
		if got := h.effects(x.ID); x.Status != status || !slices.Equal(got, effects) {
			t.Errorf("%s of fate %d: %s (%s), effects %v; want %s, %v", x.ID, fate(x.ID), x.Status, x.Error, got, status, effects)
		}
		if got := left[x.ID]; !slices.Equal(got, files) {
			t.Errorf("%s of fate %d: outside effects %v, want %v", x.ID, fate(x.ID), got, files)
		}
	}
	if len(acked) > 0 {
		t.Errorf("%d instances were started and are gone", len(acked))
	}
	var kept int
	if err := h.store.View(t.Context(), func(q eventstore.Querier) error {
		return q.QueryRowContext(t.Context(), `SELECT (SELECT COUNT(*) FROM carebus_saga_waits) + (SELECT COUNT(*) FROM carebus_timers)`).Scan(&kept)
	}); err != nil || kept != 0 {
		t.Errorf("%d waits and timers are left over; %v", kept, err)
	}
	r, err := h.store.Verify(t.Context(), nil)
	if err != nil || len(r.Faults) > 0 {
		t.Errorf("verify: %v %v", r.Faults, err)
	}
	t.Logf("%d kills, %d instances: %v", rounds, len(all), ends)
}

// unended are the instances that have not come to an end.
func (h *house) unended() (out []saga.Instance) {
	h.t.Helper()
	for _, s := range []saga.Status{saga.Running, saga.Compensating, saga.Stuck, saga.Parked} {
		l, err := saga.List(context.Background(), h.store, saga.Query{Status: s, Limit: 100_000})
		if err != nil {
			h.t.Fatal(err)
		}
		out = append(out, l...)
	}
	return out
}
