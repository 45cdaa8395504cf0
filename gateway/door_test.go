package gateway

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/eventstore"
)

// issuer makes JWTs for a door that knows its keys.
type issuer struct {
	t   testing.TB
	key *ecdsa.PrivateKey
}

func (is *issuer) claims(change ...any) map[string]any {
	c := map[string]any{"iss": "https://login.example.org", "aud": "carebus", "sub": "pharmacy-client", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()}
	for i := 0; i+1 < len(change); i += 2 {
		if c[change[i].(string)] = change[i+1]; change[i+1] == nil {
			delete(c, change[i].(string))
		}
	}
	return c
}

func (is *issuer) sign(key *ecdsa.PrivateKey, claims map[string]any) string {
	is.t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		is.t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		is.t.Fatal(err)
	}
	signed, err := signer.Sign(text)
	if err != nil {
		is.t.Fatal(err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		is.t.Fatal(err)
	}
	return token
}

// TestMalformedTokens: credentials that are none, over raw connections, since a client would not send some of them: each is
// 401 with WWW-Authenticate and nothing that says why; none gets in, and none is recorded.
func TestMalformedTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "e", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(keys, set, 0o600); err != nil {
		t.Fatal(err)
	}
	door, tokens := keyring(t, fmt.Sprintf(`
issuers: [{issuer: "https://login.example.org", audience: carebus, jwksFile: %q}]
principals:
  - {name: pharmacy, tokens: [T], subjects: [pharmacy-client], certificates: [pharmacy.example.org], read: ["**"]}
`, keys))
	_, p, s := newGateway(t, &Options{Door: door})
	publishMany(t, p, enrolled("canary", 1))
	address := s.Listener.Addr().String()
	ask := func(path, headers string) (status, head, body string) {
		t.Helper()
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = c.Write([]byte("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + "\r\n"))
		var all bytes.Buffer
		_, _ = all.ReadFrom(c)
		head, body, _ = strings.Cut(all.String(), "\r\n\r\n")
		_, rest, _ := strings.Cut(head, " ")
		status, _, _ = strings.Cut(rest, " ")
		return status, head, body
	}
	is := &issuer{t, key}
	good := is.sign(key, is.claims())
	secret := tokens["pharmacy"]
	for name, token := range map[string]string{"JWT": good, "token": secret} {
		if status, _, body := ask("/v1/events", "Authorization: Bearer "+token+"\r\n"); status != "200" || !strings.Contains(body, "canary") {
			t.Fatalf("the good %s: %s %s", name, status, body)
		}
	}
	b64 := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(is.claims())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	unsigned := func(header string) string { return b64([]byte(header)) + "." + b64(claims) }
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	hs := func(with []byte, header string) string {
		text := unsigned(header)
		mac := hmac.New(sha256.New, with)
		mac.Write([]byte(text))
		return text + "." + b64(mac.Sum(nil))
	}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: &stranger.PublicKey})
	if err != nil {
		t.Fatal(err)
	}
	flipped := []byte(good)
	flipped[len(good)-20] ^= 1
	bearers := map[string]string{
		"empty": "", "a space": " ", "another token": strings.Repeat("A", len(secret)), "a token cut short": secret[:len(secret)-1], "a token and more": secret + "x", "a token in another case": strings.ToUpper(secret), "the hash of the token": fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(secret))),
		"the hash": fmt.Sprintf("%x", sha256.Sum256([]byte(secret))), "two tokens": secret + " " + secret, "a list": secret + "," + secret, "quoted": `"` + secret + `"`, "percent-encoded": "cb%5f" + secret[3:], "a wildcard": "*", "null": "null", "a path": "../../etc/passwd",
		"SQL": "' OR '1'='1", "two parts": parts[0] + "." + parts[1], "no signature": parts[0] + "." + parts[1] + ".", "four parts": good + ".x", "five parts": "a.b.c.d.e", "dots": "..", "many dots": strings.Repeat(".", 5000), "bad base64": "!!!." + parts[1] + "." + parts[2],
		"padded base64": parts[0] + "=." + parts[1] + "=." + parts[2] + "==", "claims that are no JSON": parts[0] + "." + b64([]byte("{")) + "." + parts[2], "claims a list": parts[0] + "." + b64([]byte("[]")) + "." + parts[2],
		"signature cut short": good[:len(good)-10], "a bit of the signature": string(flipped), "other claims": parts[0] + "." + b64([]byte(strings.Replace(string(claims), "pharmacy-client", "root-client", 1))) + "." + parts[2],
		"alg none": unsigned(`{"alg":"none"}`) + ".", "alg None": unsigned(`{"alg":"None"}`) + ".", "alg none and a signature": unsigned(`{"alg":"none"}`) + "." + parts[2], "alg empty": unsigned(`{"alg":""}`) + "." + parts[2], "alg a number": unsigned(`{"alg":0}`) + "." + parts[2], "no alg": unsigned(`{}`) + "." + parts[2],
		"RS256 over a curve": unsigned(`{"alg":"RS256"}`) + "." + parts[2], "HS256 by the public key": hs(public, `{"alg":"HS256","typ":"JWT"}`), "HS256 by its DER": hs(der, `{"alg":"HS256","kid":"e"}`), "HS256 by the key set": hs(set, `{"alg":"HS256"}`), "HS256 by nothing": hs(nil, `{"alg":"HS256"}`),
		"a stranger's key": is.sign(stranger, is.claims()), "a key of its own": unsigned(`{"alg":"ES256","jwk":`+string(jwk)+`}`) + "." + parts[2], "a key by jku": unsigned(`{"alg":"ES256","jku":"https://evil.example.org/k"}`) + "." + parts[2], "kid a path": unsigned(`{"alg":"ES256","kid":"../../dev/null"}`) + "." + parts[2],
		"kid SQL": unsigned(`{"alg":"ES256","kid":"' OR 1=1 --"}`) + "." + parts[2], "crit": unsigned(`{"alg":"ES256","crit":["b64"],"b64":false}`) + "." + parts[2], "zip": unsigned(`{"alg":"ES256","zip":"DEF"}`) + "." + parts[2],
		"expired": is.sign(key, is.claims("exp", time.Now().Add(-2*time.Minute).Unix())), "no expiry": is.sign(key, is.claims("exp", nil)), "not yet": is.sign(key, is.claims("nbf", time.Now().Add(10*time.Minute).Unix())), "another audience": is.sign(key, is.claims("aud", "other")), "no audience": is.sign(key, is.claims("aud", nil)),
		"another issuer": is.sign(key, is.claims("iss", "https://evil.example.org")), "no issuer": is.sign(key, is.claims("iss", nil)), "nobody's subject": is.sign(key, is.claims("sub", "nobody")), "subject a list": is.sign(key, is.claims("sub", []string{"pharmacy-client"})), "a zero byte in the subject": is.sign(key, is.claims("sub", "pharmacy-client\x00")),
		"large": strings.Repeat("A", 30<<10), "nested": b64([]byte(strings.Repeat(`{"a":`, 5000))) + "." + b64([]byte(strings.Repeat("[", 9000))) + ".x", "not ASCII": "töken", "bytes": "\xff\xfe\xfd",
	}
	lines := map[string]string{
		"nothing": "", "Basic": "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("pharmacy:"+secret)) + "\r\n", "Digest": "Authorization: Digest username=pharmacy\r\n", "no scheme": "Authorization: " + secret + "\r\n", "an empty line": "Authorization:\r\n",
		"the scheme alone": "Authorization: Bearer\r\n", "glued": "Authorization: Bearer" + secret + "\r\n", "a tab": "Authorization: Bearer\t" + secret + "\r\n", "twice": "Authorization: Bearer " + secret + "\r\nAuthorization: Bearer " + secret + "\r\n",
		"good and bad": "Authorization: Bearer " + secret + "\r\nAuthorization: Bearer x\r\n", "another header": "X-Authorization: Bearer " + secret + "\r\nProxy-Authorization: Bearer " + secret + "\r\nToken: " + secret + "\r\nX-Api-Key: " + secret + "\r\n",
		"a cookie": "Cookie: Authorization=Bearer " + secret + "; token=" + secret + "\r\n", "another's word for a certificate": "X-Forwarded-Client-Cert: Subject=\"CN=pharmacy.example.org\";DNS=pharmacy.example.org\r\nX-SSL-Client-Verify: SUCCESS\r\nX-Forwarded-User: pharmacy\r\nX-Remote-User: pharmacy\r\n",
	}
	for name, token := range bearers {
		lines["Bearer: "+name] = "Authorization: Bearer " + token + "\r\n"
	}
	paths := []string{"/v1/events", "/v1/events/x", "/v1/live", "/v1/streams/patient.record/P1", "/registry/subjects", "/asyncapi.json"}
	i := 0
	for name, line := range lines {
		path := paths[i%len(paths)]
		i++
		status, head, body := ask(path, line)
		want := "401"
		var problem Problem
		if status == want {
			if err := json.Unmarshal([]byte(body), &problem); err != nil {
				t.Errorf("%s: %v in %q", name, err, body)
			}
		}
		if status != want || !strings.Contains(head, "\r\nWww-Authenticate: Bearer realm=\"carebus\"") || problem.Detail != refusedAtTheDoor || len(problem.Findings) > 0 || strings.Contains(body, "canary") {
			t.Errorf("%s: GET %s: %s %s", name, path, head, body)
		}
	}
	for name, line := range map[string]string{"a zero byte": "Authorization: Bearer " + secret + "\x00\r\n", "a line break": "Authorization: Bearer \r" + secret + "\r\n", "folded": "Authorization: Bearer\r\n " + secret + "x\r\n"} { // are no headers at all
		if status, _, body := ask("/v1/events", line); status != "400" && status != "401" || strings.Contains(body, "canary") {
			t.Errorf("%s: %s %s", name, status, body)
		}
	}
	for _, path := range []string{"/v1/events?access_token=" + secret, "/v1/events?token=" + secret, "/v1/events?Authorization=Bearer%20" + secret, "/v1/live?access_token=" + good} {
		if status, _, body := ask(path, ""); status != "401" || strings.Contains(body, "canary") {
			t.Errorf("%s: %s %s", path, status, body)
		}
	}
	if len(lines) < 70 {
		t.Errorf("%d tries", len(lines))
	}
	for _, told := range platformEvents(t, p, "platform.access.denied") {
		if text := string(told.Payload); strings.Contains(text, secret) || strings.Contains(text, parts[2]) || strings.Contains(text, "P1") || strings.Contains(text, "evil") {
			t.Errorf("what somebody without credentials sent is in the store: %s", text)
		}
	}
}

