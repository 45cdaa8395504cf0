package schema

import (
	"encoding/json"
	"fmt"
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

// peersAreStricter are pairs that a peer calls incompatible, without an instance that shows it, and that are proven
// compatible here.
var peersAreStricter = map[string]string{
	"apicurio 96":  "the const is an array and the type string: no value is accepted, so none can break",
	"apicurio 100": "contentEncoding is an annotation; Diff has the rule content-changed for it",
	"apicurio 101": "contentEncoding is an annotation; Diff has the rule content-changed for it",
	"apicurio 103": "contentMediaType is an annotation; Diff has the rule content-changed for it",
	"apicurio 104": "contentMediaType is an annotation; Diff has the rule content-changed for it",
	"apicurio 108": "string or maxLength accepts everything, whatever the length",
	"ibm 430":      "a multiple of 3 is a multiple of 0.3",
	"ibm 467":      "reader and writer are the same",
}

// weAreStricter are pairs that a peer calls compatible and that no instance has been found to break, and the keyword at
// which the proof stops here: known incompleteness, all of it outside the registry's profile or at its edge.
var weAreStricter = map[string]string{
	"apicurio 118": "oneOf",
	"apicurio 125": "if",
	"apicurio 126": "if",
	"ibm 269":      "not",
	"ibm 341":      "anyOf",
	"ibm 345":      "anyOf",
	"ibm 360":      "anyOf",
	"ibm 362":      "anyOf",
	"ibm 38":       "not",
	"ibm 39":       "oneOf",
	"ibm 40":       "enum",
	"ibm 42":       "enum",
	"ibm 424":      "multipleOf",
	"ibm 470":      "type",
	"ibm 477":      "format",
	"ibm 478":      "type",
	"ibm 505":      "pattern",
	"ibm 512":      "maxLength",
	"ibm 517":      "not",
	"ibm 518":      "not",
	"ibm 523":      "maxLength",
	"ibm 527":      "anyOf",
	"ibm 529":      "minLength",
	"ibm 54":       "anyOf",
	"ibm 544":      "type",
	"ibm 55":       "not",
	"ibm 65":       "not",
}

// TestPeers asks the question of other registries, whether a reader's schema accepts all that a writer's does, of their
// own cases. Both sides are open here.
func TestPeers(t *testing.T) {
	proven := map[string]int{}
	for _, c := range peerCases(t) {
		name := fmt.Sprintf("%s %d", c.Source, c.N)
		reader, err := peerDocument(c.Reader)
		writer, err2 := peerDocument(c.Writer)
		if c.Status == "compile-error" {
			continue // not a JSON schema in its dialect
		}
		if err != nil || err2 != nil {
			t.Errorf("%s: %v %v", name, err, err2)
			continue
		}
		found := breaches(writer.root, reader.root, false, false)
		if found == nil {
			proven[c.Status]++
		}
		switch c.Status {
		case "incompatible-proven", "peer-says-compatible-but-witness":
			if found == nil {
				t.Errorf("%s %s: an instance breaks it, but it is proven compatible", name, c.Desc)
			}
		case "incompatible-no-witness":
			if found == nil && peersAreStricter[name] == "" {
				t.Errorf("%s %s: the peer says incompatible; if it is wrong, say why", name, c.Desc)
			}
		default:
			var keyword string
			if found != nil {
				keyword = found[0].keyword
			}
			if want := weAreStricter[name]; keyword != want {
				t.Errorf("%s %s: the proof stops at %q, want %q", name, c.Desc, keyword, want)
			}
		}
	}
	t.Log("proven by status:", proven)
}
