package bridge

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// In says what is copied from Kafka into the store.
type In struct {
	// Topics to read. At least one.
	Topics []string
	// FromEnd begins a topic partition that this bridge has never read behind what is there now. Default: at its first
	// record.
	FromEnd bool
	// Limits of the envelope. Default: event's own. They should be the platform's.
	Limits *event.Options
	// Records and bytes that are read, checked and committed together at most. Defaults 1000 and 8 MiB.
	BatchRecords, BatchBytes int
	// Refresh is how often topics are looked at for new partitions and for having been deleted. Default 30 s.
	Refresh time.Duration
}

// In copies events in until ctx ends, then commits what is under way and returns nil. Each record is settled exactly
// once: it becomes an event, or is found to be in the store already, or is passed over because it was copied out of this
// store, or is refused and becomes a dead letter (see Refused); and the offset that says so commits with it.
//
// One process at a time copies in under a name; others that call In wait to take over. When the store cannot be written
// nothing more is fetched. In returns an error when going on would not be right without a person: an *OffsetError,
// ErrNoTopic, a closed store.
func (b *Bridge) In(ctx context.Context, in In) error {
	if err := in.check(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.inside {
		b.mu.Unlock()
		return fmt.Errorf("bridge %s: copies in already; name all topics in one call", b.name)
	}
	b.inside = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.inside = false
		b.mu.Unlock()
	}()
	owner := event.NewID()
	pause, missed := time.Duration(0), 0
	for ctx.Err() == nil {
		epoch, err := b.acquire(ctx, owner)
		if err == nil {
			s := &session{b: b, in: in, epoch: epoch, next: map[place]progress{}}
			err = s.run(ctx)
			if !errors.Is(err, errFenced) {
				b.release(epoch)
			}
			if s.committed {
				pause = 0
			}
		}
		if missed++; !errors.Is(err, ErrNoTopic) {
			missed = 0
		}
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errFenced):
			b.count.fencedTimes.Add(1)
			b.log.Info("bridge: another process copies in, or a person has moved the bridge; beginning anew")
			continue
		case isFinal(err) && (!errors.Is(err, ErrNoTopic) || missed > missLimit):
			return fmt.Errorf("bridge %s: %w", b.name, err)
		default:
			b.count.retries.Add(1)
			pause = min(max(2*pause, 50*time.Millisecond), 5*time.Second)
			b.log.Warn("bridge: copying in failed, trying again", "error", short(err), "pause", pause)
			sleep(ctx, pause)
		}
	}
	return nil
}

// missLimit is how often a topic is looked for again that is not there: a broker that has just started, or a topic that was
// just created, may be unknown for a moment.
const missLimit = 4

func (in *In) check() error {
	if len(in.Topics) == 0 {
		return errors.New("bridge: no topic to copy in; name one")
	}
	in.Topics = slices.Compact(slices.Sorted(slices.Values(in.Topics)))
	for _, t := range in.Topics {
		if err := Topic(t).Check(); err != nil || strings.Contains(t, "{") {
			return fmt.Errorf("bridge: %q is no name of a topic", t)
		}
	}
	if in.BatchRecords == 0 {
		in.BatchRecords = 1000
	}
	if in.BatchBytes == 0 {
		in.BatchBytes = 8 << 20
	}
	if in.Refresh == 0 {
		in.Refresh = 30 * time.Second
	}
	return nil
}

