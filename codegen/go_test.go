package codegen

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
	"testing/fstest"
)

func TestGoName(t *testing.T) {
	for in, want := range map[string]string{
		"prescription.created": "PrescriptionCreated", "enrolled": "Enrolled", "prescription.ready-for-pickup": "PrescriptionReadyForPickup",
		"patientId": "PatientID", "ndc": "NDC", "ncpdpId": "NCPDPID", "rxNumber": "RxNumber", "attachmentIds": "AttachmentIDs",
		"APPROVED": "Approved", "IN_REVIEW": "InReview", "A1": "A1", "NA": "NA", "in-person": "InPerson", "sms": "SMS",
		"url": "URL", "identity": "Identity", "24h": "24h", "AppealChannel": "AppealChannel", "NDCs": "NDCs",
	} {
		if got := goName(in); got != want {
			t.Errorf("goName(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestWithinSaysACommonWordOnce(t *testing.T) {
	for _, tt := range [][3]string{
		{"RecordUpdated", "updatedFields", "RecordUpdatedFields"},
		{"Enrolled", "program", "EnrolledProgram"},
		{"Appeal", "appeal", "AppealAppeal"},
	} {
		if got := within(tt[0], tt[1]); got != tt[2] {
			t.Errorf("within(%s, %s) = %s, want %s", tt[0], tt[1], got, tt[2])
		}
	}
}

const sample = `{"title":"T","description":"D.","type":"object","required":["id","at","parts"],"properties":{
	"id":{"type":"string","description":"Id."},
	"at":{"type":"string","format":"date-time","description":"When."},
	"due":{"type":"string","format":"date-time","description":"When due."},
	"day":{"type":"string","format":"date","description":"Day."},
	"count":{"type":"integer","description":"Count."},
	"weight":{"type":"number","description":"Weight."},
	"price":{"type":"number","format":"usd","description":"Price."},
	"fee":{"type":"number","format":"usd","description":"Fee."},
	"done":{"type":"boolean","description":"Done.","x-phi":true},
	"color":{"type":"string","enum":["red","dark-blue"],"description":"Color."},
	"part":{"$ref":"#/$defs/Part","description":"Part."},
	"parts":{"type":"array","items":{"$ref":"#/$defs/Part"},"description":"Parts."},
	"tags":{"type":"object","additionalProperties":{"type":"string","description":"Tag."},"description":"Tags."},
	"any":{"type":"object","description":"Any."},
	"inner":{"type":"object","description":"Inner.","properties":{"x":{"type":"string","description":"X."}}}
	},"$defs":{"Part":{"type":"object","description":"A part.","properties":{"part":{"$ref":"#/$defs/Part","description":"A part of it."}}}}}`

func TestMembersBecomeFields(t *testing.T) {
	text := generateOne(t, map[string]string{"lab.result.received/1.0.0": sample})["lab/result.go"]
	fields := fieldsOf(t, text)
	for name, want := range map[string]string{
		"ResultReceived.ID": "string `json:\"id\"`", "ResultReceived.At": "time.Time `json:\"at,omitzero\"`",
		"ResultReceived.Due": "time.Time `json:\"due,omitzero\"`", "ResultReceived.Day": "*string `json:\"day,omitzero\"`",
		"ResultReceived.Count": "*int64 `json:\"count,omitzero\"`", "ResultReceived.Weight": "*float64 `json:\"weight,omitzero\"`",
		"ResultReceived.Price": "*catalog.USD `json:\"price,omitzero\"`", "ResultReceived.Done": "*bool `json:\"done,omitzero\"`",
		"ResultReceived.Color": "ResultReceivedColor `json:\"color,omitzero\"`", "ResultReceived.Part": "*Part `json:\"part,omitzero\"`",
		"ResultReceived.Parts": "[]Part `json:\"parts\"`", "ResultReceived.Tags": "map[string]string `json:\"tags,omitzero\"`",
		"ResultReceived.Any": "json.RawMessage `json:\"any,omitzero\"`", "ResultReceived.Inner": "*ResultReceivedInner `json:\"inner,omitzero\"`",
		"Part.Part": "*Part `json:\"part,omitzero\"`",
	} {
		if fields[name] != want {
			t.Errorf("%s is %s, want %s", name, fields[name], want)
		}
	}
	for _, want := range []string{`ResultReceivedColorDarkBlue ResultReceivedColor = "dark-blue"`, "Done. Protected health information."} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
}

func TestMajorsAndDeprecation(t *testing.T) {
	object := `{"description":"D.","type":"object","properties":{"id":{"type":"string","description":"I."}}%s}`
	text := generateOne(t, map[string]string{
		"lab.result.received/1.0.0":  fmt.Sprintf(object, ""),
		"lab.result.received/1.9.0":  fmt.Sprintf(object, ""),
		"lab.result.received/1.10.0": fmt.Sprintf(object, ""),
		"lab.result.received/2.0.0":  fmt.Sprintf(object, ""),
		"lab.result.seen/1.0.0":      fmt.Sprintf(object, `,"deprecated":true,"x-replaced-by":"lab.result.received"`),
	})["lab/result.go"]
	for _, want := range []string{
		`var ResultReceivedV1 = event.Define[ResultReceived1]("lab.result.received", "1.10.0")`,
		`var ResultReceivedV2 = event.Define[ResultReceived]("lab.result.received", "2.0.0")`,
		"// Deprecated: use ResultReceivedV2.\nvar ResultSeenV1 =", "// Deprecated: use ResultReceived.\ntype ResultSeen struct",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestSharedNamesWithSeveralMeaningsGetPrefixes(t *testing.T) {
	schema := func(member string) string {
		return `{"description":"D.","type":"object","properties":{"a":{"$ref":"#/$defs/A","description":"A."},"same":{"$ref":"#/$defs/Same","description":"S."}},
			"$defs":{"A":{"type":"object","description":"A.","properties":{"b":{"$ref":"#/$defs/B","description":"B."}}},
			"B":{"type":"object","description":"B.","properties":{"` + member + `":{"type":"string","description":"M."}}},
			"Same":{"type":"object","description":"S.","properties":{"s":{"type":"string","description":"S."}}}}}`
	}
	files := generateOne(t, map[string]string{"lab.result.received/1.0.0": schema("x"), "lab.order.placed/1.0.0": schema("y")})
	fields := fieldsOf(t, files["lab/result.go"])
	if fields["ResultReceived.A"] != "*ResultReceivedA `json:\"a,omitzero\"`" || fields["ResultReceivedA.B"] != "*ResultReceivedB `json:\"b,omitzero\"`" {
		t.Errorf("the two meanings are not told apart: %v", fields)
	}
	if shared := fieldsOf(t, files["lab/shared.go"]); len(shared) != 1 || shared["Same.S"] == "" {
		t.Errorf("shared: %v, want Same alone", shared)
	}
}

func TestRefusals(t *testing.T) {
	object := func(members, rest string) string {
		return `{"description":"D.","type":"object","properties":{` + members + `}` + rest + `}`
	}
	for want, files := range map[string]map[string]string{
		"is no event type":                      {"lab.result.value.received/1.0.0": object("", "")},
		"is no version":                         {"lab.result.received/1.0": object("", "")},
		"cannot name a Go package":              {"lab-x.result.received/1.0.0": object("", "")},
		"not in $defs":                          {"lab.result.received/1.0.0": object(`"a":{"$ref":"#/$defs/None"}`, "")},
		"two members of ResultReceived":         {"lab.result.received/1.0.0": object(`"aId":{"type":"string"},"a-id":{"type":"string"}`, "")},
		"are both named ResultReceivedColorRed": {"lab.result.received/1.0.0": object(`"color":{"type":"string","enum":["red","Red"]}`, "")},
		"an array needs items":                  {"lab.result.received/1.0.0": object(`"a":{"type":"array"}`, "")},
		`type "null"`:                           {"lab.result.received/1.0.0": object(`"a":{"type":"null"}`, "")},
		"open part":                             {"lab.result.received/1.0.0": object(`"a":{"type":"object","properties":{"b":{"type":"string"}},"additionalProperties":{"type":"string"}}`, "")},
	} {
		if _, err := generate(files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func TestLongEntitiesAreDivided(t *testing.T) {
	files := map[string]string{}
	for i := range 60 {
		files[fmt.Sprintf("lab.result.done%02d/1.0.0", i)] = sample
	}
	out := generateOne(t, files)
	if out["lab/result2.go"] == "" {
		t.Error("no second file")
	}
	for name, text := range out {
		if n := strings.Count(text, "\n"); n > 900 {
			t.Errorf("%s has %d lines", name, n)
		}
	}
}

// generate makes Go packages of schemas by TYPE/VERSION.
func generate(files map[string]string) (map[string][]byte, error) {
	folder := fstest.MapFS{}
	for name, text := range files {
		folder[name+".json"] = &fstest.MapFile{Data: []byte(text)}
	}
	types, err := Read(folder)
	if err != nil {
		return nil, err
	}
	return Go(types, nil)
}

func generateOne(t *testing.T, files map[string]string) map[string]string {
	t.Helper()
	first, err := generate(files)
	if err != nil {
		t.Fatal(err)
	}
	second, err := generate(files)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for name, text := range first {
		if !bytes.Equal(text, second[name]) {
			t.Errorf("%s comes out differently each time", name)
		}
		out[name] = string(text)
	}
	return out
}

// fieldsOf returns type and tag of every field, by "Struct.Field".
func fieldsOf(t *testing.T, text string) map[string]string {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "x.go", text, 0)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		if s, ok := spec.Type.(*ast.StructType); ok {
			for _, f := range s.Fields.List {
				out[spec.Name.Name+"."+f.Names[0].Name] = text[f.Type.Pos()-1:f.Type.End()-1] + " " + f.Tag.Value
			}
		}
		return true
	})
	return out
}
