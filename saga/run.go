package saga

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/timer"
)

// Platform is where sagas run. *carebus.Platform is one.
type Platform interface {
	Handle(group string, opts ...bus.Option) error
	Store() *eventstore.Store
}

// Register makes this process one of those that carry the sagas' instances on: a member of the group "saga-NAME" of
// each, and of "saga-NAME-calls" for its outside calls. Versions of one saga are registered in one call. Call it before
// the platform runs.
func Register(ctx context.Context, p Platform, sagas ...Saga) error {
	byName := map[string]*runner{}
	var names []string
	for _, s := range sagas {
		if err := s.fault(); err != nil {
			return err
		}
		r := byName[s.Name()]
		if r == nil {
			r = &runner{name: s.Name(), store: p.Store(), defs: map[int]Saga{}, hooks: stepHooks(p)}
			if u, ok := p.(upcaster); ok {
				r.upcast = u.Upcast
			}
			byName[s.Name()] = r
			names = append(names, s.Name())
		}
		if r.defs[s.Version()] != nil {
			return &DefinitionError{Saga: s.Name(), Version: s.Version(), Wrong: []string{"registered twice; give the changed definition a new version"}}
		}
		r.defs[s.Version()] = s
	}
	timers, err := prepare(ctx, p.Store())
	if err != nil {
		return err
	}
	for _, n := range names {
		r := byName[n]
		r.timers = timers
		if err := r.join(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// prepare creates or upgrades the tables that sagas need.
func prepare(ctx context.Context, store *eventstore.Store) (*timer.Timers, error) {
	if err := store.Migrate(ctx, "saga", tables, `ALTER TABLE carebus_saga_kept ADD COLUMN event TEXT NOT NULL DEFAULT ''`); err != nil {
		return nil, fmt.Errorf("saga: tables: %w", err)
	}
	return timer.Open(ctx, store, nil)
}

// upcaster is a platform whose registry brings events to another major version.
type upcaster interface {
	Upcast(e event.Event, version string) (event.Event, error)
}

// runner carries the effects of the core out, for all versions of one saga.
type runner struct {
	name   string
	store  *eventstore.Store
	timers *timer.Timers
	defs   map[int]Saga
	upcast func(event.Event, string) (event.Event, error)
	hooks  []StepHook
	pruned atomic.Int64 // when kept events were last thinned out, Unix microseconds
}

func (r *runner) join(ctx context.Context, p Platform) error {
	opts := []bus.Option{
		bus.On(startedV1, r.started), bus.On(stepStartedV1, r.due), bus.On(stepFailedV1, r.timedOut),
		bus.On(cancelledV1, r.cancelled), bus.On(resumedV1, r.resumed),
	}
	seen := map[string]bool{}
	calls, limit := false, callTimeout
	for _, d := range r.defs {
		for _, a := range d.arrivals() {
			if !seen[a.eventType] {
				seen[a.eventType] = true
				opts = append(opts, bus.OnRecord(a.eventType, r.arrived))
			}
		}
		for i, s := range d.plan().steps {
			if s.kind == kindCall || s.undo == kindCall {
				calls = true
			}
			limit = max(limit, d.limit(i))
		}
	}
	// A step's own limit comes before the group's, so that it is the step that fails.
	// So many transitions fill the time that the bus gives a commit; larger batches would only be repeated after a crash.
	opts = append(opts, bus.Timeout(limit+5*time.Second), bus.BatchSize(128, 4<<20))
	if err := p.Handle("saga-"+r.name, opts...); err != nil {
		return err
	}
	if calls {
		// Small batches: a commit waits for the slowest call of its batch.
		err := p.Handle("saga-"+r.name+"-calls", bus.OnCall(stepStartedV1, bus.Call[stepStarted, answer]{Do: r.call, Done: r.answered}),
			bus.Timeout(limit+5*time.Second), bus.BatchSize(64, 1<<20), bus.Calls(32))
		if err != nil {
			return err
		}
	}
	return r.unpark(ctx)
}

// turn is one input brought to one instance, in one transaction.
type turn struct {
	r     *runner
	ctx   context.Context
	tx    bus.Tx
	x     *instance
	d     Saga
	c     carrier
	now   time.Time
	queue []effect
	news  []event.Event
	facts []event.Event // of OnEnd
	told  int           // the step whose failure its timer has stated; -1 for none
	apart bool          // the event at hand belongs to another flow: steps run in a transaction of their own flow
}

// begin reads an instance for a transition; nil when there is nothing to do with it.
func (r *runner) begin(ctx context.Context, tx bus.Tx, id string) (*turn, error) {
	x, err := load(tx, id)
	if err != nil || x == nil || x.name != r.name || x.status.Ended() {
		return nil, err
	}
	t := &turn{r: r, ctx: ctx, tx: tx, x: x, d: r.defs[x.version], now: tx.Now(), told: -1}
	if t.d == nil {
		return nil, t.park(fmt.Sprintf("no process here knows version %d of saga %s, only %s; run a program that registers it", x.version, x.name, r.versions()))
	}
	if t.c, err = t.d.open(x.state); err != nil {
		return nil, t.park(err.Error())
	}
	if cause, ok := event.CauseFrom(ctx); ok {
		t.apart = cause.CorrelationID != x.correlation
	}
	return t, nil
}

func (r *runner) versions() string {
	var vs []int
	for v := range r.defs {
		vs = append(vs, v)
	}
	slices.Sort(vs)
	var text []string
	for _, v := range vs {
		text = append(text, strconv.Itoa(v))
	}
	return strings.Join(text, ", ")
}

func (t *turn) feed(in input) {
	in.now, in.salt = t.now.UnixMicro(), t.x.salt()
	t.queue = append(t.queue, t.d.plan().transit(&t.x.progress, in)...)
}

// finish carries the effects out, and those that follow, and stores what it came to.
func (t *turn) finish() error {
	for len(t.queue) > 0 {
		e := t.queue[0]
		t.queue = t.queue[1:]
		if !t.x.progress.current(e) {
			continue
		}
		if err := t.carryOut(e); err != nil {
			return err
		}
	}
	t.x.state = t.c.json()
	t.x.show(t.d.plan())
	if len(t.news) > 0 {
		if err := t.tx.AppendStream(t.x.stream(), eventstore.AnyVersion, t.news...); err != nil {
			return err
		}
	}
	if len(t.facts) > 0 {
		if err := t.tx.Append(t.facts...); err != nil {
			return err
		}
	}
	return t.x.save(t.tx, t.now.UnixMicro())
}

func (t *turn) say(e event.Event) { t.news = append(t.news, t.x.news(e)) }

func (t *turn) carryOut(e effect) error {
	name := ""
	if e.op != tellEnd {
		name = t.d.plan().steps[e.step].name
	}
	switch e.op {
	case doStep:
		return t.do(e)
	case callStep:
		t.news = append(t.news, t.x.tryOf(t.d.plan(), e))
	case waitEvent, lookAgain:
		return t.wait(e)
	case waitNoMore:
		_, err := t.tx.Exec(`DELETE FROM carebus_saga_waits WHERE id = $1 AND step = $2`, t.x.id, e.step)
		return err
	case setRetry:
		return t.r.timers.SetStream(t.ctx, t.tx, t.x.timer(e.step), time.UnixMicro(e.at), t.x.stream(), t.x.tryOf(t.d.plan(), e))
	case setDeadline:
		return t.r.timers.SetStream(t.ctx, t.tx, t.x.timer(e.step), time.UnixMicro(e.at), t.x.stream(), t.x.news(stepFailedV1.New(source, stepFailed{
			of: t.x.of(), Step: name, Attempt: e.try, Reason: "timeout", Class: string(bus.Dependency), Final: true})))
	case clearTimer:
		_, err := t.r.timers.CancelTx(t.tx, t.x.timer(e.step))
		return err
	case tellDone:
		t.say(stepCompletedV1.New(source, stepCompleted{of: t.x.of(), Step: name, Attempt: e.try}))
	case tellUndone:
		t.say(compensatedV1.New(source, compensated{of: t.x.of(), Step: name, Attempt: e.try, Reason: t.x.progress.Why.Reason}))
	case tellFailed:
		t.x.err = (&cause{Reason: e.err.Reason, Error: e.err.Text}).text()
		if t.told == e.step {
			return nil
		}
		said := stepFailed{of: t.x.of(), Step: name, Attempt: e.try, Compensating: e.undo, Reason: e.err.Reason, Class: e.err.Class, Error: e.err.Text, Final: e.at == 0}
		if e.at != 0 {
			at := time.UnixMicro(e.at).UTC()
			said.RetryAt = &at
		}
		t.say(stepFailedV1.New(source, said))
	case tellEnd:
		return t.end()
	}
	return nil
}

func (t *turn) names(steps []int) []string {
	out := make([]string, len(steps))
	for i, s := range steps {
		out[i] = t.d.plan().steps[s].name
	}
	return out
}

func (t *turn) end() (err error) {
	p := &t.x.progress
	begun := time.UnixMicro(t.x.started).UTC()
	end := End{ID: t.x.id, Status: p.status()}
	if p.Why == nil {
		t.say(completedV1.New(source, completed{of: t.x.of(), Steps: t.names(p.Done), StartedAt: begun}))
	} else {
		end.Reason, end.Error, end.Compensated, end.Uncompensated = p.Why.Reason, p.Why.Error, t.names(p.Undone), t.names(p.Left)
		if p.Why.Step >= 0 {
			end.Step = t.d.plan().steps[p.Why.Step].name
		}
		t.say(failedV1.New(source, sagaFailed{of: t.x.of(), Step: end.Step, Attempt: p.Why.Try, Reason: end.Reason, Class: p.Why.Class, Error: end.Error,
			Compensated: end.Compensated, Uncompensated: end.Uncompensated, StartedAt: begun}))
	}
	t.facts, err = t.c.end(end)
	for i := range t.facts {
		t.facts[i].CorrelationID = t.x.correlation
	}
	return err
}

// do runs a step in the transaction; a step that fails leaves only the record of its failure.
func (t *turn) do(e effect) error {
	if t.apart {
		t.news = append(t.news, t.x.tryOf(t.d.plan(), e))
		return nil
	}
	err := t.tx.Savepoint(func() error {
		return t.r.step(t.ctx, t.x.runOf(t.d.plan(), e.step, e.try, e.undo, false), func(ctx context.Context) error {
			return t.c.run(ctx, t.tx.WithContext(ctx), e.step, e.undo)
		})
	})
	switch {
	case err == nil:
		t.feed(input{op: inDone, step: e.step, undo: e.undo, try: e.try})
	case t.ctx.Err() != nil, broken(err):
		return err // not the step's failure but that of the transaction: all of it is tried again
	default:
		t.feed(input{op: inFailed, step: e.step, undo: e.undo, try: e.try, err: failureOf(err)})
	}
	return nil
}

func broken(err error) bool {
	return errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrFull) || errors.Is(err, eventstore.ErrClosed) ||
		errors.Is(err, eventstore.ErrCorrupt) || errors.Is(err, eventstore.ErrReadOnly) || errors.Is(err, errState)
}

// tryOf is the event that begins a try with a transaction of its own. That of a call has a partition key of its own.
func (x *instance) tryOf(pl *plan, e effect) event.Event {
	s := &pl.steps[e.step]
	out := x.news(stepStartedV1.New(source, stepStarted{of: x.of(), Step: s.name, Attempt: e.try, Compensating: e.undo}))
	if !e.undo && s.kind == kindCall || e.undo && s.undo == kindCall {
		out.PartitionKey = x.id + "/" + s.name
	}
	return out
}

// timer is the id of a step's timer; it has one at a time.
func (x *instance) timer(step int) string { return "saga/" + x.id + "/" + strconv.Itoa(step) }

func (pl *plan) find(name string) int {
	return slices.IndexFunc(pl.steps, func(s stepPlan) bool { return s.name == name })
}

func (r *runner) started(ctx context.Context, tx bus.Tx, e event.Of[started]) error {
	return r.bring(ctx, tx, e.Payload.of, func(*turn) (input, bool) { return input{op: inStart}, true })
}

// due begins a retry, or a step that was put off. Both kinds of group see the tries of calls: for one that was resting
// the progress is brought up to date here; the call itself is made by the other group.
func (r *runner) due(ctx context.Context, tx bus.Tx, e event.Of[stepStarted]) error {
	return r.bring(ctx, tx, e.Payload.of, func(t *turn) (input, bool) {
		step := t.d.plan().find(e.Payload.Step)
		if step < 0 || t.d.plan().calls(step, e.Payload.Compensating) {
			return input{}, false
		}
		return input{op: inDue, step: step, undo: e.Payload.Compensating, try: e.Payload.Attempt}, true
	})
}

// calls reports whether a step, or its compensation, is an outside call.
func (pl *plan) calls(step int, undo bool) bool {
	if undo {
		return pl.steps[step].undo == kindCall
	}
	return pl.steps[step].kind == kindCall
}

func (r *runner) timedOut(ctx context.Context, tx bus.Tx, e event.Of[stepFailed]) error {
	if e.Payload.Reason != "timeout" || !e.Payload.Final || e.Payload.Compensating {
		return nil // the instance's own statement
	}
	return r.bring(ctx, tx, e.Payload.of, func(t *turn) (input, bool) {
		step := t.d.plan().find(e.Payload.Step)
		t.told = step
		st := t.x.progress.at(step)
		return input{op: inTimeout, step: step}, st != nil && st.Phase == waiting && st.Try == e.Payload.Attempt
	})
}

func (p *progress) at(step int) *stepState {
	if step < 0 || step >= len(p.Steps) {
		return nil
	}
	return &p.Steps[step]
}

func (r *runner) cancelled(ctx context.Context, tx bus.Tx, e event.Of[acted]) error {
	return r.bring(ctx, tx, e.Payload.of, func(*turn) (input, bool) {
		return input{op: inCancel, err: failure{Text: e.Payload.Reason}}, true
	})
}

func (r *runner) resumed(ctx context.Context, tx bus.Tx, e event.Of[acted]) error {
	return r.bring(ctx, tx, e.Payload.of, func(*turn) (input, bool) {
		if e.Payload.Skip {
			return input{op: inSkip}, true
		}
		return input{op: inResume}, true
	})
}

// bring hands an input to an instance, if it is one of this saga's.
func (r *runner) bring(ctx context.Context, tx bus.Tx, to of, in func(*turn) (input, bool)) error {
	if to.Saga != r.name {
		return nil
	}
	t, err := r.begin(ctx, tx, to.SagaID)
	if err != nil || t == nil {
		return err
	}
	what, ok := in(t)
	if !ok {
		return nil
	}
	if what.op == inResume && t.x.progress.Mode == fresh {
		what.op = inStart // it was parked before it began
	}
	t.feed(what)
	return t.finish()
}

// Pauses after which a parked instance is looked at again: a deployment may be under way.
var parkPolicy = Backoff(1, time.Minute, time.Hour)

// park sets an instance aside that this program cannot carry on.
func (t *turn) park(why string) error {
	x := t.x
	if x.status != Parked {
		x.status, x.attempts = Parked, 0
	}
	x.attempts++
	at := t.now.Add(parkPolicy.pause(x.attempts, x.salt()))
	if why != x.err {
		t.say(stepFailedV1.New(source, stepFailed{of: x.of(), Step: orDash(x.step), Attempt: x.attempts, Reason: "unknown-definition", Class: string(bus.Permanent), Error: why, RetryAt: &at}))
		if err := t.tx.AppendStream(x.stream(), eventstore.AnyVersion, t.news...); err != nil {
			return err
		}
	}
	x.err = why
	if err := t.r.timers.SetStream(t.ctx, t.tx, "saga-parked/"+x.id, at, x.stream(), x.news(resumedV1.New(source, acted{of: x.of(), Reason: "parked: looked at again", Actor: source}))); err != nil {
		return err
	}
	return x.save(t.tx, t.now.UnixMicro())
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// unpark resumes instances that were parked until a process knows their version, which this one does.
func (r *runner) unpark(ctx context.Context) error {
	for v := range r.defs {
		for after := ""; ; {
			var found []*instance
			err := r.store.View(ctx, func(q eventstore.Querier) (err error) {
				found, err = scanAll(q.QueryContext(ctx, `SELECT `+columns+` FROM carebus_sagas WHERE status <> 'completed' AND status = 'parked' AND id > $1 AND name = $2 AND version = $3 ORDER BY id LIMIT 256`, after, r.name, v))
				return err
			})
			if err != nil {
				return err
			}
			for _, x := range found {
				after = x.id
				e := x.news(resumedV1.New(source, acted{of: x.of(), Reason: "version " + strconv.Itoa(v) + " was registered", Actor: source}))
				if _, err := r.store.Append(ctx, x.stream(), eventstore.AnyVersion, e); err != nil {
					return err
				}
			}
			if len(found) < 256 {
				break
			}
		}
	}
	return nil
}
