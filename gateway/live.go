package gateway

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/eventstore"
)

func (g *Gateway) liveRoutes() {
	g.mux.HandleFunc("GET /v1/live", g.raw(g.live, "type", "key", "correlation", "source", "from", "format"))
	text := &huma.Schema{Type: huma.TypeString}
	g.document(&huma.Operation{
		OperationID: "live", Method: http.MethodGet, Path: "/v1/live", Tags: []string{"events"}, Summary: "Follow events as they are stored",
		Description: "A stream of server-sent events: the data of each is an event on one line, its id a place in the store. " +
			"A client that is cut sends the last id that it has seen as `Last-Event-ID` (browsers do so by themselves) and goes on there, without a gap or a repetition, however long ago it was. " +
			"Events of one partition key come in order. A comment and the present id come at least every 15 seconds. Only events that the caller may subscribe to are sent; with each heartbeat it is looked at anew who the caller is.",
		Parameters: []*huma.Param{
			{Name: "type", In: "query", Description: "Patterns of event types. Default: all but carebus's own.", Schema: &huma.Schema{Type: huma.TypeArray, Items: text}},
			{Name: "key", In: "query", Schema: text, Description: "Only this partition key."},
			{Name: "correlation", In: "query", Schema: text, Description: "Only this flow."},
			{Name: "source", In: "query", Schema: text, Description: "Only what this service states."},
			{Name: "from", In: "query", Schema: text, Description: "Where a new client begins: now (the default), beginning, an RFC 3339 time of recording, or the id of a live event."},
			{Name: "format", In: "query", Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"native", "cloudevents"}}},
			{Name: "Last-Event-ID", In: "header", Schema: text, Description: "Where to go on; it comes before from."},
		},
		Responses: map[string]*huma.Response{"200": {Description: "The stream.", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: text}}}},
		Errors:    []int{400, 401, 403, 429, 503},
	})
}

// follower is one live stream.
type follower struct {
	g       *Gateway
	w       *bufio.Writer
	control *http.ResponseController
	at      places
	match   func(eventType string) bool
	keep    func(r *eventstore.Record) bool
	cloud   bool
	id      []byte
	again   func() error // looks anew at who the client is, and what they may see
}

