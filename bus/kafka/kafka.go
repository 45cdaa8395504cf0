package kafka

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Options of a transport.
type Options struct {
	// Client says how Kafka is reached: kgo.SeedBrokers at least, and what TLS and SASL need. What the guarantees depend on
	// (acks, idempotence, partitioner, offsets, group protocol) is set after these.
	Client []kgo.Opt
	// Prefix of the names of topics and groups. Default "carebus.".
	Prefix string
	// Partitions and Replicas of topics that are created. Defaults: as many partitions as the store has; 3 replicas, or as
	// many as there are brokers. min.insync.replicas becomes one less than the replicas.
	Partitions, Replicas int
	// Retention of topics that are created: how long a group may be away and still find its events there. Default 7 days.
	Retention time.Duration
	// Compression of what is sent: "lz4", "zstd" or "none". Default "lz4".
	Compression string
	// Linger is how long a batch waits for company: it trades latency for throughput. Default 0.
	Linger time.Duration
	// Session is how long a member may be silent before Kafka gives its lanes to others. Default 10 s; brokers refuse less
	// than 6 s unless they are configured otherwise.
	Session time.Duration
	// AllowUnsafe uses topics that would be refused; see UnsafeError. For trials.
	AllowUnsafe bool
	// Logger receives what an operator should know, never a payload. Default slog.Default().
	Logger *slog.Logger
}

// Transport is Kafka as a bus over a store. It implements bus.Transport. All methods are safe for concurrent use.
type Transport struct {
	store *eventstore.Store
	opts  Options
	log   *slog.Logger
	id    string // of the store
	admin *kadm.Client

	looking sync.Mutex // held while a topic is looked at
	mu      sync.Mutex
	known   map[string]topic

	relay relay
}

var _ bus.Transport = (*Transport)(nil)

var prefixPattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,30}[.]$`)

// Open returns a transport over a store and creates its tables. Kafka is not asked for anything yet, and need not be there.
func Open(ctx context.Context, store *eventstore.Store, o *Options) (*Transport, error) {
	t := &Transport{store: store, known: map[string]topic{}}
	if o != nil {
		t.opts = *o
	}
	if t.opts.Prefix == "" {
		t.opts.Prefix = "carebus."
	}
	if t.opts.Partitions == 0 {
		t.opts.Partitions = store.Partitions()
	}
	if t.opts.Retention == 0 {
		t.opts.Retention = 7 * 24 * time.Hour
	}
	if t.opts.Session == 0 {
		t.opts.Session = 10 * time.Second
	}
	if t.opts.Compression == "" {
		t.opts.Compression = "lz4"
	}
	if t.log = t.opts.Logger; t.log == nil {
		t.log = slog.Default()
	}
	switch {
	case !prefixPattern.MatchString(t.opts.Prefix):
		return nil, &bus.ConfigError{Field: "Prefix", Reason: fmt.Sprintf("%q: use 1 to 31 lower-case letters, digits, _ and -, a letter first, and a dot at the end", t.opts.Prefix)}
	case t.opts.Partitions < 1 || t.opts.Partitions >= bus.FirstLane:
		return nil, &bus.ConfigError{Field: "Partitions", Reason: fmt.Sprintf("%d: use 1 to %d", t.opts.Partitions, bus.FirstLane-1)}
	case codecs[t.opts.Compression] == nil:
		return nil, &bus.ConfigError{Field: "Compression", Reason: fmt.Sprintf("%q: use none, lz4 or zstd", t.opts.Compression)}
	case t.opts.Replicas < 0 || t.opts.Replicas > 32767:
		return nil, &bus.ConfigError{Field: "Replicas", Reason: fmt.Sprintf("%d: use 1 to 32767, and 3 for production", t.opts.Replicas)}
	case t.opts.Retention < 24*time.Hour:
		return nil, &bus.ConfigError{Field: "Retention", Reason: fmt.Sprintf("%v: use a day or more, so that a service that was down overnight finds its events", t.opts.Retention)}
	case t.opts.Linger < 0 || t.opts.Linger > time.Minute:
		return nil, &bus.ConfigError{Field: "Linger", Reason: fmt.Sprintf("%v: use 0 to 1m", t.opts.Linger)}
	}
	if err := store.Migrate(ctx, "kafka", tables...); err != nil {
		return nil, fmt.Errorf("kafka: tables: %w", err)
	}
	err := store.Update(ctx, func(tx *eventstore.Tx) error {
		err := tx.QueryRowContext(ctx, `SELECT id FROM carebus_kafka_store`).Scan(&t.id)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		t.id = event.NewID()
		_, err = tx.ExecContext(ctx, `INSERT INTO carebus_kafka_store (one, id) VALUES (1, $1)`, t.id)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := t.loadTopics(ctx); err != nil {
		return nil, err
	}
	client, err := t.client()
	if err != nil {
		return nil, err
	}
	if err := greet(ctx, client); err != nil {
		client.Close()
		return nil, err
	}
	t.admin = kadm.NewClient(client)
	t.relay.t = t
	return t, nil
}

// greet finds out whether brokers that can be reached take this client. Those that cannot be reached are waited for later; but
// what is wrong with a password or a certificate does not get better by waiting.
func greet(ctx context.Context, client *kgo.Client) error {
	for tries := 1; ; tries++ {
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := client.Ping(short)
		cancel()
		var certificate *tls.CertificateVerificationError
		var record tls.RecordHeaderError
		switch {
		case err == nil || ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
			return &bus.ConfigError{Field: "Client", Reason: fmt.Sprintf("the brokers refuse the login: %v; check the SASL mechanism, the user and the password", err)}
		case errors.As(err, &certificate):
			return &bus.ConfigError{Field: "Client", Reason: fmt.Sprintf("the brokers' certificate is not trusted: %v; name its authority", err)}
		case errors.As(err, &record):
			return &bus.ConfigError{Field: "Client", Reason: fmt.Sprintf("the brokers do not speak TLS on this port: %v", err)}
		case err != nil && strings.Contains(err.Error(), "tls alert"): // taken for an answer; the library has no type for it
			return &bus.ConfigError{Field: "Client", Reason: fmt.Sprintf("the brokers want TLS on this port: %v", err)}
		case !errors.Is(err, io.EOF):
			return nil
		case tries > 1:
			return &bus.ConfigError{Field: "Client", Reason: fmt.Sprintf("the brokers close the connection at once: %v; they may want TLS, or another login", err)}
		}
		select { // it may have been going down
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// Close lets go of Kafka. Let the bus end first.
func (t *Transport) Close() {
	t.admin.Close()
	t.relay.close()
}

func (t *Transport) client(opts ...kgo.Opt) (*kgo.Client, error) {
	all := append([]kgo.Opt{kgo.ClientID("carebus"), kgo.MetadataMaxAge(30 * time.Second), kgo.MetadataMinAge(250 * time.Millisecond)}, t.opts.Client...)
	c, err := kgo.NewClient(append(all, opts...)...)
	if err != nil {
		return nil, &bus.ConfigError{Field: "Client", Reason: err.Error()}
	}
	return c, nil
}

// Log is the name of a partition of this store in topics.
func (t *Transport) Log(partition int) string { return t.id + "/" + strconv.Itoa(partition) }
