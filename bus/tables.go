package bus

// The bus keeps its state in the store's own database, so that a handler's effects, the events it appends and the
// checkpoint commit together. All statements are the subset that SQLite and PostgreSQL share; times are microseconds.
//
// carebus_checkpoints is lease and checkpoint in one row. Every commit of a member is a compare-and-set on
// (epoch, next): a member whose lease was taken over finds another epoch and is undone, however late it wakes up.
//
//	next        first offset not yet handled
//	epoch       grows with every change of owner, pause and seek: the fencing token
//	owner       the member that handles the partition, empty when free
//	expires_at  when others may take the lease over
//	handling    offset that was being handled when it was marked, -1 for none: written only after a death (see worker)
//	deaths      how many times in a row the process died while handling that offset
//	replay_from, replay_to, resume_at
//	            a replay in progress: [replay_from, replay_to) is handled again, then next becomes resume_at; 0,0,0 for none
//
// carebus_parked has one row per parked key, whatever the number of its waiting events: the log has the events.
//
//	head        offset of the first event of the key that is not done
//	tail        offset of its last event so far
//	count       events of the key from head to tail
//	state       waiting (for next_at), retry (a person asked)
//	job         the redrive job that asked, empty for none
//
// Of lanes (part is FirstLane or more, see Transport) there is beside
//
//	seen         in checkpoints: how far the relays of the lane are at next; resume_seen: at resume_at
//	base, seen   in parked: the same, at base, which is head or, when a person has skipped events, before it
//	handed       in groups: how far the group was with the store's own log when it went over to a transport
//
// carebus_replay_parked keeps the parked keys that a replay under way handles again: a replay that is broken off puts
// back what it has not come to.
var schemaSteps = []string{`
CREATE TABLE carebus_groups (
	grp TEXT PRIMARY KEY,
	state TEXT NOT NULL,
	reason TEXT NOT NULL,
	patterns TEXT NOT NULL,
	version TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL
);
CREATE TABLE carebus_members (
	grp TEXT NOT NULL,
	member TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	PRIMARY KEY (grp, member)
);
CREATE TABLE carebus_checkpoints (
	grp TEXT NOT NULL,
	part BIGINT NOT NULL,
	next BIGINT NOT NULL,
	epoch BIGINT NOT NULL,
	owner TEXT NOT NULL,
	expires_at BIGINT NOT NULL,
	handling BIGINT NOT NULL,
	deaths BIGINT NOT NULL,
	replay_from BIGINT NOT NULL,
	replay_to BIGINT NOT NULL,
	resume_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (grp, part)
);
CREATE TABLE carebus_parked (
	grp TEXT NOT NULL,
	part BIGINT NOT NULL,
	pkey TEXT NOT NULL,
	head BIGINT NOT NULL,
	tail BIGINT NOT NULL,
	count BIGINT NOT NULL,
	class TEXT NOT NULL,
	error TEXT NOT NULL,
	event_id TEXT NOT NULL,
	event_type TEXT NOT NULL,
	attempts BIGINT NOT NULL,
	next_at BIGINT NOT NULL,
	state TEXT NOT NULL,
	job TEXT NOT NULL,
	parked_at BIGINT NOT NULL,
	tried_at BIGINT NOT NULL,
	PRIMARY KEY (grp, part, pkey)
);
CREATE INDEX carebus_parked_at ON carebus_parked (grp, parked_at);
CREATE TABLE carebus_corrections (
	grp TEXT NOT NULL,
	event_id TEXT NOT NULL,
	correction_id TEXT NOT NULL,
	PRIMARY KEY (grp, event_id)
);
CREATE TABLE carebus_jobs (
	id TEXT PRIMARY KEY,
	kind TEXT NOT NULL,
	grp TEXT NOT NULL,
	filter TEXT NOT NULL,
	state TEXT NOT NULL,
	total BIGINT NOT NULL,
	failed BIGINT NOT NULL,
	reason TEXT NOT NULL,
	actor TEXT NOT NULL,
	created_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL
);
CREATE TABLE carebus_calls (
	grp TEXT NOT NULL,
	event_id TEXT NOT NULL,
	state TEXT NOT NULL,
	updated_at BIGINT NOT NULL,
	PRIMARY KEY (grp, event_id)
);
`, `
CREATE TABLE carebus_replay_parked (
	grp TEXT NOT NULL,
	part BIGINT NOT NULL,
	pkey TEXT NOT NULL,
	head BIGINT NOT NULL,
	tail BIGINT NOT NULL,
	count BIGINT NOT NULL,
	class TEXT NOT NULL,
	error TEXT NOT NULL,
	event_id TEXT NOT NULL,
	event_type TEXT NOT NULL,
	attempts BIGINT NOT NULL,
	parked_at BIGINT NOT NULL,
	PRIMARY KEY (grp, part, pkey)
);
`, `
ALTER TABLE carebus_groups ADD COLUMN handed TEXT NOT NULL DEFAULT '';
ALTER TABLE carebus_checkpoints ADD COLUMN seen TEXT NOT NULL DEFAULT '';
ALTER TABLE carebus_checkpoints ADD COLUMN resume_seen TEXT NOT NULL DEFAULT '';
ALTER TABLE carebus_parked ADD COLUMN base BIGINT NOT NULL DEFAULT 0;
ALTER TABLE carebus_parked ADD COLUMN seen TEXT NOT NULL DEFAULT '';
ALTER TABLE carebus_replay_parked ADD COLUMN base BIGINT NOT NULL DEFAULT 0;
ALTER TABLE carebus_replay_parked ADD COLUMN seen TEXT NOT NULL DEFAULT '';
`}

const (
	groupRunning = "running"
	groupPaused  = "paused"  // by a person
	groupStopped = "stopped" // by itself: a flood of failures, or the policy StopGroup

	parkedWaiting = "waiting"
	parkedRetry   = "retry"

	callIntent = "intent"
	callDone   = "done"
)
