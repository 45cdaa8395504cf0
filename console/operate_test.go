package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/saga"
)

// revealed is what was recorded of protected values that were shown.
func (s *site) revealed() (out []platform.FieldRevealed) {
	s.t.Helper()
	records, err := s.p.Store().Type(context.Background(), eventstore.TypeQuery{Type: platform.FieldRevealedV1.Type(), Limit: 100})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range records {
		var told platform.FieldRevealed
		if err := json.Unmarshal(r.Payload, &told); err != nil {
			s.t.Fatal(err)
		}
		out = append(out, told)
	}
	return out
}

// TestManyWait: a list of what waits behind a poison event never looks complete when it is not, be it cut by its length or
// because the events of the key lie too far apart.
func TestManyWait(t *testing.T) {
	s := newSite(t, nil, failing)
	noteSchema(t, s.p)
	s.publish(noted("p1", "K2", "flow-2", "", "poison"))
	s.until("the poison is parked", func() bool { return s.parked("K2") })
	behind := func(from, to int) {
		for i := from; i < to; i++ {
			s.publish(noted(fmt.Sprint("b", i), "K2", "flow-2", "", "behind it"))
		}
		s.until("they wait", func() bool {
			letters, err := s.p.Bus().DeadLetters(context.Background(), bus.Filter{Group: "notes", Key: "K2"}, 1)
			return err == nil && len(letters) == 1 && letters[0].Events == int64(to)+1
		})
	}
	const page = "/console/failure?group=notes&key=K2"
	behind(0, 2)
	s.wants(s.get(page), 200, "/console/events/b0", "/console/events/b1")
	s.lacks(s.get(page), "are listed")

	// Another key of the same partition, for more than is looked at in one go.
	partitions := s.p.Store().Partitions()
	other := ""
	for i := 0; other == "" || eventstore.PartitionOf(other, partitions) != eventstore.PartitionOf("K2", partitions); i++ {
		other = fmt.Sprint("other-", i)
	}
	for range 11 {
		events := make([]event.Event, 2000)
		for i := range events {
			events[i] = noted(event.NewID(), other, "flow-3", "", "x")
		}
		if _, err := s.p.Store().Append(context.Background(), "", eventstore.AnyVersion, events...); err != nil {
			t.Fatal(err)
		}
	}
	behind(2, 3)
	s.wants(s.get(page), 200, "/console/events/b1", "The first 3 of 4 are listed.")
	s.lacks(s.get(page), "/console/events/b2")
	behind(3, 60)
	s.wants(s.get(page), 200, "The first 3 of 61 are listed.")
}

// errand is a saga of three steps. The second is refused while the printer is out of order, and is then stuck: it does not
// undo the first.
type errand struct {
	broken             atomic.Bool
	reserved, released atomic.Int64
	printed, filled    atomic.Int64
	definition         *saga.Definition[struct{}]
}

func newErrand() *errand {
	x := &errand{}
	count := func(n *atomic.Int64) func(context.Context, bus.Tx, *struct{}) error {
		return func(context.Context, bus.Tx, *struct{}) error { n.Add(1); return nil }
	}
	x.definition = saga.Define("errand", 1,
		saga.Do("reserve", count(&x.reserved)).Compensate(count(&x.released)),
		saga.Do("print", func(context.Context, bus.Tx, *struct{}) error {
			if x.broken.Load() {
				return &saga.RefusedError{Reason: "no-label", Err: errors.New("no label for Zebedee")}
			}
			x.printed.Add(1)
			return nil
		}).NoUndo(),
		saga.Do("fill", count(&x.filled)))
	x.broken.Store(true)
	return x
}

func (s *site) sagaIs(id string, status saga.Status) saga.Detail {
	s.t.Helper()
	var d saga.Detail
	s.until(id+" is "+string(status), func() bool {
		var err error
		if d, err = saga.Show(context.Background(), s.p.Store(), id); err != nil {
			s.t.Fatal(err)
		}
		return d.Status == status
	})
	return d
}

