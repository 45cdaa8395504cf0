package carebustest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/carebus/carebus/aggregate"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog/patient"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/timer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ptr[T any](v T) *T { return &v }

// TestSettle: a chain of reactions over two groups is waited for to its end.
func TestSettle(t *testing.T) {
	p := carebustest.Open(t)
	var seen atomic.Int64
	enroll := func(name string) event.Event {
		return patient.EnrolledV1.New("test", patient.Enrolled{PatientID: "P1", Program: patient.EnrolledProgram{Name: name}})
	}
	err := errors.Join(
		p.Handle("a", bus.On(patient.RecordCreatedV1, func(_ context.Context, tx bus.Tx, _ event.Of[patient.RecordCreated]) error {
			return tx.Append(enroll("x"))
		})),
		p.Handle("b", bus.On(patient.EnrolledV1, func(_ context.Context, tx bus.Tx, e event.Of[patient.Enrolled]) error {
			if seen.Add(1); len(e.Payload.Program.Name) < 10 {
				return tx.Append(enroll(e.Payload.Program.Name + "x"))
			}
			return nil
		})),
	)
	if err != nil {
		t.Fatal(err)
	}
	stop := carebustest.Run(t, p)
	if _, err := p.Publish(t.Context(), patient.RecordCreatedV1.New("test", patient.RecordCreated{PatientID: "P1"})); err != nil {
		t.Fatal(err)
	}
	carebustest.Settle(t, p)
	if n := seen.Load(); n != 10 {
		t.Errorf("%d reactions, want 10", n)
	}
	stop()
}

var errNobody = errors.New("there is no such patient")

type phone struct{ Number string }

var phones = aggregate.Define("patient.record",
	aggregate.On(patient.RecordCreatedV1, func(s *phone, e event.Of[patient.RecordCreated]) { s.Number = "none" }),
	aggregate.On(patient.ContactChangedV1, func(s *phone, e event.Of[patient.ContactChanged]) { s.Number = *e.Payload.PhoneNumber }),
)

func call(number string) aggregate.Decide[phone] {
	return func(s phone) ([]event.Event, error) {
		switch s.Number {
		case "":
			return nil, errNobody
		case number:
			return nil, nil
		}
		return []event.Event{changed(number)}, nil
	}
}

func changed(number string) event.Event {
	return patient.ContactChangedV1.New("test", patient.ContactChanged{PatientID: "P1", PhoneNumber: &number, ChangedBy: ptr("by " + number)})
}

var created = patient.RecordCreatedV1.New("test", patient.RecordCreated{PatientID: "P1"})

func TestStory(t *testing.T) {
	s := carebustest.Given(t, phones, created).When(call("1")).Then(changed("1")).When(call("1")).Then().When(call("2")).Then(changed("2"))
	if got := s.State().Number; got != "2" {
		t.Errorf("in the end the number is %s", got)
	}
	refused := carebustest.Given(t, phones).When(call("1"))
	refused.ThenRefused(errNobody)
	if !errors.Is(refused.Err(), errNobody) {
		t.Errorf("the error is %v", refused.Err())
	}
	other := patient.ContactChangedV1.New("test", patient.ContactChanged{PatientID: "P1", PhoneNumber: ptr("1"), ChangedBy: ptr("somebody else")})
	carebustest.Given(t, phones, created).Ignoring("changedBy").When(call("1")).Then(other)
}

// failures records what a story says of a test.
type failures struct {
	testing.TB
	said []string
}

