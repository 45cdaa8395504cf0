// Package driver is the seam between [github.com/carebus/carebus/eventstore] and the engines that store events.
//
// Services never import it: they use eventstore.Store. An engine implements [Driver]; it is done when the suite in
// eventstore/drivertest passes. What is the same for every engine (group commit, back pressure, waiting for news,
// verification, schema steps of components) is written once, in eventstore.
//
// All SQL that passes through a [Tx] or [Driver.View] is the common subset of SQLite and PostgreSQL with numbered
// placeholders ($1, $2, … first used in that order), so that a component written for one engine runs on all.
package driver

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/carebus/carebus/event"
)

// Expected versions of a stream that are not a number of events.
const (
	AnyVersion = int64(-1) // append whatever the version is
	NoStream   = int64(0)  // the stream must not exist yet
)

// Errors that every engine reports, tested with errors.Is. Engines wrap them with the place and the remedy.
var (
	// ErrConflict: the stream is not at the version that the caller expected. See ConflictError.
	ErrConflict = errors.New("version conflict")
	// ErrDifferentContent: the eventId is stored already, with another content. Nothing was stored.
	ErrDifferentContent = errors.New("event id already stored with another content")
	// ErrNotFound: no such event, stream or partition.
	ErrNotFound = errors.New("not found")
	// ErrClosed: the store has been closed.
	ErrClosed = errors.New("store closed")
	// ErrFull: the disk, or the engine's own limit, has no room. Nothing was stored; appends succeed again when there
	// is room. Reads go on.
	ErrFull = errors.New("storage full")
	// ErrUnavailable: the engine can't be reached or is busy for longer than its limit. Nothing is known to be stored;
	// trying again with the same event ids is safe.
	ErrUnavailable = errors.New("storage unavailable")
	// ErrCorrupt: the store contradicts itself. Writing stops; verify names the place.
	ErrCorrupt = errors.New("store corrupt")
	// ErrReadOnly: the store was opened for reading.
	ErrReadOnly = errors.New("store opened for reading only")
	// ErrInTurn: the transaction runs beside others, and what was asked of it, an append or a change of tables, is done in
	// turn only. Nothing of it was stored.
	ErrInTurn = errors.New("not in a concurrent transaction")
	// ErrFormat: what is there is not a carebus store, or one that a newer program has written. It is left untouched.
	ErrFormat = errors.New("not a store that this program can use")
)

// ConflictError is the ErrConflict of a stream: it carries the version found.
type ConflictError struct {
	Stream   string
	Expected int64
	Actual   int64
}

// Record is a stored event with its place.
type Record struct {
	event.Event
	Partition     int
	Offset        int64     // place in the partition: 0, 1, 2 … without gaps
	Stream        string    // history of an entity that it belongs to, "patient.record/P1"; empty for none
	StreamVersion int64     // place in the stream: 1, 2, 3 … without gaps; 0 without a stream
	RecordedAt    time.Time // when the store recorded it, microseconds UTC; increases along a partition
}

// Receipt says where an event was stored. When Duplicate is set the event had been stored before, and the receipt is
// that of the first time.
type Receipt struct {
	EventID       string
	Partition     int
	Offset        int64
	Stream        string
	StreamVersion int64
	RecordedAt    time.Time
	Duplicate     bool
}

// Append is a set of events that are stored all or none.
type Append struct {
	Stream   string // when not empty, all events are appended to this stream, in order
	Expected int64  // version of Stream that the caller has seen: a count, NoStream or AnyVersion; ignored without a stream
	Events   []event.Event

	// Digests holds ContentDigest of each event, made by the front outside the writer so that hashing runs in parallel.
	// Empty when the append comes from inside a transaction: the engine makes it then.
	Digests [][32]byte
}

// Unit is one member of a group commit: either an append or a function over the transaction. The engine fills in
// Receipts and Err.
type Unit struct {
	Append Append            // used when Run is nil
	Run    func(tx Tx) error // used when not nil
	Ctx    context.Context   // of the caller: a unit whose context has ended before its turn is skipped with its error
	Large  bool              // Run may change a great many rows: what is needed to undo it does not belong in memory

	Receipts []Receipt // of Append
	Err      error     // why this unit, and only this one, left no trace
}

