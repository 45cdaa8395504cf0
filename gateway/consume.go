package gateway

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// tables are the gateway's own: what it must know again when it starts. Times are microseconds.
var tables = []string{`
CREATE TABLE carebus_http_groups (
	grp TEXT PRIMARY KEY,
	settings TEXT NOT NULL,
	updated_at BIGINT NOT NULL
);
CREATE TABLE carebus_webhooks (
	id TEXT PRIMARY KEY,
	settings TEXT NOT NULL,
	secrets TEXT NOT NULL,
	updated_at BIGINT NOT NULL
);
CREATE TABLE carebus_webhook_deliveries (
	webhook TEXT NOT NULL,
	seq BIGINT NOT NULL,
	event_id TEXT NOT NULL,
	event_type TEXT NOT NULL,
	attempt BIGINT NOT NULL,
	status BIGINT NOT NULL,
	outcome TEXT NOT NULL,
	took_ms BIGINT NOT NULL,
	at BIGINT NOT NULL,
	PRIMARY KEY (webhook, seq)
);
`}

// GroupSettings are those of a group whose members are clients over HTTP.
type GroupSettings struct {
	Patterns      []string `json:"patterns" minItems:"1" maxItems:"50" doc:"Patterns of the event types that it consumes."`
	Start         string   `json:"start,omitempty" default:"beginning" doc:"Where a new group begins: beginning, now, or an RFC 3339 time of recording."`
	LeaseSeconds  int      `json:"leaseSeconds,omitempty" minimum:"1" maximum:"3600" default:"30" doc:"How long a fetched event is its client's, unless the fetch says otherwise."`
	MaxDeliveries int      `json:"maxDeliveries,omitempty" minimum:"1" maximum:"1000" default:"10" doc:"After so many leases of an event that ran out in a row, its key is parked as suspect."`
	Tries         int      `json:"tries,omitempty" minimum:"1" maximum:"100" default:"3" doc:"How often an event is tried before an error parks its key."`
	InFlight      int      `json:"inFlight,omitempty" minimum:"1" maximum:"10000" default:"240" doc:"Events that wait for clients or are leased, at most, in this process."`
	OnFailure     string   `json:"onFailure,omitempty" enum:"park,skip,stop" default:"park" doc:"What becomes of an event that failed for good."`
}

// consumers are the groups whose members are clients over HTTP. This process is a member of the group on the bus for all of
// them: an event is forwarded to whoever fetches it, and its fate is what that client says, or its silence.
type consumers struct {
	g *Gateway

	mu     sync.Mutex
	joined map[string]*consumer
}

// consumer is one such group in this process.
type consumer struct {
	set    GroupSettings
	offers chan *offer

	mu     sync.Mutex
	leases map[string]*offer // by token
}

// offer is an event that waits for a client, or that one has.
type offer struct {
	rec     eventstore.Record
	attempt int
	redrive bool
	replay  bool
	gone    <-chan struct{} // the bus does not wait any more
	settled chan error      // what has become of it; has room for one
	timer   *time.Timer     // of the lease
	until   time.Time
}

var (
	errLapsed  = errors.New("the lease ran out before the consumer acknowledged the event")
	errSuspect = errors.New("the leases of this event ran out again and again: its consumer dies of it, or is too slow; look into that, then redrive")
)

func newConsumers(g *Gateway) *consumers {
	return &consumers{g: g, joined: map[string]*consumer{}}
}

