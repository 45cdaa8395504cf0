package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/carebus/carebus/auth"
)

// mint makes tokens with its keys, right ones and wrong ones.
type mint struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
	ed  ed25519.PrivateKey
}

func newMint(t testing.TB) *mint {
	t.Helper()
	m := &mint{}
	var err [3]error
	m.rsa, err[0] = rsa.GenerateKey(rand.Reader, 2048)
	m.ec, err[1] = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, m.ed, err[2] = ed25519.GenerateKey(rand.Reader)
	if e := errors.Join(err[:]...); e != nil {
		t.Fatal(e)
	}
	return m
}

func (m *mint) set(t testing.TB) []byte {
	t.Helper()
	text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: &m.rsa.PublicKey, KeyID: "r", Use: "sig"}, {Key: &m.ec.PublicKey, KeyID: "e", Use: "sig"}, {Key: m.ed.Public(), KeyID: "d"},
		{Key: []byte("a shared secret that must be of no use"), KeyID: "s"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (m *mint) sign(t testing.TB, alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := s.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	out, err := sig.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

const theIssuer = "https://login.example.org"

// claims are good ones, but for what changes say; a nil value takes a claim away.
func claims(changes ...any) map[string]any {
	c := map[string]any{"iss": theIssuer, "aud": "carebus", "sub": "pharmacy-client", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for i := 0; i+1 < len(changes); i += 2 {
		if c[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(c, changes[i].(string))
		}
	}
	return c
}

func doorOf(t testing.TB, m *mint) *auth.Door {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "keys.json"), m.set(t), 0o600); err != nil {
		t.Fatal(err)
	}
	_, hash := auth.NewToken()
	policy := fmt.Sprintf("issuers:\n  - {issuer: %s, audience: carebus, jwksFile: keys.json}\nprincipals:\n  - {name: pharmacy, subjects: [pharmacy-client], tokens: [%q]}\n", theIssuer, hash)
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := auth.Load(filepath.Join(dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// raw puts a token together from its parts, signed or not.
func raw(header, body string, signature []byte) string {
	enc := base64.RawURLEncoding
	return enc.EncodeToString([]byte(header)) + "." + enc.EncodeToString([]byte(body)) + "." + enc.EncodeToString(signature)
}

// TestTokens: good tokens are accepted; more than forty malformed, forged and stale ones are not.
func TestTokens(t *testing.T) {
	m, stranger := newMint(t), newMint(t)
	d := doorOf(t, m)
	for name, token := range map[string]string{
		"RS256":           m.sign(t, jose.RS256, m.rsa, claims()),
		"PS256":           m.sign(t, jose.PS256, m.rsa, claims()),
		"ES256":           m.sign(t, jose.ES256, m.ec, claims()),
		"EdDSA":           m.sign(t, jose.EdDSA, m.ed, claims()),
		"audience list":   m.sign(t, jose.ES256, m.ec, claims("aud", []string{"other", "carebus"})),
		"expired by 30 s": m.sign(t, jose.ES256, m.ec, claims("exp", time.Now().Add(-30*time.Second).Unix())),
		"from 30 s on":    m.sign(t, jose.ES256, m.ec, claims("nbf", time.Now().Add(30*time.Second).Unix())),
	} {
		for _, scheme := range []string{"Bearer ", "bearer ", "BEARER  "} {
			if p, err := d.Authenticate(bearer(scheme + token)); err != nil || p.Name != "pharmacy" {
				t.Errorf("%s: %v, %v", name, p, err)
			}
		}
	}

	good := m.sign(t, jose.ES256, m.ec, claims())
	parts := strings.Split(good, ".")
	body, err := json.Marshal(claims())
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&m.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hs := func(secret []byte, header string) string {
		unsigned := strings.TrimSuffix(raw(header, string(body), nil), ".")
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(unsigned))
		return unsigned + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	rsSigned := func(header, text string) string {
		unsigned := strings.TrimSuffix(raw(header, text, nil), ".")
		sum := sha256.Sum256([]byte(unsigned))
		sig, err := rsa.SignPKCS1v15(rand.Reader, stranger.rsa, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		return unsigned + "." + base64.RawURLEncoding.EncodeToString(sig)
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: &stranger.rsa.PublicKey, KeyID: "r"})
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty":                    "",
		"a word":                   "token",
		"a hash of the file":       "sha256:" + strings.Repeat("0", 64),
		"two dots":                 "..",
		"three dots":               good + ".x",
		"one part":                 parts[0],
		"two parts":                parts[0] + "." + parts[1],
		"no signature":             parts[0] + "." + parts[1] + ".",
		"no header":                "." + parts[1] + "." + parts[2],
		"no claims":                parts[0] + ".." + parts[2],
		"padding":                  good + "==",
		"white space inside":       parts[0] + ". " + parts[1] + "." + parts[2],
		"a tail":                   good + " x",
		"not base64":               "!!." + parts[1] + "." + parts[2],
		"claims not JSON":          raw(`{"alg":"ES256"}`, "x", []byte("y")),
		"claims a list":            raw(`{"alg":"ES256"}`, "[]", []byte("y")),
		"changed claims":           parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(body), "pharmacy-client", "operator-client", 1))) + "." + parts[2],
		"changed signature":        parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"a zero signature":         parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)),
		"a short signature":        parts[0] + "." + parts[1] + "." + parts[2][:10],
		"alg none":                 raw(`{"alg":"none"}`, string(body), nil),
		"alg None":                 raw(`{"alg":"None"}`, string(body), nil),
		"alg NONE, a signature":    raw(`{"alg":"NONE"}`, string(body), []byte("x")),
		"no alg":                   raw(`{}`, string(body), nil),
		"alg a number":             raw(`{"alg":1}`, string(body), []byte("x")),
		"HS256 with a public key":  hs(der, `{"alg":"HS256"}`),
		"HS256 with the PEM":       hs(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), `{"alg":"HS256"}`),
		"HS256 with the set's":     hs([]byte("a shared secret that must be of no use"), `{"alg":"HS256","kid":"s"}`),
		"HS256 with nothing":       hs(nil, `{"alg":"HS256"}`),
		"a stranger's key":         m.sign(t, jose.RS256, stranger.rsa, claims()),
		"a stranger's curve":       m.sign(t, jose.ES256, stranger.ec, claims()),
		"a key of its own in jwk":  rsSigned(`{"alg":"RS256","jwk":`+string(jwk)+`}`, string(body)),
		"a key by jku":             rsSigned(`{"alg":"RS256","jku":"https://evil.example.org/keys"}`, string(body)),
		"a key by x5u":             rsSigned(`{"alg":"RS256","x5u":"https://evil.example.org/cert"}`, string(body)),
		"kid of the set":           rsSigned(`{"alg":"RS256","kid":"r"}`, string(body)),
		"kid a path":               rsSigned(`{"alg":"RS256","kid":"../../../../dev/null"}`, string(body)),
		"kid SQL":                  rsSigned(`{"alg":"RS256","kid":"' OR 1=1 --"}`, string(body)),
		"crit":                     rsSigned(`{"alg":"RS256","crit":["b64"],"b64":false}`, string(body)),
		"another audience":         m.sign(t, jose.ES256, m.ec, claims("aud", "other")),
		"no audience":              m.sign(t, jose.ES256, m.ec, claims("aud", nil)),
		"another issuer":           m.sign(t, jose.ES256, m.ec, claims("iss", "https://evil.example.org")),
		"issuer with a slash":      m.sign(t, jose.ES256, m.ec, claims("iss", theIssuer+"/")),
		"no issuer":                m.sign(t, jose.ES256, m.ec, claims("iss", nil)),
		"issuer a list":            m.sign(t, jose.ES256, m.ec, claims("iss", []string{theIssuer})),
		"expired":                  m.sign(t, jose.ES256, m.ec, claims("exp", time.Now().Add(-2*time.Minute).Unix())),
		"no expiry":                m.sign(t, jose.ES256, m.ec, claims("exp", nil)),
		"expiry a word":            m.sign(t, jose.ES256, m.ec, claims("exp", "never")),
		"not yet":                  m.sign(t, jose.ES256, m.ec, claims("nbf", time.Now().Add(time.Hour).Unix())),
		"not yet by two minutes":   m.sign(t, jose.ES256, m.ec, claims("nbf", time.Now().Add(2*time.Minute).Unix())),
		"a subject unknown":        m.sign(t, jose.ES256, m.ec, claims("sub", "somebody")),
		"no subject":               m.sign(t, jose.ES256, m.ec, claims("sub", nil)),
		"subject a list":           m.sign(t, jose.ES256, m.ec, claims("sub", []string{"pharmacy-client"})),
		"subject in another case":  m.sign(t, jose.ES256, m.ec, claims("sub", "Pharmacy-Client")),
		"subject with a zero byte": m.sign(t, jose.ES256, m.ec, claims("sub", "pharmacy-client\x00")),
		"huge":                     strings.Repeat("A", 1<<20),
		"huge claims":              m.sign(t, jose.ES256, m.ec, claims("x", strings.Repeat("A", 20<<10))),
		"JSON serialisation":       `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`,
		"encrypted, five parts":    "a.b.c.d.e",
	}
	if len(bad) < 40 {
		t.Errorf("only %d bad tokens", len(bad))
	}
	for name, token := range bad {
		p, err := d.Authenticate(bearer("Bearer " + token))
		if p != nil || !errors.Is(err, auth.ErrBadCredentials) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
		if err != nil && len(token) > 20 && strings.Contains(err.Error(), token[len(token)-20:]) {
			t.Errorf("%s: the error has the token in it: %v", name, err)
		}
	}
	for name, lines := range map[string][]string{
		"no scheme": {good}, "Basic": {"Basic " + good}, "twice": {"Bearer " + good, "Bearer " + good}, "no token": {"Bearer"}, "comma": {"Bearer " + good + ", Bearer " + good},
		"tab": {"Bearer\t" + good}, "empty line": {""},
	} {
		if p, err := d.Authenticate(bearer(lines...)); p != nil || !errors.Is(err, auth.ErrBadCredentials) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
}

