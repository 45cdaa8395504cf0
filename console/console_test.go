package console_test

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
)

// everything has a patient, a flow, a poison note, and what they lead to.
func everything(t *testing.T) *site {
	t.Helper()
	s := newSite(t, nil, failing)
	noteSchema(t, s.p)
	if _, err := s.p.Append(context.Background(), "patient.record/P1", eventstore.NoStream, patientCreated("P1", "Zebedee", "Quixote")); err != nil {
		t.Fatal(err)
	}
	s.publish(noted("n1", "K1", "flow-1", "", "hello"), noted("n2", "K1", "flow-1", "n1", "world"), noted("n3", "K2", "flow-2", "", "poison"), noted("n4", "K2", "flow-2", "n3", "behind it"))
	s.until("the poison is parked", func() bool { return s.parked("K2") })
	return s
}

func TestPages(t *testing.T) {
	s := everything(t)
	for _, c := range []struct {
		path  string
		texts []string
	}{
		{"/console/", []string{"Overview", "Parked keys", "notes"}},
		{"/console/?span=7d", []string{"Overview"}},
		{"/console/tail", []string{"test.note.made", "K1"}},
		{"/console/tail?type=patient.**", []string{"patient.record.created"}},
		{"/console/search", []string{"test.note.made"}},
		{"/console/search?type=test.note.made", []string{"K2"}},
		{"/console/search?key=K1&since=1h", []string{"K1"}},
		{"/console/search?text=WORLD", []string{"/console/events/n2"}},
		{"/console/search?member=/text=hello", []string{"/console/events/n1"}},
		{"/console/search?subject=P1", []string{"patient.record.created"}},
		{"/console/search?correlation=flow-1", []string{"/console/events/n1", "/console/events/n2"}},
		{"/console/search?type=none.such.thing", []string{"Nothing found"}},
		{"/console/events/n2", []string{"hello", "n1", "Who handled it", "notes", "fits 1.0.0"}[1:]},
		{"/console/flows", []string{"flow-1"}},
		{"/console/flows/flow-2", []string{"svg", "parked by notes"}},
		{"/console/flows/n1", []string{"svg", "flow-1"}},
		{"/console/flows/flow-1?show=tree", []string{"branch"}},
		{"/console/flows/flow-1?show=table&groups=1&all=1", []string{"notes"}},
		{"/console/compare", []string{"Two flows of one kind"}},
		{"/console/compare?a=flow-1&b=flow-2", []string{"They part at", "only in the"}},
		{"/console/topology", []string{"svg", "note-service"}},
		{"/console/topology?types=1&all=1", []string{"Services", "carebus"}},
		{"/console/topology?scope=note-service", []string{"Around note-service", "test.note.made"}},
		{"/console/groups", []string{"notes", "running"}},
		{"/console/groups/notes", []string{"Partitions", "Operate"}},
		{"/console/failures", []string{"K2", "permanent"}},
		{"/console/failures?group=notes", []string{"K2"}},
		{"/console/failure?group=notes&key=K2", []string{"Settle", "test.note.made"}},
		{"/console/failure?group=notes&key=K1", []string{"is not parked"}},
		{"/console/redrive?group=notes", []string{"Nothing has been done yet", "Try 1 keys again"}},
		{"/console/jobs", []string{"No jobs yet"}},
		{"/console/catalog", []string{"test.note.made", "patient.record.created"}},
		{"/console/catalog?q=note", []string{"Note made"}},
		{"/console/catalog/test.note.made", []string{"What was noted.", "protected", "notes"}},
		{"/console/catalog/test.note.made?version=1.0.0", []string{"1.0.0"}},
		{"/console/catalog/test.note.made/diff", []string{"minor", "compatible", "property-added"}},
		{"/console/catalog/test.note.made/diff?from=1.1.0&to=1.0.0", []string{"would be refused"}},
		{"/console/sagas", []string{"No sagas"}},
		{"/console/patients", []string{"P1"}},
		{"/console/patients?name=quixote+zebedee", []string{"P1"}},
		{"/console/patients/P1", []string{"Which event has set what", "Flows that touch this patient"}},
		{"/console/patients/P1?version=1", []string{"version 1"}},
		{"/console/patients/P1?at=7d", []string{"Not known yet"}},
		{"/console/projections", []string{"No read models"}},
		{"/console/audit", []string{"Audit"}},
		{"/console/audit?kind=schemas", []string{"platform.schema.registered"}},
		{"/console/find?q=note", []string{"test.note.made"}},
		{"/console/sign-in", []string{"Sign in"}},
	} {
		p := s.get(c.path)
		s.wants(p, 200, c.texts...)
		s.lacks(p, "Zebedee", "Quixote") // nobody has asked to see a name
		if csp := p.header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'self';") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: Content-Security-Policy %q", c.path, csp)
		}
		checkLoads(t, c.path, p.text)
	}
	for path, status := range map[string]int{
		"/console/events/none": 404, "/console/flows/none": 404, "/console/groups/none": 404, "/console/jobs/none": 404, "/console/sagas/none": 404, "/console/catalog/none.such.type": 404,
		"/console/patients/none": 404, "/console/entities/other.thing/1": 404, "/console/nothing": 404, "/console/search?since=never": 400, "/console/tail?type=UPPER..case": 400, "/console/flows/flow-1/export?format=exe": 400,
	} {
		s.wants(s.get(path), status)
	}
	s.wants(s.get("/"), 200, "Overview") // the first page leads here
}