// load brings this process in line with the groups that the store knows of.
func (cs *consumers) load(ctx context.Context) error {
	all, err := readSettings[GroupSettings](ctx, cs.g.p.Store(), `SELECT grp, settings FROM carebus_http_groups ORDER BY grp`)
	if err != nil {
		return fmt.Errorf("gateway: consumer groups: %w", err)
	}
	known := map[string]GroupSettings{}
	for _, s := range all {
		known[s.name] = s.set
	}
	cs.mu.Lock()
	var changed []string
	for name, c := range cs.joined {
		if set, ok := known[name]; !ok || !set.same(c.set) {
			changed = append(changed, name)
		}
	}
	cs.mu.Unlock()
	for _, name := range changed {
		err = errors.Join(err, cs.leave(ctx, name))
	}
	for _, s := range all {
		if jerr := cs.join(s.name, s.set); jerr != nil {
			err = errors.Join(err, fmt.Errorf("consumer group %s: %w", s.name, jerr))
		}
	}
	return err
}

func (s GroupSettings) same(o GroupSettings) bool {
	return slices.Equal(s.Patterns, o.Patterns) && s.Start == o.Start && s.LeaseSeconds == o.LeaseSeconds && s.MaxDeliveries == o.MaxDeliveries &&
		s.Tries == o.Tries && s.InFlight == o.InFlight && s.OnFailure == o.OnFailure
}

type named[S any] struct {
	name string
	set  S
}

func readSettings[S any](ctx context.Context, store *eventstore.Store, query string, args ...any) (out []named[S], err error) {
	err = store.View(ctx, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, query, args...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n named[S]
			var text string
			if err := rows.Scan(&n.name, &text); err != nil {
				return err
			}
			if err := json.Unmarshal([]byte(text), &n.set); err != nil {
				return fmt.Errorf("settings of %s: %w", n.name, err)
			}
			out = append(out, n)
		}
		return rows.Err()
	})
	return out, err
}

// find is a group that clients may fetch from. One that another process has made meanwhile is joined now.
func (cs *consumers) find(ctx context.Context, name string) (*consumer, error) {
	cs.mu.Lock()
	c := cs.joined[name]
	cs.mu.Unlock()
	if c != nil {
		return c, nil
	}
	all, err := readSettings[GroupSettings](ctx, cs.g.p.Store(), `SELECT grp, settings FROM carebus_http_groups WHERE grp = $1`, name)
	if err != nil {
		return nil, err
	}
	if len(all) == 0 {
		return nil, notFound("no group %q is consumed over HTTP; create it with PUT /v1/groups/%s", name, name)
	}
	if err := cs.join(name, all[0].set); err != nil {
		return nil, err
	}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return cs.joined[name], nil
}

// join makes this process a member of the group on the bus, on behalf of its clients.
func (cs *consumers) join(name string, set GroupSettings) error {
	c := &consumer{set: set, offers: make(chan *offer), leases: map[string]*offer{}}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.joined[name] != nil {
		return nil
	}
	share := max(set.InFlight/cs.g.p.Store().Partitions(), 1)
	opts := []bus.Option{
		bus.Tries(set.Tries), bus.BatchSize(share, 1<<20), bus.Calls(share), bus.BreakAfter(1 << 30),
		// A client that is not there is no failure: the event waits for one.
		bus.Timeout(1000 * time.Hour),
		bus.ClassifyErrors(func(err error) (bus.Class, bool) {
			switch {
			case errors.Is(err, errSuspect):
				return bus.Suspect, true
			case errors.Is(err, errLapsed):
				return bus.Dependency, true
			}
			return "", false
		}),
	}
	switch set.OnFailure {
	case "skip":
		opts = append(opts, bus.OnFailure(bus.SkipEvent))
	case "stop":
		opts = append(opts, bus.OnFailure(bus.StopGroup))
	}
	start, err := startOf(set.Start)
	if err != nil {
		return err
	}
	opts = append(opts, bus.Start(start))
	for _, p := range set.Patterns {
		opts = append(opts, bus.OnForward(p, func(ctx context.Context, r eventstore.Record) error { return c.forward(ctx, cs.g.ending, r) }))
	}
	if err := cs.g.p.Handle(name, opts...); err != nil {
		return err
	}
	cs.joined[name] = c
	return nil
}

