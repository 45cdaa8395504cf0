package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
)

// member is a process's membership of a group: one client is in Kafka's group and learns which lanes are ours, and fetches
// nothing; another fetches, from where the group's checkpoints say, and knows nothing of groups.
type member struct {
	t       *Transport
	name    string
	wanted  func(eventType string) bool
	changed func()
	group   *kgo.Client
	fetcher *kgo.Client
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu       sync.Mutex
	mine     map[int]bool
	fresh    map[int]bool
	held     map[int]bool
	released chan struct{} // closed when held has changed
	lanes    map[int]*buffer
	orders   []func() // for the goroutine that polls
	wake     context.CancelFunc
}

// buffer is what was fetched of a lane and not read yet.
type buffer struct {
	topic     string
	partition int32
	next      int64 // offset of the first record, or of the next to come
	records   []*kgo.Record
	bytes     int
	paused    bool
	err       error
	news      chan struct{} // closed when something has come
}

// full is how much of a lane is kept before fetching it pauses; a fetch may bring as much again.
const full = 512 << 10

// Join makes this process a member of a group.
func (t *Transport) Join(ctx context.Context, name string, patterns []string, changed func()) (bus.Member, error) {
	m := &member{
		t: t, name: t.opts.Prefix + name, changed: changed, wanted: matcher(patterns),
		mine: map[int]bool{}, fresh: map[int]bool{}, held: map[int]bool{}, released: make(chan struct{}), lanes: map[int]*buffer{},
	}
	if _, err := t.Lanes(ctx, patterns); err != nil { // the topics are right, and there
		return nil, err
	}
	topics := []kgo.Opt{}
	var names []string
	for _, p := range patterns {
		if d := domain(p); d == "*" || d == "**" {
			topics = []kgo.Opt{kgo.ConsumeRegex(), kgo.MetadataMaxAge(3 * time.Second)} // topics that are new are found soon
			names = []string{"^" + regexp.QuoteMeta(t.opts.Prefix) + "[^.]+$"}
			break
		}
		names = append(names, t.opts.Prefix+domain(p))
	}
	topics = append(topics, kgo.ConsumeTopics(names...))
	var err error
	if m.fetcher, err = t.client(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), // where to read is in the database; Kafka must never choose
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxPartitionBytes(full), kgo.FetchMaxBytes(32<<20), kgo.FetchMaxWait(500*time.Millisecond),
	); err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	m.stop = stop
	m.done.Go(func() { m.poll(life) })
	if m.group, err = t.client(append(topics,
		kgo.ConsumerGroup(m.name), kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(t.opts.Session), kgo.HeartbeatInterval(t.opts.Session/5), kgo.RebalanceTimeout(max(2*t.opts.Session, 30*time.Second)),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()),
		kgo.OnPartitionsAssigned(m.assigned), kgo.OnPartitionsRevoked(m.revoked), kgo.OnPartitionsLost(m.lost),
	)...); err != nil {
		m.Leave(ctx)
		return nil, err
	}
	return m, nil
}

// matcher remembers which types fit.
func matcher(patterns []string) func(string) bool {
	var known sync.Map
	return func(t string) bool {
		if v, ok := known.Load(t); ok {
			return v.(bool)
		}
		fits := slices.ContainsFunc(patterns, func(p string) bool { return bus.Matches(p, t) })
		known.Store(t, fits)
		return fits
	}
}

// assigned is called by the group's client before it would fetch, which it must not.
func (m *member) assigned(ctx context.Context, c *kgo.Client, added map[string][]int32) {
	c.PauseFetchTopics(slices.Collect(maps.Keys(added))...)
	var lanes []int
	for name, parts := range added {
		k, err := m.t.topic(ctx, name)
		if err != nil {
			m.t.log.Error("kafka: a topic that was given to this member cannot be used", "group", m.name, "topic", name, "error", err)
			continue
		}
		for _, p := range parts {
			if int(p) < k.partitions {
				lanes = append(lanes, k.lane(int(p)))
			}
		}
	}
	m.mu.Lock()
	for _, lane := range lanes {
		m.mine[lane], m.fresh[lane] = true, true
	}
	m.mu.Unlock()
	m.changed()
}

