package storetest

import (
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// Proxy forwards connections to a server and cuts them.
type Proxy struct {
	listener net.Listener
	server   string
	mu       sync.Mutex
	conns    map[net.Conn]bool
	lose     chan struct{} // not nil: the next answer that holds text is lost, and the channel closed
	text     string
	wg       sync.WaitGroup
}

// Through is an address, such as a postgres:// one, that leads to the same server over a proxy, which ends with the test.
func Through(t testing.TB, address string) (string, *Proxy) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{listener: l, server: u.Host, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		_ = l.Close()
		p.Cut(1, nil)
		p.wg.Wait()
	})
	u.Host = l.Addr().String()
	return u.String(), p
}

// Cut closes a share of the ends of connections, whatever is on the way. A share of 1 are all.
func (p *Proxy) Cut(share float64, rnd *rand.Rand) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if share == 1 || rnd.Float64() < share {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}
}

// LoseAnswer cuts the connection by which the server sends the next answer that holds text, in its place. The channel is
// closed then.
func (p *Proxy) LoseAnswer(text string) (lost <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lose, p.text = make(chan struct{}), text
	return p.lose
}

// answer passes on what the server sends, unless it is to be lost.
func (p *Proxy) answer(client, server net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := server.Read(b)
		p.mu.Lock()
		lose := p.lose != nil && strings.Contains(string(b[:n]), p.text)
		if lose {
			close(p.lose)
			p.lose = nil
		}
		p.mu.Unlock()
		if lose || err != nil {
			return
		}
		if _, err := client.Write(b[:n]); err != nil {
			return
		}
	}
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		for _, pair := range [][2]net.Conn{{client, server}, {server, client}} {
			p.wg.Go(func() {
				if pair[0] == client {
					p.answer(client, server)
				} else {
					_, _ = io.Copy(pair[0], pair[1])
				}
				for _, c := range pair {
					_ = c.Close()
				}
				p.mu.Lock()
				delete(p.conns, client)
				delete(p.conns, server)
				p.mu.Unlock()
			})
		}
	}
}
