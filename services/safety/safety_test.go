package safety_test

import (
	"context"
	"fmt"
	"math/rand/v2"
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
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/fhir"
	"github.com/carebus/carebus/services/safety"
	"github.com/carebus/carebus/timer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is where the service works in these tests: a platform whose clock is moved by hand.
type desk struct {
	*carebus.Platform
	t      testing.TB
	clock  *carebustest.Clock
	store  *eventstore.Store
	timers *timer.Timers
}

func newDesk(t testing.TB, now time.Time) *desk {
	t.Helper()
	p, clock := carebustest.OpenAt(t, now)
	if err := safety.Join(t.Context(), p, safety.Options{}); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	return &desk{p, t, clock, p.Store(), p.Timers()}
}

func (d *desk) now() time.Time { return d.clock.Now() }

// receives publishes events, together, and waits until they are handled.
func (d *desk) receives(events ...event.Event) {
	d.t.Helper()
	if len(events) > 0 {
		if _, err := d.store.Append(d.t.Context(), "", eventstore.AnyVersion, events...); err != nil {
			d.t.Fatal(err)
		}
	}
	carebustest.Settle(d.t, d.Platform)
	dead, err := d.Bus().DeadLetters(d.t.Context(), bus.Filter{}, 10)
	if err != nil || len(dead) > 0 {
		d.t.Fatalf("parked: %+v, %v", dead, err)
	}
}

// until lets time pass, fires what is due and waits until it is handled.
func (d *desk) until(at time.Time) {
	d.t.Helper()
	d.clock.Jump(at.Sub(d.now()))
	d.receives()
}

func (d *desk) again() {
	d.t.Helper()
	if err := d.Bus().Seek(d.t.Context(), safety.Group, bus.Beginning(), bus.Act{Reason: "once more"}); err != nil {
		d.t.Fatal(err)
	}
	d.until(d.now())
}

func events[T any](d *desk, def event.Definition[T]) (out []T) {
	d.t.Helper()
	for r, err := range d.store.All(d.t.Context(), nil, func(typ string) bool { return typ == def.Type() }) {
		if err != nil {
			d.t.Fatal(err)
		}
		e, err := def.Decode(r.Event)
		if err != nil {
			d.t.Fatal(err)
		}
		out = append(out, e.Payload)
	}
	return out
}

// findings lists what was found: "RX2 DDI-NSAID-WARFARIN 849574+855332".
func (d *desk) findings() string {
	d.t.Helper()
	var out []string
	for _, f := range events(d, medication.InteractionDetectedV1) {
		var codes []string
		for _, m := range f.Medications {
			codes = append(codes, *m.Code.Code)
		}
		out = append(out, fmt.Sprint(*f.PrescriptionID, " ", *f.Code.Code, " ", strings.Join(codes, "+")))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

const (
	warfarin, naproxen, ibuprofen = "855332", "849574", "310965"
	verapamil, simvastatin        = "897718", "314231"
)

var monday = time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)

func days(n float64) time.Duration { return time.Duration(n * 24 * float64(time.Hour)) }

func ptr[T any](v T) *T { return &v }

func prescribed(id, code string, at time.Time, change func(*medication.PrescriptionCreated)) event.Event {
	rx := medication.PrescriptionCreated{
		PrescriptionID: id, PatientID: "P1", AuthoredOn: at,
		Medication: medication.Medication{Name: "drug " + code, Code: &medication.Codeable{System: ptr("http://www.nlm.nih.gov/research/umls/rxnorm"), Code: &code}, DaysSupply: ptr(int64(30))},
	}
	if change != nil {
		change(&rx)
	}
	return medication.PrescriptionCreatedV1.New("prescribing-service", rx)
}

func cancelled(id string, at time.Time) event.Event {
	return medication.PrescriptionCancelledV1.New("prescribing-service", medication.PrescriptionCancelled{PrescriptionID: id, PatientID: "P1", Reason: "changed", CancelledAt: at})
}

func fill(id, fillID, code string, at time.Time, change func(*medication.PrescriptionFilled)) event.Event {
	f := medication.PrescriptionFilled{
		PrescriptionID: id, PatientID: "P1", FillID: &fillID, FilledAt: at,
		Medication: medication.DispensedMedication{Name: ptr("drug " + code), Code: &medication.Codeable{Code: &code}, DaysSupply: ptr(int64(30))},
	}
	if change != nil {
		change(&f)
	}
	return medication.PrescriptionFilledV2.New("pharmacy-service", f)
}

// TestInteractions: what is found does not depend on the order in which the events arrive, and not on how often they are
// handled.
func TestInteractions(t *testing.T) {
	of := func(patientID string) func(*medication.PrescriptionCreated) {
		return func(rx *medication.PrescriptionCreated) { rx.PatientID = patientID }
	}
	all := []event.Event{
		prescribed("A1", warfarin, monday, nil),
		prescribed("A2", naproxen, monday.Add(days(10)), nil),   // found under A2
		prescribed("A3", ibuprofen, monday.Add(days(40)), nil),  // warfarin is used up
		prescribed("B1", verapamil, monday.Add(days(5)), nil),   //
		prescribed("B2", simvastatin, monday.Add(days(6)), nil), // cancelled the day before
		prescribed("B3", simvastatin, monday.Add(days(8)), nil), // found under B3
		prescribed("B4", verapamil, monday.Add(days(12)), nil),  // a renewal: found, since it is another prescription
		prescribed("C1", naproxen, monday, of("P2")),            // another patient
		prescribed("C2", warfarin, monday, func(rx *medication.PrescriptionCreated) { rx.Status = medication.PrescriptionStatusDraft }),                // not taken
		prescribed("C3", naproxen, monday, func(rx *medication.PrescriptionCreated) { rx.Medication.Code.System = ptr("http://snomed.info/sct") }),     // not that code
		prescribed("C4", "no-such", monday, func(rx *medication.PrescriptionCreated) { rx.Medication.Code = nil }),                                     // no code
		prescribed("D1", warfarin, monday.Add(days(200)), func(rx *medication.PrescriptionCreated) { rx.Refills = ptr(int64(1)) }),                     // 60 days
		prescribed("D2", ibuprofen, monday.Add(days(255)), nil),                                                                                        // in the refill's days
		prescribed("E1", warfarin, monday.Add(days(400)), nil),                                                                                         //
		fill("E1", "F1", warfarin, monday.Add(days(440)), nil),                                                                                         // filled late: lasts until 470
		prescribed("E2", naproxen, monday.Add(days(450)), nil),                                                                                         // and so is found
		prescribed("G1", ibuprofen, monday.Add(days(600)), func(rx *medication.PrescriptionCreated) { rx.Medication.DaysSupply = nil }),                // 90 days
		prescribed("G2", "11289", monday.Add(days(680)), func(rx *medication.PrescriptionCreated) { rx.Medication.Code.System = nil }),                 // by ingredient
		prescribed("G3", "999967", monday.Add(days(685)), func(rx *medication.PrescriptionCreated) { rx.Medication.DaysSupply = ptr(int64(1 << 60)) }), // three drugs in one
	}
	want := strings.Join([]string{
		"A2 DDI-NSAID-WARFARIN 849574+855332",
		"B3 DDI-VERAPAMIL-SIMVASTATIN 314231+897718",
		"B4 DDI-VERAPAMIL-SIMVASTATIN 897718+314231",
		"D2 DDI-NSAID-WARFARIN 310965+855332",
		"E2 DDI-NSAID-WARFARIN 849574+855332",
		"G2 DDI-NSAID-WARFARIN 11289+310965",
		"G3 DDI-ARB-NSAID 999967+310965",
	}, "\n")
	for seed := range uint64(4) {
		shuffled := slices.Clone(all)
		if seed > 0 {
			rand.New(rand.NewPCG(seed, 1)).Shuffle(len(all), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		}
		d := newDesk(t, monday)
		d.receives(cancelled("B2", monday.Add(days(5)))) // before it is known
		for _, e := range shuffled {
			d.receives(e)
		}
		if got := d.findings(); got != want {
			t.Errorf("order %d:\n%s\nwant\n%s", seed, got, want)
		}
		d.again()
		if got := d.findings(); got != want {
			t.Errorf("order %d, handled twice:\n%s", seed, got)
		}
		if seed > 0 {
			continue
		}
		f := events(d, medication.InteractionDetectedV1)[0]
		if f.PatientID != "P1" || f.Severity != medication.InteractionSeverityHigh || *f.Medications[0].PrescriptionID != "A2" || *f.Medications[1].PrescriptionID != "A1" ||
			!strings.HasPrefix(f.Source, "carebus-reference 1.0.0: ") || *f.Recommendation == "" || !f.DetectedAt.Equal(monday) {
			t.Errorf("%+v", f)
		}
	}
}

// TestAdherence: a refill in time takes back the timer; a refill that does not come is reported once, on its day.
func TestAdherence(t *testing.T) {
	d := newDesk(t, monday)
	reports := func() string {
		t.Helper()
		var out []string
		for _, r := range events(d, medication.AdherenceReportedV1) {
			out = append(out, fmt.Sprintf("%s %s %.3f until %s", *r.ReportID, r.Status, *r.ProportionOfDaysCovered, r.Period.End.Format("01-02")))
		}
		return strings.Join(out, "; ")
	}
	expect := func(what string, want ...string) {
		t.Helper()
		if got := reports(); got != strings.Join(want, "; ") {
			t.Errorf("%s: %s\nwant %s", what, got, strings.Join(want, "; "))
		}
	}
	left := func(n int64) func(*medication.PrescriptionFilled) {
		return func(f *medication.PrescriptionFilled) { f.RefillsRemaining = &n }
	}
	d.receives(
		prescribed("R1", simvastatin, monday, func(rx *medication.PrescriptionCreated) { rx.Refills = ptr(int64(5)) }),
		fill("R1", "F1", simvastatin, monday, nil),
		fill("R2", "X1", "308182", monday, left(0)), // an antibiotic: no refill is expected
	)
	d.until(monday.Add(days(28)))
	d.receives(fill("R1", "F2", simvastatin, d.now(), nil)) // two days early: they are not lost
	first := "refill/F2 adherent 1.000 until 03-30"
	expect("after the refill", first)
	d.until(monday.Add(days(66.5)))
	expect("within the grace after 60 days", first)
	d.again()
	d.until(monday.Add(days(67)))
	second := "missed/F2 partially-adherent 0.896 until 05-08" // 60 of 67 days
	expect("a week after the supply", first, second)
	d.until(monday.Add(days(90)))
	d.again()
	expect("handled again", first, second)

	d.receives(fill("R1", "F3", simvastatin, d.now(), nil))
	third := "refill/F3 partially-adherent 0.667 until 05-31" // 60 of 90 days
	expect("the late refill", first, second, third)
	d.receives(medication.PrescriptionReturnedV1.New("pharmacy-service", medication.PrescriptionReturned{PrescriptionID: "R1", PatientID: "P1"}))
	d.until(d.now())
	expect("it went back: the refill is missed as before, and that was said", first, second, third)
	if pending, err := d.timers.Pending(t.Context(), "", 10); err != nil || len(pending) != 0 {
		t.Errorf("%+v, %v", pending, err)
	}
}

// TestAdherenceOfPickups: a fill counts from the day it was picked up; a cancelled therapy misses no refill; a report is
// made for each refill, whatever arrives first; what was missed long ago is history.
func TestAdherenceOfPickups(t *testing.T) {
	d := newDesk(t, monday)
	past := monday.AddDate(-3, 0, 0)
	rx := func(id, code string, at time.Time) event.Event {
		return prescribed(id, code, at, func(rx *medication.PrescriptionCreated) { rx.Refills = ptr(int64(9)) })
	}
	pickup := func(id, fillID string, at time.Time) event.Event {
		return medication.PrescriptionPickedUpV1.New("pharmacy-service", medication.PrescriptionPickedUp{PrescriptionID: id, PatientID: "P1", FillID: &fillID, PickedUpAt: at})
	}
	d.receives(
		rx("R1", simvastatin, monday), pickup("R1", "F1", monday.Add(days(3))), fill("R1", "F1", simvastatin, monday, nil),
		rx("R2", verapamil, monday), fill("R2", "G1", verapamil, monday, nil),
		rx("R3", "310798", past), fill("R3", "H3", "310798", past.Add(days(60)), nil),
	)
	d.receives(fill("R3", "H1", "310798", past, nil))
	d.receives(fill("R4", "H2", "310798", past.Add(days(30)), nil)) // the same drug under another prescription
	pending, err := d.timers.Pending(t.Context(), "", 10)
	if err != nil || len(pending) != 2 {
		t.Errorf("%d timers, %v; want those of R1 and R2", len(pending), err)
	}
	d.receives(cancelled("R2", monday.Add(days(1))))
	pending, err = d.timers.Pending(t.Context(), "", 10)
	if want := monday.Truncate(days(1)).Add(days(3 + 30 + 7)); err != nil || len(pending) != 1 || !pending[0].At.Equal(want) {
		t.Errorf("%+v, %v; want that of R1 at %v", pending, err, want)
	}
	var got []string
	for _, r := range events(d, medication.AdherenceReportedV1) {
		got = append(got, fmt.Sprintf("%s %.2f", *r.ReportID, *r.ProportionOfDaysCovered))
	}
	if want := "refill/H3 0.50; refill/H2 1.00"; strings.Join(got, "; ") != want {
		t.Errorf("%s\nwant %s", strings.Join(got, "; "), want)
	}
}

// TestFHIRData runs the prescriptions of real-looking records through the service: its rules fire, and a second run of the
// group finds nothing more.
func TestFHIRData(t *testing.T) {
	root := os.Getenv("CAREBUS_TEST_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "data")
	}
	folders, err := filepath.Glob(filepath.Join(root, "fhir-dev", "synthea*"))
	if err != nil || len(folders) == 0 {
		t.Skipf("no records in %s (CAREBUS_TEST_DATA names the folder above fhir-dev)", filepath.Join(root, "fhir-dev"))
	}
	if testing.Short() {
		t.Skip("reads all FHIR test data")
	}
	d := newDesk(t, monday)
	var all []event.Event
	_, err = fhir.New(nil).Run(t.Context(), folders, func(_ context.Context, items []fhir.Item) error {
		for _, item := range items {
			if strings.HasPrefix(item.Event.Type, "medication.prescription.") {
				all = append(all, item.Event)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for some := range slices.Chunk(all, 500) {
		d.receives(some...)
	}
	byRule := map[string]int{}
	for _, f := range events(d, medication.InteractionDetectedV1) {
		byRule[*f.Code.Code]++
	}
	t.Logf("%d events: %v", len(all), byRule)
	for _, rule := range []string{"DDI-NSAID-WARFARIN", "DDI-VERAPAMIL-SIMVASTATIN", "DDI-DIGOXIN-VERAPAMIL", "DDI-AMLODIPINE-SIMVASTATIN"} {
		if byRule[rule] == 0 {
			t.Errorf("%s was found nowhere", rule)
		}
	}
	before := d.findings()
	d.again()
	if d.findings() != before {
		t.Error("handling the records again found something else")
	}
}
