package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carebus/carebus/event"
)

// catalogDocs are the documents of the catalog, by file.
func catalogDocs(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "catalog", "schemas", "*", "*.json"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d catalog files, %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		doc, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.ToSlash(f)] = doc
	}
	return out
}

func examplesOf(t testing.TB, doc []byte) []json.RawMessage {
	t.Helper()
	var d struct {
		Examples []json.RawMessage `json:"examples"`
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	return d.Examples
}

func mustCompile(t testing.TB, doc string) *compiled {
	t.Helper()
	c, err := compileDoc([]byte(doc))
	if err != nil {
		t.Fatalf("%v\n%s", err, doc)
	}
	return c
}

// TestCatalogIsFast: the catalog's own examples never need the library, in either form; without this the fast judge
// could give up unnoticed. An example with an escape in a checked text is the library's.
func TestCatalogIsFast(t *testing.T) {
	for file, doc := range catalogDocs(t) {
		c := mustCompile(t, string(doc))
		for i, example := range examplesOf(t, doc) {
			if f := c.closed(example); len(f) > 0 {
				t.Errorf("%s: example %d: %v", file, i, f)
			}
			if !c.writers.fast.accepts(example) && !strings.Contains(string(example), `\`) {
				t.Errorf("%s: example %d is not accepted by the fast judge of writers", file, i)
			}
			if !c.readers.fast.accepts(example) && !strings.Contains(string(example), `\`) {
				t.Errorf("%s: example %d is not accepted by the fast judge of readers", file, i)
			}
		}
	}
}

// agree fails when the fast judge accepts what the library refuses.
func agree(t testing.TB, c *compiled, payload []byte) (accepted bool) {
	t.Helper()
	for _, f := range []*form{&c.writers, &c.readers} {
		if !f.fast.accepts(payload) {
			continue
		}
		accepted = true
		slow := form{full: f.full, doc: f.doc}
		if found := slow.check(payload); len(found) > 0 && found[0].Rule != "json" {
			t.Errorf("the fast judge accepts what the library refuses: %v\n%s", found, payload)
		}
	}
	return accepted
}

// spoil changes one thing in a JSON text.
func spoil(rnd *rand.Rand, text []byte) []byte {
	out := slices.Clone(text)
	at := rnd.IntN(len(out))
	switch rnd.IntN(6) {
	case 0:
		out[at] = ` "{}[]:,0159-+.eE\abtnrfluTZ`[rnd.IntN(27)]
	case 1:
		out = slices.Delete(out, at, min(len(out), at+1+rnd.IntN(8)))
	case 2:
		word := []string{`"x":1,`, `null`, `1e400`, `-0`, `0.001`, `""`, `"é"`, `" "`, `true`, `{}`, `[]`, `1.0`, `"2024-02-30"`, `12345678901234567890`}[rnd.IntN(14)]
		out = slices.Insert(out, at, []byte(word)...)
	case 3: // a value for another one
		if i := strings.IndexByte(string(out[at:]), ':'); i >= 0 {
			from := at + i + 1
			to := from
			for to < len(out) && out[to] != ',' && out[to] != '}' {
				to++
			}
			word := []string{`null`, `7`, `-7.5`, `1.005`, `"text"`, `true`, `[]`, `{}`, `"2023-03-01"`, `1e2`}[rnd.IntN(10)]
			out = slices.Replace(out, from, to, []byte(word)...)
		}
	case 4:
		other := rnd.IntN(len(out))
		out[at], out[other] = out[other], out[at]
	default:
		to := min(len(out), at+rnd.IntN(40))
		out = slices.Insert(out, at, out[at:to]...)
	}
	return out
}

// TestFastAgrees spoils the catalog's examples in many ways.
func TestFastAgrees(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	accepted, rounds := 0, 0
	for file, doc := range catalogDocs(t) {
		c := mustCompile(t, string(doc))
		for _, example := range examplesOf(t, doc) {
			for range 150 {
				text := spoil(rnd, example)
				if rnd.IntN(3) == 0 {
					text = spoil(rnd, text)
				}
				rounds++
				if json.Valid(text) && agree(t, c, text) {
					accepted++
				}
			}
		}
		if t.Failed() {
			t.Fatal(file)
		}
	}
	if accepted < rounds/100 || accepted == rounds {
		t.Errorf("%d of %d spoilt payloads accepted: the test does not test", accepted, rounds)
	}
}

func FuzzFastAgrees(f *testing.F) {
	docs := catalogDocs(f)
	var names []string
	for name := range docs {
		names = append(names, name)
	}
	slices.Sort(names)
	var all []*compiled
	for i, name := range names {
		all = append(all, mustCompile(f, string(docs[name])))
		for _, example := range examplesOf(f, docs[name]) {
			f.Add(i, []byte(example))
		}
	}
	f.Fuzz(func(t *testing.T, i int, payload []byte) {
		c := all[uint(i)%uint(len(all))]
		_ = c.closed(payload) // must not panic on any text
		if json.Valid(payload) {
			agree(t, c, payload)
		}
	})
}

// TestSuite runs what is in the profile of the official JSON Schema test suite: readers judge as it says, and the fast
// judge never accepts what it refuses.
func TestSuite(t *testing.T) {
	root := os.Getenv("CAREBUS_TEST_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "shared", "data")
	}
	files, _ := filepath.Glob(filepath.Join(root, "json-schema-test-suite", "tests", "draft2020-12", "*.json"))
	if len(files) == 0 {
		t.Skipf("no JSON Schema test suite in %s (CAREBUS_TEST_DATA names the folder)", root)
	}
	in, out, fast, why := 0, 0, 0, map[string]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var groups []struct {
			Description string
			Schema      json.RawMessage
			Tests       []struct {
				Description string
				Data        json.RawMessage
				Valid       bool
			}
		}
		if err := json.Unmarshal(text, &groups); err != nil {
			t.Fatal(err)
		}
		if filepath.Base(file) == "format.json" {
			continue // says that formats are not asserted; ours are
		}
		for _, g := range groups {
			c, err := compileDoc(g.Schema)
			if err != nil {
				out++
				outside(t, why, filepath.Base(file)+": "+g.Description, err)
				continue
			}
			in++
			for _, test := range g.Tests {
				if valid := len(c.open(test.Data)) == 0; valid != test.Valid {
					t.Errorf("%s: %s: %s: valid %v, want %v", filepath.Base(file), g.Description, test.Description, valid, test.Valid)
				}
				if agree(t, c, test.Data) {
					fast++
				}
			}
		}
	}
	t.Logf("%d groups in the profile, %d outside (%v); %d instances accepted by the fast judge", in, out, why, fast)
	if in < 215 || fast < 100 {
		t.Errorf("only %d groups and %d fast instances: the suite is not where it should be", in, fast)
	}
}

// outside counts why a group is outside the profile; its schemas are all valid, so no other reason will do: closing and
// $dynamicRef, $anchor and the like, references beyond $defs, $id inside a document, formats that are not ours, documents
// that are true or false.
func outside(t *testing.T, why map[string]int, group string, err error) {
	var invalid *event.InvalidError
	if !errors.As(err, &invalid) || len(invalid.Findings) == 0 {
		t.Errorf("%s: %v", group, err)
		return
	}
	rules := map[string]bool{}
	for _, f := range invalid.Findings {
		rules[f.Rule] = true
	}
	for rule := range rules {
		switch rule {
		case "schema.closed", "schema.keyword", "schema.ref", "schema.dialect", "schema.format", "schema.json":
			why[rule]++
		default:
			t.Errorf("%s: refused by %s: %v", group, rule, err)
		}
	}
}

func TestFindings(t *testing.T) {
	c := mustCompile(t, `{"type":"object","required":["id"],"properties":{
		"id":{"type":"string","minLength":2},
		"kind":{"type":"string","enum":["new","refill"],"x-extensible-enum":true},
		"npi":{"type":"string","format":"npi"},
		"when":{"type":"string","format":"date-time"},
		"paid":{"type":"number","format":"usd","minimum":0},
		"doses":{"type":"array","maxItems":2,"items":{"$ref":"#/$defs/Dose"}},
		"notes":{"type":"object","additionalProperties":{"type":"string"}},
		"free":{"type":"object"}},
		"$defs":{"Dose":{"type":"object","required":["value"],"properties":{"value":{"type":"number"},"unit":{"type":"string","pattern":"^[a-z]+$"}}}}}`)
	for name, c2 := range map[string]struct{ payload, pointer, rule string }{
		"missing":              {`{}`, "/id", "required"},
		"type":                 {`{"id":7}`, "/id", "type"},
		"short":                {`{"id":"x"}`, "/id", "minLength"},
		"enum":                 {`{"id":"ab","kind":"other"}`, "/kind", "enum"},
		"npi":                  {`{"id":"ab","npi":"12"}`, "/npi", "format"},
		"instant":              {`{"id":"ab","when":"2023-02-30T10:00:00Z"}`, "/when", "format"},
		"mills":                {`{"id":"ab","paid":1.005}`, "/paid", "format"},
		"negative":             {`{"id":"ab","paid":-1}`, "/paid", "minimum"},
		"too many":             {`{"id":"ab","doses":[{"value":1},{"value":1},{"value":1}]}`, "/doses", "maxItems"},
		"deep missing":         {`{"id":"ab","doses":[{"value":1},{}]}`, "/doses/1/value", "required"},
		"deep unknown":         {`{"id":"ab","doses":[{"value":1,"valu":2}]}`, "/doses/0/valu", "unknown-member"},
		"deep pattern":         {`{"id":"ab","doses":[{"value":1,"unit":"MG"}]}`, "/doses/0/unit", "pattern"},
		"unknown":              {`{"id":"ab","Id":"ab"}`, "/Id", "unknown-member"},
		"key of a map":         {`{"id":"ab","notes":{"Jane Roe":7}}`, "/notes/*", "type"},
		"not an object":        {`[]`, "", "type"},
		"name to be escaped":   {`{"id":"ab","a/b~c":1}`, "/a~1b~0c", "unknown-member"},
		"no JSON":              {`{"id":`, "", "json"},
		"escapes are the same": {`{"id":"a","kind":"ne\u0077"}`, "/id", "minLength"},
	} {
		found := c.closed([]byte(c2.payload))
		if len(found) != 1 || found[0].Pointer != c2.pointer || found[0].Rule != c2.rule || found[0].Message == "" || found[0].Remedy == "" {
			t.Errorf("%s: %v; want one at %q, rule %s", name, found, c2.pointer, c2.rule)
		}
	}
	for name, payload := range map[string]string{
		"free-form object": `{"id":"ab","free":{"any":[1,{"thing":null}]}}`,
		"map":              `{"id":"ab","notes":{"a":"b"}}`,
		"dollars":          `{"id":"ab","paid":10.0}`,
		"escaped":          `{"id":"ab","kind":"ne\u0077"}`,
	} {
		if found := c.closed([]byte(payload)); len(found) > 0 {
			t.Errorf("%s: %v", name, found)
		}
	}
	for name, payload := range map[string]string{
		"unknown member": `{"id":"ab","more":1,"doses":[{"value":1,"more":{}}]}`,
		"unknown value":  `{"id":"ab","kind":"partial"}`,
	} {
		if found := c.open([]byte(payload)); len(found) > 0 {
			t.Errorf("read: %s: %v", name, found)
		}
		if found := c.closed([]byte(payload)); len(found) == 0 {
			t.Errorf("written: %s was accepted", name)
		}
	}
	if found := c.open([]byte(`{"id":"ab","kind":7}`)); len(found) != 1 || found[0].Rule != "type" {
		t.Errorf("an extensible enum of another type: %v", found)
	}
	many := `{"id":"ab"`
	for i := range 80 {
		many += fmt.Sprintf(`,"m%d":1`, i)
	}
	if found := c.closed([]byte(many + "}")); len(found) != maxFindings+1 || !strings.Contains(found[maxFindings].Message, "30 more") {
		t.Errorf("%d findings, the last %v", len(found), found[len(found)-1])
	}
}

// TestClosingComposedObjects: members may be declared by several parts; none refuses the others' members.
func TestClosingComposedObjects(t *testing.T) {
	c := mustCompile(t, `{"type":"object","properties":{"id":{"type":"string"}},
		"allOf":[{"$ref":"#/$defs/Named"},{"if":{"properties":{"id":{"const":"x"}}},"then":{"properties":{"only":{"type":"object","properties":{"a":{"type":"string"}}}}}}],
		"$defs":{"Named":{"type":"object","properties":{"name":{"type":"string"}}},
		  "Holder":{"type":"object","properties":{"named":{"$ref":"#/$defs/Named"}}}}}`)
	for payload, ok := range map[string]bool{
		`{"id":"x","name":"n"}`:           true,
		`{"id":"x","name":"n","only":{}}`: true,
		`{"id":"x","only":{"b":1}}`:       false,
		`{"id":"x","name":"n","other":1}`: false,
		`{"id":"x","name":7}`:             false,
	} {
		if found := c.closed([]byte(payload)); (len(found) == 0) != ok {
			t.Errorf("%s: %v, want accepted %v", payload, found, ok)
		}
	}
	c = mustCompile(t, `{"type":"object","properties":{"named":{"$ref":"#/$defs/Named"}},
		"$defs":{"Named":{"type":"object","properties":{"name":{"type":"string"}}},"Both":{"allOf":[{"$ref":"#/$defs/Named"}]}}}`)
	if found := c.closed([]byte(`{"named":{"name":"n","x":1}}`)); len(found) != 1 || found[0].Pointer != "/named/x" {
		t.Errorf("a definition used both as a branch and by itself: %v", found)
	}
}

func TestProfileRefusals(t *testing.T) {
	for doc, pointer := range map[string]string{
		`{"type":"object","additionalProperties":false}`:                           "/additionalProperties",
		`{"type":"object","unevaluatedProperties":false}`:                          "/unevaluatedProperties",
		`{"type":"object","properties":{"a":{"$ref":"other.json"}}}`:               "/properties/a/$ref",
		`{"type":"object","properties":{"a":{"$ref":"#/$defs/None"}}}`:             "/properties/a/$ref",
		`{"type":"object","properties":{"a":{"type":"string","format":"ssn"}}}`:    "/properties/a/format",
		`{"type":"object","properties":{"a":{"type":"string","pattern":"(?=a)"}}}`: "/properties/a/pattern",
		`{"type":"object","required":"a"}`:                                         "/required",
		`{"type":"object","properties":{"a":{"type":"strin"}}}`:                    "/properties/a/type",
		`{"type":"object","phi":true}`:                                             "/phi",
		`{"type":"object","$dynamicRef":"#x"}`:                                     "/$dynamicRef",
		`{"type":"object","type":"object"}`:                                        "/type",
		`[]`:                                                                       "",
		`{`:                                                                        "",
	} {
		_, err := compileDoc([]byte(doc))
		var invalid *event.InvalidError
		if err == nil {
			t.Errorf("%s was accepted", doc)
			continue
		}
		if !errors.As(err, &invalid) || len(invalid.Findings) != 1 || invalid.Findings[0].Pointer != pointer || invalid.Findings[0].Remedy == "" {
			t.Errorf("%s: %v; want one finding at %q", doc, err, pointer)
		}
	}
}

// TestNoFindingQuotesAValue puts a canary into every text of every example and spoils the payload.
func TestNoFindingQuotesAValue(t *testing.T) {
	const canary = "CANARYCANARY"
	rnd := rand.New(rand.NewPCG(3, 4))
	findings := 0
	for file, doc := range catalogDocs(t) {
		c := mustCompile(t, string(doc))
		for _, example := range examplesOf(t, doc) {
			var v any
			if err := json.Unmarshal(example, &v); err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(poison(rnd, v, canary))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range append(c.closed(text), c.open(text)...) {
				findings++
				if strings.Contains(fmt.Sprint(f), canary) {
					t.Errorf("%s: %v", file, f)
				}
			}
		}
	}
	if findings < 100 {
		t.Errorf("only %d findings", findings)
	}
}

func poison(rnd *rand.Rand, v any, canary string) any {
	switch x := v.(type) {
	case map[string]any:
		for k, e := range x {
			x[k] = poison(rnd, e, canary)
		}
		return x
	case []any:
		for i, e := range x {
			x[i] = poison(rnd, e, canary)
		}
		return x
	case string:
		if rnd.IntN(4) == 0 {
			return map[string]any{"value": canary}
		}
		return canary
	case float64:
		return canary
	}
	return v
}

func TestFormats(t *testing.T) {
	for name, c := range map[string]struct{ good, bad []string }{
		"npi":       {[]string{"1234567890", "1932102084"}, []string{"", "123456789", "12345678901", "123456789a", "123-456-78"}},
		"ncpdp-id":  {[]string{"1234567"}, []string{"", "123456", "12345678", "12345 7"}},
		"ndc":       {[]string{"00093505698", "12345-6789-10", "1234-5678-90", "12345-678-90", "12345-6789-1", "123456-7890-12", "123456789012"}, []string{"", "1234567890", "1234-567-89", "12345-6789-", "1-2-3", "12345-6789-10-1", "a2345-6789-10"}},
		"date":      {[]string{"2024-02-29", "1899-12-31"}, []string{"2023-02-29", "2023-13-01", "2023-1-1", "20230101", "2023-01-01T00:00:00Z"}},
		"date-time": {[]string{"2023-03-01T10:00:00Z", "2023-03-01T10:00:00.123456789+05:30"}, []string{"2023-03-01 10:00:00Z", "2023-03-01T10:00:00", "2023-03-01T25:00:00Z", "2023-03-01", "2023-03-01T10:00:00.Z", "2023-03-01t10:00:00z", "2016-12-31T23:59:60Z"}},
		"uuid":      {[]string{"2f5ea4e1-6b1c-4f0e-9b1a-3d2c1b0a9f8e"}, []string{"2f5ea4e1", "2f5ea4e16b1c4f0e9b1a3d2c1b0a9f8e", "gf5ea4e1-6b1c-4f0e-9b1a-3d2c1b0a9f8e"}},
		"email":     {[]string{"a@example.org"}, []string{"a", ""}},
		"uri":       {[]string{"http://hl7.org/fhir", "urn:oid:1.2.3", "https://a.b:8080/x?y=z#w"}, []string{"/relative", "no scheme"}},
	} {
		s := mustCompile(t, `{"type":"object","properties":{"v":{"type":"string","format":"`+name+`"}}}`)
		for _, text := range c.good {
			if f := s.closed([]byte(`{"v":"` + text + `"}`)); len(f) > 0 {
				t.Errorf("%s refuses %q: %v", name, text, f)
			}
		}
		for _, text := range c.bad {
			if f := s.closed([]byte(`{"v":"` + text + `"}`)); len(f) == 0 {
				t.Errorf("%s accepts %q", name, text)
			}
			agree(t, s, []byte(`{"v":"`+text+`"}`))
		}
	}
	s := mustCompile(t, `{"type":"object","properties":{"v":{"type":"number","format":"usd"}}}`)
	for text, ok := range map[string]bool{"10": true, "10.0": true, "35.50": true, "-1.25": true, "0.001": false, "1e2": true, "1.25e1": false, "1e-2": false} {
		if f := s.closed([]byte(`{"v":` + text + `}`)); (len(f) == 0) != ok {
			t.Errorf("usd: %s: %v, want accepted %v", text, f, ok)
		}
	}
}

func TestCompiledIsSharedSafely(t *testing.T) {
	var wg sync.WaitGroup
	doc := catalogDocs(t)["../catalog/schemas/medication.prescription.filled/2.0.0.json"]
	c := mustCompile(t, string(doc))
	examples := examplesOf(t, doc)
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				if len(c.closed(examples[i%len(examples)])) > 0 || len(c.closed([]byte(`{"x":1}`))) == 0 {
					t.Error("another verdict when used concurrently")
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkValidate is the check on the way into the store: a valid payload of 490 bytes, then the same in the library.
func BenchmarkValidate(b *testing.B) {
	doc := catalogDocs(b)["../catalog/schemas/medication.prescription.filled/2.0.0.json"]
	c := mustCompile(b, string(doc))
	var compact bytes.Buffer
	if err := json.Compact(&compact, examplesOf(b, doc)[0]); err != nil {
		b.Fatal(err)
	}
	payload := compact.Bytes()
	for name, f := range map[string]*form{"fast": &c.writers, "library": {full: c.writers.full, doc: c.writers.doc}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				if len(f.check(payload)) > 0 {
					b.Fatal("refused")
				}
			}
		})
	}
}
