package kafka_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/bus/kafka"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// brokers are those of CAREBUS_TEST_KAFKA, or n in this process.
func brokers(t testing.TB, n int) []string {
	t.Helper()
	if seeds := os.Getenv("CAREBUS_TEST_KAFKA"); seeds != "" {
		return strings.Split(seeds, ",")
	}
	c, err := kfake.NewCluster(kfake.NumBrokers(n))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c.ListenAddrs()
}

// service is a store with a bus over Kafka.
type service struct {
	t      testing.TB
	store  *eventstore.Store
	bus    *bus.Bus
	kafka  *kafka.Transport
	admin  *kadm.Client
	prefix string
	log    *lines
}

func options(seeds []string, prefix string) *kafka.Options {
	return &kafka.Options{Client: []kgo.Opt{kgo.SeedBrokers(seeds...)}, Prefix: prefix, Session: 6 * time.Second}
}

var prefixes atomic.Int64

// prefix is one that no other test has.
func prefix() string {
	return fmt.Sprintf("k%d-%d.", os.Getpid(), prefixes.Add(1))
}

func open(t testing.TB, path string) *eventstore.Store {
	t.Helper()
	d, err := storetest.Driver(t, path, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, nil)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newService(t testing.TB, seeds []string, o *kafka.Options) *service {
	t.Helper()
	return serve(t, open(t, filepath.Join(t.TempDir(), "service.db")), seeds, o)
}

func serve(t testing.TB, store *eventstore.Store, seeds []string, o *kafka.Options) *service {
	t.Helper()
	s := &service{t: t, store: store, prefix: o.Prefix, log: &lines{news: make(chan struct{})}}
	o.Logger = slog.New(slog.NewTextHandler(s.log, nil))
	var err error
	if s.kafka, err = kafka.Open(t.Context(), store, o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kafka.Close)
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.MetadataMinAge(10*time.Millisecond), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	s.admin = kadm.NewClient(client)
	if s.bus, err = bus.New(t.Context(), store, &bus.Options{Transport: s.kafka, Logger: o.Logger, Lease: time.Second}); err != nil {
		t.Fatal(err)
	}
	if err := s.bus.Handle(s.kafka.RelayGroup(), s.kafka.Relay()...); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the bus until the test ends or the returned function is called.
func (s *service) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.bus.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("Run: %v", err)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

func (s *service) handle(group string, opts ...bus.Option) {
	s.t.Helper()
	if err := s.bus.Handle(group, opts...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) publish(events ...event.Event) {
	s.t.Helper()
	if _, err := s.store.Append(s.t.Context(), "", eventstore.AnyVersion, events...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) idle() {
	s.t.Helper()
	if err := s.bus.Idle(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// until waits for commits until cond holds.
func (s *service) until(cond func() bool) {
	s.t.Helper()
	for {
		tick := s.store.Tick()
		if cond() {
			return
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), 100*time.Millisecond)
		_, _ = s.store.Wait(ctx, tick)
		cancel()
		if s.t.Context().Err() != nil {
			s.t.Fatal("no progress")
		}
	}
}

// lines is a log that can be waited for.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	news chan struct{}
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.news)
	l.news = make(chan struct{})
	return l.text.Write(b)
}

func (l *lines) wait(t testing.TB, text string) {
	t.Helper()
	for {
		l.mu.Lock()
		found, news := strings.Contains(l.text.String(), text), l.news
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-news:
		case <-t.Context().Done():
			t.Fatalf("the log never said %q", text)
		}
	}
}

type thing struct {
	Key string `json:"key"`
	Seq int    `json:"seq"`
}

var thingDoneV1 = event.Define[thing]("test.thing.done", "1.0.0")

func made(key string, seq int) event.Event {
	e := thingDoneV1.New("test", thing{key, seq})
	e.PartitionKey = key
	return e
}

// book keeps what a group has handled, by key, in the handler's transaction.
const bookDDL = `CREATE TABLE book (grp TEXT NOT NULL, k TEXT NOT NULL, seq BIGINT NOT NULL, n BIGINT NOT NULL, PRIMARY KEY (grp, k));`

func (s *service) book() {
	s.t.Helper()
	if err := s.store.Migrate(s.t.Context(), "test", bookDDL); err != nil {
		s.t.Fatal(err)
	}
}

// enter refuses everything but the next of a key.
func enter(ctx context.Context, tx bus.Tx, e event.Of[thing]) error {
	g := bus.DeliveryFrom(ctx).Group
	var last int
	if err := tx.QueryRow(`SELECT COALESCE(MAX(seq), 0) FROM book WHERE grp = $1 AND k = $2`, g, e.Payload.Key).Scan(&last); err != nil {
		return err
	}
	if e.Payload.Seq != last+1 {
		return bus.Fatal(fmt.Errorf("key %s: %d after %d", e.Payload.Key, e.Payload.Seq, last))
	}
	_, err := tx.Exec(`INSERT INTO book (grp, k, seq, n) VALUES ($1, $2, $3, 1) ON CONFLICT (grp, k) DO UPDATE SET seq = excluded.seq, n = book.n + 1`, g, e.Payload.Key, e.Payload.Seq)
	return err
}

func (s *service) entered(group string) map[string]int {
	s.t.Helper()
	out := map[string]int{}
	err := s.store.View(s.t.Context(), func(q eventstore.Querier) error {
		rows, err := q.QueryContext(s.t.Context(), `SELECT k, seq FROM book WHERE grp = $1 AND seq = n`, group)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k string
			var n int
			if err := rows.Scan(&k, &n); err != nil {
				return err
			}
			out[k] = n
		}
		return rows.Err()
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *service) letters(group string) []bus.DeadLetter {
	s.t.Helper()
	letters, err := s.bus.DeadLetters(s.t.Context(), bus.Filter{Group: group}, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	return letters
}

// topic has the service's transport create and check a topic.
func (s *service) topic(domain string) string {
	s.t.Helper()
	if _, err := s.kafka.Lanes(s.t.Context(), []string{domain + ".thing.done"}); err != nil {
		s.t.Fatal(err)
	}
	return s.prefix + domain
}

// send writes to a topic what a relay would, behind the relay's back.
func (s *service) send(topic string, log string, offset, prev int64, e event.Event) {
	s.t.Helper()
	e = event.Complete(s.t.Context(), e)
	rec := &kgo.Record{Topic: topic, Partition: int32(eventstore.PartitionOf(e.PartitionKey, s.store.Partitions())), Key: []byte(e.PartitionKey), Value: e.AppendJSON(nil)}
	if log != "" {
		rec.Headers = []kgo.RecordHeader{{Key: "event-type", Value: []byte(e.Type)}, {Key: "carebus-origin", Value: fmt.Appendf(nil, "%s %d %d 1", log, offset, prev)}}
	}
	s.put(rec)
}

func (s *service) put(rec *kgo.Record) {
	s.t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(s.seeds()...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(s.t.Context(), rec).FirstErr(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) seeds() (out []string) {
	brokers, err := s.admin.ListBrokers(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, b := range brokers {
		out = append(out, fmt.Sprintf("%s:%d", b.Host, b.Port))
	}
	return out
}

// TestServices: two services with stores of their own. What one publishes the other handles, and the other way round.
func TestServices(t *testing.T) {
	seeds, name := brokers(t, 3), prefix()
	a, b := newService(t, seeds, options(seeds, name)), newService(t, seeds, options(seeds, name))
	a.book()
	b.book()
	answerV1 := event.Define[thing]("reply.thing.done", "1.0.0")
	b.handle("answers", bus.On(thingDoneV1, func(ctx context.Context, tx bus.Tx, e event.Of[thing]) error {
		if err := enter(ctx, tx, e); err != nil {
			return err
		}
		r := answerV1.New("b", e.Payload)
		r.PartitionKey = e.PartitionKey
		return tx.Append(r)
	}))
	a.handle("reads", bus.On(answerV1, enter))
	a.handle("own", bus.On(thingDoneV1, enter), bus.FromStore())
	a.run()
	b.run()
	const keys, each = 20, 30
	for seq := 1; seq <= each; seq++ {
		batch := make([]event.Event, keys)
		for k := range keys {
			batch[k] = made(fmt.Sprint("k", k), seq)
		}
		a.publish(batch...)
	}
	done := func(s *service, group string) func() bool {
		return func() bool {
			n := 0
			for _, seq := range s.entered(group) {
				n += seq
			}
			return n == keys*each
		}
	}
	a.until(done(a, "reads"))
	a.until(done(a, "own"))
	b.until(done(b, "answers"))
	for _, group := range []string{"reads", "own"} {
		if l := a.letters(group); len(l) > 0 {
			t.Errorf("%s: %+v", group, l)
		}
	}
	status, err := a.bus.Group(t.Context(), "reads")
	if err != nil || len(status.Partitions) != a.store.Partitions() || status.Partitions[0].Topic != name+"reply" {
		t.Errorf("%+v, %v", status, err)
	}
	// The flow of each event, in the store of who reacted, names its cause though that is in another store.
	types, err := b.store.Types(t.Context())
	if err != nil || types["reply.thing.done"] != keys*each {
		t.Errorf("%v, %v", types, err)
	}
}

// TestHandOver: a group that has read the store goes on with Kafka exactly where it was, and does not go back in silence.
func TestHandOver(t *testing.T) {
	seeds := brokers(t, 1)
	path := filepath.Join(t.TempDir(), "service.db")
	store := open(t, path)
	var wait = func(s *service, want int) {
		s.until(func() bool {
			got := s.entered("g")
			return len(got) == 10 && !slices.ContainsFunc(slices.Collect(mapValues(got)), func(n int) bool { return n != want })
		})
	}
	plain, err := bus.New(t.Context(), store, nil)
	if err != nil {
		t.Fatal(err)
	}
	lateV1 := event.Define[thing]("late.thing.done", "1.0.0")
	all := bus.OnRecord("**", func(ctx context.Context, tx bus.Tx, r eventstore.Record) error {
		var e event.Of[thing]
		if err := json.Unmarshal(r.Payload, &e.Payload); err != nil {
			return err
		}
		return enter(ctx, tx, e)
	})
	for group, h := range map[string]bus.Option{"g": bus.On(thingDoneV1, enter), "all": all} {
		if err := plain.Handle(group, h); err != nil {
			t.Fatal(err)
		}
	}
	s := serve(t, store, seeds, options(seeds, prefix()))
	s.book()
	each := func(seq int) {
		for k := range 10 {
			s.publish(made(fmt.Sprint("k", k), seq))
		}
		late := lateV1.New("test", thing{"late", seq}) // its topic is there only when the relay has sent the first
		late.PartitionKey = "late"
		s.publish(late)
	}
	each(1)
	each(2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- plain.Run(ctx) }()
	wait(s, 2)
	s.until(func() bool { return s.entered("all")["late"] == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	each(3)
	s.handle("g", bus.On(thingDoneV1, enter))
	s.handle("all", all)
	stop := s.run()
	each(4)
	wait(s, 4)
	s.until(func() bool { return s.entered("all")["late"] == 4 && s.entered("all")["k3"] == 4 })
	s.idle()
	stop()
	if l := append(s.letters("g"), s.letters("all")...); len(l) > 0 {
		t.Errorf("%+v", l)
	}
	back, err := bus.New(t.Context(), store, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := back.Handle("g", bus.On(thingDoneV1, enter)); err != nil {
		t.Fatal(err)
	}
	var wrong *bus.ConfigError
	if err := back.Run(t.Context()); !errors.As(err, &wrong) {
		t.Errorf("a group of Kafka was taken back to the store: %v", err)
	}
}

func mapValues(m map[string]int) func(func(int) bool) {
	return func(yield func(int) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// TestDisplaced: a relay's sends are repeated, cut short and reordered at random, as failing brokers and processes can do it,
// and the group is stopped and started in between. It handles each event once, in order.
func TestDisplaced(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	s.book()
	topic := s.topic("test")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	const events = 400
	keyOf := func(i int) string { return fmt.Sprint("k", i%3) }
	prevs := map[int][]int64{} // by partition: offsets of the log that go there
	var records []*kgo.Record
	for i := range events {
		e := event.Complete(t.Context(), made(keyOf(i), i/3+1))
		p := eventstore.PartitionOf(keyOf(i), s.store.Partitions())
		prev := int64(-1)
		if n := len(prevs[p]); n > 0 {
			prev = prevs[p][n-1]
		}
		offset := int64(i * 2) // other events of the log go to other topics
		prevs[p] = append(prevs[p], offset)
		records = append(records, &kgo.Record{
			Topic: topic, Partition: int32(p), Key: []byte(keyOf(i)), Value: e.AppendJSON(nil),
			Headers: []kgo.RecordHeader{{Key: "event-type", Value: []byte(e.Type)}, {Key: "carebus-origin", Value: fmt.Appendf(nil, "elsewhere/0 %d %d 1", offset, prev)}},
		})
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	send := func(from, to int) {
		for _, r := range records[from:to] {
			again := *r
			if err := client.ProduceSync(t.Context(), &again).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.handle("g", bus.On(thingDoneV1, enter), bus.BatchSize(7, 1<<20))
	stop := s.run()
	checkpoint := 0
	for checkpoint < events {
		n := min(checkpoint+1+rnd.IntN(30), events)
		switch rnd.IntN(4) {
		case 0: // all is well
			send(checkpoint, n)
			checkpoint = n
		case 1: // sent, and not noted: sent again
			send(checkpoint, n)
		case 2: // the first part is lost, the second arrives; sent again from the checkpoint
			send(checkpoint+rnd.IntN(n-checkpoint), n)
		case 3: // a late copy of something long done
			if checkpoint > 0 {
				from := rnd.IntN(checkpoint)
				send(from, min(from+5, checkpoint))
			}
		}
		if rnd.IntN(8) == 0 { // another process takes over
			stop()
			s2 := serve(t, s.store, seeds, options(seeds, s.prefix))
			s2.handle("g", bus.On(thingDoneV1, enter), bus.BatchSize(7, 1<<20))
			stop = s2.run()
		}
	}
	send(0, 1) // so that there is something to come to behind the last gap
	want := map[string]int{}
	for i := range events {
		want[keyOf(i)] = i/3 + 1
	}
	s.until(func() bool {
		got := s.entered("g")
		for k, n := range want {
			if got[k] != n {
				if l := s.letters("g"); len(l) > 0 {
					t.Fatalf("%+v", l)
				}
				return false
			}
		}
		return true
	})
}

// TestGap: events that are missing are waited for, aloud, and nothing behind them is handled before they have come.
func TestGap(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	s.book()
	topic := s.topic("test")
	s.handle("g", bus.On(thingDoneV1, enter))
	s.run()
	s.send(topic, "x/0", 0, -1, made("k", 1))
	s.send(topic, "x/0", 2, 1, made("k", 3))
	s.log.wait(t, "events are missing")
	s.until(func() bool { return s.entered("g")["k"] == 1 })
	s.send(topic, "x/0", 1, 0, made("k", 2))
	s.send(topic, "x/0", 2, 1, made("k", 3))
	s.until(func() bool { return s.entered("g")["k"] == 3 })
	if l := s.letters("g"); len(l) > 0 {
		t.Errorf("%+v", l)
	}
}

// TestForeign: a record that is no event becomes a dead letter that names its place, and holds up no other key. One that
// nobody's relay has sent is taken when it is an event.
func TestForeign(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	s.book()
	topic := s.topic("test")
	s.handle("g", bus.On(thingDoneV1, enter), bus.Backoff(time.Millisecond, time.Millisecond))
	s.run()
	bad := eventstore.PartitionOf("bad", s.store.Partitions())
	s.put(&kgo.Record{Topic: topic, Partition: int32(bad), Key: []byte("bad"), Value: []byte("hello")})
	s.send(topic, "", 0, 0, made("good", 1))
	s.until(func() bool { return s.entered("g")["good"] == 1 && len(s.letters("g")) == 1 })
	l := s.letters("g")[0]
	if l.Topic != topic || l.Partition != bad || l.Head != 0 || l.Key != "bad" || l.Class != bus.Permanent || !strings.Contains(l.Error, "no event") {
		t.Errorf("%+v", l)
	}
	waiting, err := s.bus.Waiting(t.Context(), l, 10)
	if err != nil || len(waiting) != 1 {
		t.Errorf("%v, %v", waiting, err)
	}
	if err := s.bus.Discard(t.Context(), "g", "bad", bus.Act{Reason: "a greeting"}); err != nil {
		t.Error(err)
	}
	s.send(topic, "", 0, 0, made("bad", 1))
	s.until(func() bool { return s.entered("g")["bad"] == 1 })
}

// TestRemoved: a group whose events the topic has forgotten stops, says so, and goes on when a person has decided.
func TestRemoved(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	s.book()
	topic := s.topic("test")
	part := eventstore.PartitionOf("k", s.store.Partitions())
	s.handle("g", bus.On(thingDoneV1, enter))
	stop := s.run()
	s.publish(made("k", 1))
	s.idle()
	if err := s.bus.Pause(t.Context(), "g", bus.Act{Reason: "a long night"}); err != nil {
		t.Fatal(err)
	}
	for seq := 2; seq <= 9; seq++ {
		s.publish(made("k", seq))
	}
	s.until(func() bool {
		g, err := s.bus.Group(t.Context(), s.kafka.RelayGroup())
		return err == nil && g.Lag == 0
	})
	stop()
	var gone kadm.Offsets
	gone.Add(kadm.Offset{Topic: topic, Partition: int32(part), At: 5, LeaderEpoch: -1})
	if _, err := s.admin.DeleteRecords(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	s = serve(t, s.store, seeds, options(seeds, s.prefix))
	s.handle("g", bus.On(thingDoneV1, enter))
	s.run()
	if err := s.bus.Resume(t.Context(), "g", bus.Act{}); err != nil {
		t.Fatal(err)
	}
	s.until(func() bool {
		g, err := s.bus.Group(t.Context(), "g")
		return err == nil && g.State == "stopped" && strings.Contains(g.Reason, "nothing before offset 5")
	})
	if got := s.entered("g"); got["k"] != 1 {
		t.Errorf("handled behind what was lost: %v", got)
	}
	// The store has the events: they are put where the group can go on, and it goes on behind.
	if err := s.store.Update(t.Context(), func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(t.Context(), `UPDATE book SET seq = 5, n = 5`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.bus.Seek(t.Context(), "g", bus.AtTopic(topic, part, 5), bus.Act{Reason: "done by hand up to there"}); err != nil {
		t.Fatal(err)
	}
	if err := s.bus.Resume(t.Context(), "g", bus.Act{}); err != nil {
		t.Fatal(err)
	}
	s.until(func() bool { return s.entered("g")["k"] == 9 })
}

// TestUnsafe: topics in which acknowledged events could be lost, or keys move, are refused with all that is wrong.
func TestUnsafe(t *testing.T) {
	if os.Getenv("CAREBUS_TEST_KAFKA") != "" {
		t.Skip("needs three brokers, and those of this process do")
	}
	seeds := brokers(t, 3)
	name := prefix()
	s := newService(t, seeds, options(seeds, name))
	set := func(kv ...string) map[string]*string {
		m := map[string]*string{}
		for i := 0; i < len(kv); i += 2 {
			m[kv[i]] = &kv[i+1]
		}
		return m
	}
	safe := []string{"min.insync.replicas", "2", "max.message.bytes", "2097152"}
	cases := []struct {
		domain   string
		replicas int16
		config   []string
		says     string
	}{
		{"safe", 3, safe, ""},
		{"alone", 1, safe, "one replica"},
		{"lonely", 3, append(slices.Clone(safe), "min.insync.replicas", "1"), "min.insync.replicas is 1"},
		{"unclean", 3, append(slices.Clone(safe), "unclean.leader.election.enable", "true"), "unclean.leader.election"},
		{"compact", 3, append(slices.Clone(safe), "cleanup.policy", "compact"), "compaction removes"},
		{"small", 3, append(slices.Clone(safe), "max.message.bytes", "1000000"), "max.message.bytes is 1000000"},
		{"short", 3, append(slices.Clone(safe), "retention.ms", "60000"), "retention.ms is 60000"},
	}
	for _, c := range cases {
		if _, err := s.admin.CreateTopic(t.Context(), 12, c.replicas, set(c.config...), name+c.domain); err != nil {
			t.Fatal(err)
		}
		_, err := s.kafka.Lanes(t.Context(), []string{c.domain + ".thing.done"})
		var unsafe *kafka.UnsafeError
		var wrong *bus.ConfigError
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s: %v", c.domain, err)
		case c.says != "" && (!errors.As(err, &unsafe) || !errors.As(err, &wrong) || len(unsafe.Findings) != 1 || !strings.Contains(unsafe.Findings[0], c.says)):
			t.Errorf("%s: %v; want %q", c.domain, err, c.says)
		}
		o := options(seeds, name)
		o.AllowUnsafe = true
		if _, err := newService(t, seeds, o).kafka.Lanes(t.Context(), []string{c.domain + ".thing.done"}); err != nil {
			t.Errorf("%s, though allowed: %v", c.domain, err)
		}
	}

	// Other partitions, or another topic of the name, are not what the groups have read.
	if _, err := s.admin.CreatePartitions(t.Context(), 4, name+"safe"); err != nil {
		t.Fatal(err)
	}
	fresh := serve(t, s.store, seeds, options(seeds, name))
	if _, err := fresh.kafka.Lanes(t.Context(), []string{"safe.thing.done"}); err == nil || !strings.Contains(err.Error(), "has 16 partitions and had 12") {
		t.Errorf("partitions were added: %v", err)
	}
	if _, err := s.admin.DeleteTopic(t.Context(), name+"safe"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.admin.CreateTopic(t.Context(), 12, 3, set(safe...), name+"safe"); err != nil {
		t.Fatal(err)
	}
	fresh = serve(t, s.store, seeds, options(seeds, name))
	if _, err := fresh.kafka.Lanes(t.Context(), []string{"safe.thing.done"}); err == nil || !strings.Contains(err.Error(), "created again") {
		t.Errorf("the topic was created again: %v", err)
	}
}

func TestOptions(t *testing.T) {
	store := open(t, filepath.Join(t.TempDir(), "service.db"))
	for _, o := range []kafka.Options{
		{Prefix: "Carebus."}, {Prefix: "carebus"}, {Partitions: 1 << 16}, {Compression: "gzip"}, {Replicas: -1}, {Retention: time.Hour}, {Linger: -1},
	} {
		var wrong *bus.ConfigError
		if _, err := kafka.Open(t.Context(), store, &o); !errors.As(err, &wrong) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestReplayByTime: a replay from a time brings what was sent since, flagged, and the group goes on where it was.
func TestReplayByTime(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	var mu sync.Mutex
	handled, replayed := map[int]int{}, map[int]int{}
	s.handle("g", bus.On(thingDoneV1, func(ctx context.Context, _ bus.Tx, e event.Of[thing]) error {
		mu.Lock()
		defer mu.Unlock()
		handled[e.Payload.Seq]++
		if bus.DeliveryFrom(ctx).Replay {
			replayed[e.Payload.Seq]++
		}
		return nil
	}))
	s.run()
	for seq := 1; seq <= 5; seq++ {
		s.publish(made("k", seq))
	}
	s.idle()
	var middle time.Time
	for middle = time.Now(); time.Now().UnixMilli() == middle.UnixMilli(); { // Kafka's clock has milliseconds
	}
	middle = time.Now()
	for seq := 6; seq <= 10; seq++ {
		s.publish(made("k", seq))
	}
	s.idle()
	if err := s.bus.Replay(t.Context(), "g", bus.Since(middle), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	s.until(func() bool {
		g, err := s.bus.Group(t.Context(), "g")
		return err == nil && g.Replay == nil && g.Lag == 0
	})
	s.publish(made("k", 11))
	s.idle()
	mu.Lock()
	defer mu.Unlock()
	for seq := 1; seq <= 11; seq++ {
		want := 0
		if seq > 5 && seq < 11 {
			want = 1
		}
		if replayed[seq] != want || handled[seq] != 1+want {
			t.Errorf("event %d: handled %d times, %d of them flagged; want %d flagged", seq, handled[seq], replayed[seq], want)
		}
	}
}

// TestRecordForm: what lies in a topic is the envelope, with headers that other tools can use.
func TestRecordForm(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	s.run()
	e := event.Complete(t.Context(), made("k", 1))
	if _, err := s.store.Append(t.Context(), "test.thing/k", eventstore.NoStream, e); err != nil {
		t.Fatal(err)
	}
	s.idle()
	client, err := kgo.NewClient(kgo.SeedBrokers(seeds...), kgo.ConsumeTopics(s.topic("test")), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var records []*kgo.Record
	for len(records) == 0 {
		fetches := client.PollFetches(t.Context())
		if err := fetches.Err(); err != nil {
			t.Fatal(err)
		}
		records = fetches.Records()
	}
	r := records[0]
	var value struct {
		Metadata struct {
			EventID string `json:"eventId"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(r.Value, &value); err != nil || value.Metadata.EventID != e.ID || string(r.Key) != "k" || int(r.Partition) != eventstore.PartitionOf("k", s.store.Partitions()) {
		t.Errorf("%s %s: %v", r.Key, r.Value, err)
	}
	got := map[string]string{}
	for _, h := range r.Headers {
		got[h.Key] = string(h.Value)
	}
	log := s.kafka.Log(int(r.Partition))
	if got["content-type"] != "application/json" || got["event-type"] != "test.thing.done" || got["event-id"] != e.ID || got["correlation-id"] != e.CorrelationID ||
		!strings.HasPrefix(got["carebus-origin"], log+" 0 -1 ") || !strings.HasSuffix(got["carebus-origin"], " 1 test.thing/k") {
		t.Errorf("headers %v", got)
	}
}

// TestProgress: whether a group is done with an event of this store is known although it reads lanes.
func TestProgress(t *testing.T) {
	seeds := brokers(t, 1)
	s := newService(t, seeds, options(seeds, prefix()))
	s.handle("g", bus.On(thingDoneV1, func(_ context.Context, _ bus.Tx, e event.Of[thing]) error {
		if e.Payload.Key == "bad" && e.Payload.Seq == 2 {
			return bus.Fatal(errors.New("refused"))
		}
		return nil
	}))
	s.run()
	for seq := 1; seq <= 3; seq++ {
		s.publish(made("bad", seq), made("good", seq))
	}
	s.idle()
	if err := s.bus.Pause(t.Context(), "g", bus.Act{Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	s.publish(made("good", 4))
	var p bus.Progress
	err := s.store.View(t.Context(), func(q eventstore.Querier) (err error) {
		p, err = s.bus.Progress(t.Context(), q, "g")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	events, err := s.store.Type(t.Context(), eventstore.TypeQuery{Type: "test.thing.done", Limit: 100})
	if err != nil || len(events) != 7 {
		t.Fatal(len(events), err)
	}
	for _, r := range events {
		of, err := thingDoneV1.Decode(r.Event)
		if err != nil {
			t.Fatal(err)
		}
		want := of.Payload.Key == "good" && of.Payload.Seq < 4 || of.Payload.Seq == 1
		if got := p.Passed(r.Type, r.Partition, r.Offset, r.PartitionKey); got != want {
			t.Errorf("%+v passed: %v, want %v", of.Payload, got, want)
		}
	}
}
