package event_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/carebus/carebus/event"
)

func seeds(f *testing.F) {
	f.Add([]byte(sample))
	for i, c := range refusals() {
		if i%3 == 0 && len(c.text) < 4096 {
			f.Add([]byte(c.text))
		}
	}
}

// FuzzParse: no text makes Parse panic; what it accepts is strict JSON, passes Check, and comes back equal through
// every form; what it refuses as JSON a strict parser refuses too.
func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, _, err := event.Parse(data, clock())
		strict := jsontext.Value(data).IsValid()
		if err != nil {
			for _, rule := range rules(t, err) {
				switch rule {
				case "json.syntax", "json.duplicate", "json.utf8", "json.trailing":
					if strict {
						t.Fatalf("a strict parser accepts what we refuse: %v", err)
					}
				}
			}
			return
		}
		if !strict {
			t.Fatalf("a strict parser refuses what we accept: %s", data)
		}
		if _, err := e.Check(clock()); err != nil {
			t.Fatalf("Check refuses what Parse accepts: %v", err)
		}
		written := e.AppendJSON(nil)
		if len(written) > len(data)+64 { // a time in text may be shorter than its milliseconds
			t.Fatalf("%d bytes became %d", len(data), len(written))
		}
		again, _, err := event.Parse(written, clock())
		if err != nil || !same(again, e) {
			t.Fatalf("%s came back as %s (%v)", written, again.AppendJSON(nil), err)
		}
		roundTrips(t, e)
	})
}

// FuzzCloudEvent: no text makes the CloudEvents readers panic, and what they accept comes back equal.
func FuzzCloudEvent(f *testing.F) {
	seeds(f)
	f.Add(event.AppendCloudEvent(nil, parse(f, sample)))
	f.Add([]byte(withAttributes("subject", `"x"`, "traceparent", `"00-1234567890abcdef1234567890abcdef-1234567890abcdef-01"`)))
	f.Add([]byte("[" + withAttributes() + "," + withAttributes("id", "") + "]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if items, err := event.ParseCloudEventBatch(data, clock()); err == nil {
			for _, item := range items {
				if item.Err == nil {
					roundTrips(t, item.Event)
				}
			}
		}
		e, _, err := event.ParseCloudEvent(data, clock())
		if err != nil {
			rules(t, err)
			return
		}
		if !jsontext.Value(data).IsValid() {
			t.Fatalf("a strict parser refuses what we accept: %s", data)
		}
		if _, err := e.Check(clock()); err != nil {
			t.Fatalf("Check refuses what ParseCloudEvent accepts: %v", err)
		}
		roundTrips(t, e)
	})
}
