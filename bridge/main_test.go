package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bridge"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

func TestMain(m *testing.M) {
	if mode := os.Getenv("CAREBUS_BRIDGE_CHILD"); mode != "" {
		child(mode)
		return
	}
	goleak.VerifyTestMain(m)
}

// broker is a Kafka that a test talks to: kfake, which is in the process, or Apache's, which scripts/kafka has started.
type broker struct {
	seeds []string
	// stop and start take it away and bring it back, with its data; nil when that cannot be done.
	stop, start func(t *testing.T)
}

// eachBroker runs a test on kfake, and on a real Apache Kafka when CAREBUS_TEST_KAFKA names one.
func eachBroker(t *testing.T, test func(t *testing.T, k *broker)) {
	t.Run("kfake", func(t *testing.T) { test(t, fake(t)) })
	t.Run("apache", func(t *testing.T) { test(t, apache(t)) })
}

func fake(t *testing.T) *broker {
	t.Helper()
	dir := t.TempDir()
	k := &broker{}
	var c *kfake.Cluster
	var ports []int
	k.start = func(t *testing.T) {
		t.Helper()
		opts := []kfake.Opt{kfake.NumBrokers(1), kfake.DefaultNumPartitions(12), kfake.DataDir(dir), kfake.SyncWrites()}
		if ports != nil {
			opts = append(opts, kfake.Ports(ports...))
		}
		var err error
		for range 100 { // the port of the one that ended may take a moment to be free
			if c, err = kfake.NewCluster(opts...); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			t.Fatal(err)
		}
		k.seeds = c.ListenAddrs()
		if ports == nil {
			for _, a := range k.seeds {
				var port int
				if _, err := fmt.Sscanf(a[strings.LastIndexByte(a, ':')+1:], "%d", &port); err != nil {
					t.Fatal(err)
				}
				ports = append(ports, port)
			}
		}
	}
	k.stop = func(*testing.T) { c.Close() }
	k.start(t)
	t.Cleanup(func() { c.Close() })
	return k
}

func apache(t *testing.T) *broker {
	t.Helper()
	seeds := os.Getenv("CAREBUS_TEST_KAFKA")
	if seeds == "" {
		t.Skip("needs Apache Kafka: eval \"$(scripts/kafka start)\"; export CAREBUS_TEST_KAFKA CAREBUS_TEST_KAFKA_DIR")
	}
	k := &broker{seeds: strings.Split(seeds, ",")}
	if os.Getenv("CAREBUS_TEST_KAFKA_DIR") != "" {
		script := func(args ...string) func(t *testing.T) {
			return func(t *testing.T) {
				t.Helper()
				if out, err := exec.Command(filepath.Join("..", "scripts", "kafka"), args...).CombinedOutput(); err != nil {
					t.Fatalf("scripts/kafka %v: %v\n%s", args, err, out)
				}
			}
		}
		k.stop, k.start = script("kill", "1"), script("restart", "1")
	}
	return k
}

// name makes the name of a topic or a bridge that no other test, and no earlier run, has used.
func name(base string) string { return fmt.Sprintf("%s-%08x", base, rand.Uint32()) }

func (k *broker) options() *bridge.Options {
	return &bridge.Options{Client: []kgo.Opt{kgo.SeedBrokers(k.seeds...)}, CreateTopics: true, Logger: quiet, Lease: 600 * time.Millisecond}
}

func (k *broker) client(t *testing.T, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(k.seeds...), kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func (k *broker) createTopic(t *testing.T, topic string, partitions int32, configs ...string) {
	t.Helper()
	settings := map[string]*string{}
	for i := 0; i+1 < len(configs); i += 2 {
		settings[configs[i]] = &configs[i+1]
	}
	if _, err := kadm.NewClient(k.client(t)).CreateTopic(t.Context(), partitions, -1, settings, topic); err != nil {
		t.Fatal(err)
	}
}

// read returns all records of a topic, by partition in order.
func (k *broker) read(t *testing.T, topic string) (out []*kgo.Record) {
	t.Helper()
	c := k.client(t)
	ends, err := kadm.NewClient(c).ListEndOffsets(t.Context(), topic)
	if err != nil {
		t.Fatal(err)
	}
	from := map[int32]kgo.Offset{}
	left := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if o.Offset > 0 {
			from[o.Partition], left[o.Partition] = kgo.NewOffset().AtStart(), o.Offset
		}
	})
	r := k.client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: from}))
	for len(left) > 0 {
		fetches := r.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		for rec := range fetches.RecordsAll() {
			out = append(out, rec)
			if rec.Offset+1 >= left[rec.Partition] {
				delete(left, rec.Partition)
			}
		}
	}
	return out
}

