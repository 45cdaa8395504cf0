package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Definition is a saga's steps, at one version. S is the state that its instances carry from step to step: it must be
// readable from the JSON that it is written to, and fields are added, never given another meaning.
type Definition[S any] struct {
	id    string
	nr    int
	about func(S) string
	onEnd func(S, End) []event.Event
	steps []Step[S]
	pl    plan
	err   error
	ready atomic.Pointer[eventstore.Store] // whose tables are known to be there
}

// Saga is a definition of any state, as Register takes it.
type Saga interface {
	// Name of the definition.
	Name() string
	// Version of the definition.
	Version() int

	fault() error
	plan() *plan
	limit(step int) time.Duration // of one try
	open(raw []byte) (carrier, error)
	arrivals() []arrivalOf
}

// Step is a part of a saga. Make one with Do, Call, Await or Parallel; its methods return a changed copy.
type Step[S any] struct {
	plan     stepPlan
	timeout  time.Duration
	parallel []Step[S]

	do     func(ctx context.Context, tx bus.Tx, s *S) error
	call   func(ctx context.Context, key string, s S) (func(*S) error, error)
	key    func(S) string
	on     []Arrival[S]
	undo   func(ctx context.Context, tx bus.Tx, s *S) error
	uncall func(ctx context.Context, key string, s S) error
	err    string
}

// Define returns version of the saga called name. Instances finish under the version that they began with: keep the
// former definitions registered until Count says that none is left of them. A mistake in the definition is reported by
// Register and Start.
func Define[S any](name string, version int, steps ...Step[S]) *Definition[S] {
	d := &Definition[S]{id: name, nr: version}
	var wrong []string
	if name == "" || len(name) > 100 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		wrong = append(wrong, "the name must have 1 to 100 lower-case letters, digits and hyphens")
	}
	if version < 1 {
		wrong = append(wrong, "versions count from 1")
	}
	seen := map[string]bool{}
	add := func(s Step[S]) {
		switch {
		case s.err != "":
			wrong = append(wrong, s.err)
		case !stepName(s.plan.name):
			wrong = append(wrong, "every step needs a name of 1 to 100 visible ASCII characters without a slash, and not undo")
		case seen[s.plan.name]:
			wrong = append(wrong, "two steps are called "+s.plan.name)
		case s.plan.noUndo && s.plan.undo != kindNone:
			wrong = append(wrong, "step "+s.plan.name+" has a compensation and NoUndo; choose")
		}
		seen[s.plan.name] = true
		s.plan.deadline = 0
		if s.plan.kind == kindAwait {
			s.plan.deadline = s.timeout
		}
		d.steps = append(d.steps, s)
		d.pl.steps = append(d.pl.steps, s.plan)
	}
	for _, s := range steps {
		from := len(d.steps)
		if s.parallel == nil {
			add(s)
		}
		for _, b := range s.parallel {
			if b.parallel != nil {
				wrong = append(wrong, "Parallel inside Parallel; list the steps in one")
				continue
			}
			add(b)
		}
		d.pl.stages = append(d.pl.stages, stage{from, len(d.steps)})
	}
	if len(d.steps) == 0 {
		wrong = append(wrong, "a saga needs a step")
	}
	if len(wrong) > 0 {
		d.err = &DefinitionError{Saga: name, Version: version, Wrong: wrong}
	}
	return d
}

func stepName(name string) bool {
	for i := range len(name) {
		if name[i] <= ' ' || name[i] > '~' || name[i] == '/' {
			return false
		}
	}
	return name != "" && len(name) <= 100 && name != "undo" // the last word of the key of a compensation's call
}

// About names the entity that an instance is about, such as the prescription: for people who look for it.
func (d *Definition[S]) About(key func(S) string) *Definition[S] {
	return &Definition[S]{id: d.id, nr: d.nr, about: key, onEnd: d.onEnd, steps: d.steps, pl: d.pl, err: d.err}
}

