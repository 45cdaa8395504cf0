// Package patient is the patient service: the record of a patient as the fold of its events.
//
//	now, err := patient.Do(ctx, p, "P1", patient.ChangeAddress{Address: address, By: "portal"})
//	then, err := patient.Records.At(ctx, p, "P1", lastWeek)
//
// A command is looked at against the record as it is: what contradicts it is refused with a *RefusedError, what changes
// nothing publishes nothing, and what is published names only the members that changed. The record merges: a member that
// an event does not speak of keeps its value.
package patient
