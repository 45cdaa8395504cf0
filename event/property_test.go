package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"pgregory.net/rapid"

	"github.com/carebus/carebus/event"
)

// rules returns the rules of an error that must be an *event.InvalidError, warnings left out.
func rules(t testing.TB, err error) []string {
	t.Helper()
	var invalid *event.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatalf("not an InvalidError: %v", err)
	}
	var all []string
	for _, f := range invalid.Findings {
		if !f.Warning {
			all = append(all, f.Rule)
		}
	}
	if len(all) == 0 {
		t.Fatalf("refused without a reason: %v", err)
	}
	return all
}

func genEvent() *rapid.Generator[event.Event] {
	optional := func(g *rapid.Generator[string]) *rapid.Generator[string] { return rapid.OneOf(rapid.Just(""), g) }
	id := rapid.StringMatching(`[!-~]{1,128}`)
	key := rapid.StringMatching(`[ -~äéß日本😀]{1,40}`)
	trace := rapid.StringMatching(`[0-9a-f]{31}[1-9a-f]`)
	value := genValue(3)
	return rapid.Custom(func(t *rapid.T) event.Event {
		payload := map[string]any{}
		for _, name := range rapid.SliceOfNDistinct(rapid.String(), 0, 20, strings.ToLower).Draw(t, "names") {
			payload[name] = value.Draw(t, "value")
		}
		var raw bytes.Buffer
		encoder := json.NewEncoder(&raw)
		encoder.SetEscapeHTML(rapid.Bool().Draw(t, "escape"))
		if rapid.Bool().Draw(t, "indent") {
			encoder.SetIndent("", "\t")
		}
		if err := encoder.Encode(payload); err != nil {
			t.Fatal(err)
		}
		return event.Event{
			Metadata: event.Metadata{
				ID: id.Draw(t, "id"), Source: id.Draw(t, "source"), CorrelationID: id.Draw(t, "correlation"),
				Type:         rapid.StringMatching(`[a-z][a-z0-9]{0,9}(-[a-z0-9]{1,5})?\.[a-z]{1,9}(\.[a-z]{1,9})?`).Draw(t, "type"),
				CausationID:  optional(id).Draw(t, "causation"),
				Timestamp:    rapid.Int64Range(-62135596800000, at.UnixMilli()).Filter(func(v int64) bool { return v != 0 }).Draw(t, "timestamp"),
				Version:      rapid.StringMatching(`(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})(-[a-z]{1,5}(\.[1-9][0-9]{0,3})?)?`).Draw(t, "version"),
				TraceID:      optional(trace).Draw(t, "trace"),
				PartitionKey: optional(key).Draw(t, "key"),
			},
			Payload: bytes.TrimSpace(raw.Bytes()),
		}
	})
}

func genValue(depth int) *rapid.Generator[any] {
	leaf := rapid.OneOf(
		rapid.Just[any](nil), rapid.Map(rapid.Bool(), anyOf[bool]), rapid.Map(rapid.String(), anyOf[string]),
		rapid.Map(rapid.Int64(), anyOf[int64]), rapid.Map(rapid.Float64(), anyOf[float64]),
	)
	if depth == 0 {
		return leaf
	}
	inner := genValue(depth - 1)
	return rapid.OneOf(leaf,
		rapid.Map(rapid.SliceOfN(inner, 0, 4), anyOf[[]any]),
		rapid.Map(rapid.MapOfN(rapid.String(), inner, 0, 4), anyOf[map[string]any]))
}

func anyOf[T any](v T) any { return v }

// Every valid event passes Check and comes back equal through the native form and every CloudEvents form.
func TestRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := genEvent().Draw(t, "event")
		if !jsontext.Value(e.Payload).IsValid() {
			t.Skip("the payload has two names that differ in bad UTF-8 only")
		}
		if _, err := e.Check(clock()); err != nil {
			t.Fatal(err)
		}
		text := e.AppendJSON(nil)
		got, _, err := event.Parse(text, clock())
		if err != nil || !same(got, e) {
			t.Fatalf("%s came back as %s (%v)", text, got.AppendJSON(nil), err)
		}
		roundTrips(t, e)
		var unmarshalled event.Event
		marshalled, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(marshalled, &unmarshalled); err != nil || unmarshalled.Metadata != e.Metadata {
			t.Fatalf("through encoding/json it came back as %+v (%v)", unmarshalled.Metadata, err)
		}
		var m event.Metadata
		marshalled, err = json.Marshal(e.Metadata)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(marshalled, &m); err != nil || m != e.Metadata {
			t.Fatalf("the metadata came back as %+v (%v)", m, err)
		}
	})
}

// One changed byte never makes Parse and a strict parser disagree, and never makes anything panic.
func TestDamagedText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(sample)
		for range rapid.IntRange(1, 3).Draw(t, "changes") {
			text[rapid.IntRange(0, len(text)-1).Draw(t, "place")] = rapid.Byte().Draw(t, "byte")
		}
		_, _, err := event.Parse(text, clock())
		if strict := jsontext.Value(text).IsValid(); err == nil && !strict {
			t.Fatalf("a strict parser refuses what we accept")
		} else if err != nil && strict {
			var invalid *event.InvalidError
			errors.As(err, &invalid)
			for _, f := range invalid.Findings {
				if strings.HasPrefix(f.Rule, "json.") {
					t.Fatalf("a strict parser accepts what we refuse: %v", f)
				}
			}
		}
	})
}
