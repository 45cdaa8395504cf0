// Package bridge copies events between a store and Apache Kafka, both ways, on any rung.
//
//	b, err := bridge.Open(ctx, p, "partner", &bridge.Options{Client: []kgo.Opt{kgo.SeedBrokers("broker:9092")}})
//	err = b.Out(bridge.Out{Patterns: []string{"medication.**"}})      // runs while p.Run does
//	err = b.In(ctx, bridge.In{Topics: []string{"hospital.orders"}})   // runs until ctx ends
//
// # Out
//
// The way out is a consumer group on the bus, named by [Group]: its checkpoint, lag, pause, replay and dead letters are
// those of any group. An event is done when all in-sync replicas have acknowledged its record. So each event is in Kafka
// at least once; of each key in order and without a gap. A repetition, after a crash or a lost answer, comes behind the
// first copy, and readers tell it by the event-id header. While Kafka is away the events wait in the store, nothing is
// parked. An event that Kafka refuses for what it is (too large) parks its key, and the events behind it wait with it.
//
// The record's key is the partition key, placed by murmur2 as the store places it: in a topic of as many partitions a key
// has the same number. The topic comes from a template, by default one topic per domain. Events of one entity that go to
// different topics have no order between them.
//
// # In
//
// The way in is exactly once: events and the offsets that say they were read commit in one transaction of the store. A
// bridge reads on where the store says, never where Kafka says; Kafka is told too, for tools that show lag. One process
// at a time copies in under a name, by a lease with an epoch that every commit checks. Each record becomes an event as if
// it had been published (envelope, schema, partition key); or it is found in the store already, by its id; or it is
// passed over, because its header says that it came from this store; or it is refused.
//
// What is refused becomes a dead letter (see [Bridge.Refused]) and the records behind it go on, those of its key too: a
// record that cannot be read has no key to hold back. The dead letter points at the record and copies nothing of it.
//
// # What stops a bridge
//
// Records removed unread, a topic that was deleted, or deleted and created again: going on would skip events in silence.
// In ends with an *[OffsetError] or [ErrNoTopic], and a person decides, with [Bridge.Seek]. All else is waited out.
//
// # Loops
//
// Every record carries the id of the store that it was copied from, so a bridge knows its own when it reads the topic that
// it writes. Events that a bridge has copied in it does not copy out; another bridge may. Whatever comes back by other ways
// is found by its id.
package bridge
