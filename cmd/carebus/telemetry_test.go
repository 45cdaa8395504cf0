package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// told collects what a command says, and sends what fits a pattern.
type told struct {
	mu    sync.Mutex
	lines []string
	found chan string
}

func listen(t *testing.T, pattern string) (io.Writer, *told) {
	t.Helper()
	r, w := io.Pipe()
	out := &told{found: make(chan string, 1)}
	form := regexp.MustCompile(pattern)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := bufio.NewScanner(r); s.Scan(); {
			out.mu.Lock()
			out.lines = append(out.lines, s.Text())
			out.mu.Unlock()
			if m := form.FindStringSubmatch(s.Text()); m != nil {
				out.found <- m[1]
			}
		}
	}()
	t.Cleanup(func() { _ = w.Close(); <-done })
	return w, out
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d %v %s", url, res.StatusCode, err, text)
	}
	return string(text)
}

// TestMetricsAreServed: by serve at its address, and by run at one of its own, with traces sent and logs as asked for.
func TestMetricsAreServed(t *testing.T) {
	spans := make(chan struct{}, 100)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
		spans <- struct{}{}
	}))
	defer collector.Close()
	store := "sqlite:" + filepath.Join(t.TempDir(), "care.db")
	for _, c := range []struct {
		pattern string
		args    []string
	}{
		{`^serving (http://\S+)`, []string{"serve", "--listen", "127.0.0.1:0"}},
		{`^(?:metrics at (http://\S+)/metrics|running )`, []string{"run", "patient", "--metrics-listen", "127.0.0.1:0"}},
	} {
		t.Run(c.args[0], func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			stderr, told := listen(t, c.pattern)
			ended := make(chan int, 1)
			go func() {
				ended <- run(ctx, append(c.args, "--store", store, "--otlp-endpoint", collector.URL, "--log-format", "json", "--log-level", "debug"), strings.NewReader(""), io.Discard, stderr)
			}()
			url := <-told.found
			if c.args[0] == "run" {
				<-told.found // it runs
			}
			if c.args[0] == "serve" {
				res, err := http.Post(url+"/v1/events", "application/json", strings.NewReader(`{"metadata":{"eventId":"E1","eventType":"patient.enrolled","eventSource":"t","correlationId":"c","timestamp":1763900000000,"version":"1.0.0"},"payload":{"patientId":"P1","program":{"name":"A"}}}`))
				if err != nil || res.StatusCode != http.StatusCreated {
					t.Fatal(res, err)
				}
				_ = res.Body.Close()
			}
			text := get(t, url+"/metrics")
			want := []string{`carebus_build_info{version=`, "carebus_store_events ", "go_goroutines ", "process_"}
			if c.args[0] == "serve" {
				want = append(want, `carebus_events_stored_total{domain="patient",type="patient.enrolled"} 1`, `carebus_http_requests_total{method="POST",route="/v1/events",status="2xx"} 1`)
			}
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("no %s in the metrics", w)
				}
			}
			stop()
			if code := <-ended; code != 0 {
				t.Errorf("exit code %d", code)
			}
			if c.args[0] == "serve" {
				<-spans // sent at the end, at the latest
			}
			told.mu.Lock()
			defer told.mu.Unlock()
			for _, line := range told.lines {
				if !strings.HasPrefix(line, "serving ") && !strings.HasPrefix(line, "metrics at ") && !strings.HasPrefix(line, "running ") && !json.Valid([]byte(line)) {
					t.Errorf("not a JSON record: %s", line)
				}
			}
		})
	}
	for _, wrong := range [][]string{{"--log-format", "xml"}, {"--log-level", "loud"}, {"--otlp-endpoint", "collector:4317"}, {"--trace-ratio", "2", "--otlp-endpoint", collector.URL}} {
		if code := run(t.Context(), append([]string{"serve", "--listen", "127.0.0.1:0", "--store", store}, wrong...), strings.NewReader(""), io.Discard, io.Discard); code != 2 {
			t.Errorf("%v: exit code %d, want 2", wrong, code)
		}
	}
	if code := run(t.Context(), []string{"run", "patient", "--store", store, "--metrics-listen", "0.0.0.0:0"}, strings.NewReader(""), io.Discard, io.Discard); code != 2 {
		t.Errorf("metrics for everybody: exit code %d, want 2", code)
	}
}