// OnEnd states facts when an instance has come to its end: the events that fn returns, in the transaction of the last
// transition and in the flow of the instance. fn only computes. Events that are refused keep the instance from ending:
// the event at hand is set aside among the bus's dead letters until the definition is mended.
func (d *Definition[S]) OnEnd(fn func(s S, end End) []event.Event) *Definition[S] {
	return &Definition[S]{id: d.id, nr: d.nr, about: d.about, onEnd: fn, steps: d.steps, pl: d.pl, err: d.err}
}

// End is what an instance came to.
type End struct {
	ID            string
	Status        Status   // Completed, Failed or Cancelled
	Step          string   // that failed; empty when completed or cancelled
	Reason        string   // of the failure, or "cancelled"
	Error         string   // its text, or why it was cancelled
	Compensated   []string // steps that were undone, in the order of undoing
	Uncompensated []string // completed steps that were not: a person must look
}

// Name of the definition.
func (d *Definition[S]) Name() string { return d.id }

// Version of the definition.
func (d *Definition[S]) Version() int { return d.nr }

// DefinitionError says everything that is wrong with a definition.
type DefinitionError struct {
	Saga    string
	Version int
	Wrong   []string
}

func (e *DefinitionError) Error() string {
	return fmt.Sprintf("saga %s version %d: %s", e.Saga, e.Version, strings.Join(e.Wrong, "; "))
}

// By default a step is tried five times, and a compensation ten times, before a person is called.
var (
	defaultRetry     = Backoff(5, time.Second, time.Minute)
	defaultUndoRetry = Backoff(10, time.Second, 10*time.Minute)
)

// Do is a step in the transaction of its transition: what fn does through tx, what it changes in s, and the fact that
// the step was done are stored together or not at all. When it returns an error its effects are undone and the failure
// is recorded. It must not wait for anything outside; see bus.Tx.
func Do[S any](name string, fn func(ctx context.Context, tx bus.Tx, s *S) error) Step[S] {
	s := newStep[S](name, kindDo)
	if s.do = fn; fn == nil {
		s.err = "step " + name + " has no function"
	}
	return s
}

// Call is a step outside: fn is called with no transaction open and with an idempotency key that is the same on every
// try, also after a crash; the provider makes of it that the effect happens once. apply takes the answer over into the
// state, in the transaction that records the step as done; it may refuse what it was answered, and then the step is
// compensated too, since the call was made. apply may be nil.
func Call[S, R any](name string, fn func(ctx context.Context, key string, s S) (R, error), apply func(s *S, answer R) error) Step[S] {
	s := newStep[S](name, kindCall)
	if fn == nil {
		s.err = "step " + name + " has no function"
		return s
	}
	s.call = func(ctx context.Context, key string, state S) (func(*S) error, error) {
		answer, err := fn(ctx, key, state)
		if err != nil {
			return nil, err
		}
		return func(s *S) error {
			if apply == nil {
				return nil
			}
			return apply(s, answer)
		}, nil
	}
	return s
}

// Await is a step that waits for an event of which the entity's key is that of the instance: the first of those that on
// names. Events that were recorded since the instance began, and came before the wait, count; each counts once per
// instance. With Timeout, the step fails when nothing came in time.
func Await[S any](name string, key func(s S) string, on ...Arrival[S]) Step[S] {
	s := newStep[S](name, kindAwait)
	s.key, s.on = key, on
	if key == nil || len(on) == 0 {
		s.err = "step " + name + " needs a key and an event to wait for"
	}
	return s
}

// Arrival is an event that an Await waits for. Make one with On.
type Arrival[S any] struct {
	eventType string
	version   string
	read      func(e event.Event) (key string, apply func(*S) error, err error)
}

// On is the arrival of an event: key says which entity it is about, to be compared with that of the instance, and apply
// takes it over into the state, in the transaction that records the step as done. apply may be nil; it may refuse.
func On[S, T any](def event.Definition[T], key func(payload T) string, apply func(s *S, e event.Of[T]) error) Arrival[S] {
	return Arrival[S]{eventType: def.Type(), version: def.Version(), read: func(e event.Event) (string, func(*S) error, error) {
		of, err := def.Decode(e)
		if err != nil {
			return "", nil, err
		}
		return key(of.Payload), func(s *S) error {
			if apply == nil {
				return nil
			}
			return apply(s, of)
		}, nil
	}}
}