// revoked is called before lanes are given to others. It waits until this process has given them up, as long as Kafka
// allows. It need not be right: the database fences.
func (m *member) revoked(ctx context.Context, _ *kgo.Client, gone map[string][]int32) {
	lanes := m.remove(gone)
	ctx, cancel := context.WithTimeout(ctx, m.t.opts.Session)
	defer cancel()
	for {
		m.mu.Lock()
		busy := slices.ContainsFunc(lanes, func(lane int) bool { return m.held[lane] })
		released := m.released
		m.mu.Unlock()
		if !busy {
			return
		}
		select {
		case <-released:
		case <-ctx.Done():
			return
		}
	}
}

// lost is called when Kafka has given the lanes away already.
func (m *member) lost(_ context.Context, _ *kgo.Client, gone map[string][]int32) { m.remove(gone) }

func (m *member) remove(gone map[string][]int32) (lanes []int) {
	m.mu.Lock()
	for name, parts := range gone {
		for _, p := range parts {
			if lane, ok := m.t.LaneAt(name, int(p)); ok {
				lanes = append(lanes, lane)
				delete(m.mine, lane)
				delete(m.fresh, lane)
			}
		}
	}
	m.mu.Unlock()
	m.changed()
	return lanes
}

// Mine says which lanes are this member's.
func (m *member) Mine() (lanes, fresh map[int]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.mine), maps.Clone(m.fresh)
}

// Held tells which lanes this process works on.
func (m *member) Held(lanes map[int]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = lanes
	for lane := range lanes {
		delete(m.fresh, lane)
	}
	for lane, b := range m.lanes {
		if !lanes[lane] {
			delete(m.lanes, lane)
			m.order(func() { m.fetcher.RemoveConsumePartitions(map[string][]int32{b.topic: {b.partition}}) })
		}
	}
	close(m.released)
	m.released = make(chan struct{})
}

// order has something done by the goroutine that polls, so that nothing of a fetch of before comes after it. m.mu is held.
func (m *member) order(fn func()) {
	m.orders = append(m.orders, fn)
	if m.wake != nil {
		m.wake()
	}
}

func (m *member) poll(ctx context.Context) {
	for ctx.Err() == nil {
		m.mu.Lock()
		orders := m.orders
		m.orders = nil
		look, wake := context.WithCancel(ctx)
		m.wake = wake
		m.mu.Unlock()
		for _, fn := range orders {
			fn()
		}
		fetches := m.fetcher.PollRecords(look, 10_000)
		wake()
		m.mu.Lock()
		fetches.EachPartition(func(p kgo.FetchTopicPartition) { m.take(p) })
		m.mu.Unlock()
	}
}

// take keeps what was fetched. m.mu is held.
func (m *member) take(p kgo.FetchTopicPartition) {
	lane, ok := m.t.LaneAt(p.Topic, int(p.Partition))
	b := m.lanes[lane]
	if !ok || b == nil {
		return
	}
	if p.Err != nil {
		if errors.Is(p.Err, context.Canceled) {
			return
		}
		b.err = p.Err
	}
	for _, r := range p.Records {
		if r.Offset < b.end() {
			continue
		}
		b.records = append(b.records, r)
		b.bytes += len(r.Key) + len(r.Value) + 200
	}
	if b.bytes >= full && !b.paused {
		b.paused = true
		m.fetcher.PauseFetchPartitions(map[string][]int32{p.Topic: {p.Partition}})
	}
	if b.err != nil || len(b.records) > 0 {
		close(b.news)
		b.news = make(chan struct{})
	}
}

// end is behind what is kept.
func (b *buffer) end() int64 {
	if n := len(b.records); n > 0 {
		return b.records[n-1].Offset + 1
	}
	return b.next
}

