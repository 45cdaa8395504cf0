package schema

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carebus/carebus/event"
)

// TestHugeNumbers: the library panics on some of these where a bound stands, and takes 20 ms for each of the others.
func TestHugeNumbers(t *testing.T) {
	c := mustCompile(t, `{"type":"object","properties":{
		"bounded":{"type":"number","minimum":0},"whole":{"type":"integer"},"step":{"type":"number","multipleOf":0.01},
		"listed":{"enum":[1,2]},"list":{"type":"array","uniqueItems":true,"items":{"type":"number","minimum":0}},
		"map":{"type":"object","additionalProperties":{"type":"integer"}}}}`)
	for _, number := range []string{"1e10000000", "1e900000", "-1e1001", "1e-900000", "1E+9999999999", strings.Repeat("9", maxNumberText+1)} {
		for name, pointer := range map[string]string{"bounded": "/bounded", "whole": "/whole", "step": "/step", "listed": "/listed"} {
			found := c.closed([]byte(`{"` + name + `":` + number + `}`))
			if len(found) != 1 || found[0].Pointer != pointer || found[0].Rule != "number" || found[0].Remedy == "" {
				t.Errorf("%s %.20s: %v", name, number, found)
			}
			if found := c.open([]byte(`{"` + name + `":` + number + `}`)); len(found) != 1 {
				t.Errorf("read: %s %.20s: %v", name, number, found)
			}
		}
		if found := c.closed([]byte(`{"map":{"Jane":` + number + `}}`)); len(found) != 1 || found[0].Pointer != "/map/*" {
			t.Errorf("map %.20s: %v", number, found)
		}
	}
	many := `{"list":[` + strings.Repeat("1e900000,", 100_000) + `1]}` // half an hour, if each were compared
	if found := c.closed([]byte(many)); len(found) != maxFindings+1 {
		t.Errorf("%d findings", len(found))
	}
	for _, number := range []string{"1e308", "1e1000", "0.01", "-0"} {
		if found := c.closed([]byte(`{"map":{},"bounded":` + strings.TrimPrefix(number, "-") + `}`)); len(found) > 0 {
			t.Errorf("%s: %v", number, found)
		}
	}
}

// TestMeantAlternative: of several alternatives, what is wrong in the one that is meant is said.
func TestMeantAlternative(t *testing.T) {
	c := mustCompile(t, `{"type":"object","properties":{
		"n":{"oneOf":[
			{"type":"object","required":["k","a"],"properties":{"k":{"const":"x"},"a":{"type":"string"}}},
			{"type":"object","required":["k"],"properties":{"k":{"const":"y"},"b":{"type":"integer"}}}]},
		"nullable":{"anyOf":[{"type":"null"},{"type":"object","required":["v"],"properties":{"v":{"type":"integer"}}}]},
		"either":{"oneOf":[{"type":"integer","minimum":5},{"type":"integer","maximum":-5}]},
		"both":{"oneOf":[{"type":"integer"},{"type":"number"}]}}}`)
	for payload, want := range map[string]string{
		`{"n":{"k":"x","a":1}}`:         "/n/a type",
		`{"n":{"k":"x"}}`:               "/n/a required",
		`{"n":{"k":"y","b":"1"}}`:       "/n/b type",
		`{"n":{"k":"z"}}`:               "/n/k const",
		`{"n":{"k":"y","a":"1"}}`:       "/n/a unknown-member",
		`{"n":{"k":"y","c":"1"}}`:       "/n/c unknown-member",
		`{"nullable":{}}`:               "/nullable/v required",
		`{"nullable":{"v":1,"V":2}}`:    "/nullable/V unknown-member",
		`{"either":0}`:                  "/either oneOf",
		`{"both":1}`:                    "/both oneOf",
		`{"n":{"k":"x","a":"t","b":1}}`: "/n/b unknown-member",
	} {
		found := c.closed([]byte(payload))
		if len(found) != 1 || found[0].Pointer+" "+found[0].Rule != want {
			t.Errorf("%s: %v; want %s", payload, found, want)
		}
		agree(t, c, []byte(payload))
	}
}

// TestMapKeysAreMasked: what the sender chose as a key is not shown, wherever it stands.
func TestMapKeysAreMasked(t *testing.T) {
	c := mustCompile(t, `{"type":"object","properties":{
		"both":{"items":{"type":"string"},"additionalProperties":{"type":"string"}},
		"names":{"propertyNames":{"pattern":"^[a-z]+$"}},
		"deep":{"type":"object","additionalProperties":{"type":"object","required":["v"],"properties":{"v":{"type":"array","items":{"type":"integer"}}}}},
		"pattern":{"type":"object","patternProperties":{"^J":{"type":"object","properties":{"v":{"type":"integer"}}}}},
		"tuple":{"type":"array","prefixItems":[{"type":"string"}],"items":false},
		"some":{"type":"array","contains":{"const":1}}}}`)
	for payload, want := range map[string]string{
		`{"both":{"Jane":1}}`:                 "/both/* type",
		`{"both":[1]}`:                        "/both/0 type",
		`{"names":{"Jane":1}}`:                "/names/* propertyNames",
		`{"deep":{"Jane":{}}}`:                "/deep/*/v required",
		`{"deep":{"Jane":{"v":[1,"x"]}}}`:     "/deep/*/v/1 type",
		`{"deep":{"Jane":{"v":[1],"vv":1}}}`:  "/deep/*/vv unknown-member",
		`{"pattern":{"Jane":{"v":"x"}}}`:      "/pattern/*/v type",
		`{"tuple":["a","Jane"]}`:              "/tuple/1 items",
		`{"some":["Jane","Joan"]}`:            "/some contains",
		`{"deep":{"Jane":{"v":["Jane"]}}}`:    "/deep/*/v/0 type",
		`{"deep":{"Jane":"Jane"},"some":[1]}`: "/deep/* type",
	} {
		found := c.closed([]byte(payload))
		if len(found) != 1 || found[0].Pointer+" "+found[0].Rule != want {
			t.Errorf("%s: %v; want %s", payload, found, want)
		}
		if strings.Contains(fmt.Sprint(found), "Jane") {
			t.Errorf("%s: a key is shown: %v", payload, found)
		}
	}
}

