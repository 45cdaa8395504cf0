package main

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/services/audit"
	"github.com/carebus/carebus/services/simulation"
)

// times is how often a harm is done: in a short run, and in a long one, which CAREBUS_TEST_LONG=1 asks for, or 0.3 for a
// third of it.
func times(short, long int) int {
	share, err := strconv.ParseFloat(os.Getenv("CAREBUS_TEST_LONG"), 64)
	if err != nil {
		return short
	}
	return max(short, int(share*float64(long)))
}

// TestChaos: the reference services run as processes of their own, as a user would deploy them, and the people of the demo
// keep them busy, while one harm after another is done to them. In the end nothing that was acknowledged is lost, nothing
// was done twice, no order is broken, no key waits without a reason, and the auditor finds nothing.
//
// A harm can be chosen: -run TestChaos/postgres/cut. A long run needs a -timeout of an hour.
func TestChaos(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		store := "sqlite:" + filepath.Join(t.TempDir(), "chaos.db")
		s := deploy(t, ground{store: store, whole: store, lease: 1500 * time.Millisecond})
		t.Run("killed", func(t *testing.T) { s.killed(t, times(10, 100)) })
		t.Run("paused", func(t *testing.T) { s.paused(t, times(1, 50)) })
		s.settle(t)
	})
	t.Run("postgres", func(t *testing.T) {
		server := storetest.NewCluster(t)
		store, proxy := storetest.Through(t, server.Address)
		s := deploy(t, ground{store: store, whole: server.Address, frees: true, lease: 4 * time.Second})
		t.Run("killed", func(t *testing.T) { s.killed(t, times(3, 100)) })
		t.Run("paused", func(t *testing.T) { s.paused(t, times(1, 50)) })
		t.Run("server", func(t *testing.T) {
			s.everywhere(t, "the server was killed", times(1, 20), func(int) { server.Kill(t) })
		})
		t.Run("cut", func(t *testing.T) {
			s.everywhere(t, "connections were cut", times(2, 100), func(i int) {
				share := 0.3
				if i%3 == 0 {
					share = 1
				}
				proxy.Cut(share, s.rnd)
			})
		})
		s.settle(t)
	})
	t.Run("kafka", func(t *testing.T) {
		if os.Getenv("CAREBUS_TEST_KAFKA") == "" {
			t.Skip("CAREBUS_TEST_KAFKA is not set; start Kafka with scripts/kafka")
		}
		server := storetest.NewCluster(t)
		store, proxy := storetest.Through(t, server.Address)
		brokers := newBrokers(t, 3)
		s := deploy(t, ground{store: store, whole: server.Address, frees: true, lease: 4 * time.Second, kafka: true, flags: []string{"--bus", "kafka://" + brokers.seeds + "?session=6s"}})
		t.Run("killed", func(t *testing.T) { s.killed(t, times(2, 100)) })
		t.Run("paused", func(t *testing.T) { s.paused(t, times(1, 50)) })
		t.Run("broker", func(t *testing.T) { s.brokerKilled(t, brokers, times(3, 20)) })
		t.Run("server", func(t *testing.T) {
			s.everywhere(t, "the server was killed", times(1, 20), func(int) { server.Kill(t) })
		})
		t.Run("cut", func(t *testing.T) {
			s.everywhere(t, "connections were cut", times(2, 100), func(int) { proxy.Cut(0.5, s.rnd) })
		})
		s.settle(t)
	})
}

// brokers are a cluster of Apache Kafka of the test's own.
type brokers struct {
	seeds string
	dir   string
}

func newBrokers(t *testing.T, n int) *brokers {
	t.Helper()
	b := &brokers{dir: filepath.Join(t.TempDir(), "kafka")}
	for line := range strings.Lines(b.run(t, "start", strconv.Itoa(n))) {
		if seeds, ok := strings.CutPrefix(strings.TrimSpace(line), "CAREBUS_TEST_KAFKA="); ok {
			b.seeds = seeds
		}
	}
	t.Cleanup(func() { b.run(t, "stop") })
	return b
}

