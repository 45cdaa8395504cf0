package flow_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
)

var update = flag.Bool("update", false, "write the golden files anew")

var start = time.Date(2026, 3, 2, 9, 30, 0, 0, time.UTC)

// rec is a record of the flow "corr-1", recorded at after the start.
func rec(id, cause, eventType, source string, at time.Duration, payload string) eventstore.Record {
	recorded := start.Add(at)
	return eventstore.Record{
		Event: event.Event{
			Metadata: event.Metadata{
				ID: id, Type: eventType, Source: source, CorrelationID: "corr-1", CausationID: cause,
				Timestamp: recorded.UnixMilli(), Version: "1.0.0", PartitionKey: "RX-1",
			},
			Payload: json.RawMessage(payload),
		},
		Partition: 3, Offset: at.Milliseconds(), RecordedAt: recorded,
	}
}

// priorAuth is a flow with everything in it: a fork, a pause, a failure that is parked, a skipped event and an orphan.
func priorAuth() []eventstore.Record {
	return []eventstore.Record{
		rec("id-00000001", "", "medication.prescription.created", "prescribing-service", 0, `{"patientId":"SECRET-PATIENT"}`),
		rec("id-00000002", "id-00000001", "priorauth.request.submitted", "priorauth-service", 12*time.Millisecond, `{}`),
		rec("id-00000003", "id-00000001", "patient.notification.sent", "patient-portal", 14*time.Millisecond, `{}`),
		rec("id-00000004", "id-00000002", "priorauth.decision.made", "payer-service", 2450*time.Millisecond, `{}`),
		rec("id-00000005", "id-00000004", "priorauth.status.approved", "priorauth-service", 2455*time.Millisecond, `{}`),
		rec("id-00000006", "id-00000005", "medication.prescription.filled", "pharmacy-service", 2500*time.Millisecond, `{}`),
		rec("id-00000007", "id-00000006", "platform.key.parked", "carebus", 2600*time.Millisecond,
			`{"group":"label-printer","partition":3,"key":"RX-1","offset":2500,"class":"permanent","error":"label too long","attempts":3}`),
		rec("id-00000008", "id-00000005", "platform.key.skipped", "carebus", 2610*time.Millisecond,
			`{"group":"mailer","key":"RX-1","class":"permanent","attempts":1}`),
		rec("id-00000009", "id-elsewhere", "care.task.assigned", "care-coordination-service", 2620*time.Millisecond, `{}`),
	}
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s differs (-want +got); go test ./flow -update writes it anew:\n%s", path, diff)
	}
}

func drawings(t *testing.T, f *flow.Flow, o *flow.Options) (tree, mermaid, text []byte) {
	t.Helper()
	var a, b bytes.Buffer
	if err := f.WriteTree(&a, o); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteMermaid(&b, o); err != nil {
		t.Fatal(err)
	}
	text, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return a.Bytes(), b.Bytes(), append(text, '\n')
}

func TestDrawings(t *testing.T) {
	f := flow.Build(priorAuth())
	tree, mermaid, text := drawings(t, f, nil)
	golden(t, "prior-auth.txt", tree)
	golden(t, "prior-auth.mmd", mermaid)
	golden(t, "prior-auth.json", text)
	for _, out := range [][]byte{tree, mermaid, text} {
		if bytes.Contains(out, []byte("SECRET")) {
			t.Errorf("a payload value was drawn:\n%s", out)
		}
	}
	again, _, _ := drawings(t, flow.Build(priorAuth()), nil)
	if !bytes.Equal(tree, again) {
		t.Error("two drawings of the same records differ")
	}
}

