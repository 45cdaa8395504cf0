package schema_test

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/schema"
)

const enrolled = "patient.enrolled"

func Example() {
	r := schema.New()
	// In a platform the event is appended to schema.StreamOf(enrolled) before it is applied.
	admit := func(version, document string) error {
		p, err := r.Propose(schema.Document{Type: enrolled, Version: version, Schema: json.RawMessage(document)})
		if err != nil || p.Known {
			return err
		}
		return r.Apply(p.Event)
	}
	if err := admit("1.0.0", `{"type": "object", "x-entity-id": "/patientId", "required": ["patientId"],
		"properties": {"patientId": {"type": "string"}, "program": {"type": "string"}}}`); err != nil {
		fmt.Println(err)
	}

	// A property is taken away: consumers of 1.0.0 may read it, producers of 1.0.0 still send it.
	err := admit("1.1.0", `{"type": "object", "x-entity-id": "/patientId", "required": ["patientId"],
		"properties": {"patientId": {"type": "string"}}}`)
	var refused *schema.IncompatibleError
	if errors.As(err, &refused) {
		fmt.Println(refused.Changes[0].Pointer, refused.Changes[0].Rule, "needs", refused.Suggested)
	}

	e := r.Complete(event.Event{
		Metadata: event.Metadata{Type: enrolled, Version: "1.0.0"},
		Payload:  json.RawMessage(`{"patientId": "P1"}`),
	})
	fmt.Println(r.Validate(e), e.PartitionKey)
	// Output:
	// /properties/program property-removed needs 2.0.0
	// <nil> P1
}

func ExampleDiff() {
	changes, bump, err := schema.Diff(
		json.RawMessage(`{"type": "object", "properties": {"dose": {"type": "integer"}}}`),
		json.RawMessage(`{"type": "object", "properties": {"dose": {"type": "number"}, "unit": {"type": "string"}}}`))
	if err != nil {
		fmt.Println(err)
	}
	fmt.Println(bump)
	for _, c := range changes {
		fmt.Println(c)
	}
	// Output:
	// major
	// /properties/dose: the type was integer, is number; consumers of the old version cannot read the rest [type-widened, major]; keep the type and add a new optional property, or publish it as a new major version
	// /properties/unit: property “unit” was added [property-added, minor]
}

func ExampleRegistry_Upcast() {
	r := schema.New()
	for _, v := range []struct{ version, property string }{{"1.0.0", "code"}, {"2.0.0", "medication"}} {
		p, err := r.Propose(schema.Document{Type: "medication.order.placed", Version: v.version,
			Schema: json.RawMessage(`{"type": "object", "properties": {"` + v.property + `": {"type": "string"}}}`)})
		if err != nil {
			fmt.Println(err)
		}
		if err := r.Apply(p.Event); err != nil {
			fmt.Println(err)
		}
	}
	err := r.AddUpcaster("medication.order.placed", 1, 2, func(old json.RawMessage) (json.RawMessage, error) {
		var was struct{ Code string }
		if err := json.Unmarshal(old, &was); err != nil {
			return nil, err
		}
		return json.Marshal(map[string]string{"medication": was.Code})
	})
	if err != nil {
		fmt.Println(err)
	}
	e, err := r.Upcast(event.Event{
		Metadata: event.Metadata{Type: "medication.order.placed", Version: "1.0.0"},
		Payload:  json.RawMessage(`{"code":"314076"}`),
	}, 2)
	fmt.Println(e.Version, string(e.Payload), err)
	// Output: 2.0.0 {"medication":"314076"} <nil>
}
