package bus

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// GroupStatus is what is known of a group, from any process.
type GroupStatus struct {
	Name       string            `json:"group"`
	State      string            `json:"state"` // running, paused (by a person), stopped (by itself)
	Reason     string            `json:"reason,omitempty"`
	Patterns   []string          `json:"patterns"`
	Version    string            `json:"version,omitempty"`
	Members    []string          `json:"members"`
	Lag        int64             `json:"lag"`                  // events stored and not yet looked at
	LagUnknown bool              `json:"lagUnknown,omitempty"` // the transport cannot be reached: Lag leaves its lanes out, and their Head is Next
	ParkedKeys int64             `json:"parkedKeys"`
	Waiting    int64             `json:"parkedEvents"` // events of parked keys
	Partitions []PartitionStatus `json:"partitions"`
	Replay     *ReplayStatus     `json:"replay,omitempty"`
}

// PartitionStatus is a group's place in one partition of the store, or of a topic.
type PartitionStatus struct {
	Topic     string `json:"topic,omitempty"` // where a transport brings the events
	Partition int    `json:"partition"`
	Next      int64  `json:"next"` // first offset not handled
	Head      int64  `json:"head"` // offset that the next event will get
	Owner     string `json:"owner,omitempty"`
	Epoch     int64  `json:"epoch"`
}

// ReplayStatus is the progress of a replay under way.
type ReplayStatus struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// Act is who does something to a group, and why; it goes into the audit.
type Act struct {
	Actor  string // a person or program; default "operator"
	Reason string
}

func (a Act) actor() string {
	if a.Actor == "" {
		return "operator"
	}
	return a.Actor
}

