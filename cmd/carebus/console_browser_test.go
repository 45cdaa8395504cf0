package main

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/catalog/platform"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/services/simulation"
)

// TestConsoleStories walks through the console as people do who have a question. A browser that has asked another machine for
// anything, or has had an error, fails its story.
func TestConsoleStories(t *testing.T) {
	openBrowser(t, "").seen++ // skips by name, before the demo is run
	d := serveDemo(t)
	for _, story := range []struct {
		name string
		tell func(t *testing.T, d *aDemo, b *browser)
	}{
		{"why a prescription was denied, from the patient's name to the payer's rule", whyDenied},
		{"a poison event is found, corrected and redriven", poisonEvent},
		{"a prior authorization grows while it is looked at", growsLive},
		{"a patient as they were known last week", lastWeek},
		{"a group is paused, falls behind, and is resumed", pausedGroup},
		{"two versions of a schema", twoVersions},
		{"a read model is held against its rebuild", checkedProjection},
		{"keys and palette", keysAndPalette},
		{"the tail is paused and keeps its rows", pausedTail},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(t, d, openBrowser(t, d.url)) })
	}
}

// recorded reads the newest event of a type.
func (d *aDemo) recorded(t *testing.T, eventType string) eventstore.Record {
	t.Helper()
	found, err := d.p.Store().Type(context.Background(), eventstore.TypeQuery{Type: eventType, Backward: true, Limit: 1})
	if err != nil || len(found) == 0 {
		t.Fatalf("no %s: %v", eventType, err)
	}
	return found[0]
}

