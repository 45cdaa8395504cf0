// Package carebustest helps to test services: a platform that lives as long as a test, a way to wait until everything was
// handled that needs no sleep, stories of entities, a clock that is moved by hand, and faults.
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
// A service, a saga or a read model is tested by what it states when something happens:
//
//	news := carebustest.When(t, p, prescribed)
//	asked := carebustest.Then(t, news, priorauth.RequestSubmittedV1)
//
// Deadlines, reminders and sagas that wait for days are tested in moments:
//
//	p, clock := carebustest.OpenAt(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
//	…
//	clock.Advance(72 * time.Hour)  // timers fire on the way, each at its time, and what follows is settled
//
// and a service is shown to do everything once, whatever fails:
//
//	err := orders.Join(p, carebustest.Faults(1, 0.2))
//
// The platform is the real one, on a store in a temporary folder: what a test has seen holds elsewhere.
package carebustest
