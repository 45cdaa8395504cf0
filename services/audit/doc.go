// Package audit checks, from the store alone, that the services have done what they promise.
//
//	report, err := audit.Run(ctx, p, priorauth.SummaryView, priorauth.DetailView)
//	for _, c := range report.Checks { … }      // each rule, what it looked at, and what breaks it
//
// It knows no service's tables but the projections that it is given: it reads events, and folds them by its own arithmetic
// where that is what is in doubt. What is under way breaks no rule; Report.Outcomes counts it. It reads all events once and
// keeps some hundred bytes for every prescription, claim and request.
//
// Only what the reference services state is held to their rules: a fill that another system reports, such as one from a
// FHIR import, was verified and paid elsewhere.
package audit
