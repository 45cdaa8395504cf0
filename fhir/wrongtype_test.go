package fhir_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestWrongTypes puts a value of every other type in the place of every member of real resources. Whatever comes out,
// each mutant is accounted for and every event passes the envelope's check.
func TestWrongTypes(t *testing.T) {
	t.Parallel()
	found, err := filepath.Glob(filepath.Join(dataDir(t, "fhir-dev"), "fhir-r4-examples", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	perKind := map[string]int{}
	var lines []string
	for _, path := range found {
		kind, _, _ := strings.Cut(filepath.Base(path), "-")
		if perKind[kind]++; perKind[kind] > 2 {
			continue
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var root map[string]any
		if err := json.Unmarshal(text, &root); err != nil {
			t.Fatal(err)
		}
		delete(root, "text")
		mutate(root, root, 0, func() {
			line, err := json.Marshal(root)
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, string(line))
		})
	}
	items, rep := importFiles(t, files{"a.ndjson": strings.Join(lines, "\n") + "\n"})
	if rep.Total.Resources != int64(len(lines)) || rep.Warnings == 0 {
		t.Errorf("%d resources of %d, %d warnings", rep.Total.Resources, len(lines), rep.Warnings)
	}
	for _, it := range items {
		if _, err := it.Event.Check(nil); err != nil {
			t.Fatal(err)
		}
	}
}

var wrongValues = []any{nil, "x", 1.5, true, []any{}, []any{nil, "x"}, map[string]any{}, map[string]any{"x": "y"}}

func mutate(root, at any, depth int, emit func()) {
	if depth > 3 {
		return
	}
	switch at := at.(type) {
	case map[string]any:
		for name, v := range at {
			for _, wrong := range wrongValues {
				at[name] = wrong
				emit()
			}
			at[name] = v
			mutate(root, v, depth+1, emit)
		}
	case []any:
		if len(at) > 0 {
			mutate(root, at[0], depth+1, emit)
		}
	}
}
