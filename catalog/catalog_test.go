package catalog_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/event"
)

// roundTrip decodes a payload into the struct of a definition and encodes it again.
type roundTrip struct {
	eventType, version string
	run                func(payload json.RawMessage) (json.RawMessage, error)
}

func roundTripOf[T any](d event.Definition[T]) roundTrip {
	return roundTrip{d.Type(), d.Version(), func(payload json.RawMessage) (json.RawMessage, error) {
		e := event.Event{Metadata: event.Metadata{ID: "e1", Type: d.Type(), Version: d.Version()}, Payload: payload}
		of, err := d.Decode(e)
		if err != nil {
			return nil, err
		}
		return d.New("test", of.Payload).Payload, nil
	}}
}

func findRoundTrip(eventType, version string) (roundTrip, bool) {
	major, _, _ := strings.Cut(version, ".")
	i := slices.IndexFunc(roundTrips, func(r roundTrip) bool {
		m, _, _ := strings.Cut(r.version, ".")
		return r.eventType == eventType && m == major
	})
	if i < 0 {
		return roundTrip{}, false
	}
	return roundTrips[i], true
}

func TestEntriesAreAllFilesInOrder(t *testing.T) {
	files, err := filepath.Glob("schemas/*/*.json")
	if err != nil {
		t.Fatal(err)
	}
	entries := catalog.Entries()
	if len(entries) != len(files) || len(files) == 0 {
		t.Fatalf("%d entries of %d files", len(entries), len(files))
	}
	if !slices.IsSortedFunc(entries, func(a, b catalog.Entry) int { return strings.Compare(a.Type, b.Type) }) {
		t.Error("entries are not ordered by type")
	}
	entries[0].Type = "changed by the caller"
	if catalog.Entries()[0].Type == entries[0].Type {
		t.Error("callers share the slice of entries")
	}
}

func TestLookup(t *testing.T) {
	const filled = "medication.prescription.filled"
	tests := []struct {
		eventType, version, want string
	}{
		{filled, "", "2.0.0"},
		{filled, "1.0.0", "1.0.0"},
		{filled, "2.0.0", "2.0.0"},
		{filled, "3.0.0", ""},
		{"medication.prescription", "", ""},
		{"zebra.stripe.counted", "", ""},
		{"", "", ""},
	}
	for _, tt := range tests {
		e, ok := catalog.Lookup(tt.eventType, tt.version)
		if ok != (tt.want != "") || e.Version != tt.want || ok && e.Type != tt.eventType {
			t.Errorf("Lookup(%q, %q) = %s %s, %v; want version %q", tt.eventType, tt.version, e.Type, e.Version, ok, tt.want)
		}
	}
}

func TestExamplesAreValidAndRoundTrip(t *testing.T) {
	for _, e := range catalog.Entries() {
		t.Run(e.Type+"/"+e.Version, func(t *testing.T) {
			schema := compile(t, e)
			if len(e.Examples) == 0 {
				t.Error("no examples")
			}
			trip, ok := findRoundTrip(e.Type, e.Version)
			if !ok {
				t.Fatal("no definition; run go generate")
			}
			for i, example := range e.Examples {
				if err := schema.Validate(value(t, example)); err != nil {
					t.Errorf("example %d: %v", i, err)
				}
				checkRoundTrip(t, trip, example)
			}
		})
	}
}

var jsonBlock = regexp.MustCompile("(?s)```json\n(.*?)```")

