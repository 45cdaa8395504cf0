package saga

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is an instance and everything around it, as a test sees it: the calls under way, the waits, the timers. It is
// the runner's part in miniature, and keeps its own books of what really happened.
type world struct {
	t     *rapid.T
	plan  *plan
	saved string // the instance as committed
	now   int64
	calls []effect
	waits map[int]bool
	timer map[int]effect
	past  []input

	completed []int // steps whose outcome was success and that were not undone since, in order
	undoing   []int // undone, in order
	books     []string
	ended     bool
}

func drawPlan(t *rapid.T) *plan {
	pl := &plan{}
	for range rapid.IntRange(1, 5).Draw(t, "stages") {
		from := len(pl.steps)
		for range rapid.SampledFrom([]int{1, 1, 1, 2, 3}).Draw(t, "width") {
			s := stepPlan{
				name: fmt.Sprint("s", len(pl.steps)), kind: rapid.SampledFrom([]kind{kindDo, kindDo, kindCall, kindAwait}).Draw(t, "kind"),
				undo:  rapid.SampledFrom([]kind{kindNone, kindDo, kindCall}).Draw(t, "undo"),
				retry: Backoff(rapid.IntRange(1, 3).Draw(t, "tries"), time.Second, time.Minute), undoRetry: Backoff(rapid.IntRange(1, 2).Draw(t, "undoTries"), time.Second, time.Minute),
			}
			s.undoUnknown = s.kind == kindCall && rapid.Bool().Draw(t, "undoUnknown")
			if s.undo == kindNone {
				s.noUndo = rapid.IntRange(0, 3).Draw(t, "noUndo") == 0
			}
			if s.kind == kindAwait && rapid.Bool().Draw(t, "deadline?") {
				s.deadline = time.Hour
			}
			pl.steps = append(pl.steps, s)
		}
		pl.stages = append(pl.stages, stage{from, len(pl.steps)})
	}
	return pl
}

func (w *world) load() *progress {
	p := &progress{}
	if w.saved != "" {
		if err := json.Unmarshal([]byte(w.saved), p); err != nil {
			w.t.Fatal(err)
		}
	}
	return p
}

func (w *world) outcome(label string) (ok bool, f failure) {
	switch rapid.IntRange(0, 9).Draw(w.t, label) {
	case 0:
		return false, failure{Reason: "no", Final: true}
	case 1, 2:
		return false, failure{Reason: "busy"}
	}
	return true, failure{}
}

// give brings an input to the instance in one transaction, which may be lost in a crash.
func (w *world) give(in input) {
	in.now = w.now
	p := w.load()
	queue := w.plan.transit(p, in)
	was := w.load()
	if len(queue) == 0 {
		a, _ := json.Marshal(p)
		b, _ := json.Marshal(was)
		if string(a) != string(b) && in.op != inCancel && in.op != inSkip {
			w.t.Fatalf("input %+v changed the progress without an effect: %s to %s", in, b, a)
		}
	}
	if st := was.at(in.step); len(queue) > 0 && st != nil {
		switch {
		case (in.op == inDone || in.op == inFailed) && st.Phase == calling && (in.try != st.Try || in.undo != st.Undo):
			w.fail("the answer of another try was taken: %+v, under way is %+v", in, *st)
		case in.op == inDue && (st.Phase != resting || in.try != st.Try+1 || in.undo != st.Undo):
			w.fail("a stale timer began a try: %+v, under way is %+v", in, *st)
		}
	}
	var changes []func()
	change := func(fn func()) { changes = append(changes, fn) }
	// Steps that are given up when the saga turns back, after tries of which nobody knows the outcome, are to be undone.
	unknown := func() {
		for i := range was.Steps {
			if ph := was.Steps[i].Phase; !was.Steps[i].Undo && w.plan.steps[i].undoUnknown && (ph == resting || ph == stuck) && !slices.Contains(w.completed, i) &&
				(p.Steps[i].Phase != calling || p.Steps[i].Undo) { // and not tried once more by a resume
				w.completed = append(w.completed, i)
			}
		}
	}
	if was.Why == nil && p.Why != nil && p.Why.Cancelled {
		change(unknown)
	}
	for n := 0; len(queue) > 0; n++ {
		if n > 1000 {
			w.t.Fatal("no end of effects")
		}
		e := queue[0]
		queue = queue[1:]
		if !p.current(e) {
			continue
		}
		switch e.op {
		case doStep:
			ok, f := w.outcome("do")
			out := input{op: inDone, step: e.step, undo: e.undo, try: e.try, now: w.now}
			if !ok {
				out.op, out.err = inFailed, f
			}
			queue = append(queue, w.plan.transit(p, out)...)
		case callStep:
			change(func() { w.calls = append(w.calls, e) })
		case waitEvent, lookAgain:
			change(func() { w.waits[e.step] = true })
		case waitNoMore:
			change(func() { delete(w.waits, e.step) })
		case setRetry, setDeadline:
			change(func() { w.timer[e.step] = e })
		case clearTimer:
			change(func() { delete(w.timer, e.step) })
		case tellDone:
			change(func() { w.tellDone(e, p) })
		case tellUndone:
			change(func() { w.tellUndone(e, p) })
		case tellEnd:
			change(func() { w.tellEnd(p) })
		case tellFailed:
			change(func() {
				if e.undo || e.at != 0 || w.plan.steps[e.step].noUndo && was.Why == nil && (p.Why == nil || p.Why.Step != e.step) {
					return
				}
				if e.err.Happened || w.plan.steps[e.step].undoUnknown && !e.err.Final {
					w.completed = append(w.completed, e.step)
				}
				if was.Why == nil {
					unknown()
				}
			})
		}
	}
	if rapid.IntRange(0, 5).Draw(w.t, "crash") == 0 {
		w.books = append(w.books, fmt.Sprintf("crash in %+v", in))
		return // nothing of it was stored; the input comes again
	}
	text, err := json.Marshal(p)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, fn := range changes {
		fn()
	}
	w.saved = string(text)
	w.past = append(w.past, in)
	w.books = append(w.books, fmt.Sprintf("%+v -> %s", in, text))
	w.check(p)
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	for _, b := range w.books {
		w.t.Log(b)
	}
	w.t.Fatalf(format, args...)
}

