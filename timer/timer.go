package timer

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Options of timers. The zero value works.
type Options struct {
	// Every is how often Run looks for timers that are due: the most that an event is late. Default 200 ms.
	Every time.Duration
	// Logger receives what an operator should know; never a payload. Default slog.Default().
	Logger *slog.Logger
}

// Timers are the timers of a store. All methods are safe for concurrent use, by any number of processes.
type Timers struct {
	store *eventstore.Store
	opts  Options
}

// Tx is a transaction that timers may be part of. A bus.Tx is one.
type Tx interface {
	Exec(query string, args ...any) (sql.Result, error)
}

// Timer is one that has not fired yet.
type Timer struct {
	ID   string         `json:"id"`
	At   time.Time      `json:"at"`
	What event.Metadata `json:"event"` // of the event to come
	// Error says why the event was refused when the timer was due. Such a timer stays, and does not fire again: set it
	// anew with an event that is accepted, or cancel it.
	Error string `json:"error,omitempty"`
}

// ErrID refuses an id of a timer that is empty or longer than 512 bytes.
var ErrID = errors.New("timer: the id must have 1 to 512 bytes")

// The due index holds what firing needs to find; the event is in the row.
const tables = `
CREATE TABLE carebus_timers (
	id TEXT PRIMARY KEY,
	due_at BIGINT NOT NULL,
	stream TEXT NOT NULL,
	event TEXT NOT NULL,
	error TEXT NOT NULL
);
CREATE INDEX carebus_timers_due ON carebus_timers (due_at) WHERE error = '';
`

// Open returns the timers of a store and creates or upgrades their table.
func Open(ctx context.Context, store *eventstore.Store, o *Options) (*Timers, error) {
	t := &Timers{store: store}
	if o != nil {
		t.opts = *o
	}
	if t.opts.Every <= 0 {
		t.opts.Every = 200 * time.Millisecond
	}
	if t.opts.Logger == nil {
		t.opts.Logger = slog.Default()
	}
	if err := store.Migrate(ctx, "timer", tables); err != nil {
		return nil, fmt.Errorf("timer: tables: %w", err)
	}
	return t, nil
}

// Set has e published at a time, once. A timer of this id that has not fired yet is replaced. The id is the caller's:
// setting the same timer twice, after a crash say, sets one.
func (t *Timers) Set(ctx context.Context, id string, at time.Time, e event.Event) error {
	return t.store.Update(ctx, func(tx *eventstore.Tx) error { return t.SetTx(ctx, storeTx{ctx, tx}, id, at, e) })
}

// SetTx is Set as a part of tx. ctx is the handler's: the event carries its correlation on and names its cause.
func (t *Timers) SetTx(ctx context.Context, tx Tx, id string, at time.Time, e event.Event) error {
	return t.SetStream(ctx, tx, id, at, "", e)
}

// SetStream is SetTx for an event that will belong to the history of an entity.
func (t *Timers) SetStream(ctx context.Context, tx Tx, id string, at time.Time, stream string, e event.Event) error {
	if id == "" || len(id) > 512 {
		return ErrID
	}
	e = event.Complete(ctx, e)
	if _, err := e.Check(nil); err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = tx.Exec(`INSERT INTO carebus_timers (id, due_at, stream, event, error) VALUES ($1, $2, $3, $4, '')
		ON CONFLICT (id) DO UPDATE SET due_at = excluded.due_at, stream = excluded.stream, event = excluded.event, error = ''`, id, at.UnixMicro(), stream, string(text))
	return err
}

// Cancel takes a timer back and reports whether it was still to fire.
func (t *Timers) Cancel(ctx context.Context, id string) (was bool, err error) {
	err = t.store.Update(ctx, func(tx *eventstore.Tx) error {
		was, err = t.CancelTx(storeTx{ctx, tx}, id)
		return err
	})
	return was, err
}

