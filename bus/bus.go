package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Options of a bus. The zero value works.
type Options struct {
	// Member names this process among the members of its groups; it must be unique. Default: a new id.
	Member string
	// Lease is how long a partition stays with a member that gives no sign of life. Default 10 s. A member renews at a
	// third of it.
	Lease time.Duration
	// Upcast brings an event to another major version of its schema. Default: no upcasting.
	Upcast func(e event.Event, version string) (event.Event, error)
	// Validate checks an event against its schema, for the dry run of a redrive and for corrections. Default: no check.
	Validate func(e event.Event) error
	// Transport brings events to the groups, in the place of the store's own log; a group may still ask for that, see
	// FromStore. Default: none.
	Transport Transport
	// Logger receives what an operator should know; never a payload. Default: slog.Default().
	Logger *slog.Logger
	// Hooks are told of events being handled and of calls to the outside. Default: none.
	Hooks []Hook
}

// Bus delivers the events of a store to groups of handlers, and operates those groups.
// All methods are safe for concurrent use.
type Bus struct {
	store *eventstore.Store
	opts  Options
	log   *slog.Logger

	handleHooks []HandleHook
	callHooks   []CallHook

	oldest struct { // see recordedAt
		sync.Mutex
		times map[spot]time.Time
	}
	away atomic.Int64 // until then, in ns, the transport is taken to be out of reach; see shownHeads

	mu      sync.Mutex
	groups  map[string]*group
	running bool
	start   func(*group) // starts a group's member; nil before Run and after its context has ended
}

// New returns a bus over a store and creates or upgrades its tables.
func New(ctx context.Context, store *eventstore.Store, o *Options) (*Bus, error) {
	b := &Bus{store: store, groups: map[string]*group{}}
	if o != nil {
		b.opts = *o
	}
	if b.opts.Member == "" {
		b.opts.Member = event.NewID()
	}
	if b.opts.Lease == 0 {
		b.opts.Lease = 10 * time.Second
	}
	if b.opts.Lease < 30*time.Millisecond {
		return nil, &ConfigError{Field: "Lease", Reason: fmt.Sprintf("%v is too short; use 30ms or more", b.opts.Lease)}
	}
	b.log = b.opts.Logger
	if b.log == nil {
		b.log = slog.Default()
	}
	for _, h := range b.opts.Hooks {
		if one, ok := h.(HandleHook); ok {
			b.handleHooks = append(b.handleHooks, one)
		}
		if one, ok := h.(CallHook); ok {
			b.callHooks = append(b.callHooks, one)
		}
	}
	if err := store.Migrate(ctx, "bus", schemaSteps...); err != nil {
		return nil, fmt.Errorf("bus: tables: %w", err)
	}
	return b, nil
}

// group is what this process knows of a consumer group that it is a member of.
type group struct {
	bus      *Bus
	name     string
	handlers []*handler
	set      settings
	breaker  *breaker

	transport Transport    // nil for a group that reads the store
	member    Member       // of the transport's group; set by run
	known     map[int]bool // lanes that have a checkpoint

	log *slog.Logger

	poke chan struct{} // wakes the member loop: a lease was lost, an operator acted
	// accused is held while an event is handled on which a process has died before: of several such events, in several
	// partitions, only the one in hand may be blamed for the next death.
	accused sync.Mutex
	keys    keyCount

	cancel context.CancelFunc // ends the member; nil until it runs
	left   chan struct{}      // closed when the member has ended
}

// Handle makes this process a member of a group: opts are handlers (On, OnRecord, OnBatch, OnCall, OnForward) and
// settings. Under way before Run or while it runs: then the member starts at once. The name is the group's identity for
// ever: checkpoints, leases and parked keys hang on it.
func (b *Bus) Handle(name string, opts ...Option) error {
	if err := checkGroupName(name); err != nil {
		return err
	}
	g := &group{bus: b, name: name, set: defaultSettings(), log: b.log.With("group", name), poke: make(chan struct{}, 1), left: make(chan struct{})}
	for _, o := range opts {
		o.apply(g)
	}
	if err := g.checkHandlers(); err != nil {
		return err
	}
	if !g.set.fromStore && slices.ContainsFunc(g.patterns(), func(p string) bool { return !ours(p) }) {
		g.transport = b.opts.Transport
	}
	g.breaker = newBreaker(g.set.breakAfter, max(g.set.retryMin, 50*time.Millisecond), max(g.set.retryMax, 50*time.Millisecond), time.Now)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.running && b.start == nil:
		return &ConfigError{Field: "group " + name, Reason: "the bus has ended"}
	case b.groups[name] != nil:
		return &ConfigError{Field: "group " + name, Reason: "handled twice in this process; pass all handlers in one call"}
	}
	b.groups[name] = g
	if b.start != nil {
		b.start(g)
	}
	return nil
}

