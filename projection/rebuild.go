package projection

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Progress of a build.
type Progress struct {
	Projection string `json:"projection"`
	Generation int64  `json:"generation"`
	Version    int    `json:"version"`
	Done       int64  `json:"done"`   // of the log, up to the live group's checkpoints, whether the projection wants the events or not
	Total      int64  `json:"total"`  // grows while the live group goes on
	Events     int64  `json:"events"` // applied
}

// EventError is why a build ended: a handler failed. The live tables are as they were. Unless the failure was one of a
// dependency (see bus.Classify), the new generation is given up, and the next Rebuild begins anew.
type EventError struct {
	Projection string
	EventID    string
	EventType  string
	Partition  int
	Offset     int64
	Err        error
}

func (e *EventError) Error() string {
	return fmt.Sprintf("projection %s: building: event %s of type %s (partition %d, offset %d): %v; the live tables are as they were: mend the handler, or skip the event, and rebuild",
		e.Projection, e.EventID, e.EventType, e.Partition, e.Offset, e.Err)
}

// Unwrap returns the handler's error.
func (e *EventError) Unwrap() error { return e.Err }

const (
	chunkEvents = 2048
	chunkBytes  = 4 << 20
	// ahead is how many chunks wait, read and decoded, for the transaction under way to end.
	ahead = 3
)

// Variables so that tests can kill builders, and make them take small steps.
var (
	// lease is how long a build waits for a builder that gives no sign of life.
	lease = 5 * time.Second
	// hold is how long a build keeps the writer from others at a time; only the switch may take longer.
	hold = 50 * time.Millisecond
	// residue is how many log entries a switch may have left to catch up with, at first: while it does, the writers wait.
	residue int64 = 4096
)

// Rebuild builds the projection anew from the log, beside the live tables, and lets the new ones take over. It returns
// when they have. The live group, in whatever process, goes on meanwhile, and afterwards writes into the new tables; it
// needs not run. act wants a reason, for the audit (platform.projection.rebuilt). progress may be nil; it is called after
// each commit.
//
// When ctx ends the build stays, and the next Rebuild by the same program goes on with it. Errors: *EventError,
// ErrBuilding, ErrOlder, ErrChanged, bus.ErrReason.
func Rebuild(ctx context.Context, p Platform, d *Definition, act bus.Act, progress func(Progress)) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("rebuilding projection %s: %w", d.name, bus.ErrReason)
	}
	if act.Actor == "" {
		act.Actor = "operator"
	}
	if _, err := ensure(ctx, p.Store(), d); err != nil {
		return err
	}
	return newBuilder(p, d, progress).build(ctx, act, false)
}

// builder fills a generation and lets it take over. One goroutine at a time uses it.
type builder struct {
	def      *Definition
	store    *eventstore.Store
	up       upcaster
	gen      *generation
	row      buildRow
	progress func(Progress)
	check    *[]Difference // the build is compared with the live generation and dropped, instead of taking over

	pos    []int64                // per partition: the build has what lies below, but for what is held
	held   map[bus.ParkedAt]int64 // keys left out from an offset on
	events int64
	total  int64

	gone     map[bus.ParkedAt][]bus.GivenUp
	goneFrom int64
	renewed  time.Time
}

func newBuilder(p Platform, d *Definition, progress func(Progress)) *builder {
	b := &builder{
		def: d, store: p.Store(), up: p.Upcast, progress: progress,
		held: map[bus.ParkedAt]int64{}, gone: map[bus.ParkedAt][]bus.GivenUp{},
	}
	if b.progress == nil {
		b.progress = func(Progress) {}
	}
	return b
}