func (w *world) tellDone(e effect, p *progress) {
	if slices.Contains(w.completed, e.step) || slices.Contains(w.undoing, e.step) {
		w.fail("step %d was done twice", e.step)
	}
	for _, s := range w.plan.stages {
		if s.to <= e.step {
			for i := s.from; i < s.to; i++ {
				if !slices.Contains(w.completed, i) && p.at(i).Phase != skipped {
					w.fail("step %d was done before step %d of an earlier stage", e.step, i)
				}
			}
		}
	}
	w.completed = append(w.completed, e.step)
}

// tellUndone checks that what is undone is the last of what completed and can be undone.
func (w *world) tellUndone(e effect, p *progress) {
	for i := len(w.completed) - 1; i >= 0; i-- {
		s := w.completed[i]
		if s == e.step {
			w.completed = slices.Delete(w.completed, i, i+1)
			w.undoing = append(w.undoing, s)
			return
		}
		if w.plan.steps[s].undo != kindNone && !slices.Contains(p.Left, s) {
			w.fail("step %d was undone before step %d, which completed after it", e.step, s)
		}
	}
	w.fail("step %d was undone and had not completed", e.step)
}

func (w *world) tellEnd(p *progress) {
	if w.ended {
		w.fail("ended twice")
	}
	w.ended = true
	if p.Why == nil {
		for i := range p.Steps {
			if !slices.Contains(w.completed, i) && p.Steps[i].Phase != skipped {
				w.fail("completed without step %d", i)
			}
		}
		if len(w.undoing) > 0 {
			w.fail("completed, and yet steps were undone")
		}
		return
	}
	for _, s := range w.completed {
		if w.plan.steps[s].undo != kindNone && !slices.Contains(p.Left, s) {
			w.fail("ended without undoing step %d", s)
		}
	}
	if !slices.Equal(p.Undone, w.undoing) {
		w.fail("says that it undid %v, did %v", p.Undone, w.undoing)
	}
}

