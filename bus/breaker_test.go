package bus

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/carebus/carebus/eventstore"
)

func TestBreakerOpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBreaker(3, 100*time.Millisecond, time.Second, time.Now)
		for range 2 {
			b.failure()
		}
		if probe, err := b.wait(t.Context()); probe || err != nil {
			t.Fatal("two failures of three opened the breaker")
		}
		b.failure()
		begin := time.Now()
		probe, err := b.wait(t.Context())
		if !probe || err != nil || time.Since(begin) != 100*time.Millisecond {
			t.Fatalf("probe %v, %v after %v; want a probe after 100ms", probe, err, time.Since(begin))
		}
		// A second party waits for the verdict of the first.
		passed := make(chan bool)
		go func() {
			probe, _ := b.wait(t.Context())
			passed <- probe
		}()
		synctest.Wait()
		b.failure() // the probe failed: the pause doubles
		begin = time.Now()
		if probe := <-passed; !probe || time.Since(begin) != 200*time.Millisecond {
			t.Fatalf("second probe %v after %v; want 200ms", probe, time.Since(begin))
		}
		b.success()
		if probe, _ := b.wait(t.Context()); probe || b.open() {
			t.Fatal("success did not close the breaker")
		}
		ctx, cancel := context.WithCancel(t.Context())
		for range 3 {
			b.failure()
		}
		cancel()
		if _, err := b.wait(ctx); !errors.Is(err, context.Canceled) {
			t.Fatalf("wait on an ended context: %v", err)
		}
	})
}

func TestClassify(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want Class
	}{
		{errors.New("any"), Permanent},
		{Transient(errors.New("any")), Dependency},
		{Fatal(context.DeadlineExceeded), Permanent},
		{context.DeadlineExceeded, Dependency},
		{syscall.ECONNREFUSED, Dependency},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, Dependency},
		{&net.DNSError{}, Dependency},
		{io.ErrUnexpectedEOF, Dependency},
		{eventstore.ErrFull, Dependency},
		{eventstore.ErrConflict, Permanent},
		{&PanicError{Value: "x"}, Permanent},
	} {
		if got := Classify(c.err); got != c.want {
			t.Errorf("Classify(%v) = %s, want %s", c.err, got, c.want)
		}
	}
}

func TestDecide(t *testing.T) {
	t.Parallel()
	set := defaultSettings()
	boom := errors.New("boom")
	for _, c := range []struct {
		class  Class
		err    error
		tries  int
		policy Policy
		want   action
	}{
		{Dependency, boom, 1_000_000, ParkKey, again},
		{Permanent, boom, 1, ParkKey, again},
		{Permanent, boom, 3, ParkKey, park},
		{Permanent, Fatal(boom), 1, ParkKey, park},
		{Permanent, boom, 3, SkipEvent, skip},
		{Permanent, boom, 3, StopGroup, stop},
		{Suspect, boom, 1, ParkKey, park},
	} {
		set.policy = c.policy
		if got := decide(c.class, c.err, c.tries, set); got != c.want {
			t.Errorf("decide(%s, %v, %d tries, policy %d) = %d, want %d", c.class, c.err, c.tries, c.policy, got, c.want)
		}
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	t.Parallel()
	for tries := 1; tries < 100; tries++ {
		want := min(20*time.Millisecond<<min(tries-1, 20), 5*time.Second)
		if d := backoff(tries, 20*time.Millisecond, 5*time.Second); d > want || d < want*8/10 {
			t.Errorf("backoff(%d) = %v, want within a fifth below %v", tries, d, want)
		}
	}
}

func TestKeyCountEstimates(t *testing.T) {
	t.Parallel()
	var c keyCount
	for i := range 20_000 {
		c.add("key" + itoa(i))
		c.add("key" + itoa(i))
	}
	if n := c.estimate(); n < 19_000 || n > 21_000 {
		t.Errorf("estimate %.0f for 20000 keys", n)
	}
}