// isFinal: trying again would not help.
func isFinal(err error) bool {
	var gone *OffsetError
	return errors.As(err, &gone) || errors.Is(err, ErrNoTopic) || errors.Is(err, eventstore.ErrClosed) || errors.Is(err, eventstore.ErrReadOnly) ||
		errors.Is(err, eventstore.ErrCorrupt)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// acquire waits until no other process copies in under the bridge's name and takes the lease.
func (b *Bridge) acquire(ctx context.Context, owner string) (epoch int64, err error) {
	for {
		held := false
		err := b.store.Update(ctx, func(tx *eventstore.Tx) error {
			now := tx.Now()
			until := now.Add(b.o.Lease).UnixMicro()
			var by string
			var expires int64
			err := tx.QueryRowContext(ctx, `SELECT owner, epoch, expires_at FROM carebus_bridge_leases WHERE bridge = $1`, b.name).Scan(&by, &epoch, &expires)
			switch {
			case errors.Is(err, sql.ErrNoRows):
				epoch = 1
				_, err = tx.ExecContext(ctx, `INSERT INTO carebus_bridge_leases (bridge, owner, epoch, expires_at) VALUES ($1, $2, $3, $4)`, b.name, owner, epoch, until)
				return err
			case err != nil:
				return err
			case by != "" && by != owner && expires > now.UnixMicro():
				held = true
				return nil
			}
			epoch++
			return oneRow(tx.ExecContext(ctx, `UPDATE carebus_bridge_leases SET owner = $1, epoch = $2, expires_at = $3 WHERE bridge = $4 AND epoch = $5`,
				owner, epoch, until, b.name, epoch-1))
		})
		if err != nil || !held {
			return epoch, err
		}
		sleep(ctx, b.o.Lease/3)
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
	}
}

// release lets the next process take over at once. When it fails, that process waits for the lease to run out.
func (b *Bridge) release(epoch int64) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_ = b.store.Update(ctx, func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE carebus_bridge_leases SET owner = '', expires_at = 0 WHERE bridge = $1 AND epoch = $2`, b.name, epoch)
		return err
	})
}

// fence is the first statement of every transaction of a session: it ends one whose lease was taken over, and renews it.
func (b *Bridge) fence(ctx context.Context, tx *eventstore.Tx, epoch int64) error {
	return oneRow(tx.ExecContext(ctx, `UPDATE carebus_bridge_leases SET expires_at = $1 WHERE bridge = $2 AND epoch = $3`,
		tx.Now().Add(b.o.Lease).UnixMicro(), b.name, epoch))
}

// session is the time from taking the lease to losing it, or to an error.
type session struct {
	b         *Bridge
	in        In
	epoch     int64
	client    *kgo.Client
	admin     *kadm.Client
	next      map[place]progress // as committed
	committed bool
	told      time.Time // when Kafka was last told how far we are
	untold    bool
	renewed   time.Time
	looked    time.Time // when topics were last looked at
}

func (s *session) run(ctx context.Context) error {
	client, err := s.b.client(
		// Where to read is in the store. Kafka must never choose.
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(int32(s.in.BatchBytes)), kgo.FetchMaxPartitionBytes(int32(min(s.in.BatchBytes, 1<<20))),
	)
	if err != nil {
		return err
	}
	defer client.Close()
	s.client, s.admin = client, kadm.NewClient(client)
	s.renewed = time.Now()
	if err := s.look(ctx); err != nil {
		return err
	}
	for ctx.Err() == nil {
		// Waiting for records ends in time for the lease to be renewed and the topics to be looked at.
		wait := min(s.b.o.Lease/3, s.in.Refresh)
		poll, cancel := context.WithTimeout(ctx, wait)
		fetches := client.PollRecords(poll, s.in.BatchRecords)
		cancel()
		if ctx.Err() != nil {
			break // what was fetched is not settled, and comes again
		}
		if err := s.fetchErrors(ctx, fetches); err != nil {
			return err
		}
		if err := s.settle(ctx, fetches.Records()); err != nil {
			return err
		}
		if time.Since(s.renewed) > s.b.o.Lease/3 {
			if err := s.b.store.Update(ctx, func(tx *eventstore.Tx) error { return s.b.fence(ctx, tx, s.epoch) }); err != nil {
				return err
			}
			s.renewed = time.Now()
		}
		if time.Since(s.looked) > s.in.Refresh {
			if err := s.look(ctx); err != nil {
				return err
			}
		}
		if s.untold && time.Since(s.told) > 5*time.Second {
			s.tell(ctx)
		}
	}
	if s.untold {
		s.tell(context.WithoutCancel(ctx))
	}
	return nil
}

// look finds the partitions of the topics, proves that they are what was read so far, and begins to read those that are
// new to this session.
func (s *session) look(ctx context.Context) error {
	s.looked = time.Now()
	found, err := s.admin.ListTopics(ctx, s.in.Topics...)
	if err != nil {
		return err
	}
	var known map[place]progress
	err = s.b.store.View(ctx, func(q eventstore.Querier) (err error) {
		known, err = s.b.readProgress(ctx, q)
		return err
	})
	if err != nil {
		return err
	}
	for _, topic := range s.in.Topics {
		if err := found[topic].Err; err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
			return fmt.Errorf("topic %s: %w", topic, err)
		} else if err == nil && found.Has(topic) {
			continue
		}
		for at := range known {
			if at.topic == topic {
				return fmt.Errorf("topic %s: %w any more; the bridge has read it up to offset %d of partition %d", topic, ErrNoTopic, known[at].next, at.part)
			}
		}
		if _, err := s.b.ensureTopic(ctx, s.admin, topic); err != nil {
			return err
		}
		return fmt.Errorf("topic %s was created a moment ago", topic) // looked at anew, when the brokers have heard of it
	}
	starts, err := s.admin.ListStartOffsets(ctx, s.in.Topics...)
	if err != nil {
		return err
	}
	ends, err := s.admin.ListEndOffsets(ctx, s.in.Topics...)
	if err != nil {
		return err
	}
	begin := map[string]map[int32]kgo.Offset{}
	fresh := map[place]progress{}
	for _, topic := range s.in.Topics {
		id := found[topic].ID.String()
		for part := range found[topic].Partitions {
			at := place{topic, part}
			start, ok1 := starts.Lookup(topic, part)
			end, ok2 := ends.Lookup(topic, part)
			if err := errors.Join(start.Err, end.Err); err != nil || !ok1 || !ok2 {
				return fmt.Errorf("topic %s partition %d: its offsets cannot be read: %w", topic, part, err)
			}
			p, was := known[at]
			if now, reading := s.next[at]; reading && now != p {
				return errFenced
			}
			wrong := &OffsetError{Topic: topic, Partition: part, Next: p.next, Start: start.Offset, End: end.Offset}
			switch {
			case !was && s.in.FromEnd, was && p.next == End:
				p = progress{id, end.Offset}
				fresh[at] = p
			case !was, was && p.next == Beginning:
				p = progress{id, start.Offset}
				fresh[at] = p
			case p.topicID == "":
				p.topicID = id
				fresh[at] = p
			}
			wrong.Recreated = p.topicID != id
			if wrong.Recreated || p.next < start.Offset || p.next > end.Offset {
				return wrong
			}
			if _, reading := s.next[at]; !reading {
				s.next[at] = p
				if begin[topic] == nil {
					begin[topic] = map[int32]kgo.Offset{}
				}
				begin[topic][part] = kgo.NewOffset().At(p.next)
			}
		}
	}
	if len(fresh) > 0 {
		err := s.b.store.Update(ctx, func(tx *eventstore.Tx) error {
			if err := s.b.fence(ctx, tx, s.epoch); err != nil {
				return err
			}
			for at, p := range fresh {
				if err := s.b.putProgress(ctx, tx, at, p); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if len(begin) > 0 {
		s.client.AddConsumePartitions(begin)
	}
	return nil
}

func (b *Bridge) putProgress(ctx context.Context, tx *eventstore.Tx, at place, p progress) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO carebus_bridge_offsets (bridge, topic, part, topic_id, next, updated_at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (bridge, topic, part) DO UPDATE SET topic_id = $4, next = $5, updated_at = $6`, b.name, at.topic, at.part, p.topicID, p.next, tx.Now().UnixMicro())
	return err
}

