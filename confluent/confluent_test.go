package confluent_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/carebus/carebus"
	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/confluent"
	"github.com/carebus/carebus/schema"
)

const (
	mediaType = "application/vnd.schemaregistry.v1+json"
	subject   = "lab.result.recorded"
)

// server is the API over a platform.
type server struct {
	t   testing.TB
	url string
}

func serve(t testing.TB, p confluent.Registry, o *confluent.Options) *server {
	t.Helper()
	h, err := confluent.New(p, o)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &server{t, s.URL}
}

// call makes a request and returns the status and the body, which is always of the API's media type.
func (s *server) call(method, path, body string) (int, string) {
	s.t.Helper()
	status, text, err := s.try(method, path, body, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return status, text
}

func (s *server) try(method, path, body string, header map[string]string) (int, string, error) {
	req, err := http.NewRequest(method, s.url+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, "", err
	}
	if got := resp.Header.Get("Content-Type"); got != mediaType {
		return 0, "", fmt.Errorf("%s %s: content type %q", method, path, got)
	}
	return resp.StatusCode, string(text), nil
}

// want makes a request and compares the answer as JSON.
func (s *server) want(method, path, body string, status int, answer string) {
	s.t.Helper()
	gotStatus, got := s.call(method, path, body)
	if gotStatus != status || !sameJSON(got, answer) {
		s.t.Errorf("%s %s\n got %d %s\nwant %d %s", method, path, gotStatus, got, status, answer)
	}
}

func sameJSON(a, b string) bool {
	var x, y any
	return json.Unmarshal([]byte(a), &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

// refused makes a request and wants a refusal with this code and, in its text, these words.
func (s *server) refused(method, path, body string, code int, words ...string) {
	s.t.Helper()
	status, text := s.call(method, path, body)
	var got struct {
		Code    int    `json:"error_code"`
		Message string `json:"message"`
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		s.t.Fatalf("%s %s: %d %s", method, path, status, text)
	}
	wantStatus := code
	for wantStatus > 999 {
		wantStatus /= 10
	}
	if got.Code != code || status != wantStatus || got.Message == "" {
		s.t.Errorf("%s %s: got %d %s, want code %d", method, path, status, text, code)
	}
	for _, w := range words {
		if !strings.Contains(got.Message, w) {
			s.t.Errorf("%s %s: the message %q does not say %q", method, path, got.Message, w)
		}
	}
}

// body is what a client sends for a schema; version may be empty.
func body(t testing.TB, text, version string) string {
	t.Helper()
	m := map[string]any{"schema": text, "schemaType": "JSON"}
	if version != "" {
		m["metadata"] = map[string]any{"properties": map[string]string{"version": version}}
	}
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// register registers a schema and returns its global id.
func (s *server) register(name, text, version string) int {
	s.t.Helper()
	status, got := s.call("POST", "/subjects/"+name+"/versions", body(s.t, text, version))
	var answer map[string]int
	if status != 200 || json.Unmarshal([]byte(got), &answer) != nil || len(answer) != 1 || answer["id"] < 1 {
		s.t.Fatalf("registering %s: %d %s", name, status, got)
	}
	return answer["id"]
}

// doc is a schema with these members, the first of them required; written as no canonical form would be.
func doc(members ...string) string {
	var b strings.Builder
	b.WriteString("{ \"type\": \"object\",\n  \"x-entity-id\": \"/" + members[0] + "\",  \"properties\": {")
	for i, m := range members {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(" \"" + m + "\":  {\"type\": \"string\"}")
	}
	b.WriteString("}, \"required\": [\"" + members[0] + "\"] }")
	return b.String()
}

func quoted(t testing.TB, v any) string {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// versionJSON is how a version is told.
func versionJSON(t testing.TB, name string, number, id int, version, text string) string {
	return fmt.Sprintf(`{"subject":%q,"version":%d,"id":%d,"schemaType":"JSON","schema":%s,"metadata":{"properties":{"version":%q}}}`,
		name, number, id, quoted(t, text), version)
}

// TestVersions: versions are chosen by what changed, and numbered in the order in which they came.
func TestVersions(t *testing.T) {
	s := serve(t, carebustest.Open(t), nil)
	described := strings.Replace(doc("id"), "{", `{"description":"a result",`, 1)
	reordered := `{"required":["id"],"properties":{"id":{"type":"string"}},"x-entity-id":"/id","type":"object"}`
	one := s.register(subject, doc("id"), "")
	if again := s.register(subject, reordered, ""); again != one {
		t.Errorf("another order of members got id %d, want %d", again, one)
	}
	s.register(subject, described, "")                       // 2: 1.0.1
	s.register(subject, doc("id", "value"), "")              // 3: 1.1.0
	s.register(subject, doc("id", "value", "unit"), "1.5.0") // 4
	s.register(subject, doc("code"), "2.0.0-rc.1")           // 5
	s.want("GET", "/subjects/"+subject+"/versions/latest/schema", "", 200, doc("id", "value", "unit"))
	s.register(subject, doc("code", "value"), "2.0.0")                // 6
	s.register(subject, doc("id", "value", "unit", "range"), "1.6.0") // 7, which is behind 2.0.0 but not above it
	s.want("GET", "/subjects/"+subject+"/versions/latest/schema", "", 200, doc("code", "value"))
	s.register(subject, doc("code", "value", "unit"), "") // 8: 2.1.0
	if again := s.register(subject, doc("id", "value"), ""); again <= one {
		t.Errorf("an old version registered again has id %d", again)
	}

	var list []struct {
		Version  int
		Metadata struct{ Properties map[string]string }
	}
	_, text := s.call("GET", "/schemas?subjectPrefix="+subject, "")
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, v := range list {
		if v.Version != i+1 {
			t.Errorf("version %d comes as number %d", v.Version, i+1)
		}
		got = append(got, v.Metadata.Properties["version"])
	}
	want := []string{"1.0.0", "1.0.1", "1.1.0", "1.5.0", "2.0.0-rc.1", "2.0.0", "1.6.0", "2.1.0"}
	if !slices.Equal(got, want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	s.refused("POST", "/subjects/"+subject+"/versions", body(t, doc("other"), ""), 409, "3.0.0")
}

// TestPrereleaseAhead: a release chosen while a pre-release of a later version is there comes above it.
func TestPrereleaseAhead(t *testing.T) {
	s := serve(t, carebustest.Open(t), nil)
	s.register(subject, doc("id"), "1.0.0-rc.1")
	s.register(subject, doc("id", "a"), "")
	s.register(subject, doc("id", "b"), "1.1.0-rc.1")
	s.register(subject, doc("id", "a", "c"), "")
	s.want("GET", "/subjects/"+subject+"/versions", "", 200, `[1,2,3,4]`)
	s.want("GET", "/subjects/"+subject+"/versions/latest/schema", "", 200, doc("id", "a", "c"))
}

// TestDelete: a soft delete hides and deprecates, ids go on resolving, and nothing is ever lost.
func TestDelete(t *testing.T) {
	p := carebustest.Open(t)
	s := serve(t, p, nil)
	path := "/subjects/" + subject
	first := s.register(subject, doc("id"), "")
	second := s.register(subject, doc("id", "value"), "")

	s.want("DELETE", path+"/versions/1", "", 200, `1`)
	s.want("GET", path+"/versions", "", 200, `[2]`)
	s.want("GET", path+"/versions?deleted=true", "", 200, `[1,2]`)
	s.want("GET", path+"/versions?deletedOnly=true", "", 200, `[1]`)
	s.want("GET", path+"/versions?deleted=true&deletedAsNegative=true", "", 200, `[-1,2]`)
	s.refused("GET", path+"/versions/1", "", 40402)
	s.refused("POST", path, body(t, doc("id"), ""), 40403)
	s.refused("DELETE", path+"/versions/1", "", 40406)
	s.refused("DELETE", path+"/versions/1?permanent=true", "", 42205, "events")
	s.want("GET", fmt.Sprintf("/schemas/ids/%d/versions", first), "", 200, `[]`)
	s.want("GET", fmt.Sprintf("/schemas/ids/%d/versions?deleted=true", first), "", 200, `[{"subject":"`+subject+`","version":1}]`)
	s.want("GET", fmt.Sprintf("/schemas/ids/%d/schema", first), "", 200, doc("id"))
	if d, err := p.Registry().Get(subject, "1.0.0"); err != nil || !d.Deprecated {
		t.Errorf("the registry does not know of the deprecation: %+v %v", d, err)
	}
	if d, err := p.Registry().Get(subject, "1.1.0"); err != nil || d.Deprecated {
		t.Errorf("the other version is deprecated, too: %+v %v", d, err)
	}

	s.want("DELETE", path, "", 200, `[2]`)
	s.want("GET", "/subjects?subjectPrefix="+subject, "", 200, `[]`)
	s.want("GET", "/subjects?subjectPrefix="+subject+"&deleted=true", "", 200, `["`+subject+`"]`)
	s.want("GET", "/subjects?subjectPrefix="+subject+"&deletedOnly=true", "", 200, `["`+subject+`"]`)
	s.refused("GET", path+"/versions", "", 40401)
	s.refused("GET", path+"/versions/latest", "", 40401)
	s.refused("DELETE", path, "", 40404)
	s.refused("DELETE", path+"?permanent=true", "", 42205, "never deleted")

	// Registered again it is there again, under its old id and number, and says that it is deprecated.
	if again := s.register(subject, doc("id", "value"), ""); again != second {
		t.Errorf("registered again it has id %d, want %d", again, second)
	}
	_, text := s.call("GET", path+"/versions/latest", "")
	if !strings.Contains(text, `"version":2`) || !strings.Contains(text, `"deprecated":"true"`) {
		t.Errorf("shown again: %s", text)
	}
	s.register(subject, doc("id", "value", "unit"), "")
	s.want("GET", path+"/versions", "", 200, `[2,3]`)
	s.want("DELETE", path+"/versions/latest", "", 200, `3`)
}

// TestDeprecatedElsewhere: what the registry deprecates is told, and not hidden.
func TestDeprecatedElsewhere(t *testing.T) {
	p := carebustest.Open(t)
	s := serve(t, p, nil)
	s.register(subject, doc("id"), "")
	s.register("lab.result.filed", doc("id", "file"), "")
	if err := p.DeprecateSchema(t.Context(), subject, "", "there is a better one", "lab.result.filed"); err != nil {
		t.Fatal(err)
	}
	_, text := s.call("GET", "/subjects/"+subject+"/versions/latest", "")
	var got struct {
		Metadata struct{ Properties map[string]string }
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"version": "1.0.0", "deprecated": "true", "deprecationReason": "there is a better one", "replacedBy": "lab.result.filed"}
	if !reflect.DeepEqual(got.Metadata.Properties, want) {
		t.Errorf("got %v", got.Metadata.Properties)
	}
	// What a replicating tool has read it may send.
	again := fmt.Sprintf(`{"schema":%s,"schemaType":"JSON","metadata":{"properties":%s}}`, quoted(t, doc("id")), quoted(t, want))
	if status, text := s.call("POST", "/subjects/"+subject+"/versions", again); status != 200 {
		t.Errorf("%d %s", status, text)
	}
}

// TestCatalog: every version of the catalog has an id, and its text says the same as the catalog's.
func TestCatalog(t *testing.T) {
	p := carebustest.Open(t)
	h, err := confluent.New(p, nil)
	if err != nil {
		t.Fatal(err)
	}
	byText := map[int]string{}
	for _, e := range catalog.Entries() {
		id, err := h.ID(t.Context(), e.Type, e.Version)
		if err != nil || id < 1 {
			t.Fatalf("%s %s: %d %v", e.Type, e.Version, id, err)
		}
		d, err := p.Registry().Get(e.Type, e.Version)
		if err != nil {
			t.Fatal(err)
		}
		if have := byText[id]; have != "" && have != d.Fingerprint {
			t.Errorf("id %d stands for two schemas", id)
		}
		byText[id] = d.Fingerprint
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", fmt.Sprintf("/schemas/ids/%d/schema", id), nil))
		if changes, bump, err := schema.Diff(e.Schema, w.Body.Bytes()); err != nil || bump != schema.None {
			t.Errorf("%s %s comes back changed: %v %v", e.Type, e.Version, changes, err)
		}
	}
	if _, err := h.ID(t.Context(), "no.such.type", "1.0.0"); !errors.Is(err, schema.ErrUnknownType) {
		t.Errorf("an unknown type: %v", err)
	}
	if _, err := h.ID(t.Context(), "platform.schema.registered", "9.0.0"); !errors.Is(err, schema.ErrUnknownVersion) {
		t.Errorf("an unknown version: %v", err)
	}
}

// TestAuthorize: the hook is asked what the request is about, and what it refuses is neither told nor done.
func TestAuthorize(t *testing.T) {
	p := carebustest.Open(t)
	open := serve(t, p, nil)
	id := open.register(subject, doc("id"), "")
	secret := open.register("psych.note.written", doc("note"), "")
	open.register("lab.result.filed", doc("note"), "")
	hidden := open.register("psych.note.signed", doc("note", "by"), "")

	var mu sync.Mutex
	writes := map[string]bool{}
	s := serve(t, p, &confluent.Options{
		Authorize: func(r *http.Request, write bool, eventType string) error {
			mu.Lock()
			defer mu.Unlock()
			if write {
				writes[eventType] = true
			}
			if write && r.Header.Get("X-May") != "write" || strings.HasPrefix(eventType, "psych.") {
				return errors.New("not for you")
			}
			return nil
		},
		Caller: func(r *http.Request) string { return r.Header.Get("X-Name") },
	})
	s.want("GET", fmt.Sprintf("/schemas/ids/%d/schema", id), "", 200, doc("id"))
	s.want("GET", "/subjects?subjectPrefix=psych.", "", 200, `[]`)
	s.want("GET", "/schemas?subjectPrefix=psych.", "", 200, `[]`)
	s.want("GET", fmt.Sprintf("/schemas/ids/%d/subjects", secret), "", 200, `["lab.result.filed"]`)
	for _, refused := range []string{"", "/schema", "/subjects", "/versions"} {
		s.refused("GET", fmt.Sprintf("/schemas/ids/%d%s", hidden, refused), "", 40301, "not for you")
	}
	s.refused("GET", "/subjects/psych.note.written/versions", "", 40301)
	s.refused("GET", "/subjects/psych.note.written/versions/1/schema", "", 40301)
	s.refused("GET", "/subjects/psych.note.written/metadata", "", 40301)
	s.refused("POST", "/subjects/psych.note.written", body(t, doc("note"), ""), 40301)
	s.refused("POST", "/compatibility/subjects/psych.note.written/versions", body(t, doc("note"), ""), 40301)
	s.refused("GET", "/config/psych.note.written", "", 40301)
	for _, w := range []struct{ method, path, about string }{
		{"POST", "/subjects/lab.result.x/versions", "lab.result.x"},
		{"DELETE", "/subjects/" + subject, subject},
		{"DELETE", "/subjects/" + subject + "/versions/1", subject},
		{"PUT", "/config", ""}, {"DELETE", "/config", ""}, {"PUT", "/mode", ""}, {"DELETE", "/mode", ""},
		{"PUT", "/config/lab.result.y", "lab.result.y"}, {"DELETE", "/mode/lab.result.z", "lab.result.z"},
	} {
		clear(writes)
		s.refused(w.method, w.path, "", 40301)
		if !writes[w.about] || len(writes) != 1 {
			t.Errorf("%s %s asked about %v", w.method, w.path, writes)
		}
	}
	status, text, err := s.try("POST", "/subjects/lab.result.x/versions", body(t, doc("x"), ""), map[string]string{"X-May": "write", "X-Name": "ann"})
	if err != nil || status != 200 {
		t.Fatalf("%d %s %v", status, text, err)
	}
	if d, err := p.Registry().Get("lab.result.x", "1.0.0"); err != nil || d.RegisteredBy != "ann" {
		t.Errorf("registered by %q %v", d.RegisteredBy, err)
	}
}

// TestStoreFails: a failure of the store is not the client's, and its text stays inside.
func TestStoreFails(t *testing.T) {
	p, err := carebus.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "a.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	h, err := confluent.New(p, &confluent.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/subjects", nil))
	if w.Code != 500 || !bytes.Contains(w.Body.Bytes(), []byte("50001")) || bytes.Contains(w.Body.Bytes(), []byte("closed")) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "closed") {
		t.Errorf("the log does not say why: %s", &log)
	}
	if _, err := confluent.New(nil, nil); err == nil {
		t.Error("New takes no registry for one")
	}
	if _, err := confluent.New(p, nil); err == nil {
		t.Error("New takes a closed store")
	}
}

func TestWire(t *testing.T) {
	framed := confluent.AppendWire([]byte("x"), 258, []byte(`{}`))
	if string(framed) != "x\x00\x00\x00\x01\x02{}" {
		t.Errorf("%q", framed)
	}
	if id, payload, err := confluent.SplitWire(framed[1:]); id != 258 || string(payload) != "{}" || err != nil {
		t.Errorf("%d %q %v", id, payload, err)
	}
	for _, bad := range []string{"", "\x00\x00\x00\x00", "{\"a\":1}"} {
		if _, _, err := confluent.SplitWire([]byte(bad)); !errors.Is(err, confluent.ErrWire) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
