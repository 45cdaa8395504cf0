package main

import (
	"crypto/tls"
	"os"
	"sync"
	"time"
)

// renewed is a certificate whose files may be replaced while the program runs.
type renewed struct {
	cert, key string

	mu      sync.Mutex
	looked  time.Time
	changed time.Time // of the files, when they were read
	pair    *tls.Certificate
}

// get returns the certificate, read anew when a file has changed; the files are looked at every ten seconds. While they
// cannot be read, as between the writing of one and the other, the former one stays.
func (r *renewed) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pair != nil && time.Since(r.looked) < 10*time.Second {
		return r.pair, nil
	}
	r.looked = time.Now()
	changed := latest(r.cert, r.key)
	if r.pair != nil && changed.Equal(r.changed) {
		return r.pair, nil
	}
	pair, err := tls.LoadX509KeyPair(r.cert, r.key)
	switch {
	case err == nil:
		r.pair, r.changed = &pair, changed
	case r.pair == nil:
		return nil, err
	}
	return r.pair, nil
}

// latest is when the newest of some files was changed.
func latest(names ...string) (t time.Time) {
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.ModTime().After(t) {
			t = info.ModTime()
		}
	}
	return t
}
