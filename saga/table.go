package saga

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"hash/fnv"
	"strings"

	"github.com/carebus/carebus/bus"
)

// Status of an instance.
type Status string

// The statuses of an instance. Stuck and Parked wait for a person.
const (
	Running      Status = "running"      // going on, or waiting for an answer, an event or a retry
	Compensating Status = "compensating" // it failed or was cancelled, and is being undone
	Stuck        Status = "stuck"        // the tries of a compensation, or of a NoUndo step, are used up
	Parked       Status = "parked"       // no process knows the version of its definition
	Completed    Status = "completed"    // every step was done
	Failed       Status = "failed"       // undone, after a failure
	Cancelled    Status = "cancelled"    // undone, by request
)

// Ended reports whether nothing will happen any more.
func (s Status) Ended() bool { return s == Completed || s == Failed || s == Cancelled }

// carebus_sagas has a row per instance: what lists show, and what the next transition begins from. Events are its
// history. rev counts transitions: a writer that read an older one is refused.
//
// carebus_saga_waits has a row per awaited event type of a waiting step. carebus_saga_kept remembers, for a while, which
// events of awaited types there were for which key, so that a wait that begins after its event finds it; the log has
// the events, and those that came from elsewhere (see bus.Transport) are in the column event.
//
// Instances that completed are many and seldom looked for: the index is for the others.
const tables = `
CREATE TABLE carebus_sagas (
	id TEXT PRIMARY KEY,
	name TEXT NOT NULL,
	version BIGINT NOT NULL,
	status TEXT NOT NULL,
	step TEXT NOT NULL,
	attempts BIGINT NOT NULL,
	error TEXT NOT NULL,
	entity TEXT NOT NULL,
	correlation TEXT NOT NULL,
	state TEXT NOT NULL,
	progress TEXT NOT NULL,
	since BIGINT NOT NULL,
	started_at BIGINT NOT NULL,
	updated_at BIGINT NOT NULL,
	rev BIGINT NOT NULL
);
CREATE INDEX carebus_sagas_open ON carebus_sagas (status, id) WHERE status <> 'completed';
CREATE TABLE carebus_saga_waits (
	id TEXT NOT NULL,
	step BIGINT NOT NULL,
	type TEXT NOT NULL,
	saga TEXT NOT NULL,
	version BIGINT NOT NULL,
	key TEXT NOT NULL,
	PRIMARY KEY (id, step, type)
);
CREATE INDEX carebus_saga_waits_key ON carebus_saga_waits (saga, type, key);
CREATE TABLE carebus_saga_kept (
	saga TEXT NOT NULL,
	type TEXT NOT NULL,
	key TEXT NOT NULL,
	at BIGINT NOT NULL,
	event_id TEXT NOT NULL,
	PRIMARY KEY (saga, type, key, at, event_id)
);
CREATE INDEX carebus_saga_kept_at ON carebus_saga_kept (at);
`

// instance is a row of carebus_sagas.
type instance struct {
	id          string
	name        string
	version     int
	status      Status
	step        string
	attempts    int
	err         string
	key         string
	correlation string
	state       []byte
	progress    progress
	seen        []string // ids of awaited events that were taken
	since       int64    // events recorded from then on may be awaited
	started     int64
	updated     int64
	rev         int64
}

// stored is the text of the column progress.
type stored struct {
	progress
	Seen []string `json:"e,omitempty"`
}

const columns = `id, name, version, status, step, attempts, error, entity, correlation, state, progress, since, started_at, updated_at, rev`

func scan(row interface{ Scan(...any) error }) (*instance, error) {
	x := &instance{}
	var state, text string
	if err := row.Scan(&x.id, &x.name, &x.version, &x.status, &x.step, &x.attempts, &x.err, &x.key, &x.correlation, &state, &text, &x.since, &x.started, &x.updated, &x.rev); err != nil {
		return nil, err
	}
	var s stored
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return nil, errors.New("saga: instance " + x.id + ": the column progress cannot be read; restore the row")
	}
	x.state, x.progress, x.seen = []byte(state), s.progress, s.Seen
	return x, nil
}

const selectOne = `SELECT ` + columns + ` FROM carebus_sagas WHERE id = $1`

// load returns nil when there is no such instance.
func load(tx bus.Tx, id string) (*instance, error) {
	x, err := scan(tx.QueryRow(selectOne, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return x, err
}

// errMoved: another process has made a transition of the instance since it was read. The bus tries again.
var errMoved = bus.Transient(errors.New("saga: the instance was changed by another process at the same time"))

func (x *instance) save(tx bus.Tx, now int64) error {
	text, err := json.Marshal(stored{x.progress, x.seen})
	if err != nil {
		return err
	}
	res, err := tx.Exec(`UPDATE carebus_sagas SET status = $1, step = $2, attempts = $3, error = $4, state = $5, progress = $6, updated_at = $7, rev = rev + 1 WHERE id = $8 AND rev = $9`,
		string(x.status), x.step, x.attempts, x.err, string(x.state), string(text), now, x.id, x.rev)
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil {
		return err
	} else if n != 1 {
		return errMoved
	}
	return nil
}

func (x *instance) stream() string { return streamPrefix + x.id }

func (x *instance) salt() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(x.id))
	return h.Sum32()
}

// show brings the columns that people look at up to date with the progress.
func (x *instance) show(pl *plan) {
	x.status = x.progress.status()
	x.step, x.attempts = "", 0
	for i := range x.progress.Steps {
		switch st := &x.progress.Steps[i]; st.Phase {
		case running, calling, waiting, resting, stuck:
			if x.step != "" {
				x.step += ","
			}
			x.step += pl.steps[i].name
			x.attempts = max(x.attempts, st.Try)
		}
	}
	switch {
	case x.status == Completed || x.status == Running && !x.progress.troubled():
		x.err = ""
	case x.status.Ended():
		x.err = x.progress.Why.text()
	}
}

// troubled: a try has failed and the next is to come.
func (p *progress) troubled() bool {
	for i := range p.Steps {
		if ph := p.Steps[i].Phase; ph == resting || ph == stuck || (ph == calling || ph == running) && p.Steps[i].Try > 1 {
			return true
		}
	}
	return false
}

func (c *cause) text() string {
	if c.Error == "" {
		return c.Reason
	}
	return c.Reason + ": " + c.Error
}

// failureOf judges the error of a step.
func failureOf(err error) failure {
	var no *RefusedError
	var panicked *bus.PanicError
	f := failure{Reason: "error", Class: string(bus.Classify(err)), Text: line(err.Error())}
	switch {
	case errors.As(err, &no):
		f.Reason, f.Final, f.Class, f.Text = no.Reason, true, string(bus.Permanent), ""
		if no.Err != nil {
			f.Text = line(no.Err.Error())
		}
	case errors.As(err, &panicked):
		f.Reason, f.Text = "panic", "the step panicked"
	case errors.Is(err, context.DeadlineExceeded):
		f.Reason = "timeout"
	}
	return f
}

// line is what is kept of an error: bounded, in one line.
func line(s string) string {
	if len(s) > 500 {
		s = strings.ToValidUTF8(s[:500], "")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, s)
}
