package schema

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// genSchema draws a schema within the profile, small, with few names, so that pairs of them often meet.
func genSchema(t *rapid.T, depth int) map[string]any {
	s := map[string]any{}
	kind := rapid.SampledFrom([]string{"object", "object", "array", "string", "integer", "number", "enum", "tagged", "ref", "cond", "union"}).Draw(t, "kind")
	if depth == 0 {
		kind = rapid.SampledFrom([]string{"string", "integer", "number", "enum", "boolean", "nullable"}).Draw(t, "leaf")
	}
	some := func(keyword string, low, high int) {
		if rapid.IntRange(0, 3).Draw(t, keyword+"?") == 0 {
			s[keyword] = rapid.IntRange(low, high).Draw(t, keyword)
		}
	}
	switch kind {
	case "object":
		s["type"] = "object"
		if rapid.IntRange(0, 5).Draw(t, "free") == 0 {
			if rapid.Bool().Draw(t, "map") {
				s["additionalProperties"] = genSchema(t, depth-1)
			}
			break
		}
		properties, required := map[string]any{}, []any{}
		for _, name := range []string{"a", "b", "c"} {
			switch rapid.IntRange(0, 3).Draw(t, name) {
			case 0:
				required = append(required, name)
				fallthrough
			case 1, 2:
				properties[name] = genSchema(t, depth-1)
			}
		}
		s["properties"] = properties
		if len(required) > 0 {
			s["required"] = required
		}
	case "tagged":
		branch := func(tag string) any {
			b := genSchema(t, depth-1)
			return map[string]any{"properties": map[string]any{"tag": map[string]any{"const": tag}, tag: b}, "required": []any{"tag"}}
		}
		s["type"], s["properties"], s["required"] = "object", map[string]any{"tag": map[string]any{"type": "string"}}, []any{"tag"}
		s["oneOf"] = []any{branch("x"), branch("y")}
	case "cond":
		s["type"], s["properties"] = "object", map[string]any{"a": map[string]any{"type": "string"}, "b": genSchema(t, depth-1)}
		s["if"] = map[string]any{"properties": map[string]any{"a": map[string]any{"const": "x"}}, "required": []any{"a"}}
		s["then"] = map[string]any{"required": []any{"b"}}
	case "union":
		keyword := rapid.SampledFrom([]string{"anyOf", "oneOf"}).Draw(t, "union")
		s[keyword] = []any{genSchema(t, depth-1), genSchema(t, depth-1)}
	case "ref":
		s["$ref"] = "#/$defs/D"
	case "array":
		s["type"], s["items"] = "array", genSchema(t, depth-1)
		some("minItems", 0, 2)
		some("maxItems", 1, 3)
	case "string":
		s["type"] = "string"
		some("minLength", 0, 2)
		some("maxLength", 1, 3)
	case "integer", "number":
		s["type"] = kind
		some("minimum", 0, 2)
		some("exclusiveMaximum", 1, 4)
	case "nullable":
		s["type"] = []any{"string", "null"}
	case "enum":
		s["type"] = "string"
		s["enum"] = []any{"x", "y", "z"}[:rapid.IntRange(1, 3).Draw(t, "enum")]
		if rapid.Bool().Draw(t, "open") {
			s["x-extensible-enum"] = true
		}
	default:
		s["type"] = kind
	}
	return s
}

func genDocument(t *rapid.T) map[string]any {
	s := genSchema(t, 2)
	if s["type"] != "object" {
		s = map[string]any{"type": "object", "properties": map[string]any{"a": s}}
	}
	s["$defs"] = map[string]any{"D": genSchema(t, 0)}
	return s
}

