package event_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
)

// at is the time of every test with a clock: 1 March 2023.
var at = time.Date(2023, 3, 1, 12, 0, 0, 0, time.UTC)

func clock() *event.Options { return &event.Options{Now: func() time.Time { return at }} }

// refusal is a text that must be refused with exactly these findings, in any order.
type refusal struct {
	name, text string
	want       []string // pointer + " " + rule
}

// members are the metadata of a valid event, as JSON values by name.
func members() map[string]string {
	return map[string]string{
		"eventId":       `"e-1"`,
		"eventType":     `"medication.prescription.filled"`,
		"eventSource":   `"pharmacy-service"`,
		"correlationId": `"c-1"`,
		"causationId":   `"e-0"`,
		"timestamp":     `1677609600000`,
		"version":       `"1.0.0"`,
		"traceId":       `"1234567890abcdef1234567890abcdef"`,
		"partitionKey":  `"RX1"`,
	}
}

var required = []string{"eventId", "eventType", "eventSource", "correlationId", "timestamp", "version"}

func object(members map[string]string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(members)) {
		parts = append(parts, strconv.Quote(name)+":"+members[name])
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func envelope(metadata, payload string) string {
	return `{"metadata":` + metadata + `,"payload":` + payload + `}`
}

// with is a valid event but for one member of the metadata; the value "" leaves it out.
func with(changes ...string) string {
	m := members()
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(m, changes[i])
		} else {
			m[changes[i]] = changes[i+1]
		}
	}
	return envelope(object(m), `{"prescriptionId":"RX1"}`)
}

func payload(text string) string { return envelope(object(members()), text) }

