package event_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/carebus/carebus/event"
)

// sharedData is the folder of third-party test data, which is no part of the project.
func sharedData(t testing.TB, path string) string {
	t.Helper()
	root := os.Getenv("CAREBUS_TEST_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "shared", "data")
	}
	path = filepath.Join(root, path)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("test data is absent: %s (CAREBUS_TEST_DATA names its folder)", path)
	}
	return path
}

func headersOf(b event.Binding, e event.Event) map[string]string {
	return maps.Collect(event.CloudEventHeaders(b, e))
}

// roundTrips takes e through every CloudEvents form and back.
func roundTrips(t interface {
	Helper()
	Errorf(string, ...any)
}, e event.Event) {
	t.Helper()
	same := func(form string, got event.Event, warnings []event.Finding, err error) {
		t.Helper()
		if err != nil || len(warnings) > 0 || !reflect.DeepEqual(got, e) {
			t.Errorf("%s: %s came back as %s (%v, %v)", form, e.AppendJSON(nil), got.AppendJSON(nil), warnings, err)
		}
	}
	got, warnings, err := event.ParseCloudEvent(event.AppendCloudEvent(nil, e), clock())
	same("structured", got, warnings, err)
	for _, b := range []event.Binding{event.HTTP, event.Kafka} {
		got, warnings, err = event.ParseCloudEventBinary(b, event.CloudEventHeaders(b, e), e.Payload, clock())
		same("binary", got, warnings, err)
	}
	items, err := event.ParseCloudEventBatch(event.AppendCloudEventBatch(nil, []event.Event{e, e}), clock())
	if err != nil || len(items) != 2 {
		t.Errorf("batch: %d items (%v)", len(items), err)
		return
	}
	for _, item := range items {
		same("batch", item.Event, item.Warnings, item.Err)
	}
}

func TestCloudEventForm(t *testing.T) {
	e := parse(t, with("timestamp", "1677609600007"))
	want := `{"specversion":"1.0","id":"e-1","source":"/pharmacy-service","type":"medication.prescription.filled",` +
		`"time":"2023-02-28T18:40:00.007Z","datacontenttype":"application/json",` +
		`"dataschema":"https://carebus.dev/schemas/medication.prescription.filled/versions/1.0.0",` +
		`"correlationid":"c-1","causationid":"e-0","partitionkey":"RX1",` +
		`"traceparent":"00-1234567890abcdef1234567890abcdef-`
	got := string(event.AppendCloudEvent(nil, e))
	if !strings.HasPrefix(got, want) || !strings.HasSuffix(got, `-00","schemaversion":"1.0.0","data":{"prescriptionId":"RX1"}}`) {
		t.Errorf("got  %s\nwant %s…", got, want)
	}
	if again := string(event.AppendCloudEvent(nil, e)); again != got {
		t.Errorf("the same event is written in two ways: %s", again)
	}
	headers := headersOf(event.HTTP, parse(t, with("partitionKey", `"José \"100%\" 😀"`)))
	if v := headers["ce-partitionkey"]; v != "Jos%C3%A9%20%22100%25%22%20%F0%9F%98%80" {
		t.Errorf("ce-partitionkey is %s", v)
	}
	if headers["Content-Type"] != "application/json" || headers["ce-specversion"] != "1.0" || headers["ce-source"] != "/pharmacy-service" {
		t.Errorf("headers are %v", headers)
	}
}

func TestCloudEventSources(t *testing.T) {
	for source, attribute := range map[string]string{
		"pharmacy-service": "/pharmacy-service", "a/b": "a/b", "/a": "/%2Fa", "/a/b": "/a/b", "//host/x": "//host/x", "urn:uuid:1": "urn:uuid:1",
		"https://example.com/x?y#z": "https://example.com/x?y#z", "x#y": "/x%23y", "%41": "/%2541", "..": "/%2E%2E", "a:b c"[:3]: "a:b",
		"1:b": "/1%3Ab", "a\"b": "/a%22b", "/": "/", "http://[::1": "/http%3A%2F%2F%5B%3A%3A1", "a/%zz": "/a%2F%25zz",
	} {
		e := parse(t, with("eventSource", `"x"`))
		e.Source = source
		if got := headersOf(event.Kafka, e)["ce_source"]; got != attribute {
			t.Errorf("%s is written as %s, want %s", source, got, attribute)
		}
		roundTrips(t, e)
	}
}