func TestSourceSamplesLoseNothing(t *testing.T) {
	name := os.Getenv("CAREBUS_SOURCE")
	if name == "" {
		name = "../../shared/source/event-patterns.md"
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Skip("the source document is not here; CAREBUS_SOURCE names it")
	}
	n := 0
	for _, block := range jsonBlock.FindAllSubmatch(text, -1) {
		e, _, err := event.Parse(block[1], nil)
		if err != nil {
			t.Errorf("sample %d: %v", n, err)
			continue
		}
		n++
		entry, ok := catalog.Lookup(e.Type, e.Version)
		trip, generated := findRoundTrip(e.Type, e.Version)
		if !ok || !generated {
			t.Errorf("%s %s is not in the catalog", e.Type, e.Version)
			continue
		}
		if err := compile(t, entry).Validate(value(t, e.Payload)); err != nil {
			t.Errorf("%s: %v", e.Type, err)
		}
		checkRoundTrip(t, trip, e.Payload)
	}
	if n != 5 {
		t.Errorf("%d samples in the source document, want 5", n)
	}
}

func TestStructsTellAbsentFromEmpty(t *testing.T) {
	trip, ok := findRoundTrip("medication.prescription.filled", "2.0.0")
	if !ok {
		t.Fatal("no definition")
	}
	out, err := trip.run(json.RawMessage(`{"prescriptionId":"RX1","patientId":"P1","filledAt":"2023-03-01T10:00:00+05:30",
		"medication":{"quantity":0,"name":""},"pharmacy":{},"prescriber":{},"partial":false}`))
	want := `{"prescriptionId":"RX1","patientId":"P1","medication":{"name":"","quantity":0},"filledAt":"2023-03-01T10:00:00+05:30","pharmacy":{},"prescriber":{},"partial":false}`
	if err != nil || string(out) != want {
		t.Errorf("got  %s, %v\nwant %s", out, err, want)
	}
}

func checkRoundTrip(t *testing.T, trip roundTrip, payload json.RawMessage) {
	t.Helper()
	out, err := trip.run(payload)
	if err != nil {
		t.Errorf("%s %s: %v", trip.eventType, trip.version, err)
		return
	}
	for _, d := range differences("", value(t, payload), value(t, out)) {
		t.Errorf("%s %s: %s", trip.eventType, trip.version, d)
	}
}

// differences lists where two JSON values do not mean the same. Instants are the same when moment and offset are.
func differences(at string, a, b any) []string {
	switch a := a.(type) {
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok {
			return []string{at + " is no object any more"}
		}
		var out []string
		for name, x := range a {
			y, ok := b[name]
			if !ok {
				out = append(out, at+"/"+name+" is lost")
				continue
			}
			out = append(out, differences(at+"/"+name, x, y)...)
		}
		for name := range b {
			if _, ok := a[name]; !ok {
				out = append(out, at+"/"+name+" was added")
			}
		}
		return out
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return []string{at + " has another length"}
		}
		var out []string
		for i := range a {
			out = append(out, differences(at+"/"+strconv.Itoa(i), a[i], b[i])...)
		}
		return out
	case json.Number:
		b, ok := b.(json.Number)
		x, errX := a.Float64()
		y, errY := b.Float64()
		if !ok || errX != nil || errY != nil || x != y {
			return []string{at + " is another number"}
		}
		return nil
	case string:
		b, ok := b.(string)
		if !ok {
			return []string{at + " is no text any more"}
		}
		x, errX := time.Parse(time.RFC3339, a)
		y, errY := time.Parse(time.RFC3339, b)
		_, ox := x.Zone()
		_, oy := y.Zone()
		if a != b && (errX != nil || errY != nil || !x.Equal(y) || ox != oy) {
			return []string{at + " is another text"}
		}
		return nil
	}
	if a != b {
		return []string{at + " differs"}
	}
	return nil
}

func value(t *testing.T, text []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// compile prepares an entry's schema, with the formats of the registry that only it knows taken as they come.
func compile(t *testing.T, e catalog.Entry) *jsonschema.Schema {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	for _, name := range []string{"npi", "ndc", "ncpdp-id", "usd"} {
		c.RegisterFormat(&jsonschema.Format{Name: name, Validate: func(any) error { return nil }})
	}
	if err := c.AddResource("entry.json", value(t, e.Schema)); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("entry.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
