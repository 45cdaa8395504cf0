package prescribing_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/patient"
	catalog "github.com/carebus/carebus/catalog/priorauth"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/payer"
	"github.com/carebus/carebus/services/portal"
	"github.com/carebus/carebus/services/prescribing"
	"github.com/carebus/carebus/services/priorauth"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openAt(dir string) *carebus.Platform {
	p, err := carebus.Open(context.Background(), "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	return p
}

// running runs the four services of the choreography until the test ends.
func running(t *testing.T) *carebus.Platform {
	t.Helper()
	p := carebustest.Open(t)
	asked := []string{"896209", "1049221"}
	err := errors.Join(
		prescribing.Join(t.Context(), p), payer.Join(t.Context(), p, payer.Options{}), portal.Join(t.Context(), p),
		priorauth.Join(t.Context(), p, priorauth.Options{Required: func(m medication.Medication, _ *medication.Payer) (bool, error) {
			return m.Code != nil && m.Code.Code != nil && slices.Contains(asked, *m.Code.Code), nil
		}}),
	)
	if err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	return p
}

func ptr[T any](v T) *T { return &v }

func create(drug string, conditions ...string) prescribing.Create {
	c := prescribing.Create{PrescriptionCreated: medication.PrescriptionCreated{
		PatientID: "P1", Medication: medication.Medication{Name: "drug " + drug, Code: &medication.Codeable{Code: &drug}}, Payer: &medication.Payer{ID: ptr("PAYER1")},
	}}
	for _, code := range conditions {
		c.Conditions = append(c.Conditions, medication.Codeable{Code: &code})
	}
	return c
}

// TestChoreography: the flow of the source's diagram, by four services that know events only: approval, denial, pending,
// and no authorization needed. Each is one flow, in the order of the diagram.
func TestChoreography(t *testing.T) {
	p := running(t)
	for _, id := range []string{"P1", "P2"} {
		if _, err := p.Publish(t.Context(), patient.RecordCreatedV1.New("patient-service", patient.RecordCreated{PatientID: id, DateOfBirth: ptr("1980-05-15"), Gender: patient.GenderFemale})); err != nil {
			t.Fatal(err)
		}
	}
	carebustest.Settle(t, p)
	const copd = "13645005"
	for id, c := range map[string]prescribing.Create{
		"approved": create("896209", copd), "denied": create("896209"), "pended": create("1049221"), "plain": create("314076"),
	} {
		if id == "denied" {
			c.PatientID = "P2" // of whom no diagnosis is known
		}
		if _, err := prescribing.Do(t.Context(), p, id, c); err != nil {
			t.Fatal(err)
		}
	}
	carebustest.Settle(t, p)
	submitted := "prescribing-service medication.prescription.created; priorauth-service priorauth.request.submitted; payer-service priorauth.decision.made; "
	for id, want := range map[string]string{
		"approved": submitted + "priorauth-service priorauth.status.approved; prescribing-service medication.prescription.ready; prescribing-service medication.prescription.status-changed; patient-portal patient.notification.sent",
		"denied":   submitted + "priorauth-service priorauth.status.denied; prescribing-service medication.prescription.status-changed; patient-portal patient.notification.sent",
		"pended":   submitted + "priorauth-service priorauth.status.pending; prescribing-service medication.prescription.status-changed; patient-portal patient.notification.sent",
		"plain":    "prescribing-service medication.prescription.created; priorauth-service priorauth.determination.not-required; prescribing-service medication.prescription.ready; prescribing-service medication.prescription.status-changed; patient-portal patient.notification.sent",
	} {
		now, err := prescribing.Prescriptions.Load(t.Context(), p, id)
		if err != nil {
			t.Fatal(err)
		}
		first, err := p.Store().Type(t.Context(), eventstore.TypeQuery{Type: medication.PrescriptionCreatedV1.Type(), Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var correlation string
		for _, r := range first {
			if r.Stream == "medication.prescription/"+id {
				correlation = r.CorrelationID
			}
		}
		flow, err := p.Store().Correlation(t.Context(), correlation, time.Time{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for i, r := range flow {
			if i > 0 && !slices.ContainsFunc(flow[:i], func(c eventstore.Record) bool { return c.ID == r.CausationID }) {
				t.Errorf("%s: %s has no cause in the flow", id, r.Type)
			}
			said = append(said, r.Source+" "+r.Type)
		}
		if got := strings.Join(said, "; "); got != want {
			t.Errorf("%s (%s): %s\nwant %s", id, now.State.Status, got, want)
		}
	}
	if news, err := portal.StatusOf(t.Context(), p.Store(), "P2"); err != nil || len(news) != 1 || news[0].Status != "denied" || news[0].Reason == "" {
		t.Errorf("what the portal shows of P2: %+v, %v", news, err)
	}
	for patientID, want := range map[string]string{"P1": "approved:ready pended:pending-authorization plain:ready", "P2": "denied:denied"} {
		lines, err := prescribing.PrescriptionsOf(t.Context(), p.Store(), patientID)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, l := range lines {
			got = append(got, l.PrescriptionID+":"+string(l.Status))
			if l.PatientID != patientID || !strings.HasPrefix(l.MedicationName, "drug ") || l.AuthoredOn.IsZero() || l.LastUpdated == 0 || (l.PrescriptionID == "denied") != (l.StatusReason != "" && l.PriorAuthID != "" && l.PrescriptionID != "pended") {
				t.Errorf("%+v", l)
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", patientID, got, want)
		}
	}
	types, err := p.Store().Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{prescribing.Group, priorauth.Group, payer.Group, portal.Group} {
		if err := p.Bus().Replay(t.Context(), group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
			t.Fatal(err)
		}
	}
	carebustest.Settle(t, p)
	again, err := p.Store().Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for typ, n := range again {
		if !strings.HasPrefix(typ, "platform.") && n != types[typ] {
			t.Errorf("%s: %d events, %d after everything was handled again", typ, types[typ], n)
		}
	}
}

// TestCancelled: what was cancelled stays so, whatever the payer says later.
func TestCancelled(t *testing.T) {
	p := carebustest.Open(t)
	if _, err := prescribing.Do(t.Context(), p, "RX1", create("896209")); err != nil {
		t.Fatal(err)
	}
	if _, err := prescribing.Do(t.Context(), p, "RX1", prescribing.Cancel{Reason: "allergy"}); err != nil {
		t.Fatal(err)
	}
	again, err := prescribing.Do(t.Context(), p, "RX1", prescribing.Cancel{Reason: "allergy"})
	if err != nil || again.Version != 2 {
		t.Errorf("cancelled twice: %+v, %v", again, err)
	}
	if err := prescribing.Join(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(t.Context(), catalog.StatusApprovedV1.New("priorauth-service", catalog.StatusApproved{PriorAuthID: "PA1", PatientID: "P1", PrescriptionID: ptr("RX1"), Status: "APPROVED"})); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	carebustest.Settle(t, p)
	if now, err := prescribing.Prescriptions.Load(t.Context(), p, "RX1"); err != nil || now.State.Status != "cancelled" || now.Version != 2 {
		t.Errorf("%+v, %v", now, err)
	}
}

// TestApprovedInPart: what may be filled is what the payer has approved, never more than was prescribed.
func TestApprovedInPart(t *testing.T) {
	for approved, want := range map[float64]float64{1: 1, 3: 3, 5: 3} {
		p := carebustest.Open(t)
		if err := prescribing.Join(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		carebustest.Run(t, p)
		rx, quantity := create("896209"), 3.0
		rx.Medication.Quantity = &quantity
		if _, err := prescribing.Do(t.Context(), p, "RX1", rx); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Publish(t.Context(), catalog.StatusApprovedV1.New("priorauth-service", catalog.StatusApproved{
			PriorAuthID: "PA1", PatientID: "P1", PrescriptionID: ptr("RX1"), Status: "APPROVED", ApprovedQuantity: &approved})); err != nil {
			t.Fatal(err)
		}
		carebustest.Settle(t, p)
		ready, err := p.Store().Type(t.Context(), eventstore.TypeQuery{Type: medication.PrescriptionReadyV1.Type(), Limit: 10})
		if err != nil || len(ready) != 1 {
			t.Fatalf("%d, %v", len(ready), err)
		}
		e, err := medication.PrescriptionReadyV1.Decode(ready[0].Event)
		if err != nil || *e.Payload.Medication.Quantity != want {
			t.Errorf("%g approved: %+v, %v; want %g to be filled", approved, e.Payload.Medication, err, want)
		}
		if now, err := prescribing.Prescriptions.Load(t.Context(), p, "RX1"); err != nil || *now.State.Medication.Quantity != 3 {
			t.Errorf("the prescription itself has changed: %+v, %v", now, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	p := carebustest.Open(t)
	refused := func(id string, c prescribing.Command, rule string) {
		t.Helper()
		_, err := prescribing.Do(t.Context(), p, id, c)
		var re *prescribing.RefusedError
		if !errors.As(err, &re) || re.Rule != rule || re.Remedy == "" {
			t.Errorf("%T: %v, want it refused by the rule %q", c, err, rule)
		}
	}
	nothing, none := create("x"), 0.0
	nothing.Medication.Quantity = &none
	refused("RX1", prescribing.Create{}, "value")
	refused("RX1", nothing, "value")
	refused("RX1", prescribing.Cancel{Reason: "x"}, "exists")
	if _, err := prescribing.Do(t.Context(), p, "RX1", create("x")); err != nil {
		t.Fatal(err)
	}
	refused("RX1", create("x"), "exists")
	refused("RX1", prescribing.Cancel{}, "value")
}

func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	p := openAt(dir)
	defer p.Close()
	now, err := prescribing.Do(context.Background(), p, "RX12345678", create("314076"))
	if err != nil {
		panic(err)
	}
	fmt.Println(now.State.Status)
	_, err = prescribing.Do(context.Background(), p, "RX12345678", create("314076"))
	fmt.Println(err)
	// Output:
	// active
	// prescribing: create refused: there is a prescription with this id [exists]; choose another id
}
