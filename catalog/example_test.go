package catalog_test

import (
	"fmt"
	"time"

	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/medication"
)

// An event is made from a generated struct and its definition; optional members are given with new.
func Example() {
	e := medication.PrescriptionFilledV2.New("pharmacy-service", medication.PrescriptionFilled{
		PrescriptionID: "RX12345678",
		PatientID:      "P987654321",
		FilledAt:       time.Date(2023, 3, 1, 10, 0, 0, 0, time.UTC),
		Medication:     medication.DispensedMedication{Name: new("Lisinopril 10mg Tablet"), Quantity: new(30.0)},
		Pharmacy:       medication.Pharmacy{ID: new("PHARM123")},
		Cost:           &medication.Cost{PatientPay: new(catalog.USD(1000))},
	})
	fmt.Println(e.Type, e.Version)
	fmt.Println(string(e.Payload))
	// Output:
	// medication.prescription.filled 2.0.0
	// {"prescriptionId":"RX12345678","patientId":"P987654321","medication":{"name":"Lisinopril 10mg Tablet","quantity":30},"filledAt":"2023-03-01T10:00:00Z","pharmacy":{"id":"PHARM123"},"prescriber":{},"cost":{"patientPay":10.00}}
}

func ExampleLookup() {
	e, ok := catalog.Lookup("medication.prescription.filled", "") // the latest version
	fmt.Println(ok, e.Version, e.Owner, e.EntityID)
	// Output: true 2.0.0 pharmacy-service /prescriptionId
}

func ExampleUpcasters() {
	flat := []byte(`{"prescriptionId":"RX1","patientId":"P1","filledAt":"2023-03-01T10:00:00Z","medicationName":"Lisinopril","pharmacyId":"PH1"}`)
	for _, u := range catalog.Upcasters() {
		if u.Type == "medication.prescription.filled" && u.From == 1 {
			nested, err := u.Func(flat)
			fmt.Println(string(nested), err)
		}
	}
	// Output: {"filledAt":"2023-03-01T10:00:00Z","medication":{"name":"Lisinopril"},"patientId":"P1","pharmacy":{"id":"PH1"},"prescriber":{},"prescriptionId":"RX1"} <nil>
}
