// Package drivertest is the suite that every engine of the event store passes, unchanged. An engine's own test says how
// to open it:
//
//	func TestConformance(t *testing.T) {
//		drivertest.Run(t, drivertest.Engine{Storage: …, Open: …})
//	}
//
// A failure names the rule of driver.Driver that is broken.
package drivertest
