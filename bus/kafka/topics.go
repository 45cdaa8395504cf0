package kafka

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// UnsafeError refuses a topic, or a cluster, in which what was acknowledged could be lost or the order of a key broken.
type UnsafeError struct {
	Topic    string
	Findings []string // what is wrong, why, and what to do
}

func (e *UnsafeError) Error() string {
	return fmt.Sprintf("topic %s is refused: %s", e.Topic, strings.Join(e.Findings, "; "))
}

// Topics are kept in the database by number, so that lanes have the same one in every process and for ever.
//
// carebus_kafka_store has one row, the name by which the store's events are known in topics.
//
// carebus_kafka_topics: topic_id tells a topic from one of the same name that was created later; partitions is how many
// there were when it was first used, as with another number keys would lie elsewhere.
//
// carebus_kafka_relay is, by partition of the store, the offset of the event that was last sent to each partition of a
// topic.
var tables = []string{`
CREATE TABLE carebus_kafka_store (
	one BIGINT PRIMARY KEY,
	id TEXT NOT NULL
);
CREATE TABLE carebus_kafka_topics (
	topic TEXT PRIMARY KEY,
	number BIGINT NOT NULL UNIQUE,
	topic_id TEXT NOT NULL,
	partitions BIGINT NOT NULL
);
CREATE TABLE carebus_kafka_relay (
	part BIGINT PRIMARY KEY,
	sent TEXT NOT NULL,
	updated_at BIGINT NOT NULL
);
`}

// topic is one that is known to be right.
type topic struct {
	name       string
	number     int
	id         string
	partitions int
	maxBytes   int32
}

func (t topic) lane(partition int) int { return t.number*bus.FirstLane + partition }

// Place says what a lane is.
func (t *Transport) Place(lane int) (string, int) {
	name, ok := t.place(lane)
	if !ok { // another process may have begun to use the topic
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := t.loadTopics(ctx); err == nil {
			name, ok = t.place(lane)
		}
	}
	if !ok {
		name = fmt.Sprintf("topic %d", lane/bus.FirstLane)
	}
	return name, lane % bus.FirstLane
}

func (t *Transport) place(lane int) (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range t.known {
		if k.number == lane/bus.FirstLane {
			return k.name, true
		}
	}
	return "", false
}

// LaneAt is the opposite of Place.
func (t *Transport) LaneAt(name string, partition int) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.known[name]
	return k.lane(partition), ok && partition >= 0 && partition < k.partitions
}

// LaneOf returns the lane that events of a type and key lie in.
func (t *Transport) LaneOf(eventType, key string) (int, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.known[t.opts.Prefix+domain(eventType)]
	if !ok {
		return 0, false
	}
	return k.lane(eventstore.PartitionOf(key, k.partitions)), true
}

func domain(eventType string) string {
	d, _, _ := strings.Cut(eventType, ".")
	return d
}

// Lanes returns the lanes of the topics that patterns name. A pattern of any domain names the topics that there are.
func (t *Transport) Lanes(ctx context.Context, patterns []string) ([]int, error) {
	names := map[string]bool{}
	for _, p := range patterns {
		if d := domain(p); d != "*" && d != "**" {
			names[t.opts.Prefix+d] = true
			continue
		}
		found, err := t.admin.ListTopics(ctx)
		if err != nil {
			return nil, err
		}
		for name := range found {
			if strings.HasPrefix(name, t.opts.Prefix) {
				names[name] = true
			}
		}
	}
	var lanes []int
	for name := range names {
		k, err := t.topic(ctx, name)
		if err != nil {
			return nil, err
		}
		for p := range k.partitions {
			lanes = append(lanes, k.lane(p))
		}
	}
	slices.Sort(lanes)
	return lanes, nil
}

// topic returns a topic that was checked, creating it when it does not exist.
func (t *Transport) topic(ctx context.Context, name string) (topic, error) {
	t.mu.Lock()
	k, ok := t.known[name]
	t.mu.Unlock()
	if ok && k.id != "" {
		return k, nil
	}
	t.looking.Lock() // one at a time
	defer t.looking.Unlock()
	found, err := t.admin.ListTopics(ctx, name)
	if err != nil {
		return k, err
	}
	if err := found[name].Err; errors.Is(err, kerr.UnknownTopicOrPartition) || err == nil && !found.Has(name) {
		if err := t.create(ctx, name); err != nil {
			return k, err
		}
		// Brokers hear of it one after the other.
		for tries := 0; tries < 100 && (!found.Has(name) || found[name].Err != nil); tries++ {
			wait := time.NewTimer(50 * time.Millisecond)
			select {
			case <-wait.C:
			case <-ctx.Done():
			}
			wait.Stop()
			if found, err = t.admin.ListTopics(ctx, name); err != nil {
				return k, err
			}
		}
	}
	detail := found[name]
	if detail.Err != nil {
		return k, fmt.Errorf("topic %s: %w", name, detail.Err)
	}
	if k, err = t.check(ctx, detail); err != nil {
		return k, err
	}
	if k, err = t.number(ctx, k); err != nil {
		return k, err
	}
	t.mu.Lock()
	t.known[name] = k
	t.mu.Unlock()
	return k, nil
}