func TestBuild(t *testing.T) {
	f := flow.Build(priorAuth())
	if f.CorrelationID != "corr-1" || f.Orphans != 1 || f.Failures != 2 || f.DurationMs != 2620 {
		t.Errorf("got correlation %q, orphans %d, failures %d, duration %v", f.CorrelationID, f.Orphans, f.Failures, f.DurationMs)
	}
	want := []flow.Reaction{
		{From: "prescribing-service", To: "priorauth-service", Count: 1, MedianMs: 12, MaxMs: 12},
		{From: "prescribing-service", To: "patient-portal", Count: 1, MedianMs: 14, MaxMs: 14},
		{From: "priorauth-service", To: "payer-service", Count: 1, MedianMs: 2438, MaxMs: 2438},
		{From: "payer-service", To: "priorauth-service", Count: 1, MedianMs: 5, MaxMs: 5},
		{From: "priorauth-service", To: "pharmacy-service", Count: 1, MedianMs: 45, MaxMs: 45},
	}
	if diff := cmp.Diff(want, f.Reactions); diff != "" {
		t.Errorf("reactions (-want +got):\n%s", diff)
	}
	if got := f.Events[6].Failure; got == nil || got.Group != "label-printer" || got.Skipped || got.Attempts != 3 {
		t.Errorf("parked event read as %+v", got)
	}
}

func TestBuildOfNothing(t *testing.T) {
	f := flow.Build(nil)
	tree, mermaid, text := drawings(t, f, nil)
	if string(tree) != "no events\n" || string(mermaid) != "sequenceDiagram\n" || bytes.Contains(text, []byte("null")) {
		t.Errorf("got %q, %q, %s", tree, mermaid, text)
	}
}

func TestCircles(t *testing.T) {
	f := flow.Build([]eventstore.Record{
		rec("a", "c", "x.a.done", "s", 0, `{}`),
		rec("b", "a", "x.b.done", "s", 1, `{}`),
		rec("c", "b", "x.c.done", "s", 2, `{}`),
		rec("d", "d", "x.d.done", "s", 3, `{}`),
		rec("e", "c", "x.e.done", "s", 4, `{}`),
		rec("a", "", "x.a.done", "s", 5, `{}`),
	})
	if len(f.Events) != 5 {
		t.Fatalf("the second record of an id must be left out: %d events", len(f.Events))
	}
	if !f.Events[0].Orphan || f.Events[2].Orphan || !f.Events[3].Orphan || f.Orphans != 2 {
		t.Errorf("circles cut at the wrong place: %+v", f.Events)
	}
	tree, _, _ := drawings(t, f, nil)
	if n := bytes.Count(tree, []byte("done")); n != 5 {
		t.Errorf("%d of 5 events drawn:\n%s", n, tree)
	}
}

func TestEffectBeforeCause(t *testing.T) {
	f := flow.Build([]eventstore.Record{rec("b", "a", "x.b.done", "two", 0, `{}`), rec("a", "", "x.a.done", "one", time.Millisecond, `{}`)})
	if f.Events[0].Cause != 1 || f.Events[0].TookMs != 0 {
		t.Errorf("an effect recorded before its cause: %+v", f.Events[0])
	}
}

func TestLimit(t *testing.T) {
	var records []eventstore.Record
	cause := ""
	for i := range 5000 {
		id := fmt.Sprintf("id-%08d", i)
		records = append(records, rec(id, cause, "x.y.done", "s", time.Duration(i)*time.Millisecond, `{}`))
		cause = id
	}
	f := flow.Build(records)
	tree, mermaid, _ := drawings(t, f, &flow.Options{Limit: 100})
	for _, out := range [][]byte{tree, mermaid} {
		if !strings.Contains(string(out), "4900 more") || bytes.Count(out, []byte("x.y.done")) != 100 {
			t.Errorf("the limit is not kept:\n%.2000s", out)
		}
	}
	whole, _, _ := drawings(t, f, &flow.Options{Limit: 5000})
	if len(whole) > 5000*400 {
		t.Errorf("a long chain is drawn in %d bytes; the indentation is not bounded", len(whole))
	}
}

