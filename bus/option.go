package bus

import (
	"context"
	"strings"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// Option belongs to Bus.Handle: a handler (On, OnRecord, OnBatch, OnCall, OnForward) or a setting of the group.
type Option interface{ apply(*group) }

type optionFunc func(*group)

func (f optionFunc) apply(g *group) { f(g) }

// Policy says what becomes of an event that failed for good.
type Policy int

const (
	// ParkKey sets the event's key aside: it and every later event of the key wait, in order, while all other keys go
	// on. The default.
	ParkKey Policy = iota
	// SkipEvent records the failure as an event (platform.key.skipped) and goes on with the next event of the key.
	SkipEvent
	// StopGroup stops the group at the event and says so; a person resumes it.
	StopGroup
)

// settings of a group; every field's default is stated at the option that sets it.
type settings struct {
	policy     Policy
	start      StartAt
	version    string
	tries      int
	retryMin   time.Duration
	retryMax   time.Duration
	drainMin   time.Duration
	drainMax   time.Duration
	batch      int
	batchBytes int
	calls      int
	concurrent bool
	hold       time.Duration
	timeout    time.Duration
	floodKeys  int
	breakAfter int
	classify   func(error) (Class, bool)
	fromStore  bool
	around     []func(ctx context.Context, r eventstore.Record, next func(ctx context.Context) error) error
}

func defaultSettings() settings {
	return settings{
		tries: 3, retryMin: 20 * time.Millisecond, retryMax: 5 * time.Second,
		drainMin: time.Minute, drainMax: 6 * time.Hour,
		batch: 512, batchBytes: 4 << 20, calls: 8, hold: 50 * time.Millisecond, timeout: 5 * time.Second,
		floodKeys: 50, breakAfter: 5,
	}
}

// OnFailure sets the policy for events that failed for good. Default ParkKey.
func OnFailure(p Policy) Option { return optionFunc(func(g *group) { g.set.policy = p }) }

// StartAt is where a group begins when it has never run before.
type StartAt struct {
	now  bool
	time time.Time
}

// FromBeginning starts a new group at the first event in the store. The default: nothing is missed.
var FromBeginning = StartAt{}

// FromNow starts a new group behind what is stored when it first runs.
var FromNow = StartAt{now: true}

// FromTime starts a new group at the first event recorded at t or later.
func FromTime(t time.Time) StartAt { return StartAt{time: t} }

// Start sets where a group begins when it has never run before; it changes nothing for a group with a checkpoint.
func Start(at StartAt) Option { return optionFunc(func(g *group) { g.set.start = at }) }

// FromStore makes a group read the store's own log where the bus has a Transport: for what belongs to the store, as its read
// models do, and for what must be told without a detour. Without a transport every group does.
func FromStore() Option { return optionFunc(func(g *group) { g.set.fromStore = true }) }

// Version names the version of the group's code. When it differs from the version that last ran, every parked key of
// the group is tried again at once: the new code may have the fix.
func Version(v string) Option { return optionFunc(func(g *group) { g.set.version = v }) }

// Tries sets how often an event is tried in place before a permanent failure counts. Default 3, at least 1.
func Tries(n int) Option { return optionFunc(func(g *group) { g.set.tries = max(n, 1) }) }

// Backoff sets the pause after the first failed try of an event and the longest pause; pauses double, with jitter.
// Default 20 ms to 5 s.
func Backoff(first, longest time.Duration) Option {
	return optionFunc(func(g *group) { g.set.retryMin, g.set.retryMax = first, max(first, longest) })
}

// DrainBackoff sets the pause before a parked key is first tried again and the longest pause. Default 1 min to 6 h.
func DrainBackoff(first, longest time.Duration) Option {
	return optionFunc(func(g *group) { g.set.drainMin, g.set.drainMax = first, max(first, longest) })
}

// BatchSize bounds how many events, and how many payload bytes, are read and committed together. Default 512 and 4 MiB.
// Larger batches raise throughput; smaller ones lower latency and the work repeated after a failure.
func BatchSize(events, bytes int) Option {
	return optionFunc(func(g *group) { g.set.batch, g.set.batchBytes = max(events, 1), max(bytes, 1) })
}

// Concurrent says that the group's handlers are right at the same time as other transactions of the store: they change rows
// that only events of one key change, or change them by single statements ("n = n + 1", an upsert that looks at nothing
// else). On PostgreSQL their transactions then do not take turns with those who append, nor with each other: each partition
// has its own. Effects and checkpoint are one commit as ever. Handlers are called by several goroutines at once. One that
// appends events is run again, in turn: it belongs in a group without this.
//
// Without it a handler is alone: what it reads stays as it is until its commit. On SQLite, where all writers take turns, it
// changes nothing.
func Concurrent() Option { return optionFunc(func(g *group) { g.set.concurrent = true }) }

// Calls sets how many keys of one partition have their outside calls (OnCall, OnForward) under way at once. Default 8.
func Calls(n int) Option { return optionFunc(func(g *group) { g.set.calls = max(n, 1) }) }

// Timeout bounds one run of a handler, or one outside call. Default 5 s. A handler that overstays it sees its context
// end and is treated as a failed dependency.
func Timeout(d time.Duration) Option { return optionFunc(func(g *group) { g.set.timeout = d }) }

// FloodLimit sets how many keys may be parked within a minute before the group stops itself: a flood of failures is a
// fault of the code or of the world, not of the keys. Beyond so many parked keys, more than 1 % of the keys that the
// group has seen stops it too. Default 50.
func FloodLimit(keys int) Option {
	return optionFunc(func(g *group) { g.set.floodKeys = max(keys, 1) })
}

// BreakAfter sets how many dependency failures in a row open the group's circuit breaker. Default 5. While it is open
// the group rests and parks nothing; it probes with one event and closes by itself.
func BreakAfter(n int) Option { return optionFunc(func(g *group) { g.set.breakAfter = max(n, 1) }) }

// ClassifyErrors lets the group judge its own errors first; f returns false to leave an error to Classify.
func ClassifyErrors(f func(error) (Class, bool)) Option {
	return optionFunc(func(g *group) { g.set.classify = f })
}

// Around puts fn around a group's handlers: for tracing, measuring, access checks, injected faults. fn calls next, once at
// most, which runs what is inside; what fn returns is what came of the event. It runs in the transaction, so that effects
// are undone when it fails after next. Of several, the first one given is outermost. A batch handler is run in one call,
// with its first event; outside calls (OnCall) are not inside.
func Around(fn func(ctx context.Context, r eventstore.Record, next func(ctx context.Context) error) error) Option {
	return optionFunc(func(g *group) { g.set.around = append(g.set.around, fn) })
}

// Matches reports whether an event type fits a pattern: parts separated by dots, "*" for any one part, and a final
// "**" (or a pattern of just "*") for any rest. "medication.prescription.*" fits "medication.prescription.filled".
// The platform's own events fit only patterns that begin with "platform": a group that wants everything would otherwise
// be told, by an event, of each of its own failures.
func Matches(pattern, eventType string) bool {
	if strings.HasPrefix(eventType, "platform.") && !strings.HasPrefix(pattern, "platform.") {
		return false
	}
	if pattern == "*" || pattern == "**" {
		return true
	}
	for {
		p, prest, pmore := strings.Cut(pattern, ".")
		t, trest, tmore := strings.Cut(eventType, ".")
		if p == "**" && !pmore {
			return true
		}
		if p != "*" && p != t {
			return false
		}
		if !pmore || !tmore {
			return pmore == tmore
		}
		pattern, eventType = prest, trest
	}
}

// CheckPattern returns an error that names the wrong part of a pattern, or nil.
func CheckPattern(pattern string) error {
	parts := strings.Split(pattern, ".")
	for i, p := range parts {
		switch {
		case p == "":
			return &ConfigError{Field: "pattern", Reason: "part " + itoa(i+1) + " of \"" + pattern + "\" is empty; write a name or *"}
		case p == "**" && i != len(parts)-1:
			return &ConfigError{Field: "pattern", Reason: "** must be the last part of \"" + pattern + "\""}
		case p != "*" && p != "**" && strings.ContainsAny(p, "*?[] >"):
			return &ConfigError{Field: "pattern", Reason: "part \"" + p + "\" of \"" + pattern + "\": * stands for a whole part"}
		}
	}
	return nil
}
