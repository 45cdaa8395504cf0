package main

import (
	"bytes"
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// stopper ends a context when what it waits for has been written.
type stopper struct {
	bytes.Buffer
	word string
	stop context.CancelFunc
}

func (s *stopper) Write(p []byte) (int, error) {
	n, err := s.Buffer.Write(p)
	if strings.Contains(s.String(), s.word) {
		s.stop()
	}
	return n, err
}

// TestTailIsInterrupted: a tail that a person ends has done its work.
func TestTailIsInterrupted(t *testing.T) {
	store := "--store=" + filepath.Join(t.TempDir(), "test.db")
	var out, errs bytes.Buffer
	payload := strings.NewReader(`{"patientId":"P1","firstName":"Jane"}`)
	if code := run(t.Context(), []string{"publish", store, "--type", "patient.record.created"}, payload, &out, &errs); code != 0 {
		t.Fatalf("publish ended with %d: %s", code, &errs)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	seen := &stopper{word: "patient.record.created", stop: stop}
	if code := run(ctx, []string{"tail", store, "--from", "beginning"}, strings.NewReader(""), seen, &errs); code != 0 {
		t.Errorf("an interrupted tail ended with %d: %s", code, &errs)
	}
}
