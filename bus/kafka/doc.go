// Package kafka makes Apache Kafka the bus: events go from each service's store to topics, and from there to the groups of
// all services, while what hangs on a group (checkpoint, effects, parked keys) stays in its service's database.
//
//	p, err := carebus.Open(ctx, "postgres://…", &carebus.Options{
//	    Kafka: &kafka.Options{Client: []kgo.Opt{kgo.SeedBrokers("broker-1:9092", "broker-2:9092")}},
//	})
//
// Handlers are the same on every rung. A group that belongs to the store itself (a read model over its history) reads the
// store, see bus.FromStore.
//
// # From the store to topics
//
// A relay, which is a group on the store, sends every event but the platform's own to the topic of its domain: "carebus.medication",
// "carebus.patient". The partition is the one of the key in the store (murmur2), as the topics have as many partitions as the
// store. An event counts as sent when all in-sync replicas have it. Several processes share the relay as they share any
// group. While Kafka is away events wait in the store; publishing goes on.
//
// Each record says which log it comes from, which offset the event has there, and which event of that log was sent to the
// topic's partition before it. A relay that had to begin again sends events twice; a broker that fails may take a later
// batch before an earlier one. Readers tell so by those numbers: of each log they see every event once, in order. When
// events are missing they wait, say so, and handle nothing that comes behind.
//
// # From topics to groups
//
// Members share lanes, the partitions of the topics that their patterns name, by Kafka's group protocol (cooperative
// sticky). Where a group reads on is in its own database: checkpoint, effects and what was seen of each log commit together,
// conditional on the fencing epoch, so effects are exactly once whatever Kafka believes. Kafka is told the progress now and
// then, for tools that show lag.
//
// Order holds per key and topic. Events of one key in two domains lie in two topics, and nothing is promised between these;
// in the store's own log there was.
//
// Parked keys, redrives, replays and seeks work as on the store; their rows point at topic, partition and offset. A topic
// forgets after its retention. A group that has not read by then stops and says so; the store still has the events.
//
// # Topics
//
// Topics that are missing are created. Those that exist are checked before they are used, and refused with an explanation
// when what is acknowledged could be lost there or keys could change their partition: see [UnsafeError].
package kafka
