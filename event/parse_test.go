package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
)

// lax builds an event from a text with encoding/json, without any of the rules.
func lax(text string) (event.Event, bool) {
	var raw struct {
		Metadata struct {
			EventID, EventType, EventSource, CorrelationID, CausationID, Version, TraceID, PartitionKey string
			Timestamp                                                                                   int64
		}
		Payload json.RawMessage
	}
	if json.Unmarshal([]byte(text), &raw) != nil {
		return event.Event{}, false
	}
	m := raw.Metadata
	return event.Event{Metadata: event.Metadata{
		ID: m.EventID, Type: m.EventType, Source: m.EventSource, CorrelationID: m.CorrelationID, CausationID: m.CausationID,
		Timestamp: m.Timestamp, Version: m.Version, TraceID: m.TraceID, PartitionKey: m.PartitionKey,
	}, Payload: raw.Payload}, m.Timestamp != 0
}

func TestParse(t *testing.T) {
	e := parse(t, sample)
	want := event.Metadata{
		ID: "9f7d62e3-383f-4d28-a690-25c3890a13d6", Type: "medication.prescription.filled", Source: "pharmacy-service",
		CorrelationID: "5720d7ba-24a2-483a-93b1-3d79927e507e", CausationID: "3fa4d17c-8918-42d2-a7a9-3d4c650e8584",
		Timestamp: 1677609600000, Version: "1.0.0", TraceID: "1234567890abcdef1234567890abcdef", PartitionKey: "RX12345678",
	}
	if e.Metadata != want {
		t.Errorf("metadata is %+v", e.Metadata)
	}
	if !strings.Contains(sample, string(e.Payload)) || !bytes.HasPrefix(e.Payload, []byte("{\n    \"prescriptionId\"")) {
		t.Errorf("the payload is not the producer's text: %s", e.Payload)
	}
}

func TestParseKeepsNothingOfTheText(t *testing.T) {
	data := []byte(sample)
	e, _, err := event.Parse(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := string(e.AppendJSON(nil))
	for i := range data {
		data[i] = 'x'
	}
	if after := string(e.AppendJSON(nil)); after != before {
		t.Errorf("the event changed with the text it was read from: %s", after)
	}
}

func TestAccepted(t *testing.T) {
	for name, text := range map[string]string{
		"minimal":                  with("causationId", "", "traceId", "", "partitionKey", ""),
		"payload first":            `{"payload":{},"metadata":` + object(members()) + `}`,
		"escapes in metadata":      with("eventId", `"\u0065\u002d1"`, "eventType", `"medication\u002eprescription.filled"`),
		"escaped member name":      strings.Replace(with(), `"eventId"`, `"\u0065ventId"`, 1),
		"ids that are no UUIDs":    with("eventId", `"1a2b3c4d-5e6f-7g8h-9i0j-1k2l3m4n5o6p"`),
		"longest id":               with("eventId", `"`+strings.Repeat("x", 128)+`"`),
		"all visible characters":   with("eventId", `"!\"#$%&'()*+,-./0:;<=>?@A[\\]^_{|}~"`),
		"before 1970":              with("timestamp", `-2208988800000`),
		"earliest":                 with("timestamp", `-62135596800000`),
		"a day ahead":              with("timestamp", `1677758400000`),
		"time in text":             with("timestamp", `"2023-02-28T18:40:00Z"`),
		"two parts":                with("eventType", `"patient.enrolled"`),
		"hyphens and digits":       with("eventType", `"medication.prescription2.ready-for-pickup"`),
		"pre-release":              with("version", `"1.0.0-rc.1"`),
		"large version":            with("version", `"10.200.3000"`),
		"key of many bytes":        with("partitionKey", `"`+strings.Repeat("ä", 128)+`"`),
		"key with spaces":          with("partitionKey", `"PHARM123 12345-6789-10"`),
		"empty payload":            payload(`{}`),
		"empty member name":        payload(`{"":1}`),
		"surrogate pair":           payload(`{"a":"\ud83d\ude00"}`),
		"noncharacter":             payload(`{"a":"\uffff"}`),
		"any numbers":              payload(`{"a":[0,-0,1e5,1E-5,0.1,123456789012345678901234567890,1e999]}`),
		"62 arrays":                payload(`{"a":` + strings.Repeat("[", 62) + strings.Repeat("]", 62) + `}`),
		"many members":             payload(`{` + many(5000) + `}`),
		"white space":              "\r\n\t " + with() + "\n ",
		"same name on two levels":  payload(`{"a":{"a":{"a":1}},"b":{"a":1}}`),
		"same name in two objects": payload(`{"l":[{"a":1},{"a":1}]}`),
	} {
		e, warnings, err := event.Parse([]byte(text), clock())
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %v", name, warnings, err)
			continue
		}
		if warnings, err := e.Check(clock()); err != nil || len(warnings) > 0 {
			t.Errorf("%s: Check says %v %v", name, warnings, err)
		}
		again, _, err := event.Parse(e.AppendJSON(nil), clock())
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("%s: written and read again it is %+v, was %+v (%v)", name, again, e, err)
		}
	}
}

