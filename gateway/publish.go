package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// published is the answer to a publication.
type published struct {
	Published  int           `json:"published" doc:"Events stored by this request."`
	Duplicates int           `json:"duplicates" doc:"Events that were stored before."`
	Refused    int           `json:"refused"`
	Checked    int           `json:"checked,omitempty" doc:"With dryRun: events that would be accepted."`
	Results    []eventResult `json:"results" doc:"One per event, in the order of the request."`
}

// eventResult is what became of one event of a request.
type eventResult struct {
	Index         int             `json:"index" doc:"Of the event in the request, from 0."`
	EventID       string          `json:"eventId,omitempty"`
	Type          string          `json:"eventType,omitempty"`
	Partition     *int            `json:"partition,omitempty"`
	Offset        *int64          `json:"offset,omitempty"`
	Stream        string          `json:"stream,omitempty"`
	StreamVersion int64           `json:"streamVersion,omitempty"`
	RecordedAt    *time.Time      `json:"recordedAt,omitempty"`
	Duplicate     bool            `json:"duplicate,omitempty"`
	Refused       bool            `json:"refused,omitempty"`
	Findings      []event.Finding `json:"findings,omitempty" doc:"Why it was refused, or warnings."`
}

// publication is one request to publish.
type publication struct {
	atomic, dryRun bool
	stream         string
	expected       int64
	items          []incoming
}

// incoming is an event of a request, or why it is none.
type incoming struct {
	event    event.Event
	warnings []event.Finding
	err      error
}

func (g *Gateway) publishRoutes() {
	g.mux.HandleFunc("POST /v1/events", g.raw(g.publish, "atomic", "dryRun", "stream", "expected"))
	integer, boolean, text := &huma.Schema{Type: huma.TypeInteger}, &huma.Schema{Type: huma.TypeBoolean}, &huma.Schema{Type: huma.TypeString}
	object := &huma.Schema{Type: huma.TypeObject}
	g.document(&huma.Operation{
		OperationID: "publish", Method: http.MethodPost, Path: "/v1/events", Tags: []string{"events"}, Summary: "Publish events",
		Description: "One event or many, as native envelopes or CloudEvents, in one of these forms:\n\n" +
			"- `application/json`: an object, or an array of objects; each a native envelope or a CloudEvent\n" +
			"- `application/x-ndjson`: one object per line\n" +
			"- `application/cloudevents+json`, `application/cloudevents-batch+json`: structured and batched mode\n" +
			"- binary mode: the attributes in `ce-` headers, the payload as the body\n\n" +
			"The answer comes when the events are on stable storage: 201, or 200 when all were stored before. " +
			"Publishing is idempotent by `eventId`. A batch is stored as a whole or not at all, unless `atomic=false`: then every event has its own result, and the status is 207 when some were refused.",
		Parameters: []*huma.Param{
			{Name: "atomic", In: "query", Schema: boolean, Description: "All or none. Default true."},
			{Name: "dryRun", In: "query", Schema: boolean, Description: "Only check."},
			{Name: "stream", In: "query", Schema: text, Description: "The history of one entity to append to, such as patient.record/P1."},
			{Name: "expected", In: "query", Schema: integer, Description: "With stream: the version that it must be at, 0 for a new one. Otherwise the answer is 409 with actualVersion."},
			{Name: "X-Correlation-Id", In: "header", Schema: text, Description: "The flow of events that bring no correlation of their own."},
		},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: object}, "application/x-ndjson": {Schema: object},
			event.ContentTypeCloudEvent: {Schema: object}, event.ContentTypeCloudEventBatch: {Schema: &huma.Schema{Type: huma.TypeArray, Items: object}},
		}},
		Responses: map[string]*huma.Response{
			"200": g.response(published{}, "All events were stored before, or with dryRun all would be accepted."),
			"201": g.response(published{}, "Stored."),
			"207": g.response(published{}, "Some events were refused; see their results."),
		},
		Errors: []int{400, 401, 403, 408, 409, 413, 415, 422, 429, 503, 507},
	})
}

