package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/confluent"
	"github.com/carebus/carebus/event"
)

// Options of a gateway. The zero value works, and lets everybody do everything: for loopback only.
type Options struct {
	// Door says who may do what. Nil lets everybody do everything.
	Door *auth.Door
	// States folds the entities whose state can be asked for, by the category of their streams.
	States map[string]State
	// MaxBody bounds the bytes of one request body. Default 16 MiB.
	MaxBody int64
	// MaxBodies bounds the bytes of all request bodies that are being read and handled. Default 128 MiB.
	MaxBodies int64
	// MaxEvents bounds the events of one request. Default 10,000.
	MaxEvents int
	// AtOnce bounds the requests of one principal that are under way, live streams and waiting fetches among them, and half
	// of MaxBodies is for one principal at most: one must not hinder the others. It counts when there is a Door.
	// Default 1000.
	AtOnce int
	// PublishWait is how long a publication waits for a place in the queue of writers before it is refused with 429.
	// Default 5 s.
	PublishWait time.Duration
	// Heartbeat is the longest silence of a live stream. Default 15 s.
	Heartbeat time.Duration
	// Webhooks are the settings of pushed deliveries.
	Webhooks WebhookOptions
	// Mount are further handlers, by pattern of http.ServeMux: /metrics, a schema registry.
	Mount map[string]Mount
	// Logger receives what an operator should know; never a payload. Default slog.Default().
	Logger *slog.Logger
}

// Mount is a handler that the gateway serves beside its own. Without a Verb it does its own checks of who may do what;
// the caller is in the request's context (Caller).
type Mount struct {
	Handler http.Handler
	Verb    auth.Verb // that the caller must have for some event type
	Open    bool      // no credentials are asked for
}

// State folds an entity: at a version, or as it was known at a time, or now when both are zero. What it returns is the state
// as JSON, its version, and the event type whose schema says which members are protected.
type State func(ctx context.Context, p *carebus.Platform, id string, version int64, at time.Time) (EntityState, error)

// EntityState is an entity as its events tell.
type EntityState struct {
	Version    int64           `json:"version"`
	RecordedAt time.Time       `json:"recordedAt"`
	State      json.RawMessage `json:"state"`
	As         event.Metadata  `json:"-"` // an event type and version whose members have the names of the state's
}

// Gateway serves a platform over HTTP. It is safe for concurrent use. The platform's Run must be under way for consumers
// and webhooks to be served.
type Gateway struct {
	p       *carebus.Platform
	o       Options
	log     *slog.Logger
	mux     *http.ServeMux
	api     huma.API
	bodies  bodies
	hub     *hub
	groups  *consumers
	hooks   *webhooks
	told    hooks
	denials denials
	scan    int64 // events that one search looks at
	guests  guests

	ending  context.Context // ends with Close: long requests end then
	end     context.CancelFunc
	once    sync.Once
	running sync.WaitGroup
}

// New returns a gateway over a platform, creates its tables, and joins the groups and webhooks that the store knows of.
func New(ctx context.Context, p *carebus.Platform, o *Options) (*Gateway, error) {
	g := &Gateway{p: p, mux: http.NewServeMux(), scan: scanBudget}
	if o != nil {
		g.o = *o
	}
	g.o.MaxBody = orElse(g.o.MaxBody, 16<<20)
	g.o.MaxBodies = orElse(g.o.MaxBodies, 128<<20)
	g.o.MaxEvents = orElse(g.o.MaxEvents, 10_000)
	g.guests.most = orElse(g.o.AtOnce, 1000)
	g.o.PublishWait = orElse(g.o.PublishWait, 5*time.Second)
	g.o.Heartbeat = orElse(g.o.Heartbeat, 15*time.Second)
	if g.log = g.o.Logger; g.log == nil {
		g.log = slog.Default()
	}
	if p.Bus() == nil {
		return nil, fmt.Errorf("gateway: %w", carebus.ErrReadOnly)
	}
	g.bodies.budget, g.bodies.share = g.o.MaxBodies, g.o.MaxBodies
	if g.o.Door != nil {
		g.bodies.share = max(g.o.MaxBodies/2, min(g.o.MaxBody, g.o.MaxBodies))
	}
	g.ending, g.end = context.WithCancel(context.Background())
	if err := p.Store().Migrate(ctx, "gateway", tables...); err != nil {
		return nil, fmt.Errorf("gateway: tables: %w", err)
	}
	g.told = hooksOf(p.Hooks())
	g.hub = newHub(g.ending, p.Store(), g.told.live)
	g.groups = newConsumers(g)
	g.hooks = newWebhooks(g)
	g.routes()
	if err := errors.Join(g.registryRoutes(), g.sync(ctx)); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	g.running.Go(g.housekeeping)
	return g, nil
}

// sync brings this process in line with the groups and webhooks that the store knows of, which other gateways may have made,
// changed or removed.
func (g *Gateway) sync(ctx context.Context) error {
	return errors.Join(g.groups.load(ctx), g.hooks.load(ctx))
}

// housekeeping is done every few seconds until the gateway ends.
func (g *Gateway) housekeeping() {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-g.ending.Done():
			return
		case <-tick.C:
		}
		g.tellRest(g.ending, false)
		if err := errors.Join(g.sync(g.ending), g.hooks.sweep(g.ending), g.hooks.log.flush(g.ending)); err != nil && g.ending.Err() == nil {
			g.log.Warn("gateway: housekeeping", "error", err.Error())
		}
	}
}

