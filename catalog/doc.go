// Package catalog holds the healthcare events: a JSON Schema for every event type and version, as embedded files, and
// Go types made from them.
//
// The Go types are in one package per domain: patient, medication, priorauth, care, payment, provider, and platform for
// what carebus states about itself. Each event type has a struct for its payload and a definition that ties the struct
// to the type and version:
//
//	medication.PrescriptionCreated    // the payload of medication.prescription.created
//	medication.PrescriptionCreatedV1  // event.Define[PrescriptionCreated]("medication.prescription.created", "1.0.0")
//
// The number in a definition's name is the major of its version; the struct of the newest major has the plain name, the
// struct of an older one ends in its major (PrescriptionFilled1).
//
// # Reading the Go types
//
// A required member is a plain field. An optional one is a pointer, a list or map that may be nil, or, where the zero
// value is no value that the member can have, a plain field: an instant (the zero time means absent) and a closed set of
// words (the empty string means absent). An empty list is kept apart from an absent one.
//
// What was forgotten is refused by the schema when the event is published: a required time that is zero is left out, and
// a required list that is nil is written as null.
//
// Closed sets are string types with constants. A value that is not among them is read all the same, since producers may
// be newer than the reader; Known tells. Amounts of money are USD, whole cents. Dates without a time are strings as
// they stand in the payload, since many records know only a year or a month.
//
// Members that the struct does not know are lost when it is encoded again. To pass an event on, pass the Event.
//
// # Changing the catalog
//
// Edit or add a file in schemas, then run go generate in this directory. A new version is a new file; the rules between
// versions are those of package schema.
package catalog
