package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// keptFor is how long an event of an awaited type is remembered for waits that begin after it.
const keptFor = 7 * 24 * time.Hour

// arrived brings an event to the instances that wait for it.
//
// An event may come before the wait. On one writer the two cannot pass each other unseen: either the event's
// transaction is first, and the wait finds the row in carebus_saga_kept, or the wait's is, and the event finds the row
// in carebus_saga_waits.
func (r *runner) arrived(ctx context.Context, tx bus.Tx, rec eventstore.Record) error {
	if err := r.thin(tx); err != nil {
		return err
	}
	kept := map[string]bool{}
	old := tx.Now().Sub(rec.RecordedAt) > keptFor // a group that is new to an old log
	for v, d := range r.defs {
		for _, a := range d.arrivals() {
			if a.eventType != rec.Type {
				continue
			}
			key, take, err := r.read(a, rec.Event)
			if err != nil {
				return bus.Fatal(err)
			}
			if key == "" {
				continue
			}
			if !kept[key] && !old {
				kept[key] = true
				var text []byte
				if rec.Partition >= bus.FirstLane { // a transport has brought it, perhaps from another store: it is not in our log
					text = rec.AppendJSON(nil)
				}
				if _, err := tx.Exec(`INSERT INTO carebus_saga_kept (saga, type, key, at, event_id, event) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (saga, type, key, at, event_id) DO NOTHING`,
					r.name, rec.Type, key, rec.RecordedAt.UnixMicro(), rec.ID, string(text)); err != nil {
					return err
				}
			}
			ids, err := waiters(tx, r.name, rec.Type, key, v, a.step)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if err := r.deliver(ctx, tx, id, a.step, rec, take); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func waiters(tx bus.Tx, saga, eventType, key string, version, step int) ([]string, error) {
	rows, err := tx.Query(`SELECT id FROM carebus_saga_waits WHERE saga = $1 AND type = $2 AND key = $3 AND version = $4 AND step = $5 ORDER BY id`, saga, eventType, key, version, step)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

// deliver hands an event to one waiting instance.
func (r *runner) deliver(ctx context.Context, tx bus.Tx, id string, step int, rec eventstore.Record, take func(carrier) error) error {
	t, err := r.begin(ctx, tx, id)
	if err != nil || t == nil {
		return err
	}
	st := t.x.progress.at(step)
	if st == nil || st.Phase != waiting || slices.Contains(t.x.seen, rec.ID) || rec.RecordedAt.UnixMicro() < t.x.since {
		return nil
	}
	if st.At != 0 && t.now.UnixMicro() >= st.At {
		// The deadline's timer may have fired; then it has been stated that the event did not come, and so it stays.
		was, err := r.timers.CancelTx(tx, t.x.timer(step))
		if err != nil {
			return err
		}
		if !was {
			t.told = step
			t.feed(input{op: inTimeout, step: step})
			return t.finish()
		}
	}
	t.x.seen = append(t.x.seen, rec.ID)
	t.outcome(input{step: step}, take, nil)
	return t.finish()
}

func (r *runner) read(a arrivalOf, e event.Event) (string, func(carrier) error, error) {
	if r.upcast != nil && major(e.Version) != major(a.version) {
		var err error
		if e, err = r.upcast(e, a.version); err != nil {
			return "", nil, err
		}
	}
	return a.read(e)
}

func major(version string) string {
	m, _, _ := strings.Cut(version, ".")
	return m
}

// wait begins an await: with an event that came before it, or by a row that an event to come will find.
func (t *turn) wait(e effect) error {
	key, err := t.c.key(e.step)
	if err == nil && key == "" {
		err = &RefusedError{Reason: "no-key", Err: errors.New("the state has no key to await the event by")}
	}
	if err != nil {
		t.feed(input{op: inFailed, step: e.step, try: e.try, err: failureOf(err)})
		return nil
	}
	seen := map[string]bool{}
	for _, a := range t.d.arrivals() {
		if a.step != e.step || seen[a.eventType] {
			continue
		}
		seen[a.eventType] = true
		rec, take, err := t.early(a, key)
		if err != nil {
			return err
		}
		if take != nil {
			t.x.seen = append(t.x.seen, rec.ID)
			t.outcome(input{step: e.step}, take, nil)
			return nil
		}
		if _, err := t.tx.Exec(`INSERT INTO carebus_saga_waits (id, step, type, saga, version, key) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id, step, type) DO NOTHING`,
			t.x.id, e.step, a.eventType, t.x.name, t.x.version, key); err != nil {
			return err
		}
	}
	return nil
}

// early finds the first event that came since the instance began and that it has not taken yet.
func (t *turn) early(a arrivalOf, key string) (rec eventstore.Record, take func(carrier) error, err error) {
	all, err := t.kept(a.eventType, key)
	if err != nil {
		return rec, nil, err
	}
	for _, one := range all {
		if slices.Contains(t.x.seen, one.id) {
			continue
		}
		if one.text != "" {
			rec = eventstore.Record{}
			err = json.Unmarshal([]byte(one.text), &rec.Event)
		} else {
			// The event was committed before the group was given it, so a reader beside this transaction sees it.
			rec, err = t.r.store.Get(t.ctx, one.id)
		}
		if err != nil {
			return rec, nil, fmt.Errorf("saga: an event that came before its wait: %w", err)
		}
		if _, take, err = t.r.read(a, rec.Event); err != nil {
			return rec, nil, bus.Fatal(err)
		}
		return rec, take, nil
	}
	return rec, nil, nil
}

// early is an event that was kept; text is empty when the log has it.
type early struct{ id, text string }

func (t *turn) kept(eventType, key string) ([]early, error) {
	rows, err := t.tx.Query(`SELECT event_id, event FROM carebus_saga_kept WHERE saga = $1 AND type = $2 AND key = $3 AND at >= $4 ORDER BY at`, t.x.name, eventType, key, t.x.since)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []early
	for rows.Next() {
		var e early
		if err := rows.Scan(&e.id, &e.text); err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, rows.Err()
}

// thin drops what has been kept for long enough, once a minute.
func (r *runner) thin(tx bus.Tx) error {
	now := tx.Now()
	last := r.pruned.Load()
	if now.UnixMicro()-last < time.Minute.Microseconds() || !r.pruned.CompareAndSwap(last, now.UnixMicro()) {
		return nil
	}
	_, err := tx.Exec(`DELETE FROM carebus_saga_kept WHERE at < $1`, now.Add(-keptFor).UnixMicro())
	return err
}
