package console

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/gateway"
	"github.com/carebus/carebus/projection"
)

// Options of a console. The zero value works, without the stories of entities.
type Options struct {
	// States folds the entities whose state can be shown: the same that the gateway has.
	States map[string]gateway.State
	// Histories tell what each event has made of an entity, by the category of their streams.
	Histories map[string]History
	// Story lists what has happened to a patient, of whatever service. Without it a patient's page has only their record.
	Story Story
	// Projections are the read models that can be compared with a rebuild, and rebuilt, from the console.
	Projections []*projection.Definition
	// Local says that the gateway has no policy: whoever reaches it may do everything. Requests under the name of another
	// host are refused then.
	Local bool
	// Logger receives what an operator should know; never a payload. Default slog.Default().
	Logger *slog.Logger
}

// History tells the steps of an entity's stream, from the first on. With reveal, protected values are shown.
type History func(ctx context.Context, p *carebus.Platform, id string, reveal bool, yield func(Step) error) error

// Step is one event in the history of an entity.
type Step struct {
	Version    int64
	RecordedAt time.Time
	EventID    string
	Type       string
	Source     string
	Changes    []Change
}

// Change is one member of an entity's state that an event has set, changed or removed.
type Change struct {
	Pointer  string          // JSON pointer into the state
	From, To json.RawMessage // nil: was not there, is not there any more
}

// Story lists what has happened to a patient, the newest first: limit moments, those before the one that the last page ended
// with, which is the zero Moment for the first page.
type Story func(ctx context.Context, p *carebus.Platform, patientID string, before Moment, limit int) ([]Moment, error)

// Moment is an event in a patient's story.
type Moment struct {
	At            time.Time
	EventID       string
	Type          string
	Title         string
	Source        string
	CorrelationID string
}

// Console makes the pages. It is safe for concurrent use.
type Console struct {
	ctx      context.Context // ends live streams and work under way
	stop     context.CancelFunc
	working  sync.WaitGroup
	p        *carebus.Platform
	o        Options
	log      *slog.Logger
	sessions sessions
	traffic  traffic
	rates    rates
	map_     mapCache
	work     works
}

// New returns a console over a platform. When ctx ends, live streams and work under way (rebuilds) end.
func New(ctx context.Context, p *carebus.Platform, o *Options) *Console {
	c := &Console{p: p}
	if o != nil {
		c.o = *o
	}
	if c.log = c.o.Logger; c.log == nil {
		c.log = slog.Default()
	}
	c.ctx, c.stop = context.WithCancel(ctx)
	return c
}

// Close ends live streams and work under way, and waits for the work. It is idempotent.
func (c *Console) Close() {
	c.stop()
	c.working.Wait()
}

// Mounts are the handlers to be served by the gateway.
func (c *Console) Mounts() map[string]gateway.Mount {
	home := http.RedirectHandler(base, http.StatusFound)
	return map[string]gateway.Mount{
		base:           {Open: true, Make: c.handler},
		"GET /{$}":     {Open: true, Handler: home},
		"GET /console": {Open: true, Handler: home},
	}
}

const base = "/console/"

// policy of what a page may load: this origin's files, and nothing inline.
const contentPolicy = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

// server answers requests, for one gateway.
type server struct {
	*Console
	g   *gateway.Gateway
	mux *http.ServeMux
}

// handler makes the handler of all pages.
func (c *Console) handler(g *gateway.Gateway) http.Handler {
	s := &server{Console: c, g: g, mux: http.NewServeMux()}
	s.routes()
	same := http.NewCrossOriginProtection()
	return same.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		if c.o.Local && !localName(r.Host) {
			http.Error(w, "without a policy the console is for this machine: use 127.0.0.1 or localhost", http.StatusMisdirectedRequest)
			return
		}
		s.mux.ServeHTTP(w, r)
	}))
}

// localName says whether a host's name is this machine's for sure.
func localName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	at, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && at.Unmap().IsLoopback()
}

// request is one request for a page, admitted.
type request struct {
	*server
	w http.ResponseWriter
	r *http.Request
	q url.Values
}

func (q *request) ctx() context.Context    { return q.r.Context() }
func (q *request) caller() *auth.Principal { return gateway.Caller(q.r.Context()) }
func (q *request) path(name string) string { return q.r.PathValue(name) }

// may says whether the caller may do something with events of a type, or of all that a pattern fits.
func (q *request) mayAll(v auth.Verb, pattern string) error {
	if q.caller().MayAll(v, pattern) {
		return nil
	}
	return q.g.Deny(q.ctx(), v, pattern)
}

// view is what a page shows.
type view struct {
	Template string
	Title    string
	Nav      string // the entry of the navigation that it belongs to
	CLI      []string
	API      string // path and query of the API that gives the same answer
	Method   string // of it; GET when empty
	Live     string // query of the live stream whose news make the page look again; empty for none
	Status   int
	Data     any
}

