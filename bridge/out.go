package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// Out says what is copied from the store to Kafka, and how.
type Out struct {
	// Patterns choose event types, see bus.Matches. At least one.
	Patterns []string
	// Topic names where an event goes. Default DefaultTopic.
	Topic Topic
	// Format of the records. Default Native.
	Format Format
	// SchemaID gives the global id of a version of a type; with it the value is framed as a schema registry's serializers
	// frame it (confluent.Handler.ID is one). Only for CloudEventsBinary, whose value is what the schema describes.
	SchemaID func(ctx context.Context, eventType, version string) (int, error)
	// Start is where a bridge begins that has never run before. Default: at the first event in the store.
	Start bus.StartAt
	// Timeout is how long Kafka has to acknowledge a record before it is sent again. Default 10 s.
	Timeout time.Duration
}

// The events of one key are sent one after the other, each when the one before is acknowledged by all in-sync replicas.
// That is what makes a refused event hold back the later ones of its key: a pipeline of them would have passed it by. Keys
// are sent side by side, so many keys fill the batches that one key cannot.
const outCalls = 256

// Out makes this process copy events out while the platform runs: it joins the group that Group names. Events are copied
// in order per key, each at least once: a header has the id by which a reader tells a repetition. While Kafka cannot be
// reached they wait in the store. An event that Kafka refuses for what it is (too large) parks its key, as any group's.
// Events that this bridge has copied in are passed over.
func (b *Bridge) Out(o Out) error {
	if err := o.check(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out != nil {
		return fmt.Errorf("bridge %s: copies out already; name all patterns in one call", b.name)
	}
	s := &sender{b: b, o: o, topics: map[string]*topicState{}, copied: make([]copied, b.store.Partitions()), stuck: make([]atomic.Int32, b.store.Partitions())}
	var err error
	if s.client, err = s.connect(); err != nil {
		return err
	}
	opts := []bus.Option{
		bus.Timeout(o.Timeout), bus.Calls(outCalls), bus.Start(o.Start), bus.ClassifyErrors(judge),
		bus.Backoff(50*time.Millisecond, 5*time.Second),
	}
	for _, p := range o.Patterns {
		opts = append(opts, bus.OnForward(p, s.forward))
	}
	if err := b.p.Handle(Group(b.name), opts...); err != nil {
		s.kafka().Close()
		return err
	}
	b.out = s
	return nil
}

func (s *sender) connect() (*kgo.Client, error) {
	return s.b.client(
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.StickyKeyPartitioner(nil)), // murmur2 of the key, as eventstore.PartitionOf
		kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytesFn(s.limit),
		// A try ends when its context does. The record may be written all the same, and is then written again by the next
		// try: at least once. Without this a stop would have to wait for a broker that is away.
		kgo.AllowIdempotentProduceCancellation(),
	)
}

func (o *Out) check() error {
	if o.Topic == "" {
		o.Topic = DefaultTopic
	}
	if o.Format == "" {
		o.Format = Native
	}
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second
	}
	if err := o.Topic.Check(); err != nil {
		return err
	}
	switch {
	case o.Timeout < 0:
		return fmt.Errorf("bridge: timeout %v; use a positive one", o.Timeout)
	case !slices.Contains([]Format{Native, CloudEvents, CloudEventsBinary}, o.Format):
		return fmt.Errorf("bridge: format %q: use native, cloudevents or cloudevents-binary", string(o.Format))
	case o.SchemaID != nil && o.Format != CloudEventsBinary:
		return fmt.Errorf("bridge: a schema registry's frame is around a payload alone; use the format %s with it", CloudEventsBinary)
	case len(o.Patterns) == 0:
		return errors.New("bridge: no pattern of event types to copy out; name one, such as medication.**")
	}
	return nil
}

// judge: what Kafka says about the event itself is for good, all else is Kafka's affair and will pass, or be mended.
func judge(err error) (bus.Class, bool) {
	var panicked *bus.PanicError
	if errors.As(err, &panicked) {
		return bus.Permanent, true
	}
	for _, bad := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTopicException} {
		if errors.Is(err, bad) {
			return bus.Permanent, true
		}
	}
	return bus.Dependency, true
}

// sender is the way out.
type sender struct {
	b      *Bridge
	o      Out
	copied []copied       // by partition of the store
	stuck  []atomic.Int32 // by partition of the store: failures since the last success

	mu     sync.Mutex
	client *kgo.Client
	topics map[string]*topicState
}

// topicState is a topic that is known to exist.
type topicState struct {
	ready    chan struct{} // closed when err and maxBytes stand
	err      error
	maxBytes int32
}

// forward copies one event and returns when Kafka has it.
func (s *sender) forward(ctx context.Context, r eventstore.Record) error {
	in, err := s.copied[r.Partition].has(ctx, s.b, r.Partition, r.Offset)
	if err != nil {
		return bus.Transient(err)
	}
	if in {
		s.b.count.passed.Add(1)
		return nil
	}
	topic := s.o.Topic.Of(r.Type)
	if _, err := s.topic(ctx, topic); err != nil {
		return s.failed(err)
	}
	rec, err := encode(ctx, s.o.Format, r, s.b.id, s.o.SchemaID)
	if err != nil {
		return s.failed(err)
	}
	rec.Topic = topic
	client := s.kafka()
	err = send(ctx, client, rec)
	switch {
	case err == nil:
		s.stuck[r.Partition].Store(0)
		s.b.count.sent.Add(1)
		return nil
	case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
		s.forget(topic)
		err = fmt.Errorf("topic %s: %w: %w", topic, ErrNoTopic, err)
	case errors.Is(err, kerr.MessageTooLarge):
		// Somebody may have raised the topic's limit since it was looked at, so that a redrive succeeds.
		old := s.limit(topic)
		s.mu.Lock()
		delete(s.topics, topic)
		s.mu.Unlock()
		if now, err := s.topic(ctx, topic); err == nil && now.maxBytes > old {
			s.forget(topic)
			return s.failed(bus.Transient(fmt.Errorf("topic %s: its limit was raised to %d bytes; trying again", topic, now.maxBytes)))
		}
		err = fmt.Errorf("topic %s: the record of %d bytes is larger than the topic takes (%d); raise its max.message.bytes, then redrive the key: %w",
			topic, len(rec.Key)+len(rec.Value), old, err)
	default:
		if s.stuck[r.Partition].Add(1)%renewAfter == 0 {
			s.b.log.Warn("bridge: another client for what cannot be sent", "topic", topic, "error", err)
			s.renew(client)
		}
		err = fmt.Errorf("topic %s: %w", topic, err)
	}
	return s.failed(err)
}

