package event_test

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/carebus/carebus/event"
)

// The envelopes of the platform's source document must be accepted as they stand, and survive every form.
func TestSourceSamples(t *testing.T) {
	path := os.Getenv("CAREBUS_SOURCE")
	if path == "" {
		path = filepath.Join("..", "..", "shared", "source", "event-patterns.md")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("the source document is absent: %s (CAREBUS_SOURCE names it)", path)
	}
	samples := 0
	for _, part := range strings.Split(string(text), "```json\n")[1:] {
		sample, _, _ := strings.Cut(part, "```")
		e, warnings, err := event.Parse([]byte(sample), nil)
		if err != nil || len(warnings) > 0 {
			t.Errorf("refused or warned of: %v %v\n%s", warnings, err, sample)
			continue
		}
		if got := canonical(t, e.AppendJSON(nil)); got != canonical(t, []byte(sample)) {
			t.Errorf("written it means something else: %s\n%s", got, sample)
		}
		if !strings.Contains(sample, string(e.Payload)) {
			t.Errorf("the payload is not the text of the sample")
		}
		roundTrips(t, e)
		samples++
	}
	if samples < 5 {
		t.Errorf("only %d samples were found", samples)
	}
}

func canonical(t testing.TB, text []byte) string {
	t.Helper()
	v := jsontext.Value(bytes.Clone(text))
	if err := v.Canonicalize(); err != nil {
		t.Fatal(err)
	}
	return string(v)
}

// The JSON parsing corpus, inside a payload and as the whole text.
func TestJSONParsingCorpus(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(sharedData(t, "json-parsing"), "*.json"))
	if err != nil || len(files) < 300 {
		t.Fatalf("%d files (%v)", len(files), err)
	}
	duplicates := 0
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		whole := payload(string(data))
		inside := payload(`{"v":` + string(data) + `}`)
		if _, _, err := event.Parse(data, nil); err == nil {
			t.Errorf("%s is accepted as an event", name)
		}
		_, _, wholeErr := event.Parse([]byte(whole), nil)
		_, _, insideErr := event.Parse([]byte(inside), nil)
		built := parse(t, with())
		built.Payload = []byte(`{"v":` + string(data) + `}`)
		if _, err := built.Check(nil); (err == nil) != (insideErr == nil) {
			t.Errorf("%s: Check says %v, Parse %v", name, err, insideErr)
		}
		switch name[0] {
		case 'n':
			if wholeErr == nil || insideErr == nil {
				t.Errorf("%s is accepted as a payload", name)
			}
		case 'y':
			if insideErr != nil && strings.Contains(name, "duplicated_key") && strings.Contains(insideErr.Error(), "json.duplicate") {
				duplicates++ // by policy: two readers must never see two values
			} else if insideErr != nil {
				t.Errorf("%s: %v", name, insideErr)
			}
		}
		// Our judgement is that of a strict parser.
		strict := jsontext.Value(inside).IsValid()
		if (insideErr == nil) != strict && !strings.Contains(name, "structure_500_nested") {
			t.Errorf("%s: we say %v, a strict parser says %v", name, insideErr, strict)
		}
	}
	if duplicates != 2 {
		t.Errorf("%d files with duplicate members, not 2", duplicates)
	}
}

// same tells whether two events are equal.
func same(a, b event.Event) bool { return reflect.DeepEqual(a, b) }
