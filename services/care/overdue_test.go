package care_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/carebustest"
	carecatalog "github.com/carebus/carebus/catalog/care"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/care"
	"github.com/carebus/carebus/timer"
)

// ward is where the service works in these tests: a platform whose clock is moved by hand.
type ward struct {
	*carebus.Platform
	t      *testing.T
	clock  *carebustest.Clock
	store  *eventstore.Store
	timers *timer.Timers
}

func newWard(t *testing.T) *ward {
	t.Helper()
	p, clock := carebustest.OpenAt(t, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC))
	if err := care.Join(t.Context(), p, care.Options{}); err != nil {
		t.Fatal(err)
	}
	carebustest.Run(t, p)
	return &ward{p, t, clock, p.Store(), p.Timers()}
}

func (w *ward) now() time.Time { return w.clock.Now() }

// settle waits until everything is handled, and what followed from it.
func (w *ward) settle() {
	w.t.Helper()
	carebustest.Settle(w.t, w.Platform)
}

// passes lets time pass and fires what is due; settle has it handled.
func (w *ward) passes(d time.Duration) {
	w.t.Helper()
	w.clock.Jump(d)
}

func (w *ward) assign(id, who string, due time.Time) {
	w.t.Helper()
	if _, err := care.Assign(w.t.Context(), w, id, assign(who, due)); err != nil {
		w.t.Fatal(err)
	}
	w.settle()
}

// overdue lists what was stated to be overdue: "T1 ann 03-02 10:00", in the order of the log of each task.
func (w *ward) overdue() string {
	w.t.Helper()
	var out []string
	for r, err := range w.store.All(w.t.Context(), nil, func(typ string) bool { return typ == carecatalog.TaskOverdueV1.Type() }) {
		if err != nil {
			w.t.Fatal(err)
		}
		e, err := carecatalog.TaskOverdueV1.Decode(r.Event)
		if err != nil {
			w.t.Fatal(err)
		}
		if want := care.Tasks.Stream(e.Payload.TaskID); r.Stream != want {
			w.t.Errorf("stated in %q and not in the history of the task, %q", r.Stream, want)
		}
		out = append(out, fmt.Sprint(e.Payload.TaskID, " ", *e.Payload.Assignee.ID, " ", e.Payload.DueAt.UTC().Format("01-02 15:04")))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func (w *ward) expect(what, want string) {
	w.t.Helper()
	if got := w.overdue(); got != want {
		w.t.Errorf("%s: %q\nwant %q", what, got, want)
	}
}

func (w *ward) pending() int {
	w.t.Helper()
	list, err := w.timers.Pending(w.t.Context(), "", 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	return len(list)
}

func TestOverdue(t *testing.T) {
	w := newWard(t)
	start := w.now()
	w.assign("T1", "ann", start.Add(time.Hour))
	w.assign("T2", "ann", start.Add(time.Hour)) // will be completed
	w.assign("T3", "ann", start.Add(time.Hour)) // will get more time
	w.assign("T4", "ann", time.Time{})
	w.assign("T5", "ann", start.Add(time.Hour+999*time.Nanosecond)) // finer than the timers
	if n := w.pending(); n != 4 {
		t.Fatalf("%d timers, want one for each task with a time", n)
	}
	if _, err := care.Complete(t.Context(), w, "T2", care.CompleteTask{}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.assign("T3", "ann", start.Add(3*time.Hour))
	if n := w.pending(); n != 3 {
		t.Errorf("%d timers, want none for the completed task", n)
	}
	w.passes(time.Hour - time.Microsecond)
	w.settle()
	w.expect("a moment before", "")
	w.passes(time.Microsecond)
	w.settle()
	w.passes(time.Microsecond)
	w.settle()
	due := "T1 ann 03-02 10:00; T5 ann 03-02 10:00"
	w.expect("after an hour", due)
	tasks, err := care.TasksOf(t.Context(), w.store, "ann", 10)
	if err != nil || len(tasks) != 4 || !tasks[0].Overdue || tasks[0].TaskID != "T1" || tasks[2].Overdue {
		t.Errorf("ann's work: %+v, %v", tasks, err)
	}
	w.assign("T1", "bob", time.Time{}) // given on, as late as it is
	w.passes(0)
	w.settle()
	w.expect("given to bob", "T1 ann 03-02 10:00; T1 bob 03-02 10:00; T5 ann 03-02 10:00")
	w.passes(2 * time.Hour)
	w.settle()
	all := "T1 ann 03-02 10:00; T1 bob 03-02 10:00; T3 ann 03-02 12:00; T5 ann 03-02 10:00"
	w.expect("after three hours", all)

	for range 2 { // sent back in the log, it states nothing twice and sets no timer
		if err := w.Bus().Seek(t.Context(), care.Group, bus.Beginning(), bus.Act{Reason: "once more"}); err != nil {
			t.Fatal(err)
		}
		w.settle()
		w.passes(24 * time.Hour)
		w.settle()
	}
	w.expect("handled three times", all)
	if n := w.pending(); n != 0 {
		t.Errorf("%d timers are left", n)
	}
	none, err := care.MarkOverdue(t.Context(), w, "T9", w.now())
	if err != nil || none.Version != 0 {
		t.Errorf("a task that is not there: %+v, %v", none, err)
	}
}

// TestOverdueRaces: the timer has fired and its event waits while the task changes. What the task is when the event is
// handled decides.
func TestOverdueRaces(t *testing.T) {
	w := newWard(t)
	start := w.now()
	for _, id := range []string{"completed", "more-time", "given-on", "late"} {
		w.assign(id, "ann", start.Add(time.Hour))
	}
	if err := w.Bus().Pause(t.Context(), care.Group, bus.Act{Reason: "so that the events wait"}); err != nil {
		t.Fatal(err)
	}
	w.passes(time.Hour)
	if n := w.pending(); n != 0 {
		t.Fatalf("%d timers have not fired", n)
	}
	_, err := care.Complete(t.Context(), w, "completed", care.CompleteTask{})
	_, err2 := care.Assign(t.Context(), w, "more-time", assign("ann", start.Add(5*time.Hour)))
	_, err3 := care.Assign(t.Context(), w, "given-on", assign("bob", time.Time{}))
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	if err := w.Bus().Resume(t.Context(), care.Group, bus.Act{}); err != nil {
		t.Fatal(err)
	}
	w.settle()
	w.passes(0)
	w.settle()
	w.expect("after an hour", "given-on bob 03-02 10:00; late ann 03-02 10:00")
	if _, err := care.Complete(t.Context(), w, "late", care.CompleteTask{}); err != nil {
		t.Fatal(err)
	}
	w.passes(4 * time.Hour)
	w.settle()
	w.expect("after five hours", "given-on bob 03-02 10:00; late ann 03-02 10:00; more-time ann 03-02 14:00")
}

// TestImportedTaskHasNoTimer: a task that is only told of, with a time of last year, is not the service's to watch.
func TestImportedTaskHasNoTimer(t *testing.T) {
	w := newWard(t)
	e := carecatalog.TaskAssignedV1.New("fhir-import", carecatalog.TaskAssigned{TaskID: "T1", Assignee: carecatalog.Party{ID: ptr("ann")}, DueAt: w.now().AddDate(-1, 0, 0)})
	if _, err := w.store.Append(t.Context(), "", eventstore.AnyVersion, e); err != nil {
		t.Fatal(err)
	}
	w.settle()
	if n := w.pending(); n != 0 {
		t.Errorf("%d timers", n)
	}
}
