package gateway

import (
	"context"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/swaggest/swgui"
	swagger "github.com/swaggest/swgui/v5emb"

	"github.com/carebus/carebus/eventstore"
)

// document adds an operation that reads its request itself to the API's description.
func (g *Gateway) document(op *huma.Operation) {
	for _, status := range op.Errors {
		op.Responses[strconv.Itoa(status)] = g.response(Problem{}, http.StatusText(status))
	}
	op.Errors = nil
	g.api.OpenAPI().AddOperation(op)
}

// response describes an answer with a JSON document like body.
func (g *Gateway) response(body any, description string) *huma.Response {
	media := "application/json"
	if _, ok := body.(Problem); ok {
		media = "application/problem+json"
	}
	t := reflect.TypeOf(body)
	schema := g.api.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{media: {Schema: schema}}}
}

// docRoutes serve the API's description and its pages, which load nothing from another host.
func (g *Gateway) docRoutes() {
	g.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		text, err := g.api.OpenAPI().MarshalJSON()
		if err != nil {
			writeProblem(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		_, _ = w.Write(text)
	})
	g.mux.HandleFunc("GET /openapi.yaml", func(w http.ResponseWriter, _ *http.Request) {
		text, err := g.api.OpenAPI().YAML()
		if err != nil {
			writeProblem(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/vnd.oai.openapi;version=3.1")
		_, _ = w.Write(text)
	})
	for name, media := range map[string]string{"openapi.json": "application/vnd.oai.openapi+json;version=3.1", "openapi.yaml": "application/vnd.oai.openapi;version=3.1"} {
		g.document(&huma.Operation{
			OperationID: strings.ReplaceAll(name, ".", "-"), Method: http.MethodGet, Path: "/" + name, Tags: []string{"operation"}, Summary: "This description",
			Description: "The schema registry that is served below /registry, as clients of the Confluent Schema Registry know it, is described by that product.", Security: []map[string][]string{},
			Responses: map[string]*huma.Response{"200": {Description: "The description.", Content: map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: huma.TypeObject}}}}},
		})
	}
	page := swagger.NewHandlerWithConfig(swgui.Config{Title: "carebus", SwaggerJSON: "/openapi.json", BasePath: "/docs/", HideCurl: false})
	g.mux.HandleFunc("GET /docs", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/docs/", http.StatusMovedPermanently)
	})
	g.mux.Handle("GET /docs/", page)
	g.mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/docs/", http.StatusFound) })
	g.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, notFound("there is nothing here; /openapi.json and /docs say what there is"))
	})
}

// health is what the probes answer.
type health struct {
	Body struct {
		Status string `json:"status" enum:"ok" doc:"ok"`
	}
}

// healthRoutes are for whoever runs the process: they need no credentials and tell nothing but that.
func (g *Gateway) healthRoutes() {
	huma.Register(g.api, huma.Operation{
		OperationID: "healthz", Method: http.MethodGet, Path: "/healthz", Tags: []string{"operation"}, Summary: "Is the process alive?", Security: []map[string][]string{},
	}, func(context.Context, *struct{}) (*health, error) {
		out := &health{}
		out.Body.Status = "ok"
		return out, nil
	})
	huma.Register(g.api, huma.Operation{
		OperationID: "readyz", Method: http.MethodGet, Path: "/readyz", Tags: []string{"operation"}, Summary: "Can the store be read and written?",
		Description: "503 when the store cannot be read or written, or the gateway ends.", Security: []map[string][]string{}, Errors: []int{http.StatusServiceUnavailable},
	}, func(ctx context.Context, _ *struct{}) (*health, error) {
		if g.ending.Err() != nil {
			return nil, newProblem(http.StatusServiceUnavailable, "ending", "the gateway ends")
		}
		if _, err := g.p.Store().Heads(ctx); err != nil {
			return nil, problemOf(err)
		}
		if err := g.p.Store().Update(ctx, func(*eventstore.Tx) error { return nil }); err != nil {
			return nil, problemOf(err)
		}
		out := &health{}
		out.Body.Status = "ok"
		return out, nil
	})
}
