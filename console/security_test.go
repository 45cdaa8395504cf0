package console_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"golang.org/x/net/html"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// allowedElements are those that pages are made of.
var allowedElements = strings.Fields(`html head meta title link script body a div nav span form input kbd button main h1 h2 h3 p details summary code section table thead tbody tr th td
	time progress ul ol li dl dt dd select option datalist label textarea dialog strong bdi svg circle path line rect text g wbr`)

// checkLoads reads a page as a browser does, and refuses what could act, or loads from elsewhere.
func checkLoads(t *testing.T, path, text string) {
	t.Helper()
	in := html.NewTokenizer(strings.NewReader(text))
	for {
		kind := in.Next()
		if kind == html.ErrorToken {
			if err := in.Err(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", path, err)
			}
			return
		}
		token := in.Token()
		switch {
		case token.Data == "script" && kind == html.TextToken:
			t.Errorf("%s has script in its text", path)
		case kind == html.CommentToken:
			t.Errorf("%s has a comment: %s", path, token.Data)
		}
		if kind != html.StartTagToken && kind != html.SelfClosingTagToken {
			continue
		}
		if !slices.Contains(allowedElements, token.Data) {
			t.Errorf("%s has an element %s", path, token.Data)
		}
		for _, a := range token.Attr {
			name, value := strings.ToLower(a.Key), strings.TrimSpace(a.Val)
			switch {
			case strings.HasPrefix(name, "on"), name == "style", name == "srcdoc", name == "srcset", name == "xlink:href", name == "formaction":
				t.Errorf("%s: %s has an attribute %s", path, token.Data, name)
			case name == "src" || name == "href" && token.Data == "link":
				if !strings.HasPrefix(value, "/console/assets/") {
					t.Errorf("%s loads %s", path, value)
				}
			case name == "href" || name == "action":
				if !strings.HasPrefix(value, "/console") && value != "/docs" && !strings.HasPrefix(value, "?") && value != "#main" {
					t.Errorf("%s leads to %s", path, value)
				}
			}
		}
		if token.Data == "script" && kind == html.StartTagToken {
			if next := in.Next(); next != html.EndTagToken {
				t.Errorf("%s has script in its text", path)
			}
		}
	}
}

// TestAssetsLoadNothingFromElsewhere reads what is embedded.
func TestAssetsLoadNothingFromElsewhere(t *testing.T) {
	files, err := filepath.Glob("assets/*")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("pages/*.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(files, pages...) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, re := range []string{`https?://`, `@import`, `url\(`, `\beval\(`, `innerHTML\s*=[^=]`, `insertAdjacentHTML`, `document\.write`, `outerHTML\s*=`} {
			m := regexp.MustCompile(re).FindString(string(text))
			if m != "" && !strings.Contains(string(text), `xmlns="http://www.w3.org/2000/svg"`) {
				t.Errorf("%s has %q", name, m)
			}
		}
	}
}

// hostile are texts that try to become something else than text.
var hostile = []string{
	`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `<svg onload=alert(1)><animate onbegin=alert(1)>`, `'-alert(1)-'`, `{{.Title}}`, `${alert(1)}`,
	`javascript:alert(1)`, "\u202egnp.exe\u202c", "a\u200bb\u2066c", `</title></svg><iframe src=//evil.example>`, `<!--`, `]]>`, `&lt;b&gt;`,
}

