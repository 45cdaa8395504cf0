package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// writePair makes a certificate of its own and writes what is asked for of it.
func writePair(t *testing.T, serial int64, certFile, keyFile string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if name == "" {
			continue
		}
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		stamp := time.Unix(1_900_000_000+serial*100, 0) // whatever the clock's steps are
		if err := os.Chtimes(name, stamp, stamp); err != nil {
			t.Fatal(err)
		}
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// TestCertificateIsRenewed: new files count without a restart, ten seconds later; while only one of the two is there, or what
// is there cannot be read, the former pair stays.
func TestCertificateIsRenewed(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	synctest.Test(t, func(t *testing.T) {
		writePair(t, 1, cert, key)
		f := serveFlags{cert: cert, key: key}
		config, err := f.tls()
		if err != nil {
			t.Fatal(err)
		}
		shown := func() int64 {
			t.Helper()
			pair, err := config.GetCertificate(nil)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := x509.ParseCertificate(pair.Certificate[0])
			if err != nil {
				t.Fatal(err)
			}
			return leaf.SerialNumber.Int64()
		}
		for i, c := range []struct {
			change func()
			want   int64
		}{
			{func() {}, 1},
			{func() { writePair(t, 2, cert, key) }, 2},
			{func() { writePair(t, 3, cert, "") }, 2}, // its key is not there yet
			{func() { writePair(t, 4, cert, key) }, 4},
			{func() {
				if err := os.WriteFile(cert, []byte("not a certificate"), 0o600); err != nil {
					t.Fatal(err)
				}
			}, 4},
			{func() {
				if err := os.Remove(key); err != nil {
					t.Fatal(err)
				}
			}, 4},
			{func() { writePair(t, 7, cert, key) }, 7},
		} {
			before := shown()
			c.change()
			if got := shown(); got != before {
				t.Errorf("change %d: %d at once, the files are looked at every ten seconds", i, got)
			}
			time.Sleep(11 * time.Second)
			if got := shown(); got != c.want {
				t.Errorf("change %d: %d, want %d", i, got, c.want)
			}
		}
	})
}

// TestRenewedCertificateIsServed: a handshake after the renewal shows the new certificate.
func TestRenewedCertificateIsServed(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server.key")
	writePair(t, 1, cert, key)
	pair := &renewed{cert: cert, key: key}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.get})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.(*tls.Conn).Handshake()
			c.Close()
		}
	}()
	serial := func() int64 {
		t.Helper()
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // the certificate is looked at below
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	if got := serial(); got != 1 {
		t.Errorf("%d", got)
	}
	writePair(t, 2, cert, key)
	pair.mu.Lock()
	pair.looked = time.Time{} // ten seconds later
	pair.mu.Unlock()
	if got := serial(); got != 2 {
		t.Errorf("%d after the renewal", got)
	}
	l.Close()
	<-ended
}
