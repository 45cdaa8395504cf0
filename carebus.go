package carebus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/bus/kafka"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/driver"
	"github.com/carebus/carebus/eventstore/postgres"
	"github.com/carebus/carebus/eventstore/sqlite"
	"github.com/carebus/carebus/schema"
	"github.com/carebus/carebus/timer"
)

// Options of a platform. The zero value works.
type Options struct {
	// Partitions of a store that Open creates; fixed from then on. Default 12.
	Partitions int
	// ReadOnly opens a store only for reading: nothing is created, and nothing can be published or handled.
	ReadOnly bool
	// Limits of the envelope: sizes, depth, how far ahead of the clock a timestamp may lie. Default: event's own.
	Limits *event.Options
	// Linger is how long a commit waits for company: it trades latency for throughput. Default 0.
	Linger time.Duration
	// QueueBytes bounds the payloads that wait to be written; beyond it publishers wait. Default 64 MiB.
	QueueBytes int64
	// Member names this process in its consumer groups. Default: a new id.
	Member string
	// Lease is how long a partition stays with a process that gives no sign of life. Default 10 s.
	Lease time.Duration
	// Logger receives what an operator should know, never a payload. Default slog.Default().
	Logger *slog.Logger
	// Clock is the time that events are recorded at and timers fire by. It is for tests, see carebustest.OpenAt; processes
	// of one store must agree on it. Default time.Now.
	Clock func() time.Time
	// Kafka makes Apache Kafka the bus: events go from the store to topics, and groups read these. Default: groups read the
	// store. It is for a cluster of services with stores of their own; see package bus/kafka.
	Kafka *kafka.Options
	// Hooks are told of what the platform does: values with the methods of eventstore.AppendHook, eventstore.CommitHook,
	// bus.HandleHook, bus.CallHook, saga.StepHook, and the hooks of package gateway. Package telemetry makes some.
	// Default: none.
	Hooks []any
}

// Receipt says where an event was stored, and whether it was there already.
type Receipt = eventstore.Receipt

// ErrReserved refuses events of the domain "platform": carebus states those itself.
var ErrReserved = errors.New(`the domain "platform" is carebus's own; use a domain of yours`)

// ErrReadOnly is the answer to publishing and handling on a platform opened with ReadOnly.
var ErrReadOnly = eventstore.ErrReadOnly

// Platform is an open store with its registry of schemas and its bus. All methods are safe for concurrent use.
type Platform struct {
	store    *eventstore.Store
	registry *schema.Registry
	bus      *bus.Bus
	kafka    *kafka.Transport // nil when groups read the store
	timers   *timer.Timers
	limits   *event.Options
	log      *slog.Logger
	readOnly bool
	hooks    []any

	refreshMu sync.Mutex
	seen      time.Time       // newest registration folded
	tick      eventstore.Tick // of the store's news when the registry was last brought up to date
	fresh     bool            // tick is valid
}