// TestHostileTextsAreInert puts hostile texts wherever an event has room for text, and looks at every view.
func TestHostileTextsAreInert(t *testing.T) {
	s := newSite(t, nil, failing)
	noteSchema(t, s.p)
	ctx := context.Background()
	var paths []string
	for i, text := range append(hostile, strings.Repeat("huge<", 40_000)) {
		id, flow := fmt.Sprintf("h%d", i), fmt.Sprintf("hostile-%d", i)
		if i%2 == 1 {
			id, flow = `id"><script>`+fmt.Sprint(i), `flow"><img/src=x>`+fmt.Sprint(i) // ids may be any visible characters
		}
		key := strings.Map(func(r rune) rune { // the envelope has keys printable
			if !unicode.IsPrint(r) {
				return '_'
			}
			return r
		}, text[:min(len(text), 100)])
		s.publish(noted(id, key, flow, "", text), noted(id+"p", key, flow, id, "poison "+text))
		p := patientCreated(fmt.Sprintf("HP%d", i), text[:min(len(text), 60)], text[:min(len(text), 60)])
		if _, err := s.p.Append(ctx, "patient.record/"+fmt.Sprintf("HP%d", i), eventstore.AnyVersion, p); err != nil {
			t.Logf("patient %d was refused: %v", i, err) // the schema may hold names to a form
		}
		paths = append(paths, "/console/events/"+url.PathEscape(id), "/console/flows/"+url.PathEscape(flow), "/console/flows/"+url.PathEscape(flow)+"?show=tree", "/console/flows/"+url.PathEscape(flow)+"?show=table&groups=1",
			"/console/compare?a="+url.QueryEscape(flow)+"&b=hostile-0", "/console/search?key="+url.QueryEscape(key), "/console/search?text="+url.QueryEscape(key), "/console/tail?key="+url.QueryEscape(key),
			"/console/find?q="+url.QueryEscape(key), "/console/failure?group=notes&key="+url.QueryEscape(key), "/console/patients?name="+url.QueryEscape(key), fmt.Sprintf("/console/patients/HP%d", i),
			"/console/redrive?group=notes&key="+url.QueryEscape(key), "/console/audit?text="+url.QueryEscape(key), "/console/catalog?q="+url.QueryEscape(key), "/console/topology?scope="+url.QueryEscape(key))
		s.until("parked", func() bool { return s.parked(key) })
	}
	reason := url.Values{"reason": {`<script>alert(2)</script>`}, "purpose": {"support"}}
	form := url.Values{"group": {"notes"}, "key": {hostile[0]}, "reason": reason["reason"], "purpose": {"support"}, "payload": {`</textarea><script>alert(3)</script>`}, "do": {"check"}}
	pages := []page{
		s.post("/console/failure/reveal", form), s.post("/console/failure/correct", form), s.post("/console/events/h0/reveal", reason),
		s.post("/console/groups/notes/pause", reason), s.get("/console/groups"), s.get("/console/groups/notes"), s.get("/console/audit"), s.get("/console/"), s.get("/console/failures"), s.get("/console/flows"), s.get("/console/patients"), s.get("/console/jobs"),
	}
	for _, path := range paths {
		pages = append(pages, s.get(path))
	}
	for _, p := range pages {
		if p.status >= 500 || p.status == 404 && !strings.Contains(p.at, "/patients/") {
			t.Errorf("%s: %d", p.at, p.status)
		}
		checkLoads(t, p.at, p.text)
		for _, alive := range []string{"\u202e", "\u2066", "\u200b"} {
			if strings.Contains(p.text, alive) {
				t.Errorf("%s has %+q", p.at, alive)
			}
		}
		if len(p.text) > 1<<20 {
			t.Errorf("%s has %d bytes", p.at, len(p.text))
		}
	}
}

const policy = `
roles: {}
principals:
  - name: nobody
    tokens: ["HASH0"]
  - name: reader
    tokens: ["HASH1"]
    read: ["test.**"]
    subscribe: ["test.**"]
  - name: operator
    tokens: ["HASH2"]
    read: ["**", "platform.**"]
    subscribe: ["**"]
    operate: ["**", "platform.**"]
`

func withPolicy(t *testing.T) (*auth.Door, [3]string) {
	t.Helper()
	text := policy
	var tokens [3]string
	for i := range tokens {
		token, hash := auth.NewToken()
		tokens[i] = token
		text = strings.Replace(text, fmt.Sprintf("HASH%d", i), hash, 1)
	}
	door, err := auth.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return door, tokens
}