// valid are the attributes of an acceptable CloudEvent, as JSON values by name.
func validAttributes() map[string]string {
	return map[string]string{
		"specversion": `"1.0"`, "id": `"e-1"`, "source": `"/pharmacy-service"`, "type": `"medication.prescription.filled"`,
		"time": `"2023-02-28T18:40:00Z"`, "datacontenttype": `"application/json"`, "correlationid": `"c-1"`, "schemaversion": `"1.0.0"`,
		"data": `{"a":1}`,
	}
}

func withAttributes(changes ...string) string {
	m := validAttributes()
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(m, changes[i])
		} else {
			m[changes[i]] = changes[i+1]
		}
	}
	return object(m)
}

func TestCloudEventsRefused(t *testing.T) {
	cases := []refusal{
		{"no id", withAttributes("id", ""), []string{"/id metadata.required"}},
		{"null id", withAttributes("id", "null"), []string{"/id metadata.required"}},
		{"numeric id", withAttributes("id", "1"), []string{"/id cloudevents.kind"}},
		{"no source", withAttributes("source", ""), []string{"/source metadata.required"}},
		{"no type", withAttributes("type", ""), []string{"/type metadata.required"}},
		{"no time", withAttributes("time", ""), []string{"/time metadata.required"}},
		{"no specversion", withAttributes("specversion", ""), []string{"/specversion cloudevents.specversion"}},
		{"specversion 0.3", withAttributes("specversion", `"0.3"`), []string{"/specversion cloudevents.specversion"}},
		{"specversion as a number", withAttributes("specversion", `1.0`), []string{"/specversion cloudevents.kind"}},
		{"no correlation", withAttributes("correlationid", ""), []string{"/correlationid metadata.required"}},
		{"no version at all", withAttributes("schemaversion", ""), []string{"/schemaversion metadata.required"}},
		{"dataschema without version", withAttributes("schemaversion", "", "dataschema", `"https://example.com/s"`), []string{"/schemaversion metadata.required"}},
		{"bad version", withAttributes("schemaversion", `"1"`), []string{"/schemaversion metadata.version"}},
		{"bad type", withAttributes("type", `"X"`), []string{"/type metadata.type"}},
		{"bad time", withAttributes("time", `"now"`), []string{"/time metadata.timestamp"}},
		{"time ahead", withAttributes("time", `"2024-01-01T00:00:00Z"`), []string{"/time metadata.timestamp-ahead"}},
		{"numeric time", withAttributes("time", `1677609600000`), []string{"/time cloudevents.kind"}},
		{"XML", withAttributes("datacontenttype", `"application/xml"`), []string{"/datacontenttype cloudevents.content-type"}},
		{"JSON in Latin-1", withAttributes("datacontenttype", `"application/json; charset=iso-8859-1"`), []string{"/datacontenttype cloudevents.content-type"}},
		{"no media type", withAttributes("datacontenttype", `";;"`), []string{"/datacontenttype cloudevents.content-type"}},
		{"no data", withAttributes("data", ""), []string{"/data payload.required"}},
		{"data null", withAttributes("data", "null"), []string{"/data payload.kind"}},
		{"data text", withAttributes("data", `"x"`), []string{"/data payload.kind"}},
		{"base64", withAttributes("data", "", "data_base64", `"e30="`), []string{"/data_base64 cloudevents.base64"}},
		{"both data", withAttributes("data_base64", `"e30="`), []string{"/data_base64 cloudevents.base64"}},
		{"attribute in camel case", withAttributes("myExt", `"x"`), []string{"/myExt cloudevents.attribute"}},
		{"attribute with underscore", withAttributes("my_ext", `"x"`), []string{"/my_ext cloudevents.attribute"}},
		{"empty attribute name", withAttributes("", `"x"`), []string{"/ cloudevents.attribute"}},
		{"object as attribute", withAttributes("ext", `{}`), []string{"/ext cloudevents.kind"}},
		{"array as attribute", withAttributes("ext", `[]`), []string{"/ext cloudevents.kind"}},
		{"traceparent all zero", withAttributes("traceparent", `"00-00000000000000000000000000000000-0000000000000001-01"`), []string{"/traceparent cloudevents.traceparent"}},
		{"traceparent without span", withAttributes("traceparent", `"00-1234567890abcdef1234567890abcdef-0000000000000000-01"`), []string{"/traceparent cloudevents.traceparent"}},
		{"traceparent too long", withAttributes("traceparent", `"00-1234567890abcdef1234567890abcdef-1234567890abcdef-01-x"`), []string{"/traceparent cloudevents.traceparent"}},
		{"traceparent ff", withAttributes("traceparent", `"ff-1234567890abcdef1234567890abcdef-1234567890abcdef-01"`), []string{"/traceparent cloudevents.traceparent"}},
		{"traceparent upper case", withAttributes("traceparent", `"00-1234567890ABCDEF1234567890abcdef-1234567890abcdef-01"`), []string{"/traceparent cloudevents.traceparent"}},
		{"empty causation", withAttributes("causationid", `""`), []string{"/causationid metadata.id"}},
		{"unprintable key", withAttributes("partitionkey", `"\u0000"`), []string{"/partitionkey metadata.key"}},
		{"id twice", strings.Replace(withAttributes(), `"id":"e-1"`, `"id":"e-1","id":"e-1"`, 1), []string{"/id json.duplicate"}},
		{"duplicate in the data", withAttributes("data", `{"a":{"b":1,"b":1}}`), []string{"/data/a/b json.duplicate"}},
		{"bad UTF-8 in the data", withAttributes("data", "{\"a\":\"\xff\"}"), []string{"/data/a json.utf8"}},
		{"not JSON", withAttributes("data", `{"a":01}`), []string{"/data/a json.syntax"}},
		{"trailing", withAttributes() + "{}", []string{" json.trailing"}},
		{"array", "[" + withAttributes() + "]", []string{" event.kind"}},
		{"native form", with(), []string{
			"/metadata cloudevents.kind", "/payload cloudevents.kind", "/specversion cloudevents.specversion", "/id metadata.required", "/source metadata.required",
			"/type metadata.required", "/time metadata.required", "/correlationid metadata.required", "/schemaversion metadata.required", "/data payload.required"}},
		{"three at once", withAttributes("id", "", "type", `"X"`, "data", "1"), []string{"/id metadata.required", "/type metadata.type", "/data payload.kind"}},
	}
	var elements []string
	for _, c := range cases {
		_, _, err := event.ParseCloudEvent([]byte(c.text), clock())
		if got, want := refusedPlaces(t, c.name, err, ""), slices.Sorted(slices.Values(c.want)); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q (%v)", c.name, got, want, err)
		}
		if json.Valid([]byte(c.text)) && !strings.HasPrefix(c.text, "[") {
			elements = append(elements, c.text)
		}
	}
	// The same, as elements of one batch between good ones: each is judged by itself, under its index.
	batch := "[" + withAttributes() + "," + strings.Join(elements, ",") + "," + withAttributes() + "]"
	items, err := event.ParseCloudEventBatch([]byte(batch), clock())
	if err != nil || len(items) != len(elements)+2 {
		t.Fatalf("%d items of %d: %v", len(items), len(elements)+2, err)
	}
	for i, item := range items {
		if good := i == 0 || i == len(items)-1; good != (item.Err == nil) {
			t.Errorf("item %d: %v", i, item.Err)
		} else if !good {
			_, _, alone := event.ParseCloudEvent([]byte(elements[i-1]), clock())
			prefix := "/" + string(appendInt(nil, i))
			if got, want := refusedPlaces(t, batch, item.Err, prefix), refusedPlaces(t, batch, alone, ""); !slices.Equal(got, want) {
				t.Errorf("item %d: got %q, alone %q", i, got, want)
			}
		}
	}
}

