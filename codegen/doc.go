// Package codegen writes types for the events of a registry, or of a folder of schemas: Go packages, and TypeScript modules
// with a thin client of the gateway.
//
//	types, err := codegen.Read(os.DirFS("schemas")) // or from a schema.Registry
//	files, err := codegen.TypeScript(types, nil)
//	written, removed, err := codegen.Write("src/events", files, nil)
//
// The newest version of every major of an event type counts. The same schemas give the same text, so that generated code
// can be committed and checked for being in step.
//
// # TypeScript
//
// Interfaces have the names of event type and major version, such as PrescriptionFilledV2: a new major renames nothing.
// Members that a schema does not require are optional; an enum is a union of its values, and one marked x-extensible-enum
// stays open for those of newer producers. Types of $defs are shared within a domain. EventTypes maps event type and major to
// the payload, and through it newEvent, isEvent, the live stream and the consumer group of the client are typed. The modules
// compile under --strict --exactOptionalPropertyTypes and need nothing at run time but fetch: Node 20 or a browser.
//
// # Go
//
// A package for every domain with a struct and an event.Definition per event type and major. The catalog's packages are made
// so by catalog/gen.
package codegen