// build does a rebuild, or, for upgrade, returns at once when the definition's version is live already.
func (b *builder) build(ctx context.Context, act bus.Act, upgrade bool) error {
	done, err := b.begin(ctx, act, upgrade)
	if err != nil || done {
		return err
	}
	if err = b.run(ctx); err == nil {
		return nil
	}
	var failed *EventError
	last := context.WithoutCancel(ctx)
	switch {
	case errors.Is(err, errLostBuild):
		return fmt.Errorf("projection %s: %w", b.def.name, err)
	case errors.As(err, &failed) && bus.Classify(failed.Err) != bus.Dependency:
		return errors.Join(err, b.giveUp(last))
	}
	return errors.Join(err, b.letGo(last))
}

// begin takes over the build that there is, when it is one of this program, or starts one.
func (b *builder) begin(ctx context.Context, act bus.Act, upgrade bool) (done bool, err error) {
	d := b.def
	mine := program()
	token := event.NewID()
	err = b.store.Update(ctx, func(tx *eventstore.Tx) error {
		done = false
		rows, err := load(ctx, tx, d.name)
		if err != nil || len(rows) == 0 {
			return errors.Join(err, ErrNotFound)
		}
		r := rows[0]
		if err := d.fits(r); err != nil {
			return err
		}
		if upgrade && r.version == d.version {
			done = true
			return nil
		}
		now := tx.Now()
		if r.build.gen > 0 && r.build.until.After(now) {
			return fmt.Errorf("projection %s: %w since %s; wait for it", d.name, ErrBuilding, r.build.began.Format(time.RFC3339))
		}
		b.pos = make([]int64, b.store.Partitions())
		b.row = r.build
		if r.build.gen > 0 && mine != "" && r.build.program == mine && r.build.version == d.version && r.build.digest == d.digest {
			if err := b.resume(ctx, tx); err != nil {
				return err
			}
		} else {
			if err := d.free(ctx, tx); err != nil {
				return err
			}
			if err := clearBuild(ctx, tx, r); err != nil {
				return err
			}
			b.row = buildRow{gen: r.last + 1, began: now.UTC(), version: d.version}
			if err := d.createTables(ctx, tx, b.row.gen); err != nil {
				return err
			}
		}
		b.row.token, b.row.reason, b.row.actor = token, act.Reason, act.Actor
		b.events = b.row.events
		_, err = tx.ExecContext(ctx, `UPDATE carebus_projections SET last = $1, building = $2, build_version = $3, build_digest = $4, build_tables = $5,
			build_events = $6, build_began = $7, build_reason = $8, build_actor = $9, program = $10, token = $11, until = $12 WHERE name = $13`,
			max(r.last, b.row.gen), b.row.gen, d.version, d.digest, strings.Join(d.tables, " "),
			b.row.events, b.row.began.UnixMicro(), act.Reason, act.Actor, mine, token, now.Add(lease).UnixMicro(), d.name)
		return err
	})
	if err != nil || done {
		return done, err
	}
	b.gen = d.generation(b.row.gen)
	return false, nil
}

// resume reads how far the build had come.
func (b *builder) resume(ctx context.Context, tx *eventstore.Tx) error {
	rows, err := tx.QueryContext(ctx, `SELECT part, '', next FROM carebus_projection_builds WHERE name = $1
		UNION ALL SELECT part, pkey, head FROM carebus_projection_held WHERE name = $2`, b.def.name, b.def.name)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k bus.ParkedAt
		var at int64
		if err := rows.Scan(&k.Partition, &k.Key, &at); err != nil {
			return err
		}
		if k.Key != "" {
			b.held[k] = at
		} else if k.Partition < len(b.pos) {
			b.pos[k.Partition] = at
		}
	}
	return rows.Err()
}

// program identifies the running executable; empty when it cannot be read.
var program = sync.OnceValue(func() string {
	path, err := os.Executable()
	if err != nil {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
})

// clearBuild drops what is there of a build.
func clearBuild(ctx context.Context, tx *eventstore.Tx, r row) error {
	if r.build.gen > 0 {
		if err := dropTables(ctx, tx, r.build.tables, r.build.gen); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_projection_builds WHERE name = $1`, r.name); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_projection_held WHERE name = $1`, r.name); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `UPDATE carebus_projections SET building = 0, build_tables = '', token = '', until = 0 WHERE name = $1`, r.name)
	return err
}

