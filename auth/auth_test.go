package auth_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// grant is a cell's expectation, kept apart from the policy's own way of saying it: for each principal and verb, the types.
var matrix = map[string]map[auth.Verb][]string{
	"pharmacy":   {auth.Publish: {"medication.prescription.filled", "medication.prescription.returned"}, auth.Subscribe: {"medication.prescription.filled", "medication.prescription.returned", "medication.inventory.reserved", "medication.prescription.created"}, auth.Read: {"patient.enrolled"}},
	"payer":      {auth.Publish: {"payment.claim.paid"}, auth.Subscribe: {"payment.claim.paid", "priorauth.request.submitted"}},
	"operator":   {auth.Operate: {"medication.prescription.filled", "medication.prescription.returned", "medication.inventory.reserved", "medication.prescription.created", "payment.claim.paid", "patient.enrolled", "priorauth.request.submitted", "patient.record.created"}, auth.Read: {"medication.prescription.filled", "medication.prescription.returned", "medication.inventory.reserved", "medication.prescription.created", "payment.claim.paid", "patient.enrolled", "priorauth.request.submitted", "patient.record.created"}},
	"auditor":    {auth.Read: {"platform.access.denied", "platform.key.parked"}},
	"registrar":  {auth.Register: {"patient.enrolled", "patient.record.created"}},
	"everything": {},
	"nothing":    {},
	"reader":     {auth.Read: {"medication.prescription.filled", "medication.prescription.returned", "medication.prescription.created"}},
	"one":        {auth.Publish: {"patient.record.created"}, auth.Subscribe: {"patient.record.created"}},
	"middle":     {auth.Subscribe: {"medication.inventory.reserved", "medication.prescription.filled"}},
}

const policyText = `
roles:
  operator:
    operate: ["**"]
    read: ["*"]
principals:
  - {name: pharmacy, tokens: [T0], publish: [medication.prescription.filled, medication.prescription.returned], subscribe: ["medication.**"], read: ["patient.*"]}
  - {name: payer, tokens: [T1], publish: ["payment.claim.*"], subscribe: ["payment.**", priorauth.request.submitted]}
  - {name: operator, tokens: [T2], roles: [operator]}
  - {name: auditor, tokens: [T3], read: ["platform.**"]}
  - {name: registrar, tokens: [T4], register: ["patient.**"]}
  - {name: everything, tokens: [T5], publish: ["**"], subscribe: ["**", "platform.**"], read: ["**", "platform.**"], operate: ["**", "platform.**"], register: ["**"]}
  - {name: nothing, tokens: [T6]}
  - {name: reader, tokens: [T7], read: ["medication.prescription.*"]}
  - {name: one, tokens: [T8], publish: [patient.record.created], subscribe: [patient.record.created]}
  - {name: middle, tokens: [T9], subscribe: ["medication.*.reserved", "*.prescription.filled"]}
`

var matrixTypes = []string{
	"medication.prescription.filled", "medication.prescription.returned", "medication.inventory.reserved", "medication.prescription.created", "payment.claim.paid",
	"patient.enrolled", "priorauth.request.submitted", "patient.record.created", "platform.access.denied", "platform.key.parked",
}

// matrixDoor has the policy, with a token for each of its principals.
func matrixDoor(t testing.TB) (*auth.Door, []string) {
	t.Helper()
	text := policyText
	tokens := make([]string, 10)
	for i := range tokens {
		var hash string
		tokens[i], hash = auth.NewToken()
		text = strings.Replace(text, fmt.Sprintf("[T%d]", i), `["`+hash+`"]`, 1)
	}
	d, err := auth.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return d, tokens
}

func bearer(values ...string) *http.Request {
	return &http.Request{Header: http.Header{"Authorization": values}, URL: &url.URL{Path: "/"}}
}

