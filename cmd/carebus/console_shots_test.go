package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/color/palette"
	"image/draw"
	"image/png"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/carebus/carebus/bus"
)

// ask reads JSON from the API of the demo.
func (d *aDemo) ask(t *testing.T, path string, out any) {
	t.Helper()
	r, err := http.Get(d.url + path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(out); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// lastFlow is the newest flow with an event of a type.
func (d *aDemo) lastFlow(t *testing.T, eventType string) (correlation, event string) {
	t.Helper()
	var found struct {
		Events []struct {
			Metadata struct{ EventID, CorrelationID string }
		}
	}
	d.ask(t, "/v1/events?order=newest&limit=1&type="+eventType, &found)
	if len(found.Events) == 0 {
		t.Fatalf("the demo has made no %s", eventType)
	}
	return found.Events[0].Metadata.CorrelationID, found.Events[0].Metadata.EventID
}

// views are the pages of a demo, by name.
func (d *aDemo) views(t *testing.T) [][2]string {
	t.Helper()
	denied, event := d.lastFlow(t, "priorauth.status.denied")
	filled, _ := d.lastFlow(t, "medication.prescription.picked-up")
	var sagas struct{ Sagas []struct{ ID string } }
	d.ask(t, "/v1/sagas?status=failed&limit=1", &sagas)
	letters, err := d.p.Bus().DeadLetters(context.Background(), bus.Filter{}, 1)
	if err != nil || len(letters) == 0 || len(sagas.Sagas) == 0 {
		t.Fatalf("the demo has parked nothing, or undone nothing: %v", err)
	}
	letter := fmt.Sprintf("?group=%s&key=%s", letters[0].Group, letters[0].Key)
	return [][2]string{
		{"overview", "/console/?span=15m"}, {"tail", "/console/tail"}, {"search", "/console/search?type=priorauth.**"}, {"event", "/console/events/" + event},
		{"flows", "/console/flows"}, {"flow", "/console/flows/" + filled}, {"flow-tree", "/console/flows/" + denied + "?show=tree"}, {"compare", "/console/compare?a=" + filled + "&b=" + denied},
		{"topology", "/console/topology"}, {"topology-scope", "/console/topology?scope=payer-service"}, {"groups", "/console/groups"}, {"group", "/console/groups/prior-auth"},
		{"failures", "/console/failures"}, {"failure", "/console/failure" + letter}, {"redrive", "/console/redrive?group=" + letters[0].Group}, {"jobs", "/console/jobs"},
		{"catalog", "/console/catalog"}, {"schema", "/console/catalog/medication.prescription.filled"}, {"schema-diff", "/console/catalog/medication.prescription.filled/diff"},
		{"sagas", "/console/sagas"}, {"saga", "/console/sagas/" + sagas.Sagas[0].ID}, {"patients", "/console/patients?name=a"}, {"patient", "/console/patients/" + d.patient()},
		{"projections", "/console/projections"}, {"audit", "/console/audit"}, {"find", "/console/find?q=prior"}, {"problem", "/console/events/none"},
	}
}

// TestConsolePictures makes a picture of every page, in light and dark, wide and narrow, in the folder that
// CAREBUS_SCREENSHOTS names; without it, it only looks whether each page fits its window and has no errors. Pages whose name
// is in CAREBUS_SCREENSHOT_PAGES, where that is set, are the only ones.
func TestConsolePictures(t *testing.T) {
	if os.Getenv("CAREBUS_TEST_CHROMIUM") == "" {
		openBrowser(t, "") // skips, by name
	}
	d := serveDemo(t)
	folder, only := os.Getenv("CAREBUS_SCREENSHOTS"), os.Getenv("CAREBUS_SCREENSHOT_PAGES")
	for _, size := range []struct {
		name          string
		width, height int64
	}{{"wide", 1280, 860}, {"narrow", 390, 844}} {
		t.Run(size.name, func(t *testing.T) {
			b := openBrowser(t, d.url)
			b.do("size", chromedp.EmulateViewport(size.width, size.height))
			for _, v := range d.views(t) {
				if only != "" && !strings.Contains(","+only+",", ","+v[0]+",") {
					continue
				}
				b.expect404 = v[0] == "problem"
				for _, dark := range []bool{false, true} {
					b.dark(dark)
					b.open(v[1])
					// A page may scroll down; sideways only its tables and drawings do.
					if over := b.text(`String(document.documentElement.scrollWidth - document.documentElement.clientWidth)`); over != "0" {
						t.Errorf("%s is %s pixels wider than a window of %d", v[0], over, size.width)
					}
					if folder == "" {
						continue
					}
					shot, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
					if err != nil {
						t.Fatal(err)
					}
					name := v[0] + "-" + size.name + map[bool]string{true: "-dark"}[dark] + ".png"
					if err := os.WriteFile(filepath.Join(folder, name), smaller(t, shot), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// smaller is a picture with 256 colours, which is enough for pages and a third of the size.
func smaller(t *testing.T, shot []byte) []byte {
	t.Helper()
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		t.Fatal(err)
	}
	few := image.NewPaletted(full.Bounds(), append(mostUsed(full, 240), palette.WebSafe[:16]...))
	draw.Draw(few, few.Bounds(), full, image.Point{}, draw.Src)
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, few); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// mostUsed are the colours that a picture has most of.
func mostUsed(m image.Image, n int) color.Palette {
	counts := map[color.RGBA]int{}
	for y := m.Bounds().Min.Y; y < m.Bounds().Max.Y; y++ {
		for x := m.Bounds().Min.X; x < m.Bounds().Max.X; x++ {
			counts[color.RGBAModel.Convert(m.At(x, y)).(color.RGBA)]++
		}
	}
	all := slices.SortedFunc(maps.Keys(counts), func(a, b color.RGBA) int {
		return cmp.Or(counts[b]-counts[a], int(a.R)-int(b.R), int(a.G)-int(b.G), int(a.B)-int(b.B))
	})
	out := color.Palette{}
	for _, c := range all[:min(len(all), n)] {
		out = append(out, c)
	}
	return out
}
