package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sort"
	"sync"
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
	// Logger receives what an operator should know; never a payload. Default: slog.Default().
	Logger *slog.Logger
}

// Bus delivers the events of a store to groups of handlers, and operates those groups.
// All methods are safe for concurrent use.
type Bus struct {
	store *eventstore.Store
	opts  Options
	log   *slog.Logger

	mu      sync.Mutex
	groups  map[string]*group
	running bool
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
	log      *slog.Logger

	poke chan struct{} // wakes the member loop: a lease was lost, an operator acted
	// accused is held while an event is handled on which a process has died before: of several such events, in several
	// partitions, only the one in hand may be blamed for the next death.
	accused sync.Mutex
	keys    keyCount
}

// Handle makes this process a member of a group: opts are handlers (On, OnRecord, OnBatch, OnCall) and settings.
// Call it before Run. The name is the group's identity for ever: checkpoints, leases and parked keys hang on it.
func (b *Bus) Handle(name string, opts ...Option) error {
	if err := checkGroupName(name); err != nil {
		return err
	}
	g := &group{bus: b, name: name, set: defaultSettings(), log: b.log.With("group", name), poke: make(chan struct{}, 1)}
	for _, o := range opts {
		o.apply(g)
	}
	if err := g.checkHandlers(); err != nil {
		return err
	}
	g.breaker = newBreaker(g.set.breakAfter, max(g.set.retryMin, 50*time.Millisecond), max(g.set.retryMax, 50*time.Millisecond), time.Now)
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.running:
		return &ConfigError{Field: "group " + name, Reason: "the bus is running; call Handle before Run"}
	case b.groups[name] != nil:
		return &ConfigError{Field: "group " + name, Reason: "handled twice in this process; pass all handlers in one call"}
	}
	b.groups[name] = g
	return nil
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
	groups := make([]*group, 0, len(b.groups))
	for _, g := range b.groups {
		groups = append(groups, g)
	}
	b.mu.Unlock()
	sort.Slice(groups, func(i, j int) bool { return groups[i].name < groups[j].name })

	if len(groups) == 0 {
		<-ctx.Done()
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	errs := make([]error, len(groups))
	var wg sync.WaitGroup
	for i, g := range groups {
		wg.Go(func() {
			if errs[i] = g.run(ctx); errs[i] != nil {
				stop()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Joined returns the names of the groups that this process is a member of, sorted.
func (b *Bus) Joined() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.groups))
}

// Idle waits until every group of this process has handled everything that was stored when Idle was called, parked
// keys aside. It is for tests, demos and shutdown; it needs Run to be under way.
func (b *Bus) Idle(ctx context.Context) error {
	heads, err := b.store.Heads(ctx)
	if err != nil {
		return err
	}
	names := b.Joined()
	for {
		tick := b.store.Tick()
		behind := false
		for _, n := range names {
			ps, err := b.positions(ctx, n)
			if err != nil {
				return err
			}
			for p, head := range heads {
				if pos, ok := ps[p]; !ok || pos < head {
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
