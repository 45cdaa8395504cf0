package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/carebus/carebus/asyncapi"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/flow"
	"github.com/carebus/carebus/schema"
)

// schemaDoc is one version of an event type's schema.
type schemaDoc struct {
	Type              string          `json:"eventType"`
	Version           string          `json:"version"`
	Deprecated        bool            `json:"deprecated,omitempty"`
	ReplacedBy        string          `json:"replacedBy,omitempty"`
	DeprecationReason string          `json:"deprecationReason,omitempty"`
	RegisteredBy      string          `json:"registeredBy,omitempty"`
	Fingerprint       string          `json:"fingerprint"`
	Schema            json.RawMessage `json:"schema,omitempty" doc:"JSON Schema 2020-12 of the payload."`
}

func schemaOf(d schema.Document) schemaDoc {
	return schemaDoc{d.Type, d.Version, d.Deprecated, d.ReplacedBy, d.DeprecationReason, d.RegisteredBy, d.Fingerprint, d.Schema}
}

// schemaRoutes are the registry in our own words. Schemas are no secret among those who may read anything.
func (g *Gateway) schemaRoutes() {
	tags := []string{"schemas"}
	type schemaEntry struct {
		Type       string   `json:"eventType"`
		Versions   []string `json:"versions"`
		Latest     string   `json:"latest"`
		Title      string   `json:"title,omitempty"`
		Owner      string   `json:"owner,omitempty"`
		DataClass  string   `json:"dataClass,omitempty"`
		Deprecated bool     `json:"deprecated,omitempty"`
	}
	type schemaListOut struct {
		Body struct {
			Types []schemaEntry `json:"types"`
		}
	}
	register(g, huma.Operation{OperationID: "list-schemas", Method: http.MethodGet, Path: "/v1/schemas", Tags: tags, Summary: "Event types and the versions of their schemas"},
		func(ctx context.Context, _ *struct{}) (*schemaListOut, error) {
			if err := g.seeSchemas(ctx); err != nil {
				return nil, err
			}
			out := &schemaListOut{}
			out.Body.Types = []schemaEntry{}
			for _, t := range g.p.Registry().Types() {
				d, err := g.p.Registry().Latest(t)
				if err != nil {
					return nil, err
				}
				e := schemaEntry{Type: t, Versions: g.p.Registry().Versions(t), Latest: d.Version, Deprecated: d.Deprecated}
				var head struct {
					Title     string `json:"title"`
					Owner     string `json:"x-owner"`
					DataClass string `json:"x-data-class"`
				}
				if json.Unmarshal(d.Schema, &head) == nil {
					e.Title, e.Owner, e.DataClass = head.Title, head.Owner, head.DataClass
				}
				out.Body.Types = append(out.Body.Types, e)
			}
			return out, nil
		})
	type schemaOneIn struct {
		Type    string `path:"type" maxLength:"255"`
		Version string `path:"version" maxLength:"64" doc:"A semantic version, or latest."`
	}
	find := func(ctx context.Context, in *schemaOneIn) (schema.Document, error) {
		if err := g.seeSchemas(ctx); err != nil {
			return schema.Document{}, err
		}
		if in.Version == "latest" {
			return g.p.Registry().Latest(in.Type)
		}
		return g.p.Registry().Get(in.Type, in.Version)
	}
	type schemaOneOut struct{ Body schemaDoc }
	register(g, huma.Operation{OperationID: "get-schema", Method: http.MethodGet, Path: "/v1/schemas/{type}/{version}", Tags: tags, Summary: "One version of a schema"},
		func(ctx context.Context, in *schemaOneIn) (*schemaOneOut, error) {
			d, err := find(ctx, in)
			return &schemaOneOut{schemaOf(d)}, err
		})
	type schemaBareOut struct {
		ContentType string `header:"Content-Type"`
		Disposition string `header:"Content-Disposition"`
		Body        []byte
	}
	register(g, huma.Operation{OperationID: "download-schema", Method: http.MethodGet, Path: "/v1/schemas/{type}/{version}/schema.json", Tags: tags, Summary: "The bare JSON Schema"},
		func(ctx context.Context, in *schemaOneIn) (*schemaBareOut, error) {
			d, err := find(ctx, in)
			return &schemaBareOut{"application/schema+json", `attachment; filename="` + d.Type + "-" + d.Version + `.json"`, d.Schema}, err
		})
	g.registerRoutes()

	g.asyncRoutes()
}