func startOf(text string) (bus.StartAt, error) {
	switch text {
	case "", "beginning":
		return bus.FromBeginning, nil
	case "now":
		return bus.FromNow, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return bus.StartAt{}, badRequest("start: give beginning, now, or an RFC 3339 time")
	}
	return bus.FromTime(t), nil
}

// startNow makes of "now" the moment in which it was said: the group takes its place some time later, and what was stored
// between would be passed over. Where it was said before, that moment stays.
func startNow(tx *eventstore.Tx, start, former string) string {
	switch {
	case start != "now":
		return start
	case former != "":
		return former
	}
	return tx.Now().UTC().Format(time.RFC3339Nano)
}

// names are the groups that this process has joined.
func (cs *consumers) names() []string {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	return slices.Collect(maps.Keys(cs.joined))
}

// leave ends the membership; what clients hold is given anew to others.
func (cs *consumers) leave(ctx context.Context, name string) error {
	cs.mu.Lock()
	_, is := cs.joined[name]
	delete(cs.joined, name)
	cs.mu.Unlock()
	if !is {
		return nil
	}
	return cs.g.p.Bus().Leave(ctx, name)
}

// forward offers an event to the clients and returns what has become of it.
func (c *consumer) forward(ctx, ending context.Context, r eventstore.Record) error {
	d := bus.DeliveryFrom(ctx)
	o := &offer{rec: r, attempt: d.Attempt, redrive: d.Redrive, replay: d.Replay, gone: ctx.Done(), settled: make(chan error, 1)}
	select {
	case c.offers <- o:
	case <-ctx.Done():
		return ctx.Err()
	case <-ending.Done():
		return ending.Err()
	}
	select {
	case err := <-o.settled:
		if errors.Is(err, errLapsed) && o.attempt >= c.set.MaxDeliveries {
			return errSuspect
		}
		return err
	case <-ctx.Done(): // the group is paused or left
		c.forget(o)
		return ctx.Err()
	case <-ending.Done():
		return ending.Err()
	}
}

// forget takes a lease back: its holder will be told that it has none.
func (c *consumer) forget(o *offer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for token, other := range c.leases {
		if other == o {
			o.timer.Stop()
			delete(c.leases, token)
		}
	}
}

// lease gives an event to a client, unless the bus has turned away meanwhile.
func (c *consumer) lease(o *offer, d time.Duration) (leased, bool) {
	token := event.NewID()
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-o.gone:
		return leased{}, false
	default:
	}
	o.until = time.Now().Add(d)
	c.leases[token] = o
	o.timer = time.AfterFunc(d, func() { c.settle(token, errLapsed) })
	return leased{Lease: token, Until: o.until, Attempt: o.attempt, Redrive: o.redrive, Replay: o.replay}, true
}

// settle ends a lease; false when there is none.
func (c *consumer) settle(token string, outcome error) bool {
	c.mu.Lock()
	o := c.leases[token]
	delete(c.leases, token)
	c.mu.Unlock()
	if o == nil {
		return false
	}
	o.timer.Stop()
	o.settled <- outcome
	return true
}

func (c *consumer) extend(token string, d time.Duration) (time.Time, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := c.leases[token]
	if o == nil || !o.timer.Reset(d) { // it is running out at this moment
		return time.Time{}, false
	}
	o.until = time.Now().Add(d)
	return o.until, true
}

// leased is an event that a client has for a time.
type leased struct {
	Lease   string    `json:"lease" doc:"To acknowledge it with."`
	Until   time.Time `json:"until" doc:"When it is given to others, unless it is acknowledged or extended before."`
	Attempt int       `json:"attempt" doc:"1 for the first time."`
	Redrive bool      `json:"redrive,omitempty" doc:"Its key was parked and is being tried again."`
	Replay  bool      `json:"replay,omitempty" doc:"It was handled before; suppress side effects."`
	Event   record    `json:"event"`
}