// Parallel begins its steps together and is done when all of them are. When one fails for good, those that wait are
// given up, calls under way are waited for, and what completed is undone.
func Parallel[S any](steps ...Step[S]) Step[S] {
	s := Step[S]{parallel: steps}
	if len(steps) == 0 {
		s.err, s.parallel = "Parallel without steps", nil
	}
	return s
}

func newStep[S any](name string, k kind) Step[S] {
	return Step[S]{plan: stepPlan{name: name, kind: k, retry: defaultRetry, undoRetry: defaultUndoRetry}}
}

// Compensate undoes the step, in a transaction, should a later one fail or the saga be cancelled.
func (s Step[S]) Compensate(fn func(ctx context.Context, tx bus.Tx, s *S) error) Step[S] {
	s.undo, s.uncall, s.plan.undo = fn, nil, kindDo
	return s
}

// CompensateCall undoes the step by an outside call, with a key of its own that is the same on every try.
func (s Step[S]) CompensateCall(fn func(ctx context.Context, key string, s S) error) Step[S] {
	s.uncall, s.undo, s.plan.undo = fn, nil, kindCall
	return s
}

// Retry says how often the step is tried before its failure counts. Default Backoff(5, time.Second, time.Minute).
func (s Step[S]) Retry(p Policy) Step[S] {
	s.plan.retry = p
	return s
}

// RetryUndo says how often the compensation is tried before a person is called. Default
// Backoff(10, time.Second, 10*time.Minute).
func (s Step[S]) RetryUndo(p Policy) Step[S] {
	s.plan.undoRetry = p
	return s
}

// Timeout bounds the wait of an Await, and one try of any other step. Default: an Await waits for ever, a try has ten
// seconds as a Call and five as a Do.
func (s Step[S]) Timeout(d time.Duration) Step[S] {
	s.timeout = d
	return s
}

// NoUndo is for a step whose failure must not undo the steps before it, such as telling the patient that the medication
// is ready: when its tries are used up the saga is stuck, and a person resumes or skips it.
func (s Step[S]) NoUndo() Step[S] {
	s.plan.noUndo = true
	return s
}

// UndoUnknown has the step compensated also when it failed in a way that leaves open whether it happened: a call that
// timed out on every try. Its compensation must then bear that there is nothing to undo.
func (s Step[S]) UndoUnknown() Step[S] {
	s.plan.undoUnknown = true
	return s
}

// RefusedError is a step's refusal: the business says no, and trying again would not help. Reason is a short stable code.
type RefusedError struct {
	Reason string
	Err    error // may be nil
}

