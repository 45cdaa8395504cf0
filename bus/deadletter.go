package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// DeadLetter is a parked key: the first of its events that is not done, why, and how many wait behind it. The events
// themselves are in the log; nothing of them is copied.
type DeadLetter struct {
	Group     string    `json:"group"`
	Topic     string    `json:"topic,omitempty"` // where a transport brought the events
	Partition int       `json:"partition"`
	Key       string    `json:"key"`
	Head      int64     `json:"head"`   // offset of the first event that is not done
	Tail      int64     `json:"tail"`   // offset of the last event that waits
	Events    int64     `json:"events"` // events of the key from head to tail
	Class     Class     `json:"class"`
	Error     string    `json:"error"`
	EventID   string    `json:"eventId"` // the event at the head
	EventType string    `json:"eventType"`
	Attempts  int       `json:"attempts"`
	NextTry   time.Time `json:"nextTry"`
	State     string    `json:"state"` // waiting, retry
	ParkedAt  time.Time `json:"parkedAt"`
	Job       string    `json:"job,omitempty"`

	part int // of the store, or the lane
}

// Filter chooses dead letters. Empty members choose all.
type Filter struct {
	Group     string    `json:"group,omitempty"`
	Key       string    `json:"key,omitempty"`
	Class     Class     `json:"class,omitempty"`
	EventType string    `json:"eventType,omitempty"`
	Error     string    `json:"error,omitempty"` // a part of the error text
	Before    time.Time `json:"before,omitzero"` // parked before; a bulk act freezes it when it begins
}

func (f Filter) where() (string, []any) {
	var parts []string
	var args []any
	add := func(cond string, v any) {
		args = append(args, v)
		parts = append(parts, strings.ReplaceAll(cond, "?", fmt.Sprintf("$%d", len(args))))
	}
	if f.Group != "" {
		add("grp = ?", f.Group)
	}
	if f.Key != "" {
		add("pkey = ?", f.Key)
	}
	if f.Class != "" {
		add("class = ?", string(f.Class))
	}
	if f.EventType != "" {
		add("event_type = ?", f.EventType)
	}
	if f.Error != "" {
		add("LOWER(error) LIKE LOWER(?) ESCAPE '\\'", "%"+strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(f.Error)+"%")
	}
	if !f.Before.IsZero() {
		add("parked_at <= ?", f.Before.UnixMicro())
	}
	if len(parts) == 0 {
		return "1 = 1", nil
	}
	return strings.Join(parts, " AND "), args
}

// DeadLetters lists parked keys, the longest parked first.
func (b *Bus) DeadLetters(ctx context.Context, f Filter, limit int) ([]DeadLetter, error) {
	out := []DeadLetter{}
	err := b.store.View(ctx, func(q eventstore.Querier) error {
		where, args := f.where()
		args = append(args, limit)
		rows, err := q.QueryContext(ctx, `SELECT grp, part, pkey, head, tail, count, class, error, event_id, event_type, attempts, next_at, state, parked_at, job
			FROM carebus_parked WHERE `+where+fmt.Sprintf(` ORDER BY parked_at, grp, part, pkey LIMIT $%d`, len(args)), args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var d DeadLetter
			var next, parked int64
			if err := rows.Scan(&d.Group, &d.part, &d.Key, &d.Head, &d.Tail, &d.Events, &d.Class, &d.Error, &d.EventID, &d.EventType, &d.Attempts, &next, &d.State, &parked, &d.Job); err != nil {
				return err
			}
			b.place(&d)
			d.NextTry, d.ParkedAt = time.UnixMicro(next).UTC(), time.UnixMicro(parked).UTC()
			out = append(out, d)
		}
		return rows.Err()
	})
	return out, err
}

// place says where a dead letter is.
func (b *Bus) place(d *DeadLetter) {
	if d.Partition = d.part; d.part >= FirstLane && b.opts.Transport != nil {
		d.Topic, d.Partition = b.opts.Transport.Place(d.part)
	}
}