func TestSignIn(t *testing.T) {
	door, tokens := withPolicy(t)
	s := newSite(t, door, failing)
	noteSchema(t, s.p)
	s.publish(noted("n1", "K1", "flow-1", "", "hello"), noted("n2", "K2", "flow-2", "", "poison"))
	if _, err := s.p.Append(context.Background(), "patient.record/P1", eventstore.NoStream, patientCreated("P1", "Zebedee", "Quixote")); err != nil {
		t.Fatal(err)
	}
	s.until("parked", func() bool { return s.parked("K2") })

	p := s.get("/console/groups?sort=lag")
	if !strings.HasPrefix(p.at, "/console/sign-in?next=") {
		t.Fatalf("led to %s", p.at)
	}
	s.lacks(p, "notes")
	s.wants(s.post("/console/sign-in", url.Values{"token": {"wrong"}}), 401, "not accepted")
	p = s.post("/console/sign-in", url.Values{"token": {tokens[2]}, "next": {"/console/groups?sort=lag"}})
	s.wants(p, 200, "notes", "operator", "Sign out")
	if p.at != "/console/groups?sort=lag" {
		t.Errorf("led to %s", p.at)
	}
	s.wants(s.get("/console/patients/P1"), 200)
	s.wants(s.post("/console/groups/notes/pause", url.Values{"reason": {"why"}}), 200, "paused")
	s.post("/console/sign-out", nil)
	if p := s.get("/console/groups"); !strings.HasPrefix(p.at, "/console/sign-in") {
		t.Errorf("signed out, led to %s", p.at)
	}
	for _, next := range []string{"//evil.example/", "https://evil.example/", "/console/../docs\\", "/docs", "/console/sign-out"} {
		if p := s.post("/console/sign-in", url.Values{"token": {tokens[2]}, "next": {next}}); p.at != "/console/" {
			t.Errorf("next %q led to %s", next, p.at)
		}
	}

	// A reader of notes sees notes, and nothing else; every page asks the same verbs as the API.
	s.wants(s.post("/console/sign-in", url.Values{"token": {tokens[1]}}), 200)
	s.wants(s.get("/console/events/n1"), 200)
	s.wants(s.get("/console/flows/flow-1"), 200)
	s.lacks(s.get("/console/search"), "flow-P1")
	s.lacks(s.get("/console/search?type=patient.**"), "flow-P1")
	s.lacks(s.get("/console/tail"), "patient.record.created")
	s.lacks(s.get("/console/flows"), "flow-P1")
	for _, path := range []string{"/console/patients/P1", "/console/topology", "/console/projections", "/console/sagas", "/console/failures", "/console/redrive"} {
		s.wants(s.get(path), 403)
	}
	s.wants(s.get("/console/flows/flow-P1"), 404)
	s.wants(s.post("/console/groups/notes/pause", url.Values{"reason": {"why"}}), 403)
	s.wants(s.post("/console/failure/reveal", url.Values{"group": {"notes"}, "key": {"K2"}, "reason": {"why so"}, "purpose": {"support"}}), 403)
	s.wants(s.post("/console/failure/correct", url.Values{"group": {"notes"}, "key": {"K2"}, "payload": {"{}"}, "reason": {"why so"}}), 403)
	s.wants(s.post("/console/entities/patient.record/P1/reveal", url.Values{"reason": {"why so"}, "purpose": {"support"}}), 403)
	s.lacks(s.get("/console/find.json?q=P1"), "patient.record")

	// A policy without the principal ends the session at once.
	s.post("/console/sign-out", nil)
	s.wants(s.post("/console/sign-in", url.Values{"token": {tokens[0]}}), 403) // the overview wants somebody who may read something
	r := s.do("GET", "/console/groups", nil, "Authorization", "Bearer "+tokens[2])
	s.wants(r, 200, "notes") // programs bring their token with each request
}

func TestForeignSitesAreRefused(t *testing.T) {
	s := newSite(t, nil, failing)
	s.publish(noted2(t, s)...)
	form := url.Values{"reason": {"why"}}
	s.wants(s.do("POST", "/console/groups/notes/pause", form, "Sec-Fetch-Site", "cross-site"), 403)
	s.wants(s.do("POST", "/console/groups/notes/pause", form, "Sec-Fetch-Site", "", "Origin", "https://evil.example"), 403)
	// Another host's name that was made to lead to this machine.
	r, err := http.NewRequest("GET", s.url+"/console/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "evil.example"
	res, err := s.c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a page under another host's name: %d", res.StatusCode)
	}
}

func noted2(t *testing.T, s *site) []event.Event {
	t.Helper()
	noteSchema(t, s.p)
	return []event.Event{noted("n1", "K1", "flow-1", "", "hello")}
}

func TestSessionCookie(t *testing.T) {
	door, tokens := withPolicy(t)
	s := newSite(t, door, nil)
	s.c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	p := s.post("/console/sign-in", url.Values{"token": {tokens[2]}})
	cookie := p.header.Get("Set-Cookie")
	for _, want := range []string{"HttpOnly", "SameSite=Strict", "Path=/console/", "Max-Age="} {
		if !strings.Contains(cookie, want) {
			t.Errorf("%q is not in %q", want, cookie)
		}
	}
	if strings.Contains(cookie, tokens[2]) {
		t.Error("the cookie holds the token")
	}
}

// TestLiveIsMaskedAndHeld reads the stream of the tail.
func TestLive(t *testing.T) {
	s := newSite(t, nil, nil)
	noteSchema(t, s.p)
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/console/live?rows=1&type=test.**", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	lines.Scan() // the stream has begun
	s.publish(noted("n1", "K1", "flow-1", "", "a secret text"))
	if _, err := s.p.Append(context.Background(), "patient.record/P1", eventstore.NoStream, patientCreated("P1", "Zebedee", "Quixote")); err != nil {
		t.Fatal(err)
	}
	s.publish(noted("n2", "K1", "flow-1", "", "another"))
	id, got := "", ""
	for lines.Scan() && !strings.Contains(got, `"n2"`) {
		if text, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			id = text
		}
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			got += text
		}
	}
	if !strings.Contains(got, `"n1"`) || strings.Contains(got, "secret") || strings.Contains(got, "patient.record") {
		t.Error(got)
	}
	// Cut and come back: what was stored meanwhile is there, and nothing twice.
	s.publish(noted("n3", "K1", "flow-1", "", "x"))
	r.Header.Set("Last-Event-ID", id)
	again, err := s.c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Body.Close()
	lines = bufio.NewScanner(again.Body)
	for lines.Scan() {
		if text, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			if !strings.Contains(text, `"n3"`) || strings.Contains(text, `"n2"`) {
				t.Error(text)
			}
			break
		}
	}
}

