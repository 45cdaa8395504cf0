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
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"github.com/carebus/carebus/auth"
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
	// Resolver finds the addresses of endpoints. Default: the system's.
	Resolver *net.Resolver
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

	loading sync.Mutex // held from reading the store to having acted on it: what is acted on is never older than what was
	mu      sync.Mutex
	joined  map[string]*hook

	stopping sync.Mutex
}

// hook is one webhook in this process.
type hook struct {
	ws *webhooks

	mu sync.Mutex
	stored
	success time.Time           // when the last delivery that was accepted began
	failing map[string]*trouble // events that have failed, by id
	until   time.Time           // the endpoint has asked for a pause till then
}

// trouble is an event that its endpoint has not accepted.
type trouble struct {
	since time.Time
	tries int
}

func newWebhooks(g *Gateway) *webhooks {
	o := g.o.Webhooks
	o.Timeout = orElse(o.Timeout, 15*time.Second)
	o.FirstPause, o.LongestPause = orElse(o.FirstPause, 500*time.Millisecond), orElse(o.LongestPause, time.Minute)
	o.Tries = orElse(o.Tries, 8)
	return &webhooks{g: g, o: o, client: guardedClient(o), log: deliveryLog{store: g.p.Store(), slog: g.log}, joined: map[string]*hook{}}
}

// stored is a webhook as the store keeps it.
type stored struct {
	ID string
	kept
	secrets []hookSecret
}

