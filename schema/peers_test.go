package schema

import (
	"encoding/json"
	"testing"
)

type peerCase struct {
	Source     string
	N          int
	Desc       string
	Reader     any
	Writer     any
	Compatible bool
	Status     string
}

func peerCases(t *testing.T) []peerCase {
	var cases []peerCase
	if err := json.Unmarshal(testData(t, "schema-compat/peer-cases.json"), &cases); err != nil {
		t.Fatal(err)
	}
	return cases
}

// peerDocument loads a schema of the peers, whose dialect is draft-07 unless it says otherwise.
func peerDocument(v any) (*document, error) {
	if o, ok := v.(map[string]any); ok && o["$schema"] == nil {
		o["$schema"] = "http://json-schema.org/draft-07/schema#"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return loadDocument(text)
}

func TestPeers(t *testing.T) {
	type tally struct{ yes, no int }
	counts := map[string]*tally{}
	for _, c := range peerCases(t) {
		reader, err := peerDocument(c.Reader)
		writer, err2 := peerDocument(c.Writer)
		if err != nil || err2 != nil {
			t.Logf("%s %d %s: %v %v", c.Source, c.N, c.Status, err, err2)
			continue
		}
		b := breaches(writer.root, reader.root, false, false)
		k := counts[c.Source+" "+c.Status]
		if k == nil {
			k = &tally{}
			counts[c.Source+" "+c.Status] = k
		}
		if b == nil {
			k.yes++
		} else {
			k.no++
		}
		if b == nil && !c.Compatible {
			t.Errorf("%s %d %s %s: proven though not compatible", c.Source, c.N, c.Status, c.Desc)
		}
		if b != nil && c.Status == "compatible-no-counterexample" {
			t.Logf("%s %d %s: not proven: %s %s %s", c.Source, c.N, c.Desc, b[0].keyword, b[0].name, b[0].unproven)
		}
	}
	for k, v := range counts {
		t.Logf("%s: proven %d, not %d", k, v.yes, v.no)
	}
}
