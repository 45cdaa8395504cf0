package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/event"
)

// TestArchive runs the commands of archive and backup on a store of two years ago.
func TestArchive(t *testing.T) {
	dir := t.TempDir()
	store, folder := "sqlite:"+filepath.Join(dir, "care.db"), filepath.Join(dir, "archive")
	now := time.Now().AddDate(-2, 0, 0)
	p, err := carebus.Open(t.Context(), store, &carebus.Options{Clock: func() time.Time { now = now.Add(time.Minute); return now }})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		text := fmt.Sprintf(`{"patientId": "P%d", "enrollmentId": "EN%d", "program": {"name": "Adherence"}}`, i%5, i)
		e := event.Event{Metadata: event.Metadata{ID: fmt.Sprint("E", i), Type: "patient.enrolled", Version: "1.0.0", Source: "test", CorrelationID: "C"}, Payload: []byte(text)}
		if _, err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	heads, err := p.Store().Heads(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var events int64
	for _, h := range heads {
		events += h
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	do := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		var out, errs bytes.Buffer
		if got := run(t.Context(), args, strings.NewReader(""), &out, &errs); got != code {
			t.Fatalf("carebus %s ended with %d, want %d: %s", strings.Join(args, " "), got, code, errs.String())
		}
		return out.String(), errs.String()
	}
	wants := func(text, want string) {
		t.Helper()
		if !strings.Contains(text, want) {
			t.Errorf("%q has no %q", text, want)
		}
	}
	out, _ := do(0, "archive", "--store", store, "--to", folder, "--before", "-365d")
	wants(out, fmt.Sprint(events, " events archived in "))
	out, _ = do(0, "archive", "--store", store, "--to", folder, "--before", "-365d", "-o", "json")
	wants(out, `"added": 0`)
	_, errs := do(4, "archive", "--store", store, "--to", folder, "--before", "-1s")
	wants(errs, "not closed yet")
	do(2, "archive", "--store", store, "--to", folder)
	do(3, "archive", "--store", "sqlite:"+filepath.Join(dir, "none.db"), "--to", folder, "--before", "-1d")
	do(3, "archive", "list", dir)
	out, _ = do(0, "archive", "list", folder)
	wants(out, fmt.Sprint(events, " events, all recorded before "))

	out, _ = do(0, "archive", "read", folder, "patient.*", "--key", "P3", "--limit", "1", "--store", store, "-o", "json")
	var r record
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Metadata.ID != "E3" || !r.Masked {
		t.Errorf("%s: %v; want the first event of P3, masked", out, err)
	}
	out, _ = do(0, "archive", "read", folder, "patient.*", "--store", store, "--reveal", "-o", "json")
	if n := strings.Count(out, "\n"); n != 20 {
		t.Errorf("%d events, want 20: %s", n, out)
	}

	out, _ = do(0, "verify", "--archive", folder, "--store", store)
	wants(out, "0 faults")
	wants(out, "it is the beginning of the store")

	restored := "sqlite:" + filepath.Join(dir, "then.db")
	out, _ = do(0, "archive", "restore", folder, "--to", restored)
	wants(out, fmt.Sprint(events, " events restored"))
	do(2, "archive", "restore", folder, "--to", "then.db")
	out, _ = do(0, "verify", "--store", restored)
	wants(out, "0 faults")
	do(0, "verify", "--archive", folder, "--store", restored)

	out, _ = do(0, "backup", "--store", store, "--to", filepath.Join(dir, "copy.db"))
	wants(out, "verified")
	do(0, "verify", "--store", "sqlite:"+filepath.Join(dir, "copy.db"))
	_, errs = do(2, "backup", "--store", "postgres://u:secret@127.0.0.1:1/x", "--to", filepath.Join(dir, "no.db"))
	wants(errs, "pg_dump")
	if strings.Contains(errs, "secret") {
		t.Errorf("a password is told: %s", errs)
	}

	out, _ = do(0, "migrate", "--from", store, "--to", "sqlite:"+filepath.Join(dir, "wide.db"), "--partitions", "24")
	wants(out, "in 24 partitions")
	_, errs = do(4, "verify", "--archive", folder, "--store", "sqlite:"+filepath.Join(dir, "wide.db"))
	wants(errs, "24 partitions")

	files, err := filepath.Glob(filepath.Join(folder, "*.zst"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(files[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
	out, errs = do(1, "verify", "--archive", folder, "--store", store)
	wants(out, filepath.Base(files[0]))
	wants(errs, "1 fault;")
}