// TestSuggestions: only a name that is near is suggested.
func TestSuggestions(t *testing.T) {
	c := mustCompile(t, `{"type":"object","properties":{"patientId":{"type":"string"},"n":{"type":"string"}}}`)
	for name, suggested := range map[string]bool{"patientID": true, "patinetId": true, "yy": false, "comment": false} {
		found := c.closed([]byte(`{"` + name + `":"v"}`))
		if len(found) != 1 || strings.Contains(found[0].Remedy, "did you mean") != suggested {
			t.Errorf("%s: %v", name, found)
		}
	}
}

// TestClosingThroughReferences: an object is closed over what it refers to, through however many definitions.
func TestClosingThroughReferences(t *testing.T) {
	c := mustCompile(t, `{"type":"object","allOf":[{"$ref":"#/$defs/A"}],"$defs":{"A":{"$ref":"#/$defs/B"},"B":{"properties":{"x":{}}}}}`)
	if found := c.closed([]byte(`{"x":1}`)); len(found) > 0 {
		t.Error(found)
	}
	if found := c.closed([]byte(`{"y":1}`)); len(found) != 1 || found[0].Pointer != "/y" {
		t.Error(found)
	}
	if found := c.open([]byte(`{"y":1}`)); len(found) > 0 {
		t.Error(found)
	}
}

// TestAllRefusalsTogether: a document hears everything at once.
func TestAllRefusalsTogether(t *testing.T) {
	_, err := compileDoc([]byte(`{"$schema":"http://json-schema.org/draft-07/schema#","type":"object","phi":true,
		"properties":{"a":{"type":"strin"},"b":{"minLength":-1,"format":"ssn"},"c":{"minimum":1e10000000},"d":{"$id":"x","$ref":"#/$defs/Loop"},"e":{"items":7}},
		"additionalProperties":false,
		"$defs":{"Loop":{"allOf":[{"$ref":"#/$defs/Loop"}]},"List":{"type":"object","properties":{"next":{"$ref":"#/$defs/List"}}},"A(branch)":{}}}`))
	var invalid *event.InvalidError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	var pointers []string
	for _, f := range invalid.Findings {
		pointers = append(pointers, f.Pointer)
		if f.Message == "" || f.Remedy == "" || !strings.HasPrefix(f.Rule, "schema.") {
			t.Errorf("%+v", f)
		}
	}
	want := "/$defs/A(branch) /$defs/Loop /$schema /additionalProperties /phi /properties/a/type /properties/b/format /properties/b/minLength /properties/c/minimum /properties/d/$id /properties/e/items"
	if got := strings.Join(pointers, " "); got != want {
		t.Errorf("findings at\n%s, want\n%s", got, want)
	}
}

// TestManyFaults: the report of a payload that is wrong everywhere is short, the same every time, and says how many more.
func TestManyFaults(t *testing.T) {
	c := mustCompile(t, `{"type":"object","properties":{"id":{"type":"string"},"list":{"type":"array","items":{"$ref":"#/$defs/N"}},
		"map":{"type":"object","additionalProperties":{"$ref":"#/$defs/N"}}},"allOf":[{"$ref":"#/$defs/N"}],
		"$defs":{"N":{"type":"object","properties":{"name":{"type":"string"}}}}}`)
	const n = 3 * maxFaults
	members := func(value string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"m%06d":%s`, i, value)
		}
		return "{" + b.String()[1:] + "}"
	}
	for name, test := range map[string]struct {
		payload, first, last string
		count                int
	}{
		"unknown members": {members("1"), "/m000000", "and 2950 more", maxFindings + 1},
		"items":           {`{"list":[` + strings.Repeat("1,", n-1) + `1]}`, "/list/0", "and 2950 more", maxFindings + 1},
		"unknown in list": {`{"list":[` + strings.Repeat(`{"w":1},`, n-1) + `{"w":1}]}`, "/list/0/w", "and 2950 more", maxFindings + 1},
		"keys of a map":   {`{"map":` + members("1") + `}`, "/map/*", "and 2000 more", 2},
	} {
		found := c.closed([]byte(test.payload))
		if len(found) != test.count || found[0].Pointer != test.first || found[len(found)-1].Message != test.last {
			t.Errorf("%s: %d findings, from %v to %v", name, len(found), found[0], found[len(found)-1])
		}
		for range 3 {
			if again := c.closed([]byte(test.payload)); !slices.Equal(found, again) {
				t.Errorf("%s: another report the next time", name)
			}
		}
	}
}
