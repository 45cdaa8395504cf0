package fulfillment_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/catalog/medication"
	"github.com/carebus/carebus/catalog/payment"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/saga"
	"github.com/carebus/carebus/services/fulfillment"
	"github.com/carebus/carebus/services/pharmacy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ptr[T any](v T) *T { return &v }

const ndc = "12345-6789-10"

// running is a platform with the service, 100 tablets in stock, and a payer that answers every claim with answer.
func running(t *testing.T, o fulfillment.Options, answer func(c payment.ClaimSubmitted) []event.Event) *carebus.Platform {
	t.Helper()
	p := carebustest.Open(t)
	if err := fulfillment.Join(t.Context(), p, o); err != nil {
		t.Fatal(err)
	}
	if err := p.Handle("test-payer", bus.On(payment.ClaimSubmittedV1, func(_ context.Context, tx bus.Tx, e event.Of[payment.ClaimSubmitted]) error {
		return tx.Append(answer(e.Payload)...)
	})); err != nil {
		t.Fatal(err)
	}
	if _, err := pharmacy.Do(t.Context(), p, "PHARM123", ndc, pharmacy.Receive{Quantity: 100}); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	return p
}

func pays(c payment.ClaimSubmitted) []event.Event {
	share, rest := catalog.USD(350), *c.Total-350
	return []event.Event{payment.ClaimApprovedV1.New("payer-service", payment.ClaimApproved{ClaimID: c.ClaimID, PatientID: c.PatientID, PrescriptionID: c.PrescriptionID, PatientPay: &share, InsurancePay: &rest})}
}

func rejects(c payment.ClaimSubmitted) []event.Event {
	return []event.Event{payment.ClaimRejectedV1.New("payer-service", payment.ClaimRejected{ClaimID: c.ClaimID, RejectCodes: []payment.RejectCode{{Code: ptr("79")}}})}
}

// prescribe makes a prescription that is ready to be filled.
func prescribe(t *testing.T, p *carebus.Platform, id string, quantity float64, change func(*medication.PrescriptionCreated)) {
	t.Helper()
	rx := medication.PrescriptionCreated{
		PrescriptionID: id, PatientID: "P1", Medication: medication.Medication{Name: "Lisinopril", NDC: ptr(ndc), Quantity: &quantity, DaysSupply: ptr(int64(30))},
		Prescriber: &medication.Prescriber{ID: ptr("PROV456")},
	}
	if change != nil {
		change(&rx)
	}
	ready := medication.PrescriptionReady{PrescriptionID: id, PatientID: "P1", Medication: &rx.Medication}
	publish(t, p, medication.PrescriptionCreatedV1.New("test", rx))
	carebustest.Settle(t, p)
	publish(t, p, medication.PrescriptionReadyV1.New("test", ready))
	carebustest.Settle(t, p)
}

