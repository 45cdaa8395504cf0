// Package flow shows who caused what: it builds the causation tree of one correlation id from what the store really
// holds, and draws it as text for a terminal, as a sequence diagram in Mermaid or SVG, or as JSON.
//
//	f := flow.Build(records)           // the records of one correlation id, in the order they were recorded
//	err := f.WriteTree(os.Stdout, nil) // or f.WriteMermaid, f.WriteSVG, json.Marshal(f)
//
// Services of a choreography know events, not each other; nobody ever wrote the flow down. It is derived here: when a
// service states an event whose cause is another service's event, the second has reacted to the first. A consumer that
// reacts without stating anything (a read model, a mail) leaves no event and does not appear.
//
// Times are those of recording, not the times at which the facts are said to have happened: a fact of last year may be
// published in a flow of today. Where several machines record, their clocks may disagree; a reaction that seems to come
// before its cause is shown as taking no time.
//
// Payloads never appear in any output, with one exception that is not about patients: from the platform's own events
// platform.key.parked and platform.key.skipped the group, the class of failure, the error text and the number of tries.
//
// Everything here is a pure function of its arguments: the same records give the same bytes.
package flow
