package schema

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// everything has each keyword that the fast judge knows, and some that it does not.
const everything = `{"type":"object","required":["id"],"properties":{
	"id":{"type":"string","minLength":1,"maxLength":3},
	"enum":{"type":"string","enum":["a","é","�"]},
	"const":{"const":"x"},
	"pattern":{"type":"string","pattern":"^[a-zé�]*$"},
	"number":{"type":"number","minimum":-1.5,"maximum":10},
	"strict":{"type":"number","exclusiveMinimum":0,"exclusiveMaximum":0.3},
	"tiny":{"type":"number","minimum":1e-400},
	"integer":{"type":"integer","minimum":0},
	"any":{},
	"mixed":{"type":["null","string","integer"],"minimum":1},
	"usd":{"type":"number","format":"usd"},
	"date":{"type":"string","format":"date"},
	"instant":{"type":"string","format":"date-time"},
	"uuid":{"type":"string","format":"uuid"},
	"uri":{"type":"string","format":"uri"},
	"email":{"type":"string","format":"email"},
	"npi":{"type":"string","format":"npi"},
	"ndc":{"type":"string","format":"ndc"},
	"list":{"type":"array","minItems":2,"maxItems":3,"items":{"type":"integer"}},
	"map":{"type":"object","additionalProperties":{"type":"string","maxLength":2}},
	"free":{"type":"object"},
	"tree":{"$ref":"#/$defs/Tree"},
	"�":{"type":"integer"},
	"unique":{"type":"array","uniqueItems":true},
	"one":{"oneOf":[{"type":"string"},{"type":"integer"}]},
	"sized":{"type":"object","minProperties":1}},
	"$defs":{"Tree":{"type":"object","required":["v"],"properties":{"v":{"type":"integer"},"sub":{"type":"array","items":{"$ref":"#/$defs/Tree"}}}}}}`

// values are JSON texts, of which some only look like one.
var jsonTexts = []string{
	`""`, `"a"`, `"aa"`, `"aaaa"`, `"é"`, `"ééé"`, `"éééé"`, `"x"`, `"\u0061"`, `"\u00e9"`, `"\q"`, `"\u12"`, `"\ud800"`, "\"\xff\"", "\"\x01\"", `"\"`, `"�"`,
	`0`, `-0`, `1`, `7`, `-1.5`, `-1.50`, `-1.51`, `10`, `10.0`, `10.00000000000001`, `10.000000000000001`, `10.0000000000000001`, `0.3`, `0.30000000000000001`, `0.29999999999999999`, `0.2999999999999`,
	`1.0`, `1e0`, `1E2`, `1e-400`, `1e400`, `1e1001`, `1e999999999`, `01`, `1.`, `.5`, `-`, `+1`, `12345678901234567890`, `1.005`, `35.50`, `1e3`,
	`true`, `false`, `null`, `nul`, `[]`, `[1]`, `[1,2]`, `[1,2,3]`, `[1,2,3,4]`, `[1,]`, `[1.0]`, `["a"]`, `[1,1]`, `{}`, `{"a":"b"}`, `{"a":"bbb"}`, `{"a":1}`, `{"a":"b",}`,
	`{"v":1}`, `{"v":1,"w":1}`, `{"sub":[]}`, `{"v":1,"sub":[{"v":2,"sub":[{"v":3}]}]}`, `{"v":1,"sub":[{"v":"x"}]}`, `{"\u0076":1}`, "{\"v\":1,\"\xff\":1}",
	`"2024-02-29"`, `"2023-02-29"`, `"2023-03-01T10:00:00Z"`, `"2023-03-01T10:00:00.5+05:30"`, `"2023-03-01T24:00:00Z"`, `"2023-03-01T10:00:00+24:00"`, `"2016-12-31T23:59:60Z"`, `"0000-01-01"`,
	`"2f5ea4e1-6b1c-4f0e-9b1a-3d2c1b0a9f8e"`, `"2f5ea4e1-6b1c-4f0e-9b1a-3d2c1b0a9f8"`, `"http://hl7.org/fhir"`, `"urn:x"`, `"http://[::1"`, `"http://a b"`, `"//x"`, `"a@example.org"`, `"a@@b"`, `"1234567890"`, `"12345-6789-10"`,
}

