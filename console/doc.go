// Package console is the web console of a carebus platform: every event, flow, failure and patient story in a browser.
//
//	c := console.New(ctx, platform, nil)
//	defer c.Close()
//	g, err := gateway.New(ctx, platform, &gateway.Options{Mount: c.Mounts()})
//	err = gateway.Serve(ctx, listener, g, nil) // the console is at /console/
//
// # How it works
//
// Pages are made on the server, from templates, and are complete without script. What they show they ask of the gateway, in
// the process, as the caller: whoever may not ask the API does not see it in the console either, and each page names the
// request, and the command, that gives the same answer. Everything is part of the program: nothing is loaded from elsewhere.
//
// # Deep links
//
// The address of a page holds all of its state: filters, versions, the place in a list. Lists go on by keys, not by
// counting; a page has 200 rows at most.
//
// # Protected values
//
// Protected values are masked wherever they could appear. Showing them wants a reason, and is recorded as
// platform.field.revealed before anything is shown.
//
// # Acts
//
// What changes something is a form with a reason, sent by POST, refused when another site sends it. Bulk acts are previewed
// with a frozen bound and run as jobs.
//
// # Who comes in
//
// With a policy the console asks for a bearer token once, and keeps it in this process's memory, behind a session cookie that
// no script can read. Each request is admitted anew, so that a token that was taken back ends the session. Without a policy
// everybody on this machine may do everything; requests under another host's name are refused then, so that a page of
// somebody else cannot be turned against the console by its name server.
package console
