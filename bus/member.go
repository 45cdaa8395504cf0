package bus

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
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
	if err := g.enter(ctx); err != nil {
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
	var told time.Time // when the transport was last told how far the group is
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
		if g.member != nil {
			held := map[int]bool{}
			for p := range workers {
				held[p] = true
			}
			for _, c := range claims {
				held[c.part] = true
			}
			g.member.Held(held)
			if time.Since(told) > 5*time.Second {
				told = time.Now()
				g.progress(ctx)
			}
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

// enter makes this process a member: in the store, and of the transport's group. A transport that cannot be reached is
// waited for.
func (g *group) enter(ctx context.Context) error {
	for tries := 1; ; tries++ {
		err := g.register(ctx)
		if err == nil && g.transport != nil {
			g.member, err = g.transport.Join(ctx, g.name, g.theirs(), g.nudge)
		}
		var wrong *ConfigError
		if err == nil || g.transport == nil || errors.As(err, &wrong) || ctx.Err() != nil {
			return err
		}
		g.log.Warn("bus: the transport cannot be reached, trying again", "error", errorText(err))
		t := time.NewTimer(g.backoff(tries))
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (g *group) patterns() []string {
	var out []string
	for _, h := range g.handlers {
		out = append(out, strings.Fields(h.pattern)...)
	}
	return out
}

// register creates the group's rows where they are missing, and frees parked keys for another try when the handler
// version is new.
func (g *group) register(ctx context.Context) error {
	patterns := g.patterns()
	starts, err := g.starts(ctx)
	if err != nil {
		return err
	}
	return g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		now := tx.Now().UnixMicro()
		if err := g.handOver(ctx, tx, starts); err != nil {
			return err
		}
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
		for p, at := range starts {
			if _, err := tx.ExecContext(ctx, insertCheckpoint, g.name, p, at.next, 0, 0, 0, now, at.seen.text(p)); err != nil {
				return err
			}
		}
		return nil
	})
}

const insertCheckpoint = `INSERT INTO carebus_checkpoints (grp, part, next, epoch, owner, expires_at, handling, deaths, replay_from, replay_to, resume_at, updated_at, seen)
	VALUES ($1, $2, $3, 0, '', 0, -1, 0, $4, $5, $6, $7, $8) ON CONFLICT (grp, part) DO NOTHING`

// place is where reading begins.
type place struct {
	next  int64
	seen  seen
	begin int64 // of the lane
}

// starts is where each partition, or lane, begins if the group is new.
func (g *group) starts(ctx context.Context) (map[int]place, error) {
	starts := map[int]place{}
	var to Target
	switch {
	case g.set.start.now:
		to = End()
	case !g.set.start.time.IsZero():
		to = Since(g.set.start.time)
	}
	parts, err := g.parts(ctx)
	if err != nil {
		return nil, err
	}
	at, err := g.bus.resolve(ctx, to, parts)
	if err != nil {
		return nil, err
	}
	begin, err := g.bus.resolve(ctx, Beginning(), parts)
	g.known = map[int]bool{}
	for p, next := range at {
		starts[p] = place{next, seenFrom(next), begin[p]}
		g.known[p] = true
	}
	return starts, err
}

// parts are the partitions of the store, or the lanes of the transport; and both for a group that also wants events of the
// platform.
func (g *group) parts(ctx context.Context) ([]int, error) {
	var parts []int
	if g.transport == nil || slices.ContainsFunc(g.patterns(), ours) {
		for p := range g.bus.store.Partitions() {
			parts = append(parts, p)
		}
	}
	if g.transport == nil {
		return parts, nil
	}
	lanes, err := g.transport.Lanes(ctx, g.theirs())
	return append(parts, lanes...), err
}

// theirs are the patterns whose events a transport brings.
func (g *group) theirs() []string { return slices.DeleteFunc(g.patterns(), ours) }

// handOver takes a group that has read the store to a transport: in each lane it passes over what it had handled of this store,
// and goes on with what it had not. The other way round there is no such way, as there may be other stores' events in a
// lane; and nothing may be done anew in silence.
func (g *group) handOver(ctx context.Context, tx *eventstore.Tx, starts map[int]place) error {
	var stored, lanes, parked, replayed int64
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(CASE WHEN part >= $1 THEN 1 ELSE 0 END), 0), COALESCE(SUM(CASE WHEN replay_to > 0 AND part < $1 THEN 1 ELSE 0 END), 0)
		FROM carebus_checkpoints WHERE grp = $2`, FirstLane, g.name).Scan(&stored, &lanes, &replayed); err != nil {
		return err
	}
	stored -= lanes
	if g.transport != nil && lanes > 0 { // it has gone over before; topics may have come since
		var handed string
		err := tx.QueryRowContext(ctx, `SELECT handed FROM carebus_groups WHERE grp = $1`, g.name).Scan(&handed)
		if err != nil || handed == "" {
			return err
		}
		was, err := parseSeen(handed)
		for p, at := range starts {
			if p >= FirstLane {
				at.next, at.seen = at.begin, was
				starts[p] = at // of use only to lanes that have no checkpoint yet
			}
		}
		return err
	}
	switch {
	case g.transport == nil && lanes > 0:
		return &ConfigError{Field: "group " + g.name, Reason: "it reads from a transport (Kafka), and this process has none; open the platform with it, or remove the group to begin anew"}
	case g.transport == nil || stored == 0:
		return nil
	}
	if err := holdStill(ctx, tx, g.name); err != nil { // members without the transport may still be at work
		return err
	}
	if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_parked WHERE grp = $1`, g.name).Scan(&parked); err != nil {
		return err
	}
	if parked > 0 || replayed > 0 {
		return &ConfigError{Field: "group " + g.name, Reason: fmt.Sprintf("it has read the store so far and has %d parked keys and a replay in %d partitions; settle them without the transport, then go on with it", parked, replayed)}
	}
	handled := map[string]int64{}
	if err := eachRow(ctx, tx, func(rows *sql.Rows) error {
		var p int
		var next int64
		if err := rows.Scan(&p, &next); err != nil {
			return err
		}
		handled[g.transport.Log(p)] = next - 1
		return nil
	}, `SELECT part, next FROM carebus_checkpoints WHERE grp = $1 AND part < $2`, g.name, FirstLane); err != nil {
		return err
	}
	was := seen{Logs: handled}
	if _, err := tx.ExecContext(ctx, `UPDATE carebus_groups SET handed = $1 WHERE grp = $2`, was.text(FirstLane), g.name); err != nil {
		return err
	}
	if !slices.ContainsFunc(g.patterns(), ours) {
		if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_checkpoints WHERE grp = $1 AND part < $2`, g.name, FirstLane); err != nil {
			return err
		}
	}
	for p, at := range starts {
		if p < FirstLane {
			continue
		}
		at.next, at.seen = at.begin, was
		starts[p] = at
	}
	g.log.Info("bus: the group goes on with the transport where it was in the store")
	return nil
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

	seen, resumeSeen string // of a lane
}

type replayWindow struct{ from, to, resume int64 }

// beat renews this member's leases and settles its share.
func (g *group) beat(ctx context.Context, workers map[int]*worker) (claims []claim, drop []int, err error) {
	me := g.bus.opts.Member
	var lanes, fresh map[int]bool
	if g.member != nil {
		lanes, fresh = g.member.Mine()
		if err := g.discover(ctx, lanes); err != nil {
			g.log.Warn("bus: lanes that are new to the group", "error", errorText(err))
		}
	}
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
		rows, err := tx.QueryContext(ctx, `SELECT part, next, epoch, owner, expires_at, handling, deaths, replay_from, replay_to, resume_at, seen, resume_seen
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
			if err := rows.Scan(&r.part, &r.next, &r.epoch, &r.owner, &r.expires, &r.handling, &r.deaths, &r.replay.from, &r.replay.to, &r.replay.resume, &r.seen, &r.resumeSeen); err != nil {
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
			mine := state == groupRunning
			if r.part < FirstLane {
				mine = mine && members[i%len(members)] == me
			} else {
				mine = mine && lanes[r.part]
			}
			w, held := workers[r.part]
			switch {
			case held && (!mine || w.epoch != r.epoch):
				drop = append(drop, r.part) // no share of ours, or an operator or another member took it away
			case !held && !mine && r.owner == me:
				// It was to be given back, and the store could not be reached. Its lease is renewed with the others, so nobody
				// else would ever have it.
				if err := free(ctx, tx, g.name, r.part, me); err != nil {
					return err
				}
			case held || !mine:
			case r.owner == "" || r.owner == me || r.expires < now.UnixMicro() || fresh[r.part]:
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
			if err := free(ctx, tx, g.name, p, g.bus.opts.Member); err != nil {
				return err
			}
		}
		return nil
	})
}