func (b *brokers) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("../../scripts/kafka", args...)
	cmd.Env = append(os.Environ(), "CAREBUS_TEST_KAFKA_DIR="+b.dir)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("scripts/kafka %v: %v\n%s", args, err, stderr.String())
	}
	return string(out)
}

// brokerKilled kills one broker after the other with kill -9. While it is away, and when it is back, work goes on.
func (s *system) brokerKilled(t *testing.T, b *brokers, n int) {
	away, back := &felt{what: "a broker was killed"}, &felt{what: "a broker came back"}
	for i := range n {
		s.progress(t, 1+s.rnd.IntN(6))
		node := strconv.Itoa(i%3 + 1)
		begin := time.Now()
		b.run(t, "kill", node)
		s.flows(t, away, begin)
		begin = time.Now()
		b.run(t, "restart", node)
		s.flows(t, back, begin)
	}
	t.Log(away)
	t.Log(back)
}

// flows waits until each of the groups that every prescription comes to has come further than it was.
func (s *system) flows(t *testing.T, f *felt, begin time.Time) {
	t.Helper()
	before := s.places(t, func(string) bool { return true })
	moved := map[string]bool{}
	s.until(t, f.what, func() (bool, error) {
		places, _, err := s.look(s.ctx)
		if err != nil {
			return false, err
		}
		if len(moved) > 0 && len(f.first) == len(f.last) {
			f.first = append(f.first, time.Since(begin))
		}
		for at, now := range places {
			if at.partition >= bus.FirstLane && now.next > before[at].next {
				moved[at.group] = true
			}
		}
		return moved["prescribing"] && moved["prior-auth"] && moved["medication-safety"], nil
	})
	if len(f.first) == len(f.last) {
		f.first = append(f.first, time.Since(begin))
	}
	f.last = append(f.last, time.Since(begin))
}

// killed kills processes with kill -9, and others take their places, as a supervisor sees to. Of those that take a place
// one in four is killed too, while it begins.
func (s *system) killed(t *testing.T, n int) {
	felt := &felt{what: "a process was killed"}
	defer func() { t.Log(felt) }() // also of a run that ends early
	for done := 0; done < n; done++ {
		s.progress(t, s.rnd.IntN(6))
		v := s.replicas[s.rnd.IntN(len(s.replicas))]
		begin, dead := time.Now(), v.process
		dead.kill()
		s.start(t, v)
		held := s.places(t, dead.has)
		if done+1 < n && s.rnd.IntN(4) == 0 {
			done++
			v.kill()
			s.start(t, v)
		}
		s.feels(t, felt, begin, held)
		s.joins(t, v)
	}
}

// paused stops a process for longer than its lease and lets it go on. Where others run the same services they have taken
// its partitions over meanwhile, and what it had begun does not count any more.
func (s *system) paused(t *testing.T, n int) {
	others, own := &felt{what: "a process was paused"}, &felt{what: "a paused process went on"}
	for range n {
		s.progress(t, s.rnd.IntN(6))
		v := s.replicas[s.rnd.IntN(len(s.replicas))]
		begin := time.Now()
		v.signal(t, syscall.SIGSTOP)
		held := s.places(t, v.has)
		over := time.NewTimer(2 * s.rung.lease)
		// On a rung that does not free others from a process that hangs in a transaction, they may all wait for it.
		taken := s.rung.frees && s.others(v)
		if taken {
			s.feels(t, others, begin, held)
		}
		<-over.C
		begin = time.Now()
		v.signal(t, syscall.SIGCONT)
		if !taken {
			s.feels(t, own, begin, held)
		}
		s.joins(t, v)
	}
	if s.rung.frees {
		t.Log(others)
	}
	t.Log(own)
}

// replaced is a rolling upgrade to services that know the plan which some patients have, so that the keys that were parked
// for want of it complete. Half of the processes, and then the other half, are asked to end when others are there to take
// their places.
func (s *system) replaced(t *testing.T) {
	s.mended = true
	felt := &felt{what: "a process was replaced in order"}
	for half := range 2 {
		var olds []*process
		for i, v := range s.replicas {
			if i%2 == half {
				olds = append(olds, v.process)
				s.start(t, v)
			}
		}
		for i, v := range s.replicas {
			if i%2 == half {
				s.joins(t, v)
			}
		}
		for _, old := range olds {
			s.progress(t, 1)
			held, begin := s.places(t, old.has), time.Now()
			old.stop(t)
			s.feels(t, felt, begin, held)
		}
	}
	t.Log(felt)
}