// kept is what the store keeps of the settings.
type kept struct {
	WebhookSettings
	Owner string `json:"owner,omitempty" doc:"Who has made it or changed it last. What its owner may not subscribe to any more is not pushed."`
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
			if err := errors.Join(json.Unmarshal([]byte(settings), &s.kept), json.Unmarshal([]byte(secrets), &s.secrets)); err != nil {
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
	ws.loading.Lock()
	defer ws.loading.Unlock()
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
		ws.log.forget(id)
	}
	for _, s := range all {
		ws.mu.Lock()
		h := ws.joined[s.ID]
		ws.mu.Unlock()
		if h != nil {
			h.mu.Lock()
			same := slices.Equal(h.Patterns, s.Patterns)
			if h.URL != s.URL { // what the former endpoint has asked for does not bind the new one
				h.until = time.Time{}
			}
			h.stored = s
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
	h := &hook{ws: ws, stored: s, failing: map[string]*trouble{}}
	start, err := startOf(s.Start)
	if err != nil {
		return err
	}
	opts := []bus.Option{
		bus.Start(start), bus.BatchSize(32, 1<<20), bus.Calls(8), bus.Tries(1 << 30), bus.Backoff(ws.o.FirstPause, ws.o.LongestPause),
		bus.Timeout(ws.o.Timeout + 5*time.Second), // judge counts the tries: not each time that the bus comes is one
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

// names are the groups on the bus that this process has joined.
func (ws *webhooks) names() (out []string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for id := range ws.joined {
		out = append(out, webhookGroup+id)
	}
	return out
}

// sweep removes the groups of webhooks that were deleted while another gateway was still a member.
func (ws *webhooks) sweep(ctx context.Context) error {
	var left []string
	err := ws.g.p.Store().View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT grp FROM carebus_groups WHERE grp LIKE $1 AND NOT EXISTS (SELECT 1 FROM carebus_webhooks w WHERE $2 || w.id = grp)`, webhookGroup+"%", webhookGroup)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var name string
			if err := rows.Scan(&name); err != nil {
				return err
			}
			left = append(left, name)
		}
		return rows.Err()
	})
	for _, name := range left {
		rerr := ws.g.p.Bus().Remove(ctx, name, bus.Act{Actor: bus.Source, Reason: "its webhook was deleted"})
		if !errors.Is(rerr, bus.ErrHasMembers) && !errors.Is(rerr, bus.ErrNoGroup) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

func (ws *webhooks) leave(ctx context.Context, id string) error {
	ws.mu.Lock()
	delete(ws.joined, id)
	ws.mu.Unlock()
	return ws.g.p.Bus().Leave(ctx, webhookGroup+id)
}

// deliver posts one event, and says how it went in the terms of the bus.
func (h *hook) deliver(ctx context.Context, r eventstore.Record) error {
	if !h.rest(ctx) {
		return bus.Transient(errors.New("the endpoint has asked for a pause"))
	}
	h.mu.Lock()
	s, attempt := h.stored, 1
	if t := h.failing[r.ID]; t != nil {
		attempt += t.tries
	}
	h.mu.Unlock()
	if door := h.ws.g.o.Door; door != nil {
		if owner := door.Named(s.Owner); owner == nil || !owner.May(auth.Subscribe, r.Type) {
			h.ws.g.tellDenied(ctx, s.Owner, string(auth.Subscribe), r.Type, "the grant under which webhook "+s.ID+" was made is gone", "")
			h.ws.log.add(entry{webhook: s.ID, EventID: r.ID, Type: r.Type, Attempt: attempt, Outcome: "not granted", At: time.Now()})
			return bus.Transient(errors.New("the webhook's owner may not subscribe to this type any more; grant it, or have somebody who may change the webhook"))
		}
	}
	// A post that is under way is waited for when the group is paused or the process ends: the receiver may have acted on it.
	ctx, end := h.ws.g.told.delivery(context.WithoutCancel(ctx), s.ID, r)
	sent := h.ws.post(ctx, s.WebhookSettings, s.secrets, r.Event, attempt)
	end(sent.Outcome, sent.Status)
	h.ws.log.add(entry{webhook: s.ID, EventID: r.ID, Type: r.Type, Attempt: attempt, Status: sent.Status, Outcome: sent.Outcome, TookMs: sent.TookMs, At: sent.At})
	if sent.Status == http.StatusGone {
		if err := h.stop(ctx); err != nil {
			return err
		}
	}
	return h.judge(r.ID, sent)
}

// rest waits for the end of the pause that the endpoint has asked for; false when ctx ends before.
func (h *hook) rest(ctx context.Context) bool {
	for {
		h.mu.Lock()
		wait := time.Until(h.until)
		h.mu.Unlock()
		if wait <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
}

// stop pauses the webhook: its endpoint takes no more events, now or later.
func (h *hook) stop(ctx context.Context) error {
	h.ws.stopping.Lock() // several events are told so at once; one pause is enough
	defer h.ws.stopping.Unlock()
	status, err := h.ws.g.p.Bus().Group(ctx, webhookGroup+h.ID)
	if err != nil || status.State != "running" {
		return err
	}
	return h.ws.g.p.Bus().Pause(ctx, webhookGroup+h.ID, bus.Act{
		Actor: bus.Source, Reason: "the endpoint answered 410 Gone; change the webhook or its endpoint and resume the group, or delete the webhook",
	})
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
		if sent.At.After(h.success) {
			h.success = sent.At
		}
		delete(h.failing, id)
		return nil
	}
	if until := sent.answered.Add(sent.pause); sent.pause > 0 && until.After(h.until) {
		h.until = until
	}
	t := h.failing[id]
	if t == nil {
		if len(h.failing) >= 10_000 { // of events that other processes have taken over meanwhile
			clear(h.failing)
		}
		t = &trouble{since: sent.At}
		h.failing[id] = t
	}
	t.tries++
	switch {
	case sent.Status == http.StatusGone:
		return bus.Transient(sent.err)
	case sent.refused() && t.tries < h.ws.o.Tries:
		return sent.err
	case sent.refused():
		delete(h.failing, id)
		return bus.Fatal(sent.err)
	case t.tries >= h.ws.o.Tries && h.success.After(t.since):
		delete(h.failing, id)
		return bus.Fatal(fmt.Errorf("the endpoint takes other events, but not this one: %w", sent.err))
	}
	return bus.Transient(sent.err)
}

// refused says whether it is this event, or the webhook's settings, that the answer is about, and not that the endpoint is
// down.
func (d delivery) refused() bool {
	if errors.Is(d.err, ErrForbiddenAddress) {
		return true
	}
	switch d.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return false
	}
	return d.Status > 0 && d.Status < 500
}

// longestRest bounds the pause that an endpoint may ask for.
const longestRest = time.Hour

// pauseOf is the pause that an answer asks for with Retry-After: seconds, or a date.
func pauseOf(res *http.Response, now time.Time) time.Duration {
	text := res.Header.Get("Retry-After")
	if text == "" || res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, longestRest)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), longestRest)
	}
	return 0
}

// delivery is one post and how it went.
type delivery struct {
	Status   int       `json:"status,omitempty" doc:"The HTTP status; 0 when there was no answer."`
	Outcome  string    `json:"outcome" doc:"accepted, refused, redirect, error, time-out, no connection, forbidden address, not granted"`
	TookMs   int64     `json:"tookMs"`
	At       time.Time `json:"at"`
	Attempt  int       `json:"attempt"`
	err      error
	answered time.Time
	pause    time.Duration // that the endpoint asks for, from its answer on
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
	out.Status, out.answered = res.StatusCode, time.Now()
	out.pause = pauseOf(res, out.answered)
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
