package telemetry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v3"

	"github.com/carebus/carebus/auth"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/gateway"
	"github.com/carebus/carebus/projection"
	"github.com/carebus/carebus/saga"
)

const (
	dashboardFile = "../deploy/grafana/carebus.json"
	alertsFile    = "../deploy/prometheus/alerts.yaml"
	docsFile      = "../docs/observability.md"
)

// smallRun has a little of everything happen, so that every metric has a series.
func smallRun(t *testing.T) *world {
	t.Helper()
	w := open(t, &Options{Endpoint: newReceiver(t).url})
	d := saga.Define("errand", 1,
		saga.Call("pay", func(context.Context, string, payload) (int, error) { return 1, nil }, nil),
		saga.Await("answer", func(payload) string { return "never" }, saga.On[payload](answeredV1, func(e payload) string { return e.Key }, nil)))
	quick := saga.Define("quick", 1, saga.Do("all", func(context.Context, bus.Tx, *payload) error { return nil }))
	view := projection.Define("things", 1, projection.Tables(`CREATE TABLE {things} (k TEXT PRIMARY KEY)`),
		projection.On(askedV1, func(context.Context, projection.Tx, event.Of[payload]) error { return nil }))
	err := errors.Join(
		saga.Register(t.Context(), w, d, quick),
		projection.Register(t.Context(), w, view),
		w.Handle("bad", bus.Tries(1), bus.On(askedV1, func(context.Context, bus.Tx, event.Of[payload]) error { return errors.New("no") })),
	)
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	const token, scraper = "a-token-for-tests", "a-token-for-prometheus" // which may do what the documentation says
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	text := fmt.Sprintf("principals:\n  - name: tester\n    tokens: [\"sha256:%x\"]\n    publish: [\"**\"]\n    subscribe: [\"**\"]\n    read: [\"**\"]\n"+
		"  - name: prometheus\n    tokens: [\"sha256:%x\"]\n    read: [platform.metrics.scraped]\n", sha256.Sum256([]byte(token)), sha256.Sum256([]byte(scraper)))
	if err := os.WriteFile(policy, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	door, err := auth.Load(policy)
	if err != nil {
		t.Fatal(err)
	}
	url := w.serve(&gateway.Options{Door: door, Webhooks: gateway.WebhookOptions{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}})
	heard := make(chan string, 10)
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { heard <- r.Header.Get("Webhook-Id") }))
	t.Cleanup(hook.Close)
	bearer := []string{"Authorization", "Bearer " + token}
	if status, _ := send(t, http.MethodGet, url+"/metrics", ""); status != http.StatusUnauthorized {
		t.Errorf("metrics without a token: %d", status)
	}
	if status, text := send(t, http.MethodPost, url+"/v1/webhooks", fmt.Sprintf(`{"id":"hook","url":%q,"patterns":["test.thing.asked"]}`, hook.URL), bearer...); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	w.idle()
	if status, text := send(t, http.MethodPost, url+"/v1/events", envelope("E1", "test.thing.asked", "K1"), bearer...); status != http.StatusCreated {
		t.Fatalf("%d %s", status, text)
	}
	<-heard
	if err := errors.Join(d.Start(t.Context(), w.Store(), "S1", payload{}), quick.Start(t.Context(), w.Store(), "S2", payload{})); err != nil {
		t.Fatal(err)
	}
	w.idle()
	for { // the saga waits for its answer
		tick := w.Store().Tick()
		x, err := saga.Show(t.Context(), w.Store(), "S1")
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(x.Step, "answer") {
			break
		}
		if _, err := w.Store().Wait(t.Context(), tick); err != nil {
			t.Fatal(err)
		}
	}
	w.idle()
	if err := w.tel.tracing.provider.ForceFlush(t.Context()); err != nil {
		t.Fatal(err)
	}
	monitor := []string{"Authorization", "Bearer " + scraper}
	if status, text := send(t, http.MethodGet, url+"/metrics", "", monitor...); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if status, text := send(t, http.MethodGet, url+"/v1/events/E1", "", monitor...); status == http.StatusOK {
		t.Errorf("who may read metrics reads events: %s", text)
	}
	return w
}

