package saga

import (
	"math"
	"time"
)

// The core is pure: an instance's progress and an input give the new progress and effects as data. It does no I/O and
// knows no clock; inputs bring the time with them. The runner (run.go) carries the effects out in the transaction that
// also stores the progress.

// plan is what the core knows of a definition.
type plan struct {
	steps  []stepPlan
	stages []stage // in order; a stage is left when all of its steps are done
}

type stage struct{ from, to int } // steps[from:to]

type stepPlan struct {
	name        string
	kind        kind
	undo        kind // kindNone: nothing to undo
	noUndo      bool
	undoUnknown bool
	retry       Policy
	undoRetry   Policy
	deadline    time.Duration // of an await; 0 for none
}

type kind uint8

const (
	kindNone  kind = iota
	kindDo         // in the transaction
	kindCall       // outside, answered later
	kindAwait      // an event
)

// phase is where a step is. The ones that wait for an input are calling, waiting, resting and stuck.
type phase string

const (
	todo    phase = ""
	running phase = "run"  // its effect opDo is still to be carried out, in this very transaction
	calling phase = "call" // the outside call is under way
	waiting phase = "wait" // for an event
	resting phase = "rest" // a try failed; the next one comes at At
	stuck   phase = "stuck"
	done    phase = "done"
	failed  phase = "fail"
	stopped phase = "stop" // given up without an outcome, because the saga is being undone
	undone  phase = "undone"
	skipped phase = "skip" // a person has taken care of what the platform could not do
)

type mode string

const (
	fresh    mode = ""
	forward  mode = "go"
	backward mode = "undo"
	ended    mode = "end"
)

// progress is an instance, apart from the user's state. It is stored as JSON.
type progress struct {
	Mode   mode        `json:"m"`
	Stage  int         `json:"g,omitempty"`
	Steps  []stepState `json:"s"`
	Done   []int       `json:"d,omitempty"` // steps to be undone should the saga fail, in the order of completion
	Undone []int       `json:"u,omitempty"` // in the order of undoing
	Left   []int       `json:"l,omitempty"` // completed steps that were not undone: a person must look
	Why    *cause      `json:"w,omitempty"` // set once the saga fails
}

// stepState is one step of an instance.
type stepState struct {
	Phase phase `json:"p,omitempty"`
	Undo  bool  `json:"u,omitempty"` // the phase is of the step's compensation
	Try   int   `json:"t,omitempty"` // number of the try under way or made last, from 1
	At    int64 `json:"a,omitempty"` // when resting ends, or the deadline of waiting: Unix microseconds
}

// cause is why a saga fails.
type cause struct {
	Step      int    `json:"s"` // -1: no step, it was cancelled
	Try       int    `json:"t,omitempty"`
	Reason    string `json:"r"`
	Class     string `json:"c,omitempty"`
	Error     string `json:"e,omitempty"`
	Cancelled bool   `json:"x,omitempty"`
}

// status is what people see of an instance.
func (p *progress) status() Status {
	switch p.Mode {
	case ended:
		switch {
		case p.Why == nil:
			return Completed
		case p.Why.Cancelled:
			return Cancelled
		}
		return Failed
	case backward, forward:
		for i := range p.Steps {
			if p.Steps[i].Phase == stuck {
				return Stuck
			}
		}
	}
	if p.Why != nil {
		return Compensating
	}
	return Running
}

// input is something that happened to an instance.
type input struct {
	op   inputOp
	now  int64 // Unix microseconds
	step int
	undo bool
	try  int
	err  failure // of inFailed; its Reason also of inCancel
	salt uint32  // spreads retries: a hash of the instance
}

type inputOp uint8

const (
	inStart   inputOp = iota
	inDone            // a try of a step, or of its compensation, succeeded
	inFailed          // it failed
	inDue             // the rest after a failed try is over, or a call is to be made
	inTimeout         // the deadline of a wait has passed
	inCancel          // undo everything
	inResume          // try again what is stuck or resting, look again at what is under way
	inSkip            // a person has taken care of what is stuck
)

