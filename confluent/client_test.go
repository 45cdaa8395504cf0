package confluent_test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/sr"

	"github.com/carebus/carebus/carebustest"
)

func jsonSchema(text string) sr.Schema { return sr.Schema{Type: sr.TypeJSON, Schema: text} }

// TestFranz: the client of franz-go does everything that it can do.
func TestFranz(t *testing.T) {
	ctx := t.Context()
	s := serve(t, carebustest.Open(t), nil)
	c, err := sr.NewClient(sr.URLs(s.url))
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	wantCode := func(err error, want *sr.Error) {
		t.Helper()
		var got *sr.ResponseError
		if !errors.As(err, &got) || got.SchemaError() != want {
			t.Errorf("got %v, want %v", err, want)
		}
	}

	first, err := c.CreateSchema(ctx, subject, jsonSchema(doc("id")))
	must(err)
	if first.Version != 1 || first.Schema.Schema != doc("id") || first.SchemaMetadata.Properties["version"] != "1.0.0" {
		t.Errorf("created %+v", first)
	}
	check, err := c.CheckCompatibility(sr.WithParams(ctx, sr.Verbose), subject, -1, jsonSchema(doc("code")))
	must(err)
	if check.Is || !strings.Contains(strings.Join(check.Messages, "\n"), "2.0.0") {
		t.Errorf("an incompatible schema: %+v", check)
	}
	for _, version := range []int{-2, -1, 1} {
		check, err = c.CheckCompatibility(ctx, subject, version, jsonSchema(doc("id", "value")))
		must(err)
		if !check.Is {
			t.Errorf("a compatible schema, against %d: %+v", version, check)
		}
	}
	_, err = c.CreateSchema(ctx, subject, jsonSchema(doc("code")))
	wantCode(err, sr.ErrIncompatibleSchema)
	second, err := c.CreateSchema(ctx, subject, jsonSchema(doc("id", "value")))
	must(err)
	major := jsonSchema(doc("code"))
	major.SchemaMetadata = &sr.SchemaMetadata{Properties: map[string]string{"version": "2.0.0"}}
	third, err := c.CreateSchema(ctx, subject, major)
	must(err)
	if third.Version != 3 || third.SchemaMetadata.Properties["version"] != "2.0.0" {
		t.Errorf("the new major: %+v", third)
	}

	found, err := c.LookupSchema(ctx, subject, jsonSchema(doc("id", "value")))
	must(err)
	if found.ID != second.ID || found.Version != 2 {
		t.Errorf("looked up %+v", found)
	}
	_, err = c.LookupSchema(ctx, subject, jsonSchema(doc("nothing")))
	wantCode(err, sr.ErrSchemaNotFound)
	byID, err := c.SchemaByID(ctx, first.ID)
	must(err)
	text, err := c.SchemaTextByID(ctx, first.ID)
	must(err)
	textByVersion, err := c.SchemaTextByVersion(ctx, subject, 1)
	must(err)
	if byID.Type != sr.TypeJSON || byID.Schema != doc("id") || text != doc("id") || textByVersion != doc("id") {
		t.Errorf("by id %+v %q %q", byID, text, textByVersion)
	}
	all, err := c.Schemas(ctx, subject)
	must(err)
	if len(all) != 3 {
		t.Errorf("%d schemas of the subject", len(all))
	}
	every, err := c.AllSchemas(sr.WithParams(ctx, sr.LatestOnly))
	must(err)
	subjects, err := c.Subjects(ctx)
	must(err)
	if len(every) != len(subjects) || !slices.Contains(subjects, subject) {
		t.Errorf("%d latest schemas of %d subjects", len(every), len(subjects))
	}
	types, err := c.SupportedTypes(ctx)
	must(err)
	if !slices.Equal(types, []sr.SchemaType{sr.TypeJSON}) {
		t.Errorf("types %v", types)
	}
	contexts, err := c.Contexts(ctx)
	must(err)
	if !slices.Equal(contexts, []string{"."}) {
		t.Errorf("contexts %v", contexts)
	}
	if refs, err := c.SchemaReferences(ctx, subject, 1); err != nil || len(refs) != 0 {
		t.Errorf("references %v %v", refs, err)
	}

	for _, r := range slices.Concat(c.Compatibility(ctx, sr.GlobalSubject, subject), c.ResetCompatibility(ctx, subject),
		c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatFullTransitive}, subject)) {
		if r.Err != nil || r.Level != sr.CompatFullTransitive {
			t.Errorf("level %+v", r)
		}
	}
	wantCode(c.SetCompatibility(ctx, sr.SetCompatibility{Level: sr.CompatBackward}, subject)[0].Err, sr.ErrOperationNotPermitted)
	for _, r := range slices.Concat(c.Mode(ctx, sr.GlobalSubject, subject), c.SetMode(ctx, sr.ModeReadWrite), c.ResetMode(ctx, subject)) {
		if r.Err != nil || r.Mode != sr.ModeReadWrite {
			t.Errorf("mode %+v", r)
		}
	}

	_, err = c.DeleteSubject(ctx, subject, sr.HardDelete)
	wantCode(err, sr.ErrSubjectNotSoftDeleted)
	must(c.DeleteSchema(ctx, subject, 1, sr.SoftDelete))
	wantCode(c.DeleteSchema(ctx, subject, 1, sr.HardDelete), sr.ErrOperationNotPermitted)
	gone, err := c.DeleteSubject(ctx, subject, sr.SoftDelete)
	must(err)
	if !slices.Equal(gone, []int{2, 3}) {
		t.Errorf("deleted %v", gone)
	}
	_, err = c.SchemaByVersion(ctx, subject, -1)
	wantCode(err, sr.ErrSubjectNotFound)
	if _, err := c.SchemaByVersion(sr.WithParams(ctx, sr.ShowDeleted), subject, 2); err != nil {
		t.Errorf("a deleted version is not shown: %v", err)
	}
}

