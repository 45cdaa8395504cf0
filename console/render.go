package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// templates are the pages by name, each with the layout.
var templates = mustParse()

func mustParse() map[string]*template.Template {
	shared := template.Must(template.New("").Funcs(funcs).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	out := map[string]*template.Template{}
	names, err := fs.Glob(pageFiles, "pages/*.html")
	if err != nil {
		panic(err)
	}
	for _, name := range names {
		if page := strings.TrimSuffix(path.Base(name), ".html"); page != "layout" && page != "parts" {
			out[page] = template.Must(template.Must(shared.Clone()).ParseFS(pageFiles, name))
		}
	}
	return out
}

// frame is what the layout knows.
type frame struct {
	*view
	Theme string // light, dark, or empty for what the reader's system says
	User  string
	Told  string
	Out   bool // can sign out
	Curl  string
	Here  string // path and query of the page
	Nav_  []navigation
}

type navigation struct {
	Name, Path, Key string
	Here            bool
	Gap             bool // a new section begins
}

var entries = []navigation{
	{Name: "Overview", Path: "", Key: "o"},
	{Name: "Tail", Path: "tail", Key: "t"},
	{Name: "Search", Path: "search", Key: "s"},
	{Name: "Flows", Path: "flows", Key: "f", Gap: true},
	{Name: "Topology", Path: "topology", Key: "y"},
	{Name: "Patients", Path: "patients", Key: "p"},
	{Name: "Sagas", Path: "sagas", Key: "a"},
	{Name: "Groups", Path: "groups", Key: "g", Gap: true},
	{Name: "Failures", Path: "failures", Key: "x"},
	{Name: "Jobs", Path: "jobs", Key: "j"},
	{Name: "Projections", Path: "projections", Key: "r"},
	{Name: "Catalog", Path: "catalog", Key: "c", Gap: true},
	{Name: "Audit", Path: "audit", Key: "u"},
}

// render writes a page.
func (q *request) render(v *view) error {
	f := frame{view: v, User: q.caller().Name, Out: q.session() != "", Here: q.r.URL.RequestURI(), Told: q.told()}
	if q.r.Method != http.MethodGet {
		f.Here = base
	}
	if c, err := q.r.Cookie("carebus-theme"); err == nil && (c.Value == "light" || c.Value == "dark") {
		f.Theme = c.Value
	}
	if v.API != "" {
		f.Curl = q.curl(v.Method, v.API)
	}
	f.Nav_ = slices.Clone(entries)
	for i := range f.Nav_ {
		f.Nav_[i].Here = f.Nav_[i].Name == v.Nav
	}
	var b bytes.Buffer
	t := templates[v.Template]
	if t == nil {
		return fmt.Errorf("console: no template %q", v.Template)
	}
	if err := t.ExecuteTemplate(&b, "layout", f); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	q.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if v.Status != 0 {
		q.w.WriteHeader(v.Status)
	}
	_, _ = b.WriteTo(q.w)
	return nil
}

// curl is the command that asks the API the same.
func (q *request) curl(method, path string) string {
	scheme := "http"
	if q.r.TLS != nil {
		scheme = "https"
	}
	out := "curl -s"
	if method != "" {
		out += " -X " + method
	}
	if !q.o.Local {
		out += ` -H "Authorization: Bearer $TOKEN"`
	}
	return out + " " + quoted(scheme+"://"+q.r.Host+path)
}

// quoted is a text as one word of a shell's command.
func quoted(s string) string {
	safe := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:@%+,=", r)
	}) < 0
	if safe {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// command is a carebus command with its arguments; empty ones are left out together with a flag before them.
func command(words ...string) string {
	out := []string{"carebus"}
	for _, w := range words {
		if w == "" {
			if n := len(out); strings.HasPrefix(out[n-1], "--") {
				out = out[:n-1]
			}
			continue
		}
		out = append(out, quoted(w))
	}
	return strings.Join(out, " ")
}

// assets are served under the hash of all of them, and so may be kept for ever.
var assetHash = func() string {
	h := sha256.New()
	files, err := fs.Glob(assetFiles, "assets/*")
	if err != nil {
		panic(err)
	}
	for _, name := range files {
		text, err := assetFiles.ReadFile(name)
		if err != nil {
			panic(err)
		}
		_, _ = h.Write(text)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}()

func (s *server) assetRoutes() {
	s.mux.HandleFunc("GET "+base+"assets/{hash}/{name}", func(w http.ResponseWriter, r *http.Request) {
		text, err := assetFiles.ReadFile("assets/" + r.PathValue("name"))
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(r.PathValue("name"))))
		if r.PathValue("hash") == assetHash {
			w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		_, _ = w.Write(text)
	})
}

var funcs = template.FuncMap{
	"asset":    func(name string) string { return base + "assets/" + assetHash + "/" + name },
	"at":       func(parts ...string) string { return at(parts...) },
	"setq":     with,
	"clean":    clean,
	"count":    count,
	"domain":   domain,
	"dotted":   dotted,
	"dur":      duration,
	"iso":      func(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") },
	"clock":    func(t time.Time) string { return t.UTC().Format("15:04:05.000") },
	"stamp":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") },
	"ago":      func(t time.Time) string { return ago(time.Since(t)) },
	"millis":   func(ms int64) time.Time { return time.UnixMilli(ms).UTC() },
	"json":     jsonHTML,
	"tail":     tailOf,
	"percent":  func(part, of int64) int64 { return percent(part, of) },
	"join":     strings.Join,
	"args":     args,
	"raw":      func(v json.RawMessage) string { return string(v) },
	"len64":    func(s []string) int64 { return int64(len(s)) },
	"has":      slices.Contains[[]string],
	"contains": strings.Contains,
	"sub":      func(a, b int64) int64 { return a - b },
	"add":      func(a, b int) int { return a + b },
	"zero":     func(t time.Time) bool { return t.IsZero() },
	"ms":       func(f float64) string { return duration(time.Duration(f * float64(time.Millisecond))) },
}

// at is an address in the console: segments, escaped.
func at(parts ...string) string {
	out := make([]string, len(parts))
	for i, p := range parts {
		out[i] = url.PathEscape(p)
	}
	return base + strings.Join(out, "/")
}

// with is an address with one parameter changed, or taken out when the value is empty. A cursor belongs to the other
// parameters and goes.
func with(here, name, value string) string {
	u, err := url.Parse(here)
	if err != nil {
		return base
	}
	q := u.Query()
	q.Del("cursor")
	if q.Set(name, value); value == "" {
		q.Del(name)
	}
	u.RawQuery = q.Encode()
	return u.RequestURI()
}

func args(pairs ...any) (map[string]any, error) {
	if len(pairs)%2 != 0 {
		return nil, fmt.Errorf("args: a name without a value")
	}
	out := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		out[fmt.Sprint(pairs[i])] = pairs[i+1]
	}
	return out, nil
}

// mostShown bounds a text in a page; the rest is counted.
const mostShown = 4000

// clean is a text that came from outside, as it may be shown: what is invisible, or would turn the direction of reading, is
// spelled out, and what is very long is cut. Escaping for HTML is the templates' own.
func clean(s string) string {
	more := 0
	if len(s) > mostShown {
		cut := mostShown
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		more, s = utf8.RuneCountInString(s[cut:]), s[:cut]
	}
	if strings.IndexFunc(s, hidden) >= 0 || !utf8.ValidString(s) {
		var b strings.Builder
		for _, r := range s {
			switch {
			case r == '\n' || r == '\t':
				b.WriteRune(r)
			case hidden(r):
				fmt.Fprintf(&b, `\u%04x`, r)
			default:
				b.WriteRune(r)
			}
		}
		s = b.String()
	}
	if more > 0 {
		s += fmt.Sprintf("… and %s more characters", count(int64(more)))
	}
	return s
}

// dotted is an event type that may be broken behind its dots where a line is short.
func dotted(eventType string) template.HTML {
	text := template.HTMLEscapeString(clean(eventType))
	return template.HTML(strings.NewReplacer(".", ".<wbr>", "-", "-<wbr>").Replace(text)) //nolint:gosec // escaped before
}

func hidden(r rune) bool {
	return r == utf8.RuneError || !unicode.IsPrint(r) && r != '\n' && r != '\t'
}

// tailOf is the end of an id, by which people tell ids apart.
func tailOf(id string) string {
	id = clean(id)
	if r := []rune(id); len(r) > 12 {
		return "…" + string(r[len(r)-8:])
	}
	return id
}

// domain of an event type, when it is one that has a colour.
func domain(eventType string) string {
	d, _, _ := strings.Cut(eventType, ".")
	return d
}

func count(v any) string {
	var n int64
	switch v := v.(type) {
	case int:
		n = int64(v)
	case int64:
		n = v
	default:
		return fmt.Sprint(v)
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func percent(part, of int64) int64 {
	if of <= 0 {
		return 0
	}
	return max(0, min(100, part*100/of))
}

func duration(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// ago is a distance in time, for people.
func ago(d time.Duration) string {
	future := d < 0
	if future {
		d = -d
	}
	var s string
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		s = fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		s = fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		s = fmt.Sprintf("%dh", int(d.Hours()))
	case d < 730*24*time.Hour:
		s = fmt.Sprintf("%dd", int(d.Hours()/24))
	default:
		s = fmt.Sprintf("%dy", int(d.Hours()/24/365))
	}
	if future {
		return "in " + s
	}
	return s + " ago"
}
