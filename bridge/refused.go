package bridge

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Record names a record in Kafka.
type Record struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
}

func (r Record) String() string { return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset) }

// Refused is a dead letter: a record that could not become an event. The records behind it went on. Its value is in
// Kafka, for as long as the topic keeps it; here is only where, and why.
type Refused struct {
	Record
	EventID   string    `json:"eventId,omitempty"`   // as far as it could be read
	EventType string    `json:"eventType,omitempty"` // as far as it could be read
	Rule      string    `json:"rule"`                // the first rule that it breaks, as event and schema name them
	Error     string    `json:"error"`               // all that is wrong with it; never a payload value
	Attempts  int       `json:"attempts"`
	RefusedAt time.Time `json:"refusedAt"`

	topicID string
}

// Errors about dead letters and positions, tested with errors.Is.
var (
	// ErrNotRefused: the bridge has no dead letter for this record.
	ErrNotRefused = errors.New("the record is not among those refused")
	// ErrGone: Kafka has the record no more: its retention has passed, or the topic was deleted.
	ErrGone = errors.New("the record is gone from Kafka")
	// ErrReason: the act wants a reason, for the audit.
	ErrReason = errors.New("a reason is required")
)

// putRefused writes a dead letter down. The same record refused again, after a Seek, is one more attempt.
func (b *Bridge) putRefused(ctx context.Context, tx *eventstore.Tx, it *item, topicID string, cause error) error {
	id, eventType, rule := it.e.ID, it.e.Type, "event.different-content"
	var invalid *event.InvalidError
	if errors.As(cause, &invalid) {
		id, eventType = invalid.EventID, invalid.Type
		for _, f := range invalid.Findings {
			if !f.Warning {
				rule = f.Rule
				break
			}
		}
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO carebus_bridge_refused (bridge, topic, part, pos, topic_id, event_id, event_type, rule, error, attempts, refused_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 1, $10)
		ON CONFLICT (bridge, topic, part, pos, topic_id) DO UPDATE SET event_id = $6, event_type = $7, rule = $8, error = $9, attempts = carebus_bridge_refused.attempts + 1`,
		b.name, it.rec.Topic, it.rec.Partition, it.rec.Offset, topicID, clean(id), clean(eventType), rule, short(cause), tx.Now().UnixMicro())
	return err
}

// clean makes a text from outside fit to be stored and shown.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\ufffd' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	return s[:min(len(s), 256)]
}

// Refused lists dead letters, the oldest first, from the store; of one topic, or with an empty one of all. limit 0 is all.
func (b *Bridge) Refused(ctx context.Context, topic string, limit int) ([]Refused, error) {
	var out []Refused
	err := b.store.View(ctx, func(q eventstore.Querier) (err error) {
		out, err = b.readRefused(ctx, q, `WHERE bridge = $1 AND (topic = $2 OR $2 = '') ORDER BY refused_at, topic, part, pos`, b.name, topic)
		return err
	})
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, err
}

func (b *Bridge) readRefused(ctx context.Context, q eventstore.Querier, where string, args ...any) (out []Refused, err error) {
	rows, err := q.QueryContext(ctx, `SELECT topic, part, pos, topic_id, event_id, event_type, rule, error, attempts, refused_at FROM carebus_bridge_refused `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r Refused
		var at int64
		if err := rows.Scan(&r.Topic, &r.Partition, &r.Offset, &r.topicID, &r.EventID, &r.EventType, &r.Rule, &r.Error, &r.Attempts, &at); err != nil {
			return nil, err
		}
		r.RefusedAt = time.UnixMicro(at).UTC()
		out = append(out, r)
	}
	return out, rows.Err()
}

// Retry reads a refused record from Kafka again and stores its event: after its schema was registered, for instance.
// When it is refused again the error says why, and the dead letter stays. The event is appended behind what has come
// since: events of its key that were behind it in the topic are before it in the store.
func (b *Bridge) Retry(ctx context.Context, r Record, limits *event.Options, act bus.Act) (eventstore.Receipt, error) {
	letter, err := b.letter(ctx, r, &act)
	if err != nil {
		return eventstore.Receipt{}, err
	}
	rec, err := b.fetch(ctx, letter)
	if err != nil {
		return eventstore.Receipt{}, err
	}
	it := &item{rec: rec}
	if err := b.prepare(ctx, it, limits); err != nil {
		return eventstore.Receipt{}, err
	}
	var receipt eventstore.Receipt
	if it.err == nil {
		err = b.store.Update(ctx, func(tx *eventstore.Tx) error {
			receipts, err := tx.Append(ctx, "", eventstore.AnyVersion, it.e)
			if err != nil {
				return err
			}
			receipt = receipts[0]
			if err := b.noteCopied(ctx, tx, receipts); err != nil {
				return err
			}
			return b.settled(ctx, tx, letter, platform.RecordAdmittedV1.New(bus.Source, platform.RecordAdmitted{
				Bridge: b.name, Topic: r.Topic, Partition: int64(r.Partition), Offset: r.Offset, EventID: it.e.ID, Reason: act.Reason, Actor: act.Actor,
			}))
		})
		if err == nil || !isRefusal(err) {
			return receipt, err
		}
		it.err = err
	}
	err = b.store.Update(ctx, func(tx *eventstore.Tx) error { return b.putRefused(ctx, tx, it, letter.topicID, it.err) })
	return receipt, errors.Join(it.err, err)
}

// Discard gives a refused record up for good.
func (b *Bridge) Discard(ctx context.Context, r Record, act bus.Act) error {
	letter, err := b.letter(ctx, r, &act)
	if err != nil {
		return err
	}
	return b.store.Update(ctx, func(tx *eventstore.Tx) error {
		return b.settled(ctx, tx, letter, platform.RecordDiscardedV1.New(bus.Source, platform.RecordDiscarded{
			Bridge: b.name, Topic: r.Topic, Partition: int64(r.Partition), Offset: r.Offset, Rule: letter.Rule, Reason: act.Reason, Actor: act.Actor,
		}))
	})
}

func (b *Bridge) letter(ctx context.Context, r Record, act *bus.Act) (Refused, error) {
	if err := completeAct(act); err != nil {
		return Refused{}, err
	}
	var found []Refused
	err := b.store.View(ctx, func(q eventstore.Querier) (err error) {
		found, err = b.readRefused(ctx, q, `WHERE bridge = $1 AND topic = $2 AND part = $3 AND pos = $4 ORDER BY refused_at DESC`, b.name, r.Topic, r.Partition, r.Offset)
		return err
	})
	if err != nil {
		return Refused{}, err
	}
	if len(found) == 0 {
		return Refused{}, fmt.Errorf("bridge %s: %v: %w", b.name, r, ErrNotRefused)
	}
	return found[0], nil
}

func completeAct(act *bus.Act) error {
	if strings.TrimSpace(act.Reason) == "" {
		return ErrReason
	}
	if act.Actor == "" {
		act.Actor = "operator"
	}
	return nil
}

// settled takes a dead letter away and says so in the log, in the transaction of the act.
func (b *Bridge) settled(ctx context.Context, tx *eventstore.Tx, r Refused, told event.Event) error {
	res, err := tx.ExecContext(ctx, `DELETE FROM carebus_bridge_refused WHERE bridge = $1 AND topic = $2 AND part = $3 AND pos = $4 AND topic_id = $5`,
		b.name, r.Topic, r.Partition, r.Offset, r.topicID)
	if err := oneRow(res, err); errors.Is(err, errFenced) {
		return fmt.Errorf("bridge %s: %v: %w; somebody was faster", b.name, r.Record, ErrNotRefused)
	} else if err != nil {
		return err
	}
	return b.audit(ctx, tx, told)
}

func (b *Bridge) audit(ctx context.Context, tx *eventstore.Tx, told event.Event) error {
	told.PartitionKey = Group(b.name)
	_, err := tx.Append(ctx, "", eventstore.AnyVersion, told)
	return err
}

// fetch reads one record from Kafka.
func (b *Bridge) fetch(ctx context.Context, r Refused) (*kgo.Record, error) {
	client, err := b.client(
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{r.Topic: {r.Partition: kgo.NewOffset().At(r.Offset)}}),
	)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	found, err := admin.ListTopics(ctx, r.Topic)
	if err != nil {
		return nil, err
	}
	starts, err := admin.ListStartOffsets(ctx, r.Topic)
	if err != nil {
		return nil, err
	}
	start, ok := starts.Lookup(r.Topic, r.Partition)
	switch {
	case !found.Has(r.Topic) || found[r.Topic].ID.String() != r.topicID || !ok:
		return nil, fmt.Errorf("%v: %w: the topic was deleted; discard the dead letter", r.Record, ErrGone)
	case start.Err == nil && start.Offset > r.Offset:
		return nil, fmt.Errorf("%v: %w: the topic begins at offset %d; discard the dead letter", r.Record, ErrGone, start.Offset)
	}
	fetches := client.PollRecords(ctx, 1)
	if err := fetches.Err(); err != nil {
		return nil, fmt.Errorf("%v: %w", r.Record, err)
	}
	for rec := range fetches.RecordsAll() {
		if rec.Offset == r.Offset {
			return rec, nil
		}
	}
	return nil, fmt.Errorf("%v: %w: it was compacted away; discard the dead letter", r.Record, ErrGone)
}

// Offsets that stand for a place, for Seek.
const (
	Beginning int64 = -2 // the first record that Kafka has, when the bridge next looks
	End       int64 = -1 // behind the last one
)

// Seek moves where a topic partition is read on, also after an *OffsetError; and takes a topic that was created again for
// what it is. Going back finds the events in the store already; going forward passes over records for good. A process
// that copies in notices by itself.
func (b *Bridge) Seek(ctx context.Context, topic string, partition int32, offset int64, act bus.Act) error {
	if err := completeAct(&act); err != nil {
		return err
	}
	if offset < Beginning {
		return fmt.Errorf("bridge %s: offset %d; use a number from 0, Beginning or End", b.name, offset)
	}
	return b.store.Update(ctx, func(tx *eventstore.Tx) error {
		var from int64
		err := tx.QueryRowContext(ctx, `SELECT next FROM carebus_bridge_offsets WHERE bridge = $1 AND topic = $2 AND part = $3`, b.name, topic, partition).Scan(&from)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := b.putProgress(ctx, tx, place{topic, partition}, progress{"", offset}); err != nil {
			return err
		}
		// A new epoch ends the session under way, which would else go on where it was.
		if _, err := tx.ExecContext(ctx, `UPDATE carebus_bridge_leases SET epoch = epoch + 1 WHERE bridge = $1`, b.name); err != nil {
			return err
		}
		return b.audit(ctx, tx, platform.BridgeSoughtV1.New(bus.Source, platform.BridgeSought{
			Bridge: b.name, Topic: topic, Partition: int64(partition), From: from, To: offset, Reason: act.Reason, Actor: act.Actor,
		}))
	})
}
