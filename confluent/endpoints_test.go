package confluent_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/carebus/carebus/carebustest"
	"github.com/carebus/carebus/catalog"
	"github.com/carebus/carebus/confluent"
)

// TestEndpoints walks the API's table, row by row.
func TestEndpoints(t *testing.T) {
	s := serve(t, carebustest.Open(t), nil)
	one, two := doc("id"), doc("id", "value")
	first := s.register(subject, one, "")
	second := s.register(subject, two, "")
	if same := s.register("lab.result.amended", one, ""); same != first {
		t.Errorf("one text in two subjects has the ids %d and %d", first, same)
	}
	v1, v2 := versionJSON(t, subject, 1, first, "1.0.0", one), versionJSON(t, subject, 2, second, "1.1.0", two)
	path, id := "/subjects/"+subject, fmt.Sprintf("/schemas/ids/%d", first)
	lookFor := "?subjectPrefix=" + subject

	_, got, err := s.try("POST", path, body(t, one, ""), map[string]string{"Confluent-Accept-Unknown-Properties": "true"})
	var full struct{ GUID string }
	if err != nil || json.Unmarshal([]byte(got), &full) != nil || len(full.GUID) != 36 {
		t.Fatalf("the full answer has no guid: %s %v", got, err)
	}
	byID := fmt.Sprintf(`{"schema":%s,"schemaType":"JSON"}`, quoted(t, one))

	for _, row := range []struct{ method, path, body, answer string }{
		{"GET", "/", "", `{}`},
		{"GET", id, "", byID},
		{"GET", id + "?subject=" + subject + "&format=serialized", "", byID},
		{"GET", id + "?fetchMaxId=true", "", fmt.Sprintf(`{"schema":%s,"schemaType":"JSON","maxId":%d}`, quoted(t, one), second)},
		{"GET", id + "/schema", "", one},
		{"GET", id + "/subjects", "", `["lab.result.amended","lab.result.recorded"]`},
		{"GET", id + "/versions", "", `[{"subject":"lab.result.amended","version":1},{"subject":"lab.result.recorded","version":1}]`},
		{"GET", "/schemas/types", "", `["JSON"]`},
		{"GET", "/schemas" + lookFor, "", "[" + v1 + "," + v2 + "]"},
		{"GET", "/schemas" + lookFor + "&latestOnly=true", "", "[" + v2 + "]"},
		{"GET", "/schemas" + lookFor + "&offset=1&limit=5", "", "[" + v2 + "]"},
		{"GET", "/schemas" + lookFor + "&limit=1", "", "[" + v1 + "]"},
		{"GET", "/schemas/guids/" + full.GUID, "", byID},
		{"GET", "/schemas/guids/" + full.GUID + "/ids", "", fmt.Sprintf(`[{"context":".","id":%d}]`, first)},
		{"GET", "/subjects?subjectPrefix=lab.result.", "", quoted(t, labSubjects())},
		{"GET", "/subjects?subjectPrefix=:*:" + subject, "", `["` + subject + `"]`},
		{"GET", "/subjects?subjectPrefix=" + subject + "&deletedOnly=true", "", `[]`},
		{"POST", path, body(t, two, ""), v2},
		{"POST", path + "?normalize=true", body(t, one, "1.0.0"), v1},
		{"GET", path + "/versions", "", `[1,2]`},
		{"GET", path + "/versions/1", "", v1},
		{"GET", path + "/versions/latest", "", v2},
		{"GET", path + "/versions/-1", "", v2},
		{"GET", "/subjects/lab%2Eresult.recorded/versions/1", "", v1},
		{"GET", "/subjects/:.:" + subject + "/versions/1", "", v1},
		{"GET", "/contexts/:.:/subjects/" + subject + "/versions/1", "", v1},
		{"GET", "/contexts/./subjects/" + subject + "/versions/1/", "", v1},
		{"GET", path + "/versions/1/schema", "", one},
		{"GET", path + "/versions/1/referencedby", "", `[]`},
		{"GET", path + "/metadata?key=version&value=1.0.0", "", v1},
		{"GET", path + "/metadata", "", v2},
		{"POST", path + "/versions", body(t, one, ""), fmt.Sprintf(`{"id":%d}`, first)},
		{"POST", "/compatibility" + path + "/versions", body(t, doc("id", "value", "unit"), ""), `{"is_compatible":true}`},
		{"POST", "/compatibility" + path + "/versions/latest", body(t, doc("id", "unit"), ""), `{"is_compatible":false}`},
		{"POST", "/compatibility" + path + "/versions/1", body(t, doc("id", "unit"), ""), `{"is_compatible":true}`},
		{"POST", "/compatibility" + path + "/versions/latest", body(t, doc("code"), "2.0.0"), `{"is_compatible":true}`},
		{"POST", "/compatibility/subjects/lab.result.unheard-of/versions/latest", body(t, one, ""), `{"is_compatible":true}`},
		{"GET", "/config", "", `{"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"PUT", "/config", `{"compatibility":"FULL_TRANSITIVE"}`, `{"compatibility":"FULL_TRANSITIVE"}`},
		{"DELETE", "/config", "", `{"compatibilityLevel":"FULL_TRANSITIVE","compatibility":"FULL_TRANSITIVE"}`},
		{"GET", "/config/" + subject, "", `{"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"GET", "/config/orders-value?defaultToGlobal=true", "", `{"compatibilityLevel":"FULL_TRANSITIVE"}`},
		{"PUT", "/config/" + subject, `{"compatibility":"full_transitive"}`, `{"compatibility":"FULL_TRANSITIVE"}`},
		{"DELETE", "/config/" + subject, "", `{"compatibilityLevel":"FULL_TRANSITIVE","compatibility":"FULL_TRANSITIVE"}`},
		{"GET", "/mode", "", `{"mode":"READWRITE"}`},
		{"PUT", "/mode", `{"mode":"READWRITE"}`, `{"mode":"READWRITE"}`},
		{"DELETE", "/mode", "", `{"mode":"READWRITE"}`},
		{"GET", "/mode/" + subject, "", `{"mode":"READWRITE"}`},
		{"PUT", "/mode/" + subject + "?force=true", `{"mode":"READWRITE"}`, `{"mode":"READWRITE"}`},
		{"DELETE", "/mode/" + subject, "", `{"mode":"READWRITE"}`},
		{"GET", "/contexts", "", `["."]`},
	} {
		s.want(row.method, row.path, row.body, 200, row.answer)
	}
	if status, text := s.call("GET", id+"/schema", ""); status != 200 || text != one {
		t.Errorf("the text did not come back as it was sent:\n%s\n%s", text, one)
	}
	_, text := s.call("POST", "/compatibility"+path+"/versions/latest?verbose=true", body(t, doc("id", "unit"), ""))
	if !strings.Contains(text, "property-removed") {
		t.Errorf("a verbose check does not name the change: %s", text)
	}
}

// labSubjects are the catalog's subjects of the domain's results, and the two of the test.
func labSubjects() []string {
	names := []string{"lab.result.amended", subject}
	for _, e := range catalog.Entries() {
		if strings.HasPrefix(e.Type, "lab.result.") {
			names = append(names, e.Type)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// TestCodes: what is refused carries the code that clients act on.
func TestCodes(t *testing.T) {
	s := serve(t, carebustest.Open(t), nil)
	one := doc("id", "value")
	s.register(subject, one, "")
	path := "/subjects/" + subject
	for _, row := range []struct {
		method, path, body string
		code               int
		words              string
	}{
		{"GET", "/schemas/ids/99999", "", 40403, ""},
		{"GET", "/schemas/ids/x", "", 40403, ""},
		{"GET", "/schemas/ids/99999/versions", "", 40403, ""},
		{"GET", "/schemas/guids/x", "", 40403, ""},
		{"GET", "/subjects/no.such.type/versions", "", 40401, "no.such.type"},
		{"GET", "/subjects/no.such.type/versions/1", "", 40401, ""},
		{"GET", path + "/versions?deletedOnly=true", "", 40401, ""},
		{"GET", path + "/versions/7", "", 40402, "7"},
		{"GET", path + "/versions/0", "", 42202, "latest"},
		{"GET", path + "/versions/-2", "", 42202, ""},
		{"GET", path + "/versions/2147483648", "", 42202, ""},
		{"GET", path + "/versions/one", "", 42202, ""},
		{"GET", path + "/metadata?key=version&value=9.9.9", "", 40403, ""},
		{"POST", "/subjects/no.such.type", body(t, one, ""), 40401, ""},
		{"POST", path, body(t, doc("other"), ""), 40403, ""},
		{"POST", path, body(t, one, "1.0.1"), 40403, ""},
		{"POST", path + "/versions", body(t, doc("id"), ""), 409, `"2.0.0"`},
		{"POST", path + "/versions", body(t, doc("id"), "1.1.0"), 409, "value"},
		{"POST", path + "/versions", body(t, doc("id", "value", "unit"), "1.0.0"), 409, "registered with another schema"},
		{"POST", path + "/versions", body(t, doc("id", "value", "unit"), "1.0.1"), 409, "1.1.0"},
		{"POST", path + "/versions", body(t, doc("id"), "3.0.0"), 42202, "2.0.0"},
		{"POST", path + "/versions", body(t, doc("id"), "two"), 42202, "MAJOR.MINOR.PATCH"},
		{"POST", path + "/versions", `{"schema":"\"string\""}`, 42201, "AVRO"},
		{"POST", path + "/versions", `{"schema":"\"string\"","schemaType":"AVRO"}`, 42201, "JSON"},
		{"POST", path + "/versions", `{"schema":"message M {}","schemaType":"PROTOBUF"}`, 42201, "PROTOBUF"},
		{"POST", path + "/versions", `{"schema":"","schemaType":"JSON"}`, 42201, "Empty"},
		{"POST", path + "/versions", `{"schema":"{","schemaType":"JSON"}`, 42201, "JSON"},
		{"POST", path + "/versions", `{"schema":"{\"type\":\"string\"}","schemaType":"JSON"}`, 42201, "object"},
		{"POST", path + "/versions", `{"schema":"{\"type\":\"object\",\"additionalProperties\":false}","schemaType":"JSON"}`, 42201, ""},
		{"POST", path + "/versions", `{"schema":"{}","schemaType":"JSON","references":[{"name":"a","subject":"b","version":1}]}`, 42201, "$defs"},
		{"POST", path + "/versions", `{"schema":"{}","schemaType":"JSON","metadata":{"properties":{"owner":"me"}}}`, 42201, "owner"},
		{"POST", path + "/versions", `{"schema":"{}","schemaType":"JSON","metadata":{"tags":{"a":["PII"]}}}`, 42201, "x-phi"},
		{"POST", path + "/versions", `{"schema":"{}","schemaType":"JSON","ruleSet":{"domainRules":[{"name":"a"}]}}`, 42210, "upcasters"},
		{"POST", path + "/versions", `{"schema":"{}","schemaType":"JSON","ruleSet":{}}`, 42201, "object"},
		{"POST", path + "/versions", strings.Replace(body(t, doc("id", "value", "unit"), ""), "{", `{"id":5000,`, 1), 42205, "import"},
		{"POST", path + "/versions", strings.Replace(body(t, one, ""), "{", `{"id":5000,`, 1), 42205, "import"},
		{"POST", path + "/versions", strings.Replace(body(t, doc("id", "value", "unit"), ""), "{", `{"version":7,`, 1), 42202, "2"},
		{"POST", path + "/versions", `[`, 400, ""},
		{"POST", path + "/versions", `{"schema":5}`, 400, ""},
		{"POST", "/subjects/orders-value/versions", body(t, one, ""), 42208, "domain.entity.action"},
		{"POST", "/subjects/a%2Fb/versions", body(t, one, ""), 42208, "a/b"},
		{"POST", "/subjects/:.ctx:" + subject + "/versions", body(t, one, ""), 42208, "context"},
		{"POST", "/subjects/platform.schema.invented/versions", body(t, one, ""), 42208, "carebus"},
		{"POST", "/compatibility/subjects/orders-value/versions/latest", body(t, one, ""), 42208, ""},
		{"POST", "/compatibility" + path + "/versions/9", body(t, one, ""), 40402, ""},
		{"POST", "/compatibility" + path + "/versions/x", body(t, one, ""), 42202, ""},
		{"POST", "/compatibility/subjects/no.such.type/versions/1", body(t, one, ""), 40401, ""},
		{"POST", "/compatibility" + path + "/versions", `{"schema":"{\"type\":7}","schemaType":"JSON"}`, 42201, ""},
		{"GET", "/config/orders-value", "", 40408, ""},
		{"PUT", "/config", `{"compatibility":"BACKWARD"}`, 42205, "metadata.properties.version"},
		{"PUT", "/config/" + subject, `{"compatibility":"NONE"}`, 42205, "FULL_TRANSITIVE"},
		{"PUT", "/config/" + subject, `{"compatibility":"FULL"}`, 42205, ""},
		{"PUT", "/config", `{"compatibility":"ANYTHING"}`, 42203, ""},
		{"PUT", "/config", `{}`, 42203, ""},
		{"PUT", "/config/orders-value", `{"compatibility":"FULL_TRANSITIVE"}`, 42208, ""},
		{"GET", "/mode/orders-value", "", 40409, ""},
		{"PUT", "/mode", `{"mode":"IMPORT"}`, 42205, ""},
		{"PUT", "/mode", `{"mode":"SOMETIMES"}`, 42204, ""},
		{"DELETE", "/subjects/no.such.type", "", 40401, ""},
		{"DELETE", path + "/versions/7", "", 40402, ""},
		{"DELETE", path + "/versions/x", "", 42202, ""},
		{"DELETE", path + "?permanent=true", "", 40405, ""},
		{"DELETE", path + "/versions/1?permanent=true", "", 40407, ""},
		{"DELETE", "/subjects/platform.schema.registered", "", 42205, ""},
		{"GET", "/associations/subjects/" + subject, "", 40401, ""},
		{"GET", "/contexts/other/subjects", "", 40401, ""},
		{"GET", "/exporters", "", 404, ""},
		{"GET", "/dek-registry/v1/keks", "", 404, ""},
		{"PUT", "/subjects", "", 405, ""},
	} {
		s.refused(row.method, row.path, row.body, row.code, row.words)
	}
	s.refused("POST", path+"/versions", body(t, `{"type":"object","description":"`+strings.Repeat("x", 2<<20)+`"}`, ""), 42209)
	status, text, err := s.try("POST", path, body(t, one, ""), map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
	if err != nil || status != 415 {
		t.Errorf("a form is answered with %d %s %v", status, text, err)
	}
	for _, accepted := range []string{"application/json; charset=utf-8", "application/octet-stream", "application/vnd.schemaregistry+json"} {
		if status, text, err := s.try("POST", path, body(t, one, ""), map[string]string{"Content-Type": accepted}); err != nil || status != 200 {
			t.Errorf("%s is answered with %d %s %v", accepted, status, text, err)
		}
	}
	s.want("GET", path+"/versions", "", 200, `[1]`) // nothing of all this was registered
}

// TestMounted: the API works below a path, with subjects escaped as clients do.
func TestMounted(t *testing.T) {
	h, err := confluent.New(carebustest.Open(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	mounted := httptest.NewServer(http.StripPrefix("/registry", h))
	t.Cleanup(mounted.Close)
	s := &server{t, mounted.URL + "/registry"}
	id := s.register("lab.result%2Erecorded", doc("id"), "")
	s.want("GET", "/subjects/lab.result%2Erecorded/versions/1", "", 200, versionJSON(t, subject, 1, id, "1.0.0", doc("id")))
	s.want("GET", "/", "", 200, `{}`)
	s.refused("POST", "/subjects/lab%2Fresult/versions", body(t, doc("id"), ""), 42208, "lab/result")
}
