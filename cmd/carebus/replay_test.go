package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/eventstore"
)

// TestReplay: a group that runs elsewhere handles events again, after a person has seen how many.
func TestReplay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	t.Setenv("CAREBUS_STORE", path)
	p, err := carebus.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	carebusCommand := func(stdin string, args ...string) (code int, stdout, stderr string) {
		var out, errs bytes.Buffer
		code = run(t.Context(), args, strings.NewReader(stdin), &out, &errs)
		return code, out.String(), errs.String()
	}
	if code, _, errs := carebusCommand(`{"patientId":"P1"} {"patientId":"P2"} {"patientId":"P3"}`, "publish", "--type", "patient.record.created"); code != 0 {
		t.Fatal(errs)
	}
	var handled atomic.Int64
	if err := p.Handle("records", bus.OnRecord("patient.**", func(context.Context, bus.Tx, eventstore.Record) error {
		handled.Add(1)
		return nil
	})); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if err := p.Bus().Idle(ctx); err != nil {
		t.Fatal(err)
	}

	code, out, errs := carebusCommand("", "replay", "records", "--from", "beginning", "--reason", "a test")
	if code != 2 || out != "" || !strings.Contains(errs, "Group records handles ") || !strings.Contains(errs, "--yes") {
		t.Errorf("without --yes: %d %q %q; want the count, and nothing done", code, out, errs)
	}
	code, out, errs = carebusCommand("", "replay", "records", "--from", "beginning", "--reason", "a test", "--yes", "--wait", "-o", "json")
	var report replayReport
	if err := json.Unmarshal([]byte(out), &report); code != 0 || err != nil {
		t.Fatalf("replay: %d %v %q %q", code, err, out, errs)
	}
	if report.State != "done" || report.Events < 3 || handled.Load() != 6 {
		t.Errorf("replay: %+v, %d handled; want done, at least 3 events, 6 handled", report, handled.Load())
	}
	code, out, errs = carebusCommand("", "replay", "records", "--from", "now", "--reason", "a test", "--yes")
	if code != 0 || !strings.Contains(out, "nothing") {
		t.Errorf("replay of nothing: %d %q %q", code, out, errs)
	}
	code, out, _ = carebusCommand("", "__complete", "replay", "rec")
	if code != 0 || !strings.HasPrefix(out, "records\n") {
		t.Errorf("completion of groups: %d %q", code, out)
	}
}
