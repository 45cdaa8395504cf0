package migrate

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/carebus/carebus/eventstore/driver"
)

// layout is how a store of m partitions becomes one of n, and where the places that its tables name lie afterwards.
//
// All events are taken in the order in which they were recorded, which is one order over the whole store, and each goes to
// the end of the partition of its key. So the order per key stays, and with it that of every history; within a new
// partition times still increase.
//
// A key of the old partition s goes to a new partition t with s ≡ t modulo the greatest common divisor of m and n. When n
// is a multiple of m that is one s for each t: a new partition is a part of an old one, in its order, and every position
// in the old one has an exact counterpart in the new one. Else a new partition has events of several old ones, and what a
// group has handled of them may be no beginning of it: such a group must have handled everything first.
type layout struct {
	m, n    int
	heads   []int64 // of the new partitions, when all events were seen
	hashes  [][32]byte
	marks   map[mark]*[2]int64 // places: the first new offset not below the old one, and the last one below it; -1 for none
	waiting map[[2]int][]*[2]int64
	ranges  map[string]*ranges // by bridge: what it has copied in
}

// mark is a place in an old partition, seen from a new one.
type mark struct {
	old    int
	offset int64
	new    int
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// split reports whether every new partition is a part of one old one.
func (l *layout) split() bool { return l.n%l.m == 0 }

// sources are the old partitions whose events may go to a new one.
func (l *layout) sources(t int) (out []int) {
	g := gcd(l.m, l.n)
	for s := t % g; s < l.m; s += g {
		out = append(out, s)
	}
	return out
}

func (l *layout) want(s int, offset int64, t int) { l.marks[mark{s, offset, t}] = &[2]int64{-1, -1} }

func (l *layout) wantAll(s int, offset int64) {
	g := gcd(l.m, l.n)
	for t := s % g; t < l.n; t += g {
		l.want(s, offset, t)
	}
}

// at is the offset in the new partition t of the first event of the old partition s from an offset on; the end of t when
// there is none.
func (l *layout) at(s int, offset int64, t int) int64 {
	if at := l.marks[mark{s, offset, t}][0]; at >= 0 {
		return at
	}
	return l.heads[t]
}

// planLayout reads which places the tables of the source name.
func planLayout(ctx context.Context, d driver.Driver, q driver.Querier, n int) (*layout, error) {
	m := d.Info().Partitions
	l := &layout{m: m, n: n, heads: make([]int64, n), hashes: make([][32]byte, n), marks: map[mark]*[2]int64{}, waiting: map[[2]int][]*[2]int64{}, ranges: map[string]*ranges{}}
	found := map[string]bool{}
	list := serverDefinitions
	if d.Info().Name == "sqlite" {
		list = fileDefinitions
	}
	all, err := list(ctx, q)
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		found[one.name] = true
	}
	if found["carebus_projection_builds"] {
		var name string
		err := each(ctx, q, `SELECT name FROM carebus_projection_builds ORDER BY name LIMIT 1`, []any{&name}, func() error {
			return fmt.Errorf("%w: the projection %s is being built; let the build end, or break it off", ErrBusy, name)
		})
		if err != nil {
			return nil, err
		}
	}
	if found["carebus_kafka_relay"] {
		var part int
		err := each(ctx, q, `SELECT part FROM carebus_kafka_relay LIMIT 1`, []any{&part}, func() error {
			return fmt.Errorf("%w: its events were sent to Kafka by the partitions that it has, and readers tell repetitions by these; give topics of another prefix the partitions that are needed instead", ErrBusy)
		})
		if err != nil {
			return nil, err
		}
	}
	if found["carebus_checkpoints"] {
		groups, err := readCheckpoints(ctx, q, m)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(groups)) {
			for _, c := range groups[name] { // first: it explains what lags
				if c.to > 0 && !l.split() {
					return nil, fmt.Errorf("%w: the group %s is replaying; let the replay end, or cancel it, or choose a multiple of %d", ErrBusy, name, m)
				}
			}
			for s, c := range groups[name] {
				if s == 0 && !l.split() {
					if err := l.drained(ctx, d, name, groups[name]); err != nil {
						return nil, err
					}
				}
				for _, offset := range []int64{c.next, c.from, c.to, c.resume} {
					l.wantAll(s, offset)
				}
			}
		}
	}
	for _, table := range parkedTables {
		if !found[table] {
			continue
		}
		var s int
		var key string
		var head, tail int64
		if err := each(ctx, q, `SELECT part, pkey, head, tail FROM `+table, []any{&s, &key, &head, &tail}, func() error {
			t := driver.PartitionOf(key, n)
			l.want(s, head, t)
			l.want(s, tail, t)
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if found["carebus_bridge_ranges"] {
		var bridge string
		var s int
		var lo, hi int64
		if err := each(ctx, q, `SELECT bridge, part, lo, hi FROM carebus_bridge_ranges ORDER BY bridge, part, lo`, []any{&bridge, &s, &lo, &hi}, func() error {
			if l.ranges[bridge] == nil {
				l.ranges[bridge] = &ranges{old: map[int][][2]int64{}, new: map[int][][2]int64{}}
			}
			l.ranges[bridge].old[s] = append(l.ranges[bridge].old[s], [2]int64{lo, hi})
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// layOut copies the events to their new places, those that the target does not have yet. It sees all of them in any case,
// and so learns the places that tables name.
func (c *copier) layOut(ctx context.Context) error {
	l := c.layout
	have, err := c.to.Heads(ctx)
	if err != nil {
		return err
	}
	c.report.Resumed = sum(have)
	// The places that are asked for in an old partition, in order, and those of them that have been passed.
	asked := make([][]mark, l.m)
	for k := range l.marks {
		asked[k.old] = append(asked[k.old], k)
	}
	for s := range asked {
		slices.SortFunc(asked[s], func(a, b mark) int { return int(min(max(a.offset-b.offset, -1), 1)) })
	}
	last := map[[2]int]int64{} // new offset + 1 of the last event that went from an old to a new partition
	pass := func(s int, offset int64) {
		for len(asked[s]) > 0 && asked[s][0].offset <= offset {
			k := asked[s][0]
			asked[s] = asked[s][1:]
			way := [2]int{s, k.new}
			l.marks[k][1] = last[way] - 1
			l.waiting[way] = append(l.waiting[way], l.marks[k])
		}
	}
	var records []driver.Record
	size, done := 0, int64(0)
	flush := func() error {
		if len(records) > 0 {
			if err := c.to.Import(ctx, records); err != nil {
				return err
			}
		}
		records, size = records[:0], 0
		c.progress("events", done, c.report.Events)
		return nil
	}
	for r, err := range driver.Merged(ctx, c.from, nil, c.heads, nil, max(mergeBytes/l.m, 64<<10)) {
		if err != nil {
			return err
		}
		s, t := r.Partition, driver.PartitionOf(r.PartitionKey, l.n)
		pass(s, r.Offset)
		way := [2]int{s, t}
		for _, place := range l.waiting[way] {
			place[0] = l.heads[t]
		}
		delete(l.waiting, way)
		for _, rs := range l.ranges {
			rs.see(s, r.Offset, t, l.heads[t])
		}
		r.Partition, r.Offset = t, l.heads[t]
		l.hashes[t] = driver.Chain(l.hashes[t], driver.ContentDigest(&r.Event), t, r.Offset, r.Stream, r.StreamVersion, r.RecordedAt)
		l.heads[t]++
		last[way] = l.heads[t]
		done++
		switch {
		case l.heads[t] == have[t]: // the last one that an earlier run has copied
			if err := c.expect(ctx, t, r.Offset, l.hashes[t]); err != nil {
				return err
			}
		case l.heads[t] > have[t]:
			records = append(records, r)
			size += len(r.Payload)
		}
		if len(records) >= batch || size >= batchBytes || done%batch == 0 && len(records) == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	for s := range c.heads {
		pass(s, 1<<62) // places at the end
	}
	for t, n := range have {
		if n > l.heads[t] {
			return fmt.Errorf("%w: partition %d has %d events, the source has %d for it; choose another target", ErrDiffers, t, n, l.heads[t])
		}
	}
	return flush()
}

// compareKeys proves the new layout: every key has the same events in the same order on both ends, and each new partition
// has the hash of what was laid out. It holds a count and a hash for each key of one class of partitions at a time: those
// between which keys may move.
func (c *copier) compareKeys(ctx context.Context) error {
	l := c.layout
	for t, head := range l.heads {
		if err := c.expect(ctx, t, head-1, l.hashes[t]); err != nil {
			return err
		}
	}
	done := int64(0)
	type history struct {
		events int64
		hash   [16]byte
	}
	read := func(d driver.Driver, heads []int64, class, g int) (map[string]history, error) {
		out := map[string]history{}
		for p := class; p < len(heads); p += g {
			for next := int64(0); next < heads[p]; {
				b, err := d.Partition(ctx, driver.PartitionQuery{Partition: p, From: next, To: heads[p], Limit: batch, MaxBytes: batchBytes})
				if err != nil {
					return nil, err
				}
				if len(b.Records) == 0 {
					return nil, fmt.Errorf("%w: %s: partition %d has nothing at offset %d", driver.ErrCorrupt, d.Info().Location, p, next)
				}
				for i := range b.Records {
					r := &b.Records[i]
					h := out[r.PartitionKey]
					// What does not depend on the partition: content, history, time, and the events of the key before.
					var prev [32]byte
					copy(prev[:], h.hash[:])
					sum := driver.Chain(prev, driver.ContentDigest(&r.Event), 0, h.events, r.Stream, r.StreamVersion, r.RecordedAt)
					copy(h.hash[:], sum[:])
					h.events++
					out[r.PartitionKey] = h
				}
				next = b.Next
				done += int64(len(b.Records))
				c.progress("compare keys", done, 2*c.report.Events)
			}
		}
		return out, nil
	}
	g := gcd(l.m, l.n)
	for class := range g {
		before, err := read(c.from, c.heads, class, g)
		if err != nil {
			return err
		}
		after, err := read(c.to, l.heads, class, g)
		if err != nil {
			return err
		}
		for key, h := range before {
			if after[key] != h {
				return fmt.Errorf("%w: a key (sha256 %x) has %d events in the source and %d in the target, or others", driver.ErrCorrupt, sha256.Sum256([]byte(key)), h.events, after[key].events)
			}
		}
		if len(before) != len(after) {
			return fmt.Errorf("%w: the target has %d keys that the source does not have", driver.ErrCorrupt, len(after)-len(before))
		}
		c.report.Keys += int64(len(before))
	}
	return c.ends(ctx, l.heads)
}

// ranges are runs of offsets, by partition.
type ranges struct {
	old, new map[int][][2]int64
}

// see is told of every event, in order, and where it goes.
func (r *ranges) see(s int, offset int64, t int, place int64) {
	runs := r.old[s]
	for len(runs) > 0 && runs[0][1] <= offset {
		runs = runs[1:]
	}
	r.old[s] = runs
	if len(runs) == 0 || offset < runs[0][0] {
		return
	}
	if to := r.new[t]; len(to) > 0 && to[len(to)-1][1] == place {
		to[len(to)-1][1]++
		return
	}
	r.new[t] = append(r.new[t], [2]int64{place, place + 1})
}

// checkpoint is how far a group has come in a partition.
type checkpoint struct {
	next, epoch, from, to, resume, updated int64
}

// readCheckpoints returns, for each group, its checkpoints by partition.
func readCheckpoints(ctx context.Context, q driver.Querier, m int) (map[string][]checkpoint, error) {
	groups, counts := map[string][]checkpoint{}, map[string]int{}
	var name string
	var part int
	var c checkpoint
	err := each(ctx, q, `SELECT grp, part, next, epoch, replay_from, replay_to, resume_at, updated_at FROM carebus_checkpoints`,
		[]any{&name, &part, &c.next, &c.epoch, &c.from, &c.to, &c.resume, &c.updated}, func() error {
			if part < 0 || part >= m {
				return fmt.Errorf("%w: the group %s has a checkpoint in partition %d; the store has %d", driver.ErrCorrupt, name, part, m)
			}
			if groups[name] == nil {
				groups[name] = make([]checkpoint, m)
			}
			groups[name][part] = c
			counts[name]++
			return nil
		})
	for name, n := range counts {
		if err == nil && n != m {
			err = fmt.Errorf("%w: the group %s has checkpoints in %d of %d partitions", driver.ErrCorrupt, name, n, m)
		}
	}
	return groups, err
}

// drained fails unless what a group has handled is all older than what it has not, among the partitions whose events may
// meet in a new one. translate would find it too, but only after all events were copied.
func (l *layout) drained(ctx context.Context, d driver.Driver, group string, all []checkpoint) error {
	g := gcd(l.m, l.n)
	handled, waits := make([]time.Time, g), make([]time.Time, g)
	for s, c := range all {
		b, err := d.Partition(ctx, driver.PartitionQuery{Partition: s, From: max(c.next-1, 0), To: c.next + 1, Limit: 2})
		if err != nil {
			return err
		}
		for _, r := range b.Records {
			if r.Offset < c.next && handled[s%g].Before(r.RecordedAt) {
				handled[s%g] = r.RecordedAt
			}
			if r.Offset >= c.next && (waits[s%g].IsZero() || r.RecordedAt.Before(waits[s%g])) {
				waits[s%g] = r.RecordedAt
			}
		}
	}
	for class := range g {
		if !waits[class].IsZero() && !waits[class].After(handled[class]) {
			return notDrained(group, l.m)
		}
	}
	return nil
}

func notDrained(group string, m int) error {
	return fmt.Errorf("%w: the group %s has handled some events and not others that were recorded before them; let it handle all (carebus group list shows its lag), or choose a multiple of %d partitions",
		ErrBusy, group, m)
}

// translate says where a group goes on in a new partition.
func (l *layout) translate(group string, all []checkpoint, t int) (checkpoint, error) {
	out := checkpoint{next: l.heads[t]}
	handled, replays := int64(-1), false
	for s, c := range all {
		out.epoch = max(out.epoch, c.epoch+1) // fences off whoever knows an older one
		out.updated = max(out.updated, c.updated)
		if !slices.Contains(l.sources(t), s) {
			continue
		}
		out.next = min(out.next, l.at(s, c.next, t))
		handled = max(handled, l.marks[mark{s, c.next, t}][1])
		if c.to > 0 { // a replay, and so a part of one partition: see planLayout
			out.from, out.to, out.resume, replays = l.at(s, c.from, t), l.at(s, c.to, t), l.at(s, c.resume, t), true
		}
	}
	if handled >= out.next {
		return out, notDrained(group, l.m)
	}
	if replays && out.next >= out.to { // of this part everything was handled again
		out.next, out.from, out.to, out.resume = out.resume, 0, 0, 0
	}
	return out, nil
}

// each calls fn for every row, scanned into dest.
func each(ctx context.Context, q driver.Querier, query string, dest []any, fn func() error) (err error) {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		if err := fn(); err != nil {
			return err
		}
	}
	return rows.Err()
}