// renewAfter is how many failures, one after the other in a partition, make a client that is not trusted any more: what a
// producer and a broker remember of each other may have come apart, and then no try of the same producer succeeds.
const renewAfter = 3

// send returns when Kafka has the record, or when ctx ends. The client looks at ctx only now and then, and may write the
// record after that. The next try is then behind it, in the same queue: a repetition, never out of order.
func send(ctx context.Context, client *kgo.Client, rec *kgo.Record) error {
	done := make(chan error, 1)
	client.Produce(ctx, rec, func(_ *kgo.Record, err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sender) failed(err error) error {
	s.b.count.failed.Add(1)
	return err
}

// forget makes the next event look at the topic anew, with another client. What the former one holds fails, and is tried
// again.
//
// It is not enough that the client forgets the topic (PurgeTopicsFromProducing): it would number its records from 0 again,
// as the same producer, and a broker that remembers these numbers takes the records for repetitions of earlier ones. It
// acknowledges them and writes nothing. Another client is another producer.
func (s *sender) forget(topic string) {
	s.mu.Lock()
	old, known := s.client, s.topics[topic] != nil
	s.mu.Unlock()
	if known { // otherwise somebody else was first
		s.renew(old)
	}
}

// renew puts another client in the place of old, unless somebody else was first.
func (s *sender) renew(old *kgo.Client) {
	next, err := s.connect() // without the lock: it asks for limits
	if err != nil {          // only wrong options, which the first client has had too
		return
	}
	s.mu.Lock()
	if s.client == old {
		next, s.client = s.client, next
		clear(s.topics)
	}
	s.mu.Unlock()
	next.Close()
}

func (s *sender) kafka() *kgo.Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

// limit is the largest batch that a topic takes; the client asks once, when it first sends to it.
func (s *sender) limit(topic string) int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.topics[topic]; t != nil && t.maxBytes > 0 {
		return t.maxBytes
	}
	return defaultMaxBytes
}

// defaultMaxBytes is the default of a broker's message.max.bytes; createdMaxBytes what a topic gets that the bridge
// creates: an envelope has at most 1 MiB, and its record some more.
const (
	defaultMaxBytes = 1048588
	createdMaxBytes = 2 << 20
)

// topic makes sure that a topic exists. One caller looks, others wait for it.
func (s *sender) topic(ctx context.Context, name string) (*topicState, error) {
	s.mu.Lock()
	t := s.topics[name]
	if t == nil {
		t = &topicState{ready: make(chan struct{})}
		s.topics[name] = t
		s.mu.Unlock()
		maxBytes, err := s.b.ensureTopic(ctx, kadm.NewClient(s.kafka()), name)
		s.mu.Lock()
		t.maxBytes, t.err = maxBytes, err
		if err != nil && s.topics[name] == t {
			delete(s.topics, name)
		}
		s.mu.Unlock()
		close(t.ready)
		return t, err
	}
	s.mu.Unlock()
	select {
	case <-t.ready:
		return t, t.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// ensureTopic looks for a topic, creates it when it may, and returns the largest batch that the topic takes.
func (b *Bridge) ensureTopic(ctx context.Context, admin *kadm.Client, topic string) (maxBytes int32, err error) {
	found, err := admin.ListTopics(ctx, topic)
	if err != nil {
		return 0, err
	}
	switch err := found[topic].Err; {
	case err == nil && found.Has(topic):
	case err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition):
		return 0, fmt.Errorf("topic %s: %w", topic, err)
	case !b.o.CreateTopics:
		return 0, fmt.Errorf("topic %s: %w; create it with %d partitions, or let the bridge create topics", topic, ErrNoTopic, b.o.Partitions)
	default:
		size := strconv.Itoa(createdMaxBytes)
		_, err := admin.CreateTopic(ctx, int32(b.o.Partitions), int16(b.o.Replicas), map[string]*string{"max.message.bytes": &size}, topic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return 0, fmt.Errorf("topic %s cannot be created: %w", topic, err)
		}
		b.log.Info("bridge: topic created", "topic", topic, "partitions", b.o.Partitions)
	}
	// Who may not read the configuration writes by the broker's default, and hears of it when that is too much.
	configs, err := admin.DescribeTopicConfigs(ctx, topic)
	if err != nil {
		return defaultMaxBytes, ctx.Err()
	}
	for _, c := range configs {
		for _, kv := range c.Configs {
			if kv.Key == "max.message.bytes" && kv.Value != nil {
				if n, err := strconv.ParseInt(*kv.Value, 10, 32); err == nil && n >= 512 {
					return int32(n), nil
				}
			}
		}
	}
	return defaultMaxBytes, nil
}