// TestMatrix: 500 cells of principal, verb and type, through tokens, against expectations that were written out by hand.
func TestMatrix(t *testing.T) {
	d, tokens := matrixDoor(t)
	names := []string{"pharmacy", "payer", "operator", "auditor", "registrar", "everything", "nothing", "reader", "one", "middle"}
	cells := 0
	for i, name := range names {
		p, err := d.Authenticate(bearer("Bearer " + tokens[i]))
		if err != nil || p.Name != name {
			t.Fatalf("%s: %v %v", name, p, err)
		}
		for _, v := range auth.Verbs() {
			some := false
			for _, eventType := range matrixTypes {
				want := slices.Contains(matrix[name][v], eventType)
				if name == "everything" {
					want = !strings.HasPrefix(eventType, "platform.") || v != auth.Publish && v != auth.Register
				}
				if got := p.May(v, eventType); got != want {
					t.Errorf("%s may %s %s: %v, want %v", name, v, eventType, got, want)
				}
				if got := p.MayAll(v, eventType); got != want { // a type is a pattern of one
					t.Errorf("%s may %s all of %s: %v, want %v", name, v, eventType, got, want)
				}
				some = some || want
				cells++
			}
			if some != p.MaySome(v) {
				t.Errorf("%s may %s something: %v", name, v, p.MaySome(v))
			}
		}
	}
	if cells != 500 {
		t.Errorf("%d cells", cells)
	}
}

// TestMayAllIsSound: who may do something with all that a pattern fits may do it with each.
func TestMayAllIsSound(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b", "platform", "*", "**"})
	pattern := rapid.Custom(func(t *rapid.T) string { return strings.Join(rapid.SliceOfN(part, 1, 4).Draw(t, "parts"), ".") })
	eventType := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "platform"}), 2, 4).Draw(t, "type"), ".")
	})
	rapid.Check(t, func(t *rapid.T) {
		grant, asked, of := pattern.Draw(t, "grant"), pattern.Draw(t, "asked"), eventType.Draw(t, "of")
		if bus.CheckPattern(grant) != nil || bus.CheckPattern(asked) != nil {
			return
		}
		_, hash := auth.NewToken()
		token, hash2 := auth.NewToken()
		d, err := auth.Parse(fmt.Appendf(nil, "principals:\n  - {name: p, tokens: [%q, %q], read: [%q]}\n", hash, hash2, grant))
		if err != nil {
			t.Fatal(err)
		}
		p, err := d.Authenticate(bearer("bearer " + token)) // the scheme in any case
		if err != nil {
			t.Fatal(err)
		}
		if p.MayAll(auth.Read, asked) && bus.Matches(asked, of) && !p.May(auth.Read, of) {
			t.Fatalf("with %q: all of %q, but not %q", grant, asked, of)
		}
		if !p.MayAll(auth.Read, grant) {
			t.Fatalf("%q does not cover itself", grant)
		}
	})
}

func TestPolicyIsRefused(t *testing.T) {
	_, hash := auth.NewToken()
	for _, c := range []struct{ text, want string }{
		{"principals: [{name: a}]", "nobody could be it"},
		{"principals: [{name: a, tokens: [secret]}]", "never the token itself"},
		{"principals: [{name: a, tokens: ['sha256:00']}]", "64 hexadecimal digits"},
		{"principals: [{name: '', tokens: ['" + hash + "']}]", "give it a name"},
		{"principals: [{name: a, tokens: ['" + hash + "'], write: ['**']}]", "field write not found"},
		{"principals: [{name: a, tokens: ['" + hash + "'], read: ['a.**.b']}]", "must be the last part"},
		{"principals: [{name: a, tokens: ['" + hash + "'], roles: [x]}]", `no role "x"`},
		{"principals: [{name: a, tokens: ['" + hash + "']}, {name: a, tokens: ['" + hash + "']}]", "twice"},
		{"principals: [{name: a, tokens: ['" + hash + "']}, {name: b, tokens: ['" + hash + "']}]", `"a"'s already`},
		{"principals: [{name: a, subjects: [x]}]", "need an issuer"},
		{"principals: [{name: a, certificates: ['']}]", "empty"},
		{"principals: [{name: a, tokens: ['" + hash + "'], rate: {perSecond: 0}}]", "perSecond"},
		{"roles: {r: {read: ['']}}", `role "r"`},
		{"issuers: [{issuer: x}]", "audience"},
		{"issuers: [{issuer: x, audience: y}]", "one of them"},
		{"issuers: [{issuer: x, audience: y, jwksURL: 'http://keys.example.org/'}]", "https"},
		{"issuers: [{issuer: x, audience: y, jwksFile: nowhere.json}]", "jwksFile"},
		{"principals: []\n---\nprincipals: []", "more than one document"},
		{"principals: [", "line"},
	} {
		if _, err := auth.Parse([]byte(c.text)); !errors.Is(err, auth.ErrPolicy) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.text, err, c.want)
		}
	}
	d, err := auth.Parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Authenticate(bearer("Bearer x")); !errors.Is(err, auth.ErrBadCredentials) {
		t.Errorf("an empty policy: %v", err)
	}
}