// CancelTx is Cancel as a part of tx.
func (t *Timers) CancelTx(tx Tx, id string) (was bool, err error) {
	res, err := tx.Exec(`DELETE FROM carebus_timers WHERE id = $1`, id)
	if err != nil {
		return false, err
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// Pending lists timers that have not fired, by id, those behind after.
func (t *Timers) Pending(ctx context.Context, after string, limit int) ([]Timer, error) {
	var out []Timer
	err := t.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT id, due_at, event, error FROM carebus_timers WHERE id > $1 ORDER BY id LIMIT $2`, after, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id, text, refused string
			var due int64
			if err := rows.Scan(&id, &due, &text, &refused); err != nil {
				return err
			}
			e, err := read(id, text)
			if err != nil && refused == "" {
				return err
			}
			out = append(out, Timer{ID: id, At: time.UnixMicro(due).UTC(), What: e.Metadata, Error: refused})
		}
		return rows.Err()
	})
	return out, err
}

// Stats are what a monitor wants to know of the timers of a store.
type Stats struct {
	Pending int       // not fired yet; those beyond 100,000 are not counted
	Late    int       // of them, due for more than a second; not more than 100,000 either
	Oldest  time.Time // when the first of the pending ones is, or was, due; zero when there is none
}

// statsLimit bounds how many timers Stats counts.
const statsLimit = 100_000

// Stats counts the timers that are to fire, at a cost that is bounded whatever their number. It holds up no writer.
func (t *Timers) Stats(ctx context.Context) (s Stats, err error) {
	err = t.store.View(ctx, func(q eventstore.Querier) error {
		var first sql.NullInt64
		if err := q.QueryRowContext(ctx, `SELECT MIN(due_at) FROM carebus_timers WHERE error = ''`).Scan(&first); err != nil {
			return err
		}
		if !first.Valid {
			return nil
		}
		s.Oldest = time.UnixMicro(first.Int64).UTC()
		const count = `SELECT COUNT(*) FROM (SELECT 1 FROM carebus_timers WHERE error = '' AND due_at < $1 LIMIT $2) AS sample`
		if err := q.QueryRowContext(ctx, count, int64(math.MaxInt64), statsLimit).Scan(&s.Pending); err != nil {
			return err
		}
		return q.QueryRowContext(ctx, count, time.Now().Add(-time.Second).UnixMicro(), statsLimit).Scan(&s.Late)
	})
	return s, err
}

// fireAtOnce bounds how many timers fire in one transaction, so that other writers get their turn.
const fireAtOnce = 256

// Fire publishes what is due and returns how many events that were. Run calls it; call it directly where time is driven
// by hand.
func (t *Timers) Fire(ctx context.Context) (fired int, err error) {
	for {
		n, err := t.fireSome(ctx)
		fired += n
		if err != nil || n < fireAtOnce {
			return fired, err
		}
	}
}

func (t *Timers) fireSome(ctx context.Context) (n int, err error) {
	err = t.store.Update(ctx, func(tx *eventstore.Tx) error {
		due, err := dueRows(ctx, tx)
		if err != nil {
			return err
		}
		n = len(due)
		for _, d := range due {
			// The delete comes first and must hit: of two processes that read the same row, one finds it gone.
			res, err := tx.ExecContext(ctx, `DELETE FROM carebus_timers WHERE id = $1 AND due_at = $2`, d.id, d.at)
			if err != nil {
				return err
			}
			if hit, err := res.RowsAffected(); err != nil {
				return err
			} else if hit == 0 {
				continue
			}
			if err := t.publish(ctx, tx, d); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// publish appends a timer's event. One that is refused (its schema has changed since it was set) is put back with the
// reason: it must not keep the others from firing, and it must not be lost.
func (t *Timers) publish(ctx context.Context, tx *eventstore.Tx, d dueRow) error {
	e, err := read(d.id, d.text)
	if err == nil {
		e = e.At(tx.Now())
		_, err = tx.Append(ctx, d.stream, eventstore.AnyVersion, e)
	}
	var invalid *event.InvalidError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &invalid), errors.Is(err, eventstore.ErrDifferentContent):
		t.opts.Logger.Error("timer: the event was refused when it was due; set the timer anew with one that is accepted, or cancel it", "timer", d.id, "eventType", e.Type, "error", err)
		_, err = tx.ExecContext(ctx, `INSERT INTO carebus_timers (id, due_at, stream, event, error) VALUES ($1, $2, $3, $4, $5)`, d.id, d.at, d.stream, d.text, err.Error())
		return err
	}
	return err
}

type dueRow struct {
	id, stream, text string
	at               int64
}

func dueRows(ctx context.Context, tx *eventstore.Tx) ([]dueRow, error) {
	rows, err := tx.QueryContext(ctx, `SELECT id, due_at, stream, event FROM carebus_timers WHERE error = '' AND due_at <= $1 ORDER BY due_at LIMIT $2`, tx.Now().UnixMicro(), fireAtOnce)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []dueRow
	for rows.Next() {
		var d dueRow
		if err := rows.Scan(&d.id, &d.at, &d.stream, &d.text); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, rows.Err()
}

func read(id, text string) (event.Event, error) {
	e, _, err := event.Parse([]byte(text), nil)
	if err != nil {
		return e, fmt.Errorf("timer: event of timer %s: %w", id, err)
	}
	return e, nil
}

// Run publishes events as they become due, until ctx ends; then it returns nil. Any number of processes may run it on
// one store. A store that fails is tried again.
func (t *Timers) Run(ctx context.Context) error {
	tick := time.NewTicker(t.opts.Every)
	defer tick.Stop()
	for {
		if err := t.fireIfDue(ctx); err != nil && ctx.Err() == nil {
			if errors.Is(err, eventstore.ErrClosed) {
				return err
			}
			t.opts.Logger.Warn("timer: not fired, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// fireIfDue looks before it writes: a store where nothing is due sees one read per tick and no commit.
func (t *Timers) fireIfDue(ctx context.Context) error {
	var next sql.NullInt64
	err := t.store.View(ctx, func(q eventstore.Querier) error {
		return q.QueryRowContext(ctx, `SELECT MIN(due_at) FROM carebus_timers WHERE error = ''`).Scan(&next)
	})
	// The look is by this process's clock, a second early; whether a timer is due is decided by the store's.
	if err != nil || !next.Valid || time.Now().Add(time.Second).UnixMicro() < next.Int64 {
		return err
	}
	_, err = t.Fire(ctx)
	return err
}

// storeTx makes a store's transaction a Tx.
type storeTx struct {
	ctx context.Context
	tx  *eventstore.Tx
}

func (t storeTx) Exec(query string, args ...any) (sql.Result, error) {
	return t.tx.ExecContext(t.ctx, query, args...)
}
