package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bridge"
)

// child is the process that the crash tests kill: a bridge "crash" on the store CAREBUS_BRIDGE_STORE, out or in.
func child(mode string) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	p, err := carebus.Open(ctx, os.Getenv("CAREBUS_BRIDGE_STORE"), &carebus.Options{Lease: 300 * time.Millisecond, Logger: log})
	fatal(err)
	b, err := bridge.Open(ctx, p, "crash", &bridge.Options{
		Client: []kgo.Opt{kgo.SeedBrokers(strings.Split(os.Getenv("CAREBUS_BRIDGE_KAFKA"), ",")...)}, Lease: 300 * time.Millisecond, Logger: log,
	})
	fatal(err)
	topic := os.Getenv("CAREBUS_BRIDGE_TOPIC")
	switch mode {
	case "out":
		fatal(b.Out(bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(topic)}))
		fatal(p.Run(ctx))
	case "in":
		go func() { // a record settled twice shows as a duplicate; the store's own knowledge of ids would hide it later
			for range time.Tick(2 * time.Millisecond) {
				if b.Status().Duplicates > 0 {
					fmt.Fprintln(os.Stderr, "child: settled twice")
					return
				}
			}
		}()
		fatal(b.In(ctx, bridge.In{Topics: []string{topic}, BatchRecords: 50}))
	}
	b.Close()
	fatal(p.Close())
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(3)
	}
}

type process struct {
	cmd    *exec.Cmd
	stderr strings.Builder
}

func startChild(t *testing.T, mode, store, topic string, k *broker) *process {
	t.Helper()
	p := &process{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), "CAREBUS_BRIDGE_CHILD="+mode, "CAREBUS_BRIDGE_STORE=sqlite:"+store, "CAREBUS_BRIDGE_TOPIC="+topic,
		"CAREBUS_BRIDGE_KAFKA="+strings.Join(k.seeds, ","))
	p.cmd.Stderr = &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *process) end(t *testing.T, sig os.Signal) {
	t.Helper()
	_ = p.cmd.Process.Signal(sig)
	err := p.cmd.Wait()
	var ee *exec.ExitError
	if errors.As(err, &ee) && ee.Exited() {
		t.Fatalf("child ended by itself: %v\n%s", err, p.stderr.String())
	}
}

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

func rounds(full int) int {
	if testing.Short() {
		return 5
	}
	return full
}

// feed publishes numbered events of 20 patients until stop is called, which returns how many there are of each.
func feed(t *testing.T, publish func(n int) error) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	count := make(chan int, 1)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if err := publish(n); err != nil {
				t.Error(err)
				break
			}
			select { // events flow; they do not flood
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
		count <- n
	}()
	return func() int { cancel(); return <-count }
}

// TestKillOut: the process that copies out is killed 40 times while events are published. In the topic every event is at
// least once, and of each key in order without a gap.
func TestKillOut(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		rnd := seeded(t)
		topic := name("kill-out")
		k.createTopic(t, topic, 6)
		path := filepath.Join(t.TempDir(), "kill.db")
		p := open(t, path)
		stop := feed(t, func(n int) error {
			for i := range 20 {
				if _, err := p.Publish(context.Background(), enrolled(fmt.Sprint("P", i), n)); err != nil {
					return err
				}
			}
			return nil
		})
		kills := rounds(40)
		for i := range kills {
			c := startChild(t, "out", path, topic, k)
			time.Sleep(time.Duration(100+rnd.IntN(900)) * time.Millisecond) // the random moment of the kill is the test
			c.end(t, syscall.SIGKILL)
			if i == kills/2 && k.stop != nil {
				k.stop(t)
				k.start(t)
			}
		}
		n := stop()
		o := k.options()
		o.Lease = 0
		b := newBridge(t, p, "crash", o)
		out(t, p, b, bridge.Out{Patterns: []string{"patient.**"}, Topic: bridge.Topic(topic)})
		if err := p.Bus().Idle(t.Context()); err != nil {
			t.Fatal(err)
		}
		records := k.read(t, topic)
		for patient, got := range inOrder(t, "topic", recordIDs(records)) {
			if got != n {
				t.Errorf("patient %s: %d of %d events in the topic", patient, got, n)
			}
		}
		t.Logf("%d kills; %d events, %d records", kills, 20*n, len(records))
	})
}

// TestKillIn: the process that copies in is killed 40 times while records are produced. Every event is in the store once
// and in order.
func TestKillIn(t *testing.T) {
	eachBroker(t, func(t *testing.T, k *broker) {
		rnd := seeded(t)
		topic := name("kill-in")
		k.createTopic(t, topic, 6)
		path := filepath.Join(t.TempDir(), "kill.db")
		p := open(t, path)
		c := k.client(t, kgo.AllowIdempotentProduceCancellation())
		stop := feed(t, func(n int) error {
			records := make([]*kgo.Record, 20)
			for i := range records {
				e := enrolled(fmt.Sprint("P", i), n)
				records[i] = &kgo.Record{Topic: topic, Key: fmt.Append(nil, "P", i), Value: e.AppendJSON(nil), Headers: []kgo.RecordHeader{{Key: "event-id", Value: []byte(e.ID)}}}
			}
			return c.ProduceSync(context.Background(), records...).FirstErr()
		})
		kills, twice := rounds(40), 0
		for i := range kills {
			c := startChild(t, "in", path, topic, k)
			time.Sleep(time.Duration(100+rnd.IntN(900)) * time.Millisecond) // the random moment of the kill is the test
			c.end(t, syscall.SIGKILL)
			if strings.Contains(c.stderr.String(), "settled twice") {
				twice++
			}
			if i == kills/2 && k.stop != nil {
				k.stop(t)
				k.start(t)
			}
		}
		n := stop()
		b := newBridge(t, p, "crash", k.options())
		in(t, b, bridge.In{Topics: []string{topic}})
		eventually(t, p.Store(), func() bool { return count(t, p) >= 20*n })
		for patient, got := range inOrder(t, "store", storedIDs(t, p.Store())) {
			if got != n {
				t.Errorf("patient %s: %d of %d events in the store", patient, got, n)
			}
		}
		if letters, err := b.Refused(t.Context(), "", 1); err != nil || len(letters) > 0 {
			t.Errorf("dead letters: %v, %v", letters, err)
		}
		if records := k.read(t, topic); twice > 0 && len(records) == 20*n {
			t.Errorf("in %d of %d rounds a record was settled twice", twice, kills)
		}
		verify(t, p.Store())
		t.Logf("%d kills; %d events", kills, 20*n)
	})
}