// TestReload: a changed file counts, a broken one does not, and the rate that was used up stays used up.
func TestReload(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	token, hash := auth.NewToken()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf("principals:\n  - {name: p, tokens: [%q], read: [a.b], rate: {perSecond: 0.001, burst: 2}}\n", hash))
	d, err := auth.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	who := func() *auth.Principal {
		t.Helper()
		p, err := d.Authenticate(bearer("Bearer " + token))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if p := who(); !p.Allow(2) || p.Allow(1) {
		t.Error("the rate is not the file's")
	}
	write("principals: [")
	if err := d.Reload(); !errors.Is(err, auth.ErrPolicy) || !who().May(auth.Read, "a.b") {
		t.Errorf("a broken file: %v", err)
	}
	write(fmt.Sprintf("principals:\n  - {name: p, tokens: [%q], read: [a.c], rate: {perSecond: 0.001, burst: 2}}\n", hash))
	ctx := t.Context()
	told := make(chan error, 10)
	done := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	go func() { defer close(done); d.Watch(watching, time.Millisecond, func(err error) { told <- err }) }()
	write(fmt.Sprintf("principals:\n  - {name: p, tokens: [%q], read: [a.c, d.e], rate: {perSecond: 0.001, burst: 2}}\n", hash))
	if err := d.Reload(); err != nil {
		t.Error(err)
	}
	if p := who(); p.May(auth.Read, "a.b") || !p.May(auth.Read, "d.e") || p.Allow(1) {
		t.Error("the new file does not count, or the rate began anew")
	}
	write("")
	for err := range told { // what was written while the watch began may be told too
		if _, aerr := d.Authenticate(bearer("Bearer " + token)); aerr != nil {
			break
		}
		if err != nil {
			t.Error(err)
		}
	}
	stop()
	<-done
}

// TestKeyFileIsWatched: new keys of an issuer count without a restart, and the policy file need not be touched for it.
func TestKeyFileIsWatched(t *testing.T) {
	dir := t.TempDir()
	before, after := newMint(t), newMint(t)
	write := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("keys.json", before.set(t))
	write("policy.yaml", fmt.Appendf(nil, "issuers:\n  - {issuer: %s, audience: carebus, jwksFile: keys.json}\nprincipals:\n  - {name: pharmacy, subjects: [pharmacy-client]}\n", theIssuer))
	d, err := auth.Load(filepath.Join(dir, "policy.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(t.Context())
	told := make(chan error, 100)
	done := make(chan struct{})
	go func() { defer close(done); d.Watch(watching, time.Millisecond, func(err error) { told <- err }) }()
	token := after.sign(t, jose.ES256, after.ec, claims())
	if _, err := d.Authenticate(bearer("Bearer " + token)); !errors.Is(err, auth.ErrBadCredentials) {
		t.Errorf("before: %v", err)
	}
	write("keys.json", after.set(t))
	for err := range told {
		if err != nil { // it was looked at while it was being written
			continue
		}
		if _, err := d.Authenticate(bearer("Bearer " + token)); err == nil {
			break
		}
	}
	stop()
	<-done
}

// TestRateIsOwed: who takes more than the burst at once waits for all of it afterwards.
func TestRateIsOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		token, hash := auth.NewToken()
		d, err := auth.Parse(fmt.Appendf(nil, "principals:\n  - {name: p, tokens: [%q], rate: {perSecond: 10, burst: 20}}\n", hash))
		if err != nil {
			t.Fatal(err)
		}
		p, err := d.Authenticate(bearer("Bearer " + token))
		if err != nil {
			t.Fatal(err)
		}
		if p.Wait() != 0 || !p.Allow(100) {
			t.Fatal("a full burst lets nothing through")
		}
		if p.Allow(1) {
			t.Error("80 events are owed, and one more is there")
		}
		if w := p.Wait().Round(time.Millisecond); w != 8100*time.Millisecond {
			t.Errorf("wait %v", w)
		}
		time.Sleep(8 * time.Second)
		if p.Allow(1) {
			t.Error("too early")
		}
		time.Sleep(101 * time.Millisecond)
		if !p.Allow(1) || p.Allow(1) {
			t.Error("not one, and one only")
		}
	})
}