func TestExport(t *testing.T) {
	s := everything(t)
	for format, want := range map[string]string{"svg": "<svg", "mermaid": "sequenceDiagram", "text": "test.note.made", "json": `"correlationId"`} {
		p := s.get("/console/flows/flow-1/export?format=" + format)
		s.wants(p, 200, want)
		if !strings.HasPrefix(p.header.Get("Content-Disposition"), "attachment") {
			t.Errorf("%s is not a download", format)
		}
	}
}

// TestPaging goes through all events by pages, and sees each once, and none that came after the first page.
func TestPaging(t *testing.T) {
	s := newSite(t, nil, nil)
	noteSchema(t, s.p)
	for i := range 7 {
		for j := range 20 {
			s.publish(noted("e"+string(rune('a'+i))+string(rune('a'+j)), "K"+string(rune('a'+j)), "f", "", "x"))
		}
	}
	for _, path := range []string{"/console/search?limit=30", "/console/search?limit=30&type=test.note.made", "/console/search?limit=30&correlation=f", "/console/search?limit=30&text=X"} {
		seen := map[string]int{}
		next := path
		for n := 0; next != "" && n < 100; n++ {
			p := s.get(next)
			if p.status != 200 {
				t.Fatal(p.text)
			}
			if n == 0 {
				s.publish(noted("late"+url.QueryEscape(path), "Ka", "f", "", "x"))
			}
			for _, part := range strings.Split(p.text, `data-row data-domain="test" href="/console/events/`)[1:] {
				id, _, _ := strings.Cut(part, `"`)
				seen[id]++
			}
			next = ""
			if _, part, ok := strings.Cut(p.text, `rel="next" href="`); ok {
				next, _, _ = strings.Cut(part, `"`)
				next = strings.ReplaceAll(next, "&amp;", "&")
			}
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("%s: %s was seen %d times", path, id, n)
			}
		}
		for i := range 7 {
			for j := range 20 {
				if id := "e" + string(rune('a'+i)) + string(rune('a'+j)); seen[id] != 1 {
					t.Fatalf("%s: %s was not seen", path, id)
				}
			}
		}
		if seen["late"+url.QueryEscape(path)] != 0 {
			t.Errorf("%s: an event that came later was swept in", path)
		}
	}
}

