// Package projection keeps read models: tables that handlers write from events, exactly once, that are rebuilt beside
// the live ones, and that are never seen half done.
//
//	var summary = projection.Define("prior-auth-summary", 1,
//	    projection.Tables(`CREATE TABLE {prior_auth_summary} (id TEXT PRIMARY KEY, status TEXT NOT NULL)`),
//	    projection.On(priorauth.StatusApprovedV1,
//	        func(ctx context.Context, tx projection.Tx, e event.Of[priorauth.StatusApproved]) error {
//	            _, err := tx.Exec(`UPDATE {prior_auth_summary} SET status = 'approved' WHERE id = $1`, e.Payload.PriorAuthID)
//	            return err
//	        }))
//
//	err = projection.Register(ctx, p, summary)
//	err = p.Run(ctx)
//
// # Tables, generations and views
//
// Texts name tables in braces. Behind {prior_auth_summary} is the table of one generation, prior_auth_summary_g3 say;
// readers read the view prior_auth_summary, which shows the live generation. Names of indexes are put in braces too:
// generations live beside each other for a while. The SQL is what SQLite and PostgreSQL share, placeholders are $1, $2, …
//
// # Live application
//
// A projection is a group of the bus with its name: leases, retries, parked keys and redrive are the bus's. The rows that
// a handler writes commit together with the checkpoint: exactly once. What has been applied is not applied again by a
// replay of the group ([bus.Bus.Replay]). Do not seek or replay a projection's group all the same: seeking applies events
// twice or never, and both forget parked keys in their range. [Rebuild] is the way to begin anew, and mends such tables.
//
// # Rebuild
//
// [Rebuild] fills a new generation from the log while the live one goes on. Its last step is one transaction that brings
// it to exactly the group's checkpoints, points the views to it and drops the old one, so a reader sees one or the other,
// and neither goes back. Events that wait behind a parked key are left out, because draining the key applies them later;
// events that were skipped or discarded stay so; corrected payloads are used. The handlers see [Tx.Rebuilding].
//
// A build survives its process: it goes on where it was when the same program comes back, and begins anew under another
// program, whose handlers may differ.
//
// # Versions
//
// When the stored version is lower than the definition's, [Register] builds the new version and returns when it has taken
// over. Meanwhile processes of the old version keep the old tables up to date; afterwards they apply nothing, and the
// partitions that they hold wait until they end. A definition of a lower version is refused.
//
// # Reading what was written
//
// [Wait] returns when the tables contain the effects of what a receipt stands for.
package projection