// page answers GET requests with a view.
func (s *server) page(path string, fn func(q *request) (*view, error)) {
	s.mux.HandleFunc("GET "+base+path, s.admitted(func(q *request) error {
		v, err := fn(q)
		if err != nil || v == nil { // a view may have been answered otherwise
			return err
		}
		return q.render(v)
	}))
}

// form answers POST requests, by a view or by sending the browser elsewhere.
func (s *server) form(path string, fn func(q *request) (*view, error)) {
	s.mux.HandleFunc("POST "+base+path, s.admitted(func(q *request) error {
		q.r.Body = http.MaxBytesReader(q.w, q.r.Body, 4<<20)
		if err := q.r.ParseForm(); err != nil {
			return problem(http.StatusBadRequest, "the form could not be read")
		}
		v, err := fn(q)
		if err != nil || v == nil {
			return err
		}
		return q.render(v)
	}))
}

// admitted finds out who asks, and answers errors with a page.
func (s *server) admitted(fn func(q *request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r = s.sessions.credentials(r)
		entered, leave, err := s.g.Enter(r)
		q := &request{server: s, w: w, r: entered, q: r.URL.Query()}
		if err == nil {
			defer leave()
			err = fn(q)
		}
		if err != nil {
			q.fail(err)
		}
	}
}

// fail answers with an error.
func (q *request) fail(err error) {
	var p *gateway.Problem
	if !errors.As(err, &p) {
		if q.ctx().Err() != nil {
			return // nobody listens
		}
		q.log.Error("console: page failed", "path", q.r.URL.Path, "error", err.Error())
		p = problem(http.StatusInternalServerError, "the log says more")
	}
	if p.Status == http.StatusUnauthorized {
		if q.r.Method == http.MethodGet && !strings.HasPrefix(q.r.URL.Path, base+"live") {
			http.Redirect(q.w, q.r, base+"sign-in?next="+url.QueryEscape(q.r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
	}
	if err := q.render(&view{Template: "problem", Title: p.Title, Status: p.Status, Data: p}); err != nil {
		q.log.Error("console: error page failed", "error", err.Error())
	}
}

func problem(status int, format string, args ...any) *gateway.Problem {
	return &gateway.Problem{Title: http.StatusText(status), Status: status, Detail: fmt.Sprintf(format, args...)}
}

// done sends the browser to a page that shows what was done.
func (q *request) done(to, format string, args ...any) (*view, error) {
	text := base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, format, args...))
	http.SetCookie(q.w, &http.Cookie{Name: "carebus-done", Value: text, Path: base, MaxAge: 60, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: q.r.TLS != nil})
	http.Redirect(q.w, q.r, to, http.StatusSeeOther)
	return nil, nil
}

// told is what was done by the last act, said once.
func (q *request) told() string {
	c, err := q.r.Cookie("carebus-done")
	if err != nil || q.r.Header.Get("X-Console-Live") != "" {
		return ""
	}
	http.SetCookie(q.w, &http.Cookie{Name: "carebus-done", Path: base, MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: q.r.TLS != nil})
	text, err := base64.RawURLEncoding.DecodeString(c.Value)
	if err != nil {
		return ""
	}
	return string(text)
}

// get asks the API, as the caller, for what is at a path.
func (q *request) get(path string, query url.Values, out any) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return q.api(http.MethodGet, path, nil, out)
}

// api makes a request to the gateway in this process. Errors are *gateway.Problem.
func (q *request) api(method, path string, body, out any) error {
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	r, err := http.NewRequestWithContext(q.ctx(), method, path, bytes.NewReader(text))
	if err != nil {
		return problem(http.StatusBadRequest, "this is no address of the API")
	}
	if body == nil {
		r.Body = http.NoBody
	} else {
		r.Header.Set("Content-Type", "application/json")
	}
	r.RemoteAddr, r.Host = q.r.RemoteAddr, q.r.Host
	a := &answer{header: http.Header{}, status: http.StatusOK}
	q.g.ServeHTTP(a, r)
	if a.status >= 400 {
		p := &gateway.Problem{Title: http.StatusText(a.status), Status: a.status}
		_ = json.Unmarshal(a.body.Bytes(), p)
		return p
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = a.body.Bytes()
		return nil
	}
	if a.body.Len() == 0 {
		return nil
	}
	if err := json.Unmarshal(a.body.Bytes(), out); err != nil {
		return fmt.Errorf("console: answer of %s %s: %w", method, path, err)
	}
	return nil
}

// answer takes what the gateway answers.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// missing says whether an error is that something is not there, or not the caller's to see.
func missing(err error) bool {
	var p *gateway.Problem
	return errors.As(err, &p) && (p.Status == http.StatusNotFound || p.Status == http.StatusForbidden)
}