func (g *Gateway) publish(w http.ResponseWriter, r *http.Request) error {
	p, err := readPublication(r)
	if err != nil {
		return err
	}
	data, done, err := g.bodies.read(w, r, g.o.MaxBody)
	if err != nil {
		return err
	}
	defer done()
	if p.items, err = g.parse(r, data); err != nil {
		return err
	}
	ctx := r.Context()
	if id := r.Header.Get("X-Correlation-Id"); id != "" {
		ctx = event.ContextWithCorrelation(ctx, id)
	}
	c := callerOf(ctx)
	if len(p.items) > 1 && !c.Allow(len(p.items)-1) { // the request itself has counted for one
		return c.tooFast("events")
	}
	category, _, _ := strings.Cut(p.stream, "/")
	for i := range p.items {
		it := &p.items[i]
		if it.err != nil {
			continue
		}
		if strings.HasPrefix(it.event.Type, "platform.") {
			it.err = carebus.ErrReserved
		} else if !c.May(auth.Publish, it.event.Type) {
			it.err = g.deny(ctx, auth.Publish, it.event.Type)
		} else if p.stream != "" && !strings.HasPrefix(it.event.Type, category+".") && !c.MayAll(auth.Publish, category+".**") {
			// A type of another category in an entity's history would be the end of those who fold it.
			it.err = g.deny(ctx, auth.Publish, "streams of "+category)
		}
	}
	// The client's going away must not leave open whether something was stored, once it has begun.
	ctx, cancel := context.WithTimeout(ctx, g.o.PublishWait)
	defer cancel()
	var out published
	status := http.StatusCreated
	switch {
	case p.dryRun:
		status, out = g.dryRun(ctx, p)
	case p.atomic:
		out, err = g.storeAll(ctx, p)
		if err == nil && out.Published == 0 {
			status = http.StatusOK
		}
	default:
		status, out, err = g.storeEach(ctx, p)
	}
	if errors.Is(err, context.DeadlineExceeded) && r.Context().Err() == nil { // of our own patience: nothing was stored
		return tooMany("the store did not come to it within %v; try again", g.o.PublishWait)
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(out)
}

func readPublication(r *http.Request) (p publication, err error) {
	q := r.URL.Query()
	p.atomic, p.expected = true, eventstore.AnyVersion
	if p.atomic, err = boolParam(q.Get("atomic"), "atomic", true); err != nil {
		return p, err
	}
	if p.dryRun, err = boolParam(q.Get("dryRun"), "dryRun", false); err != nil {
		return p, err
	}
	p.stream = q.Get("stream")
	if text := q.Get("expected"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return p, badRequest("expected: give the number of events in the stream, 0 for a new one")
		}
		if p.stream == "" {
			return p, badRequest("expected goes with stream")
		}
		p.expected = n
		if n == 0 {
			p.expected = eventstore.NoStream
		}
	}
	if p.stream != "" && !p.atomic {
		return p, badRequest("events of a stream are stored all or none; leave atomic=false away")
	}
	if len(p.stream) > 512 {
		return p, badRequest("stream: the name may have 512 bytes")
	}
	return p, nil
}

func boolParam(text, name string, otherwise bool) (bool, error) {
	if text == "" {
		return otherwise, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, badRequest("%s: give true or false", name)
	}
	return v, nil
}

// parse makes events of a body, by its content type.
func (g *Gateway) parse(r *http.Request, data []byte) ([]incoming, error) {
	contentType := r.Header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil && contentType != "" {
		return nil, unsupported(contentType)
	}
	if charset := params["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
		return nil, unsupported(contentType)
	}
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, newProblem(http.StatusUnsupportedMediaType, "content-encoding", "the body may not be encoded")
	}
	one := func(e event.Event, warnings []event.Finding, err error) []incoming {
		return []incoming{{e, warnings, err}}
	}
	switch {
	case r.Header.Get("Ce-Specversion") != "" && media != event.ContentTypeCloudEvent && media != event.ContentTypeCloudEventBatch:
		return one(event.ParseCloudEventBinary(event.HTTP, headersOf(r), data, nil)), nil
	case media == event.ContentTypeCloudEvent:
		return one(event.ParseCloudEvent(data, nil)), nil
	case media == event.ContentTypeCloudEventBatch:
		batch, err := event.ParseCloudEventBatch(data, nil)
		if err != nil {
			return nil, err
		}
		if len(batch) > g.o.MaxEvents {
			return nil, overLimit(1, g.o.MaxEvents)
		}
		items := make([]incoming, len(batch))
		for i, b := range batch {
			items[i] = incoming{b.Event, b.Warnings, b.Err}
		}
		return items, nil
	case media == "application/json", media == "application/x-ndjson", media == "application/ndjson", media == "application/jsonl", media == "":
	default:
		return nil, unsupported(contentType)
	}
	texts, err := elements(data, g.o.MaxEvents)
	if err != nil {
		return nil, err
	}
	if len(texts) == 0 {
		return nil, badRequest("the body holds no event")
	}
	items := make([]incoming, len(texts))
	for i, text := range texts {
		if isCloudEvent(text) {
			items[i].event, items[i].warnings, items[i].err = event.ParseCloudEvent(text, nil)
		} else {
			items[i].event, items[i].warnings, items[i].err = event.Parse(text, nil)
		}
	}
	return items, nil
}

