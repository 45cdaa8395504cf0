//go:build !unix || aix || solaris

package archive

// Without such locks it is for whoever runs it to run one at a time.
func lock(string) (unlock func() error, err error) { return func() error { return nil }, nil }