// TestFastAgreesOnEverything draws payloads of every keyword, alone and together.
func TestFastAgreesOnEverything(t *testing.T) {
	c := mustCompile(t, everything)
	var names []string
	for name := range c.readers.doc["properties"].(map[string]any) {
		names = append(names, name)
	}
	accepted := map[string]int{}
	for _, name := range append(slices.Clone(names), "other", "\xff") {
		for _, value := range jsonTexts {
			payload := []byte(`{"id":"a","` + name + `":` + value + `}`)
			if name == "id" {
				payload = []byte(`{"id":` + value + `}`)
			}
			if agree(t, c, payload) {
				accepted[name]++
				if !json.Valid(payload) {
					t.Errorf("not JSON, and accepted: %q", payload)
				}
			}
		}
	}
	for _, name := range names {
		// These are beyond the fast judge.
		doubtful := name == "tiny" || name == "unique" || name == "one" || name == "sized" || name == "email"
		if doubtful != (accepted[name] == 0) {
			t.Errorf("%s: %d values accepted by the fast judge", name, accepted[name])
		}
	}
	names = append(names, "other", "é", `\u0069d`, "\xff", "")
	rapid.Check(t, func(t *rapid.T) {
		space := rapid.SampledFrom([]string{"", " ", "\t\r\n", "\v"})
		var b strings.Builder
		b.WriteString(space.Draw(t, "space") + `{`)
		for i := range rapid.IntRange(0, 5).Draw(t, "members") {
			if i == 0 {
				b.WriteString(`"id":"a"`)
				continue
			}
			b.WriteString(`,`)
			b.WriteString(space.Draw(t, "space") + `"` + rapid.SampledFrom(names).Draw(t, "name") + `"` + space.Draw(t, "space") + ":" + rapid.SampledFrom(jsonTexts).Draw(t, "value"))
		}
		b.WriteString(`}` + rapid.SampledFrom([]string{"", " ", "x", "{}"}).Draw(t, "end"))
		payload := []byte(b.String())
		reference(t, c, payload)
	})
}

// reference fails when the fast judge accepts what the library refuses, be it because it is no JSON.
func reference(t interface{ Fatalf(string, ...any) }, c *compiled, payload []byte) {
	for _, f := range []*form{&c.writers, &c.readers} {
		if !f.fast.accepts(payload) {
			continue
		}
		slow := form{full: f.full, doc: f.doc}
		if found := slow.check(payload); len(found) > 0 {
			t.Fatalf("the fast judge accepts what the library refuses: %v\n%q", found, payload)
		}
	}
}

// FuzzFastAgainstReference tries any text on a schema of every keyword.
func FuzzFastAgainstReference(f *testing.F) {
	c := mustCompile(f, everything)
	for name := range c.readers.doc["properties"].(map[string]any) {
		for i, value := range jsonTexts {
			if (i+len(name))%4 == 0 {
				f.Add([]byte(`{"id":"a","` + name + `":` + value + `}`))
			}
		}
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		_, _ = c.closed(payload), c.open(payload) // must not panic on any text
		reference(t, c, payload)
	})
}

// TestFastIsDeep: values of a recursive definition are judged down to the depth that an envelope may have, and what is
// deeper goes to the library.
func TestFastIsDeep(t *testing.T) {
	c := mustCompile(t, everything)
	nested := func(depth int, end string) []byte {
		return []byte(`{"id":"a","tree":` + strings.Repeat(`{"v":1,"sub":[`, depth) + `{"v":` + end + `}` + strings.Repeat(`]}`, depth) + `}`)
	}
	if !c.writers.fast.accepts(nested(20, "1")) {
		t.Error("20 levels are not accepted by the fast judge")
	}
	for _, depth := range []int{1, 20, 40, 500} {
		if found := c.closed(nested(depth, "1")); len(found) > 0 {
			t.Errorf("depth %d: %v", depth, found)
		}
		if found := c.closed(nested(depth, `"x"`)); len(found) != 1 || found[0].Rule != "type" {
			t.Errorf("depth %d: %v", depth, found)
		}
	}
}

// TestFastAllocatesNothing: the way into the store has no room for garbage.
func TestFastAllocatesNothing(t *testing.T) {
	doc := catalogDocs(t)["../catalog/schemas/medication.prescription.filled/2.0.0.json"]
	c := mustCompile(t, string(doc))
	payload := []byte(examplesOf(t, doc)[0])
	if n := testing.AllocsPerRun(100, func() { _ = c.closed(payload); _ = c.open(payload) }); n > 0 {
		t.Errorf("%v allocations per payload", n)
	}
}

// TestIdentifierVectors: published identifiers. The check digit of an NPI is not asked for.
func TestIdentifierVectors(t *testing.T) {
	var v struct {
		NPI struct{ Valid, Invalid []string }
		NDC struct {
			To11    [][2]string
			Invalid []string
		}
		NCPDP struct{ Examples []string } `json:"ncpdpId"`
	}
	if err := json.Unmarshal(testData(t, "prior-auth/id-vectors.json"), &v); err != nil {
		t.Fatal(err)
	}
	checked := 0
	judge := func(format, text string, want bool) {
		t.Helper()
		checked++
		c := mustCompile(t, `{"type":"object","properties":{"v":{"type":"string","format":"`+format+`"}}}`)
		payload := []byte(`{"v":"` + text + `"}`)
		if found := c.closed(payload); (len(found) == 0) != want {
			t.Errorf("%s %q: %v, want accepted %v", format, text, found, want)
		}
		agree(t, c, payload)
	}
	for _, text := range v.NPI.Valid {
		judge("npi", text, true)
	}
	for _, text := range v.NPI.Invalid {
		judge("npi", text, len(text) == 10 && !strings.ContainsFunc(text, func(r rune) bool { return r < '0' || r > '9' }))
	}
	for _, pair := range v.NDC.To11 {
		judge("ndc", pair[0], true)
		judge("ndc", pair[1], true)
	}
	for _, text := range v.NDC.Invalid {
		judge("ndc", text, false)
	}
	for _, text := range v.NCPDP.Examples {
		judge("ncpdp-id", text, true)
	}
	if checked < 25 {
		t.Errorf("only %d identifiers", checked)
	}
}