// Waiting reads the events of a dead letter from its head on, as they were published, those that the group handles.
func (b *Bus) Waiting(ctx context.Context, d DeadLetter, limit int) ([]eventstore.Record, error) {
	var patterns string
	err := b.store.View(ctx, func(q eventstore.Querier) error {
		return q.QueryRowContext(ctx, `SELECT patterns FROM carebus_groups WHERE grp = $1`, d.Group).Scan(&patterns)
	})
	if err != nil {
		return nil, err
	}
	wanted := func(t string) bool {
		return slices.ContainsFunc(strings.Fields(patterns), func(p string) bool { return Matches(p, t) })
	}
	if d.part < FirstLane {
		batch, err := b.store.Partition(ctx, eventstore.PartitionQuery{Partition: d.part, From: d.Head, To: d.Tail + 1, Key: d.Key, Match: wanted, Limit: limit})
		return batch.Records, err
	}
	if b.opts.Transport == nil {
		return nil, errNoTransport
	}
	// A worker knows how far the relays are at the head; for a look it does to tell repetitions by their id.
	var out []eventstore.Record
	had := map[string]bool{}
	for from := d.Head; from <= d.Tail && len(out) < limit; {
		found, next, err := b.opts.Transport.Fetch(ctx, d.part, from, 1000, 4<<20)
		if err != nil || next == from {
			return out, err
		}
		for i := range found {
			r := &found[i]
			if r.Offset <= d.Tail && r.PartitionKey == d.Key && (r.Err != nil || wanted(r.Type)) && !had[r.ID] && len(out) < limit {
				had[r.ID] = true
				out = append(out, r.Record)
			}
		}
		from = next
	}
	return out, nil
}

