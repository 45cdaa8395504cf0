package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
)

type fetched struct {
	Events []struct {
		Lease   string
		Attempt int
		Redrive bool
		Event   struct {
			Metadata struct{ EventID, PartitionKey string }
			Payload  struct{ PatientID, EnrollmentID string }
		}
	}
}

// TestConsumersAreKilled: clients that die at random, in the middle of what they have fetched, make events come again, and
// nothing else: each is handled at least once, in order per key, and none is lost. Poison is parked as in Go.
func TestConsumersAreKilled(t *testing.T) {
	_, p, s := newGateway(t, nil)
	events, keys := 3000, 40
	if testing.Short() {
		events = 600
	}
	batch := make([]event.Event, 0, events)
	for i := range events {
		batch = append(batch, enrolled(fmt.Sprint("P", i%keys), i/keys))
	}
	publishMany(t, p, batch...)
	if status := call(t, http.MethodPut, s.URL+"/v1/groups/partner", map[string]any{"patterns": []string{"patient.**"}, "leaseSeconds": 1, "maxDeliveries": 1000}, nil); status != http.StatusCreated {
		t.Fatal(status)
	}
	var mu sync.Mutex
	done := map[string]int{}    // by key: the next that is expected
	last := map[string]string{} // by key: the event that was handled last
	handled, again, kills := 0, 0, 0
	all := make(chan struct{})
	// handle is the effect of a consumer; it has happened even when the consumer dies before it acknowledges.
	handle := func(key, id, number string) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case number == fmt.Sprint(done[key]):
			done[key]++
			last[key] = id
			if handled++; handled == events-events/keys {
				close(all)
			}
		case last[key] == id:
			again++
		default:
			t.Errorf("key %s: got %s, want %d", key, number, done[key])
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for c := range 4 {
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(c), 7))
			for ctx.Err() == nil {
				var got fetched
				call(t, http.MethodPost, s.URL+"/v1/groups/partner/fetch", map[string]any{"max": 20, "waitSeconds": 1}, &got)
				die := rnd.IntN(8) == 0
				var acks []string
				for i, e := range got.Events {
					if die && i == len(got.Events)/2 {
						mu.Lock()
						kills++
						mu.Unlock()
						break // killed: what it has is neither acknowledged nor given back
					}
					if e.Event.Payload.PatientID == "P0" {
						call(t, http.MethodPost, s.URL+"/v1/groups/partner/nack", map[string]any{"leases": []string{e.Lease}, "kind": "fatal", "error": "cannot"}, nil)
						continue
					}
					handle(e.Event.Payload.PatientID, e.Event.Metadata.EventID, e.Event.Payload.EnrollmentID)
					acks = append(acks, e.Lease)
				}
				if len(acks) > 0 && !(die && rnd.IntN(2) == 0) {
					call(t, http.MethodPost, s.URL+"/v1/groups/partner/ack", map[string]any{"leases": acks}, nil)
				}
			}
		})
	}
	<-all
	if err := p.Bus().Idle(context.Background()); err != nil {
		t.Error(err)
	}
	stop()
	clients.Wait()
	if kills == 0 || again == 0 {
		t.Errorf("%d kills, %d events came again: nothing was tried", kills, again)
	}
	dead, err := p.Bus().DeadLetters(context.Background(), bus.Filter{Group: "partner"}, 10)
	if err != nil || len(dead) != 1 || dead[0].Key != "P0" || dead[0].Events != int64(events/keys) {
		t.Errorf("dead letters: %+v, %v", dead, err)
	}
	t.Logf("%d handled, %d again, %d kills", handled, again, kills)
}

