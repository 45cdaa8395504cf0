package carebus_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/bus"
	"github.com/carebus/carebus/event"
	"github.com/carebus/carebus/eventstore"
	"github.com/carebus/carebus/eventstore/storetest"
	"github.com/carebus/carebus/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t testing.TB, path string, o *carebus.Options) *carebus.Platform {
	t.Helper()
	p, err := carebus.Open(context.Background(), storetest.Name(t, path), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func newPlatform(t testing.TB) *carebus.Platform {
	return open(t, filepath.Join(t.TempDir(), "test.db"), nil)
}

// TestSourceSamples: the samples of the platform's source document are published as they stand.
func TestSourceSamples(t *testing.T) {
	path := os.Getenv("CAREBUS_SOURCE")
	if path == "" {
		path = filepath.Join("..", "shared", "source", "event-patterns.md")
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("the source document is absent: %s (CAREBUS_SOURCE names it)", path)
	}
	p := newPlatform(t)
	samples := 0
	for _, part := range strings.Split(string(text), "```json\n")[1:] {
		sample, _, _ := strings.Cut(part, "```")
		e, _, err := event.Parse([]byte(sample), nil)
		if err != nil {
			t.Fatal(err)
		}
		cloud, _, err := event.ParseCloudEvent(event.AppendCloudEvent(nil, e), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Publish(t.Context(), e); err != nil && !strings.Contains(string(e.Payload), "...") {
			t.Errorf("refused: %v\n%s", err, sample)
			continue
		}
		r, err := p.Publish(t.Context(), cloud)
		if err != nil || !r.Duplicate {
			t.Errorf("%s, by way of CloudEvents: %+v, %v; want a duplicate", e.Type, r, err)
		}
		samples++
	}
	if samples < 5 {
		t.Errorf("only %d samples were found", samples)
	}
}

const filled = `{"prescriptionId":"RX1","patientId":"P1","medication":{"name":"Lisinopril"},"filledAt":"2023-03-01T10:00:00Z","pharmacy":{},"prescriber":{}}`

func filledEvent(payload string) event.Event {
	return event.Event{
		Metadata: event.Metadata{Type: "medication.prescription.filled", Version: "2.0.0", Source: "pharmacy-service"},
		Payload:  json.RawMessage(payload),
	}
}

func TestPublishCompletesAndChecks(t *testing.T) {
	p := newPlatform(t)
	r, err := p.Publish(t.Context(), filledEvent(filled))
	if err != nil {
		t.Fatal(err)
	}
	e, err := p.Store().Get(t.Context(), r.EventID)
	if err != nil {
		t.Fatal(err)
	}
	if e.PartitionKey != "RX1" || e.CorrelationID == "" || e.Timestamp == 0 || e.ID != r.EventID {
		t.Errorf("stored %+v; want the prescription as key, and correlation, time and id filled in", e.Metadata)
	}
	if r.Partition != eventstore.PartitionOf("RX1", 12) {
		t.Errorf("partition %d, want that of the key", r.Partition)
	}

	for name, c := range map[string]struct {
		event   event.Event
		pointer string
	}{
		"missing member":  {filledEvent(strings.Replace(filled, `"patientId":"P1",`, "", 1)), "/payload/patientId"},
		"unknown member":  {filledEvent(strings.Replace(filled, `"patientId"`, `"patientID":"P1","patientId"`, 1)), "/payload/patientID"},
		"wrong type":      {filledEvent(strings.Replace(filled, `"P1"`, `7`, 1)), "/payload/patientId"},
		"wrong instant":   {filledEvent(strings.Replace(filled, `2023-03-01T10:00:00Z`, `yesterday`, 1)), "/payload/filledAt"},
		"unknown version": {event.Event{Metadata: event.Metadata{Type: "medication.prescription.filled", Version: "9.0.0", Source: "x"}, Payload: json.RawMessage(filled)}, "/metadata/version"},
		"unknown type":    {event.Event{Metadata: event.Metadata{Type: "medication.prescription.eaten", Version: "1.0.0", Source: "x"}, Payload: json.RawMessage(filled)}, "/metadata/eventType"},
	} {
		_, err := p.Publish(t.Context(), c.event)
		var invalid *event.InvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%s: %v; want an InvalidError", name, err)
			continue
		}
		found := false
		for _, f := range invalid.Findings {
			found = found || f.Pointer == c.pointer
			if f.Rule == "" || f.Message == "" || f.Remedy == "" {
				t.Errorf("%s: finding %+v lacks rule, message or remedy", name, f)
			}
		}
		if !found {
			t.Errorf("%s: findings %v; want one at %s", name, invalid.Findings, c.pointer)
		}
	}

	_, err = p.PublishBatch(t.Context(), []event.Event{filledEvent(filled), filledEvent(`{}`)})
	var batch *eventstore.BatchError
	if !errors.As(err, &batch) || batch.Index != 1 {
		t.Errorf("a batch with a bad second event: %v; want a BatchError that names it", err)
	}
	if n, err := p.Store().Types(t.Context()); err != nil || n["medication.prescription.filled"] != 1 {
		t.Errorf("%d stored, %v; a refused batch must leave nothing", n["medication.prescription.filled"], err)
	}
}

func TestPlatformEventsAreReserved(t *testing.T) {
	p := newPlatform(t)
	_, err := p.Publish(t.Context(), event.Event{
		Metadata: event.Metadata{Type: "platform.group.paused", Version: "1.0.0", Source: "me"},
		Payload:  json.RawMessage(`{"group":"g","reason":"r","actor":"a"}`),
	})
	if !errors.Is(err, carebus.ErrReserved) {
		t.Errorf("%v; want ErrReserved", err)
	}
}

func TestOpenRefusals(t *testing.T) {
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte(strings.Repeat("these are notes, not a store. ", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "sqlite:", "mysql://db", "sqlite:" + text} {
		if p, err := carebus.Open(t.Context(), name, nil); err == nil {
			_ = p.Close()
			t.Errorf("Open(%q) succeeded", name)
		}
	}
	if _, err := carebus.Open(t.Context(), filepath.Join(t.TempDir(), "none.db"), &carebus.Options{ReadOnly: true}); !errors.Is(err, eventstore.ErrNotFound) {
		t.Errorf("reading a store that does not exist: %v; want ErrNotFound", err)
	}
}

func TestReadOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	w := open(t, path, nil)
	receipt, err := w.Publish(t.Context(), filledEvent(filled))
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, path, &carebus.Options{ReadOnly: true})
	if _, err := r.Store().Get(t.Context(), receipt.EventID); err != nil {
		t.Error(err)
	}
	if _, err := r.Publish(t.Context(), filledEvent(filled)); !errors.Is(err, carebus.ErrReadOnly) {
		t.Errorf("publishing: %v; want ErrReadOnly", err)
	}
	if err := r.Handle("g", bus.OnRecord("*", func(context.Context, bus.Tx, eventstore.Record) error { return nil })); !errors.Is(err, carebus.ErrReadOnly) {
		t.Errorf("handling: %v; want ErrReadOnly", err)
	}
	if err := r.Run(t.Context()); !errors.Is(err, carebus.ErrReadOnly) {
		t.Errorf("running: %v; want ErrReadOnly", err)
	}
}