var (
	metricName = regexp.MustCompile(`\bcarebus_[a-z0-9_]+`)
	selector   = regexp.MustCompile(`\b(carebus_[a-z0-9_]+)\s*\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping   = regexp.MustCompile(`\b(?:by|on|without|ignoring)\s*\(([^)]*)\)`)
)

// expressions are those of the dashboard and of the alerts, by where they are.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	text, err := os.ReadFile(dashboardFile)
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		UID    string `json:"uid"`
		Panels []struct {
			ID      int                            `json:"id"`
			Type    string                         `json:"type"`
			Title   string                         `json:"title"`
			GridPos struct{ H, W, X, Y int }       `json:"gridPos"`
			Targets []struct{ Expr, RefID string } `json:"targets"`
		} `json:"panels"`
		Templating struct {
			List []struct{ Name, Query any } `json:"list"`
		} `json:"templating"`
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	if err := decoder.Decode(&dashboard); err != nil {
		t.Fatalf("%s: %v", dashboardFile, err)
	}
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range dashboard.Panels {
		if ids[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Errorf("panels %q and %q lie on each other", other, p.Title)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for i, target := range p.Targets {
			out[fmt.Sprintf("panel %q, %d", p.Title, i)] = target.Expr
		}
	}
	for _, v := range dashboard.Templating.List {
		if text, err := json.Marshal(v.Query); err == nil && strings.Contains(string(text), "carebus_") {
			out[fmt.Sprint("variable ", v.Name)] = string(text)
		}
	}
	if text, err = os.ReadFile(alertsFile); err != nil {
		t.Fatal(err)
	}
	var alerts struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	if err := strict.Decode(&alerts); err != nil {
		t.Fatalf("%s: %v", alertsFile, err)
	}
	for _, g := range alerts.Groups {
		for _, r := range g.Rules {
			if r.Alert == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || !slices.Contains([]string{"info", "warning", "critical"}, r.Labels["severity"]) {
				t.Errorf("alert %q wants a name, a severity, a summary and a description", r.Alert)
			}
			if out["alert "+r.Alert] != "" {
				t.Errorf("two alerts are named %q", r.Alert)
			}
			out["alert "+r.Alert] = r.Expr
		}
	}
	return out
}

// TestDashboardsAndAlertsKnowTheMetrics: every metric and label that they name is there after a small run, and every metric is shown.
func TestDashboardsAndAlertsKnowTheMetrics(t *testing.T) {
	w := smallRun(t)
	there := w.gather()
	known := map[string]described{}
	labels := map[string]bool{"instance": true, "job": true, "le": true}
	for _, d := range w.tel.metrics.described {
		known[d.name] = d
		f := there[d.name]
		if f == nil || len(f.GetMetric()) == 0 {
			t.Errorf("%s has no series after a run of everything", d.name)
			continue
		}
		if got := strings.ToLower(f.GetType().String()); got != d.kind {
			t.Errorf("%s is a %s, described as a %s", d.name, got, d.kind)
		}
		for _, m := range f.GetMetric() {
			if got := labelsOf(m); !slices.Equal(got, slices.Sorted(slices.Values(d.labels))) {
				t.Errorf("%s has labels %v, described with %v", d.name, got, d.labels)
			}
		}
		for _, l := range d.labels {
			labels[l] = true
		}
	}
	for name := range there {
		if strings.HasPrefix(name, "carebus_") && known[name].name == "" {
			t.Errorf("%s is not described", name)
		}
	}
	shown := map[string]bool{}
	for where, expr := range expressions(t) {
		names := metricName.FindAllString(expr, -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric of carebus: %s", where, expr)
		}
		for _, n := range names {
			base := base(n, known)
			if known[base].name == "" {
				t.Errorf("%s: no metric %s", where, n)
			}
			if known[base].kind == "histogram" && base == n {
				t.Errorf("%s: %s is a histogram; name its _bucket, _sum or _count", where, n)
			}
			shown[base] = shown[base] || strings.HasPrefix(where, "panel")
		}
		for _, s := range selector.FindAllStringSubmatch(expr, -1) {
			for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
				if l := m[1]; l != "instance" && l != "job" && l != "le" && !slices.Contains(known[base(s[1], known)].labels, l) {
					t.Errorf("%s: %s has no label %s", where, s[1], l)
				}
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
			for _, l := range strings.Split(g[1], ",") {
				if l = strings.TrimSpace(l); l != "" && !labels[l] {
					t.Errorf("%s: no metric has a label %s", where, l)
				}
			}
		}
	}
	for name := range known {
		if !shown[name] && name != "carebus_build_info" {
			t.Errorf("%s is on no panel", name)
		}
	}
}

func labelsOf(m *dto.Metric) (out []string) {
	for _, l := range m.GetLabel() {
		out = append(out, l.GetName())
	}
	slices.Sort(out)
	return out
}

// base is the metric that a series belongs to.
func base(name string, known map[string]described) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if b, ok := strings.CutSuffix(name, suffix); ok && known[b].kind == "histogram" {
			return b
		}
	}
	return name
}

// TestMetricsAreDocumented: the table in the documentation has every metric, with its type, labels and meaning, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	w := open(t, nil)
	text, err := os.ReadFile(docsFile)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, d := range w.tel.metrics.described {
		want = append(want, fmt.Sprintf("| `%s` | %s | %s | %s |", d.name, d.kind, strings.Join(d.labels, ", "), d.help))
	}
	var got []string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "| `carebus_") {
			got = append(got, strings.TrimSpace(line))
		}
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing in %s: %s", docsFile, line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("too much in %s: %s", docsFile, line)
		}
	}
	for alert := range expressions(t) {
		if name, ok := strings.CutPrefix(alert, "alert "); ok && !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("missing in %s: the alert %s", docsFile, name)
		}
	}
}

// TestPromtool: Prometheus's own tool takes the alerts, which fire when they should, the expressions of the dashboard, and the
// metrics. It runs where promtool is installed; CAREBUS_PROMTOOL=1 says that it must be.
func TestPromtool(t *testing.T) {
	tool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CAREBUS_PROMTOOL") != "" {
			t.Fatal(err)
		}
		t.Skip("promtool is not installed")
	}
	run := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run("", "check", "rules", alertsFile)
	run("", "test", "rules", "../deploy/prometheus/alerts_test.yaml")

	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var rules []rule
	for where, expr := range expressions(t) {
		if strings.HasPrefix(where, "panel") {
			expr = strings.NewReplacer("$__rate_interval", "5m", "$instance", ".*", "$group", ".*").Replace(expr)
			rules = append(rules, rule{fmt.Sprint("expression:", len(rules)), expr})
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	file := filepath.Join(t.TempDir(), "dashboard.yaml")
	if err := errors.Join(err, os.WriteFile(file, text, 0o600)); err != nil {
		t.Fatal(err)
	}
	run("", "check", "rules", file)

	w := smallRun(t)
	answer := httptest.NewRecorder()
	w.tel.Handler().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	run(answer.Body.String(), "check", "metrics")
}