func orElse[N ~int | ~int64](n, otherwise N) N {
	if n <= 0 {
		return otherwise
	}
	return n
}

// Close ends live streams and waiting requests, breaks off deliveries to consumers over HTTP, which are given anew later,
// and leaves the groups that it has joined; a post to a webhook that is under way is waited for. Requests that are being
// answered are the server's to wait for. Close is idempotent.
func (g *Gateway) Close() (err error) {
	g.once.Do(func() {
		g.end()
		g.hub.wait()
		g.running.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), g.hooks.o.Timeout+5*time.Second)
		defer cancel()
		err = g.leaveAll(ctx)
		g.hooks.client.CloseIdleConnections()
		g.tellRest(ctx, true)
		err = errors.Join(err, g.hooks.log.flush(ctx))
	})
	return err
}

// leaveAll leaves the groups of webhooks and of consumers over HTTP, so that other gateways have them.
func (g *Gateway) leaveAll(ctx context.Context) error {
	var mu sync.Mutex
	var err error
	var leaving sync.WaitGroup
	for _, name := range slices.Concat(g.groups.names(), g.hooks.names()) {
		leaving.Go(func() {
			lerr := g.p.Bus().Leave(ctx, name)
			mu.Lock()
			defer mu.Unlock()
			err = errors.Join(err, lerr)
		})
	}
	leaving.Wait()
	return err
}

// routes says who answers what.
func (g *Gateway) routes() {
	config := huma.DefaultConfig("carebus", "v1")
	config.Info.Description = "The HTTP API of carebus, an event-driven platform for healthcare services. Errors are problem documents (RFC 9457)."
	config.DocsPath, config.OpenAPIPath, config.SchemasPath = "", "", ""
	config.RejectUnknownQueryParameters = true // a filter with a misspelt name would find everything
	config.CreateHooks = nil                   // links to schemas in every answer
	config.Transformers = []huma.Transformer{ownProblems}
	if g.o.Door != nil {
		config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
			"bearer": {Type: "http", Scheme: "bearer", Description: "A token of the policy file, or a JWT of an issuer named there."},
			"mtls":   {Type: "mutualTLS", Description: "A client certificate."},
		}
		config.Security = []map[string][]string{{"bearer": {}}, {"mtls": {}}}
	}
	g.api = humago.New(g.mux, config)
	g.healthRoutes()
	g.publishRoutes()
	g.searchRoutes()
	g.flowRoutes()
	g.liveRoutes()
	g.groupRoutes()
	g.consumeRoutes()
	g.deadLetterRoutes()
	g.sagaRoutes()
	g.schemaRoutes()
	g.webhookRoutes()
	g.docRoutes()
	for pattern, m := range g.o.Mount {
		g.mux.Handle(pattern, g.mounted(pattern, m))
	}
}

// registryRoutes serve the registry as Confluent's clients know it.
func (g *Gateway) registryRoutes() error {
	h, err := confluent.New(g.p, &confluent.Options{
		Authorize: func(r *http.Request, write bool, eventType string) error {
			c := callerOf(r.Context())
			switch {
			case write && eventType != "" && c.May(auth.Register, eventType), write && eventType == "" && c.MayAll(auth.Register, "**"):
				return nil
			case write:
				return g.deny(r.Context(), auth.Register, eventType)
			}
			return g.seeSchemas(r.Context())
		},
		Caller: func(r *http.Request) string { return callerOf(r.Context()).Name },
		Logger: g.log,
	})
	if err != nil {
		return fmt.Errorf("gateway: registry: %w", err)
	}
	g.mux.Handle("/registry/", g.mounted("/registry/", Mount{Handler: http.StripPrefix("/registry", h)}))
	return nil
}

func (g *Gateway) mounted(pattern string, m Mount) http.Handler {
	if m.Open {
		return m.Handler
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, leave, err := g.admit(r)
		if err == nil {
			defer leave()
		}
		if err == nil && m.Verb != "" && !callerOf(r.Context()).MaySome(m.Verb) {
			err = g.deny(r.Context(), m.Verb, pattern)
		}
		if err != nil {
			writeProblem(w, err)
			return
		}
		m.Handler.ServeHTTP(w, r)
	})
}

// ServeHTTP answers a request. A panic of a handler is answered with 500 and logged.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	t := &tracked{ResponseWriter: w}
	r, end := g.told.request(r)
	defer func() {
		if end != nil {
			// The mux has written the pattern into the request.
			defer func() { end(r.Pattern, t.status) }()
		}
		if v := recover(); v != nil {
			if v == http.ErrAbortHandler { //nolint:errorlint // it is this very value that the server knows
				panic(v)
			}
			g.log.Error("gateway: panic", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(v))
			if !t.begun {
				writeProblem(t, fmt.Errorf("panic: %v", v))
			}
		}
	}()
	h := t.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	g.mux.ServeHTTP(t, r)
	if t.status == 0 {
		t.status = http.StatusOK // what the server sends when nothing was written
	}
}

// tracked knows whether an answer has begun.
type tracked struct {
	http.ResponseWriter
	begun  bool
	status int // 0 until it is known
}

func (t *tracked) WriteHeader(status int) {
	t.begun = true
	if t.status == 0 && status >= 200 {
		t.status = status
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracked) Write(p []byte) (int, error) {
	t.begun = true
	if t.status == 0 {
		t.status = http.StatusOK
	}
	return t.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (t *tracked) Unwrap() http.ResponseWriter { return t.ResponseWriter }
