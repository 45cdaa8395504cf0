package projection

import "time"

// SetLease sets how long a build waits for a dead builder, for tests that kill builders.
func SetLease(d time.Duration) { lease = d }

// SetHold sets how long one transaction of a build may take; 0 makes it commit every chunk.
func SetHold(d time.Duration) { hold = d }