// Read returns what has come to a lane from an offset on.
func (m *member) Read(ctx context.Context, lane int, from int64, events, bytes int) ([]bus.Delivered, int64, error) {
	m.mu.Lock()
	b := m.lanes[lane]
	if b == nil || from < b.next || from > b.end() {
		m.seek(lane, from)
		m.mu.Unlock()
		return nil, from, nil
	}
	for len(b.records) > 0 && b.records[0].Offset < from {
		b.drop(1)
	}
	b.next = from
	if len(b.records) == 0 && b.err != nil {
		err := b.err
		delete(m.lanes, lane)
		m.order(func() { m.fetcher.RemoveConsumePartitions(map[string][]int32{b.topic: {b.partition}}) })
		m.mu.Unlock()
		return nil, from, m.t.fetchError(ctx, lane, from, err)
	}
	n, size := 0, 0
	for n < len(b.records) && n < events && (n == 0 || size+len(b.records[n].Value) <= bytes) {
		size += len(b.records[n].Value)
		n++
	}
	taken := slices.Clone(b.records[:n])
	b.drop(n)
	next := from
	if n > 0 {
		next = taken[n-1].Offset + 1
		b.next = next
	}
	if b.paused && b.bytes < full/2 {
		b.paused = false
		m.fetcher.ResumeFetchPartitions(map[string][]int32{b.topic: {b.partition}})
	}
	m.mu.Unlock()
	return decodeAll(taken, lane, m.wanted), next, nil
}

func (b *buffer) drop(n int) {
	for _, r := range b.records[:n] {
		b.bytes -= len(r.Key) + len(r.Value) + 200
	}
	clear(b.records[:n])
	if b.records = b.records[n:]; len(b.records) == 0 {
		b.records = nil
	}
}

func decodeAll(records []*kgo.Record, lane int, wanted func(string) bool) []bus.Delivered {
	out := make([]bus.Delivered, 0, len(records))
	for _, r := range records {
		if !r.Attrs.IsControl() {
			out = append(out, decode(r, lane, wanted))
		}
	}
	return out
}

// seek begins to fetch a lane at an offset. m.mu is held.
func (m *member) seek(lane int, from int64) {
	name, p := m.t.Place(lane)
	b := &buffer{topic: name, partition: int32(p), next: from, news: make(chan struct{})}
	if old := m.lanes[lane]; old != nil {
		close(old.news)
	}
	m.lanes[lane] = b
	m.order(func() {
		part := map[string][]int32{name: {int32(p)}}
		m.fetcher.RemoveConsumePartitions(part)
		m.fetcher.ResumeFetchPartitions(part)
		m.fetcher.AddConsumePartitions(map[string]map[int32]kgo.Offset{name: {int32(p): kgo.NewOffset().At(from)}})
	})
}

