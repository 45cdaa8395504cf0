package flow_test

import (
	"encoding/xml"
	"errors"
	"io"
	"net/url"
	"strings"
	"testing"

	"github.com/carebus/carebus/flow"
)

// TestWritePage draws into a page: every event is a link, failures and what is expected are there, and nothing has a colour
// or a size of its own.
func TestWritePage(t *testing.T) {
	f := flow.Build(priorAuth())
	var b strings.Builder
	o := &flow.PageOptions{
		Link: func(e *flow.Event) string { return "/events/" + url.PathEscape(e.EventID) }, Mark: f.Events[1].EventID,
		Expected: []flow.Expected{{Service: "saga fulfilment", Text: `expected: fill <b>&"`}},
	}
	if err := f.WritePage(&b, o); err != nil {
		t.Fatal(err)
	}
	links, marked, texts, classes := map[string]bool{}, 0, "", map[string]int{}
	in := xml.NewDecoder(strings.NewReader(b.String()))
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
			switch x.Name.Local {
			case "svg", "g", "a", "path", "rect", "line", "circle", "text", "title":
			default:
				t.Errorf("element %s", x.Name.Local)
			}
			for _, a := range x.Attr {
				switch n := a.Name.Local; {
				case n == "href":
					links[a.Value] = true
				case n == "class":
					classes[a.Value]++
					if a.Value == "row marked" {
						marked++
					}
				case n == "style" || n == "fill" || n == "stroke" || strings.HasPrefix(n, "on"):
					t.Errorf("attribute %s", n)
				}
			}
		case xml.CharData:
			texts += string(x) + "\n"
		}
	}
	for i, e := range f.Events {
		if e.Failure == nil && !links["/events/"+e.EventID] {
			t.Errorf("event %d is no link", i)
		}
	}
	for _, want := range []string{"priorauth-service", "medication.prescription.created", "parked by label-printer", "pause of", `expected: fill <b>&"`, "saga fulfilment"} {
		if !strings.Contains(texts, want) {
			t.Errorf("%q is not drawn", want)
		}
	}
	if marked == 0 || classes["pill ghost"] == 0 || classes["arrow fail"] == 0 || classes["cross"] == 0 {
		t.Errorf("marked %d, %v", marked, classes)
	}
	if strings.Contains(b.String(), "SECRET") {
		t.Error("a payload is drawn")
	}
	var none strings.Builder
	if err := flow.Build(nil).WritePage(&none, nil); err != nil || !strings.Contains(none.String(), "</svg>") {
		t.Error(none.String(), err)
	}
}
