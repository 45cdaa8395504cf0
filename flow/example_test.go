package flow_test

import (
	"os"
	"time"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
)

// Records come from eventstore.Store.Correlation; here they stand in the text.
func Example() {
	f := flow.Build([]eventstore.Record{
		rec("0198-aaaa", "", "medication.prescription.created", "prescribing-service", 0, `{}`),
		rec("0198-bbbb", "0198-aaaa", "priorauth.request.submitted", "priorauth-service", 12*time.Millisecond, `{}`),
		rec("0198-cccc", "0198-bbbb", "priorauth.decision.made", "payer-service", 1512*time.Millisecond, `{}`),
	})
	if err := f.WriteTree(os.Stdout, nil); err != nil {
		panic(err)
	}
	if err := f.WriteMermaid(os.Stdout, nil); err != nil {
		panic(err)
	}
	// Output:
	// flow corr-1
	// 3 events · 3 sources · 1.51s · began 2026-03-02 09:30:00.000 UTC
	//
	//    +0s  medication.prescription.created  prescribing-service        …198-aaaa
	//  +12ms  └─ priorauth.request.submitted   priorauth-service    12ms  …198-bbbb
	// +1.51s     └─ priorauth.decision.made    payer-service        1.5s  …198-cccc  after a pause of 1.5s
	// sequenceDiagram
	//     participant p1 as prescribing-service
	//     participant p2 as priorauth-service
	//     participant p3 as payer-service
	//     p1->>p2: medication.prescription.created +0s
	//     p2->>p3: priorauth.request.submitted +12ms
	//     Note over p1,p3: pause of 1.5s
	//     Note over p3: priorauth.decision.made +1.51s
}
