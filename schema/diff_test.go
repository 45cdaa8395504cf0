package schema

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestDiff: changes that the rule vectors do not have. Each is written as the rules it is found to be, with their places.
func TestDiff(t *testing.T) {
	tagged := func(extra string) string {
		return `{"type":"object","required":["kind"],"properties":{"kind":{"type":"string"}},"oneOf":[
			{"required":["pill"],"properties":{"kind":{"const":"pill"},"pill":{"type":"object","properties":{"mg":{"type":"number"}` + extra + `}}}},
			{"required":["gel"],"properties":{"kind":{"const":"gel"},"gel":{"type":"string"}}}]}`
	}
	tree := func(extra string) string {
		return `{"type":"object","properties":{"root":{"$ref":"#/$defs/Node"}},"$defs":{"Node":{"type":"object","properties":{
			"name":{"type":"string"},"children":{"type":"array","items":{"$ref":"#/$defs/Node"}}` + extra + `}}}}`
	}
	object := func(members string) string { return `{"type":"object"` + members + `}` }
	a := func(schema string) string { return object(`,"properties":{"a":` + schema + `}`) }
	condition := `,"if":{"properties":{"a":{"const":"x"}},"required":["a"]},"then":{"required":["b"]}`
	for _, c := range []struct {
		name, old, new string
		want           string // rule@place, …; "" for no change
		bump           Bump
	}{
		{"property added to a branch of a tagged union", tagged(""), tagged(`,"ml":{"type":"number"}`),
			"property-added@/oneOf/0/properties/pill/properties/ml", Minor},
		{"property removed from a branch", tagged(`,"ml":{"type":"number"}`), tagged(""), "one-of-tightened@", Major},
		{"property added to a recursive schema", tree(""), tree(`,"note":{"type":"string"}`), "property-added@/$defs/Node/properties/note", Minor},
		{"type changed in a recursive schema", tree(`,"note":{"type":"string"}`), tree(`,"note":{"type":"boolean"}`), "type-changed@/$defs/Node/properties/note", Major},
		// Whether a condition about members is met may depend on how a closed reading treats it: that is not relied on.
		{"property added beside a condition about members", object(`,"properties":{"a":{"type":"string"},"b":{"type":"string"}}` + condition),
			object(`,"properties":{"a":{"type":"string"},"b":{"type":"string"},"c":{"type":"string"}}` + condition), "property-added@/properties/c", Minor},
		{"allOf taken apart", object(`,"allOf":[{"properties":{"a":{"type":"string"}}}]`), a(`{"type":"string"}`), "", None},
		{"definition used twice, changed once",
			`{"type":"object","properties":{"a":{"$ref":"#/$defs/D"},"b":{"$ref":"#/$defs/D"}},"$defs":{"D":{"type":"string"}}}`,
			`{"type":"object","properties":{"a":{"$ref":"#/$defs/D"},"b":{"$ref":"#/$defs/D"}},"$defs":{"D":{"type":"string","maxLength":3}}}`,
			"max-length-tightened@/$defs/D", Major},
		{"required added and property removed", object(`,"properties":{"a":{"type":"string"},"b":{"type":"string"}}`),
			object(`,"required":["b"],"properties":{"b":{"type":"string"}}`), "property-removed@/properties/a, required-added@/properties/b", Major},
		{"default", a(`{"type":"integer","default":1}`), a(`{"type":"integer","default":2}`), "default-changed@/properties/a/default", Minor},
		{"deprecated", a(`{"type":"integer"}`), a(`{"type":"integer","deprecated":true}`), "deprecated@/properties/a/deprecated", Minor},
		{"phi raised", a(`{"type":"string"}`), a(`{"type":"string","x-phi":true}`), "phi-raised@/properties/a", Minor},
		{"phi lowered", a(`{"type":"string","x-phi":true}`), a(`{"type":"string"}`), "phi-lowered@/properties/a", Major},
		{"phi kept through a reference", a(`{"type":"string","x-phi":true}`),
			`{"type":"object","properties":{"a":{"$ref":"#/$defs/N"}},"$defs":{"N":{"type":"string","x-phi":true}}}`, "", None},
		{"entity id", object(`,"x-entity-id":"/a"`), object(`,"x-entity-id":"/b"`), "entity-id-changed@/x-entity-id", Major},
		{"subject id added", object(``), object(`,"x-subject-id":"/b"`), "subject-id-added@/x-subject-id", Minor},
		{"subject id changed", object(`,"x-subject-id":"/a"`), object(`,"x-subject-id":"/b"`), "subject-id-changed@/x-subject-id", Major},
		{"data class raised", object(`,"x-data-class":"internal"`), object(`,"x-data-class":"restricted"`), "data-class-raised@/x-data-class", Minor},
		{"data class lowered", object(`,"x-data-class":"restricted"`), object(`,"x-data-class":"internal"`), "data-class-lowered@/x-data-class", Major},
		{"data class of no rank", object(`,"x-data-class":"restricted"`), object(`,"x-data-class":"secret"`), "data-class-lowered@/x-data-class", Major},
		{"enum opened", a(`{"type":"string","enum":["x"]}`), a(`{"type":"string","enum":["x"],"x-extensible-enum":true}`), "enum-opened@/properties/a", Major},
		{"enum closed", a(`{"type":"string","enum":["x"],"x-extensible-enum":true}`), a(`{"type":"string","enum":["x"]}`), "enum-closed@/properties/a", Minor},
		{"value removed from an extensible enum", a(`{"type":"string","enum":["x","y"],"x-extensible-enum":true}`),
			a(`{"type":"string","enum":["x"],"x-extensible-enum":true}`), "enum-narrowed@/properties/a", Major},
		{"enum values that the type excludes", a(`{"type":"string","enum":["x",1]}`), a(`{"enum":["x"]}`), "", None},
		{"content encoding", a(`{"type":"string"}`), a(`{"type":"string","contentEncoding":"base64"}`), "content-changed@/properties/a/contentEncoding", Major},
		{"authored closing", a(`{"type":"string"}`), object(`,"properties":{"a":{"type":"string"}},"additionalProperties":false`), "", None},
		{"authored closing, opened", object(`,"properties":{"a":{"type":"string"}},"additionalProperties":false`), a(`{"type":"string"}`), "", None},
		{"map opened", object(`,"additionalProperties":{"type":"string"}`), object(`,"additionalProperties":{"type":["string","null"]}`),
			"type-widened@/additionalProperties", Major},
		{"property declared in a map, fitting", object(`,"additionalProperties":{"type":"string"}`),
			object(`,"properties":{"a":{"type":"string"}},"additionalProperties":{"type":"string"}`), "property-added@/properties/a", Minor},
		{"property declared in a map, not fitting", object(`,"additionalProperties":{"type":"string"}`),
			object(`,"properties":{"a":{"type":"integer"}},"additionalProperties":{"type":"string"}`), "type-changed@/properties/a, property-added@/properties/a", Major},
		{"dynamic reference", a(`{"type":"string"}`), a(`{"$dynamicRef":"#x"}`), "", Major},
		{"a schema that refers to itself in place", a(`{"$ref":"#/$defs/X"}`)[:len(a(`{"$ref":"#/$defs/X"}`))-1] + `,"$defs":{"X":{"allOf":[{"$ref":"#/$defs/X"}]}}}`,
			a(`{"type":"string"}`), "", Major},
		{"a reference that leads to itself, draft-07", `{"$schema":"http://json-schema.org/draft-07/schema#","$ref":"#"}`, `{"type":"string"}`, "", Major},
		{"large numbers, apart by one", a(`{"type":"integer","maximum":9007199254740992}`), a(`{"type":"integer","maximum":9007199254740993}`),
			"maximum-loosened@/properties/a", Major},
	} {
		t.Run(c.name, func(t *testing.T) {
			changes, bump, err := Diff(json.RawMessage(c.old), json.RawMessage(c.new))
			if err != nil {
				t.Fatal(err)
			}
			if bump != c.bump {
				t.Errorf("needs %v, want %v: %v", bump, c.bump, changes)
			}
			var got []string
			for _, change := range changes {
				got = append(got, change.Rule+"@"+change.Pointer)
				_, inNew := lookUp(mustLoad(t, []byte(c.new)).tree, change.Pointer)
				_, inOld := lookUp(mustLoad(t, []byte(c.old)).tree, change.Pointer)
				if !inNew && !inOld {
					t.Errorf("%q leads to nothing in either document", change.Pointer)
				}
			}
			if c.want != "" || c.bump == None {
				if list := strings.Join(got, ", "); list != c.want {
					t.Errorf("%s, want %s", list, c.want)
				}
			}
		})
	}
}

