package bus

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// run keeps this member's share of the group's partitions: it announces itself, works out from the members alive which
// partitions are its own (every member comes to the same answer), gives back what is not, takes over what is free or
// whose lease ran out, and runs a worker per partition that it holds.
//
// Two members may disagree for a moment about who is alive. That is harmless: a partition changes hands only by the
// compare-and-set in claim, which raises the epoch, and every commit of a worker is conditional on its epoch.
func (g *group) run(ctx context.Context) error {
	if err := g.register(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("bus: group %s: %w", g.name, err)
	}
	workers := map[int]*worker{}
	var lost sync.Map // partition -> struct{}: its worker found itself fenced and ended
	defer func() {
		// The context has ended: workers finish the unit under way, then everything is given back.
		for _, w := range workers {
			<-w.done
		}
		g.leave(workers)
	}()
	heartbeat := time.NewTicker(g.bus.opts.Lease / 3)
	defer heartbeat.Stop()
	for {
		lost.Range(func(k, _ any) bool {
			p := k.(int)
			if w := workers[p]; w != nil {
				<-w.done
				delete(workers, p)
			}
			lost.Delete(k)
			return true
		})
		claims, drop, err := g.beat(ctx, workers)
		if err != nil && ctx.Err() == nil {
			// The store can't be reached for now: workers notice by themselves; leases that run out are somebody else's.
			g.log.Warn("bus: no heartbeat", "error", errorText(err))
		}
		for _, p := range drop {
			w := workers[p]
			w.stop()
			<-w.done
			delete(workers, p)
		}
		if len(drop) > 0 {
			if err := g.release(ctx, drop); err != nil && ctx.Err() == nil {
				g.log.Warn("bus: releasing partitions", "error", errorText(err))
			}
			g.nudge() // what was taken away may be ours to claim again
		}
		for _, c := range claims {
			w := newWorker(g, c, func(p int) { lost.Store(p, struct{}{}); g.nudge() })
			workers[c.part] = w
			go w.run(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-heartbeat.C:
		case <-g.poke:
		}
		if ctx.Err() != nil {
			return nil
		}
		for _, w := range workers {
			w.refresh()
		}
	}
}

// nudge makes the member loop look again without waiting for the next heartbeat.
func (g *group) nudge() {
	select {
	case g.poke <- struct{}{}:
	default:
	}
}

// register creates the group's rows where they are missing, and frees parked keys for another try when the handler
// version is new.
func (g *group) register(ctx context.Context) error {
	patterns := make([]string, 0, len(g.handlers))
	for _, h := range g.handlers {
		patterns = append(patterns, h.pattern)
	}
	starts, err := g.starts(ctx)
	if err != nil {
		return err
	}
	return g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		now := tx.Now().UnixMicro()
		var version string
		err := tx.QueryRowContext(ctx, `SELECT version FROM carebus_groups WHERE grp = $1`, g.name).Scan(&version)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_groups (grp, state, reason, patterns, version, created_at, updated_at) VALUES ($1, 'running', '', $2, $3, $4, $5)`,
				g.name, strings.Join(patterns, " "), g.set.version, now, now); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			if _, err := tx.ExecContext(ctx, `UPDATE carebus_groups SET patterns = $1, version = $2 WHERE grp = $3`,
				strings.Join(patterns, " "), g.set.version, g.name); err != nil {
				return err
			}
			if version != g.set.version {
				if _, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET next_at = 0 WHERE grp = $1`, g.name); err != nil {
					return err
				}
			}
		}
		for p, next := range starts {
			if _, err := tx.ExecContext(ctx, insertCheckpoint, g.name, p, next, 0, 0, 0, now); err != nil {
				return err
			}
		}
		return nil
	})
}

const insertCheckpoint = `INSERT INTO carebus_checkpoints (grp, part, next, epoch, owner, expires_at, handling, deaths, replay_from, replay_to, resume_at, updated_at)
	VALUES ($1, $2, $3, 0, '', 0, -1, 0, $4, $5, $6, $7) ON CONFLICT (grp, part) DO NOTHING`

// starts is where each partition begins if the group is new.
func (g *group) starts(ctx context.Context) ([]int64, error) {
	starts := make([]int64, g.bus.store.Partitions())
	switch {
	case g.set.start.now:
		return g.bus.store.Heads(ctx)
	case !g.set.start.time.IsZero():
		for p := range starts {
			off, err := g.bus.store.OffsetAt(ctx, p, g.set.start.time)
			if err != nil {
				return nil, err
			}
			starts[p] = off
		}
	}
	return starts, nil
}

