package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
)

// process is a platform and its gateway over a store that others have open too.
type process struct {
	g    *Gateway
	p    *carebus.Platform
	stop func()
}

func newProcess(t testing.TB, store string, o *Options) *process {
	t.Helper()
	p, err := carebus.Open(context.Background(), "sqlite:"+store, &carebus.Options{Logger: quiet, Lease: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	o.Logger = quiet
	g, err := New(context.Background(), p, o)
	if err != nil {
		t.Fatal(err)
	}
	return &process{g, p, sync.OnceFunc(func() {
		err := g.Close()
		end()
		if err := errors.Join(err, <-ran, p.Close()); err != nil {
			t.Error(err)
		}
	})}
}

// TestWebhooksOfTwoGateways: two gateways share a webhook's work; each has what the other has changed; what one deletes the
// other leaves. One is closed in the middle, and a gateway that is opened again on the same platform goes on.
func TestWebhooksOfTwoGateways(t *testing.T) {
	e := newEndpoint(t, nil)
	store := filepath.Join(t.TempDir(), "shared.db")
	one := newProcess(t, store, &Options{Webhooks: trust(e)})
	defer one.stop()
	two := newProcess(t, store, &Options{Webhooks: trust(e)})
	defer two.stop()
	_, s := serveGateway(t, one.g)
	first := hookTo(t, s, e, "h")
	if err := two.g.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	const keys, each = 12, 20
	publish := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			batch := make([]event.Event, 0, keys)
			for k := range keys {
				batch = append(batch, enrolled(fmt.Sprint("P", k), i))
			}
			publishMany(t, one.p, batch...)
		}
	}
	publish(0, each)
	for k := range keys {
		e.untilTaken(fmt.Sprint("P", k), each)
	}
	var status hookAnswer
	call(t, http.MethodGet, s.URL+"/v1/webhooks/h", nil, &status)
	if len(status.Group.Members) != 2 {
		t.Errorf("members: %v", status.Group.Members)
	}

	var rotated hookAnswer
	call(t, http.MethodPost, s.URL+"/v1/webhooks/h/rotate", map[string]any{"graceHours": 0}, &rotated)
	if err := two.g.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := e.count()
	publish(each, each+5)
	for k := range keys {
		e.untilTaken(fmt.Sprint("P", k), each+5)
	}
	e.mu.Lock()
	for _, got := range e.posts[before:] {
		if got.number >= fmt.Sprint(each) && (!signedBy(t, got, rotated.Secret) || signedBy(t, got, first.Secret)) {
			t.Error("one of the gateways signs with the former key")
		}
	}
	e.mu.Unlock()

	go publish(each+5, each+20)
	e.untilTaken("P0", each+8)
	if err := two.g.Close(); err != nil { // in the middle
		t.Error(err)
	}
	for k := range keys {
		e.untilTaken(fmt.Sprint("P", k), each+20)
		e.inOrder(t, fmt.Sprint("P", k), each+20)
	}
	again, err := New(t.Context(), two.p, &Options{Webhooks: trust(e), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if got := two.p.Bus().Joined(); !slices.Contains(got, "webhook:h") {
		t.Errorf("joined: %v", got)
	}

	if status := call(t, http.MethodDelete, s.URL+"/v1/webhooks/h?reason=over", nil, nil); status != http.StatusNoContent {
		t.Fatal(status)
	}
	if status := call(t, http.MethodPost, s.URL+"/v1/webhooks", map[string]any{"id": "h", "url": e.URL, "patterns": []string{"**"}}, nil); status != http.StatusConflict {
		t.Errorf("made anew while another is a member of the former one: %d", status)
	}
	if err := errors.Join(again.sync(t.Context()), again.hooks.sweep(t.Context())); err != nil {
		t.Fatal(err)
	}
	if _, err := one.p.Bus().Group(t.Context(), "webhook:h"); !errors.Is(err, bus.ErrNoGroup) {
		t.Errorf("the group is left: %v", err)
	}
	if got := two.p.Bus().Joined(); len(got) > 0 {
		t.Errorf("joined: %v", got)
	}
	hookTo(t, s, e, "h", "start", "now")
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// killedStore and killedTo make the test binary a process that serves a store's webhooks until it is killed.
const (
	killedStore = "CAREBUS_TEST_KILLED_STORE"
	killedTo    = "CAREBUS_TEST_KILLED_ENDPOINT_CA"
)

// serveUntilKilled is the child's whole life.
func serveUntilKilled(store, ca string) error {
	o, err := trustFile(ca)
	if err != nil {
		return err
	}
	p, err := carebus.Open(context.Background(), "sqlite:"+store, &carebus.Options{Logger: quiet, Lease: 500 * time.Millisecond})
	if err != nil {
		return err
	}
	if _, err := New(context.Background(), p, &Options{Webhooks: o, Logger: quiet}); err != nil {
		return err
	}
	fmt.Println("serving")
	return p.Run(context.Background())
}

// TestWebhookGatewayIsKilled: the process that pushes is killed again and again in the middle of it; every event comes at
// least once, in order per key.
func TestWebhookGatewayIsKilled(t *testing.T) {
	kills := 4
	if testing.Short() {
		kills = 2
	}
	const keys, each = 10, 30
	e := newEndpoint(t, nil)
	dir := t.TempDir()
	store, ca := filepath.Join(dir, "store.db"), filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pemOf(e.Certificate()), 0o600); err != nil {
		t.Fatal(err)
	}
	setup := newProcess(t, store, &Options{Webhooks: trust(e)})
	_, s := serveGateway(t, setup.g)
	hookTo(t, s, e, "h")
	var batch []event.Event
	for i := range keys * each {
		batch = append(batch, enrolled(fmt.Sprint("P", i%keys), i/keys))
	}
	if status := call(t, http.MethodPost, s.URL+"/v1/groups/webhook:h/pause", map[string]any{"reason": "until there is something to kill"}, nil); status != http.StatusOK {
		t.Fatal(status)
	}
	publishMany(t, setup.p, batch...)
	if status := call(t, http.MethodPost, s.URL+"/v1/groups/webhook:h/resume", map[string]any{"reason": "now"}, nil); status != http.StatusOK {
		t.Fatal(status)
	}
	s.Close()
	setup.stop()
	posts := e.count()
	for range kills {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), killedStore+"="+store, killedTo+"="+ca)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		e.until(func(all []post, taken map[string][]string) bool {
			done := 0
			for _, got := range taken {
				done += len(once(got))
			}
			return len(all) >= posts+25 || done == keys*each
		})
		posts = e.count()
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
	}
	last := newProcess(t, store, &Options{Webhooks: trust(e)})
	defer last.stop()
	// An event on which the process died twice is a suspect, and parked; it was the killing, so it is redriven.
	if err := last.p.Bus().Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range kills { // a key may have several
		dead, err := last.p.Bus().DeadLetters(t.Context(), bus.Filter{}, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range dead {
			if d.Class != bus.Suspect {
				t.Errorf("%+v", d)
			}
		}
		if len(dead) == 0 {
			break
		}
		if _, err := last.p.Bus().Redrive(t.Context(), bus.Redrive{Act: bus.Act{Reason: "it was killed on purpose"}}); err != nil && !errors.Is(err, bus.ErrNotParked) {
			t.Fatal(err)
		}
		for _, d := range dead {
			e.untilTaken(d.Key, each)
		}
	}
	for k := range keys {
		e.untilTaken(fmt.Sprint("P", k), each)
		e.inOrder(t, fmt.Sprint("P", k), each)
	}
	t.Logf("%d posts of %d events, %d kills", e.count(), keys*each, kills)
}

// TestWebhookOwner: what a webhook's owner may not subscribe to any more is not pushed; it waits for the grant, or for
// somebody who has it to take the webhook over.
func TestWebhookOwner(t *testing.T) {
	e := newEndpoint(t, nil)
	path := filepath.Join(t.TempDir(), "policy.yaml")
	hashes, tokens := map[string]string{}, map[string]string{}
	for _, name := range []string{"partner", "desk"} {
		tokens[name], hashes[name] = auth.NewToken()
	}
	write := func(partner string) {
		t.Helper()
		text := fmt.Sprintf("principals:\n  - {name: partner, tokens: [%q], subscribe: [%s]}\n  - {name: desk, tokens: [%q], subscribe: ['patient.**'], read: ['**', 'platform.**'], operate: ['patient.**']}\n", hashes["partner"], partner, hashes["desk"])
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("patient.enrolled")
	door, err := auth.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	_, p, s := newGateway(t, &Options{Door: door, Webhooks: trust(e)})
	as := func(name, method, path string, body any) (int, string) {
		t.Helper()
		status, text := send(t, method, s.URL+path, body, "Authorization", "Bearer "+tokens[name])
		return status, string(text)
	}
	set := map[string]any{"id": "h", "url": e.URL, "patterns": []string{"patient.enrolled"}, "start": "beginning"}
	if status, text := as("partner", http.MethodPost, "/v1/webhooks", set); status != http.StatusCreated || !strings.Contains(text, `"owner":"partner"`) {
		t.Fatalf("%d %s", status, text)
	}
	publishMany(t, p, enrolled("P1", 0))
	e.untilTaken("P1", 1)
	write("medication.prescription.filled")
	if err := door.Reload(); err != nil {
		t.Fatal(err)
	}
	before := e.count()
	publishMany(t, p, enrolled("P1", 1), enrolled("P1", 2))
	for len(platformEvents(t, p, "platform.access.denied")) == 0 {
		tick := p.Store().Tick()
		if _, err := p.Store().Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	if told := string(platformEvents(t, p, "platform.access.denied")[0].Payload); !strings.Contains(told, `"actor":"partner"`) || !strings.Contains(told, "webhook h") {
		t.Error(told)
	}
	if n := e.count(); n != before {
		t.Errorf("%d posts without a grant", n-before)
	}
	if status, _ := as("partner", http.MethodGet, "/v1/webhooks/h/deliveries", nil); status != http.StatusForbidden {
		t.Errorf("the former owner reads the log: %d", status)
	}
	if _, text := as("desk", http.MethodGet, "/v1/webhooks/h/deliveries", nil); !strings.Contains(text, "not granted") {
		t.Error(text)
	}
	delete(set, "id")
	if status, text := as("desk", http.MethodPut, "/v1/webhooks/h", set); status != http.StatusOK || !strings.Contains(text, `"owner":"desk"`) {
		t.Fatalf("%d %s", status, text)
	}
	e.untilTaken("P1", 3)
	e.inOrder(t, "P1", 3)
}