func TestDiffRefusesWhatIsNoSchema(t *testing.T) {
	for _, doc := range []string{``, `{`, `[]`, `"x"`, `{"type":5}`, `{"properties":[]}`, `{"required":"a"}`, `{"items":3}`, `{"minimum":"x"}`,
		`{"$ref":"#/nowhere"}`, `{} {}`, `{"enum":1}`, `{"a":1,"a":2}`, strings.Repeat(`{"not":`, 1000) + `{}` + strings.Repeat(`}`, 1000)} {
		if _, _, err := Diff(json.RawMessage(doc), json.RawMessage(`{}`)); err == nil {
			t.Errorf("%.40s: accepted as the old schema", doc)
		}
		if _, _, err := Diff(json.RawMessage(`{}`), json.RawMessage(doc)); err == nil {
			t.Errorf("%.40s: accepted as the new schema", doc)
		}
	}
}

// TestDiffIsBounded: schemas made to be hard end in a refusal, soon.
func TestDiffIsBounded(t *testing.T) {
	var branches []string
	for i := range 24 {
		branches = append(branches, fmt.Sprintf(`{"anyOf":[{"required":["p%d"]},{"required":["q%d"]},{"$ref":"#"}]}`, i, i))
	}
	hard := `{"type":"object","allOf":[` + strings.Join(branches, ",") + `]}`
	start := time.Now()
	_, bump, err := Diff(json.RawMessage(hard), json.RawMessage(strings.Replace(hard, "p7", "p77", 1)))
	if err != nil || bump != Major {
		t.Errorf("%v %v", bump, err)
	}
	t.Log("took", time.Since(start))
}

func TestChangeAsJSON(t *testing.T) {
	changes, _, err := Diff(json.RawMessage(`{"type":"string"}`), json.RawMessage(`{"type":"integer"}`))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(changes)
	if err != nil {
		t.Fatal(err)
	}
	var back []Change
	if err := json.Unmarshal(data, &back); err != nil || len(back) != 1 || back[0] != changes[0] {
		t.Errorf("%s: %v, %v", data, back, err)
	}
	if !strings.Contains(string(data), `"bump":"major"`) {
		t.Errorf("%s", data)
	}
	if _, err := json.Marshal(Bump(9)); err == nil {
		t.Error("a bump that is none was written")
	}
}
