package catalog_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/care"
)

// TestEveryMemberRoundTrips fills every member that a schema has, so that none depends on an example to be tried.
func TestEveryMemberRoundTrips(t *testing.T) {
	for _, e := range catalog.Entries() {
		t.Run(e.Type+"/"+e.Version, func(t *testing.T) {
			trip, ok := findRoundTrip(e.Type, e.Version)
			if !ok {
				t.Fatal("no definition; run go generate")
			}
			doc := document(t, e)
			full, err := json.Marshal(filled(doc, doc, ""))
			if err != nil {
				t.Fatal(err)
			}
			if err := compile(t, e).Validate(value(t, full)); err != nil {
				t.Errorf("the payload made for this test is not valid: %v", err)
			}
			checkRoundTrip(t, trip, full)
			newer, err := json.Marshal(filled(doc, doc, "a-word-of-next-year"))
			if err != nil {
				t.Fatal(err)
			}
			checkRoundTrip(t, trip, newer)
		})
	}
}

func TestKnown(t *testing.T) {
	if !care.ChannelSMS.Known() || care.Channel("pigeon").Known() || care.Channel("").Known() {
		t.Error("Known does not tell the words of the schema from others")
	}
}

// filled returns a value of the schema n with every member there. Closed sets get their last word, or word if it is
// given.
func filled(doc, n map[string]any, word string) any {
	if ref, ok := n["$ref"].(string); ok {
		target, _ := member(doc, "$defs")[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		return filled(doc, target, word)
	}
	if enum, ok := n["enum"].([]any); ok {
		if word != "" {
			return word
		}
		return enum[len(enum)-1]
	}
	switch n["type"] {
	case "object":
		out := map[string]any{}
		for name, m := range member(n, "properties") {
			out[name] = filled(doc, m.(map[string]any), word)
		}
		if values := member(n, "additionalProperties"); values != nil {
			out["any"] = filled(doc, values, word)
		}
		return out
	case "array":
		return []any{filled(doc, member(n, "items"), word)}
	case "integer":
		return max(3, number(n["minimum"]))
	case "number":
		return max(0.25, number(n["minimum"]))
	case "boolean":
		return false
	}
	switch n["format"] {
	case "date-time":
		return "2024-02-29T23:59:59.123456789-05:00"
	case "date":
		return "2024-02-29"
	case "uri":
		return "https://example.com/a"
	case "email":
		return "jane@example.com"
	}
	candidates := []string{"text <&> \u00e9", "2024-02", "jane@example.com", "12345", "1234567890", "OH", "1.0.0", "08:00"}
	pattern, _ := n["pattern"].(string)
	re := regexp.MustCompile(pattern)
	for _, c := range candidates {
		if re.MatchString(c) {
			return c
		}
	}
	return "no candidate fits " + pattern // and is reported as not valid
}

func number(v any) float64 {
	f, _ := v.(float64)
	return f
}
