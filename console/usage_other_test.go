//go:build !unix

package console_test

// Elsewhere it is not known.
func usage() used { return used{} }