// everywhere does what all processes feel at once.
func (s *system) everywhere(t *testing.T, what string, n int, harm func(i int)) {
	felt := &felt{what: what}
	defer func() { t.Log(felt) }()
	for i := range n {
		s.progress(t, 1+s.rnd.IntN(6))
		begin := time.Now()
		harm(i)
		s.feels(t, felt, begin, s.places(t, func(string) bool { return true }))
	}
}

// settle lets everything under way come to its end, as an operator would, and looks at what there is.
func (s *system) settle(t *testing.T) {
	s.replaced(t)
	s.endDriving(t)
	began, suspects := time.Now(), map[string]bool{}
	s.until(t, "everything to come to rest", func() (bool, error) {
		letters, err := s.p.Bus().DeadLetters(s.ctx, bus.Filter{}, 1000)
		if err != nil {
			return false, err
		}
		for _, d := range letters {
			switch {
			case d.Class == bus.Suspect: // the process was killed twice while it handled the event, which was not the event's fault
				suspects[d.Group+" "+d.EventID] = true
			case !strings.Contains(d.Error, simulation.ErrUnknownPlan.Error()):
				t.Fatalf("group %s has parked key %s as %s: %s", d.Group, d.Key, d.Class, d.Error)
			}
			if d.State != "retry" {
				if _, err := s.p.Bus().Redrive(s.ctx, bus.Redrive{Filter: bus.Filter{Group: d.Group, Key: d.Key}, Act: bus.Act{Reason: "chaos"}}); err != nil && !errors.Is(err, bus.ErrNotParked) {
					return false, err
				}
			}
		}
		rests, all, err := atRest(s.ctx, s.p, s.groups)
		if err == nil && !all {
			s.fatal(t, "a group has stopped")
		}
		return rests && len(letters) == 0, err
	})
	t.Logf("at rest after %v; %d keys were parked because a process was killed twice on their event, and redriven", time.Since(began).Round(time.Millisecond), len(suspects))
	for _, v := range s.replicas {
		v.stop(t)
	}

	stored, types := map[string]eventstore.Receipt{}, map[string]int64{}
	for r, err := range s.p.Store().All(s.ctx, nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		stored[r.ID] = eventstore.Receipt{Partition: r.Partition, Offset: r.Offset}
		types[r.Type]++
	}
	for id, r := range s.acked.receipts {
		if at, ok := stored[id]; !ok || at.Partition != r.Partition || at.Offset != r.Offset {
			t.Errorf("event %s was acknowledged at %d:%d, and is stored: %v, at %d:%d", id, r.Partition, r.Offset, ok, at.Partition, at.Offset)
		}
	}
	var verified eventstore.VerifyReport
	if err := json.Unmarshal([]byte(s.command(t, "verify", "-o", "json")), &verified); err != nil {
		t.Fatal(err)
	}
	if verified.FaultCount != 0 || verified.Events != int64(len(stored)) {
		t.Errorf("%d events are read, verify saw %d, with faults %v", len(stored), verified.Events, verified.Faults)
	}
	var report audit.Report
	if err := json.Unmarshal([]byte(s.command(t, "audit", "-o", "json")), &report); err != nil {
		t.Fatal(err)
	}
	audited(t, report)
	maps.DeleteFunc(types, func(eventType string, _ int64) bool { return !strings.HasPrefix(eventType, "platform.") })
	if report.Outcomes.Fulfillments["completed"] == 0 || report.Outcomes.Fulfillments["under way"] > 0 {
		t.Errorf("%+v", report.Outcomes)
	}
	t.Logf("%d events acknowledged to the driver, %d stored; %d processes ended by themselves; %+v", len(s.acked.receipts), len(stored), s.fell, report.Outcomes)
	t.Logf("the platform's own: %v", types)
}
