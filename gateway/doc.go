// Package gateway is the HTTP door of a carebus platform: everything that services not written in Go, people's tools and
// neighbouring systems need, through the conventions that they use already.
//
//	g, err := gateway.New(ctx, platform, nil)
//	defer g.Close()
//	go platform.Run(ctx)
//	err = gateway.Serve(ctx, listener, g, log)
//
// # What it speaks
//
// Events are published, searched and followed as JSON envelopes or CloudEvents 1.0 (structured, batch and binary mode).
// Errors are problem documents (RFC 9457) with a finding per thing that is wrong. The API describes itself in OpenAPI 3.1
// at /openapi.json, which is made from the code, and is documented at /docs without anything from another host.
//
// # Guarantees
//
// A published event that was acknowledged is on stable storage; publishing it again is answered as the first time.
// A batch is stored as a whole or not at all, unless the caller asks otherwise. A live stream that is cut goes on where it
// was, without a gap or a repetition, when the client sends back the last id that it has seen. A consumer over HTTP gets
// each event at least once, in order per key, under the retry and dead-letter rules of handlers in Go.
//
// # Limits
//
// Bodies, headers, the events of a batch, the time that a client may take, the connections and the memory of requests
// under way are bounded; beyond it the answer is 413, 408, 429 with Retry-After, or 431. Nothing that a client sends makes
// it answer with a 5xx: those stand for the store being unavailable (503) or full (507).
package gateway