// Open opens a store, creating it when it does not exist, registers the healthcare catalog in it, and returns the
// platform over it. The store is named "sqlite:PATH" or "postgres://USER:PASSWORD@HOST:PORT/DATABASE"; a name without a
// scheme is a path.
func Open(ctx context.Context, name string, o *Options) (*Platform, error) {
	if o == nil {
		o = &Options{}
	}
	p := &Platform{registry: schema.New(), limits: o.Limits, log: o.Logger, readOnly: o.ReadOnly, hooks: o.Hooks}
	if p.log == nil {
		p.log = slog.Default()
	}
	d, err := openEngine(ctx, name, o)
	if err != nil {
		return nil, err
	}
	p.store = eventstore.New(d, &eventstore.Options{Admit: p.admit, Linger: o.Linger, QueueBytes: o.QueueBytes, Hooks: o.Hooks})
	if err := p.start(ctx, o); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func openEngine(ctx context.Context, name string, o *Options) (driver.Driver, error) {
	scheme, path, ok := strings.Cut(name, ":")
	switch {
	case name == "" || ok && path == "":
		return nil, fmt.Errorf("carebus: store %q names no file; use sqlite:PATH or postgres://…", name)
	case !ok:
		path = name
	case scheme == "postgres" || scheme == "postgresql":
		return postgres.Open(ctx, name, &postgres.Options{Partitions: o.Partitions, ReadOnly: o.ReadOnly, Clock: o.Clock, Logger: o.Logger})
	case scheme != "sqlite":
		if strings.ContainsAny(scheme, `/\.`) || len(scheme) == 1 {
			path = name // a path with a colon, or a drive letter
			break
		}
		return nil, fmt.Errorf("carebus: store %s:…: no engine %q; use sqlite:PATH or postgres://…", scheme, scheme)
	}
	return sqlite.Open(ctx, path, &sqlite.Options{Partitions: o.Partitions, ReadOnly: o.ReadOnly, Clock: o.Clock})
}

func (p *Platform) start(ctx context.Context, o *Options) error {
	if err := p.loadSchemas(ctx); err != nil {
		return err
	}
	if o.ReadOnly {
		return nil
	}
	var err error
	if p.timers, err = timer.Open(ctx, p.store, &timer.Options{Logger: p.log}); err != nil {
		return err
	}
	set := &bus.Options{
		Member: o.Member, Lease: o.Lease, Logger: p.log,
		Upcast: p.Upcast, Validate: p.validate, Hooks: o.Hooks,
	}
	if o.Kafka != nil {
		if p.kafka, err = kafka.Open(ctx, p.store, o.Kafka); err != nil {
			return err
		}
		set.Transport = p.kafka
	}
	if p.bus, err = bus.New(ctx, p.store, set); err != nil || p.kafka == nil {
		return err
	}
	return p.bus.Handle(p.kafka.RelayGroup(), p.kafka.Relay()...)
}

// admit completes and checks an event on its way into the store.
func (p *Platform) admit(ctx context.Context, e *event.Event) error {
	*e = event.Complete(ctx, *e)
	if _, err := e.Check(p.limits); err != nil {
		return err
	}
	if err := p.validate(*e); err != nil {
		return err
	}
	*e = p.registry.Complete(*e)
	return nil
}

// Check completes an event as Publish does and says whether it would be accepted, without storing it: the event as it
// would be stored, and warnings. An event that would be refused gives an *event.InvalidError.
func (p *Platform) Check(ctx context.Context, e event.Event) (event.Event, []event.Finding, error) {
	e = event.Complete(ctx, e)
	warnings, err := e.Check(p.limits)
	if err != nil {
		return e, nil, err
	}
	if err := p.validate(e); err != nil {
		return e, warnings, err
	}
	return p.registry.Complete(e), warnings, nil
}

// Publish stores an event and returns when it is on stable storage. Errors: *event.InvalidError for an event that
// breaks a rule or its schema, eventstore.ErrDifferentContent for an id that was used for another event,
// eventstore.ErrBackPressure when ctx ended while too many others were waiting, eventstore.ErrFull for a full disk.
func (p *Platform) Publish(ctx context.Context, e event.Event) (Receipt, error) {
	rs, err := p.Append(ctx, "", eventstore.AnyVersion, e)
	if err != nil {
		return Receipt{}, err
	}
	return rs[0], nil
}

// PublishBatch stores events, all or none. Receipts are in the order of the events. An event that is refused is named
// by an *eventstore.BatchError.
func (p *Platform) PublishBatch(ctx context.Context, events []event.Event) ([]Receipt, error) {
	return p.Append(ctx, "", eventstore.AnyVersion, events...)
}

// Append stores events, all or none, as the next of a stream: the history of one entity, such as
// "patient.record/P987654321". expected is the version that the caller has seen, or eventstore.NoStream or AnyVersion;
// when the stream has moved on the error is an *eventstore.ConflictError.
func (p *Platform) Append(ctx context.Context, stream string, expected int64, events ...event.Event) ([]Receipt, error) {
	if p.readOnly {
		return nil, ErrReadOnly
	}
	for i := range events {
		if strings.HasPrefix(events[i].Type, "platform.") {
			return nil, fmt.Errorf("%s: %w", events[i].Type, ErrReserved)
		}
	}
	return p.store.Append(ctx, stream, expected, events...)
}

// Handle makes this process a member of a consumer group; see bus.Bus.Handle.
func (p *Platform) Handle(group string, opts ...bus.Option) error {
	if p.readOnly {
		return ErrReadOnly
	}
	return p.bus.Handle(group, opts...)
}

// Run handles events until ctx ends, lets the handlers under way finish and commit, and returns nil. It returns an
// error only when the store cannot be used at all.
func (p *Platform) Run(ctx context.Context) error {
	if p.readOnly {
		return ErrReadOnly
	}
	// Timers end first, and then the groups, which handle what has fired.
	timers, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- p.timers.Run(timers) }()
	err := p.bus.Run(ctx)
	stop()
	return errors.Join(err, <-done)
}

// Timers publish events at a time to come, while Run runs. It is nil when the platform is read-only.
func (p *Platform) Timers() *timer.Timers { return p.timers }

// Store is the event store, for reading the log, streams, flows and types.
func (p *Platform) Store() *eventstore.Store { return p.store }

// Bus operates consumer groups: status, pause, replay, dead letters. It is nil when the platform is read-only.
func (p *Platform) Bus() *bus.Bus { return p.bus }

// Hooks are those of Options, for components that have hooks of their own.
func (p *Platform) Hooks() []any { return p.hooks }

// Close lets what is queued be committed and closes the store. Let Run return first.
func (p *Platform) Close() error {
	if p.kafka != nil {
		p.kafka.Close()
	}
	return p.store.Close()
}