func (f *failures) Helper() {}
func (f *failures) Errorf(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

// TestStoryFails: what does not follow fails the test, and is named.
func TestStoryFails(t *testing.T) {
	for want, tell := range map[string]func(tb testing.TB){
		"event 1, patient.contact.changed, is": func(tb testing.TB) { carebustest.Given(tb, phones, created).When(call("1")).Then(changed("2")) },
		"want no more events":                  func(tb testing.TB) { carebustest.Given(tb, phones, created).When(call("1")).Then() },
		"event 2 is missing": func(tb testing.TB) {
			carebustest.Given(tb, phones, created).When(call("1")).Then(changed("1"), changed("1"))
		},
		"event 1 is patient.contact.changed": func(tb testing.TB) { carebustest.Given(tb, phones, created).When(call("1")).Then(created) },
		"not refused":                        func(tb testing.TB) { carebustest.Given(tb, phones, created).When(call("1")).ThenRefused(nil) },
		"refused with there is no such patient, want EOF": func(tb testing.TB) {
			carebustest.Given(tb, phones).When(call("1")).ThenRefused(errors.New("EOF"))
		},
	} {
		f := &failures{TB: t}
		tell(f)
		if len(f.said) != 1 || !strings.Contains(f.said[0], want) {
			t.Errorf("%q was said, want %q", f.said, want)
		}
	}
}

func ExampleGiven() {
	t := &testing.T{} // the test's own
	story := carebustest.Given(t, phones, created).
		When(call("614-555-1234")).
		Then(changed("614-555-1234"))
	fmt.Println(story.State().Number)
	// Output: 614-555-1234
}

// TestWhenThen: what a service states is what followed, not what was published or said before.
func TestWhenThen(t *testing.T) {
	p := carebustest.Open(t)
	err := p.Handle("a", bus.On(patient.RecordCreatedV1, func(_ context.Context, tx bus.Tx, e event.Of[patient.RecordCreated]) error {
		return tx.Append(patient.EnrolledV1.New("test", patient.Enrolled{PatientID: e.Payload.PatientID, Program: patient.EnrolledProgram{Name: "x"}}))
	}))
	if err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	for i := range 3 {
		id := fmt.Sprint("P", i)
		news := carebustest.When(t, p, patient.RecordCreatedV1.New("test", patient.RecordCreated{PatientID: id}))
		if enrolled := carebustest.Then(t, news, patient.EnrolledV1); len(news) != 1 || len(enrolled) != 1 || enrolled[0].PatientID != id {
			t.Errorf("%v", news)
		}
	}
	if news := carebustest.When(t, p); len(news) != 0 {
		t.Errorf("%v", news)
	}
}

// TestClock: timers fire in their order, each at its own time, and what follows from one is settled before the next.
func TestClock(t *testing.T) {
	start := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	p, clock := carebustest.OpenAt(t, start)
	remind := func(name string, at time.Duration, tx timer.Tx, ctx context.Context) error {
		return p.Timers().SetTx(ctx, tx, name, start.Add(at), patient.EnrolledV1.New("test", patient.Enrolled{PatientID: "P1", Program: patient.EnrolledProgram{Name: name}}))
	}
	var seen []string
	err := errors.Join(
		p.Handle("a", bus.On(patient.RecordCreatedV1, func(ctx context.Context, tx bus.Tx, _ event.Of[patient.RecordCreated]) error {
			return errors.Join(remind("late", 72*time.Hour, tx, ctx), remind("early", 24*time.Hour, tx, ctx), remind("never", 48*time.Hour, tx, ctx), remind("far", 999*time.Hour, tx, ctx))
		})),
		p.Handle("b", bus.On(patient.EnrolledV1, func(ctx context.Context, tx bus.Tx, e event.Of[patient.Enrolled]) error {
			seen = append(seen, fmt.Sprint(e.Payload.Program.Name, " ", tx.Now().Sub(start)))
			if e.Payload.Program.Name == "early" {
				_, err := p.Timers().CancelTx(tx, "never")
				return errors.Join(err, remind("next", 36*time.Hour, tx, ctx))
			}
			return nil
		})),
	)
	if err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	if _, err := p.Publish(t.Context(), patient.RecordCreatedV1.New("test", patient.RecordCreated{PatientID: "P1"}).At(start)); err != nil {
		t.Fatal(err)
	}
	clock.Advance(23 * time.Hour)
	if len(seen) != 0 {
		t.Errorf("%v, before its time", seen)
	}
	clock.Advance(100 * time.Hour)
	if got := strings.Join(seen, "; "); got != "early 24h0m0s; next 36h0m0s; late 72h0m0s" {
		t.Errorf("%s", got)
	}
	if got := clock.Now().Sub(start); got != 123*time.Hour {
		t.Errorf("it is %v later", got)
	}
}

// TestFaultsAreUndone: every event has its effect once, however many runs fail.
func TestFaultsAreUndone(t *testing.T) {
	p := carebustest.Open(t)
	if err := p.Store().Migrate(t.Context(), "test", `CREATE TABLE counted (id TEXT PRIMARY KEY, n BIGINT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	var runs atomic.Int64
	err := p.Handle("a", bus.On(patient.RecordCreatedV1, func(_ context.Context, tx bus.Tx, e event.Of[patient.RecordCreated]) error {
		runs.Add(1)
		_, err := tx.Exec(`INSERT INTO counted (id, n) VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = counted.n + 1`, e.Payload.PatientID)
		return err
	}), carebustest.Faults(1, 0.3))
	if err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	const n = 100
	for i := range n {
		if _, err := p.Publish(t.Context(), patient.RecordCreatedV1.New("test", patient.RecordCreated{PatientID: fmt.Sprint("P", i)})); err != nil {
			t.Fatal(err)
		}
	}
	carebustest.Settle(t, p)
	var rows, sum int64
	err = p.Store().View(t.Context(), func(q eventstore.Querier) error {
		return q.QueryRowContext(t.Context(), `SELECT COUNT(*), SUM(n) FROM counted`).Scan(&rows, &sum)
	})
	if err != nil || rows != n || sum != n || runs.Load() == n {
		t.Errorf("%d rows, %d effects of %d events in %d runs, %v", rows, sum, n, runs.Load(), err)
	}
}
