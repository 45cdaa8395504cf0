package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// WebhookOptions are the settings of pushed deliveries. The zero value works.
type WebhookOptions struct {
	// Allow are networks that are permitted though they are not on the public internet: for development. With any, http is
	// permitted beside https.
	Allow []netip.Prefix
	// Timeout bounds one delivery. Default 15 s.
	Timeout time.Duration
	// TLS are the settings for outgoing connections: a private certificate authority. Default: the system's.
	TLS *tls.Config
	// FirstPause and LongestPause are between tries: the first, doubling to the longest. Default 500 ms and 1 min.
	FirstPause, LongestPause time.Duration
	// Tries is how often an event is sent that its endpoint refuses, or that fails while others succeed, before its key is
	// parked. Default 8.
	Tries int
}

// webhookGroup begins the names of the groups on the bus by which webhooks are delivered.
const webhookGroup = "webhook:"

// WebhookSettings say what is pushed to where.
type WebhookSettings struct {
	URL         string   `json:"url" maxLength:"2000" doc:"Where events are posted to: https."`
	Patterns    []string `json:"patterns" minItems:"1" maxItems:"50" doc:"Patterns of the event types that are pushed."`
	Format      string   `json:"format,omitempty" enum:"native,cloudevents" default:"native" doc:"The body: a native envelope, or a CloudEvent in structured mode."`
	Start       string   `json:"start,omitempty" default:"now" doc:"Where a new webhook begins: now, beginning, or an RFC 3339 time of recording."`
	Description string   `json:"description,omitempty" maxLength:"500"`
}

// hookSecret is a signing key. Of several, each signs, so that a receiver can change over at any time.
type hookSecret struct {
	Key   string    `json:"key"`
	Until time.Time `json:"until,omitzero"` // when it ends; zero for the present one
}

// webhooks push events to endpoints. Each is a group on the bus, whose members are the gateways.
type webhooks struct {
	g      *Gateway
	o      WebhookOptions
	client *http.Client
	log    deliveryLog

	mu     sync.Mutex
	joined map[string]*hook
}

// hook is one webhook in this process.
type hook struct {
	id string
	ws *webhooks

	mu      sync.Mutex
	set     WebhookSettings
	secrets []hookSecret
	success time.Time            // of the last delivery that was accepted
	failing map[string]time.Time // events that have failed, since when
}

func newWebhooks(g *Gateway) *webhooks {
	o := g.o.Webhooks
	o.Timeout = orElse(o.Timeout, 15*time.Second)
	o.FirstPause, o.LongestPause = orElse(o.FirstPause, 500*time.Millisecond), orElse(o.LongestPause, time.Minute)
	o.Tries = orElse(o.Tries, 8)
	return &webhooks{g: g, o: o, client: guardedClient(o), log: deliveryLog{store: g.p.Store()}, joined: map[string]*hook{}}
}

// stored is a webhook as the store keeps it.
type stored struct {
	ID string `json:"id"`
	WebhookSettings
	secrets []hookSecret
}

func (ws *webhooks) read(ctx context.Context) (out []stored, err error) {
	err = ws.g.p.Store().View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT id, settings, secrets FROM carebus_webhooks ORDER BY id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var s stored
			var settings, secrets string
			if err := rows.Scan(&s.ID, &settings, &secrets); err != nil {
				return err
			}
			if err := errors.Join(json.Unmarshal([]byte(settings), &s.WebhookSettings), json.Unmarshal([]byte(secrets), &s.secrets)); err != nil {
				return fmt.Errorf("webhook %s: %w", s.ID, err)
			}
			out = append(out, s)
		}
		return rows.Err()
	})
	return out, err
}

