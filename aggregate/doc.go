// Package aggregate keeps entities as the sequence of their events: a pure function says what follows from a command, a
// pure function says what an event changes, and the store keeps the events.
//
//	var records = aggregate.Define("patient.record",
//		aggregate.On(patient.RecordCreatedV1, func(r *Record, e event.Of[patient.RecordCreated]) { … }),
//		aggregate.On(patient.AddressChangedV1, func(r *Record, e event.Of[patient.AddressChanged]) { r.Address = e.Payload.Address }))
//
//	loaded, err := records.Update(ctx, p, "P1", func(r Record) ([]event.Event, error) {
//		return r.ChangeAddress(command) // looks, decides, changes nothing
//	})
//
// The events of the entity "P1" are the stream "patient.record/P1". They are ordinary events: groups of handlers see them
// in the order of the stream.
//
// # Concurrency
//
// Update appends at the version that the decision was made upon. When somebody else was faster it decides anew, inside a
// transaction of the store, where nobody can be. A decision may therefore be asked for more than once and must have no
// effects; and it must not wait for anything, nor use the store.
//
// # State
//
// The state S is what Evolve functions make of the zero S. It is encoded as JSON for snapshots, comparison and the memory
// of recent states, so everything that matters in it must survive encoding and decoding. Events of types that no On
// names change nothing. State at any version or moment is a fold of the beginning of the stream.
//
// # Snapshots
//
// Every hundred events (see Snapshots) the state is kept in a table, so that loading reads the newest part of a long
// stream only. Snapshots are disposable: they carry the version of their shape, and one of another shape is not read.
package aggregate
