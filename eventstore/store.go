package eventstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore/driver"
)

// The types that a store and its engine share.
type (
	// Record is a stored event with its place.
	Record = driver.Record
	// Receipt says where an event was stored.
	Receipt = driver.Receipt
	// Batch is an answer to a PartitionQuery.
	Batch = driver.Batch
	// PartitionQuery asks for a part of one partition's log.
	PartitionQuery = driver.PartitionQuery
	// StreamQuery asks for the history of one stream.
	StreamQuery = driver.StreamQuery
	// TypeQuery asks for events of one type by timestamp.
	TypeQuery = driver.TypeQuery
	// Cursor is a place in the answer to a TypeQuery.
	Cursor = driver.Cursor
	// Querier reads tables; placeholders are $1, $2, … on every engine.
	Querier = driver.Querier
	// ConflictError is the ErrConflict of a stream, with the version found.
	ConflictError = driver.ConflictError
	// Fault is one contradiction that Verify found.
	Fault = driver.Fault
	// Info describes the opened engine.
	Info = driver.Info
)

// Expected versions of a stream that are not a number of events.
const (
	AnyVersion = driver.AnyVersion // append whatever the version is
	NoStream   = driver.NoStream   // the stream must not exist yet
)

// Errors that a store reports, tested with errors.Is.
var (
	ErrConflict         = driver.ErrConflict
	ErrDifferentContent = driver.ErrDifferentContent
	ErrNotFound         = driver.ErrNotFound
	ErrClosed           = driver.ErrClosed
	ErrFull             = driver.ErrFull
	ErrUnavailable      = driver.ErrUnavailable
	ErrCorrupt          = driver.ErrCorrupt
	ErrReadOnly         = driver.ErrReadOnly
	ErrFormat           = driver.ErrFormat
	ErrInTurn           = driver.ErrInTurn
	// ErrBackPressure: the queue of writers stayed full until the caller's context ended. Nothing was stored.
	ErrBackPressure = errors.New("too many writers are waiting")
)

// PartitionOf returns the partition of a key, as Apache Kafka's default partitioner places it.
func PartitionOf(key string, partitions int) int { return driver.PartitionOf(key, partitions) }

// Options of a store. The zero value works.
type Options struct {
	// Admit completes and checks every event before it is queued, and every event that a transaction appends; its error
	// refuses the whole append. Default: event.Complete and Event.Check.
	Admit func(ctx context.Context, e *event.Event) error
	// QueueBytes bounds the payload bytes of appends that wait; beyond it callers wait. Default 64 MiB.
	QueueBytes int64
	// QueueUnits bounds how many appends and transactions wait. Default 4096.
	QueueUnits int
	// GroupUnits bounds how many of them share one commit. Default 1024.
	GroupUnits int
	// Linger is how long the sequencer waits for company before it commits a group: it trades latency for fewer, larger
	// commits. Default 0: whatever waits already is a group.
	Linger time.Duration
	// CacheBytes bounds the memory for histories of streams that were read lately. Default 32 MiB; negative for none.
	CacheBytes int64
	// Hooks are told of appends and commits. Default: none.
	Hooks []Hook
}

// Store is an event store over an engine. All methods are safe for concurrent use.
type Store struct {
	d     driver.Driver
	opts  Options
	info  Info
	hooks hooks

	seq   *sequencer
	news  *news
	cache *cache

	stopWatch context.CancelFunc
	watched   chan struct{}
	closeOnce sync.Once
	closeErr  error
}

