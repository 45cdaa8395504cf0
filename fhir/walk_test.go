package fhir_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/fhir"
)

// files are written to a directory and imported from there.
type files map[string]string

func write(t testing.TB, in files) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range in {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func importAll(t testing.TB, o *fhir.Options, paths ...string) ([]fhir.Item, fhir.Report) {
	t.Helper()
	var items []fhir.Item
	rep, err := fhir.New(o).Run(context.Background(), paths, func(_ context.Context, batch []fhir.Item) error {
		items = append(items, batch...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	checkAccount(t, rep, int64(len(items)))
	return items, rep
}

func importFiles(t testing.TB, in files) ([]fhir.Item, fhir.Report) {
	t.Helper()
	return importAll(t, nil, write(t, in))
}

// checkAccount is the equation that the package promises.
func checkAccount(t testing.TB, rep fhir.Report, events int64) {
	t.Helper()
	var sum fhir.Counts
	for kind, c := range rep.ByType {
		if c.Resources != c.Mapped+c.Duplicates+c.Skipped+c.Errors {
			t.Errorf("%s: %+v does not add up", kind, c)
		}
		sum.Resources += c.Resources
		sum.Mapped += c.Mapped
		sum.Events += c.Events
		sum.Duplicates += c.Duplicates
		sum.Skipped += c.Skipped
		sum.Errors += c.Errors
	}
	if sum != rep.Total {
		t.Errorf("types add up to %+v, total is %+v", sum, rep.Total)
	}
	var byType, skips int64
	for _, n := range rep.Events {
		byType += n
	}
	for _, n := range rep.Skips {
		skips += n
	}
	if byType != rep.Total.Events || events != rep.Total.Events {
		t.Errorf("events: %d handed out, %d by type, %d in total", events, byType, rep.Total.Events)
	}
	if skips != rep.Total.Skipped {
		t.Errorf("skips: %d by reason, %d in total", skips, rep.Total.Skipped)
	}
	if rep.ErrorCount != rep.Total.Errors+rep.FileFails {
		t.Errorf("errors: %d, want %d resources + %d files", rep.ErrorCount, rep.Total.Errors, rep.FileFails)
	}
}

func types(items []fhir.Item) []string {
	var out []string
	for _, it := range items {
		out = append(out, it.Event.Type)
	}
	return out
}

func payload(t testing.TB, it fhir.Item) map[string]any {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal(it.Event.Payload, &p); err != nil {
		t.Fatal(err)
	}
	return p
}

func only(t testing.TB, items []fhir.Item, eventType string) fhir.Item {
	t.Helper()
	var got []fhir.Item
	for _, it := range items {
		if it.Event.Type == eventType {
			got = append(got, it)
		}
	}
	if len(got) != 1 {
		t.Fatalf("%d events of type %s, want 1 (all: %v)", len(got), eventType, types(items))
	}
	return got[0]
}

func gz(s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(s)) // into memory
	_ = z.Close()
	return b.String()
}

const (
	ann = `{"resourceType":"Patient","id":"p1","name":[{"family":"Oak","given":["Ann"]}],"birthDate":"1944-05-01","gender":"female"}`
	bob = `{"resourceType":"Patient","id":"p2","name":[{"family":"Elm","given":["Bob"]}],"birthDate":"1950","gender":"male"}`
	doc = `{"resourceType":"Practitioner","id":"d1","identifier":[{"system":"http://hl7.org/fhir/sid/us-npi","value":"1234567893"}],"name":[{"family":"Ash","given":["Eve"],"prefix":["Dr."]}]}`
)

// TestContainers: the same patient in every packaging is the same single event.
func TestContainers(t *testing.T) {
	bundle := func(kind, entries string) string {
		return `{"resourceType":"Bundle","type":"` + kind + `","entry":[` + entries + `]}`
	}
	entry := func(r string) string { return `{"fullUrl":"urn:uuid:p1","resource":` + r + `}` }
	pretty := func(s string) string {
		var b bytes.Buffer
		if err := json.Indent(&b, []byte(s), "", "  "); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	cases := map[string]struct {
		name, text string
		bundles    int64
	}{
		"single resource":        {"a.json", ann, 0},
		"pretty":                 {"a.json", pretty(ann), 0},
		"byte order mark":        {"a.json", "\xef\xbb\xbf" + ann, 0},
		"gzip by name":           {"a.json.gz", gz(ann), 0},
		"gzip without name":      {"a.json", gz(ann), 0},
		"gzip, mark inside":      {"a.json.gz", gz("\xef\xbb\xbf" + ann), 0},
		"plain named gzip":       {"a.json.gz", ann, 0},
		"transaction":            {"a.json", bundle("transaction", entry(ann)), 1},
		"collection":             {"a.json", bundle("collection", entry(ann)), 1},
		"batch":                  {"a.json", bundle("batch", entry(ann)), 1},
		"searchset":              {"a.json", bundle("searchset", entry(ann)), 1},
		"history":                {"a.json", bundle("history", entry(ann)), 1},
		"unknown bundle type":    {"a.json", bundle("basket", entry(ann)), 1},
		"pretty bundle":          {"a.json", pretty(bundle("collection", entry(ann))), 1},
		"resource before url":    {"a.json", bundle("collection", `{"resource":`+ann+`,"fullUrl":"urn:uuid:p1"}`), 1},
		"no url":                 {"a.json", bundle("collection", `{"resource":`+ann+`}`), 1},
		"entries before type":    {"a.json", `{"entry":[` + entry(ann) + `],"resourceType":"Bundle"}`, 1},
		"bundle in bundle":       {"a.json", bundle("collection", entry(bundle("batch", entry(ann)))), 2},
		"bundle in bundle, late": {"a.json", bundle("collection", `{"resource":`+bundle("batch", entry(ann))+`}`), 2},
		"parameters":             {"a.json", `{"resourceType":"Parameters","parameter":[{"name":"x","part":[{"name":"y","resource":` + ann + `}]}]}`, 1},
		"bundle in parameters":   {"a.json", `{"resourceType":"Parameters","parameter":[{"name":"x","resource":` + bundle("batch", entry(ann)) + `}]}`, 2},
		"array":                  {"a.json", `[` + ann + `]`, 0},
		"lines":                  {"a.ndjson", ann + "\n", 0},
		"lines, crlf and blanks": {"a.ndjson", "\r\n" + ann + "\r\n\r\n", 0},
		"lines named json":       {"a.json", ann + "\n", 0},
		"jsonl, packed":          {"A.JSONL.GZ", gz(ann + "\n"), 0},
		"bundle per line":        {"a.ndjson", bundle("batch", entry(ann)) + "\n", 1},
		"one after the other":    {"a.json", " " + pretty(ann), 0},
	}
	var want fhir.Item
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			c := cases[name]
			items, rep := importFiles(t, files{c.name: c.text})
			it := only(t, items, "patient.record.created")
			if want.Event.ID == "" {
				want = it
			}
			if it.Event.ID != want.Event.ID || string(it.Event.Payload) != string(want.Event.Payload) {
				t.Errorf("event differs from the one of another packaging: %s", it.Event.Payload)
			}
			if rep.Bundles != c.bundles || rep.Total.Resources != 1 || rep.ErrorCount != 0 {
				t.Errorf("bundles %d, want %d; resources %d; problems %v", rep.Bundles, c.bundles, rep.Total.Resources, rep.Problems)
			}
		})
	}
}

// TestBroken: whatever is wrong with one thing, the rest is imported and the wrong thing is accounted for.
func TestBroken(t *testing.T) {
	big := `{"resourceType":"Binary","data":"` + strings.Repeat("x", 2<<20) + `"}`
	cases := []struct {
		name     string
		in       files
		patients int64
		errors   int64 // resources
		fails    int64 // files
		problem  string
	}{
		{"empty file", files{"a.json": "", "b.json": ann}, 1, 0, 1, "empty"},
		{"only blanks", files{"a.json": " \n\n", "b.json": ann}, 1, 0, 0, ""},
		{"empty packed file", files{"a.json.gz": gz(""), "b.json": ann}, 1, 0, 1, "empty"},
		{"not JSON", files{"a.json": "hello", "b.json": ann}, 1, 0, 1, "invalid JSON"},
		{"not a resource", files{"a.json": `{"name":"x"}`, "b.json": ann}, 1, 1, 0, "no resourceType"},
		{"a number", files{"a.json": `7`, "b.json": ann}, 1, 1, 0, "not a JSON object"},
		{"cut resource", files{"a.json": ann[:60], "b.json": bob}, 1, 0, 1, "ends in the middle"},
		{"cut bundle", files{"a.json": `{"resourceType":"Bundle","entry":[{"resource":` + ann + `},{"resource":{"resour`}, 1, 0, 1, "ends in the middle"},
		{"bundle without end", files{"a.json": `{"resourceType":"Bundle","entry":[{"resource":` + ann + `}`}, 1, 0, 1, "ends in the middle"},
		{"cut gzip", files{"a.json.gz": gz(ann)[:40], "b.json": bob}, 1, 0, 1, "ends in the middle"},
		{"gzip header only", files{"a.json.gz": "\x1f\x8b", "b.json": bob}, 1, 0, 1, ""},
		{"broken line", files{"a.ndjson": ann + "\n{\"resourceType\":\"Patient\",\n" + bob + "\n"}, 2, 1, 0, "ends in the middle"},
		{"two on a line", files{"a.ndjson": ann + bob + "\n" + bob + "\n"}, 2, 1, 0, "more text follows"},
		{"cut last line", files{"a.ndjson": ann + "\n" + bob[:40]}, 1, 1, 0, "ends in the middle"},
		{"entry is a text", files{"a.json": `{"resourceType":"Bundle","entry":["x",{"resource":` + ann + `}]}`}, 1, 1, 0, "not an object"},
		{"resource is a text", files{"a.json": `{"resourceType":"Bundle","entry":[{"resource":"x"},{"resource":` + ann + `}]}`}, 1, 1, 0, "not a JSON object"},
		{"type is a number", files{"a.ndjson": `{"resourceType":5}` + "\n" + ann + "\n"}, 1, 1, 0, "no resourceType"},
		{"type is a sentence", files{"a.ndjson": `{"resourceType":"a patient"}` + "\n" + ann + "\n"}, 1, 1, 0, "not the name"},
		{"bad id", files{"a.ndjson": `{"resourceType":"Patient","id":"a b"}` + "\n" + ann + "\n"}, 1, 1, 0, "visible ASCII"},
		{"no patient", files{"a.ndjson": `{"resourceType":"MedicationRequest","id":"m"}` + "\n" + ann + "\n"}, 1, 1, 0, "no patient"},
		{"too large", files{"a.json": big, "b.json": ann}, 1, 0, 1, "larger than the limit"},
		{"too large a line", files{"a.ndjson": ann + "\n" + big + "\n" + bob + "\n"}, 2, 1, 0, "larger than the limit"},
		{"deep", files{"a.json": strings.Repeat(`[`, 20000), "b.json": ann}, 1, 0, 1, ""},
		{"deep bundles", files{"a.json": strings.Repeat(`{"resourceType":"Bundle","entry":[{"fullUrl":"u","resource":`, 200), "b.json": ann}, 1, 0, 1, "too deeply"},
		{"deep resource", files{"a.json": `{"resourceType":"Patient","id":"x","name":` + strings.Repeat(`[`, 9990) + strings.Repeat(`]`, 9990) + `}`, "b.json": ann}, 2, 0, 0, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, rep := importAll(t, &fhir.Options{MaxResource: 1 << 20}, write(t, c.in))
			if got := rep.Events["patient.record.created"]; got != c.patients {
				t.Errorf("%d patients, want %d", got, c.patients)
			}
			if rep.Total.Errors != c.errors || rep.FileFails != c.fails {
				t.Errorf("%d broken resources and %d files, want %d and %d: %v", rep.Total.Errors, rep.FileFails, c.errors, c.fails, rep.Problems)
			}
			if c.problem != "" && (len(rep.Problems) == 0 || !strings.Contains(rep.Problems[0].String(), c.problem)) {
				t.Errorf("problems %v do not say %q", rep.Problems, c.problem)
			}
		})
	}
}

