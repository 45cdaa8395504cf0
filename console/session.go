package console

import (
	"crypto/rand"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	cookieName  = "carebus-session"
	sessionLife = 12 * time.Hour // at most
	sessionIdle = time.Hour      // without a request
	mostOfThem  = 10_000
)

// sessions are those who have signed in, in this process. A session holds the token: each request is admitted with it anew.
type sessions struct {
	mu   sync.Mutex
	byID map[string]*session
}

type session struct {
	token       string
	began, last time.Time
}

// begin opens a session for a token that was admitted.
func (s *sessions) begin(token string, now time.Time) (id string) {
	id = rand.Text() + rand.Text()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]*session{}
	}
	for old, x := range s.byID {
		if x.over(now) || len(s.byID) >= mostOfThem {
			delete(s.byID, old)
		}
	}
	s.byID[id] = &session{token: token, began: now, last: now}
	return id
}

func (x *session) over(now time.Time) bool {
	return now.Sub(x.began) > sessionLife || now.Sub(x.last) > sessionIdle
}

// token of a session, unless it is over. Only what a person does (touch) keeps it from idling away, not an open page.
func (s *sessions) token(id string, now time.Time, touch bool) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.byID[id]
	if x == nil {
		return "", false
	}
	if x.over(now) {
		delete(s.byID, id)
		return "", false
	}
	if touch {
		x.last = now
	}
	return x.token, true
}

func (s *sessions) end(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

// credentials puts the token of a request's session where the gateway looks for one. A request that brings a token of its
// own keeps it.
func (s *sessions) credentials(r *http.Request) *http.Request {
	if r.Header.Get("Authorization") != "" {
		return r
	}
	c, err := r.Cookie(cookieName)
	if err != nil {
		return r
	}
	token, ok := s.token(c.Value, time.Now(), r.Header.Get("X-Console-Live") == "" && r.URL.Path != base+"live")
	if !ok {
		return r
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

func (q *request) session() string {
	if c, err := q.r.Cookie(cookieName); err == nil {
		if _, ok := q.sessions.token(c.Value, time.Now(), false); ok {
			return c.Value
		}
	}
	return ""
}

func sessionCookie(r *http.Request, value string, age int) *http.Cookie {
	return &http.Cookie{Name: cookieName, Value: value, Path: base, MaxAge: age, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: r.TLS != nil}
}

// signRoutes let people in and out. They are asked for no credentials.
func (s *server) signRoutes() {
	type form struct {
		Next  string
		Wrong bool
	}
	ask := func(w http.ResponseWriter, r *http.Request, status int, f form) {
		q := &request{server: s, w: w, r: r, q: r.URL.Query()}
		if err := q.render(&view{Template: "signin", Title: "Sign in", Status: status, Data: f}); err != nil {
			s.log.Error("console: sign-in page failed", "error", err.Error())
		}
	}
	s.mux.HandleFunc("GET "+base+"sign-in", func(w http.ResponseWriter, r *http.Request) {
		ask(w, r, http.StatusOK, form{Next: within(r.URL.Query().Get("next"))})
	})
	s.mux.HandleFunc("POST "+base+"sign-in", func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		token := strings.TrimSpace(r.PostFormValue("token"))
		next := within(r.PostFormValue("next"))
		try := r.Clone(r.Context())
		try.Header.Set("Authorization", "Bearer "+token)
		if token == "" {
			ask(w, r, http.StatusUnauthorized, form{Next: next, Wrong: true})
			return
		}
		_, leave, err := s.g.Enter(try)
		if err != nil {
			ask(w, r, http.StatusUnauthorized, form{Next: next, Wrong: true})
			return
		}
		leave()
		http.SetCookie(w, sessionCookie(r, s.sessions.begin(token, time.Now()), int(sessionLife.Seconds())))
		http.Redirect(w, r, next, http.StatusSeeOther)
	})
	s.mux.HandleFunc("POST "+base+"sign-out", func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie(cookieName); err == nil {
			s.sessions.end(c.Value)
		}
		http.SetCookie(w, sessionCookie(r, "", -1))
		http.Redirect(w, r, base+"sign-in", http.StatusSeeOther)
	})
}

// within is an address of the console; another one becomes its first page.
func within(next string) string {
	if !strings.HasPrefix(next, base) || strings.ContainsAny(next, "\\\r\n") || strings.HasPrefix(next, base+"sign-") {
		return base
	}
	return next
}
