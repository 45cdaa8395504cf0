package kafka

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// RelayGroup is the group that sends a store's events to topics. Pausing it pauses sending; its lag is what waits to be sent.
const RelayGroup = "kafka-relay"

// RelayGroup is the group of that name.
func (t *Transport) RelayGroup() string { return RelayGroup }

// Relay are the options of the group of RelayGroup, for bus.Bus.Handle. Every process of a store may be a member.
func (t *Transport) Relay() []bus.Option {
	return []bus.Option{
		bus.FromStore(), bus.OnForwardBatch(t.relay.forward, "**"), bus.OnFailure(bus.StopGroup), bus.ClassifyErrors(judge),
		bus.BatchSize(2000, 4<<20), bus.Timeout(30 * time.Second), bus.Backoff(20*time.Millisecond, 2*time.Second),
	}
}

// judge: what Kafka says about an event or a topic is for good until a person has mended it; all else will pass.
func judge(err error) (bus.Class, bool) {
	var wrong *bus.ConfigError
	var panicked *bus.PanicError
	if errors.As(err, &wrong) || errors.As(err, &panicked) {
		return bus.Permanent, true
	}
	for _, bad := range []error{kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.InvalidRecord, kerr.InvalidTopicException} {
		if errors.Is(err, bad) {
			return bus.Permanent, true
		}
	}
	return bus.Dependency, true
}

var codecs = map[string][]kgo.CompressionCodec{
	"none": {kgo.NoCompression()}, "lz4": {kgo.Lz4Compression(), kgo.NoCompression()}, "zstd": {kgo.ZstdCompression(), kgo.NoCompression()},
}

// relay sends events to topics.
type relay struct {
	t *Transport

	mu     sync.Mutex
	client *kgo.Client // nil until it is needed, and after a failure
	closed bool
}

// forward sends a run of events and returns when all in-sync replicas have them.
//
// When it fails nothing is known of any of them. The client is closed then: it must not send, later, what was to be sent
// earlier. What it has sent all the same is told apart by readers.
func (r *relay) forward(ctx context.Context, partition int, records []eventstore.Record) (func(context.Context, bus.Tx) error, error) {
	last, err := r.last(ctx, partition)
	if err != nil {
		return nil, bus.Transient(err)
	}
	out := make([]*kgo.Record, len(records))
	log := r.t.Log(partition)
	topics := map[string]topic{} // by domain
	for i, e := range records {
		d := domain(e.Type)
		k, ok := topics[d]
		if !ok {
			if k, err = r.t.topic(ctx, r.t.opts.Prefix+d); err != nil {
				return nil, err
			}
			topics[d] = k
		}
		p := eventstore.PartitionOf(e.PartitionKey, k.partitions)
		lane := k.name + "/" + strconv.Itoa(p)
		prev, ok := last[lane]
		if !ok || prev >= e.Offset { // nothing yet, or a person has set the relay back
			prev = -1
		}
		last[lane] = e.Offset
		out[i] = encode(e, k.name, int32(p), log, prev)
	}
	if err := r.send(ctx, out); err != nil {
		return nil, err
	}
	text, err := json.Marshal(last)
	if err != nil {
		return nil, err
	}
	return func(_ context.Context, tx bus.Tx) error {
		_, err := tx.Exec(`INSERT INTO carebus_kafka_relay (part, sent, updated_at) VALUES ($1, $2, $3)
			ON CONFLICT (part) DO UPDATE SET sent = excluded.sent, updated_at = excluded.updated_at`, partition, string(text), tx.Now().UnixMicro())
		return err
	}, nil
}

// last is what was sent of a partition of the store as of the checkpoint: by "topic/partition" the offset of the event sent
// last.
func (r *relay) last(ctx context.Context, partition int) (map[string]int64, error) {
	last := map[string]int64{}
	err := r.t.store.View(ctx, func(q eventstore.Querier) error {
		var text string
		err := q.QueryRowContext(ctx, `SELECT sent FROM carebus_kafka_relay WHERE part = $1`, partition).Scan(&text)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		return json.Unmarshal([]byte(text), &last)
	})
	return last, err
}

func (r *relay) send(ctx context.Context, records []*kgo.Record) error {
	client, err := r.producer()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	var first error
	left := len(records)
	done := make(chan struct{})
	for _, rec := range records {
		client.Produce(ctx, rec, func(rec *kgo.Record, err error) {
			mu.Lock()
			defer mu.Unlock()
			if err != nil && first == nil {
				first = fmt.Errorf("topic %s partition %d: %w", rec.Topic, rec.Partition, err)
				if errors.Is(err, kerr.MessageTooLarge) {
					first = fmt.Errorf("topic %s takes no record of %d bytes; raise its max.message.bytes, then resume the group %s: %w", rec.Topic, len(rec.Key)+len(rec.Value), RelayGroup, err)
				}
				if errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID) {
					r.t.forget(rec.Topic)
				}
			}
			if left--; left == 0 {
				close(done)
			}
		})
	}
	select {
	case <-done:
	case <-ctx.Done():
		mu.Lock()
		if first == nil {
			first = ctx.Err()
		}
		mu.Unlock()
	}
	mu.Lock()
	defer mu.Unlock()
	if first != nil {
		r.drop(client)
	}
	return first
}

// producer is the client that sends.
func (r *relay) producer() (*kgo.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errors.New("kafka: the transport is closed")
	}
	if r.client != nil {
		return r.client, nil
	}
	var err error
	r.client, err = r.t.client(
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerLinger(r.t.opts.Linger),
		kgo.ProducerBatchCompression(codecs[r.t.opts.Compression]...),
		kgo.ProducerBatchMaxBytesFn(r.limit),
		kgo.MaxBufferedRecords(1<<16), kgo.MaxBufferedBytes(256<<20),
		kgo.AllowIdempotentProduceCancellation(),
	)
	return r.client, err
}

// limit is the largest batch of a topic.
func (r *relay) limit(name string) int32 {
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	return max(r.t.known[name].maxBytes, leastBytes)
}

// drop closes a client. What it was asked to send by others fails too, and is sent again.
func (r *relay) drop(client *kgo.Client) {
	r.mu.Lock()
	same := r.client == client
	if same {
		r.client = nil
	}
	r.mu.Unlock()
	if same {
		client.Close()
	}
}

func (r *relay) close() {
	r.mu.Lock()
	client := r.client
	r.client, r.closed = nil, true
	r.mu.Unlock()
	if client != nil {
		client.Close()
	}
}