func appendInt(dst []byte, i int) []byte { b, _ := json.Marshal(i); return append(dst, b...) }

// refusedPlaces returns pointer and rule of every finding that is no warning, with prefix cut off the pointers.
func refusedPlaces(t *testing.T, name string, err error, prefix string) []string {
	t.Helper()
	var invalid *event.InvalidError
	if !errors.As(err, &invalid) {
		t.Errorf("%s: accepted (%v)", name, err)
		return nil
	}
	var got []string
	for _, f := range invalid.Findings {
		pointer, ok := strings.CutPrefix(f.Pointer, prefix)
		if !ok {
			t.Errorf("%s: pointer %s is not under %s", name, f.Pointer, prefix)
		}
		if f.Message == "" || f.Remedy == "" {
			t.Errorf("%s: finding without message or remedy: %+v", name, f)
		}
		if !f.Warning {
			got = append(got, pointer+" "+f.Rule)
		}
	}
	slices.Sort(got)
	return got
}

func TestCloudEventsAccepted(t *testing.T) {
	for _, c := range []struct {
		name, text string
		warnings   []string
	}{
		{"minimal", withAttributes("datacontenttype", ""), nil},
		{"nulls", withAttributes("subject", "null", "ext", "null", "causationid", "null", "data_base64", "null"), nil},
		{"version in the dataschema", withAttributes("schemaversion", "", "dataschema", `"https://carebus.dev/schemas/medication.prescription.filled/versions/1.0.0"`), nil},
		{"version in a foreign dataschema", withAttributes("schemaversion", "", "dataschema", `"https://example.com/1.0.0"`), []string{"/dataschema"}},
		{"subject", withAttributes("subject", `"RX1"`), []string{"/subject"}},
		{"extensions", withAttributes("ext", `1`, "tracestate", `"a=b"`, "flag", "true"), []string{"/ext", "/flag", "/tracestate"}},
		{"vendor JSON", withAttributes("datacontenttype", `"application/vnd.x+json; charset=UTF-8"`), nil},
		{"later trace context", withAttributes("traceparent", `"cc-1234567890abcdef1234567890abcdef-1234567890abcdef-01-what"`), nil},
		{"finer time", withAttributes("time", `"2023-02-28T18:40:00.0000001Z"`), []string{"/time"}},
	} {
		e, warnings, err := event.ParseCloudEvent([]byte(c.text), clock())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, f := range warnings {
			got = append(got, f.Pointer)
		}
		if slices.Sort(got); !slices.Equal(got, c.warnings) {
			t.Errorf("%s: warnings at %q, want %q", c.name, got, c.warnings)
		}
		if e.Source != "pharmacy-service" || e.Version != "1.0.0" || e.Timestamp != 1677609600000 {
			t.Errorf("%s: read as %s", c.name, e.AppendJSON(nil))
		}
	}
}