// TestRemoteKeys: an issuer's keys are fetched when they are needed, made-up tokens do not make us fetch again and again, and
// a fetch that fails leaves the keys that are known.
func TestRemoteKeys(t *testing.T) {
	m, stranger := newMint(t), newMint(t)
	var fetches atomic.Int32
	keys := m.set(t)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		_, _ = w.Write(keys)
	}))
	defer s.Close()
	d, err := auth.Parse(fmt.Appendf(nil, "issuers:\n  - {issuer: %s, audience: carebus, jwksURL: %q, claim: azp}\nprincipals:\n  - {name: pharmacy, subjects: [client]}\n", theIssuer, s.URL))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if p, err := d.Authenticate(bearer("Bearer " + m.sign(t, jose.ES256, m.ec, claims("azp", "client")))); err != nil || p.Name != "pharmacy" {
			t.Fatal(p, err)
		}
	}
	for range 20 {
		if _, err := d.Authenticate(bearer("Bearer " + m.sign(t, jose.ES256, stranger.ec, claims("azp", "client")))); !errors.Is(err, auth.ErrBadCredentials) {
			t.Fatal(err)
		}
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("%d fetches", n)
	}
	http.DefaultClient.CloseIdleConnections()
}

func FuzzToken(f *testing.F) {
	m := newMint(f)
	d := doorOf(f, m)
	good := m.sign(f, jose.ES256, m.ec, claims())
	f.Add("Bearer " + good)
	f.Add("Bearer " + raw(`{"alg":"none"}`, `{"iss":"https://login.example.org"}`, nil))
	f.Fuzz(func(t *testing.T, line string) {
		p, err := d.Authenticate(bearer(line))
		if err == nil && !strings.Contains(line, good) {
			// A signature of ours on another text would be a break.
			t.Errorf("%q is accepted as %s", line, p.Name)
		}
	})
}