func publish(t *testing.T, p *carebus.Platform, e event.Event) {
	t.Helper()
	if _, err := p.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// ended waits until an instance has the status.
func ended(t *testing.T, p *carebus.Platform, prescriptionID string, want saga.Status) saga.Detail {
	t.Helper()
	for tick := p.Store().Tick(); ; {
		d, err := saga.Show(t.Context(), p.Store(), fulfillment.ID(prescriptionID))
		if err == nil && d.Status == want {
			carebustest.Settle(t, p)
			return d
		}
		if tick, err = p.Store().Wait(t.Context(), tick); err != nil {
			t.Fatalf("%+v, %v", d, err)
		}
	}
}

// story is the medication's and payer's events of a prescription's flow, in order, without domains.
func story(t *testing.T, p *carebus.Platform, prescriptionID string) string {
	t.Helper()
	var out []string
	for r, err := range p.Store().All(t.Context(), nil, func(typ string) bool {
		return strings.HasPrefix(typ, "medication.") || strings.HasPrefix(typ, "payment.")
	}) {
		if err != nil {
			t.Fatal(err)
		}
		text := string(r.Payload)
		if !strings.Contains(text, `"prescriptionId":"`+prescriptionID+`"`) || r.Source == "test" {
			continue
		}
		name := strings.TrimPrefix(strings.TrimPrefix(r.Type, "medication."), "payment.")
		switch r.Type {
		case medication.FulfillmentStepCompletedV1.Type():
			e, err := medication.FulfillmentStepCompletedV1.Decode(r.Event)
			if err != nil {
				t.Fatal(err)
			}
			name = "done:" + string(e.Payload.Step)
		case medication.FulfillmentCompensatedV1.Type():
			e, err := medication.FulfillmentCompensatedV1.Decode(r.Event)
			if err != nil {
				t.Fatal(err)
			}
			name = "undone:" + string(e.Payload.Step)
		case medication.FulfillmentFailedV1.Type():
			e, err := medication.FulfillmentFailedV1.Decode(r.Event)
			if err != nil {
				t.Fatal(err)
			}
			name = fmt.Sprint("failed:", e.Payload.Reason, e.Payload.Compensated)
		}
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

func stock(t *testing.T, p *carebus.Platform) (onHand, available float64) {
	t.Helper()
	s, err := pharmacy.Stocks.Load(t.Context(), p, pharmacy.ID("PHARM123", ndc))
	if err != nil {
		t.Fatal(err)
	}
	return s.State.OnHand, s.State.Available()
}

// TestFulfilled: every step is done, the patient comes, and the stock is less.
func TestFulfilled(t *testing.T) {
	p := running(t, fulfillment.Options{}, pays)
	prescribe(t, p, "RX1", 30, nil)
	publish(t, p, medication.PrescriptionPickedUpV1.New("test", medication.PrescriptionPickedUp{PrescriptionID: "RX1", PatientID: "P1"}))
	ended(t, p, "RX1", saga.Completed)
	if got, want := story(t, p, "RX1"), "fulfillment.started prescription.verified done:verify inventory.reserved done:reserve claim.submitted claim.approved "+
		"inventory.adjusted done:claim prescription.filled done:fill prescription.ready-for-pickup fulfillment.completed done:notify"; !sameSteps(got, want) {
		t.Errorf("%s\nwant %s", got, want)
	}
	if onHand, available := stock(t, p); onHand != 70 || available != 70 {
		t.Errorf("%g on hand, %g available", onHand, available)
	}
	r, err := p.Store().Type(t.Context(), eventstore.TypeQuery{Type: medication.PrescriptionFilledV2.Type(), Limit: 10})
	if err != nil || len(r) != 1 {
		t.Fatal(err)
	}
	filled, err := medication.PrescriptionFilledV2.Decode(r[0].Event)
	if err != nil || *filled.Payload.Cost.PatientPay != 350 || *filled.Payload.Cost.InsurancePay != 3200 || *filled.Payload.Prescriber.ID != "PROV456" {
		t.Errorf("%+v, %v", filled.Payload, err)
	}
}

// sameSteps compares two stories as sets of words that are all there: partitions interleave.
func sameSteps(got, want string) bool {
	a, b := strings.Fields(got), strings.Fields(want)
	count := map[string]int{}
	for _, w := range a {
		count[w]++
	}
	for _, w := range b {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// TestFailures: each failure undoes what was done, in reverse, and says so.
func TestFailures(t *testing.T) {
	begun := "fulfillment.started "
	verified := begun + "prescription.verified done:verify "
	reserved := verified + "inventory.reserved done:reserve "
	for name, c := range map[string]struct {
		answer   func(payment.ClaimSubmitted) []event.Event
		o        fulfillment.Options
		quantity float64
		change   func(*medication.PrescriptionCreated)
		want     string
		undone   []string
	}{
		"expired": {pays, fulfillment.Options{}, 30, func(rx *medication.PrescriptionCreated) { rx.ExpiresOn = ptr("2020-01-01") },
			begun + "failed:expired[]", nil},
		"no prescriber": {pays, fulfillment.Options{}, 30, func(rx *medication.PrescriptionCreated) { rx.Prescriber = nil },
			begun + "failed:prescriber-unknown[]", nil},
		"out of stock": {pays, fulfillment.Options{}, 101, nil, verified + "failed:out-of-stock[]", nil},
		"claim rejected": {rejects, fulfillment.Options{}, 30, nil,
			reserved + "claim.submitted undone:claim inventory.released undone:reserve failed:claim-rejected-79[claim reserve]", []string{"claim", "reserve"}},
		"nobody answers": {func(payment.ClaimSubmitted) []event.Event { return nil }, fulfillment.Options{PayerAnswers: 300 * time.Millisecond}, 30, nil,
			reserved + "claim.submitted undone:claim inventory.released undone:reserve failed:timeout[claim reserve]", []string{"claim", "reserve"}},
		"nobody comes": {pays, fulfillment.Options{PickupWindow: 300 * time.Millisecond}, 30, nil,
			reserved + "claim.submitted claim.approved inventory.adjusted done:claim prescription.filled done:fill prescription.ready-for-pickup fulfillment.completed done:notify " +
				"inventory.adjusted prescription.returned undone:fill claim.voided undone:claim undone:reserve failed:timeout[fill claim reserve]", []string{"fill", "claim", "reserve"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := running(t, c.o, c.answer)
			prescribe(t, p, "RX1", c.quantity, c.change)
			d := ended(t, p, "RX1", saga.Failed)
			if got := story(t, p, "RX1"); !sameSteps(got, c.want) {
				t.Errorf("%s\nwant %s", got, c.want)
			}
			if fmt.Sprint(d.Undone) != fmt.Sprint(c.undone) {
				t.Errorf("undone %v, want %v", d.Undone, c.undone)
			}
			if onHand, available := stock(t, p); onHand != 100 || available != 100 {
				t.Errorf("%g on hand, %g available; want what was there", onHand, available)
			}
		})
	}
}

// TestReadyTwice: one fulfilment for a prescription, however often it is said to be ready or the group sent back.
func TestReadyTwice(t *testing.T) {
	p := running(t, fulfillment.Options{}, rejects)
	prescribe(t, p, "RX1", 30, nil)
	ended(t, p, "RX1", saga.Failed)
	publish(t, p, medication.PrescriptionReadyV1.New("test", medication.PrescriptionReady{PrescriptionID: "RX1", PatientID: "P1"}))
	carebustest.Settle(t, p)
	if err := p.Bus().Replay(t.Context(), fulfillment.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
		t.Fatal(err)
	}
	carebustest.Settle(t, p)
	types, err := p.Store().Types(t.Context())
	if err != nil || types["medication.fulfillment.started"] != 1 || types["medication.fulfillment.failed"] != 1 {
		t.Errorf("%v, %v", types, err)
	}
}

func Example() {
	dir, err := os.MkdirTemp("", "carebus-example-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(dir, "care.db"), nil)
	if err != nil {
		panic(err)
	}
	defer p.Close()
	if err := fulfillment.Join(ctx, p, fulfillment.Options{PickupWindow: 14 * 24 * time.Hour}); err != nil {
		panic(err)
	}
	sagas, err := saga.List(ctx, p.Store(), saga.Query{Saga: fulfillment.Name})
	fmt.Println(len(sagas), "fulfilments", err)
	// Output: 0 fulfilments <nil>
}

// TestCancelledByAPerson: a fulfilment that waits for the pickup is undone when somebody says so.
func TestCancelledByAPerson(t *testing.T) {
	p := running(t, fulfillment.Options{}, pays)
	prescribe(t, p, "RX1", 30, nil)
	if err := saga.Cancel(t.Context(), p.Store(), fulfillment.ID("RX1"), saga.Act{Reason: "wrong patient"}); err != nil {
		t.Fatal(err)
	}
	d := ended(t, p, "RX1", saga.Cancelled)
	if fmt.Sprint(d.Undone) != "[fill claim reserve]" {
		t.Errorf("undone %v", d.Undone)
	}
	if onHand, available := stock(t, p); onHand != 100 || available != 100 {
		t.Errorf("%g on hand, %g available", onHand, available)
	}
}

// TestAuthorizationAfterRejection: a claim that was rejected for want of an authorization is made again when there is one,
// whether it becomes known before everything is undone or after, and only once.
func TestAuthorizationAfterRejection(t *testing.T) {
	for _, early := range []bool{true, false} {
		t.Run(fmt.Sprint("early=", early), func(t *testing.T) {
			ready := medication.PrescriptionReadyV1.New("test", medication.PrescriptionReady{PrescriptionID: "RX1", PatientID: "P1", PriorAuthID: ptr("PA1"), AuthNumber: ptr("AUTH1"),
				Medication: &medication.Medication{Name: "Lisinopril", NDC: ptr(ndc), Quantity: ptr(30.0)}})
			p := running(t, fulfillment.Options{}, func(c payment.ClaimSubmitted) []event.Event {
				switch {
				case c.PriorAuthNumber != nil:
					return pays(c)
				case early:
					return append(rejects(c), ready)
				}
				return rejects(c)
			})
			prescribe(t, p, "RX1", 30, nil)
			ended(t, p, "RX1", saga.Failed)
			if !early {
				publish(t, p, ready)
			}
			carebustest.Settle(t, p)
			publish(t, p, medication.PrescriptionReadyV1.New("test", medication.PrescriptionReady{PrescriptionID: "RX1", PatientID: "P1", AuthNumber: ptr("AUTH1")}))
			if err := p.Bus().Replay(t.Context(), fulfillment.Group, bus.Beginning(), bus.End(), bus.Act{Reason: "once more"}); err != nil {
				t.Fatal(err)
			}
			carebustest.Settle(t, p)
			d, err := saga.Show(t.Context(), p.Store(), fulfillment.ID("RX1")+"-2")
			if err != nil || d.Step != "pickup" {
				t.Errorf("%+v, %v; want the second attempt to wait for the pickup", d, err)
			}
			types, err := p.Store().Types(t.Context())
			if err != nil || types["medication.fulfillment.started"] != 2 || types["medication.prescription.filled"] != 1 || types["payment.claim.approved"] != 1 {
				t.Errorf("%v, %v", types, err)
			}
			if onHand, available := stock(t, p); onHand != 70 || available != 70 {
				t.Errorf("%g on hand, %g available; want 70", onHand, available)
			}
		})
	}
}

// TestQueue: the pharmacy's work, from what may be filled to what was handed over, and what cannot be filled.
func TestQueue(t *testing.T) {
	p := running(t, fulfillment.Options{}, pays)
	queue := func(stage pharmacy.Stage) (out string) {
		t.Helper()
		work, err := pharmacy.WorkOf(t.Context(), p.Store(), "PHARM123", stage, 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range work {
			out += fmt.Sprintf("%s:%s:%s;", w.PrescriptionID, w.Stage, w.Reason)
			if w.PatientID != "P1" || w.MedicationName != "Lisinopril" || w.Since.IsZero() || (w.Stage == pharmacy.StagePickup) != !w.PickupBy.IsZero() {
				t.Errorf("%+v", w)
			}
		}
		return out
	}
	prescribe(t, p, "RX1", 30, nil)
	prescribe(t, p, "RX2", 80, nil) // more than there is
	if got := queue(""); got != "RX1:ready-for-pickup:;RX2:cannot-be-filled:out-of-stock;" {
		t.Errorf("%s", got)
	}
	if got := queue(pharmacy.StageHold); got != "RX2:cannot-be-filled:out-of-stock;" {
		t.Errorf("%s", got)
	}
	if _, err := pharmacy.Do(t.Context(), p, "PHARM123", ndc, pharmacy.HandOver{ID: "RX1", PatientID: "P1"}); err != nil {
		t.Fatal(err)
	}
	ended(t, p, "RX1", saga.Completed)
	if got := queue(""); got != "RX2:cannot-be-filled:out-of-stock;" {
		t.Errorf("%s", got)
	}
}
