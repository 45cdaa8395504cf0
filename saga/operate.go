package saga

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// Errors that operations report, tested with errors.Is.
var (
	// ErrNoInstance: no instance has this id.
	ErrNoInstance = errors.New("saga: no such instance")
	// ErrEnded: the instance has completed, failed or been cancelled; its history does not change.
	ErrEnded = errors.New("saga: the instance has ended")
	// ErrNotStuck: only a stuck step can be skipped.
	ErrNotStuck = errors.New("saga: the instance is not stuck")
	// ErrUndoing: the instance is being undone already.
	ErrUndoing = errors.New("saga: the instance is being undone already")
	// ErrParked: no process knows the version of the instance; register it first.
	ErrParked = errors.New("saga: the instance is parked; register its version first")
	// ErrReason: the act wants a reason, for the audit.
	ErrReason = errors.New("saga: a reason is required")
)

// Instance is one run of a saga.
type Instance struct {
	ID            string    `json:"id"`
	Saga          string    `json:"saga"`
	Version       int       `json:"version"`
	Status        Status    `json:"status"`
	Step          string    `json:"step,omitempty"`     // under way; several, with commas, when parallel
	Attempts      int       `json:"attempts,omitempty"` // tries of it
	Error         string    `json:"error,omitempty"`    // of the last try that failed, or why the saga did
	Key           string    `json:"key,omitempty"`      // entity that it is about
	CorrelationID string    `json:"correlationId"`
	StartedAt     time.Time `json:"startedAt"`
	UpdatedAt     time.Time `json:"updatedAt"`
}

// StepStatus is where one step of an instance is.
type StepStatus struct {
	Name         string    `json:"name"`
	State        string    `json:"state"` // to-do, running, calling, waiting, resting, stuck, done, failed, stopped, undone, skipped
	Compensating bool      `json:"compensating,omitempty"`
	Attempts     int       `json:"attempts,omitempty"`
	Until        time.Time `json:"until,omitzero"` // next try, or deadline
}

// Detail is an instance with its steps, in the order of the definition.
type Detail struct {
	Instance
	Steps  []StepStatus `json:"steps"`
	Undone []string     `json:"undone,omitempty"` // in the order of undoing
	Left   []string     `json:"left,omitempty"`   // completed and not undone: a person must look
}

// Query chooses instances. The zero value chooses all.
type Query struct {
	Saga   string // empty for all
	Status Status // empty for all
	After  string // ids behind this one: the last of the page before
	Limit  int    // default 100
}

// List returns instances by id.
func List(ctx context.Context, store *eventstore.Store, q Query) ([]Instance, error) {
	if q.Limit <= 0 {
		q.Limit = 100
	}
	// The second text can use the index of those that have not completed.
	text := `SELECT ` + columns + ` FROM carebus_sagas WHERE id > $1 AND ($2 = '' OR name = $3) AND ($4 = '' OR status = $5) ORDER BY id LIMIT $6`
	if q.Status != "" && q.Status != Completed {
		text = `SELECT ` + columns + ` FROM carebus_sagas WHERE status <> 'completed' AND id > $1 AND ($2 = '' OR name = $3) AND $4 <> '' AND status = $5 ORDER BY id LIMIT $6`
	}
	out := []Instance{}
	err := view(ctx, store, func(v eventstore.Querier) error {
		xs, err := scanAll(v.QueryContext(ctx, text, q.After, q.Saga, q.Saga, string(q.Status), string(q.Status), q.Limit))
		for _, x := range xs {
			out = append(out, x.public())
		}
		return err
	})
	return out, err
}

// view reads the tables; a store on which no saga has run has none, and nothing in them.
func view(ctx context.Context, store *eventstore.Store, fn func(eventstore.Querier) error) error {
	return store.View(ctx, func(q eventstore.Querier) error {
		var version int
		err := q.QueryRowContext(ctx, `SELECT version FROM carebus_components WHERE name = 'saga'`).Scan(&version)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return fn(q)
	})
}

func scanAll(rows *sql.Rows, err error) ([]*instance, error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []*instance
	for rows.Next() {
		x, err := scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, rows.Err()
}

func (x *instance) public() Instance {
	return Instance{ID: x.id, Saga: x.name, Version: x.version, Status: x.status, Step: x.step, Attempts: x.attempts, Error: x.err, Key: x.key,
		CorrelationID: x.correlation, StartedAt: time.UnixMicro(x.started).UTC(), UpdatedAt: time.UnixMicro(x.updated).UTC()}
}

var stateNames = map[phase]string{todo: "to-do", running: "running", calling: "calling", waiting: "waiting", resting: "resting",
	stuck: "stuck", done: "done", failed: "failed", stopped: "stopped", undone: "undone", skipped: "skipped"}

// Show returns an instance with its steps, or ErrNoInstance. Its history is the stream "platform.saga/" + id.
func Show(ctx context.Context, store *eventstore.Store, id string) (Detail, error) {
	x, err := find(ctx, store, id)
	if err != nil {
		return Detail{}, err
	}
	d := Detail{Instance: x.public(), Steps: []StepStatus{}}
	// The names are in the history: this process need not know the definition.
	rs, err := store.Stream(ctx, eventstore.StreamQuery{Stream: x.stream(), From: 1, Limit: 1})
	if err != nil {
		return d, err
	}
	first, err := startedV1.Decode(rs[0].Event)
	if err != nil {
		return d, err
	}
	for i, name := range first.Payload.Steps {
		s := StepStatus{Name: name, State: stateNames[todo]}
		if st := x.progress.at(i); st != nil {
			s.State, s.Compensating, s.Attempts = stateNames[st.Phase], st.Undo, st.Try
			if st.At != 0 {
				s.Until = time.UnixMicro(st.At).UTC()
			}
		}
		d.Steps = append(d.Steps, s)
	}
	pick := func(steps []int) (out []string) {
		for _, i := range steps {
			if i < len(d.Steps) {
				out = append(out, d.Steps[i].Name)
			}
		}
		return out
	}
	d.Undone, d.Left = pick(x.progress.Undone), pick(x.progress.Left)
	return d, nil
}

func find(ctx context.Context, store *eventstore.Store, id string) (*instance, error) {
	var x *instance
	err := view(ctx, store, func(q eventstore.Querier) (err error) {
		x, err = scan(q.QueryRowContext(ctx, selectOne, id))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) || err == nil && x == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoInstance, id)
	}
	return x, err
}