// until looks after each commit whether something has come to be.
func (d *aDemo) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for {
		tick := d.p.Store().Tick()
		if holds() {
			return
		}
		if _, err := d.p.Store().Wait(t.Context(), tick); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func (b *browser) type_(sel, text string) {
	b.t.Helper()
	b.do("typing into "+sel, chromedp.WaitVisible(chromedp.CSS(sel)), chromedp.SetValue(chromedp.CSS(sel), text))
}

// inForm fills in the reason of an open form, whose submit button has a text, and sends it.
func (b *browser) inForm(button, reason string) {
	b.t.Helper()
	form := `[...document.querySelectorAll("form")].find(f => [...f.querySelectorAll("button")].some(x => x.textContent.trim() === ` + quoteJS(button) + `))`
	b.holds("the form with "+button, form+` != null`)
	b.do("sending "+button, chromedp.Evaluate[chromedp.Void](`{ const f = `+form+`; f.elements.reason.value = `+quoteJS(reason)+`; [...f.querySelectorAll("button")].find(x => x.textContent.trim() === `+quoteJS(button)+`).click() }`))
}

func whyDenied(t *testing.T, d *aDemo, b *browser) {
	denied := d.recorded(t, "priorauth.status.denied")
	patientID, ok := d.p.Registry().SubjectID(denied.Event)
	if !ok {
		t.Fatal("a denial is about nobody")
	}
	records, err := d.p.Store().Stream(context.Background(), eventstore.StreamQuery{Stream: "patient.record/" + patientID, Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	var who struct{ FirstName, LastName string }
	if err := json.Unmarshal(records[0].Payload, &who); err != nil {
		t.Fatal(err)
	}

	b.open("/console/patients")
	b.type_(`input[name="name"]`, who.FirstName+" "+who.LastName)
	b.click("text=Find")
	b.holds("the search is done", `location.search.includes("name=")`)
	b.says(patientID)
	if strings.Contains(b.text(`document.querySelector("main").innerText`), who.LastName) {
		t.Error("the list of patients shows a name")
	}
	b.click(`a[href="/console/patients/` + patientID + `"]`)
	b.says("Flows that touch this patient")
	if strings.Contains(b.text(`document.querySelector("main").innerText`), who.LastName) {
		t.Error("the patient's page shows a name that nobody asked to see")
	}
	b.click(`table a[href="/console/flows/` + denied.CorrelationID + `"]`)
	b.says("Longest silence")
	b.holds("the denial is drawn", `[...document.querySelectorAll("svg.sequence text")].some(t => t.textContent.startsWith("priorauth.status.denied"))`)
	// The decision that led to the denial says the rule.
	b.click(`svg.sequence a[href="/console/events/` + denied.CausationID + `"]`)
	b.says("priorauth.decision.made")
	b.says("ruleId")
	if rule := b.text(`[...document.querySelectorAll(".json .line")].find(l => l.firstChild.textContent === "ruleId").querySelector(".s").textContent`); !strings.HasPrefix(rule, `"PA-`) {
		t.Errorf("the rule is %s", rule)
	}
}

func poisonEvent(t *testing.T, d *aDemo, b *browser) {
	ctx := context.Background()
	letters, err := d.p.Bus().DeadLetters(ctx, bus.Filter{Group: "prior-auth"}, 10)
	if err != nil || len(letters) < 2 {
		t.Fatalf("the demo has parked %d keys: %v", len(letters), err)
	}
	key := letters[0].Key
	b.open("/console/")
	b.click(`a[href="/console/failures"]`)
	b.says("By what went wrong")
	b.click(`td a[href^="/console/failure?"][href$="key=` + key + `"]`)
	b.says("Parked: " + key)
	if text := b.text(`document.querySelector("main").innerText`); strings.Contains(text, "plan table") {
		t.Error("the error text is shown before anybody gave a reason")
	}
	b.click("text=Show and correct")
	b.inForm("Show protected values", "the plan is new, see the ticket")
	b.says("the plan code is not in the plan table")

	// A slip is found by the schema before anything is stored.
	payload := b.text(`document.getElementById("payload").value`)
	if !strings.Contains(payload, simulation.NewPlan) {
		t.Fatalf("the payload has no plan %s", simulation.NewPlan)
	}
	b.type_("#payload", strings.Replace(payload, `"refills"`, `"refils"`, 1))
	b.click("text=Check against the schema")
	b.says("The schema refuses this payload.")
	b.says("/refils")
	b.type_("#payload", strings.Replace(payload, simulation.NewPlan, "PPO-GOLD", 1))
	b.click("text=Check against the schema")
	b.says("The payload fits its schema.")
	b.click("text=Store the correction and try again")
	b.says("is tried again with it")
	d.until(t, "the key goes through", func() bool {
		left, err := d.p.Bus().DeadLetters(ctx, bus.Filter{Group: "prior-auth", Key: key}, 1)
		return err == nil && len(left) == 0
	})
	b.open("/console/failure?group=prior-auth&key=" + url.QueryEscape(key))
	b.says(key + " is not parked")

	revealed := d.recorded(t, platform.FieldRevealedV1.Type())
	var told platform.FieldRevealed
	if err := json.Unmarshal(revealed.Payload, &told); err != nil {
		t.Fatal(err)
	}
	if told.EventID != letters[0].EventID || told.Reason == nil || *told.Reason != "the plan is new, see the ticket" || len(told.Fields) == 0 {
		t.Errorf("the reveal was recorded as %s", revealed.Payload)
	}

	// The others go as a job: previewed, with a frozen bound. The service still does not know their plan.
	b.open("/console/failures?group=prior-auth")
	b.click(`a[href^="/console/redrive?"]`)
	b.says("Nothing has been done yet")
	keys := b.text(`document.getElementById("redrive-keys").textContent`)
	b.inForm("Try "+keys+" keys again", "is the plan known by now?")
	b.says("The redrive is under way.")
	b.holds("the job ends", `document.getElementById("job-state").textContent === "finished"`)
	b.open("/console/audit?kind=failures")
	b.says("platform.event.corrected")
	b.says("platform.redrive.started")
}

func growsLive(t *testing.T, d *aDemo, b *browser) {
	ctx := context.Background()
	if err := d.p.Bus().Pause(ctx, "payer", bus.Act{Actor: "test", Reason: "to watch"}); err != nil {
		t.Fatal(err)
	}
	heads, err := d.p.Store().Heads(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// Some of so many prescriptions need an authorization; the payer does not answer now.
	if err := d.people.Prescribe(ctx, d.p, 12); err != nil {
		t.Fatal(err)
	}
	flow := ""
	d.until(t, "an authorization is asked for", func() bool {
		for r, err := range d.p.Store().All(ctx, heads, func(t string) bool { return t == "priorauth.request.submitted" }) {
			if err != nil {
				t.Fatal(err)
			}
			flow = r.CorrelationID
		}
		return flow != ""
	})
	b.open("/console/flows/" + flow)
	b.holds("the page listens", `document.body.classList.contains("live-on")`)
	before := b.text(`document.getElementById("flow-events").textContent`)
	if text := b.text(`document.querySelector("svg.sequence").textContent`); strings.Contains(text, "priorauth.decision.made") {
		t.Fatal("the payer has decided though it is paused")
	}
	// Parts of the page that a flow has only later, as the steps of its saga, are put in their place.
	b.do("marking the page", chromedp.Evaluate[chromedp.Void](`window.sameDocument = true; for (const id of ["facts", "sagas", "reactions"]) document.getElementById(id)?.remove()`))
	if err := d.p.Bus().Resume(ctx, "payer", bus.Act{Actor: "test", Reason: "watched"}); err != nil {
		t.Fatal(err)
	}
	b.holds("the decision appears", `document.querySelector("svg.sequence").textContent.includes("priorauth.decision.made")`)
	b.holds("the flow has grown", `Number(document.getElementById("flow-events").textContent) > `+before)
	// Not every flow has a saga.
	b.holds("the parts are back, in their order", `(() => {
		const live = [...document.querySelectorAll("[data-region]")].map(r => r.id);
		return live.includes("facts") && live.includes("reactions") && live.join() === ["facts", "sagas", "drawing", "reactions"].filter(id => live.includes(id)).join();
	})()`)
	if b.text(`String(window.sameDocument)`) != "true" {
		t.Error("the page was loaded anew")
	}
	if _, err := drain(ctx, d.p, d.p.Bus().Joined()); err != nil {
		t.Fatal(err)
	}
}

func lastWeek(t *testing.T, d *aDemo, b *browser) {
	b.open("/console/patients/" + d.patient())
	b.says("2 versions")
	b.says("What version 2 changed")
	b.holds("the newest member is marked", `[...document.querySelectorAll("tr.fresh")].some(r => r.textContent.includes("patient.contact.changed"))`)
	b.click("#last-week")
	b.says("version 1, as it was known 7d back")
	b.says("As it was known then")
	if at := b.text(`location.search`); at != "?at=7d" {
		t.Errorf("the address does not hold the time: %s", at)
	}
	b.open("/console/patients/" + d.patient() + "?at=30d")
	b.says("Not known yet")
	b.open("/console/patients/" + d.patient() + "?version=1")
	b.says("As it was at version 1")
	b.do("next version", chromedp.KeyEvent("]"))
	b.holds("version 2 is shown", `location.search === "?version=2"`)
}

func pausedGroup(t *testing.T, d *aDemo, b *browser) {
	b.open("/console/groups/patient-portal")
	b.click("text=Pause")
	b.inForm("Pause", "maintenance of the portal")
	b.says("paused; its events wait in the log")
	b.holds("it is paused", `document.getElementById("group-state").textContent === "paused"`)
	if err := d.people.Prescribe(context.Background(), d.p, 20); err != nil {
		t.Fatal(err)
	}
	b.holds("its lag is seen to grow", `Number(document.getElementById("group-lag").textContent.replace(/,/g, "")) >= 20`)
	b.open("/console/groups")
	b.says("maintenance of the portal")
	b.open("/console/groups/patient-portal")
	b.inForm("Resume", "done")
	b.holds("it catches up", `document.getElementById("group-state").textContent === "running" && document.getElementById("group-lag").textContent === "0"`)
	paused := d.recorded(t, platform.GroupPausedV1.Type())
	if !strings.Contains(string(paused.Payload), "maintenance of the portal") {
		t.Errorf("the audit says %s", paused.Payload)
	}
}

func twoVersions(t *testing.T, d *aDemo, b *browser) {
	b.open("/console/catalog")
	b.click(`a[href="/console/catalog/medication.prescription.filled"]`)
	b.says("Published lately")
	b.click("text=Compare versions")
	b.holds("the verdict", `document.getElementById("bump").textContent === "major"`)
	b.says("was removed")
	b.says("pharmacy-service")
	if gone := b.text(`String(document.querySelectorAll(".diff .gone").length)`); gone == "0" {
		t.Error("the documents are not held against each other")
	}
	b.click("text=Swap")
	b.says("What changed from 2.0.0 to 1.0.0")
}

func checkedProjection(t *testing.T, d *aDemo, b *browser) {
	b.open("/console/projections")
	b.says("priorauth-views")
	b.do("comparing", chromedp.Evaluate[chromedp.Void](`{ const f = document.querySelector("#check-priorauth-views form"); f.elements.reason.value = "after a restore"; f.querySelector("button").click() }`))
	b.says("is under way, beside the live tables")
	b.says("equal to its rebuild")
	b.says("after a restore")
}

func keysAndPalette(t *testing.T, d *aDemo, b *browser) {
	b.open("/console/")
	b.do("slash", chromedp.KeyEvent("/"))
	b.holds("the search has the focus", `document.activeElement.id === "find"`)
	b.do("leaving it", chromedp.Evaluate[chromedp.Void](`document.activeElement.blur()`), chromedp.KeyEvent("?"))
	b.holds("the keys are shown", `document.getElementById("keys").open`)
	b.do("closing", chromedp.KeyEvent("\u001b"))
	b.do("the palette", chromedp.KeyEvent("k", chromedp.KeyModifiers(chromedp.ModifierCtrl)))
	b.holds("the palette is open", `document.getElementById("palette").open`)
	b.do("typing", chromedp.KeyEvent(d.patient()))
	b.holds("the patient is found", `document.querySelector("#palette .hits").textContent.includes("patient.record")`)
	b.do("going there", chromedp.KeyEvent("\r"))
	b.holds("the patient's page", `location.pathname === "/console/patients/`+d.patient()+`"`)
	b.do("go to groups", chromedp.KeyEvent("g"), chromedp.KeyEvent("g"))
	b.holds("the groups", `location.pathname === "/console/groups"`)
	b.do("the next row, opened", chromedp.KeyEvent("j"), chromedp.KeyEvent("j"), chromedp.KeyEvent("\r"))
	b.holds("a group", `location.pathname.startsWith("/console/groups/")`)
	b.click("#theme")
	b.holds("light", `document.documentElement.dataset.theme === "light"`)
	b.click("#theme")
	b.open("/console/groups")
	b.holds("the theme stays dark", `document.documentElement.dataset.theme === "dark"`)
}

func pausedTail(t *testing.T, d *aDemo, b *browser) {
	b.open("/console/tail?type=medication.prescription.created")
	b.says("live")
	rows := b.text(`String(document.querySelectorAll("#tail tbody tr").length)`)
	b.click("#tail-pause")
	if err := d.people.Prescribe(context.Background(), d.p, 3); err != nil {
		t.Fatal(err)
	}
	b.holds("what comes is counted", `document.getElementById("tail-new").textContent === "3 new"`)
	if now := b.text(`String(document.querySelectorAll("#tail tbody tr").length)`); now != rows {
		t.Errorf("a paused tail went from %s rows to %s", rows, now)
	}
	b.click("#tail-new")
	b.holds("what was held is on top", `document.querySelectorAll("#tail tbody tr").length === `+rows+` + 3`)
}
