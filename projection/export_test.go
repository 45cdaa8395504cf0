package projection

import "time"

// SetLease sets how long a build waits for a dead builder, for tests that kill builders.
func SetLease(d time.Duration) { lease = d }
