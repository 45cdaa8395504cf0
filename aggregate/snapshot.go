package aggregate

import (
	"container/list"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/carebus/carebus/eventstore"
)

const (
	snapshotTable = `CREATE TABLE IF NOT EXISTS carebus_snapshots (category TEXT NOT NULL, id TEXT NOT NULL, version BIGINT NOT NULL,
		recorded_at BIGINT NOT NULL, shape BIGINT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (category, id))`
	readSnapshot  = `SELECT version, recorded_at, state FROM carebus_snapshots WHERE category = $1 AND id = $2 AND shape = $3`
	writeSnapshot = `INSERT INTO carebus_snapshots (category, id, version, recorded_at, shape, state) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (category, id) DO UPDATE SET version = excluded.version, recorded_at = excluded.recorded_at, shape = excluded.shape, state = excluded.state
		WHERE excluded.version > carebus_snapshots.version OR excluded.shape <> carebus_snapshots.shape`
)

// kept reads an entity's snapshot.
func (d *Definition[S]) kept(ctx context.Context, r reader, id string) (snapshot, error) {
	if d.every == 0 {
		return snapshot{}, nil
	}
	if o, ok := r.(outside); ok {
		if err := d.prepare(ctx, o.s); errors.Is(err, eventstore.ErrReadOnly) {
			return snapshot{}, nil // nobody has kept one, and nobody can here
		} else if err != nil {
			return snapshot{}, err
		}
	}
	s, err := r.snapshot(ctx, d.category, id, d.shape)
	if errors.Is(err, sql.ErrNoRows) {
		return snapshot{}, nil
	}
	return s, err
}

// prepare makes the table of snapshots in a store, once.
func (d *Definition[S]) prepare(ctx context.Context, s *eventstore.Store) error {
	if d.every == 0 || d.recent.isPrepared(s) {
		return nil
	}
	if err := s.Migrate(ctx, "aggregate", snapshotTable); err != nil {
		return err
	}
	d.recent.prepare(s)
	return nil
}

// decode makes a state of a snapshot. One that cannot be read is of a shape that nobody has called another: the events
// know better.
func decode[S any](k snapshot) (s Loaded[S], ok bool) {
	if k.version == 0 || json.Unmarshal(k.state, &s.State) != nil {
		return Loaded[S]{}, false
	}
	s.Version, s.RecordedAt = k.version, time.UnixMicro(k.recordedAt).UTC()
	return s, true
}

// due reports whether a snapshot belongs between two versions.
func (d *Definition[S]) due(before, after int64) bool {
	return d.every > 0 && before/int64(d.every) != after/int64(d.every)
}

// keep writes a snapshot of a committed state when one is due. It only makes loading shorter, so that a failure to keep
// it is no failure of the command, which is stored.
func (d *Definition[S]) keep(ctx context.Context, l Log, id string, before int64, s Loaded[S]) {
	if !d.due(before, s.Version) || d.prepare(ctx, l.Store()) != nil {
		return
	}
	_ = l.Store().Update(ctx, func(tx *eventstore.Tx) error {
		return d.write(func(query string, args ...any) (sql.Result, error) { return tx.ExecContext(ctx, query, args...) }, id, s)
	})
}

func (d *Definition[S]) write(exec func(query string, args ...any) (sql.Result, error), id string, s Loaded[S]) error {
	state, err := json.Marshal(s.State)
	if err != nil {
		return fmt.Errorf("aggregate: the state of %s cannot be encoded: %w", d.Stream(id), err)
	}
	_, err = exec(writeSnapshot, d.category, id, s.Version, s.RecordedAt.UnixMicro(), d.shape, string(state))
	return err
}

// recent remembers the latest known states of entities, encoded, so that nobody who is given one can change it for
// others. It forgets those not used for longest.
type recent struct {
	limit int

	mu       sync.Mutex
	bytes    int
	states   map[key]*list.Element
	order    *list.List // of *remembered, last used first
	prepared map[*eventstore.Store]bool
}

type key struct {
	store  *eventstore.Store
	stream string
}

type remembered struct {
	key key
	snapshot
}

func newRecent(limit int) *recent {
	return &recent{limit: limit, states: map[key]*list.Element{}, order: list.New(), prepared: map[*eventstore.Store]bool{}}
}

func (d *Definition[S]) remembered(l Log, id string) (Loaded[S], bool) {
	return decode[S](d.recent.get(key{l.Store(), d.Stream(id)}))
}

// remember keeps a committed state, when it is newer than what is known.
func (d *Definition[S]) remember(l Log, id string, s Loaded[S]) {
	state, err := json.Marshal(s.State)
	if err != nil || s.Version == 0 {
		return
	}
	d.recent.put(key{l.Store(), d.Stream(id)}, snapshot{s.Version, s.RecordedAt.UnixMicro(), state})
}

func (r *recent) get(k key) snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.states[k]
	if e == nil {
		return snapshot{}
	}
	r.order.MoveToFront(e)
	return e.Value.(*remembered).snapshot
}

func (r *recent) put(k key, s snapshot) {
	const overhead = 200
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.states[k]; e != nil {
		if e.Value.(*remembered).version > s.version {
			return
		}
		r.remove(e)
	}
	r.states[k] = r.order.PushFront(&remembered{k, s})
	r.bytes += len(k.stream) + len(s.state) + overhead
	for r.bytes > r.limit {
		r.remove(r.order.Back())
	}
}

func (r *recent) forget(k key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.states[k]; e != nil {
		r.remove(e)
	}
}

func (r *recent) remove(e *list.Element) {
	m := r.order.Remove(e).(*remembered)
	delete(r.states, m.key)
	r.bytes -= len(m.key.stream) + len(m.state) + 200
}

func (r *recent) isPrepared(s *eventstore.Store) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.prepared[s]
}

func (r *recent) prepare(s *eventstore.Store) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.prepared[s] = true
}
