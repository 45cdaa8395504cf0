// Package scaling tells how large a deployment must be: a discrete-event simulation of one database with its processes, and
// a calculation of how many of them, and of partitions and brokers, a load needs.
//
//	m, err := scaling.Reference()     // what was measured, on which machine
//	costs, err := m.Costs("postgres") // what each part takes
//	r := scaling.Simulate(costs, scaling.Load{EventsPerSecond: 2000, Processes: 2, Handlers: 2, Cores: 8, Apart: true})
//	plan := scaling.Size(costs, scaling.Demand{EventsPerSecond: 100_000, Services: 12, Handlers: 2}, m.Broker)
//
// # What is simulated
//
// Events arrive at random, or publishers publish again as soon as they are answered. A process validates an event on its
// processors and puts it into its queue. What waits there, and what comes until the writer's lock is there, becomes one
// commit; the lock is given first come, first served over all processes. Under it the server and the process hand over to each
// other, the ends of the partitions are read if others have stored something, the rows are inserted, the handlers of the batch
// run, and the disk syncs. Then all are answered.
// Groups read what is there and bring their batches through the same queue. A relay takes what is committed to Kafka, batch
// after batch. Processors are shared in slices of a millisecond.
//
// Time is virtual, arrivals are random by a seed: the same arguments give the same result, on every machine. Nothing here
// reads a clock, and no goroutine is started.
//
// # How far it can be trusted
//
// The costs come from measures on one small machine that others used at the same time. The tests hold the engine to what
// queueing theory says, and the model to the measured cases within StatedError. docs/scaling.md says what follows, and what
// does not.
package scaling
