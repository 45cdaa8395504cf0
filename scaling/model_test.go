package scaling

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestReproducesWhatWasMeasured: from one process the simulation tells what several do. docs/scaling.md states the error.
func TestReproducesWhatWasMeasured(t *testing.T) {
	m, err := Reference()
	if err != nil {
		t.Fatal(err)
	}
	for rung := range m.Rungs {
		found, err := m.Predict(rung)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			t.Logf("%-9s %d processes, %3d publishers each, batches of %3d: %.2f of raw, predicted %.2f (%+.0f %%)", rung, p.Processes, p.Publishers, p.Batch, p.Ratio, p.Predicted, 100*p.Error)
			if math.Abs(p.Error) > StatedError {
				t.Errorf("%s, %d processes, batches of %d: the error is %.0f %%, stated are %.0f %%", rung, p.Processes, p.Batch, 100*p.Error, 100*StatedError)
			}
		}
	}
}

func costs(t *rapid.T) Costs {
	micros := func(name string, most int) time.Duration {
		return time.Duration(rapid.IntRange(1, most).Draw(t, name)) * time.Microsecond
	}
	return Costs{Publish: micros("publish", 100), Group: micros("group", 2000), Row: micros("row", 100), Ends: micros("ends", 1000), Encode: micros("encode", 20), Turn: micros("turn", 500), News: micros("news", 500), Sync: micros("sync", 10000),
		Read: micros("read", 20), Handle: micros("handle", 300), Relay: micros("relay", 30), Broker: micros("broker", 30), Ack: micros("ack", 10000), RawRow: micros("raw", 20)}
}

// TestMoreLoadIsNeverFaster: with twice the load, what a publisher waits and what is in use do not go down, but for noise.
func TestMoreLoadIsNeverFaster(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := costs(t)
		l := Load{EventsPerSecond: float64(rapid.IntRange(200, 1000).Draw(t, "load")), Processes: rapid.IntRange(1, 4).Draw(t, "processes"),
			Handlers: rapid.IntRange(0, 3).Draw(t, "handlers"), Relayed: rapid.Bool().Draw(t, "relayed"), Cores: 4, Time: 2 * time.Second}
		less := Simulate(c, l)
		l.EventsPerSecond *= 2
		more := Simulate(c, l)
		if less.Saturated() {
			if !more.Saturated() {
				t.Fatalf("saturated by a load, and not by twice the load:\n%v\n%v", less, more)
			}
			return
		}
		if float64(more.Median) < 0.9*float64(less.Median)-float64(50*time.Microsecond) {
			t.Fatalf("the median goes down with the load:\n%v\n%v", less, more)
		}
		if more.Lock < 0.9*less.Lock { // the processors may do less: larger commits are fewer
			t.Fatalf("the lock is used less with more load:\n%v\n%v", less, more)
		}
	})
}

// TestWhatGoesInComesOut: a load that does not saturate is stored as it comes, and every group handles all of it.
func TestWhatGoesInComesOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Load{EventsPerSecond: 1000, Processes: rapid.IntRange(1, 4).Draw(t, "processes"), Handlers: rapid.IntRange(0, 3).Draw(t, "handlers"), Cores: 4, Time: 4 * time.Second, Seed: rapid.Uint64().Draw(t, "seed")}
		r := Simulate(costs(t), l)
		if r.Saturated() {
			t.Skip("saturated")
		}
		if math.Abs(r.PerSecond-1000) > 70 {
			t.Fatalf("1000 a second come, %.0f are stored: %v", r.PerSecond, r)
		}
		if want := r.PerSecond * float64(l.Handlers); math.Abs(r.Handled-want) > 0.15*want+200 {
			t.Fatalf("%.0f of %.0f are handled: %v", r.Handled, want, r)
		}
		for _, share := range []float64{r.Lock, r.Disk, r.Server, r.Client} {
			if share < 0 || share > 1.0001 {
				t.Fatalf("a share of %f: %v", share, r)
			}
		}
	})
}

func TestSameSeedSameResult(t *testing.T) {
	c := Costs{Publish: 20 * time.Microsecond, Group: time.Millisecond, Row: 40 * time.Microsecond, Sync: 2 * time.Millisecond, Handle: 50 * time.Microsecond}
	l := Load{EventsPerSecond: 3000, Processes: 2, Handlers: 1, Cores: 2, Seed: 5}
	a, b := Simulate(c, l), Simulate(c, l)
	if a != b {
		t.Errorf("%v\n%v", a, b)
	}
	l.Seed++
	if Simulate(c, l) == a {
		t.Error("the seed makes no difference")
	}
}

// TestLockBoundsTheRate: however many processors and processes there are, one writer at a time inserts one row in Row.
func TestLockBoundsTheRate(t *testing.T) {
	c := Costs{Publish: 10 * time.Microsecond, Group: time.Millisecond, Row: 100 * time.Microsecond, Sync: time.Millisecond}
	r := Simulate(c, Load{Publishers: 512, Processes: 8, Cores: 64, Apart: true})
	if most := 1 / c.Row.Seconds(); r.PerSecond > most || r.PerSecond < 0.7*most {
		t.Errorf("%.0f a second, the bound is %.0f: %v", r.PerSecond, most, r)
	}
	if r.Bottleneck != "writer's lock" {
		t.Errorf("the bottleneck is said to be: %s", r.Bottleneck)
	}
}

// TestSize: more load never needs less, and one database is enough for what one database takes.
func TestSize(t *testing.T) {
	m, err := Reference()
	if err != nil {
		t.Fatal(err)
	}
	c, err := m.Costs("postgres")
	if err != nil {
		t.Fatal(err)
	}
	var last Plan
	for _, rate := range []float64{100, 1000, 10_000, 100_000, 1_000_000} {
		p := Size(c, Demand{EventsPerSecond: rate, Services: 12, Handlers: 2}, m.Broker)
		t.Logf("%8.0f/s: %d databases (%.0f/s each of %.0f), %d partitions, %d brokers, %.1f TB a day: %s; %v", rate, p.Databases, p.PerDatabase, p.Capacity, p.Partitions, p.Brokers, p.BytesPerDay/1e12, p.Rung, p.OneDatabase)
		if p.Databases < last.Databases || p.Brokers < last.Brokers || p.Partitions < last.Partitions && p.Databases == last.Databases || p.BytesPerDay <= last.BytesPerDay {
			t.Errorf("%.0f/s needs less than a smaller load: %+v, %+v", rate, p, last)
		}
		if p.PerDatabase > p.Capacity*1.0001 {
			t.Errorf("%.0f/s: a database gets %.0f and takes %.0f", rate, p.PerDatabase, p.Capacity)
		}
		if p.OneDatabase.Saturated() {
			t.Errorf("%.0f/s: the plan saturates: %v", rate, p.OneDatabase)
		}
		last = p
	}
	if p := Size(c, Demand{EventsPerSecond: 50, Services: 12}, m.Broker); p.Databases != 1 || p.Brokers != 0 {
		t.Errorf("50 events a second need %+v", p)
	}
}