// load brings this process in line with the store: webhooks that were made, changed or removed, here or elsewhere.
func (ws *webhooks) load(ctx context.Context) error {
	all, err := ws.read(ctx)
	if err != nil {
		return fmt.Errorf("gateway: webhooks: %w", err)
	}
	ws.mu.Lock()
	gone := make([]string, 0)
	for id := range ws.joined {
		if !slices.ContainsFunc(all, func(s stored) bool { return s.ID == id }) {
			gone = append(gone, id)
		}
	}
	ws.mu.Unlock()
	for _, id := range gone {
		err = errors.Join(err, ws.leave(ctx, id))
	}
	for _, s := range all {
		ws.mu.Lock()
		h := ws.joined[s.ID]
		ws.mu.Unlock()
		if h != nil {
			h.mu.Lock()
			same := slices.Equal(h.set.Patterns, s.Patterns)
			h.set, h.secrets = s.WebhookSettings, s.secrets
			h.mu.Unlock()
			if same {
				continue
			}
			err = errors.Join(err, ws.leave(ctx, s.ID))
		}
		err = errors.Join(err, ws.join(s))
	}
	return err
}

func (ws *webhooks) join(s stored) error {
	h := &hook{id: s.ID, ws: ws, set: s.WebhookSettings, secrets: s.secrets, failing: map[string]time.Time{}}
	start, err := startOf(s.Start)
	if err != nil {
		return err
	}
	opts := []bus.Option{
		bus.Start(start), bus.BatchSize(32, 1<<20), bus.Lanes(8), bus.Tries(ws.o.Tries), bus.Backoff(ws.o.FirstPause, ws.o.LongestPause),
		bus.Timeout(ws.o.Timeout + 5*time.Second),
	}
	for _, p := range s.Patterns {
		opts = append(opts, bus.OnForward(p, h.deliver))
	}
	if err := ws.g.p.Handle(webhookGroup+s.ID, opts...); err != nil {
		return err
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.joined[s.ID] = h
	return nil
}

func (ws *webhooks) leave(ctx context.Context, id string) error {
	ws.mu.Lock()
	delete(ws.joined, id)
	ws.mu.Unlock()
	return ws.g.p.Bus().Leave(ctx, webhookGroup+id)
}

// deliver posts one event, and says how it went in the terms of the bus.
func (h *hook) deliver(ctx context.Context, r eventstore.Record) error {
	d := bus.DeliveryFrom(ctx)
	h.mu.Lock()
	set, secrets := h.set, slices.Clone(h.secrets)
	h.mu.Unlock()
	// A post that is under way is waited for when the group is paused or the process ends: the receiver may have acted on it.
	ctx, end := h.ws.g.told.delivery(context.WithoutCancel(ctx), h.id, r)
	sent := h.ws.post(ctx, set, secrets, r.Event, d.Attempt)
	end(sent.Outcome, sent.Status)
	h.ws.log.add(entry{webhook: h.id, EventID: r.ID, Type: r.Type, Attempt: d.Attempt, Status: sent.Status, Outcome: sent.Outcome, TookMs: sent.TookMs, At: sent.At})
	return h.judge(r.ID, sent)
}

// judge says what becomes of an event after a delivery.
//
// What an endpoint refuses for good (a status below 500 that asks for no second try) is tried a few times and then parked:
// one event, one key. What says that the endpoint is down (no connection, a time-out, 429, 5xx) is tried for as long as it
// takes, behind the group's breaker, and nothing is parked; unless other events get through meanwhile: then it is this
// event that the endpoint cannot take.
func (h *hook) judge(id string, sent delivery) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if sent.err == nil {
		h.success = sent.At
		delete(h.failing, id)
		return nil
	}
	since, ok := h.failing[id]
	if !ok {
		since = sent.At
		h.failing[id] = since
	}
	switch {
	case errors.Is(sent.err, ErrForbiddenAddress), sent.Status > 0 && sent.Status < 500 && sent.Status != http.StatusTooManyRequests && sent.Status != http.StatusRequestTimeout && sent.Status != http.StatusTooEarly:
		if sent.Attempt >= h.ws.o.Tries {
			delete(h.failing, id)
		}
		return sent.err
	case sent.Attempt >= h.ws.o.Tries && h.success.After(since):
		delete(h.failing, id)
		return bus.Fatal(fmt.Errorf("the endpoint takes other events, but not this one: %w", sent.err))
	}
	return bus.Transient(sent.err)
}