// TestConsumeRules: what a nack says decides as an error of a handler in Go does.
func TestConsumeRules(t *testing.T) {
	_, p, s := newGateway(t, nil)
	base := s.URL + "/v1/groups/rules"
	call(t, http.MethodPut, base, map[string]any{"patterns": []string{"patient.**"}, "tries": 2}, nil)
	fetch := func() fetched {
		t.Helper()
		var got fetched
		if status := call(t, http.MethodPost, base+"/fetch", map[string]any{"max": 1, "waitSeconds": 60}, &got); status != http.StatusOK || len(got.Events) != 1 {
			t.Fatalf("%d %+v", status, got)
		}
		return got
	}
	settle := func(how string, body map[string]any) (settled, expired int) {
		t.Helper()
		var out struct{ Settled, Expired []string }
		if status := call(t, http.MethodPost, base+"/"+how, body, &out); status != http.StatusOK {
			t.Fatal(status)
		}
		return len(out.Settled), len(out.Expired)
	}
	publishMany(t, p, enrolled("P1", 0))

	got := fetch()
	settle("nack", map[string]any{"leases": []string{got.Events[0].Lease}, "kind": "transient", "error": "the database is down"})
	got = fetch()
	if got.Events[0].Attempt != 2 {
		t.Errorf("attempt %d after a transient failure", got.Events[0].Attempt)
	}
	first := got.Events[0].Lease
	if n, _ := settle("extend", map[string]any{"leases": []string{first}, "leaseSeconds": 60}); n != 1 {
		t.Error("the lease was not extended")
	}
	if n, _ := settle("ack", map[string]any{"leases": []string{first}}); n != 1 {
		t.Error("not acknowledged")
	}
	if _, n := settle("ack", map[string]any{"leases": []string{first, "unknown"}}); n != 2 {
		t.Error("a lease was settled twice")
	}

	publishMany(t, p, enrolled("P1", 1), enrolled("P1", 2))
	for range 2 { // tries
		got = fetch()
		settle("nack", map[string]any{"leases": []string{got.Events[0].Lease}, "error": "bad data"})
	}
	if err := p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	var letters struct{ DeadLetters []bus.DeadLetter }
	call(t, http.MethodGet, s.URL+"/v1/dead-letters?group=rules&reveal=true", nil, &letters)
	if len(letters.DeadLetters) != 1 || letters.DeadLetters[0].Error != "bad data" || letters.DeadLetters[0].Events != 2 {
		t.Fatalf("%+v", letters)
	}
	// The redrive brings both, in order.
	var redriven struct{ Job *bus.Job }
	if status := call(t, http.MethodPost, s.URL+"/v1/dead-letters/redrive", map[string]any{"group": "rules", "reason": "mended"}, &redriven); status != http.StatusAccepted || redriven.Job == nil || redriven.Job.Total != 1 {
		t.Fatalf("%d %+v", status, redriven)
	}
	for _, want := range []string{"1", "2"} {
		got = fetch()
		if e := got.Events[0]; e.Event.Payload.EnrollmentID != want || !e.Redrive {
			t.Errorf("got %+v, want %s", e, want)
		}
		settle("ack", map[string]any{"leases": []string{got.Events[0].Lease}})
	}
	if status := call(t, http.MethodDelete, base, nil, nil); status != http.StatusUnprocessableEntity {
		t.Errorf("deleted without a reason: %d", status)
	}
	if status := call(t, http.MethodDelete, base+"?reason=test", nil, nil); status != http.StatusNoContent {
		t.Errorf("not deleted: %d", status)
	}
	if status := call(t, http.MethodPost, base+"/fetch", map[string]any{}, nil); status != http.StatusNotFound {
		t.Errorf("fetched from a group that is gone: %d", status)
	}
}

// TestLeasesRunOut: an event that kills whoever fetches it is parked as suspect after so many leases.
func TestLeasesRunOut(t *testing.T) {
	_, p, s := newGateway(t, nil)
	base := s.URL + "/v1/groups/silent"
	call(t, http.MethodPut, base, map[string]any{"patterns": []string{"patient.**"}, "leaseSeconds": 1, "maxDeliveries": 2}, nil)
	publishMany(t, p, enrolled("P1", 0))
	for range 2 {
		var got fetched
		call(t, http.MethodPost, base+"/fetch", map[string]any{"waitSeconds": 60}, &got)
		if len(got.Events) != 1 {
			t.Fatalf("%+v", got)
		}
	}
	if err := p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	dead, err := p.Bus().DeadLetters(t.Context(), bus.Filter{Group: "silent"}, 10)
	if err != nil || len(dead) != 1 || dead[0].Class != bus.Suspect {
		t.Errorf("%+v, %v", dead, err)
	}
}

