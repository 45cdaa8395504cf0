package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
)

type callerKey struct{}

// caller is who makes a request.
type caller struct {
	*auth.Principal
	remote string
}

func callerOf(ctx context.Context) caller {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok { // no route is without one: this is the answer to a mistake of ours
		return caller{Principal: &auth.Principal{}}
	}
	return c
}

// Caller is the principal of the request that ctx belongs to: for mounted handlers.
func Caller(ctx context.Context) *auth.Principal { return callerOf(ctx).Principal }

// admit finds out who is at the door and counts the request against their rate. leave is called when the request is over.
func (g *Gateway) admit(r *http.Request) (admitted *http.Request, leave func(), err error) {
	c := caller{Principal: everyone, remote: r.RemoteAddr}
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		c.remote = host
	}
	if g.o.Door != nil {
		p, err := g.o.Door.Authenticate(r)
		if err != nil {
			g.log.Info("gateway: refused at the door", "remote", c.remote, "error", err.Error())
			// The route, not the path: whoever has no credentials must not write into the store, and paths hold the ids of patients.
			g.tellDenied(r.Context(), "(unknown)", "enter", r.Pattern, "credentials", c.remote)
			problem := newProblem(http.StatusUnauthorized, "unauthorized", "%s", refusedAtTheDoor)
			problem.headers = [][]string{{"WWW-Authenticate", `Bearer realm="carebus"`}}
			if errors.Is(err, auth.ErrBadCredentials) {
				problem.headers[0][1] += `, error="invalid_token"`
			}
			return r, nil, problem
		}
		c.Principal = p
	}
	if !c.Allow(1) {
		return r, nil, c.tooFast("requests")
	}
	leave = func() {}
	if g.o.Door != nil {
		var ok bool
		if leave, ok = g.guests.enter(c.Name); !ok {
			return r, nil, tooMany("%s has %d requests under way, which is as many as it may", c.Name, g.guests.most)
		}
	}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, c)), leave, nil
}

// still finds out anew who makes a request that lasts: the policy may have changed, credentials may have expired.
func (g *Gateway) still(r *http.Request) (context.Context, error) {
	c := callerOf(r.Context())
	if g.o.Door != nil {
		p, err := g.o.Door.Authenticate(r)
		if err != nil {
			return nil, err
		}
		c.Principal = p
	}
	return context.WithValue(r.Context(), callerKey{}, c), nil
}

func (c caller) tooFast(of string) error {
	p := tooMany("%s has used up its rate of %s", c.Name, of)
	p.Type, p.Retry = "urn:carebus:problem:rate", seconds(c.Wait().Seconds())
	return p
}

// refusedAtTheDoor is all that a client learns; the log says more.
const refusedAtTheDoor = "credentials are missing or not accepted; send \"Authorization: Bearer TOKEN\" or a client certificate"

var everyone = auth.Anyone()

// raw makes a handler of a function that reads the request itself.
func (g *Gateway) raw(fn func(w http.ResponseWriter, r *http.Request) error, parameters ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r, leave, err := g.admit(r)
		if err == nil {
			defer leave()
			err = known(r, parameters)
		}
		if err == nil {
			err = fn(w, r)
		}
		if err != nil {
			g.logProblem(r, err)
			writeProblem(w, err)
		}
	}
}

// known refuses query parameters that do not exist: a filter with a misspelt name would find everything.
func known(r *http.Request, parameters []string) error {
	for name := range r.URL.Query() {
		if !slices.Contains(parameters, name) {
			return badRequest("there is no query parameter of this name; there are: %s", strings.Join(parameters, ", "))
		}
	}
	return nil
}

func (g *Gateway) logProblem(r *http.Request, err error) {
	if p := problemOf(err); p.Status >= 500 {
		g.log.Error("gateway: request failed", "method", r.Method, "path", r.URL.Path, "status", p.Status, "error", err.Error())
	}
}

// maxTyped bounds the bodies of typed operations.
const maxTyped = 1 << 20

// register adds a typed operation: the caller is admitted first, and errors of the platform become problems.
func register[I, O any](g *Gateway, op huma.Operation, fn func(ctx context.Context, in *I) (*O, error)) {
	op.Middlewares = append(op.Middlewares, func(hc huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(hc)
		admitted, leave, err := g.admit(r)
		if err != nil {
			writeProblem(w, err)
			return
		}
		defer leave()
		if r.Body != nil && r.Body != http.NoBody { // huma answers 500 to a client that breaks off
			data, done, err := g.bodies.read(w, admitted, maxTyped)
			if err != nil {
				writeProblem(w, err)
				return
			}
			defer done()
			r.Body = io.NopCloser(bytes.NewReader(data))
		}
		next(huma.WithContext(hc, admitted.Context()))
	})
	op.MaxBodyBytes = maxTyped
	if len(op.Errors) == 0 {
		op.Errors = []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusTooManyRequests}
	}
	huma.Register(g.api, op, func(ctx context.Context, in *I) (*O, error) {
		ctx, stop := context.WithCancel(ctx)
		defer stop()
		defer context.AfterFunc(g.ending, stop)()
		out, err := fn(ctx, in)
		if err != nil {
			p := problemOf(err)
			if p.Status >= 500 {
				g.log.Error("gateway: request failed", "operation", op.OperationID, "status", p.Status, "error", err.Error())
			}
			return nil, p
		}
		return out, nil
	})
}

// may checks that the caller may do something with events of a type.
func (g *Gateway) may(ctx context.Context, v auth.Verb, eventType string) error {
	if callerOf(ctx).May(v, eventType) {
		return nil
	}
	return g.deny(ctx, v, eventType)
}

// mayAll checks that the caller may do something with all types that the patterns fit.
func (g *Gateway) mayAll(ctx context.Context, v auth.Verb, patterns ...string) error {
	c := callerOf(ctx)
	for _, pattern := range patterns {
		if !c.MayAll(v, pattern) {
			return g.deny(ctx, v, pattern)
		}
	}
	return nil
}

// maySome checks that the caller may do something at all.
func (g *Gateway) maySome(ctx context.Context, v auth.Verb) error {
	if callerOf(ctx).MaySome(v) {
		return nil
	}
	return g.deny(ctx, v, "")
}

// mayGroup checks that the caller may operate a group: all that it consumes.
func (g *Gateway) mayGroup(ctx context.Context, v auth.Verb, name string) error {
	status, err := g.p.Bus().Group(ctx, name)
	switch {
	case err != nil && !errors.Is(err, bus.ErrNoGroup):
		return err
	case err != nil && callerOf(ctx).MayAll(v, "**"): // they may know that it does not exist
		return nil
	case err == nil && callerOf(ctx).mayAllOf(v, status.Patterns):
		return nil
	}
	return g.deny(ctx, v, "group "+name) // who may not see it does not learn whether it exists
}

// deny refuses, and tells so in the log of events.
func (g *Gateway) deny(ctx context.Context, v auth.Verb, resource string) error {
	c := callerOf(ctx)
	g.tellDenied(ctx, c.Name, string(v), resource, "no grant", c.remote)
	return newProblem(http.StatusForbidden, "forbidden", "%s may not %s%s", c.Name, v, of(resource))
}

func of(resource string) string {
	if resource == "" {
		return " anything"
	}
	return " " + resource
}

// act is who operates, and why, for the audit.
func act(ctx context.Context, reason string) bus.Act {
	return bus.Act{Actor: callerOf(ctx).Name, Reason: strings.TrimSpace(reason)}
}