// Act is who does something to an instance, and why; it goes into the audit.
type Act struct {
	Actor  string // a person or program; default "operator"
	Reason string // required
}

// Resume tries again what is stuck, with all its tries anew, and what rests after a failed try, without waiting. It
// returns when the wish is on stable storage; a process that runs the saga carries it out.
func Resume(ctx context.Context, store *eventstore.Store, id string, a Act) error {
	return act(ctx, store, id, a, func(x *instance) (event.Definition[acted], bool, error) { return resumedV1, false, nil })
}

// Skip says that a person has taken care of what is stuck: the saga goes on as if the step, or its compensation, had
// been done. A compensation that was skipped is told among those that carebus did not make.
func Skip(ctx context.Context, store *eventstore.Store, id string, a Act) error {
	return act(ctx, store, id, a, func(x *instance) (event.Definition[acted], bool, error) {
		if x.status != Stuck {
			return resumedV1, false, ErrNotStuck
		}
		return resumedV1, true, nil
	})
}

// Cancel has an instance undone. Calls under way are waited for. It returns when the wish is on stable storage; an
// instance that comes to its end before it is heard stays as it is.
func Cancel(ctx context.Context, store *eventstore.Store, id string, a Act) error {
	return act(ctx, store, id, a, func(x *instance) (event.Definition[acted], bool, error) {
		switch {
		case x.status == Parked:
			return cancelledV1, false, ErrParked
		case x.progress.Why != nil:
			return cancelledV1, false, ErrUndoing
		}
		return cancelledV1, false, nil
	})
}

func act(ctx context.Context, store *eventstore.Store, id string, a Act, check func(*instance) (event.Definition[acted], bool, error)) error {
	if a.Reason == "" {
		return ErrReason
	}
	if a.Actor == "" {
		a.Actor = "operator"
	}
	if _, err := find(ctx, store, id); err != nil {
		return err
	}
	return store.Update(ctx, func(tx *eventstore.Tx) error {
		x, err := scan(tx.QueryRowContext(ctx, selectOne, id))
		if err != nil {
			return err
		}
		if x.status.Ended() {
			return ErrEnded
		}
		def, skip, err := check(x)
		if err != nil {
			return err
		}
		_, err = tx.Append(ctx, x.stream(), eventstore.AnyVersion, x.news(def.New(source, acted{of: x.of(), Reason: a.Reason, Actor: a.Actor, Skip: skip})))
		return err
	})
}

// Count returns how many instances of a saga there are, by version and status. A version of which all have ended needs
// no longer be registered.
func Count(ctx context.Context, store *eventstore.Store, name string) (map[int]map[Status]int, error) {
	out := map[int]map[Status]int{}
	err := view(ctx, store, func(q eventstore.Querier) error {
		rows, err := q.QueryContext(ctx, `SELECT version, status, COUNT(*) FROM carebus_sagas WHERE name = $1 GROUP BY version, status`, name)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v, n int
			var s Status
			if err := rows.Scan(&v, &s, &n); err != nil {
				return err
			}
			if out[v] == nil {
				out[v] = map[Status]int{}
			}
			out[v][s] = n
		}
		return rows.Err()
	})
	return out, err
}

// openLimit bounds how many instances of each status CountOpen looks at.
const openLimit = 10_000

// CountOpen returns how many instances have not come to an end, by saga and status, at a cost that is bounded whatever
// their number: of each status 10,000 are counted. It is for monitors that ask every few seconds.
func CountOpen(ctx context.Context, store *eventstore.Store) (map[string]map[Status]int, error) {
	out := map[string]map[Status]int{}
	err := view(ctx, store, func(q eventstore.Querier) error {
		for _, status := range []Status{Running, Compensating, Stuck, Parked} {
			if err := countOpen(ctx, q, status, out); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// countOpen reads the index of instances that did not complete.
func countOpen(ctx context.Context, q eventstore.Querier, status Status, out map[string]map[Status]int) error {
	rows, err := q.QueryContext(ctx, `SELECT name, COUNT(*) FROM (SELECT name FROM carebus_sagas WHERE status <> 'completed' AND status = $1 LIMIT $2) AS sample GROUP BY name`,
		string(status), openLimit)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int
		if err := rows.Scan(&name, &n); err != nil {
			return err
		}
		if out[name] == nil {
			out[name] = map[Status]int{}
		}
		out[name][status] = n
	}
	return rows.Err()
}
