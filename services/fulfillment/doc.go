// Package fulfillment is the medication saga service: it brings a prescription that is ready to the patient, across
// pharmacy and payer, and takes back what was done when something on the way fails.
//
//	verify → reserve stock → claim → wait for the payer → fill → tell the patient → wait for the pickup
//
// Undone in reverse: the fill goes back to stock, a paid claim is voided, a reservation is released. A medication that
// nobody picks up within the payer's window is such a failure.
//
// Every step and every compensation is an event, medication.fulfillment.*, and so is the end: .completed or .failed.
package fulfillment
