package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// ServeOptions of a server. The zero value works.
type ServeOptions struct {
	// TLS makes the server speak HTTPS. Nil is plain HTTP.
	TLS *tls.Config
	// Connections bounds how many are open at once; more wait to be accepted. Default 4096.
	Connections int
	// Drain is how long requests under way are waited for when ctx ends. Default 10 s.
	Drain time.Duration
	// Logger receives what goes wrong with connections. Default slog.Default().
	Logger *slog.Logger
}

// Serve answers requests on a listener until ctx ends, then lets those under way finish, and returns nil. Long ones (live
// streams, waiting fetches) are ended at once. It closes the listener and the gateway.
func Serve(ctx context.Context, l net.Listener, g *Gateway, o *ServeOptions) error {
	if o == nil {
		o = &ServeOptions{}
	}
	log := o.Logger
	if log == nil {
		log = slog.Default()
	}
	l = &limited{Listener: l, slots: make(chan struct{}, orElse(o.Connections, 4096)), done: make(chan struct{})}
	if o.TLS != nil {
		l = tls.NewListener(l, o.TLS)
	}
	s := &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return errors.Join(fmt.Errorf("gateway: serving %s: %w", l.Addr(), err), g.Close())
	case <-ctx.Done():
	}
	err := g.Close()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), orElse(o.Drain, 10*time.Second))
	defer cancel()
	if serr := s.Shutdown(drain); serr != nil {
		err = errors.Join(err, s.Close()) // who has not finished by now is cut
	}
	if serr := <-ended; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// ListenLocal reports whether a listener can be reached from this machine only.
func ListenLocal(a net.Addr) bool {
	at, err := netip.ParseAddrPort(a.String())
	return err == nil && at.Addr().Unmap().IsLoopback()
}

// limited accepts so many connections at once.
type limited struct {
	net.Listener
	slots chan struct{}
	once  sync.Once
	done  chan struct{}
}

// Accept waits for a slot, then for a connection.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &slotted{Conn: c, free: sync.OnceFunc(func() { <-l.slots })}, nil
}

// Close ends accepting.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type slotted struct {
	net.Conn
	free func()
}

// Close gives the slot back.
func (c *slotted) Close() error {
	err := c.Conn.Close()
	c.free()
	return err
}