// asyncRoutes describe the events for tools and other languages.
func (g *Gateway) asyncRoutes() {
	type asyncIn struct {
		Observed bool   `query:"observed" doc:"Add who sends and receives what, as the store has seen it in its last 20,000 events. The caller must be granted to read everything."`
		Spec     string `query:"spec" enum:"3.0.0,3.1.0" default:"3.0.0" doc:"Version of AsyncAPI."`
	}
	type asyncOut struct {
		ContentType string `header:"Content-Type"`
		Body        []byte
	}
	register(g, huma.Operation{OperationID: "asyncapi", Method: http.MethodGet, Path: "/asyncapi.json", Tags: []string{"schemas"}, Summary: "The events as an AsyncAPI document",
		Description: "A channel for every entity, a message for every type and major version of event, with its schema.",
		Responses: map[string]*huma.Response{"200": {Description: "The document.", Content: map[string]*huma.MediaType{
			asyncMedia + ";version=3.0.0": {Schema: &huma.Schema{Type: huma.TypeObject}},
		}}}},
		func(ctx context.Context, in *asyncIn) (*asyncOut, error) {
			if err := g.seeSchemas(ctx); err != nil {
				return nil, err
			}
			var services []asyncapi.Service
			if in.Observed {
				if err := g.mayAll(ctx, auth.Read, "**"); err != nil {
					return nil, err
				}
				groups, err := flow.ReadGroups(ctx, g.p.Store(), g.p.Bus())
				if err != nil {
					return nil, err
				}
				seen, err := flow.Observe(ctx, g.p.Store(), groups, nil)
				if err != nil {
					return nil, err
				}
				services = asyncapi.Observed(seen)
			}
			doc, err := asyncapi.Document(g.p.Registry().Documents(), services, &asyncapi.Options{Title: "carebus", Version: "1.0.0", Spec: in.Spec})
			return &asyncOut{asyncMedia + ";version=" + in.Spec, doc}, err
		})
}

const asyncMedia = "application/vnd.aai.asyncapi+json"

func (g *Gateway) seeSchemas(ctx context.Context) error {
	c := callerOf(ctx)
	for _, v := range []auth.Verb{auth.Read, auth.Publish, auth.Subscribe, auth.Register, auth.Operate} {
		if c.MaySome(v) {
			return g.p.Refresh(ctx)
		}
	}
	return g.deny(ctx, auth.Read, "schemas")
}

// registerRoutes admit new versions.
func (g *Gateway) registerRoutes() {
	tags := []string{"schemas"}
	type schemaPutIn struct {
		Type    string          `path:"type" maxLength:"255"`
		Version string          `path:"version" maxLength:"64"`
		DryRun  bool            `query:"dryRun" doc:"Only check."`
		Body    json.RawMessage `doc:"JSON Schema 2020-12 of the payload."`
	}
	type schemaPutOut struct {
		Status int
		Body   struct {
			Type     string          `json:"eventType"`
			Version  string          `json:"version"`
			Known    bool            `json:"known,omitempty" doc:"This very schema was registered before."`
			Required string          `json:"requiredBump" doc:"The step of the version that the changes need: none, patch, minor, major."`
			Changes  []schema.Change `json:"changes"`
			Warnings []event.Finding `json:"warnings"`
		}
	}
	register(g, huma.Operation{OperationID: "put-schema", Method: http.MethodPut, Path: "/v1/schemas/{type}/{version}", Tags: tags, Summary: "Register a version of a schema",
		Description: "Within a major version, every earlier version must stay valid for producers and consumers alike: what breaks that is 409, with each change, its rule and what to do. A version never changes; the same document again is no error.",
		Errors:      []int{400, 401, 403, 409, 413, 422, 429}},
		func(ctx context.Context, in *schemaPutIn) (*schemaPutOut, error) {
			if err := g.may(ctx, auth.Register, in.Type); err != nil {
				return nil, err
			}
			if err := g.p.Refresh(ctx); err != nil {
				return nil, err
			}
			doc := schema.Document{Type: in.Type, Version: in.Version, Schema: in.Body, RegisteredBy: callerOf(ctx).Name}
			propose := g.p.RegisterSchema
			if in.DryRun {
				propose = func(_ context.Context, d schema.Document) (schema.Proposal, error) { return g.p.Registry().Propose(d) }
			}
			p, err := propose(ctx, doc)
			if err != nil {
				return nil, err
			}
			out := &schemaPutOut{Status: http.StatusCreated}
			if p.Known || in.DryRun {
				out.Status = http.StatusOK
			}
			out.Body.Type, out.Body.Version, out.Body.Known, out.Body.Required = in.Type, in.Version, p.Known, p.Required.String()
			out.Body.Changes, out.Body.Warnings = append([]schema.Change{}, p.Changes...), append([]event.Finding{}, p.Warnings...)
			return out, nil
		})
	type schemaDeprecateIn struct {
		Type string `path:"type" maxLength:"255"`
		Body struct {
			Version    string `json:"version,omitempty" doc:"Empty for the whole type."`
			Reason     string `json:"reason" maxLength:"1000"`
			ReplacedBy string `json:"replacedBy,omitempty" doc:"The event type to use instead."`
		}
	}
	register(g, huma.Operation{OperationID: "deprecate-schema", Method: http.MethodPost, Path: "/v1/schemas/{type}/deprecate", Tags: tags, Summary: "Mark a version, or a type, as not to be used any more",
		Description: "Events of it are still accepted.", DefaultStatus: http.StatusNoContent},
		func(ctx context.Context, in *schemaDeprecateIn) (*struct{}, error) {
			if err := g.may(ctx, auth.Register, in.Type); err != nil {
				return nil, err
			}
			if strings.TrimSpace(in.Body.Reason) == "" {
				return nil, bus.ErrReason
			}
			return nil, g.p.DeprecateSchema(ctx, in.Type, in.Body.Version, in.Body.Reason, in.Body.ReplacedBy)
		})
}
