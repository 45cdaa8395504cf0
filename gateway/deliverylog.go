package gateway

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// entry is one delivery to a webhook.
type entry struct {
	webhook string
	EventID string    `json:"eventId"`
	Type    string    `json:"eventType"`
	Attempt int       `json:"attempt"`
	Status  int       `json:"status,omitempty" doc:"The HTTP status; 0 when there was no answer."`
	Outcome string    `json:"outcome"`
	TookMs  int64     `json:"tookMs"`
	At      time.Time `json:"at"`
}

// keptDeliveries is how many deliveries of a webhook the log has.
const keptDeliveries = 1000

// deliveryLog keeps the last deliveries of each webhook. They are written together, now and then: the log is for people, and
// what it says must not cost the delivery a commit. What a process that dies had not written is missing from it.
type deliveryLog struct {
	store *eventstore.Store
	slog  *slog.Logger

	mu      sync.Mutex
	waiting []entry
	dropped int
}

func (l *deliveryLog) add(e entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.waiting) >= 10_000 {
		l.dropped++
		return
	}
	l.waiting = append(l.waiting, e)
}

// forget leaves out what waits of a webhook that is no more: another may get its name.
func (l *deliveryLog) forget(webhook string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = slices.DeleteFunc(l.waiting, func(e entry) bool { return e.webhook == webhook })
}

// flush writes what waits.
func (l *deliveryLog) flush(ctx context.Context) error {
	l.mu.Lock()
	batch, dropped := l.waiting, l.dropped
	l.waiting, l.dropped = nil, 0
	l.mu.Unlock()
	if dropped > 0 {
		l.slog.Warn("gateway: the store did not come to the delivery log", "dropped", dropped)
	}
	if len(batch) == 0 {
		return nil
	}
	err := l.write(ctx, batch)
	if err != nil { // they wait for the next time
		l.mu.Lock()
		defer l.mu.Unlock()
		l.waiting = append(batch, l.waiting...)
	}
	return err
}

func (l *deliveryLog) write(ctx context.Context, batch []entry) error {
	byHook := map[string][]entry{}
	for _, e := range batch {
		byHook[e.webhook] = append(byHook[e.webhook], e)
	}
	return l.store.Update(ctx, func(tx *eventstore.Tx) error {
		for id, entries := range byHook {
			var known int
			if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_webhooks WHERE id = $1`, id).Scan(&known); err != nil {
				return err
			}
			if known == 0 { // deleted meanwhile, and its log with it
				continue
			}
			var last int64
			if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq), 0) FROM carebus_webhook_deliveries WHERE webhook = $1`, id).Scan(&last); err != nil {
				return err
			}
			if over := len(entries) - keptDeliveries; over > 0 {
				entries = entries[over:]
			}
			for _, e := range entries {
				last++
				if _, err := tx.ExecContext(ctx, `INSERT INTO carebus_webhook_deliveries (webhook, seq, event_id, event_type, attempt, status, outcome, took_ms, at)
					VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`, id, last, e.EventID, e.Type, e.Attempt, e.Status, e.Outcome, e.TookMs, e.At.UnixMicro()); err != nil {
					return err
				}
			}
			if _, err := tx.ExecContext(ctx, `DELETE FROM carebus_webhook_deliveries WHERE webhook = $1 AND seq <= $2`, id, last-keptDeliveries); err != nil {
				return err
			}
		}
		return nil
	})
}

// read returns the last deliveries of a webhook, the newest first.
func (l *deliveryLog) read(ctx context.Context, webhook string, limit int) ([]entry, error) {
	if err := l.flush(ctx); err != nil {
		return nil, err
	}
	out := []entry{}
	err := l.store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT event_id, event_type, attempt, status, outcome, took_ms, at FROM carebus_webhook_deliveries
			WHERE webhook = $1 ORDER BY seq DESC LIMIT $2`, webhook, limit)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var e entry
			var at int64
			if err := rows.Scan(&e.EventID, &e.Type, &e.Attempt, &e.Status, &e.Outcome, &e.TookMs, &at); err != nil {
				return err
			}
			e.At = time.UnixMicro(at).UTC()
			out = append(out, e)
		}
		return rows.Err()
	})
	return out, err
}
