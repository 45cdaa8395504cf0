package auth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

var (
	// ErrNoCredentials: the request brings none.
	ErrNoCredentials = errors.New("no credentials")
	// ErrBadCredentials: what it brings is not accepted. The text of the error says why, for the log, without the secret.
	ErrBadCredentials = errors.New("credentials are not accepted")
)

// Door admits principals by a policy. It is safe for concurrent use, and its policy may be exchanged while it is.
type Door struct {
	path   string
	policy atomic.Pointer[policy]
	looked atomic.Pointer[string] // the stamp of the files when they were read last
}

// Load reads a policy file. Errors are ErrPolicy, or those of reading.
func Load(path string) (*Door, error) {
	d := &Door{path: path}
	return d, d.Reload()
}

// Parse reads a policy from text. Files that it names are looked for in the working directory.
func Parse(text []byte) (*Door, error) {
	p, err := parse(text, "")
	if err != nil {
		return nil, err
	}
	d := &Door{}
	d.policy.Store(p)
	return d, nil
}

// Reload reads the policy file again. When it cannot be used, the policy before stays in force and the error says why.
// A Door from Parse has no file, and keeps its policy.
func (d *Door) Reload() error {
	if d.path == "" {
		return nil
	}
	// The stamp comes before the reading: what is written in between is read again by Watch.
	stamp := d.stamp()
	d.looked.Store(&stamp)
	text, err := os.ReadFile(d.path)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	p, err := parse(text, filepath.Dir(d.path))
	if err != nil {
		return fmt.Errorf("%s: %w", d.path, err)
	}
	if before := d.policy.Load(); before != nil {
		p.keep(before)
	}
	d.policy.Store(p)
	stamp = d.stampOf(stamp, p)
	d.looked.Store(&stamp)
	return nil
}

// Watch reloads the policy whenever its file, or a key file that it names, has changed since it was read, until ctx ends.
// The files are looked at every so often. told hears of each reload: nil, or why the policy before stays in force.
func (d *Door) Watch(ctx context.Context, every time.Duration, told func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if d.path != "" && d.stamp() != *d.looked.Load() {
			told(d.Reload())
		}
	}
}

// stamp changes when the policy file does, or a key file of the policy in force.
func (d *Door) stamp() string { return d.stampOf(stampOf(d.path), d.policy.Load()) }

// stampOf is the stamp for the key files of another policy, the policy file being as it was.
func (d *Door) stampOf(stamp string, p *policy) string {
	stamp, _, _ = strings.Cut(stamp, "\n")
	if p != nil {
		for _, path := range p.keyFiles {
			stamp += "\n" + stampOf(path)
		}
	}
	return stamp
}

func stampOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return "it is not there"
	}
	return fmt.Sprint(info.ModTime().UnixNano(), info.Size())
}

// Authenticate finds out who makes a request: by its bearer token, or else by its client certificate. The error is
// ErrNoCredentials or ErrBadCredentials.
func (d *Door) Authenticate(r *http.Request) (*Principal, error) {
	p := d.policy.Load()
	if p == nil {
		return nil, fmt.Errorf("%w: no policy is loaded", ErrBadCredentials)
	}
	switch lines := r.Header["Authorization"]; len(lines) {
	case 0:
		return p.byCertificate(r)
	case 1:
		scheme, token, ok := strings.Cut(lines[0], " ")
		if !ok || !strings.EqualFold(scheme, "Bearer") {
			return nil, fmt.Errorf("%w: the scheme is not Bearer", ErrBadCredentials)
		}
		return p.byToken(r.Context(), strings.TrimLeft(token, " "))
	}
	return nil, fmt.Errorf("%w: several Authorization headers", ErrBadCredentials)
}

// Named is the principal of that name in the policy in force, or nil.
func (d *Door) Named(name string) *Principal {
	p := d.policy.Load()
	if p == nil {
		return nil
	}
	return p.names[name]
}

// Names are the principals of the policy in force, sorted.
func (d *Door) Names() []string {
	p := d.policy.Load()
	if p == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(p.names))
}

// maxToken bounds what is looked at.
const maxToken = 16 << 10

func (p *policy) byToken(ctx context.Context, token string) (*Principal, error) {
	if token == "" || len(token) > maxToken {
		return nil, fmt.Errorf("%w: a token of %d bytes", ErrBadCredentials, len(token))
	}
	// The token is looked up by its hash, which who guesses cannot steer: the time that it takes tells nothing.
	if who := p.tokens[sha256.Sum256([]byte(token))]; who != nil {
		return who, nil
	}
	if strings.Count(token, ".") == 2 && len(p.issuers) > 0 {
		return p.byJWT(ctx, token)
	}
	return nil, fmt.Errorf("%w: the token is unknown", ErrBadCredentials)
}

func (p *policy) byCertificate(r *http.Request) (*Principal, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil, ErrNoCredentials
	}
	leaf := r.TLS.VerifiedChains[0][0]
	if time.Now().After(leaf.NotAfter) { // a connection may outlive the certificate that it was opened with
		return nil, fmt.Errorf("%w: the certificate has expired", ErrBadCredentials)
	}
	names := make([]string, 0, len(leaf.DNSNames)+len(leaf.URIs))
	for _, n := range leaf.DNSNames {
		names = append(names, strings.ToLower(n))
	}
	for _, u := range leaf.URIs {
		names = append(names, u.String()) // the path of a URI tells upper from lower case
	}
	var found *Principal
	for _, n := range names {
		who := p.certificates[n]
		if who == nil || who == found {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: the certificate names several principals", ErrBadCredentials)
		}
		found = who
	}
	if found == nil {
		return nil, fmt.Errorf("%w: nobody is named by the certificate", ErrBadCredentials)
	}
	return found, nil
}

// NewToken makes a bearer token of 256 random bits, and what the policy file says of it.
func NewToken() (token, hash string) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // it never fails
	token = "cb_" + base64.RawURLEncoding.EncodeToString(secret)
	sum := sha256.Sum256([]byte(token))
	return token, tokenHash + hex.EncodeToString(sum[:])
}