func TestCloudEventBatchRefused(t *testing.T) {
	for text, want := range map[string]string{
		``: "json.syntax", ` `: "json.syntax", `{}`: "cloudevents.batch", `[`: "json.syntax", `[` + withAttributes() + `,]`: "json.syntax",
		`[] []`: "json.trailing", `[{]`: "json.syntax", `"x"`: "cloudevents.batch",
	} {
		items, err := event.ParseCloudEventBatch([]byte(text), clock())
		var invalid *event.InvalidError
		if !errors.As(err, &invalid) || len(invalid.Findings) != 1 || invalid.Findings[0].Rule != want || items != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	if items, err := event.ParseCloudEventBatch([]byte(`[]`), nil); err != nil || len(items) != 0 {
		t.Errorf("an empty batch: %v", err)
	}
}

func TestCloudEventBinary(t *testing.T) {
	e := parse(t, with())
	for name, c := range map[string]struct {
		binding  event.Binding
		change   map[string]string
		body     string
		want     []string // refusals
		warnings int
	}{
		"other headers":           {event.HTTP, map[string]string{"Host": "x", "X-Ce-Id": "y", "traceparent": "z"}, `{}`, nil, 0},
		"upper case":              {event.HTTP, map[string]string{"ce-id": "", "CE-ID": "e-1"}, `{}`, nil, 0},
		"no content type":         {event.HTTP, map[string]string{"Content-Type": ""}, `{}`, nil, 0},
		"quoted":                  {event.HTTP, map[string]string{"ce-partitionkey": `"RX\1"`}, `{}`, nil, 0},
		"extension":               {event.HTTP, map[string]string{"ce-tenant": "x"}, `{}`, nil, 1},
		"no id":                   {event.HTTP, map[string]string{"ce-id": ""}, `{}`, []string{"/id metadata.required"}, 0},
		"two ids":                 {event.HTTP, map[string]string{"CE-ID": "e-1"}, `{}`, []string{"/id cloudevents.duplicate"}, 0},
		"bad UTF-8":               {event.HTTP, map[string]string{"ce-partitionkey": "%FF"}, `{}`, []string{"/partitionkey cloudevents.utf8"}, 0},
		"content type as ce":      {event.HTTP, map[string]string{"ce-datacontenttype": "application/json"}, `{}`, []string{"/datacontenttype cloudevents.attribute"}, 0},
		"XML":                     {event.HTTP, map[string]string{"Content-Type": "text/xml"}, `{}`, []string{"/datacontenttype cloudevents.content-type"}, 0},
		"no body":                 {event.HTTP, nil, ``, []string{"/data payload.required"}, 0},
		"array":                   {event.HTTP, nil, `[]`, []string{"/data payload.kind"}, 0},
		"duplicate":               {event.HTTP, nil, `{"a":1,"a":2}`, []string{"/data/a json.duplicate"}, 0},
		"Kafka takes values raw":  {event.Kafka, map[string]string{"ce_partitionkey": "100% José"}, `{}`, nil, 0},
		"Kafka with other prefix": {event.Kafka, map[string]string{"ce_id": "", "ce-id": "e-1"}, `{}`, []string{"/id metadata.required"}, 0},
		"attribute with hyphen":   {event.Kafka, map[string]string{"ce_a-b": "1"}, `{}`, []string{"/a-b cloudevents.attribute"}, 0},
	} {
		headers := headersOf(c.binding, e)
		for k, v := range c.change {
			if headers[k] = v; v == "" {
				delete(headers, k)
			}
		}
		got, warnings, err := event.ParseCloudEventBinary(c.binding, maps.All(headers), []byte(c.body), clock())
		if len(c.want) > 0 {
			if places := refusedPlaces(t, name, err, ""); !slices.Equal(places, c.want) {
				t.Errorf("%s: got %q, want %q", name, places, c.want)
			}
			continue
		}
		if err != nil || len(warnings) != c.warnings || got.ID != "e-1" || string(got.Payload) != c.body {
			t.Errorf("%s: %+v %v %v", name, got, warnings, err)
		}
	}
}

// Every structured CloudEvent must satisfy the specification's own schema.
func TestCloudEventSchema(t *testing.T) {
	file, err := os.Open(sharedData(t, "cloudevents/spec/cloudevents/formats/cloudevents.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	doc, err := jsonschema.UnmarshalJSON(file)
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("cloudevents.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("cloudevents.json")
	if err != nil {
		t.Fatal(err)
	}
	events := []event.Event{parse(t, sample), parse(t, with("causationId", "", "traceId", "", "partitionKey", ""))}
	for _, source := range []string{`a b`[:1], `\"<>^|{}`, `a/b?c#d`, `http://[::1`, `%zz/x`, `x:y:z`, `//`, `?q/`, `#a/`, `/:`, `:/`, `http://a:b/`} {
		events = append(events, parse(t, with("eventSource", `"`+source+`"`, "timestamp", "-62135596800000", "version", `"1.0.0-rc.1"`)))
	}
	for _, e := range events {
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(event.AppendCloudEvent(nil, e)))
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %v", event.AppendCloudEvent(nil, e), err)
		}
	}
}

// The specification's conformance features. Their events bring no correlation and no schema version, which the envelope
// requires: exactly that must be reported, and with both added the attributes and the data must be those expected.
func TestCloudEventFeatures(t *testing.T) {
	scenarios := 0
	for _, name := range []string{"http", "kafka"} {
		text, err := os.ReadFile(sharedData(t, "cloudevents/features/"+name+"-protocol-binding.feature"))
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range strings.Split(string(text), "Scenario")[1:] {
			types := []string{""}
			if _, examples, ok := strings.Cut(s, "Examples:"); ok {
				types = column(examples)[1:]
			}
			for _, contentType := range types {
				feature(t, name, strings.ReplaceAll(s, "<contentType>", contentType))
				scenarios++
			}
		}
	}
	if scenarios != 7 {
		t.Errorf("%d scenarios were found, not 7", scenarios)
	}
}

// column returns the first cells of a table in a feature.
func column(text string) []string {
	var cells []string
	for line := range strings.Lines(text) {
		if parts := strings.Split(strings.TrimSpace(line), "|"); len(parts) > 2 {
			cells = append(cells, strings.TrimSpace(parts[1]))
		}
	}
	return cells
}

func feature(t *testing.T, name, s string) {
	t.Helper()
	blocks := strings.Split(s, `"""`)
	headers := map[string]string{}
	body, binding := blocks[1], event.Kafka
	table := func(text string, into map[string]string) {
		for line := range strings.Lines(text) {
			parts := strings.Split(strings.TrimSpace(line), "|")
			if len(parts) == 4 {
				into[strings.TrimSpace(parts[1])] = strings.TrimSpace(parts[2])
			}
		}
	}
	given, then, _ := strings.Cut(s, "Then the attributes are")
	if name == "kafka" {
		table(given, headers)
	} else {
		binding = event.HTTP
		lines := bufio.NewScanner(strings.NewReader(strings.TrimSpace(body)))
		lines.Scan() // the request line
		for lines.Scan() && strings.TrimSpace(lines.Text()) != "" {
			k, v, _ := strings.Cut(strings.TrimSpace(lines.Text()), ": ")
			headers[k] = v
		}
		_, body, _ = strings.Cut(body, "\n\n")
	}
	contentType := headers["content-type"] + headers["Content-Type"]
	structured := strings.HasPrefix(contentType, event.ContentTypeCloudEvent)
	read := func(extra bool) (event.Event, error) {
		headers, body := maps.Clone(headers), body
		if structured {
			if extra {
				body = strings.Replace(body, "{", `{"correlationid":"c-1","schemaversion":"1.0.0",`, 1)
			}
			e, _, err := event.ParseCloudEvent([]byte(body), clock())
			return e, err
		}
		if prefix := map[event.Binding]string{event.HTTP: "ce-", event.Kafka: "ce_"}[binding]; extra {
			headers[prefix+"correlationid"], headers[prefix+"schemaversion"] = "c-1", "1.0.0"
		}
		e, _, err := event.ParseCloudEventBinary(binding, maps.All(headers), []byte(body), clock())
		return e, err
	}
	_, err := read(false)
	if got := refusedPlaces(t, name, err, ""); !slices.Equal(got, []string{"/correlationid metadata.required", "/schemaversion metadata.required"}) {
		t.Errorf("%s: refused for %q", name, got)
	}
	e, err := read(true)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	expected := map[string]string{}
	table(then, expected)
	written := headersOf(event.Kafka, e)
	for attribute, value := range expected {
		switch attribute {
		case "key", "datacontenttype": // the payload is JSON in UTF-8 whatever parameters said so
		case "time":
			if got := e.Time().Format("2006-01-02T15:04:05Z"); got != value {
				t.Errorf("%s: time is %s, want %s", name, got, value)
			}
		default:
			if got := written["ce_"+attribute]; got != value {
				t.Errorf("%s: %s is %q, want %q", name, attribute, got, value)
			}
		}
	}
	if len(expected) < 6 {
		t.Errorf("%s: only %d attributes are expected", name, len(expected))
	}
	var got, want any
	data := blocks[len(blocks)-2]
	if json.Unmarshal(e.Payload, &got) != nil || json.Unmarshal([]byte(data), &want) != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s: data is %s, want %s", name, e.Payload, data)
	}
}
