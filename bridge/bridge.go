package bridge

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Platform is what a bridge stands on; *carebus.Platform is one.
type Platform interface {
	// Store holds the events, and the tables of this package.
	Store() *eventstore.Store
	// Handle makes this process a member of a consumer group.
	Handle(group string, opts ...bus.Option) error
	// Check says whether an event would be accepted, and returns it as it would be stored.
	Check(ctx context.Context, e event.Event) (event.Event, []event.Finding, error)
}

// Options of a bridge.
type Options struct {
	// Client says how Kafka is reached: kgo.SeedBrokers at least, and what TLS and SASL need. A bridge sets what its
	// guarantees depend on (acks, idempotence, partitioner, offsets) after these.
	Client []kgo.Opt
	// CreateTopics creates topics that are missing. Default: they are waited for, and said to be missing.
	CreateTopics bool
	// Partitions and Replicas of topics that are created. Defaults: as many partitions as the store has, so that a key has
	// the same partition number there; the broker's own replication factor.
	Partitions, Replicas int
	// Lease is how long copying in stays with a process that gives no sign of life. Default 10 s.
	Lease time.Duration
	// Logger receives what an operator should know, never a payload. Default slog.Default().
	Logger *slog.Logger
}

// Bridge copies events between a store and Kafka, under a name that its progress hangs on. All methods are safe for
// concurrent use.
type Bridge struct {
	name  string
	p     Platform
	store *eventstore.Store
	o     Options
	log   *slog.Logger
	id    string // of the store: the header by which a bridge knows its own records
	count counters

	mu     sync.Mutex
	out    *sender
	inside bool // Run of In is under way
}

// Group is the consumer group, on the bus, that has the progress of a bridge's way out; and the name under which the
// progress of its way in is told to Kafka, for tools that show lag.
func Group(name string) string { return "bridge:" + name }

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,63}$`)

// Open returns the bridge of a name over a platform and creates its tables. The name is its identity for ever: offsets,
// refused records and the group on the bus hang on it. Nothing is connected yet.
func Open(ctx context.Context, p Platform, name string, o *Options) (*Bridge, error) {
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("bridge: name %q: use 1 to 64 lower-case letters, digits, dots and hyphens, a letter first", name)
	}
	b := &Bridge{name: name, p: p, store: p.Store()}
	if o != nil {
		b.o = *o
	}
	if b.o.Partitions == 0 {
		b.o.Partitions = b.store.Partitions()
	}
	if b.o.Replicas == 0 {
		b.o.Replicas = -1
	}
	if b.o.Lease == 0 {
		b.o.Lease = 10 * time.Second
	}
	if b.log = b.o.Logger; b.log == nil {
		b.log = slog.Default()
	}
	b.log = b.log.With("bridge", name)
	if err := b.store.Migrate(ctx, "bridge", tables...); err != nil {
		return nil, err
	}
	err := b.store.Update(ctx, func(tx *eventstore.Tx) (err error) {
		b.id, err = storeID(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// Close lets go of Kafka. End what runs first: the platform's Run, and In.
func (b *Bridge) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.out != nil {
		b.out.kafka().Close()
	}
}

// client returns a connection to Kafka; opts are what the bridge itself depends on.
func (b *Bridge) client(opts ...kgo.Opt) (*kgo.Client, error) {
	all := append([]kgo.Opt{kgo.ClientID("carebus-" + b.name)}, b.o.Client...)
	c, err := kgo.NewClient(append(all, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("bridge %s: %w", b.name, err)
	}
	return c, nil
}

// ErrNoTopic: the topic does not exist. Create it, or let the bridge do so with Options.CreateTopics.
var ErrNoTopic = errors.New("the topic does not exist")

// OffsetError says that a topic partition is not what the bridge has read so far: going on would skip records, or read
// others in their place, in silence. A person decides, with Seek.
type OffsetError struct {
	Topic     string
	Partition int32
	Next      int64 // where the bridge would read on
	Start     int64 // the first offset that Kafka still has
	End       int64 // the offset that the next record will get
	Recreated bool  // the topic was deleted and created again
}

func (e *OffsetError) Error() string {
	place := fmt.Sprintf("topic %s partition %d: ", e.Topic, e.Partition)
	remedy := "decide where to read on, then use carebus bridge seek"
	switch {
	case e.Recreated:
		return place + fmt.Sprintf("the topic was deleted and created again since the bridge read up to offset %d of it; %s", e.Next, remedy)
	case e.Next < e.Start:
		return place + fmt.Sprintf("the bridge would read on at offset %d, and Kafka has nothing before %d any more: %d records were removed unread; %s", e.Next, e.Start, e.Start-e.Next, remedy)
	default:
		return place + fmt.Sprintf("the bridge would read on at offset %d, and Kafka ends at %d: records that were read are lost there; %s", e.Next, e.End, remedy)
	}
}