// TestDenialsAreRecorded: each kind of denial makes an event, without what was asked with; a flood of them makes few, and one
// that says how many.
func TestDenialsAreRecorded(t *testing.T) {
	door, tokens := keyring(t, `
principals:
  - {name: narrow, tokens: [T], publish: [patient.enrolled], subscribe: [patient.enrolled], read: [patient.enrolled]}
`)
	g, p, s := newGateway(t, &Options{Door: door})
	e := enrolled("secret-patient", 1)
	e.Type, e.Version, e.PartitionKey = "patient.record.created", "1.0.0", "k"
	e.ID = "hidden"
	_, e.Payload, _ = exampleOf(t, p, e.Type)
	if _, err := p.Store().Append(t.Context(), "patient.record/secret-patient", eventstore.AnyVersion, e); err != nil {
		t.Fatal(err)
	}
	quick := &http.Client{Transport: &http.Transport{}}
	defer quick.CloseIdleConnections()
	for _, c := range []struct{ method, path, body, action, resource string }{
		{"POST", "/v1/events", string(e.AppendJSON(nil)), "publish", "patient.record.created"},
		{"POST", "/v1/events?stream=medication.prescription/secret-patient", string(enrolled("secret-patient", 2).AppendJSON(nil)), "publish", "streams of medication.prescription"},
		{"GET", "/v1/events/hidden", "", "read", "patient.record.created"}, {"GET", "/v1/flows/flow-secret-patient", "", "read", "a flow"}, {"GET", "/v1/streams/patient.record/secret-patient", "", "read", "streams of patient.record"},
		{"GET", "/v1/streams/patient.record/secret-patient/state", "", "read", "patient.record.**"}, {"GET", "/v1/topology", "", "read", "**"}, {"PUT", "/v1/groups/x", `{"patterns":["medication.**"]}`, "subscribe", "medication.**"},
		{"POST", "/v1/groups/secret/fetch", `{}`, "subscribe", "group secret"}, {"POST", "/v1/groups/secret/pause", `{"reason":"secret-reason"}`, "operate", "group secret"}, {"GET", "/v1/dead-letters", "", "read", "**"}, {"POST", "/v1/dead-letters/redrive", `{"reason":"x"}`, "operate", "**"},
		{"GET", "/v1/jobs/j", "", "operate", "job j"}, {"GET", "/v1/sagas", "", "read", "platform.saga.*"}, {"POST", "/v1/webhooks", `{"url":"https://hooks.example.org/","patterns":["**"]}`, "subscribe", "**"}, {"GET", "/v1/webhooks/w", "", "subscribe", "webhook w"},
		{"PUT", "/v1/schemas/patient.enrolled/9.0.0", `{}`, "register", "patient.enrolled"}, {"GET", "/registry/subjects", "", "", ""},
	} {
		var body any
		if c.body != "" {
			body = c.body
		}
		status, _, text := sendBy(t, quick, c.method, s.URL+c.path, body, "Authorization", "Bearer "+tokens["narrow"])
		if c.action == "" {
			continue // may see schemas
		}
		if status != http.StatusForbidden && status != http.StatusNotFound {
			t.Errorf("%s %s: %d %s", c.method, c.path, status, text)
		}
		told := platformEvents(t, p, "platform.access.denied")
		var last struct{ Actor, Action, Resource, Reason, RemoteAddress string }
		if len(told) > 0 {
			for _, e := range told {
				var one struct{ Actor, Action, Resource, Reason, RemoteAddress string }
				if err := json.Unmarshal(e.Payload, &one); err != nil {
					t.Fatal(err)
				}
				if one.Action == c.action && one.Resource == c.resource {
					last = one
				}
			}
		}
		if last.Actor != "narrow" || last.Reason == "" || last.RemoteAddress != "127.0.0.1" {
			t.Errorf("%s %s: no event tells of it: %s", c.method, c.path, text)
		}
		if c.action == "read" && c.resource == "patient.record.created" || strings.HasPrefix(c.path, "/v1/flows") { // what does not exist is answered in the same words
			_, _, other := sendBy(t, quick, c.method, s.URL+strings.NewReplacer("hidden", "nothing", "flow-secret-patient", "nothing").Replace(c.path), nil, "Authorization", "Bearer "+tokens["narrow"])
			if !bytes.Equal(text, other) {
				t.Errorf("%s: %s, and what does not exist: %s", c.path, text, other)
			}
		}
	}
	for _, e := range platformEvents(t, p, "platform.access.denied") {
		if strings.Contains(string(e.Payload), "secret-patient") || strings.Contains(string(e.Payload), "secret-reason") {
			t.Errorf("%s", e.Payload)
		}
	}

	// The flood: by one who is known, and by one who is not.
	before := len(platformEvents(t, p, "platform.access.denied"))
	const flood = 1000
	for i := range flood / 2 {
		sendBy(t, quick, http.MethodGet, fmt.Sprintf("%s/v1/webhooks/w%d", s.URL, i), nil, "Authorization", "Bearer "+tokens["narrow"])
		sendBy(t, quick, http.MethodGet, fmt.Sprintf("%s/v1/events/e%d", s.URL, i), nil, "Authorization", "Bearer wrong")
	}
	recorded := len(platformEvents(t, p, "platform.access.denied")) - before
	if recorded > 2*denialsOfOne {
		t.Errorf("%d events of a flood of %d", recorded, flood)
	}
	g.tellRest(t.Context(), true)
	counted := map[string]int{}
	for _, e := range platformEvents(t, p, "platform.access.denied") {
		var one struct{ Actor, Action, Reason string }
		if err := json.Unmarshal(e.Payload, &one); err != nil {
			t.Fatal(err)
		}
		if n := 0; one.Action == "several" {
			if _, err := fmt.Sscanf(one.Reason, "%d more denials", &n); err != nil {
				t.Error(err, one.Reason)
			}
			counted[one.Actor] += n
		}
	}
	if counted["(unknown)"]+counted["narrow"] < flood-recorded || counted["(unknown)"] < flood/2-denialsOfOne {
		t.Errorf("%d recorded, %v counted, of %d", recorded, counted, flood)
	}
}

