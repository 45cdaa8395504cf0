//go:build !unix

package postgres

import "net"

// stale finds nothing here: a connection's death shows in the statement that meets it.
func stale(net.Conn) bool { return false }