// failure is how a try failed.
type failure struct {
	Reason   string
	Class    string
	Text     string
	Final    bool // no other try: a refusal
	Happened bool // the outside call was made and answered, so there is something to undo
}

// effect is something to be carried out in the transaction of the transition, in order.
type effect struct {
	op   effectOp
	step int
	undo bool
	try  int
	at   int64
	err  failure
}

type effectOp uint8

const (
	doStep      effectOp = iota // run the step, or its compensation, now; its outcome is an input
	callStep                    // have the outside call made
	waitEvent                   // look for the event, and wait for it
	waitNoMore                  // take the wait back
	setRetry                    // have inDue come at a time
	setDeadline                 // have inTimeout come at a time
	clearTimer                  // take either back
	tellDone                    // state: step completed
	tellUndone                  // state: step compensated
	tellFailed                  // state: step failed; at is when it is tried again, 0 for never
	tellEnd                     // state: completed or failed
	lookAgain                   // like waitEvent, for a wait that is there
)

// machine is one instance at work.
type machine struct {
	plan *plan
	p    *progress
	now  int64
	salt uint32
	out  []effect
}

// transit brings an input to an instance and returns the effects. Inputs that no longer fit (a duplicate, an answer
// that came after the saga was given up) have none.
func (pl *plan) transit(p *progress, in input) []effect {
	m := &machine{plan: pl, p: p, now: in.now, salt: in.salt}
	switch in.op {
	case inStart:
		if p.Mode != fresh {
			return nil
		}
		p.Mode = forward
		p.Steps = make([]stepState, len(pl.steps))
		m.enter()
	case inDone:
		m.done(in)
	case inFailed:
		m.failed(in)
	case inDue:
		m.due(in)
	case inTimeout:
		if st := m.at(in.step); st != nil && st.Phase == waiting {
			m.giveUp(in.step, failure{Reason: "timeout", Class: "dependency", Text: "the awaited event did not come in time"})
		}
	case inCancel:
		m.cancel(in.err)
	case inResume:
		m.resume()
	case inSkip:
		m.skip()
	}
	m.advance()
	return m.out
}

func (m *machine) at(step int) *stepState {
	if m.p.Mode == fresh || m.p.Mode == ended || step < 0 || step >= len(m.p.Steps) {
		return nil
	}
	return &m.p.Steps[step]
}

func (m *machine) emit(e effect) { m.out = append(m.out, e) }

// current reports whether an effect that is about to be carried out is still wanted: an earlier one of the same
// transition may have changed the course.
func (p *progress) current(e effect) bool {
	st := p.Steps[e.step]
	switch e.op {
	case doStep:
		return st.Phase == running && st.Undo == e.undo && st.Try == e.try
	case callStep:
		return st.Phase == calling && st.Undo == e.undo && st.Try == e.try
	case waitEvent, lookAgain:
		return st.Phase == waiting
	}
	return true
}

// fits reports whether an outcome is that of the try under way.
func (m *machine) fits(in input) (*stepState, bool) {
	st := m.at(in.step)
	if st == nil || st.Undo != in.undo {
		return nil, false
	}
	switch st.Phase {
	case running, calling:
		return st, st.Try == in.try
	case waiting:
		return st, true
	}
	return nil, false
}

func (m *machine) done(in input) {
	st, ok := m.fits(in)
	if !ok {
		return
	}
	m.leave(in.step)
	if in.undo {
		st.Phase = undone
		m.pop(in.step)
		m.p.Undone = append(m.p.Undone, in.step)
		m.emit(effect{op: tellUndone, step: in.step, undo: true, try: st.Try})
		return
	}
	st.Phase = done
	m.p.Done = append(m.p.Done, in.step)
	m.emit(effect{op: tellDone, step: in.step, try: st.Try})
}

// leave takes back what a step is waiting for.
func (m *machine) leave(step int) {
	st := &m.p.Steps[step]
	if st.Phase == waiting {
		m.emit(effect{op: waitNoMore, step: step})
	}
	if st.At != 0 {
		m.emit(effect{op: clearTimer, step: step, undo: st.Undo})
		st.At = 0
	}
}

