// Package asyncapi describes the events of a registry, and the services that were observed with them, as an AsyncAPI
// document: what a team that is to consume them, in whatever language, generates its code and its documentation from.
//
//	text, err := asyncapi.Document(types, services, nil)
//
// A channel stands for an entity of a domain, such as medication.prescription, and has a message for every major version of
// every type of event about it, the newest of each. Operations say which service sends what, and which group receives it.
//
// The document is AsyncAPI 3.0.0, which tools understand; 3.1.0 on request. Schemas are written as JSON Schema draft-07,
// the only dialect of JSON Schema that the specification lists: definitions of a schema become components, so that
// references are resolved in the document, and a reference never has a sibling, which draft-07 would ignore. What a
// payload must be stays the same; the annotations x-data-class, x-phi and so on are kept.
package asyncapi
