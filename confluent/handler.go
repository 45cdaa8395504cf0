package confluent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/schema"
)

// mediaType is what every answer is.
const mediaType = "application/vnd.schemaregistry.v1+json"

// maxBody bounds the bytes of a request's body.
const maxBody = 2 << 20

// Registry is the platform that is served; *carebus.Platform is one.
type Registry interface {
	// Registry holds the schemas.
	Registry() *schema.Registry
	// Refresh brings the registry up to date with what other processes have registered.
	Refresh(ctx context.Context) error
	// RegisterSchema admits a version and records it, with the errors of schema.Registry.Propose.
	RegisterSchema(ctx context.Context, doc schema.Document) (schema.Proposal, error)
	// DeprecateSchema marks a version, or with an empty version the whole type, as not to be used any more.
	DeprecateSchema(ctx context.Context, eventType, version, reason, replacedBy string) error
	// Store has the history of the registry, and keeps the tables of this package.
	Store() *eventstore.Store
}

// Options of a handler. The zero value works, and lets everybody do everything: for loopback only.
type Options struct {
	// Authorize says whether a request may go on: it reads, or with write changes, the schemas of an event type, or with
	// an empty type the registry's own settings. Its error is the message of the answer, 403 with code 40301. A list,
	// and what is asked for by its global id, is asked about once for each type in it: those refused are left out. It is
	// called by many goroutines at once. Default: everything is allowed.
	Authorize func(r *http.Request, write bool, eventType string) error
	// Caller names who makes a request, for the registry's history. Default: nobody is named.
	Caller func(r *http.Request) string
	// Logger receives failures of the store. Default slog.Default().
	Logger *slog.Logger
}

// Handler serves the REST API. It is safe for concurrent use, and so are several handlers, in several processes, over one
// store. It may be mounted below a path with http.StripPrefix.
type Handler struct {
	r     Registry
	store *eventstore.Store
	o     Options

	mu  sync.Mutex
	mem memory
}

// New returns a handler over a platform and creates its tables in the platform's store, which must not be read-only.
// Global ids are given when they are first asked for.
func New(r Registry, o *Options) (*Handler, error) {
	if r == nil {
		return nil, errors.New("confluent: New needs a registry; give it an open platform")
	}
	h := &Handler{r: r, store: r.Store()}
	if o != nil {
		h.o = *o
	}
	if h.o.Logger == nil {
		h.o.Logger = slog.Default()
	}
	h.mem.order, h.mem.ids = map[string][]registration{}, map[string]storedText{}
	if err := h.store.Migrate(context.Background(), "confluent", tables...); err != nil {
		return nil, fmt.Errorf("confluent: tables: %w", err)
	}
	return h, nil
}

// ID returns the global id of a version of an event type, for AppendWire. What is not registered is a
// *schema.UnknownError.
func (h *Handler) ID(ctx context.Context, eventType, version string) (int, error) {
	ix, err := h.look(ctx)
	if err != nil {
		return 0, err
	}
	for _, v := range ix.subjects[eventType] {
		if v.semver == version {
			return v.text.id, nil
		}
	}
	if _, err := h.r.Registry().Get(eventType, version); err != nil {
		return 0, err
	}
	return 0, &schema.UnknownError{Type: eventType, Version: version, Known: h.r.Registry().Versions(eventType)}
}

// request is one request with what its path says.
type request struct {
	*http.Request
	path  map[string]string // wildcards of the route, unescaped
	query url.Values
}

func (r *request) ctx() context.Context { return r.Request.Context() }

func (r *request) flag(name string) bool { return strings.EqualFold(r.query.Get(name), "true") }

// route is one row of the API. A segment in braces is a wildcard.
type route struct {
	method, pattern string
	serve           func(h *Handler, r *request) (any, error)
}

var routes = []route{
	{"GET", "/", (*Handler).root},
	{"GET", "/schemas", (*Handler).schemas},
	{"GET", "/schemas/types", (*Handler).types},
	{"GET", "/schemas/ids/{id}", (*Handler).byID},
	{"GET", "/schemas/ids/{id}/schema", (*Handler).schemaByID},
	{"GET", "/schemas/ids/{id}/subjects", (*Handler).subjectsOfID},
	{"GET", "/schemas/ids/{id}/versions", (*Handler).versionsOfID},
	{"GET", "/schemas/guids/{guid}", (*Handler).byGUID},
	{"GET", "/schemas/guids/{guid}/ids", (*Handler).idsOfGUID},
	{"GET", "/subjects", (*Handler).subjects},
	{"POST", "/subjects/{subject}", (*Handler).lookup},
	{"DELETE", "/subjects/{subject}", (*Handler).deleteSubject},
	{"GET", "/subjects/{subject}/metadata", (*Handler).byMetadata},
	{"GET", "/subjects/{subject}/versions", (*Handler).versions},
	{"POST", "/subjects/{subject}/versions", (*Handler).register},
	{"GET", "/subjects/{subject}/versions/{version}", (*Handler).byVersion},
	{"DELETE", "/subjects/{subject}/versions/{version}", (*Handler).deleteVersion},
	{"GET", "/subjects/{subject}/versions/{version}/schema", (*Handler).schemaByVersion},
	{"GET", "/subjects/{subject}/versions/{version}/referencedby", (*Handler).referencedBy},
	{"POST", "/compatibility/subjects/{subject}/versions", (*Handler).compatibility},
	{"POST", "/compatibility/subjects/{subject}/versions/{version}", (*Handler).compatibility},
	{"GET", "/config", (*Handler).level},
	{"PUT", "/config", (*Handler).setLevel},
	{"DELETE", "/config", (*Handler).resetLevel},
	{"GET", "/config/{subject}", (*Handler).level},
	{"PUT", "/config/{subject}", (*Handler).setLevel},
	{"DELETE", "/config/{subject}", (*Handler).resetLevel},
	{"GET", "/mode", (*Handler).mode},
	{"PUT", "/mode", (*Handler).setMode},
	{"DELETE", "/mode", (*Handler).resetMode},
	{"GET", "/mode/{subject}", (*Handler).mode},
	{"PUT", "/mode/{subject}", (*Handler).setMode},
	{"DELETE", "/mode/{subject}", (*Handler).resetMode},
	{"GET", "/contexts", (*Handler).contexts},
}