func (g *Gateway) consumeRoutes() {
	type consumerPutIn struct {
		Group string `path:"group" minLength:"1" maxLength:"128" pattern:"^[!-~]+$" doc:"Visible ASCII characters."`
		Body  GroupSettings
	}
	type consumerPutOut struct {
		Status int
		Body   struct {
			Group string `json:"group"`
			GroupSettings
		}
	}
	register(g, huma.Operation{OperationID: "put-group", Method: http.MethodPut, Path: "/v1/groups/{group}", Tags: []string{"groups"}, Summary: "Create or change a group that is consumed over HTTP",
		Description: "The group keeps its place, its parked keys and its settings until it is deleted. Changing the settings breaks off what is leased; it is given anew. " +
			"start counts only when the group is new. The caller must be granted to subscribe to all that the patterns fit.", DefaultStatus: http.StatusOK,
		Errors: []int{400, 401, 403, 409, 422, 429}},
		func(ctx context.Context, in *consumerPutIn) (*consumerPutOut, error) {
			if err := checkPatterns(in.Body.Patterns); err != nil {
				return nil, err
			}
			if err := g.mayAll(ctx, auth.Subscribe, in.Body.Patterns...); err != nil {
				return nil, err
			}
			if _, err := startOf(in.Body.Start); err != nil {
				return nil, err
			}
			out := &consumerPutOut{Status: http.StatusOK}
			out.Body.Group, out.Body.GroupSettings = in.Group, in.Body
			c := callerOf(ctx)
			created, err := g.groups.put(ctx, in.Group, in.Body, func(patterns []string) bool { return c.mayAllOf(auth.Subscribe, patterns) })
			if errors.Is(err, errNotTheirs) {
				err = g.deny(ctx, auth.Subscribe, "group "+in.Group)
			}
			if created {
				out.Status = http.StatusCreated
			}
			return out, err
		})

	type consumerFetchIn struct {
		Group string `path:"group" maxLength:"128"`
		Body  struct {
			Max          int  `json:"max,omitempty" minimum:"1" maximum:"1000" default:"100" doc:"Events at most."`
			WaitSeconds  *int `json:"waitSeconds,omitempty" minimum:"0" maximum:"60" default:"20" doc:"How long to wait for the first one."`
			LeaseSeconds int  `json:"leaseSeconds,omitempty" minimum:"0" maximum:"3600" doc:"Default: the group's."`
		}
	}
	type consumerFetchOut struct {
		Body struct {
			Events []leased `json:"events"`
		}
	}
	register(g, huma.Operation{OperationID: "fetch", Method: http.MethodPost, Path: "/v1/groups/{group}/fetch", Tags: []string{"groups"}, Summary: "Fetch events with a lease",
		Description: "Waits for events and gives them to this client until their leases run out. Settle each with ack or nack; extend what takes longer. " +
			"Delivery is at least once, and events of one partition key come in order: the next one when the one before is settled. A fetch may return fewer events than there are."},
		func(ctx context.Context, in *consumerFetchIn) (*consumerFetchOut, error) {
			c, err := g.consumerFor(ctx, in.Group)
			if err != nil {
				return nil, err
			}
			seconds := in.Body.LeaseSeconds
			if seconds == 0 {
				seconds = c.set.LeaseSeconds
			}
			out := &consumerFetchOut{}
			out.Body.Events = c.fetch(ctx, g, in.Body.Max, time.Duration(*in.Body.WaitSeconds)*time.Second, time.Duration(seconds)*time.Second)
			return out, nil
		})

	type consumerSettleIn struct {
		Group string `path:"group" maxLength:"128"`
		Body  struct {
			Leases []string `json:"leases" minItems:"1" maxItems:"1000"`
		}
	}
	type consumerNackIn struct {
		Group string `path:"group" maxLength:"128"`
		Body  struct {
			Leases []string `json:"leases" minItems:"1" maxItems:"1000"`
			Kind   string   `json:"kind,omitempty" enum:"error,transient,fatal" default:"error" doc:"error: tried again a few times, then the key is parked. transient: something the consumer needs is down; tried again for as long as it takes. fatal: parked at once."`
			Error  string   `json:"error,omitempty" maxLength:"500" doc:"What went wrong, for the dead letter. No protected values."`
		}
	}
	type consumerExtendIn struct {
		Group string `path:"group" maxLength:"128"`
		Body  struct {
			Leases       []string `json:"leases" minItems:"1" maxItems:"1000"`
			LeaseSeconds int      `json:"leaseSeconds,omitempty" minimum:"0" maximum:"3600" doc:"From now on. Default: the group's."`
		}
	}
	type consumerSettleOut struct {
		Body struct {
			Settled []string `json:"settled"`
			Expired []string `json:"expired" doc:"Leases that had run out, or are unknown: their events are given anew, or were settled already."`
		}
	}
	settle := func(ctx context.Context, group string, leases []string, outcome func() error) (*consumerSettleOut, error) {
		c, err := g.consumerFor(ctx, group)
		if err != nil {
			return nil, err
		}
		out := &consumerSettleOut{}
		out.Body.Settled, out.Body.Expired = []string{}, []string{}
		for _, token := range leases {
			if c.settle(token, outcome()) {
				out.Body.Settled = append(out.Body.Settled, token)
			} else {
				out.Body.Expired = append(out.Body.Expired, token)
			}
		}
		return out, nil
	}
	register(g, huma.Operation{OperationID: "ack", Method: http.MethodPost, Path: "/v1/groups/{group}/ack", Tags: []string{"groups"}, Summary: "Acknowledge events",
		Description: "The events are handled. The group's place moves on in the commit that follows, within moments; a gateway that dies before it gives them again."},
		func(ctx context.Context, in *consumerSettleIn) (*consumerSettleOut, error) {
			return settle(ctx, in.Group, in.Body.Leases, func() error { return nil })
		})
	register(g, huma.Operation{OperationID: "nack", Method: http.MethodPost, Path: "/v1/groups/{group}/nack", Tags: []string{"groups"}, Summary: "Say that events could not be handled",
		Description: "The rules are those of handlers in Go: retries with growing pauses, then the key is parked and can be redriven."},
		func(ctx context.Context, in *consumerNackIn) (*consumerSettleOut, error) {
			text := strings.TrimSpace(in.Body.Error)
			if text == "" {
				text = "the consumer gave no reason"
			}
			return settle(ctx, in.Group, in.Body.Leases, func() error {
				err := errors.New(text)
				switch in.Body.Kind {
				case "transient":
					return bus.Transient(err)
				case "fatal":
					return bus.Fatal(err)
				}
				return err
			})
		})
	register(g, huma.Operation{OperationID: "extend", Method: http.MethodPost, Path: "/v1/groups/{group}/extend", Tags: []string{"groups"}, Summary: "Keep events for longer"},
		func(ctx context.Context, in *consumerExtendIn) (*consumerSettleOut, error) {
			c, err := g.consumerFor(ctx, in.Group)
			if err != nil {
				return nil, err
			}
			seconds := in.Body.LeaseSeconds
			if seconds == 0 {
				seconds = c.set.LeaseSeconds
			}
			out := &consumerSettleOut{}
			out.Body.Settled, out.Body.Expired = []string{}, []string{}
			for _, token := range in.Body.Leases {
				if _, ok := c.extend(token, time.Duration(seconds)*time.Second); ok {
					out.Body.Settled = append(out.Body.Settled, token)
				} else {
					out.Body.Expired = append(out.Body.Expired, token)
				}
			}
			return out, nil
		})
}

