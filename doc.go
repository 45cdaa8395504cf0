// Package carebus is the front door of an event-driven platform for healthcare services: one durable, ordered,
// replayable log of events, whose envelope and schemas are checked before anything is stored, and groups of handlers
// that react to them with effects that happen exactly once.
//
//	p, err := carebus.Open(ctx, "sqlite:care.db", nil)
//	defer p.Close()
//
//	receipt, err := p.Publish(ctx, medication.PrescriptionCreatedV1.New("prescribing-service", rx))
//
//	err = p.Handle("prior-auth", bus.On(medication.PrescriptionCreatedV1,
//		func(ctx context.Context, tx bus.Tx, e event.Of[medication.PrescriptionCreated]) error {
//			return tx.Append(priorauth.RequestSubmittedV1.New("priorauth-service", request(e)))
//		}))
//	err = p.Run(ctx) // until ctx ends
//
// A published event is acknowledged when it is on stable storage. Its envelope is completed from the context (see
// event.Complete), its payload is checked against the schema of its type and version, and its partition key defaults to
// the id of the entity that it is about. Publishing the same event again returns the first receipt.
//
// The parts are packages of their own: event (the envelope), schema (the registry), catalog (the healthcare events),
// eventstore (the log) and bus (groups of handlers).
package carebus