// Leave ends this process's membership of a group: the handlers under way finish and commit, and the partitions are given
// to the other members. The group stays in the store, and Handle may join it again. Leaving a group that this process is
// no member of does nothing. When ctx ends first, its error is returned and the leaving goes on.
func (b *Bus) Leave(ctx context.Context, name string) error {
	b.mu.Lock()
	g := b.groups[name]
	if g != nil && g.cancel == nil { // Run has not begun
		delete(b.groups, name)
		g = nil
	}
	b.mu.Unlock()
	if g == nil {
		return nil
	}
	g.cancel()
	select {
	case <-g.left:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func checkGroupName(name string) error {
	if name == "" || len(name) > 128 {
		return &ConfigError{Field: "group", Reason: "the name must have 1 to 128 characters"}
	}
	for _, r := range name {
		if r <= ' ' || r > '~' {
			return &ConfigError{Field: "group " + name, Reason: "the name may have only visible ASCII characters"}
		}
	}
	return nil
}

// Run handles events until ctx ends, then lets the handlers under way finish and commit, gives the partitions back and
// returns nil. It returns an error only when the store can't be used at all. A bus runs once.
func (b *Bus) Run(ctx context.Context) error {
	b.mu.Lock()
	if b.running {
		b.mu.Unlock()
		return &ConfigError{Field: "Run", Reason: "called twice"}
	}
	b.running = true
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	var errs []error // under b.mu
	b.start = func(g *group) {
		mine, cancel := context.WithCancel(ctx)
		g.cancel = cancel
		wg.Go(func() {
			defer close(g.left)
			defer cancel()
			err := g.run(mine)
			b.mu.Lock()
			defer b.mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				stop()
			}
			if ctx.Err() == nil { // it was left: its name is free again
				delete(b.groups, g.name)
			}
		})
	}
	for _, g := range b.groups {
		b.start(g)
	}
	b.mu.Unlock()

	<-ctx.Done()
	b.mu.Lock()
	b.start = nil
	b.mu.Unlock()
	wg.Wait()
	return errors.Join(errs...)
}

// Joined returns the names of the groups that this process is a member of, sorted.
func (b *Bus) Joined() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.groups))
}

// BreakerOpen reports of each group that this process is a member of whether its circuit breaker is open, here.
func (b *Bus) BreakerOpen() map[string]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	open := make(map[string]bool, len(b.groups))
	for name, g := range b.groups {
		open[name] = g.breaker.open()
	}
	return open
}

// Idle waits until every group of this process has handled everything that was stored when Idle was called, parked
// keys aside. It is for tests, demos and shutdown; it needs Run to be under way.
func (b *Bus) Idle(ctx context.Context) error {
	heads, err := b.store.Heads(ctx)
	if err != nil {
		return err
	}
	var direct, lanes []string
	b.mu.Lock()
	for name, g := range b.groups {
		if g.transport == nil {
			direct = append(direct, name)
		} else {
			lanes = append(lanes, name)
		}
	}
	b.mu.Unlock()
	if len(lanes) > 0 {
		direct = append(direct, b.opts.Transport.RelayGroup())
	}
	ends := map[int]int64{}
	for p, head := range heads {
		ends[p] = head
	}
	if err := b.passed(ctx, direct, ends, true); err != nil {
		return err
	}
	// What the relay has passed is in the lanes.
	for _, name := range lanes {
		parts, err := b.entered(ctx, name)
		if err != nil {
			return err
		}
		if ends, err = b.heads(ctx, parts); err != nil {
			return err
		}
		if err := b.passed(ctx, []string{name}, ends, false); err != nil {
			return err
		}
	}
	return nil
}

// entered waits until a group has checkpoints and returns where.
func (b *Bus) entered(ctx context.Context, group string) ([]int, error) {
	for {
		tick := b.store.Tick()
		if parts, err := b.partsOf(ctx, group); err != nil || len(parts) > 0 {
			return parts, err
		}
		if _, err := b.store.Wait(ctx, tick); err != nil {
			return nil, err
		}
	}
}

// passed waits until groups have checkpoints at or behind ends.
func (b *Bus) passed(ctx context.Context, groups []string, ends map[int]int64, all bool) error {
	for {
		tick := b.store.Tick()
		behind := false
		for _, n := range groups {
			ps, err := b.positions(ctx, n)
			if err != nil {
				return err
			}
			for p, end := range ends {
				if pos, ok := ps[p]; all && !ok || pos < end {
					behind = true
				}
			}
		}
		if !behind {
			return nil
		}
		if _, err := b.store.Wait(ctx, tick); err != nil {
			return err
		}
	}
}

func (b *Bus) positions(ctx context.Context, group string) (map[int]int64, error) {
	ps := map[int]int64{}
	err := b.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT part, next FROM carebus_checkpoints WHERE grp = $1`, group)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var p int
			var next int64
			if err := rows.Scan(&p, &next); err != nil {
				return err
			}
			ps[p] = next
		}
		return rows.Err()
	})
	return ps, err
}
