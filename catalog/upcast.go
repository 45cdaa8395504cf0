package catalog

import (
	"encoding/json"
	"fmt"
)

// Upcaster turns payloads of one major version of an event type into payloads of the next.
type Upcaster struct {
	Type string // event type
	From int    // major that Func reads
	To   int    // major that it returns, From+1
	// Func returns the payload in the new form and leaves the old one as it is. It is safe for concurrent use. Its
	// errors name places and never values.
	Func func(json.RawMessage) (json.RawMessage, error)
}

// Upcasters returns the upcasters of the catalog, one for every major that has a successor. The slice is the caller's.
func Upcasters() []Upcaster {
	return []Upcaster{
		{Type: "medication.prescription.filled", From: 1, To: 2, Func: nestFilled},
	}
}

// move says where a member of the flat shape stands in the nested one.
type move struct {
	member string
	path   []string
}

var filledMoves = []move{
	{"medicationCode", []string{"medication", "code", "code"}},
	{"medicationName", []string{"medication", "name"}},
	{"quantity", []string{"medication", "quantity"}},
	{"daysSupply", []string{"medication", "daysSupply"}},
	{"pharmacyId", []string{"pharmacy", "id"}},
	{"prescriberId", []string{"prescriber", "id"}},
}

// nestFilled reads medication.prescription.filled 1, whose early producers wrote a flat shape and a nested one under the
// same version, as version 2, which is the nested one. Where a payload states the same thing in both shapes, the nested
// statement stands. Members that neither knows are carried along.
func nestFilled(old json.RawMessage) (json.RawMessage, error) {
	payload, err := object(old, "")
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"medication", "pharmacy", "prescriber"} { // required in version 2, even when empty
		if _, ok := payload[name]; !ok {
			payload[name] = json.RawMessage(`{}`)
		}
	}
	for _, m := range filledMoves {
		value, ok := payload[m.member]
		if !ok {
			continue
		}
		delete(payload, m.member)
		if err := place(payload, m.path, value, ""); err != nil {
			return nil, err
		}
	}
	return json.Marshal(payload)
}

// place sets the member at path, making objects on the way, unless it is there already. at is the pointer to in.
func place(in map[string]json.RawMessage, path []string, value json.RawMessage, at string) error {
	name := path[0]
	if len(path) == 1 {
		if _, ok := in[name]; !ok {
			in[name] = value
		}
		return nil
	}
	inner := map[string]json.RawMessage{}
	at += "/" + name
	if text, ok := in[name]; ok {
		var err error
		if inner, err = object(text, at); err != nil {
			return err
		}
	}
	if err := place(inner, path[1:], value, at); err != nil {
		return err
	}
	text, err := json.Marshal(inner)
	if err != nil {
		return err
	}
	in[name] = text
	return nil
}

func object(text json.RawMessage, at string) (map[string]json.RawMessage, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil || members == nil {
		return nil, fmt.Errorf("catalog: medication.prescription.filled 1 to 2: /payload%s is no object; correct the payload to its schema", at)
	}
	return members, nil
}
