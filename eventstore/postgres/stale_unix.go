//go:build unix

package postgres

import (
	"crypto/tls"
	"net"
	"syscall"
)

// stale reports whether an idle connection has something to read: the server's last word, or the end. The server speaks
// only when it is asked, but for notices of no interest here, so the next statement on such a connection would most likely
// fail for what happened before it. The look costs a system call, where a ping would double the time of a short read.
func stale(c net.Conn) bool {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	s, ok := c.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return true
	}
	readable := false
	// Not raw.Read: that waits for whoever is reading, and pgx may read in the background, without end, after a slow write.
	err = raw.Control(func(fd uintptr) {
		_, _, err := syscall.Recvfrom(int(fd), make([]byte, 1), syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		readable = err != syscall.EAGAIN && err != syscall.EWOULDBLOCK && err != syscall.EINTR
	})
	return err != nil || readable
}
