package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto"
	"github.com/chromedp/cdproto/emulation"
	devlog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/services/patient"
	"github.com/carebus/carebus/services/simulation"
	"github.com/carebus/carebus/telemetry"
)

// aDemo is a running demo that is served over HTTP: what the browser tests walk through.
type aDemo struct {
	p      *carebus.Platform
	people *simulation.Population
	url    string
}

// serveDemo runs a small demo, whose patients were admitted ten days ago, and goes on running and serving until the test
// ends.
func serveDemo(t *testing.T) *aDemo {
	t.Helper()
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	var back atomic.Int64 // how far the store's clock is behind
	back.Store(int64(10 * 24 * time.Hour))
	clock := func() time.Time { return time.Now().Add(-time.Duration(back.Load())) }
	p, err := carebus.Open(ctx, "sqlite:"+filepath.Join(t.TempDir(), "demo.db"), &carebus.Options{Logger: quiet, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	run, err := beginDemo(ctx, p, 1)
	if err != nil {
		t.Fatal(err)
	}
	d := &aDemo{p: p, people: simulation.New(1, run, 60, true)}
	if err := d.people.Admit(ctx, p); err != nil {
		t.Fatal(err)
	}
	back.Store(0)
	f := demoFlags{rate: 60, length: 2 * time.Second, world: demoWorld{pickup: 5 * time.Second}}
	if err := f.world.join(ctx, p, demoNames()...); err != nil {
		t.Fatal(err)
	}
	working, stop := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { ended <- p.Run(working) }()
	meters, err := telemetry.New(ctx, &telemetry.Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	watched := &observed{Telemetry: meters, log: quiet, end: func() {}, done: make(chan struct{})}
	close(watched.done)
	t.Cleanup(func() {
		if err := watched.stop(); err != nil {
			t.Error(err)
		}
	})
	var flags serveFlags
	flags.listen = "127.0.0.1:0"
	ready := make(chan string, 1)
	go func() { ended <- flags.run(working, p, watched, func(url string) { ready <- url }) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	})
	if err := errors.Join(d.people.Deliver(ctx, p, 400), prescribe(ctx, p, d.people, f)); err != nil {
		t.Fatal(err)
	}
	if _, err := drain(ctx, p, p.Bus().Joined()); err != nil {
		t.Fatal(err)
	}
	if _, err := patient.Do(ctx, p, d.patient(), patient.ChangeContact{PhoneNumber: new("+1-555-0199")}); err != nil {
		t.Fatal(err)
	}
	d.url = <-ready
	return d
}

func (d *aDemo) patient() string { return "P" + d.people.Prefix + "-0001" }

// browser is a Chromium under the test's control, and what it has complained of.
type browser struct {
	t    *testing.T
	ctx  context.Context
	home string

	mu        sync.Mutex
	bad       []string
	seen      int
	expect404 bool // a page that is not there is a line in the browser's log
}

// openBrowser starts the browser that CAREBUS_TEST_CHROMIUM names. When the test ends it must not have asked any other
// machine for anything, nor have had errors.
func openBrowser(t *testing.T, home string) *browser {
	t.Helper()
	path := os.Getenv("CAREBUS_TEST_CHROMIUM")
	if path == "" {
		t.Skip("no CAREBUS_TEST_CHROMIUM; scripts/chromium installs one and says how to name it")
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun}
	for _, flag := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "disable-default-apps", "hide-scrollbars"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	allocated, release := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocated)
	b := &browser{t: t, ctx: ctx, home: home}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		cancel()
		release()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, text := range b.bad {
			t.Error("the browser: ", text)
		}
		if b.seen == 0 {
			t.Error("no request was seen: the network log does not work")
		}
	})
	err := chromedp.Listen(ctx, func(ev any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch ev := ev.(type) {
		case *network.EventRequestWillBeSent:
			b.seen++
			if u := ev.Request.URL; !strings.HasPrefix(u, home+"/") && u != "about:blank" {
				b.bad = append(b.bad, "asked for "+u)
			}
		case *runtime.EventConsoleAPICalled:
			if ev.Type == runtime.ConsoleAPICalledTypeError || ev.Type == runtime.ConsoleAPICalledTypeWarning {
				b.bad = append(b.bad, "console: "+string(ev.Type))
			}
		case *runtime.EventExceptionThrown:
			b.bad = append(b.bad, "exception: "+ev.ExceptionDetails.Text)
		case *devlog.EventEntryAdded: // refusals by the Content-Security-Policy come here
			if b.expect404 && strings.Contains(ev.Entry.Text, "404") {
				return
			}
			if ev.Entry.Level == devlog.EntryLevelError || ev.Entry.Level == devlog.EntryLevelWarning {
				b.bad = append(b.bad, "log: "+ev.Entry.Text)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1280, 900)); err != nil {
		t.Fatal(err)
	}
	return b
}

// do runs actions, and fails the test with a name for what was to be done.
func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		at, _ := chromedp.Run(b.ctx, chromedp.Location())
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.body.innerText.slice(0, 1500)`))
		b.t.Fatalf("%s: %v\nat %s:\n%s", what, err, at, text)
	}
}

func (b *browser) open(path string) {
	b.t.Helper()
	b.do("opening "+path, chromedp.Navigate(b.home+path))
}

// holds waits until an expression of JavaScript is true, on whatever page the browser comes to meanwhile.
func (b *browser) holds(what, expression string) {
	b.t.Helper()
	b.do(what, func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		poll := chromedp.Poll[bool](`(() => { try { return document.readyState !== "loading" && (`+expression+`) } catch { return false } })()`, chromedp.WithPollingInterval(50*time.Millisecond), chromedp.WithPollingTimeout(0))
		for {
			_, err := poll(ctx, t)
			if ctx.Err() != nil {
				return chromedp.Void{}, ctx.Err()
			}
			var gone *cdproto.Error
			if !errors.As(err, &gone) { // the page that was asked has been left
				return chromedp.Void{}, err
			}
		}
	})
}

// says waits until the page has a text.
func (b *browser) says(text string) {
	b.t.Helper()
	b.holds("the page says "+text, `document.body !== null && document.body.innerText.includes(`+quoteJS(text)+`)`)
}

// click clicks the first visible element that a CSS selector finds, or, when it begins with "text=", the link, button or
// summary with this text.
func (b *browser) click(sel string) {
	b.t.Helper()
	find := `document.querySelector(` + quoteJS(sel) + `)`
	if text, ok := strings.CutPrefix(sel, "text="); ok {
		find = `[...document.querySelectorAll("a, button, summary")].find(e => e.textContent.trim() === ` + quoteJS(text) + ` && e.getClientRects().length > 0)`
	}
	b.holds("finding "+sel, find+` != null`)
	b.do("clicking "+sel, chromedp.Evaluate[chromedp.Void](find+`.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true, view: window}))`))
}

func (b *browser) text(expression string) string {
	b.t.Helper()
	out, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](expression))
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func quoteJS(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func (b *browser) dark(on bool) {
	b.t.Helper()
	value := "light"
	if on {
		value = "dark"
	}
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: value}}})
	if err != nil {
		b.t.Fatal(err)
	}
}