func (m *machine) pop(step int) {
	for i := len(m.p.Done) - 1; i >= 0; i-- {
		if m.p.Done[i] == step {
			m.p.Done = append(m.p.Done[:i:i], m.p.Done[i+1:]...)
			return
		}
	}
}

func (m *machine) failed(in input) {
	st, ok := m.fits(in)
	if !ok {
		return
	}
	sp := &m.plan.steps[in.step]
	policy := sp.retry
	if in.undo {
		policy = sp.undoRetry
	}
	again := !in.err.Final && st.Try < policy.Tries && st.Phase != waiting && (in.undo || m.p.Why == nil)
	switch {
	case again:
		st.Phase, st.At = resting, m.now+policy.pause(st.Try, m.salt+uint32(in.step)).Microseconds()
		m.emit(effect{op: tellFailed, step: in.step, undo: in.undo, try: st.Try, at: st.At, err: in.err})
		m.emit(effect{op: setRetry, step: in.step, undo: in.undo, try: st.Try + 1, at: st.At})
	case in.undo:
		st.Phase = stuck
		m.emit(effect{op: tellFailed, step: in.step, undo: true, try: st.Try, err: in.err})
	default:
		m.giveUp(in.step, in.err)
	}
}

// giveUp ends a step without success. A step that must not undo the others is stuck; any other fails the saga.
func (m *machine) giveUp(step int, f failure) {
	st, sp := &m.p.Steps[step], &m.plan.steps[step]
	m.leave(step)
	m.emit(effect{op: tellFailed, step: step, try: st.Try, err: f})
	if f.Happened || sp.undoUnknown && !f.Final {
		m.p.Done = append(m.p.Done, step)
	}
	if sp.noUndo && m.p.Why == nil {
		st.Phase = stuck
		m.pop(step)
		return
	}
	st.Phase = failed
	if m.p.Why == nil {
		m.fail(&cause{Step: step, Try: st.Try, Reason: f.Reason, Class: f.Class, Error: f.Text})
	}
}

// fail turns the saga back. Steps without an outcome are given up; calls under way are waited for, since one that
// succeeds has to be undone.
func (m *machine) fail(why *cause) {
	m.p.Why = why
	for i := range m.p.Steps {
		switch st := &m.p.Steps[i]; st.Phase {
		case running, waiting, resting, stuck:
			tried := st.Phase == resting || st.Phase == stuck
			m.leave(i)
			st.Phase = stopped
			if tried && m.plan.steps[i].undoUnknown {
				m.p.Done = append(m.p.Done, i)
			}
		}
	}
}

func (m *machine) cancel(f failure) {
	if m.p.Mode == forward && m.p.Why == nil {
		m.fail(&cause{Step: -1, Reason: "cancelled", Error: f.Text, Cancelled: true})
	}
}

// due begins the try that a rest was before.
func (m *machine) due(in input) {
	st := m.at(in.step)
	if st == nil || st.Undo != in.undo {
		return
	}
	switch {
	case st.Phase == resting && st.Try+1 == in.try:
		m.leave(in.step)
		m.begin(in.step, in.undo)
	case st.Phase == running && st.Try == in.try: // put off to a transaction of its own
		m.emit(effect{op: doStep, step: in.step, undo: in.undo, try: st.Try})
	}
}

// resume tries again what is stuck, with all its tries anew, and what rests. What is under way is looked at again: its
// trigger may have come to a program that did not know the definition.
func (m *machine) resume() {
	if m.p.Mode != forward && m.p.Mode != backward {
		return
	}
	for i := range m.p.Steps {
		st := &m.p.Steps[i]
		switch st.Phase {
		case stuck:
			st.Try = 0
			m.begin(i, st.Undo)
		case resting:
			m.leave(i)
			m.begin(i, st.Undo)
		case running:
			m.emit(effect{op: doStep, step: i, undo: st.Undo, try: st.Try})
		case calling:
			m.emit(effect{op: callStep, step: i, undo: st.Undo, try: st.Try})
		case waiting:
			if st.At != 0 && st.At <= m.now {
				m.giveUp(i, failure{Reason: "timeout", Class: "dependency", Text: "the awaited event did not come in time"})
			} else {
				m.emit(effect{op: lookAgain, step: i})
			}
		}
	}
}

