package scaling

import (
	"math"
	"testing"
	"time"
)

const ms = time.Millisecond

// waits are the times that customers of a station with one server wait, arriving at random.
func waits(servers int, between time.Duration, service func(e *engine) time.Duration) (mean time.Duration, load float64) {
	e := newEngine(7)
	s := newStation(e, servers, 0)
	var total time.Duration
	n := 0
	var arrive func()
	arrive = func() {
		at, takes := e.now, service(e)
		s.use(takes, func() {
			total += e.now - at - takes
			n++
		})
		e.after(e.exponential(between), arrive)
	}
	arrive()
	e.run(2000 * time.Second)
	return total / time.Duration(n), s.load()
}

func near(t *testing.T, what string, got, want, within float64) {
	t.Helper()
	if math.Abs(got-want) > within*want {
		t.Errorf("%s: %.4f, theory says %.4f (±%.0f %%)", what, got, want, 100*within)
	}
}

// TestQueueingTheory: mean waits of M/M/1 are ρ/(1−ρ)·s, of M/D/1 half of that, of M/M/2 ρ²/(1−ρ²)·s.
func TestQueueingTheory(t *testing.T) {
	const s = 10 * ms
	for _, rho := range []float64{0.3, 0.5, 0.8} {
		between := time.Duration(float64(s) / rho)
		random := func(e *engine) time.Duration { return e.exponential(s) }
		got, load := waits(1, between, random)
		near(t, "M/M/1 wait", got.Seconds(), rho/(1-rho)*s.Seconds(), 0.08)
		near(t, "M/M/1 load", load, rho, 0.02)
		got, _ = waits(1, between, func(*engine) time.Duration { return s })
		near(t, "M/D/1 wait", got.Seconds(), rho/(1-rho)*s.Seconds()/2, 0.08)
		got, _ = waits(2, between/2, random)
		near(t, "M/M/2 wait", got.Seconds(), rho*rho/(1-rho*rho)*s.Seconds(), 0.08)
	}
}

// TestProcessorSharing: with a slice that is short, the mean stay is s/(1−ρ), whatever the times of service are.
func TestProcessorSharing(t *testing.T) {
	const s = 10 * ms
	rho := 0.6
	e := newEngine(3)
	st := newStation(e, 1, s/100)
	var total time.Duration
	n := 0
	var arrive func()
	arrive = func() {
		at, takes := e.now, s/2
		if e.random.IntN(10) == 0 {
			takes = 11 * s / 2 // of ten, nine are short and one is long
		}
		st.use(takes, func() { total, n = total+e.now-at, n+1 })
		e.after(e.exponential(time.Duration(float64(s)/rho)), arrive)
	}
	arrive()
	e.run(1000 * time.Second)
	near(t, "M/G/1-PS stay", (total / time.Duration(n)).Seconds(), s.Seconds()/(1-rho), 0.08)
}

// TestBatchService: all that wait are served at once, in a random time of mean s whatever their number. Who comes while
// nobody is served stays s, who comes while others are, 2s; and others are with probability λ(λ+μ)/(λ(λ+μ)+μ²).
func TestBatchService(t *testing.T) {
	const s = 10 * ms
	for _, perService := range []float64{0.1, 1, 20} {
		e := newEngine(11)
		var total time.Duration
		n := 0
		b := &batcher{most: math.MaxInt}
		b.serve = func() {
			b.take()
			e.after(e.exponential(s), b.done)
		}
		between := time.Duration(float64(s) / perService)
		var arrive func()
		arrive = func() {
			at := e.now
			b.add(unit{stored: 1, done: func() { total, n = total+e.now-at, n+1 }})
			e.after(e.exponential(between), arrive)
		}
		arrive()
		e.run(time.Duration(2e5) * between)
		mu, lambda := 1.0, perService
		busy := lambda * (lambda + mu) / (lambda*(lambda+mu) + mu*mu)
		near(t, "stay with batch service", (total / time.Duration(n)).Seconds(), s.Seconds()*(1+busy), 0.03)
	}
}

func TestLockIsFair(t *testing.T) {
	e := newEngine(1)
	l := &lock{e: e}
	var got []int
	for i := range 5 {
		e.after(time.Duration(i), func() {
			l.take(func() {
				got = append(got, i)
				e.after(ms, l.release)
			})
		})
	}
	e.run(10 * ms)
	for i, g := range got {
		if i != g {
			t.Fatalf("order %v", got)
		}
	}
	near(t, "load of the lock", l.load(), 0.5, 0.001)
}

// TestUsersShareAlike: who has many small things to do gets no more of two servers than who has one large one.
func TestUsersShareAlike(t *testing.T) {
	e := newEngine(1)
	s := newStation(e, 2, ms)
	var large, small int
	one, other := s.another(), s.another()
	var again, more func()
	again = func() { large++; one.use(10*ms, again) }
	more = func() { small++; other.use(ms/10, more) }
	for range 4 {
		again()
		for range 100 {
			more()
		}
	}
	e.run(10_000 * ms)
	near(t, "share", float64(large)*10, float64(small)/10, 0.02)
	near(t, "use", s.load(), 1, 0.001)
}