func (g *Gateway) live(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	var patterns []string
	for _, t := range q["type"] {
		patterns = append(patterns, strings.Split(t, ",")...)
	}
	if err := checkPatterns(patterns); err != nil {
		return err
	}
	if len(patterns) > 100 {
		return badRequest("type: give 100 patterns at most")
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(g.ending, cancel)()
	if err := g.maySome(ctx, auth.Subscribe); err != nil {
		return err
	}
	f := &follower{g: g, w: bufio.NewWriterSize(w, 32<<10), control: http.NewResponseController(w), match: readable(ctx, auth.Subscribe, patterns)}
	switch q.Get("format") {
	case "", "native":
	case "cloudevents":
		f.cloud = true
	default:
		return badRequest("format: give native or cloudevents")
	}
	f.again = func() error {
		ctx, err := g.still(r)
		if err == nil {
			f.match = readable(ctx, auth.Subscribe, patterns)
		}
		return err
	}
	key, correlation, source := q.Get("key"), q.Get("correlation"), q.Get("source")
	f.keep = func(r *eventstore.Record) bool {
		return (key == "" || r.PartitionKey == key) && (correlation == "" || r.CorrelationID == correlation) && (source == "" || r.Source == source)
	}
	from := r.Header.Get("Last-Event-ID")
	if from == "" {
		from = q.Get("from")
	}
	var err error
	if f.at, err = g.liveFrom(ctx, from); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	err = f.run(ctx)
	if ctx.Err() == nil && err != nil && !errors.Is(err, errGone) { // the client sees the end, and comes back with its last id
		g.log.Warn("gateway: live stream", "error", err.Error())
	}
	return nil
}

// liveFrom is where a client begins.
func (g *Gateway) liveFrom(ctx context.Context, from string) (places, error) {
	store := g.p.Store()
	switch from {
	case "", "now":
		return store.Heads(ctx)
	case "beginning":
		return make(places, store.Partitions()), nil
	}
	if at, ok := parsePlaces(from, store.Partitions()); ok {
		return at, nil
	}
	t, err := time.Parse(time.RFC3339, from)
	if err != nil {
		return nil, badRequest("from, Last-Event-ID: give now, beginning, an RFC 3339 time, or the id of a live event of this store")
	}
	return store.OffsetsAt(ctx, t)
}

// errGone: the client has gone, or takes nothing any more.
var errGone = errors.New("the client has gone")

// run sends what there is, and then what comes: from the store until it has caught up, then from the hub's ring.
func (f *follower) run(ctx context.Context) error {
	f.g.hub.watch()
	defer f.g.hub.unwatch()
	if err := f.beat(); err != nil { // the client learns where it is before anything has happened
		return err
	}
	heartbeat := time.NewTicker(f.g.o.Heartbeat)
	defer heartbeat.Stop()
	var number int64
	following := false
	for {
		at := f.at
		if following {
			at = nil
		}
		batch, next, news, ok := f.g.hub.since(number, at)
		if !ok {
			following = false
			if err := f.catchUp(ctx); err != nil {
				return err
			}
			select { // the ring begins where the hub found the store when it was first watched: at once
			case <-news:
			case <-ctx.Done():
				return nil
			case <-heartbeat.C:
				if err := errors.Join(f.again(), f.beat()); err != nil {
					return err
				}
			}
			continue
		}
		following, number = true, next
		for i := range batch {
			if err := f.send(&batch[i].Record, batch[i].text); err != nil {
				return err
			}
		}
		if err := f.flush(); err != nil {
			return err
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil
		case <-heartbeat.C:
			if err := errors.Join(f.again(), f.beat()); err != nil {
				return err
			}
		}
	}
}

// catchUp reads the store up to its present heads.
func (f *follower) catchUp(ctx context.Context) error {
	heads, err := f.g.p.Store().Heads(ctx)
	if err != nil {
		return err
	}
	for r, err := range f.g.p.Store().All(ctx, slices.Clone(f.at), f.match) {
		if err != nil {
			return err
		}
		if err := f.send(&r, nil); err != nil {
			return err
		}
	}
	for p := range f.at { // also over what was not wanted
		f.at[p] = max(f.at[p], heads[p])
	}
	return f.flush()
}

// send writes an event, unless the client has it or does not want it.
func (f *follower) send(r *eventstore.Record, text []byte) error {
	if r.Offset < f.at[r.Partition] {
		return nil
	}
	f.at[r.Partition] = r.Offset + 1
	if !f.match(r.Type) || !f.keep(r) {
		return nil
	}
	f.id = append(f.id[:0], "id: "...)
	f.id = f.at.append(f.id)
	f.id = append(f.id, "\ndata: "...)
	if text == nil || f.cloud {
		f.id = frame(f.id, r.Event, f.cloud)
		text = nil
	}
	if f.w.Available() < len(f.id)+len(text)+2 {
		if err := f.deadline(); err != nil {
			return err
		}
	}
	_, _ = f.w.Write(f.id)
	_, _ = f.w.Write(text)
	if _, err := f.w.WriteString("\n\n"); err != nil {
		return errGone
	}
	return nil
}

// deadline: a client that takes nothing for so long is cut. It may come back with its last id.
func (f *follower) deadline() error {
	if err := f.control.SetWriteDeadline(time.Now().Add(bodyTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errGone
	}
	return nil
}

func (f *follower) flush() error {
	if f.w.Buffered() == 0 {
		return nil
	}
	if err := f.deadline(); err != nil {
		return err
	}
	if err := f.w.Flush(); err != nil {
		return errGone
	}
	if err := f.control.Flush(); err != nil {
		return errGone
	}
	return nil
}

// beat keeps the connection alive, and tells where the client is when it was sent nothing of what has passed.
func (f *follower) beat() error {
	_, _ = f.w.WriteString(":\nid: ")
	_, _ = f.w.Write(f.at.append(f.id[:0]))
	_, _ = f.w.WriteString("\n\n")
	return f.flush()
}
