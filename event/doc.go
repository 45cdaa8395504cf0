// Package event is the standard envelope: what every service understands of an event, whatever its payload says.
//
//	{"metadata": {"eventId": "…", "eventType": "medication.prescription.filled", "eventSource": "pharmacy-service",
//	  "correlationId": "…", "causationId": "…", "timestamp": 1677609600000, "version": "1.0.0",
//	  "traceId": "…", "partitionKey": "…"}, "payload": {…}}
//
// [Parse] reads it, [Event.Check] applies the same rules to an event built in Go, [Event.AppendJSON] writes it. The
// payload stays the text that the producer wrote, all the way: it is checked, but never decoded and encoded again,
// until a handler asks for it as a Go type with [Definition.Decode].
//
// # The rules
//
// metadata and payload are objects; nothing else is allowed beside them. Member names are exact in their case.
//
//   - eventId, correlationId, and causationId (optional): opaque, 1 to 128 visible ASCII characters. Ours are UUIDv7.
//   - eventType: domain.entity.action, or domain.action for an event about the domain's own root entity. Each part is
//     of lower-case letters, digits and hyphens, begins with a letter and does not end with a hyphen; 255 in all.
//   - eventSource: the service that states the fact, 1 to 128 visible ASCII characters.
//   - timestamp: when the fact happened, in epoch milliseconds, negative before 1970, from the year 1 on. An RFC 3339
//     time is accepted too and written as milliseconds from then on; what is finer is cut off with a warning. More than
//     24 h ahead of the clock is refused. A number that reads sensibly as seconds gets a warning.
//   - version: the semantic version of the type's schema, with a pre-release if need be, without build metadata.
//   - traceId (optional): the W3C trace id, 32 lower-case hexadecimal digits, not all zero.
//   - partitionKey (optional): 1 to 256 bytes of printable UTF-8. Events of one key are ordered.
//
// Other members of the metadata are refused by name. The members of the payload are the schema's business. The text
// is strict JSON: duplicate members anywhere, invalid UTF-8, unpaired surrogates, more text after the event, more than
// 64 levels and more than 1 MiB are refused; 64 KiB get a warning. [Options] has the limits.
//
// Everything that is wrong with an event is reported together, as the findings of one [InvalidError]: each with a JSON
// pointer to the place, a stable rule, a message and a remedy. A text that stops being JSON is judged up to there. No
// finding ever quotes a payload value, which may be protected health information; member names it does quote.
//
// # Rules by name
//
//	json.syntax, json.utf8, json.duplicate, json.trailing, json.depth         the text
//	event.kind, event.unknown, event.size                                     the envelope
//	metadata.required, metadata.kind, metadata.unknown                        presence, JSON type and name of members
//	metadata.id, .type, .source, .timestamp, .timestamp-ahead, .version, .trace, .key    their values
//	metadata.timestamp-unit, metadata.timestamp-precision                     warnings
//	payload.required, payload.kind, payload.encode                            the payload
//	cloudevents.specversion, .attribute, .kind, .content-type, .base64, .traceparent, .duplicate, .utf8, .batch
//	cloudevents.extension                                                     warning: dropped, no place for it
//
// # Flow
//
// [Complete] fills in what can be known: id, time, correlation, causation, trace. Whoever handles an event puts it in
// the context with [ContextWithCause]; what is published with that context carries its correlation on and names it as
// the cause.
//
// # CloudEvents
//
// Every valid event goes through CloudEvents 1.0 and back unchanged: structured ([AppendCloudEvent],
// [ParseCloudEvent]), in batches ([AppendCloudEventBatch], [ParseCloudEventBatch]), and in binary mode over HTTP and
// Kafka headers ([CloudEventHeaders], [ParseCloudEventBinary]).
//
//	eventId        id              eventSource    source: /pharmacy-service; a URI or longer path stands as it is
//	eventType      type            timestamp      time, RFC 3339 with milliseconds in UTC
//	version        schemaversion, and last in dataschema (where it is read from when schemaversion is absent)
//	correlationId  correlationid   causationId    causationid
//	partitionKey   partitionkey    traceId        traceparent, the span id derived from the event's id
//	payload        data, application/json; data_base64 is refused
//
// What comes in must have everything that the envelope requires. What the envelope has no place for (subject, unknown
// extensions, a foreign dataschema) is dropped, with a warning that names it.
package event