func TestMissingPathAndIgnoredFiles(t *testing.T) {
	dir := write(t, files{"a.json": ann, "README.md": "x", ".hidden.json": bob, ".git/x.json": bob, "sub/b.ndjson": bob + "\n"})
	_, rep := importAll(t, nil, filepath.Join(dir, "nowhere.json"), dir)
	if rep.Events["patient.record.created"] != 2 || rep.FileFails != 1 || rep.Ignored != 2 || rep.Files != 2 {
		t.Errorf("%+v", rep)
	}
}

func TestStandardInput(t *testing.T) {
	items, rep := importAll(t, &fhir.Options{Stdin: strings.NewReader(ann + "\n" + bob + "\n")}, "-")
	if len(items) != 2 || items[0].File != "-" || items[1].Line != 2 || rep.Total.Errors != 0 {
		t.Errorf("%v %+v", types(items), rep)
	}
}

func TestSkipsSayWhy(t *testing.T) {
	_, rep := importFiles(t, files{"a.ndjson": strings.Join([]string{
		`{"resourceType":"Observation","id":"o"}`, `{"resourceType":"Patiant","id":"o"}`,
		`{"resourceType":"Bundle","entry":[{"request":{"method":"DELETE","url":"Patient/1"}},{"resource":null}]}`,
	}, "\n") + "\n"})
	want := map[string]int64{"no mapping for Observation": 1, "unknown resource type Patiant": 1, "bundle entry without a resource": 2}
	if !maps.Equal(rep.Skips, want) {
		t.Errorf("skips %v, want %v", rep.Skips, want)
	}
}