// forget has a topic looked at anew.
func (t *Transport) forget(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if k, ok := t.known[name]; ok {
		k.id = ""
		t.known[name] = k
	}
}

// leastBytes is what a topic must take: an envelope of 1 MiB, and its headers.
const leastBytes, createdBytes = 1<<20 + 64<<10, 2 << 20

func (t *Transport) create(ctx context.Context, name string) error {
	brokers, err := t.admin.ListBrokers(ctx)
	if err != nil {
		return err
	}
	replicas := t.opts.Replicas
	if replicas == 0 {
		replicas = min(3, len(brokers))
	}
	text := func(n int64) *string { s := strconv.FormatInt(n, 10); return &s }
	no, remove := "false", "delete"
	_, err = t.admin.CreateTopic(ctx, int32(t.opts.Partitions), int16(replicas), map[string]*string{
		"min.insync.replicas":            text(int64(max(1, replicas-1))),
		"max.message.bytes":              text(createdBytes),
		"retention.ms":                   text(t.opts.Retention.Milliseconds()),
		"cleanup.policy":                 &remove,
		"unclean.leader.election.enable": &no,
	}, name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("topic %s cannot be created: %w", name, err)
	}
	t.log.Info("kafka: topic created", "topic", name, "partitions", t.opts.Partitions, "replicas", replicas)
	return nil
}

// check refuses what is unsafe.
func (t *Transport) check(ctx context.Context, d kadm.TopicDetail) (topic, error) {
	k := topic{name: d.Topic, id: d.ID.String(), partitions: len(d.Partitions), maxBytes: leastBytes}
	configs, err := t.admin.DescribeTopicConfigs(ctx, d.Topic)
	if err != nil {
		return k, err
	}
	c := map[string]string{}
	for _, one := range configs {
		if one.Err != nil {
			return k, fmt.Errorf("topic %s: its configuration cannot be read (the principal needs DESCRIBE_CONFIGS): %w", d.Topic, one.Err)
		}
		for _, kv := range one.Configs {
			c[kv.Key] = kv.MaybeValue()
		}
	}
	brokers, err := t.admin.ListBrokers(ctx)
	if err != nil {
		return k, err
	}
	number := func(key string) int64 { n, _ := strconv.ParseInt(c[key], 10, 64); return n }
	k.maxBytes = int32(number("max.message.bytes"))
	replicas := d.Partitions.NumReplicas()
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if len(brokers) > 1 && replicas < 2 {
		say("it has one replica on a cluster of %d brokers: the loss of one broker loses events; use 3", len(brokers))
	}
	if least := number("min.insync.replicas"); replicas > 1 && least < 2 {
		say("min.insync.replicas is %d: an acknowledged event may be on one broker alone; set it to 2", least)
	} else if replicas > 1 && int(least) >= replicas {
		t.log.Warn("kafka: min.insync.replicas equals the number of replicas: when one broker is away nothing is sent", "topic", d.Topic)
	}
	if c["unclean.leader.election.enable"] == "true" {
		say("unclean.leader.election.enable is true: a replica that lacks acknowledged events may become the leader; set it to false")
	}
	if strings.Contains(c["cleanup.policy"], "compact") {
		say("cleanup.policy is %s: compaction removes all but the last event of a key; set it to delete", c["cleanup.policy"])
	}
	if n := number("max.message.bytes"); n < leastBytes {
		say("max.message.bytes is %d: an event may have 1 MiB; set it to %d", n, createdBytes)
	}
	if ms := number("retention.ms"); ms >= 0 && ms < (24*time.Hour).Milliseconds() {
		say("retention.ms is %d, less than a day: a service that is down overnight would miss events; set it to %d", ms, t.opts.Retention.Milliseconds())
	}
	if c["message.timestamp.type"] == "CreateTime" && c["message.timestamp.before.max.ms"] != "" {
		if ms := number("message.timestamp.before.max.ms"); ms < time.Hour.Milliseconds() {
			say("message.timestamp.before.max.ms is %d: events that waited for the broker would be refused; leave it at its default", ms)
		}
	}
	if len(wrong) == 0 {
		return k, nil
	}
	unsafe := &UnsafeError{Topic: d.Topic, Findings: wrong}
	if t.opts.AllowUnsafe {
		t.log.Warn("kafka: " + unsafe.Error() + " (used all the same, as AllowUnsafe says)")
		return k, nil
	}
	return k, errors.Join(unsafe, &bus.ConfigError{Field: "topic " + d.Topic, Reason: "is not safe"})
}