// New returns a store over an opened engine and takes the engine over: Close closes it.
func New(d driver.Driver, o *Options) *Store {
	s := &Store{d: d, info: d.Info()}
	if o != nil {
		s.opts = *o
	}
	if s.opts.Admit == nil {
		s.opts.Admit = admitAny
	}
	if s.opts.QueueBytes <= 0 {
		s.opts.QueueBytes = 64 << 20
	}
	if s.opts.QueueUnits <= 0 {
		s.opts.QueueUnits = 4096
	}
	if s.opts.GroupUnits <= 0 {
		s.opts.GroupUnits = 1024
	}
	if s.opts.CacheBytes == 0 {
		s.opts.CacheBytes = 32 << 20
	}
	s.hooks = hooksOf(s.opts.Hooks)
	s.cache = newCache(s.opts.CacheBytes)
	s.news = newNews(s.info.Partitions)
	s.seq = newSequencer(d, s.opts, s.news, s.hooks.commit)
	ctx, cancel := context.WithCancel(context.Background())
	s.stopWatch, s.watched = cancel, make(chan struct{})
	go s.watch(ctx)
	return s
}

// watch learns of other processes' commits.
func (s *Store) watch(ctx context.Context) {
	defer close(s.watched)
	refresh := func(heads []int64) {
		if heads != nil {
			s.news.publish(heads)
			return
		}
		// Tried until it succeeds: the engine does not tell of the same commit again.
		for pause := 5 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, time.Second) {
			heads, err := s.d.Heads(ctx)
			if err == nil {
				s.news.publish(heads)
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
		}
	}
	for ctx.Err() == nil {
		if err := s.d.Watch(ctx, refresh); err != nil && ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func admitAny(ctx context.Context, e *event.Event) error {
	*e = event.Complete(ctx, *e)
	_, err := e.Check(nil)
	return err
}

// Append stores events, all or none, and returns when they are on stable storage. stream is the history they belong to,
// empty for none; expected is the version of it that the caller has seen: a number of events, NoStream or AnyVersion.
// Receipts are in the order of the events.
//
// When ctx ends before the append was begun, nothing is stored. Once begun it is waited for.
func (s *Store) Append(ctx context.Context, stream string, expected int64, events ...event.Event) ([]Receipt, error) {
	own := copied(events)
	if len(s.hooks.append) == 0 {
		return s.append(ctx, stream, expected, own)
	}
	ctx, told := s.hooks.begin(ctx, own, false)
	receipts, err := s.append(ctx, stream, expected, own)
	told.receipts = receipts
	told.end(err)
	return receipts, err
}

// copied leaves the caller's slice where it is, which may be the stack.
func copied(events []event.Event) []event.Event {
	own := make([]event.Event, len(events))
	copy(own, events)
	return own
}

// append takes events over.
func (s *Store) append(ctx context.Context, stream string, expected int64, events []event.Event) ([]Receipt, error) {
	a, err := s.admit(ctx, stream, expected, events)
	if err != nil {
		return nil, err
	}
	if len(a.Events) == 0 {
		return []Receipt{}, nil
	}
	a.Digests = make([][32]byte, len(a.Events))
	for i := range a.Events {
		a.Digests[i] = driver.ContentDigest(&a.Events[i])
	}
	u := &driver.Unit{Append: a, Ctx: ctx}
	if err := s.seq.do(ctx, u); err != nil {
		return nil, err
	}
	return u.Receipts, nil
}

// admit completes and checks events in place.
func (s *Store) admit(ctx context.Context, stream string, expected int64, events []event.Event) (driver.Append, error) {
	a := driver.Append{Stream: stream, Expected: expected, Events: events}
	if len(stream) > 512 {
		return a, fmt.Errorf("eventstore: stream name of %d bytes; use at most 512", len(stream))
	}
	if stream != "" && expected < AnyVersion {
		return a, fmt.Errorf("eventstore: expected version %d of stream %s; use a number of events, NoStream or AnyVersion", expected, stream)
	}
	for i := range a.Events {
		e := &a.Events[i]
		if err := s.opts.Admit(ctx, e); err != nil {
			if len(events) > 1 {
				return a, &BatchError{Index: i, Err: err}
			}
			return a, err
		}
		if e.PartitionKey == "" {
			e.PartitionKey = e.CorrelationID
		}
	}
	return a, nil
}

// BatchError says which event of an append was refused.
type BatchError struct {
	Index int // counted from 0
	Err   error
}

func (e *BatchError) Error() string {
	return fmt.Sprintf("event %d of the batch: %v", e.Index+1, e.Err)
}

// Unwrap returns why.
func (e *BatchError) Unwrap() error { return e.Err }

// Tx is the transaction that Update's function sees. It is valid until the function returns and is used by one goroutine
// at a time.
type Tx struct {
	driver.Tx
	s       *Store
	appends []appending // to be told when the transaction has ended; only with hooks

	concurrent bool
	refused    error // an append to a concurrent transaction
}

// Append stores events in the transaction, with the rules of Store.Append.
func (t *Tx) Append(ctx context.Context, stream string, expected int64, events ...event.Event) ([]Receipt, error) {
	if t.concurrent {
		t.refused = fmt.Errorf("eventstore: an append: %w; use Update", ErrInTurn)
		return nil, t.refused
	}
	own := copied(events)
	if len(t.s.hooks.append) == 0 {
		return t.append(ctx, stream, expected, own)
	}
	ctx, told := t.s.hooks.begin(ctx, own, true)
	receipts, err := t.append(ctx, stream, expected, own)
	if err != nil {
		told.end(err)
		return nil, err
	}
	told.receipts = receipts
	t.appends = append(t.appends, told)
	return receipts, nil
}

func (t *Tx) append(ctx context.Context, stream string, expected int64, events []event.Event) ([]Receipt, error) {
	a, err := t.s.admit(ctx, stream, expected, events)
	if err != nil {
		return nil, err
	}
	return t.Tx.Append(ctx, a)
}

// Savepoint runs fn; when fn returns an error or panics, what was done in it is undone and the transaction may go on.
// Savepoints nest.
func (t *Tx) Savepoint(ctx context.Context, fn func() error) (err error) {
	if len(t.s.hooks.append) == 0 {
		return t.Tx.Savepoint(ctx, fn)
	}
	before, kept := len(t.appends), false
	defer func() {
		if kept {
			return
		}
		undone := t.appends[before:]
		t.appends = t.appends[:before]
		for _, a := range undone {
			a.end(errUndone)
		}
	}()
	err = t.Tx.Savepoint(ctx, fn)
	kept = err == nil
	return err
}

// errUndone is what hooks are told of an append to a savepoint that was undone.
var errUndone = errors.New("eventstore: the savepoint was undone")

// Update runs fn in a transaction that commits together with whatever else waits to be written. When fn returns an
// error, or panics (the error is a *PanicError then), nothing that it did remains. fn runs at most once. When Update
// returns nil, everything is on stable storage.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	return s.update(ctx, false, fn)
}

// UpdateConcurrent is Update for a transaction that appends nothing (Append is refused with ErrInTurn, and so is the
// transaction) and that is right at the same time as others: it changes rows that nobody else changes, or changes them
// by single statements such as "n = n + 1". On PostgreSQL it does not wait for the writer's turn, and others do not wait for it. Where
// an engine has one writer anyway, as SQLite, it is carried out in turn.
//
// After ErrUnavailable it may have been committed: a row that it has changed under a condition tells.
func (s *Store) UpdateConcurrent(ctx context.Context, fn func(tx *Tx) error) error {
	t := &Tx{s: s, concurrent: true}
	run := t.runs(func(t *Tx) error {
		if err := fn(t); err != nil {
			return err
		}
		return t.refused
	})
	d, ok := s.d.(driver.Concurrent)
	if !ok {
		return s.seq.do(ctx, &driver.Unit{Ctx: ctx, Run: run})
	}
	err := d.Concurrent(ctx, run)
	if err == nil {
		s.seq.stats.commits.Add(1)
		s.seq.stats.units.Add(1)
		s.news.publish(nil)
	}
	return err
}

// runs makes of a transaction's function what an engine carries out.
func (t *Tx) runs(fn func(tx *Tx) error) func(driver.Tx) error {
	return func(tx driver.Tx) (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = newPanicError(v)
			}
		}()
		t.Tx = tx
		return fn(t)
	}
}

