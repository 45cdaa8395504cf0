package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus/flow"
)

// carebusOK runs one command line and wants it to succeed.
func carebusOK(t *testing.T, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(context.Background(), args, strings.NewReader(""), &out, &errs); code != 0 {
		t.Fatalf("carebus %s ended with %d: %s", strings.Join(args, " "), code, errs.String())
	}
	return out.String()
}

// What the demo tells to paste works, and every flow that is done was done once.
func TestDemo(t *testing.T) {
	t.Setenv("CAREBUS_STORE", "")
	store := "sqlite:" + filepath.Join(t.TempDir(), "it's.db")
	var r demoReport
	text := carebusOK(t, "demo", "--patients", "60", "--rate", "600", "--for", "200ms", "--seed", "3", "--store", store, "-o", "json")
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Drained || r.Prescriptions != 120 || r.Filled+r.Denied+r.Waiting != 120 || r.Waiting < 3 || r.Denied < 1 {
		t.Errorf("flows: %+v", r)
	}
	if r.Fills != r.Filled || r.MostFills != 1 || r.Orders != 120 {
		t.Errorf("effects: %d orders, %d fills, %d of one; %d filled", r.Orders, r.Fills, r.MostFills, r.Filled)
	}
	if len(r.Parked) != 3 || len(r.Groups) != len(demoGroups) || r.Verify.FaultCount != 0 {
		t.Errorf("parked %+v, groups %+v, verify %+v", r.Parked, r.Groups, r.Verify)
	}
	if r.Explore[0] != "export CAREBUS_STORE='"+strings.ReplaceAll(store, "'", `'\''`)+"'" {
		t.Errorf("the store is named by %s", r.Explore[0])
	}
	t.Setenv("CAREBUS_STORE", store)
	for _, line := range r.Explore[1:] {
		if strings.Contains(line, "demo") || strings.Contains(line, "tail") {
			continue
		}
		if carebusOK(t, strings.Fields(line)[1:]...) == "" {
			t.Errorf("%s shows nothing", line)
		}
	}
	var f flow.Flow
	shown, _ := strings.CutPrefix(r.Explore[1], "carebus flow ")
	if err := json.Unmarshal([]byte(carebusOK(t, "flow", shown, "-o", "json")), &f); err != nil || len(f.Events) < 7 || f.Orphans != 0 || len(f.Services) < 4 {
		t.Errorf("flow %+v, %v", f, err)
	}

	// A group that is sent back does nothing twice: what it has done is in rows of the same transactions.
	carebusOK(t, "group", "seek", "pharmacy", "--to", "beginning", "--reason", "test", "--yes")
	var again demoReport
	text = carebusOK(t, "demo", "--patients", "1", "--rate", "5", "--for", "200ms", "--mended", "-o", "json")
	if err := json.Unmarshal([]byte(text), &again); err != nil {
		t.Fatal(err)
	}
	if again.Run != 2 || !again.Drained || again.Earlier != r.Waiting || again.MostFills != 1 || len(again.Parked) != 0 {
		t.Errorf("second run: %+v", again)
	}
	if again.Events["payment.claim.submitted"] > 1+r.Waiting {
		t.Errorf("claims were submitted again: %v", again.Events)
	}
}

func TestDemoIsSeeded(t *testing.T) {
	write := func(seed uint64, run int64) (out string) {
		d := newDemoPopulation(seed, run, 40)
		for _, p := range d.patients {
			out += string(d.record(p).Payload)
		}
		for range 200 {
			out += string(d.prescribe(time.UnixMilli(1677600000000)).Payload)
		}
		return out
	}
	first := write(1, 1)
	if again := write(1, 1); again != first {
		t.Error("the same seed gives another population")
	}
	if first == write(2, 1) || first == write(1, 2) {
		t.Error("another seed or run gives the same population")
	}
}