// statement is everything that WriteMermaid may write.
var statement = regexp.MustCompile(`^(sequenceDiagram|    participant p\d+ as ` + label + `|    p\d+(->>|-x)p\d+: ` + label + `|    Note over p\d+(,p\d+)?: ` + label + `)$`)

const label = `(?:[A-Za-z0-9 ._/?+()…µ-]|#\d+;)+`

var endWord = regexp.MustCompile(`(?i)\bend\b`)

// checkSafe fails the test when a drawing holds anything that could be syntax or could steer a terminal.
func checkSafe(t interface{ Errorf(string, ...any) }, tree, mermaid string) {
	for _, line := range strings.Split(strings.TrimSuffix(mermaid, "\n"), "\n") {
		if !statement.MatchString(line) {
			t.Errorf("not a statement: %q", line)
		}
		if endWord.MatchString(line) {
			t.Errorf("a keyword in a label: %q", line)
		}
	}
	for _, r := range tree {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("the tree holds %U", r)
		}
	}
}

var hostile = []string{
	"end", "End", "the end", "a;b", "a\nb", "%%{init}%%", "#35;", "<script>alert(1)</script>", "a:b", "a->>b", "\x1b[31m", "\u202e", "wrap:x", "", "  ", "\xff",
	"participant x", "\"quoted\"", "{}", "a,b", "日本",
}

func TestHostileText(t *testing.T) {
	for _, h := range hostile {
		payload, _ := json.Marshal(map[string]any{"group": h, "error": h, "class": h})
		f := flow.Build([]eventstore.Record{
			rec("1"+h, "", h, h, 0, `{}`),
			rec("2"+h, "1"+h, h, "other "+h, time.Minute, `{}`),
			rec("3"+h, "2"+h, "platform.key.parked", "carebus", time.Minute, string(payload)),
			rec("4"+h, h, h, h, time.Minute, `{}`),
		})
		tree, mermaid, _ := drawings(t, f, nil)
		checkSafe(t, string(tree), string(mermaid))
	}
}

func FuzzDrawings(f *testing.F) {
	for _, h := range hostile {
		f.Add(h, h, h, int64(2e9))
	}
	f.Fuzz(func(t *testing.T, eventType, source, group string, at int64) {
		payload, _ := json.Marshal(map[string]any{"group": group, "error": source})
		fl := flow.Build([]eventstore.Record{
			rec("1", "", eventType, source, 0, `{}`),
			rec("2", "1", eventType, group, time.Duration(at), `{}`),
			rec("3", "2", "platform.key.skipped", "carebus", time.Duration(at), string(payload)),
		})
		tree, mermaid, _ := drawings(t, fl, nil)
		checkSafe(t, string(tree), string(mermaid))
	})
}

// Whatever causes what: every event is drawn once, every event but the roots has exactly one parent, and walking ends.
func TestEveryEventOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "events")
		var records []eventstore.Record
		for i := range n {
			cause := ""
			if c := rapid.IntRange(-2, n-1).Draw(t, "cause"); c >= 0 {
				cause = fmt.Sprint("id", c)
			} else if c == -2 {
				cause = "elsewhere"
			}
			records = append(records, rec(fmt.Sprint("id", i), cause, fmt.Sprintf("x.e%d.done", i), "s", time.Duration(i)*time.Millisecond, `{}`))
		}
		fl := flow.Build(records)
		effects, roots := 0, 0
		for _, e := range fl.Events {
			effects += len(e.Effects)
			if e.Cause < 0 {
				roots++
			}
		}
		if effects+roots != n {
			t.Fatalf("%d effects and %d roots of %d events", effects, roots, n)
		}
		var b bytes.Buffer
		if err := fl.WriteTree(&b, nil); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if c := strings.Count(b.String(), fmt.Sprintf("x.e%d.done", i)); c != 1 {
				t.Fatalf("event %d drawn %d times:\n%s", i, c, b.String())
			}
		}
	})
}
