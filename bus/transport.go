package bus

import (
	"context"
	"errors"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// Transport brings events to groups from elsewhere than the store: from the topics of Kafka, which many services with
// stores of their own write to and read from. Events of the domain platform are a store's own affair: they are not sent,
// and a group gets them from its store. What hangs on a group stays in this store: its checkpoints, its parked keys,
// the effects of its handlers, in one transaction. Package bus/kafka is one.
//
// Events lie in lanes: a lane is a partition of a topic. It has a number, at least FirstLane, that the transport gives it
// once and for all, and offsets that grow but may have gaps. All methods are safe for concurrent use.
type Transport interface {
	// Lanes returns the numbers of all lanes that events of the patterns (see Matches) lie in, ascending. Topics that are
	// missing are created.
	Lanes(ctx context.Context, patterns []string) ([]int, error)
	// Place says what a lane is, for people.
	Place(lane int) (topic string, partition int)
	// LaneAt is the opposite of Place. ok is false when there is no such lane.
	LaneAt(topic string, partition int) (lane int, ok bool)
	// LaneOf returns the lane that events of a type and key lie in, if their topic was used here.
	LaneOf(eventType, key string) (lane int, ok bool)
	// RelayGroup is the group, on the store, that brings this store's events to the transport.
	RelayGroup() string
	// Log is the name that the events of a partition of this store have in lanes; see Origin.
	Log(partition int) string
	// Bounds returns where lanes begin and end now.
	Bounds(ctx context.Context, lanes []int) (map[int]Bounds, error)
	// OffsetsAt returns the first offset of each lane whose event came to the lane at t or later; its end when there is none.
	OffsetsAt(ctx context.Context, lanes []int, t time.Time) (map[int]int64, error)
	// RecordedAt returns when the events at these offsets of lanes, or the first ones behind them, were recorded. Lanes that
	// have none there, or do not answer, are left out.
	RecordedAt(ctx context.Context, offsets map[int]int64) map[int]time.Time
	// Fetch reads a lane from any place, apart from what members read: for parked keys. Like Member.Read, but it waits until
	// the broker has answered; next is from only at the end of the lane.
	Fetch(ctx context.Context, lane int, from int64, events, bytes int) (found []Delivered, next int64, err error)
	// Join makes this process a member of a group. changed is called, by any goroutine, when the lanes that are this member's
	// may be others than before.
	Join(ctx context.Context, group string, patterns []string, changed func()) (Member, error)
}

// Member is a process's membership of a group on a transport.
type Member interface {
	// Mine says which lanes are this member's. fresh are those that were given to it since it was told so last (see Held):
	// nobody else may be thought alive there, whatever a lease says.
	Mine() (lanes map[int]bool, fresh map[int]bool)
	// Held tells which lanes this process works on. A lane that is taken away is given to another when it is not held any
	// more.
	Held(lanes map[int]bool)
	// Read returns what has come to a lane from an offset on: at most so many events and about so many bytes, without
	// waiting for more. next is where to read on; it is from when nothing has come.
	// An error that is ErrLost says that events are gone which were not read.
	Read(ctx context.Context, lane int, from int64, events, bytes int) (found []Delivered, next int64, err error)
	// After returns a channel that is closed when a lane may have something at offset or behind.
	After(lane int, offset int64) <-chan struct{}
	// Progress tells how far the group is, for tools that show it. Nothing depends on it.
	Progress(next map[int]int64)
	// Leave ends the membership.
	Leave(ctx context.Context)
}

// FirstLane is the lowest number of a lane. Numbers below are partitions of the store.
const FirstLane = 1 << 16

// Bounds are the first offset that a lane still has, and the offset that the next event gets.
type Bounds struct{ Start, End int64 }

// Delivered is an event as a transport brought it. Record has the lane for its Partition, and the lane's offset.
type Delivered struct {
	eventstore.Record
	Origin Origin
	Err    error // why it is no event that can be handled; the type may be unknown then
}

// Origin says which store's relay has put an event into a lane. A relay may put events there twice, or, when a broker
// fails, later ones before earlier ones; by Prev and Offset a reader tells so. The zero Origin belongs to events that no
// relay has sent: they are taken as they come.
type Origin struct {
	Log    string // a partition of a store
	Offset int64  // of the event in it
	Prev   int64  // of the event that the relay has sent to the lane before it; -1 for none
}

// ErrLost says that events are gone from a lane that a group has not read. The group stops, and a person decides.
var ErrLost = errors.New("events were removed before they were read")
