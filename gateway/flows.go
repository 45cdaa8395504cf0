package gateway

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
)

// drawing is an answer whose form the caller chooses.
type drawing struct {
	ContentType string `header:"Content-Type"`
	Body        any
}

// drawingOf draws in the form asked for.
func drawingOf(form string, doc any, text, mermaid, svg func(*bytes.Buffer) error) (*drawing, error) {
	var b bytes.Buffer
	var err error
	var media string
	switch form {
	case "mermaid":
		media, err = "text/vnd.mermaid; charset=utf-8", mermaid(&b)
	case "svg":
		media, err = "image/svg+xml", svg(&b)
	case "text":
		media, err = "text/plain; charset=utf-8", text(&b)
	default:
		return &drawing{"application/json", doc}, nil
	}
	if err != nil {
		return nil, err
	}
	return &drawing{media, b.Bytes()}, nil
}

func (g *Gateway) flowRoutes() {
	type flowsFlowIn struct {
		ID     string    `path:"id" maxLength:"128" doc:"A correlation id, or the id of an event of the flow."`
		Format string    `query:"format" enum:"json,mermaid,svg,text" default:"json"`
		Theme  string    `query:"theme" enum:"auto,light,dark" default:"auto"`
		Limit  int       `query:"limit" minimum:"1" maximum:"20000" default:"200" doc:"Events drawn; JSON has all that were read."`
		After  time.Time `query:"after" doc:"Read what was recorded after this time only."`
		Most   int       `query:"most" minimum:"1" maximum:"20000" default:"20000" doc:"Events read, the first recorded first. The member more of the answer says that there are others."`
		All    bool      `query:"all" doc:"The saga engine's own account of steps that went well too."`
		Groups bool      `query:"groups" doc:"Which groups have handled each event, and which have it before them."`
		Reveal bool      `query:"reveal" doc:"Show the error texts of failures. They may hold protected values; the caller must be granted to operate."`
	}
	register(g, huma.Operation{OperationID: "get-flow", Method: http.MethodGet, Path: "/v1/flows/{id}", Tags: []string{"flows"}, Summary: "Who caused what in one flow",
		Description: "The causation tree of a flow, from what the store holds: as JSON, a Mermaid sequence diagram, an SVG or text. Payloads are never in it. Events that the caller may not read are left out.",
		Responses:   drawings("The flow.")},
		func(ctx context.Context, in *flowsFlowIn) (*drawing, error) {
			records, more, err := g.readFlow(ctx, in.ID, in.After, in.Most)
			if err != nil {
				return nil, err
			}
			reveal := false
			if in.Reveal {
				if err := g.mayAll(ctx, auth.Operate, "**"); err != nil {
					return nil, err
				}
				reveal = true
			}
			var shown []revealed
			for i, r := range records {
				if r.Type != "platform.key.parked" && r.Type != "platform.key.skipped" {
					continue
				}
				if shown = append(shown, revealed{r.ID, r.Type}); !reveal {
					records[i].Payload = g.p.Registry().Mask(r.Event)
				}
			}
			if reveal {
				if err := g.tellRevealed(ctx, shown); err != nil {
					return nil, err
				}
			}
			correlation := records[0].CorrelationID
			if !in.All {
				records = flow.Without(records, flow.Bookkeeping)
			}
			var groups []flow.Group
			if in.Groups {
				if groups, err = flow.ReadGroups(ctx, g.p.Store(), g.p.Bus()); err != nil {
					return nil, err
				}
				c := callerOf(ctx)
				groups = slices.DeleteFunc(groups, func(of flow.Group) bool { return !c.mayAllOf(auth.Read, of.Status.Patterns) })
			}
			f := flow.Build(records, groups...)
			f.CorrelationID, f.More = correlation, more
			o := &flow.Options{Limit: in.Limit, Theme: themeOf(in.Theme)}
			return drawingOf(in.Format, f,
				func(b *bytes.Buffer) error { return f.WriteTree(b, o) },
				func(b *bytes.Buffer) error { return f.WriteMermaid(b, o) },
				func(b *bytes.Buffer) error { return f.WriteSVG(b, o) })
		})

	type flowsTopologyIn struct {
		Format string    `query:"format" enum:"json,mermaid,svg,text" default:"json"`
		Theme  string    `query:"theme" enum:"auto,light,dark" default:"auto"`
		Limit  int       `query:"limit" minimum:"1" maximum:"2000" default:"200" doc:"Types drawn; JSON has all."`
		Since  time.Time `query:"since" doc:"Look at the events recorded since. Default: the last 20,000."`
	}
	register(g, huma.Operation{OperationID: "get-topology", Method: http.MethodGet, Path: "/v1/topology", Tags: []string{"flows"}, Summary: "Who publishes what, and who consumes it",
		Description: "As the store has seen it. The caller must be granted to read everything.", Responses: drawings("The topology.")},
		func(ctx context.Context, in *flowsTopologyIn) (*drawing, error) {
			if err := g.mayAll(ctx, auth.Read, "**"); err != nil {
				return nil, err
			}
			groups, err := flow.ReadGroups(ctx, g.p.Store(), g.p.Bus())
			if err != nil {
				return nil, err
			}
			t, err := flow.Observe(ctx, g.p.Store(), groups, &flow.ObserveOptions{Since: in.Since})
			if err != nil {
				return nil, err
			}
			o := &flow.Options{Limit: in.Limit, Theme: themeOf(in.Theme)}
			return drawingOf(in.Format, t,
				func(b *bytes.Buffer) error { return t.WriteText(b, o) },
				func(b *bytes.Buffer) error { return t.WriteMermaid(b, o) },
				func(b *bytes.Buffer) error { return t.WriteSVG(b, o) })
		})
}

// drawings describes the forms of a drawing.
func drawings(description string) map[string]*huma.Response {
	text := &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	return map[string]*huma.Response{"200": {Description: description, Content: map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{Type: huma.TypeObject}}, "text/vnd.mermaid": text, "image/svg+xml": text, "text/plain": text,
	}}}
}

func themeOf(name string) flow.Theme {
	if name == "auto" {
		return flow.ThemeAuto
	}
	return flow.Theme(name)
}

// readFlow reads records of the flow with this correlation id, or of the event with this id, as far as the caller may: those
// recorded after a time, and no more than most. There may be more.
func (g *Gateway) readFlow(ctx context.Context, id string, after time.Time, most int) (_ []eventstore.Record, more bool, err error) {
	records, err := g.p.Store().Correlation(ctx, id, after, most+1)
	if len(records) == 0 && (err == nil || errors.Is(err, eventstore.ErrNotFound)) {
		var r eventstore.Record
		if r, err = g.p.Store().Get(ctx, id); err == nil {
			records, err = g.p.Store().Correlation(ctx, r.CorrelationID, after, most+1)
		}
	}
	if err != nil && !errors.Is(err, eventstore.ErrNotFound) {
		return nil, false, err
	}
	if more = len(records) > most; more {
		records = records[:most]
	}
	match := readable(ctx, auth.Read, []string{"**", "platform.**"})
	mine := make([]eventstore.Record, 0, len(records))
	for _, r := range records {
		if match(r.Type) {
			mine = append(mine, r)
		}
	}
	if len(mine) == 0 {
		if len(records) > 0 {
			_ = g.deny(ctx, auth.Read, "a flow")
		}
		return nil, false, notFound("no flow and no event has this id")
	}
	return mine, more, nil
}
