package main

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/carebus/carebus/flow"
	"github.com/carebus/carebus/services/audit"
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
	text := carebusOK(t, "demo", "--patients", "60", "--rate", "600", "--for", "200ms", "--seed", "3", "--pickup", "500ms", "--store", store, "-o", "json")
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		t.Fatal(err)
	}
	if !r.Drained || r.Prescriptions != 120 || r.ParkedKeys < 3 || int64(len(r.Parked)) != r.ParkedKeys {
		t.Errorf("%d prescriptions, %d parked keys: %+v", r.Prescriptions, r.ParkedKeys, r.Parked)
	}
	audited(t, r.Audit)
	o := r.Audit.Outcomes
	for what, n := range map[string]int64{
		"approved": o.PriorAuth["APPROVED"], "denied": o.PriorAuth["DENIED"], "pended": o.PriorAuth["PENDED"], "not required": o.PriorAuth["not-required"],
		"completed": o.Fulfillments["completed"], "rejected": o.Fulfillments["failed: claim-rejected-75"], "never picked up": o.Fulfillments["failed: timeout"], "handed over": o.PickedUp, "returned": o.Returned,
	} {
		if n == 0 {
			t.Errorf("nothing was %s: %+v", what, o)
		}
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
	carebusOK(t, "group", "seek", "payer", "--to", "beginning", "--reason", "test", "--yes")
	carebusOK(t, "group", "seek", "medication-fulfillment", "--to", "beginning", "--reason", "test", "--yes")
	var again demoReport
	text = carebusOK(t, "demo", "--patients", "1", "--rate", "5", "--for", "200ms", "--pickup", "500ms", "--mended", "-o", "json")
	if err := json.Unmarshal([]byte(text), &again); err != nil {
		t.Fatal(err)
	}
	if again.Run != 2 || !again.Drained || again.ParkedKeys != 0 || again.Prescriptions != 1 {
		t.Errorf("second run: %+v", again)
	}
	audited(t, again.Audit)
	if n := again.Audit.Outcomes.PriorAuth["not-required"]; n < o.PriorAuth["not-required"] {
		t.Errorf("%d needed no authorization, %d before", n, o.PriorAuth["not-required"])
	}
}

// audited fails unless every rule was looked at and holds.
func audited(t *testing.T, r audit.Report) {
	t.Helper()
	for _, c := range r.Checks {
		if c.Violations != 0 || c.Looked == 0 {
			t.Errorf("audit: %+v", c)
		}
	}
	if len(r.Checks) < 10 {
		t.Errorf("%d rules", len(r.Checks))
	}
}

// TestBenchPatterns: the measures check what they have measured, and name what they compare with.
func TestBenchPatterns(t *testing.T) {
	for _, only := range []string{"commands", "sagas", "projection"} {
		var r benchReport
		if err := json.Unmarshal([]byte(carebusOK(t, "bench", "--events", "3000", "--only", only, "-o", "json")), &r); err != nil {
			t.Fatal(err)
		}
		if len(r.Results) == 0 {
			t.Errorf("no measure of %s", only)
		}
		for _, p := range r.Results {
			if p.Rate <= 0 || p.Raw <= 0 || p.Ratio != p.Rate/p.Raw {
				t.Errorf("%+v", p)
			}
		}
	}
}
