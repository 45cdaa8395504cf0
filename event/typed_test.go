package event_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/event"
)

type filled struct {
	PrescriptionID string        `json:"prescriptionId"`
	Quantity       int           `json:"quantity,omitempty"`
	FilledAt       time.Time     `json:"filledAt,omitzero"`
	Lines          []line        `json:"lines"`
	Wait           time.Duration `json:"wait,omitempty"`
}

type line struct {
	Price float64 `json:"price"`
}

var filledV1 = event.Define[filled]("medication.prescription.filled", "1.0.0")

func TestDecode(t *testing.T) {
	want := filled{PrescriptionID: "RX1", Quantity: 30, FilledAt: at, Lines: []line{{Price: 9.5}}, Wait: time.Second}
	e := filledV1.New("pharmacy-service", want)
	e.ID, e.CorrelationID = "e-1", "c-1"
	e = e.At(at)
	if _, err := e.Check(clock()); err != nil {
		t.Fatal(err)
	}
	of, err := filledV1.Decode(e)
	if err != nil || of.Metadata != e.Metadata || of.Payload.PrescriptionID != "RX1" || of.Payload.Wait != time.Second || !of.Payload.FilledAt.Equal(at) {
		t.Fatalf("%+v %v", of, err)
	}
	back, err := of.Event()
	if err != nil || !same(back, e) {
		t.Errorf("it came back as %s (%v)", back.AppendJSON(nil), err)
	}
	text, err := json.Marshal(of)
	if err != nil {
		t.Fatal(err)
	}
	var read event.Of[filled]
	if err := json.Unmarshal(text, &read); err != nil || read.Metadata != of.Metadata || read.Payload.Quantity != 30 {
		t.Errorf("through JSON it came back as %+v (%v)", read, err)
	}
}

func TestDecodeErrors(t *testing.T) {
	const secret = "JANE-DOE-SECRET"
	for payload, pointer := range map[string]string{
		`{"quantity":"` + secret + `"}`:                            "/payload/quantity",
		`{"filledAt":"` + secret + `"}`:                            "/payload/filledAt",
		`{"lines":[{"price":1},{"price":"` + secret + `"}]}`:       "/payload/lines/1/price",
		`{"quantity":1.5}`:                                         "/payload/quantity",
		`{"lines":{}}`:                                             "/payload/lines",
		`"` + secret + `"`:                                         "/payload",
		`{"quantity":99999999999999999999,"x":"` + secret + `"}`:   "/payload/quantity",
		`{"a":1,"prescriptionId":["` + secret + `"],"quantity":1}`: "/payload/prescriptionId",
	} {
		e := parse(t, with())
		e.Payload = json.RawMessage(payload)
		_, err := filledV1.Decode(e)
		var decode *event.DecodeError
		if !errors.As(err, &decode) || decode.Pointer != pointer || decode.Type != e.Type || decode.Version != e.Version {
			t.Errorf("%s: %v", payload, err)
			continue
		}
		for _, part := range []string{pointer, e.Type, e.Version, e.ID} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the error does not name %s: %v", part, err)
			}
		}
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the error quotes the value: %v", err)
		}
		if errors.Unwrap(err) == nil {
			t.Errorf("%s: no cause", payload)
		}
	}
	if _, err := event.Define[filled]("patient.enrolled", "1.0.0").Decode(parse(t, with())); !errors.Is(err, event.ErrOtherType) {
		t.Errorf("an event of another type: %v", err)
	}
	e := parse(t, with())
	e.Payload = json.RawMessage(`{"PRESCRIPTIONID":"x","Quantity":1}`)
	if of, err := filledV1.Decode(e); err != nil || of.Payload.PrescriptionID != "" || of.Payload.Quantity != 0 {
		t.Errorf("names in another case are taken: %+v %v", of.Payload, err)
	}
}

// TestIntegersAsNumbers: what JSON Schema takes for an integer is read as one.
func TestIntegersAsNumbers(t *testing.T) {
	type counted struct {
		Count int64            `json:"count"`
		Next  *int64           `json:"next,omitzero"`
		Days  map[string]int32 `json:"days"`
		Price float64          `json:"price"`
		Text  string           `json:"text"`
	}
	countedV1 := event.Define[counted]("medication.prescription.filled", "2.0.0")
	e := parse(t, with())
	e.Payload = json.RawMessage(`{"count":30.0,"next":3E1,"days":{"a":7.000,"b":-0.0},"price":1.5,"text":"x"}`)
	of, err := countedV1.Decode(e)
	if p := of.Payload; err != nil || p.Count != 30 || *p.Next != 30 || p.Days["a"] != 7 || p.Days["b"] != 0 || p.Price != 1.5 || p.Text != "x" {
		t.Errorf("%+v, %v", of.Payload, err)
	}
	for payload, pointer := range map[string]string{
		`{"count":30.5}`:                    "/payload/count",
		`{"count":1e30}`:                    "/payload/count",
		`{"count":9007199254740993.0}`:      "/payload/count",
		`{"count":1e999999999}`:             "/payload/count",
		`{"days":{"a":3000000000}}`:         "/payload/days/a",
		`{"count":1.0,"next":"30"}`:         "/payload/next",
		`{"count":1.0,"days":{"a":[1,2]}}`:  "/payload/days/a",
		`{"count":1.0,"text":{"a":[1,2]}} `: "/payload/text",
	} {
		e.Payload = json.RawMessage(payload)
		_, err := countedV1.Decode(e)
		var decode *event.DecodeError
		if !errors.As(err, &decode) || decode.Pointer != pointer {
			t.Errorf("%s: %v, want an error at %s", payload, err, pointer)
		}
	}
	e.Payload = json.RawMessage(`{"count":1.0,"next":null}`)
	if of, err := countedV1.Decode(e); err != nil || of.Payload.Count != 1 || of.Payload.Next != nil {
		t.Errorf("%+v, %v", of.Payload, err)
	}
}

func TestPayloadThatCannotBeEncoded(t *testing.T) {
	for want, e := range map[string]event.Event{
		"float64":  event.Define[line]("a.b", "1.0.0").New("s", line{Price: math.NaN()}),
		"chan int": event.Define[chan int]("a.b", "1.0.0").New("s", nil),
	} {
		_, err := e.Check(nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "payload.encode") {
			t.Errorf("Check says %v", err)
		}
		if _, err := json.Marshal(e); err == nil || !strings.Contains(err.Error(), "payload.encode") {
			t.Errorf("json.Marshal says %v", err)
		}
	}
	if _, err := (event.Of[chan int]{}).Event(); err == nil {
		t.Error("a channel became an event")
	}
}

func TestCheckReportsEverything(t *testing.T) {
	e := event.Event{Metadata: event.Metadata{Type: "X", TraceID: "y"}, Payload: []byte(`[1]`)}
	_, err := e.Check(nil)
	got := rules(t, err)
	if len(got) != 8 { // payload, id, type, source, correlation, timestamp, version, trace
		t.Errorf("%d findings: %v", len(got), err)
	}
}
