//go:build !unix || aix || solaris

package sqlite

import "os"

// Without such locks processes compete for SQLite's own, which is correct but not fair.
func tryLock(*os.File) (bool, error) { return true, nil }

func unlock(*os.File) {}