func (k *broker) produce(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	if err := k.client(t).ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, path string) *carebus.Platform {
	t.Helper()
	p, err := carebus.Open(context.Background(), "sqlite:"+path, &carebus.Options{Logger: quiet, Lease: 600 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func openNew(t testing.TB) *carebus.Platform {
	return open(t, filepath.Join(t.TempDir(), "bridge.db"))
}

func newBridge(t *testing.T, p *carebus.Platform, name string, o *bridge.Options) *bridge.Bridge {
	t.Helper()
	b, err := bridge.Open(t.Context(), p, name, o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// background runs fn until stop is called, or the test ends; stop returns what fn returned.
func background(t *testing.T, fn func(ctx context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	var err error
	done := make(chan struct{})
	go func() { defer close(done); err = fn(ctx) }()
	var once sync.Once
	stop = func() error {
		once.Do(func() { cancel(); <-done })
		return err
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return stop
}

// out runs a bridge out until stop.
func out(t *testing.T, p *carebus.Platform, b *bridge.Bridge, o bridge.Out) (stop func() error) {
	t.Helper()
	if err := b.Out(o); err != nil {
		t.Fatal(err)
	}
	end := background(t, p.Run)
	t.Cleanup(b.Close)
	return end
}

func in(t *testing.T, b *bridge.Bridge, o bridge.In) (stop func() error) {
	return background(t, func(ctx context.Context) error { return b.In(ctx, o) })
}

// eventually waits, commit by commit, until cond holds.
func eventually(t *testing.T, s *eventstore.Store, cond func() bool) {
	t.Helper()
	for {
		tick := s.Tick()
		if cond() {
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // conditions about Kafka change without a commit
		_, _ = s.Wait(ctx, tick)
		cancel()
		if t.Context().Err() != nil {
			t.Fatal("the test has ended before its condition held")
		}
	}
}

// events returns all events of a store that are not the platform's own, by id.
func events(t *testing.T, s *eventstore.Store) map[string]eventstore.Record {
	t.Helper()
	all := map[string]eventstore.Record{}
	for r, err := range s.All(t.Context(), make([]int64, s.Partitions()), func(typ string) bool { return !strings.HasPrefix(typ, "platform.") }) {
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := all[r.ID]; twice {
			t.Errorf("event %s is stored twice", r.ID)
		}
		all[r.ID] = r
	}
	return all
}

// count is the number of enrolments stored.
func count(t *testing.T, p *carebus.Platform) int {
	t.Helper()
	types, err := p.Store().Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return int(types["patient.enrolled"])
}

// enrolled is event number n about a patient.
func enrolled(patient string, n int) event.Event {
	return event.Event{
		Metadata: event.Metadata{
			ID: fmt.Sprintf("%s:%d", patient, n), Type: "patient.enrolled", Source: "patient-service", Version: "1.0.0", CorrelationID: "flow-" + patient,
			CausationID: "cause-1", TraceID: "4bf92f3577b34da6a3ce929d0e0e4736", Timestamp: 1763900000000 + int64(n),
		},
		Payload: fmt.Appendf(nil, `{"patientId":%q,"enrollmentId":"%d","program":{"name":"Adhérence <&> \u2028"}}`, patient, n),
	}
}

// publish stores n events for each of some patients, interleaved.
func publish(t testing.TB, p *carebus.Platform, patients, n int) {
	t.Helper()
	for i := range n {
		batch := make([]event.Event, 0, patients)
		for k := range patients {
			batch = append(batch, enrolled(fmt.Sprint("P", k), i))
		}
		if _, err := p.PublishBatch(context.Background(), batch); err != nil {
			t.Fatal(err)
		}
	}
}

// inOrder proves that the events of each patient begin with 0 and have no gap, repetitions of what came before aside.
func inOrder(t *testing.T, what string, ids []string) (counts map[string]int) {
	t.Helper()
	counts = map[string]int{}
	if len(ids) == 0 {
		t.Errorf("%s: no events", what)
	}
	for _, id := range ids {
		patient, number, _ := strings.Cut(id, ":")
		var n int
		if _, err := fmt.Sscanf(number, "%d", &n); err != nil {
			t.Fatalf("%s: id %q: %v", what, id, err)
		}
		switch {
		case n == counts[patient]:
			counts[patient]++
		case n > counts[patient]:
			t.Errorf("%s: patient %s: event %d comes after %d", what, patient, n, counts[patient]-1)
			counts[patient] = n + 1
		}
	}
	return counts
}

// storedIDs are the ids of a store's events in the order of the log.
func storedIDs(t *testing.T, s *eventstore.Store) (ids []string) {
	t.Helper()
	for part := range s.Partitions() {
		from := int64(0)
		for {
			b, err := s.Partition(t.Context(), eventstore.PartitionQuery{Partition: part, From: from, Limit: 1000, Match: func(typ string) bool { return typ == "patient.enrolled" }})
			if err != nil {
				t.Fatal(err)
			}
			if b.Next == from {
				break
			}
			for _, r := range b.Records {
				ids = append(ids, r.ID)
			}
			from = b.Next
		}
	}
	return ids
}

func recordIDs(records []*kgo.Record) (ids []string) {
	for _, r := range records {
		for _, h := range r.Headers {
			if h.Key == "event-id" {
				ids = append(ids, string(h.Value))
			}
		}
	}
	return ids
}

func verify(t *testing.T, s *eventstore.Store) {
	t.Helper()
	r, err := s.Verify(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.FaultCount > 0 {
		t.Errorf("verify: %v", r.Faults)
	}
}

func isErr(err, target error) bool { return errors.Is(err, target) }

func registerTeleported(t *testing.T, p *carebus.Platform) {
	t.Helper()
	doc := schema.Document{Type: "patient.teleported", Version: "1.0.0", Schema: []byte(`{"type":"object","x-entity-id":"/patientId","required":["patientId"],
		"properties":{"patientId":{"type":"string"},"enrollmentId":{"type":"string"},"program":{"type":"object","properties":{"name":{"type":"string"}}}}}`)}
	if _, err := p.RegisterSchema(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
}

func asOffset(err error, target **bridge.OffsetError) bool { return errors.As(err, target) }
