// Package schema is the registry of event schemas: which versions of an event type there are, whether a new one may be
// admitted, whether a payload is valid, and how an old event is read as a newer major.
//
// Schemas are JSON Schema 2020-12 within a profile that can be reasoned about. A [Registry] is a fold of events: what
// [Registry.Propose] admits comes as an event, to be appended to the stream [StreamOf] the type and given to
// [Registry.Apply]. Any process that reads the same history has the same registry.
//
// # Closed writers, open readers
//
// A schema is read in two ways. A producer is held to it closed ([Registry.Validate]): an object that declares
// properties has no others, and an enum allows the listed values only. A consumer reads it open
// ([Registry.ValidateOpen]): as written, so that members of a newer version are let pass, and an enum marked
// x-extensible-enum accepts any value of its type. Within a major version, then, two things are proven before a version
// is admitted, against every earlier version:
//
//   - backward: all that the old version closed accepts, the new one closed accepts too. Old producers stay valid.
//   - forward: all that the new version closed accepts, the old one open accepts too. Old consumers go on reading.
//
// What cannot be proven is refused, with the reason. It follows:
//
//	nothing, key order, order in enum and type, $ref or the same in place    none
//	title, description, examples, other annotations, unused $defs            patch
//	optional property added, at any depth                                    minor   property-added
//	value added to an extensible enum; default changed; deprecated           minor   enum-extended, default-changed, deprecated
//	x-phi added; x-data-class raised                                         minor   phi-raised, data-class-raised
//	property removed or renamed                                              major   property-removed
//	required property added; optional made required; required made optional  major   required-property-added, required-added, required-dropped
//	type changed, narrowed, widened                                          major   type-changed, type-narrowed, type-widened
//	enum or const changed                                                    major   enum-narrowed, enum-widened, const-changed
//	any bound, length, pattern, format, … tighter, looser, other             major   maximum-tightened, pattern-changed, …
//	a free object gains declared properties                                  major   object-closed
//	an enum becomes extensible                                               major   enum-opened
//	x-phi taken away; x-data-class lowered                                   major   phi-lowered, data-class-lowered
//	x-entity-id or x-subject-id changed                                      major   entity-id-changed, subject-id-changed
//	what is beyond proof                                                     major   unprovable
//
// Patterns are compared by their text, and so are formats. Alternatives of a oneOf are told apart by a required property
// with a const. A new major may change anything, and wants an upcaster
// ([Registry.AddUpcaster]) before events of the old one can be read as the new one ([Registry.Upcast]).
//
// # Marks
//
//   - x-entity-id, at the root: JSON pointer to the id of the entity; the default partition key ([Registry.Complete]).
//   - x-subject-id, at the root: JSON pointer to the id of the person whom the event is about.
//   - x-phi, on any schema: protected health information ([Registry.Mask] hides it).
//   - x-data-class, at the root: public, internal, confidential or restricted.
//   - x-extensible-enum, beside an enum: the list will grow, and consumers must cope.
//
// # Versions
//
// A type begins at 1.0.0. A version must be above all others of its major; the first of the next major is the last
// major's number plus one, .0.0. A version, once registered, never changes; registering the same document again is no
// error and does nothing. Pre-releases (1.1.0-rc.1) are exempt from the compatibility rules.
package schema