// renew keeps the build, in the transaction of whatever is done for it: a builder that was taken for dead is undone.
func (b *builder) renew(ctx context.Context, tx *eventstore.Tx) error {
	res, err := tx.ExecContext(ctx, `UPDATE carebus_projections SET until = $1 WHERE name = $2 AND building = $3 AND token = $4`,
		tx.Now().Add(lease).UnixMicro(), b.def.name, b.row.gen, b.row.token)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(err, errLostBuild)
	}
	return nil
}

// giveUp drops the generation that failed.
func (b *builder) giveUp(ctx context.Context) error {
	return b.store.Update(ctx, func(tx *eventstore.Tx) error {
		if err := b.renew(ctx, tx); err != nil {
			return err
		}
		rows, err := load(ctx, tx, b.def.name)
		if err != nil || len(rows) == 0 {
			return err
		}
		return clearBuild(ctx, tx, rows[0])
	})
}

// letGo leaves the build to whoever goes on with it, at once.
func (b *builder) letGo(ctx context.Context) error {
	return b.store.Update(ctx, func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE carebus_projections SET until = 0 WHERE name = $1 AND token = $2`, b.def.name, b.row.token)
		return err
	})
}

// run alternates between filling up to the live group's checkpoints and trying to switch.
func (b *builder) run(ctx context.Context) error {
	for {
		snap, err := b.look(ctx)
		if err != nil {
			return err
		}
		before := b.done()
		if err := b.fill(ctx, snap); err != nil {
			return err
		}
		if err := b.reconcile(ctx, snap); err != nil {
			return err
		}
		// A try that found other units of the group in its commit is repeated at once: it is first in the next commit,
		// for the group's members have yet to read and decode.
		for limit := residue; limit <= residue<<4; limit *= 2 {
			if err := ctx.Err(); err != nil {
				return err
			}
			err = b.switchOver(ctx, limit)
			if errors.Is(err, eventstore.ErrUnavailable) {
				break // readers were in the way of the change of tables; where there is more to it the next look will say
			}
			if !errors.Is(err, errNotYet) {
				return err
			}
		}
		if b.done() > before {
			continue
		}
		if err := pause(ctx, b.store); err != nil {
			return err
		}
		if time.Since(b.renewed) > lease/5 {
			if err := b.store.Update(ctx, func(tx *eventstore.Tx) error { return b.renew(ctx, tx) }); err != nil {
				return err
			}
			b.renewed = time.Now()
		}
	}
}

func (b *builder) done() (n int64) {
	for _, p := range b.pos {
		n += p
	}
	return n
}

// look takes a committed snapshot of the group, and then learns what it has given up: at the snapshot, or since.
func (b *builder) look(ctx context.Context) (snap bus.Positions, err error) {
	err = b.store.View(ctx, func(q eventstore.Querier) (err error) {
		snap, err = bus.ReadPositions(ctx, q, b.def.name, b.store.Partitions())
		return err
	})
	if err != nil {
		return snap, err
	}
	gone, next, err := bus.ReadGivenUp(ctx, b.store, b.def.name, b.def.matches, b.goneFrom)
	if err != nil {
		return snap, err
	}
	b.goneFrom = next
	for _, g := range gone {
		b.gone[g.ParkedAt] = append(b.gone[g.ParkedAt], g)
	}
	b.total = 0
	for p, n := range snap.Next {
		b.total += max(n, b.pos[p])
	}
	return snap, nil
}

func (b *builder) tell() {
	b.renewed = time.Now()
	b.progress(Progress{
		Projection: b.def.name, Generation: b.row.gen, Version: b.def.version,
		Done: b.done(), Total: b.total, Events: b.events,
	})
}