func (m *machine) skip() {
	for i := range m.p.Steps {
		st := &m.p.Steps[i]
		if st.Phase != stuck {
			continue
		}
		st.Phase = skipped
		if st.Undo {
			m.pop(i)
			m.p.Left = append(m.p.Left, i)
		}
	}
}

// begin makes a try of a step or of its compensation.
func (m *machine) begin(step int, undo bool) {
	st, sp := &m.p.Steps[step], &m.plan.steps[step]
	if st.Undo != undo {
		st.Undo, st.Try = undo, 0
	}
	st.Try++
	k := sp.kind
	if undo {
		k = sp.undo
	}
	switch k {
	case kindDo:
		st.Phase = running
		m.emit(effect{op: doStep, step: step, undo: undo, try: st.Try})
	case kindCall:
		st.Phase = calling
		m.emit(effect{op: callStep, step: step, undo: undo, try: st.Try})
	case kindAwait:
		st.Phase = waiting
		if sp.deadline > 0 {
			st.At = m.now + sp.deadline.Microseconds()
			m.emit(effect{op: setDeadline, step: step, try: st.Try, at: st.At})
		}
		m.emit(effect{op: waitEvent, step: step, try: st.Try})
	}
}

// enter begins the steps of the present stage.
func (m *machine) enter() {
	if m.p.Stage < len(m.plan.stages) {
		for i := m.plan.stages[m.p.Stage].from; i < m.plan.stages[m.p.Stage].to; i++ {
			m.begin(i, false)
		}
	}
}

// advance moves on as far as it goes without another input.
func (m *machine) advance() {
	if m.p.Mode == forward {
		if m.p.Why == nil {
			m.onward()
		} else if m.quiet() {
			m.p.Mode = backward
		}
	}
	if m.p.Mode == backward {
		m.back()
	}
}

func (m *machine) onward() {
	for m.p.Stage < len(m.plan.stages) {
		s := m.plan.stages[m.p.Stage]
		for i := s.from; i < s.to; i++ {
			if ph := m.p.Steps[i].Phase; ph != done && ph != skipped {
				return
			}
		}
		if m.p.Stage++; m.p.Stage < len(m.plan.stages) {
			m.enter()
			return // every step begins by waiting for its outcome
		}
	}
	m.p.Mode = ended
	m.emit(effect{op: tellEnd})
}

// quiet: no step is without an outcome any more.
func (m *machine) quiet() bool {
	for i := range m.p.Steps {
		switch m.p.Steps[i].Phase {
		case running, calling, waiting, resting, stuck:
			return false
		}
	}
	return true
}

// back undoes, last completed first, one at a time.
func (m *machine) back() {
	if !m.quiet() {
		return
	}
	for len(m.p.Done) > 0 {
		step := m.p.Done[len(m.p.Done)-1]
		if m.plan.steps[step].undo != kindNone {
			m.begin(step, true)
			return
		}
		m.p.Done = m.p.Done[:len(m.p.Done)-1]
		if m.plan.steps[step].noUndo {
			m.p.Left = append(m.p.Left, step)
		}
	}
	m.p.Mode = ended
	m.emit(effect{op: tellEnd})
}

// Policy says how often a step is tried, and the pauses between tries.
type Policy struct {
	Tries   int           // at least 1
	First   time.Duration // pause after the first failed try; doubled after each
	Longest time.Duration
}

// Backoff tries n times in all, with pauses that double from first to longest.
func Backoff(n int, first, longest time.Duration) Policy {
	return Policy{Tries: max(n, 1), First: max(first, 0), Longest: max(first, longest, 0)}
}

// pause is the rest after the given try, four to five fifths of the nominal one: instances that failed together do not
// come back together.
func (p Policy) pause(try int, salt uint32) time.Duration {
	d := min(float64(p.First)*math.Pow(2, float64(try-1)), float64(p.Longest))
	return time.Duration(d * (0.8 + 0.2*float64((salt*2654435761)>>16)/65536))
}