// Groups returns every group that has ever run on the store, by name.
func (b *Bus) Groups(ctx context.Context) ([]GroupStatus, error) {
	var names []string
	err := b.store.View(ctx, func(q eventstore.Querier) (err error) {
		names, err = textColumn(ctx, q, `SELECT grp FROM carebus_groups ORDER BY grp`)
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make([]GroupStatus, 0, len(names))
	for _, n := range names {
		s, err := b.Group(ctx, n)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// Group returns the status of one group, or ErrNoGroup.
func (b *Bus) Group(ctx context.Context, name string) (GroupStatus, error) {
	s := GroupStatus{Name: name, Members: []string{}, Partitions: []PartitionStatus{}}
	parts, err := b.partsOf(ctx, name)
	if err != nil {
		return s, err
	}
	var heads map[int]int64
	if heads, s.LagUnknown, err = b.shownHeads(ctx, parts); err != nil {
		return s, err
	}
	err = b.store.View(ctx, func(q eventstore.Querier) error {
		var patterns string
		err := q.QueryRowContext(ctx, `SELECT state, reason, patterns, version FROM carebus_groups WHERE grp = $1`, name).Scan(&s.State, &s.Reason, &patterns, &s.Version)
		if errors.Is(err, sql.ErrNoRows) {
			return noGroup(name)
		}
		if err != nil {
			return err
		}
		s.Patterns = strings.Fields(patterns)
		now := time.Now().UnixMicro()
		members, err := textColumn(ctx, q, `SELECT member FROM carebus_members WHERE grp = $1 AND expires_at > $2 ORDER BY member`, name, now)
		if err != nil {
			return err
		}
		s.Members = append(s.Members, members...)
		if err := q.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(count), 0) FROM carebus_parked WHERE grp = $1`, name).Scan(&s.ParkedKeys, &s.Waiting); err != nil {
			return err
		}
		rows, err := q.QueryContext(ctx, `SELECT part, next, owner, epoch, replay_from, replay_to FROM carebus_checkpoints WHERE grp = $1 ORDER BY part`, name)
		if err != nil {
			return err
		}
		defer rows.Close()
		var r ReplayStatus
		for rows.Next() {
			var p PartitionStatus
			var from, to int64
			if err := rows.Scan(&p.Partition, &p.Next, &p.Owner, &p.Epoch, &from, &to); err != nil {
				return err
			}
			p.Head = max(heads[p.Partition], p.Next)
			if b.opts.Transport != nil && p.Partition >= FirstLane {
				p.Topic, p.Partition = b.opts.Transport.Place(p.Partition)
			}
			s.Lag += p.Head - p.Next
			s.Partitions = append(s.Partitions, p)
			if to > 0 {
				r.Done += p.Next - from
				r.Total += to - from
			}
		}
		if r.Total > 0 {
			s.Replay = &r
		}
		return rows.Err()
	})
	return s, err
}

func noGroup(name string) error {
	return fmt.Errorf("%w: %s; see the list of groups, a group exists once it has run", ErrNoGroup, name)
}

// Pause makes every member of a group stop after the unit under way, in all processes, until Resume. Nothing is lost:
// the events wait in the log.
func (b *Bus) Pause(ctx context.Context, group string, act Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("pausing group %s: %w", group, ErrReason)
	}
	return b.operate(ctx, group, func(tx *eventstore.Tx) error {
		return setGroupState(ctx, tx, group, groupPaused, act.Reason, act.actor())
	})
}

// Resume lets a paused or stopped group go on where it was.
func (b *Bus) Resume(ctx context.Context, group string, act Act) error {
	return b.operate(ctx, group, func(tx *eventstore.Tx) error {
		return setGroupState(ctx, tx, group, groupRunning, act.Reason, act.actor())
	})
}

// Remove forgets a group that no process is a member of any more: its checkpoints, its parked keys and the events that
// wait behind them. The events stay in the log; a group of this name that is handled later begins anew.
// A group with members is an ErrHasMembers.
func (b *Bus) Remove(ctx context.Context, group string, act Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("removing group %s: %w", group, ErrReason)
	}
	return b.operate(ctx, group, func(tx *eventstore.Tx) error {
		members, err := textColumn(ctx, tx, `SELECT member FROM carebus_members WHERE grp = $1 AND expires_at > $2`, group, tx.Now().UnixMicro())
		if err != nil {
			return err
		}
		if len(members) > 0 {
			return fmt.Errorf("group %s: %w: %s", group, ErrHasMembers, strings.Join(members, ", "))
		}
		var waiting int64
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(SUM(count), 0) FROM carebus_parked WHERE grp = $1`, group).Scan(&waiting); err != nil {
			return err
		}
		for _, statement := range []string{
			`DELETE FROM carebus_groups WHERE grp = $1`,
			`DELETE FROM carebus_members WHERE grp = $1`,
			`DELETE FROM carebus_checkpoints WHERE grp = $1`,
			`DELETE FROM carebus_parked WHERE grp = $1`,
			`DELETE FROM carebus_replay_parked WHERE grp = $1`,
			`DELETE FROM carebus_corrections WHERE grp = $1`,
			`DELETE FROM carebus_calls WHERE grp = $1`,
		} {
			if _, err := tx.ExecContext(ctx, statement, group); err != nil {
				return err
			}
		}
		return audit(ctx, tx, group, groupRemovedV1.New(Source, groupRemoved{Group: group, Reason: act.Reason, Actor: act.actor(), ParkedEvents: waiting}))
	})
}

// operate runs fn for a group that exists and wakes this process's member of it.
func (b *Bus) operate(ctx context.Context, group string, fn func(tx *eventstore.Tx) error) error {
	err := b.store.Update(ctx, func(tx *eventstore.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_groups WHERE grp = $1`, group).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			return noGroup(group)
		}
		if err := holdStill(ctx, tx, group); err != nil {
			return err
		}
		return fn(tx)
	})
	b.nudge(group)
	return err
}

func (b *Bus) nudge(group string) {
	b.mu.Lock()
	g := b.groups[group]
	b.mu.Unlock()
	if g != nil {
		g.nudge()
	}
}

// setGroupState changes a group's state and raises every epoch, so that members find themselves fenced at their next
// commit and look at the state anew.
func setGroupState(ctx context.Context, tx *eventstore.Tx, group, state, reason, actor string) error {
	now := tx.Now().UnixMicro()
	kept := reason
	if state == groupRunning {
		kept = ""
	}
	if _, err := tx.ExecContext(ctx, `UPDATE carebus_groups SET state = $1, reason = $2, updated_at = $3 WHERE grp = $4`, state, kept, now, group); err != nil {
		return err
	}
	if state != groupRunning {
		if _, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET epoch = epoch + 1, owner = '', updated_at = $1 WHERE grp = $2`, now, group); err != nil {
			return err
		}
	}
	p := groupChanged{Group: group, Reason: reason, Actor: actor, Automatic: state == groupStopped}
	if state == groupRunning {
		return audit(ctx, tx, group, groupResumedV1.New(Source, p))
	}
	return audit(ctx, tx, group, groupPausedV1.New(Source, p))
}

// Target is a place to seek or replay from: the beginning, a time, or an offset of one partition.
type Target struct {
	kind      targetKind
	time      time.Time
	topic     string
	partition int
	offset    int64
}

type targetKind int

const (
	targetBeginning targetKind = iota
	targetEnd
	targetTime
	targetOffset
)

// Beginning is the first event stored.
func Beginning() Target { return Target{} }

// End is behind the last event stored.
func End() Target { return Target{kind: targetEnd} }

// Since is the first event recorded at t or later.
func Since(t time.Time) Target { return Target{kind: targetTime, time: t} }

// At is one offset of one partition; other partitions stay as they are.
func At(partition int, offset int64) Target {
	return Target{kind: targetOffset, partition: partition, offset: offset}
}

// AtTopic is one offset of one partition of a topic; other lanes stay as they are.
func AtTopic(topic string, partition int, offset int64) Target {
	return Target{kind: targetOffset, topic: topic, partition: partition, offset: offset}
}

// partsOf are the partitions of the store, or the lanes, that a group has checkpoints in, ascending.
func (b *Bus) partsOf(ctx context.Context, group string) ([]int, error) {
	at, err := b.positions(ctx, group)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(at)), nil
}

// bounds are where partitions of the store, or lanes, begin and end. Of lanes nothing is known without their transport.
func (b *Bus) bounds(ctx context.Context, parts []int) (map[int]Bounds, error) {
	out := map[int]Bounds{}
	var lanes []int
	var heads []int64
	for _, p := range parts {
		if p >= FirstLane {
			lanes = append(lanes, p)
			continue
		}
		if heads == nil {
			var err error
			if heads, err = b.store.Heads(ctx); err != nil {
				return nil, err
			}
		}
		if p < len(heads) {
			out[p] = Bounds{0, heads[p]}
		}
	}
	if len(lanes) == 0 || b.opts.Transport == nil {
		return out, nil
	}
	found, err := b.opts.Transport.Bounds(ctx, lanes)
	maps.Copy(out, found)
	return out, err
}

func (b *Bus) heads(ctx context.Context, parts []int) (map[int]int64, error) {
	bounds, err := b.bounds(ctx, parts)
	heads := make(map[int]int64, len(bounds))
	for p, at := range bounds {
		heads[p] = at.End
	}
	return heads, err
}

// shownHeads is heads for those who only show them: while the transport cannot be reached, its lanes are left out (unknown). That
// is found out once in a while, for who lists groups is not to wait once for each.
func (b *Bus) shownHeads(ctx context.Context, parts []int) (heads map[int]int64, unknown bool, err error) {
	lane := slices.IndexFunc(parts, func(p int) bool { return p >= FirstLane })
	if lane < 0 || b.opts.Transport == nil {
		heads, err = b.heads(ctx, parts)
		return heads, false, err
	}
	if time.Now().UnixNano() > b.away.Load() {
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		if heads, err = b.heads(short, parts); err == nil || ctx.Err() != nil {
			return heads, false, err
		}
		b.log.Warn("bus: the transport does not tell where its lanes end; lags are unknown", "error", errorText(err))
		b.away.Store(time.Now().Add(5 * time.Second).UnixNano())
	}
	heads, err = b.heads(ctx, slices.DeleteFunc(slices.Clone(parts), func(p int) bool { return p >= FirstLane }))
	return heads, true, err
}

// resolve returns the offset that is meant in each of the partitions, or lanes, that it touches.
func (b *Bus) resolve(ctx context.Context, t Target, parts []int) (map[int]int64, error) {
	if len(parts) > 0 && parts[len(parts)-1] >= FirstLane && b.opts.Transport == nil {
		return nil, errNoTransport
	}
	bounds, err := b.bounds(ctx, parts)
	if err != nil {
		return nil, err
	}
	out := make(map[int]int64, len(parts))
	switch t.kind {
	case targetBeginning:
		for p, at := range bounds {
			out[p] = at.Start
		}
	case targetEnd:
		for p, at := range bounds {
			out[p] = at.End
		}
	case targetTime:
		var lanes []int
		for p := range bounds {
			if p >= FirstLane {
				lanes = append(lanes, p)
			} else if out[p], err = b.store.OffsetAt(ctx, p, t.time); err != nil {
				return nil, err
			}
		}
		if len(lanes) > 0 {
			found, err := b.opts.Transport.OffsetsAt(ctx, lanes, t.time)
			if err != nil {
				return nil, err
			}
			maps.Copy(out, found)
		}
	case targetOffset:
		part, what := t.partition, fmt.Sprintf("partition %d", t.partition)
		if t.topic != "" {
			what = fmt.Sprintf("topic %s partition %d", t.topic, t.partition)
			part = -1
			if b.opts.Transport != nil {
				if lane, ok := b.opts.Transport.LaneAt(t.topic, t.partition); ok {
					part = lane
				}
			}
		}
		at, ok := bounds[part]
		switch {
		case !ok && t.topic == "":
			return nil, &ConfigError{Field: "partition", Reason: fmt.Sprintf("%d does not exist; the store has partitions 0 to %d, and a group that reads topics names one", t.partition, b.store.Partitions()-1)}
		case !ok:
			return nil, &ConfigError{Field: "topic", Reason: what + " is none that the group reads"}
		case t.offset < at.Start || t.offset > at.End:
			return nil, &ConfigError{Field: "offset", Reason: fmt.Sprintf("%d is outside %s, which begins at %d and ends at %d", t.offset, what, at.Start, at.End)}
		}
		out[part] = t.offset
	}
	return out, nil
}

// Place is a partition of the store, or of a topic, and an offset in it.
type Place struct {
	Topic     string // empty for the store
	Partition int
	Offset    int64
}

// Resolve says what a target means for a group: an offset in each of the partitions that it touches. A group that has never
// run would read the store.
func (b *Bus) Resolve(ctx context.Context, group string, to Target) ([]Place, error) {
	parts, err := b.partsOf(ctx, group)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		for p := range b.store.Partitions() {
			parts = append(parts, p)
		}
	}
	at, err := b.resolve(ctx, to, parts)
	if err != nil {
		return nil, err
	}
	out := make([]Place, 0, len(at))
	for _, part := range slices.Sorted(maps.Keys(at)) {
		p := Place{Partition: part, Offset: at[part]}
		if part >= FirstLane {
			p.Topic, p.Partition = b.opts.Transport.Place(part)
		}
		out = append(out, p)
	}
	return out, nil
}