// mutate changes one place of a schema: what a person does from one version to the next.
func mutate(t *rapid.T, v any, depth int) any {
	s := clone(v).(map[string]any)
	for _, keyword := range []string{"anyOf", "oneOf"} {
		if list, ok := s[keyword].([]any); ok && depth > 0 && rapid.Bool().Draw(t, "alternatives") {
			i := rapid.IntRange(0, len(list)-1).Draw(t, "alternative")
			list[i] = mutate(t, list[i], depth-1)
			return s
		}
	}
	switch what := rapid.IntRange(0, 9).Draw(t, "mutation"); {
	case what < 4 && depth > 0:
		if properties, ok := s["properties"].(map[string]any); ok && len(properties) > 0 {
			name := rapid.SampledFrom(sortedKeys(properties)).Draw(t, "into")
			properties[name] = mutate(t, properties[name], depth-1)
		} else if items, ok := s["items"].(map[string]any); ok {
			s["items"] = mutate(t, items, depth-1)
		} else if rest, ok := s["additionalProperties"].(map[string]any); ok {
			s["additionalProperties"] = mutate(t, rest, depth-1)
		}
	case what < 8:
		if properties, ok := s["properties"].(map[string]any); ok {
			name := rapid.SampledFrom([]string{"d", "e", "f", "g"}).Draw(t, "added")
			if properties[name] == nil {
				properties[name] = genSchema(t, 1)
			}
			break
		}
		if values, ok := s["enum"].([]any); ok {
			s["enum"] = append(values, rapid.SampledFrom([]any{"more", "x"}).Draw(t, "value"))
		}
	case what == 8:
		s["description"] = rapid.SampledFrom([]string{"p", "q"}).Draw(t, "description")
	default:
		keyword := rapid.SampledFrom([]string{"required", "maxLength", "minimum", "x-extensible-enum", "enum", "properties", "items", "oneOf"}).Draw(t, "dropped")
		delete(s, keyword)
	}
	return s
}

func clone(v any) any {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // test values are plain JSON
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		panic(err)
	}
	return out
}

func text(t *rapid.T, v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// genValue draws a value that a schema drawn by genSchema likely accepts, and sometimes one that it does not.
func genValue(t *rapid.T, s map[string]any, defs map[string]any, depth int) any {
	if depth == 0 || rapid.IntRange(0, 30).Draw(t, "wild") == 0 {
		return rapid.SampledFrom([]any{nil, true, "", "x", "zzz", 0, 2, 1.5, []any{}, map[string]any{}, map[string]any{"q": 1}}).Draw(t, "any")
	}
	if s["$ref"] != nil {
		return genValue(t, defs["D"].(map[string]any), defs, depth-1)
	}
	if values, ok := s["enum"].([]any); ok && rapid.IntRange(0, 4).Draw(t, "listed") > 0 {
		return rapid.SampledFrom(values).Draw(t, "value")
	}
	for _, keyword := range []string{"anyOf", "oneOf"} {
		if list, ok := s[keyword].([]any); ok && s["properties"] == nil {
			return genValue(t, rapid.SampledFrom(list).Draw(t, "alternative").(map[string]any), defs, depth-1)
		}
	}
	if c := s["const"]; c != nil {
		return c
	}
	kind, _ := s["type"].(string)
	properties, _ := s["properties"].(map[string]any)
	switch {
	case kind == "object" || properties != nil:
		out := map[string]any{}
		required, _ := s["required"].([]any)
		for _, name := range sortedKeys(properties) {
			if slices.Contains(required, any(name)) || rapid.Bool().Draw(t, name) {
				out[name] = genValue(t, properties[name].(map[string]any), defs, depth-1)
			}
		}
		if branches, ok := s["oneOf"].([]any); ok {
			inner, _ := genValue(t, rapid.SampledFrom(branches).Draw(t, "branch").(map[string]any), defs, depth).(map[string]any)
			for name, v := range inner {
				out[name] = v
			}
		}
		if rest, ok := s["additionalProperties"].(map[string]any); ok {
			out["k"] = genValue(t, rest, defs, depth-1)
		} else if rapid.IntRange(0, 8).Draw(t, "extra") == 0 {
			out[rapid.SampledFrom([]string{"a", "d", "e"}).Draw(t, "name")] = rapid.SampledFrom([]any{1, "x"}).Draw(t, "extra")
		}
		return out
	case kind == "array":
		items, _ := s["items"].(map[string]any)
		out := []any{}
		for range rapid.IntRange(0, 3).Draw(t, "length") {
			out = append(out, genValue(t, items, defs, depth-1))
		}
		return out
	case kind == "integer" || kind == "number":
		return rapid.SampledFrom([]any{0, 1, 2, 3, 0.5, 1.5}).Draw(t, "number")
	case kind == "boolean":
		return rapid.Bool().Draw(t, "boolean")
	}
	return rapid.SampledFrom([]any{"", "x", "yy", "zzz", "more"}).Draw(t, "text")
}

// TestSound: what Diff calls less than major breaks no event. The validator, which knows nothing of Diff, judges.
func TestSound(t *testing.T) {
	accepted := 0
	rapid.Check(t, func(t *rapid.T) {
		old := genDocument(t)
		next := any(old)
		for range rapid.IntRange(1, 2).Draw(t, "mutations") {
			next = mutate(t, next, 2)
		}
		if rapid.IntRange(0, 9).Draw(t, "unrelated") == 0 {
			next = genDocument(t)
		}
		oldText, newText := text(t, old), text(t, next)
		changes, bump, err := Diff(oldText, newText)
		if err != nil {
			t.Fatal(err)
		}
		before, err := compileDoc(oldText)
		if err != nil {
			t.Skip("outside the profile")
		}
		after, err := compileDoc(newText)
		if err != nil {
			t.Skip("outside the profile")
		}
		if bump == Major {
			return
		}
		if sameSchema(mustLoadDraw(t, oldText).root, mustLoadDraw(t, newText).root) {
			return // nothing that validates has changed; whether the schema is ambiguous by itself is not Diff's question
		}
		accepted++
		for range 10 {
			from := rapid.SampledFrom([]map[string]any{old, next.(map[string]any)}).Draw(t, "from")
			payload := text(t, genValue(t, from, from["$defs"].(map[string]any), 5))
			if before.closed(payload) == nil && after.closed(payload) != nil {
				t.Fatalf("an old producer is refused: %s\nold %s\nnew %s\n%v", payload, oldText, newText, changes)
			}
			if after.closed(payload) == nil && before.open(payload) != nil {
				t.Fatalf("an old consumer refuses: %s\nold %s\nnew %s\n%v", payload, oldText, newText, changes)
			}
		}
	})
	if accepted == 0 {
		t.Error("no pair was compatible: the test shows nothing")
	}
}

func mustLoadDraw(t *rapid.T, doc []byte) *document {
	d, err := loadDocument(doc)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTransitive: when each version fits the one before, it fits them all.
func TestTransitive(t *testing.T) {
	chains := 0
	rapid.Check(t, func(t *rapid.T) {
		versions := []any{any(genDocument(t))}
		for range 8 {
			last := versions[len(versions)-1]
			next := mutate(t, last, 2)
			if _, bump, err := Diff(text(t, last), text(t, next)); err != nil {
				t.Fatal(err)
			} else if bump < Major {
				versions = append(versions, next)
			}
		}
		if len(versions) > 3 {
			chains++
		}
		for i := range versions {
			for j := i + 1; j < len(versions); j++ {
				if changes, bump, err := Diff(text(t, versions[i]), text(t, versions[j])); err != nil || bump == Major {
					t.Fatalf("%d to %d: %v %v\n%s\n%s", i, j, changes, err, text(t, versions[i]), text(t, versions[j]))
				}
			}
		}
	})
	if chains < 10 {
		t.Errorf("only %d chains of some length: the test shows little", chains)
	}
}

// TestReflexive: a version always fits itself, in another layout too.
func TestReflexive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc := genDocument(t)
		other := clone(doc).(map[string]any)
		other["$defs"].(map[string]any)["D2"] = other["$defs"].(map[string]any)["D"]
		delete(other["$defs"].(map[string]any), "D2")
		other["title"] = "another title"
		if changes, bump, err := Diff(text(t, doc), text(t, other)); err != nil || bump != Patch {
			t.Fatalf("%v %v %v", bump, changes, err)
		}
	})
}

