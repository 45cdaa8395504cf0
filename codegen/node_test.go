package codegen_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/codegen"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestNode: what is generated is compiled by the TypeScript compiler, and its client does what it promises against a real
// gateway, in Node. So does the CloudEvents SDK for JavaScript.
func TestNode(t *testing.T) {
	if os.Getenv("CAREBUS_NODE") != "1" {
		t.Skip("set CAREBUS_NODE=1 where Node and npm are: the generated TypeScript is then compiled and run")
	}
	p := newProject(t)
	if !t.Run("compiles", p.compiles) {
		return
	}
	t.Run("refuses", p.refuses)
	t.Run("publish", func(t *testing.T) {
		s := serve(t)
		p.scenario(t, "publish", s.url, s.token)
	})
	t.Run("back pressure", func(t *testing.T) {
		s := serve(t)
		p.scenario(t, "slow", s.url, s.slow)
	})
	t.Run("live", p.live)
	t.Run("silence", func(t *testing.T) {
		s := serve(t)
		p.scenario(t, "silence", s.url+"/silent", s.token)
	})
	t.Run("group", p.group)
	t.Run("CloudEvents SDK", p.cloudEvents)
}

// project is a folder with the modules of package.json, the generated types and the scenarios.
type project struct {
	dir, node string
}

func newProject(t *testing.T) *project {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("CAREBUS_NODE=1, but there is no node")
	}
	p := &project{dir: t.TempDir(), node: node}
	if err := os.CopyFS(p.dir, os.DirFS(filepath.Join("testdata", "node"))); err != nil {
		t.Fatal(err)
	}
	types, err := codegen.Read(os.DirFS(filepath.Join("..", "catalog", "schemas")))
	if err != nil {
		t.Fatal(err)
	}
	files, err := codegen.TypeScript(types, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := codegen.Write(filepath.Join(p.dir, "src", "events"), files, nil); err != nil {
		t.Fatal(err)
	}
	// And those of a customer's own folder, which uses all that a schema may.
	if files, err = codegen.TypeScript(own(), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := codegen.Write(filepath.Join(p.dir, "src", "own"), files, nil); err != nil {
		t.Fatal(err)
	}
	if out, err := p.command(t.Context(), "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts").CombinedOutput(); err != nil {
		t.Fatalf("npm install: %v\n%s", err, out)
	}
	return p
}

func (p *project) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = p.dir
	return cmd
}

var compilers = map[string]string{
	"TypeScript 7": filepath.Join("node_modules", "typescript", "bin", "tsc"),
	"TypeScript 5": filepath.Join("node_modules", "typescript-5", "bin", "tsc"),
}

// compiles: in strict mode, for Node and for browsers, with the compilers of two generations.
func (p *project) compiles(t *testing.T) {
	for name, tsc := range compilers {
		for _, config := range []string{"tsconfig.browser.json", "tsconfig.json"} {
			if out, err := p.command(t.Context(), p.node, tsc, "-p", config).CombinedOutput(); err != nil {
				t.Errorf("%s, %s: %v\n%s", name, config, err, out)
			}
		}
	}
}

// refuses: every line of wrong.ts that says so is an error, and no other.
func (p *project) refuses(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(p.dir, "src", "wrong.ts"))
	if err != nil {
		t.Fatal(err)
	}
	var want []int
	for i, line := range strings.Split(string(text), "\n") {
		if strings.HasSuffix(line, "// refused") {
			want = append(want, i+1)
		}
	}
	if len(want) < 10 {
		t.Fatalf("only %d lines are to be refused", len(want))
	}
	for name, tsc := range compilers {
		out, err := p.command(t.Context(), p.node, tsc, "-p", "tsconfig.wrong.json").CombinedOutput()
		if err == nil {
			t.Errorf("%s takes it", name)
		}
		var got []int
		for _, m := range regexp.MustCompile(`(?m)^src/wrong\.ts\((\d+),\d+\): error`).FindAllSubmatch(out, -1) {
			n, err := strconv.Atoi(string(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, n)
		}
		if slices.Sort(got); !slices.Equal(slices.Compact(got), want) {
			t.Errorf("%s refuses the lines %v, want %v\n%s", name, got, want, out)
		}
	}
}