// fetchErrors tells errors that a person must decide about from those that pass.
func (s *session) fetchErrors(ctx context.Context, fetches kgo.Fetches) error {
	var out error
	fetches.EachError(func(topic string, part int32, err error) {
		var lost *kgo.ErrDataLoss
		switch {
		case out != nil, errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		case errors.Is(err, kerr.OffsetOutOfRange), errors.As(err, &lost):
			// What is wrong is told by looking; when the looking finds nothing wrong any more, the session begins anew.
			if out = s.look(ctx); out == nil {
				out = fmt.Errorf("topic %s partition %d: %w", topic, part, err)
			}
		case errors.Is(err, kerr.UnknownTopicOrPartition), errors.Is(err, kerr.UnknownTopicID):
			s.looked = time.Time{}
		default:
			out = fmt.Errorf("topic %s partition %d: %w", topic, part, err)
		}
	})
	return out
}

// item is a record on its way.
type item struct {
	rec *kgo.Record
	e   event.Event
	own bool  // copied out of this store
	err error // why it is refused
}

// settle brings records to an end: one transaction, or an error and nothing.
func (s *session) settle(ctx context.Context, records []*kgo.Record) error {
	if len(records) == 0 {
		return nil
	}
	items := make([]item, len(records))
	for i, r := range records {
		items[i].rec = r
		if err := s.b.prepare(ctx, &items[i], s.in.Limits); err != nil {
			return err
		}
	}
	// The first try is one append. When an event is refused in it (its id stands for another content already) all is
	// undone and done again with a savepoint per event, so that only the guilty one becomes a dead letter.
	t, err := s.commit(ctx, items, false)
	if err != nil && isRefusal(err) {
		t, err = s.commit(ctx, items, true)
	}
	if err != nil {
		return err
	}
	c := &s.b.count
	c.stored.Add(t.stored)
	c.duplicates.Add(t.duplicates)
	c.refused.Add(t.refused)
	c.own.Add(t.own)
	c.commits.Add(1)
	for at, p := range t.next {
		s.next[at] = p
	}
	s.committed, s.untold, s.renewed = true, true, time.Now()
	return nil
}