// TestLongFlow goes through a flow of more events than a page looks at, and sees each once. The page of an event far behind
// in it knows what it has caused.
func TestLongFlow(t *testing.T) {
	s := newSite(t, nil, nil)
	noteSchema(t, s.p)
	const n = 1300
	events := make([]event.Event, n)
	for i := range events {
		cause := ""
		if i > 0 {
			cause = fmt.Sprint("x", i-1)
		}
		events[i] = noted(fmt.Sprint("x", i), "K1", "long", cause, "imported")
	}
	if _, err := s.p.Store().Append(context.Background(), "", eventstore.AnyVersion, events...); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/console/flows/long?show=table", "/console/flows/long?show=tree", "/console/flows/long?show=table&limit=1000"} {
		seen := map[string]int{}
		next, pages := path, 0
		for ; next != "" && pages < 20; pages++ {
			p := s.get(next)
			if p.status != 200 {
				t.Fatal(p.text)
			}
			if pages == 0 {
				s.wants(p, 200, "or more events are drawn", "of a long flow")
			}
			s.lacks(p, "cause not stored")
			for _, part := range strings.Split(p.text, `data-row data-domain="test" href="/console/events/`)[1:] {
				id, _, _ := strings.Cut(part, `"`)
				seen[id]++
			}
			next = strings.ReplaceAll(between(p.text, `rel="next" href="`, `"`), "&amp;", "&")
		}
		for i := range n {
			if seen[fmt.Sprint("x", i)] != 1 {
				t.Fatalf("%s, in %d pages: x%d was seen %d times", path, pages, i, seen[fmt.Sprint("x", i)])
			}
		}
	}
	s.wants(s.get("/console/flows/long?after=yesterday"), 400, "after: give a time")
	s.wants(s.get("/console/events/x0"), 200, "/console/events/x1", "The flow is long")
	s.wants(s.get("/console/events/x1200"), 200, "/console/events/x1199", "/console/events/x1201", "after its cause")
	s.wants(s.get("/console/events/x1299"), 200, "Nothing names this event as its cause")
	s.wants(s.get("/console/search?correlation=long&limit=10"), 200, "/console/events/x0", "The oldest first.")
	s.wants(s.get("/console/compare?a=long&b=long"), 200, "600 events")
	s.wants(s.get("/v1/flows/long?most=1299"), 200, `"more":true`)
	s.lacks(s.get("/v1/flows/long?most=1300"), `"more":true`)
	s.wants(s.get("/v1/flows/long?most=0"), 422)
}

func TestReveal(t *testing.T) {
	s := everything(t)
	var id string
	for r, err := range s.p.Store().All(context.Background(), nil, func(t string) bool { return t == "patient.record.created" }) {
		if err != nil {
			t.Fatal(err)
		}
		id = r.ID
	}
	path := "/console/events/" + id + "/reveal"
	s.wants(s.post(path, url.Values{"purpose": {"treatment"}}), 422)
	s.wants(s.post(path, url.Values{"reason": {"patient on the phone"}, "purpose": {"curiosity"}}), 422)
	if n := len(s.revealed()); n != 0 {
		t.Fatalf("%d reveals were recorded that did not happen", n)
	}
	form := url.Values{"reason": {"patient on the phone"}, "purpose": {"treatment"}}
	s.wants(s.post(path, form), 200, "Zebedee", "Quixote")
	s.lacks(s.get("/console/events/"+id), "Zebedee")
	s.wants(s.post("/console/entities/patient.record/P1/reveal", form), 200, "Zebedee")
	told := s.revealed()
	if len(told) < 2 {
		t.Fatalf("%d reveals were recorded", len(told))
	}
	first := told[0]
	if first.EventID != id || *first.Purpose != "treatment" || *first.Reason != "patient on the phone" || *first.SubjectID != "P1" || !strings.Contains(strings.Join(first.Fields, " "), "/firstName") {
		t.Errorf("%+v", first)
	}
	s.wants(s.get("/console/audit?kind=reveals"), 200, "platform.field.revealed", "patient on the phone")
}

// TestRevealError: the text of a failure's error, which may quote protected values, is shown for a purpose and a reason only,
// once, and first it is recorded who sees it and why.
func TestRevealError(t *testing.T) {
	s := everything(t)
	const text = "cannot take the note of Zebedee"
	letter := "/console/failure?group=notes&key=K2"
	form := func(purpose, reason string) url.Values {
		return url.Values{"group": {"notes"}, "key": {"K2"}, "purpose": {purpose}, "reason": {reason}}
	}
	for _, wrong := range []url.Values{form("support", ""), form("support", "  "), form("", "look"), form("curiosity", "look")} {
		p := s.post("/console/failure/reveal", wrong)
		s.wants(p, 422)
		s.lacks(p, text)
	}
	s.wants(s.post("/console/failure/reveal", url.Values{"group": {"notes"}, "key": {"K1"}, "purpose": {"support"}, "reason": {"look"}}), 404) // not parked
	if n := len(s.revealed()); n != 0 {
		t.Fatalf("%d reveals were recorded that did not happen", n)
	}
	s.lacks(s.get(letter), text)
	s.wants(s.post("/console/failure/reveal", form("support", "the partner asks")), 200, text)
	s.lacks(s.get(letter), text) // the next look is masked again
	told := s.revealed()
	i := slices.IndexFunc(told, func(f platform.FieldRevealed) bool { return f.Reason != nil && *f.Reason == "the partner asks" })
	if i < 0 {
		t.Fatalf("the reveal was not recorded with its reason: %+v", told)
	}
	if f := told[i]; f.EventID != "n3" || *f.EventType != "test.note.made" || *f.Purpose != "support" || f.Actor == "" || !slices.Contains(f.Fields, "error") {
		t.Errorf("%+v", f)
	}
	s.wants(s.get("/console/audit?kind=reveals"), 200, "platform.field.revealed", "the partner asks")
	s.lacks(s.get("/console/audit?kind=reveals"), "Zebedee")
}

