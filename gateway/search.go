package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// searchInput chooses events.
type searchInput struct {
	Type        []string  `query:"type" maxItems:"100" doc:"Patterns of event types, such as medication.prescription.* or patient.**."`
	Since       time.Time `query:"since" doc:"Recorded at this time or later."`
	Until       time.Time `query:"until" doc:"Recorded before this time."`
	Correlation string    `query:"correlation" maxLength:"128" doc:"Of this flow."`
	Key         string    `query:"key" maxLength:"256" doc:"With this partition key."`
	Subject     string    `query:"subject" maxLength:"256" doc:"About this person, by the schema's x-subject-id."`
	Source      string    `query:"source" maxLength:"128" doc:"Stated by this service."`
	Member      []string  `query:"member,explode" maxItems:"10" doc:"Where a member of the payload has a value: /medication/ndc=0093-7424-56."`
	Text        string    `query:"text" maxLength:"256" doc:"Where the text of the payload has this part, in upper or lower case."`
	Payload     string    `query:"payload" enum:"full,masked,none" default:"full" doc:"How payloads are shown."`
	Order       string    `query:"order" enum:"oldest,newest" default:"oldest" doc:"By recording. Newest first, with a type or pattern that is of 32 types at most, it is by timestamp."`
	Limit       int       `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	Cursor      string    `query:"cursor" maxLength:"4096" doc:"The next of a former answer, with the same other parameters. What was stored after the first request is not seen."`
}

// page is a part of an answer.
type page struct {
	Body struct {
		Events []record `json:"events" doc:"In the order asked for."`
		Next   string   `json:"next,omitempty" doc:"Cursor of the rest. A page may have fewer events than the limit, and still a rest."`
	}
}

func (g *Gateway) searchRoutes() {
	register(g, huma.Operation{OperationID: "search-events", Method: http.MethodGet, Path: "/v1/events", Tags: []string{"events"}, Summary: "Search events",
		Description: "Events of all types that the caller may read, in the order they were recorded. The upper bound is frozen by the first request of a search: events stored later are not swept in."},
		g.search)
	type eventOne struct {
		ID      string `path:"id" maxLength:"128"`
		Payload string `query:"payload" enum:"full,masked,none" default:"full"`
	}
	type eventOneOut struct{ Body record }
	register(g, huma.Operation{OperationID: "get-event", Method: http.MethodGet, Path: "/v1/events/{id}", Tags: []string{"events"}, Summary: "One event"},
		func(ctx context.Context, in *eventOne) (*eventOneOut, error) {
			r, err := g.p.Store().Get(ctx, in.ID)
			if err == nil && !callerOf(ctx).May(auth.Read, r.Type) {
				_ = g.deny(ctx, auth.Read, r.Type)
				err = eventstore.ErrNotFound // who may not see it does not learn that it exists
			}
			if errors.Is(err, eventstore.ErrNotFound) {
				return nil, notFound("no event has this id")
			}
			if err != nil {
				return nil, err
			}
			return &eventOneOut{g.show(r, in.Payload)}, nil
		})
	g.streamRoutes()
}

// scanBudget is how many events one request looks at, so that a search for what is rare does not hold the store for long.
const scanBudget = 200_000

func (g *Gateway) search(ctx context.Context, in *searchInput) (*page, error) {
	if err := checkPatterns(in.Type); err != nil {
		return nil, err
	}
	keep, err := g.condition(in)
	if err != nil {
		return nil, err
	}
	w, err := g.windowOf(ctx, in)
	if err != nil {
		return nil, err
	}
	match := readable(ctx, auth.Read, in.Type)
	out := &page{}
	out.Body.Events = []record{}
	if in.Order == "newest" {
		return out, g.searchNewest(ctx, in, w.from, w.bound, match, keep, out)
	}
	if in.Correlation != "" {
		return out, g.searchFlow(ctx, in, w, match, keep, out)
	}
	return out, g.searchLog(ctx, in, w, match, keep, out)
}

// searchLog pages through the partitions, merged in the order of recording. What comes first is known when each partition
// has shown its next event, or has none: until then nothing is given out, and what was looked at in vain is behind.
func (g *Gateway) searchLog(ctx context.Context, in *searchInput, w *window, match func(string) bool, keep func(eventstore.Record) bool, out *page) error {
	looked, moved := int64(0), false // a request that has moved nothing yet goes on, or the next one would do the same
	shown := make([][]eventstore.Record, len(w.from))
	ahead := slices.Clone(w.from) // up to where each partition was read
	for {
		first := -1
		for p := range shown {
			for len(shown[p]) == 0 && ahead[p] < w.bound[p] {
				if moved && looked >= g.scan {
					out.Body.Next = w.String()
					return nil
				}
				b, err := g.p.Store().Partition(ctx, eventstore.PartitionQuery{
					Partition: p, From: ahead[p], To: w.bound[p], Match: match, Key: in.Key, Limit: min(in.Limit+1, 256), MaxBytes: 1 << 20,
				})
				if err != nil {
					return err
				}
				if b.Next == ahead[p] { // a bound that the store does not reach: a cursor of another store
					ahead[p] = w.bound[p]
					break
				}
				looked += b.Next - ahead[p]
				shown[p], ahead[p] = b.Records, b.Next
				if len(shown[p]) == 0 {
					w.from[p], moved = ahead[p], true
				}
			}
			if len(shown[p]) > 0 && (first < 0 || shown[p][0].RecordedAt.Before(shown[first][0].RecordedAt)) {
				first = p
			}
		}
		if first < 0 {
			return nil
		}
		if len(out.Body.Events) == in.Limit {
			out.Body.Next = w.String()
			return nil
		}
		r := shown[first][0]
		shown[first], w.from[first], moved = shown[first][1:], r.Offset+1, true
		if keep(r) {
			out.Body.Events = append(out.Body.Events, g.show(r, in.Payload))
		}
	}
}

// searchFlow pages through one flow, which the store has an index of.
func (g *Gateway) searchFlow(ctx context.Context, in *searchInput, w *window, match func(string) bool, keep func(eventstore.Record) bool, out *page) error {
	chunk := max(1000, 2*g.p.Store().Partitions())
	for looked := 0; ; looked += chunk {
		if looked > 0 && looked >= maxFlow { // what it looks for is rare in a long flow
			out.Body.Next = w.String()
			return nil
		}
		records, err := g.p.Store().Correlation(ctx, in.Correlation, w.after, chunk)
		if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
			return err
		}
		for i, r := range records {
			if len(out.Body.Events) == in.Limit {
				out.Body.Next = w.String()
				return nil
			}
			// Events of several partitions may be of one moment: time passes when the next event is later.
			if i > 0 && r.RecordedAt.After(records[i-1].RecordedAt) {
				w.after = records[i-1].RecordedAt
			}
			if r.Offset < w.from[r.Partition] || r.Offset >= w.bound[r.Partition] || !match(r.Type) {
				continue
			}
			w.from[r.Partition] = r.Offset + 1
			if keep(r) {
				out.Body.Events = append(out.Body.Events, g.show(r, in.Payload))
			}
		}
		if len(records) < chunk {
			return nil
		}
	}
}

// maxFlow bounds what is read of one flow: an import makes a whole patient's life one.
const maxFlow = 20_000

// window is what a search looks at: from where, and up to the bound that its first request has frozen. In a flow all that was
// recorded up to a time is behind.
type window struct {
	from, bound places
	after       time.Time
}

// String is the cursor of the rest.
func (w *window) String() string {
	text := w.from.String() + "." + w.bound.String()
	if !w.after.IsZero() {
		text += "." + strconv.FormatInt(w.after.UnixMicro(), 10)
	}
	return text
}

func (g *Gateway) windowOf(ctx context.Context, in *searchInput) (*window, error) {
	store := g.p.Store()
	w := &window{}
	var err error
	if in.Cursor != "" {
		cursor, _, _ := strings.Cut(in.Cursor, "~") // behind it is a place in the index by type: see newestOfTypes
		parts := strings.Split(cursor, ".")
		ok := len(parts) == 2 || len(parts) == 3
		if ok {
			var isFrom, isBound bool
			w.from, isFrom = parsePlaces(parts[0], store.Partitions())
			w.bound, isBound = parsePlaces(parts[1], store.Partitions())
			ok = isFrom && isBound
		}
		if ok && len(parts) == 3 {
			micros, err := strconv.ParseInt(parts[2], 10, 64)
			ok = err == nil && micros > 0
			w.after = time.UnixMicro(micros)
		}
		if !ok {
			return nil, badRequest("cursor: give what a former answer had as next")
		}
		return w, nil
	}
	if in.Until.IsZero() {
		w.bound, err = store.Heads(ctx)
	} else {
		w.bound, err = store.OffsetsAt(ctx, in.Until)
	}
	if err != nil {
		return nil, err
	}
	w.from = make(places, store.Partitions())
	if !in.Since.IsZero() {
		if w.from, err = store.OffsetsAt(ctx, in.Since); err != nil {
			return nil, err
		}
	}
	if in.Key != "" { // a key lives in one partition
		p := eventstore.PartitionOf(in.Key, len(w.from))
		for i := range w.from {
			if i != p {
				w.from[i] = w.bound[i]
			}
		}
	}
	return w, nil
}

// condition is what an event must be, beyond its type and time.
func (g *Gateway) condition(in *searchInput) (func(r eventstore.Record) bool, error) {
	type member struct{ path, value string }
	var members []member
	for _, text := range in.Member {
		path, value, ok := strings.Cut(text, "=")
		if !ok || !strings.HasPrefix(path, "/") {
			return nil, badRequest("member: give a JSON pointer into the payload, an equals sign and a value, such as /medication/ndc=0093-7424-56")
		}
		members = append(members, member{path, value})
	}
	text := bytes.ToLower([]byte(in.Text))
	return func(r eventstore.Record) bool {
		if in.Key != "" && r.PartitionKey != in.Key || in.Source != "" && r.Source != in.Source {
			return false
		}
		if in.Subject != "" {
			if id, ok := g.p.Registry().SubjectID(r.Event); !ok || id != in.Subject {
				return false
			}
		}
		if len(text) > 0 && !bytes.Contains(bytes.ToLower(r.Payload), text) {
			return false
		}
		for _, m := range members {
			if !hasMember(r.Payload, m.path, m.value) {
				return false
			}
		}
		return true
	}, nil
}

var unescaper = strings.NewReplacer("~1", "/", "~0", "~")

// hasMember says whether a JSON pointer leads to a value: a string of this text, or another scalar that is written so.
func hasMember(doc json.RawMessage, pointer, want string) bool {
	for name := range strings.SplitSeq(strings.TrimPrefix(pointer, "/"), "/") {
		doc = bytes.TrimLeft(doc, " \t\r\n")
		if len(doc) == 0 {
			return false
		}
		switch doc[0] {
		case '{':
			var object map[string]json.RawMessage
			if json.Unmarshal(doc, &object) != nil {
				return false
			}
			v, ok := object[unescaper.Replace(name)]
			if !ok {
				return false
			}
			doc = v
		case '[':
			var list []json.RawMessage
			i, err := strconv.Atoi(name)
			if err != nil || json.Unmarshal(doc, &list) != nil || i < 0 || i >= len(list) {
				return false
			}
			doc = list[i]
		default:
			return false
		}
	}
	var text string
	if json.Unmarshal(doc, &text) == nil {
		return text == want
	}
	return string(bytes.TrimSpace(doc)) == want
}

// streamRoutes show the histories of entities, and what they come to.
func (g *Gateway) streamRoutes() {
	type eventListIn struct {
		Prefix string `query:"prefix" maxLength:"512"`
		After  string `query:"after" maxLength:"512" doc:"The last name of a former answer."`
		Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
	}
	type eventListOut struct {
		Body struct {
			Streams []string `json:"streams"`
		}
	}
	register(g, huma.Operation{OperationID: "list-streams", Method: http.MethodGet, Path: "/v1/streams", Tags: []string{"streams"}, Summary: "Names of streams",
		Description: "Names of streams hold the ids of entities. The caller must be granted to read everything."},
		func(ctx context.Context, in *eventListIn) (*eventListOut, error) {
			if err := g.mayAll(ctx, auth.Read, "**"); err != nil {
				return nil, err
			}
			names, err := g.p.Store().Streams(ctx, in.Prefix, in.After, in.Limit)
			if err != nil {
				return nil, err
			}
			out := &eventListOut{}
			out.Body.Streams = append([]string{}, names...)
			return out, nil
		})

	type eventStreamIn struct {
		Category string `path:"category" maxLength:"255"`
		ID       string `path:"id" maxLength:"256"`
		From     int64  `query:"from" minimum:"1" default:"1" doc:"First version."`
		Limit    int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
		Payload  string `query:"payload" enum:"full,masked,none" default:"full"`
	}
	type eventStreamOut struct {
		Body struct {
			Stream  string   `json:"stream"`
			Version int64    `json:"version" doc:"Of the last event in the stream that the caller may read."`
			Events  []record `json:"events" doc:"Those that the caller may read."`
			Next    int64    `json:"next,omitempty" doc:"The version to go on from."`
		}
	}
	register(g, huma.Operation{OperationID: "get-stream", Method: http.MethodGet, Path: "/v1/streams/{category}/{id}", Tags: []string{"streams"}, Summary: "The history of one entity"},
		func(ctx context.Context, in *eventStreamIn) (*eventStreamOut, error) {
			out := &eventStreamOut{}
			out.Body.Stream, out.Body.Events = in.Category+"/"+in.ID, []record{}
			match := readable(ctx, auth.Read, []string{"**", "platform.**"})
			var err error
			if out.Body.Version, err = g.lastReadable(ctx, out.Body.Stream, match); err != nil {
				return nil, hideStream(err)
			}
			for from := in.From; from <= out.Body.Version; {
				records, err := g.p.Store().Stream(ctx, eventstore.StreamQuery{Stream: out.Body.Stream, From: from, Limit: in.Limit})
				if err != nil {
					return nil, hideStream(err)
				}
				for _, r := range records {
					from = r.StreamVersion + 1
					if match(r.Type) {
						out.Body.Events = append(out.Body.Events, g.show(r, in.Payload))
					}
					if len(out.Body.Events) == in.Limit || from-in.From >= scanBudget {
						if from <= out.Body.Version {
							out.Body.Next = from
						}
						return out, nil
					}
				}
			}
			return out, nil
		})

	type eventStateIn struct {
		Category string    `path:"category" maxLength:"255"`
		ID       string    `path:"id" maxLength:"256"`
		Version  int64     `query:"version" minimum:"0" doc:"After this event of the stream."`
		At       time.Time `query:"at" doc:"As it was known at this time."`
		Payload  string    `query:"payload" enum:"full,masked" default:"full"`
	}
	type eventStateOut struct {
		Body struct {
			Stream     string          `json:"stream"`
			Version    int64           `json:"version"`
			RecordedAt time.Time       `json:"recordedAt"`
			Masked     bool            `json:"masked,omitempty"`
			State      json.RawMessage `json:"state"`
		}
	}
	register(g, huma.Operation{OperationID: "get-state", Method: http.MethodGet, Path: "/v1/streams/{category}/{id}/state", Tags: []string{"streams"}, Summary: "What an entity is, or was",
		Description: "Folds the events of an entity: now, after a version, or as it was known at a time. The caller must be granted to read the types of the category."},
		func(ctx context.Context, in *eventStateIn) (*eventStateOut, error) {
			if err := g.mayAll(ctx, auth.Read, in.Category+".**"); err != nil {
				return nil, err
			}
			fold := g.o.States[in.Category]
			if fold == nil {
				return nil, notFound("no entity of the category %q has a state that this program can fold", in.Category)
			}
			if in.Version > 0 && !in.At.IsZero() {
				return nil, badRequest("give version or at, not both")
			}
			s, err := fold(ctx, g.p, in.ID, in.Version, in.At)
			if err != nil {
				return nil, hideStream(err)
			}
			out := &eventStateOut{}
			out.Body.Stream, out.Body.Version, out.Body.RecordedAt, out.Body.State = in.Category+"/"+in.ID, s.Version, s.RecordedAt, s.State
			if in.Payload == payloadMasked {
				out.Body.State, out.Body.Masked = g.p.Registry().Mask(event.Event{Metadata: s.As, Payload: s.State}), true
			}
			return out, nil
		})
}

// lastReadable is the version of the last event of a stream that the caller may see, or ErrNotFound: who may see nothing of
// it does not learn that it exists, nor how long it is.
func (g *Gateway) lastReadable(ctx context.Context, stream string, match func(eventType string) bool) (int64, error) {
	var from int64 // the last
	for seen := 0; seen < scanBudget; {
		records, err := g.p.Store().Stream(ctx, eventstore.StreamQuery{Stream: stream, From: from, Backward: true, Limit: 100})
		if err != nil {
			return 0, err
		}
		for _, r := range records {
			if match(r.Type) {
				return r.StreamVersion, nil
			}
			from = r.StreamVersion - 1
		}
		if seen += len(records); len(records) == 0 || from == 0 {
			break
		}
	}
	category, _, _ := strings.Cut(stream, "/")
	_ = g.deny(ctx, auth.Read, "streams of "+category)
	return 0, eventstore.ErrNotFound
}

func hideStream(err error) error {
	if errors.Is(err, eventstore.ErrNotFound) {
		return notFound("no events of this stream by then")
	}
	return err
}
