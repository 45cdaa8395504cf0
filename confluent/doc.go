// Package confluent serves the schema registry over the REST API that Confluent's clients speak, so that Kafka
// serializers, command lines and consoles work with it unmodified.
//
//	h, err := confluent.New(platform, nil)
//	http.ListenAndServe("127.0.0.1:8081", h)
//
// # What is what
//
//	event type                subject; a name that is no event type is refused with 42208
//	schema                    JSON Schema only; AVRO, which an absent schemaType means, and PROTOBUF are 42201
//	order of registration     version: the n-th version of the type that was registered is n, for ever
//	semantic version          metadata.properties.version
//	schema text               global id: 1, 2, 3 … in order of registration, kept in the store; one text is one id,
//	                          whatever subject it is in, and so are texts that differ in white space or order of members
//	rules of package schema   the level FULL_TRANSITIVE, which cannot be lowered (42205)
//	deprecation               what a soft delete does, see below
//
// "latest" is the highest release that is not deleted, which need not be the one registered last: a correction of an
// older major comes later than the new major and does not displace it. Pre-releases are latest only where there is
// nothing else.
//
// # Registering
//
// A client that says nothing about versions gets the lowest version that the rules of package schema admit within the
// latest major: 1.0.0 for a new type, then a patch or a minor step. What needs a new major is refused with 409 and the
// list of changes; the owner of the type who means it sends metadata.properties.version, such as "2.0.0". A schema that
// is registered already, be it as a pre-release, gives its id again; so a pre-release becomes a release only when the
// version is sent. The text comes back as the client who was first sent it.
//
// # Deleting
//
// Stored events must stay readable, so schemas are never lost. A soft delete deprecates the version (or the type) in the
// registry's history and hides it from this API's lists and look-ups, where ?deleted=true shows it. Its id goes on
// resolving, events of it are still accepted, and new versions must still fit it. Registering the schema again shows it
// again, under its old number; it stays deprecated. A permanent delete is refused with 42205. What the registry
// deprecates by other ways stays visible, with the property "deprecated".
//
// # Left out
//
// References, rule sets, tags and properties other than the version are refused, since they would be lost. There is one
// context, ".". Exporters, encryption keys and associations are answered with 404, upon which clients do without.
package confluent
