//go:build unix

package postgres

import (
	"net"
	"testing"
)

// TestStale: a connection that rests is told from one that the other side has ended, also while somebody waits to read from
// it, as pgx does after a write that took long.
func TestStale(t *testing.T) {
	for _, reading := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		begun, read := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(read)
			if close(begun); reading {
				_, _ = c.Read(make([]byte, 1))
			}
		}()
		<-begun
		for range 1000 { // some of which find the reader waiting
			if stale(c) {
				t.Fatal("a connection that rests is said to be stale")
			}
		}
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		<-read
		for !stale(c) { // the end has been sent; it is on its way
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if !stale(c) {
			t.Error("a connection that is closed here is not stale")
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