// consumerFor is a group that the caller may fetch from.
func (g *Gateway) consumerFor(ctx context.Context, name string) (*consumer, error) {
	all := callerOf(ctx).MayAll(auth.Subscribe, "**")
	c, err := g.groups.find(ctx, name)
	var problem *Problem
	switch {
	case err != nil && (all || !errors.As(err, &problem)):
		return nil, err
	case err == nil && callerOf(ctx).mayAllOf(auth.Subscribe, c.set.Patterns):
		return c, nil
	}
	return nil, g.deny(ctx, auth.Subscribe, "group "+name) // who may not see it does not learn whether it exists
}

// errNotTheirs: a group of this name exists whose events the caller may not subscribe to.
var errNotTheirs = errors.New("the group is another's")

// put stores the settings of a group and joins it with them.
// Whoever changes a group must be granted what it has consumed till now: may says whether they are.
func (cs *consumers) put(ctx context.Context, name string, set GroupSettings, may func(patterns []string) bool) (created bool, err error) {
	if strings.HasPrefix(name, webhookGroup) || strings.HasPrefix(name, "saga-") {
		return false, conflict("names that begin with %s or saga- are carebus's own", webhookGroup)
	}
	var text []byte
	asked := set.Start
	err = cs.g.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		var old string
		var former GroupSettings
		err := tx.QueryRowContext(ctx, `SELECT settings FROM carebus_http_groups WHERE grp = $1`, name).Scan(&old)
		if created = errors.Is(err, sql.ErrNoRows); created {
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM carebus_groups WHERE grp = $1`, name).Scan(&n); err != nil {
				return err
			}
			if n > 0 {
				return conflict("group %s is handled by a service; choose another name", name)
			}
		} else if err != nil {
			return err
		} else {
			if err := json.Unmarshal([]byte(old), &former); err != nil {
				return fmt.Errorf("settings of %s: %w", name, err)
			}
			if !may(former.Patterns) {
				return errNotTheirs
			}
		}
		set.Start = startNow(tx, asked, former.Start)
		if text, err = json.Marshal(set); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO carebus_http_groups (grp, settings, updated_at) VALUES ($1, $2, $3)
			ON CONFLICT (grp) DO UPDATE SET settings = excluded.settings, updated_at = excluded.updated_at`, name, string(text), tx.Now().UnixMicro())
		return err
	})
	if err != nil {
		return false, err
	}
	if err := cs.join(name, set); err != nil && created {
		// What the bus does not take must not be found again by the next gateway that starts.
		return false, errors.Join(err, cs.g.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
			_, err := tx.ExecContext(ctx, `DELETE FROM carebus_http_groups WHERE grp = $1 AND settings = $2`, name, string(text))
			return err
		}))
	}
	if err := cs.load(ctx); err != nil {
		return created, err
	}
	cs.g.appears(ctx, name)
	return created, nil
}