// prepare reads and checks an event outside the transaction, where it holds up nobody. Its error is of the store.
func (b *Bridge) prepare(ctx context.Context, it *item, limits *event.Options) error {
	if headerOf(it.rec, HeaderStore) == b.id {
		it.own = true
		return nil
	}
	if it.e, it.err = decode(it.rec, limits); it.err != nil {
		return nil
	}
	if strings.HasPrefix(it.e.Type, "platform.") {
		it.err = refusal("platform.reserved", `the domain "platform" is carebus's own`)
		return nil
	}
	checked, _, err := b.p.Check(ctx, it.e)
	switch {
	case err == nil:
		it.e = checked
	case isRefusal(err):
		it.err = err
	default:
		return err
	}
	return nil
}

// isRefusal: the error is about the event, not about the store.
func isRefusal(err error) bool {
	var invalid *event.InvalidError
	return errors.As(err, &invalid) || errors.Is(err, eventstore.ErrDifferentContent)
}

// tally is what a transaction came to.
type tally struct {
	stored, duplicates, refused, own int64
	next                             map[place]progress
}

func (s *session) commit(ctx context.Context, items []item, careful bool) (t tally, err error) {
	err = s.b.store.Update(ctx, func(tx *eventstore.Tx) error {
		t = tally{next: map[place]progress{}}
		if err := s.b.fence(ctx, tx, s.epoch); err != nil {
			return err
		}
		var events []event.Event
		var receipts []eventstore.Receipt
		for i := range items {
			it := &items[i]
			at := place{it.rec.Topic, it.rec.Partition}
			t.next[at] = progress{s.next[at].topicID, it.rec.Offset + 1}
			refused := it.err
			switch {
			case it.own:
				t.own++
				continue
			case refused == nil && !careful:
				events = append(events, it.e)
				continue
			case refused == nil:
				err := tx.Savepoint(ctx, func() error {
					got, err := tx.Append(ctx, "", eventstore.AnyVersion, it.e)
					receipts = append(receipts, got...)
					return err
				})
				if err == nil {
					continue
				}
				if !isRefusal(err) {
					return err
				}
				refused = err
			}
			t.refused++
			if err := s.b.putRefused(ctx, tx, it, s.next[at].topicID, refused); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			if receipts, err = tx.Append(ctx, "", eventstore.AnyVersion, events...); err != nil {
				return err
			}
		}
		seen := map[string]bool{}
		for _, r := range receipts {
			if r.Duplicate || seen[r.EventID] {
				t.duplicates++
			} else {
				t.stored++
			}
			seen[r.EventID] = true
		}
		if err := s.b.noteCopied(ctx, tx, receipts); err != nil {
			return err
		}
		for at, p := range t.next {
			if err := oneRow(tx.ExecContext(ctx, `UPDATE carebus_bridge_offsets SET next = $1, updated_at = $2 WHERE bridge = $3 AND topic = $4 AND part = $5 AND topic_id = $6 AND next = $7`,
				p.next, tx.Now().UnixMicro(), s.b.name, at.topic, at.part, p.topicID, s.next[at].next)); err != nil {
				return err
			}
		}
		return nil
	})
	return t, err
}

// tell commits offsets to Kafka too, for tools that show lag. Nothing of ours ever reads them.
func (s *session) tell(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	offsets := kadm.Offsets{}
	for at, p := range s.next {
		offsets.AddOffset(at.topic, at.part, p.next, -1)
	}
	s.told = time.Now()
	err := s.admin.CommitAllOffsets(ctx, Group(s.b.name), offsets)
	s.untold = err != nil
	if err != nil {
		s.b.log.Info("bridge: Kafka was not told how far the bridge has read; nothing depends on it", "error", short(err))
	}
}

// short is what is logged of an error: bounded, one line.
func short(err error) string {
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return text
}