// TestCertificates: only verified ones count, by any of their names.
func TestCertificates(t *testing.T) {
	d, err := auth.Parse([]byte("principals:\n  - {name: p, certificates: [Pharmacy.example.org, 'spiffe://care/payer']}\n  - {name: q, certificates: [q.example.org]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	spiffe, err := url.Parse("spiffe://care/payer")
	if err != nil {
		t.Fatal(err)
	}
	loud, err := url.Parse("spiffe://care/Payer")
	if err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	shown := func(c *x509.Certificate, verified bool) *http.Request {
		state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
		if verified {
			state.VerifiedChains = [][]*x509.Certificate{{c}}
		}
		return &http.Request{TLS: state, Header: http.Header{}}
	}
	for _, c := range []struct {
		cert     *x509.Certificate
		verified bool
		want     error
	}{
		{&x509.Certificate{NotAfter: later, DNSNames: []string{"pharmacy.EXAMPLE.org"}}, true, nil},
		{&x509.Certificate{NotAfter: later, URIs: []*url.URL{spiffe}}, true, nil},
		{&x509.Certificate{NotAfter: later, DNSNames: []string{"x", "pharmacy.example.org"}, URIs: []*url.URL{spiffe}}, true, nil},
		{&x509.Certificate{NotAfter: later, DNSNames: []string{"pharmacy.example.org"}}, false, auth.ErrNoCredentials},
		{&x509.Certificate{NotAfter: later, DNSNames: []string{"other.example.org"}}, true, auth.ErrBadCredentials},
		{&x509.Certificate{NotAfter: later, DNSNames: []string{"pharmacy.example.org", "q.example.org"}}, true, auth.ErrBadCredentials},
		{&x509.Certificate{NotAfter: later}, true, auth.ErrBadCredentials},
		{&x509.Certificate{NotAfter: later, URIs: []*url.URL{loud}}, true, auth.ErrBadCredentials},                                            // another identity
		{&x509.Certificate{NotAfter: time.Now().Add(-time.Second), DNSNames: []string{"pharmacy.example.org"}}, true, auth.ErrBadCredentials}, // it was valid when the connection began
	} {
		p, err := d.Authenticate(shown(c.cert, c.verified))
		if !errors.Is(err, c.want) || c.want == nil && p.Name != "p" {
			t.Errorf("%v: %v, %v", c.cert.DNSNames, p, err)
		}
	}
	r := shown(&x509.Certificate{NotAfter: later, DNSNames: []string{"pharmacy.example.org"}}, true)
	r.Header.Set("Authorization", "Bearer wrong")
	if _, err := d.Authenticate(r); !errors.Is(err, auth.ErrBadCredentials) {
		t.Errorf("a wrong token beside a good certificate: %v", err)
	}
	if _, err := d.Authenticate(&http.Request{}); !errors.Is(err, auth.ErrNoCredentials) {
		t.Errorf("nothing: %v", err)
	}
}

func TestAnyone(t *testing.T) {
	p := auth.Anyone()
	if !p.May(auth.Operate, "platform.x.y") || !p.MayAll(auth.Publish, "**") || !p.MaySome(auth.Read) || !p.Allow(1<<20) {
		t.Error("anyone may not do everything")
	}
	var nobody auth.Principal
	if nobody.May(auth.Read, "a.b") || nobody.MayAll(auth.Read, "a.b") || nobody.MaySome(auth.Read) {
		t.Error("the zero principal may do something")
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add([]byte(policyText))
	f.Add([]byte("issuers: [{issuer: x, audience: y, jwksFile: z}]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if d, err := auth.Parse(text); err == nil {
			if _, err := d.Authenticate(bearer("Bearer x")); err == nil {
				t.Error("a made-up token is accepted")
			}
		} else if !errors.Is(err, auth.ErrPolicy) {
			t.Error(err)
		}
	})
}