func (s *Store) update(ctx context.Context, large bool, fn func(tx *Tx) error) error {
	t := &Tx{s: s}
	err := s.seq.do(ctx, &driver.Unit{Ctx: ctx, Large: large, Run: t.runs(fn)})
	for _, a := range t.appends {
		a.end(err)
	}
	return err
}

// View runs fn over one consistent snapshot of the tables. It holds up nobody.
func (s *Store) View(ctx context.Context, fn func(q Querier) error) error { return s.d.View(ctx, fn) }

// Info describes the engine.
func (s *Store) Info() Info { return s.info }

// Partitions returns the number of partitions, fixed when the store was created.
func (s *Store) Partitions() int { return s.info.Partitions }

// Heads returns, per partition, the offset that the next event will get.
func (s *Store) Heads(ctx context.Context) ([]int64, error) { return s.d.Heads(ctx) }

// Partition reads a part of a partition's log.
func (s *Store) Partition(ctx context.Context, q PartitionQuery) (Batch, error) {
	return s.d.Partition(ctx, q)
}

// Stream reads the history of a stream; ErrNotFound when there is none.
func (s *Store) Stream(ctx context.Context, q StreamQuery) ([]Record, error) {
	if !q.Backward && q.From <= 1 && q.Limit > 0 {
		return s.cache.stream(ctx, s.d, q)
	}
	return s.d.Stream(ctx, q)
}