func free(ctx context.Context, tx *eventstore.Tx, group string, part int, member string) error {
	_, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET owner = '', epoch = epoch + 1, handling = -1 WHERE grp = $1 AND part = $2 AND owner = $3`, group, part, member)
	return err
}

// leave gives everything back when the member ends. The caller's context has ended, so it has its own, short one; when
// it fails the leases run out by themselves.
func (g *group) leave(workers map[int]*worker) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if g.member != nil {
		defer g.member.Leave(ctx) // after the partitions were given back, so that who gets them finds them free
	}
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

// discover gives lanes that the group had no part in a checkpoint at their beginning: their topic, or they, came later.
func (g *group) discover(ctx context.Context, lanes map[int]bool) error {
	var unknown []int
	for lane := range lanes {
		if !g.known[lane] {
			unknown = append(unknown, lane)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	at, err := g.bus.resolve(ctx, Beginning(), unknown)
	if err != nil {
		return err
	}
	return g.bus.store.Update(ctx, func(tx *eventstore.Tx) error {
		// The relay may bring to a new topic what the group has handled before it went over.
		var handed string
		if err := tx.QueryRowContext(ctx, `SELECT handed FROM carebus_groups WHERE grp = $1`, g.name).Scan(&handed); err != nil {
			return err
		}
		for p, next := range at {
			text := handed
			if text == "" {
				text = seenFrom(next).text(p)
			}
			if _, err := tx.ExecContext(ctx, insertCheckpoint, g.name, p, next, 0, 0, 0, tx.Now().UnixMicro(), text); err != nil {
				return err
			}
			g.known[p] = true
		}
		return nil
	})
}

// progress tells the transport how far the group is.
func (g *group) progress(ctx context.Context) {
	at, err := g.bus.positions(ctx, g.name)
	if err != nil {
		return
	}
	g.member.Progress(at)
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
