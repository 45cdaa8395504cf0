//go:build unix

package postgres

import (
	"net"
	"testing"
)

// TestStale: the look at a connection sees what has come, and does not wait, though somebody reads from it.
func TestStale(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func() (client, server net.Conn) {
		client, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if server, err = l.Accept(); err != nil {
			t.Fatal(err)
		}
		return client, server
	}

	client, server := dial()
	if stale(client) {
		t.Error("a connection at rest is taken for one that has ended")
	}
	read := make(chan struct{})
	go func() { // as pgx does
		defer close(read)
		_, _ = client.Read(make([]byte, 1))
	}()
	for range 1000 {
		if stale(client) {
			t.Fatal("a connection at rest, with a reader, is taken for one that has ended")
		}
	}
	_ = server.Close()
	<-read
	if !stale(client) {
		t.Error("the end was not seen")
	}
	_ = client.Close()
	if !stale(client) {
		t.Error("a closed connection is taken for one at rest")
	}

	client, server = dial()
	defer client.Close()
	defer server.Close()
	if _, err := server.Write([]byte("bye")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3) // what has come is there for a look before anybody reads it
	for !stale(client) {
	}
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "bye" {
		t.Errorf("the look has taken what came: %q, %v", buf[:n], err)
	}
}