// check holds what is true after every transition.
func (w *world) check(p *progress) {
	active := 0
	for i := range p.Steps {
		st := p.Steps[i]
		if p.Why != nil && !st.Undo && (st.Phase == waiting || st.Phase == resting || st.Phase == stuck) {
			w.fail("the saga has turned back and step %d goes on", i)
		}
		switch st.Phase {
		case running:
			w.fail("step %d is left running", i)
		case calling, resting:
			active++
		case stuck:
			active++
			if p.status() != Stuck {
				w.fail("step %d is stuck, the status is %s", i, p.status())
			}
		case waiting:
			active++
			if !w.waits[i] {
				w.fail("step %d waits for nothing", i)
			}
		}
		if _, ok := w.timer[i]; ok != (st.At != 0) {
			w.fail("step %d: timer %v, at %d", i, ok, st.At)
		}
		if st.Phase != waiting && w.waits[i] {
			w.fail("a wait of step %d is left over", i)
		}
	}
	switch {
	case p.Mode == ended && active > 0:
		w.fail("ended with %d steps under way", active)
	case p.Mode == backward && active != 1:
		w.fail("undoing %d steps at once", active)
	case p.Mode == forward && active == 0:
		w.fail("nothing is under way, and it has not ended")
	}
}

// next draws what happens next.
func (w *world) next() {
	p := w.load()
	var choices []func()
	for i, c := range w.calls {
		choices = append(choices, func() {
			ok, f := w.outcome("call")
			in := input{op: inDone, step: c.step, undo: c.undo, try: c.try}
			if !ok {
				in.op, in.err = inFailed, f
			} else if !c.undo && rapid.IntRange(0, 9).Draw(w.t, "answer refused") == 0 {
				in.op, in.err = inFailed, failure{Reason: "no", Final: true, Happened: true}
			}
			before := w.saved
			w.give(in)
			if w.saved != before { // committed: the event of the call is handled
				w.calls = slices.Delete(w.calls, i, i+1)
			} else if st := p.at(c.step); st.Phase != calling || st.Try != c.try || st.Undo != c.undo {
				w.calls = slices.Delete(w.calls, i, i+1) // stale
			}
		})
	}
	for i := range p.Steps {
		if w.waits[i] {
			choices = append(choices, func() { w.give(input{op: inDone, step: i}) })
		}
		if e, ok := w.timer[i]; ok {
			choices = append(choices, func() {
				w.now = max(w.now, e.at)
				if e.op == setDeadline {
					w.give(input{op: inTimeout, step: i})
				} else {
					w.give(input{op: inDue, step: i, undo: e.undo, try: e.try})
				}
			})
		}
	}
	if p.Mode == fresh {
		choices = append(choices, func() { w.give(input{op: inStart}) })
	}
	if p.status() == Stuck {
		choices = append(choices, func() { w.give(input{op: inResume}) }, func() { w.give(input{op: inSkip}) })
	}
	switch rapid.IntRange(0, 19).Draw(w.t, "disturb") {
	case 0:
		w.give(input{op: inCancel})
	case 1:
		w.give(input{op: inResume})
	case 2, 3:
		if len(w.past) > 0 { // a duplicate
			w.give(w.past[rapid.IntRange(0, len(w.past)-1).Draw(w.t, "which")])
		}
	}
	if len(choices) > 0 {
		choices[rapid.IntRange(0, len(choices)-1).Draw(w.t, "next")]()
	}
}

// TestCoreModel runs random sagas through random outcomes, crashes, duplicates, cancels, resumes and time-outs.
func TestCoreModel(t *testing.T) {
	runs, ends := 0, map[Status]int{}
	rapid.Check(t, func(rt *rapid.T) {
		for range 50 {
			w := &world{t: rt, plan: drawPlan(rt), waits: map[int]bool{}, timer: map[int]effect{}, now: 1_000_000}
			for n := 0; !w.ended; n++ {
				if n > 2000 {
					w.fail("no end in sight")
				}
				w.next()
			}
			for range 3 { // after the end nothing changes it
				before := w.saved
				w.give(w.past[rapid.IntRange(0, len(w.past)-1).Draw(rt, "late")])
				if w.saved != before {
					w.fail("changed after the end")
				}
			}
			runs++
			ends[w.load().status()]++
		}
	})
	t.Logf("%d executions: %v", runs, ends)
	if runs > 1000 && (ends[Completed] == 0 || ends[Failed] == 0 || ends[Cancelled] == 0) {
		t.Error("the executions do not reach every end")
	}
}

func TestPauses(t *testing.T) {
	p := Backoff(5, time.Second, 5*time.Second)
	for try, nominal := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 3: 4 * time.Second, 4: 5 * time.Second, 40: 5 * time.Second} {
		for salt := range uint32(100) {
			if d := p.pause(try, salt*77777); d < nominal*8/10 || d > nominal {
				t.Fatalf("try %d: %v, want 0.8 to 1 of %v", try, d, nominal)
			}
		}
	}
}
