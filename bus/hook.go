package bus

import (
	"context"
	"time"

	"github.com/carebus/carebus/eventstore"
)

// Hook is told of what a bus does: a value with the method of HandleHook, of CallHook, or of both. Hooks are called by
// many goroutines at once, and return at once: with the event, everything behind it waits for them.
type Hook = any

// HandleHook is told of events being handled.
type HandleHook interface {
	// OnHandle is called when the handlers of a group begin with an event, or with the events of a handler of batches, by the
	// worker of the partition, inside the transaction; DeliveryFrom tells group and place. It returns the context that the
	// handlers go on with and, unless it is nil, a function that is called once, when the transaction has ended and it is
	// known what came of the run.
	OnHandle(ctx context.Context, records []eventstore.Record) (context.Context, func(Handling))
}

// CallHook is told of calls to the outside: OnCall, OnForward.
type CallHook interface {
	// OnCall is called before a call is made, by the goroutine that makes it. It returns the context to make it with and,
	// unless it is nil, a function that is called once, with what the call came to.
	OnCall(ctx context.Context, r eventstore.Record) (context.Context, func(err error))
}

// Result is what came of a run of handlers.
type Result string

// The results of a run. Undone is a run whose transaction did not commit: the events beside it failed, the store did, or
// the lease was lost. It is run again.
const (
	Handled Result = "handled"
	Retried Result = "retried" // it failed, and is tried again
	Parked  Result = "parked"  // it failed, and the key is parked, or stays so
	Skipped Result = "skipped" // it failed, and is given up
	Stopped Result = "stopped" // it failed, and the group has stopped itself
	Undone  Result = "undone"
)

// Handling is a run of handlers that has ended.
type Handling struct {
	Result Result
	Class  Class // of the failure, if it is one
	Err    error
	Took   time.Duration // of the handlers, without the commit
	Ended  time.Time     // when the handlers had ended
}

// run is a run of handlers whose result the hooks are to be told.
type run struct {
	begun time.Time
	ends  []func(Handling)
	h     Handling
}

// runs of one transaction.
type runs struct {
	hooks []HandleHook
	all   []run
}

// begin tells the hooks. It returns the context to go on with.
func (rs *runs) begin(ctx context.Context, records ...eventstore.Record) context.Context {
	r := run{begun: time.Now()}
	for _, h := range rs.hooks {
		var end func(Handling)
		if ctx, end = h.OnHandle(ctx, records); end != nil {
			r.ends = append(r.ends, end)
		}
	}
	rs.all = append(rs.all, r)
	return ctx
}

// handled notes that the handlers of the run that was begun last have ended.
func (rs *runs) handled(err error) {
	if len(rs.all) == 0 {
		return
	}
	r := &rs.all[len(rs.all)-1]
	r.h = Handling{Result: Handled, Err: err, Ended: time.Now()}
	r.h.Took = r.h.Ended.Sub(r.begun)
}

// failed notes what follows from the failure of the run that was begun last.
func (rs *runs) failed(result Result, class Class) {
	if len(rs.all) > 0 {
		h := &rs.all[len(rs.all)-1].h
		h.Result, h.Class = result, class
	}
}

// tell says what the runs came to; err is that of the transaction.
func (rs *runs) tell(err error) {
	for i := range rs.all {
		r := &rs.all[i]
		if err != nil {
			r.h.Result, r.h.Class = Undone, ""
			if r.h.Err == nil {
				r.h.Err = err
			}
		}
		for _, end := range r.ends {
			end(r.h)
		}
	}
	rs.all = rs.all[:0]
}