func document(version, properties string) schema.Document {
	return schema.Document{Type: "lab.result.received", Version: version, Schema: json.RawMessage(`{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Result received", "description": "A laboratory result arrived.",
		"x-entity-id": "/resultId", "type": "object", "required": ["resultId"], "properties": {"resultId": {"type": "string", "description": "The result."}` + properties + `}}`)}
}

// TestRegistryIsShared: what one process registers another one knows, without being told; the history is in the store.
func TestRegistryIsShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	one, two := open(t, path, nil), open(t, path, nil)
	ctx := t.Context()
	if _, err := one.RegisterSchema(ctx, document("1.0.0", "")); err != nil {
		t.Fatal(err)
	}
	e := event.Event{Metadata: event.Metadata{Type: "lab.result.received", Version: "1.0.0", Source: "lab"}, Payload: json.RawMessage(`{"resultId":"R1"}`)}
	if _, err := two.Publish(ctx, e); err != nil {
		t.Errorf("the other process does not know the schema: %v", err)
	}
	_, err := two.RegisterSchema(ctx, document("1.1.0", `, "value": {"type": "number", "description": "The value."}`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = one.RegisterSchema(ctx, document("1.2.0", ``))
	if !errors.Is(err, schema.ErrIncompatible) {
		t.Errorf("removing what another process has added meanwhile: %v; want ErrIncompatible", err)
	}
	again, err := one.RegisterSchema(ctx, document("1.0.0", ""))
	if err != nil || !again.Known {
		t.Errorf("registering the same again: %+v, %v; want known", again, err)
	}
	if err := one.DeprecateSchema(ctx, "lab.result.received", "1.0.0", "use 1.1.0", ""); err != nil {
		t.Fatal(err)
	}
	if err := two.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	if doc, err := two.Registry().Get("lab.result.received", "1.0.0"); err != nil || !doc.Deprecated {
		t.Errorf("%+v, %v; want it deprecated", doc, err)
	}
	history, err := two.Store().Stream(ctx, eventstore.StreamQuery{Stream: schema.StreamOf("lab.result.received"), From: 1, Limit: 10})
	if err != nil || len(history) != 3 {
		t.Errorf("%d events of history, %v; want 3", len(history), err)
	}
}

// TestConcurrentRegistration: of many that register different documents under one version, one wins.
func TestConcurrentRegistration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	platforms := []*carebus.Platform{open(t, path, nil), open(t, path, nil)}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = platforms[i%2].RegisterSchema(context.Background(), document("1.0.0", fmt.Sprintf(`, "m%d": {"type": "string", "description": "One of eight."}`, i)))
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !errors.Is(err, schema.ErrVersionExists):
			t.Errorf("%v; want ErrVersionExists", err)
		}
	}
	if won != 1 {
		t.Errorf("%d documents were admitted under one version", won)
	}
}

// TestOpenConcurrently: many processes may create one store at once; the catalog is registered once.
func TestOpenConcurrently(t *testing.T) {
	path := filepath.Join(t.TempDir(), "test.db")
	var wg sync.WaitGroup
	platforms := make([]*carebus.Platform, 4)
	errs := make([]error, len(platforms))
	for i := range platforms {
		wg.Go(func() { platforms[i], errs[i] = carebus.Open(context.Background(), path, nil) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	types, err := platforms[0].Store().Types(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	registered := 0
	for _, name := range platforms[0].Registry().Types() {
		registered += len(platforms[0].Registry().Versions(name))
	}
	if int(types["platform.schema.registered"]) != registered || registered < 50 {
		t.Errorf("%d registrations in the store for %d schemas", types["platform.schema.registered"], registered)
	}
	for _, p := range platforms {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