// count returns how many keys and waiting events a filter chooses.
func (b *Bus) count(ctx context.Context, q eventstore.Querier, f Filter) (keys, events int64, err error) {
	where, args := f.where()
	err = q.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(count), 0) FROM carebus_parked WHERE `+where, args...).Scan(&keys, &events)
	return keys, events, err
}

// Redrive is a request to try parked keys again.
type Redrive struct {
	Filter Filter
	Act    Act
	Rate   float64 // keys per second; 0 means all at once
}

// Preview is what a bulk act would do.
type Preview struct {
	Keys    int64     `json:"keys"`
	Events  int64     `json:"events"`
	Invalid []string  `json:"invalid"` // dry run: head events that their schema refuses, "eventId: why" (at most 100)
	Before  time.Time `json:"before"`  // the frozen bound: keys parked later are not part of it
}

// Job is a bulk act under way or ended.
type Job struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	Group     string    `json:"group"`
	State     string    `json:"state"` // running, finished, cancelled
	Total     int64     `json:"total"`
	Remaining int64     `json:"remaining"`
	Failed    int64     `json:"failed"` // failed again; parked still
	Reason    string    `json:"reason"`
	Actor     string    `json:"actor"`
	Created   time.Time `json:"created"`
}

// PreviewRedrive counts what a redrive would touch and checks the head events against their schemas, changing nothing.
func (b *Bus) PreviewRedrive(ctx context.Context, f Filter) (Preview, error) {
	p := Preview{Invalid: []string{}, Before: time.Now().UTC()}
	if f.Before.IsZero() {
		f.Before = p.Before
	} else {
		p.Before = f.Before
	}
	err := b.store.View(ctx, func(q eventstore.Querier) (err error) {
		p.Keys, p.Events, err = b.count(ctx, q, f)
		return err
	})
	if err != nil || b.opts.Validate == nil {
		return p, err
	}
	letters, err := b.DeadLetters(ctx, f, 1000)
	if err != nil {
		return p, err
	}
	for _, d := range letters {
		r, err := b.headEvent(ctx, d)
		if err == nil {
			err = b.opts.Validate(r.Event)
		}
		if err != nil && len(p.Invalid) < 100 {
			p.Invalid = append(p.Invalid, d.EventID+": "+errorText(err))
		}
	}
	return p, nil
}

// head is the event that a dead letter stands at.
func (b *Bus) head(ctx context.Context, d DeadLetter) (eventstore.Record, error) {
	if d.part < FirstLane {
		return b.store.Get(ctx, d.EventID)
	}
	rs, err := b.Waiting(ctx, d, 1)
	if err == nil && (len(rs) == 0 || rs[0].Offset != d.Head) {
		err = fmt.Errorf("%w: event %s at offset %d of %s/%d", ErrLost, d.EventID, d.Head, d.Topic, d.Partition)
	}
	if err != nil {
		return eventstore.Record{}, err
	}
	return rs[0], nil
}

// headEvent is the event that a dead letter stands at, with its correction if it has one.
func (b *Bus) headEvent(ctx context.Context, d DeadLetter) (eventstore.Record, error) {
	r, err := b.head(ctx, d)
	if err != nil {
		return r, err
	}
	rs, err := b.correctedFor(ctx, d.Group, []eventstore.Record{r})
	if err != nil {
		return r, err
	}
	return rs[0], nil
}

// Redrive asks the members of the groups to try the chosen keys again, from head to tail, in order. It returns at
// once; the job tells the progress. A group that no process runs keeps the wish until one does.
func (b *Bus) Redrive(ctx context.Context, r Redrive) (Job, error) {
	if strings.TrimSpace(r.Act.Reason) == "" {
		return Job{}, fmt.Errorf("redriving: %w", ErrReason)
	}
	f := r.Filter
	if f.Before.IsZero() {
		f.Before = time.Now()
	}
	j := Job{ID: event.NewID(), Kind: "redrive", Group: f.Group, State: "running", Reason: r.Act.Reason, Actor: r.Act.actor()}
	filter, err := json.Marshal(f)
	if err != nil {
		return j, err
	}
	groups := map[string]bool{}
	err = b.store.Update(ctx, func(tx *eventstore.Tx) error {
		now := tx.Now()
		j.Created, j.Total = now, 0
		where, args := f.where()
		rows, err := tx.QueryContext(ctx, `SELECT grp, part, pkey FROM carebus_parked WHERE `+where+` ORDER BY parked_at`, args...)
		if err != nil {
			return err
		}
		type id struct {
			grp  string
			part int
			key  string
		}
		var ids []id
		for rows.Next() {
			var i id
			if err := rows.Scan(&i.grp, &i.part, &i.key); err != nil {
				rows.Close()
				return err
			}
			ids = append(ids, i)
		}
		rows.Close()
		if err := rows.Err(); err != nil {
			return err
		}
		if len(ids) == 0 {
			return fmt.Errorf("%w: the filter chooses no key", ErrNotParked)
		}
		for n, i := range ids {
			at := now
			if r.Rate > 0 {
				at = now.Add(time.Duration(float64(n) / r.Rate * float64(time.Second)))
			}
			if _, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET state = $1, next_at = $2, job = $3 WHERE grp = $4 AND part = $5 AND pkey = $6`,
				parkedRetry, at.UnixMicro(), j.ID, i.grp, i.part, i.key); err != nil {
				return err
			}
			groups[i.grp] = true
		}
		j.Total, j.Remaining = int64(len(ids)), int64(len(ids))
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_jobs (id, kind, grp, filter, state, total, failed, reason, actor, created_at, updated_at) VALUES ($1, $2, $3, $4, 'running', $5, 0, $6, $7, $8, $9)`,
			j.ID, j.Kind, j.Group, string(filter), j.Total, j.Reason, j.Actor, now.UnixMicro(), now.UnixMicro()); err != nil {
			return err
		}
		for g := range groups {
			if err := audit(ctx, tx, g, redriveStartV1.New(Source, redriveEvent{JobID: j.ID, Group: g, Keys: j.Total, Reason: j.Reason, Actor: j.Actor})); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Job{}, err
	}
	for g := range groups {
		b.nudge(g)
	}
	return j, nil
}

// Job returns a job's progress, or ErrNoJob. A job whose keys have all been tried is finished.
func (b *Bus) Job(ctx context.Context, id string) (Job, error) {
	jobs, err := b.jobs(ctx, `WHERE id = $1`, id)
	if err != nil {
		return Job{}, err
	}
	if len(jobs) == 0 {
		return Job{}, fmt.Errorf("%w: %s", ErrNoJob, id)
	}
	return jobs[0], nil
}

// Jobs lists jobs, newest first.
func (b *Bus) Jobs(ctx context.Context, limit int) ([]Job, error) {
	return b.jobs(ctx, `ORDER BY created_at DESC LIMIT $1`, limit)
}

func (b *Bus) jobs(ctx context.Context, rest string, args ...any) ([]Job, error) {
	out := []Job{}
	var ended []Job
	err := b.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT id, kind, grp, state, total, failed, reason, actor, created_at,
			(SELECT COUNT(*) FROM carebus_parked p WHERE p.job = carebus_jobs.id) FROM carebus_jobs `+rest, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var j Job
			var created int64
			if err := rows.Scan(&j.ID, &j.Kind, &j.Group, &j.State, &j.Total, &j.Failed, &j.Reason, &j.Actor, &created, &j.Remaining); err != nil {
				return err
			}
			j.Created = time.UnixMicro(created).UTC()
			if j.State == "running" && j.Remaining == 0 {
				j.State = "finished"
				ended = append(ended, j)
			}
			out = append(out, j)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	for _, j := range ended {
		if err := b.endJob(ctx, j); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// endJob writes down that a job ended; whoever sees it first does so, once.
func (b *Bus) endJob(ctx context.Context, j Job) error {
	return b.store.Update(ctx, func(tx *eventstore.Tx) error {
		res, err := tx.ExecContext(ctx, `UPDATE carebus_jobs SET state = $1, updated_at = $2 WHERE id = $3 AND state = 'running'`, j.State, tx.Now().UnixMicro(), j.ID)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return err
		}
		return audit(ctx, tx, j.Group, redriveEndV1.New(Source, redriveEvent{JobID: j.ID, Group: j.Group, Keys: j.Total, Failed: j.Failed, Reason: j.Reason, Actor: j.Actor, State: j.State}))
	})
}