// After returns a channel that is closed when a lane may have something at offset or behind.
func (m *member) After(lane int, offset int64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := m.lanes[lane]
	if b == nil || b.err != nil || offset < b.next || b.end() > offset {
		return closed
	}
	return b.news
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// Progress tells Kafka how far the group is.
func (m *member) Progress(next map[int]int64) {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	mine, _ := m.Mine()
	for lane, at := range next {
		if !mine[lane] {
			continue
		}
		name, p := m.t.Place(lane)
		if offsets[name] == nil {
			offsets[name] = map[int32]kgo.EpochOffset{}
		}
		offsets[name][int32(p)] = kgo.EpochOffset{Epoch: -1, Offset: at}
	}
	if len(offsets) > 0 {
		m.group.CommitOffsets(context.Background(), offsets, nil)
	}
}

// Leave ends the membership.
func (m *member) Leave(ctx context.Context) {
	if m.group != nil {
		m.Held(map[int]bool{})
		if err := m.group.LeaveGroupContext(ctx); err != nil {
			m.t.log.Info("kafka: leaving a group; its lanes are free when the session has run out", "group", m.name, "error", err)
		}
		m.group.Close()
	}
	m.stop()
	m.done.Wait()
	m.fetcher.Close()
}

// Fetch reads a lane from any place.
func (t *Transport) Fetch(ctx context.Context, lane int, from int64, events, bytes int) ([]bus.Delivered, int64, error) {
	bounds, err := t.Bounds(ctx, []int{lane})
	if err != nil {
		return nil, from, err
	}
	at := bounds[lane]
	switch {
	case from < at.Start || from > at.End:
		return nil, from, t.lost(lane, from, at)
	case from == at.End:
		return nil, from, nil
	}
	name, p := t.Place(lane)
	client, err := t.client(
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{name: {int32(p): kgo.NewOffset().At(from)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
		kgo.FetchMaxPartitionBytes(int32(min(max(bytes, 1<<16), 8<<20))),
	)
	if err != nil {
		return nil, from, err
	}
	defer client.Close()
	for {
		fetches := client.PollRecords(ctx, events)
		if err := ctx.Err(); err != nil {
			return nil, from, err
		}
		for _, e := range fetches.Errors() {
			return nil, from, t.fetchError(ctx, lane, from, e.Err)
		}
		if records := fetches.Records(); len(records) > 0 {
			return decodeAll(records, lane, func(string) bool { return true }), records[len(records)-1].Offset + 1, nil
		}
	}
}

// RecordedAt returns when the first events from offsets on were recorded.
func (t *Transport) RecordedAt(ctx context.Context, offsets map[int]int64) map[int]time.Time {
	found := map[int]time.Time{}
	places := map[string]map[int32]kgo.Offset{}
	for lane, from := range offsets {
		name, p := t.Place(lane)
		if places[name] == nil {
			places[name] = map[int32]kgo.Offset{}
		}
		places[name][int32(p)] = kgo.NewOffset().At(from)
	}
	client, err := t.client(
		kgo.ConsumePartitions(places), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxPartitionBytes(1<<10), // a batch is given whole, whatever its size
	)
	if err != nil {
		return found
	}
	defer client.Close()
	for left := len(offsets); left > 0; {
		fetches := client.PollFetches(ctx)
		if ctx.Err() != nil {
			return found
		}
		done := map[string][]int32{}
		fetches.EachPartition(func(p kgo.FetchTopicPartition) {
			lane, ok := t.LaneAt(p.Topic, int(p.Partition))
			if !ok || len(p.Records) == 0 && p.Err == nil {
				return
			}
			if _, again := found[lane]; again {
				return
			}
			if len(p.Records) > 0 {
				found[lane] = decode(p.Records[0], lane, func(string) bool { return false }).RecordedAt
			}
			done[p.Topic] = append(done[p.Topic], p.Partition)
			left--
		})
		client.RemoveConsumePartitions(done)
	}
	return found
}

// fetchError says what an error of a fetch means.
func (t *Transport) fetchError(ctx context.Context, lane int, from int64, err error) error {
	name, p := t.Place(lane)
	var lost *kgo.ErrDataLoss
	if !errors.Is(err, kerr.OffsetOutOfRange) && !errors.As(err, &lost) {
		t.forget(name)
		return fmt.Errorf("topic %s partition %d: %w", name, p, err)
	}
	bounds, berr := t.Bounds(ctx, []int{lane})
	if berr != nil {
		return berr
	}
	if at := bounds[lane]; from < at.Start || from > at.End || lost != nil {
		return t.lost(lane, from, at)
	}
	return fmt.Errorf("topic %s partition %d: %w", name, p, err)
}

func (t *Transport) lost(lane int, from int64, at bus.Bounds) error {
	name, p := t.Place(lane)
	if from < at.Start {
		return fmt.Errorf("%w: topic %s partition %d has nothing before offset %d any more, and the group is at %d; decide where to go on, seek the group there, then resume it", bus.ErrLost, name, p, at.Start, from)
	}
	return fmt.Errorf("%w: topic %s partition %d ends at offset %d, and the group has read up to %d: brokers have lost what was acknowledged; set the relay (%s) back to before that, seek the group, then resume it",
		bus.ErrLost, name, p, at.End, from, RelayGroup)
}
