package gateway

import (
	"context"
	"net/http"

	"github.com/carebus/carebus/eventstore"
)

// The hooks of a gateway are those of its platform (carebus.Options.Hooks) that have one or more of these methods. Hooks are
// called by many goroutines at once, and return at once.
type (
	// RequestHook is told of requests.
	RequestHook interface {
		// OnRequest is called when a request comes in, before anything is known of its sender. It returns the request to go on
		// with and, unless it is nil, a function that is called once, when it has been answered: with the pattern of the route,
		// which is empty when there is none, and the status, which is 0 when the connection was broken off.
		OnRequest(r *http.Request) (*http.Request, func(route string, status int))
	}
	// LiveHook is told how many live streams are open, whenever that changes.
	LiveHook interface {
		OnLive(clients int)
	}
	// DeliveryHook is told of webhooks being posted.
	DeliveryHook interface {
		// OnDelivery is called before an event is posted. It returns the context to post it with, whose span, if there is one,
		// is sent as the traceparent, and, unless it is nil, a function that is called once, with how it went.
		OnDelivery(ctx context.Context, webhook string, r eventstore.Record) (context.Context, func(outcome string, status int))
	}
	// DenialHook is told of what was denied: the verb that was not granted, or "enter" for credentials that were not accepted.
	DenialHook interface {
		OnDenial(verb string)
	}
)

// hooks are those of the platform by what they are told of.
type hooks struct {
	requests   []RequestHook
	live       []LiveHook
	deliveries []DeliveryHook
	denials    []DenialHook
}

func hooksOf(all []any) (h hooks) {
	for _, one := range all {
		if x, ok := one.(RequestHook); ok {
			h.requests = append(h.requests, x)
		}
		if x, ok := one.(LiveHook); ok {
			h.live = append(h.live, x)
		}
		if x, ok := one.(DeliveryHook); ok {
			h.deliveries = append(h.deliveries, x)
		}
		if x, ok := one.(DenialHook); ok {
			h.denials = append(h.denials, x)
		}
	}
	return h
}

// request tells of a request. The function that it returns is nil without hooks.
func (h hooks) request(r *http.Request) (*http.Request, func(route string, status int)) {
	if len(h.requests) == 0 {
		return r, nil
	}
	var ends []func(string, int)
	for _, hook := range h.requests {
		var end func(string, int)
		if r, end = hook.OnRequest(r); end != nil {
			ends = append(ends, end)
		}
	}
	return r, func(route string, status int) {
		for _, end := range ends {
			end(route, status)
		}
	}
}

// delivery tells of a post.
func (h hooks) delivery(ctx context.Context, webhook string, r eventstore.Record) (context.Context, func(outcome string, status int)) {
	var ends []func(string, int)
	for _, hook := range h.deliveries {
		var end func(string, int)
		if ctx, end = hook.OnDelivery(ctx, webhook, r); end != nil {
			ends = append(ends, end)
		}
	}
	return ctx, func(outcome string, status int) {
		for _, end := range ends {
			end(outcome, status)
		}
	}
}

func (h hooks) denied(verb string) {
	for _, hook := range h.denials {
		hook.OnDenial(verb)
	}
}