// TestGroupsSurviveTheGateway: a group that clients consume is there again after a restart, at its place.
func TestGroupsSurviveTheGateway(t *testing.T) {
	name := storetest.New(t)
	var seen []string
	for run := range 3 {
		p, err := carebus.Open(t.Context(), name, &carebus.Options{Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		g, s := serveOn(t, p, nil)
		if run == 0 {
			call(t, http.MethodPut, s.URL+"/v1/groups/kept", map[string]any{"patterns": []string{"patient.**"}}, nil)
		}
		publishMany(t, p, enrolled("P1", run))
		var got fetched
		call(t, http.MethodPost, s.URL+"/v1/groups/kept/fetch", map[string]any{"waitSeconds": 60}, &got)
		if len(got.Events) != 1 {
			t.Fatalf("run %d: %+v", run, got)
		}
		seen = append(seen, got.Events[0].Event.Payload.EnrollmentID)
		call(t, http.MethodPost, s.URL+"/v1/groups/kept/ack", map[string]any{"leases": []string{got.Events[0].Lease}}, nil)
		if err := p.Bus().Idle(ctx); err != nil {
			t.Fatal(err)
		}
		s.Close()
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if fmt.Sprint(seen) != "[0 1 2]" {
		t.Errorf("seen %v", seen)
	}
}

// TestPausedGroupGivesNothing: pausing takes back what waits, and resuming gives it again.
func TestPausedGroupGivesNothing(t *testing.T) {
	g, p, s := newGateway(t, nil)
	base := s.URL + "/v1/groups/paused"
	call(t, http.MethodPut, base, map[string]any{"patterns": []string{"patient.**"}}, nil)
	publishMany(t, p, enrolled("P1", 0))
	var got fetched
	call(t, http.MethodPost, base+"/fetch", map[string]any{"waitSeconds": 60}, &got)
	if len(got.Events) != 1 {
		t.Fatalf("%+v", got)
	}
	if status, text := send(t, http.MethodPost, base+"/pause", map[string]any{"reason": " "}); status != http.StatusUnprocessableEntity {
		t.Errorf("paused without a reason: %d %s", status, text)
	}
	var status bus.GroupStatus
	if code := call(t, http.MethodPost, base+"/pause", map[string]any{"reason": "test"}, &status); code != http.StatusOK || status.State != "paused" {
		t.Fatalf("%d %+v", code, status)
	}
	c := g.groups.joined["paused"]
	for tick := p.Store().Tick(); ; { // until this process has given its partitions back, which it writes down
		c.mu.Lock()
		held := len(c.leases)
		c.mu.Unlock()
		if held == 0 {
			break
		}
		var err error
		if tick, err = p.Store().Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	var out struct{ Settled, Expired []string }
	call(t, http.MethodPost, base+"/ack", map[string]any{"leases": []string{got.Events[0].Lease}}, &out)
	if len(out.Expired) != 1 {
		t.Errorf("a lease outlived the pause: %+v", out)
	}
	call(t, http.MethodPost, base+"/resume", map[string]any{"reason": "test"}, nil)
	call(t, http.MethodPost, base+"/fetch", map[string]any{"waitSeconds": 60}, &got)
	if len(got.Events) != 1 || got.Events[0].Event.Payload.EnrollmentID != "0" {
		t.Errorf("after resuming: %+v", got)
	}
}

// TestGroupsThatTheBusRefuses: nothing is kept of them, so that the next gateway starts.
func TestGroupsThatTheBusRefuses(t *testing.T) {
	_, p, s := newGateway(t, nil)
	if err := p.Handle("ours", bus.OnRecord("patient.**", func(context.Context, bus.Tx, eventstore.Record) error { return nil })); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int{"%F0%9F%9A%91": 422, "a%20b": 422, "ours": 409, strings.Repeat("x", 129): 422} {
		status := call(t, http.MethodPut, s.URL+"/v1/groups/"+name, map[string]any{"patterns": []string{"patient.**"}}, nil)
		if status != want && (want != 409 || status < 400 || status >= 500) {
			t.Errorf("%s: %d, want %d", name, status, want)
		}
	}
	all, err := readSettings[GroupSettings](t.Context(), p.Store(), `SELECT grp, settings FROM carebus_http_groups`)
	if err != nil || len(all) != 0 {
		t.Errorf("%v %v", all, err)
	}
	g, err := New(t.Context(), p, &Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
}
