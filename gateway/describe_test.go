package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/eventstore"
)

// pages are the routes that are no part of the API: documentation, the registry as its own clients know it, and the answer
// to what does not exist.
var pages = []string{"GET /docs", "GET /docs/", "GET /{$}", "/", "/registry/"}

// TestOpenAPIHasEveryRoute: what the gateway serves is in its description, and what is described is served.
// scripts/clients has a validator of others look at it too.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	g, _, s := newGateway(t, nil)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID, Summary string
			Tags                 []string
			Responses            map[string]any
			Parameters           []struct{ In, Name string }
		}
	}
	if status := call(t, http.MethodGet, s.URL+"/openapi.json", nil, &doc); status != http.StatusOK || !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Fatal(status, doc.OpenAPI)
	}
	described := map[string]bool{}
	ids := map[string]bool{}
	for path, operations := range doc.Paths {
		for method, o := range operations {
			pattern := strings.ToUpper(method) + " " + path
			described[pattern] = true
			if o.OperationID == "" || ids[o.OperationID] || o.Summary == "" || len(o.Tags) == 0 || len(o.Responses) == 0 {
				t.Errorf("%s: id %q (or one that is there twice), summary %q, tags %v, %d responses", pattern, o.OperationID, o.Summary, o.Tags, len(o.Responses))
			}
			ids[o.OperationID] = true
			var inPath []string
			for _, p := range o.Parameters {
				if p.In == "path" {
					inPath = append(inPath, "{"+p.Name+"}")
				}
			}
			want := regexp.MustCompile(`\{[^}]+\}`).FindAllString(path, -1)
			slices.Sort(inPath)
			if slices.Sort(want); !slices.Equal(inPath, want) {
				t.Errorf("%s describes the parameters %v", pattern, inPath)
			}
			r, err := http.NewRequest(strings.ToUpper(method), s.URL+strings.NewReplacer("{", "", "}", "").Replace(path), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, serves := g.mux.Handler(r); serves != pattern {
				t.Errorf("%s is described, and %q answers", pattern, serves)
			}
		}
	}
	routes := handled(t)
	if len(routes) < 8 || len(described) < 40 {
		t.Fatalf("%d routes of our own, %d described", len(routes), len(described))
	}
	for _, pattern := range routes {
		if !described[pattern] && !slices.Contains(pages, pattern) {
			t.Errorf("%s is served and not described", pattern)
		}
	}
}

// handled are the patterns that the package gives to its mux itself; the others come from their descriptions.
func handled(t *testing.T) (patterns []string) {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if kv, ok := n.(*ast.KeyValueExpr); ok && fmt.Sprint(kv.Key) == "Hidden" {
				t.Errorf("%s hides an operation from the description", name)
			}
			c, ok := n.(*ast.CallExpr)
			if !ok || len(c.Args) != 2 {
				return true
			}
			fn, ok := c.Fun.(*ast.SelectorExpr)
			if !ok || fn.Sel.Name != "Handle" && fn.Sel.Name != "HandleFunc" {
				return true
			}
			if of, ok := fn.X.(*ast.SelectorExpr); !ok || of.Sel.Name != "mux" {
				return true
			}
			if text, ok := c.Args[0].(*ast.BasicLit); ok {
				pattern, err := strconv.Unquote(text.Value)
				if err != nil {
					t.Fatal(err)
				}
				patterns = append(patterns, pattern)
			}
			return true
		})
	}
	return patterns
}

// TestAsyncAPI: the document is valid by the specification's own schemas, and with observed it tells who sends and receives
// what, to those who may read everything.
func TestAsyncAPI(t *testing.T) {
	token, hash := auth.NewToken()
	narrow, narrowHash := auth.NewToken()
	door, err := auth.Parse(fmt.Appendf(nil, `
principals:
  - {name: all, tokens: [%q], read: ["**"]}
  - {name: narrow, tokens: [%q], read: ["patient.**"]}
`, hash, narrowHash))
	if err != nil {
		t.Fatal(err)
	}
	_, p, s := newGateway(t, &Options{Door: door})
	publishMany(t, p, enrolled("P1", 1))
	if err := p.Handle("portal", bus.OnRecord("patient.**", func(context.Context, bus.Tx, eventstore.Record) error { return nil })); err != nil {
		t.Fatal(err)
	}
	carebustest.Settle(t, p)
	url := s.URL + "/asyncapi.json"
	bearer := []string{"Authorization", "Bearer " + token}
	for _, spec := range []string{"3.0.0", "3.1.0"} {
		status, text := send(t, http.MethodGet, url+"?observed=true&spec="+spec, nil, bearer...)
		var doc struct {
			AsyncAPI   string
			Operations map[string]struct{ Action, Title string }
		}
		if err := json.Unmarshal(text, &doc); status != http.StatusOK || err != nil || doc.AsyncAPI != spec {
			t.Fatal(status, err, doc.AsyncAPI)
		}
		if o := doc.Operations["send.patient-service.patient"]; o.Action != "send" || o.Title != "patient-service" {
			t.Errorf("%s: %v", spec, doc.Operations)
		}
		if o := doc.Operations["receive.portal.patient"]; o.Action != "receive" || o.Title != "portal" {
			t.Errorf("%s: %v", spec, doc.Operations)
		}
		validAsyncAPI(t, spec, text)
	}
	status, text := send(t, http.MethodGet, url, nil, "Authorization", "Bearer "+narrow)
	if status != http.StatusOK || !bytes.Contains(text, []byte(`"operations": {}`)) {
		t.Errorf("without observed: %d", status)
	}
	validAsyncAPI(t, "3.0.0", text)
	if status, _ := send(t, http.MethodGet, url+"?observed=true", nil, "Authorization", "Bearer "+narrow); status != http.StatusForbidden {
		t.Errorf("who may not read everything sees what was observed: %d", status)
	}
	if status, _ := send(t, http.MethodGet, url+"?spec=2.6.0", nil, bearer...); status != http.StatusUnprocessableEntity {
		t.Errorf("another version: %d", status)
	}
}

// validAsyncAPI holds a document against the official schema, where that is at hand.
func validAsyncAPI(t *testing.T, spec string, text []byte) {
	t.Helper()
	data := os.Getenv("CAREBUS_TEST_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "shared", "data")
	}
	official, err := os.ReadFile(filepath.Join(data, "asyncapi", "schemas", spec+"-without-id.json"))
	if err != nil {
		t.Skip("no third-party test data: set CAREBUS_TEST_DATA")
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	parse := func(text []byte) any {
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	if err := c.AddResource("https://asyncapi.test/schema.json", parse(official)); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("https://asyncapi.test/schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(parse(text)); err != nil {
		t.Errorf("%s: %v", spec, err)
	}
}