// number gives a topic its number, and proves that it is the topic that had it.
func (t *Transport) number(ctx context.Context, k topic) (topic, error) {
	if len(k.id) == 0 || k.partitions == 0 {
		return k, fmt.Errorf("topic %s has no partitions yet", k.name)
	}
	read := func(q eventstore.Querier) (was topic, err error) {
		was = topic{name: k.name, maxBytes: k.maxBytes}
		err = q.QueryRowContext(ctx, `SELECT number, topic_id, partitions FROM carebus_kafka_topics WHERE topic = $1`, k.name).Scan(&was.number, &was.id, &was.partitions)
		return was, err
	}
	var was topic
	err := t.store.View(ctx, func(q eventstore.Querier) (err error) { was, err = read(q); return err })
	if errors.Is(err, sql.ErrNoRows) {
		err = t.store.Update(ctx, func(tx *eventstore.Tx) (err error) {
			if was, err = read(tx); !errors.Is(err, sql.ErrNoRows) {
				return err // another process was first
			}
			var last int64
			if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(number), 0) FROM carebus_kafka_topics`).Scan(&last); err != nil {
				return err
			}
			was = k
			was.number = int(last) + 1
			_, err = tx.ExecContext(ctx, `INSERT INTO carebus_kafka_topics (topic, number, topic_id, partitions) VALUES ($1, $2, $3, $4)`, k.name, was.number, k.id, k.partitions)
			return err
		})
	}
	switch {
	case err != nil:
		return k, err
	case was.id != k.id:
		return k, &bus.ConfigError{Field: "topic " + k.name, Reason: "it was deleted and created again since it was first used; what the groups have read of it says nothing about the new one. Use another prefix, or remove its row in carebus_kafka_topics and seek the groups and the relay"}
	case was.partitions != k.partitions:
		return k, &bus.ConfigError{Field: "topic " + k.name, Reason: fmt.Sprintf("it has %d partitions and had %d: keys lie in other partitions now, so their order is broken. Move to topics of another prefix, created with as many as are needed", k.partitions, was.partitions)}
	}
	return was, nil
}

// loadTopics reads the numbers of the topics that were used before, so that lanes have names although no broker answers.
func (t *Transport) loadTopics(ctx context.Context) error {
	return t.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT topic, number, partitions FROM carebus_kafka_topics`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k topic // without an id: not looked at yet
			if err := rows.Scan(&k.name, &k.number, &k.partitions); err != nil {
				return err
			}
			t.mu.Lock()
			if _, ok := t.known[k.name]; !ok {
				t.known[k.name] = k
			}
			t.mu.Unlock()
		}
		return rows.Err()
	})
}

// answerTime is how long brokers have to answer a question: a person may wait for it. Within it a broker that is away, or has
// not heard of a topic yet, is asked again.
const answerTime = 10 * time.Second

func ask(ctx context.Context, question func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	var last error
	for {
		err := question(ctx)
		if err == nil {
			return nil
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) { // which says less
			last = err
		}
		wait := time.NewTimer(200 * time.Millisecond)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return last
		}
	}
}

// offsetOf is what brokers have listed of a partition of a topic.
func offsetOf(listed kadm.ListedOffsets, name string, partition int) (int64, error) {
	o, ok := listed.Lookup(name, int32(partition))
	switch {
	case !ok:
		return 0, fmt.Errorf("topic %s partition %d: no broker tells of its offsets", name, partition)
	case o.Err != nil:
		return 0, fmt.Errorf("topic %s partition %d: its offsets cannot be read: %w", name, partition, o.Err)
	}
	return o.Offset, nil
}

// Bounds returns where lanes begin and end.
func (t *Transport) Bounds(ctx context.Context, lanes []int) (map[int]bus.Bounds, error) {
	out := make(map[int]bus.Bounds, len(lanes))
	topics := t.topicsOf(lanes)
	if len(topics) == 0 {
		return out, nil
	}
	return out, ask(ctx, func(ctx context.Context) error {
		starts, err := t.admin.ListStartOffsets(ctx, topics...)
		if err != nil {
			return err
		}
		ends, err := t.admin.ListEndOffsets(ctx, topics...)
		if err != nil {
			return err
		}
		for _, lane := range lanes {
			name, p := t.Place(lane)
			start, err1 := offsetOf(starts, name, p)
			end, err2 := offsetOf(ends, name, p)
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			out[lane] = bus.Bounds{Start: start, End: end}
		}
		return nil
	})
}

// OffsetsAt returns where lanes were at a time, by the time that the relay sent the events.
func (t *Transport) OffsetsAt(ctx context.Context, lanes []int, at time.Time) (map[int]int64, error) {
	out := make(map[int]int64, len(lanes))
	return out, ask(ctx, func(ctx context.Context) error {
		found, err := t.admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), t.topicsOf(lanes)...)
		if err != nil {
			return err
		}
		for _, lane := range lanes {
			name, p := t.Place(lane)
			if out[lane], err = offsetOf(found, name, p); err != nil {
				return err
			}
		}
		return nil
	})
}

func (t *Transport) topicsOf(lanes []int) []string {
	names := map[string]bool{}
	for _, lane := range lanes {
		name, _ := t.Place(lane)
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}