// StreamVersion returns the number of events in a stream; 0 when there is none.
func (s *Store) StreamVersion(ctx context.Context, stream string) (int64, error) {
	return s.d.StreamVersion(ctx, stream)
}

// Streams lists stream names that begin with prefix, in order, behind after.
func (s *Store) Streams(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	return s.d.Streams(ctx, prefix, after, limit)
}

// Correlation reads the events of one flow in the order they were recorded, those recorded after the given time.
func (s *Store) Correlation(ctx context.Context, id string, after time.Time, limit int) ([]Record, error) {
	return s.d.Correlation(ctx, id, after, limit)
}

// Type reads the events of one type by timestamp.
func (s *Store) Type(ctx context.Context, q TypeQuery) ([]Record, error) { return s.d.Type(ctx, q) }

// Types returns the event types present, with the number of events of each. It counts the entries of an index, about a
// second for five million events: who asks often, or only which types there are, calls TypesUpTo.
func (s *Store) Types(ctx context.Context) (map[string]int64, error) { return s.d.Types(ctx, 0) }

// TypesUpTo is Types, but counts up to so many events of each type: its cost is bounded by that, whatever the store holds.
// most must be positive.
func (s *Store) TypesUpTo(ctx context.Context, most int64) (map[string]int64, error) {
	return s.d.Types(ctx, max(most, 1))
}

// Get returns the event with this id, or ErrNotFound.
func (s *Store) Get(ctx context.Context, eventID string) (Record, error) {
	return s.d.Get(ctx, eventID)
}

// OffsetAt returns the offset of the first event of a partition recorded at t or later; the head when there is none.
func (s *Store) OffsetAt(ctx context.Context, partition int, t time.Time) (int64, error) {
	return s.d.OffsetAt(ctx, partition, t)
}

// Size returns the bytes that the store takes, by what they are for ("data", "wal"). It is empty for an engine that does
// not know.
func (s *Store) Size(ctx context.Context) (map[string]int64, error) {
	if z, ok := s.d.(driver.Sizer); ok {
		return z.Size(ctx)
	}
	return map[string]int64{}, nil
}

// Close lets what is queued be committed, then closes the engine. Later calls fail with ErrClosed. It is idempotent.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.seq.close()
		s.stopWatch()
		<-s.watched
		s.news.close()
		s.closeErr = s.d.Close()
	})
	return s.closeErr
}