// appears waits until a group that was joined just now is there to be looked at and steered, which the bus sees to by itself. A
// bus that does not run is not waited for long.
func (g *Gateway) appears(ctx context.Context, group string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for {
		tick := g.p.Store().Tick()
		if _, err := g.p.Bus().Group(ctx, group); !errors.Is(err, bus.ErrNoGroup) {
			return
		}
		if _, err := g.p.Store().Wait(ctx, tick); err != nil {
			return
		}
	}
}

// fetch waits for a first event and takes what else waits.
func (c *consumer) fetch(ctx context.Context, g *Gateway, limit int, wait, lease time.Duration) []leased {
	out := []leased{}
	patience := time.NewTimer(wait)
	defer patience.Stop()
	take := func(o *offer) {
		if l, ok := c.lease(o, lease); ok {
			l.Event = g.show(o.rec, payloadFull)
			out = append(out, l)
		}
	}
	for len(out) < limit {
		if len(out) > 0 {
			patience.Reset(2 * time.Millisecond) // company that is about to come
		}
		select {
		case o := <-c.offers:
			take(o)
		case <-patience.C:
			return out
		case <-ctx.Done():
			for _, l := range out { // the client has gone, or the gateway ends: others may have them at once
				c.settle(l.Lease, bus.Transient(errors.New("the consumer went away while it fetched")))
			}
			return []leased{}
		}
	}
	return out
}
