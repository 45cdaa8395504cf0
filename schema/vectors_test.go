package schema

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

// testData returns the contents of a file of the test data that lies beside the repository.
func testData(t *testing.T, name string) []byte {
	t.Helper()
	dir := os.Getenv("CAREBUS_TEST_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "data")
	}
	data, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
	if os.IsNotExist(err) {
		t.Skipf("test data %s is absent (CAREBUS_TEST_DATA names its folder)", name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestRuleVectors holds the registry to the written rules: the step each change needs, and what breaks in which direction.
func TestRuleVectors(t *testing.T) {
	var vectors []struct {
		Name              string
		Old, New          json.RawMessage
		RequiredBump      string `json:"required_bump"`
		Backward, Forward bool
	}
	if err := json.Unmarshal(testData(t, "schema-compat/rule-vectors.json"), &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) != 55 {
		t.Fatalf("%d vectors, want 55", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Name, func(t *testing.T) {
			changes, bump, err := Diff(v.Old, v.New)
			if err != nil {
				t.Fatal(err)
			}
			if bump.String() != v.RequiredBump {
				t.Errorf("needs %v, want %s: %v", bump, v.RequiredBump, changes)
			}
			if bump == None && len(changes) > 0 || bump != None && len(changes) == 0 {
				t.Errorf("%v with changes %v", bump, changes)
			}
			for _, c := range changes {
				if c.Rule == "" || c.Message == "" || c.Bump == Major && c.Remedy == "" {
					t.Errorf("a change does not say rule, message and remedy: %+v", c)
				}
				if c.Rule == "unprovable" {
					t.Errorf("not decided: %v", c)
				}
			}
			from, to := mustLoad(t, v.Old), mustLoad(t, v.New)
			got := compare(from, to)
			if (got.backward == nil) != v.Backward {
				t.Errorf("backward %v, want %v: %v", got.backward == nil, v.Backward, changes)
			}
			if (got.forward == nil) != v.Forward {
				t.Errorf("forward %v, want %v: %v", got.forward == nil, v.Forward, changes)
			}
		})
	}
}

func mustLoad(t *testing.T, doc []byte) *document {
	t.Helper()
	d, err := loadDocument(doc)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