// The pairs of colours in which text is read, or a mark is told from its ground, and the contrast that WCAG AA wants.
var pairs = []struct {
	text, ground string
	least        float64
}{
	{"text", "ground", 4.5}, {"text", "panel", 4.5}, {"text", "raised", 4.5}, {"text", "accent-ground", 4.5}, {"quiet", "ground", 4.5}, {"quiet", "panel", 4.5}, {"quiet", "raised", 4.5}, {"quiet", "accent-ground", 4.5}, {"quiet", "mask", 4.5},
	{"accent", "panel", 4.5}, {"accent", "ground", 4.5}, {"accent", "accent-ground", 4.5}, {"accent", "raised", 4.5}, {"on-accent", "accent", 4.5},
	{"ok", "panel", 4.5}, {"ok", "ok-ground", 4.5}, {"warn", "panel", 4.5}, {"warn", "warn-ground", 4.5}, {"bad", "panel", 4.5}, {"bad", "bad-ground", 4.5}, {"text", "bad-ground", 4.5}, {"text", "ok-ground", 4.5},
	{"quiet", "bad-ground", 4.5}, {"quiet", "ok-ground", 4.5}, {"strong", "panel", 3}, {"strong", "ground", 3},
	{"d-medication", "panel", 4.5}, {"d-priorauth", "panel", 4.5}, {"d-patient", "panel", 4.5}, {"d-payment", "panel", 4.5}, {"d-care", "panel", 4.5}, {"d-provider", "panel", 4.5}, {"d-platform", "panel", 4.5},
	{"d-medication", "raised", 4.5}, {"d-priorauth", "raised", 4.5}, {"d-patient", "raised", 4.5}, {"d-payment", "raised", 4.5}, {"d-care", "raised", 4.5}, {"d-provider", "raised", 4.5}, {"d-platform", "raised", 4.5},
	{"d-medication", "accent-ground", 4.5}, {"d-priorauth", "accent-ground", 4.5}, {"d-patient", "accent-ground", 4.5}, {"d-payment", "accent-ground", 4.5}, {"d-care", "accent-ground", 4.5}, {"d-provider", "accent-ground", 4.5}, {"d-platform", "accent-ground", 4.5},
	{"d-medication", "bad-ground", 4.5}, {"d-priorauth", "bad-ground", 4.5}, {"d-patient", "bad-ground", 4.5}, {"d-payment", "bad-ground", 4.5}, {"d-care", "bad-ground", 4.5},
	{"d-medication", "ok-ground", 4.5}, {"d-priorauth", "ok-ground", 4.5}, {"d-patient", "ok-ground", 4.5}, {"d-payment", "ok-ground", 4.5}, {"d-care", "ok-ground", 4.5},
}

func TestContrast(t *testing.T) {
	text, err := os.ReadFile("assets/console.css")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile(`(?s)(:root[^{]*)\{([^}]*--ground[^}]*)\}`).FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 3 {
		t.Fatalf("%d themes", len(blocks))
	}
	var dark []string
	for _, b := range blocks {
		colours := map[string][3]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6})`).FindAllStringSubmatch(b[2], -1) {
			n, err := strconv.ParseUint(m[2], 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			colours[m[1]] = [3]float64{float64(n >> 16 & 255), float64(n >> 8 & 255), float64(n & 255)}
		}
		for _, p := range pairs {
			a, okA := colours[p.text]
			b2, okB := colours[p.ground]
			if !okA || !okB {
				t.Fatalf("%s: no %s or no %s", b[1], p.text, p.ground)
			}
			if c := contrast(a, b2); c < p.least {
				t.Errorf("%s: %s on %s has a contrast of %.2f, not %.1f", strings.TrimSpace(b[1]), p.text, p.ground, c, p.least)
			}
		}
		if !strings.Contains(b[1], `"light"], `) && !strings.HasPrefix(strings.TrimSpace(b[1]), ":root, ") {
			dark = append(dark, strings.Join(strings.Fields(b[2]), " "))
		}
	}
	if len(dark) != 2 || dark[0] != dark[1] {
		t.Error("the dark theme that is chosen is not the one that the system asks for")
	}
}

// contrast is the contrast ratio of WCAG 2.
func contrast(a, b [3]float64) float64 {
	luminance := func(c [3]float64) (l float64) {
		for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
			v := c[i] / 255
			if v <= 0.04045 {
				v /= 12.92
			} else {
				v = math.Pow((v+0.055)/1.055, 2.4)
			}
			l += weight * v
		}
		return l
	}
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}