// Tx is the transaction that a Unit's Run sees. It is valid until Run returns, and is used by one goroutine at a time.
// What Run did is durable when Commit has returned nil and the unit's Err is nil; otherwise it left no trace.
type Tx interface {
	// Append stores events in this transaction, with the same rules as an append unit.
	Append(ctx context.Context, a Append) ([]Receipt, error)
	// Stream reads the history of a stream as Driver.Stream does, with what this transaction, and those before it in the
	// same commit, have appended.
	Stream(ctx context.Context, q StreamQuery) ([]Record, error)
	// Savepoint runs fn; when fn returns an error or panics, everything done in it, appends included, is undone and
	// the error is returned (a panic goes on). Savepoints nest.
	Savepoint(ctx context.Context, fn func() error) error
	// Now is the engine's clock, which all processes of one store share: leases are measured by it.
	Now() time.Time
	Querier
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Querier reads tables. Statements are cached by their text, so build texts from constants.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// PartitionQuery asks for a part of one partition's log.
type PartitionQuery struct {
	Partition int
	From      int64                       // first offset
	To        int64                       // first offset not wanted; 0 means no bound
	Key       string                      // when not empty, only events with this partition key
	Match     func(eventType string) bool // nil matches all; called at least once per distinct type of the answer
	Limit     int                         // records returned; must be positive
	MaxBytes  int                         // stop after the record that reaches this many payload bytes; 0 means 4 MiB
}

// Batch is an answer to a PartitionQuery: matching records in order of offset, and where to go on.
type Batch struct {
	Records []Record
	Next    int64 // first offset that was not looked at; equals From when there is nothing new
}

// TypeQuery asks for events of one type, ordered by timestamp and then by place.
type TypeQuery struct {
	Type     string
	From, To time.Time // timestamp bounds, From inclusive, To exclusive; zero means none
	Backward bool      // newest first
	After    Cursor    // go on behind this record; zero starts
	Limit    int       // must be positive
}

// Cursor is a place in an ordered answer, taken from the last record received.
type Cursor struct {
	Timestamp int64
	Partition int
	Offset    int64
	Valid     bool
}

// StreamQuery asks for the history of one stream.
type StreamQuery struct {
	Stream   string
	From     int64 // first version: 1 is the oldest; backward, the newest version wanted, 0 meaning the last
	Backward bool
	Limit    int // must be positive
}

// Info describes an opened engine. It does not change while the engine is open.
type Info struct {
	Name       string // "sqlite", "postgres"
	Location   string // for people: a path or an address without credentials
	Partitions int
	Format     int // version of the stored format
}

// Driver is an engine. All methods are safe for concurrent use, except that the front never calls Commit concurrently
// with itself; other processes may commit to the same store at any time.
//
// A driver does not retry: it reports ErrUnavailable and the front decides. Records that it returns belong to the caller.
type Driver interface {
	Info() Info

	// Commit carries out the units, in order, in one durable transaction. A unit that fails is undone alone, with its
	// Err set. When Commit returns an error no unit has left a trace, except where the error is ErrUnavailable, where
	// it is unknown. When it returns nil, everything is on stable storage. heads are those of right after the commit; a
	// commit that appends nothing may return older ones, or none. ctx bounds the wait for the engine's lock.
	Commit(ctx context.Context, units []*Unit) (heads []int64, err error)

	// Heads returns, per partition, the offset that the next event will get. Everything below is visible to readers.
	Heads(ctx context.Context) ([]int64, error)
	// Partition reads a part of a partition's log.
	Partition(ctx context.Context, q PartitionQuery) (Batch, error)
	// Stream reads the history of a stream; ErrNotFound when there is no such stream.
	Stream(ctx context.Context, q StreamQuery) ([]Record, error)
	// StreamVersion returns the number of events in a stream, 0 when there is none.
	StreamVersion(ctx context.Context, stream string) (int64, error)
	// Streams lists stream names that begin with prefix, in order, behind after.
	Streams(ctx context.Context, prefix, after string, limit int) ([]string, error)
	// Correlation reads the events of one flow in the order they were recorded, those recorded after the given time.
	Correlation(ctx context.Context, id string, after time.Time, limit int) ([]Record, error)
	// Type reads the events of one type by timestamp.
	Type(ctx context.Context, q TypeQuery) ([]Record, error)
	// Types returns the event types present with the number of events of each. When most is not zero it counts up to so
	// many of each, and looks at no more than that, however many the store holds.
	Types(ctx context.Context, most int64) (map[string]int64, error)
	// Get returns the event with this id, or ErrNotFound.
	Get(ctx context.Context, eventID string) (Record, error)
	// OffsetAt returns the offset of the first event of a partition recorded at t or later; the head when there is none.
	OffsetAt(ctx context.Context, partition int, t time.Time) (int64, error)

	// View runs fn over one consistent snapshot of the tables, without holding up writers.
	View(ctx context.Context, fn func(q Querier) error) error

	// Watch calls notify once it is watching, and then whenever another process may have committed, until ctx ends. It
	// may call too often, never too seldom: a commit is followed by a call within about 50 ms. heads are those of the
	// partitions that have grown, 0 for others; nil when the engine does not know them.
	Watch(ctx context.Context, notify func(heads []int64)) error

	// Verify walks one partition and reports every contradiction through fault: gaps in offsets, hashes that do not
	// follow, index entries that are missing or point elsewhere. It reports progress now and then. With partition 0 it
	// also checks what the partitions share, such as the versions of streams.
	Verify(ctx context.Context, partition int, progress func(events int64), fault func(Fault)) error

	Close() error
}

// Queued is an engine whose Commit may have to wait for its turn.
type Queued interface {
	// CommitQueued is Commit, but asks for more when its turn has come: units that have come meanwhile are carried out with the
	// others, after them. more is called by the caller's goroutine, any number of times.
	CommitQueued(ctx context.Context, units []*Unit, more func() []*Unit) (heads []int64, err error)
}

// Concurrent is an engine on which transactions that append nothing need not take turns with those that do.
type Concurrent interface {
	// Concurrent runs a function in a transaction of its own, while Commit and others like it are under way. It sees what
	// was committed before each of its statements (READ COMMITTED). Append, and statements that change definitions, are
	// ErrInTurn. When it returns nil, everything is on stable storage; ErrUnavailable leaves it unknown.
	Concurrent(ctx context.Context, run func(Tx) error) error
}

// Sizer is an engine that knows how much room it takes.
type Sizer interface {
	// Size returns bytes by what they are for, such as "data" and "wal".
	Size(ctx context.Context) (map[string]int64, error)
}

// Fault is one contradiction that Verify found.
type Fault struct {
	Partition int    `json:"partition"`
	Offset    int64  `json:"offset"`
	EventID   string `json:"eventId,omitempty"`
	Rule      string `json:"rule"` // "offset-gap", "hash-chain", "index", "stream-version", …
	Detail    string `json:"detail"`
}