// refusals generates the corpus of bad envelopes.
func refusals() []refusal {
	var all []refusal
	add := func(name, text string, want ...string) { all = append(all, refusal{name, text, want}) }
	place := func(name string) string { return "/metadata/" + name }
	names := slices.Sorted(maps.Keys(members()))

	// Every member: wrong kinds.
	for _, name := range names {
		for _, value := range []string{`null`, `true`, `false`, `{}`, `[]`, `["x"]`, `{"a":1}`, `7`, `-1.5`} {
			if name == "timestamp" && strings.Contains("7 -1.5", value) {
				continue
			}
			add(name+" of a wrong kind: "+value, with(name, value), place(name)+" metadata.kind")
		}
		add(name+" twice", strings.Replace(with(), `{"causationId"`, `{`+strconv.Quote(name)+`:`+members()[name]+`,"causationId"`, 1),
			place(name)+" json.duplicate")
		add(name+" in lower case", with(strings.ToLower(name)+"x", `"x"`), place(strings.ToLower(name)+"x")+" metadata.unknown")
	}

	// Required members: each missing, each pair missing, each missing beside one that is of a wrong kind.
	for i, a := range required {
		add(a+" missing", with(a, ""), place(a)+" metadata.required")
		for _, b := range required[i+1:] {
			add(a+" and "+b+" missing", with(a, "", b, ""), place(a)+" metadata.required", place(b)+" metadata.required")
		}
		for _, b := range required {
			if a != b {
				add(a+" missing and "+b+" null", with(a, "", b, "null"), place(a)+" metadata.required", place(b)+" metadata.kind")
			}
		}
	}
	add("three missing and one of a wrong kind", with("eventId", "", "version", "", "timestamp", "", "eventType", "5"),
		"/metadata/eventId metadata.required", "/metadata/version metadata.required", "/metadata/timestamp metadata.required",
		"/metadata/eventType metadata.kind")
	var everything []string
	for _, name := range required {
		everything = append(everything, place(name)+" metadata.required")
	}
	add("empty metadata", envelope(`{}`, `{}`), everything...)

	// Ids.
	for _, name := range []string{"eventId", "correlationId", "causationId"} {
		for _, value := range []string{``, ` `, `a b`, ` a`, `a `, `a\tb`, `a\nb`, `a\u0000b`, `a\u007fb`, `ä`, `a\u00e4`, `日本`, `😀`, `\u00a0`, strings.Repeat("x", 129)} {
			add(name+" "+short(value), with(name, `"`+value+`"`), place(name)+" metadata.id")
		}
	}
	for _, value := range []string{``, ` `, `pharmacy service`, `a\tb`, `sérvice`, `\u0001`, strings.Repeat("s", 129)} {
		add("eventSource "+short(value), with("eventSource", `"`+value+`"`), place("eventSource")+" metadata.source")
	}

	// Event types.
	for _, value := range []string{
		``, `.`, `..`, `...`, `patient`, `a.b.c.d`, `a.b.c.d.e`, `.b.c`, `a..c`, `a.b.`, `.b`, `a.`, `Patient.record.created`,
		`patient.Record.created`, `patient.record.Created`, `PATIENT.RECORD.CREATED`, `patient.record.wasCreated`,
		`patient_record.created`, `patient.record.was_created`, `patient record.created`, `patient.record. created`, ` patient.record.created`,
		`patient.record.created `, `1patient.record.created`, `patient.1record.created`, `patient.record.1`, `-patient.record.created`,
		`patient.-record.created`, `patient.record.-`, `patient-.record.created`, `patient.record-.created`, `patient.record.created-`,
		`pätient.record.created`, `patient.record.créated`, `patient/record/created`, `patient:record:created`, `patient.record.created!`,
		`patient.*.created`, `patient.record.created\u0000`, `patient.record.created\n`, `患者.record.created`,
		strings.Repeat("a", 254) + ".b",
	} {
		add("eventType "+short(value), with("eventType", `"`+value+`"`), place("eventType")+" metadata.type")
	}

	// Versions.
	for _, value := range []string{
		``, `1`, `1.0`, `1.0.0.0`, `v1.0.0`, `V1`, `01.0.0`, `1.00.0`, `1.0.01`, `1.0.0+build`, `1.0.0-rc.1+5`, `1.0.0-`, `1.0.0-a..b`,
		`1.0.0-01`, `1.0.0-ä`, `-1.0.0`, `1.-1.0`, `1.0.x`, `latest`, ` 1.0.0`, `1.0.0 `, `1,0,0`, `1.0.`, `.0.0`, `1..0`,
		`1.0.0-` + strings.Repeat("a", 128), `9999999999.0.0`,
	} {
		add("version "+short(value), with("version", `"`+value+`"`), place("version")+" metadata.version")
	}

	// Timestamps.
	for _, value := range []string{`1.5`, `1677609600000.0`, `1.6776096e12`, `16776096E5`, `1e400`, `-0.1`} {
		add("timestamp "+value, with("timestamp", value), place("timestamp")+" metadata.timestamp")
	}
	for _, value := range []string{`99999999999999999999`, `9223372036854775807`, `-99999999999999999999`, `-62135596800001`, `-9223372036854775808`} {
		add("timestamp "+value, with("timestamp", value), place("timestamp")+" metadata.timestamp")
	}
	for _, value := range []string{`1677758400001`, `1677609600000000`, `1677609600000000000`, `253402300800000`} {
		add("timestamp "+value, with("timestamp", value), place("timestamp")+" metadata.timestamp-ahead")
	}
	for _, value := range []string{
		``, `yesterday`, `1677609600000`, `2023-02-28`, `2023-02-28T18:40:00`, `2023-02-28 18:40:00Z`, `2023-2-28T18:40:00Z`, `2023-02-28T18:40Z`,
		`2023-13-01T00:00:00Z`, `2023-00-01T00:00:00Z`, `2023-02-30T00:00:00Z`, `2023-02-00T00:00:00Z`, `2023-01-01T24:00:00Z`, `2023-01-01T00:60:00Z`,
		`2023-01-01T00:00:61Z`, `2023-01-01T00:00:60Z`, `2023-01-01T00:00:00.Z`, `2023-01-01T00:00:00,5Z`, `2023-01-01T00:00:00+0100`,
		`2023-01-01T00:00:00+24:00`, `2023-01-01T00:00:00+01:60`, `2023-01-01T00:00:00Zjunk`, `+2023-01-01T00:00:00Z`, `2023-01-01T00:00:00`, `23-01-01T00:00:00Z`,
		`Wed, 01 Mar 2023 12:00:00 GMT`, `0000-12-31T23:59:59Z`,
	} {
		add("timestamp "+short(value), with("timestamp", `"`+value+`"`), place("timestamp")+" metadata.timestamp")
	}
	add("timestamp text ahead", with("timestamp", `"2023-03-02T12:00:00.001Z"`), place("timestamp")+" metadata.timestamp-ahead")

	// Traces and keys.
	for _, value := range []string{
		``, `1234`, strings.Repeat("0", 32), strings.Repeat("a", 31), strings.Repeat("a", 33), strings.Repeat("g", 32), strings.Repeat("A", 32),
		`12345678-90ab-cdef-1234-567890abcdef`, `00-1234567890abcdef1234567890abcdef-1234567890abcdef-01`, strings.Repeat("ä", 16), ` 234567890abcdef1234567890abcdef`,
	} {
		add("traceId "+short(value), with("traceId", `"`+value+`"`), place("traceId")+" metadata.trace")
	}
	for _, value := range []string{``, `a\u0000`, `a\nb`, `a\tb`, `\u200b`, `\u2028`, `\ufeff`, `\u007f`, `\u0085`, `\ue000`, strings.Repeat("k", 257), strings.Repeat("ä", 129)} {
		add("partitionKey "+short(value), with("partitionKey", `"`+value+`"`), place("partitionKey")+" metadata.key")
	}

	// Unknown members.
	for _, name := range []string{"id", "type", "eventID", "EventId", "event_id", "EVENTTYPE", "Timestamp", "trace_id", "tenant", "", "x-y", "schemaVersion"} {
		add("unknown metadata "+name, with(name, `"x"`), place(name)+" metadata.unknown")
	}
	add("unknown with a slash and a tilde", with("a/b~c", `1`), "/metadata/a~1b~0c metadata.unknown")
	for _, name := range []string{"Metadata", "Payload", "data", "meta", "", "specversion", "$schema"} {
		add("unknown member "+name, `{"metadata":`+object(members())+`,"payload":{},`+strconv.Quote(name)+`:1}`, "/"+name+" event.unknown")
	}

	// The parts.
	for _, value := range []string{`null`, `1`, `"x"`, `true`, `[]`, `[{}]`} {
		add("event is "+value, value, " event.kind")
		add("metadata is "+value, envelope(value, `{}`), "/metadata metadata.kind")
		add("payload is "+value, payload(value), "/payload payload.kind")
		add("both are "+value, envelope(value, value), "/metadata metadata.kind", "/payload payload.kind")
	}
	add("empty object", `{}`, "/metadata metadata.required", "/payload payload.required")
	add("no metadata", `{"payload":{}}`, "/metadata metadata.required")
	add("no payload", `{"metadata":`+object(members())+`}`, "/payload payload.required")
	add("payload twice", `{"metadata":`+object(members())+`,"payload":{},"payload":{}}`, "/payload json.duplicate")
	add("metadata twice", `{"metadata":`+object(members())+`,"metadata":`+object(members())+`,"payload":{}}`, "/metadata json.duplicate")

	// JSON inside the payload: the pointer leads to the place.
	add("duplicate", payload(`{"a":1,"a":1}`), "/payload/a json.duplicate")
	add("duplicate by escape", payload(`{"a":1,"\u0061":1}`), "/payload/a json.duplicate")
	add("duplicate deep", payload(`{"a":[{},{"b":{"c":1,"d":2,"c":3}}]}`), "/payload/a/1/b/c json.duplicate")
	add("two duplicates", payload(`{"a":1,"a":1,"b":{"x":1,"x":1}}`), "/payload/a json.duplicate", "/payload/b/x json.duplicate")
	add("duplicate in a large object", payload(`{`+many(100)+`,"m7":1,"m99":2}`), "/payload/m7 json.duplicate", "/payload/m99 json.duplicate")
	add("duplicate and missing", strings.Replace(with("eventId", ""), `"RX1"}`, `"RX1","prescriptionId":1}`, 1),
		"/metadata/eventId metadata.required", "/payload/prescriptionId json.duplicate")
	for name, bad := range map[string]string{
		"lone continuation": "\x80", "overlong": "\xc0\xaf", "truncated": "\xe2\x82", "surrogate": "\xed\xa0\x80", "too large": "\xf5\x80\x80\x80", "latin-1": "\xe4",
	} {
		add("bad UTF-8 in a value: "+name, payload(`{"a":{"b":"`+bad+`"}}`), "/payload/a/b json.utf8")
		add("bad UTF-8 in metadata: "+name, with("partitionKey", `"`+bad+`"`), "/metadata/partitionKey json.utf8", "/metadata/partitionKey metadata.key")
	}
	for _, bad := range []string{`\ud800`, `\udc00`, `\ud800\ud800`, `\ud800x`, `\ud800\n`, `\udc00\ud800`} {
		add("unpaired surrogate "+bad, payload(`{"a":["`+bad+`"]}`), "/payload/a/0 json.utf8")
	}
	for _, bad := range []string{
		`{"a":01}`, `{"a":+1}`, `{"a":.5}`, `{"a":1.}`, `{"a":1e}`, `{"a":1e+}`, `{"a":-}`, `{"a":0x10}`, `{"a":NaN}`, `{"a":Infinity}`, `{"a":-Infinity}`,
		`{"a":tru}`, `{"a":True}`, `{"a":nul}`, `{"a":undefined}`, `{"a":'x'}`, `{"a":"\x41"}`, `{"a":"\u12g4"}`, "{\"a\":\"tab\there\"}", "{\"a\":\"line\nbreak\"}",
		`{"a":}`, `{"a":1 2}`, `{"a":/*x*/1}`, `{"a":1//x` + "\n}",
	} {
		add("not JSON: "+short(bad), payload(bad), "/payload/a json.syntax")
	}
	for _, bad := range []string{`{a:1}`, `{"a":1,}`, `{,}`, `{'a':1}`, `{1:1}`, `{"b":1,:2}`} {
		add("not JSON: "+bad, payload(bad), "/payload json.syntax")
	}
	add("array without end", payload(`{"a":[1,2}`), "/payload/a/1 json.syntax")
	add("array with a comma", payload(`{"a":[1,]}`), "/payload/a/1 json.syntax")
	add("no colon", payload(`{"a" 1}`), "/payload/a json.syntax")

	// The text as a whole.
	add("empty text", ``, " json.syntax")
	add("white space", " \n\t", " json.syntax")
	add("byte order mark", "\ufeff"+with(), " json.syntax")
	add("form feed", "\f"+with(), " json.syntax")
	add("trailing text", with()+"x", " json.trailing")
	add("two events", with()+"\n"+with(), " json.trailing")
	add("trailing zero byte", with()+"\x00", " json.trailing")
	add("trailing comma", with()+",", " json.trailing")
	full := with()
	for cut := 1; cut < len(full); cut += 7 {
		add(fmt.Sprintf("cut after %d bytes", cut), full[:cut], "? json.syntax")
	}
	for _, depth := range []int{63, 64, 100, 100_000} {
		add(fmt.Sprintf("arrays %d deep", depth), payload(`{"a":`+strings.Repeat("[", depth)+strings.Repeat("]", depth)+`}`), "? json.depth")
		add(fmt.Sprintf("objects %d deep", depth), payload(strings.Repeat(`{"a":`, depth)+`{}`+strings.Repeat("}", depth)), "? json.depth")
	}
	add("too large", payload(`{"a":"`+strings.Repeat("x", 1<<20)+`"}`), " event.size")
	return all
}