// TestFranzSerde: what one client encodes another one decodes, knowing the id only.
func TestFranzSerde(t *testing.T) {
	type result struct {
		ID    string `json:"id"`
		Value string `json:"value,omitempty"`
	}
	s := serve(t, carebustest.Open(t), nil)
	c, err := sr.NewClient(sr.URLs(s.url))
	if err != nil {
		t.Fatal(err)
	}
	created, err := c.CreateSchema(t.Context(), subject, jsonSchema(doc("id", "value")))
	if err != nil {
		t.Fatal(err)
	}
	var writer, reader sr.Serde
	writer.Register(created.ID, result{}, sr.EncodeFn(json.Marshal))
	framed, err := writer.Encode(result{"R1", "7.4"})
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := reader.DecodeID(framed)
	if err != nil {
		t.Fatal(err)
	}
	if sch, err := c.SchemaByID(t.Context(), id); err != nil || sch.Schema != doc("id", "value") {
		t.Fatalf("the schema of the message: %+v %v", sch, err)
	}
	reader.Register(id, result{}, sr.DecodeFn(json.Unmarshal))
	var got result
	if err := reader.Decode(framed, &got); err != nil || got != (result{"R1", "7.4"}) {
		t.Errorf("%+v %v", got, err)
	}
}

// runClient runs another language's client against the registry: it says "ok" at its end.
func runClient(t *testing.T, name string, args ...string) {
	t.Helper()
	s := serve(t, carebustest.Open(t), nil)
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "SCHEMA_REGISTRY_URL="+s.url)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), "ok") {
		t.Errorf("%v\n%s", err, out)
	}
}

// clients is where the clients of other languages are installed: testdata, or the copy that scripts/clients makes.
func clients() string {
	if dir := os.Getenv("CAREBUS_CLIENTS"); dir != "" {
		return dir
	}
	return "testdata"
}

// missing skips the test, or fails it where the client is meant to be there.
func missing(t *testing.T, env, text string) {
	t.Helper()
	if os.Getenv(env) == "1" {
		t.Fatal(text)
	}
	t.Skip(text)
}

// TestKafkaJS: the registry client of KafkaJS registers, encodes and decodes.
func TestKafkaJS(t *testing.T) {
	dir := filepath.Join(clients(), "kafkajs")
	if _, err := os.Stat(filepath.Join(dir, "node_modules")); err != nil {
		missing(t, "CAREBUS_NODE", "no client: run scripts/clients, or npm install in confluent/testdata/kafkajs")
	}
	node, err := exec.LookPath("node")
	if err != nil {
		missing(t, "CAREBUS_NODE", "no node")
	}
	runClient(t, node, filepath.Join(dir, "run.mjs"))
}

// TestPython: the client of confluent-kafka registers, serializes and deserializes.
func TestPython(t *testing.T) {
	dir := filepath.Join(clients(), "python")
	python := filepath.Join(dir, "venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		if python, err = exec.LookPath("python3"); err != nil {
			missing(t, "CAREBUS_PYTHON", "no python")
		}
	}
	if err := exec.CommandContext(t.Context(), python, "-c", "import confluent_kafka.schema_registry.json_schema").Run(); err != nil {
		missing(t, "CAREBUS_PYTHON", "no client: run scripts/clients, or make confluent/testdata/python/venv and install requirements.txt into it")
	}
	runClient(t, python, filepath.Join(dir, "run.py"))
}