// TestDenialsOfMany: the bound holds whoever they are, and what is owed is told once.
func TestDenialsOfMany(t *testing.T) {
	var d denials
	now := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	recorded := 0
	for i := range 100_000 {
		if d.fresh(fmt.Sprint("p", i%1000), fmt.Sprint("address", i%7000), fmt.Sprint(i), now) {
			recorded++
		}
	}
	if recorded != denialsOfAll {
		t.Errorf("%d recorded", recorded)
	}
	if owed := d.take(now.Add(59*time.Second), false); len(owed) > 0 {
		t.Errorf("told before the minute is over: %v", owed)
	}
	owed := d.take(now.Add(time.Minute), false)
	var sum int64
	for _, u := range owed {
		sum += u.n
	}
	if len(owed) != toldOfOthers+1 || sum != 100_000-denialsOfAll || owed[toldOfOthers].actor != "(others)" {
		t.Errorf("%d told of %d", len(owed), sum)
	}
	if again := d.take(now.Add(3*time.Minute), true); len(again) > 0 {
		t.Errorf("told twice: %v", again)
	}
	if !d.fresh("p1", "a", "x", now.Add(4*time.Minute)) || d.fresh("p1", "a", "x", now.Add(4*time.Minute)) {
		t.Error("a new minute does not begin anew")
	}
}

