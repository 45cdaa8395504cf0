// Package carebustest helps to test services: a platform that lives as long as a test, a way to wait until everything was
// handled that needs no sleep, and stories of entities.
//
//	p := carebustest.Open(t)
//	check(orders.Join(p))
//	carebustest.Run(t, p)
//	p.Publish(ctx, …)
//	carebustest.Settle(t, p)    // all groups have handled everything, and what followed from it
//
//	carebustest.Given(t, orders.Orders, placed).
//		When(orders.Cancel("changed my mind")).
//		Then(cancelled)
//
// The platform is the real one, on a store in a temporary folder: what a test has seen holds elsewhere.
package carebustest