// delivery is one post and how it went.
type delivery struct {
	Status  int       `json:"status,omitempty" doc:"The HTTP status; 0 when there was no answer."`
	Outcome string    `json:"outcome" doc:"accepted, refused, redirect, error, time-out, no connection, forbidden address"`
	TookMs  int64     `json:"tookMs"`
	At      time.Time `json:"at"`
	Attempt int       `json:"attempt"`
	err     error
}

// post sends an event under the Standard Webhooks specification (www.standardwebhooks.com): the id is the event's, so that
// a receiver can tell a repetition, and every key that is valid signs.
func (ws *webhooks) post(ctx context.Context, set WebhookSettings, secrets []hookSecret, e event.Event, attempt int) (out delivery) {
	out = delivery{At: time.Now(), Attempt: attempt}
	defer func() { out.TookMs = time.Since(out.At).Milliseconds() }()
	var media string
	var body []byte
	if set.Format == "cloudevents" {
		media, body = event.ContentTypeCloudEvent+"; charset=utf-8", event.AppendCloudEvent(nil, e)
	} else {
		media, body = "application/json", e.AppendJSON(nil)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, set.URL, bytes.NewReader(body))
	if err != nil {
		out.Outcome, out.err = "error", errors.New("the request cannot be made")
		return out
	}
	var signatures []string
	for _, s := range secrets {
		if !s.Until.IsZero() && out.At.After(s.Until) {
			continue
		}
		signer, err := standardwebhooks.NewWebhook(s.Key)
		if err != nil {
			out.Outcome, out.err = "error", errors.New("a signing key cannot be used; rotate it")
			return out
		}
		signature, err := signer.Sign(e.ID, out.At, body)
		if err != nil {
			out.Outcome, out.err = "error", errors.New("the event cannot be signed")
			return out
		}
		signatures = append(signatures, signature)
	}
	req.Header.Set("Content-Type", media)
	req.Header.Set("User-Agent", "carebus-webhooks/1")
	req.Header.Set(standardwebhooks.HeaderWebhookID, e.ID)
	req.Header.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(out.At.Unix(), 10))
	req.Header.Set(standardwebhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		req.Header.Set("Traceparent", "00-"+span.TraceID().String()+"-"+span.SpanID().String()+"-"+span.TraceFlags().String())
	} else if e.TraceID != "" {
		req.Header.Set("Traceparent", "00-"+e.TraceID+"-"+event.SpanOf(e.ID).String()+"-01")
	}
	res, err := ws.client.Do(req)
	if err != nil {
		out.Outcome, out.err = outcomeOf(err)
		return out
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10) // so that the connection can be used again; its words are of no interest
	out.Status = res.StatusCode
	switch {
	case res.StatusCode >= 200 && res.StatusCode < 300:
		out.Outcome = "accepted"
	case res.StatusCode >= 300 && res.StatusCode < 400:
		out.Outcome, out.err = "redirect", fmt.Errorf("the endpoint answered %d: redirects are not followed; register the new address", res.StatusCode)
	case res.StatusCode >= 500:
		out.Outcome, out.err = "error", fmt.Errorf("the endpoint answered %d", res.StatusCode)
	default:
		out.Outcome, out.err = "refused", fmt.Errorf("the endpoint answered %d", res.StatusCode)
	}
	return out
}

// outcomeOf names what went wrong without an answer. The texts hold no address: they are shown to who may not know it.
func outcomeOf(err error) (string, error) {
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(err, ErrForbiddenAddress):
		return "forbidden address", ErrForbiddenAddress
	case errors.As(err, &timeout) && timeout.Timeout():
		return "time-out", errors.New("the endpoint did not answer in time")
	}
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		return "no connection", errors.New("the endpoint's certificate is not valid")
	}
	return "no connection", errors.New("the endpoint cannot be reached")
}

// newSecret makes a signing key in the form of the Standard Webhooks specification.
func newSecret() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // it never fails
	return "whsec_" + base64.StdEncoding.EncodeToString(key)
}