// TestRates: who floods is told to wait, for as long as it takes; others are not held up by it, whatever it is that is flooded.
func TestRates(t *testing.T) {
	door, tokens := keyring(t, `
principals:
  - {name: flood, tokens: [T], publish: ["**"], subscribe: ["**"], read: ["**"], rate: {perSecond: 0.5, burst: 5}}
  - {name: greedy, tokens: [T], publish: ["**"], subscribe: ["**"]}
  - {name: calm, tokens: [T], publish: ["**"], subscribe: ["**"], read: ["**"]}
`)
	g, _, s := newGateway(t, &Options{Door: door, AtOnce: 20, MaxBody: 1 << 20, MaxBodies: 4 << 20})
	as := func(name, method, path string, body any) (int, http.Header, []byte) {
		t.Helper()
		return sendBy(t, client, method, s.URL+path, body, "Authorization", "Bearer "+tokens[name])
	}
	accepted, refused := 0, 0
	for i := range 50 {
		status, head, text := as("flood", http.MethodPost, "/v1/events", enrolled("P1", i).AppendJSON(nil))
		switch status {
		case http.StatusCreated:
			accepted++
		case http.StatusTooManyRequests:
			if refused++; head.Get("Retry-After") != "2" && head.Get("Retry-After") != "1" || !strings.Contains(string(text), "flood has used up its rate") {
				t.Errorf("%v %s", head, text)
			}
		default:
			t.Errorf("%d %s", status, text)
		}
		if status, _, text := as("calm", http.MethodGet, "/v1/events?limit=1", nil); status != http.StatusOK {
			t.Fatalf("%d %s", status, text)
		}
	}
	if accepted < 5 || refused < 20 {
		t.Errorf("%d accepted, %d refused", accepted, refused)
	}

	// Requests that last: as many as it may, and not one more; the others have theirs.
	ctx, cancel := context.WithCancel(t.Context())
	var lasting sync.WaitGroup
	begun := make(chan int, 100)
	for range 25 {
		lasting.Go(func() {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/v1/live", nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+tokens["greedy"])
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer res.Body.Close()
			begun <- res.StatusCode
			_, _ = res.Body.Read(make([]byte, 1)) // the first beat
			if res.StatusCode == http.StatusOK {
				<-ctx.Done()
			}
		})
	}
	counts := map[int]int{}
	for range 25 {
		counts[<-begun]++
	}
	if counts[http.StatusOK] != 20 || counts[http.StatusTooManyRequests] != 5 {
		t.Errorf("%v", counts)
	}
	if status, _, text := as("calm", http.MethodGet, "/v1/events", nil); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	cancel()
	lasting.Wait()

	// Bodies that do not come to an end hold memory: half of it, and no more.
	var slow []net.Conn
	for range 10 {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		slow = append(slow, c)
		if _, err := fmt.Fprintf(c, "POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{", tokens["greedy"]); err != nil {
			t.Fatal(err)
		}
	}
	for { // until those that are let in hold what they may
		// Who is refused before the body is read may hear of it only by a broken connection.
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/events", strings.NewReader(strings.Repeat(" ", 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+tokens["greedy"])
		req.Header.Set("Content-Type", "application/json")
		res, err := client.Do(req)
		if err != nil {
			if t.Context().Err() != nil {
				t.Fatal(err)
			}
			continue
		}
		_ = res.Body.Close()
		if res.StatusCode == http.StatusTooManyRequests {
			break
		}
	}
	if status, _, text := as("calm", http.MethodPost, "/v1/events", append(enrolled("P2", 1).AppendJSON(nil), strings.Repeat(" ", 900_000)...)); status != http.StatusCreated {
		t.Errorf("%d %s", status, text)
	}
	for _, c := range slow {
		c.Close()
	}
	g.bodies.mu.Lock()
	defer g.bodies.mu.Unlock()
	if g.bodies.held > g.bodies.budget {
		t.Errorf("%d bytes held", g.bodies.held)
	}
}

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	pair := (&authority{}).sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, a)
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	a.pool.AddCert(a.cert)
	return a
}