func TestPlaces(t *testing.T) {
	dir := write(t, files{"a.json": `{"resourceType":"Bundle","entry":[{"resource":` + ann + `},{"resource":{"resourceType":"Bundle","entry":[{"resource":{"resourceType":"MedicationRequest","id":"m"}}]}}]}`})
	items, rep := importAll(t, nil, dir)
	if items[0].Pointer != "/entry/0/resource" {
		t.Errorf("item at %s", items[0].Pointer)
	}
	p := rep.Problems[0]
	if p.Pointer != "/entry/1/resource/entry/0/resource" || p.Type != "MedicationRequest" || p.ID != "m" || p.File != filepath.Join(dir, "a.json") {
		t.Errorf("problem at %+v", p)
	}
}

// TestNoValueInProblems: problems reach logs and screens of people without the right to see the record.
func TestNoValueInProblems(t *testing.T) {
	_, rep := importFiles(t, files{"a.ndjson": `{"resourceType":"Patient","id":"p","name":"Secret","birthDate":"Secret","gender":{"Secret":1}}` + "\n" +
		`{"resourceType":"MedicationRequest","id":"m","subject":"Secret Name"}` + "\n" + `{"resourceType":"Patient","Secret` + "\n"})
	if len(rep.Problems) == 0 {
		t.Fatal("no problem reported")
	}
	for _, p := range rep.Problems {
		if strings.Contains(p.String(), "Secret") {
			t.Errorf("problem quotes a value: %s", p)
		}
	}
}

func TestEmitErrorEndsTheRun(t *testing.T) {
	dir := write(t, files{"a.ndjson": ann + "\n" + bob + "\n"})
	calls := 0
	_, err := fhir.New(&fhir.Options{BatchSize: 1}).Run(context.Background(), []string{dir}, func(context.Context, []fhir.Item) error {
		calls++
		return os.ErrPermission
	})
	if calls != 1 || err == nil || !strings.Contains(err.Error(), "emit") {
		t.Errorf("calls %d, error %v", calls, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := fhir.New(nil).Run(ctx, []string{dir}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled run: %v", err)
	}
}

func TestFuture(t *testing.T) {
	o := &fhir.Options{Now: func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }}
	_, rep := importAll(t, o, write(t, files{"a.json": `{"resourceType":"MedicationRequest","id":"m","status":"active","intent":"order","subject":{"reference":"Patient/1"},"authoredOn":"2030-01-01","medicationCodeableConcept":{"text":"x"}}`}))
	if rep.Total.Errors != 1 || !strings.Contains(rep.Problems[0].Message, "future") {
		t.Errorf("%+v", rep.Problems)
	}
}