func TestTimes(t *testing.T) {
	for text, want := range map[string]int64{
		`0`:                                     0,
		`-1`:                                    -1,
		`"1970-01-01T00:00:00Z"`:                0,
		`"2023-02-28T18:40:00Z"`:                1677609600000,
		`"2023-02-28t18:40:00.5z"`:              1677609600500,
		`"2023-02-28T18:40:00.123456789Z"`:      1677609600123,
		`"2023-02-28T19:40:00+01:00"`:           1677609600000,
		`"2023-02-28T13:10:00-05:30"`:           1677609600000,
		`"1969-12-31T23:59:59.9999Z"`:           -1,
		`"2016-12-31T23:59:60Z"`:                1483228800000,
		`"2017-01-01T00:59:60.25+01:00"`:        1483228800250,
		`"2020-02-29T00:00:00Z"`:                1582934400000,
		`"0001-01-01T00:00:00Z"`:                -62135596800000,
		`"2023-02-28T18:40:00.00000000000000Z"`: 1677609600000,
	} {
		e, _, err := event.Parse([]byte(with("timestamp", text)), clock())
		if err != nil || e.Timestamp != want {
			t.Errorf("%s is %d, want %d (%v)", text, e.Timestamp, want, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	for name, c := range map[string]struct{ text, pointer, rule string }{
		"seconds":          {with("timestamp", `1677609600`), "/metadata/timestamp", "metadata.timestamp-unit"},
		"zero":             {with("timestamp", `0`), "/metadata/timestamp", "metadata.timestamp-unit"},
		"nanosecond text":  {with("timestamp", `"2023-02-28T18:40:00.0000001Z"`), "/metadata/timestamp", "metadata.timestamp-precision"},
		"larger than 64 K": {payload(`{"a":"` + strings.Repeat("x", 64<<10) + `"}`), "", "event.size"},
	} {
		_, warnings, err := event.Parse([]byte(c.text), clock())
		if err != nil || len(warnings) != 1 || warnings[0].Rule != c.rule || warnings[0].Pointer != c.pointer || !warnings[0].Warning {
			t.Errorf("%s: %v %v", name, warnings, err)
		}
	}
}

// A remedy that can be worked out is worked out.
func TestRemedies(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{with("eventType", `"Medication.Prescription.ReadyForPickup"`), "medication.prescription.ready-for-pickup"},
		{with("eventType", `"patient.record.was_created"`), "patient.record.was-created"},
		{with("eventType", `"patient/record/created"`), "patient.record.created"},
		{with("eventType", `"patient.Record.created"`), "in its entity part, which has an upper-case letter"},
		{with("eventType", `"patient."`), "in its action part, which is empty"},
		{with("eventType", `"a.b.c.d"`), "has 4 parts"},
		{with("version", `"v1.2"`), "write 1.2.0"},
		{with("version", `"1.2.3+4"`), "write 1.2.3"},
		{with("traceId", `"12345678-90AB-CDEF-1234-567890abcdef"`), "write 1234567890abcdef1234567890abcdef"},
		{with("timestamp", `1677609600000000`), "microseconds"},
		{with("timestamp", `1677609600000000000`), "nanoseconds"},
		{with("timestamp", `"2023-02-28T18:40:00"`), "add the offset"},
		{with("correlation_id", `"x"`), "it is called correlationId"},
		{with("tenant", `"x"`), "put it into the payload"},
		{"\ufeff" + with(), "byte order mark"},
	} {
		_, _, err := event.Parse([]byte(c.text), clock())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("the error does not say %q: %v", c.want, err)
		}
	}
}

func TestOptions(t *testing.T) {
	deep := payload(`{"a":[[[]]]}`) // six levels with the envelope
	for name, c := range map[string]struct {
		o    event.Options
		text string
		ok   bool
	}{
		"depth reached":  {event.Options{MaxDepth: 5}, deep, true},
		"depth passed":   {event.Options{MaxDepth: 4}, deep, false},
		"bytes reached":  {event.Options{MaxBytes: len(deep)}, deep, true},
		"bytes passed":   {event.Options{MaxBytes: len(deep) - 1}, deep, false},
		"depth bounded":  {event.Options{MaxDepth: 1 << 40}, payload(`{"a":` + strings.Repeat("[", 2000) + strings.Repeat("]", 2000) + `}`), false},
		"ahead reached":  {event.Options{MaxAhead: time.Hour}, with("timestamp", `"2023-03-01T13:00:00Z"`), true},
		"ahead passed":   {event.Options{MaxAhead: time.Hour}, with("timestamp", `"2023-03-01T13:00:00.001Z"`), false},
		"far in advance": {event.Options{MaxAhead: 1 << 62}, with("timestamp", `"2100-01-01T00:00:00Z"`), true},
	} {
		c.o.Now = func() time.Time { return at }
		e, _, err := event.Parse([]byte(c.text), &c.o)
		if (err == nil) != c.ok {
			t.Errorf("%s: Parse says %v", name, err)
		}
		if err != nil {
			continue
		}
		if _, err := e.Check(&c.o); err != nil {
			t.Errorf("%s: Check says %v", name, err)
		}
	}
}

func TestErrorNeverQuotesThePayload(t *testing.T) {
	const secret = "JANE-DOE-SECRET"
	for _, text := range []string{
		payload(`{"a":"` + secret + `","a":1}`), payload(`{"a":"` + secret + `\x"}`), payload(`"` + secret + `"`),
		payload(`{"a":"` + secret + "\xff" + `"}`), payload(`{"a":["` + secret + `"}`), payload(`{"a":` + secret + `}`),
		with("eventId", `"`+secret+` "`), with("partitionKey", `"`+secret+`\n"`), with("timestamp", `"`+secret+`"`),
	} {
		_, _, err := event.Parse([]byte(text), nil)
		var invalid *event.InvalidError
		if !errors.As(err, &invalid) {
			t.Fatalf("accepted: %s", text)
		}
		report, _ := json.Marshal(invalid)
		if strings.Contains(err.Error(), secret) || strings.Contains(string(report), secret) {
			t.Errorf("the error quotes a value: %v", err)
		}
	}
}

func TestFindingsAreBounded(t *testing.T) {
	var b strings.Builder
	for range 10_000 {
		b.WriteString(`,"x":1`)
	}
	_, _, err := event.Parse([]byte(payload(`{"x":1`+b.String()+`}`)), nil)
	var invalid *event.InvalidError
	if !errors.As(err, &invalid) || len(invalid.Findings) > 100 {
		t.Errorf("got %d findings", len(invalid.Findings))
	}
	if text := err.Error(); len(text) > 50_000 {
		t.Errorf("the error has %d bytes", len(text))
	}
	_, _, err = event.Parse([]byte(with(strings.Repeat("n", 100_000), "1")), nil)
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("a long member name is repeated in full")
	}
}