// TestDecimal compares exact numbers with those of the language, where those are exact.
func TestDecimal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Int32().Draw(t, "a"), rapid.Int32().Draw(t, "b")
		d, _ := parseDecimal(json.Number(text(t, a)).String())
		e, _ := parseDecimal(json.Number(text(t, b)).String())
		want := 0
		if a < b {
			want = -1
		} else if a > b {
			want = 1
		}
		if d.compare(e) != want || d.String() != string(text(t, a)) {
			t.Fatalf("%v and %v: %d", d, e, d.compare(e))
		}
		if b != 0 && d.multiple(e) != (int64(a)%int64(b) == 0) {
			t.Fatalf("%v is a multiple of %v: %v", d, e, d.multiple(e))
		}
		tenth, _ := parseDecimal(d.String() + "e-1")
		if low, ok := tenth.round(-1); !ok || low.compare(tenth) > 0 {
			t.Fatalf("floor of %v is %v", tenth, low)
		} else if up, ok := low.plus(1); !ok || up.compare(tenth) <= 0 {
			t.Fatalf("floor of %v is %v, which is not the nearest", tenth, low)
		}
	})
	for _, c := range [][2]string{{"1.0", "1"}, {"1e2", "100"}, {"-0", "0"}, {"0.50", "5e-1"}, {"9007199254740993", "9007199254740993.0"}} {
		a, _ := parseDecimal(c[0])
		b, _ := parseDecimal(c[1])
		if a != b || a.String() != b.String() {
			t.Errorf("%s and %s: %v, %v", c[0], c[1], a, b)
		}
	}
	if _, ok := parseDecimal("1e999999999999"); ok {
		t.Error("a number beyond all bounds was read")
	}
}