func TestCorrectAndRedrive(t *testing.T) {
	s := everything(t)
	form := func(payload, do string) url.Values {
		return url.Values{"group": {"notes"}, "key": {"K2"}, "payload": {payload}, "reason": {"a slip"}, "do": {do}}
	}
	s.wants(s.post("/console/failure/correct", form(`{"id":"K2"`, "check")), 200, "this is not JSON")
	s.wants(s.post("/console/failure/correct", form(`{"id":"K2","txt":"x"}`, "check")), 200, "The schema refuses this payload", "/txt")
	s.wants(s.post("/console/failure/correct", form(`{"id":"K2","txt":"x"}`, "correct")), 422, "The schema refuses this payload")
	s.wants(s.post("/console/failure/correct", form(`{"id":"K2","text":"cured"}`, "check")), 200, "The payload fits its schema")
	if !s.parked("K2") {
		t.Fatal("a check has done something")
	}
	s.wants(s.post("/console/failure/correct", form(`{"id":"K2","text":"cured"}`, "correct")), 200)
	s.until("the corrected key goes through", func() bool {
		p := s.get("/console/failure?group=notes&key=K2")
		return strings.Contains(p.text, "is not parked")
	})

	// A redrive is about what was previewed, and no more.
	s.publish(noted("p1", "K3", "flow-3", "", "poison"))
	s.until("K3 is parked", func() bool { return s.parked("K3") })
	preview := s.get("/console/redrive?group=notes")
	before := between(preview.text, `name="before" value="`, `"`)
	redrive := url.Values{"group": {"notes"}, "before": {before}, "keys": {"1"}}
	s.wants(s.post("/console/redrive", redrive), 422, "say why")
	redrive.Set("reason", "try")
	redrive.Set("keys", "0")
	s.wants(s.post("/console/redrive", redrive), 409)
	redrive.Set("keys", "1")
	p := s.post("/console/redrive", redrive)
	s.wants(p, 200, "The redrive is under way.")
	if !strings.HasPrefix(p.at, "/console/jobs/") {
		t.Errorf("led to %s", p.at)
	}
	s.until("the job ends", func() bool { return strings.Contains(s.get(p.at).text, `id="job-state">finished`) })
	s.lacks(s.get(p.at), "The redrive is under way.") // said once

	s.wants(s.post("/console/failure/skip", url.Values{"group": {"notes"}, "key": {"K3"}, "reason": {"no use"}}), 422, "say that you are sure")
	s.wants(s.post("/console/failure/skip", url.Values{"group": {"notes"}, "key": {"K3"}, "reason": {"no use"}, "sure": {"1"}}), 200)
	s.wants(s.get("/console/audit?kind=failures"), 200, "platform.key.skipped", "platform.event.corrected", "platform.redrive.started")
}

func TestOperateGroups(t *testing.T) {
	s := everything(t)
	s.wants(s.post("/console/groups/notes/pause", url.Values{}), 422, "say why")
	s.wants(s.post("/console/groups/notes/pause", url.Values{"reason": {"maintenance"}}), 200, "paused", "Resume")
	s.wants(s.post("/console/groups/notes/resume", url.Values{"reason": {"done"}}), 200, "goes on where it was")
	s.wants(s.post("/console/groups/notes/seek", url.Values{"reason": {"again"}, "to": {"beginning"}}), 422)
	s.wants(s.post("/console/groups/notes/seek", url.Values{"reason": {"again"}, "to": {"nowhere"}, "sure": {"1"}}), 422)
	s.wants(s.post("/console/groups/notes/seek", url.Values{"reason": {"again"}, "to": {"end"}, "sure": {"1"}}), 200, "moved to end")
	s.wants(s.post("/console/groups/notes/replay", url.Values{"reason": {"again"}, "from": {"1h"}}), 200)
	s.wants(s.post("/console/groups/notes/explode", url.Values{"reason": {"again"}}), 404)
	s.wants(s.get("/console/audit?kind=groups"), 200, "platform.group.paused", "maintenance", "platform.group.sought")
}
