package sqlite

// The stored format, version 2. It is numbered in the file's user_version; a file with a higher number is refused, one of
// version 1, which is the same without compression, gets the new number when it is opened for writing.
//
//	events.pos       partition << 40 | offset: the table's own key, so that each partition is a contiguous run of rows
//	                 and reading from an offset is a range scan without an index. 2^40 events per partition, 2^20 partitions.
//	type, origin     interned: types(id, name), origins(id, source, version)
//	stream, version  interned: streams(id, name); NULL, NULL for an event without a stream
//	recorded         µs; the one writer makes it strictly increasing in the whole store
//	payload          as it is, or compressed (zstd), which its first bytes tell
//	hash             SHA-256 chained along the partition, see driver.Chain
//
// The row's key is small and the row is not part of any index: a random key tree over rows of a kilobyte halves the
// write rate. There is no index on the partition key: keys arrive in random order and such an index costs as much as the
// insert itself (measured: 14 µs against 16 µs); reading the events of one key scans a range of its partition.
//
// Crash argument: WAL with synchronous=FULL syncs the log before COMMIT returns, and Commit answers callers only then.
// A crash before leaves a WAL tail without a commit record, which SQLite ignores; offsets, hashes and versions are
// computed from what is committed, so the next event takes the place of the lost one.
const (
	applicationID = 0x43424553 // "CBES"
	formatVersion = 2
	offsetBits    = 40
	offsetMask    = 1<<offsetBits - 1
)

const schema = `
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE types (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE origins (id INTEGER PRIMARY KEY, source TEXT NOT NULL, version TEXT NOT NULL, UNIQUE (source, version));
CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE events (
	pos INTEGER PRIMARY KEY,
	id TEXT NOT NULL,
	type INTEGER NOT NULL,
	origin INTEGER NOT NULL,
	correlation TEXT NOT NULL,
	causation TEXT NOT NULL,
	timestamp INTEGER NOT NULL,
	recorded INTEGER NOT NULL,
	trace TEXT NOT NULL,
	key TEXT NOT NULL,
	stream INTEGER,
	version INTEGER,
	hash BLOB NOT NULL,
	payload BLOB NOT NULL
);
CREATE UNIQUE INDEX events_id ON events (id);
CREATE INDEX events_correlation ON events (correlation, recorded);
CREATE INDEX events_type ON events (type, timestamp);
CREATE UNIQUE INDEX events_stream ON events (stream, version) WHERE stream IS NOT NULL;
`

// columns of a record read from the log. Types and origins are few and cached; streams are not.
const (
	columns       = beforeStream + `COALESCE((SELECT name FROM streams WHERE streams.id = events.stream), '')` + afterStream
	streamColumns = beforeStream + `?1` + afterStream // for reads of one stream, whose name is parameter 1
	beforeStream  = `pos, id, type, origin, correlation, causation, timestamp, recorded, trace, key, `
	afterStream   = `, COALESCE(version, 0), payload`
)