// sign makes a certificate; self is set when it signs itself.
func (a *authority) sign(t testing.TB, c *x509.Certificate, self *authority) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	if c.NotAfter.IsZero() {
		c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	}
	parent, by := a.cert, a.key
	if self != nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// TestMutualTLS: a client is who its certificate says, when the authority is ours and it is valid; without one it is nobody,
// and with another it does not get as far.
func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	server := ours.sign(t, &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, nil)
	door, tokens := keyring(t, `
principals:
  - {name: pharmacy, tokens: [T], certificates: [pharmacy.example.org, "spiffe://care.example.org/ns/prod/sa/pharmacy"], publish: [patient.enrolled], read: [patient.enrolled]}
`)
	p := openPlatform(t, nil)
	g, err := New(t.Context(), p, &Options{Door: door, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, l, g, &ServeOptions{Logger: quiet, TLS: &tls.Config{
			MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server}, ClientCAs: ours.pool, ClientAuth: tls.VerifyClientCertIfGiven, NextProtos: []string{"h2", "http/1.1"},
		}})
	}()
	forClients := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	named := func(name string) *x509.Certificate {
		return &x509.Certificate{DNSNames: []string{name}, ExtKeyUsage: forClients}
	}
	expired := named("pharmacy.example.org")
	expired.NotBefore, expired.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	early := named("pharmacy.example.org")
	early.NotBefore, early.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
	for _, c := range []struct {
		name   string
		cert   *tls.Certificate
		token  string
		status int // 0: the handshake fails
	}{
		{"valid", pair(ours.sign(t, named("pharmacy.example.org"), nil)), "", 201},
		{"valid, another case", pair(ours.sign(t, named("Pharmacy.Example.ORG"), nil)), "", 201},
		{"none", nil, "", 401},
		{"none, but a token", nil, tokens["pharmacy"], 201},
		{"another authority", pair(theirs.sign(t, named("pharmacy.example.org"), nil)), "", 0},
		{"self-signed", pair((&authority{}).sign(t, named("pharmacy.example.org"), ours)), "", 0},
		{"expired", pair(ours.sign(t, expired, nil)), "", 0},
		{"not yet", pair(ours.sign(t, early, nil)), "", 0},
		{"a server's", pair(ours.sign(t, &x509.Certificate{DNSNames: []string{"pharmacy.example.org"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, nil)), "", 0},
		{"nobody in the policy", pair(ours.sign(t, named("other.example.org"), nil)), "", 401},
		{"the name in the subject only", pair(ours.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "pharmacy.example.org"}, ExtKeyUsage: forClients}, nil)), "", 401},
		{"valid, but a wrong token", pair(ours.sign(t, named("pharmacy.example.org"), nil)), "wrong", 401},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := &tls.Config{RootCAs: ours.pool, MinVersion: tls.VersionTLS12}
			if c.cert != nil { // whatever the server asks for
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c.cert, nil }
			}
			by := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
			defer by.CloseIdleConnections()
			req, err := http.NewRequest(http.MethodPost, "https://"+l.Addr().String()+"/v1/events", bytes.NewReader(enrolled("P1", 1).AppendJSON(nil)))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "application/json")
			if c.token != "" {
				req.Header.Set("Authorization", "Bearer "+c.token)
			}
			res, err := by.Do(req)
			switch {
			case c.status == 0 && err == nil:
				t.Errorf("answered with %d", res.StatusCode)
			case c.status != 0 && err != nil:
				t.Error(err)
			case err == nil && (res.StatusCode != c.status || res.ProtoMajor != 2):
				t.Errorf("%d over %s", res.StatusCode, res.Proto)
			}
			if res != nil {
				res.Body.Close()
			}
		})
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func pair(c tls.Certificate) *tls.Certificate { return &c }

