//go:build unix

package postgres

import (
	"net"
	"runtime"
	"strings"
	"testing"
)

// TestStaleWhileRead looks at an idle connection that somebody reads: pgx does after a write that was slow, and goes on
// when the connection is given back.
func TestStaleWhileRead(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	read := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		read <- err
	}()
	stacks := make([]byte, 1<<20)
	for !strings.Contains(string(stacks[:runtime.Stack(stacks, true)]), "poll.runtime_pollWait") { // it waits, with the turn to read
		runtime.Gosched()
	}
	if stale(c) {
		t.Error("a connection that has nothing to read is taken for stale")
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	<-read
	if !stale(c) {
		t.Error("a connection whose server has gone is not taken for stale")
	}
}