// ServeHTTP answers one request of the API.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	answer, err := h.serve(r)
	status := http.StatusOK
	if err != nil {
		p := problemOf(err)
		if status = p.status(); status >= 500 && r.Context().Err() == nil { // else the client went away
			h.o.Logger.Error("confluent: request failed", "method", r.Method, "path", r.URL.Path, "code", p.Code, "error", err.Error())
		}
		answer = p
	}
	body, ok := answer.(json.RawMessage) // a schema's text goes out as it came in
	if !ok {
		if body, err = json.Marshal(answer); err != nil { // no answer is of a kind that cannot be written
			h.o.Logger.Error("confluent: answer cannot be written", "path", r.URL.Path, "error", err.Error())
			status, body = http.StatusInternalServerError, json.RawMessage(`{"error_code":50001,"message":"the answer cannot be written"}`)
		}
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone away gets nothing
}

func (h *Handler) serve(r *http.Request) (any, error) {
	segments, err := segmentsOf(r.URL)
	if err != nil {
		return nil, err
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	elsewhere := false
	for i := range routes {
		path, ok := routes[i].match(segments)
		if !ok {
			continue
		}
		if routes[i].method != method {
			elsewhere = true
			continue
		}
		req := &request{Request: r, path: path, query: r.URL.Query()}
		if subject, ok := path["subject"]; ok {
			// ":.:name" is the long form of a name in the only context there is.
			path["subject"] = strings.TrimPrefix(subject, ":.:")
		}
		return routes[i].serve(h, req)
	}
	switch {
	case elsewhere:
		return nil, refuse(methodNotAllowed, "HTTP 405 Method Not Allowed")
	case len(segments) > 0 && segments[0] == "associations":
		// Clients ask for these first, and go by the subject's name when told that there are none.
		return nil, refuse(codeSubject, "there are no associations: the subject is the event type")
	}
	return nil, refuse(noSuchResource, "HTTP 404 Not Found")
}

// segmentsOf splits the path as it was escaped, so that a subject may have a slash in it, and takes the context off.
func segmentsOf(u *url.URL) ([]string, error) {
	var segments []string
	for s := range strings.SplitSeq(strings.Trim(u.EscapedPath(), "/"), "/") {
		s, err := url.PathUnescape(s)
		if err != nil {
			return nil, refuse(malformed, "the path is not escaped as it should be")
		}
		segments = append(segments, s)
	}
	if len(segments) == 1 && segments[0] == "" {
		return nil, nil
	}
	if len(segments) > 2 && segments[0] == "contexts" {
		if c := segments[1]; c != "." && c != ":.:" {
			return nil, refuse(codeSubject, "Context '%s' not found: the only one is '.'", bounded(c))
		}
		segments = segments[2:]
	}
	return segments, nil
}

func (t *route) match(segments []string) (map[string]string, bool) {
	pattern := strings.Trim(t.pattern, "/")
	path := map[string]string{}
	i := 0
	for part := range strings.SplitSeq(pattern, "/") {
		if part == "" {
			break
		}
		if i == len(segments) {
			return nil, false
		}
		if name, ok := strings.CutPrefix(part, "{"); ok {
			path[strings.TrimSuffix(name, "}")] = segments[i]
		} else if part != segments[i] {
			return nil, false
		}
		i++
	}
	return path, i == len(segments)
}

// authorize asks whether the request may go on.
func (h *Handler) authorize(r *request, write bool, eventType string) error {
	if h.o.Authorize == nil {
		return nil
	}
	if err := h.o.Authorize(r.Request, write, eventType); err != nil {
		return refuse(codeForbidden, "%s", err)
	}
	return nil
}

// readBody reads the body as JSON. Types that a form on a foreign page can send are refused.
func readBody(r *request, into any) error {
	if t := r.Header.Get("Content-Type"); t != "" {
		t, _, err := mime.ParseMediaType(t)
		if err != nil || t != "application/json" && t != "application/octet-stream" && t != "application/vnd.schemaregistry+json" && t != mediaType {
			return refuse(unsupportedMedia, "HTTP 415 Unsupported Media Type: send %s", mediaType)
		}
	}
	body, err := io.ReadAll(r.Body)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return refuse(codeTooLarge, "the body is larger than %d bytes", large.Limit)
	case err != nil:
		return refuse(malformed, "the body could not be read to its end")
	}
	if json.Unmarshal(body, into) != nil {
		return refuse(malformed, "the body is not the JSON object that this resource takes")
	}
	return nil
}
