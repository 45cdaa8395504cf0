package saga

import (
	"context"
	"database/sql"
	"errors"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// answer is what an outside call came to. The zero answer: there was nothing to call.
type answer struct {
	made bool
	take func(carrier) error
	err  error
}

// CallKey is the idempotency key of a step's outside call, the same on every try; undo is that of its compensation.
func CallKey(id, step string, undo bool) string {
	if undo {
		return id + "/" + step + "/undo"
	}
	return id + "/" + step
}

// call makes the outside call that an event asks for, outside of any transaction. The saga's own policy says what
// follows a failure, so for the bus there is none.
func (r *runner) call(ctx context.Context, _ string, e event.Of[stepStarted]) (answer, error) {
	if e.Payload.Saga != r.name {
		return answer{}, nil
	}
	var x *instance
	err := r.store.View(ctx, func(q eventstore.Querier) (err error) {
		x, err = scan(q.QueryRowContext(ctx, selectOne, e.Payload.SagaID))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return answer{}, nil
	}
	if err != nil {
		return answer{}, err
	}
	d := r.defs[x.version]
	if d == nil {
		return answer{}, nil
	}
	step := d.plan().find(e.Payload.Step)
	if step < 0 || !d.plan().calls(step, e.Payload.Compensating) || !x.progress.expects(step, e.Payload.Compensating, e.Payload.Attempt) {
		return answer{}, nil
	}
	c, err := d.open(x.state)
	if err != nil {
		return answer{}, nil //nolint:nilerror // answered parks the instance for it
	}
	var take func(carrier) error
	err = r.step(ctx, x.runOf(d.plan(), step, e.Payload.Attempt, e.Payload.Compensating, true), func(ctx context.Context) (err error) {
		take, err = c.call(ctx, CallKey(x.id, e.Payload.Step, e.Payload.Compensating), step, e.Payload.Compensating)
		return err
	})
	return answer{made: true, take: take, err: err}, nil
}

// expects reports whether a try of a call is the one under way, or the one that a rest ends with.
func (p *progress) expects(step int, undo bool, try int) bool {
	st := p.at(step)
	if st == nil || st.Undo != undo || p.Mode == ended {
		return false
	}
	return st.Phase == calling && st.Try == try || st.Phase == resting && st.Try+1 == try
}

// answered takes a call's answer over, in the transaction that records it, and goes on from there.
func (r *runner) answered(ctx context.Context, tx bus.Tx, e event.Of[stepStarted], a answer) error {
	if e.Payload.Saga != r.name {
		return nil
	}
	t, err := r.begin(ctx, tx, e.Payload.SagaID)
	if err != nil || t == nil || !a.made {
		return err
	}
	step, undo, try := t.d.plan().find(e.Payload.Step), e.Payload.Compensating, e.Payload.Attempt
	if step < 0 || !t.x.progress.expects(step, undo, try) {
		return nil // answered before, or given up
	}
	if t.x.progress.Steps[step].Phase == resting {
		// The event came from the retry's timer: the try begins and ends here. Its effect, another such event, is not wanted.
		t.feed(input{op: inDue, step: step, undo: undo, try: try})
		t.queue = nil
		t.x.progress.Steps[step].At = 0
	}
	t.outcome(input{step: step, undo: undo, try: try}, a.take, a.err)
	return t.finish()
}

// outcome takes over what came from outside, unless it is refused, and feeds what became of the step.
func (t *turn) outcome(in input, take func(carrier) error, err error) {
	in.op = inDone
	if err == nil {
		if err = t.c.change(take); err != nil {
			in.op, in.err = inFailed, failureOf(err)
			in.err.Final = true // the same answer would be taken over no better
			in.err.Happened = t.d.plan().calls(in.step, in.undo)
		}
	} else {
		in.op, in.err = inFailed, failureOf(err)
	}
	t.feed(in)
}