// CancelJob takes back the wish for keys that have not been tried yet; they wait for their next try as before.
func (b *Bus) CancelJob(ctx context.Context, id string, act Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("cancelling job %s: %w", id, ErrReason)
	}
	j, err := b.Job(ctx, id)
	if err != nil {
		return err
	}
	if j.State != "running" {
		return nil
	}
	err = b.store.Update(ctx, func(tx *eventstore.Tx) error {
		next := tx.Now().Add(time.Minute).UnixMicro()
		_, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET state = 'waiting', job = '', next_at = $1 WHERE job = $2`, next, id)
		return err
	})
	if err != nil {
		return err
	}
	j.State, j.Actor, j.Reason = "cancelled", act.actor(), act.Reason // whoever ends it answers for it
	return b.endJob(ctx, j)
}

// Skip gives up the event at the head of a parked key, for good; the events behind it are tried at once.
func (b *Bus) Skip(ctx context.Context, group, key string, act Act) error {
	return b.giveUp(ctx, group, key, act, false)
}

// Discard gives up a parked key's waiting events, all of them, for good. Later events of the key are handled again.
func (b *Bus) Discard(ctx context.Context, group, key string, act Act) error {
	return b.giveUp(ctx, group, key, act, true)
}

func (b *Bus) giveUp(ctx context.Context, group, key string, act Act, all bool) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("giving up events of key %s: %w", key, ErrReason)
	}
	err := b.store.Update(ctx, func(tx *eventstore.Tx) error {
		d, err := oneLetter(ctx, tx, group, key)
		if err != nil {
			return err
		}
		p := keyEvent{Group: group, Partition: d.Partition, Key: key, Offset: d.Head, EventID: d.EventID, EventType: d.EventType,
			Class: string(d.Class), Error: d.Error, Attempts: d.Attempts, Reason: act.Reason, Actor: act.actor()}
		if all || d.Head == d.Tail {
			if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_parked WHERE grp = $1 AND part = $2 AND pkey = $3`, group, d.part, key); err != nil {
				return err
			}
			if all {
				p.Reason = fmt.Sprintf("discarded %d events: %s", d.Events, act.Reason)
			}
		} else if _, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET head = head + 1, count = count - 1, state = $1, next_at = 0, event_id = '', event_type = '' WHERE grp = $2 AND part = $3 AND pkey = $4`,
			parkedRetry, group, d.part, key); err != nil {
			return err
		}
		if all {
			return audit(ctx, tx, group, keyReleasedV1.New(Source, p))
		}
		return audit(ctx, tx, group, keySkippedV1.New(Source, p))
	})
	b.nudge(group)
	return err
}

func oneLetter(ctx context.Context, q eventstore.Querier, group, key string) (DeadLetter, error) {
	d := DeadLetter{Group: group, Key: key}
	rows, err := q.QueryContext(ctx, `SELECT part, head, tail, count, class, error, event_id, event_type, attempts FROM carebus_parked WHERE grp = $1 AND pkey = $2`, group, key)
	if err != nil {
		return d, err
	}
	defer rows.Close()
	if !rows.Next() {
		return d, errors.Join(rows.Err(), fmt.Errorf("%w: group %s, key %s", ErrNotParked, group, key))
	}
	err = rows.Scan(&d.part, &d.Head, &d.Tail, &d.Events, &d.Class, &d.Error, &d.EventID, &d.EventType, &d.Attempts)
	d.Partition = d.part
	return d, err
}

// Correct makes a group handle the event at the head of a parked key with another payload. History is not edited: the
// correction is a new event, platform.event.corrected, that names the one it corrects; this group sees the corrected
// payload under the original id when the key is redriven, which is asked for at once.
func (b *Bus) Correct(ctx context.Context, group, key string, payload json.RawMessage, act Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return fmt.Errorf("correcting an event of key %s: %w", key, ErrReason)
	}
	var d DeadLetter
	err := b.store.View(ctx, func(q eventstore.Querier) (err error) {
		d, err = oneLetter(ctx, q, group, key)
		return err
	})
	if err != nil {
		return err
	}
	r, err := b.head(ctx, d)
	if err != nil {
		return err
	}
	fixed := r.Event
	fixed.Payload = payload
	if _, err := fixed.Check(nil); err != nil {
		return err
	}
	if b.opts.Validate != nil {
		if err := b.opts.Validate(fixed); err != nil {
			return err
		}
	}
	c := eventCorrectedV1.New(Source, corrected{Group: group, EventID: r.ID, EventType: r.Type, Version: r.Version, Reason: act.Reason, Actor: act.actor(), Payload: payload})
	c.ID = event.NewID()
	err = b.store.Update(ctx, func(tx *eventstore.Tx) error {
		if err := audit(event.ContextWithCause(ctx, r.Metadata), tx, group, c); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_corrections (grp, event_id, correction_id) VALUES ($1, $2, $3)
			ON CONFLICT (grp, event_id) DO UPDATE SET correction_id = excluded.correction_id`, group, r.ID, c.ID); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `UPDATE carebus_parked SET state = $1, next_at = 0 WHERE grp = $2 AND pkey = $3`, parkedRetry, group, key)
		return err
	})
	b.nudge(group)
	return err
}

// corrected puts corrected payloads in the place of the original ones.
func (w *worker) corrected(ctx context.Context, records []eventstore.Record) ([]eventstore.Record, error) {
	return w.g.bus.correctedFor(ctx, w.g.name, records)
}

func (b *Bus) correctedFor(ctx context.Context, group string, records []eventstore.Record) ([]eventstore.Record, error) {
	corrections := map[string]string{}
	err := b.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT event_id, correction_id FROM carebus_corrections WHERE grp = $1`, group)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, by string
			if err := rows.Scan(&id, &by); err != nil {
				return err
			}
			corrections[id] = by
		}
		return rows.Err()
	})
	if err != nil || len(corrections) == 0 {
		return records, err
	}
	for i := range records {
		by, ok := corrections[records[i].ID]
		if !ok {
			continue
		}
		r, err := b.store.Get(ctx, by)
		if err != nil {
			return nil, err
		}
		of, err := eventCorrectedV1.Decode(r.Event)
		if err != nil {
			return nil, err
		}
		records[i].Payload = of.Payload.Payload
	}
	return records, nil
}