// TestLiveEndsWithTheGrant: a live stream ends when its token is taken away, and shows no more of what is not granted any more.
func TestLiveEndsWithTheGrant(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	token, hash := auth.NewToken()
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(fmt.Sprintf("principals:\n  - {name: p, tokens: [%q], subscribe: [patient.enrolled]}\n", hash))
	door, err := auth.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	_, p, s := newGateway(t, &Options{Door: door, Heartbeat: 10 * time.Millisecond})
	req, err := http.NewRequest(http.MethodGet, s.URL+"/v1/live?from=beginning", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	publishMany(t, p, enrolled("P1", 1))
	buf := make([]byte, 64<<10)
	var seen strings.Builder
	for !strings.Contains(seen.String(), `"P1"`) {
		n, err := res.Body.Read(buf)
		if err != nil {
			t.Fatal(err, seen.String())
		}
		seen.Write(buf[:n])
	}
	_, other := auth.NewToken()
	write(fmt.Sprintf("principals:\n  - {name: p, tokens: [%q], subscribe: [patient.enrolled]}\n", other))
	if err := door.Reload(); err != nil {
		t.Fatal(err)
	}
	var rest bytes.Buffer
	if _, err := rest.ReadFrom(res.Body); err != nil {
		t.Error(err)
	}
	if strings.Contains(rest.String(), "data:") {
		t.Errorf("%s", rest.String())
	}
}