func many(n int) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = fmt.Sprintf(`"m%d":%d`, i, i)
	}
	return strings.Join(parts, ",")
}

func short(v string) string {
	if len(v) > 60 {
		return v[:57] + "..."
	}
	return v
}

func TestRefused(t *testing.T) {
	all := refusals()
	if len(all) < 300 {
		t.Fatalf("the corpus has %d cases; it must have at least 300", len(all))
	}
	names := map[string]bool{}
	for _, c := range all {
		if names[c.name] {
			t.Errorf("two cases are called %q", c.name)
		}
		names[c.name] = true
		e, warnings, err := event.Parse([]byte(c.text), clock())
		var invalid *event.InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: accepted (error %v)", c.name, err)
			continue
		}
		if e.Payload != nil || e.ID != "" || warnings != nil {
			t.Errorf("%s: refused, and something besides the error returned", c.name)
		}
		var got []string
		for _, f := range invalid.Findings {
			if f.Message == "" || f.Remedy == "" {
				t.Errorf("%s: finding without message or remedy: %+v", c.name, f)
			}
			if f.Warning {
				continue
			}
			if len(c.want) == 1 && strings.HasPrefix(c.want[0], "?") {
				f.Pointer = "?"
			}
			got = append(got, f.Pointer+" "+f.Rule)
		}
		slices.Sort(got)
		want := slices.Sorted(slices.Values(c.want))
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q\n%v", c.name, got, want, err)
		}
	}
	t.Logf("%d refused envelopes", len(all))
}

// Check must judge an event built in Go as Parse judges its text.
func TestCheckAgreesWithParse(t *testing.T) {
	compared := 0
	for _, c := range refusals() {
		// Take the event apart by the lax parser of the standard library; what that cannot do is not comparable.
		e, ok := lax(c.text)
		if !ok {
			continue
		}
		_, _, parseErr := event.Parse(e.AppendJSON(nil), clock())
		_, checkErr := e.Check(clock())
		if (parseErr == nil) != (checkErr == nil) {
			t.Errorf("%s: Parse says %v\nCheck says %v", c.name, parseErr, checkErr)
		}
		if checkErr != nil {
			compared++
		}
	}
	if compared < 100 {
		t.Errorf("only %d refusals were compared", compared)
	}
}
