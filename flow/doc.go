// Package flow shows who caused what: it builds the causation tree of one correlation id from what the store really
// holds, and draws it as text for a terminal, as a sequence diagram in Mermaid or SVG, or as JSON.
//
//	f := flow.Build(records)           // the records of one correlation id, in the order they were recorded
//	err := f.WriteTree(os.Stdout, nil) // or f.WriteMermaid, f.WriteSVG, json.Marshal(f)
//
// Services of a choreography know events, not each other; nobody ever wrote the flow down. It is derived here: when a
// service states an event whose cause is another service's event, the second has reacted to the first. A consumer that
// reacts without stating anything (a read model, a mail) leaves no event: it appears when Build is given the groups.
//
// The topology is the same for a whole store: which services publish what, which groups want it, how fast, how far behind.
//
//	groups, err := flow.ReadGroups(ctx, store, b)
//	t, err := flow.Observe(ctx, store, groups, nil) // then t.WriteText, t.WriteMermaid, t.WriteSVG, json.Marshal(t)
//
// Times are those of recording, not the times at which the facts are said to have happened: a fact of last year may be
// published in a flow of today. Where several machines record, their clocks may disagree; a reaction that seems to come
// before its cause is shown as taking no time.
//
// Payloads never appear in any output, with two exceptions that are not about patients: from the platform's own events
// platform.key.parked and platform.key.skipped the group, the class of failure, the error text and the number of tries;
// from events about a step of a saga the names of saga and step, the number of tries and the class of failure.
//
// Everything but ReadGroups and Observe is a pure function of its arguments: the same records give the same bytes.
package flow