// TestOperateSagas helps sagas that are stuck, in the three ways there are: each wants a reason, which the audit has.
func TestOperateSagas(t *testing.T) {
	x := newErrand()
	s := newSite(t, nil, func(p *carebus.Platform) error { return saga.Register(context.Background(), p, x.definition) })
	ids := []string{"to-resume", "to-skip", "to-cancel"}
	for _, id := range ids {
		if err := x.definition.Start(context.Background(), s.p.Store(), id, struct{}{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids {
		s.sagaIs(id, saga.Stuck)
		s.wants(s.get("/console/sagas/"+id), 200, "stuck", "1 of 3", "Resume", "Skip", "Cancel the saga")
	}
	s.wants(s.get("/console/sagas?status=stuck"), 200, ids...)

	for _, act := range []string{"resume", "skip", "cancel"} {
		for _, reason := range []string{"", "   "} {
			s.wants(s.post("/console/sagas/to-resume/"+act, url.Values{"reason": {reason}}), 422, "say why")
		}
		s.wants(s.post("/console/sagas/none/"+act, url.Values{"reason": {"try"}}), 404)
	}
	s.wants(s.post("/console/sagas/to-resume/explode", url.Values{"reason": {"try"}}), 404)
	for _, id := range ids {
		if d := s.sagaIs(id, saga.Stuck); d.Step != "print" {
			t.Errorf("%s: an act without a reason has moved it to %q", id, d.Step)
		}
	}

	s.wants(s.post("/console/sagas/to-skip/skip", url.Values{"reason": {"label written by hand"}}), 200, "as if what was stuck had been done")
	if d := s.sagaIs("to-skip", saga.Completed); d.Steps[1].State != "skipped" {
		t.Errorf("the skipped step is %s", d.Steps[1].State)
	}
	if printed, filled := x.printed.Load(), x.filled.Load(); printed != 0 || filled != 1 {
		t.Errorf("after the skip %d were printed and %d filled", printed, filled)
	}

	s.wants(s.post("/console/sagas/to-cancel/cancel", url.Values{"reason": {"the patient has moved"}}), 200, "is being undone")
	if d := s.sagaIs("to-cancel", saga.Cancelled); !slices.Equal(d.Undone, []string{"reserve"}) || x.released.Load() != 1 {
		t.Errorf("undone: %q, %d released", d.Undone, x.released.Load())
	}

	x.broken.Store(false)
	s.wants(s.post("/console/sagas/to-resume/resume", url.Values{"reason": {"printer repaired"}}), 200, "tried again")
	s.sagaIs("to-resume", saga.Completed)
	if reserved, printed, filled, released := x.reserved.Load(), x.printed.Load(), x.filled.Load(), x.released.Load(); reserved != 3 || printed != 1 || filled != 2 || released != 1 {
		t.Errorf("at the end %d reserved, %d printed, %d filled, %d released", reserved, printed, filled, released)
	}

	for _, id := range ids { // what has ended does not change
		s.lacks(s.get("/console/sagas/"+id), "Cancel the saga")
		for _, act := range []string{"resume", "skip", "cancel"} {
			s.wants(s.post("/console/sagas/"+id+"/"+act, url.Values{"reason": {"try"}}), 409)
		}
	}
	s.wants(s.get("/console/audit?kind=sagas"), 200, "platform.saga.resumed", "platform.saga.cancelled", "label written by hand", "the patient has moved", "printer repaired")
}

// TestRevealSaga: the error text of a saga is hidden on every page until somebody says why they must see it.
func TestRevealSaga(t *testing.T) {
	x := newErrand()
	s := newSite(t, nil, func(p *carebus.Platform) error { return saga.Register(context.Background(), p, x.definition) })
	if err := x.definition.Start(context.Background(), s.p.Store(), "stuck", struct{}{}); err != nil {
		t.Fatal(err)
	}
	d := s.sagaIs("stuck", saga.Stuck)
	const text = "no label for Zebedee"
	for _, path := range []string{"/console/sagas", "/console/sagas/stuck", "/console/flows/" + d.CorrelationID, "/console/search?correlation=" + d.CorrelationID, "/console/audit?kind=all"} {
		p := s.get(path)
		s.wants(p, 200)
		s.lacks(p, "Zebedee")
	}
	for _, form := range []url.Values{{"purpose": {"support"}}, {"reason": {"printer"}, "purpose": {"curiosity"}}, {"reason": {"printer"}}} {
		p := s.post("/console/sagas/stuck/reveal", form)
		s.wants(p, 422)
		s.lacks(p, text)
	}
	if n := len(s.revealed()); n != 0 {
		t.Fatalf("%d reveals were recorded that did not happen", n)
	}
	s.wants(s.post("/console/sagas/stuck/reveal", url.Values{"reason": {"which printer"}, "purpose": {"support"}}), 200, text, "the reason was recorded")
	s.lacks(s.get("/console/sagas/stuck"), text)
	told := s.revealed()
	if i := slices.IndexFunc(told, func(f platform.FieldRevealed) bool { return f.Reason != nil && *f.Reason == "which printer" }); i < 0 || *told[i].Purpose != "support" || told[i].Actor == "" || !slices.Contains(told[i].Fields, "error") {
		t.Errorf("%+v", told)
	}
	s.wants(s.get("/console/audit?kind=reveals"), 200, "which printer")
}

type note struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

var noteMadeV1 = event.Define[note]("test.note.made", "1.0.0")

// TestRebuildProjection compares a read model that somebody has spoiled with one built anew, rebuilds it, and cancels a
// rebuild that does not end: the live tables are read all the time.
func TestRebuildProjection(t *testing.T) {
	building, goOn := make(chan struct{}, 1), make(chan struct{}) // a handler waits in a rebuild, until it may go on
	var slow atomic.Bool
	model := projection.Define("last-notes", 1,
		projection.Tables(`CREATE TABLE {last_notes} (id TEXT PRIMARY KEY, text TEXT NOT NULL)`),
		projection.On(noteMadeV1, func(_ context.Context, tx projection.Tx, e event.Of[note]) error {
			if tx.Rebuilding() && slow.Load() {
				select {
				case building <- struct{}{}:
				default:
				}
				<-goOn
			}
			_, err := tx.Exec(`INSERT INTO {last_notes} (id, text) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text`, e.Payload.ID, e.Payload.Text)
			return err
		}))
	ctx := context.Background()
	s := newSiteAt(t, t.TempDir()+"/console.db", nil, func(p *carebus.Platform) error { return projection.Register(ctx, p, model) }, model)
	noteSchema(t, s.p)
	receipts, err := s.p.PublishBatch(ctx, []event.Event{noted("n1", "K1", "f", "", "first"), noted("n2", "K2", "f", "", "second"), noted("n3", "K1", "f", "", "third")})
	if err != nil {
		t.Fatal(err)
	}
	if err := projection.Wait(ctx, s.p, model, receipts...); err != nil {
		t.Fatal(err)
	}
	holds := func(id string) (text string) {
		t.Helper()
		err := s.p.Store().View(ctx, func(q eventstore.Querier) error {
			return q.QueryRowContext(ctx, `SELECT text FROM last_notes WHERE id = $1`, id).Scan(&text)
		})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	status := func() projection.Status {
		t.Helper()
		st, err := projection.Get(ctx, s.p.Store(), "last-notes")
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	first := status()
	err = s.p.Store().Update(ctx, func(tx *eventstore.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE last_notes_g1 SET text = 'spoiled' WHERE id = 'K1'`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := holds("K1"); got != "spoiled" {
		t.Fatalf("the read model has %q", got)
	}

	for _, act := range []string{"check", "rebuild"} {
		s.wants(s.post("/console/projections/last-notes/"+act, url.Values{}), 422, "say why")
		s.wants(s.post("/console/projections/none/"+act, url.Values{"reason": {"try"}}), 404)
	}
	s.wants(s.post("/console/projections/last-notes/explode", url.Values{"reason": {"try"}}), 404)
	s.wants(s.post("/console/projections/last-notes/cancel", url.Values{"work": {"none"}}), 404)

	s.wants(s.post("/console/projections/last-notes/check", url.Values{"reason": {"a doubt"}}), 200, "The check of last-notes is under way")
	s.wants(s.asked("/console/projections", "1 rows missing, 1 too many"), 200, "finished", "a doubt")
	if got := holds("K1"); got != "spoiled" || status().Generation != first.Generation {
		t.Errorf("a comparison has changed the read model: %q, generation %d", got, status().Generation)
	}

	slow.Store(true)
	s.wants(s.post("/console/projections/last-notes/rebuild", url.Values{"reason": {"never ends"}}), 200, "The rebuild of last-notes is under way")
	<-building
	p := s.get("/console/projections")
	s.wants(p, 200, "running", "never ends")
	s.wants(s.post("/console/projections/last-notes/rebuild", url.Values{"reason": {"twice"}}), 409, "under way")
	s.wants(s.post("/console/projections/last-notes/cancel", url.Values{"work": {between(p.text, `name="work" value="`, `"`)}}), 200, "is cancelled")
	close(goOn) // a transaction that has begun is finished
	s.wants(s.asked("/console/jobs", "the live tables are as they were"), 200, "cancelled")
	if got := holds("K1"); got != "spoiled" || status().Generation != first.Generation {
		t.Errorf("a cancelled rebuild has changed the read model: %q, generation %d", got, status().Generation)
	}

	slow.Store(false)
	s.wants(s.post("/console/projections/last-notes/rebuild", url.Values{"reason": {"the disk was restored"}}), 200)
	s.asked("/console/projections", "has taken over")
	if one, two, now := holds("K1"), holds("K2"), status(); one != "third" || two != "second" || now.Generation <= first.Generation || now.Build != nil {
		t.Errorf("rebuilt: %q, %q, generation %d after %d, build %v", one, two, now.Generation, first.Generation, now.Build)
	}
	s.wants(s.get("/console/audit?kind=projections"), 200, "platform.projection.rebuilt", "the disk was restored")
	s.lacks(s.get("/console/audit?kind=projections"), "never ends")

	s.wants(s.post("/console/projections/last-notes/check", url.Values{"reason": {"once more"}}), 200)
	s.asked("/console/projections", "equal to its rebuild")
}
