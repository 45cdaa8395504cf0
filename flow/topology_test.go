package flow_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/flow"
)

// group is a group that is past next in every one of four partitions.
func group(name string, next int64, patterns ...string) flow.Group {
	return flow.Group{
		Status:   bus.GroupStatus{Name: name, State: "running", Patterns: patterns},
		Progress: bus.Progress{Positions: bus.Positions{Next: []int64{next, next, next, next}, Parked: map[bus.ParkedAt]int64{}}},
	}
}

func open(t *testing.T) *eventstore.Store {
	t.Helper()
	d, err := storetest.Driver(t, filepath.Join(t.TempDir(), "store.db"), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := eventstore.New(d, nil)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func publish(t *testing.T, s *eventstore.Store, id, cause, eventType, source string) {
	t.Helper()
	e := event.Event{Metadata: event.Metadata{
		ID: id, Type: eventType, Source: source, CorrelationID: "corr-1", CausationID: cause, Timestamp: start.UnixMilli(), Version: "1.0.0", PartitionKey: id,
	}, Payload: json.RawMessage(`{"patientId":"SECRET-PATIENT"}`)}
	if _, err := s.Append(t.Context(), "", eventstore.AnyVersion, e); err != nil {
		t.Fatal(err)
	}
}

// topologyDrawings are all four forms of a topology.
func topologyDrawings(t *testing.T, x *flow.Topology, o *flow.Options) (text, mermaid, svg, asJSON string) {
	t.Helper()
	var a, b, c bytes.Buffer
	if err := errors.Join(x.WriteText(&a, o), x.WriteMermaid(&b, o), x.WriteSVG(&c, o)); err != nil {
		t.Fatal(err)
	}
	j, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	in := xml.NewDecoder(bytes.NewReader(c.Bytes()))
	for {
		tok, err := in.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("no XML: %v", err)
		}
		if el, ok := tok.(xml.StartElement); ok && strings.Contains("script image a foreignObject", el.Name.Local) {
			t.Errorf("element %s", el.Name.Local)
		}
	}
	return a.String(), b.String(), c.String(), string(j) + "\n"
}

func TestObserve(t *testing.T) {
	s := open(t)
	publish(t, s, "1", "", "medication.prescription.created", "prescribing-service")
	publish(t, s, "2", "1", "priorauth.request.submitted", "priorauth-service")
	publish(t, s, "3", "2", "priorauth.decision.made", "payer-service")
	publish(t, s, "4", "", "medication.prescription.created", "prescribing-service")
	late := group("payer", 0, "priorauth.request.*")
	late.Status.Lag, late.Status.ParkedKeys = 4, 1
	groups := []flow.Group{group("views", 99, "**"), group("prior-auth", 99, "medication.prescription.created"), late}
	groups[1].Progress.Next = make([]int64, s.Partitions())
	for p := range groups[1].Progress.Next {
		groups[1].Progress.Next[p] = 99
	}
	x, err := flow.Observe(t.Context(), s, groups, nil)
	if err != nil {
		t.Fatal(err)
	}
	if x.Stored != 4 || x.Looked != 4 || len(x.Services) != 3 {
		t.Fatalf("%+v", x)
	}
	if p := x.Services[1].Published; x.Services[1].Name != "prescribing-service" || p[0].Count != 2 || p[0].PerMinute <= 0 || p[0].First.After(p[0].Last) {
		t.Errorf("prescribing: %+v", p)
	}
	want := []flow.Edge{
		{Service: "prescribing-service", Type: "medication.prescription.created", Group: "views"},
		{Service: "prescribing-service", Type: "medication.prescription.created", Group: "prior-auth"},
		{Service: "payer-service", Type: "priorauth.decision.made", Group: "views"},
		{Service: "priorauth-service", Type: "priorauth.request.submitted", Group: "views"},
		{Service: "priorauth-service", Type: "priorauth.request.submitted", Group: "payer"},
	}
	if diff := cmp.Diff(want, x.Edges); diff != "" {
		t.Errorf("edges (-want +got):\n%s", diff)
	}
	got := map[string]flow.Consumer{}
	for _, g := range x.Groups {
		got[g.Group] = g
	}
	if g := got["payer"]; g.Service != "payer-service" || g.Handled != 0 || g.Pending != 1 || g.Lag != 4 {
		t.Errorf("payer: %+v", g)
	}
	if g := got["prior-auth"]; g.Service != "priorauth-service" || g.Handled != 2 || g.Pending != 0 {
		t.Errorf("prior-auth: %+v", g)
	}
	if g := got["views"]; g.Service != "" || len(g.Types) != 3 {
		t.Errorf("views: %+v", g)
	}
	text, mermaid, svg, asJSON := topologyDrawings(t, x, nil)
	for _, out := range []string{text, mermaid, svg, asJSON} {
		if strings.Contains(out, "SECRET") {
			t.Error("a payload was drawn")
		}
		for _, name := range []string{"prescribing-service", "priorauth.decision.made", "prior-auth"} {
			if !strings.Contains(out, name) {
				t.Errorf("%s is missing in\n%s", name, out)
			}
		}
	}
}

// Two groups that want the same leave two answers to whose reaction it was: none is given.
func TestObserveAmbiguous(t *testing.T) {
	s := open(t)
	publish(t, s, "1", "", "x.order.placed", "shop")
	publish(t, s, "2", "1", "x.order.packed", "store")
	x, err := flow.Observe(t.Context(), s, []flow.Group{group("a", 0, "x.order.placed"), group("b", 0, "x.**")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range x.Groups {
		if g.Service != "" {
			t.Errorf("group %s was given to %s", g.Group, g.Service)
		}
	}
}

// TestObservePart: the latest part of the log says who publishes, the index says how much there is of all.
func TestObservePart(t *testing.T) {
	s := open(t)
	var events []event.Event
	for i := range 2000 {
		eventType := "x.old.done"
		if i >= 1000 {
			eventType = "x.new.done"
		}
		events = append(events, event.Event{Metadata: event.Metadata{
			ID: fmt.Sprint("id-", i), Type: eventType, Source: fmt.Sprint("service-", i%5), CorrelationID: "c", Timestamp: start.UnixMilli(), Version: "1.0.0", PartitionKey: fmt.Sprint(i),
		}, Payload: json.RawMessage(`{}`)})
	}
	for i := 0; i < len(events); i += 100 {
		if _, err := s.Append(t.Context(), "", eventstore.AnyVersion, events[i:i+100]...); err != nil {
			t.Fatal(err)
		}
	}
	x, err := flow.Observe(t.Context(), s, nil, &flow.ObserveOptions{Last: 200})
	if err != nil {
		t.Fatal(err)
	}
	if x.Stored != 2000 || x.Looked == 0 || x.Looked > 200 || x.From.IsZero() {
		t.Errorf("stored %d, looked at %d, from %v", x.Stored, x.Looked, x.From)
	}
	if u := x.Types[1]; u.Type != "x.old.done" || u.Stored != 1000 || len(u.Services) != 0 {
		t.Errorf("%+v", u)
	}
	if text, _, _, _ := topologyDrawings(t, x, nil); !strings.Contains(text, "published before what was looked at") {
		t.Errorf("what was not looked at is passed over:\n%s", text)
	}
	all, err := flow.Observe(t.Context(), s, nil, &flow.ObserveOptions{Last: -1})
	if err != nil {
		t.Fatal(err)
	}
	since, err := flow.Observe(t.Context(), s, nil, &flow.ObserveOptions{Since: start.AddDate(-50, 0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if all.Looked != 2000 || since.Looked != 2000 || len(all.Services) != 5 {
		t.Errorf("all: %d, since: %d, %d services", all.Looked, since.Looked, len(all.Services))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := flow.Observe(ctx, s, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an ended context gives %v", err)
	}
}

// fixed is a topology with a parked key and a type that nobody wants, at a fixed time.
func fixed() *flow.Topology {
	one := []flow.Published{{Type: "medication.prescription.created", Count: 30, First: start, Last: start.Add(time.Minute), PerMinute: 15}}
	return &flow.Topology{
		At: start.Add(2 * time.Minute), Stored: 40, Looked: 40, WindowMs: 120_000,
		Services: []flow.Service{
			{Name: "payer-service", Published: []flow.Published{{Type: "priorauth.decision.made", Count: 10, First: start, Last: start, PerMinute: 5}}, Count: 10, PerMinute: 5},
			{Name: "prescribing-service", Published: one, Count: 30, PerMinute: 15},
		},
		Types: []flow.TypeUse{
			{Type: "medication.prescription.created", Stored: 30, Services: []string{"prescribing-service"}, Groups: []string{"prior-auth", "views"}, PerMinute: 15},
			{Type: "priorauth.decision.made", Stored: 10, Services: []string{"payer-service"}, Groups: []string{"views"}, PerMinute: 5},
		},
		Groups: []flow.Consumer{
			{Group: "prior-auth", Service: "priorauth-service", State: "running", Patterns: []string{"medication.prescription.created"},
				Types: []string{"medication.prescription.created"}, Members: 1, Handled: 28, Pending: 2, Lag: 3, ParkedKeys: 2, ParkedEvents: 2},
			{Group: "views", State: "paused", Patterns: []string{"**"}, Types: []string{"medication.prescription.created", "priorauth.decision.made"}, Handled: 40},
		},
		Edges: []flow.Edge{
			{Service: "prescribing-service", Type: "medication.prescription.created", Group: "prior-auth"},
			{Service: "prescribing-service", Type: "medication.prescription.created", Group: "views"},
			{Service: "payer-service", Type: "priorauth.decision.made", Group: "views"},
		},
	}
}

func TestTopologyDrawings(t *testing.T) {
	text, mermaid, svg, asJSON := topologyDrawings(t, fixed(), nil)
	golden(t, "topology.txt", []byte(text))
	golden(t, "topology.mmd", []byte(mermaid))
	golden(t, "topology.svg", []byte(svg))
	golden(t, "topology.json", []byte(asJSON))
	_, _, dark, _ := topologyDrawings(t, fixed(), &flow.Options{Theme: flow.ThemeDark})
	if !strings.Contains(svg, "prefers-color-scheme:dark") || strings.Contains(dark, "prefers-color-scheme") {
		t.Error("the theme is not kept")
	}
	_, one, _, _ := topologyDrawings(t, fixed(), &flow.Options{Limit: 1})
	if !strings.Contains(one, "1 more type") || strings.Contains(one, "priorauth.decision.made") {
		t.Errorf("the limit is not kept:\n%s", one)
	}
	topologyDrawings(t, &flow.Topology{}, nil)
}

// chartLine is everything that the flowchart may say.
var chartLine = regexp.MustCompile(`^(flowchart LR|    [stg]\d+(\[|\(\[|\[\[)"([A-Za-z0-9 ._/?+()…µ-]|#\d+;)+<br>([A-Za-z0-9 ._/?+()…µ-]|#\d+;)+"(\]|\]\)|\]\])(:::bad)?|    [st]\d+ --> [tg]\d+|    classDef bad [^;]+)$`)

func TestTopologyHostile(t *testing.T) {
	for _, h := range append(hostile, `<script>alert(1)</script>`, `"><image href=x>`) {
		x := &flow.Topology{
			Services: []flow.Service{{Name: h, Published: []flow.Published{{Type: h, Count: 1}}}},
			Types:    []flow.TypeUse{{Type: h, Services: []string{h}, Groups: []string{h}}},
			Groups:   []flow.Consumer{{Group: h, Service: h, State: h, Patterns: []string{h}, Types: []string{h}}},
		}
		text, mermaid, svg, _ := topologyDrawings(t, x, nil)
		for _, line := range strings.Split(strings.TrimSuffix(mermaid, "\n"), "\n") {
			if !chartLine.MatchString(line) {
				t.Errorf("not a statement: %q", line)
			}
		}
		if strings.ContainsAny(text, "\x1b\u202e") || strings.Contains(svg, "<script") || strings.Contains(svg, "<image") {
			t.Errorf("%q came through", h)
		}
	}
}

// TestTopologyLarge: 2,000 types with lines to both sides, whole and cut at the limit.
func TestTopologyLarge(t *testing.T) {
	x := &flow.Topology{}
	for i := range 2000 {
		name, service, g := fmt.Sprintf("x.t%04d.done", i), fmt.Sprint("service-", i%7), fmt.Sprint("group-", i%11)
		x.Types = append(x.Types, flow.TypeUse{Type: name, Stored: int64(i), Services: []string{service}, Groups: []string{g}})
		if i < 7 {
			x.Services = append(x.Services, flow.Service{Name: service})
		}
		if i < 11 {
			x.Groups = append(x.Groups, flow.Consumer{Group: g, State: "running", Patterns: []string{"x.*.done"}})
		}
	}
	_, mermaid, svg, _ := topologyDrawings(t, x, &flow.Options{Limit: 5000})
	if n, m := strings.Count(svg, `class="edge"`), strings.Count(mermaid, " --> "); n != 4000 || m != 4000 {
		t.Errorf("%d and %d lines for 2000 types", n, m)
	}
	_, mermaid, svg, _ = topologyDrawings(t, x, nil)
	if n := strings.Count(svg, `class="edge"`); n != 400 || !strings.Contains(svg, "1800 more types") || !strings.Contains(mermaid, "1800 more types") {
		t.Errorf("%d lines at a limit of 200", n)
	}
	if !strings.Contains(svg, "x.t1999.done") || strings.Contains(svg, "x.t0001.done") {
		t.Error("not the most frequent types are drawn")
	}
}

func TestHandledBy(t *testing.T) {
	records := priorAuth()
	for i := range records {
		records[i].Partition, records[i].Offset = 1, int64(i)
	}
	parked := group("label-printer", 99, "medication.prescription.filled")
	parked.Progress.Parked[bus.ParkedAt{Partition: 1, Key: "RX-1"}] = 5
	f := flow.Build(records, group("mailer", 99, "priorauth.**"), group("views", 4, "priorauth.**"), parked)
	if e := f.Events[1]; !cmp.Equal(e.HandledBy, []string{"mailer", "views"}) || e.WaitingFor != nil {
		t.Errorf("submitted: %v, %v", e.HandledBy, e.WaitingFor)
	}
	// The mailer gave the approval up, and the views have not come to it.
	if e := f.Events[4]; e.HandledBy != nil || !cmp.Equal(e.WaitingFor, []string{"views"}) {
		t.Errorf("approved: %v, %v", e.HandledBy, e.WaitingFor)
	}
	if e := f.Events[5]; e.HandledBy != nil || !cmp.Equal(e.WaitingFor, []string{"label-printer"}) {
		t.Errorf("filled: %v, %v", e.HandledBy, e.WaitingFor)
	}
	tree, mermaid, _ := drawings(t, f, nil)
	golden(t, "groups.txt", tree)
	golden(t, "groups.mmd", mermaid)
	checkSafe(t, string(tree), string(mermaid))
}

func TestLocalWork(t *testing.T) {
	step := func(what string, attempt int, more string) string {
		return fmt.Sprintf(`{"sagaId":"SECRET","saga":"medication-fulfillment","step":%q,"attempt":%d%s}`, what, attempt, more)
	}
	f := flow.Build([]eventstore.Record{
		rec("id-00000001", "", "medication.prescription.ready", "prescribing-service", 0, `{}`),
		rec("id-00000002", "id-00000001", "platform.saga.started", "carebus", 5*time.Millisecond, `{"saga":"medication-fulfillment","sagaId":"SECRET"}`),
		rec("id-00000003", "id-00000002", "platform.saga.step-completed", "carebus", 6*time.Millisecond, step("verify", 1, "")),
		rec("id-00000004", "id-00000003", "platform.saga.step-failed", "carebus", 7*time.Millisecond, step("claim", 1, `,"class":"dependency","error":"SECRET"`)),
		rec("id-00000005", "id-00000004", "platform.saga.step-started", "carebus", 3*time.Second, step("claim", 2, "")),
		rec("id-00000006", "id-00000005", "payment.claim.submitted", "pharmacy-service", 3100*time.Millisecond, `{}`),
		rec("id-00000007", "id-00000005", "medication.fulfillment.step-completed", "medication-saga-service", 3200*time.Millisecond, `{"step":"claim","attempt":2,"patientId":"SECRET","class":"SECRET","saga":"SECRET"}`),
	})
	tree, mermaid, text := drawings(t, f, nil)
	golden(t, "saga.txt", tree)
	golden(t, "saga.mmd", mermaid)
	if bytes.Contains(append(append(tree, mermaid...), text...), []byte("SECRET")) {
		t.Error("a payload was drawn")
	}
	if !strings.Contains(string(mermaid), "pause of") || !strings.Contains(string(mermaid), "try 2") {
		t.Errorf("the retry does not show:\n%s", mermaid)
	}
}
