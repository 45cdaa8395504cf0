package flow_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/flow"
)

// drawing is what an SVG says: its texts, and how often each class is drawn.
type drawing struct {
	texts   []string
	classes map[string]int
}

// drawn draws and reads the document as an XML reader does. It refuses everything that could act.
func drawn(t testing.TB, records []eventstore.Record, o *flow.Options) (drawing, string) {
	t.Helper()
	var b strings.Builder
	if err := flow.Build(records).WriteSVG(&b, o); err != nil {
		t.Fatal(err)
	}
	out := drawing{classes: map[string]int{}}
	in := xml.NewDecoder(strings.NewReader(b.String()))
	depth := 0
	for {
		tok, err := in.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("no XML: %v\n%s", err, b.String())
		}
		switch x := tok.(type) {
		case xml.StartElement:
			depth++
			switch x.Name.Local {
			case "svg", "style", "defs", "marker", "path", "rect", "line", "text", "title":
			default:
				t.Errorf("element %s", x.Name.Local)
			}
			for _, a := range x.Attr {
				if strings.HasPrefix(a.Name.Local, "on") || strings.Contains(a.Name.Local, "href") {
					t.Errorf("attribute %s", a.Name.Local)
				}
				if a.Name.Local == "class" {
					out.classes[a.Value]++
				}
			}
		case xml.EndElement:
			depth--
		case xml.CharData:
			if s := strings.TrimSpace(string(x)); s != "" {
				out.texts = append(out.texts, s)
			}
		}
	}
	if depth != 0 {
		t.Errorf("%d elements are not closed", depth)
	}
	return out, b.String()
}

func TestSVG(t *testing.T) {
	d, text := drawn(t, priorAuth(), nil)
	all := strings.Join(d.texts, "\n")
	for _, want := range []string{
		"prescribing-service", "priorauth-service", "payer-service", "pharmacy-service", "patient-portal", "care-coordination-service", "group label-printer", "group mailer",
		"medication.prescription.created", "priorauth.decision.made", "care.task.assigned", "pause of 2.44s", "+2.5s", "parked by label-printer after 3 tries (permanent)", "skipped by mailer after 1 try (permanent)",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not drawn", want)
		}
	}
	// Arrows: created to priorauth and to the portal, submitted, decision, approved. Two failures, each a line and a cross.
	if d.classes["arrow"] != 5 || d.classes["fail"] != 4 || d.classes["life"] != 8 || d.classes["gap"] != 1 {
		t.Errorf("%v", d.classes)
	}
	if strings.Contains(text, "SECRET") || strings.Contains(text, "label too long") {
		t.Error("a payload is drawn")
	}
	if !strings.Contains(text, "prefers-color-scheme:dark") {
		t.Error("the default theme does not follow the reader's")
	}
	_, light := drawn(t, priorAuth(), &flow.Options{Theme: flow.ThemeLight})
	_, dark := drawn(t, priorAuth(), &flow.Options{Theme: flow.ThemeDark})
	if light == dark || strings.Contains(light+dark, "prefers-color-scheme") {
		t.Error("a chosen theme is not kept")
	}
}

func TestSVGOfNothing(t *testing.T) {
	if d, _ := drawn(t, nil, nil); d.classes["arrow"] != 0 {
		t.Errorf("%+v", d)
	}
}

// TestSVGLarge: 2,000 events in one drawing, and a flow cut at its limit that says so.
func TestSVGLarge(t *testing.T) {
	var records []eventstore.Record
	for i := range 2000 {
		records = append(records, rec(fmt.Sprint("id-", i), fmt.Sprint("id-", i-1), "test.thing.done", fmt.Sprint("service-", i%5), time.Duration(i)*time.Millisecond, `{}`))
	}
	if d, _ := drawn(t, records, &flow.Options{Limit: 5000}); d.classes["arrow"] != 1999 {
		t.Errorf("%d arrows for 2000 events in a row", d.classes["arrow"])
	}
	d, _ := drawn(t, records, nil)
	if all := strings.Join(d.texts, "\n"); d.classes["arrow"] != 199 || !strings.Contains(all, "1800 more events") {
		t.Errorf("%d arrows at a limit of 200", d.classes["arrow"])
	}
}

// TestSVGHostile: names that are markup stay text.
func TestSVGHostile(t *testing.T) {
	for _, evil := range []string{
		`<script>alert(1)</script>`, `"><image href=x onerror=alert(1)>`, `]]>&lt;!--`, "\x00\x1b\u202eright to left", `' onload='x`, strings.Repeat("long", 500), "\xff\xfe", "",
	} {
		a := rec("id-1", "", "x."+evil, evil, 0, `{}`)
		b := rec("id-2", "id-1", evil, "other", time.Millisecond, `{}`)
		a.CorrelationID, b.CorrelationID = evil, evil
		_, text := drawn(t, []eventstore.Record{a, b}, nil)
		for _, bad := range []string{"<script", "<image", "\u202e", "\x00"} {
			if strings.Contains(text, bad) {
				t.Errorf("%q is in the drawing of %q", bad, evil)
			}
		}
	}
}