// server is a gateway that asks for tokens, behind a network that can fail.
type server struct {
	url, token, slow string
	platform         *carebus.Platform
	cuts             atomic.Int64
}

var quiet = slog.New(slog.DiscardHandler)

func serve(t *testing.T) *server {
	t.Helper()
	s := &server{}
	var hash, slowHash string
	s.token, hash = auth.NewToken()
	s.slow, slowHash = auth.NewToken()
	door, err := auth.Parse(fmt.Appendf(nil, `
principals:
  - name: service
    tokens: [%q]
    publish: ["**"]
    subscribe: ["**"]
    read: ["**"]
    operate: ["**"]
  - name: slow
    tokens: [%q]
    publish: ["**"]
    rate: {perSecond: 4, burst: 2}
`, hash, slowHash))
	if err != nil {
		t.Fatal(err)
	}
	if s.platform, err = carebus.Open(context.Background(), "sqlite:"+filepath.Join(t.TempDir(), "node.db"), &carebus.Options{Logger: quiet}); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.platform.Run(ctx) }()
	g, err := gateway.New(context.Background(), s.platform, &gateway.Options{
		Door: door, Logger: quiet, Webhooks: gateway.WebhookOptions{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/", g)
	var lost atomic.Bool
	mux.Handle("/lossy/", http.StripPrefix("/lossy", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if lost.Swap(true) {
			g.ServeHTTP(w, r)
			return
		}
		g.ServeHTTP(httptest.NewRecorder(), r) // it is done, but nobody hears of it
		panic(http.ErrAbortHandler)
	})))
	var silent atomic.Bool
	mux.Handle("/silent/", http.StripPrefix("/silent", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || silent.Swap(true) {
			g.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random, mu := rand.New(rand.NewPCG(seed, 0)), sync.Mutex{}
	mux.Handle("/cut/", http.StripPrefix("/cut", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		after := 500 + random.IntN(30_000)
		mu.Unlock()
		g.ServeHTTP(&cutting{ResponseWriter: w, left: after, cuts: &s.cuts}, r)
	})))
	ts := httptest.NewServer(mux)
	s.url = ts.URL
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		ts.Close()
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := s.platform.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// cutting breaks a connection off in the middle of what it sends.
type cutting struct {
	http.ResponseWriter
	left int
	cuts *atomic.Int64
}

func (c *cutting) Write(p []byte) (int, error) {
	if c.left -= len(p); c.left < 0 {
		_, _ = c.ResponseWriter.Write(p[:len(p)+max(c.left, -len(p))])
		_ = http.NewResponseController(c.ResponseWriter).Flush()
		c.cuts.Add(1)
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}

func (c *cutting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// scenario runs one of scenario.ts to its end.
func (p *project) scenario(t *testing.T, name, url, token string) {
	t.Helper()
	out, err := p.command(t.Context(), p.node, filepath.Join("dist", "scenario.js"), name, url, token).CombinedOutput()
	if err != nil || !strings.HasPrefix(lastLine(out), "ok ") {
		t.Errorf("%v\n%s", err, out)
	}
}

// start begins one of scenario.ts, whose output is read as it comes.
func (p *project) start(t *testing.T, args ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	cmd := p.command(t.Context(), p.node, append([]string{filepath.Join("dist", "scenario.js")}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, out
}

func lastLine(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return lines[len(lines)-1]
}

func enrolled(patient string, n int) event.Event {
	return event.Event{
		Metadata: event.Metadata{ID: event.NewID(), Type: "patient.enrolled", Source: "enrolment", Version: "1.0.0", CorrelationID: "flow-" + patient, Timestamp: 1763900000000},
		Payload:  fmt.Appendf(nil, `{"patientId":%q,"enrollmentId":"%d","program":{"name":"Adherence"}}`, patient, n),
	}
}

// live: a follower whose connections are cut again and again sees each event once, in order per key.
func (p *project) live(t *testing.T) {
	s := serve(t)
	const events, keys = 6000, 20
	cmd, out := p.start(t, "live", s.url+"/cut", s.token, strconv.Itoa(events))
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "open" { // what is stored from here on is seen
		t.Fatalf("it said %q", lines.Text())
	}
	published := make(chan error, 1)
	go func() {
		for i := 0; i < events; i += 100 {
			var batch []event.Event
			for n := i; n < i+100; n++ {
				batch = append(batch, enrolled(fmt.Sprint("P", n%keys), n/keys))
			}
			if _, err := s.platform.PublishBatch(context.Background(), batch); err != nil {
				published <- err
				return
			}
		}
		published <- nil
	}()
	last := ""
	for lines.Scan() {
		last = lines.Text()
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, last)
	}
	var got struct{ Seen, Cuts, Wrong int }
	if err := json.Unmarshal([]byte(strings.TrimPrefix(last, "ok ")), &got); err != nil {
		t.Fatalf("%v: %s", err, last)
	}
	t.Logf("%+v; %d cuts by the network", got, s.cuts.Load())
	if got.Seen != events || got.Wrong != 0 || got.Cuts < 20 {
		t.Errorf("%+v", got)
	}
}

// group: members that are killed make events come again, and nothing else; one that is told to leave settles what it has.
func (p *project) group(t *testing.T) {
	s := serve(t)
	const events, keys = 600, 20
	var batch []event.Event
	for i := range events {
		batch = append(batch, enrolled(fmt.Sprint("P", i%keys), i/keys))
	}
	batch = append(batch, enrolled("poison", 0), enrolled("poison", 1), enrolled("later", 0), enrolled("long", 0))
	if _, err := s.platform.PublishBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	next, times := map[string]int{}, map[string]int{}
	handled, again := 0, 0
	// handle takes a line that a member has written before it could acknowledge.
	handle := func(line string) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != "handled" {
			t.Errorf("it said %q", line)
			return
		}
		n, err := strconv.Atoi(f[2])
		times[f[1]+" "+f[2]]++
		switch {
		case err == nil && n == next[f[1]]:
			next[f[1]]++
			handled++
		case err == nil && n == next[f[1]]-1: // again, after a crash, before anything later of its key
			again++
		default:
			t.Errorf("%s came when %d was next", line, next[f[1]])
		}
	}
	const wanted = events + 2 // and one later, and one long
	for life := 0; handled < wanted; life++ {
		cmd, out := p.start(t, "consume", s.url, s.token)
		lines := bufio.NewScanner(out)
		mine := 0
		ended := false
		for lines.Scan() {
			if ended = strings.HasPrefix(lines.Text(), "ok "); ended {
				break
			}
			handle(lines.Text())
			mine++
			if life < 4 && mine == 60 {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if handled == wanted {
				if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, _ = io.Copy(io.Discard, out)
		if err := cmd.Wait(); handled == wanted && (err != nil || !ended) {
			t.Errorf("the member that was told to leave: %v", err)
		}
		if life > 20 {
			t.Fatalf("%d of %d handled", handled, wanted)
		}
	}
	t.Logf("%d handled, %d of them again", handled, again)
	if times["long 0"] != 1 || times["later 0"] != 1 || times["poison 0"] != 0 {
		t.Errorf("long %d, later %d, poison %d", times["long 0"], times["later 0"], times["poison 0"])
	}
	carebustest.Settle(t, s.platform)
	status, err := s.platform.Bus().Group(t.Context(), "partner")
	if err != nil {
		t.Fatal(err)
	}
	if status.Lag != 0 || status.ParkedKeys != 1 {
		t.Errorf("lag %d, %d parked keys", status.Lag, status.ParkedKeys)
	}
}

// cloudEvents: posted structured, binary and in a batch; received live and by a webhook.
func (p *project) cloudEvents(t *testing.T) {
	s := serve(t)
	out, err := p.command(t.Context(), p.node, "cloudevents.mjs", s.url, s.token).CombinedOutput()
	if err != nil || lastLine(out) != "ok" {
		t.Errorf("%v\n%s", err, out)
	}
}