func (e *RefusedError) Error() string {
	if e.Err != nil {
		return "refused (" + e.Reason + "): " + e.Err.Error()
	}
	return "refused: " + e.Reason
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// Refuse returns the error by which a step fails for good: the steps before it are compensated, without another try.
// reason is a short stable code, such as "out-of-stock". Like the text of every error that a step returns it is stated in
// events and shown to operators: it must not quote protected data.
func Refuse(reason string) error { return &RefusedError{Reason: reason} }

// carrier is an instance's state at work, without its type.
type carrier interface {
	// run runs a step or its compensation; the state is as before when it fails.
	run(ctx context.Context, tx bus.Tx, step int, undo bool) error
	// call makes an outside call and returns how its answer is taken over.
	call(ctx context.Context, key string, step int, undo bool) (take func(carrier) error, err error)
	// change lets fn change the state; it is as before when fn fails.
	change(fn func(carrier) error) error
	key(step int) (string, error)
	end(e End) ([]event.Event, error)
	json() []byte
}

type carried[S any] struct {
	d   *Definition[S]
	s   S
	raw []byte // s as it was after the last step that succeeded
}

func (d *Definition[S]) fault() error { return d.err }
func (d *Definition[S]) plan() *plan  { return &d.pl }

func (d *Definition[S]) open(raw []byte) (carrier, error) {
	c := &carried[S]{d: d, raw: raw}
	if err := json.Unmarshal(raw, &c.s); err != nil {
		return nil, fmt.Errorf("saga %s: the state cannot be read as version %d has it; restore the version's Go type: %w", d.id, d.nr, errState)
	}
	return c, nil
}

var errState = errors.New("unreadable state")

func (c *carried[S]) json() []byte { return c.raw }

// attempt runs fn on the state, which is as before when fn fails or panics.
func (c *carried[S]) attempt(fn func() error) (err error) {
	err = guard(fn)
	if err == nil {
		var raw []byte
		if raw, err = json.Marshal(&c.s); err == nil {
			c.raw = raw
			return nil
		}
		err = &RefusedError{Reason: "state", Err: errors.New("the state cannot be written as JSON")}
	}
	var before S
	if rerr := json.Unmarshal(c.raw, &before); rerr != nil {
		return errors.Join(err, errState)
	}
	c.s = before
	return err
}

// guard turns a panic into an error. What was panicked with is not quoted: it may hold protected data.
func guard(fn func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &bus.PanicError{Value: v}
		}
	}()
	return fn()
}

func (c *carried[S]) run(ctx context.Context, tx bus.Tx, step int, undo bool) error {
	s := &c.d.steps[step]
	fn := s.do
	if undo {
		fn = s.undo
	}
	ctx, cancel := context.WithTimeout(ctx, c.d.limit(step))
	defer cancel()
	return c.attempt(func() error { return fn(ctx, tx, &c.s) })
}

// Bounds of one try that states no Timeout.
const (
	callTimeout = 10 * time.Second
	doTimeout   = 5 * time.Second
)

func (d *Definition[S]) limit(step int) time.Duration {
	s := &d.steps[step]
	switch {
	case s.timeout > 0 && s.plan.kind != kindAwait:
		return s.timeout
	case s.plan.kind == kindDo:
		return doTimeout
	}
	return callTimeout
}

func (c *carried[S]) call(ctx context.Context, key string, step int, undo bool) (take func(carrier) error, err error) {
	s := &c.d.steps[step]
	ctx, cancel := context.WithTimeout(ctx, c.d.limit(step))
	defer cancel()
	err = guard(func() error {
		if undo {
			take = func(carrier) error { return nil }
			return s.uncall(ctx, key, c.s)
		}
		apply, err := s.call(ctx, key, c.s)
		take = func(to carrier) error { return apply(&to.(*carried[S]).s) }
		return err
	})
	return take, err
}

func (c *carried[S]) change(fn func(carrier) error) error {
	return c.attempt(func() error { return fn(c) })
}

func (c *carried[S]) key(step int) (key string, err error) {
	err = guard(func() error { key = c.d.steps[step].key(c.s); return nil })
	return key, err
}

func (c *carried[S]) end(e End) (out []event.Event, err error) {
	if c.d.onEnd != nil {
		err = guard(func() error { out = c.d.onEnd(c.s, e); return nil })
	}
	return out, err
}

// arrivalOf is an Arrival without its state's type.
type arrivalOf struct {
	step      int
	eventType string
	version   string
	read      func(e event.Event) (key string, take func(carrier) error, err error)
}

func (d *Definition[S]) arrivals() []arrivalOf {
	var out []arrivalOf
	for i, s := range d.steps {
		for _, a := range s.on {
			out = append(out, arrivalOf{step: i, eventType: a.eventType, version: a.version, read: func(e event.Event) (key string, take func(carrier) error, err error) {
				err = guard(func() error {
					k, apply, err := a.read(e)
					key = k
					take = func(to carrier) error { return apply(&to.(*carried[S]).s) }
					return err
				})
				return key, take, err
			}})
		}
	}
	return out
}
