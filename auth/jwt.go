package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// algorithms are those by which a token may be signed: no shared secrets, and never none.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

// leeway is how far clocks may differ.
const leeway = time.Minute

// issuer signs tokens that are accepted.
type issuer struct {
	claim    string
	verifier *oidc.IDTokenVerifier
}

func newIssuer(e issuerEntry, dir string) (*issuer, error) {
	if e.Issuer == "" || e.Audience == "" {
		return nil, errors.New("give issuer and audience")
	}
	if (e.KeysURL == "") == (e.KeysFile == "") {
		return nil, errors.New("give jwksURL or jwksFile, one of them")
	}
	var keys oidc.KeySet
	if e.KeysFile != "" {
		text, err := os.ReadFile(inDir(dir, e.KeysFile))
		if err != nil {
			return nil, fmt.Errorf("jwksFile: %w", err)
		}
		public, err := publicKeys(text)
		if err != nil {
			return nil, fmt.Errorf("jwksFile: %w", err)
		}
		keys = &oidc.StaticKeySet{PublicKeys: public}
	} else {
		u, err := url.Parse(e.KeysURL)
		if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
			return nil, errors.New("jwksURL: give an https address")
		}
		keys = &remoteKeys{url: e.KeysURL}
	}
	if e.Claim == "" {
		e.Claim = "sub"
	}
	return &issuer{claim: e.Claim, verifier: oidc.NewVerifier(e.Issuer, keys, &oidc.Config{
		ClientID: e.Audience, SupportedSigningAlgs: algorithms,
		Now: func() time.Time { return time.Now().Add(-leeway) }, // a token's begin has a leeway of the library's own
	})}, nil
}

// inDir is the path of a file that another file in dir names.
func inDir(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func loopback(host string) bool { return host == "localhost" || host == "127.0.0.1" || host == "::1" }

// byJWT finds the principal that a signed token names.
func (p *policy) byJWT(ctx context.Context, token string) (*Principal, error) {
	// The issuer says which keys to look at. Nothing that the token says is believed before the signature has been checked.
	_, rest, _ := strings.Cut(token, ".")
	body, _, _ := strings.Cut(rest, ".")
	text, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("%w: the token is not a JWT", ErrBadCredentials)
	}
	var head struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(text, &head) != nil {
		return nil, fmt.Errorf("%w: the token is not a JWT", ErrBadCredentials)
	}
	is := p.issuers[head.Issuer]
	if is == nil {
		return nil, fmt.Errorf("%w: the token's issuer is unknown", ErrBadCredentials)
	}
	id, err := is.verifier.Verify(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrBadCredentials, err.Error())
	}
	var claims map[string]any
	if err := id.Claims(&claims); err != nil {
		return nil, fmt.Errorf("%w: the claims cannot be read", ErrBadCredentials)
	}
	if begin, ok := claims["nbf"].(float64); ok && begin > float64(time.Now().Add(leeway).Unix()) { // the library's leeway is larger
		return nil, fmt.Errorf("%w: the token is not valid yet", ErrBadCredentials)
	}
	name, _ := claims[is.claim].(string)
	if who := p.subjects[name]; name != "" && who != nil {
		return who, nil
	}
	return nil, fmt.Errorf("%w: the claim %s names nobody in the policy", ErrBadCredentials, is.claim)
}

// publicKeys reads a JSON Web Key Set and keeps what can check signatures.
func publicKeys(text []byte) ([]crypto.PublicKey, error) {
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, errors.New("it is no JSON Web Key Set")
	}
	var out []crypto.PublicKey
	for _, k := range set.Keys {
		if k.Use != "" && k.Use != "sig" || !k.Valid() {
			continue
		}
		switch key := k.Key.(type) {
		case *rsa.PublicKey:
			if key.N.BitLen() < 2048 {
				return nil, errors.New("an RSA key has less than 2048 bits")
			}
			out = append(out, key)
		case *ecdsa.PublicKey:
			out = append(out, key)
		case ed25519.PublicKey:
			out = append(out, key)
		}
	}
	if len(out) == 0 {
		return nil, errors.New("there is no public signing key in it")
	}
	return out, nil
}

// remoteKeys are an issuer's keys at a URL. They are fetched when a signature fits none of those that are known, which is how
// a new key shows, but not more often than every ten seconds: made-up tokens must not make us fetch.
type remoteKeys struct {
	url   string
	known atomic.Pointer[fetched]
	mu    sync.Mutex // held while fetching; who knows the key does not wait
}

type fetched struct {
	keys oidc.StaticKeySet
	at   time.Time
}

const keysPause = 10 * time.Second

// keysClient follows no redirects: keys come from the address that the policy names, and never over plain http.
var keysClient = &http.Client{Timeout: 10 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}

// VerifySignature checks a token's signature and returns its claims.
func (k *remoteKeys) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	if known := k.known.Load(); known != nil {
		claims, err := known.keys.VerifySignature(ctx, token)
		if err == nil || time.Since(known.at) <= keysPause {
			return claims, err
		}
	}
	if ferr := k.fetch(ctx); ferr != nil {
		return nil, ferr
	}
	return k.known.Load().keys.VerifySignature(ctx, token)
}

func (k *remoteKeys) fetch(ctx context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.known.Load()
	if known != nil && time.Since(known.at) <= keysPause { // somebody else has fetched meanwhile
		return nil
	}
	public, err := k.get(context.WithoutCancel(ctx))
	if err != nil && known == nil {
		k.known.Store(&fetched{at: time.Now()}) // the next try is not at once
		return err
	}
	if err != nil {
		public = known.keys.PublicKeys
	}
	k.known.Store(&fetched{oidc.StaticKeySet{PublicKeys: public}, time.Now()})
	return nil
}

func (k *remoteKeys) get(ctx context.Context) ([]crypto.PublicKey, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url, nil)
	if err != nil {
		return nil, err
	}
	res, err := keysClient.Do(req)
	if err != nil {
		return nil, errors.New("the issuer's keys cannot be fetched")
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil || res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the issuer's keys cannot be fetched: status %d", res.StatusCode)
	}
	return publicKeys(text)
}
