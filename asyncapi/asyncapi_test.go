package asyncapi_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/carebus/carebus/asyncapi"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/flow"
	"github.com/carebus/carebus/schema"
)

func documents() (out []schema.Document) {
	for _, e := range catalog.Entries() {
		out = append(out, schema.Document{Type: e.Type, Version: e.Version, Schema: e.Schema, Deprecated: e.Deprecated, ReplacedBy: e.ReplacedBy})
	}
	return out
}

var services = []asyncapi.Service{
	{Name: "pharmacy-service", Sends: []string{"medication.prescription.filled", "payment.claim.submitted", "unknown.of.nobody"}},
	{Name: "patient portal", Receives: []string{"medication.prescription.filled", "medication.prescription.ready-for-pickup"}},
}

func parsed(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestOfficialSchema: the document of the whole catalog is valid by the specification's own schemas.
func TestOfficialSchema(t *testing.T) {
	data := os.Getenv("CAREBUS_TEST_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "shared", "data")
	}
	if _, err := os.Stat(data); err != nil {
		t.Skip("no third-party test data: set CAREBUS_TEST_DATA")
	}
	for _, spec := range []string{"3.0.0", "3.1.0"} {
		text, err := asyncapi.Document(documents(), services, &asyncapi.Options{Spec: spec})
		if err != nil {
			t.Fatal(err)
		}
		official, err := os.ReadFile(filepath.Join(data, "asyncapi", "schemas", spec+"-without-id.json"))
		if err != nil {
			t.Fatal(err)
		}
		c := jsonschema.NewCompiler()
		c.DefaultDraft(jsonschema.Draft7)
		if err := c.AddResource("https://asyncapi.test/schema.json", parsed(t, official)); err != nil {
			t.Fatal(err)
		}
		s, err := c.Compile("https://asyncapi.test/schema.json")
		if err != nil {
			t.Fatal(err)
		}
		doc := parsed(t, text)
		if err := s.Validate(doc); err != nil {
			t.Errorf("%s: %v", spec, err)
		}
		doc.(map[string]any)["channels"] = []any{} // the test can fail
		if s.Validate(doc) == nil {
			t.Errorf("%s: a document without channels is valid", spec)
		}
	}
}

// TestSchemasSayTheSame: what the registry accepts the document accepts, and what it refuses because a member is missing or
// has another type the document refuses.
func TestSchemasSayTheSame(t *testing.T) {
	text, err := asyncapi.Document(documents(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	if err := c.AddResource("https://carebus.test/asyncapi.json", parsed(t, text)); err != nil {
		t.Fatal(err)
	}
	looked, refused := 0, 0
	for _, e := range catalog.Entries() {
		name := e.Type + ".v" + strings.Split(e.Version, ".")[0]
		s, err := c.Compile("https://carebus.test/asyncapi.json#/components/schemas/" + name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		r := schema.New()
		p, err := r.Propose(schema.Document{Type: e.Type, Version: e.Version, Schema: e.Schema})
		if err == nil {
			err = r.Apply(p.Event)
		}
		alone := err == nil // a type that does not need its older versions first
		for _, example := range e.Examples {
			if err := s.Validate(parsed(t, example)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			looked++
			var members map[string]any
			if err := json.Unmarshal(example, &members); err != nil {
				t.Fatal(err)
			}
			for k := range members {
				if !alone {
					break
				}
				kept := members[k]
				members[k] = []any{map[string]any{"not": "this"}}
				changed, err := json.Marshal(members)
				if err != nil {
					t.Fatal(err)
				}
				members[k] = kept
				ev := p.Event
				ev.Type, ev.Version, ev.Payload = e.Type, e.Version, changed
				if (r.ValidateOpen(ev) != nil) != (s.Validate(parsed(t, changed)) != nil) {
					t.Errorf("%s: with another %s, registry and document disagree", name, k)
				}
				refused++
			}
		}
	}
	if looked < 50 || refused < 200 {
		t.Errorf("%d examples, %d changed ones", looked, refused)
	}
}

// TestOperations: who sends and receives what, in the channels of the entities; the same every time.
func TestOperations(t *testing.T) {
	text, err := asyncapi.Document(documents(), services, &asyncapi.Options{Title: "Care", Version: "2.1.0"})
	if err != nil {
		t.Fatal(err)
	}
	again, err := asyncapi.Document(documents(), services, &asyncapi.Options{Title: "Care", Version: "2.1.0"})
	if err != nil || !bytes.Equal(text, again) {
		t.Error("the same arguments give another document", err)
	}
	var doc struct {
		Info       struct{ Title, Version string }
		Operations map[string]struct {
			Action  string
			Channel struct {
				Ref string `json:"$ref"`
			}
			Messages []struct {
				Ref string `json:"$ref"`
			}
		}
		Components struct {
			Messages map[string]map[string]any
		}
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range []string{"send.pharmacy-service.medication.prescription", "send.pharmacy-service.payment.claim", "receive.patient_portal.medication.prescription"} {
		o := doc.Operations[name]
		got = append(got, fmt.Sprint(o.Action, " ", o.Channel.Ref, " ", len(o.Messages)))
	}
	want := "send #/channels/medication.prescription 2; send #/channels/payment.claim 1; receive #/channels/medication.prescription 3"
	if strings.Join(got, "; ") != want || len(doc.Operations) != 3 || doc.Info.Title != "Care" || doc.Info.Version != "2.1.0" {
		t.Errorf("%v (%d operations), %+v", got, len(doc.Operations), doc.Info)
	}
	if m := doc.Components.Messages["priorauth.request.approved.v1"]; m["x-deprecated"] != true || m["x-replaced-by"] != "priorauth.status.approved" {
		t.Errorf("%v", m)
	}
}

// TestObserved: publishers send, groups receive.
func TestObserved(t *testing.T) {
	got := asyncapi.Observed(&flow.Topology{
		Services: []flow.Service{{Name: "pharmacy-service", Published: []flow.Published{{Type: "medication.prescription.filled"}, {Type: "payment.claim.submitted"}}}},
		Groups:   []flow.Consumer{{Group: "portal", Types: []string{"medication.prescription.filled"}}},
	})
	want := []asyncapi.Service{
		{Name: "pharmacy-service", Sends: []string{"medication.prescription.filled", "payment.claim.submitted"}},
		{Name: "portal", Receives: []string{"medication.prescription.filled"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestRefusals(t *testing.T) {
	if _, err := asyncapi.Document(nil, nil, &asyncapi.Options{Spec: "2.6.0"}); !errors.Is(err, asyncapi.ErrSpec) {
		t.Errorf("%v", err)
	}
	for name, text := range map[string]string{"no JSON": `{`, "elsewhere": `{"$ref": "https://example.org/x.json"}`, "newer": `{"properties": {"a": {"prefixItems": []}}}`} {
		_, err := asyncapi.Document([]schema.Document{{Type: "a.b.c", Version: "1.0.0", Schema: json.RawMessage(text)}}, nil, nil)
		if err == nil || !strings.Contains(err.Error(), "a.b.c 1.0.0") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Members may have the names of keywords.
	text, err := asyncapi.Document([]schema.Document{{Type: "a.b.c", Version: "1.0.0", Schema: json.RawMessage(`{"type": "object", "properties": {"default": {"$ref": "#/$defs/X", "description": "d"}, "$ref": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": "string"}}}`)}}, nil, nil)
	if err != nil || strings.Contains(string(text), "$defs") || strings.Count(string(text), "#/components/schemas/a.b.c.v1.X") != 2 {
		t.Errorf("%s, %v", text, err)
	}
}

func Example() {
	filled := schema.Document{Type: "lab.result.received", Version: "1.2.0", Schema: json.RawMessage(`{"type": "object", "required": ["resultId"], "properties": {"resultId": {"type": "string"}}}`)}
	text, err := asyncapi.Document([]schema.Document{filled}, []asyncapi.Service{{Name: "lab-service", Sends: []string{"lab.result.received"}}}, nil)
	if err != nil {
		panic(err)
	}
	var doc struct {
		AsyncAPI   string `json:"asyncapi"`
		Operations map[string]struct{ Action string }
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		panic(err)
	}
	for name, o := range doc.Operations {
		fmt.Println(doc.AsyncAPI, o.Action, name)
	}
	// Output: 3.0.0 send send.lab-service.lab.result
}
