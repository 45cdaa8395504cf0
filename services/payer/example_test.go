package payer_test

import (
	"fmt"
	"time"

	"github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/services/payer"
)

// A biologic is asked for before the usual drugs were tried: the denial names the criterion that failed, and until when
// it can be appealed. Three months later the same question has another answer.
func Example() {
	rules, err := payer.DefaultRules()
	if err != nil {
		fmt.Println(err)
		return
	}
	age, specialty := int64(54), "rheumatology"
	facts := payer.Facts{
		Request:   payer.Request{RxCUI: "327361", Name: "adalimumab", PrescriberSpecialty: &specialty},
		Patient:   payer.Patient{ID: "P-1", Age: &age, Sex: priorauth.GenderFemale, State: "MA"},
		Diagnoses: []payer.Diagnosis{{Code: "69896004", Display: "Rheumatoid arthritis", Active: true, DaysAgo: 200}},
		History:   []payer.PastDrug{{RxCUI: "105585", Name: "Methotrexate 2.5 MG Oral Tablet", DaysAgo: 20}},
		Plan:      payer.Plan{Payer: "Acme", LineOfBusiness: priorauth.PayerLineOfBusinessMedicarePartD, MemberID: "M-1"},
	}
	at := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

	denial, err := rules.Decide(facts, nil, at)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(denial.Outcome, denial.Action, denial.Reasons[0].Code)
	for _, c := range denial.Checks {
		fmt.Printf("  %s %s: %t\n", c.Stage, c.ID, c.Result)
	}
	fmt.Println("appeal by", denial.Appeal.Deadline.Format(time.DateOnly))

	facts.History[0].DaysAgo += 92
	approval, err := rules.Decide(facts, nil, at.AddDate(0, 0, 92))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(approval.Outcome, approval.Action, approval.Approved.Quantity, approval.Approved.Unit,
		"until", approval.Approved.Period.End.Format(time.DateOnly))

	// The refill finds the approval, which the payer has put on file under a number of its own.
	onFile, _ := approval.Authorization("PA-2026-0001", facts)
	refill, err := rules.Decide(facts, []payer.Authorization{onFile}, at.AddDate(0, 0, 120))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(refill.Outcome, "by", refill.OnFile)
	// Output:
	// denied A3 STEP-THERAPY
	//   paRequiredWhen paRequiredWhen: true
	//   missingInfo specialty: false
	//   criteria age: true
	//   criteria diagnosis: true
	//   criteria conventional-first: false
	// appeal by 2026-05-06
	// approved A1 2 pen until 2027-06-02
	// approved by PA-2026-0001
}

// Deadlines depend on who pays: a drug has a day under Medicaid, a service a week.
func ExampleRules_Clock() {
	rules, err := payer.DefaultRules()
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, benefit := range []payer.Benefit{payer.BenefitPharmacy, payer.BenefitServices} {
		c, err := rules.Clock(priorauth.PayerLineOfBusinessMedicaid, benefit, priorauth.UrgencyStandard)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s: remind after %v, escalate after %v, decide within %v\n", benefit, c.Remind, c.Escalate, c.Deadline)
	}
	// Output:
	// pharmacy: remind after 16h0m0s, escalate after 21h0m0s, decide within 24h0m0s
	// services: remind after 120h0m0s, escalate after 144h0m0s, decide within 168h0m0s
}
