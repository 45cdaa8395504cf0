package event_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/carebus/carebus/event"
)

func ExampleParse() {
	text := `{"metadata": {"eventId": "e-1", "eventType": "Patient.Record.Created", "eventSource": "patient-service",
		"timestamp": "2023-02-28T18:40:00Z", "version": "1.0", "tenant": "x"}, "payload": {"patientId": "P1"}}`
	_, _, err := event.Parse([]byte(text), nil)
	var invalid *event.InvalidError
	if errors.As(err, &invalid) {
		for _, f := range invalid.Findings {
			fmt.Println(f)
		}
	}
	// Output:
	// /metadata/tenant: the metadata knows no such member [metadata.unknown]; leave it out, or put it into the payload
	// /metadata/eventType: eventType is wrong in its domain part, which has an upper-case letter [metadata.type]; name it patient.record.created
	// /metadata/correlationId: correlationId is missing [metadata.required]; carry the id of the flow on; a first event starts one with a new id
	// /metadata/version: version is not a semantic version [metadata.version]; write 1.0.0
}

func ExampleDefinition() {
	type Enrolled struct {
		PatientID string `json:"patientId"`
		Program   string `json:"program"`
	}
	enrolledV1 := event.Define[Enrolled]("patient.enrolled", "1.0.0")

	e := enrolledV1.New("patient-service", Enrolled{PatientID: "P1", Program: "diabetes"})
	e = event.Complete(context.Background(), e.At(time.UnixMilli(1677609600000)))
	if _, err := e.Check(nil); err != nil {
		fmt.Println(err)
		return
	}
	got, err := enrolledV1.Decode(e)
	fmt.Println(got.Type, got.Time(), got.Payload.Program, err)
	// Output: patient.enrolled 2023-02-28 18:40:00 +0000 UTC diabetes <nil>
}

func ExampleComplete() {
	handled := event.Metadata{ID: "e-1", CorrelationID: "c-1"}
	ctx := event.ContextWithCause(context.Background(), handled)

	next := event.Complete(ctx, event.Event{})
	fmt.Println(next.CorrelationID, next.CausationID)
	// Output: c-1 e-1
}

func ExampleCloudEventHeaders() {
	e := event.Event{
		Metadata: event.Metadata{
			ID: "e-1", Type: "patient.enrolled", Source: "patient-service", CorrelationID: "c-1",
			Timestamp: 1677609600000, Version: "1.0.0", PartitionKey: "José",
		},
		Payload: []byte(`{"patientId":"P1"}`),
	}
	for name, value := range event.CloudEventHeaders(event.HTTP, e) {
		fmt.Println(name+":", value)
	}
	// Output:
	// ce-specversion: 1.0
	// ce-id: e-1
	// ce-source: /patient-service
	// ce-type: patient.enrolled
	// ce-time: 2023-02-28T18:40:00.000Z
	// Content-Type: application/json
	// ce-dataschema: https://carebus.dev/schemas/patient.enrolled/versions/1.0.0
	// ce-correlationid: c-1
	// ce-partitionkey: Jos%C3%A9
	// ce-schemaversion: 1.0.0
}