var errNoTransport = &ConfigError{Field: "transport", Reason: "the group reads topics, and this process has no transport (Kafka) to look at them; open the platform with it"}

// Seek moves a group's checkpoints. Going back makes the group handle events again as if for the first time; going
// forward skips events for good. Parked keys whose head lies at or behind the new place are forgotten: their events
// come again. A replay under way ends.
func (b *Bus) Seek(ctx context.Context, group string, to Target, act Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("seeking group %s: %w", group, ErrReason)
	}
	parts, err := b.partsOf(ctx, group)
	if err != nil {
		return err
	}
	targets, err := b.resolve(ctx, to, parts)
	if err != nil {
		return err
	}
	return b.operate(ctx, group, func(tx *eventstore.Tx) error {
		moved, err := b.move(ctx, tx, group, targets, nil)
		if err != nil {
			return err
		}
		return audit(ctx, tx, group, groupSoughtV1.New(Source, groupSought{Group: group, Reason: act.Reason, Actor: act.actor(), Positions: moved}))
	})
}

// Replay makes a group handle a part of the log again, flagged in Delivery.Replay, and then go on where it was. to
// bounds it; End() is the usual bound. For a group that has never run it creates the group: it will handle the part
// when it first runs, and then continue behind to. Progress is in Group.
func (b *Bus) Replay(ctx context.Context, group string, from, to Target, act Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("replaying to group %s: %w", group, ErrReason)
	}
	if err := checkGroupName(group); err != nil {
		return err
	}
	parts, err := b.partsOf(ctx, group)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if b.opts.Transport != nil {
			return fmt.Errorf("%w: %s; on a transport a group can replay what it reads once it has run", ErrNoGroup, group)
		}
		for p := range b.store.Partitions() {
			parts = append(parts, p)
		}
	}
	starts, err := b.resolve(ctx, from, parts)
	if err != nil {
		return err
	}
	ends, err := b.resolve(ctx, to, parts)
	if err != nil {
		return err
	}
	err = b.store.Update(ctx, func(tx *eventstore.Tx) error {
		now := tx.Now().UnixMicro()
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_groups (grp, state, reason, patterns, version, created_at, updated_at) VALUES ($1, 'running', '', '', '', $2, $3)
			ON CONFLICT (grp) DO NOTHING`, group, now, now); err != nil {
			return err
		}
		for _, p := range parts {
			if _, err := tx.ExecContext(ctx, insertCheckpoint, group, p, ends[p], 0, 0, 0, now, seenFrom(ends[p]).text(p)); err != nil {
				return err
			}
		}
		if err := holdStill(ctx, tx, group); err != nil {
			return err
		}
		moved, err := b.move(ctx, tx, group, starts, ends)
		if err != nil {
			return err
		}
		var events int64
		for _, m := range moved {
			events += m.To - m.From
		}
		return audit(ctx, tx, group, replayStartV1.New(Source, replayEvent{Group: group, Reason: act.Reason, Actor: act.actor(), Events: events, Positions: moved}))
	})
	b.nudge(group)
	return err
}

// CancelReplay ends a replay under way: the group goes on where it was before. Without a replay nothing is done.
func (b *Bus) CancelReplay(ctx context.Context, group string, act Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("cancelling the replay of group %s: %w", group, ErrReason)
	}
	return b.operate(ctx, group, func(tx *eventstore.Tx) error {
		starts := map[int]int64{}
		if err := eachRow(ctx, tx, func(rows *sql.Rows) error {
			var p int
			var next, resume int64
			if err := rows.Scan(&p, &next, &resume); err != nil {
				return err
			}
			starts[p] = max(next, resume)
			return nil
		}, `SELECT part, next, resume_at FROM carebus_checkpoints WHERE grp = $1 AND replay_to > 0`, group); err != nil {
			return err
		}
		if len(starts) == 0 {
			return nil
		}
		moved, err := b.move(ctx, tx, group, starts, nil)
		if err != nil {
			return err
		}
		return audit(ctx, tx, group, groupSoughtV1.New(Source, groupSought{Group: group, Reason: act.Reason, Actor: act.actor(), Positions: moved}))
	})
}

// move sets checkpoints. With ends it opens replay windows: what lies before the end is handled again and the place
// before the move is where the group resumes.
func (b *Bus) move(ctx context.Context, tx *eventstore.Tx, group string, starts, ends map[int]int64) ([]position, error) {
	now := tx.Now().UnixMicro()
	moved := []position{}
	for _, p := range slices.Sorted(maps.Keys(starts)) {
		start := starts[p]
		var next, resume int64
		var known, knownAfter string // of a lane: what was seen at next, and at resume
		if err := tx.QueryRowContext(ctx, `SELECT next, resume_at, seen, resume_seen FROM carebus_checkpoints WHERE grp = $1 AND part = $2`, group, p).Scan(&next, &resume, &known, &knownAfter); err != nil {
			return nil, err
		}
		if resume == 0 {
			knownAfter = known
		}
		var from, to, back int64
		here, after := seenFrom(start).text(p), ""
		if ends != nil {
			back, after = max(next, resume), knownAfter // a replay within a replay still resumes where the group really was
			from, to = start, back
			if end, ok := ends[p]; ok {
				to = min(end, back)
			}
			if from >= to {
				continue
			}
			moved = append(moved, position{p, from, to})
		} else {
			if start == max(next, resume) {
				here = knownAfter
			}
			moved = append(moved, position{p, next, start})
		}
		if _, err := tx.ExecContext(ctx, `UPDATE carebus_checkpoints SET next = $1, epoch = epoch + 1, owner = '', handling = -1, deaths = 0,
			replay_from = $2, replay_to = $3, resume_at = $4, updated_at = $5, seen = $8, resume_seen = $9 WHERE grp = $6 AND part = $7`,
			start, from, to, back, now, group, p, here, after); err != nil {
			return nil, err
		}
		// A parked key whose events come again must not also be drained.
		upper := int64(1) << 62
		if ends != nil {
			upper = to
			if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_replay_parked (grp, part, pkey, head, tail, count, class, error, event_id, event_type, attempts, parked_at, base, seen)
				SELECT grp, part, pkey, head, tail, count, class, error, event_id, event_type, attempts, parked_at, base, seen
				FROM carebus_parked WHERE grp = $1 AND part = $2 AND head >= $3 AND tail < $4 ON CONFLICT (grp, part, pkey) DO NOTHING`, group, p, start, upper); err != nil {
				return nil, err
			}
		} else if err := restoreParked(ctx, tx, group, p, next); err != nil {
			return nil, err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_parked WHERE grp = $1 AND part = $2 AND head >= $3 AND tail < $4`, group, p, start, upper); err != nil {
			return nil, err
		}
	}
	return moved, nil
}

// restoreParked puts back the parked keys that a replay, which ends here at next, has not come to the end of. A key that
// has been parked again meanwhile goes on to its former tail. The count may be too high then.
func restoreParked(ctx context.Context, tx *eventstore.Tx, group string, part int, next int64) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO carebus_parked (grp, part, pkey, head, tail, count, class, error, event_id, event_type, attempts, next_at, state, job, parked_at, tried_at, base, seen)
		SELECT grp, part, pkey, CASE WHEN head > $1 THEN head ELSE $1 END, tail, count, class, error, event_id, event_type, attempts, 0, 'waiting', '', parked_at, 0, base, seen
		FROM carebus_replay_parked WHERE grp = $2 AND part = $3 AND tail >= $1
		ON CONFLICT (grp, part, pkey) DO UPDATE SET tail = CASE WHEN excluded.tail > carebus_parked.tail THEN excluded.tail ELSE carebus_parked.tail END,
			count = carebus_parked.count + excluded.count`, next, group, part)
	if err != nil {
		return err
	}
	return forgetReplayed(ctx, tx, group, part)
}

func forgetReplayed(ctx context.Context, tx *eventstore.Tx, group string, part int) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM carebus_replay_parked WHERE grp = $1 AND part = $2`, group, part)
	return err
}
