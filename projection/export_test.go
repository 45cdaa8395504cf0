package projection

import "time"

// SetLease sets how long a build waits for a dead builder, for tests that kill builders.
func SetLease(d time.Duration) { lease = d }

// SmallSteps makes builds commit every chunk, and switch only when next to nothing is left to do; undo ends that.
func SmallSteps() (undo func()) {
	h, r := hold, residue
	hold, residue = 0, 1
	return func() { hold, residue = h, r }
}
