package saga

import (
	"context"

	"github.com/carebus/carebus/bus"
)

// StepHook is told of the steps of sagas that are carried out. Register takes hooks from a platform that has a method
// Hooks() []any, as carebus.Platform has. Hooks are called by many goroutines at once, and return at once.
type StepHook interface {
	// OnStep is called when a step begins: a Do, in its transaction, or an outside call. It returns the context to go on
	// with and, unless it is nil, a function that is called once, with what the step came to. What a Do has come to is
	// undone when its transaction is (see bus.HandleHook), and the step is run again.
	OnStep(ctx context.Context, s StepRun) (context.Context, func(err error))
}

// StepRun is one try of a step.
type StepRun struct {
	Saga    string
	Version int
	ID      string // of the instance
	Step    string
	Attempt int  // from 1
	Undo    bool // the step's compensation is run
	Outside bool // it is an outside call
}

// hooked is a platform with hooks.
type hooked interface {
	Hooks() []any
}

func stepHooks(p Platform) (out []StepHook) {
	h, ok := p.(hooked)
	if !ok {
		return nil
	}
	for _, one := range h.Hooks() {
		if s, ok := one.(StepHook); ok {
			out = append(out, s)
		}
	}
	return out
}

// step runs fn between the hooks.
func (r *runner) step(ctx context.Context, s StepRun, fn func(ctx context.Context) error) error {
	if len(r.hooks) == 0 {
		return fn(ctx)
	}
	var ends []func(error)
	for _, h := range r.hooks {
		var end func(error)
		if ctx, end = h.OnStep(ctx, s); end != nil {
			ends = append(ends, end)
		}
	}
	err := (error)(&bus.PanicError{Value: "the step panicked"}) // unless fn returns
	defer func() {
		for _, end := range ends {
			end(err)
		}
	}()
	err = fn(ctx)
	return err
}

// runOf describes a try.
func (x *instance) runOf(pl *plan, step, try int, undo, outside bool) StepRun {
	return StepRun{Saga: x.name, Version: x.version, ID: x.id, Step: pl.steps[step].name, Attempt: try, Undo: undo, Outside: outside}
}