// claim is a partition that this member has just taken.
type claim struct {
	part     int
	next     int64
	epoch    int64
	handling int64 // marked by a worker that died
	deaths   int
	unclean  bool // the former owner did not give it back: it died, or hangs
	replay   replayWindow
}

type replayWindow struct{ from, to, resume int64 }

// beat renews this member's leases and settles its share.
func (g *group) beat(ctx context.Context, workers map[int]*worker) (claims []claim, drop []int, err error) {
	me := g.bus.opts.Member
	err = g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		claims, drop = nil, nil
		now := tx.Now()
		until := now.Add(g.bus.opts.Lease).UnixMicro()
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_members (grp, member, expires_at) VALUES ($1, $2, $3)
			ON CONFLICT (grp, member) DO UPDATE SET expires_at = excluded.expires_at`, g.name, me, until); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_members WHERE grp = $1 AND expires_at < $2`, g.name, now.UnixMicro()); err != nil {
			return err
		}
		var state string
		if err := tx.QueryRowContext(ctx, `SELECT state FROM carebus_groups WHERE grp = $1`, g.name).Scan(&state); err != nil {
			return err
		}
		members, err := textColumn(ctx, tx, `SELECT member FROM carebus_members WHERE grp = $1 ORDER BY member`, g.name)
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET expires_at = $1 WHERE grp = $2 AND owner = $3`, until, g.name, me); err != nil {
			return err
		}
		rows, err := tx.QueryContext(ctx, `SELECT part, next, epoch, owner, expires_at, handling, deaths, replay_from, replay_to, resume_at
			FROM carebus_checkpoints WHERE grp = $1 ORDER BY part`, g.name)
		if err != nil {
			return err
		}
		type row struct {
			claim
			owner   string
			expires int64
		}
		var all []row
		for rows.Next() {
			var r row
			if err := rows.Scan(&r.part, &r.next, &r.epoch, &r.owner, &r.expires, &r.handling, &r.deaths, &r.replay.from, &r.replay.to, &r.replay.resume); err != nil {
				rows.Close()
				return err
			}
			all = append(all, r)
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
		for i, r := range all {
			mine := state == groupRunning && members[i%len(members)] == me
			w, held := workers[r.part]
			switch {
			case held && (!mine || w.epoch != r.epoch):
				drop = append(drop, r.part) // no share of ours, or an operator or another member took it away
			case held || !mine:
			case r.owner == "" || r.owner == me || r.expires < now.UnixMicro():
				c := r.claim
				c.epoch++
				c.unclean = r.owner != "" && r.owner != me
				if c.unclean && c.handling >= 0 {
					c.deaths++
				}
				if _, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET owner = $1, epoch = $2, expires_at = $3, handling = -1, deaths = $4 WHERE grp = $5 AND part = $6`,
					me, c.epoch, until, c.deaths, g.name, c.part); err != nil {
					return err
				}
				claims = append(claims, c)
			}
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	sort.Ints(drop)
	return claims, drop, nil
}

// release gives partitions back cleanly, so that another member may take them at once.
func (g *group) release(ctx context.Context, parts []int) error {
	return g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		for _, p := range parts {
			if _, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET owner = '', epoch = epoch + 1, handling = -1 WHERE grp = $1 AND part = $2 AND owner = $3`,
				g.name, p, g.bus.opts.Member); err != nil {
				return err
			}
		}
		return nil
	})
}

// leave gives everything back when the member ends. The caller's context has ended, so it has its own, short one; when
// it fails the leases run out by themselves.
func (g *group) leave(workers map[int]*worker) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	parts := make([]int, 0, len(workers))
	for p := range workers {
		parts = append(parts, p)
	}
	err := g.release(ctx, parts)
	if err == nil {
		err = g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM carebus_members WHERE grp = $1 AND member = $2`, g.name, g.bus.opts.Member)
			return err
		})
	}
	if err != nil {
		g.log.Warn("bus: leaving the group", "error", errorText(err))
	}
}

func textColumn(ctx context.Context, q eventstore.Querier, query string, args ...any) ([]string, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}