func unsupported(contentType string) error {
	if len(contentType) > 100 {
		contentType = contentType[:100]
	}
	p := newProblem(http.StatusUnsupportedMediaType, "content-type", "the content type %q is not understood; use application/json, application/x-ndjson, %s or %s",
		contentType, event.ContentTypeCloudEvent, event.ContentTypeCloudEventBatch)
	p.headers = [][]string{{"Accept-Post", "application/json, application/x-ndjson, " + event.ContentTypeCloudEvent + ", " + event.ContentTypeCloudEventBatch}}
	return p
}

func headersOf(r *http.Request) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for name, values := range r.Header {
			for _, v := range values {
				if !yield(name, v) {
					return
				}
			}
		}
	}
}

// isCloudEvent says which kind of envelope a text is.
func isCloudEvent(data []byte) bool {
	if !bytes.Contains(data, []byte(`"specversion"`)) {
		return false
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil {
		return false
	}
	_, is := members["specversion"]
	_, native := members["metadata"]
	return is && !native
}

// about says whether an error is about one event, and what it says of it. Others are about the store.
func about(err error) ([]event.Finding, bool) {
	var invalid *event.InvalidError
	var problem *Problem
	switch {
	case errors.As(err, &invalid):
		return invalid.Findings, true
	case errors.Is(err, carebus.ErrReserved):
		return []event.Finding{{Pointer: "/metadata/eventType", Rule: "event.reserved", Message: carebus.ErrReserved.Error(), Remedy: "choose another domain"}}, true
	case errors.Is(err, eventstore.ErrDifferentContent):
		return []event.Finding{{Pointer: "/metadata/eventId", Rule: "event.different-content", Message: "this id is stored already, with another content", Remedy: "state a new fact under a new id"}}, true
	case errors.As(err, &problem) && problem.Status == http.StatusForbidden:
		return []event.Finding{{Pointer: "/metadata/eventType", Rule: "event.forbidden", Message: problem.Detail, Remedy: "ask for a grant in the policy file"}}, true
	}
	return nil, false
}

func (it *incoming) refused(index int, findings []event.Finding) refusal {
	r := refusal{Index: index, EventID: it.event.ID, Type: it.event.Type, Findings: findings}
	var invalid *event.InvalidError
	if errors.As(it.err, &invalid) {
		r.EventID, r.Type = invalid.EventID, invalid.Type
	}
	return r
}

// storeAll stores everything in one append, or refuses with what is wrong with each event.
func (g *Gateway) storeAll(ctx context.Context, p publication) (out published, err error) {
	events := make([]event.Event, len(p.items))
	bad := false
	for i := range p.items {
		bad = bad || p.items[i].err != nil
		events[i] = p.items[i].event
	}
	var receipts []carebus.Receipt
	if !bad {
		receipts, err = g.p.Append(ctx, p.stream, p.expected, events...)
	}
	if _, one := about(err); bad || one {
		g.sift(ctx, p.items)
		return out, p.refusal(err)
	}
	if err != nil {
		return out, err
	}
	out.Results = make([]eventResult, len(p.items))
	for i := range receipts {
		out.add(i, p.items[i].event.Type, receipts[i], p.items[i].warnings)
	}
	return out, nil
}

func (out *published) add(i int, eventType string, r carebus.Receipt, warnings []event.Finding) {
	out.Results[i] = eventResult{
		Index: i, EventID: r.EventID, Type: eventType, Partition: &r.Partition, Offset: &r.Offset, Stream: r.Stream,
		StreamVersion: r.StreamVersion, RecordedAt: &r.RecordedAt, Duplicate: r.Duplicate, Findings: warnings,
	}
	if r.Duplicate {
		out.Duplicates++
	} else {
		out.Published++
	}
}

// sift finds out which events would be refused.
func (g *Gateway) sift(ctx context.Context, items []incoming) {
	for i := range items {
		if items[i].err == nil {
			_, items[i].warnings, items[i].err = g.p.Check(ctx, items[i].event)
		}
	}
}

// refusal is the problem of a request of which nothing was stored.
func (p *publication) refusal(err error) error {
	forbidden := false
	out := newProblem(http.StatusUnprocessableEntity, "invalid-event", "")
	for i := range p.items {
		if p.items[i].err == nil {
			continue
		}
		var problem *Problem
		forbidden = forbidden || errors.As(p.items[i].err, &problem)
		if findings, ok := about(p.items[i].err); ok {
			out.Findings = append(out.Findings, p.items[i].refused(i, findings))
		}
		if len(out.Findings) == 1000 {
			break
		}
	}
	switch {
	case len(out.Findings) == 0: // the store has refused, and does not say which
		return err
	case forbidden:
		out.Status, out.Title, out.Type = http.StatusForbidden, http.StatusText(http.StatusForbidden), "urn:carebus:problem:forbidden"
	}
	out.Detail = fmt.Sprintf("%d of %d events refused; nothing was stored", len(out.Findings), len(p.items))
	return out
}

// dryRun says what would be refused.
func (g *Gateway) dryRun(ctx context.Context, p publication) (int, published) {
	g.sift(ctx, p.items)
	out := published{Results: make([]eventResult, len(p.items))}
	for i := range p.items {
		if p.items[i].err != nil {
			out.refuse(i, &p.items[i])
			continue
		}
		out.Checked++
		out.Results[i] = eventResult{Index: i, EventID: p.items[i].event.ID, Type: p.items[i].event.Type, Findings: p.items[i].warnings}
	}
	if out.Refused > 0 {
		return http.StatusMultiStatus, out
	}
	return http.StatusOK, out
}

func (out *published) refuse(i int, it *incoming) {
	findings, _ := about(it.err)
	r := it.refused(i, findings)
	out.Results[i] = eventResult{Index: i, EventID: r.EventID, Type: r.Type, Refused: true, Findings: findings}
	out.Refused++
}

// storeEach stores what is good, and says of each event what became of it.
func (g *Gateway) storeEach(ctx context.Context, p publication) (int, published, error) {
	out := published{Results: make([]eventResult, len(p.items))}
	places := make([]int, 0, len(p.items))
	for i := range p.items {
		if p.items[i].err != nil {
			out.refuse(i, &p.items[i])
		} else {
			places = append(places, i)
		}
	}
	if err := g.storeSome(ctx, p, places, &out, true); err != nil {
		return 0, out, err
	}
	switch {
	case out.Refused > 0:
		return http.StatusMultiStatus, out, nil
	case out.Published == 0:
		return http.StatusOK, out, nil
	}
	return http.StatusCreated, out, nil
}

// storeSome stores events in one append; when the store refuses, without those that are at fault.
func (g *Gateway) storeSome(ctx context.Context, p publication, places []int, out *published, again bool) error {
	if len(places) == 0 {
		return nil
	}
	events := make([]event.Event, len(places))
	for k, i := range places {
		events[k] = p.items[i].event
	}
	receipts, err := g.p.Append(ctx, "", eventstore.AnyVersion, events...)
	if err == nil {
		for k, i := range places {
			out.add(i, p.items[i].event.Type, receipts[k], p.items[i].warnings)
		}
		return nil
	}
	if _, ok := about(err); !ok {
		return err
	}
	if len(places) == 1 {
		p.items[places[0]].err = err
		out.refuse(places[0], &p.items[places[0]])
		return nil
	}
	if again {
		g.sift(ctx, p.items)
		good := make([]int, 0, len(places))
		for _, i := range places {
			if p.items[i].err != nil {
				out.refuse(i, &p.items[i])
			} else {
				good = append(good, i)
			}
		}
		return g.storeSome(ctx, p, good, out, false)
	}
	// Only the store can have refused (an id that was used for another content), and it does not say which event.
	for _, i := range places {
		if err := g.storeSome(ctx, p, []int{i}, out, false); err != nil {
			return err
		}
	}
	return nil
}
